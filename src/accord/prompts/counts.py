"""How many: numbers in words and digits, collectives, plurals, and how a number parts by attributes."""

from __future__ import annotations

from collections.abc import Sequence

from accord.prompts import lexicon
from accord.prompts.classes import is_compound
from accord.prompts.parse import Count, Span
from accord.prompts.things import Mention, attribute_kind, is_attribute, span_of
from accord.prompts.tokens import (
    AUXILIARY,
    COMMA,
    DETERMINER,
    JOINT,
    MODIFIER,
    NOUN,
    NUMBER,
    PREPOSITION,
    STOP,
    Token,
    Tokens,
)

_ONE = ("a", "an", "another", "each", "every")
_SHARES = ("other", "another", "others", "rest", "first", "second", "third", "last", "remaining")


_ORDINALS = frozenset("first second third fourth fifth last next other others rest remaining another".split())


def set_count(tokens: Tokens, mention: Mention) -> None:
    """Give a mention its count."""
    head = tokens[mention.head]
    number, said, vague, one = _said(tokens, mention.modifiers)
    plural = head.plural and not (head.proper and not number)
    after_of = tokens.word(mention.start - 1) == "of"
    named = is_compound(" ".join(tokens.words(mention.head - 1, mention.end)))  # "magnifying glass"
    mass = (head.word in lexicon.MASS and not named) or (after_of and head.word in lexicon.MASS_AFTER_OF)
    span = span_of(tokens, said[0], said[-1]) if said else None
    if mention.members is not None:
        mention.count = _of_members(tokens, mention, number, span)
    elif vague and number is None:
        mention.count = Count("open", None, span)
    elif number is not None and not _measures(tokens, mention, number):
        begin = _at_least(tokens, said)
        if begin is not None:
            span = span_of(tokens, begin, said[-1])
        mention.count = Count("exact" if begin is None else "at least", number, span)
    elif one and not mention.elided and head.word in tokens.classes.nouns and _by_article(tokens, mention):
        mention.count = Count("exact", 1, span)  # "a crossroads"
    elif not (one and mention.elided) and _is_open(head, plural, mass, one, bool(mention.modifiers) and not after_of):
        mention.count = Count()
    else:
        mention.count = Count("exact", 1, span if one else None)


def _by_article(tokens: Tokens, mention: Mention) -> bool:
    """Whether its first word is "a" or "an"."""
    return tokens.word(mention.start) in ("a", "an")


def _is_open(head: Token, plural: bool, mass: bool, one: bool, modified: bool) -> bool:
    """Whether a noun without a number leaves it open: plurals, what is not counted, "fish"."""
    if plural or (mass and not (one or head.proper)):
        return True
    if head.word in lexicon.MANY_AS_ONE:
        return not modified
    return one and head.plural and head.word not in lexicon.PAIRED


def _said(tokens: Tokens, modifiers: Sequence[int]) -> tuple[int | None, list[int], bool, bool]:
    """The number that modifiers say, the words that say it, whether they say that it is open, or one by an article."""
    number: int | None = None
    said: list[int] = []
    vague = one = False
    words = [tokens.word(i) for i in modifiers]
    for i, word in zip(modifiers, words, strict=True):
        value = _value(word) if tokens.kind(i) in (NUMBER, DETERMINER) or word in ("twin", "dozen") else None
        if word in ("dozen", "hundred", "thousand") and value is not None:
            half = word == "dozen" and "half" in words
            number = 6 if half else value * (number or 1)
        elif value is not None:
            tens = number is not None and number >= 20 and value < 10
            number = number + value if tens and number is not None else value if number is None else number
        elif word in ("both", "all", "either") and {"a", "an", "the"} & set(words):
            continue
        elif word in lexicon.VAGUE and tokens.kind(i) in (DETERMINER, MODIFIER, NUMBER):
            vague = True
        elif word in _ONE:
            one = True
        else:
            continue
        said.append(i)
    return number, said, vague, one


def _value(word: str) -> int | None:
    if word.isdecimal():
        return int(word) if len(word) < 5 else None
    parts = word.split("-")
    if len(parts) == 2 and all(p in lexicon.NUMBERS for p in parts):  # twenty-five
        return lexicon.NUMBERS[parts[0]] + lexicon.NUMBERS[parts[1]]
    return lexicon.NUMBERS.get(word, lexicon.FIXED.get(word) if word in ("dozen", "couple", "twin") else None)


def _measures(tokens: Tokens, mention: Mention, number: int) -> bool:
    """Whether a number belongs to a modifier: "five star hotel", "4 door car"."""
    head = tokens[mention.head]
    single = not head.plural and head.word not in lexicon.MASS | lexicon.MANY_AS_ONE
    return number > 1 and single and len(mention.nouns) > 1


def _at_least(tokens: Tokens, said: Sequence[int]) -> int | None:
    """Where "at least" or "more than" before a number begins."""
    for phrase in lexicon.AT_LEAST:
        begin = said[0] - len(phrase) if said else 0
        if begin >= 0 and tuple(tokens.words(begin, begin + len(phrase))) == phrase:
            return begin
    return None


def _of_members(tokens: Tokens, mention: Mention, number: int | None, span: Span | None) -> Count:
    each, groups = mention.members or (None, None)
    first = min(mention.start, *mention.modifiers, mention.head)
    span = span or span_of(tokens, first, max(first, mention.head - 1))
    if number is not None:
        return Count("exact", number, span)
    worn = tokens.word(mention.head) in lexicon.WORN_IN_PAIRS and (groups or 1) > 1
    if (tokens.word(mention.head) in lexicon.PAIRED or worn) and each == 2:
        return Count("exact", groups, span) if groups else Count("open", None, span)
    return Count("exact", each * groups, span) if each and groups else Count("open", None, span)


# --- shares ---------------------------------------------------------------------------------------------------------
def resolve_ones(tokens: Tokens, mentions: Sequence[Mention]) -> None:
    """ "a black rabbit and a white one": the noun that "one" stands for."""
    for k, mention in enumerate(mentions):
        if tokens.word(mention.head) in _ORDINALS and len(mention.nouns) == 1:
            _meet_ordinal(tokens, mention, [m for m in mentions[:k] if not m.dropped and not m.absent])
        elif tokens.word(mention.head) in ("one", "ones"):
            source = _parallel(tokens, mention, [m for m in mentions[:k] if not m.dropped])
            mention.source = source.source or source if source else None
            mention.dropped = source is None
            if source is not None and tokens.word(mention.start) == "the":
                _meet_again(tokens, mention, source.source or source, mentions[:k])
        elif _lone_color(tokens, mention):  # "a woman in a white and a man in a black tuxedo"
            mention.source = next(
                (m for m in mentions[k + 1 :] if any(tokens.word(i) in lexicon.COLORS for i in m.attributes)), None
            )
            mention.attributes = [*mention.attributes, mention.head]
            mention.dropped = mention.source is None


def _meet_ordinal(tokens: Tokens, mention: Mention, earlier: Sequence[Mention]) -> None:
    """ "the third" is one of what was named; "two others" are more of it."""
    free = [m for m in earlier if tokens.kind(m.start - 1) != PREPOSITION] or earlier
    many = [m for m in earlier if tokens[m.head].plural]
    if any(tokens.kind(i) == NUMBER for i in mention.modifiers):
        mention.source = free[-1] if free else None
        mention.dropped = not free
    else:
        mention.drop(many[0] if many else None)


def _meet_again(tokens: Tokens, mention: Mention, source: Mention, earlier: Sequence[Mention]) -> None:
    """ "the blue one" is one that was named before, if there is such a one; "the middle one" one of many."""
    if tokens[source.head].plural and not source.elided:
        mention.drop(source)
        return
    said = {tokens.word(i) for i in mention.attributes if is_attribute(tokens[i])}
    same = [m for m in earlier if (m.source or m).head == source.head and not m.dropped]
    known = [m for m in same if said and said <= {tokens.word(i) for i in m.attributes}]
    if known:
        mention.drop(known[0])


def _parallel(tokens: Tokens, mention: Mention, earlier: Sequence[Mention]) -> Mention | None:
    """The last mention before it with the same preposition, else the last without one, else the last."""
    before = tokens.word(mention.start - 1) if tokens.kind(mention.start - 1) == PREPOSITION else ""
    same = [m for m in earlier if before and tokens.word(m.start - 1) == before]
    free = [m for m in earlier if tokens.kind(m.start - 1) != PREPOSITION]
    if any(tokens.word(i) in _ORDINALS for i in mention.modifiers):  # "the last one"
        many = [m for m in earlier if tokens[m.head].plural]
        return many[-1] if many else None
    kinds = _kinds(tokens, mention)
    rival = [m for m in earlier if kinds & _kinds(tokens, m)]
    return next((group[-1] for group in (same, rival, free, earlier) if group), None)


def _kinds(tokens: Tokens, mention: Mention) -> set[str]:
    """The kinds of the attributes of a mention, those left out that a colour or a size could not be set against."""
    return {attribute_kind(tokens.word(i)) for i in mention.attributes if is_attribute(tokens[i])}


def _lone_color(tokens: Tokens, mention: Mention) -> bool:
    word = tokens.word(mention.head)
    pure = word in lexicon.COLORS - lexicon.NOUN_COLORS and len(mention.nouns) == 1 and not tokens[mention.head].plural
    return pure and tokens.word(mention.start) in ("a", "an", "the") and tokens.kind(mention.end) == JOINT


def share_out(tokens: Tokens, mentions: list[Mention]) -> set[int]:
    """The parts of a number, each with its attributes: "two mugs, one blue and the other green".

    Returns the indices of the words that said them.
    """
    used: set[int] = set()
    for k, mention in enumerate(mentions):
        if mention.dropped or mention.absent:
            continue
        begin = mention.end
        shares, end = _shares_after(tokens, mention, begin)
        if not shares:  # "There are two apples on a table. One is red and the other is green."
            begin = _sentence_end(tokens, mention.end)
            shares, end = _shares_after(tokens, mention, begin)
        if not shares:
            begin = _behind_phrases(tokens, mention.end)  # "three kittens in a basket: one black, ..."
            shares, end = _shares_after(tokens, mention, begin) if begin > mention.end else ([], 0)
        if not shares:
            shares, end = _shares_of_them(tokens, mention)
            begin = max(mention.end, shares[0][0]) if shares else 0
        if not shares:
            continue
        _drop_within(mentions[k + 1 :], mention, begin, end)
        judged = [i for _, indices in shares for i in indices if is_attribute(tokens[i])]
        if len(shares) == 1 and not judged:
            continue  # "three cups, one of them cracked": still three cups
        used.update(i for _, indices in shares for i in indices)
        used.update(i for i, _ in shares)
        left = mention.count.number if mention.count.kind == "exact" else None
        for at, indices in shares:
            word = tokens.word(at)
            value = _value(word)
            if word == "half":
                value = mention.count.exact // 2 if mention.count.exact else None
            elif value is None and word not in lexicon.VAGUE:
                value = 1 if word not in ("others", "rest", "remaining") else left
            left = left - value if left is not None and value is not None else None
            said = span_of(tokens, at, at)
            count = Count("exact", value, said) if value is not None else Count("open", None, said)
            mention.shares.append((count, [*mention.attributes, *indices]))
        if left and len(shares) == 1:
            mention.shares.append((Count("exact", left), list(mention.attributes)))
    return used


def _behind_phrases(tokens: Tokens, i: int) -> int:
    """The index behind the phrases with a preposition at i."""
    while tokens.kind(i) == PREPOSITION:
        j = i + 1
        while tokens.kind(j) in (DETERMINER, NUMBER, MODIFIER):
            j += 1
        if tokens.kind(j) != NOUN:
            return i
        while tokens.kind(j) == NOUN:
            j += 1
        i = j
    return i


def _sentence_end(tokens: Tokens, i: int) -> int:
    while i < len(tokens) and tokens.kind(i) != STOP:
        i += 1
    return i


def _drop_within(others: Sequence[Mention], owner: Mention, begin: int, end: int) -> None:
    for other in others:
        if begin <= other.start < end:
            other.drop(owner)


def _shares_after(tokens: Tokens, mention: Mention, i: int) -> tuple[list[tuple[int, list[int]]], int]:
    """Shares of a mention behind the mark at i: "one blue", "and", "the other green"."""
    if tokens.kind(i) not in (COMMA, STOP) or i >= len(tokens) or (mention.count.number or 0) < 2:
        return [], i
    shares: list[tuple[int, list[int]]] = []
    i += 1
    while True:
        who, after = _share_name(tokens, i)
        what, stop = _attributes_at(tokens, after)
        if who is None or not what:
            break
        shares.append((who, what))
        i = stop
        while tokens.kind(i) in (COMMA, JOINT, STOP) and i < len(tokens):
            i += 1
    alone = bool(shares) and (
        "of" in tokens.words(mention.end, i) or tokens.kind(i - 1) in (COMMA, STOP) or i >= len(tokens)
    )
    return (shares, i) if len(shares) > 1 or alone else ([], i)


def _share_name(tokens: Tokens, i: int) -> tuple[int | None, int]:
    """Where the number or "other" at i is, and the index behind it, "of them is" skipped."""
    if tokens.word(i) in ("the", "while", "whereas"):
        i += 1
    if tokens.word(i) in ("other", "remaining") and _value(tokens.word(i + 1)) is not None:
        i += 1
    word = tokens.word(i)
    if _value(word) is None and word not in _SHARES and word not in ("some", "most", "many", "few", "half"):
        return None, i
    who = i
    i += 1
    if tokens.word(i) == "one":
        i += 1
    if tokens.word(i) == "of" and tokens.word(i + 1) in ("them", "which", "these", "whom"):
        i += 2
    while tokens.kind(i) == AUXILIARY or tokens.word(i) in ("in", "painted", "colored", "wearing", "being"):
        i += 1
    return who, i


def _attributes_at(tokens: Tokens, i: int) -> tuple[list[int], int]:
    """The run of attributes at i, none if a noun follows."""
    found: list[int] = []
    while i < len(tokens) and (
        _says_how(tokens, i) or (tokens.word(i) == "and" and found and _says_how(tokens, i + 1))
    ):
        if tokens.word(i) != "and":
            found.append(i)
        i += 1
    return (found, i) if tokens.kind(i) not in (NOUN, MODIFIER) else ([], i)


def _says_how(tokens: Tokens, i: int) -> bool:
    if i >= len(tokens):
        return False
    if is_attribute(tokens[i]) or tokens.word(i) in lexicon.TEXTURES or tokens.kind(i) == MODIFIER:
        return True
    ends = tokens.kind(i + 1) in (COMMA, JOINT, STOP)
    adjective = tokens[i].tag in ("JJ", "VBN") or tokens.word(i) in tokens.classes.adjectives
    return ends and adjective


def _shares_of_them(tokens: Tokens, mention: Mention) -> tuple[list[tuple[int, list[int]]], int]:
    """ "two of the balloons are silver, the other three are gold", "five cups, and two of them are red"."""
    some = tokens.word(mention.start - 2) in ("some", "most", "many", "few")
    if tokens.word(mention.start - 1) == "of" and (some or _value(tokens.word(mention.start - 2)) is not None):
        what, i = _attributes_at(tokens, _skip_be(tokens, mention.end))
        shares = [(mention.start - 2, what)] if what else []
        while shares and tokens.kind(i) in (COMMA, JOINT) and i < len(tokens):
            i += 1
        who, after = _share_name(tokens, i)
        more, stop = _attributes_at(tokens, after)
        if shares and who is not None and more:
            mention.count = Count()  # how many there are in all is not said
            return [*shares, (who, more)], stop
        value = _value(tokens.word(mention.start - 2))
        if mention.count.number is None and value is not None:
            mention.count = Count("exact", value, span_of(tokens, mention.start - 2, mention.start - 2))
        return [], i
    if (mention.count.number or 0) < 2:
        return [], 0
    for i in range(mention.end, min(mention.end + 14, len(tokens) - 2)):
        if (
            tokens.word(i) == "of"
            and tokens.word(i + 1) in ("them", "which", "these")
            and _value(tokens.word(i - 1)) is not None
        ):
            what, stop = _attributes_at(tokens, _share_name(tokens, i - 1)[1])
            return ([(i - 1, what)], stop) if what else ([], stop)
    return [], 0


def _skip_be(tokens: Tokens, i: int) -> int:
    while tokens.kind(i) == AUXILIARY:
        i += 1
    return i


def all_of_them(tokens: Tokens, mentions: Sequence[Mention]) -> None:
    """ "a dog and two cats, all white": said of each of the coordination before it."""
    for i in range(1, len(tokens)):
        if tokens.word(i) not in ("all", "both", "each") or tokens.kind(i - 1) not in (COMMA, PREPOSITION, AUXILIARY):
            continue
        j = i + 1
        while tokens.kind(j) == AUXILIARY or tokens.word(j) in ("of", "them", "in", "painted", "being"):
            j += 1
        what, _ = _attributes_at(tokens, j)
        what = [k for k in what if is_attribute(tokens[k]) or tokens.kind(k) != NOUN]  # not "on each side"
        for mention in run_before(tokens, mentions, i):
            mention.attributes += what


def run_before(tokens: Tokens, mentions: Sequence[Mention], i: int) -> list[Mention]:
    """The mentions before i, as far as "and" or a comma joins each to the next one."""
    before = [m for m in mentions if m.end <= i and not m.dropped and not m.absent]
    out: list[Mention] = []
    for mention in reversed(before):
        shared = bool(out) and mention.head == out[0].head  # "a large and a small suitcase"
        if out and not shared and not {"and", ","} & set(tokens.words(mention.end, out[0].start)):
            break
        out.insert(0, mention)
    return out
