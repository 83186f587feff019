"""The syntax of prompt programs, set aside: weights, alternatives, LoRA, flags, negative prompts, infotext, comments.

What is set aside is replaced by blanks or commas, so that characters keep their places.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from accord.prompts import lexicon
from accord.prompts.parse import Quoted, Span, Stripped, StrippedKind

TEXT = "\x00"  # stands where quoted text stood
AND = "\x01"  # stands where alternatives were parted

_FLAG = re.compile(r"(?<!\S)(?:--?|—|–)(?P<name>[a-zA-Z][\w-]*)(?:[ =]+(?P<value>\"[^\"]*\"|(?!--|—|–)[^\s,]+))?")
_BARE_FLAGS = {"tile", "hd", "fast", "turbo", "relax", "video", "test", "draft", "raw", "creative", "upbeta", "help"}
_NEGATIVE_FLAGS = {"negative_prompt", "negative-prompt", "neg", "negative", "n", "np"}
_DEEPEST = 40  # brackets in one another
_WRITTEN = r"(?:written|painted|printed|engraved|carved|spelled|in|on|across|above|as|scrawled|embroidered)\b"


@dataclass
class Draft:
    """A prompt on its way: what is left of it, at the same characters, and what was taken out."""

    prompt: str
    text: str
    normal: str = ""  # the text as `normalise` left it
    stripped: list[Stripped] = field(default_factory=list)
    negatives: list[Span] = field(default_factory=list)  # items of negative prompts, but for those of style
    ruled_out: list[str] = field(default_factory=list)  # negative prompts, as they are written
    quoted: list[Quoted] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)  # of each character: (red:1.3)
    unweighed: list[Span] = field(default_factory=list)  # weights of no word: "a cat::2"

    def __post_init__(self) -> None:
        self.weights = [1.0] * len(self.prompt)

    def weigh(self, start: int, end: int, weight: float) -> None:
        """Multiply the weights of [start:end]."""
        self.weights[start:end] = [w * weight for w in self.weights[start:end]]

    def blank(self, start: int, end: int, filling: str = "") -> None:
        """Put blanks (after `filling`) where [start:end] was."""
        self.text = self.text[:start] + filling.ljust(end - start) + self.text[end:]

    def strip(self, start: int, end: int, kind: StrippedKind, filling: str = "") -> None:
        """Set [start:end] aside."""
        if self.text[start:end].strip():
            self.note(start, end, kind)
            self.blank(start, end, filling)

    def note(self, start: int, end: int, kind: StrippedKind) -> None:
        self.stripped.append(Stripped(self.prompt[start:end], start, end, kind))

    def rule_out(self, start: int, end: int) -> None:
        """Take the items of a list as things that are not to be seen, and put blanks there."""
        self.ruled_out.append(self.prompt[start:end])
        for item in re.finditer(r"[^,\n|]+", self.text[start:end]):
            words = re.search(r"[^\W\d_](?:.*[^\W\d_])?", re.sub(r":[\d.]+", lambda m: " " * len(m[0]), item[0]))
            if words and not words[0].startswith("embedding:") and _is_thing(words[0].lower()):
                at = start + item.start() + words.start()
                self.negatives.append(Span(self.prompt[at : at + len(words[0])], at, at + len(words[0])))
        self.blank(start, end)


def _is_thing(item: str) -> bool:
    """Whether an item of a negative prompt names something that could be seen, and not how the picture is made."""
    if re.fullmatch(lexicon.NEGATIVE_STYLE, item):
        return False
    last = item.split()[-1]
    names = {last, last.removesuffix("s"), re.sub("ies$", "y", last)}
    return bool(names & lexicon.NEGATIVE_THINGS) or not re.fullmatch(lexicon.NEGATIVE_ENDINGS, item)


def normalise(prompt: str) -> Draft:
    """The prompt without the syntax of prompt programs, quoted text replaced by `TEXT`."""
    same_length = str.maketrans("’‘“”`\t\r\x0b\x0c\xa0", "''\"\"'     ")
    draft = Draft(
        prompt,
        re.sub(
            r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", " ", prompt.translate(same_length)
        ),
    )
    for step in (_comments, _infotext, _flags, _networks, _alternatives, _weights, _breaks, _quotes, _marks, _capitals):
        step(draft)
    draft.normal = draft.text
    return draft


def _comments(draft: Draft) -> None:
    for found in re.finditer(r"(?m)^\s*#.*$|(?<=\s)#\s.*$|(?<=\s)//\s.*$|/\*.*?\*/", draft.text):
        draft.strip(*found.span(), "comment")


def _infotext(draft: Draft) -> None:
    found = re.search(r"(?i)(?:^|\n|\s)steps\s*:\s*\d+\s*,.*", draft.text, re.DOTALL)
    if found:
        draft.strip(*found.span(), "infotext")
    found = re.search(r"(?i)\bnegative[_ ]prompt\s*:", draft.text)
    if found:
        draft.note(found.start(), len(draft.text.rstrip()), "negative prompt")
        draft.rule_out(found.end(), len(draft.text))
        draft.blank(*found.span())
    found = re.match(r"(?i)\s*(?:/imagine\s*(?:prompt\s*:)?|(?:positive )?prompt\s*:)", draft.text)
    if found:
        draft.strip(*found.span(), "markup")


def _flags(draft: Draft) -> None:
    for no in re.finditer(r"(?:--|—|–)no\s+((?:(?!\s(?:--|—|–)).)+)", draft.text):
        draft.note(*no.span(), "negative prompt")
        draft.rule_out(*no.span(1))
        draft.blank(*no.span())
    for flag in _FLAG.finditer(draft.text):
        name, value = flag["name"].lower(), flag["value"]
        dashed = not flag[0].startswith("-") or flag[0].startswith("--")
        if not dashed and not (value and re.fullmatch(r"[\d.:]+|\"[^\"]*\"", value)):
            continue
        if name in ("prompt", "p") and value and value.startswith('"'):
            draft.strip(flag.start(), flag.start("value") + 1, "flag")
            draft.blank(flag.end() - 1, flag.end())
        elif name in _NEGATIVE_FLAGS and value:
            draft.note(*flag.span(), "negative prompt")
            draft.rule_out(*flag.span("value"))
            draft.blank(*flag.span())
        else:
            takes_value = value and name not in _BARE_FLAGS and re.search(r"\d|^\"|^(?:raw|[a-z_]+)$", value)
            draft.strip(flag.start(), flag.end() if takes_value else flag.end("name"), "flag")


def _networks(draft: Draft) -> None:
    for found in re.finditer(r"<(?:lora|lyco|locon|hypernet)\s*:[^<>]*>", draft.text):
        draft.strip(*found.span(), "lora")
    for found in re.finditer(r"\(?\bembedding:[\w.-]+(?::[\d.]+)?\)?", draft.text):
        draft.strip(*found.span(), "embedding")
    for found in re.finditer(
        r"</?\w[^<>]*>|\bhttps?://\S+|\bscore_\d\w*|\bsource_\w+|\brating_\w+|\\[()\[\]{}]", draft.text
    ):
        draft.strip(*found.span(), "markup")


def _alternatives(draft: Draft) -> None:
    for found in re.finditer(r"\[([^\[\]|]+(?:\|[^\[\]|]+)+)\]|\{([^{}|]+(?:\|[^{}|]+)+)\}", draft.text):
        draft.note(*found.span(), "alternative")
        first, *others = re.split(r"\|", found[0][1:-1])
        numbers = {*lexicon.NUMBERS, "a", "an", "the"}
        if {w.strip().lower() for w in (first, *others)} <= numbers:  # {a|one}: the first
            draft.blank(found.start() + 1 + len(first), found.end())
            draft.blank(found.start(), found.start() + 1)
        else:
            draft.text = (
                draft.text[: found.start()] + (" " + found[0][1:-1] + " ").replace("|", AND) + draft.text[found.end() :]
            )
    for found in re.finditer(r"\[([^\[\]:]*):([^\[\]:]*):[\d.]+\]", draft.text):  # [from:to:when]: what it ends with
        draft.note(*found.span(), "alternative")
        kept = 2 if found[2].strip() else 1
        draft.blank(found.start(), found.start(kept))
        draft.blank(found.end(kept), found.end())
    for found in re.finditer(r"__([\w/-]+)__", draft.text):
        draft.note(*found.span(), "alternative")
        draft.text = draft.text[: found.start()] + re.sub(r"[_/]", " ", found[0]) + draft.text[found.end() :]


def _weights(draft: Draft) -> None:
    for _ in range(_DEEPEST):  # from the inside
        marked = list(re.finditer(r"([(\[{])([^()\[\]{}]*?)(:\s*[\d.]+\s*)?([)\]}])(\d?\.\d+|[+]+|--+)?", draft.text))
        if not marked:
            break
        for one in marked:
            aside = one[1] == "(" and not one[3] and not one[5] and re.match(r"\s*(?:an?|the|with|and)\s", one[2])
            mark = "," if aside and one.start() and not draft.text[: one.start()].rstrip().endswith(("(", ",")) else ""
            if not mark:
                draft.note(*one.span(), "weight")
                draft.weigh(*one.span(2), _weight(one[1], one[3], one[5]))
            draft.blank(one.start(), one.start(2), mark)
            draft.blank(one.end(2), one.end(), mark)
    for found in re.finditer(r"(?<=\w)(?:\++|--+)(?=[\s,]|$)", draft.text):
        word = re.search(r"\S+$", draft.text[: found.start()])
        draft.weigh(word.start() if word else found.start(), found.start(), _weight("", None, found[0]))
        draft.strip(*found.span(), "weight")
    for found in re.finditer(r"::\s*-?[\d.]*|(?<=\w):[01]\.\d+\b", draft.text):
        draft.unweighed.append(Span(draft.prompt[found.start() : found.end()], *found.span()))
        draft.strip(*found.span(), "weight", "," if found[0].startswith("::") else "")


def _weight(bracket: str, number: str | None, behind: str | None) -> float:
    """The weight that a bracket gives: (red:1.3), (red)1.3, (red)++, (red), [red], {red}."""
    if number or (behind and behind[0] not in "+-"):
        digits = re.search(r"\d*\.?\d+", number or behind or "")
        return float(digits[0]) if digits else 1.0
    if behind:
        return (1.1 if behind[0] == "+" else 0.9) ** len(behind)
    return {"(": 1.1, "[": 1 / 1.1, "{": 1.05}[bracket]


def _breaks(draft: Draft) -> None:
    if draft.text.isupper():
        return
    for found in re.finditer(r"\bBREAK\b|\bAND\b(?:\s*:\s*[\d.]+)?|\bADDCOMM\b|\bADDROW\b", draft.text):
        draft.strip(*found.span(), "break", ",")


def _quotes(draft: Draft) -> None:
    for found in re.finditer(r"\"([^\"]+)\"|(?<!\w)'([^']+)'(?!\w)", draft.text):
        inner = 1 if found[1] else 2
        before = re.sub(r"[\"'\s,]|\band\b", "", draft.text[: found.start()])
        if not before and not re.match(rf"\s*{_WRITTEN}", draft.text[found.end() :]):
            draft.blank(found.start(), found.start(inner))  # the whole prompt, or a part of it, in quotation marks
            draft.blank(found.end(inner), found.end())
            continue
        start, end = found.span(inner)
        draft.quoted.append(Quoted(draft.prompt[start:end], start, end))
        draft.blank(*found.span(), TEXT)


def _marks(draft: Draft) -> None:
    draft.text = re.sub(r"[\n|]|:(?!\d)|(?<!\d):|\s[–—-]\s|[–—]", lambda m: ",".center(len(m[0])), draft.text)
    draft.text = re.sub(r"[^\w\s.,'\"/&%$€°×+\-\x00\x01:;!?]", " ", draft.text)


def _capitals(draft: Draft) -> None:
    words = draft.text.split()
    capitals = sum(w[0].isupper() for w in words)
    if (len(words) > 3 and capitals > 0.7 * len(words)) or draft.text.isupper():
        lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in draft.text)
        draft.text = lowered
