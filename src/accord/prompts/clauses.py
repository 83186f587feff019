"""Who is meant: what a verb or a preposition is said of, and what a pronoun stands for.

The order of the words decides, and spaCy's tree where the order leaves it open.
"""

from __future__ import annotations

from collections.abc import Sequence

from accord.prompts import lexicon, nouns
from accord.prompts.things import Mention
from accord.prompts.tokens import (
    ADVERB,
    AUXILIARY,
    COMMA,
    JOINT,
    MODIFIER,
    NEGATION,
    PREPOSITION,
    PRONOUN,
    STOP,
    VERB,
    WHICH,
    Tokens,
)


class Clauses:
    """The mentions of a prompt in their clauses."""

    def __init__(self, tokens: Tokens, mentions: Sequence[Mention]) -> None:
        self.tokens = tokens
        self.mentions = list(mentions)
        self._ending = {m.end: m for m in self.mentions}
        self._topics: dict[int, Mention] = {}  # sentence -> what its pronoun stood for
        self._starting = {m.start: m for m in reversed(self.mentions)}

    # --- where mentions are ---
    def ending_at(self, i: int) -> Mention | None:
        """The mention whose last word is before i."""
        return self._ending.get(i)

    def starting_at(self, i: int) -> Mention | None:
        return self._starting.get(i)

    def next_after(self, i: int) -> Mention | None:
        return next((m for m in self.mentions if m.start >= i), None)

    def role(self, mention: Mention) -> tuple[str, int]:
        """What stands before a mention, and where: (kind, index); `STOP` before the first word."""
        i = mention.start - 1
        while i >= 0 and self.tokens.kind(i) in (ADVERB, NEGATION, MODIFIER) and self.ending_at(i + 1) is None:
            i -= 1
        return self.tokens.kind(i), i

    # --- what is said of whom ---
    def said_of(self, i: int) -> Mention | None:
        """What a preposition at i is said of; None if nothing before it is meant."""
        j = self.back(i - 1)
        near = self.ending_at(j + 1)
        if near is not None:
            return self._owner_of_preposition(near)
        kind = self.tokens.kind(j)
        if kind in (VERB, AUXILIARY):
            return self.subject(j)
        if kind in (JOINT, COMMA):
            return self.of_clause_before(j)
        if kind == WHICH:
            return self._before_which(j)
        if kind == PRONOUN:
            return self.said_of(j - 1) if self.tokens.mask(j - 1) else self.antecedent(j, None)
        if kind in (PREPOSITION, MODIFIER):  # "out on the lake", "a house tall above the trees"
            return self.said_of(j) if j > 0 else None
        return None

    def back(self, j: int) -> int:
        while j >= 0 and (
            (self.tokens.kind(j) in (ADVERB, NEGATION) and self.ending_at(j + 1) is None) or self.tokens[j].quoted
        ):
            j -= 1
        return j

    def _owner_of_preposition(self, near: Mention) -> Mention | None:
        """The noun before a preposition, or the one that its phrase belongs to."""
        kind, at = self.role(near)
        if kind == PREPOSITION:
            word, mask = self.tokens.word(at), self.tokens[at].mask
            owner = self.said_of(at)
            if owner is None:
                return near
            if mask == "not" or near.absent:
                return owner
            if mask:
                return near
            if word == "for" or (word == "at" and self.tokens.lemma(at - 1) in lexicon.POINTING):
                return near  # "reaches for a book on", "looks at a cat on"
            if word == "with":
                worn = self.tokens.word(near.head) in lexicon.WORN and owner.thing() is not None
                return owner if worn else near
            return owner
        if kind == VERB and at >= 0:
            placed = self.tokens[at].lemma in lexicon.PLACING or self.tokens[at].word in lexicon.PLACING
            return near if placed else self.subject(at) or near
        return near

    def subject(self, verb: int) -> Mention | None:
        """The subject of a verb."""
        j = self.back(verb - 1)
        while self.tokens.kind(j) in (AUXILIARY, VERB) and self.ending_at(j + 1) is None and j >= 0:
            j = self.back(j - 1)
        near = self.ending_at(j + 1)
        if near is not None:
            return self._climb(near, verb)
        kind = self.tokens.kind(j)
        if kind == WHICH:
            return self._before_which(j)
        if kind == PRONOUN:
            return self.antecedent(j, None)
        if kind in (JOINT, COMMA):
            return self._who_is_listed(self.of_clause_before(j), j, verb)
        onto_it = kind == PREPOSITION and j + 2 < len(self.tokens) and self.tokens.kind(verb + 2) == PRONOUN
        if onto_it and self.tokens[j + 1].quoted:
            return self.said_of(j)  # "a sign with 'open' written on it"
        return None

    def _who_is_listed(self, found: Mention | None, at: int, verb: int) -> Mention | None:
        """Who does something in a list of tags: "a queen, necklace, sitting on a throne"."""
        listed = found is not None and not self._alive(found) and self.role(found)[0] == COMMA
        if not listed or self.tokens.kind(at) != COMMA or self.tokens[verb].tag != "VBG":
            return found
        here = self._sentence(at)
        before = (m for m in self.mentions if m.end <= at and self._sentence(m.start) == here)
        return next((m for m in before if m.thing() is m and not m.absent and self._alive(m)), found)

    def _climb(self, near: Mention, verb: int) -> Mention:
        """The noun that a phrase ending before a verb belongs to: "a man in a coat | sits"."""
        for _ in range(8):
            kind, at = self.role(near)
            if kind == PREPOSITION and self._belongs(near, at, verb):
                return near
            if kind == PREPOSITION:
                owner = self.said_of(at) if self.tokens[at].mask != "made" else self._ahead(at)
            elif kind == VERB and self._finite(verb):
                owner = self.subject(at)
            elif kind == JOINT and self._goes_on_under(at, verb):
                owner = self.ending_at(at)
            else:
                return near
            if owner is None or owner is near or owner.start > near.start:
                return near
            if self.tokens.word(at) == "of" and owner.dropped:
                return near
            near = owner
        return near

    def _finite(self, verb: int) -> bool:
        """Whether a verb is no participle, or has its auxiliary right before it: "wearing a hat is hauling"."""
        helped = self.tokens.kind(self.back(verb - 1)) == AUXILIARY
        return helped or self.tokens[verb].tag not in ("VBG", "VBN")

    def _goes_on_under(self, joint: int, verb: int) -> bool:
        """Whether "and" joins what somebody wears or has, so that a finite verb is said of neither."""
        first = self.ending_at(joint)
        helper = self.tokens.word(self.back(verb - 1))
        single = self.tokens[verb].tag == "VBZ" or self.tokens.word(verb) == "was" or helper in ("is", "was", "has")
        if first is None or not single:
            return False
        kind, at = self.role(first)
        if kind == PREPOSITION:
            return not self.tokens[at].mask and self.tokens.word(at) in ("with", "in")
        return kind == VERB and self.tokens[at].tag in ("VBG", "VBN") and self.tokens.kind(at - 1) != AUXILIARY

    def _belongs(self, near: Mention, at: int, verb: int) -> bool:
        """Whether a participle is said of a noun after "with" itself: "a table with a cat sleeping on it"."""
        if self.tokens.word(at) != "with" or self.tokens[verb].tag not in ("VBG", "VBN"):
            return False
        if self.tokens.word(near.head) in lexicon.TEXT_NOUNS:
            return True
        owner = self.said_of(at)
        if owner is not None and self._alive(owner) and not self._alive(near):
            return False  # "divers with lamps swimming above"
        owned = owner is not None and self.tokens[verb].head == owner.head
        return not owned and self.tokens.word(near.head) not in lexicon.WORN

    def _alive(self, mention: Mention) -> bool:
        return nouns.is_alive(self.tokens.word((mention.thing() or mention).head))

    def _ahead(self, at: int) -> Mention | None:
        return self.ending_at(self.back(at - 1) + 1)

    def _before_which(self, j: int) -> Mention | None:
        i = j - 1
        while self.tokens.kind(i) in (COMMA, PREPOSITION) and i >= 0:
            i -= 1
        return self.ending_at(i + 1)

    def of_clause_before(self, j: int) -> Mention | None:
        """The subject of what comes before "and" or a comma at j."""
        i = j - 1
        while i >= 0 and (self.tokens.kind(i) in (COMMA, JOINT) or self.tokens[i].quoted):
            i -= 1
        near = self.ending_at(i + 1)
        if near is None and self.tokens.kind(i) == PRONOUN and self.tokens.mask(i - 1):
            return self.said_of(i - 1)  # "with words written on it, floating above"
        if near is None:
            return self.subject(i + 1) if i >= 0 and self.tokens.kind(i) in (VERB, ADVERB) else None
        for _ in range(8):
            kind, at = self.role(near)
            if kind == VERB:
                owner = self.subject(at)
            elif kind == PREPOSITION:
                owner = self.said_of(at)
            elif kind == JOINT and self._has_owner(at):
                owner = self.ending_at(at)
            else:
                return near
            if owner is None or owner is near:
                return near
            near = owner
        return near

    def _has_owner(self, joint: int) -> bool:
        """Whether what is before "and" belongs to a noun: "with short hair and blue eyes"."""
        first = self.ending_at(joint)
        if first is None:
            return False
        kind, at = self.role(first)
        return kind == PREPOSITION and not self.tokens[at].mask

    # --- coordinations ---
    def coordinated_before(self, mention: Mention) -> list[Mention]:
        """The mentions joined with it before it, nearest last: "a robin and a tortoise"."""
        out: list[Mention] = []
        here = mention
        while True:
            kind, at = self.role(here)
            other = self.ending_at(at) if kind in (JOINT, COMMA) and self.tokens.word(at) != "but" else None
            if other is None and kind == JOINT and self.tokens.kind(at - 1) == COMMA:
                other = self.ending_at(at - 1)
            if other is None or (kind == COMMA and not out):
                return out
            kind, before = self.role(other)
            if kind == PREPOSITION and not self.tokens[before].mask and self.tokens.word(before) in ("in", "with"):
                other = self._climb(other, before)  # "a pilot in a uniform and two attendants"
                kind, _ = self.role(other)
            if kind not in (JOINT, COMMA, STOP):
                return out if self.role(here)[0] == COMMA else []  # a clause of its own behind the comma
            out.insert(0, other)
            if kind == STOP:
                return out
            here = other

    def coordinated_after(self, mention: Mention) -> list[Mention]:
        """The mentions of the list that goes on after it, their own "of" and "with" phrases skipped."""
        out: list[Mention] = []
        i = mention.end
        while True:
            i = self.skip_phrases(i)
            j = i
            while self.tokens.kind(j) in (COMMA, JOINT) and j < len(self.tokens):
                j += 1
            other = self.starting_at(j) if j > i else None
            if other is None:
                return out if not out or self._joined(mention, out[-1]) else []
            after = self.skip_phrases(other.end)
            if self.tokens.kind(after) in (VERB, AUXILIARY) and self.tokens[after].tag not in ("VBG", "VBN"):
                return out
            if self.tokens.kind(after) == PREPOSITION and self.tokens[after].mask:
                return out
            out.append(other)
            i = other.end

    def _joined(self, first: Mention, last: Mention) -> bool:
        return "and" in self.tokens.words(first.end, last.start)

    def skip_phrases(self, i: int, relations: bool = False) -> int:
        """The index behind the "of" and "with" phrases at i, and those of relations if asked."""
        while i < len(self.tokens) and (
            self.tokens.word(i) in ("of", "with", "in", "for")
            or (relations and self.tokens[i].mask in lexicon.STAND_INS)
        ):
            inner = self.starting_at(i + 2 if self.tokens.mask(i + 1) == "not" else i + 1)
            if inner is None and self.tokens.kind(i + 1) != PRONOUN:
                return i
            i = inner.end if inner is not None else i + 2
        return i

    # --- pronouns ---
    def antecedent(self, i: int, subject: Mention | None) -> Mention | None:
        """What "it" at i stands for, when something is said of `subject`."""
        found = self._antecedent(i, subject)
        thing = found.thing() if found is not None else None
        if thing is not None:
            self._topics[self._sentence(i)] = thing
        return thing

    def _antecedent(self, i: int, subject: Mention | None) -> Mention | None:
        before = [m for m in self.mentions if m.end <= i and m.thing() and not m.absent and self._could_be(m, i)]
        if subject is not None and subject.start < i:
            root = self._root(subject)
            if root is not subject and not root.dropped and self._could_be(root, i):
                return root
            joined = self.coordinated_before(subject)
            before = [m for m in before if m.start < subject.start and m not in joined]
        earlier = [m for m in before if self._sentence(m.start) == self._sentence(i)]
        here = self._topics.get(self._sentence(i))
        if here is not None and here is not subject and here in before:
            return here
        if earlier and subject is not None and subject.start < i and self._runs_on(subject, i):
            return earlier[-1]  # "a cactus left of a bookcase and a globe right of it"
        related = [m for m in earlier if self._is_object(m)]
        if earlier:
            return related[-1] if related else earlier[0]
        if not before:
            return None
        last = self._sentence(before[-1].start)
        if last in self._topics and self._could_be(self._topics[last], i):
            return self._topics[last]
        starts = [m for m in before if self._sentence(m.start) == last]
        return next((m for m in starts if self._starts_clause(m)), starts[0])

    def _is_object(self, mention: Mention) -> bool:
        """Whether it is what something else is beside, behind, above ..., not what it is only on."""
        kind, at = self.role(mention)
        return kind == PREPOSITION and self.tokens[at].mask not in ("", "not", "made", "on", "inside")

    def _runs_on(self, subject: Mention, i: int) -> bool:
        """Whether the subject is joined without a verb of its own: "and a globe", ", with a dog"."""
        kind, at = self.role(subject)
        said = i - 1 if self.tokens.kind(i - 1) == PREPOSITION else i
        if self.tokens.kind(self.back(said - 1)) in (VERB, AUXILIARY):
            return False
        return kind == JOINT or (kind == PREPOSITION and not self.tokens[at].mask)

    def _could_be(self, mention: Mention, i: int) -> bool:
        """Whether a pronoun fits: "it" is no person, and "him" is one if anybody is there."""
        word = self.tokens[i].pronoun
        head = self.tokens.word((mention.thing() or mention).head)
        if word in ("it", "its"):
            return not nouns.is_person(head) and not self.tokens[mention.head].plural
        if word in ("him", "her", "his"):
            people = any(nouns.is_person(self.tokens.word(m.head)) for m in self.mentions if m.end <= i)
            return not people or nouns.is_person(head)
        if word in ("them", "they", "their"):
            if head in lexicon.WORN or self.tokens.lemma(mention.start - 1) == "wear":
                return False
            alive = word != "them" and any(self._alive(m) and self.tokens[m.head].plural for m in self.mentions[:-1])
            if alive and not self._alive(mention):
                return False
            many = any(self.tokens[m.head].plural for m in self.mentions if m.end <= i and not m.dropped)
            return not many or self.tokens[mention.head].plural
        return True

    def _starts_clause(self, mention: Mention) -> bool:
        kind, at = self.role(mention)
        medium = kind == PREPOSITION and (owner := self.ending_at(at)) is not None and owner.dropped
        return kind in (STOP, COMMA, JOINT, AUXILIARY) or medium

    def _sentence(self, i: int) -> int:
        return sum(1 for k in range(min(i, len(self.tokens))) if self.tokens.kind(k) == STOP)

    def _root(self, mention: Mention) -> Mention:
        """The mention that its phrase hangs on: the desk of "a desk with a laptop and a lamp"."""
        here = mention
        for _ in range(8):
            kind, at = self.role(here)
            if kind == PREPOSITION and not self.tokens[at].mask and self.tokens.kind(at - 1) != COMMA:
                owner = self.said_of(at)
            elif kind == VERB:
                owner = self.subject(at)
            elif kind == JOINT and self.coordinate_of_with(here) is not None:
                owner = self.coordinate_of_with(here)
            else:
                return here
            if owner is None or owner is here or owner.start > here.start:
                return here
            here = owner
        return here

    def coordinate_of_with(self, mention: Mention) -> Mention | None:
        """The mention under "with" that this one is joined to: "with a laptop on it and a wastebasket"."""
        _, at = self.role(mention)
        here = self._sentence(at)
        for other in reversed([m for m in self.mentions if m.end <= at and self._sentence(m.start) == here]):
            kind, before = self.role(other)
            if self.tokens.kind(other.start - 1) == STOP:
                return None
            if kind == PREPOSITION and self.tokens.word(before) == "with":
                return other
        return None
