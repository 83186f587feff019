"""`accord pairs`: pairs of picture and prompt, and videos of the lab."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from accord.cli.cluster import (
    Address,
    Engine,
    GpusPerWorker,
    MaxFailures,
    NumWorkers,
    Pairing,
    make_pairs_on,
    spread_of,
)
from accord.cli.jobs import readable
from accord.cli.making import Pipeline
from accord.cli.options import (
    App,
    AsJson,
    Call,
    Device,
    Dtype,
    Height,
    Lora,
    Model,
    ModelConfig,
    NegativePrompt,
    OwnGuidance,
    Seed,
    Variant,
    Width,
    call_options,
    emit,
    leave_out,
    pick_device,
    quiet,
    tell_skipped,
    torch_type,
)
from accord.types import InputError

app = App(help="Make pairs of picture and prompt.", no_args_is_help=True)


@app.command("make")
def pairs_make(
    out: Annotated[Path, typer.Option(help="Folder, in DiffusionDB's layout; finished parts found there are kept.")],
    prompts: Annotated[Path | None, typer.Option(help="Prompts file; the lab's own captions if not given.")] = None,
    count: Annotated[int | None, typer.Option(help="How many of the lab's captions; 20,000 if not given.")] = None,
    model: Model = None,
    variant: Variant = None,
    model_config: ModelConfig = None,
    lora: Lora = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, max=1000, help="Denoising steps; if not given those of the pipeline's own call, without --model 12."
        ),
    ] = None,
    guidance: OwnGuidance = None,
    negative_prompt: NegativePrompt = None,
    height: Height = None,
    width: Width = None,
    call: Call = None,
    seed: Seed = 0,
    shard: Annotated[
        str | None, typer.Option(help="I/N: only a share of the parts; after all N, run without it.")
    ] = None,
    device: Device = None,
    dtype: Dtype = "float32",
    engine: Engine = "local",
    address: Address = None,
    num_workers: NumWorkers = None,
    gpus_per_worker: GpusPerWorker = None,
    max_failures: MaxFailures = None,
    as_json: AsJson = False,
) -> None:
    """Render prompts with a pipeline into pairs to train an inverter on."""
    quiet()
    from accord.data.pairs import PairsFile, need_parquet
    from accord.data.prompt_files import read_rows
    from accord.data.shards import parse_shard
    from accord.files import check_writable, only_writer
    from accord.methods.invert.pairs import make_pairs

    if count is not None and count < 1:
        raise InputError(f"count must be at least 1, not {count}")
    if prompts is not None:
        leave_out("with --prompts", count=count)
    if model is None:
        leave_out("without --model", variant=variant, model_config=model_config)
    told = call_options(steps, guidance, negative_prompt, height, width, call)
    share = parse_shard(shard) if shard else None
    torch_type(dtype)
    spread = spread_of(engine, address, num_workers, gpus_per_worker, max_failures)
    if spread is None:
        pick_device(device)
    else:
        leave_out("with --engine ray", shard=shard)
    need_parquet()  # for the metadata at the end
    check_writable(out)
    broken = PairsFile()  # rows of the prompts file that are left out
    rows = read_rows(prompts, broken, extras=()) if prompts is not None else None
    part, parts = share or (1, 1)
    with only_writer(out, f"shard-{part}-of-{parts}"):  # shards are made at once, each by one process
        texts = []
        if rows is None:
            from accord_lab.recipes.tokenizers import corpus

            texts = corpus(count or 20_000, seed + 100)
        pipeline = Pipeline(model, variant, model_config, lora, dtype, told)
        pipe = pipeline.load(device)
        if rows is not None:
            texts = readable(pipe, rows, broken)
        tell_skipped(broken.skipped)
        if spread is not None:
            del pipe  # it has said which prompts it reads, and the workers have their own
            made = make_pairs_on(
                spread, Pairing(pipeline, tuple(texts), seed, str(out.absolute()), device), not as_json
            )
            return emit(as_json, *_told(made, out, broken.skipped))
        made = make_pairs(
            pipe,
            texts,
            out,
            seed=seed,
            shard=share,
            progress=not as_json,
            **told,
        )
    emit(as_json, *_told(made, out, broken.skipped))


def _told(made: int, out: Path, skipped: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    return {"pairs": made, "out": str(out), "skipped": skipped}, f"{made} pairs in {out}"


@app.command("videos")
def pairs_videos(
    out: Annotated[
        Path, typer.Option(help="Folder for the videos, and truth.jsonl: prompt and boxes, frame by frame.")
    ],
    count: Annotated[int, typer.Option(min=1, help="How many videos.")] = 8,
    frames: Annotated[int, typer.Option(min=2, help="Frames of each.")] = 8,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Write videos of the lab: a thing that moves, to be edited and scored."""
    quiet()
    from accord.files import check_writable, only_writer
    from accord_lab.scenes.videos import write_videos

    with only_writer(check_writable(out)):
        rows = write_videos(out, count, frames, seed)
    emit(as_json, {"videos": rows, "out": str(out)}, "\n".join(f"{out / r['video']}: {r['prompt']}" for r in rows))
