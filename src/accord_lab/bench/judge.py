"""`accord bench judge`: how far the judge that selects and rewards can be trusted. The reader says what is right.

Pictures are of prompts like SceneBench's, none of them in it, several of each. A cell is a batch of pictures; they are
kept, and so is what each captioner says of them, so that a second captioner needs no new ones. The judge that selects
is measured here and never reports: what reports is the reader, and a look at contact sheets whose pictures are
numbered, shuffled and without a verdict.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import rankdata

from accord.data.images import to_pil, to_tensor
from accord.diffusion.call import GUIDANCE, STEPS
from accord.diffusion.generate import generators
from accord.diffusion.opened import Opened
from accord.diffusion.pipelines import SD, load
from accord.evaluation.stats import best_of, ci95, of_prompts, wilson
from accord.files import check_regular, check_writable, write_file
from accord.judges.calibrate import calibration_error, fit, reliability
from accord.judges.captioners import Captioner, load_captioner
from accord.judges.diagnosis import align
from accord.judges.strict import LIKELY, caption_agrees
from accord.prompts.phrases import phrases_of
from accord.reports.pictures import in_a_row, labelled_row, png
from accord.training.fingerprint import fingerprint
from accord.training.watching import load_watcher
from accord.types import SURE, InputError
from accord_lab.bench.prompts import CATEGORIES, BenchPrompt, scenebench
from accord_lab.bench.report import figure_png, percent, table, within
from accord_lab.bench.runner import Bench, at_least_one, cache_folder, kept
from accord_lab.scenes.ask import ask_of, check, lab_lexicon
from accord_lab.scenes.read import read

SEED = 97  # draws the prompts
NOISE = 9000  # of the first seed: apart from those of SceneBench
TOGETHER = 2  # prompts of each category in a batch
SINGLE = ("an image of ", "a drawing of ", "we see ", "here is ")
SHEET = 5  # pictures in a row of a contact sheet, and rows
LOOKED_AT = 200
COLUMNS = ("picture", "sheet", "number", "seed", "prompt", "right")
TRIES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Plan:
    """Prompts of each of the eight categories, an even number, and pictures of each prompt."""

    prompts: int = 4
    seeds: int = 8


@dataclass(frozen=True)
class Shot:
    """One picture to make and judge: the number of its prompt here, and its seed."""

    number: int
    prompt: BenchPrompt
    seed: int

    @property
    def noise_seed(self) -> int:
        return 1000 * (NOISE + self.seed) + self.number


def held_out_prompts(each: int) -> dict[int, BenchPrompt]:
    """So many prompts of each category by number, those of a category in a hundred of their own; none is SceneBench's.

    SceneBench has all single things in its own words, so here they are in others.
    """
    known = {p.text for p in scenebench()}
    out: dict[int, BenchPrompt] = {}
    for place, (category, make) in enumerate(CATEGORIES.items()):
        rng, texts = np.random.default_rng((SEED, place)), list[str]()
        while len(texts) < each:
            text = make(rng)
            if category == "single":
                text = SINGLE[len(texts) % len(SINGLE)] + text.split(" of ")[-1].removeprefix("there is ")
            if text not in known and text not in texts:
                texts.append(text)
        out |= {100 * place + k: BenchPrompt(category, text, ask_of(text).held_out) for k, text in enumerate(texts)}
    return out


@dataclass(kw_only=True)
class Judge(Bench[Sequence[Shot], list[dict[str, Any]]]):
    """The passes by likelihood, by caption, by both, and by two captioners.

    Attributes:
        seeds: pictures of each prompt; the plan's if None.
        watcher: folder of a second captioner, which only watches.
        sheets: folder for contact sheets and a table to fill in; nothing is measured then.
        eyes: that table, filled in; it is kept beside the bench's own.

    Raises:
        InputError: for sheets beside eyes, a table that is not as it was written, or a watcher that is the judge.
    """

    name = "judge"
    keeps = True
    plans = (Plan(), Plan(2, 4))
    model: str | None = None
    seeds: int | None = None
    watcher: Path | None = None
    sheets: Path | None = None
    eyes: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(seeds=self.seeds)
        self.plan = replace(self.plan, seeds=self.seeds or self.plan.seeds)
        if self.sheets is not None and self.eyes is not None:
            raise InputError("`sheets` is not used with `eyes`; write the sheets first, then give the filled table")
        if self.sheets is not None and self.watcher is not None:
            raise InputError("`watcher` is not used with `sheets`, on which no verdict stands; leave it out")
        if self.eyes is not None:
            check_regular(self.eyes, "table of what was seen")

    # --- pictures and what is said of them ----------------------------------------------------------------------------
    def cells(self) -> Sequence[Sequence[Shot]]:
        """A batch has two prompts of each category and one seed: with more of either the batches stay as they are."""
        prompts = held_out_prompts(self.plan.prompts)
        firsts = range(0, self.plan.prompts, TOGETHER)
        return [
            [Shot(n, p, seed) for n, p in prompts.items() if first <= n % 100 < first + TOGETHER]
            for seed in range(self.plan.seeds)
            for first in firsts
        ]

    @cached_property
    def opened(self) -> Opened:
        return Opened(load(self.model, classes=SD), STEPS, guidance_scale=GUIDANCE)

    @cached_property
    def pixels(self) -> Path:
        """Folder of the pictures of this pipeline."""
        return cache_folder(self.out, "judge-pictures", self.opened.pipe, STEPS, GUIDANCE)

    @cached_property
    def judges(self) -> list[Captioner]:
        """The one that selects, and the one that watches if there is one."""
        selects = load_captioner()
        if self.watcher is None:
            return [selects]
        return [selects, load_watcher(str(self.watcher), selects)]

    @cached_property
    def said(self) -> list[Path]:
        """Folder of what each captioner said of the pictures."""
        return [cache_folder(self.out, "judge-said", self.opened.pipe, STEPS, GUIDANCE, j) for j in self.judges]

    def images(self, cell: Sequence[Shot]) -> list[Image.Image]:
        """The pictures of a batch, made if they are not kept; a strip of PNG holds them."""
        path = self.pixels / f"{_name(cell)}.png"
        if not path.is_file():
            made = self.opened.pictures([s.prompt.text for s in cell], generators([s.noise_seed for s in cell]))
            write_file(path, png(in_a_row(to_pil(torch.as_tensor(made).float()))))
        with Image.open(path) as opened:
            strip = opened.convert("RGB")
        side = strip.height
        return [strip.crop((k * side, 0, (k + 1) * side, side)) for k in range(len(cell))]

    def measure(self, cell: Sequence[Shot]) -> list[dict[str, Any]]:
        folders = self.said  # what is refused of a judge is refused before pictures are made
        images = self.images(cell)
        rows: list[dict[str, Any]] = [
            {
                "number": s.number,
                "seed": s.seed,
                "prompt": s.prompt.text,
                "category": s.prompt.category,
                "right": check(read(image), s.prompt.ask).right,
                "said": [],
            }
            for s, image in zip(cell, images, strict=True)
        ]
        for judge, folder in zip(self.judges, folders, strict=True):
            found = kept(folder / f"{_name(cell)}.json", partial(_said, judge, images, cell))
            assert found is not None
            for row, said in zip(rows, found["rows"], strict=True):
                row["said"].append(said)
        return rows

    # --- running ------------------------------------------------------------------------------------------------------
    def run(self, shard: tuple[int, int] | None = None, so_far: bool = False) -> tuple[dict[str, Any], str]:
        """As `Bench.run`; with `sheets` only those are written."""
        if self.sheets is None:
            if self.eyes is not None:
                read_eyes(self.eyes)
            return super().run(shard, so_far)
        if shard is not None:
            raise InputError("`shard` is not used with `sheets`; leave it out")
        check_writable(self.sheets)
        with self._writing(None):
            cells = self.cells()
            shown = [(s, i) for cell in self._bar(cells) for s, i in zip(cell, self.images(cell), strict=True)]
        count = write_sheets(self.sheets, shown, self.eyes_name)
        about = {"bench": self.name, "sheets": count, "table": str(self.sheets / self.eyes_name)}
        text = f"{count} sheets and {self.eyes_name} are in {self.sheets}; put 1 or 0 into its column right, and "
        return about, f"{text}give it to accord bench judge --eyes"

    @property
    def eyes_name(self) -> str:
        return f"{self.stem}-eye.csv"

    def results(self, rows: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
        pictures = [row for cell in rows for row in cell]
        shown = self.eyes or self.out / self.eyes_name
        looked = look(pictures, read_eyes(shown)) if shown.is_file() else None
        if self.eyes is not None and self.eyes.resolve() != (self.out / self.eyes_name).resolve():
            write_file(self.out / self.eyes_name, self.eyes.read_bytes())
        return {
            "model": self.model,
            "watcher": None if self.watcher is None else self.watcher.name,
            "prompts": len({r["number"] for r in pictures}),
            "seeds": self.plan.seeds,
            "num_inference_steps": STEPS,
            "guidance_scale": GUIDANCE,
            **measured(pictures),
            "eye": looked,
        }

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        return page(data)

    def pictures(self, data: dict[str, Any]) -> dict[str, bytes]:
        return {".png": plot(data)}


def _name(cell: Sequence[Shot]) -> str:
    return fingerprint([(s.prompt.text, s.noise_seed) for s in cell])


def _said(judge: Captioner, images: Sequence[Image.Image], cell: Sequence[Shot]) -> dict[str, Any]:
    """What a captioner says of each picture, as `rows`: its caption, the least probable word, and the score."""
    pixels = torch.cat([to_tensor(i) for i in images])
    found = align(pixels, [s.prompt.text for s in cell], judge)
    return {"rows": [{"caption": a.caption, "weakest": a.weakest, "overall": a.overall} for a in found]}


# --- what is measured -------------------------------------------------------------------------------------------------
def judged(pictures: Sequence[dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """Each judge's `passes` (bool), `probability` that a picture is right, and `score` to rank by, each [N]."""
    lexicon = lab_lexicon()

    def agrees(k: int, silence: bool) -> np.ndarray:
        found = [caption_agrees(r["said"][k]["caption"], phrases_of(r["prompt"]), lexicon, silence) for r in pictures]
        return np.asarray(found, dtype=bool)

    def both(k: int) -> tuple[np.ndarray, np.ndarray]:
        return agrees(k, True), np.asarray([r["said"][k]["weakest"] for r in pictures])

    caption, weakest = both(0)
    overall = np.asarray([r["said"][0]["overall"] for r in pictures])
    whole = agrees(0, False)
    found = {
        "likelihood (score)": _as(weakest >= SURE, weakest, overall),
        "likelihood (weakest word)": _as(weakest >= SURE, weakest, weakest),
        "caption, all said": _as(whole, whole, whole),
        "caption": _as(caption, caption, caption),
        "both": _as(caption & (weakest >= SURE), caption * weakest, caption + weakest),
        f"both, words from {LIKELY}": _as(caption & (weakest >= LIKELY), caption * weakest, caption + weakest),
    }
    if all(len(r["said"]) > 1 for r in pictures):
        other, word = both(1)
        found["both, watcher alone"] = _as(other & (word >= SURE), other * word, other + word)
        passes = found["both"]["passes"] & found["both, watcher alone"]["passes"]
        low = np.minimum(caption * weakest, other * word)
        found["two captioners"] = _as(passes, low, (caption + weakest + other + word) / 2)
    return found


def _as(passes: np.ndarray, probability: np.ndarray, score: np.ndarray) -> dict[str, np.ndarray]:
    return {"passes": passes, "probability": probability.astype(float), "score": score.astype(float)}


def measured(pictures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A row for each judge, and its reliability. Intervals draw prompts."""
    right = np.asarray([r["right"] for r in pictures])
    number = np.asarray([r["number"] for r in pictures])
    rows, curves = [], {}
    for name, judge in judged(pictures).items():
        table_ = np.stack([right, judge["passes"], judge["score"]], 1).astype(float)
        by_prompt = np.stack([table_[number == n] for n in np.unique(number)])  # [P, K, 3]
        after = cross_calibrated(judge["probability"], right, number)
        row: dict[str, Any] = {"judge": name, "passes": round(float(judge["passes"].mean()), 4)}
        for key, statistic in STATISTICS.items():
            row[key] = round(statistic(by_prompt), 4)
            row[f"{key}_ci95"] = ci95(by_prompt, statistic)
        row |= auc_within(by_prompt)
        row["best_of"] = {
            str(tries): round(float(np.mean([best_of(p[:, 2], tries, p[:, 0]) for p in by_prompt])), 4)
            for tries in TRIES
            if tries <= by_prompt.shape[1]
        }
        row["ece_before"] = round(calibration_error(judge["probability"], right), 4)
        row["ece_after"] = round(calibration_error(after, right), 4)
        curves[name] = {
            "before": _rounded(reliability(judge["probability"], right)),
            "after": _rounded(reliability(after, right)),
        }
        rows.append(row)
    categories = dict.fromkeys(r["category"] for r in pictures)
    of = {c: np.asarray([r["category"] == c for r in pictures]) for c in categories}
    both = judged(pictures)["both"]["passes"]
    by_category = {
        c: {"right": _share(right[mine]), "false_passes": _share(~right[mine & both]), "passes": _share(both[mine])}
        for c, mine in of.items()
    }
    return {
        "pictures": len(pictures),
        "right": _share(right),
        "rows": rows,
        "by_category": by_category,
        "reliability": curves,
    }


def _share(values: np.ndarray) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None


def _rounded(points: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: round(v, 4) for k, v in point.items()} for point in points]


def false_passes(rows: np.ndarray) -> float:
    """Of the pictures that pass, the share that is wrong; rows [..., (right, passes, score)]."""
    right, passes = rows[..., 0].ravel(), rows[..., 1].ravel() > 0
    return float(1 - right[passes].mean()) if passes.any() else 0.0


def false_fails(rows: np.ndarray) -> float:
    """Of the right pictures, the share that does not pass."""
    right, passes = rows[..., 0].ravel() > 0, rows[..., 1].ravel()
    return float(1 - passes[right].mean()) if right.any() else 0.0


def auc(right: np.ndarray, score: np.ndarray) -> float:
    """How probably a right picture has the higher score than a wrong one, equal scores half; NaN without both."""
    good = right > 0
    n, m = int(good.sum()), int((~good).sum())
    if not n or not m:
        return float("nan")
    return float((rankdata(score)[good].sum() - n * (n + 1) / 2) / (n * m))


def auc_overall(rows: np.ndarray) -> float:
    """Over all pictures."""
    return auc(rows[..., 0].ravel(), rows[..., 2].ravel())


def auc_within(rows: np.ndarray) -> dict[str, Any]:
    """The mean over prompts of the area within the prompt's own pictures [P, K, 3], and its interval; of the prompts
    that have right and wrong ones.
    """
    each = np.asarray([auc(p[:, 0], p[:, 2]) for p in rows])
    found = of_prompts(each[~np.isnan(each)], "auc_within")
    return {"auc_within": found["auc_within"], "auc_within_ci95": found["ci95"]}


STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "false_passes": false_passes,
    "false_fails": false_fails,
    "auc": auc_overall,
}


def cross_calibrated(probability: np.ndarray, right: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Calibrated probabilities [N]: those of every other prompt by what was fitted to the rest, and the other way
    round.
    """
    out = np.empty(len(right))
    for half in (0, 1):
        mine = np.isin(number, np.unique(number)[half::2])
        out[mine] = fit("half", list(probability[~mine]), list(right[~mine]))(probability[mine])
    return out


# --- the blind look ---------------------------------------------------------------------------------------------------
def write_sheets(folder: Path, shown: Sequence[tuple[Shot, Image.Image]], name: str) -> int:
    """Numbered contact sheets of at most LOOKED_AT pictures in random order under their prompts, and the table to fill
    in; how many sheets there are.
    """
    order = np.random.default_rng(SEED).permutation(len(shown))[:LOOKED_AT]
    each = SHEET * SHEET
    lines = []
    for start in range(0, len(order), each):
        sheet = start // each + 1
        rows = []
        for first in range(start, min(start + each, len(order)), SHEET):
            part = [(k + 1, *shown[order[k]]) for k in range(first, min(first + SHEET, start + each, len(order)))]
            rows.append(labelled_row([i for _, _, i in part], [f"{k}. {s.prompt.text}" for k, s, _ in part]))
            lines += [(k, sheet, s.number, s.seed, s.prompt.text, "") for k, s, _ in part]
        write_file(folder / f"sheet-{sheet:02d}.png", png(in_a_row(rows, across=False)))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *lines])
    write_file(folder / name, text.getvalue().encode())
    return -(-len(order) // each)


def read_eyes(path: Path) -> dict[tuple[int, int, str], bool]:
    """What was seen: (prompt's number, seed, prompt) -> whether the picture is right. Rows that are left empty were not
    looked at.

    Raises:
        InputError: for a table without the columns, a value that is neither 1 nor 0, or none at all.
    """
    text = path.read_text(encoding="utf8", errors="replace")
    found = {}
    try:
        rows = list(csv.DictReader(io.StringIO(text)))
        keys = [(int(r["number"]), int(r["seed"]), r["prompt"]) for r in rows]
        values = [(r["right"] or "").strip() for r in rows]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"table {str(path)!r} has not the columns {', '.join(COLUMNS)} as --sheets wrote them; fill that one in"
        ) from error
    for line, (key, value) in enumerate(zip(keys, values, strict=True), 2):
        if value not in ("", "0", "1"):
            raise InputError(f"line {line} of {str(path)!r} has {value!r} in the column right; write 1, 0 or nothing")
        if value:
            found[key] = value == "1"
    if not found:
        raise InputError(f"table {str(path)!r} is not filled in; write 1 or 0 into the column right")
    return found


def look(pictures: Sequence[dict[str, Any]], seen: dict[tuple[int, int, str], bool]) -> dict[str, Any] | None:
    """The eye against the reader and each judge: counts of (eye, verdict), and the share of agreement.

    Raises:
        InputError: for a table of other pictures.
    """
    mine = [(r["number"], r["seed"], r["prompt"]) for r in pictures]
    if not set(seen) <= set(mine):
        raise InputError("the filled table is of other pictures than these; write the sheets again")
    places = [k for k, key in enumerate(mine) if key in seen]
    eye = np.asarray([seen[mine[k]] for k in places])
    verdicts = {"reader": np.asarray([pictures[k]["right"] for k in places])}
    verdicts |= {name: judge["passes"][places] for name, judge in judged(pictures).items()}
    return {
        "pictures": len(places),
        "right": _share(eye),
        "rows": [_seen(name, eye, said) for name, said in verdicts.items() if name != "likelihood (score)"],
    }


def _seen(name: str, eye: np.ndarray, said: np.ndarray) -> dict[str, Any]:
    """A verdict beside what was seen, both bool [N]."""
    passes = int(said.sum())
    wrong = int((~eye & said).sum()) / passes if passes else None
    return {
        "verdict": name,
        "both_right": int((eye & said).sum()),
        "eye_alone": int((eye & ~said).sum()),
        "verdict_alone": int((~eye & said).sum()),
        "both_wrong": int((~eye & ~said).sum()),
        "agree": _share(eye == said),
        "false_passes": None if wrong is None else round(wrong, 4),
        "false_passes_ci95": None if wrong is None else [round(v, 4) for v in wilson(wrong, passes)],
    }


# --- the page ---------------------------------------------------------------------------------------------------------
def page(data: dict[str, Any]) -> str:
    """The results as Markdown."""

    def share(row: dict[str, Any], key: str, times: float = 100, spec: str = ".1f") -> str:
        return "-" if row[f"{key}_ci95"] is None else within(row[key], row[f"{key}_ci95"], spec, times)

    head = ["judge", "passes %", "false passes % [95 %]", "false fails % [95 %]", "AUC [95 %]"]
    tries = list(data["rows"][0]["best_of"])
    head += ["AUC within a prompt [95 %]", *(f"best of {n}, right %" for n in tries), "ECE", "ECE, calibrated"]
    body = [
        [
            r["judge"],
            percent(r["passes"]),
            share(r, "false_passes"),
            share(r, "false_fails"),
            share(r, "auc", 1, ".3f"),
            share(r, "auc_within", 1, ".3f"),
            *(percent(r["best_of"][n]) for n in tries),
            f"{r['ece_before']:.3f}",
            f"{r['ece_after']:.3f}",
        ]
        for r in data["rows"]
    ]
    kinds = [
        [c, percent(v["right"]), percent(v["passes"]), "" if v["false_passes"] is None else percent(v["false_passes"])]
        for c, v in data["by_category"].items()
    ]
    text = (
        f"# The judge\n\n{data['prompts']} prompts x {data['seeds']} seeds, {data['pictures']} pictures of the base, "
        f"{percent(data['right'])} % of them right by the reader, which no judge sees. None of the prompts is in "
        "SceneBench, and no knob of a judge was chosen on them; the reader's overlaps were. False passes are the wrong "
        "ones of those that pass; "
        "false fails are those that do not pass, of the right ones. AUC within a prompt is the mean over prompts that "
        "have right and wrong pictures. Calibration (Platt) is fitted on the other half of the prompts.\n\n"
        f"{table(head, body)}\n\n"
        "A picture passes by likelihood if its weakest word has at least "
        f"{SURE}; by caption if the caption, parsed, says what the prompt asks for and nothing that contradicts it "
        "(`all said`: and leaves nothing out); by both if both hold, which is the strict pass. With `words from "
        f"{LIKELY}` its words need no more than that.\n\n"
        "## The strict pass by category\n\n"
        f"{table(['category', 'right %', 'passes %', 'false passes %'], kinds)}\n"
    )
    return text + (_eye_page(data["eye"]) if data["eye"] else "")


def _eye_page(eye: dict[str, Any]) -> str:
    columns = ("both_right", "eye_alone", "verdict_alone", "both_wrong")
    rows = [
        [
            r["verdict"],
            *(r[c] for c in columns),
            percent(r["agree"]),
            "-" if r["false_passes"] is None else within(r["false_passes"], r["false_passes_ci95"], ".1f", 100),
        ]
        for r in eye["rows"]
    ]
    head = ["verdict", "both say right", "right to the eye alone", "right to the verdict alone", "both say wrong"]
    return (
        f"\n## A blind look\n\n{eye['pictures']} of the pictures, shuffled, were looked at on contact sheets with "
        f"their prompts and no verdict; {percent(eye['right'])} % looked right. False passes are those that look "
        "wrong, of those that pass (Wilson's interval).\n\n"
        f"{table([*head, 'agree %', 'false passes % [95 %]'], rows)}\n"
    )


def plot(data: dict[str, Any]) -> bytes:
    """The reliability of each judge that gives more than yes and no, before and after calibration."""
    from matplotlib.figure import Figure

    shown = {n: c for n, c in data["reliability"].items() if not n.startswith(("caption", "likelihood (score)"))}
    figure = Figure(figsize=(4.2 * len(shown), 4.2))
    axes = np.atleast_1d(figure.subplots(1, len(shown)))
    for axis, (name, curve) in zip(axes, shown.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="grey", linewidth=1)
        for when, marker in (("before", "o"), ("after", "s")):
            points = curve[when]
            axis.plot([p["said"] for p in points], [p["right"] for p in points], marker=marker, label=when)
        axis.set(title=name, xlabel="probability that it is right", ylabel="share that is right")
        axis.set(xlim=(0, 1), ylim=(0, 1))
        axis.legend(fontsize=8)
    figure.tight_layout()
    return figure_png(figure)
