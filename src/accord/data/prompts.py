"""Taking a prompt apart into phrases, words and relations, with a small lexicon and no model.

A chunk runs from a determiner, number or modifier to its last content word (the head) and ends at a preposition,
conjunction, verb or punctuation mark. The counterfactuals of a word are in `swaps`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from accord.data.lexicon import COLORS, DEFAULT, NUMBERS, OPPOSITES, RELATIONS, SIZES, Lexicon, plural_of
from accord.types import InputError, Phrase, Prompt, Relation, Word

_ARTICLES = {"a", "an", "the", "some", "this", "that", "its", "his", "her", "their"}
_STOPS = set(
    "and or with of in on at to from by for into onto against while as but plus than that which who is are was were "
    "be being been has have having wearing holding riding sitting standing lying eating looking flying running "
    "showing featuring there here we you it see together during between among".split()
)
_NEGATIONS = {"no", "not", "without"}
_STOPS |= _NEGATIONS
_JOINTS = {"and", ","}
_PLURALS = {"people", "men", "women", "children", "feet", "teeth", "mice", "geese"}
_MEDIA = set(
    "picture image photo photograph drawing illustration sketch painting scene view render rendering portrait closeup "
    "shot snapshot".split()
)
_AFTER_MEDIA = {"of", "with", "showing", "featuring", ",", ""}  # "a picture of ..." is no thing of the picture
_COLLECTIVES = {"pair": 2, "couple": 2, "trio": 3}
_GROUNDS = {"background", "backdrop"}
MOST_WORDS, MOST_LETTERS = 1000, 20_000  # of a prompt that is taken apart
_RELATION_LIST = sorted(((tuple(k.split()), v) for k, v in RELATIONS.items()), key=lambda kv: -len(kv[0]))


@dataclass(frozen=True)
class _Token:
    text: str
    start: int
    end: int

    @property
    def low(self) -> str:
        return self.text.lower()


def check_sayable(text: str) -> None:
    """Refuse a text that UTF-8 cannot hold: an argument of other bytes.

    Raises:
        InputError: naming it.
    """
    try:
        text.encode("utf8")
    except UnicodeEncodeError:
        shown = text.encode("utf8", "replace").decode("utf8")
        raise InputError(f"the prompt {shown!r} is no UTF-8; write it in UTF-8") from None


def check_says_something(text: str) -> None:
    """Refuse a prompt with no letters in it, that is no UTF-8, or longer than any text encoder reads.

    Raises InputError.
    """
    if len(text) > MOST_LETTERS or len(text.split()) > MOST_WORDS:
        raise InputError(
            f"the prompt {text[:40]!r}... has {len(text.split())} words; {MOST_WORDS} words and {MOST_LETTERS} "
            "letters are read at most: shorten it"
        )
    if not re.search(r"\w", text):
        raise InputError(f"the prompt {text!r} is empty; give it at least one word")
    check_sayable(text)


def words_beyond(text: str, tokens: Callable[[str], int], room: int) -> str:
    """The last words of a text, those that do not fit into `room` tokens, cut to 80 letters; empty if all fit.

    Beginnings of the text are counted, each twice as long as the one before, until one does not fit: what is counted in
    all is a few times what fits, however long the text is.
    """
    words = text.split()
    fits, beyond = 0, max(16, room)  # words; more words than tokens never fit
    while beyond < len(words) and tokens(" ".join(words[:beyond])) <= room:
        fits, beyond = beyond, 2 * beyond
    if beyond >= len(words):
        if tokens(text) <= room:
            return ""
        beyond = len(words)
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        fits, beyond = (middle, beyond) if tokens(" ".join(words[:middle])) <= room else (fits, middle)
    lost = " ".join(words[fits : fits + 80])
    return lost if len(lost) <= 80 and fits + 80 >= len(words) else lost[:77] + "..."


def parse(text: str) -> Prompt:
    """Phrases, words and relations of a prompt. What it says is not there ("no", "not", "without") is left out.

    Raises:
        InputError: for a prompt with no letters in it, or that is no UTF-8.
    """
    check_says_something(text)
    tokens = [_Token(m.group(), m.start(), m.end()) for m in re.finditer(r"\w+(?:['’-]\w+)*|[^\w\s]", text)]
    phrases: list[Phrase] = []
    media: list[Phrase] = []
    relations: list[tuple[int, str, Word]] = []  # (number of phrases before it, name, word)
    negated = left_out = False  # the next phrase is what is not to be seen; the last one was
    i = 0
    while i < len(tokens):
        match = _relation_at(tokens, i)
        if match:
            length, name = match
            start, end = tokens[i].start, tokens[i + length - 1].end
            if not left_out:
                relations.append((len(phrases), name, Word(text[start:end], start, end, "relation")))
            i += length
            continue
        if tokens[i].low in _STOPS or not tokens[i].text[0].isalnum() or _is_verb(tokens, i):
            negated = negated or tokens[i].low in _NEGATIONS
            i += 1
            continue
        stop = _chunk_end(tokens, i)
        while _only_tints(tokens[i:stop]) and _goes_on(tokens, stop):  # "a black and white cat", "a big, red star"
            stop = _chunk_end(tokens, stop + 1)
        before = tokens[i - 1].low if i else ""
        following = tokens[stop].low if stop < len(tokens) else ""
        collective = following == "of" and tokens[stop - 1].low in _COLLECTIVES
        if collective:  # "a pair of stars" is one chunk
            stop = _chunk_end(tokens, stop + 1)
        related = any(at == len(phrases) for at, _, _ in relations)  # "a sofa below a painting"
        medium = not collective and not related and tokens[stop - 1].low in _MEDIA and following in _AFTER_MEDIA
        phrase = _phrase(text, tokens[i:stop], before)
        if negated:
            relations = [r for r in relations if r[0] != len(phrases)]
            negated, left_out = False, True
        elif phrase is not None:
            (media if medium else phrases).append(phrase)
            left_out = False
        i = max(stop, i + 1)
    phrases = phrases or media  # a painting of nothing is a thing itself
    links = tuple(
        Relation(at - 1, name, at, word)
        for at, name, word in relations
        if 0 < at < len(phrases) and not phrases[at].background and not phrases[at - 1].background
    )
    return Prompt(text, tuple(phrases), links)


def _relation_at(tokens: list[_Token], i: int) -> tuple[int, str] | None:
    for words, name in _RELATION_LIST:
        if tuple(t.low for t in tokens[i : i + len(words)]) == words:
            return len(words), name
    return None


def _ends(tokens: list[_Token], j: int, start: int) -> bool:
    """Whether token j ends the chunk that began at `start`."""
    if j > start and (tokens[j].low in _ARTICLES or tokens[j].low in NUMBERS):
        return True
    return tokens[j].low in _STOPS or _relation_at(tokens, j) is not None or (j > start and _is_verb(tokens, j))


def _is_verb(tokens: list[_Token], j: int) -> bool:
    """Whether token j is what a thing does to the next one: "a man walking a dog"."""
    if not (0 < j < len(tokens) - 1 and tokens[j].low.endswith("ing") and len(tokens[j].text) > 5):
        return False
    before, following = tokens[j - 1].low, tokens[j + 1].low
    content = before[0].isalnum() and before not in {*_STOPS, *_ARTICLES, *COLORS, *SIZES, *NUMBERS}
    return content and (following in _ARTICLES or following in NUMBERS)


def _only_tints(chunk: list[_Token]) -> bool:
    """Whether a chunk has colours or sizes and nothing that has them."""
    content = [t.low for t in chunk if t.low not in _ARTICLES and t.low not in NUMBERS]
    return bool(content) and all(t in COLORS or t in SIZES or t in _JOINTS for t in content)


def _goes_on(tokens: list[_Token], stop: int) -> bool:
    """Whether a chunk of colours that ends here goes on after "and" or a comma, without an article of its own."""
    if stop + 1 >= len(tokens) or tokens[stop].low not in _JOINTS or not tokens[stop + 1].text[0].isalnum():
        return False
    return not _ends(tokens, stop + 1, -1) and _chunk_end(tokens, stop + 1) > stop + 1


def _chunk_end(tokens: list[_Token], start: int) -> int:
    """Index after the last token of the chunk that begins at `start`."""
    stop = start
    while stop < len(tokens) and tokens[stop].text[0].isalnum() and not _ends(tokens, stop, start):
        stop += 1
    return stop


def _counted(text: str) -> int | None:
    """The number that digits count, if they can be a count at all: years, ages and lenses are none."""
    return int(text) if text.isdecimal() and 1 <= int(text) <= max(NUMBERS.values()) else None


def _phrase(text: str, chunk: list[_Token], before: str) -> Phrase | None:
    """The phrase of a chunk, None if it has no content word; `before` is the word in front of it."""
    count: int | None = None
    words: list[Word] = []
    content: list[_Token] = []
    collective = next((t for t in chunk if t.low in _COLLECTIVES and "of" in {u.low for u in chunk}), None)
    one = False  # after "a" digits are no count: "a 4 door car"
    for token in chunk:
        number = NUMBERS.get(token.low) or (None if one else _counted(token.text))
        if token is collective:
            number = _COLLECTIVES[token.low]
        if number is not None:
            count = number
            words.append(Word(token.text, token.start, token.end, "count"))
        elif token.low in _ARTICLES:
            if count is None:
                count = 1
            one = one or token.low in {"a", "an"}
            if token.low in {"a", "an"} and collective is None:
                words.append(Word(token.text, token.start, token.end, "count"))
        elif token.low != "of" and token.low not in _JOINTS:
            content.append(token)
    if len(content) > 1 and content[-1].low.endswith("ed") and len(content[-1].text) > 5:
        content.pop()  # "a red car parked": the participle is not the head
    if not content:
        return None
    start, end = chunk[0].start, max(content[-1].end, *(w.end for w in words), 0)
    *modifiers, head = content
    if not any(w.kind == "count" for w in words):
        plural = _is_plural(head.low)
        # "red star" is one as much as "a red star"; "the dogs" are as many as "dogs"
        count = None if plural else 1
    # "on white": a lone colour after "on" is the background
    if head.low in _GROUNDS or (before == "on" and len(chunk) == 1 and head.low in COLORS):
        tints = [t for t in content if t.low in COLORS]
        colors = tuple(Word(t.text, t.start, t.end, "background") for t in tints)
        return Phrase(text[start:end], start, end, Word(head.text, head.start, head.end, "noun"), colors, None, True)
    for token in modifiers:
        kind = "color" if token.low in COLORS else "size" if token.low in SIZES else "modifier"
        words.append(Word(token.text, token.start, token.end, kind))
    noun = Word(head.text, head.start, head.end, "noun")
    return Phrase(text[start:end], start, end, noun, tuple(sorted([*words, noun], key=lambda w: w.start)), count)


def _is_plural(word: str) -> bool:
    return word in _PLURALS or (singular_of(word, DEFAULT)[1] and not re.search("(us|is|ss)$", word))


def singular_of(word: str, lexicon: Lexicon) -> tuple[str, bool]:
    """(singular, was plural) of a noun, by the lexicon first and regular endings else."""
    low = word.lower()
    if low in lexicon.nouns:
        return low, False
    for singular, plural in lexicon.nouns.items():
        if low == plural:
            return singular, True
    sibilant = re.search("(ies|xes|ches|shes|sses)$", low)
    for singular in (low[:-3] + "y", low[:-2], low[:-1]) if sibilant else (low[:-1],):
        if len(singular) > 2 and plural_of(singular) == low:
            return singular, True
    return low, False


def swaps(prompt: Prompt, word: Word, lexicon: Lexicon) -> list[tuple[str, str]]:
    """Counterfactuals of one word: (replacement as it would look, whole prompt with it), grammar kept.

    Articles and plurals follow: swapping "star" for "egg" in "a red star" leaves "a", in "a star" makes "an egg"; a
    swapped count changes the noun's number. Empty for a word that has no counterfactuals (a free modifier).
    """
    text = prompt.text
    if word.kind == "relation":
        name = next(r.name for r in prompt.relations if r.word == word)
        others = [OPPOSITES[name]] if name in OPPOSITES else []
        return [
            (o, _splice(text, word.start, word.end, lexicon.relations[o])) for o in others if o in lexicon.relations
        ]
    if word.kind == "background":
        others = [b for b in lexicon.backgrounds if not lexicon.alike(b, word.text.lower())]
        return [(b, _splice(text, word.start, word.end, b)) for b in others]
    phrase = next(p for p in prompt.phrases if word in p.words)
    if word.kind == "count":
        return _count_swaps(text, phrase, lexicon)
    if word.kind == "color":
        options = [c for c in lexicon.colors if not lexicon.alike(c, word.text.lower())]
    elif word.kind == "size":
        other = lexicon.sizes.get(word.text.lower())
        options = [other] if other else []
    elif word.kind == "noun":
        singular, plural = singular_of(word.text, lexicon)
        names = [n for n in lexicon.nouns if not lexicon.alike(n, singular)]
        options = [lexicon.nouns[n] if plural or (phrase.count or 2) > 1 else n for n in names]
    else:
        return []
    return [(o, _splice(text, word.start, word.end, o)) for o in options]


def _count_swaps(text: str, phrase: Phrase, lexicon: Lexicon) -> list[tuple[str, str]]:
    singular, _ = singular_of(phrase.head.text, lexicon)
    plural = lexicon.nouns.get(singular, plural_of(singular))
    middle = " ".join(w.text for w in phrase.words if w.kind not in ("count", "noun"))
    names = {v: k for k, v in NUMBERS.items()}
    out = []
    for n in range(1, lexicon.max_count + 1):
        if n == (phrase.count or 0):
            continue
        alone = text[: phrase.start].rstrip().rpartition(" ")[2].lower() not in _ARTICLES  # not "the a dog"
        lead = ("a" if alone else "one") if n == 1 else names[n]
        body = " ".join(w for w in (lead, middle, singular if n == 1 else plural) if w)
        out.append((names[n], _splice(text, phrase.start, phrase.end, body)))
    return out


def spelled(prompt: Prompt) -> Prompt:
    """The prompt with its counts in words, as their counterfactuals are: "2 red stars" is "two red stars"."""
    names, text = {v: k for k, v in NUMBERS.items()}, prompt.text
    for word in sorted((w for w in prompt.words if w.kind == "count" and w.text.isdecimal()), key=lambda w: -w.start):
        text = text[: word.start] + names[int(word.text)] + text[word.end :]
    return parse(text) if text != prompt.text else prompt


def with_article(noun: str) -> str:
    """The noun after "a" or "an"."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def exchanged(text: str, first: Word, second: Word) -> str:
    """`text` with two of its words, in their order, put in each other's place, and their articles made to fit."""
    return _splice(_splice(text, second.start, second.end, first.text), first.start, first.end, second.text)


def _splice(text: str, start: int, end: int, new: str) -> str:
    """`text` with [start:end] replaced, and the article before it or in it made to fit; others stay ("a unicorn")."""

    def fitted(m: re.Match[str]) -> str:
        if not start <= m.start(3) < start + len(new):
            return m[0]
        return m[1][0] + ("n" if m[3].lower() in "aeiou" else "") + m[2] + m[3]

    return re.sub(r"\b(an?)( +)(\w)", fitted, text[:start] + new + text[end:], flags=re.IGNORECASE)
