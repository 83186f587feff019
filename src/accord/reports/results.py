"""What a score and a repair give: they show themselves in a notebook and are saved as a folder with a page."""

from __future__ import annotations

import html
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from accord.files import save_folder
from accord.reports.page import STYLE, figure, missed_text, page, score_text, words_html
from accord.reports.pictures import draw_regions, enlarge, found_and_target, labelled_row, png
from accord.types import Alignment, Prompt, Region


@dataclass(frozen=True)
class Scored:
    """A picture and its alignment."""

    image: Image.Image
    alignment: Alignment

    def to_dict(self) -> dict[str, Any]:
        return self.alignment.to_dict()

    def _repr_html_(self) -> str:
        a = self.alignment
        note = (
            f"{words_html(a)}<br><small>alignment {score_text(a.overall)}; reads as: {html.escape(a.caption)}</small>"
        )
        return f"<style>{STYLE}</style>" + figure(enlarge(self.image), note)

    def _repr_png_(self) -> bytes:
        return png(enlarge(self.image))

    def save(self, folder: str | Path) -> Path:
        """Write `image.png`, `score.json` and `index.html`."""

        def fill(target: Path) -> None:
            (target / "image.png").write_bytes(png(self.image))
            (target / "score.json").write_text(json.dumps(self.to_dict(), indent=1), encoding="utf8")
            (target / "index.html").write_text(page(self.alignment.prompt.text, self._repr_html_()), encoding="utf8")

        return save_folder(folder, fill)


def _seen_html(a: Alignment) -> str:
    """Score, words and caption, under a picture."""
    return f"{score_text(a.overall)}<br>{words_html(a)}<br><small>reads as: {html.escape(a.caption)}</small>"


def _tries_html(tries: tuple[Try, ...] | None) -> str:
    """What each round did, as a list."""
    return "<ol>" + "".join(f"<li>{html.escape(str(t))}</li>" for t in tries) + "</ol>" if tries else ""


def _is_moved(region: Region) -> bool:
    return found_and_target(region.box, region.planned, region.found)[1] is not None


@dataclass(frozen=True)
class Try:
    """One round of a repair.

    Attributes:
        operator: "edit" (within a mask), or the mode by which it was drawn anew.
        failure: what kind of failure it was about: wrong, surplus, missing, relation or several; "" where nobody asked.
        words: what was missed.
        seed: of the noise that it began with.
        calls: network evaluations.
        seconds, judge_seconds: its share of the batch's, the second within the first.
        score: of the picture that came of it.
        kept: whether that was better than the best before.
    """

    operator: str
    failure: str
    words: tuple[str, ...]
    seed: int
    calls: int
    seconds: float
    judge_seconds: float
    score: float | None
    kept: bool

    def __str__(self) -> str:
        why = f"{self.failure} ({', '.join(self.words)}): " if self.failure else ""
        return f"{why}{self.operator}, score {score_text(self.score)}, {'kept' if self.kept else 'not kept'}"


@dataclass(frozen=True)
class Realigned:
    """A picture before and after repair.

    Attributes:
        before, after: the pictures; the same where nothing better was found.
        alignment_before, alignment_after: their alignments.
        regions: where each thing was put in the picture kept (or tried, if no try was better).
        rounds: how often the picture was redone.
        denoiser_calls: network evaluations spent on it, both halves of guidance counted.
        seed_after: of the noise of `after`, where it is another than `seed` (mode "new_seed"); an edit has that of the
            picture that it changed.
        tries: the rounds, where a routing or a budget decided on them; else None.
        seconds, judge_seconds: its share of what its batches took; the second is in the first.
    """

    prompt: Prompt
    seed: int
    before: Image.Image
    after: Image.Image
    alignment_before: Alignment
    alignment_after: Alignment
    regions: tuple[Region, ...]
    rounds: int
    denoiser_calls: int
    seed_after: int | None = None
    tries: tuple[Try, ...] | None = None
    seconds: float = 0.0
    judge_seconds: float = 0.0

    @property
    def improved(self) -> bool:
        """Whether it passes, or its caption agrees, and did not before, or the score is higher."""
        before, after = ((bool(a.passes), bool(a.agrees)) for a in (self.alignment_before, self.alignment_after))
        return after > before or self.alignment_after.better_than(self.alignment_before)

    def to_dict(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt.text,
            "seed": self.seed,
            "seed_after": self.seed if self.seed_after is None else self.seed_after,
            "rounds": self.rounds,
            "denoiser_calls": self.denoiser_calls,
            "improved": self.improved,
            **self._costs(),
            "before": self.alignment_before.to_dict(),
            "after": self.alignment_after.to_dict(),
            "regions": [
                {
                    "phrase": self.prompt.phrases[r.phrase].text,
                    "box": [round(v, 4) for v in r.box],
                    "caption": r.caption,
                    "deficit": r.deficit,
                    "planned": r.planned,
                    "found_box": None if r.found is None else [round(v, 4) for v in r.found],
                }
                for r in self.regions
            ],
        }

    def _costs(self) -> dict[str, Any]:
        """The rounds and what they took, where something was decided by it: seconds differ from run to run."""
        if self.tries is None:
            return {}
        return {
            "seconds": round(self.seconds, 3),
            "judge_seconds": round(self.judge_seconds, 3),
            "tries": [
                {**asdict(t), "seconds": round(t.seconds, 3), "judge_seconds": round(t.judge_seconds, 3)}
                for t in self.tries
            ],
        }

    def strip(self) -> Image.Image:
        """Before, regions and after side by side, under the prompt, with the alignments and what was missed."""
        parts = [enlarge(self.before), draw_regions(self.before, self.prompt, self.regions), enlarge(self.after)]
        before, after = self.alignment_before, self.alignment_after
        labels = [
            f"before {score_text(before.overall)}{missed_text(before)}",
            "regions; dashed: to be put there" if any(map(_is_moved, self.regions)) else "regions",
            f"after {score_text(after.overall)}{missed_text(after)}",
        ]
        return labelled_row(parts, labels, self.prompt.text)

    def _repr_html_(self) -> str:
        b, a = self.alignment_before, self.alignment_after
        rows = "".join(
            f"<tr><td>{html.escape(self.prompt.phrases[r.phrase].text)}</td><td>{html.escape(r.caption) or '-'}</td>"
            f"<td>{r.deficit:.2f}</td><td>{'placed' if r.planned else 'found'}</td></tr>"
            for r in self.regions
        )
        table = f"<table><tr><th>phrase</th><th>what is there</th><th>deficit</th><th>region</th></tr>{rows}</table>"
        return (
            f"<style>{STYLE}</style><h3>{html.escape(self.prompt.text)}</h3>"
            + figure(
                enlarge(self.before),
                f"before, {_seen_html(b)}",
            )
            + figure(
                draw_regions(self.before, self.prompt, self.regions), "regions: dashed = where a thing is to be next"
            )
            + figure(
                enlarge(self.after),
                f"after, {_seen_html(a)}",
            )
            + (table if self.regions else "")
            + _tries_html(self.tries)
            + f"<p><small>seed {self.seed}{'' if self.seed_after is None else f' (after: {self.seed_after})'}, "
            f"{self.rounds} rounds, {self.denoiser_calls} denoiser calls</small></p>"
        )

    def _repr_png_(self) -> bytes:
        return png(self.strip())

    def save(self, folder: str | Path) -> Path:
        """Write `before.png`, `after.png`, `strip.png`, `report.json` and `index.html`, all or nothing."""

        def fill(target: Path) -> None:
            (target / "before.png").write_bytes(png(self.before))
            (target / "after.png").write_bytes(png(self.after))
            (target / "strip.png").write_bytes(png(self.strip()))
            (target / "report.json").write_text(json.dumps(self.to_dict(), indent=1), encoding="utf8")
            (target / "index.html").write_text(page(self.prompt.text, self._repr_html_()), encoding="utf8")

        return save_folder(folder, fill)
