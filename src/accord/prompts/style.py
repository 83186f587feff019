"""Style tags and media: words about the picture, told from what is in it."""

from __future__ import annotations

import re

from accord.prompts import lexicon, nouns
from accord.prompts.classes import class_of_noun
from accord.prompts.model import Classes
from accord.prompts.parse import Style
from accord.prompts.programs import AND, TEXT, Draft

_ANYWHERE = re.compile(lexicon.STYLE_ANYWHERE)
_LAST = re.compile(lexicon.STYLE_LAST)
_DETERMINED = re.compile(
    r"(?:and|a|an|the|one|two|three|four|five|his|her|with|no|\d+) "
    r"(?!(?:k|mm|px|p|dpi|fps)\b|(?:\w+ )*(?:style|lens|lighting|background)$)"
)
_PLACED = re.compile(r"\b(?:of|in|on|from|through|behind|under|near|holding|wearing) (?:an?|the) ")
_SET = re.compile(r"\w (?:in|on|at) (?:background|foreground|distance|back)$")  # "dragon in background"
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


def take_styles(draft: Draft, classes: Classes) -> list[Style]:
    """The style tags of a draft, which is left without them.

    Args:
        classes: the words of English; behind a style tag a tag without one of them is a name ("greg rutkowski").
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
    tags = [m.span() for m in re.finditer(r"[^,]+", _with_full_stops_kept(draft.text)) if m[0].strip(" .")]
    bare = [re.sub(r"\s+", " ", draft.text[a:b].strip(" .!")).lower() for a, b in tags]
    style = [bool(tag) and is_style(tag, first=i == 0) for i, tag in enumerate(bare)]
    style = _with_neighbours(bare, style, bool(found), classes)
    for span, taken in zip(tags, style, strict=True):
        if taken:
            take(*span)
    return sorted(found, key=lambda s: s.start)


def _with_neighbours(tags: list[str], style: list[bool], phrase: bool, classes: Classes) -> list[bool]:
    """The tags that are style by themselves, and those that are because they stand among such tags.

    Args:
        phrase: whether a phrase of style was found outside of the tags.
    """
    out = list(style)
    if len(tags) > 1 and _is_medium(tags[0]):
        out[0] = True
    for i, tag in enumerate(tags):
        if not tag or i == 0 or out[i] or not _is_bare(tag):
            continue
        behind = out[i - 1] or (phrase and i == len(tags) - 1)
        between = out[i - 1] and (i + 1 == len(tags) or style[i + 1])
        trailing = out[i - 1] and not all(out[:i])  # the subject was named before
        out[i] = (
            _is_medium(tag)
            or ((phrase or any(out[:i])) and _is_name(tag, classes))
            or ((behind or any(out[:i])) and _says_no_thing(tag, classes))
            or (behind and _is_surface(tag))
            or (trailing and not _names_a_thing(tag, classes))
            or (between and _is_half_known(tag, classes))
        )
    return out


def _words(tag: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", tag)


def _is_bare(tag: str) -> bool:
    """Whether a tag is a name, or a noun with modifiers and nothing else."""
    if len(tag.split()) > 4 or _DETERMINED.match(tag) or _PLACED.search(tag) or TEXT in tag or AND in tag:
        return False
    words = tag.split()
    joined = {"of", "in", "on", "at", "with", "to", "from", "into", "by", "next", "over", "under", "behind", "above"}
    return not joined & set(words) and not (words[0] in lexicon.NUMBERS or words[0] in lexicon.VAGUE)


def _is_medium(tag: str) -> bool:
    """Whether a tag says in what the picture is made and not what is in it: "charcoal drawing", "sticker"."""
    words = _words(tag)
    known = lexicon.MEDIA - {"design", "concept", "scene", "view"} | ({"page"} if len(words) > 1 else set())
    if not 0 < len(words) < 5 or words[-1] not in known:
        return False
    return len(words) == 1 or all(
        w in lexicon.MEDIA_STYLES | lexicon.STYLE_WORDS | lexicon.MEDIUM_WORDS or w in lexicon.MEDIA for w in words[:-1]
    )


def _is_name(tag: str, classes: Classes) -> bool:
    """Whether a tag has no word of English: an artist, a camera, a film."""
    words = re.findall(r"[^\W\d_]+", tag)
    return 0 < len(words) < 5 and not any(classes.knows(w) for w in words if len(w) > 2 or classes.knows(w))


def _is_half_known(tag: str, classes: Classes) -> bool:
    """Whether a tag of two words between tags of style begins with none of English: "syd mead"."""
    words = tag.split()
    return len(words) == 2 and words[0].isalpha() and not _known(words[0], classes)


def _known(word: str, classes: Classes) -> bool:
    listed = word in lexicon.ATTRIBUTES or word in lexicon.TEXTURES or class_of_noun(word) is not None
    return listed or classes.knows(word) or all(classes.knows(part) for part in word.split("-"))


def _says_no_thing(tag: str, classes: Classes) -> bool:
    """Whether the last word of a tag is an abstract noun, an adjective, or unknown: "film halation", "underexposed"."""
    words = _words(tag)
    if not words or re.search(r"\d$", tag):
        return bool(words) and not _known(words[-1], classes)
    last = words[-1]
    if (
        last in lexicon.ATTRIBUTES
        or last in lexicon.TEXTURES
        or last.endswith("ing")
        or class_of_noun(last) is not None
    ):
        return set(words) <= lexicon.COLORS | {"and"} and len(words) > 1
    if not _known(last, classes):
        return True
    if classes.is_noun(last):
        return nouns.is_abstract(last)
    return len(words) == 1 or any(w in lexicon.STYLE_WORDS or w.endswith("ly") for w in words[:-1])


def _names_a_thing(tag: str, classes: Classes) -> bool:
    """Whether a tag behind a tag of style goes on with what is to be seen: its noun is alive, or a common thing."""
    words = _words(tag)
    last = words[-1] if words else ""
    if not last or last.endswith("ing") or last in lexicon.ATTRIBUTES or last in lexicon.WORN:
        return bool(last)
    tinted = bool({*words[:-1]} & (lexicon.COLORS | lexicon.MATERIALS))
    common = class_of_noun(last) is not None or last in lexicon.MASS or nouns.is_alive(last)
    return common or (tinted and classes.is_noun(last))


def _is_surface(tag: str) -> bool:
    """Whether a tag names what a picture is made on or shown in: "textured paper", "sketchbook page"."""
    words = _words(tag)
    return 1 < len(words) < 4 and words[-1] in lexicon.SURFACES and not {*words[:-1]} & lexicon.COLORS


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
    if _DETERMINED.match(tag) or _PLACED.search(tag) or _SET.search(tag):
        return False
    return bool(_ANYWHERE.search(tag) or _LAST.search(tag))
