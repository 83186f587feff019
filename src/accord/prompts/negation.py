"""What is not to be seen, and how far a "no" reaches."""

from __future__ import annotations

from collections.abc import Sequence

from accord.prompts.things import Mention
from accord.prompts.tokens import AUXILIARY, COMMA, DETERMINER, NUMBER, STOP, VERB, Tokens

_NO = frozenset("no zero neither".split())
_LINKS = frozenset("or nor and , any a an".split())


def find_absences(tokens: Tokens, mentions: Sequence[Mention]) -> None:
    """Mark the mentions that are absent, and those that a denied verb only has a place in."""
    for k, mention in enumerate(mentions):
        if _denied_itself(tokens, mention):
            mention.absent = True
        elif _under_denied_verb(tokens, mention):
            mention.denied = True
            mention.absent = not _is_place_of_denial(tokens, mention)
        elif k and mentions[k - 1].absent and _reached(tokens, mentions[k - 1], mention):
            mention.absent = True
            mention.denied = mentions[k - 1].denied


def _denied_itself(tokens: Tokens, mention: Mention) -> bool:
    own = {tokens.word(i) for i in mention.modifiers}
    first = mention.start
    before = tokens.word(first - 1)
    if own & _NO or before in ("no", "neither", "nor", "not", "never", "zero"):
        return True
    for at in (first - 1, first - 2):
        masked = 0 <= at < len(tokens) and tokens[at].mask == "not"
        if masked and (at == first - 1 or tokens.word(first - 1) in ("any", "a", "with", "of")):
            return True
    return _behind_nor(tokens, first - 1)


def _behind_nor(tokens: Tokens, i: int) -> bool:
    """Whether "nor" begins the clause that has only an auxiliary before i: "nor is there any grass"."""
    while i >= 0 and tokens.kind(i) in (AUXILIARY, "adverb"):
        i -= 1
    return tokens.word(i) == "nor"


def _under_denied_verb(tokens: Tokens, mention: Mention) -> bool:
    """Whether it is the object of a verb with "not": "isn't riding a horse"."""
    i = mention.start - 1
    while i >= 0 and tokens.kind(i) in ("adverb", "preposition", VERB):
        i -= 1
    return tokens.kind(i) == "negation"


def _is_place_of_denial(tokens: Tokens, mention: Mention) -> bool:
    """ "A cat is not on the table": the table is there, the cat is not on it."""
    i = mention.start - 1
    verb = False
    while i >= 0 and tokens.kind(i) != "negation":
        verb = verb or tokens.kind(i) == VERB
        i -= 1
    if any(tokens.word(k) in ("its", "his", "her", "their") for k in mention.modifiers):
        return True
    definite = any(tokens.word(k) in ("the", "its", "his", "her") for k in mention.modifiers)
    return tokens.kind(mention.start - 1) == "preposition" and (definite or not verb)


def _reached(tokens: Tokens, absent: Mention, mention: Mention) -> bool:
    """Whether the denial before it goes on to this mention: "without cars or people", "no fish, plants or pebbles"."""
    between = tokens.words(absent.end, mention.start)
    if not between or not set(between) <= _LINKS:
        return False
    if {"or", "nor"} & set(between):
        return True
    if {"and", ","} <= set(between) and tokens.kind(mention.end) in (VERB, AUXILIARY):
        return False  # "there are no visitors, and mist hangs over the hills"
    if any(tokens.word(i) == "both" for i in absent.modifiers):
        return True
    if any(tokens.kind(i) in (DETERMINER, NUMBER) and tokens.word(i) != "any" for i in mention.modifiers):
        return False
    if "and" in between:
        return True
    return _list_goes_on(tokens, mention.end)


def _list_goes_on(tokens: Tokens, i: int) -> bool:
    """Whether a list with commas ends with "or", "nor" or "and" soon after i."""
    for j in range(i, min(i + 8, len(tokens))):
        if tokens.kind(j) == STOP:
            return False
        if tokens.word(j) in ("or", "nor"):
            return True
        if tokens.word(j) == "and":
            return tokens.kind(j - 1) != COMMA and tokens.kind(j + 1) not in (DETERMINER, NUMBER)
    return False
