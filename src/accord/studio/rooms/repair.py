"""Repair: a picture from a prompt, what is missing in it and where, and round after round with modulated attention."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from accord.studio.rooms.asked import (
    Asked,
    Choice,
    Guidance,
    Seed,
    Steps,
    Text,
    check_prompt,
    line,
    option,
    options,
    quoted_prompts,
)
from accord.studio.settings import Settings
from accord.studio.work import Work
from accord.types import Notice

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Placed(Asked):
    """Where a thing is to be put: its words, and (x0, y0, x1, y1) as shares of width and height."""

    thing: Annotated[str, Field(min_length=1, max_length=300)]
    box: tuple[Share, Share, Share, Share]


class RepairRequest(Asked):
    """A prompt to be made and repaired."""

    prompt: Text
    seed: Seed = 0
    mode: Literal["new_seed", "same_seed", "renoise"] = "same_seed"
    rounds: Annotated[int, Field(ge=0, le=6, strict=True)] = 2
    strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.8
    steps: Steps = None
    guidance: Guidance = None
    negative_prompt: Annotated[str, Field(max_length=2000)] = ""
    places: Annotated[tuple[Placed, ...], Field(max_length=16)] = ()
    model: Choice = ""

    @property
    def boxes(self) -> list[tuple[str, tuple[float, float, float, float]]]:
        """The places as `realign` takes them."""
        return [(p.thing, p.box) for p in self.places]


class Repair:
    """`accord realign`, with each round as it comes."""

    name = "repair"
    request: type[BaseModel] = RepairRequest

    def check(self, request: RepairRequest, settings: Settings, upload: Callable[[str], Mapping[str, Any]]) -> None:
        del upload
        settings.chosen(request.model)
        check_prompt("prompt", request.prompt, settings)
        for _, box in request.boxes:
            if not (box[0] < box[2] and box[1] < box[3]):
                from accord.methods.realign.layout import check_place

                check_place(("the thing", box))

    def command(
        self, request: RepairRequest, settings: Settings, upload: Callable[[str], Mapping[str, Any]]
    ) -> list[str]:
        del upload
        return [line(*_words(request, settings))]

    def run(self, work: Work) -> dict[str, Any]:
        from accord.methods.realign.config import RealignConfig
        from accord.methods.realign.fine import rounds_of

        asked = work.request
        work.stage("loading the models")
        pipe, judge = work.models.pipe(asked.model), work.models.judge(asked.model)
        config = RealignConfig(rounds=asked.rounds, mode=asked.mode, strength=asked.strength)
        told = {
            "num_inference_steps": asked.steps,
            "guidance_scale": asked.guidance,
            "negative_prompt": asked.negative_prompt,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)
            rounds, prompts = rounds_of(
                pipe, [asked.prompt], config=config, captioner=judge, places=asked.boxes, **told
            )
        work.stage("first picture")
        first = rounds.generate([(prompts[0], asked.seed)])
        _tell(work, 0, first[0], first[0])
        best = first
        work.stage("round 1")
        for number, (items, made) in enumerate(rounds.each_round(first), start=1):
            best = items
            _tell(work, number, first[0], made[0])
            if number < asked.rounds:
                work.stage(f"round {number + 1}")
        result = rounds.results(first, best)[0]
        result.save(work.folder)
        return result_of(work.folder.name, result.to_dict(), work.progress.get("rounds", []))


def result_of(name: str, report: dict[str, Any], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page is told of a repair that lies in its job's folder.

    Args:
        report: what `Realigned.to_dict` gives.
        rounds: what each round was told as.
    """
    from pathlib import Path

    from accord.reports.gallery import of_repairs, shown_row

    entry = next(of_repairs([{**report, "folder": name}]))
    plain = {"file_name": "after.png", "before": "before.png"}
    row = shown_row(Path(name), type(entry)(**{**_fields(entry), **plain}))
    kept = [r["number"] for r in rounds if r.get("kept")]
    return {"report": report, "row": row, "rounds": rounds, "kept": kept[-1] if kept else 0}


def _fields(entry: Any) -> dict[str, Any]:
    from dataclasses import fields

    return {f.name: getattr(entry, f.name) for f in fields(entry)}


def _tell(work: Work, number: int, first: Any, made: Any) -> None:
    """The picture of a round, beside the first one."""
    from accord.data.images import to_pil
    from accord.reports.gallery import Entry, shown_row

    name = work.write(f"rounds/{number}.png", to_pil(made.image[None])[0])
    regions = [
        {"phrase": made.prompt.phrases[r.phrase].text, "box": r.box, "planned": r.planned, "found_box": r.found}
        for r in made.regions
    ]
    entry = Entry.of_scores(
        number,
        name,
        made.alignment.to_dict(),
        first.alignment.to_dict() if number else None,
        before_file="rounds/0.png" if number else None,
        seed=made.seed,
        regions=regions,
    )
    before = [r["score"] for r in work.progress.get("rounds", []) if r["score"] is not None]
    score = made.alignment.overall
    kept = bool(work.request.places and number == 1) or (score is not None and all(score > s for s in before))
    row = shown_row(work.folder, entry)
    work.told("rounds", {"number": number, "score": score, "kept": kept and number > 0, "row": row})


def _words(request: RepairRequest, settings: Settings) -> list[str]:
    boxes = [(p.thing, ",".join(f"{v:.4f}" for v in p.box)) for p in request.places]
    places = [word for thing, box in boxes for word in option("place", f"{thing}={box}")]
    told = options(
        seed=request.seed,
        mode=request.mode if request.rounds else None,
        rounds=request.rounds,
        strength=request.strength if request.mode == "renoise" and request.rounds else None,
        steps=request.steps,
        guidance=request.guidance,
        negative_prompt=request.negative_prompt,
    )
    own = [*settings.words(request.model), *settings.judge_words]
    return ["accord", "realign", *told, *places, *own, *quoted_prompts([request.prompt])]
