"""What a tuning run shows: its pictures along the way, on a page and in `curve.png`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from accord.data.images import open_image, to_pil
from accord.reports.gallery import Entry, save_small, write_gallery
from accord.reports.pictures import contact_sheet
from accord.types import InputError

if TYPE_CHECKING:
    from accord.methods.tune.train import Tuner

LABELS = {"reward": "reward (spreads of the untuned pipeline's)", "held_out": "held-out score"}
SAMPLES, COLUMNS = 3, 7  # prompts in `curve.png`, and evaluations at most


def keep_pictures(folder: Path, step: int, pictures: torch.Tensor) -> None:
    """Write the pictures [N,3,H,W] of an evaluation, for people."""
    for number, image in enumerate(to_pil(pictures.detach().float())):
        save_small(image, _place(folder, step) / f"{number:03d}")


def _place(folder: Path, step: int) -> Path:
    return folder / "evaluations" / f"step-{step:06d}"


def _kept(folder: Path, step: int, number: int) -> Path | None:
    """A picture of an evaluation; None for one that an older run did not keep."""
    return next(iter(sorted(_place(folder, step).glob(f"{number:03d}.*"))), None)


def write_pictures(tuner: Tuner, report: dict[str, Any]) -> Path | None:
    """The page of the evaluation's prompts, each before the training and at the kept step; None without pictures."""
    folder, kept, state = tuner.folder, report["kept_step"], tuner.run.tensors

    def entries() -> Iterator[Entry]:
        for number, prompt in enumerate(tuner.eval_prompts):
            after, before = _kept(folder, kept, number), _kept(folder, 0, number)
            if after is None:
                continue
            reward, first = (float(state[f"evaluation.{step}.reward"][number]) for step in (kept, 0))
            told = []
            if tuner.held_out is not None:
                scores = [float(state[f"evaluation.{step}.held_out"][number]) for step in (0, kept)]
                told = [f"held-out score {scores[0]:.4f} before, {scores[1]:.4f} after"]
            yield Entry(
                number,
                prompt,
                after.relative_to(folder).as_posix(),
                before=None if before is None or not kept else before.relative_to(folder).as_posix(),
                score=reward,
                score_before=first if kept else None,
                reasons=told,
            )

    found = list(entries())
    about = {"kept step": kept, "of": report["steps_taken"], "reward": ", ".join(report["rewards"])}
    return write_gallery(folder, found, f"accord train reward, {report['strategy']}", about=about) if found else None


def draw(tuner: Tuner, report: dict[str, Any], figure: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Reward and held-out score by step with paired 95 % intervals against the untuned pipeline, how far the pictures
    have drifted, the kept step, and pictures of the first prompts along the way; the loss is the small panel.

    Args:
        figure: of matplotlib, empty.
        rows: of the loss, {step, loss}.
    """
    names, kept = list(report["gains"]), report["kept_step"]
    steps = [row["step"] for row in report["evaluations"]]
    sheet = _sheet(tuner, steps, kept)
    width = 11.0
    high = 0.0 if sheet is None else width * sheet.height / sheet.width
    figure.set_size_inches(width, 3.6 + high)
    grid = figure.add_gridspec(1 + (sheet is not None), 1, height_ratios=[3.6, high] if high else [3.6])
    panels = grid[0].subgridspec(1, len(names) + 2, width_ratios=[3] * len(names) + [2.5, 2])
    for column, name in enumerate(names):
        axis = figure.add_subplot(panels[column])
        means, errors = zip(*(_change(tuner, step, name) for step in steps), strict=True)
        axis.errorbar(steps, means, errors, color="#1f5fbf", marker="o", markersize=4, capsize=3)
        axis.axhline(means[0], color="#999", linewidth=1)
        axis.axvline(kept, color="#c2570c", linestyle="--", linewidth=1.2)
        axis.set(xlabel="step; bars: 95 % against step 0", title=LABELS[name])
        corner = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "right", "va": "top"}
        axis.annotate(f"kept: {kept}", (kept, 1), (-3, -3), rotation=90, color="#c2570c", fontsize=9, **corner)
    _draw_drift(tuner, report, figure.add_subplot(panels[len(names)]))
    axis = figure.add_subplot(panels[len(names) + 1])
    axis.semilogy([r["step"] for r in rows], [r["loss"] for r in rows], color="#888", linewidth=1)
    axis.set(xlabel="step", title="loss")
    if sheet is not None:
        axis = figure.add_subplot(grid[1])
        axis.imshow(sheet)
        axis.axis("off")


def _draw_drift(tuner: Tuner, report: dict[str, Any], axis: Any) -> None:
    """What each measure has changed by, over its limit where there is one: a run ends where a line leaves the band."""
    limits, rows = tuner.watching.limits, report["evaluations"]
    for name in dict.fromkeys(name for row in rows for name in row["drift"]):
        bound = getattr(limits, name, 1.0) if limits is not None else 1.0
        points = [(row["step"], row["drift"][name] / bound) for row in rows if name in row["drift"]]
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=name)
    if limits is not None:
        for edge in (-1, 1):
            axis.axhline(edge, color="#c2570c", linestyle="--", linewidth=1)
    axis.set(xlabel="step", title="drift" if limits is None else "drift, over its limit")
    if rows and rows[0]["drift"]:
        axis.legend(fontsize=7)


def _change(tuner: Tuner, step: int, name: str) -> tuple[float, float]:
    """A mean (the untuned pipeline's plus the paired difference to it), and half of the difference's 95 % interval."""
    state = tuner.run.tensors
    first, now = (state[f"evaluation.{s}.{name}"].double() for s in (0, step))
    both = torch.isfinite(first) & torch.isfinite(now)
    if not both.any():
        return float("nan"), 0.0
    difference = (now - first)[both]
    error = float(difference.std()) / len(difference) ** 0.5 if len(difference) > 1 else 0.0
    return float(first[both].mean() + difference.mean()), 1.96 * error


def _sheet(tuner: Tuner, steps: Sequence[int], kept: int) -> Image.Image | None:
    """Pictures of the first prompts, a row each, and a column an evaluation; None where no pictures were kept."""
    here = [s for s in steps if _kept(tuner.folder, s, 0) is not None]
    if len(here) > COLUMNS:  # the first, the last and the kept one, and some between
        spread = {here[round(i * (len(here) - 1) / (COLUMNS - 1))] for i in range(COLUMNS)}
        here = [s for s in here if s in spread | {kept}]
    rows = []
    for number in range(min(SAMPLES, len(tuner.eval_prompts))):
        paths = [_kept(tuner.folder, step, number) for step in here]
        try:
            rows.append([open_image(p) for p in paths if p is not None])
        except InputError:  # it was damaged since: the curve is drawn without
            return None
    if not here or any(len(row) < len(here) for row in rows):
        return None
    columns = [f"step {s}{', kept' if s == kept else ''}" for s in here]
    return contact_sheet(rows, tuner.eval_prompts[: len(rows)], columns)
