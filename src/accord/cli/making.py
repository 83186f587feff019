"""What `accord generate` and `accord realign` make of jobs, and how it is written."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accord.cli.jobs import Job, Making
from accord.cli.options import leave_out, torch_type, weights_of
from accord.types import InputError, Notice

FPS = 16  # of a video that a pipeline made, which does not say its own


@dataclass(frozen=True)
class Pipeline:
    """Which pipeline options name, and what its call is told.

    Attributes:
        dtype: of its weights, by name.
        told: arguments of its call, as `call_options` gives them.
    """

    model: str | None
    variant: str | None
    model_config: str | None
    lora: str | None
    dtype: str
    told: dict[str, Any]

    def load(self, device: str | None) -> Any:
        """It. Raises InputError if it cannot be loaded."""
        import accord

        more = {"variant": self.variant, "model_config": self.model_config}
        return accord.load(self.model, device, torch_type(self.dtype), self.lora, **more)


# --- generate -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Drawing:
    """`accord generate`, as options have it; it travels to where it is loaded.

    Attributes:
        weights: whether weights of words are honoured.
        context, clip, ancestral: a relational network that shifts the process, and how.
    """

    pipeline: Pipeline
    batch_size: int
    weights: bool = False
    context: Path | None = None
    clip: str | None = None
    ancestral: bool = False

    def load(self, device: str | None) -> tuple[Any, Making]:
        """The pipeline, and how pictures are made with it. Raises InputError for what does not fit it."""
        pipe = self.pipeline.load(device)
        if self.context is None:
            return pipe, drawing(pipe, self.pipeline.told, self.weights)
        told = (self.pipeline.told, self.context, self.clip, self.ancestral, self.batch_size)
        return pipe, drawing_with_context(pipe, *told)


def drawing(pipe: Any, told: dict[str, Any], weights: bool = False) -> Making:
    """Pictures by the pipeline's own call.

    Args:
        weights: whether weights of words are honoured.

    Raises:
        InputError: for what it does not take.
    """
    from accord.diffusion.call import call_arguments
    from accord.diffusion.generate import check_generates, generate_each
    from accord.diffusion.pipelines import check_prompt_length
    from accord.diffusion.weights import honoured

    def make(jobs: Sequence[Job], arguments: dict[str, Any]) -> Sequence[Any]:
        pieces = {job.text: found for job in jobs if weights and (found := weights_of(job.prompt))}
        if any(weights_of(job.prompt) != pieces.get(job.text, ()) for job in jobs if weights):
            return [made for job in jobs for made in make([job], arguments)]  # one text with several weights
        with honoured(pipe, pieces) if pieces else nullcontext():
            return generate_each(pipe, [job.text for job in jobs], [job.seed for job in jobs], **arguments)

    def weighs(prompt: str, text: str) -> None:
        if pieces := weights_of(prompt):
            with honoured(pipe, {text: pieces}):
                pass

    check_generates(pipe)
    call_arguments(pipe, **told)  # what it does not take is refused before the first picture
    return Making(
        accepts=lambda arguments: call_arguments(pipe, **arguments),
        reads=lambda text: check_prompt_length(pipe, text),
        make=make,
        settings={"weights_of_words": "honour"} if weights else {},
        weighs=weighs if weights else None,
    )


def drawing_with_context(
    pipe: Any, told: dict[str, Any], context: Path, clip: str | None, ancestral: bool, batch_size: int
) -> Making:
    """Pictures of a process that a relational network shifts."""
    import accord
    from accord.diffusion.call import GUIDANCE, STEPS
    from accord.diffusion.pipelines import UNETS, check_prompt_length
    from accord.methods.context.pipeline import load_context
    from accord.methods.context.sampling import generate_with_context
    from accord.training.fingerprint import fingerprint

    network, shift = load_context(pipe, context, accord.load_clip(clip, str(pipe.device)) if clip else None)
    if network.from_pixels is None:
        leave_out("with a context that looks at no pixels", clip=clip)
    usual = (STEPS, GUIDANCE) if type(pipe).__name__ in UNETS else (None, None)
    given = told["num_inference_steps"], told["guidance_scale"]
    options: dict[str, Any] = {
        "shift": shift,
        "ancestral": ancestral,
        "num_inference_steps": usual[0] if given[0] is None else given[0],
        "guidance_scale": usual[1] if given[1] is None else given[1],
    }

    def accepts(arguments: dict[str, Any]) -> None:
        if arguments["negative_prompt"] or arguments["call"]:
            raise InputError("with --context a row has no size and no negative prompt of its own; leave them out")

    def make(jobs: Sequence[Job], _arguments: dict[str, Any]) -> Sequence[Any]:
        texts, seeds = [job.text for job in jobs], [job.seed for job in jobs]
        found: Sequence[Any] = generate_with_context(
            pipe, network, texts, seeds, each=True, batch_size=batch_size, **options
        )
        return found

    settings = {"context": fingerprint(network, shift), "ancestral": ancestral}
    return Making(accepts, lambda text: check_prompt_length(pipe, text), make, settings)


def write_picture(out: Path, name: str, made: Any) -> dict[str, Any]:
    """Write a picture, or the frames of a video, into `out`."""
    from accord.data.video import write_video
    from accord.files import write_file
    from accord.reports.pictures import png

    if isinstance(made, list):
        path = write_video(out / f"{name}.mp4", made, FPS)
    else:
        path = out / f"{name}.png"
        write_file(path, png(made))
    return {"file": path.name, "bytes": path.stat().st_size}


# --- realign --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Repairing:
    """`accord realign`, as options have it; it travels to where it is loaded.

    Attributes:
        config: of the repair.
        judge: who judges; the embedded captioner if None.
        judge_regions: how it sees each thing.
        detector, outlines: what finds the things; the pipeline's own attention if `detector` is None.
        settings: what a manifest says of all this.
    """

    pipeline: Pipeline
    batch_size: int
    config: Any
    mode: str
    judge: str | None
    calibration: Path | None
    judge_regions: str
    detector: str | None
    outlines: str | None
    settings: dict[str, Any]
    places: Sequence[Any] = ()
    select: str = "score"
    routing: Any = None
    budget: str | None = None

    def load(self, device: str | None) -> tuple[Any, Making]:
        """The pipeline, and how pictures are repaired with it. Raises InputError for what does not fit it."""
        import accord
        from accord.diffusion.call import call_arguments
        from accord.methods.realign.fine import check_mode, check_repairable

        pipe = self.pipeline.load(device)
        check_repairable(pipe)  # before the judge, which may be large
        check_mode(pipe, self.mode if self.routing is None else "renoise")
        call_arguments(pipe, **self.pipeline.told)
        where = str(pipe.device)
        judge = accord.load_judge(self.judge, where, calibration=self.calibration, regions=self.judge_regions)
        looks = None if self.detector is None else accord.load_detector(self.detector, self.outlines, where)
        chosen = (self.places, self.select, self.routing, self.budget)
        return pipe, repairing(pipe, self.config, judge, looks, self.batch_size, self.settings, *chosen)


def repairing(
    pipe: Any,
    config: Any,
    judge: Any,
    detector: Any,
    batch_size: int,
    settings: dict[str, Any],
    places: Sequence[Any] = (),
    select: str = "score",
    routing: Any = None,
    budget: str | None = None,
) -> Making:
    """Pictures before and after repair.

    Args:
        detector: finds the things; the pipeline's own attention if None.
        settings: what a manifest says of judge and detector.
        places: where things are to be put, as `realign` takes them.
        select: what the better picture is chosen by.
        routing, budget: as `accord.realign` takes them.
    """
    import accord
    from accord.data.prompts import check_says_something
    from accord.diffusion.call import call_arguments
    from accord.diffusion.pipelines import check_prompt_length
    from accord.judges.strict import check_selects, selector_named
    from accord.methods.realign.regions import DetectedRegions
    from accord.prompts.phrases import phrases_of

    def reads(text: str) -> None:
        check_says_something(text)
        check_prompt_length(pipe, text)
        judge.check_length(text)
        if detector is not None:
            DetectedRegions(detector).check(phrases_of(text))

    def make(jobs: Sequence[Job], arguments: dict[str, Any]) -> Sequence[Any]:
        prompts, seeds = [job.prompt for job in jobs], [job.seed for job in jobs]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the prompt is read as", Notice)  # the job's own note has said it
            told = {
                "captioner": judge,
                "regions": detector,
                "batch_size": batch_size,
                "each": True,
                "places": places,
                "select": select,
                "routing": routing,
                "budget": budget,
                **arguments,
            }
            return accord.realign(pipe, prompts, seeds, config=config, **told)

    check_selects(judge, selector_named(select))
    settings = {"rounds": config.rounds, "mode": config.mode, "judge": judge.name, **settings}
    if select != "score":  # earlier manifests do not name it
        settings["select"] = select
    return Making(lambda arguments: call_arguments(pipe, **arguments), reads, make, settings)


def write_repair(out: Path, name: str, made: Any) -> dict[str, Any]:
    """Write a folder for a repair into `out`."""
    folder = made.save(out / name)
    before, after = made.alignment_before.overall, made.alignment_after.overall
    return {
        "file": f"{name}/after.png",
        "bytes": (folder / "after.png").stat().st_size,
        "seed_after": made.seed if made.seed_after is None else made.seed_after,
        "before": before,
        "after": after,
    }


def repair_text(made: Any, folder: Path) -> str:
    """What a repair did, in lines."""
    from accord.reports.page import score_text, words_text

    before, after = made.alignment_before, made.alignment_after
    lines = [
        f"{made.prompt.text!r}, seed {made.seed}: alignment {score_text(before.overall, 3)} -> "
        + score_text(after.overall, 3)
        + (f", from the noise of seed {made.seed_after}" if made.seed_after is not None else ""),
        *("  before  " + line for line in words_text(before).splitlines()),
        *(f"  round {number}: {one}" for number, one in enumerate(made.tries or (), start=1)),
        *("  after   " + line for line in words_text(after).splitlines() if made.improved),
        f"  pictures and report: {folder / 'index.html'}",
    ]
    return "\n".join(lines)
