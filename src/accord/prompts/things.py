"""Noun phrases: what a prompt names, with the modifiers of each, and which of them are no things of the picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from accord.prompts import lexicon
from accord.prompts.classes import is_compound
from accord.prompts.parse import Attribute, AttributeKind, Count, Span
from accord.prompts.tokens import (
    ADVERB,
    AUXILIARY,
    COMMA,
    DETERMINER,
    JOINT,
    MODIFIER,
    NEGATION,
    NOUN,
    NUMBER,
    POSSESSIVE,
    PREPOSITION,
    STOP,
    Token,
    Tokens,
)

_OF = ("of", "showing", "depicting", "featuring")
_FRAMES = ("image", "picture", "photo", "shot", "photograph")
_LEADS = ("a", "an", "the", "this", "one")


@dataclass(eq=False)
class Mention:
    """A noun phrase.

    Attributes:
        modifiers, nouns: indices of its words; the last noun is its head.
        start: index of its first word.
        attributes: indices of the words that say what it is like, from other places too ("the car is red").
        count: how many; set by `accord.prompts.counts`.
        shares: how its number parts by attributes ("two mugs, one blue and the other green").
        members: of what a collective counts: (how many in each, how many collectives), None where that is open.
        source: the mention whose noun it stands for ("a white one").
        dropped: whether it is no thing; `instead` is the thing that is meant when something is said of it.
        absent: whether it is not to be seen.
        ground: whether it is the background.
        elided: whether its noun is left out where it stands ("a red and a green apple").
        paired: whether another mention with an attribute shares its noun ("yellow and green peppers").
        title: a name that it is a part of.
    """

    modifiers: list[int]
    nouns: list[int]
    start: int
    attributes: list[int] = field(default_factory=list)
    count: Count = field(default_factory=Count)
    shares: list[tuple[Count, list[int]]] = field(default_factory=list)
    members: tuple[int | None, int | None] | None = None
    source: Mention | None = None
    dropped: bool = False
    instead: Mention | None = None
    absent: bool = False
    denied: bool = False
    ground: bool = False
    elided: bool = False
    paired: bool = False
    title: tuple[int, int] | None = None

    @property
    def head(self) -> int:
        return self.nouns[-1]

    @property
    def end(self) -> int:
        return self.head + 1

    def drop(self, instead: Mention | None = None) -> None:
        self.dropped, self.instead = True, instead

    def thing(self) -> Mention | None:
        """The mention that is meant: itself, or what it was dropped for."""
        found: Mention | None = self
        while found is not None and found.dropped:
            found = found.instead
        return found


def find_mentions(tokens: Tokens) -> list[Mention]:
    """All noun phrases in the order of the text, those too whose noun a coordination leaves out."""
    _set_measures_aside(tokens)
    found: list[Mention] = []
    i = 0
    while i < len(tokens):
        if tokens.kind(i) != NOUN:
            i += 1
            continue
        j = i
        while tokens.kind(j + 1) == NOUN and not (tokens[j].quoted or tokens[j + 1].quoted or _ends(tokens, j)):
            j += 1
        found += _phrases_of(tokens, list(range(i, j + 1)))
        i = j + 1
    for mention in found:
        mention.attributes = _own_attributes(tokens, mention)
    return found


def _ends(tokens: Tokens, i: int) -> bool:
    """Whether no noun phrase goes on from i to the next word: "a small one | pears", "the twins | nothing"."""
    return tokens.word(i) in ("one", "ones") or tokens.word(i + 1) in ("nothing", "something", "none", "nobody")


def _set_measures_aside(tokens: Tokens) -> None:
    """Ages, lengths and years become modifiers: "7 year old boy", "6 foot tall statue", "1965 mustang"."""
    for i, token in enumerate(tokens):
        if token.kind != NUMBER:
            continue
        if (
            re.fullmatch(r"year|years|yr|yo|month|months|week|weeks|day|days", tokens.word(i + 1))
            and tokens.word(i + 2) == "old"
        ):
            for k in (i, i + 1, i + 2):
                tokens[k].kind = MODIFIER
        elif re.fullmatch(
            r"foot|feet|inch|inches|meter|meters|metre|metres|mile|miles|cm|mm|km|m|ft|kg|lb|mph", tokens.word(i + 1)
        ):
            following = tokens.kind(i + 2) in (NOUN, MODIFIER)
            tokens[i].kind = MODIFIER if following else "other"
            tokens[i + 1].kind = MODIFIER if following else "other"
        elif re.fullmatch(r"(?:1[5-9]|20)\d\d", token.word) and not (
            tokens.kind(i + 1) == NOUN and tokens[i + 1].plural
        ):
            token.kind = MODIFIER if tokens.kind(i + 1) in (NOUN, MODIFIER) else "other"
        elif token.word.isdecimal() and tokens.kind(i - 1) == NOUN and tokens[i - 1].tag.startswith("NNP"):
            named = tokens[i - 1].proper and tokens.mask(i + 1) not in ("",)
            token.kind = NOUN if tokens.kind(i + 1) == NOUN or named else "other"  # "a Boeing 747 (plane) over"
        elif token.word.isdecimal() and tokens.word(i - 1) in ("a", "an", "number", "no", "aged", "route", "level"):
            token.kind = MODIFIER if tokens.kind(i + 1) in (NOUN, MODIFIER) else "other"  # "a 4 door car"


def _phrases_of(tokens: Tokens, nouns: list[int]) -> list[Mention]:
    """The mentions that end with these nouns: one, or several if a coordination leaves the noun out."""
    groups: list[list[int]] = [[]]
    k = nouns[0] - 1
    while k >= 0:
        if _modifies(tokens, k, groups[-1]):
            groups[-1].append(k)
        elif groups[-1] and _joins_modifiers(tokens, k, groups):
            groups.append([])
        else:
            break
        k -= 1
    groups = [sorted(g) for g in groups if g]
    main: list[int] = []
    alone: list[list[int]] = []
    for (
        group
    ) in groups:  # from the noun to the left: once one has its own determiner, those before have the noun left out
        if any(tokens.kind(m) in (DETERMINER, NUMBER) for m in main):
            alone.append(group)
        else:
            main = group + main
    out = [Mention(group, nouns, group[0]) for group in reversed(alone)]
    for one in out:
        one.elided = True
    paired = any(is_attribute(tokens[i]) for one in out for i in one.modifiers)
    for one in out:  # "in a white and a man in a black tuxedo": the noun is that of the tuxedo
        if tokens.word(one.start - 1) == "in" and tokens.word(nouns[-1]) in lexicon.PERSONS:
            one.nouns = [one.modifiers.pop()]
    main.sort()
    return [*out, Mention(main, nouns, min([*main, *nouns]), paired=paired)]


def _modifies(tokens: Tokens, k: int, group: Sequence[int]) -> bool:
    kind = tokens.kind(k)
    closed = {tokens.kind(m) for m in group} & {DETERMINER, NUMBER}
    if kind == DETERMINER:
        return DETERMINER not in closed or tokens.word(k) in ("all", "both", "half", "any", "no", "such")
    if kind == NUMBER:
        return DETERMINER not in closed or (
            bool(group) and tokens.word(group[-1]) in ("a", "an") and tokens.word(k) == "half"
        )
    if closed:
        return kind == ADVERB and tokens.word(k) in ("only", "just", "exactly")
    if kind == MODIFIER:
        return True
    return kind == ADVERB and bool(group) and tokens.kind(k + 1) == MODIFIER and tokens.word(k) not in lexicon.NOT_NOUNS


def _joins_modifiers(tokens: Tokens, k: int, groups: Sequence[Sequence[int]]) -> bool:
    """Whether the word at k ("and", a comma) has modifiers of the same noun on both sides."""
    left = k - 1
    if tokens.kind(k) == COMMA and tokens.kind(k - 1) in (JOINT, COMMA):
        return False
    if tokens.kind(k) == JOINT and tokens.kind(left) == COMMA:
        left -= 1
    joint = (tokens.kind(k) == JOINT and tokens.word(k) in ("and", "or")) or tokens.kind(k) == COMMA
    if not joint or tokens.kind(left) != MODIFIER or is_predicate(tokens, left):
        return False
    if any(tokens.word(i) in ("the", "her", "his", "its", "their") for i in groups[-1]) and (
        tokens.kind(k) == COMMA or _follows_noun(tokens, left) or tokens.word(left - 1) == "in"
    ):
        return False  # "painted in black, the van", "the violins brown and the cello black"
    if tokens.kind(k) == JOINT or len(groups) > 1:
        return True
    word = tokens.word(left)
    return word in lexicon.ATTRIBUTES or tokens[left].tag.startswith("JJ")


def _follows_noun(tokens: Tokens, i: int) -> bool:
    """Whether the modifiers up to i stand behind a noun."""
    while tokens.kind(i) in (MODIFIER, ADVERB):
        i -= 1
    return tokens.kind(i) == NOUN


def is_predicate(tokens: Tokens, i: int) -> bool:
    """Whether the modifiers up to i are said of a subject: "the horses are black and white"."""
    while i >= 0 and tokens.kind(i) in (MODIFIER, ADVERB, JOINT, COMMA, NEGATION):
        i -= 1
    return (tokens.kind(i) == AUXILIARY and tokens.word(i) != "there") or tokens.word(i) in (
        "all",
        "both",
        "painted",
        "dyed",
    )


def is_attribute(token: Token) -> bool:
    return token.word in lexicon.ATTRIBUTES or token.word in lexicon.SHADES


def name_of_two(tokens: Tokens, i: int) -> bool:
    """Whether the words at i and i + 1 are together the name of one thing ("hot dog")."""
    first, second = tokens.word(i), tokens.word(i + 1)
    last = second.removesuffix("s")
    if first in lexicon.FRUIT and last in lexicon.OF_FRUIT:
        return True
    if is_compound(f"{first} {second}") and first not in lexicon.COLORS | lexicon.SIZES:
        return True
    return any(f"{first} {w}" in lexicon.NAMES_OF_TWO for w in (second, last))


def _names_something(tokens: Tokens, i: int) -> bool:
    """Whether an attribute at i is none, but part of a name: "ice cream truck", "hot dog", "Ruby Lin"."""
    return name_of_two(tokens, i) or name_of_two(tokens, i - 1) or _in_name(tokens, i)


def _in_name(tokens: Tokens, i: int) -> bool:
    """Whether the word at i is written as a part of a name: "Ruby Lin"."""
    begins = tokens[i].capital and i + 1 < len(tokens) and tokens[i + 1].capital and tokens[i + 1].tag == "NNP"
    return tokens[i].proper or begins


def compound_start(tokens: Tokens, mention: Mention) -> int:
    """Index of the first word of the compound noun."""
    at = mention.head
    named = tokens[at].proper
    for i in reversed(mention.nouns[:-1]):
        if is_attribute(tokens[i]) and not _names_something(tokens, i):
            break
        at = i
    while at - 1 in (*mention.nouns, *mention.modifiers):
        before = tokens[at - 1]
        name = named and before.capital and before.kind == MODIFIER and (at > 1 or before.tag == "NNP")
        if mention.paired or (not name_of_two(tokens, at - 1) and not name):
            break
        at -= 1
    return at


def _own_attributes(tokens: Tokens, mention: Mention) -> list[int]:
    compound = compound_start(tokens, mention)
    words = sorted([*mention.modifiers, *mention.nouns[:-1]])
    return [
        i
        for i in words
        if (i < compound or (i in mention.nouns and is_attribute(tokens[i]) and not _names_something(tokens, i)))
        and tokens.kind(i) in (MODIFIER, NOUN)
    ]


def attribute_kind(word: str) -> AttributeKind:
    """The kind of an attribute. Words of two kinds ("gold", "silver") are colours."""
    kinds: tuple[tuple[AttributeKind, frozenset[str]], ...] = (
        ("color", lexicon.COLORS),
        ("size", lexicon.SIZES),
        ("material", lexicon.MATERIALS),
        ("texture", lexicon.TEXTURES),
    )
    return next((kind for kind, words in kinds if word in words), "other")


def attributes_of(tokens: Tokens, indices: Sequence[int]) -> tuple[Attribute, ...]:
    """Attributes with their spans; a shade and its colour are one ("light blue")."""
    out: list[Attribute] = []
    ordered = sorted(dict.fromkeys(indices))
    for n, i in enumerate(ordered):
        token = tokens[i]
        before = out[-1] if out and n and ordered[n - 1] == i - 1 else None
        shaded = before is not None and before.text.lower() in lexicon.SHADES and token.word in lexicon.COLORS
        start = before.start if shaded and before is not None else token.start
        if shaded:
            out.pop()
        out.append(Attribute(tokens.prompt[start : token.end], start, token.end, attribute_kind(token.word)))
    return tuple(out)


def span_of(tokens: Tokens, first: int, last: int) -> Span:
    """The span from one word to another."""
    start, end = tokens[first].start, tokens[last].end
    return Span(tokens.prompt[start:end], start, end)


# --- what is no thing ---------------------------------------------------------------------------------------------
def drop_frames(tokens: Tokens, mentions: list[Mention]) -> list[Span]:
    """Drop media, collectives, parts, places in the picture, times of day; returns the media, which are style."""
    media: list[Span] = []
    for k, mention in enumerate(mentions):
        if mention.dropped:
            continue
        word, following = tokens.word(mention.head), "" if tokens.mask(mention.end) else tokens.word(mention.end)
        inner = next((m for m in mentions[k + 1 :] if m.start == mention.end + 1), None) if following in _OF else None
        if tokens.word(mention.start - 1) in ("named", "called", "titled"):
            mention.drop(mentions[k - 1] if k else None)
        elif following == "for" and word in ("logo", "icon", "emblem", "flyer", "packaging") and mention.start < 2:
            media.append(_medium(tokens, mention))
            mention.drop()
            if k + 1 < len(mentions):
                mentions[k + 1].drop()  # whom it is for is not seen
        elif tokens.kind(mention.end) == POSSESSIVE:
            mention.drop(next((m for m in mentions[k + 1 :] if m.head > mention.end), None))
        elif inner is not None and tokens[mention.head].proper and tokens[inner.head].proper and following == "of":
            mention.title = (compound_start(tokens, mention), inner.head)
            inner.drop(mention)
        elif inner is not None and word in lexicon.COLLECTIVES:
            _count_members(tokens, mention, mentions[k + 1 :], inner)
        elif following in _OF and _frames(tokens, mention, word):
            mention.drop(inner)
            if word in lexicon.MEDIA:
                media.append(_medium(tokens, mention))
        elif word in lexicon.GROUNDS and _is_ground(tokens, mention):
            mention.ground = True
            mention.drop()
        elif word in lexicon.SCENES and len(mention.nouns) > 1 and not tokens[mention.head].proper:
            mention.nouns.pop()  # "beach scene"
            if tokens.word(mention.head) in lexicon.MEDIA_STYLES | lexicon.STYLE_WORDS:
                mention.drop()
        elif _is_no_thing(tokens, mention, word) and not _denied(tokens, mention):
            mention.drop()
            if word in lexicon.MEDIA and mention.start == 0:
                media.append(_medium(tokens, mention))
        elif (
            word in lexicon.COLORS
            and tokens.word(mention.start - 1) == "on"
            and mention.start == mention.head
            and not tokens[mention.head].plural
        ):
            mention.ground = True
            mention.drop()
    return media


def _frames(tokens: Tokens, mention: Mention, word: str) -> bool:
    """Whether a medium or a part before "of" is no thing."""
    if word in lexicon.MEDIA_THINGS:
        drawn_by = tokens.kind(mention.start - 1) == POSSESSIVE and mention.start < 5  # "a child's drawing of"
        return mention.start == 0 or drawn_by or tokens.kind(mention.start - 1) == STOP
    if word in lexicon.MEDIA:
        starts = (
            mention.start == 0
            or tokens.word(mention.start - 1) in ("in", "is", "and", "this")
            or tokens.kind(mention.start - 1) in (COMMA, STOP)
        )
        return starts and tokens.word(mention.start - 1) != "on"
    return word in lexicon.PARTS and not (
        word in ("heart", "form", "image") and tokens.kind(mention.start - 1) != PREPOSITION
    )


def _medium(tokens: Tokens, mention: Mention) -> Span:
    words = [i for i in (*mention.modifiers, *mention.nouns) if tokens.kind(i) not in (DETERMINER, NUMBER)]
    return span_of(tokens, min(words), max(words))


def _count_members(tokens: Tokens, mention: Mention, others: Sequence[Mention], inner: Mention) -> None:
    word = tokens.word(mention.head)
    vague = any(tokens.word(i) in lexicon.VAGUE for i in mention.modifiers)
    digits = [tokens.word(i) for i in mention.modifiers if tokens.kind(i) == NUMBER]
    said = lexicon.NUMBERS.get(digits[0], int(digits[0]) if digits[0].isdecimal() else None) if digits else None
    groups = None if vague or (word.endswith("s") and said is None) else said or 1
    for other in others:
        if other.head == inner.head:  # those whose noun is left out too
            other.members = (lexicon.COLLECTIVES[word], groups)
            other.start = min(other.start, mention.start) if other is inner else other.start
    mention.drop(inner)


def _is_ground(tokens: Tokens, mention: Mention) -> bool:
    return tokens.word(mention.start - 1) != "in" or any(tokens.word(i) in lexicon.COLORS for i in mention.modifiers)


def _is_no_thing(tokens: Tokens, mention: Mention, word: str) -> bool:
    compound = mention.head - compound_start(tokens, mention) > 0
    if tokens[mention.head].proper and compound:
        return False
    if re.fullmatch(r"mm|k|px|hd|uhd|\d+k|\d+mm|\d{3,4}s|cm|km", word):
        return True
    if word in lexicon.TIMES:
        seen = word in ("spring", "fall") and any(
            tokens.word(i) in ("a", "an") or tokens.kind(i) == NUMBER for i in mention.modifiers
        )
        return (
            not seen
            and not (compound and word in lexicon.THINGS_IN_A_COMPOUND)
            and not _modifies_a_setting(tokens, mention)
        )
    placed = {tokens.word(i) for i in mention.modifiers} & (set(lexicon.POSITIONS) | {"upper", "lower"})
    if word in ("corner", "half", "third", "part", "side", "edge") and placed:
        return True
    if word in lexicon.COLORS and tokens.word(mention.start - 1) == "in" and mention.start == mention.head:
        return True
    if word in _FRAMES and tokens.words(mention.start, mention.head) in (["the"], ["this"]):
        return True
    if word in _FRAMES and mention.start == 0 and tokens.word(mention.end) in ("taken", "shot", "captured", "made"):
        return True  # "a vertical photo taken in"
    if word in ("letter", "letters") and not any(t.quoted for t in tokens):
        return False
    if word in lexicon.NO_THINGS:
        return not (compound and word in lexicon.THINGS_IN_A_COMPOUND)
    framing = word in lexicon.MEDIA - lexicon.MEDIA_THINGS or (
        compound and word in lexicon.MEDIA and tokens.kind(mention.end) == COMMA
    )
    return framing and mention.start == 0 and tokens.word(mention.end) != "of"


def _denied(tokens: Tokens, mention: Mention) -> bool:
    """ "a bench without a back": what is missed would be a thing."""
    own = any(tokens.word(i) == "no" for i in mention.modifiers)
    masked = mention.start > 0 and tokens[mention.start - 1].mask == "not"
    return (own or masked) and tokens.word(mention.head) in lexicon.THINGS_IN_A_COMPOUND | lexicon.SEEN_IF_DENIED


def _modifies_a_setting(tokens: Tokens, mention: Mention) -> bool:
    return "sky" in tokens.words(mention.start, mention.end)
