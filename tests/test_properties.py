"""Properties of spans, masks, layouts and readers that a wrong sign or index breaks.

Everything is drawn anew in each example, and the same examples are drawn in every run.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_tokenizer
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, label, uniform_filter
from torch.nn.functional import normalize
from transformers import T5TokenizerFast

from accord.data.images import crop
from accord.data.lexicon import DEFAULT, NUMBERS, RELATIONS
from accord.data.pair_folders import stream_pairs, write_metadata, write_part
from accord.data.pairs import PairsFile, read_pairs, table_bytes
from accord.data.prompt_files import read_prompts
from accord.data.prompts import words_beyond
from accord.data.shards import share_of
from accord.diffusion.opened import Step
from accord.diffusion.pipelines import token_spans, tokens_of
from accord.methods.invert import train as invert_train
from accord.methods.invert.config import InvertTrainConfig
from accord.methods.invert.equations import curriculum_prefix, ensemble, ensemble_weights, kernel_rows, spherical_kmeans
from accord.methods.invert.split import group_near_duplicates, split_groups
from accord.methods.invert.vocabulary import Vocabulary
from accord.methods.realign import layout
from accord.methods.realign import video as realign_video
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.equations import (
    Block,
    attend,
    augment,
    augment_blocks,
    joint_attention,
    logit_range,
    modulated_logits,
    modulation_strength,
    segment_gain,
)
from accord.methods.realign.fine import build_segments
from accord.methods.realign.layout import box_mask, box_side, plan
from accord.methods.realign.modulation import Segments
from accord.methods.realign.regions import PEAK_SHARE, find_regions, local_prompt, phrase_maps, slots
from accord.methods.realign.video import FrameModulation
from accord.methods.video import windows as video_windows
from accord.methods.video.masks import aligned_tokens, change_mask, middle_steps
from accord.methods.video.unet import Conditioning
from accord.methods.video.windows import Layout, VideoNetwork, window_rows, windows
from accord.prompts.phrases import phrases_of
from accord.prompts.swaps import exchanged, singular_of, spelled, swaps
from accord.types import Alignment, InputError, Prompt, Region, WordScore


def examples(count: int) -> settings:
    """So many examples, always the same ones, however slow the machine is."""
    return settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


# --- prompts of which is known what they say ------------------------------------------------------------------------
AMBIGUOUS = {"orange", "oranges", "sheep", "fish"}  # a colour as well; of one or of several
LEXICON = replace(DEFAULT, backgrounds=("white", "gray", "black"))
NOUNS = [*sorted(set(DEFAULT.nouns) - AMBIGUOUS), "robot", "teapot"]
COUNTS = {"a": 1, "an": 1, "the": 1, "": None, "one": 1, "two": 2, "3": 3, "Four": 4, "a pair of": 2}
SIDES = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}  # where the first is from the second


@dataclass
class Said:
    """A text, and of each phrase, word and relation in it what and where it is."""

    text: str
    phrases: list[dict]
    relations: list[tuple]


@st.composite
def said(draw, least: int = 1, most: int = 3, background: bool = True, links: tuple[str, ...] = ()) -> Said:
    text, phrases, relations = "", [], []
    gaps = st.sampled_from([" ", " ", " ", "  ", "\t"])

    def add(word: str) -> tuple[str, int, int]:
        nonlocal text
        text += draw(gaps) if text and word != "," else ""
        text += word
        return word, len(text) - len(word), len(text)

    def add_background() -> None:
        add("on")
        _, start, _ = add("a")
        tint, (_, _, end) = add("white"), add("background")
        phrases.append(
            {"start": start, "end": end, "background": True, "words": [(*tint, "background")], "count": None}
        )

    of_background = draw(st.sampled_from(["none", "first", "last"])) if background else "none"
    if of_background == "first":
        add_background()
        add(",")
    for k in range(draw(st.integers(least, most))):
        if k:
            how = draw(st.sampled_from(links or ("and", ",", "with", *RELATIONS)))
            spans = [add(word) for word in how.split()]
            if how in RELATIONS:
                start, end = spans[0][1], spans[-1][2]
                relations.append((len(phrases) - 1, RELATIONS[how], len(phrases), text[start:end], start, end))
        phrases.append(_phrase(draw, add))
    if of_background == "last":
        add_background()
    return Said(text, phrases, relations)


def _phrase(draw, add) -> dict:
    lead = draw(st.sampled_from(sorted(COUNTS)))
    count, words, spans = COUNTS[lead], [], []
    noun = draw(st.sampled_from(NOUNS))
    plural = count is None or count > 1
    noun = (DEFAULT.nouns.get(noun) or noun + "s") if plural else noun
    spans += [add(word) for word in lead.split()]
    if lead == "a pair of":
        start, end = spans[0][1], spans[-1][2]
        words.append((None, start, end, "count"))  # as it stands there, gaps included
    elif lead and lead != "the":
        words.append((*spans[-1], "count"))
    for kind, options in (("size", ["", "big", "tiny"]), ("color", ["", "red", "blue", "Green"])):
        if word := draw(st.sampled_from(options)):
            spans.append(add(word))
            words.append((*spans[-1], kind))
    shouted = noun.upper() if len(noun) > 4 else noun  # four capitals may be an acronym
    spans.append(add(draw(st.sampled_from([noun, noun, shouted]))))
    words.append((*spans[-1], "noun"))
    return {"start": spans[0][1], "end": spans[-1][2], "background": False, "words": words, "count": count}


def told(prompt: Prompt) -> tuple[list, list]:
    """What a prompt asks for, in words that do not tell how it is written."""
    phrases = []
    for phrase in prompt.phrases:
        of = {w.kind: w.text.lower() for w in phrase.words}
        noun = singular_of(phrase.head.text, DEFAULT)[0]
        phrases.append({"count": phrase.count, "size": of.get("size"), "color": of.get("color"), "noun": noun})
        phrases[-1]["background"] = of.get("background")
    return phrases, [(r.subject, r.name, r.object) for r in prompt.relations]


# --- spans ----------------------------------------------------------------------------------------------------------
@given(said())
@examples(50)
def test_every_phrase_word_and_relation_is_where_it_was_written(asked):
    prompt = phrases_of(asked.text)
    assert [(p.start, p.end, p.count, p.background) for p in prompt.phrases] == [
        (p["start"], p["end"], p["count"], p["background"]) for p in asked.phrases
    ]
    for phrase, wanted in zip(prompt.phrases, asked.phrases, strict=True):
        assert phrase.text == asked.text[phrase.start : phrase.end]
        words = [(text or asked.text[a:b], a, b, kind) for text, a, b, kind in wanted["words"]]
        assert [(w.text, w.start, w.end, w.kind) for w in phrase.words] == words
        assert phrase.head.end == phrase.end and phrase.head.kind == "noun"
    found = [(r.subject, r.name, r.object, r.word.text, r.word.start, r.word.end) for r in prompt.relations]
    assert found == asked.relations
    assert prompt.things == tuple(i for i, p in enumerate(asked.phrases) if not p["background"])
    assert slots(prompt) == [i for i in prompt.things for _ in range(prompt.phrases[i].count or 2)]


JUMBLE = (
    "a an the no without two 3 12 pair couple of red Big tiny star KEYS fish on white background left to the above "
    "next , . ' ( - picture and with trio zebra's naïve 東京 ² holding in front \u0301 walking parked"
).split()


@given(st.lists(st.sampled_from(JUMBLE), min_size=1, max_size=12), st.sampled_from([" ", "  ", "\t", "\n", ""]))
@examples(100)
def test_spans_of_any_jumble_are_slices_in_order_that_do_not_overlap(words, gap):
    text = gap.join(words)
    try:
        prompt = phrases_of(text)
    except InputError:
        assert not any(c.isalnum() or c == "_" for c in text)
        return
    for part in (*prompt.phrases, *prompt.words, *(p.head for p in prompt.phrases)):
        assert 0 <= part.start < part.end <= len(text) and text[part.start : part.end] == part.text
    for of in (prompt.words, *(p.words for p in prompt.phrases)):
        assert all(a.end <= b.start for a, b in itertools.pairwise(of))
    assert all(a.start <= b.start for a, b in itertools.pairwise(prompt.phrases))
    for link in prompt.relations:
        assert link.subject != link.object


@given(said(), st.data())
@examples(30)
def test_a_counterfactual_changes_what_it_is_of_and_nothing_else(asked, data):
    prompt = phrases_of(asked.text)
    phrases, links = told(prompt)
    for word in (data.draw(st.sampled_from(prompt.words)), *(r.word for r in prompt.relations)):
        at = next((i for i, p in enumerate(prompt.phrases) if word in p.words), None)
        link = next((i for i, r in enumerate(prompt.relations) if r.word == word), None)
        options = [(o, text) for o, text in swaps(prompt, word, LEXICON) if word.kind != "noun" or o not in AMBIGUOUS]
        assert options or (link is not None and links[link][1] not in SIDES)  # "near" has no opposite
        for option, changed in options:
            now, after = told(phrases_of(changed))
            wanted, wanted_links = [dict(p) for p in phrases], list(links)
            if link is not None:
                wanted_links[link] = (links[link][0], option, links[link][2])
            else:
                value = {"count": NUMBERS.get(option), "noun": singular_of(option, DEFAULT)[0]}.get(word.kind, option)
                wanted[at][word.kind] = value
            assert (now, after) == (wanted, wanted_links), changed


@given(said(least=2))
@examples(40)
def test_two_colours_change_places(asked):
    prompt = phrases_of(asked.text)
    tints = [(i, w) for i, p in enumerate(prompt.phrases) for w in p.words if w.kind == "color"]
    assume(len(tints) > 1)
    for (i, first), (j, second) in itertools.combinations(tints, 2):
        phrases, links = told(prompt)
        phrases[i]["color"], phrases[j]["color"] = phrases[j]["color"], phrases[i]["color"]
        assert told(phrases_of(exchanged(asked.text, first, second))) == (phrases, links)


@given(said())
@examples(30)
def test_counts_in_words_are_the_same_counts(asked):
    assume(not re.search(r"over\s+3", asked.text))  # more than three
    prompt = spelled(phrases_of(asked.text))
    assert told(prompt) == told(phrases_of(asked.text)) and not any(w.text.isdigit() for w in prompt.words)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=60), st.integers(1, 60))
@examples(60)
def test_the_words_that_do_not_fit_are_named_from_the_first_on(sizes, room):
    words = [f"w{i}" for i in range(len(sizes))]
    size = dict(zip(words, sizes, strict=True))
    lost = words_beyond(" ".join(words), lambda t: sum(size[w] for w in t.split()), room)
    fits = next((i for i in range(len(words)) if sum(sizes[: i + 1]) > room), len(words))
    whole = " ".join(words[fits:])
    assert lost == (whole if len(whole) <= 80 else whole[:77] + "...")


# --- spans of tokens ------------------------------------------------------------------------------------------------
@lru_cache(1)
def tokenizers() -> dict:
    pieces = [
        "<pad>",
        "</s>",
        "<unk>",
        "▁",
        *"abcdefghijklmnopqrstuvwxyz",
        *"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        *"0123456789,",
    ]
    t5 = T5TokenizerFast(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0, model_max_length=256)
    return {"clip": tiny_tokenizer(), "t5": t5, "slow": Slow()}


class Slow:
    """A tokenizer without offsets: pieces of at most three letters."""

    model_max_length = 77

    def tokenize(self, text: str) -> list[str]:
        pieces = []
        for word in text.lower().replace(",", " , ").split():
            cut = [word[i : i + 3] for i in range(0, len(word), 3)]
            pieces += [*cut[:-1], cut[-1] + "</w>"]
        return pieces


def piped(kind: str = "clip") -> SimpleNamespace:
    """As much of a pipeline as the spans of its tokens need."""
    unet = SimpleNamespace(config=SimpleNamespace(sample_size=16), dtype=torch.float32)
    return SimpleNamespace(tokenizer=tokenizers()[kind], unet=unet, _execution_device=torch.device("cpu"))


def letters(text: str) -> str:
    return "".join(text.split())


@given(said(), st.sampled_from(["clip", "t5", "slow"]))
@examples(50)
def test_tokens_of_a_phrase_are_its_letters(asked, kind):
    text, pipe = asked.text, piped(kind)
    spans = token_spans(pipe, text)
    assert len(spans) == pipe.tokenizer.model_max_length
    there = [s for s in spans if s is not None]
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(there)) and all(a < b for a, b in there)
    lead = 0 if kind == "t5" else 1  # the beginning's own token
    assert spans[:lead] == [None] * lead and spans[lead : lead + len(there)] == there
    if kind != "t5":
        pieces = [p.removesuffix("</w>") for p in pipe.tokenizer.tokenize(text)]
        assert [text[a:b].lower() for a, b in there] == pieces

    def seen(indices) -> str:
        covered = sorted({c for i in indices if spans[i] for c in range(*spans[i])})
        return letters("".join(text[c] for c in covered))

    assert seen(range(len(spans))) == letters(text)
    for part in phrases_of(text).phrases:
        inside = tokens_of(spans, part.start, part.end)
        assert inside == list(range(inside[0], inside[-1] + 1)) and seen(inside) == letters(part.text)


SPANS = st.lists(st.none() | st.tuples(st.integers(0, 12), st.integers(1, 4)).map(lambda s: (s[0], sum(s))), max_size=8)


@given(SPANS, st.integers(0, 12), st.integers(1, 6))
@examples(50)
def test_tokens_that_share_a_letter_with_a_span(spans, start, length):
    wanted = [i for i, s in enumerate(spans) if s and set(range(*s)) & set(range(start, start + length))]
    assert tokens_of(spans, start, start + length) == wanted


@given(said(least=2, most=3, background=False), st.sampled_from([(0, 0), (1, 0), (0, 1)]), st.data())
@examples(20)
def test_a_maps_peak_is_where_the_phrases_tokens_look(asked, wide, data):
    """Each head looks at a pixel of its own, and that is the brightest of its phrase.

    Some tokenizers count the space before a word, or the one behind it, to its token.
    """
    prompt, size = phrases_of(asked.text), 24
    spans = [s and (max(0, s[0] - wide[0]), s[1] + wide[1]) for s in token_spans(piped(), asked.text)]
    assume(not any(wide) or "," not in asked.text)
    places = data.draw(st.permutations([(y, x) for y in range(2, size, 5) for x in range(2, size, 5)]))
    maps, of_phrase = torch.zeros(len(spans), size, size), dict(enumerate(places[: len(prompt.phrases)]))
    for k, (y, x) in of_phrase.items():
        head = prompt.phrases[k].head
        maps[tokens_of(spans, head.start, head.end), y, x] = 1
    found = phrase_maps(prompt, maps, spans)
    assert found.shape == (len(prompt.phrases), size, size) and found.min() >= 0 and found.max() <= 1
    for k, place in of_phrase.items():
        assert np.unravel_index(found[k].argmax(), (size, size)) == place and found[k].max() == pytest.approx(1)
        head = prompt.phrases[k].head
        for word in (w for w in prompt.phrases[k].words if w != head):
            alone = torch.zeros_like(maps)
            own, beside = (tokens_of(spans, w.start, w.end) for w in (head, word))
            alone[own, 0, 0] = alone[beside, -1, -1] = 1
            one, two = phrase_maps(prompt, alone, spans)[k][[0, -1], [0, -1]]
            half = 0.5 if word.kind in ("color", "modifier") else 0.0  # counts and sizes say nothing of where
            assert two * len(own) == pytest.approx(half * len(beside) * one, abs=1e-4)


# --- layouts --------------------------------------------------------------------------------------------------------
SHARES = st.floats(0, 1, allow_nan=False, width=32)


@st.composite
def boxes(draw, least: float = 0.0) -> tuple[float, float, float, float]:
    (x0, x1), (y0, y1) = (sorted((draw(SHARES), draw(SHARES))) for _ in range(2))
    assume(x1 - x0 >= least and y1 - y0 >= least)
    return x0, y0, x1, y1


SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))


@given(boxes(), SHAPES, SHARES)
@examples(60)
def test_a_boxs_mask_is_its_area_and_turns_with_it(box, shape, share):
    (x0, y0, x1, y1), (h, w) = box, shape
    mask = box_mask(box, shape)
    assert mask.shape == shape and mask.dtype == np.float32 and mask.min() >= 0 and mask.max() <= 1
    assert mask.sum() == pytest.approx((x1 - x0) * w * (y1 - y0) * h, abs=1e-4)
    assert np.allclose(box_mask((1 - x1, y0, 1 - x0, y1), shape), mask[:, ::-1], atol=1e-5)
    assert np.allclose(box_mask((x0, 1 - y1, x1, 1 - y0), shape), mask[::-1], atol=1e-5)
    assert np.allclose(box_mask((y0, x0, y1, x1), (w, h)), mask.T, atol=1e-5)
    middle = x0 + share * (x1 - x0)  # cut in two, the parts make up the whole
    parts = box_mask((x0, y0, middle, y1), shape) + box_mask((middle, y0, x1, y1), shape)
    assert np.allclose(parts, mask, atol=1e-5)
    assert np.allclose(box_mask((0.0, 0.0, 1.0, 1.0), shape), 1)


POINTS = st.tuples(SHARES, SHARES)


@given(POINTS, POINTS, st.sampled_from(sorted(SIDES)))
@examples(50)
def test_a_relation_is_broken_on_the_wrong_side_and_kept_clearly_on_the_right_one(a, b, name):
    a, b = np.asarray(a), np.asarray(b)
    cost = layout._violation(a, b, name)
    ahead = float(np.dot(a - b, SIDES[name]))
    aside = float(np.abs(np.dot(a - b, SIDES[name][::-1])))
    assert cost == pytest.approx(max(0.35 - ahead, 0) + 0.5 * max(aside - abs(ahead), 0), abs=1e-6)
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}[name]
    turned = {"left": "above", "above": "left", "right": "below", "below": "right"}[name]
    assert layout._violation(b, a, opposite) == layout._violation(a[::-1], b[::-1], turned) == cost
    assert layout._violation(a, b, "near") == 0


@st.composite
def layouts(draw):
    """Two to four things somewhere, with what each is held to."""
    n = draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    of = sorted(rng.integers(0, 3, n).tolist())
    links = [
        (int(a), str(name), int(b))
        for a, name, b in zip(
            rng.integers(0, 3, 2), rng.choice([*SIDES, "near"], 2), rng.integers(0, 3, 2), strict=True
        )
    ]
    avoided = [rng.random(2) for _ in range(int(rng.integers(0, 3)))]
    return of, links, rng.random((n, 2)), rng.random((n, 2)), rng.random(n), 0.1 + 0.5 * rng.random(n), avoided, rng


@given(layouts())
@examples(40)
def test_the_cost_of_a_place_is_that_of_its_distances_overlaps_and_relations(case):
    of, links, centres, anchors, stays, sides, avoided, rng = case
    places = rng.random((5, 2))
    for i in range(len(of)):
        found = layout._cost(i, places, centres, of, anchors, stays, sides, avoided, links)
        for place, cost in zip(places, found, strict=True):
            wanted = stays[i] * np.hypot(*(place - anchors[i]))
            wanted += layout.EDGE * sum(max(0, sides[i] / 2 - c) + max(0, c + sides[i] / 2 - 1) for c in place)
            wanted += layout.AVOID * sum(max(0, layout.AVOID_REACH - np.hypot(*(place - a))) for a in avoided)
            for j in set(range(len(of))) - {i}:
                apart = np.abs(place - centres[j])
                inside = np.maximum(0, (sides[i] + sides[j]) / 2 + layout.CLEAR - apart)
                wanted += layout.OVERLAP * inside.min()
                for first, name, second in links:
                    if (of[i], of[j]) == (first, second):
                        wanted += layout.RELATION * layout._violation(place, centres[j], name)
                    elif (of[j], of[i]) == (first, second):
                        wanted += layout.RELATION * layout._violation(centres[j], place, name)
            assert cost == pytest.approx(wanted)


@given(st.tuples(st.integers(2, 16), st.integers(2, 16)), st.data())
@examples(40)
def test_a_thing_by_itself_is_put_where_its_map_peaks_or_left_where_it_is(shape, data):
    (h, w), prompt = shape, phrases_of("a red star")
    y, x = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    maps = np.zeros((1, h, w))
    maps[0, y, x] = 1
    half = box_side(prompt, 0, 1) / 2
    (missing,) = plan(prompt, [0], [], maps)
    assert centre(missing.box) == pytest.approx(np.clip([(x + 0.5) / w, (y + 0.5) / h], half, 1 - half))
    box = data.draw(boxes(0.1))
    (there,) = plan(prompt, [0], [Region(0, box, box_mask(box, shape), "", 0.1)], maps)
    assert centre(there.box) == pytest.approx(np.clip(centre(box), half, 1 - half))


def centre(box) -> np.ndarray:
    return np.asarray([box[0] + box[2], box[1] + box[3]]) / 2


@st.composite
def scenes(draw, most: int = 2, least: int = 1, links: tuple[str, ...] = ()):
    """A prompt, what was found of it, its maps and what was tried in vain."""
    asked = draw(said(least=least, most=most, links=links))
    prompt = phrases_of(asked.text)
    asked_for = slots(prompt)
    size = draw(st.sampled_from([(8, 8), (16, 16), (8, 12)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    maps = rng.random((len(prompt.phrases), *size)).astype(np.float32)
    found, left = [], list(asked_for)
    for phrase in draw(st.lists(st.sampled_from(asked_for), max_size=len(asked_for))):
        if phrase in left:
            left.remove(phrase)
            box = draw(boxes(0.1))
            found.append(Region(phrase, box, box_mask(box, size), "seen", draw(st.sampled_from([0.05, 0.3, 0.8]))))
    return prompt, asked_for, found, maps


@given(scenes(), st.integers(0, 2))
@examples(30)
def test_a_layout_has_a_whole_box_for_everything(scene, vain):
    prompt, asked_for, found, maps = scene
    size = maps.shape[1:]
    tried: list[list[Region]] = []
    for _ in range(vain + 1):
        planned = plan(prompt, asked_for, found, maps, tried=tried)
        assert [r.phrase for r in planned] == asked_for
        for region in planned:
            x0, y0, x1, y1 = region.box
            assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
            side = box_side(prompt, region.phrase, len(asked_for))
            least = side if len(asked_for) == 1 else side / 2  # where many are crowded some are cut at the edge
            assert least - 1e-6 < min(x1 - x0, y1 - y0) and max(x1 - x0, y1 - y0) < side + 1e-6
            assert np.array_equal(region.mask, box_mask(region.box, size)) and region.mask.any()
            assert region.planned == (region.deficit >= 0.5)
        # each found thing is in the layout once, and what is not there has nothing of one
        sources = sorted((r.phrase, r.deficit) for r in planned if r.caption)
        assert sources == sorted((r.phrase, r.deficit) for r in found)
        assert all(r.deficit == 1 for r in planned if not r.caption)
        tried.append(planned)


@given(scenes(least=2, most=3, links=tuple(k for k, v in RELATIONS.items() if v in SIDES)))
@examples(30)
def test_in_a_layout_every_relation_holds(scene):
    prompt, asked_for, found, maps = scene
    planned = plan(prompt, asked_for, found, maps)
    assert prompt.relations
    for link, a, b in itertools.product(prompt.relations, planned, planned):
        if (a.phrase, b.phrase) == (link.subject, link.object):
            apart = float(np.dot(centre(a.box) - centre(b.box), SIDES[link.name]))
            assert apart > 0.02, (prompt.text, [r.box for r in planned])


@given(boxes(0.05), st.tuples(st.integers(12, 40), st.integers(12, 40)), st.floats(0, 0.5))
@examples(30)
def test_a_crop_is_around_the_middle_of_its_box(box, shape, margin):
    """Of a picture that says where each of its pixels is."""
    h, w = shape
    rows, columns = (torch.arange(n) + 0.5 for n in shape)
    image = torch.stack([columns.expand(h, w) / w, rows[:, None].expand(h, w) / h, torch.zeros(h, w)])
    found = crop(image, box, margin, 16)[0]
    assert found.shape == (3, 16, 16)
    long = max(4.0, min(max((box[2] - box[0]) * w, (box[3] - box[1]) * h) * (1 + 2 * margin), h, w))
    middle = [min(max(c * n, long / 2), n - long / 2) / n for c, n in zip(centre(box), (w, h), strict=True)]
    for channel, wanted, n in ((0, middle[0], w), (1, middle[1], h)):
        assert float(found[channel].mean()) == pytest.approx(wanted, abs=1.01 / n)
        ends = found[channel].mean(channel)
        assert float(ends[-1] - ends[0]) == pytest.approx((long - long / 16) / n, abs=1.6 / n)


# --- regions and masks ----------------------------------------------------------------------------------------------
@st.composite
def mapped(draw):
    """A prompt and the maps of its phrases, as `phrase_maps` gives them."""
    prompt = phrases_of(draw(said(most=3)).text)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, blur = draw(st.sampled_from([(12, 12), (16, 10)])), draw(st.sampled_from([0.7, 1.5, 2.5]))
    maps = np.stack([gaussian_filter(rng.random(size), blur) for _ in prompt.phrases])
    maps -= maps.min((1, 2), keepdims=True)
    return prompt, maps / maps.max((1, 2), keepdims=True)


@given(mapped())
@examples(40)
def test_regions_lie_in_their_own_phrases_blobs_and_never_overlap(case):
    prompt, maps = case
    h, w = maps.shape[1:]
    found = find_regions(prompt, maps)
    things = list(prompt.things)
    assert [r.phrase for r in found] == sorted(r.phrase for r in found)
    winner = np.asarray(things)[maps[things].argmax(0)]
    assert sum(r.mask for r in found).max(initial=0) <= 1
    for region in found:
        assert set(np.unique(region.mask)) <= {0, 1}
        inside = region.mask > 0
        assert (maps[region.phrase][inside] >= PEAK_SHARE).all() and (winner[inside] == region.phrase).all()
        rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
        box = (columns[0] / w, rows[0] / h, (columns[-1] + 1) / w, (rows[-1] + 1) / h)
        assert region.box == pytest.approx(box) and not region.planned
        assert label(inside)[1] == 1
    for phrase in things:
        own = (maps[phrase] >= PEAK_SHARE) & (winner == phrase)
        blobs, number = label(own)
        masses = sorted((float(maps[phrase][blobs == b].sum()) for b in range(1, number + 1)), reverse=True)
        large = [m for b, m in enumerate(masses) if b < slots(prompt).count(phrase)]
        kept = sorted((float((maps[phrase] * r.mask).sum()) for r in found if r.phrase == phrase), reverse=True)
        assert all(any(k == pytest.approx(m) for m in large) for k in kept) and len(kept) <= len(large)
        assert not own.any() or number > 3 or kept or max((blobs == b).sum() for b in range(1, number + 1)) < 3


@given(mapped())
@examples(15)
def test_regions_of_a_mirrored_map_are_mirrored(case):
    prompt, maps = case
    found, turned = find_regions(prompt, maps), find_regions(prompt, maps[:, :, ::-1])
    assert [r.phrase for r in found] == [r.phrase for r in turned]
    for a, b in zip(found, turned, strict=True):
        assert np.array_equal(a.mask[:, ::-1], b.mask)
        assert (1 - a.box[2], a.box[1], 1 - a.box[0], a.box[3]) == pytest.approx(b.box)


@given(said(most=3))
@examples(30)
def test_a_thing_by_itself_is_the_phrase_less_its_count_and_size(asked):
    prompt = phrases_of(asked.text)
    for i in prompt.things:
        phrases, links = told(local_prompt(prompt, i))
        assert phrases == [{**told(prompt)[0][i], "count": 1, "size": None}] and not links


@st.composite
def segmented(draw, batch: int = 2):
    """Who belongs to whom: a picture in segments [B,h,w] (-1: none), as one-hot masks."""
    n = draw(st.integers(1, 4))
    h, w = draw(st.sampled_from([(2, 2), (4, 4), (4, 6), (8, 8)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    owner = rng.integers(-1, n, (batch, h, w))
    if draw(st.booleans()):  # large patches
        owner = owner[:, ::2, ::2].repeat(2, 1).repeat(2, 2)
    masks = torch.from_numpy(np.stack([owner == k for k in range(n)], 1).astype(np.float32))
    return owner, masks, rng


@given(segmented())
@examples(40)
def test_each_pixel_of_a_layer_is_in_the_segment_that_covers_it_or_in_none(case):
    owner, masks, _ = case
    b, n, h, w = masks.shape
    segments = Segments(masks, torch.zeros(b, n, 3), torch.ones(b, n))
    own = segments.at((h, w))
    assert own.shape == (b, h * w, n)
    wanted = np.stack([(owner == k).reshape(b, -1) for k in range(n)], -1)
    assert np.array_equal(own.numpy(), wanted)
    coarse = segments.at((h // 2, w // 2)).numpy()
    for i, y, x in np.ndindex(b, h // 2, w // 2):
        there = owner[i, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel().tolist()
        most = [k for k in range(n) if there.count(k) > 2]
        assert coarse[i, y * (w // 2) + x].nonzero()[0].tolist() == most


@given(st.lists(scenes(), min_size=1, max_size=3), st.sampled_from(["none", "special", "unassigned"]), st.booleans())
@examples(15)
def test_segments_of_layouts_have_their_places_tokens_and_weights(batch, exempt, background):
    config = RealignConfig(exempt_tokens=exempt, background=0.7 if background else 0.0, omega_gain=0.8)
    prompts, layouts = [], []
    for prompt, asked_for, found, _ in batch:
        prompts.append(prompt)
        moved = [replace(r, mask=box_mask(r.box, (16, 16))) for r in found]
        layouts.append(plan(prompt, asked_for, moved, np.ones((len(prompt.phrases), 16, 16))))
    where = SimpleNamespace(size=(16, 16), spans=[token_spans(piped(), p.text) for p in prompts])
    made = build_segments(where, prompts, layouts, config)
    count = max(map(len, layouts))
    assert made.masks.shape[1] == made.tokens.shape[1] == made.omega.shape[1] == count + background
    for b, (prompt, regions) in enumerate(zip(prompts, layouts, strict=True)):
        spans = token_spans(piped(), prompt.text)
        assigned = set()
        for k, region in enumerate(regions):
            phrase = prompt.phrases[region.phrase]
            own = tokens_of(spans, phrase.start, phrase.end)
            assigned |= set(own)
            assert made.tokens[b, k].nonzero()[:, 0].tolist() == own
            assert np.array_equal(made.masks[b, k].numpy(), region.mask)
            assert float(made.omega[b, k]) == pytest.approx(1 + 0.8 * (region.deficit - 0.5))
        assert not made.masks[b, len(regions) : count].any() and not made.tokens[b, len(regions) : count].any()
        special = {i for i, s in enumerate(spans) if s is None}
        others = set(range(len(spans))) - assigned
        if background:
            assert torch.allclose(made.masks[b, -1] + made.masks[b, :-1].amax(0), torch.ones(16, 16))
            assert set(made.tokens[b, -1].nonzero()[:, 0].tolist()) == others and float(made.omega[b, -1]) == (
                pytest.approx(0.7)
            )
        left = None if made.exempt is None else set(made.exempt[b].nonzero()[:, 0].tolist())
        assert left == {"none": None, "special": special, "unassigned": others}[exempt]


# --- modulation -----------------------------------------------------------------------------------------------------
@dataclass
class Attention:
    query: torch.Tensor
    key: torch.Tensor
    alpha: torch.Tensor
    pixels: torch.Tensor
    keys: torch.Tensor
    bias: torch.Tensor | None
    exempt: torch.Tensor | None

    def plain(self) -> torch.Tensor:
        return self.query @ self.key.transpose(-1, -2) * self.query.shape[-1] ** -0.5

    def direct(self, part: slice = slice(None)) -> torch.Tensor:
        """The logits by equation (1), for a block of the keys."""
        plain = self.plain()[..., part]
        keys = self.keys[:, part]
        moved = modulated_logits(plain, (self.pixels @ keys.transpose(1, 2))[:, None], self.alpha[:, None, :, None])
        if self.bias is not None:
            moved = moved + ((self.pixels * self.bias[:, None]) @ keys.transpose(1, 2))[:, None]
        return moved if self.exempt is None else torch.where(self.exempt[:, None, None, part].bool(), plain, moved)


@st.composite
def attentions(draw, extras: bool = True) -> Attention:
    b, heads, queries, keys, d, n = (draw(st.integers(1, most)) for most in (2, 3, 9, 9, 8, 3))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    owner = torch.randint(0, n + 1, (b, queries), generator=g)  # n stands for none
    pixels = torch.nn.functional.one_hot(owner, n + 1)[..., :n].double()
    of = (torch.rand(b, keys, n, generator=g) < 0.4).double()  # two things of one phrase share its tokens
    alpha = torch.rand(b, queries, generator=g, dtype=torch.float64) * draw(st.sampled_from([1.0, 0.3]))
    bias = normal(b, n) if extras and draw(st.booleans()) else None
    exempt = (torch.rand(b, keys, generator=g) < 0.3).double() if extras and draw(st.booleans()) else None
    scale = draw(st.sampled_from([0.3, 1.0, 5.0]))
    return Attention(scale * normal(b, heads, queries, d), normal(b, heads, keys, d), alpha, pixels, of, bias, exempt)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-10, rtol=0)


@given(attentions(), st.integers(1, 5))
@examples(60)
def test_augmented_attention_is_the_softmax_of_the_modulated_logits(case, chunk):
    d = case.query.shape[-1]

    def weights(alpha: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        q, k = augment(case.query, case.key, alpha, case.pixels, case.keys, bias, case.exempt, chunk)
        value = torch.randn(case.key.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found = (q @ k.transpose(-1, -2) * d**-0.5).softmax(-1)
        assert close(attend(q, k, value, d), found @ value)
        return found

    found = weights(case.alpha, case.bias)
    assert close(found, case.direct().softmax(-1)) and close(found.sum(-1), torch.ones_like(found[..., 0]))
    assert close(weights(0 * case.alpha, None), case.plain().softmax(-1))


@given(attentions(extras=False))
@examples(40)
def test_related_keys_gain_up_to_the_largest_logit_and_others_lose_down_to_the_smallest(case):
    plain, moved = case.plain(), case.direct()
    related = (case.pixels @ case.keys.transpose(1, 2))[:, None].expand_as(plain).clamp(max=1) > 0
    assert (moved <= plain.amax(-1, keepdim=True) + 1e-12).all() and (
        moved >= plain.amin(-1, keepdim=True) - 1e-12
    ).all()
    assert (moved[related] >= plain[related] - 1e-12).all() and (moved[~related] <= plain[~related] + 1e-12).all()
    share = [(x.softmax(-1) * related).sum(-1) for x in (moved, plain)]
    assert (share[0] >= share[1] - 1e-12).all()
    full = replace(case, alpha=torch.ones_like(case.alpha)).direct()
    assert close(full, torch.where(related, plain.amax(-1, keepdim=True), plain.amin(-1, keepdim=True)))
    assert close(replace(case, alpha=0 * case.alpha).direct(), plain)


@given(attentions(), st.data())
@examples(30)
def test_joint_attention_is_one_softmax_over_blocks_that_are_modulated_by_themselves(case, data):
    keys = case.key.shape[-2]
    cuts = sorted(data.draw(st.sets(st.integers(1, keys - 1), max_size=2))) if keys > 1 else []
    parts = [slice(a, b) for a, b in itertools.pairwise([0, *cuts, keys])]
    blocks, logits = [], []
    for i, part in enumerate(parts):
        alpha = case.alpha / (i + 1)
        exempt = None if case.exempt is None else case.exempt[:, part]
        blocks.append(Block(part, alpha, case.keys[:, part], case.bias, exempt))
        logits.append(replace(case, alpha=alpha).direct(part))
    q, k = augment_blocks(case.query, case.key, case.pixels, blocks, chunk=2)
    found = (q @ k.transpose(-1, -2) * case.query.shape[-1] ** -0.5).softmax(-1)
    wanted = torch.cat(logits, -1).softmax(-1)
    assert close(found, wanted)
    value = torch.randn(case.key.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert close(joint_attention(case.query, case.key, value, blocks, case.pixels), wanted @ value)


@given(attentions(extras=False), st.integers(1, 12))
@examples(20)
def test_the_range_of_logits_is_the_same_in_any_chunks(case, chunk):
    low, high = logit_range(case.query, case.key, case.query.shape[-1] ** -0.5, chunk)
    assert close(low, case.plain().amin(-1, keepdim=True)) and close(high, case.plain().amax(-1, keepdim=True))


@given(segmented(), st.floats(0, 1), st.floats(0, 2))
@examples(30)
def test_strength_follows_size_weight_and_time(case, tau, weight):
    owner, masks, rng = case
    b, n, h, w = masks.shape
    pixels = Segments(masks, torch.zeros(b, n, 1), torch.ones(b, n)).at((h, w))
    omega = torch.from_numpy(rng.random((b, n)).astype(np.float32) * 2)
    found, gain = modulation_strength(pixels, omega, weight, tau), segment_gain(pixels)
    for i, y, x in np.ndindex(b, h, w):
        k = owner[i, y, x]
        own = 1 - float((owner[i] == k).mean()) if k >= 0 else 0.0
        assert float(gain[i, y * w + x]) == pytest.approx(own, abs=1e-6)
        wanted = min(1.0, own * float(omega[i, k]) * weight * tau) if k >= 0 else 0.0
        assert float(found[i, y * w + x]) == pytest.approx(wanted, abs=1e-5)


@given(segmented(), st.integers(0, 2), st.booleans(), st.booleans())
@examples(25)
def test_a_layer_modulates_the_last_of_a_batch_and_nothing_before_them(case, free, cross, log_omega):
    owner, masks, rng = case
    b, n, h, w = masks.shape
    tokens = torch.from_numpy((rng.random((b, n, 5)) < 0.4).astype(np.float32))
    omega = torch.from_numpy(rng.random((b, n)).astype(np.float32) + 0.5)
    config = RealignConfig(cross_weight=0.8, self_weight=0.4, modulated_share=0.5, time_power=1.0, log_omega=log_omega)
    state = FrameModulation(Segments(masks, tokens, omega), config, (h, w))
    state.before_step(Step(1, 4, torch.tensor(600.0), torch.zeros(1)))
    assert state.active and state.tau == pytest.approx(0.6)
    g = torch.Generator().manual_seed(int(rng.integers(2**31)))
    keys = 5 if cross else h * w
    query, key, value = (torch.randn(b + free, 2, s, 8, generator=g) for s in (h * w, keys, keys))
    out = state(None, query, key, value, cross)  # as an inflated U-Net's processors call it
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert torch.allclose(out[:free], plain[:free], atol=1e-5)
    pixels = torch.from_numpy(np.stack([(owner == k).reshape(b, -1) for k in range(n)], -1).astype(np.float32))
    alpha = modulation_strength(pixels, omega, 0.8 if cross else 0.4, 0.6)
    bias = omega.log() * 0.6 if log_omega and cross else None
    of = tokens.transpose(1, 2) if cross else pixels
    logits = Attention(query[free:], key[free:], alpha, pixels, of, bias, None).direct()
    assert torch.allclose(out[free:], logits.softmax(-1) @ value[free:], atol=1e-4)
    state.before_step(Step(2, 4, torch.tensor(500.0), torch.zeros(1)))
    assert not state.active


# --- videos ----------------------------------------------------------------------------------------------------------
@st.composite
def cuts(draw) -> tuple[int, int, int]:
    """Frames of a video, frames of a window, frames that two windows share."""
    size = draw(st.integers(1, 9))
    return draw(st.integers(1, 30)), size, draw(st.integers(0, size - 1))


@given(cuts(), st.integers(0, 99))
@examples(75)
def test_windows_cover_every_frame_and_are_whole(cut, seed):
    count, size, overlap = cut
    found = windows(count, size, overlap)
    assert sorted({frame for rows in found for frame in rows}) == list(range(count))
    for rows in found:
        assert rows == list(range(rows[0], rows[0] + min(size, count)))
    for a, b in itertools.pairwise(found):  # by its first frame a window is known
        assert a[0] < b[0] and len(set(a) & set(b)) >= overlap
    assert len(found) == 1 + max(0, -(-(count - size) // (size - overlap)))
    rows = window_rows(count, size, torch.Generator().manual_seed(seed))
    assert rows == list(range(rows[0], rows[0] + min(size, count))) and rows[0] >= 0 and rows[-1] < count


def test_every_window_is_drawn():
    g = torch.Generator().manual_seed(0)
    assert {window_rows(7, 4, g)[0] for _ in range(100)} == {0, 1, 2, 3}


@given(st.integers(1, 200))
@examples(50)
def test_the_middle_steps_are_in_the_middle(count):
    steps = middle_steps(count)
    assert steps == sorted(set(steps)) and 1 <= len(steps) <= 5
    assert len(steps) == 5 or count < 12
    assert 0.25 * (count - 1) - 1 < steps[0] and steps[-1] <= 0.75 * (count - 1)


@dataclass(eq=False)
class Unet:
    """A network that knows its text and the place in the window, and nothing of neighbouring frames."""

    frames: int = 0
    dtype: torch.dtype = torch.float32

    def __call__(self, x, t, encoder_hidden_states, **_):
        place = torch.arange(len(x)) % self.frames
        said = encoder_hidden_states.mean((1, 2)) + 100 * place
        return (x * t + said[:, None, None, None],)


@given(cuts(), st.integers(1, 3), st.booleans())
@examples(30)
def test_a_video_is_predicted_window_by_window_each_text_for_itself(cut, texts, injected):
    count, size, overlap = cut
    rows_of, unet = windows(count, size, overlap), Unet()

    @contextlib.contextmanager
    def inflated(network, layers, frames):
        network.frames = frames
        yield SimpleNamespace(inject=None, aligned=None)

    scheduler = SimpleNamespace(scale_model_input=lambda x, t: x)
    network = VideoNetwork(SimpleNamespace(unet=unet), scheduler, None, rows_of)
    x, other = (torch.randn(count, 2, 2, 2, generator=torch.Generator().manual_seed(i)) for i in range(2))
    conditionings = [Conditioning(torch.full((1, 3, 4), 10.0**i)) for i in range(texts)]
    of_source = Layout(other, torch.zeros(4)) if injected else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video_windows, "inflated", inflated)
        found = network(x, 3, conditionings, of_source)
    places = [[rows.index(f) for rows in rows_of if f in rows] for f in range(count)]
    offset = 100 * torch.tensor([sum(p) / len(p) for p in places])[:, None, None, None]
    for i, output in enumerate(found):
        shown = other if injected and i == 0 else x
        assert torch.allclose(output, 3 * shown + 10.0**i + offset, atol=1e-4)


@given(st.integers(1, 6), st.integers(4, 30), st.data())
@examples(20)
def test_what_changes_is_found_in_the_frame_and_at_the_place_where_outputs_differ(frames, steps, data):
    places = [data.draw(st.tuples(st.integers(2, 9), st.integers(2, 9))) for _ in range(frames)]
    latents = torch.zeros(frames, 4, 12, 12)
    spans = [(t - 10, t) for t in range(10, 10 * (steps + 1), 10)]
    path = [torch.full_like(latents, i) for i in range(steps + 1)]
    seen = []

    def predict(x, t, texts):
        assert spans[int(x.mean()) - 1][1] == t  # the network is asked at the step that the latents are of
        seen.append(t)
        out = torch.zeros_like(x)
        for f, (y, column) in enumerate(places):
            out[f, :, y - 1 : y + 2, column - 1 : column + 2] = 1
        return [x + out if texts[0] == "source" else x, x if texts[0] == "source" else x + out]

    predict.device = torch.device("cpu")
    change = change_mask(predict, path, spans, "source", "target")
    assert change.shape == (frames, 1, 12, 12) and change.min() == 0 and change.max() == 1
    assert seen == [spans[i][1] for i in middle_steps(steps)]
    for f, (y, column) in enumerate(places):
        differs = np.zeros((12, 12))
        differs[y - 1 : y + 2, column - 1 : column + 2] = 1
        smooth = uniform_filter(differs, 3, mode="constant") / uniform_filter(np.ones((12, 12)), 3, mode="constant")
        assert np.allclose(change[f, 0].numpy(), ((smooth - 0.2) / 0.2).clip(0, 1), atol=1e-4)


WORDS = "red blue car star key moon fish tree house big small cat dog horse boat".split()


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9, unique=True), st.data())
@examples(25)
def test_tokens_are_aligned_across_a_replaced_word(words, data):
    at = data.draw(st.integers(0, len(words) - 1))
    new = data.draw(st.sampled_from([["umbrella"], ["wooden", "chair"], ["very", "old", "clock"]]))
    source, target = " ".join(words), " ".join([*words[:at], *new, *words[at + 1 :]])
    pipe = piped()
    found = aligned_tokens(pipe, source, target).tolist()
    a, b = (pipe.tokenizer(p).input_ids for p in (source, target))
    lead = 1 + len(pipe.tokenizer(" ".join(words[:at])).input_ids) - 2  # with the first token, less the last
    tail = len(pipe.tokenizer(" ".join(words[at + 1 :])).input_ids) - 2
    assert found[:lead] == list(range(lead))
    assert [a[i] for i in found[len(b) - 1 - tail : len(b)]] == b[len(b) - 1 - tail :]
    replaced = found[lead : len(b) - 1 - tail]
    assert (
        replaced == sorted(replaced) and set(replaced) <= {-1, *range(lead, len(a) - 1 - tail)} and max(replaced) >= 0
    )
    assert aligned_tokens(pipe, source, source).tolist() == list(range(77))


@given(said(most=3), said(most=3), st.integers(1, 4), cuts(), st.integers(0, 2**32 - 1))
@examples(20)
def test_in_every_frame_the_targets_things_belong_where_the_sources_are(source, target, frames, cut, seed):
    here, there = phrases_of(source.text), phrases_of(target.text)
    rng = np.random.default_rng(seed)
    maps = np.stack([[gaussian_filter(rng.random((16, 16)), 2.0) for _ in here.phrases] for _ in range(frames)])
    maps = (maps - maps.min((2, 3), keepdims=True)) / np.ptp(maps, axis=(2, 3), keepdims=True)
    masks, tokens = realign_video.segments_of(piped(), source.text, target.text, maps)
    pairs = list(zip(here.things, there.things, strict=False))
    assert masks.shape == (frames, max(1, len(pairs)), 16, 16) and tokens.shape == (1, max(1, len(pairs)), 77)
    spans = token_spans(piped(), target.text)
    for k, (own, wanted) in enumerate(pairs):
        phrase = there.phrases[wanted]
        assert tokens[0, k].nonzero()[:, 0].tolist() == tokens_of(spans, phrase.start, phrase.end)
        for frame in range(frames):
            regions = [r.mask for r in find_regions(here, maps[frame]) if r.phrase == own]
            assert np.array_equal(masks[frame, k].numpy(), sum(regions) if regions else np.zeros((16, 16)))

    # every window has the masks of its own frames
    editor = SimpleNamespace(pipe=piped(), prompt=source.text, windows=[r for r in windows(frames, *cut[1:])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(realign_video, "frame_maps", lambda editor, path: maps)
        states = realign_video.modulate_video(0.5)(editor, target.text, [])
    assert sorted(states) == [rows[0] for rows in editor.windows]
    for rows in editor.windows:
        segments = states[rows[0]].segments
        assert torch.equal(segments.masks, masks[rows]) and torch.equal(segments.tokens, tokens.repeat(len(rows), 1, 1))


# --- readers of pairs -----------------------------------------------------------------------------------------------
SPICES = [
    '"',
    '""',
    ",",
    ";",
    "\t",
    "|",
    "\n",
    "\r\n",
    "\r",
    " ",
    "'",
    "\\",
    "\ufeff",
    "\u2028",
    "\x85",
    "=1+1",
    "é",
    "東京",
    "🙂",
]
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
CELLS = st.lists(
    st.one_of(st.sampled_from(SPICES), LETTERS, st.sampled_from(["a", "star"])), min_size=1, max_size=8
).map("".join)
SAID = CELLS.filter(str.strip)  # what can be a name or a prompt
TABLES = st.lists(st.tuples(SAID, SAID), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


def as_csv(rows: list[list[str]], delimiter: str, end: str, quoted: bool) -> str:
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if quoted or end != "\r\n" else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(rows)
    return text.getvalue()


def read(path, rows) -> None:
    """The pairs of a table must be these, in order."""
    found = read_pairs(path)
    assert not found.skipped
    assert [(p.name, p.prompt, p.row) for p in found.pairs] == [
        (name, prompt.strip(), i) for i, (name, prompt) in enumerate(rows, start=1)
    ]
    for pair, (name, _) in zip(found.pairs, rows, strict=True):
        assert pair.image.startswith("/") and pair.image.rpartition("/")[2] == name.rpartition("/")[2]
        if "/" not in name:
            assert pair.image == f"{path.parent.resolve()}/{name}"


HEADS = [("image", "prompt"), ("prompt", "image"), ("Text", "id", " file_name "), ("caption", "path", "score")]


def cells(head, name: str, prompt: str) -> list[str]:
    known = {"image": name, "file_name": name, "path": name, "prompt": prompt, "text": prompt, "caption": prompt}
    return [known.get(h.strip().lower(), "7") for h in head]


@given(
    TABLES,
    st.sampled_from(HEADS),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\r\n", "\n", "\r"]),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
@examples(40)
def test_a_csv_table_of_any_texts_is_read_as_it_was_written(place, rows, head, delimiter, end, quoted, encoding):
    path = place / "t.csv"
    table = [list(head), *(cells(head, *row) for row in rows)]
    path.write_bytes(as_csv(table, delimiter, end, quoted).encode(encoding))
    read(path, rows)
    assert read_prompts(path) == [" ".join(prompt.split()) for _, prompt in rows]


@given(TABLES, st.sampled_from(["\n", "\r\n", "\r", "\n\n"]), st.booleans(), st.sampled_from(["utf-8", "utf-8-sig"]))
@examples(25)
def test_a_jsonl_table_of_any_texts_is_read_as_it_was_written(place, rows, end, ascii_only, encoding):
    path = place / "t.jsonl"
    lines = [json.dumps({"score": 1, "file": n, "caption": p}, ensure_ascii=ascii_only) for n, p in rows]
    path.write_bytes("".join(line + end for line in lines).encode(encoding))
    found = read_pairs(path)
    step = 2 if end == "\n\n" else 1  # blank lines are none, and are counted
    assert [(p.name, p.prompt, p.row) for p in found.pairs] == [
        (n, p.strip(), 1 + step * i) for i, (n, p) in enumerate(rows)
    ]
    assert read_prompts(path) == [" ".join(p.split()) for _, p in rows] and not found.skipped


@given(TABLES, st.integers(1, 3), st.booleans(), st.booleans())
@examples(20)
def test_a_parquet_table_of_any_texts_is_read_as_it_was_written(place, rows, group, large, long):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = place / "t.parquet"
    rows = [(name, prompt + " x" * 40_000 * (long and not i)) for i, (name, prompt) in enumerate(rows)]
    kind = pa.large_string() if large else pa.string()
    columns = {"prompt": pa.array([p for _, p in rows], kind), "n": list(range(len(rows)))}
    columns["image"] = pa.array([n for n, _ in rows], kind)
    pq.write_table(pa.table(columns), path, row_group_size=group)
    read(path, rows)


@given(TABLES, st.sampled_from([".csv", ".jsonl", ".parquet"]))
@examples(25)
def test_a_table_that_accord_wrote_is_read_as_it_was_written(place, rows, suffix):
    path = place / f"own{suffix}"
    path.write_bytes(table_bytes([{"image": n, "score": 0.5, "prompt": p} for n, p in rows], suffix))
    if suffix == ".csv":  # a spreadsheet would run these
        rows = [tuple(f"'{t}" if t[0] in "=+-@\t\r" else t for t in row) for row in rows]
    read(path, rows)


GOOD = st.tuples(st.just("good"), SAID, SAID)


def mixed(*kinds: str):
    """Rows of which some are broken, and at least one is good."""
    rows = st.lists(GOOD | st.tuples(st.sampled_from(kinds), st.just("a.png"), st.just("a star")), max_size=8)
    return st.tuples(rows, GOOD, rows).map(lambda r: [*r[0], r[1], *r[2]])


def assert_counted(path, rows) -> None:
    found = read_pairs(path)
    assert [(p.row, p.name, p.prompt) for p in found.pairs] == [
        (i, n, p.strip()) for i, (kind, n, p) in enumerate(rows, start=1) if kind == "good"
    ]
    assert [r["row"] for r in found.skipped] == [i for i, row in enumerate(rows, start=1) if row[0] != "good"]
    assert all(r["reason"] for r in found.skipped)


@given(
    mixed("short", "long", "no prompt", "no image", "bytes", "quote", "open", "much"), st.sampled_from([b"\r\n", b"\n"])
)
@examples(35)
def test_broken_rows_of_a_csv_table_are_counted_and_no_other(place, rows, end):
    broken = {
        "short": b"a.png",
        "long": b"a.png,a star,big",
        "no prompt": b'a.png," "',
        "no image": b",a star",
        "bytes": b"a.png,caf\xe9",
        "quote": b'"a.png"x,a star',
        "open": b'"a.png,a star',
        "much": b"a.png," + b"x" * 100_001,
    }
    rows = [(kind, f"n{name}", prompt) for kind, name, prompt in rows]  # a quote before "," or a line's end may close
    path, data = place / "b.csv", b"image,prompt" + end
    for kind, name, prompt in rows:
        good = as_csv([[name, prompt]], ",", end.decode(), True).encode()
        data += good if kind == "good" else broken[kind] + end
    path.write_bytes(data)
    assert_counted(path, rows)


@given(mixed("json", "number", "list", "no prompt", "no image", "blank", "bytes", "kind", "twice"))
@examples(20)
def test_broken_rows_of_a_jsonl_table_are_counted_and_no_other(place, rows):
    broken = {
        "json": b'{"image": "a.png", "prompt": "a star"',
        "number": b"3",
        "list": b'["a.png", "a star"]',
        "no prompt": b'{"image": "a.png"}',
        "no image": b'{"prompt": "a star"}',
        "blank": b'{"image": "a.png", "prompt": "  "}',
        "bytes": b'{"image": "a.png", "prompt": "\xe9"}',
        "kind": b'{"image": "a.png", "prompt": 4}',
        "twice": b'{"image": "a.png", "prompt": "a"} {}',
    }
    path, lines = place / "b.jsonl", []
    for kind, name, prompt in rows:
        lines.append(json.dumps({"image": name, "prompt": prompt}).encode() if kind == "good" else broken[kind])
    path.write_bytes(b"\n".join(lines))
    assert_counted(path, rows)


@given(mixed("no prompt", "no image", "blank"))
@examples(15)
def test_broken_rows_of_a_parquet_table_are_counted_and_no_other(place, rows):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    names = [None if kind == "no image" else name for kind, name, _ in rows]
    prompts = [{"no prompt": None, "blank": " "}.get(kind, prompt) for kind, _, prompt in rows]
    pq.write_table(pa.table({"image": names, "prompt": prompts}), place / "b.parquet")
    assert_counted(place / "b.parquet", rows)


@given(st.lists(SAID, min_size=1, max_size=6), st.sampled_from(["\r\n", "\n"]), st.booleans())
@examples(20)
def test_prompt_files_of_every_kind_hold_the_same_prompts(place, prompts, end, marked):
    wanted = [" ".join(p.split()) for p in prompts]
    encoding = "utf-8-sig" if marked else "utf-8"
    lines = ["".join(c for c in p if c not in "\r\n") for p in prompts]
    files = {
        "p.txt": "\n".join(lines) if marked else "a first one\n" + "\n".join(lines),
        "p.tsv": as_csv([["n", "prompt"], *(["1", p] for p in prompts)], "\t", end, True),
        "p.csv": as_csv([["Caption"], *([p] for p in prompts)], ",", end, True),
        "p.jsonl": end.join(json.dumps(p) for p in prompts),
        "p.json": json.dumps(prompts),
        "coco.json": json.dumps({"annotations": [{"id": 1, "caption": p} for p in prompts]}),
    }
    for name, text in files.items():
        (place / name).write_bytes(text.encode(encoding))
        own = [" ".join(line.split()) for line in lines]
        assert read_prompts(place / name) == (
            (["a first one"] * (not marked) + [line for line in own if line]) if name == "p.txt" else wanted
        ), name


@given(st.lists(st.sampled_from(["good", "number", "none", "bytes"]), min_size=1, max_size=9))
@examples(20)
def test_broken_prompts_are_counted_and_no_other(place, kinds):
    kinds = [*kinds, "good"]
    broken = {"number": b"4", "none": b'{"score": 1}', "bytes": b'"caf\xe9"'}
    lines = [b'"a star %d"' % i if k == "good" else broken[k] for i, k in enumerate(kinds)]
    (place / "k.jsonl").write_bytes(b"\n".join(lines))
    skipped = PairsFile()
    assert read_prompts(place / "k.jsonl", skipped) == [f"a star {i}" for i, k in enumerate(kinds) if k == "good"]
    wrong = [i for i, k in enumerate(kinds, start=1) if k != "good"]
    assert [r["row"] for r in skipped.skipped] == wrong
    if wrong:
        with pytest.raises(
            InputError, match=rf"line {wrong[0]} of .*" + (f"{len(wrong) - 1} more" if wrong[1:] else "")
        ):
            read_prompts(place / "k.jsonl")


class Picture:
    def save(self, path) -> None:
        path.write_bytes(b"")


@given(
    st.lists(
        st.lists(st.tuples(SAID, st.sampled_from(["there", "gone"])), min_size=1, max_size=3), min_size=1, max_size=3
    ),
    st.booleans(),
)
@examples(15)
def test_a_folder_of_parts_gives_its_pairs_in_order_and_counts_what_is_gone(tmp_path_factory, parts, indexed):
    folder = tmp_path_factory.mktemp("parts")
    wanted, gone = [], []
    for number, rows in enumerate(parts, start=3):
        index = [{"p": prompt, "se": 1, "c": 7.0, "st": 5, "sa": "x"} for prompt, _ in rows]
        write_part(folder, number, [Picture() for _ in rows], index)
    if indexed:
        pytest.importorskip("pyarrow")
        assert write_metadata(folder) == sum(map(len, parts))
    for number, rows in enumerate(parts, start=3):
        for i, (prompt, state) in enumerate(rows):
            name = f"part-{number:06d}/{number:06d}-{i:06d}.png"
            row = len(wanted) + len(gone) + 1
            if state == "gone":
                (folder / name).unlink()
                gone.append(row)
            else:
                wanted.append((row, name, prompt.strip()))
    skipped = PairsFile()
    assert [(p.row, p.name, p.prompt) for p in stream_pairs(folder, skipped)] == wanted
    assert [r["row"] for r in skipped.skipped] == gone


@given(st.lists(st.integers()), st.integers(1, 9))
@examples(20)
def test_shards_are_disjoint_and_together_everything(items, count):
    shares = [list(share_of(items, (i, count))) for i in range(1, count + 1)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [shares[k % count][k // count] for k in range(len(items))] == items
    assert share_of(items, None) == items


# --- which pairs go together ----------------------------------------------------------------------------------------
ANGLES = st.lists(st.integers(0, 35), min_size=1, max_size=16)  # in steps of ten degrees


@given(ANGLES, st.sampled_from([5, 15, 25]), st.integers(1, 7), st.randoms(use_true_random=False))
@examples(40)
def test_near_duplicates_hang_together_from_row_to_row(angles, reach, chunk, random):
    """Directions in a plane: those nearer than `reach` degrees are in one group, however the rows are ordered."""
    turned = np.radians(10 * np.asarray(angles))
    vectors = torch.from_numpy(np.stack([np.cos(turned), np.sin(turned)], 1)).float()
    groups = group_near_duplicates(vectors, float(np.cos(np.radians(reach))), chunk)

    steps = reach // 10
    known = {a: a for a in angles}
    for _ in known:
        for a, b in itertools.product(known, known):
            if min((a - b) % 36, (b - a) % 36) <= steps:
                known[a] = known[b] = min(known[a], known[b])
    for i, j in itertools.combinations(range(len(angles)), 2):
        assert (groups[i] == groups[j]) == (known[angles[i]] == known[angles[j]])
    order = list(range(len(angles)))
    random.shuffle(order)
    again = group_near_duplicates(vectors[order], float(np.cos(np.radians(reach))), 2048)
    assert all((again[i] == again[j]) == (groups[order[i]] == groups[order[j]]) for i in order for j in order)


@given(
    st.lists(st.integers(1, 6), min_size=8, max_size=40),
    st.integers(0, 9),
    st.sampled_from([(0.0, 0.0), (0.1, 0.3), (0.3, 0.1), (0.25, 0.2), (0.0, 0.2)]),
    st.booleans(),
)
@examples(40)
def test_a_split_is_a_partition_into_whole_groups(sizes, seed, shares, shuffled):
    groups = np.repeat(np.arange(len(sizes)) * 3, sizes)
    if shuffled:
        np.random.default_rng(seed).shuffle(groups)
    wanted = {name: share * len(groups) for name, share in zip(("validation", "test"), shares, strict=True)}
    most = {name: max(1, w / 2) for name, w in wanted.items()}  # of one group
    try:
        split = split_groups(groups, *shares, seed)
    except ValueError:  # the groups that are small enough do not fill both parts
        assert sum(n for n in sizes if n <= min(most.values())) < sum(wanted.values())
        return
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(groups)))
    own = {name: set(groups[rows].tolist()) for name, rows in parts.items()}
    assert sum(map(len, own.values())) == len(sizes)
    for name, room in wanted.items():
        assert (np.diff(parts[name]) > 0).all() and len(parts[name]) <= room
        assert all(sizes[g // 3] <= most[name] for g in own[name])
        left = [sizes[g // 3] for g in own["train"] if sizes[g // 3] <= most[name]]
        assert all(len(parts[name]) + n > room for n in left)  # none that still fits is left out
    again = split_groups(groups, *shares, seed)
    assert all(np.array_equal(getattr(again, name), rows) for name, rows in parts.items())


@given(st.lists(st.integers(1, 5), min_size=6, max_size=30), st.integers(2, 3), st.integers(0, 9))
@examples(20)
def test_folds_keep_near_duplicates_together_and_are_of_one_size(sizes, folds, seed):
    of = np.repeat(np.arange(len(sizes)), sizes)
    np.random.default_rng(seed).shuffle(of)
    targets = torch.eye(len(sizes))[of]
    config = InvertTrainConfig(folds=folds, seed=seed)
    found = invert_train._folds(Targets(targets), config).numpy()
    assert found.shape == of.shape and set(found) == set(range(folds))
    assert all(len(set(found[of == g])) == 1 for g in range(len(sizes)))
    filled = np.bincount(found, minlength=folds)
    assert filled.max() - filled.min() <= max(sizes)


class Targets:
    """As much of a PairSet as folds need."""

    def __init__(self, targets: torch.Tensor) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)


@given(st.integers(1, 60), st.floats(0, 1), st.floats(0, 1))
@examples(60)
def test_prefixes_of_the_curriculum_are_nested_and_end_with_everything(count, a, b):
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    first, second = (curriculum_prefix(done, order) for done in sorted((a, b)))
    assert 1 <= len(first) <= len(second) and torch.equal(second[: len(first)], first)
    assert torch.equal(second, order[: len(second)])
    for quarter, share in enumerate((1 / 4, 1 / 3, 1 / 2, 1)):
        assert len(curriculum_prefix(quarter / 4, order)) == max(1, round(share * count))
    assert torch.equal(curriculum_prefix(1.0, order), order)


@given(st.integers(2, 4), st.integers(0, 99), st.data())
@examples(20)
def test_an_ensemble_weighs_each_predictor_by_its_own_weight(count, seed, data):
    g = torch.Generator().manual_seed(seed)
    target = normalize(torch.randn(30, 6, generator=g), dim=-1)
    best = data.draw(st.integers(0, count - 1))
    predictions = [torch.randn(30, 6, generator=g) for _ in range(count)]
    predictions[best] = 3 * target
    weights = ensemble_weights(predictions, target)
    assert sum(weights) == pytest.approx(1) and min(weights) >= 0 and weights[best] > 0.99
    assert torch.allclose(ensemble(predictions, weights), target, atol=0.02)
    order = data.draw(st.permutations(range(count)))
    assert [weights[i] for i in order] == pytest.approx(
        ensemble_weights([predictions[i] for i in order], target), abs=1e-5
    )
    given_to = data.draw(st.lists(st.floats(0.1, 1), min_size=count, max_size=count))
    wanted = sum(w * normalize(p, dim=-1) for w, p in zip(given_to, predictions, strict=True))
    assert torch.allclose(ensemble(predictions, given_to), normalize(wanted, dim=-1), atol=1e-5)


@given(st.integers(1, 4), st.integers(0, 99), st.floats(0.1, 5))
@examples(15)
def test_centroids_are_unit_vectors_and_the_kernel_falls_with_the_angle(count, seed, gamma):
    g = torch.Generator().manual_seed(seed)
    axes = torch.eye(6)[:count]
    rows = torch.cat([axes * (k + 1) for k in range(5)]) + 0.01 * torch.randn(5 * count, 6, generator=g)
    found = spherical_kmeans(rows, count, seed=seed, chunk=3)
    assert torch.allclose(found.norm(dim=-1), torch.ones(count))
    loose = normalize(torch.randn(40, 3, generator=g), dim=-1)
    settled = spherical_kmeans(loose, count, 60, seed)
    own = (loose @ settled.T).argmax(-1)
    for k in range(count):  # each is the middle of the rows that are nearest to it
        assert torch.allclose(normalize(loose[own == k].sum(0), dim=-1), settled[k], atol=1e-4)
    kernel = kernel_rows(rows, axes, gamma)
    assert kernel.shape == (len(rows), count) and kernel.max() <= 1 + 1e-6
    near = torch.arange(len(rows)) % count
    assert torch.equal(kernel.argmax(-1), near)
    assert torch.allclose(kernel[torch.arange(len(rows)), near], torch.ones(len(rows)), atol=0.02)
    others = kernel[near[:, None] != torch.arange(count)]
    assert torch.allclose(others, torch.full_like(others, float(np.exp(-gamma / 2))), atol=0.05)


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=6), min_size=1, max_size=5), st.integers(1, 6))
@examples(25)
def test_a_vocabulary_is_the_most_frequent_words_each_in_its_column(prompts, size):
    texts = [" the ".join(words) for words in prompts]
    counts = {w: sum(w in words for words in prompts) for w in WORDS}
    ranked = sorted((w for w in WORDS if counts[w]), key=lambda w: (-counts[w], w))
    assume(ranked)
    vocabulary = Vocabulary.build(texts, size)
    assert vocabulary.words == tuple(ranked[:size])
    present = vocabulary.present(texts)
    assert present.tolist() == [[float(w in words) for w in vocabulary.words] for words in prompts]
    sure = vocabulary.likelihood(present, texts)
    assert (sure > vocabulary.likelihood(1 - present, texts)).all() and (sure <= 0).all() and (sure > -0.1).all()


@given(said(), st.data())
@examples(20)
def test_a_phrases_score_is_the_mean_of_its_own_words(asked, data):
    prompt = phrases_of(asked.text)
    scores = {w: data.draw(st.floats(0.01, 1)) for w in prompt.words}
    alignment = Alignment(prompt, 0.5, tuple(WordScore(w, p, "", 0.0) for w, p in scores.items()))
    for phrase, found in zip(prompt.phrases, alignment.phrases, strict=True):
        own = [scores[w] for w in phrase.words]
        assert found == pytest.approx(float(np.prod(own) ** (1 / len(own))) if own else 1.0)
