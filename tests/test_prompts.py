"""Taking prompts apart, and the counterfactuals of their words."""

import itertools
import re

import numpy as np
import pytest

from accord.data.lexicon import DEFAULT, Lexicon, plural_of
from accord.prompts.phrases import phrases_of, read_ahead
from accord.prompts.swaps import singular_of, spelled, swaps, with_article
from accord.types import InputError
from accord_lab.scenes.ask import ask_of, lab_lexicon
from accord_lab.scenes.grammar import caption
from accord_lab.scenes.scene import sample_scene

LAB = lab_lexicon()


def phrases(text: str) -> list[tuple[str, str, int | None]]:
    """(text, head, count) of each thing."""
    prompt = phrases_of(text)
    return [(p.text, p.head.text, p.count) for p in (prompt.phrases[i] for i in prompt.things)]


def kinds(text: str) -> list[tuple[str, str]]:
    return [(w.text, w.kind) for w in phrases_of(text).words]


def swapped(text: str, word: str, lexicon: Lexicon = LAB) -> dict[str, str]:
    """Replacement -> prompt, for the first checkable word that reads `word`."""
    prompt = phrases_of(text)
    return dict(swaps(prompt, next(w for w in prompt.words if w.text == word), lexicon))


def random_captions(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [caption(sample_scene(rng, allow_held_out=True), rng) for _ in range(count)]


# --- phrases -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red star", [("a red star", "star", 1)]),
        ("stars", [("stars", "stars", None)]),
        ("the cat", [("the cat", "cat", 1)]),
        ("two big red stars and one egg", [("two big red stars", "stars", 2), ("one egg", "egg", 1)]),
        ("3 cats, a dog", [("3 cats", "cats", 3), ("a dog", "dog", 1)]),
        ("a pair of red stars next to a key", [("a pair of red stars", "stars", 2), ("a key", "key", 1)]),
        ("a couple of eggs", [("a couple of eggs", "eggs", 2)]),
        ("a trio of cats", [("a trio of cats", "cats", 3)]),
        ("a picture of a moon", [("a moon", "moon", 1)]),
        ("an illustration of two fish", [("two fish", "fish", 2)]),
        ("there are two keys with an egg", [("two keys", "keys", 2), ("an egg", "egg", 1)]),
        ("we see a crown together with a flag", [("a crown", "crown", 1), ("a flag", "flag", 1)]),
        ("a star a key", [("a star", "star", 1), ("a key", "key", 1)]),
        ("a key on a house", [("a key", "key", 1), ("a house", "house", 1)]),
        ("a picture frame", [("a picture frame", "picture frame", 1)]),
        ("a picture", [("a picture", "picture", 1)]),
        ("red star and blue key", [("red star", "star", 1), ("blue key", "key", 1)]),
        ("the dogs", [("the dogs", "dogs", None)]),
        ("some red stars near the octopus", [("some red stars", "stars", None), ("the octopus", "octopus", 1)]),
        ("children", [("children", "children", None)]),
        ("'a red star' and \"a key\"", [("a red star", "star", 1)]),  # text in quotes is to be written
        ("the dog's ball", [("ball", "ball", 1)]),
        ("a ² star", [("a ² star", "² star", 1)]),
    ],
)
def test_phrases(text, expected):
    assert phrases(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "A fluffy white dog wearing a tall red hat, sitting on a wooden bench",
            [("A fluffy white dog", "dog", 1), ("a tall red hat", "hat", 1), ("a wooden bench", "bench", 1)],
        ),
        (
            "an astronaut riding a horse in front of the white house",
            [("an astronaut", "astronaut", 1), ("a horse", "horse", 1), ("the white house", "white house", 1)],
        ),
        (
            "Photo of four yellow taxis between two skyscrapers",
            [("four yellow taxis", "taxis", 4), ("two skyscrapers", "skyscrapers", 2)],
        ),
        ("a black and white cat", [("a black and white cat", "cat", 1)]),
        ("a big, red star", [("a big, red star", "star", 1)]),
        ("a red and a blue key", [("a red", "key", 1), ("a blue key", "key", 1)]),
        ("a man walking a dog", [("a man", "man", 1), ("a dog", "dog", 1)]),
        (
            "a wedding ring in a red building",
            [("a wedding ring", "wedding ring", 1), ("a red building", "building", 1)],
        ),
        ("a dog without a hat", [("a dog", "dog", 1)]),
        ("a street with no cars above a dog", [("a street", "street", 1), ("a dog", "dog", 1)]),
        ("A cat is not on the table", [("A cat", "cat", 1), ("the table", "table", 1)]),
        ("a sofa below a painting", [("a sofa", "sofa", 1), ("a painting", "painting", 1)]),
        ("a castle, oil painting", [("a castle", "castle", 1)]),
    ],
)
def test_phrases_of_general_english(text, expected):
    assert phrases(text) == expected


def test_word_kinds():
    assert kinds("a fluffy little red fox to the left of 2 keys on a plain grey backdrop") == [
        ("a", "count"),
        ("fluffy", "modifier"),
        ("little", "size"),
        ("red", "color"),
        ("fox", "noun"),
        ("to the left of", "relation"),
        ("2", "count"),
        ("keys", "noun"),
        ("grey", "background"),
    ]
    assert ("the", "count") not in kinds("the star")
    assert kinds("a pair of stars") == [("a pair of", "count"), ("stars", "noun")]


@pytest.mark.parametrize(
    ("text", "ground"),
    [
        ("a star on a white background", "white"),
        ("a star against a plain beige backdrop", "beige"),
        ("a star on black", "black"),
        ("a star on a background", None),
    ],
)
def test_the_ground_is_no_thing(text, ground):
    prompt = phrases_of(text)
    assert prompt.things == (0,) and prompt.phrases[1].background
    assert [w.text for w in prompt.phrases[1].words] == ([ground] if ground else [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a star to the left of a key", [(0, "left", 1)]),
        ("a star on the right of a key", [(0, "right", 1)]),
        ("a star on top of a key", [(0, "above", 1)]),
        ("a star higher than two keys and a moon", [(0, "above", 1)]),
        ("a star, a key beneath a moon", [(1, "below", 2)]),
        ("a star beside a key", [(0, "near", 1)]),
        ("a star above a key below a moon", [(0, "above", 1), (1, "below", 2)]),
        ("a dog behind a tree", [(0, "behind", 1)]),
        ("a star and a key", []),
        ("above a key", []),
        ("a star above", []),
        ("a star over a white background", []),
    ],
)
def test_relations(text, expected):
    prompt = phrases_of(text)
    assert [(r.subject, r.name, r.object) for r in prompt.relations] == expected


@pytest.mark.parametrize("text", ["", "   ", "...", "?!", "-"])
def test_a_prompt_without_letters_is_refused(text):
    with pytest.raises(InputError, match="is empty"):
        phrases_of(text)


def assert_spans_slice(text: str, in_phrase: bool = False) -> None:
    prompt = phrases_of(text)
    for part in (*prompt.phrases, *prompt.words, *(p.head for p in prompt.phrases)):
        assert text[part.start : part.end] == part.text, text
    for phrase in prompt.phrases:
        inside = all(phrase.start <= w.start < w.end <= phrase.end for w in phrase.words)
        assert inside or not in_phrase, text  # "the star is red", "three red and two blue stars" say it elsewhere
    ends = [(w.start, w.end) for w in prompt.words]
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(ends)), text


def test_spans_are_slices_of_the_text_and_do_not_overlap():
    texts = random_captions(1500)
    read_ahead(texts)
    for text in texts:
        assert_spans_slice(text, in_phrase=True)
    assert sum(len(phrases_of(t).words) for t in texts) > 3 * len(texts)


def test_spans_hold_in_any_jumble_of_words():
    rng = np.random.default_rng(1)
    words = re.findall(
        r"\S+",
        "a an the two 3 pair couple of red Big star KEYS fish on white background left to the above next , . ' ( - "
        "picture and with trio zebra's naïve 東京 ² 12 holding in front of",
    )
    jumbles = ["  ".join(words[i] for i in rng.integers(len(words), size=int(rng.integers(1, 9)))) for _ in range(1500)]
    texts = [text for text in jumbles if re.search(r"\w", text)]
    read_ahead(texts)
    for text in texts:
        assert_spans_slice(text)


# --- singular and plural -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("star", ("star", False)),
        ("Crosses", ("cross", True)),
        ("cross", ("cross", False)),
        ("fish", ("fish", False)),
        ("keys", ("key", True)),
        ("foxes", ("fox", True)),
        ("ponies", ("pony", True)),
        ("toys", ("toy", True)),
        ("churches", ("church", True)),
        ("glasses", ("glass", True)),
        ("glass", ("glass", False)),
        ("roses", ("rose", True)),
        ("ties", ("tie", True)),
    ],
)
def test_singular_of(word, expected):
    assert singular_of(word, LAB) == expected


def test_irregular_plurals_of_the_default_lexicon():
    assert singular_of("people", DEFAULT) == ("person", True) and singular_of("knives", DEFAULT) == ("knife", True)
    assert [plural_of(w) for w in ("box", "church", "city", "boy", "star")] == [
        "boxes",
        "churches",
        "cities",
        "boys",
        "stars",
    ]


# --- counterfactuals -----------------------------------------------------------------------------------------------
def test_color_swaps_take_every_other_color():
    found = swapped("a red star", "red")
    assert set(found) == set(LAB.colors) - {"red"}
    assert found["blue"] == "a blue star" and found["orange"] == "an orange star"


def test_synonyms_are_no_counterfactuals():
    assert "red" not in swapped("a crimson star", "crimson")
    assert "gray" not in swapped("a star on a grey background", "grey")
    assert {"plane", "airplane"}.isdisjoint(swapped("an airplane", "airplane"))
    assert "gray" not in swapped("a grey cat", "grey", DEFAULT)


def test_noun_swaps_repair_the_article():
    assert swapped("a star", "star")["egg"] == "an egg"
    assert swapped("an egg", "egg")["star"] == "a star"
    assert swapped("A star", "star")["egg"] == "An egg"
    assert swapped("a red star", "star")["egg"] == "a red egg"
    assert swapped("the star", "star")["egg"] == "the egg"


def test_a_swap_leaves_other_articles_as_they_were_written():
    text = "a red star next to a unicorn and an hourglass"
    assert swapped(text, "red")["orange"] == "an orange star next to a unicorn and an hourglass"
    assert swapped(text, "star")["egg"] == "a red egg next to a unicorn and an hourglass"


def test_noun_swaps_keep_the_number():
    assert swapped("two red stars", "stars")["crosses"] == "two red crosses"
    assert swapped("two red fish", "fish")["eggs"] == "two red eggs"
    assert swapped("a fish", "fish")["egg"] == "an egg"
    assert swapped("stars", "stars")["fish"] == "fish"


def test_count_swaps_change_the_number_of_the_noun():
    assert swapped("a big star", "a") == {"two": "two big stars", "three": "three big stars", "four": "four big stars"}
    eggs = {"one": "an egg and a key", "two": "two eggs and a key", "four": "four eggs and a key"}
    assert swapped("three eggs and a key", "three") == eggs
    assert swapped("a key above two crosses", "two")["one"] == "a key above a cross"
    assert swapped("a pair of fish", "a pair of") == {"one": "a fish", "three": "three fish", "four": "four fish"}
    assert swapped("two foxes", "two")["one"] == "a fox"
    assert swapped("two people", "two", DEFAULT) == {"one": "a person", "three": "three people", "four": "four people"}


def test_size_background_and_relation_swaps():
    assert swapped("a tiny egg", "tiny") == {"big": "a big egg"}
    assert swapped("a huge egg", "huge") == {"small": "a small egg"}
    assert swapped("an egg on a white background", "white") == {
        b: f"an egg on a {b} background" for b in ("gray", "black", "beige")
    }
    assert swapped("a star over an egg", "over") == {"below": "a star below an egg"}
    assert swapped("a star left of an egg", "left of") == {"right": "a star to the right of an egg"}


@pytest.mark.parametrize(
    ("text", "word", "other"),
    [
        ("an old man rides a bike", "an", "two old men ride a bike"),
        ("a child is eating an apple", "a", "two children are eating an apple"),
        ("there is a bus", "a", "there are two buses"),
        ("two foxes chase a hen", "two", "a fox chases a hen"),
        ("two boys who have kites", "two", "a boy who has kites"),
        ("a girl in a red coat watches a dog", "a", "two girls in a red coat watch a dog"),
        ("a man and a woman are dancing", "a", "two men and a woman are dancing"),
        ("a pair of scissors", "a pair of", "two pairs of scissors"),
        ("an elephant drinks water", "water", "an elephant drinks coffee"),
        ("a cup made of porcelain", "porcelain", "a cup made of wood"),
        ("a man wearing sunglasses", "sunglasses", "a man wearing jeans"),
        ("a child is eating an apple", "eating", "a child is drinking an apple"),
    ],
)
def test_counterfactuals_by_class_are_grammatical(text, word, other):
    found = swapped(text, word, DEFAULT)
    assert other in found.values() and text not in found.values()


def test_articles_go_by_the_sound():
    assert [with_article(n) for n in ("egg", "unicorn", "hourglass", "umbrella", "water")] == [
        *("an egg", "a unicorn", "an hourglass", "an umbrella", "water")
    ]
    assert swapped("a horse", "horse", DEFAULT).keys() and "an ukulele" not in str(swapped("a harp", "harp", DEFAULT))


def test_no_counterfactual_barks_an_apple_or_counts_each():
    assert not {"barking", "laughing"} & set(swapped("a child is eating an apple", "eating", DEFAULT))
    prompt = phrases_of("each boy has a balloon")
    assert [swaps(prompt, w, DEFAULT) for w in prompt.words if w.text == "each"] == [[]]


def test_words_without_counterfactuals_have_none():
    prompt = phrases_of("a fluffy dog beside a tree")
    assert [swaps(prompt, w, DEFAULT) for w in prompt.words if w.kind in ("modifier", "relation")] == [[], []]


def test_each_swap_of_a_lab_caption_asks_for_something_else_in_correct_english():
    checked = dict.fromkeys(("noun", "color", "count", "size", "background", "relation"), 0)
    texts = random_captions(150, seed=2)
    read_ahead(texts)
    for n, text in enumerate(texts):
        if n % 50 == 0:
            part = texts[n : n + 50]
            read_ahead(o for t in part for w in phrases_of(t).words for _, o in swaps(phrases_of(t), w, LAB))
        prompt, asked = phrases_of(text), ask_of(text)
        for word in prompt.words:
            options = swaps(prompt, word, LAB)
            assert len(options) == len(dict(options)) and (options or word.text == "one" or word.kind == "relation"), (
                text
            )
            for name, other in options:
                checked[word.kind] += 1
                assert ask_of(other) != asked, (text, name, other)
                assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  ", other), (text, name, other)
                for phrase in (p for p in phrases_of(other).phrases if not p.background):
                    head, many = phrase.head.text, phrase.count > 1
                    assert head == "fish" or many == singular_of(head, LAB)[1], (text, name, other)
    assert min(checked.values()) > 20


def test_lexicon_survives_saving(tmp_path):
    LAB.save(tmp_path / "lexicon.json")
    assert Lexicon.load(tmp_path / "lexicon.json") == LAB


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("a 1990 ford mustang", [1]),
        ("1990 ford mustang", [1]),
        ("a 4 door car", [1]),
        ("a 90 year old man", [1]),
        ("35 mm lens", []),
        ("0 dogs", [None]),
        ("the 3 dogs and 8 cats", [3, 8]),
    ],
)
def test_digits_that_cannot_be_a_count_are_none(text, counts):
    assert [p.count for p in phrases_of(text).phrases] == counts


def test_what_is_not_to_be_seen_has_no_relation_either():
    assert (
        not phrases_of("a street with a dog and no cars above it").relations
        and not phrases_of("a cat is not on top of the table").relations
    )
    assert [r.name for r in phrases_of("a sofa below a painting").relations] == ["below"]


def test_counterfactuals_of_a_count_behind_an_article():
    prompt = phrases_of("the two eggs")
    assert swaps(prompt, prompt.words[0], LAB)[0][1] == "the one egg"


def test_counts_are_spelled():
    assert spelled(phrases_of("2 red stars and 1 cat")).text == "two red stars and one cat"
    assert spelled(phrases_of("a 4 door car")).text == "a 4 door car"


def test_other_bytes_than_utf8_are_named():
    with pytest.raises(InputError, match="is no UTF-8"):
        phrases_of("a star \udcff")


def test_what_is_read_ahead_is_what_is_read_one_by_one(monkeypatch):
    from accord.prompts import phrases

    texts = ["two red (cats:1.3), no dogs", *random_captions(12, seed=5), "a [blue] bird"]
    parsed: list[str] = []
    monkeypatch.setattr(phrases, "_KNOWN", type(phrases._KNOWN)())
    one_by_one = [phrases._read_all([t])[0] for t in texts]
    phrases._KNOWN.clear()
    read_ahead([*texts, texts[0]])
    monkeypatch.setattr(phrases, "parse_all", lambda new: parsed.extend(new) or [])
    assert [phrases._read_all([t])[0] for t in texts] == one_by_one and parsed == []


def test_no_more_prompts_are_remembered_than_said_and_the_oldest_go_first(monkeypatch):
    from accord.prompts import phrases

    monkeypatch.setattr(phrases, "REMEMBERED", 3)
    monkeypatch.setattr(phrases, "_KNOWN", type(phrases._KNOWN)())
    for text in ("a cat", "a dog", "a cow", "a cat", "a fish"):
        phrases_of(text)
    assert list(phrases._KNOWN) == ["a cow", "a cat", "a fish"]


def test_a_text_that_cannot_be_read_does_not_stop_the_others():
    read_ahead(["a cat", "???"])
    assert phrases_of("a cat").things
    with pytest.raises(InputError):
        phrases_of("???")
