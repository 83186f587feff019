"""The spine of the benches, with a bench of no models: what is kept, shared out, shown so far, and locked."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from accord.evaluation.stats import bootstrap, interval, paired
from accord.files import only_writer
from accord.types import InputError
from accord_lab.bench.report import percent, table, within
from accord_lab.bench.runner import Bench, bench_named, cache_folder, kept, known_rows


@dataclass(kw_only=True)
class Squares(Bench[int, dict[str, int]]):
    """Numbers and their squares."""

    name = "squares"
    keeps = True
    plans = ((1, 2, 3), (1,))
    each = True
    made: list[int] = field(default_factory=list)
    broken: tuple[int, ...] = ()

    def cells(self):
        return list(self.plan)

    def place(self, cell):
        return cache_folder(self.out, self.stem, "a knob") / f"{cell}.json"

    def finished(self, cell):
        return kept(self.place(cell))

    def measure(self, cell):
        def make():
            if cell in self.broken:
                raise InputError("that number is broken")
            self.made.append(cell)
            return {"n": cell, "square": cell**2}

        return kept(self.place(cell), make)

    def results(self, rows):
        return {"rows": list(rows)}

    @staticmethod
    def render(data):
        return "# Squares\n\n" + table(["n", "square"], [r.values() for r in data["rows"]]) + "\n"

    def pictures(self, data):
        return {"-sum.txt": str(sum(r["square"] for r in data["rows"])).encode()}


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_bench_writes_its_table_in_all_forms(tmp_path):
    data, text = Squares(out=tmp_path, progress=False).run()
    assert data == {"bench": "squares", "quick": False, "rows": [{"n": n, "square": n * n} for n in (1, 2, 3)]}
    assert text == "# Squares\n\n| n | square |\n|---|---|\n| 1 | 1 |\n| 2 | 4 |\n| 3 | 9 |\n"
    assert names(tmp_path) == [".cache", "squares-sum.txt", "squares.json", "squares.md"]
    assert json.loads((tmp_path / "squares.json").read_text()) == data and (tmp_path / "squares.md").read_text() == text
    assert (tmp_path / "squares-sum.txt").read_text() == "14"
    assert Squares(out=tmp_path, progress=False, quick=True).run()[0]["rows"] == data["rows"][:1]
    assert "squares-quick.md" in names(tmp_path)


def test_shards_share_the_cells_and_a_run_without_takes_them(tmp_path):
    for i, mine in ((1, [1, 3]), (2, [2])):
        bench = Squares(out=tmp_path, progress=False)
        said, _ = bench.run(shard=(i, 2))
        assert bench.made == mine and said == {"bench": "squares", "shard": [i, 2], "cells": len(mine)}
        assert names(tmp_path) == [".cache"]
    bench = Squares(out=tmp_path, progress=False)
    assert len(bench.run()[0]["rows"]) == 3 and bench.made == []


def test_so_far_shows_what_is_finished_and_measures_nothing(tmp_path):
    with pytest.raises(InputError, match="no row is finished yet; run it without `so_far`"):
        Squares(out=tmp_path, progress=False).run(so_far=True)
    Squares(out=tmp_path, progress=False).run(shard=(2, 3))
    bench = Squares(out=tmp_path, progress=False)
    assert [r["n"] for r in bench.run(so_far=True)[0]["rows"]] == [2] and bench.made == []
    with pytest.raises(InputError, match="`shard` is not used with `so_far`"):
        bench.run(shard=(1, 2), so_far=True)


def test_a_bench_that_keeps_nothing_has_no_shards(tmp_path):
    class Halves(Bench[int, dict[str, int]]):
        name = "halves"

        def measure(self, cell):
            raise AssertionError("nothing is measured")

        @staticmethod
        def render(data):
            return ""

    with pytest.raises(InputError, match="the bench halves keeps nothing between runs; run it without `shard`"):
        Halves(out=tmp_path).run(shard=(1, 2))
    with pytest.raises(InputError, match="shows nothing before it is whole; run it without `so_far`"):
        Halves(out=tmp_path).run(so_far=True)
    with pytest.raises(InputError, match="has no quick plan; leave `quick` out"):
        bench_named("speed-large")(out=tmp_path, quick=True)


def test_a_stopped_run_leaves_the_table_so_far_with_what_others_finished(tmp_path):
    Squares(out=tmp_path, progress=False).run(shard=(3, 3))
    with pytest.raises(InputError, match="broken"):
        Squares(out=tmp_path, progress=False, broken=(2,)).run()
    assert [r["n"] for r in json.loads((tmp_path / "squares.json").read_text())["rows"]] == [1, 3]


def test_a_bench_that_is_refused_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="broken"):
        Squares(out=tmp_path / "new", progress=False, broken=(1,)).run()
    assert not (tmp_path / "new").exists()


def test_one_table_has_one_writer(tmp_path):
    with only_writer(tmp_path, "squares"), pytest.raises(InputError, match="is being written to by another"):
        Squares(out=tmp_path, progress=False).run()
    with only_writer(tmp_path, "squares-shard-1-of-2"):
        Squares(out=tmp_path, progress=False).run(shard=(2, 2))


def test_rows_of_a_table_are_known_by_what_they_were_made_with(tmp_path):
    rows = [{"n": 1, "made_with": "a"}, {"n": 2, "made_with": "b"}, {"n": 3}]
    (tmp_path / "t.json").write_text(json.dumps({"rows": rows, "made_with": "c"}))
    assert [r["n"] for r in known_rows(tmp_path / "t.json", "a", "c")] == [1, 3]
    assert known_rows(tmp_path / "none.json", "a") == []


# --- statistics and tables -------------------------------------------------------------------------------------------
def test_bootstrap_covers_a_known_mean():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        low, high = bootstrap((rng.random(200) < 0.3).astype(float), draws=300, seed=trial)
        hits += low <= 0.3 <= high
    assert 88 <= hits <= 100


def test_an_interval_for_many_comparisons_is_wider():
    """For twenty of them it is the one of 99.75 %, of twenty times as many draws: fifty lie beyond each end."""
    values = np.random.default_rng(0).normal(size=50)
    low, high = bootstrap(values)
    draws = np.random.default_rng(0)
    means = [values[draws.integers(50, size=50)].mean() for _ in range(20 * 2000)]
    assert (low, high) == pytest.approx(np.percentile(means[:2000], [2.5, 97.5]))
    wide = bootstrap(values, comparisons=20)
    assert wide[0] < low < high < wide[1] and wide == pytest.approx(np.percentile(means, [0.125, 99.875]))


def test_differences_are_paired():
    ours, theirs = np.arange(20) + 1.0, np.arange(20)
    assert paired(ours, theirs) == {"mean": 1.0, "ci95": [1.0, 1.0]} == interval([1, 1, 1])


def test_tables_and_numbers_are_written_the_same_way_everywhere():
    assert table(["a", "b"], [[1, "x"], [2, "y"]]) == "| a | b |\n|---|---|\n| 1 | x |\n| 2 | y |"
    assert within(0.125, [-0.25, 0.5], "+.1f", 100, " points") == "+12.5 points [-25.0, +50.0]"
    assert percent(0.5) == "50.0" and percent(None) == "-"
