"""Two runs of one suite, prompt by prompt: differences with intervals, wins and losses, and equal cost.

A difference is B less A. Prompts are drawn for the intervals, seeds stay with their prompt, and the intervals of the
tags are corrected for their number (Bonferroni), so that all of them hold at once with 95 %.

At equal cost the cheaper run is given as many tries as its pictures fit into the cost of one of the dearer, and the
best of them by the suite's own score counts: its mean over all choices of so many of its seeds. As that is the score
that both are measured by, it is the most that best-of-N could give. There are no more tries than a prompt has pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import accord
from accord.evaluation.run import finished_rows, read_about
from accord.evaluation.stats import best_of, mean_of_means, of_differences, unseen_of_difference
from accord.files import check_writable, only_writer, write_file
from accord.reports.gallery import read_run, write_gallery
from accord.reports.tables import aligned, table
from accord.types import InputError

SCHEMA = "accord.eval-compare/1"
SHOWN = 10  # best and worst pictures that are listed
LEAST = 1e-9  # of a difference that is none


@dataclass(frozen=True)
class Picture:
    """What is compared of a row."""

    seed: int
    file_name: str
    score: float
    verdict: bool | None
    tags: Mapping[str, float]


@dataclass
class Compared:
    """A run as it is compared: its pictures by the number of their prompt, judged ones alone."""

    folder: Path
    about: dict[str, Any]
    pictures: dict[int, list[Picture]] = field(default_factory=dict)
    prompts: dict[int, str] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Compared:
        """A finished run.

        Raises:
            InputError: if the folder holds none.
        """
        run = cls(folder, read_about(folder))
        sums: dict[str, list[float]] = {"seconds": [], "judge_seconds": [], "denoiser_calls": []}
        for row in finished_rows(folder):
            if row["score"] is not None:
                tags = {t["tag"]: t["score"] for t in row["by_tag"] if t["score"] is not None}
                picture = Picture(row["seed"], row["file_name"], row["score"], row["verdict"], tags)
                run.pictures.setdefault(row["number"], []).append(picture)
                run.prompts[row["number"]] = row["prompt"]
            for name, values in sums.items():
                if row[name] is not None:
                    values.append(row[name])
        run.costs = {name: float(np.mean(values)) for name, values in sums.items() if values}
        return run


def compare(a: Path, b: Path) -> dict[str, Any]:
    """The comparison of two finished runs, JSON-ready; `table_of` and `page_of` show it.

    Raises:
        InputError: for runs that are unfinished, of two suites, judged otherwise, or without a prompt in common.
    """
    one, other = Compared.of(a), Compared.of(b)
    for (name, of_a), of_b in zip(_judged_by(one.about).items(), _judged_by(other.about).values(), strict=True):
        if of_a != of_b:
            raise InputError(
                f"{str(a)!r} and {str(b)!r} differ in {name}: {of_a!r} and {of_b!r}; "
                "compare runs of one suite that were judged alike"
            )
    numbers = [n for n in sorted(one.pictures) if one.prompts[n] == other.prompts.get(n)]
    if not numbers:
        raise InputError(f"{str(a)!r} and {str(b)!r} have no judged prompt in common; run both on one file of prompts")
    tags = list(dict.fromkeys(t for run in (one, other) for n in numbers for p in run.pictures[n] for t in p.tags))
    fitting = {n: found for n in ("seconds", "denoiser_calls") if (found := _fitting(one.costs, other.costs, n))}
    most = [max(len(run.pictures[n]) for n in numbers) for run in (one, other)]
    tries = {name: (min(found[0], most[0]), min(found[1], most[1])) for name, found in fitting.items()}
    by_tag = [_row(t, one, other, numbers, tries, _within(t), len(tags)) for t in tags]
    needed = one.about.get("mean_of_tags") or []
    if needed:
        overall = _mean_row(one, other, numbers, needed, tries)
    else:
        overall = _row("overall", one, other, numbers, tries, _score)
    counted = {row["name"] for row in by_tag if row["prompts"]}
    name_a, name_b = _labels(a, b)
    pairs = _same_seed(one, other, numbers)
    ordered = sorted(pairs, key=lambda p: p["difference"])
    return {
        "schema": SCHEMA,
        "accord": accord.__version__,
        "suite": one.about["suite"],
        "figure": one.about["figure"],
        "a": {"run": name_a, "costs": one.costs},
        "b": {"run": name_b, "costs": other.costs},
        "prompts": len(numbers),
        "left_out": len(set(one.pictures) | set(other.pictures)) - len(numbers),
        "same_seeds": len(pairs),
        "tries": tries,
        "fitting_tries": fitting,
        "overall": overall,
        "missing_tags": [tag for tag in needed if tag not in counted],
        "tags": by_tag,
        "wins": _wins([r["difference"] for r in _by_prompt(one, other, numbers)]),
        "wins_of_pictures": _wins([p["difference"] for p in pairs]),
        "best": [p for p in ordered[::-1][:SHOWN] if p["difference"] > LEAST],
        "worst": [p for p in ordered[:SHOWN] if p["difference"] < -LEAST],
    }


def _judged_by(about: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs have to have in common, by its name for people."""
    return {
        "suite": about.get("suite"),
        "judges": about.get("judges"),
        "thresholds": about.get("settings", {}).get("thresholds"),
        "the judge's weights": about.get("weights", {}).get("judge"),
    }


def _labels(a: Path, b: Path) -> tuple[str, str]:
    """What the runs are called: their folders' names, with those above as far as they need them to be told apart."""
    one, other = a.resolve().parts, b.resolve().parts
    differing = (n for n in range(1, max(len(one), len(other)) + 1) if one[-n:] != other[-n:])
    count = next(differing, 1)
    return "/".join(one[-count:]), "/".join(other[-count:])


Value = Callable[[Picture], float | None]
Tries = tuple[int, int]  # how many of a prompt's pictures each run may choose from


def _score(picture: Picture) -> float | None:
    return picture.score


def _within(tag: str) -> Value:
    """What a picture has within a tag, if it counts there."""
    return lambda picture: picture.tags.get(tag)


def _fitting(a: Mapping[str, float], b: Mapping[str, float], name: str) -> Tries | None:
    """How many tries make the cheaper run's pictures cost what the dearer's do; None if one does not say its cost.

    To choose, each has to be judged: that time is the cheaper run's.
    """
    if not (a.get(name) and b.get(name)):
        return None
    judging = [run.get("judge_seconds", 0.0) if name == "seconds" else 0.0 for run in (a, b)]
    if a[name] <= b[name]:
        return max(1, int(b[name] / (a[name] + judging[0]) + 1e-6)), 1
    return 1, max(1, int(a[name] / (b[name] + judging[1]) + 1e-6))


def _values(pictures: Sequence[Picture], value: Value, tries: int) -> float | None:
    """The mean over a prompt's pictures, or of the best of so many by their score."""
    known = [(p.score, v) for p in pictures if (v := value(p)) is not None]
    return best_of([s for s, _ in known], tries, [v for _, v in known]) if known else None


def _paired(
    a: Compared, b: Compared, numbers: Sequence[int], value: Value, tries: Tries
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """The values of the prompts that both have, [P] and [P], and their numbers."""
    found = [(_values(a.pictures[n], value, tries[0]), _values(b.pictures[n], value, tries[1]), n) for n in numbers]
    both = [(x, y, n) for x, y, n in found if x is not None and y is not None]
    return np.asarray([x for x, _, _ in both]), np.asarray([y for _, y, _ in both]), [n for _, _, n in both]


def _row(
    name: str,
    a: Compared,
    b: Compared,
    numbers: Sequence[int],
    tries: Mapping[str, Tries],
    value: Value,
    comparisons: int = 1,
) -> dict[str, Any]:
    """A line of the table: both means, their difference with its interval, and the differences at equal cost."""

    def line(of: Tries) -> dict[str, Any]:
        x, y, both = _paired(a, b, numbers, value, of)
        means = {"a": _mean(x), "b": _mean(y)}
        return {"prompts": len(both), **means, **of_differences(x, y, comparisons)}

    return _with_equal_costs(name, line, tries)


def _mean(values: np.ndarray) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None


def _with_equal_costs(name: str, line: Callable[[Tries], dict[str, Any]], tries: Mapping[str, Tries]) -> dict[str, Any]:
    """A line of the table, and its differences at equal cost."""
    plain = line((1, 1))
    row = {"name": name, **plain}
    for cost, own in tries.items():
        found = plain if own == (1, 1) else line(own)
        row[f"equal_{cost}"] = {"difference": found["difference"], "ci95": found["ci95"]}
    return row


def _mean_row(
    a: Compared, b: Compared, numbers: Sequence[int], tags: Sequence[str], tries: Mapping[str, Tries]
) -> dict[str, Any]:
    """The line of a suite whose whole is the mean over these tags; there is none if both runs lack one of them."""

    def line(of: Tries) -> dict[str, Any]:
        found = [_paired(a, b, numbers, _within(t), of) for t in tags]
        none = [(0.0, 0.0)] * len(found)
        means = {"a": mean_of_means([x for x, _, _ in found], none), "b": mean_of_means([y for _, y, _ in found], none)}
        whole = mean_of_means([y - x for x, y, _ in found], [unseen_of_difference(x, y) for x, y, _ in found])
        difference = {"difference": whole["mean"], "ci95": whole["ci95"]}
        prompts = len({n for _, _, both in found for n in both})
        return {"prompts": prompts, **{name: one["mean"] for name, one in means.items()}, **difference}

    return _with_equal_costs("overall", line, tries)


def _by_prompt(a: Compared, b: Compared, numbers: Sequence[int]) -> list[dict[str, Any]]:
    x, y, both = _paired(a, b, numbers, _score, (1, 1))
    return [{"number": n, "difference": float(v)} for n, v in zip(both, y - x, strict=True)]


def _same_seed(a: Compared, b: Compared, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """The pictures of one prompt and one seed in both runs."""
    out = []
    for n in numbers:
        others = {p.seed: p for p in b.pictures[n]}
        for p in a.pictures[n]:
            if (q := others.get(p.seed)) is not None:
                names = {"a_file": p.file_name, "b_file": q.file_name}
                about = {"number": n, "seed": p.seed, "prompt": a.prompts[n], "a": p.score, "b": q.score}
                out.append({**about, "difference": q.score - p.score, **names})
    return out


def _wins(differences: Iterable[float]) -> dict[str, int]:
    """Of how many B is better than, as good as and worse than A."""
    found = np.asarray(list(differences), dtype=float)
    wins, losses = int((found > LEAST).sum()), int((found < -LEAST).sum())
    return {"wins": wins, "ties": len(found) - wins - losses, "losses": losses}


# --- shown ------------------------------------------------------------------------------------------------------------
_COSTS = {"equal_seconds": "at equal seconds", "equal_denoiser_calls": "at equal calls"}


def _cells(data: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    costs = [name for name in _COSTS if name in data["overall"] and max(data["tries"][name.removeprefix("equal_")]) > 1]
    head = [data["figure"], "A", "B", "B - A [95 %]", *(f"{_COSTS[c]} [95 %]" for c in costs), "prompts"]
    rows = []
    for row in (data["overall"], *data["tags"]):
        differences = [_difference(row), *(_difference(row.get(c)) for c in costs)]
        rows.append([row["name"], _number(row["a"]), _number(row["b"]), *differences, str(row["prompts"])])
    return head, rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _difference(row: Mapping[str, Any] | None) -> str:
    if row is None or row["difference"] is None:
        return "-"
    if row["ci95"] is None:
        return f"{row['difference']:+.3f}"
    low, high = row["ci95"]
    return f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _said(data: Mapping[str, Any]) -> str:
    """Who is ahead, and how much that says."""
    overall = data["overall"]
    sentences = [] if overall["difference"] is None else [_ahead(overall["difference"], overall["ci95"])]
    sentences += [f"Of {_count(data['wins'], 'prompt')}."]
    if data["same_seeds"] > data["prompts"]:
        sentences.append(f"Of {_count(data['wins_of_pictures'], 'picture', ' with the same seed')}.")
    for name, (a, b) in data["tries"].items():
        what = "seconds" if name == "seconds" else "denoiser calls"
        most, fitting = max(a, b), max(data["fitting_tries"][name])
        if most > 1:
            short = "" if fitting == most else f", all its seeds, where {fitting} would cost as much"
            sentences.append(f"At equal {what} {'A' if a > b else 'B'} has the best of {most}{short}.")
    if data["missing_tags"]:
        sentences.append(f"No figure of the whole: no prompt of both is tagged {', '.join(data['missing_tags'])}.")
    return " ".join(sentences)


def _ahead(difference: float, ci95: Sequence[float] | None) -> str:
    """The sentence that says who is ahead."""
    if abs(difference) <= LEAST:
        return "A and B are equal on the whole."
    who = f"{'B' if difference > 0 else 'A'} is ahead by {abs(difference):.3f}"
    if ci95 is None:
        return f"{who}; one prompt in a group says nothing of others."
    sure = ci95[0] > 0 or ci95[1] < 0
    return (
        f"{who}, and the interval leaves zero out." if sure else f"{who}, but the interval holds zero: no clear winner."
    )


def _count(wins: Mapping[str, int], what: str, which: str = "") -> str:
    """ "16 prompts B wins 2, A wins 3, 11 are equal"."""
    total, ties = sum(wins.values()), wins["ties"]
    equal = f"{ties} {'is' if ties == 1 else 'are'} equal"
    return f"{total} {what}{'' if total == 1 else 's'}{which} B wins {wins['wins']}, A wins {wins['losses']}, {equal}"


def table_of(data: Mapping[str, Any]) -> str:
    """The comparison for a terminal."""
    lines = [
        f"A: {data['a']['run']}, B: {data['b']['run']}, suite {data['suite']}",
        aligned(*_cells(data)),
        _said(data),
    ]
    return "\n".join(lines)


def page_of(data: Mapping[str, Any]) -> str:
    """The comparison as Markdown."""
    rows = [
        [p["number"], p["seed"], p["prompt"], _number(p["a"]), _number(p["b"]), which]
        for which, found in (("gained", data["best"]), ("lost", data["worst"]))
        for p in found
    ]
    pictures = _table(["prompt", "seed", "text", "A", "B", ""], rows) if rows else "No picture differs."
    return (
        f"# {data['suite']}: {data['b']['run']} (B) against {data['a']['run']} (A)\n\n{_said(data)} Intervals of tags "
        f"are corrected for their number.\n\n{_table(*_cells(data))}\n\n## Pictures that differ most\n\n{pictures}\n"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table of texts that may hold a bar or a line break."""
    return table([_cell(c) for c in head], [[_cell(c) for c in row] for row in rows])


def _cell(value: Any) -> str:
    return " ".join(str(value).splitlines()).replace("|", "\\|")


def write_comparison(data: Mapping[str, Any], a: Path, b: Path, out: Path) -> None:
    """`compare.json`, `compare.md`, and `index.html`, a gallery of B's pictures with A's beside them.

    Raises:
        InputError: if the folder cannot be written.
    """
    with only_writer(check_writable(out), "compare"):
        write_file(out / "compare.json", (json.dumps(data, indent=1) + "\n").encode())
        write_file(out / "compare.md", page_of(data).encode())
        there = ({**row, "file_name": str((b / row["file_name"]).resolve())} for row in finished_rows(b))
        about = {"A": data["a"]["run"], "B": data["b"]["run"], "result": _said(data)}
        against = replace(read_run(a), title=data["a"]["run"])
        title = f"{data['suite']}: {data['b']['run']} against {data['a']['run']}"
        write_gallery(out, there, title, against, about, name=data["b"]["run"])
