"""Where things are in the picture ("on the left", "in the background") and in which setting ("in a kitchen")."""

from __future__ import annotations

from collections.abc import Sequence

from accord.prompts import lexicon
from accord.prompts.clauses import Clauses
from accord.prompts.things import Mention
from accord.prompts.tokens import COMMA, JOINT, PREPOSITION, STOP, Tokens

Found = tuple[Mention | None, str, Mention | None, int, int]  # what, name, setting, first and last word


def find_places(tokens: Tokens, mentions: Sequence[Mention], clauses: Clauses) -> list[Found]:
    """Each phrase that says a place, with what is there; None for the whole picture."""
    out: list[Found] = []
    for mention in mentions:
        kind, at = clauses.role(mention)
        if kind != PREPOSITION or mention.absent or mention.ground:
            continue
        word, mask = tokens.word(at), tokens[at].mask
        owner = _owner(tokens, clauses, at)
        position = _position(tokens, mention)
        if position and word in ("in", "on", "at", "to") and (mention.thing() is None):
            out.append((owner, position, None, at, mention.head))
        elif word in lexicon.SETTINGS and not mask and mention.thing() is mention:
            out.append((owner, word, mention, at, at))
    return out


def _owner(tokens: Tokens, clauses: Clauses, at: int) -> Mention | None:
    found = clauses.said_of(at)
    if found is None and tokens.kind(at - 1) in (STOP, COMMA, JOINT):  # "on the left, a cat"
        found = clauses.next_after(at + 2)
    thing = found.thing() if found is not None else None
    return None if thing is None or thing.absent else thing


def _position(tokens: Tokens, mention: Mention) -> str:
    """The name of a place in the picture that a mention says, empty if it says none."""
    words = [tokens.word(i) for i in (*mention.nouns, *mention.modifiers)]
    return next((lexicon.POSITIONS[w] for w in words if w in lexicon.POSITIONS), "")
