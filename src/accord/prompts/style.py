"""Style tags and media: words about the picture, told from what is in it."""

from __future__ import annotations

import re
from collections.abc import Callable

from accord.prompts import lexicon
from accord.prompts.parse import Style
from accord.prompts.programs import Draft

_ANYWHERE = re.compile(lexicon.STYLE_ANYWHERE)
_LAST = re.compile(lexicon.STYLE_LAST)
_DETERMINED = re.compile(
    r"(?:and|a|an|the|one|two|three|four|five|his|her|with|no|\d+) "
    r"(?!(?:k|mm|px|p|dpi|fps)\b|(?:\w+ )*(?:style|lens|lighting|background)$)"
)
_PLACED = re.compile(r"\b(?:of|in|on|from|through|behind|under|near|holding|wearing) (?:an?|the) ")
_PHRASES = re.compile(  # style in the middle of a sentence
    r",?\s*\bin (?:the|an?) (?:\w+ )?(?:style|manner|vein) of [^,.]+|"
    r",?\s*\btrending on \w+(?: \w+)?(?=\s*(?:,|$))|"
    r",?\s*\b(?:in|with) (?:an? )?[\w -]{3,25} style\b(?! of)|"
    r",?\s*\b(?:shot|photographed|captured|filmed|taken) (?:on|with|by|using) [^,.]+(?=,|$|\.)"
)
_ARTIST = re.compile(
    r"(?:^|(?<=[,.]))\s*(?:art |painted |illustrated |designed |directed )?by [A-Z][\w.'-]+(?: (?:and|[A-Z])[\w.'-]*)*|"
    r"\s(?:art )?by (?:[A-Z][\w.'-]+ ?)+(?:and (?:[A-Z][\w.'-]+ ?)+)?(?=\s*(?:,|$))|"
    r"(?<=,)\s*(?:art )?by [a-z]+(?: (?!the\b|an?\b)[a-z]+){0,4}(?=\s*(?:,|\.?\s*$))"
)


def take_styles(draft: Draft, knows: Callable[[str], bool] = lambda _: True) -> list[Style]:
    """The style tags of a draft, which is left without them.

    Args:
        knows: whether a word is one of English; behind a style tag a tag without one is a name ("greg rutkowski").
    """
    found: list[Style] = []

    def take(start: int, end: int) -> None:
        words = re.search(r"[^\s,.](?:.*[^\s,.])?", draft.text[start:end], re.DOTALL)
        if words:
            at = start + words.start()
            stop = at + len(words[0])
            found.append(Style(draft.prompt[at:stop], at, stop, "style"))
        draft.blank(start, end, "," if "," in draft.text[start:end] else "")

    for pattern in (_PHRASES, _ARTIST):
        for phrase in pattern.finditer(draft.text):
            take(*phrase.span())
            if pattern is _ARTIST:  # "by Ada Moss, Bo Lind and Cy Orr"
                for other in re.finditer(
                    r"\G?,\s*((?:and )?[A-Z][\w.'-]+(?: (?:and )?[A-Z][\w.'-]+)+)(?=\s*(?:,|$))".replace("\\G?", ""),
                    draft.text,
                ):
                    if not re.search(r"\w", draft.text[phrase.end() : other.start()]):
                        take(*other.span(1))
    tags = [m for m in re.finditer(r"[^,]+", _with_full_stops_kept(draft.text)) if m[0].strip(" .")]
    for i, tag in enumerate(tags):
        bare = re.sub(r"\s+", " ", draft.text[tag.start() : tag.end()].strip(" .!")).lower()
        named = i > 0 and bool(found) and _is_name(bare, knows)
        if bare and (is_style(bare, first=i == 0) or named):
            take(*tag.span())
    return sorted(found, key=lambda s: s.start)


def _is_name(tag: str, knows: Callable[[str], bool]) -> bool:
    """Whether a tag has no word of English: an artist, a camera, a film."""
    words = re.findall(r"[^\W\d_]+", tag)
    return 0 < len(words) < 5 and not any(knows(w) for w in words if len(w) > 2 or knows(w))


def _with_full_stops_kept(text: str) -> str:
    """Commas at the full stops, so that tags end there too; f/2.8 and 4.5 stay."""
    return re.sub(r"\.(?=\s|$)|;", ",", text)


def is_style(tag: str, first: bool = False) -> bool:
    """Whether a tag (in small letters) is about the picture; the first one is a subject more often."""
    if tag == "black and white" and not first:
        return True
    if re.fullmatch(r"[\w -]*", tag) and {*re.findall(r"[\w-]+", tag)} <= lexicon.STYLE_WORDS:
        return True
    if len(tag.split()) > 6 or (first and not re.fullmatch(rf"(?:{_ANYWHERE.pattern})[\w ]{{0,9}}", tag)):
        return False
    if _DETERMINED.match(tag) or _PLACED.search(tag):
        return False
    return bool(_ANYWHERE.search(tag) or _LAST.search(tag))
