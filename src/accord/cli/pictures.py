"""`accord generate`, `score`, `realign` and `invert`: pictures from prompts, and back."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accord.cli.cluster import (
    Address,
    Engine,
    GpusPerWorker,
    Inverting,
    MaxFailures,
    NumWorkers,
    Scoring,
    make_on_cluster,
    pictures_on_cluster,
    spread_of,
)
from accord.cli.jobs import FileShard, Given, GivenPrompts, Job, PromptsFile, Task, make_all
from accord.cli.making import Drawing, Pipeline, Repairing, repair_text, write_picture, write_repair
from accord.cli.options import (
    HUB_CAPTIONER,
    HUB_DETECTOR,
    AsJson,
    BatchSize,
    CalibrationFile,
    Call,
    Device,
    Dtype,
    Height,
    JudgeId,
    Lora,
    Model,
    ModelConfig,
    NegativePrompt,
    Out,
    OwnClipId,
    OwnGuidance,
    OwnJudgeId,
    Seeds,
    Steps,
    Variant,
    Weights,
    Width,
    call_options,
    check_pairs,
    check_said,
    check_weights,
    checked,
    emit,
    frame_range,
    is_same,
    judge_of,
    leave_out,
    pick_device,
    places_of,
    quiet,
    read_by_the_lab,
    said,
    say_lab_only,
    say_unknown_things,
    tell_skipped,
    torch_type,
)
from accord.embedded import SIDE
from accord.types import InputError

if TYPE_CHECKING:
    from accord.data.pairs import PairsFile

REGIONS = ("attention", "detector")


def generate(
    prompts: GivenPrompts = None,
    file: PromptsFile = None,
    model: Model = None,
    variant: Variant = None,
    model_config: ModelConfig = None,
    lora: Lora = None,
    seed: Seeds = [0],  # noqa: B006 (typer copies it)
    steps: Steps = None,
    guidance: OwnGuidance = None,
    negative_prompt: NegativePrompt = None,
    height: Height = None,
    width: Width = None,
    call: Call = None,
    weights: Weights = "strip",
    context: Annotated[
        Path | None,
        typer.Option(help="Folder of accord train context: its relational network (and adapter) shifts the process."),
    ] = None,
    ancestral: Annotated[bool, typer.Option("--ancestral", help="With --context: DDPM instead of DDIM.")] = False,
    clip: Annotated[
        str | None,
        typer.Option(help="CLIP of a context that was trained with --pixels; the embedded one if not given."),
    ] = None,
    batch_size: BatchSize = 16,
    shard: FileShard = None,
    device: Device = None,
    dtype: Dtype = "float32",
    out: Out = Path("out/generate"),
    engine: Engine = "local",
    address: Address = None,
    num_workers: NumWorkers = None,
    gpus_per_worker: GpusPerWorker = None,
    max_failures: MaxFailures = None,
    as_json: AsJson = False,
) -> None:
    """Generate pictures from prompts."""
    quiet()
    from accord.reports.gallery import made_in, write_gallery

    if context is None:
        leave_out("without --context", clip=clip, ancestral=ancestral)
    else:
        leave_out("with --context", negative_prompt=negative_prompt, height=height, width=width, call=call)
    if model is None:
        leave_out("without --model", variant=variant, model_config=model_config)
    honoured = check_weights(weights)
    if honoured and context is not None:
        raise InputError("--weights honour is not used with --context; leave it out")
    told = call_options(steps, guidance, negative_prompt, height, width, call)
    if lora is not None and context is not None:
        raise InputError("--context brings its own adapter; give it or --lora")
    torch_type(dtype)
    if context is not None and not (context / "relation" / "config.json").is_file():
        raise InputError(
            f"folder {str(context)!r} holds no relational network; give one that accord train context wrote"
        )
    pipeline = Pipeline(model, variant, model_config, lora, dtype, told)
    drawing = Drawing(pipeline, batch_size, honoured, context, clip, ancestral)
    spread = spread_of(engine, address, num_workers, gpus_per_worker, max_failures)
    if spread is not None:
        leave_out("with --engine ray", shard=shard)
        return make_on_cluster(spread, "generate", drawing, file, prompts, seed, device, out, as_json)
    given = Given.of(prompts, file, seed, shard, parsed=False)
    pick_device(device)
    say_unknown_things(given.prompts, model, "--model ID")
    with given.writing(out):
        pipe, making = drawing.load(device)
        task = Task("generate", told, making, functools.partial(write_picture, out), batch_size, as_json)
        if file is not None:
            run = given.run(task, pipe, out)
            entries = list(made_in(out)) if run.is_whole else []
            return run.tell(as_json, out, write_gallery(out, entries, "accord generate") if entries else None)

        def show(job: Job, _made: Any, line: dict[str, Any]) -> dict[str, Any]:
            return {"prompt": job.text, "seed": job.seed, "image": str(out / line["file"])}

        rows = make_all(task, given, show)
    emit(as_json, {"images": rows}, "\n".join(str(r["image"]) for r in rows))


def score(
    image: Annotated[Path | None, typer.Argument(help="A picture.")] = None,
    prompt: Annotated[str | None, typer.Argument(help="Its prompt, in quotes.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="CSV, JSONL or Parquet with columns image and prompt.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Instead of IMAGE: a file of prompts (.txt, .csv, .jsonl, .json, .parquet), with --images."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="With --prompts: the folder of their pictures, in a layout of accord eval.")
    ] = None,
    video: Annotated[Path | None, typer.Option(help="Instead of IMAGE: a video, with --prompt-of-video.")] = None,
    video_prompt: Annotated[str | None, typer.Option("--prompt-of-video", help="What the video is to show.")] = None,
    source_video: Annotated[Path | None, typer.Option(help="With --video: the video it was edited from.")] = None,
    frames: Annotated[
        str | None, typer.Option(help="With --source-video: START:STOP, the range of it that was edited.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Folder for the report; with --pairs and --prompts a table to write, and to go on with; with --engine "
                "ray a folder or address of tables."
            )
        ),
    ] = None,
    judge: OwnJudgeId = None,
    clip: OwnClipId = None,
    calibration: CalibrationFile = None,
    batch_size: BatchSize = 16,
    device: Device = None,
    engine: Engine = "local",
    address: Address = None,
    num_workers: NumWorkers = None,
    gpus_per_worker: GpusPerWorker = None,
    max_failures: MaxFailures = None,
    as_json: AsJson = False,
) -> None:
    """How well pictures say their prompts, by phrase and word."""
    quiet()
    if video is not None:
        if image is not None or pairs is not None or prompts is not None or not video_prompt:
            raise InputError("--video needs --prompt-of-video TEXT, and neither IMAGE nor --pairs nor --prompts")
        own = said("batch_size", "engine")
        leave_out("with --video", images=images, out=out, judge=judge, calibration=calibration, **own)
        return _score_video(video, video_prompt, source_video, frames, clip, device, as_json)
    leave_out("without --video", prompt_of_video=video_prompt, source_video=source_video, frames=frames)
    if pairs is not None or prompts is not None:
        given = "--prompts" if pairs is None else "--pairs"
        if image is not None or prompt is not None:
            raise InputError(f"both {given} and an IMAGE were given; give one of them")
        if pairs is not None:
            leave_out("with --pairs", prompts=prompts, images=images)
        from accord.cli.scoring import Judges, check_out

        spread = spread_of(engine, address, num_workers, gpus_per_worker, max_failures)
        if spread is not None:
            leave_out("with --engine ray, which scores --pairs", prompts=prompts, images=images)
            if pairs is None or out is None:
                raise InputError("--engine ray scores --pairs into a folder; give --pairs and --out FOLDER")
            work = Scoring(Judges(judge, clip, calibration, device))
            return pictures_on_cluster(spread, work, pairs, out, ("image", "prompt"), batch_size, as_json)
        judges, target = Judges(judge, clip, calibration, pick_device(device)), check_out(out, given)
        return _score_many(pairs, prompts, images, target, judges, batch_size, as_json)
    leave_out("without --prompts", images=images)
    leave_out("without --pairs or --prompts", **said("batch_size", "engine"))
    if image is None or prompt is None:
        raise InputError("nothing to score; give IMAGE and PROMPT, --pairs FILE, or --prompts FILE and --images DIR")
    _score_one(image, prompt, out, judge, clip, calibration, device, as_json)


def _score_video(
    video: Path,
    prompt: str,
    source: Path | None,
    frames: str | None,
    clip: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """A video beside its prompt and the one it was edited from."""
    import accord
    from accord.data.video import read_video
    from accord.rewards.video import score_video

    if source is None:
        leave_out("without --source-video", frames=frames)
    check_said(prompt)
    where = pick_device(device)
    before = read_video(source, *frame_range(frames)).frames if source is not None else None
    shown = read_video(video)
    measured = score_video(shown.frames, prompt, before, accord.load_clip(clip, where))
    say_lab_only(shown.size, clip, "--clip ID")
    measured |= read_by_the_lab(shown.frames, prompt) if clip is None else {}
    emit(as_json, measured, "\n".join(f"{k} {v:.4f}" for k, v in measured.items()))


def _score_one(
    image: Path,
    prompt: str,
    out: Path | None,
    judge: str | None,
    clip: str | None,
    calibration: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """One picture, with a report if `out` is given."""
    import accord
    from accord.data.images import open_image
    from accord.files import check_writable
    from accord.reports.page import score_text, words_text

    check_said(prompt, parsed=True)
    picture = open_image(image)
    if out is not None:
        check_writable(out)
    where = pick_device(device)
    judging = accord.load_judge(judge, where, calibration=calibration)
    result = accord.score(picture, prompt, judging, accord.load_clip(clip, where))[0]
    say_lab_only(picture.size, judge, "--judge ID and --clip ID")
    if picture.size == (SIDE, SIDE):
        say_unknown_things([prompt], judge, "--judge ID")
    seen = result.alignment
    text = f"alignment {score_text(seen.overall, 3)}, reads as: {seen.caption}\n{words_text(seen)}"
    if out is not None:
        result.save(out)
        text += f"\nreport: {out / 'index.html'}"
    emit(as_json, result.to_dict(), text)


def _score_many(
    pairs: Path | None,
    prompts: Path | None,
    images: Path | None,
    out: Path,
    judges: Any,
    batch_size: int,
    as_json: bool,
) -> None:
    """The pictures of a table, or of a folder and a file of prompts."""
    from accord.cli.scoring import of_pairs, of_prompts, score_all
    from accord.data.pairs import PairsFile

    broken = PairsFile()
    if pairs is not None:
        source, pictures = pairs, of_pairs(pairs, out, broken)
    elif prompts is None or images is None:
        raise InputError("--prompts needs --images, the folder of their pictures; give it")
    else:
        source, pictures = prompts, of_prompts(prompts, images, out, broken)
    score_all(pictures, broken, source, out, judges, as_json, batch_size)


def realign(
    prompts: GivenPrompts = None,
    file: PromptsFile = None,
    model: Model = None,
    variant: Variant = None,
    model_config: ModelConfig = None,
    lora: Lora = None,
    seed: Seeds = [0],  # noqa: B006
    rounds: Annotated[int, typer.Option(help="How often a picture is redone at most.")] = 2,
    mode: Annotated[
        str,
        typer.Option(
            help=(
                "Where a round starts: new_seed (another noise), same_seed (the same noise), renoise (the picture, "
                "noised part-way); route (local failures are edited in their place, others drawn from another noise), "
                "edit (every failure is edited in its place)."
            )
        ),
    ] = "new_seed",
    strength: Annotated[
        float | None, typer.Option(help="With --mode renoise: share of the steps that is redone; 0.8 if not given.")
    ] = None,
    place: Annotated[
        list[str] | None,
        typer.Option(
            metavar="THING=X0,Y0,X1,Y1",
            help=(
                "Where a thing of the prompt is to be put, as shares of width and height: moon=0,0,0.4,0.5; repeat for "
                "several. Each picture is redone then."
            ),
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Instead of --rounds, what a picture may cost, the judge included: 30s (seconds) or 200calls (of the "
            "denoiser). The first picture is always made."
        ),
    ] = None,
    steps: Steps = None,
    guidance: OwnGuidance = None,
    negative_prompt: NegativePrompt = None,
    height: Height = None,
    width: Width = None,
    call: Call = None,
    judge: JudgeId = None,
    calibration: CalibrationFile = None,
    select: Annotated[
        str,
        typer.Option(
            help=(
                "Which picture is kept, and which is good enough: score (the words' verdicts), or pass (first whether "
                "the judge's caption says what the prompt asks for, nothing more and nothing less)."
            )
        ),
    ] = "score",
    good_enough: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="How probable all words of a picture must be so that it is not redone; 0.9 if not given. With "
            "--select pass 0.5 redoes far fewer pictures that were right.",
        ),
    ] = None,
    regions: Annotated[
        str,
        typer.Option(help="What finds the things: attention (the pipeline's own) or detector (a model that looks)."),
    ] = "attention",
    detector: Annotated[
        str | None,
        typer.Option(
            help=f"With --regions detector: OWLv2 or Grounding DINO folder or hub id; {HUB_DETECTOR} if not given."
        ),
    ] = None,
    outlines: Annotated[
        str | None, typer.Option(help="With --regions detector: SAM folder or hub id; boxes alone if not given.")
    ] = None,
    judge_regions: Annotated[
        str,
        typer.Option(help="How the judge sees each thing: crop (cut out) or box (a chat model: drawn in the picture)."),
    ] = "crop",
    batch_size: BatchSize = 16,
    shard: FileShard = None,
    device: Device = None,
    dtype: Dtype = "float32",
    out: Out = Path("out/realign"),
    engine: Engine = "local",
    address: Address = None,
    num_workers: NumWorkers = None,
    gpus_per_worker: GpusPerWorker = None,
    max_failures: MaxFailures = None,
    as_json: AsJson = False,
) -> None:
    """Generate, find out what is missing and where, and repair it with the same model."""
    quiet()
    import accord
    from accord.judges.regions import VIEWS
    from accord.judges.strict import selector_named
    from accord.methods.realign.config import MODES
    from accord.methods.realign.fine import check_places
    from accord.methods.realign.routing import ROUTINGS, Budget
    from accord.prompts.phrases import phrases_of

    if mode not in (*MODES, *ROUTINGS):
        raise InputError(f"--mode {mode!r} is unknown; use {', '.join(MODES)}, {' or '.join(ROUTINGS)}")
    routing = ROUTINGS.get(mode)
    given_alone = {"strength": strength, "good_enough": good_enough}
    share = {name: value for name, value in given_alone.items() if value is not None}
    config = checked(accord.RealignConfig, rounds=rounds, mode="new_seed" if routing else mode, **share)
    if mode != "renoise":
        leave_out("without --mode renoise", strength=strength)
    if budget is not None:
        leave_out("with --budget", **said("rounds"))
        Budget.of(budget)
    elif not rounds:
        leave_out("with --rounds 0", **said("mode", "regions", "judge_regions", "select", "good_enough", "place"))
    if file is not None:
        leave_out("with --prompts, whose rows have things of their own", place=place)
    places = places_of(place or ())
    selector_named(select)
    if regions not in REGIONS:
        raise InputError(f"--regions {regions!r} is unknown; use {' or '.join(REGIONS)}")
    if judge_regions not in VIEWS:
        raise InputError(f"--judge-regions {judge_regions!r} is unknown; use {' or '.join(VIEWS)}")
    if regions == "attention":
        leave_out("without --regions detector", detector=detector, outlines=outlines)
    if model is None:
        leave_out("without --model", variant=variant, model_config=model_config)
    told = call_options(steps, guidance, negative_prompt, height, width, call)
    torch_type(dtype)
    looking: dict[str, Any] = {
        "regions": regions,
        "calibration": calibration and str(calibration),
        "detector": detector,
        "outlines": outlines,
        **({} if judge_regions == "crop" else {"judge_regions": judge_regions}),  # as manifests without it have it
        **share,
        **({"mode": mode, "budget": budget} if routing or budget else {}),
    }
    repairing = Repairing(
        Pipeline(model, variant, model_config, lora, dtype, told),
        batch_size,
        config,
        mode,
        judge_of(judge, model, HUB_CAPTIONER),
        calibration,
        judge_regions,
        (detector or HUB_DETECTOR) if regions == "detector" else None,
        outlines,
        looking,
        places,
        select,
        routing,
        budget,
    )
    spread = spread_of(engine, address, num_workers, gpus_per_worker, max_failures)
    if spread is not None:
        leave_out("with --engine ray", shard=shard)
        return make_on_cluster(spread, "realign", repairing, file, prompts, seed, device, out, as_json)
    given = Given.of(prompts, file, seed, shard, parsed=True)
    for prompt in given.prompts if places else ():
        check_places(phrases_of(prompt), places)
    pick_device(device)
    say_unknown_things(given.prompts, model, "--model ID")
    _repair_all(repairing, given, file is not None, device, out, as_json)


def _repair_all(
    repairing: Repairing, given: Given, from_file: bool, device: str | None, out: Path, as_json: bool
) -> None:
    """Pictures before and after, a folder each, and a page of them all."""
    from accord.reports.gallery import of_repairs, repairs_in, write_gallery

    told, passes = repairing.pipeline.told, 1 + repairing.config.rounds
    with given.writing(out):
        pipe, making = repairing.load(device)
        write = functools.partial(write_repair, out)
        task = Task("realign", told, making, write, repairing.batch_size, as_json, passes=passes)
        if from_file:
            run = given.run(task, pipe, out)
            index = write_gallery(out, repairs_in(out), "accord realign") if run.is_whole else None
            return run.tell(as_json, out, index)

        def show(_job: Job, made: Any, line: dict[str, Any]) -> tuple[dict[str, Any], str]:
            folder = (out / line["file"]).parent
            return {**made.to_dict(), "folder": str(folder)}, repair_text(made, folder)

        made = make_all(task, given, show)
        rows = [row for row, _ in made]
        index = write_gallery(out, of_repairs(rows), "accord realign")
    lines = [*(text for _, text in made), f"all of them: {index}"]
    emit(as_json, {"results": rows, "gallery": str(index)}, "\n".join(lines))


def invert(
    images: Annotated[list[Path] | None, typer.Argument(help="One or more pictures.")] = None,
    bank: Annotated[
        Path | None, typer.Option(help="Prompts to retrieve from (.txt, .csv, .tsv, .jsonl, .json, .parquet).")
    ] = None,
    inverter: Annotated[Path | None, typer.Option(help="Inverter folder; the embedded one if not given.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Instead of pictures: all pictures under a folder, with --out FILE.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Instead of pictures: the pictures of a pairs file or folder, with --out FILE.")
    ] = None,
    shard: Annotated[str | None, typer.Option(help="I/N: every N-th picture from the I-th on.")] = None,
    words_only: Annotated[bool, typer.Option("--words-only", help="No readable prompt: faster.")] = False,
    adapt: Annotated[
        Path | None,
        typer.Option(
            help=(
                "With --folder or --pairs: labelled pairs that the inverter was not trained on; domain adaptation "
                "(DAKL) "
                "is fitted on them and the pictures at hand."
            )
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            "--captioner",
            help=(
                "Who writes captions and weighs prompts: BLIP, BLIP-2 or chat model, folder or hub id, or lab; if not "
                f"given the one that the inverter was trained with, or {HUB_CAPTIONER} if it was with none."
            ),
        ),
    ] = None,
    device: Device = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File for --folder and --pairs: .parquet, .csv or .jsonl; with --engine ray a folder."),
    ] = None,
    engine: Engine = "local",
    address: Address = None,
    num_workers: NumWorkers = None,
    gpus_per_worker: GpusPerWorker = None,
    max_failures: MaxFailures = None,
    as_json: AsJson = False,
) -> None:
    """Which prompt made this image? An embedding, words, retrieved prompts and one readable prompt."""
    quiet()
    sources = [s for s in (images or None, folder, pairs) if s is not None]
    if len(sources) != 1:
        raise InputError("give pictures, or --folder, or --pairs: exactly one of them")
    reading = _Reading(inverter, judge, bank, words_only)
    spread = spread_of(engine, address, num_workers, gpus_per_worker, max_failures)
    if spread is not None:
        leave_out("with --engine ray", adapt=adapt, shard=shard)
        source = folder or pairs
        if source is None or out is None:
            raise InputError(
                "--engine ray inverts --folder or --pairs into a folder; give one of them, and --out FOLDER"
            )
        return _invert_on_cluster(reading, spread, source, out, device, as_json)
    if images:
        leave_out("without --folder or --pairs", out=out, adapt=adapt, shard=shard)
        return _invert_pictures(reading, images, pick_device(device), as_json)
    where = pick_device(device)
    if out is None:
        raise InputError("--folder and --pairs need --out FILE.parquet, .csv or .jsonl to write to")
    _invert_many(reading, folder, pairs, out, shard, adapt, where, as_json)


@dataclass(frozen=True)
class _Reading:
    """What pictures are read by, as the command has it."""

    inverter: Path | None
    judge: str | None
    bank: Path | None
    words_only: bool

    def prompts(self, broken: PairsFile) -> list[str] | None:
        """The bank's; rows of it that are left out go into `broken`."""
        from accord.data.prompt_files import read_prompts

        return None if self.bank is None else read_prompts(self.bank, broken)

    def reader(self, prompts: list[str] | None, device: str) -> Any:
        return reader_of(self.inverter, self.judge, prompts, self.words_only, device)


def _invert_on_cluster(
    reading: _Reading, spread: Any, source: Path, out: Path, device: str | None, as_json: bool
) -> None:
    from accord.data.pairs import PairsFile
    from accord.methods.invert.bulk import CHUNK

    unusable = PairsFile()
    prompts = reading.prompts(unusable)
    tell_skipped(unusable.skipped)
    told = None if prompts is None else tuple(prompts)
    work = Inverting(reading.inverter, reading.judge, told, reading.words_only, device)
    pictures_on_cluster(spread, work, source, out, ("image",), CHUNK, as_json)


def _invert_pictures(reading: _Reading, images: list[Path], device: str, as_json: bool) -> None:
    """A few pictures, told at once."""
    from accord.data.images import open_image
    from accord.data.pairs import PairsFile

    broken = PairsFile()
    pictures = [open_image(p) for p in images]
    reader = reading.reader(reading.prompts(broken), device)
    say_lab_only(pictures[0].size, reading.inverter, _FOREIGN)
    tell_skipped(broken.skipped)
    results = reader(pictures)
    lines = []
    for path, result in zip(images, results, strict=True):
        told = f"{result.prompt}  [cosine {result.score:.3f}]" if result.prompt else "(words only)"
        lines.append(f"{path}: {told}")
        lines.append("  words: " + ", ".join(f"{w} {p:.2f}" for w, p in result.words))
        lines += [f"  bank {c:.3f}  {t}" for t, c in result.retrieved]
    rows = [{"image": str(p), **r.to_dict()} for p, r in zip(images, results, strict=True)]
    emit(as_json, {"results": rows, "skipped": broken.skipped}, "\n".join(lines))


def _invert_many(
    reading: _Reading,
    folder: Path | None,
    pairs: Path | None,
    out: Path,
    shard: str | None,
    adapt: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """All pictures of a folder or of a pairs file, into a table that is gone on with."""
    import accord
    from accord.data.pair_folders import list_images, stream_pairs
    from accord.data.pairs import PairsFile
    from accord.data.shards import parse_shard
    from accord.files import check_writable, only_writer
    from accord.methods.invert.bulk import check_target, invert_files, labelled_by, shard_path
    from accord.reports.gallery import gallery_beside

    part = parse_shard(shard or "1/1")
    target = shard_path(out, *part)
    if pairs is not None and is_same(target, pairs):
        raise InputError(f"--out {str(out)!r} is the pairs file itself; give another name")
    check_target(target)
    check_writable(out.parent)
    check_writable(gallery_beside(target))
    check_pairs(adapt)
    broken, unread = PairsFile(), PairsFile()  # rows of the bank that are left out, and of the pairs
    if folder is not None:
        paths = list_images(folder)
        names = [p.relative_to(folder).as_posix() for p in paths]
    else:
        found = list(stream_pairs(pairs or "", unread))
        paths, names = [Path(p.image) for p in found], [p.name for p in found]
    prompts = reading.prompts(broken)
    size = _first_size(folder or pairs, paths, names, part, unread.skipped)
    with only_writer(target.parent, target.name):
        reader = reading.reader(prompts, device)
        labelled = None
        if adapt is not None:
            embed = reader.embed or accord.load_sentence(device=device)
            labelled = labelled_by(reader.inverter, adapt, embed, unread, not as_json)
        if size is not None:
            say_lab_only(size, reading.inverter, _FOREIGN)
        tell_skipped(broken.skipped)
        data = invert_files(
            paths, out, part, reader, progress=not as_json, labelled=labelled, names=names, gallery=True
        )
    data["skipped"] += [{"image": f"row {r['row']}", "reason": r["reason"]} for r in unread.skipped]
    data["skipped_prompts"] = broken.skipped
    text = (
        f"{data['out']} is there already"
        if data["done_before"]
        else f"inverted {data['images']}, written to {data['out']}"
    )
    if "gallery" in data:
        text += f"\npictures: {data['gallery']}"
    emit(as_json, data, "\n".join([text, *(f"skipped {s['image']}: {s['reason']}" for s in data["skipped"])]))


def _first_size(
    source: Path | None,
    paths: Sequence[Path],
    names: Sequence[str],
    part: tuple[int, int],
    skipped: Sequence[Mapping[str, Any]],
) -> tuple[int, int] | None:
    """The size of the first picture of this share that can be read; None for a share without any.

    Args:
        skipped: rows that name no picture.

    Raises:
        InputError: where no picture can be read, or there is none at all.
    """
    from accord.data.images import open_image
    from accord.data.shards import share_of
    from accord.methods.invert.bulk import reason_as_named

    why = ""
    for path, name in zip(share_of(paths, part), share_of(names, part), strict=True):
        try:
            return open_image(path).size
        except InputError as error:  # it is listed as skipped later on
            why = why or reason_as_named(error, path, name)
    if paths and not why:
        return None
    why = why or (f"row {skipped[0]['row']}: {skipped[0]['reason']}" if skipped else "there is none")
    raise InputError(f"no picture of {str(source)!r} can be read ({why.partition(';')[0]}); check the paths")


_FOREIGN = "--inverter FOLDER, trained on pairs of their pipeline"


def reader_of(inverter: Path | None, judge: str | None, bank: list[str] | None, words_only: bool, device: str) -> Any:
    """The `Reader` of these options; it loads nothing that is not needed."""
    import accord
    from accord.methods.invert.reader import Reader

    loaded = accord.Inverter.from_pretrained(inverter, device)
    if words_only and not loaded.needs_captions:
        leave_out("with --words-only by an inverter that takes no caption", judge=judge)
    embed = accord.load_sentence(device=device) if bank is not None or not words_only else None
    prompts = accord.Bank(bank, embed) if bank is not None and embed is not None else None
    if judge is not None or not words_only:
        own = loaded.captioner_id or (HUB_CAPTIONER if loaded.is_beyond_the_lab else None)
        loaded.captioner = _writer(judge or own, device)
    return Reader(loaded, prompts, None if words_only else loaded.captioner, embed)


def _writer(named: str | None, device: str) -> Any:
    """A judge that writes captions."""
    import accord

    found = accord.load_judge(named, device)
    if not found.writes:
        raise InputError(f"judge {named!r} writes no captions; use a BLIP, a BLIP-2 or a chat model")
    return found
