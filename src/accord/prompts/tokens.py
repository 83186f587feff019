"""Words of a prompt with their part of speech: spaCy's tags, mended where they go wrong on the fragments people type.

Before spaCy reads it, each phrase that says a relation ("to the left of") is one preposition that spaCy knows well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from accord.prompts import classes as classes_of_words
from accord.prompts import lexicon
from accord.prompts.model import Classes
from accord.prompts.programs import AND, TEXT

NOUN, MODIFIER, VERB, AUXILIARY, DETERMINER, NUMBER = "noun", "modifier", "verb", "auxiliary", "determiner", "number"
PREPOSITION, JOINT, COMMA, STOP, ADVERB, PRONOUN = "preposition", "joint", "comma", "stop", "adverb", "pronoun"
POSSESSIVE, WHICH, NEGATION, OTHER = "possessive", "which", "negation", "other"

_MASKS = (
    ("not", lexicon.NOT),
    ("made", lexicon.MADE),
    ("side", lexicon.SIDES),
    *lexicon.RELATIONS,
)
_MASK = re.compile(
    "|".join(
        rf"(?P<m{i}>(?<![\w-])(?:{re.sub(r' (?!])', ' +', p)})(?![\w-])(?! +which\b))"  # any blanks between words
        for i, (_, p) in enumerate(_MASKS)
    ),
    re.IGNORECASE,
)
_WORD = re.compile(
    rf"{TEXT}|{AND}|\d+(?=(?:girl|boy|other|cat|dog|man|woman|men|women)s?\b)|\d+(?:[.:/,x]\d+)+|close up\b|"
    r"\w+(?:['-]+\w+)*|[^\w\s]",
    re.IGNORECASE,
)
_DETERMINERS = frozenset(
    "a an the this these those some any no every each another both all his its their my your our few several many "
    "neither either half such more most enough whose".split()
)
_PRONOUNS = frozenset("it him them me us he she they we i you himself herself itself themselves".split())
_BREAKS = {COMMA: (",", ":", "-"), STOP: (".", ";", "!", "?")}
_ACRONYM = 4  # letters of the longest word that is written in capitals without being shouted
_NEGATIONS = frozenset("not n't never".split())


@dataclass
class Token:
    """A word and what is known of it.

    Attributes:
        text, start, end: as written, and its characters in the prompt.
        word: as spaCy reads it, in small letters.
        quoted: whether it stands for text in quotation marks.
        mask: the name of the relation (or "not", "made") that the word stands for.
        kind: mended part of speech, one of the constants above.
        tag, dep, head, lemma: spaCy's.
        plural: whether a noun is one.
    """

    text: str
    start: int
    end: int
    word: str
    mask: str = ""
    pronoun_object: bool = False
    quoted: bool = False
    kind: str = OTHER
    tag: str = ""
    dep: str = ""
    head: int = 0
    lemma: str = ""
    plural: bool = False

    @property
    def capital(self) -> bool:
        """Whether it begins with a capital, as names do; a word that is shouted does not count ("AIRPLANES")."""
        return self.text[:1].isupper() and not (self.text.isupper() and len(self.text) > _ACRONYM)

    @property
    def pronoun(self) -> str:
        """The pronoun that it is or holds ("on its left")."""
        held = re.search(r"\b(?:its|his|her|their)\b", self.text.lower()) if self.pronoun_object else None
        return held[0] if held else self.word

    @property
    def proper(self) -> bool:
        """Whether it is written as a name."""
        return self.capital and self.tag.startswith("NNP")


@dataclass
class Tokens:
    """The words of a prompt."""

    prompt: str
    items: list[Token] = field(default_factory=list)
    classes: Classes = field(default_factory=Classes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Token:
        return self.items[index]

    def __iter__(self) -> Iterator[Token]:
        return iter(self.items)

    def kind(self, index: int) -> str:
        """The kind at an index, `STOP` beyond the ends."""
        return self.items[index].kind if 0 <= index < len(self.items) else STOP

    def word(self, index: int) -> str:
        """The word at an index, empty beyond the ends."""
        return self.items[index].word if 0 <= index < len(self.items) else ""

    def mask(self, index: int) -> str:
        """The relation that the word at an index stands for, empty if it stands for none."""
        return self.items[index].mask if 0 <= index < len(self.items) else ""

    def lemma(self, index: int) -> str:
        """The lemma of the word at an index, empty beyond the ends."""
        return self.items[index].lemma if 0 <= index < len(self.items) else ""

    def words(self, start: int, end: int) -> list[str]:
        return [t.word for t in self.items[max(0, start) : end]]


def split(prompt: str, text: str) -> Tokens:
    """The words of a normalised text, relation phrases as one each."""
    tokens: list[Token] = []
    at = 0
    for mask in _MASK.finditer(text):
        if mask.start() < at:
            continue
        tokens += _words(prompt, text, at, mask.start())
        name = _MASKS[int(str(mask.lastgroup)[1:])][0] if str(mask.lastgroup)[0] == "m" else "side"
        tokens.append(_masked(prompt, mask, name))
        at = mask.end()
    tokens += _words(prompt, text, at, len(text))
    return Tokens(prompt, tokens)


def _masked(prompt: str, found: re.Match[str], name: str) -> Token:
    start, end = found.span()
    pronoun = name == "side"
    if pronoun:
        name = found["side"].lower()
    return Token(prompt[start:end], start, end, lexicon.STAND_INS[name], name, pronoun)


def _words(prompt: str, text: str, start: int, end: int) -> list[Token]:
    out: list[Token] = []
    for found in _WORD.finditer(text, start, end):
        for a, b in _pieces(found[0]):
            a, b = a + found.start(), b + found.start()
            low = text[a:b].lower()
            word = {TEXT: "text", AND: "and", "&": "and", "close up": "close-up"}.get(low, low)
            if re.fullmatch("colou?red", word) and out and _parts_are_colors(out[-1].word):
                continue  # "a bronze colored trumpet"
            out.append(Token(prompt[a:b], a, b, word, quoted=low == TEXT))
    return out


def _pieces(word: str) -> list[tuple[int, int]]:
    """Where a written word is parted: "isn't", "dog's", "light-blue", "black-and-white"."""
    clitic = re.search(r"(?i)(n't|'(?:s|re|ll|ve|d))$", word)
    if clitic:
        return [(0, clitic.start()), clitic.span()]
    word = re.sub(r"(?i)-colou?red$|-toned$|-tinted$|-hued$", lambda m: " " * len(m[0]), word)
    parts = [m.span() for m in re.finditer(r"[^-\s]+", word)]
    names = {word[a:b].lower() for a, b in parts}
    if names <= lexicon.ATTRIBUTES | lexicon.SHADES | {"and"} and names & lexicon.ATTRIBUTES:
        return parts
    return [(0, len(word.rstrip()))]


def _parts_are_colors(word: str) -> bool:
    return word in lexicon.COLORS


def tag(tokens: Tokens, doc: Any, classes: Classes) -> None:
    """Take spaCy's reading of the words and mend their parts of speech."""
    tokens.classes = classes
    for token, read in zip(tokens, doc, strict=True):
        token.tag, token.dep, token.head, token.lemma = read.tag_, read.dep_, read.head.i, read.lemma_.lower()
    for i, token in enumerate(tokens):
        _lower_the_first(tokens, i, classes)
        token.kind = _closed_kind(token)
    for i, token in enumerate(tokens):
        pair = token.word == "couple" and not (i + 1 < len(tokens) and tokens[i + 1].tag in ("NNS", "CD"))
        dozen = token.word == "dozen" and tokens.word(i + 1) == "of"
        if pair or dozen or (token.word == "can" and _is_noun_can(tokens, i)):
            token.kind = ""
    _Mender(tokens, classes).mend()


def _lower_the_first(tokens: Tokens, i: int, classes: Classes) -> None:
    """A common noun that begins a sentence is no name: "Laundry hangs above a car"."""
    token = tokens[i]
    begins = i == 0 or tokens.word(i - 1) in _BREAKS[STOP]
    alone = not (i + 1 < len(tokens) and tokens[i + 1].capital)
    if begins and alone and token.tag in ("NNP", "NNPS") and classes.is_noun(token.word):
        token.tag = "NNS" if token.word not in classes.nouns else "NN"


def _is_noun_can(tokens: Tokens, i: int) -> bool:
    """Whether "can" is what paint comes in."""
    return i + 1 >= len(tokens) or tokens[i + 1].tag not in ("VB", "RB", "PRP")


def _closed_kind(token: Token) -> str:
    """The kind of a word of a closed class; empty for the others."""
    word = token.word
    if token.mask:
        return PREPOSITION
    if word == "off" and token.tag not in ("IN", "RP"):
        return ""
    if token.quoted:
        return NOUN
    for kind, marks in _BREAKS.items():
        if word in marks:
            return kind
    if not re.search(r"\w", word):
        return POSSESSIVE if word == "'" and token.tag == "POS" else OTHER
    if word == "'s" and token.tag == "POS":
        return POSSESSIVE
    parts = word.split("-")
    if re.fullmatch(r"\d+", word) or all(p in lexicon.NUMBERS for p in parts) or word in ("dozen", "couple"):
        return NUMBER
    if word in _DETERMINERS or (word == "her" and token.tag == "PRP$"):
        return DETERMINER
    if word in _PRONOUNS or word == "her":
        return PRONOUN
    if word in ("and", "or", "nor", "but"):
        return JOINT
    if word in ("which", "who", "whom", "where", "when", "while", "if", "whose", "because"):
        return WHICH
    if word == "that":
        return DETERMINER if token.tag == "DT" else WHICH
    if word in _NEGATIONS:
        return NEGATION
    if word in lexicon.BE or token.tag == "MD" or word in ("has", "have", "had", "do", "does", "did", "there"):
        return AUXILIARY
    if word in lexicon.PREPOSITIONS and token.tag not in ("VB", "VBP", "VBZ", "NN"):
        return PREPOSITION
    return ""


class _Mender:
    """Gives the words of open classes their kind, from left to right, by what may stand in a noun phrase."""

    def __init__(self, tokens: Tokens, classes: Classes) -> None:
        self.tokens, self.classes = tokens, classes

    def mend(self) -> None:
        for i, token in enumerate(self.tokens):
            if not token.kind:
                token.kind = self._open_kind(i)
            elif token.word in ("one", "ones") and self._stands_alone(i):
                token.kind = NOUN
            if token.kind == NOUN:
                token.plural = is_plural(token, self.classes)

    # --- what surrounds a word ---
    def _next(self, i: int) -> str:
        """What the next word can be: its closed kind, or "noun", "modifier", "verb" by spaCy and the lists."""
        if i + 1 >= len(self.tokens):
            return STOP
        token = self.tokens[i + 1]
        if token.kind:
            return token.kind
        if self._attributive(i + 1):
            return MODIFIER
        if self._noun_though_adverb(i + 1):
            return NOUN
        if self.classes.only_noun(token.word) or token.tag.startswith("NN"):
            return NOUN
        if token.tag.startswith("VB"):
            goes_on = token.tag == "VBG" and self.tokens.kind(i + 2) in (PREPOSITION, DETERMINER)
            return VERB if token.tag not in ("VBN", "VBG") or goes_on else MODIFIER
        return MODIFIER if token.tag.startswith("JJ") else ADVERB

    def _noun_though_adverb(self, i: int) -> bool:
        """Whether what spaCy calls an adverb or a verb must be the noun of "a stone well next to"."""
        token = self.tokens[i]
        closed = self.tokens.kind(i + 1) in (PREPOSITION, JOINT, COMMA, STOP)
        return (
            token.tag[:2] in ("RB", "VB", "UH")
            and token.tag not in ("VBG", "VBN")
            and closed
            and token.word in self.classes.nouns
        )

    def _phrase_before(self, i: int) -> tuple[list[Token], list[Token]]:
        """The modifiers and the nouns of the noun phrase that ends before i."""
        j = i - 1
        while j >= 0 and self.tokens[j].kind in (NOUN, MODIFIER, NUMBER, DETERMINER, POSSESSIVE):
            j -= 1
            if self.tokens[j + 1].kind == DETERMINER:
                break
        items = self.tokens.items[j + 1 : i]
        nouns: list[Token] = []
        while items and items[-1].kind == NOUN:
            nouns.insert(0, items.pop())
        return items, nouns

    def _attributive(self, i: int) -> bool:
        """Whether the word at i is a colour, size, material or texture, or the shade of a colour after it."""
        word = self.tokens.word(i)
        shade = word in lexicon.SHADES and self.tokens.word(i + 1) in lexicon.COLORS
        return shade or word in lexicon.ATTRIBUTES or word in lexicon.TEXTURES

    def _stands_alone(self, i: int) -> bool:
        """Whether "one" stands for a noun: "a white one", "the red ones"."""
        definite = self.tokens.word(i - 1) in ("the", "this", "that") and self._next(i) not in (NOUN, MODIFIER, NUMBER)
        return self.tokens.word(i) == "ones" or definite or self.tokens.kind(i - 1) == MODIFIER

    def _named(self, i: int) -> bool:
        """Whether a colour is the last word of a name: "Snow White"."""
        token = self.tokens[i]
        after_name = i > 0 and self.tokens[i - 1].text[:1].isupper() and self.tokens[i - 1].kind == NOUN
        return after_name and token.text[:1].isupper() and token.word in lexicon.ATTRIBUTES and self._next(i) != NOUN

    # --- the kinds ---
    def _open_kind(self, i: int) -> str:
        token = self.tokens[i]
        modifiers, nouns = self._phrase_before(i)
        after = self._next(i)
        ends_here = after not in (NOUN, MODIFIER, NUMBER)
        if self._named(i) or (nouns and classes_of_words.is_compound(f"{nouns[-1].word} {token.word}")):
            return NOUN
        if self._attributive(i) and not (token.word in lexicon.TEXTURES and token.word.endswith("ed")):
            return self._color_kind(i, bool(modifiers), bool(nouns), after)
        if (
            token.word in lexicon.SHADE_NOUNS
            and self.tokens.word(i + 1) in lexicon.COLORS
            and not token.text[:1].isupper()
        ):
            return MODIFIER
        if token.word == "can":
            return NOUN
        if token.word in ("still", "back") and nouns and self.tokens.word(i + 1) == "of":
            return NOUN
        if token.word in lexicon.NOT_NOUNS and not (
            self.tokens.kind(i - 1) == DETERMINER and token.word in self.classes.nouns
        ):
            return ADVERB
        if token.word.endswith("ing") and self._is_participle(i, modifiers, nouns, after):
            return VERB
        if nouns and self._posture_after_noun(i, nouns, after):
            return VERB
        if nouns and self.tokens.mask(i + 1) == "made" and token.word in self.classes.nouns:
            return NOUN  # "a chess set made of ice"
        wanted = bool(modifiers) and not nouns
        if (
            after == JOINT
            and token.tag.startswith("JJ")
            and not self.classes.is_noun(token.word)
            and self._ellipsis_after(i + 1)
        ):
            return MODIFIER
        if wanted and ends_here and self._could_be_noun(token):
            if (
                token.tag.startswith("RB")
                and token.word in self.classes.adverbs
                and not self.classes.is_noun(token.word)
            ):
                return ADVERB
            if not self._predicate_before(i, modifiers):
                return NOUN
        if token.proper and i:
            return NOUN
        if nouns and self._verb_after_noun(i, modifiers, nouns, after):
            return VERB
        if self.classes.only_noun(token.word) and token.tag != "NNP":
            return NOUN
        if token.tag.startswith("NN"):
            return self._noun_or_modifier(i, nouns, after)
        ends_name = nouns and after in (NOUN, DETERMINER, VERB, MODIFIER) and self.classes.is_noun(token.word)
        unlisted = token.word not in self.classes.adjectives and self.classes.is_noun(token.word)
        if token.tag.startswith("JJ") and (ends_name or unlisted):
            return NOUN  # "a steam locomotive"
        if token.tag.startswith("JJ"):
            verb_next = self.tokens.word(i + 1).endswith("s") and self.classes.is_verb(self.tokens.word(i + 1))
            goes_on = self.tokens.kind(i + 2) in (DETERMINER, NUMBER) or bool(self.tokens.mask(i + 2))
            doer = verb_next and goes_on and self.classes.is_noun(token.word)
            return NOUN if doer and modifiers else MODIFIER
        if token.tag in ("VBN", "VBG", "VBD", "VB", "VBP", "VBZ"):
            return self._verb_kind(i, modifiers, nouns, after)
        if token.tag.startswith("RB"):
            lone = not self.classes.adverbs or token.word not in self.classes.adverbs
            return NOUN if lone and self.classes.is_noun(token.word) else ADVERB
        if token.tag in ("FW", "UH", "CD", "XX", "LS", "SYM", "POS"):
            return NOUN if not token.word[:1].isdecimal() else NUMBER if token.word.isdecimal() else OTHER
        return PREPOSITION if token.tag in ("IN", "TO", "RP") else OTHER

    def _could_be_noun(self, token: Token) -> bool:
        if token.word.endswith("ly") and token.tag.startswith("RB"):
            return False
        known = self.classes.is_noun(token.word)
        return (
            known
            or token.tag.startswith("NN")
            or not (token.word in self.classes.adverbs or token.tag in ("JJR", "IN"))
        )

    def _predicate_before(self, i: int, modifiers: Sequence[Token]) -> bool:
        """Whether the words before are said of a subject: "is very big", "are black and white"."""
        if any(t.kind in (DETERMINER, NUMBER) for t in modifiers):
            return False
        j = i - len(modifiers) - 1
        while j >= 0 and self.tokens[j].kind in (ADVERB, JOINT, MODIFIER, NEGATION):
            j -= 1
        return self.tokens.kind(j) == AUXILIARY

    def _color_kind(self, i: int, modified: bool, has_noun: bool, after: str) -> str:
        """A colour, size or material is a modifier, but where it ends a noun phrase it may be the noun itself."""
        token = self.tokens[i]
        if self._name_of_two(i) or (self._name_of_two(i - 1) and after not in (NOUN, MODIFIER)):
            return NOUN
        if after in (NOUN, MODIFIER):
            return MODIFIER
        if has_noun and self.tokens.word(i - 1) in lexicon.WORN and after in (STOP, COMMA, JOINT):
            return MODIFIER  # "her hair silver"
        determined = self.tokens.kind(i - 1) in (DETERMINER, NUMBER, MODIFIER, POSSESSIVE) and modified
        noun = token.word in lexicon.NOUN_COLORS or token.word in lexicon.MATERIAL_NOUNS
        noun = noun or self.classes.only_noun(token.word) or bool(self.classes.singulars(token.word))
        if self.tokens.kind(i - 1) == PREPOSITION and self.tokens[i - 1].mask == "on" and after in (STOP, COMMA):
            return NOUN  # "on black": the background
        if after == JOINT and self._ellipsis_after(i + 1):
            return MODIFIER
        if self.tokens.kind(i - 1) == PREPOSITION and self.tokens[i - 1].mask == "made":
            return NOUN
        if noun and ((determined and not has_noun) or (has_noun and token.tag.startswith("NN"))):
            return NOUN
        if (
            noun
            and not modified
            and token.tag.startswith("NN")
            and self.tokens.kind(i - 1) in (PREPOSITION, JOINT, COMMA, STOP)
        ):
            return NOUN
        return MODIFIER

    def _name_of_two(self, i: int) -> bool:
        """Whether the words at i and i + 1 are colours or materials that make a noun: "ice cream"."""
        first, second = self.tokens.word(i), self.tokens.word(i + 1)
        return f"{first} {second}" in lexicon.NAMES_OF_TWO and {first, second} <= lexicon.ATTRIBUTES

    def _ellipsis_after(self, joint: int) -> bool:
        """Whether what follows "and" goes on with modifiers: "gold and brown cushions", "a red and a green apple"."""
        j = joint + 1
        while self.tokens.kind(j) in (DETERMINER, NUMBER):
            j += 1
        alike = self._attributive(j) or (j > joint + 1 and self.tokens.word(j) in self.classes.adjectives)
        return alike and j + 1 < len(self.tokens) and self._next(j) in (NOUN, MODIFIER, JOINT)

    def _is_participle(self, i: int, modifiers: Sequence[Token], nouns: Sequence[Token], after: str) -> bool:
        """Whether a word in -ing is what the thing before it does."""
        token = self.tokens[i]
        if self.tokens.word(i - 1) in ("all", "both", "each") and not nouns and self.classes.is_verb(token.word):
            return True  # "two women, each wearing a red hat"
        objects = (DETERMINER, PREPOSITION, NUMBER, NOUN, MODIFIER, PRONOUN)
        if token.word in lexicon.ING_NOUNS and not (token.tag == "VBG" and nouns and after in objects):
            follows = after in (DETERMINER, NUMBER, PRONOUN) or (after == NOUN and self._bare_object(i + 1))
            return bool(nouns) and follows
        if not self.classes.is_verb(token.word):
            return False
        tagged = not nouns and not modifiers and self.tokens.kind(i - 1) in (COMMA, STOP)
        if tagged and token.word in lexicon.HANDLING and after in (NOUN, MODIFIER):
            return True  # "1girl, holding sunflower"
        if nouns:
            return after != POSSESSIVE
        if modifiers:
            return False
        before = self.tokens.kind(i - 1)
        if before in (AUXILIARY, WHICH, PRONOUN, ADVERB, NEGATION):
            return True
        return after in (DETERMINER, NUMBER, PREPOSITION, PRONOUN, ADVERB, COMMA, STOP)

    def _posture_after_noun(self, i: int, nouns: Sequence[Token], after: str) -> bool:
        """Whether "lie", "stand" are verbs: "on a plate lie two eggs", "two in suits stand under"."""
        if self.tokens.word(i) not in lexicon.POSTURES or self.tokens.word(i) in ("eat", "wait", "look"):
            return False
        if after in (DETERMINER, NUMBER):
            return True
        return (
            after == PREPOSITION and nouns[-1].word in lexicon.WORN and self.tokens.word(i) in ("stand", "sit", "lie")
        )

    def _bare_object(self, i: int) -> bool:
        """Whether the noun at i can stand without an article: "a troll cooking soup"."""
        word = self.tokens.word(i)
        many = bool(self.classes.singulars(word)) and word not in self.classes.nouns
        return (word in lexicon.MASS or many) and self._next(i) not in (NOUN, MODIFIER)

    def _verb_after_noun(self, i: int, modifiers: Sequence[Token], nouns: Sequence[Token], after: str) -> bool:
        """Whether the word is what the noun before it does, though spaCy may call it a noun."""
        token, last = self.tokens[i], nouns[-1]
        if not self.classes.is_verb(token.word) or after == POSSESSIVE or token.proper:
            return False
        if token.word in lexicon.WORN and last.word in lexicon.WORN:
            return False  # "trench coat collar up"
        follows = after in (PREPOSITION, ADVERB, DETERMINER, NUMBER, PRONOUN)
        one = any(t.word in ("a", "an", "one", "another", "each", "every") for t in modifiers)
        base = token.word in self.classes.verbs
        if token.word.endswith("s") and not token.word.endswith("ss") and not base:  # "a truck drives past"
            many = any(t.kind == NUMBER and t.word not in ("one", "1") for t in modifiers)
            verbal = token.tag == "VBZ" or classes_of_words.class_of_noun(token.word) is None
            if last.word in lexicon.WORN and verbal and after == PREPOSITION and self.tokens.word(i + 1) != "of":
                return True  # "a wolf with blue eyes howls at"
            if last.plural or many:
                return not many and after in (DETERMINER, NUMBER, PRONOUN)
            if token.tag == "VBZ":
                return one or follows or (after == STOP and len(self.tokens) > 3)
            return follows and (one or self.tokens.word(i + 1) not in ("of", "and")) and one
        if last.plural and base and not one:  # "two ravens circle above"
            return (follows and self.tokens.word(i + 1) != "of") or token.tag in ("VBP", "VBD")
        if token.word.endswith("ed") or token.tag in ("VBD", "VBN"):
            return token.tag.startswith("VB") or follows
        if token.tag == "VBP":  # "the boot and the jug gleam on"
            return follows and not (one and self.tokens.kind(i - len(nouns) - len(modifiers) - 1) != JOINT)
        if base and follows and self._coordinated(i, modifiers, nouns) and not self.classes.singulars(token.word):
            return self.tokens.word(i + 1) != "of" and token.word not in ("park", "stand")
        return False

    def _coordinated(self, i: int, modifiers: Sequence[Token], nouns: Sequence[Token]) -> bool:
        """Whether the noun phrase before i is the last one of "the boot and the jug", with a determiner of its own."""
        start = i - len(modifiers) - len(nouns)
        determined = bool(modifiers) and modifiers[0].kind == DETERMINER
        determined = determined and (modifiers[0].word == "the" or self.tokens.word(i) in lexicon.POSTURES)
        return determined and self.tokens.word(start - 1) == "and" and self.tokens.kind(start - 2) == NOUN

    def _noun_or_modifier(self, i: int, nouns: Sequence[Token], after: str) -> str:
        token = self.tokens[i]
        only_adjective = token.word in self.classes.adjectives and not self.classes.is_noun(token.word)
        if only_adjective and after in (NOUN, MODIFIER) and not token.proper:
            return MODIFIER
        if (
            only_adjective
            and not nouns
            and after in (COMMA, JOINT)
            and not token.proper
            and token.dep in ("amod", "acomp")
        ):
            return MODIFIER
        return NOUN

    def _verb_kind(self, i: int, modifiers: Sequence[Token], nouns: Sequence[Token], after: str) -> str:
        token = self.tokens[i]
        before = self.tokens.kind(i - 1)
        if token.tag == "VBG" and self.tokens.word(i - 1) in ("all", "both", "each"):
            return VERB  # "two women, all wearing red hats"
        if token.tag in ("VBN", "VBG", "VBD"):
            if (
                after in (NOUN, MODIFIER)
                and not nouns
                and before in (DETERMINER, NUMBER, MODIFIER, STOP, JOINT, COMMA, POSSESSIVE, PREPOSITION)
            ):
                return MODIFIER
            if before == MODIFIER and after == MODIFIER:
                return MODIFIER
            return VERB
        if not nouns and not modifiers and self.classes.is_noun(token.word):
            starts = before in (COMMA, JOINT, PREPOSITION, STOP)
            ends = (COMMA, STOP, JOINT) if token.tag == "VBZ" else (COMMA, STOP, JOINT, PREPOSITION)
            going = i + 1 < len(self.tokens) and self.tokens[i + 1].tag == "VBG" and token.tag != "VBZ"
            if starts and going and before != PREPOSITION:
                return NOUN  # "smoke rising from a chimney"
            if starts and after in ends and token.tag in ("VB", "VBP", "VBZ"):
                return NOUN
            if starts and after == NOUN and i + 2 >= len(self.tokens):
                return NOUN
        counted = any(t.kind == NUMBER and t.word not in ("one", "1") for t in modifiers)
        one = any(t.word in ("a", "an") for t in modifiers)
        if nouns and one and token.word in self.classes.verbs and token.word in self.classes.nouns:
            return NOUN  # "a ramen shop"
        if nouns and counted and not nouns[-1].plural and self.classes.singulars(token.word):
            return NOUN  # "ten music stands"
        if modifiers and not nouns and after == NOUN:
            return NOUN if self.classes.is_noun(token.word) else MODIFIER
        return VERB


def is_plural(token: Token, classes: Classes) -> bool:
    """Whether a noun is a plural: by its form, and spaCy's tag for what has one form."""
    word = token.word
    if word in lexicon.MANY_AS_ONE:
        return token.tag in ("NNS", "NNPS")
    if word in lexicon.IRREGULAR_PLURALS or word in lexicon.PAIRED or word in classes.plurals:
        return True
    if not word.endswith("s") or word.endswith(("ss", "us")) or (word.endswith("is") and not classes.singulars(word)):
        return token.tag in ("NNS", "NNPS") and word.endswith(("i", "a", "ae"))
    if word in classes.nouns and (token.tag == "NN" or not classes.singulars(word)):
        return False
    return token.tag in ("NNS", "NNPS") or bool(classes.singulars(word)) or not classes.nouns
