"""The command line: `accord --help`. Heavy imports are made inside the commands, so that help is instant."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from accord.types import InputError

app = typer.Typer(
    help="Make a text-to-image diffusion model do what its prompt says: measure, explain, repair.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
train_app = typer.Typer(help="Train models.", no_args_is_help=True)
bench_app = typer.Typer(help="Measure, and write the tables under docs/bench.", no_args_is_help=True)
pairs_app = typer.Typer(help="Make pairs of picture and prompt.", no_args_is_help=True)
app.add_typer(train_app, name="train")
app.add_typer(pairs_app, name="pairs")
app.add_typer(bench_app, name="bench")

# who judges pictures of a pipeline that is not the lab's, if nobody is named
HUB_CAPTIONER = "Salesforce/blip2-opt-2.7b"
HUB_CLIP = "openai/clip-vit-large-patch14"

Model = Annotated[str | None, typer.Option(help="Pipeline folder or hub id; the embedded lab if not given.")]
Lora = Annotated[str | None, typer.Option(help="Adapter to put on, as accord train reward leaves it: folder, file or hub id; lab for the embedded one.")]
CaptionerId = Annotated[str | None, typer.Option(help=f"BLIP or BLIP-2 folder or hub id, or lab for the embedded one; if not given lab, and with --model {HUB_CAPTIONER}.")]
ClipId = Annotated[str | None, typer.Option(help=f"CLIP folder or hub id, or lab for the embedded one; if not given lab, and with --model {HUB_CLIP}.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; CUDA if there is one by default.")]
Dtype = Annotated[str, typer.Option(help="float32, float16 or bfloat16, of the pipeline's weights; half precision is for CUDA.")]
Seeds = Annotated[list[int], typer.Option("--seed", min=0, help="Seed; repeat for several pictures a prompt.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout and nothing else there.")]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Prompts = Annotated[list[str], typer.Argument(help="One or more prompts, each in quotes.")]
Steps = Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")]
Guidance = Annotated[float, typer.Option(help="Guidance scale.")]


def _quiet() -> None:
    """Keep libraries' notices off the terminal; errors are still raised."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def _emit(as_json: bool, data: dict[str, Any], text: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes the first one speaks
        print(json.dumps(data) if as_json else text)


def _device(named: str | None) -> str:
    """The device that was named, refused if it is not here, or the default one."""
    from accord.diffusion.pipelines import check_device, default_device

    where = named or default_device()
    check_device(where)
    return where


def _dtype(name: str) -> Any:
    """torch's type of that name."""
    import torch

    if name not in ("float32", "float16", "bfloat16"):
        raise InputError(f"dtype {name!r} is unknown; use float32, float16 or bfloat16")
    return getattr(torch, name)


def _judge(named: str | None, model: str | None, hub: str) -> str | None:
    """Who judges: the model that was named, or the one for this pipeline."""
    return named or (None if model is None else hub)


def _say_lab_only(size: tuple[int, int], named: Any, what: str) -> None:
    """A note on stderr where an embedded model judges a picture that it cannot know."""
    if named is None and size != (64, 64):
        print(f"note: the embedded models know the lab's scenes of 64x64 pixels alone; for other pictures give {what}", file=sys.stderr)


def _read_by_the_lab(frames: Any, prompt: str) -> dict[str, float]:
    """On clips of the lab, the share of frames that the reader finds right; nothing of others."""
    from accord.lab.scenes.ask import ask_of, check
    from accord.lab.scenes.read import read

    try:
        ask = ask_of(prompt)
    except InputError:
        return {}
    if frames[0].size != (64, 64):
        return {}
    return {"frames_right": sum(check(read(f), ask).right for f in frames) / len(frames)}


def _name(index: int, prompt: str, seed: int) -> str:
    words = "-".join("".join(c if c.isalnum() else " " for c in prompt.lower()).split())[:60].strip("-")
    return f"{index:03d}-{words}-s{seed}"


def _version(asked: bool) -> None:
    if asked:
        import accord

        print(accord.__version__)
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    """Make a text-to-image diffusion model do what its prompt says: measure, explain, repair."""


@app.command()
def generate(
    prompts: Prompts,
    model: Model = None,
    lora: Lora = None,
    seed: Seeds = [0],  # noqa: B006 (typer copies it)
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    context: Annotated[Path | None, typer.Option(help="Folder of accord train context: its relational network (and adapter) shifts the process.")] = None,
    ancestral: Annotated[bool, typer.Option("--ancestral", help="With --context: DDPM instead of DDIM.")] = False,
    clip: Annotated[str | None, typer.Option(help="CLIP of a context that was trained with --pixels; the embedded one if not given.")] = None,
    device: Device = None,
    dtype: Dtype = "float32",
    out: Out = Path("out/generate"),
    as_json: AsJson = False,
) -> None:
    """Generate pictures from prompts."""
    _quiet()
    import accord
    from accord.outputs import check_writable, png, write_file

    if clip is not None and context is None:
        raise InputError(f"--clip {clip!r} is used with --context only; add it, or leave --clip out")
    if ancestral and context is None:
        raise InputError("--ancestral is used with --context only; add it")
    if lora is not None and context is not None:
        raise InputError("--context brings its own adapter; give it or --lora")
    check_writable(out)
    pipe = accord.load(model, device, _dtype(dtype), lora=lora)
    if context is None:
        images = accord.generate(
            pipe, prompts, seed, num_inference_steps=steps, guidance_scale=guidance, progress=not as_json
        )
    else:
        from accord.methods.context.pipeline import generate_with_context, load_context

        network, shift = load_context(pipe, context, accord.load_clip(clip, str(pipe.device)) if clip else None)
        images = generate_with_context(
            pipe, network, prompts, seed, shift=shift, ancestral=ancestral, num_inference_steps=steps, guidance_scale=guidance, progress=not as_json
        )
    rows: list[dict[str, Any]] = []
    jobs = [(p, s) for p in prompts for s in seed]
    for i, ((prompt, number), image) in enumerate(zip(jobs, images, strict=True)):
        path = out / f"{_name(i, prompt, number)}.png"
        write_file(path, png(image))
        rows.append({"prompt": prompt, "seed": number, "image": str(path)})
    _emit(as_json, {"images": rows}, "\n".join(str(r["image"]) for r in rows))


@app.command()
def score(
    image: Annotated[Path | None, typer.Argument(help="A picture.")] = None,
    prompt: Annotated[str | None, typer.Argument(help="Its prompt, in quotes.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="CSV, JSONL or Parquet with columns image and prompt.")] = None,
    video: Annotated[Path | None, typer.Option(help="Instead of IMAGE: a clip, with --prompt-of-clip.")] = None,
    clip_prompt: Annotated[str | None, typer.Option("--prompt-of-clip", help="What the clip is to show.")] = None,
    source_clip: Annotated[Path | None, typer.Option(help="With --video: the clip it was edited from.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report, or with --pairs a file to write.")] = None,
    captioner: CaptionerId = None,
    clip: ClipId = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """How well pictures say their prompts, by phrase and word."""
    _quiet()
    if video is not None:
        if image is not None or pairs is not None or not clip_prompt:
            raise InputError("--video needs --prompt-of-clip TEXT, and neither IMAGE nor --pairs")
        if out is not None or captioner is not None:
            raise InputError("--out and --captioner are not used with --video; leave them out")
        import accord
        from accord.data.video import read_clip
        from accord.rewards.video import score_clip

        before = read_clip(source_clip).frames if source_clip is not None else None
        shown = read_clip(video)
        _say_lab_only(shown.size, clip, "--clip ID")
        measured = score_clip(shown.frames, clip_prompt, before, accord.load_clip(clip, _device(device)))
        measured |= _read_by_the_lab(shown.frames, clip_prompt) if clip is None else {}
        return _emit(as_json, measured, "\n".join(f"{k} {v:.4f}" for k, v in measured.items()))
    if clip_prompt or source_clip is not None:
        raise InputError("--prompt-of-clip and --source-clip are used with --video only; add it")
    if pairs is not None:
        if image is not None or prompt is not None:
            raise InputError("both --pairs and an IMAGE were given; give one of them")
        return _score_pairs(pairs, out, captioner, clip, device, as_json)
    if image is None or prompt is None:
        raise InputError("nothing to score; give IMAGE and PROMPT, or --pairs FILE")
    import accord
    from accord.data.images import open_image
    from accord.outputs import check_writable, words_text

    picture = open_image(image)
    if out is not None:
        check_writable(out)
    where = _device(device)
    _say_lab_only(picture.size, captioner, "--captioner ID and --clip ID")
    result = accord.score(picture, prompt, accord.load_captioner(captioner, where), accord.load_clip(clip, where))[0]
    text = f"alignment {result.alignment.overall:.3f}, reads as: {result.alignment.caption}\n{words_text(result.alignment)}"
    if out is not None:
        result.save(out)
        text += f"\nreport: {out / 'index.html'}"
    _emit(as_json, result.to_dict(), text)


def _score_pairs(
    pairs: Path, out: Path | None, captioner: str | None, clip: str | None, device: str | None, as_json: bool
) -> None:
    import accord
    from accord.data.images import open_image
    from accord.data.pairs import check_table_path, read_pairs, table_bytes
    from accord.outputs import check_writable, write_file

    if out is None:
        raise InputError("--pairs needs --out FILE.csv, .jsonl or .parquet to write the scores to")
    check_table_path(out)
    table = read_pairs(pairs)
    check_writable(out.parent)
    where = _device(device)
    judge, similarity = accord.load_captioner(captioner, where), accord.load_clip(clip, where)
    rows = []
    for pair in table.pairs:
        try:
            found = accord.score(open_image(pair.image), pair.prompt, judge, similarity)[0].alignment
        except InputError as error:
            table.skip(pair.row, str(error))
            continue
        rows.append({"row": pair.row, "image": pair.image, **found.to_dict()})
    if not rows:
        why = f" (row {table.skipped[0]['row']}: {table.skipped[0]['reason']})" if table.skipped else ""
        raise InputError(f"no row of {str(pairs)!r} could be scored{why}; mend it there")
    write_file(out, table_bytes(rows, out.suffix.lower()))
    mean = sum(r["overall"] for r in rows) / len(rows) if rows else None
    data = {"scored": len(rows), "mean": mean, "skipped": table.skipped, "out": str(out)}
    lines = [f"scored {len(rows)}" + (f", mean alignment {mean:.3f}" if rows else "") + f", written to {out}"]
    lines += [f"skipped row {s['row']}: {s['reason']}" for s in sorted(table.skipped, key=lambda s: s["row"])]
    _emit(as_json, data, "\n".join(lines))


@app.command()
def realign(
    prompts: Prompts,
    model: Model = None,
    lora: Lora = None,
    seed: Seeds = [0],  # noqa: B006
    rounds: Annotated[int, typer.Option(help="How often a picture is redone at most.")] = 2,
    mode: Annotated[str, typer.Option(help="Where a round starts: new_seed (another noise), same_seed (the same noise), renoise (the picture, noised part-way).")] = "new_seed",
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    captioner: CaptionerId = None,
    device: Device = None,
    dtype: Dtype = "float32",
    out: Out = Path("out/realign"),
    as_json: AsJson = False,
) -> None:
    """Generate, find out what is missing and where, and repair it with the same model."""
    _quiet()
    import accord
    from accord.outputs import check_writable, words_text

    check_writable(out)
    config = _checked(lambda: accord.RealignConfig(rounds=rounds, mode=mode))
    pipe = accord.load(model, device, _dtype(dtype), lora=lora)
    results = accord.realign(
        pipe,
        prompts,
        seed,
        config=config,
        captioner=accord.load_captioner(_judge(captioner, model, HUB_CAPTIONER), str(pipe.device)),
        num_inference_steps=steps,
        guidance_scale=guidance,
        progress=not as_json,
    )
    rows, lines = [], []
    for i, result in enumerate(results):
        folder = result.save(out / _name(i, result.prompt.text, result.seed))
        rows.append({**result.to_dict(), "folder": str(folder)})
        before, after = result.alignment_before, result.alignment_after
        lines += [
            f"{result.prompt.text!r}, seed {result.seed}: alignment {before.overall:.3f} -> {after.overall:.3f}"
            + (f", from the noise of seed {result.seed_after}" if result.seed_after is not None else ""),
            *("  before  " + line for line in words_text(before).splitlines()),
            *("  after   " + line for line in words_text(after).splitlines() if result.improved),
            f"  pictures and report: {folder / 'index.html'}",
        ]
    _emit(as_json, {"results": rows}, "\n".join(lines))


@app.command()
def edit(
    clip: Annotated[Path, typer.Argument(help="mp4, webm, gif, or a folder of frames.")],
    source: Annotated[str, typer.Option(help="What the clip shows.")],
    target: Annotated[str, typer.Option(help="What it is to show.")],
    out: Annotated[Path, typer.Option(help="mp4, webm or gif to write, or a folder for frames.")] = Path("out/edited.mp4"),
    frames: Annotated[str | None, typer.Option(help="START:STOP, a range of the clip's frames.")] = None,
    model: Model = None,
    context: Annotated[bool, typer.Option("--context/--no-context", help="ContextDiff; without it this is Tune-A-Video.")] = True,
    tune_steps: Annotated[int, typer.Option(help="Steps of one-shot tuning; about 200 for Stable Diffusion.")] = 60,
    learning_rate: Annotated[float, typer.Option(help="Of the tuning; about 3e-5 for Stable Diffusion.")] = 1e-3,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")] = 25,
    guidance: Annotated[float, typer.Option(help="Guidance scale.")] = 5.0,
    strength: Annotated[float, typer.Option(help="Share of the steps that is inverted and sampled again.")] = 1.0,
    injection: Annotated[float, typer.Option(help="First share of the steps in which the source's attention holds the layout.")] = 0.5,
    hold: Annotated[float, typer.Option(help="First share of the steps in which the source is put back wherever the two prompts agree.")] = 0.7,
    modulation: Annotated[float, typer.Option(help="Weight of realign's modulation in every frame; 0 leaves it out.")] = 0.0,
    window: Annotated[int, typer.Option(help="Frames that the network sees at once.")] = 16,
    similarity: Annotated[str | None, typer.Option("--clip-model", help=f"CLIP that measures the edit, folder or hub id; if not given lab, and with --model {HUB_CLIP}.")] = None,
    tuned: Annotated[Path | None, typer.Option(help="Folder for the tuned parts; a tuning found there is used or resumed.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Edit a clip with words: the thing changes, motion and ground are meant to stay."""
    _quiet()
    import tempfile

    import accord
    from accord.data.video import check_clip_path, read_clip, write_clip
    from accord.diffusion.pipelines import check_prompt_length
    from accord.methods.context.video import EditConfig, VideoEditor
    from accord.methods.realign.clips import modulate_clip
    from accord.outputs import check_writable
    from accord.rewards.video import score_clip

    config = _checked(
        lambda: EditConfig(
            tune_steps=tune_steps, learning_rate=learning_rate, context=context, num_inference_steps=steps, guidance_scale=guidance, strength=strength,
            injection=injection, hold=hold, window=window, overlap=min(4, window - 1), seed=seed,
        )
    )
    modulate = _checked(lambda: modulate_clip(modulation)) if modulation else None
    check_clip_path(out)
    if out.resolve() == clip.resolve():
        raise InputError(f"--out {str(out)!r} is the clip itself; give another name")
    first, last = _range(frames)
    taken = read_clip(clip, first, last)
    check_writable(out.parent)
    pipe = accord.load(model, device)
    check_prompt_length(pipe, target)  # before the tuning
    editor = VideoEditor(pipe, taken, source, config)
    with tempfile.TemporaryDirectory() as scratch:
        editor.tune(tuned or scratch, progress=not as_json)
    if tuned is not None:
        editor.save(tuned)
    result = editor.edit(target, progress=not as_json, modulate=modulate)
    write_clip(out, result.frames, result.fps)
    measured = score_clip(result.frames, target, taken.frames, accord.load_clip(_judge(similarity, model, HUB_CLIP), str(pipe.device)))
    measured |= _read_by_the_lab(result.frames, target) if model is None else {}
    text = "\n".join([f"written to {out}", *(f"  {k} {v:.4f}" for k, v in measured.items())])
    _emit(as_json, {"out": str(out), "frames": len(result), "fps": float(result.fps), **measured}, text)


def _range(text: str | None) -> tuple[int, int | None]:
    """START:STOP, either may be left out."""
    if text is None:
        return 0, None
    start, colon, stop = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return int(start or 0), int(stop) if stop else None
    except ValueError:
        raise InputError(f"frames {text!r} is not START:STOP; write for example 0:16") from None


@app.command()
def invert(
    images: Annotated[list[Path] | None, typer.Argument(help="One or more pictures.")] = None,
    bank: Annotated[Path | None, typer.Option(help="Prompts to retrieve from (.txt, .csv, .tsv, .jsonl, .json).")] = None,
    inverter: Annotated[Path | None, typer.Option(help="Inverter folder; the embedded one if not given.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Instead of pictures: all pictures under a folder, with --out FILE.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="Instead of pictures: the pictures of a pairs file or folder, with --out FILE.")] = None,
    shard: Annotated[str | None, typer.Option(help="I/N: every N-th picture from the I-th on.")] = None,
    words_only: Annotated[bool, typer.Option("--words-only", help="No readable prompt: faster.")] = False,
    adapt: Annotated[Path | None, typer.Option(help="With --folder or --pairs: labelled pairs that the inverter was not trained on; a second level (DAKL) is fitted on them and the pictures at hand.")] = None,
    captioner: CaptionerId = None,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="File for --folder and --pairs: .parquet, .csv or .jsonl.")] = None,
    as_json: AsJson = False,
) -> None:
    """Which prompt made this image? An embedding, words, retrieved prompts and one readable prompt."""
    _quiet()
    import accord
    from accord.data.images import open_image
    from accord.data.pair_folders import list_images, stream_pairs
    from accord.data.pairs import PairsFile
    from accord.data.shards import parse_shard
    from accord.methods.invert.bulk import invert_files, labelled_by, shard_path
    from accord.methods.invert.invert import Bank
    from accord.outputs import check_writable

    sources = [s for s in (images or None, folder, pairs) if s is not None]
    if len(sources) != 1:
        raise InputError("give pictures, or --folder, or --pairs: exactly one of them")
    for name, given in (("--out", out), ("--adapt", adapt), ("--shard", shard)):
        if images and given is not None:
            raise InputError(f"{name} is used with --folder or --pairs only; leave it out")
    where = _device(device)
    if images:
        pictures = [open_image(p) for p in images]
        _say_lab_only(pictures[0].size, inverter, "--inverter FOLDER, trained on pairs of their pipeline")
        reader = accord.Inverter.from_pretrained(inverter, where)
        embed = accord.load_sentence(device=where) if bank is not None or not words_only else None
        shelf = Bank.from_file(bank, embed) if bank is not None and embed is not None else None
        if captioner is not None or not words_only:
            reader.captioner = accord.load_captioner(captioner or reader.captioner_id, where)
        results = accord.invert(pictures, reader, shelf, embed=embed, readable=not words_only)
        lines = []
        for path, result in zip(images, results, strict=True):
            lines.append(f"{path}: {result.prompt or '(words only)'}" + (f"  [cosine {result.score:.3f}]" if result.prompt else ""))
            lines.append("  words: " + ", ".join(f"{w} {p:.2f}" for w, p in result.words))
            lines += [f"  bank {c:.3f}  {t}" for t, c in result.retrieved]
        rows = [{"image": str(p), **r.to_dict()} for p, r in zip(images, results, strict=True)]
        return _emit(as_json, {"results": rows}, "\n".join(lines))
    if out is None:
        raise InputError("--folder and --pairs need --out FILE.parquet, .csv or .jsonl to write to")
    part = parse_shard(shard or "1/1")
    shard_path(out, *part)
    unread = PairsFile()
    paths = list_images(folder) if folder is not None else [Path(p.image) for p in stream_pairs(pairs or "", unread)]
    reader = accord.Inverter.from_pretrained(inverter, where)
    embed = accord.load_sentence(device=where) if bank is not None or not words_only else None
    shelf = Bank.from_file(bank, embed) if bank is not None and embed is not None else None
    if captioner is not None or not words_only:
        reader.captioner = accord.load_captioner(captioner or reader.captioner_id, where)
    check_writable(out.parent)
    labelled = labelled_by(reader, adapt, embed or accord.load_sentence(device=where), unread, not as_json) if adapt is not None else None
    data = invert_files(paths, out, part, reader, shelf, readable=not words_only, progress=not as_json, embed=embed, labelled=labelled)
    data["skipped"] += [{"image": f"row {r['row']}", "reason": r["reason"]} for r in unread.skipped]
    text = f"{data['out']} is there already" if data["done_before"] else f"inverted {data['images']}, written to {data['out']}"
    _emit(as_json, data, "\n".join([text, *(f"skipped {s['image']}: {s['reason']}" for s in data["skipped"])]))


@pairs_app.command("make")
def pairs_make(
    out: Annotated[Path, typer.Option(help="Folder, in DiffusionDB's layout; finished parts found there are kept.")],
    prompts: Annotated[Path | None, typer.Option(help="Prompts file; the lab's own captions if not given.")] = None,
    count: Annotated[int, typer.Option(help="How many of the lab's captions.")] = 20_000,
    model: Model = None,
    lora: Lora = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")] = 12,
    guidance: Guidance = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    shard: Annotated[str | None, typer.Option(help="I/N: only a share of the parts; after all N, run without it.")] = None,
    device: Device = None,
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Render prompts with a pipeline into pairs to train an inverter on."""
    _quiet()
    import accord
    from accord.data.prompt_files import read_prompts
    from accord.data.shards import parse_shard
    from accord.methods.invert.pairs import make_pairs

    if count < 1:
        raise InputError(f"count must be at least 1, not {count}")
    if prompts is not None:
        texts = read_prompts(prompts)
    else:
        from accord.lab.recipes.tokenizers import corpus

        texts = corpus(count, seed + 100)
    pipe = accord.load(model, device, _dtype(dtype), lora=lora)
    share = parse_shard(shard) if shard else None
    made = make_pairs(
        pipe, texts, out, seed=seed, num_inference_steps=steps, guidance_scale=guidance, shard=share, progress=not as_json
    )
    _emit(as_json, {"pairs": made, "out": str(out)}, f"{made} pairs in {out}")


@pairs_app.command("clips")
def pairs_clips(
    out: Annotated[Path, typer.Option(help="Folder for the clips, and truth.jsonl: prompt and boxes, frame by frame.")],
    count: Annotated[int, typer.Option(min=1, help="How many clips.")] = 8,
    frames: Annotated[int, typer.Option(min=2, help="Frames of each.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write clips of the lab: a thing that moves, to be edited and scored."""
    _quiet()
    from accord.lab.scenes.clips import write_clips
    from accord.outputs import check_writable

    rows = write_clips(check_writable(out), count, frames, seed)
    _emit(as_json, {"clips": rows, "out": str(out)}, "\n".join(f"{out / r['clip']}: {r['prompt']}" for r in rows))


@train_app.command("inverter")
def train_inverter_command(
    pairs: Annotated[Path, typer.Option(help="Pairs: DiffusionDB folder, folder with metadata.jsonl, or CSV, JSONL, Parquet.")],
    kind: Annotated[list[str], typer.Option(help="unet, clip, vit, swin or blip, as KIND or KIND=MODEL; repeat for an ensemble.")] = ["clip"],  # noqa: B006
    weight: Annotated[list[float] | None, typer.Option(help="Weight in the ensemble, one for each --kind.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of each predictor.")] = 2000,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Learning rate.")] = 5e-4,
    curriculum: Annotated[str, typer.Option(help="none, prefix (the paper's: easy pairs first; it harmed on the lab), or random (its control).")] = "none",
    vocabulary_weight: Annotated[float, typer.Option(help="Of the word classification; 0 switches it off.")] = 0.1,
    vocabulary_size: Annotated[int, typer.Option(help="Words at most.")] = 1000,
    similar: Annotated[float, typer.Option(help="Cosine above which two prompts stay in one part of the split.")] = 0.9,
    limit: Annotated[int | None, typer.Option(help="Read at most so many pairs.")] = None,
    captioner: Annotated[str | None, typer.Option(help="For unet: BLIP or BLIP-2 folder or hub id; the embedded one for the lab's U-Net.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    device: Device = None,
    out: Out = Path("out/inverter"),
    as_json: AsJson = False,
) -> None:
    """Train an inverter on pairs; a run found in --out is resumed."""
    _quiet()
    from accord.methods.invert.config import InvertTrainConfig, PredictorConfig
    from accord.methods.invert.fit import train_inverter
    from accord.rewards.captioners import load_captioner

    where = _device(device)
    kinds = [_checked(lambda k=k: PredictorConfig(kind=k.partition("=")[0], model=k.partition("=")[2] or None)) for k in kind]
    config = _checked(
        lambda: InvertTrainConfig(
            steps=steps, batch_size=batch_size, learning_rate=learning_rate, curriculum=curriculum,
            vocabulary_weight=vocabulary_weight, vocabulary_size=vocabulary_size, seed=seed,
        )
    )
    whites = [k for k in kinds if k.kind == "unet"]
    captioner = captioner or (HUB_CAPTIONER if any(k.model for k in whites) else None)
    report = train_inverter(
        pairs, out, kinds, config, weights=weight or None, similar=similar, limit=limit, device=where, progress=not as_json,
        captioner=load_captioner(captioner, where) if whites else None,
    )  # fmt: skip
    lines = [f"{p['kind']}: cosine {p['test']['cosine']:.4f} on {report['split']['test']} test images" for p in report["predictors"]]
    _emit(as_json, {**report, "out": str(out)}, "\n".join([*lines, f"inverter: {out / 'inverter'}"]))


def _checked(make: Any) -> Any:
    """A config object; its ValueError becomes a clear sentence."""
    try:
        return make()
    except ValueError as error:
        raise InputError(str(error)) from error


@train_app.command("lab")
def train_lab(
    part: Annotated[str, typer.Argument(help="vae, clip, captioner or denoiser (in this order).")],
    out: Annotated[Path, typer.Option(help="Folder for models, checkpoints and curves; a run found there is resumed.")] = Path(
        "runs/lab"
    ),
    steps: Annotated[int | None, typer.Option(help="Steps; the recipe's own number by default.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    go_on: Annotated[bool, typer.Option("--continue", help="Start from the embedded weights, not from nothing.")] = False,
    start: Annotated[Path | None, typer.Option(help="Start from the finished part in this folder of another run, not from nothing.")] = None,
) -> None:
    """Train an embedded model of the lab; a killed run goes on where it was."""
    _quiet()
    from accord.diffusion.pipelines import EMBEDDED, check_device
    from accord.lab.recipes import train

    check_device(device)
    if go_on and start is not None:
        raise InputError("--continue and --start are two places to start from; give one of them")
    train(part, out, steps=steps, seed=seed, device=device, start=EMBEDDED.parent if go_on else start)
    print(f"written to {out}")


@train_app.command("reward")
def train_reward(
    prompts: Annotated[Path, typer.Option(help="Prompts: .txt (one a line), .csv, .tsv, .jsonl, or COCO captions .json.")],
    model: Model = None,
    reward: Annotated[list[str], typer.Option(help="caption, caption-clip, likelihood, contrast or clip, as NAME or NAME=WEIGHT; repeat to add up.")] = ["contrast"],  # noqa: B006
    held_out: Annotated[str | None, typer.Option(help="A score that is never trained on, for the guard: clip, inversion (the embedded inverter, for the lab alone), or another reward; none for no guard. If not given inversion, and with --model clip.")] = None,
    strategy: Annotated[str, typer.Option(help="refl, draft, raft or grpo; sft is the control without reward.")] = "refl",
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 300,
    batch_size: Annotated[int, typer.Option(help="Prompts a step, over all processes.")] = 8,
    accumulate: Annotated[int, typer.Option(help="Micro-batches a step.")] = 1,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate; 3e-4, for refl on the lab 7e-4.")] = None,
    rank: Annotated[int, typer.Option(help="Rank of the adapter.")] = 8,
    inference_steps: Annotated[int | None, typer.Option(help="Denoising steps of a rollout; 40, on the lab 12 (refl) or 20 (raft, grpo).")] = None,
    stop_from: Annotated[float | None, typer.Option(help="refl: the one step with gradient is drawn from this share of the rollout on; 0.75, on the lab 0.2.")] = None,
    stop_until: Annotated[float | None, typer.Option(help="refl: and up to this share (earlier steps decide what is where); 1, on the lab 0.67.")] = None,
    guidance: Guidance = 5.0,
    reward_weight: Annotated[float | None, typer.Option(help="Weight of the reward's loss; 0.1, on the lab 0.5 (refl) or 1 (raft, grpo).")] = None,
    pretrain_weight: Annotated[float, typer.Option(help="Weight of the denoising loss.")] = 1.0,
    kl_weight: Annotated[float, typer.Option(help="Weight of the distance to the untuned model.")] = 0.5,
    pairs: Annotated[Path | None, typer.Option(help="Pictures and captions for the denoising loss (CSV, JSONL, Parquet, or a folder as accord pairs make leaves it); the model's own pictures if not given.")] = None,
    anchors: Annotated[int, typer.Option(help="How many pictures of its own, without --pairs.")] = 64,
    eval_every: Annotated[int, typer.Option(help="Steps between two looks at prompts that are not trained on.")] = 50,
    save_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 50,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")] = False,
    captioner: CaptionerId = None,
    clip: ClipId = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    device: Device = None,
    out: Out = Path("out/tuned"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tune a pipeline with a reward; leaves a LoRA that plain diffusers loads. Several processes: accelerate launch -m accord.cli train reward ..."""
    _quiet()
    import accord
    from accord.data.prompt_files import read_prompts
    from accord.lab.settings import TUNING
    from accord.rewards.rewards import NAMES
    from accord.training.claim import holds_run

    if held_out == "inversion" and model is not None:
        raise InputError(f"the embedded inverter reads pictures of the lab alone, not of {model!r}; choose another --held-out")
    held_out = held_out or ("inversion" if model is None else "clip")
    texts = read_prompts(prompts)
    weights = dict(_weight(r) for r in reward)
    if held_out in weights:
        raise InputError(f"the held-out score {held_out!r} is trained on; choose another --held-out")
    given = {
        "learning_rate": learning_rate, "num_inference_steps": inference_steps, "stop_from": stop_from, "stop_until": stop_until,
        "reward_weight": reward_weight,
    }  # fmt: skip
    knobs = {**(TUNING.get(strategy, {}) if model is None else {}), **{k: v for k, v in given.items() if v is not None}}
    config = _checked(
        lambda: accord.TuneConfig(
            strategy=strategy,
            steps=steps,
            batch_size=batch_size,
            gradient_accumulation=accumulate,
            rank=rank,
            guidance_scale=guidance,
            pretrain_weight=pretrain_weight,
            kl_weight=kl_weight,
            anchors=anchors,
            eval_every=eval_every,
            save_every=save_every,
            gradient_checkpointing=gradient_checkpointing,
            seed=seed,
            **knobs,
        )
    )
    if holds_run(out) and not resume:
        raise InputError(f"folder {str(out)!r} holds a run; give --resume to go on with it, or another --out")
    unknown = {*weights, held_out} - {*NAMES, "inversion", "none"}
    if unknown:
        raise InputError(f"score {min(unknown)!r} is unknown; choose among {', '.join(NAMES)}, and for --held-out also inversion and none")
    examples = _pictures_of(pairs) if pairs is not None else None
    pipe = accord.load(model, device)
    where = str(pipe.device)
    wanted = {*weights, held_out}
    judge = accord.load_captioner(_judge(captioner, model, HUB_CAPTIONER), where) if wanted - {"clip", "inversion", "none"} else None
    similarity = accord.load_clip(_judge(clip, model, HUB_CLIP), where) if wanted & {"clip", "caption-clip"} else None
    tuned = accord.tune(
        pipe,
        texts,
        accord.make_rewards(weights, judge, similarity),
        out,
        config=config,
        held_out=_held_out(held_out, judge, similarity),
        pairs=examples,
        resume=resume,
        progress=not as_json,
    )
    gains = "".join(f"{k} {v['mean']:+.4f} [{v['low']:+.4f}, {v['high']:+.4f}]; " for k, v in tuned.report["gains"].items())
    _emit(as_json, {**tuned.report, "folder": str(out)}, f"{gains}{tuned.report['verdict']}\nadapter and report: {out}")


@train_app.command("context")
def train_context_command(
    pairs: Annotated[Path | None, typer.Option(help="Pictures and captions (CSV, JSONL, Parquet, or a folder as accord pairs make leaves it); scenes of the lab if not given.")] = None,
    scenes: Annotated[int, typer.Option(help="How many scenes of the lab.")] = 8000,
    model: Model = None,
    denoiser: Annotated[str, typer.Option(help="frozen, lora, or full (all of it is trained).")] = "lora",
    fresh: Annotated[bool, typer.Option("--fresh", help="With full: start from random weights of the same architecture.")] = False,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 2000,
    batch_size: Annotated[int, typer.Option(help="Pictures a step, over all processes.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Learning rate.")] = 3e-4,
    rank: Annotated[int, typer.Option(help="Rank of the adapter.")] = 8,
    shift: Annotated[str, typer.Option(help="quadratic (the paper's), prior or data.")] = "quadratic",
    gain: Annotated[float, typer.Option(help="Bound of the relational network's output.")] = 1.0,
    share: Annotated[float, typer.Option(help="Its size, as a share of the denoiser's parameters.")] = 0.15,
    estimated_share: Annotated[float, typer.Option(help="Share of pictures whose context is that of the network's own guess; 0 is the paper's training.")] = 1.0,
    text_only: Annotated[bool, typer.Option("--text-only", help="The network does not look at the picture: a shift of the text alone.")] = False,
    loss: Annotated[str, typer.Option(help="mse, or kl: the exact bound.")] = "mse",
    pixels: Annotated[bool, typer.Option("--pixels", help="The network also looks at the decoded picture through a CLIP (slow).")] = False,
    clip: Annotated[str | None, typer.Option(help="That CLIP: folder or hub id; the embedded one if not given.")] = None,
    save_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    device: Device = None,
    out: Out = Path("out/context"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a relational network (ContextDiff) on a pipeline, as an adapter or from scratch."""
    _quiet()
    import accord
    from accord.methods.context.config import ContextTrainConfig
    from accord.methods.context.data import draw_from, encode_images
    from accord.methods.context.train import train_context
    from accord.outputs import check_writable
    from accord.training.claim import holds_run
    from accord.training.fingerprint import fingerprint
    from accord.training.processes import Processes

    config = _checked(
        lambda: ContextTrainConfig(
            steps=steps, batch_size=batch_size, learning_rate=learning_rate, rank=rank, denoiser=denoiser, shift=shift,
            gain=gain, share=share, estimated_share=estimated_share, use_image=not text_only, loss=loss, pixels=pixels, save_every=save_every, seed=seed,
        )
    )
    if clip is not None and not pixels:
        raise InputError(f"--clip {clip!r} is used with --pixels only; add it, or leave --clip out")
    if fresh and denoiser != "full":
        raise InputError(f"--fresh starts from random weights, which a {denoiser} denoiser never leaves; add --denoiser full")
    if scenes < 1:
        raise InputError(f"scenes must be at least 1, not {scenes}")
    if holds_run(out) and not resume:
        raise InputError(f"folder {str(out)!r} holds a run; give --resume to go on with it, or another --out")
    pipe = accord.load(model, device)
    if pairs is not None:
        images, captions = _pictures_of(pairs)
    else:
        from accord.lab.scenes.pairs import rendered_pairs

        images, captions = rendered_pairs(scenes, seed + 21)
    check_writable(out)
    latents = encode_images(pipe, images, out / "latents.safetensors", progress=not as_json, processes=Processes(pipe.device))
    if fresh:
        import torch

        torch.manual_seed(seed)
        pipe.register_modules(unet=type(pipe.unet).from_config(pipe.unet.config).to(pipe.device))
    eyes = accord.load_clip(clip, str(pipe.device)) if pixels else None
    train_context(pipe, draw_from(latents, captions), out, config, resume=resume, clip=eyes, data=fingerprint(latents, captions))
    _emit(as_json, {"out": str(out), "steps": steps}, f"relational network: {out / 'relation'}\nuse it: accord generate PROMPT --context {out}")


def _held_out(name: str, judge: Any, similarity: Any) -> Any:
    """The guard's score of that name, or None."""
    import accord

    if name == "inversion":
        return accord.InversionScore()
    return None if name == "none" else accord.make_rewards({name: 1.0}, judge, similarity).rewards[name]


def _weight(text: str) -> tuple[str, float]:
    """NAME or NAME=WEIGHT."""
    name, _, number = text.partition("=")
    try:
        return name, float(number or 1)
    except ValueError:
        raise InputError(f"reward {text!r} is not NAME or NAME=WEIGHT; write for example contrast=1.0") from None


def _pictures_of(pairs: Path) -> tuple[list[Any], list[str]]:
    """All readable pictures of a pairs file or folder, and their captions."""
    from accord.data.images import open_image
    from accord.data.pair_folders import stream_pairs
    from accord.data.pairs import PairsFile

    table, images, captions = PairsFile(), [], []
    for pair in stream_pairs(pairs, table):
        try:
            images.append(open_image(pair.image).convert("RGB"))
        except InputError as error:
            table.skip(pair.row, str(error))
            continue
        captions.append(pair.prompt)
    for row in table.skipped:
        print(f"skipped row {row['row']}: {row['reason']}", file=sys.stderr)
    if not images:
        raise InputError(f"pairs {str(pairs)!r} have no readable picture; check the paths")
    return images, captions


@bench_app.command("scenes")
def bench_scenes(
    quick: Annotated[bool, typer.Option("--quick", help="A small share of it, under 5 minutes on 2 cores.")] = False,
    seeds: Annotated[int, typer.Option(help="How many of the four seeds; finished pictures are kept, so more can be added.")] = 4,
    shard: Annotated[str | None, typer.Option(help="I/N: only a share of the pictures; after all N, run without it for the table.")] = None,
    model: Model = None,
    device: Device = None,
    out: Out = Path("docs/bench"),
    as_json: AsJson = False,
) -> None:
    """SceneBench: base, best-of-N, Attend-and-Excite and realign, same prompts and seeds, judged by the reader."""
    _quiet()
    from accord.data.shards import parse_shard
    from accord.lab.bench.scenes import main

    part = parse_shard(shard) if shard else None
    data, text = main(model=model, device=device, out=out, quick=quick, progress=not as_json, seeds=seeds, shard=part)
    _emit(as_json, data, text)


@bench_app.command("rewards")
def bench_rewards(
    only_sensitivity: Annotated[bool, typer.Option("--sensitivity", help="Only: which reward sees which swapped word.")] = False,
    hacking: Annotated[bool, typer.Option("--hacking", help="Only: a run that is made to hack its reward, and the guard.")] = False,
    minutes: Annotated[float, typer.Option(help="Training time of each strategy.")] = 12.0,
    seeds: Annotated[int, typer.Option(help="How many of the four seeds; finished pictures are kept, so more can be added.")] = 4,
    quick: Annotated[bool, typer.Option("--quick", help="A small share of it.")] = False,
    shard: Annotated[str | None, typer.Option(help="I/N: only a share of the rows; after all N, run without it for the table.")] = None,
    so_far: Annotated[bool, typer.Option("--so-far", help="Tune nothing; the table of what is finished.")] = False,
    model: Model = None,
    out: Out = Path("docs/bench"),
    as_json: AsJson = False,
) -> None:
    """Reward tuning: every strategy at equal wall time beside base, control and best-of-4, judged by the reader."""
    _quiet()
    from accord.data.shards import parse_shard
    from accord.lab.bench.hacking import main as hacking_main
    from accord.lab.bench.rewards import main, sensitivity

    if hacking:
        data, text = hacking_main(out, model=model, quick=quick, progress=not as_json)
    elif only_sensitivity:
        data, text = sensitivity(out, model=model, quick=quick)
    else:
        part = parse_shard(shard) if shard else None
        data, text = main(out, minutes, model, quick, progress=not as_json, seeds=seeds, shard=part, so_far=so_far)
    _emit(as_json, data, text)


@bench_app.command("invert")
def bench_invert(
    quick: Annotated[bool, typer.Option("--quick", help="A small share of it.")] = False,
    kind: Annotated[list[str] | None, typer.Option(help="unet, clip, vit, swin or blip; repeat; all five if not given.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Training seeds of the full system; three if not given.")] = None,
    only_pairs: Annotated[bool, typer.Option("--only-pairs", help="Make the pairs and stop.")] = False,
    shard: Annotated[str | None, typer.Option(help="I/N: only a share of the pairs or predictors; after all N, run without it.")] = None,
    reuse: Annotated[bool, typer.Option("--reuse", help="Instead: the trained encoder put back into the denoiser, on SceneBench.")] = False,
    inverter: Annotated[Path | None, typer.Option(help="With --reuse: inverter with a unet predictor.")] = None,
    kernel: Annotated[bool, typer.Option("--kernel", help="Instead: time and memory of DAKL's second level.")] = False,
    large: Annotated[bool, typer.Option("--large", help="With --kernel: a million rows and 10,000 centroids too, an hour or more.")] = False,
    model: Model = None,
    out: Out = Path("docs/bench"),
    as_json: AsJson = False,
) -> None:
    """Inversion: every predictor, plain and with each part of the method, beside plain baselines."""
    _quiet()
    from accord.data.shards import parse_shard
    from accord.lab.bench.invert import main
    from accord.lab.bench.kernel import main as kernel_main
    from accord.lab.bench.reuse import main as reuse_main

    if reuse:
        data, text = reuse_main(out, inverter, model=model, quick=quick, progress=not as_json)
    elif kernel:
        data, text = kernel_main(out, quick=quick, large=large, progress=not as_json)
    else:
        part = parse_shard(shard) if shard else None
        data, text = main(out, quick, model, not as_json, kinds=kind or None, seeds=seeds, shard=part, only_pairs=only_pairs)
    _emit(as_json, data, text)


@bench_app.command("context")
def bench_context(
    quick: Annotated[bool, typer.Option("--quick", help="A small share of it.")] = False,
    seeds: Annotated[int, typer.Option(help="Training seeds of the main variants; finished runs are kept, so more can be added.")] = 3,
    shard: Annotated[str | None, typer.Option(help="I/N: only a share of the runs; after all N, run without it for the table.")] = None,
    so_far: Annotated[bool, typer.Option("--so-far", help="Train nothing; the table of what is finished.")] = False,
    model: Model = None,
    out: Out = Path("docs/bench"),
    as_json: AsJson = False,
) -> None:
    """ContextDiff from scratch beside plain diffusion and a control of the same size."""
    _quiet()
    from accord.data.shards import parse_shard
    from accord.lab.bench.context import main

    part = parse_shard(shard) if shard else None
    data, text = main(out, quick=quick, model=model, progress=not as_json, seeds=seeds, shard=part, so_far=so_far)
    _emit(as_json, data, text)


@bench_app.command("video")
def bench_video(
    quick: Annotated[bool, typer.Option("--quick", help="Four edits, one seed.")] = False,
    edits: Annotated[int | None, typer.Option(help="How many edits; 40 if not given. Finished ones are kept, so more can be added.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds of each edit; 3 if not given.")] = None,
    shard: Annotated[str | None, typer.Option(help="I/N: only a share of the edits; after all N, run without it for the table.")] = None,
    so_far: Annotated[bool, typer.Option("--so-far", help="Make nothing; the table of what is finished.")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Instead: peak memory and time as the clip grows beyond the window.")] = False,
    model: Model = None,
    out: Out = Path("docs/bench"),
    as_json: AsJson = False,
) -> None:
    """Edits of lab clips: frame by frame, Tune-A-Video, with context, with attention injection."""
    _quiet()
    from accord.data.shards import parse_shard
    from accord.lab.bench.video import main
    from accord.lab.bench.video_memory import main as memory_main

    if memory:
        data, text = memory_main(out, quick=quick, progress=not as_json)
        return _emit(as_json, data, text)

    part = parse_shard(shard) if shard else None
    data, text = main(out, quick, model, not as_json, count=edits, seeds=seeds, shard=part, so_far=so_far)
    _emit(as_json, data, text)


@bench_app.command("speed")
def bench_speed(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repeats and no SD 1.5 size.")] = False,
    tuning: Annotated[bool, typer.Option("--tuning", help="Instead: the cost of reward tuning, strategy by strategy.")] = False,
    device: Device = None,
    out: Out = Path("docs/bench"),
    as_json: AsJson = False,
) -> None:
    """Cost of modulated attention beside plain and materialised attention, as ratios of one run."""
    _quiet()
    if tuning:
        from accord.lab.bench.speed_tuning import main as tuning_main

        data, text = tuning_main(out, quick=quick, progress=not as_json)
        return _emit(as_json, data, text)
    from accord.lab.bench.speed import main

    data, text = main(device=device, out=out, quick=quick, progress=not as_json)
    _emit(as_json, data, text)


@app.command()
def info(as_json: AsJson = False) -> None:
    """Versions, devices and the embedded models."""
    import importlib.metadata as metadata
    import platform

    import torch

    import accord

    folder = Path(accord.__file__).parent / "lab" / "models"
    sizes = {
        p.name: round(sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) / 2**20, 1)
        for p in sorted(folder.iterdir())
        if p.is_dir()
    }
    versions = {n: metadata.version(n) for n in ("torch", "diffusers", "transformers")}
    data = {
        "accord": accord.__version__,
        "python": platform.python_version(),
        **versions,
        "devices": ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))],
        "embedded_models_mib": sizes,
    }
    _emit(as_json, data, "\n".join(f"{k}: {v}" for k, v in data.items()))


def main() -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    try:
        app()
    except (InputError, ImportError) as error:
        print(f"accord: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
