"""The 512 prompts of SceneBench."""

from collections import Counter

import pytest

from accord_lab.bench.prompts import CATEGORIES, HELD_OUT_SHARE, PER_CATEGORY, draw, scenebench

BENCH = scenebench()


def test_eight_categories_of_64_distinct_prompts():
    assert Counter(p.category for p in BENCH) == dict.fromkeys(CATEGORIES, 64)
    assert PER_CATEGORY == 64 and len(CATEGORIES) == 8
    assert len({p.text for p in BENCH}) == 512


def test_the_file_equals_a_fresh_draw():
    assert draw() == BENCH


def test_held_out_flag_is_that_of_the_ask():
    assert [p.held_out for p in BENCH] == [p.ask.held_out for p in BENCH]


def test_a_quarter_is_held_out_wherever_a_combination_is_asked_for():
    held = Counter(p.category for p in BENCH if p.held_out)
    assert held == {c: int(HELD_OUT_SHARE * PER_CATEGORY) for c in CATEGORIES if c != "single"}


def of(category):
    return [p.ask for p in BENCH if p.category == category]


def test_each_category_asks_for_what_its_name_says():
    shape = {c: {tuple(t.count for t in a.things) for a in of(c)} for c in CATEGORIES}
    for category in ("single", "color"):
        assert shape[category] == {(1,)}
    for category in ("two things", "binding", "position", "size"):
        assert shape[category] == {(1, 1)}
    assert shape["counting"] == {(2,), (3,)}
    assert shape["complex"] == {(1, 1), (1, 1, 1)}
    assert all(t.color for c in ("color", "binding", "complex") for a in of(c) for t in a.things)
    assert all({t.size for t in a.things} == {"big", "small"} for a in of("size"))
    assert {r[1] for a in of("position") for r in a.relations} == {"left", "right", "above", "below"}
    assert all(len(a.relations) == 1 for a in of("position"))
    assert all(bool(a.relations) == bool(a.background) == (len(a.things) == 2) for a in of("complex"))


@pytest.mark.parametrize("category", ["binding", "complex"])
def test_things_of_a_prompt_differ_in_noun_and_color(category):
    for ask in of(category):
        assert len({t.noun for t in ask.things}) == len({t.color for t in ask.things}) == len(ask.things)
