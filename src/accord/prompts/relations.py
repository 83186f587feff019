"""How things lie to each other, what they do, and what is said of them by a verb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from accord.prompts import lexicon
from accord.prompts.clauses import Clauses
from accord.prompts.counts import run_before
from accord.prompts.parse import RelationName
from accord.prompts.things import Mention, is_attribute
from accord.prompts.tokens import (
    ADVERB,
    AUXILIARY,
    COMMA,
    DETERMINER,
    JOINT,
    MODIFIER,
    NEGATION,
    NOUN,
    PREPOSITION,
    PRONOUN,
    STOP,
    VERB,
    Tokens,
)

Found = tuple[Mention, RelationName, Mention, int]  # subject, name, object, index of the word


def find_relations(tokens: Tokens, mentions: Sequence[Mention], clauses: Clauses) -> list[Found]:
    """Relations between mentions that are things."""
    out: list[Found] = []
    for i, token in enumerate(tokens):
        if token.mask not in lexicon.STAND_INS or token.mask in ("", "not", "made"):
            continue
        name = cast(RelationName, token.mask)
        subjects, objects = _ends(tokens, clauses, i)
        joined = len(subjects) == 1 and tokens.word(subjects[0].start - 1) == "and"
        for subject in _alike(mentions, subjects, joined):
            for object_ in _alike(mentions, objects):
                if subject is not object_ and (subject, name, object_) not in [f[:3] for f in out]:
                    out.append((subject, name, object_, i))
    return out


def _alike(mentions: Sequence[Mention], found: Sequence[Mention], joined: bool = False) -> list[Mention]:
    """The things meant, with those whose noun is the same words ("a red and a blue key").

    Args:
        joined: whether "one" counts as that noun ("a blue bowl and a yellow one on a table").
    """
    out: list[Mention] = []
    for mention in found:
        thing = mention.thing()
        if thing is None or thing.absent or thing.ground:
            continue
        same = thing.source or thing
        out += [
            m
            for m in mentions
            if (m.head == thing.head or (joined and m.end == thing.start - 1 and (m.source or m) is same))
            and not m.dropped
            and m not in out
        ]
    return out


def _ends(tokens: Tokens, clauses: Clauses, i: int) -> tuple[list[Mention], list[Mention]]:
    """The subjects and the objects of the relation at i."""
    if tokens[i].pronoun_object:
        return _ends_of_side(tokens, clauses, i)
    target, pronoun = _target(tokens, clauses, i)
    if target is None and not pronoun:
        return [], []
    if target is not None and (target.absent or target.denied):
        return [], []
    subjects = _subjects(tokens, clauses, i, target, pronoun)
    subjects = [s for s in (_present(clauses, s) for s in subjects) if s is not None]
    if not subjects:
        return [], []
    if target is None:
        first = subjects[0].thing() or subjects[0]
        inverted = first.start > i
        meant = clauses.antecedent(pronoun, None if inverted else first)
        many = tokens.word(pronoun) == "them"
        objects = [] if meant is None else [*(clauses.coordinated_before(meant) if many else []), meant]
        if many and meant is None and not inverted:
            objects = _several_before(clauses, subjects[0], i)
        if many and meant is not None and not (tokens[meant.head].plural or len(objects) > 1):
            objects = _several_before(clauses, subjects[0] if not inverted else None, i) or objects
        return subjects, [o for o in objects if o not in subjects]
    objects = [target]
    other = clauses.starting_at(target.end + 1)
    if other is not None and tokens.kind(i - 1) == STOP and _behind_coordination(clauses, target.end) != target.end:
        objects.append(other)
    elif _distributes(tokens, clauses, i, target):
        objects += clauses.coordinated_after(target)
    return subjects, objects


def _several_before(clauses: Clauses, subject: Mention | None, i: int) -> list[Mention]:
    """What "them" stands for where nothing before it is a plural: the last two things named together."""
    tokens = clauses.tokens
    limit = subject.start if subject is not None else i
    before = [m for m in clauses.mentions if m.end <= limit and not m.dropped and not m.absent]
    for mention in reversed(before):
        if tokens[mention.head].plural:
            return [mention]
        joined = clauses.coordinated_before(mention)
        if joined:
            return [*joined, mention]
    return before[-2:]


def _present(clauses: Clauses, subject: Mention) -> Mention | None:
    """The subject, or for what is absent the thing that it is absent from."""
    seen = 0
    found: Mention | None = subject
    while found is not None and found.absent and seen < 5:
        kind, at = clauses.role(found)
        if kind == JOINT and (first := clauses.ending_at(at)) is not None and first.absent:
            kind, at = clauses.role(first)
        owner = clauses.said_of(at) if kind == PREPOSITION and clauses.tokens.kind(at - 1) == COMMA else None
        if owner is not None and owner is not found and not owner.absent:
            return owner  # "a dog wearing sunglasses, without a leash or a collar, on a skateboard"
        before = [m for m in clauses.mentions if m.end <= (found.start if found else 0) and not m.dropped]
        found = before[-1] if before else None
        seen += 1
    return found


def _target(tokens: Tokens, clauses: Clauses, i: int) -> tuple[Mention | None, int]:
    """The mention after a relation, or the index of the pronoun there."""
    j = i + 1
    while tokens.kind(j) == ADVERB:
        j += 1
    if tokens.kind(j) == PRONOUN and tokens.word(j) not in ("i", "you", "we"):
        return None, j
    found = clauses.starting_at(j)
    if found is None and tokens.word(j) in ("both", "all", "either", "each") and tokens.word(j + 1) == "of":
        return _target(tokens, clauses, j + 1)
    if found is None:
        ahead = clauses.next_after(j)
        if ahead is not None and all(
            tokens.kind(k) in (DETERMINER, MODIFIER, ADVERB, "number") for k in range(j, ahead.start)
        ):
            found = ahead
    if found is not None and tokens.word(found.head) in ("one", "ones") and found.source is None:
        return None, 0
    return found, 0


def _subjects(tokens: Tokens, clauses: Clauses, i: int, target: Mention | None, pronoun: int) -> list[Mention]:
    after = target.end if target is not None else pronoun + 1
    inverted = _inverted(tokens, clauses, i, after)
    if inverted:
        return inverted
    if tokens.word(i - 1) in ("both", "all", "each") and tokens.kind(i - 2) == COMMA:
        before = [m for m in clauses.mentions if m.end < i and not m.dropped and not m.absent]
        return before[-2:] if tokens.word(i - 1) == "both" else run_before(tokens, clauses.mentions, i - 1)
    subject = clauses.said_of(i)
    if subject is None or (pronoun and subject.absent):
        return []
    if tokens.word(subject.head) in lexicon.TEXT_NOUNS and subject.dropped and subject.instead is None:
        if tokens.kind(i - 1) == VERB:
            return []  # "text written above the door"
        kind, at = clauses.role(subject)
        owner = clauses.subject(at) if kind == VERB else clauses.said_of(at) if kind == PREPOSITION else None
        return [owner] if owner is not None else []
    if subject.thing() is None and not subject.ground:
        near = clauses.ending_at(clauses.back(i - 1) + 1)
        if near is not None and near is not subject and near.thing() is not None:
            return [near]  # "light comes from a lamp on the table"
        return [m for m in [_nearest_thing(clauses, subject.start)] if m is not None]
    joined = clauses.coordinated_before(subject)
    if joined and not subject.modifiers:  # "mother and daughter digging next to"
        return [*joined, subject]
    verb = tokens.kind(clauses.back(i - 1)) in (VERB, AUXILIARY)
    if verb and clauses.ending_at(clauses.back(i - 1) + 1) is None and _agrees(tokens, clauses, i):
        return [*clauses.coordinated_before(subject), subject]
    return [subject]


def _agrees(tokens: Tokens, clauses: Clauses, i: int) -> bool:
    """Whether the verb before i is no singular one."""
    j = clauses.back(i - 1)
    while tokens.kind(j) in (VERB, AUXILIARY, ADVERB):
        if tokens.word(j) in ("is", "was", "has", "'s") or tokens[j].tag in ("VBZ", "NNS"):
            return False
        if tokens[j].tag in ("VBG", "VBN") and tokens.kind(j - 1) != AUXILIARY:
            return False
        j -= 1
    return True


def _nearest_thing(clauses: Clauses, i: int) -> Mention | None:
    before = [m for m in clauses.mentions if m.end <= i and m.thing() is not None and not m.absent]
    return before[-1] if before else None


def _inverted(tokens: Tokens, clauses: Clauses, i: int, after: int) -> list[Mention]:
    """The subjects behind the object: "Behind the house stands a tree", "above the trees three peaks rise"."""
    before = tokens.kind(i - 1)
    if (before == ADVERB and tokens.kind(i - 2) == STOP) or (before == JOINT and tokens.kind(i - 2) == COMMA):
        before = STOP
    if before not in (STOP, JOINT, COMMA):
        return []
    j = _behind_coordination(clauses, clauses.skip_phrases(after, relations=True))
    comma = tokens.kind(j) == COMMA
    if comma:
        j += 1
    verb = single = False
    if tokens.word(j) in ("one", "you", "we") and tokens.word(j + 1) in ("can", "could", "may", "see", "sees"):
        j, verb = j + 1, True  # "behind the railing, one can see two ships"
    while tokens.kind(j) in (AUXILIARY, VERB, ADVERB) and j < len(tokens):
        verb = verb or tokens.kind(j) in (AUXILIARY, VERB)
        single = single or tokens.word(j) == "is" or (tokens[j].tag == "VBZ" and tokens.word(j) != "are")
        j += 1
    first = clauses.starting_at(j)
    if first is None or (not verb and comma and before != STOP):
        return []
    return [first, *(clauses.coordinated_after(first) if verb and not single else [])]


def _behind_coordination(clauses: Clauses, j: int) -> int:
    """The index behind "and the ladder" at j if a verb follows: "next to the barrow and the ladder lies a hose"."""
    other = clauses.starting_at(j + 1) if clauses.tokens.word(j) == "and" else None
    after = clauses.skip_phrases(other.end, relations=True) if other is not None else j
    return after if clauses.tokens.kind(after) in (VERB, AUXILIARY) else j


def _distributes(tokens: Tokens, clauses: Clauses, i: int, target: Mention) -> bool:
    """Whether a relation holds for all of a coordination: after a verb, and where articles agree."""
    more = clauses.coordinated_after(target)
    if not more or not all(tokens.words(m.start - 1, m.start) == ["and"] for m in more):
        return False
    j = clauses.back(i - 1)
    verb = tokens.kind(j) in (VERB, AUXILIARY) and clauses.ending_at(j + 1) is None
    if tokens.word(i + 1) == "both":
        return True
    definite = [any(tokens.word(k) in ("the", "his", "her", "its") for k in m.modifiers) for m in (target, *more)]
    return verb and (all(definite) or not any(definite)) and tokens.kind(more[-1].end) == STOP and len(more) == 1


def _ends_of_side(tokens: Tokens, clauses: Clauses, i: int) -> tuple[list[Mention], list[Mention]]:
    """ "with a cat on its left", "to its right is a lamp"."""
    inverted = _inverted(tokens, clauses, i, i + 1)
    if inverted:
        meant = clauses.antecedent(i, None)
        return inverted, [meant] if meant is not None and meant not in inverted else []
    subject = clauses.said_of(i)
    meant = clauses.antecedent(i, subject) if subject is not None else None
    if subject is None or meant is None:
        return [], []
    verb = tokens.kind(clauses.back(i - 1)) == VERB and _agrees(tokens, clauses, i)
    joined = [m for m in clauses.coordinated_before(subject) if m is not meant] if verb else []
    return [*joined, subject], [meant]  # "a fork and a knife lie on its right"


def _apposition(tokens: Tokens, i: int, j: int) -> bool:
    """Whether the attribute at i stands behind a comma and before no noun: "a cat, far too large for the house"."""
    return tokens.kind(j) == NOUN and tokens.kind(j + 1) == COMMA and tokens.kind(i + 1) != NOUN


def _begins(tokens: Tokens, i: int) -> bool:
    """Whether nothing but a participle stands before i in its sentence."""
    while tokens.kind(i - 1) in (VERB, ADVERB):
        i -= 1
    return tokens.kind(i - 1) == STOP


def _without_verb(tokens: Tokens, i: int) -> bool:
    """Whether the attribute at i ends a clause: "her nails black and", "the cello black"."""
    return tokens.kind(i - 1) == NOUN and tokens.kind(i + 1) in (JOINT, COMMA, STOP)


# --- verbs ------------------------------------------------------------------------------------------------------------
def find_actions(tokens: Tokens, clauses: Clauses) -> list[tuple[Mention, int, Mention | None]]:
    """(subject, index of the verb, object) of each verb with a subject that is a thing."""
    out: list[tuple[Mention, int, Mention | None]] = []
    for i, token in enumerate(tokens):
        if token.kind != VERB or token.mask:
            continue
        found = clauses.subject(i)
        subject = found.thing() if found is not None else None
        if subject is None or subject.absent:
            continue
        following = clauses.starting_at(i + 1)
        object_ = following.thing() if following is not None else None
        if following is not None and following.absent:
            continue
        out.append((subject, i, object_))
    return out


def find_predicates(tokens: Tokens, mentions: Sequence[Mention], clauses: Clauses, used: set[int]) -> None:
    """Attributes said by a verb: "her coat is purple", "a house painted red", "a bowl made of wood".

    `used` are the words that were said of a share already.
    """
    covered = {i for m in mentions for i in (*m.modifiers, *m.nouns)} | used
    for i, token in enumerate(tokens):
        if i in covered or token.kind != MODIFIER or not is_attribute(token):
            continue
        j = i - 1
        while j >= 0 and tokens.kind(j) in (ADVERB, JOINT, COMMA, MODIFIER) and j not in covered:
            j -= 1
        if tokens.kind(j) == NEGATION:
            continue
        owner = clauses.subject(j) if tokens.kind(j) in (AUXILIARY, VERB) else None
        if owner is None and tokens.kind(j) == PREPOSITION and tokens.word(j) == "in":
            owner = clauses.said_of(j)
            if owner is None and tokens.kind(i + 1) == COMMA and _begins(tokens, j):
                owner = clauses.next_after(i + 1)  # "painted in black, the van"
        elif owner is None and _apposition(tokens, i, j):
            owner = clauses.of_clause_before(j + 1)
        elif owner is None and j == i - 1 and _without_verb(tokens, i):
            owner = clauses.ending_at(i)  # "the violins brown and the cello black"
        thing = owner.thing() if owner is not None else None
        if thing is not None:
            thing.attributes.append(i)
    for mention in mentions:
        made = mention.start > 0 and tokens[mention.start - 1].mask == "made"
        owner = clauses.said_of(mention.start - 1) if made else None
        material = [i for i in (*mention.modifiers, *mention.nouns) if is_attribute(tokens[i])]
        if made and owner is None and tokens.word(mention.start - 2) in ("all", "both", "each"):
            owner, *others = reversed(run_before(tokens, mentions, mention.start - 2))
            for other in others:
                other.attributes += material
        if owner is not None and material:
            (owner.thing() or owner).attributes += material
            mention.drop(owner)
