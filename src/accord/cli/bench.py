"""`accord bench`: every table under docs/bench."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from accord.cli.options import (
    App,
    AsJson,
    Device,
    Model,
    Out,
    emit,
    leave_out,
    pick_device,
    quiet,
    said,
)
from accord.types import InputError

app = App(help="Measure, and write the tables under docs/bench.", no_args_is_help=True)


@contextlib.contextmanager
def _writing(out: Path, table: str, shard: str | None = None) -> Iterator[tuple[int, int] | None]:
    """The only one who makes a table in `out`, or a share of it. A bench that is refused leaves no empty folder of
    results behind.

    Yields:
        the shard as (i, n), or None.
    """
    from accord.data.shards import parse_shard
    from accord.files import check_writable, only_writer

    part = parse_shard(shard) if shard else None
    share = f"-shard-{part[0]}-of-{part[1]}" if part else ""
    with only_writer(check_writable(out), table + share):
        cache = out / ".cache"
        before = {cache, *cache.glob("*")} if cache.exists() else set()
        try:
            yield part
        except InputError:
            for folder in (*cache.glob("*"), cache):
                if folder not in before:
                    with contextlib.suppress(OSError):
                        folder.rmdir()
            raise


@app.command("scenes")
def bench_scenes(
    quick: Annotated[bool, typer.Option("--quick", help="A small share of it, under 5 minutes on 2 cores.")] = False,
    seeds: Annotated[
        int, typer.Option(help="How many of the four seeds; finished pictures are kept, so more can be added.")
    ] = 4,
    shard: Annotated[
        str | None, typer.Option(help="I/N: only a share of the pictures; after all N, run without it for the table.")
    ] = None,
    model: Model = None,
    device: Device = None,
    out: Out = Path("docs/bench"),
    as_json: AsJson = False,
) -> None:
    """SceneBench: base, best-of-N, Attend-and-Excite and realign, same prompts and seeds, judged by the reader."""
    quiet()
    _check_quick_seeds(quick)
    pick_device(device)
    from accord_lab.bench.scenes import main

    with _writing(out, "scenes", shard) as part:
        data, text = main(
            model=model, device=device, out=out, quick=quick, progress=not as_json, seeds=seeds, shard=part
        )
    emit(as_json, data, text)


@app.command("rewards")
def bench_rewards(
    only_sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Only: which reward sees which swapped word.")
    ] = False,
    hacking: Annotated[
        bool, typer.Option("--hacking", help="Only: a run that is made to hack its reward, and the guard.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Processor time of each strategy, over threads; twice as much for the one that ships. 12 if not given."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help=(
                "How many of the four seeds of sampling, all if not given; finished pictures are kept, so more can be "
                "added."
            )
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small share of it.")] = False,
    shard: Annotated[
        str | None, typer.Option(help="I/N: only a share of the rows; after all N, run without it for the table.")
    ] = None,
    so_far: Annotated[bool, typer.Option("--so-far", help="Tune nothing; the table of what is finished.")] = False,
    model: Model = None,
    out: Out = Path("docs/bench"),
    as_json: AsJson = False,
) -> None:
    """Reward tuning: every strategy at equal processor time beside base, control and best-of-4."""
    quiet()
    if hacking or only_sensitivity:
        other = "--hacking" if hacking else "--sensitivity"
        leave_out(
            f"with {other}",
            minutes=minutes,
            seeds=seeds,
            shard=shard,
            so_far=so_far,
            sensitivity=hacking and only_sensitivity,
        )
    if so_far:
        leave_out("with --so-far", shard=shard)
    _check_quick_seeds(quick)
    from accord_lab.bench.hacking import main as hacking_main
    from accord_lab.bench.rewards import main, sensitivity

    with _writing(out, "hacking" if hacking else "sensitivity" if only_sensitivity else "rewards", shard) as part:
        if hacking:
            data, text = hacking_main(out, model=model, quick=quick, progress=not as_json)
        elif only_sensitivity:
            data, text = sensitivity(out, model=model, quick=quick)
        else:
            data, text = main(
                out,
                12.0 if minutes is None else minutes,
                model,
                quick,
                progress=not as_json,
                seeds=4 if seeds is None else seeds,
                shard=part,
                so_far=so_far,
            )
    emit(as_json, data, text)


@app.command("invert")
def bench_invert(
    quick: Annotated[bool, typer.Option("--quick", help="A small share of it.")] = False,
    kind: Annotated[
        list[str] | None, typer.Option(help="unet, clip, vit, swin or blip; repeat; all five if not given.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Training seeds of the full system; three if not given.")] = None,
    only_pairs: Annotated[bool, typer.Option("--only-pairs", help="Make the pairs and stop.")] = False,
    shard: Annotated[
        str | None, typer.Option(help="I/N: only a share of the pairs or predictors; after all N, run without it.")
    ] = None,
    transplant: Annotated[
        bool,
        typer.Option("--transplant", help="Instead: the trained encoder put back into the denoiser, on SceneBench."),
    ] = False,
    inverter: Annotated[
        Path | None,
        typer.Option(
            help="With --transplant: inverter with a unet predictor; with --speed: another than the embedded one."
        ),
    ] = None,
    kernel: Annotated[
        bool, typer.Option("--kernel", help="Instead: time and memory of domain adaptation (DAKL).")
    ] = False,
    large: Annotated[
        bool, typer.Option("--large", help="With --kernel: a million rows and 10,000 centroids too, an hour or more.")
    ] = False,
    speed: Annotated[
        bool, typer.Option("--speed", help="Instead: time of one image and images a second in bulk.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Of each predictor; 600 if not given.")] = None,
    model: Model = None,
    device: Device = None,
    out: Out = Path("docs/bench"),
    as_json: AsJson = False,
) -> None:
    """Inversion: every predictor, plain and with each part of the method, beside plain baselines."""
    quiet()
    from accord_lab.bench.invert import main
    from accord_lab.bench.invert_speed import main as speed_main
    from accord_lab.bench.kernel import main as kernel_main
    from accord_lab.bench.transplant import main as transplant_main

    other = [name for name, asked in (("--transplant", transplant), ("--kernel", kernel), ("--speed", speed)) if asked]
    if len(other) > 1:
        raise InputError(f"{other[0]} and {other[1]} are two tables; ask for one at a time")
    if other:
        leave_out(
            f"with {other[0]}",
            kind=kind,
            seeds=seeds,
            steps=steps,
            only_pairs=only_pairs,
            shard=shard,
            model=None if transplant else model,
        )
    if only_pairs:
        leave_out("with --only-pairs", kind=kind, seeds=seeds, steps=steps)
    if not transplant and not speed:
        leave_out("without --transplant or --speed", inverter=inverter)
    if not kernel:
        leave_out("without --kernel", large=large)
    if quick:
        leave_out("with --quick", large=large)
    if transplant or kernel:
        leave_out(f"with {other[0]}", device=device)
    where = None if transplant or kernel else pick_device(device)
    with _writing(out, f"invert{other[0]}" if other else "invert", shard) as part:
        if transplant:
            data, text = transplant_main(out, inverter, model=model, quick=quick, progress=not as_json)
        elif kernel:
            data, text = kernel_main(out, quick=quick, large=large, progress=not as_json)
        elif speed:
            data, text = speed_main(out, inverter, where, quick)
        else:
            data, text = main(
                out,
                quick,
                model,
                where,
                not as_json,
                steps=steps,
                kinds=kind or None,
                seeds=seeds,
                shard=part,
                only_pairs=only_pairs,
            )
    emit(as_json, data, text)


@app.command("context")
def bench_context(
    quick: Annotated[bool, typer.Option("--quick", help="A small share of it.")] = False,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Training seeds of the main variants, 3 if not given; finished runs are kept, so more can be added."
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="I/N: only a share of the runs; after all N, run without it for the table.")
    ] = None,
    so_far: Annotated[bool, typer.Option("--so-far", help="Train nothing; the table of what is finished.")] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="Instead: the time of sampling with context beside plain sampling.")
    ] = False,
    model: Model = None,
    out: Out = Path("docs/bench"),
    as_json: AsJson = False,
) -> None:
    """ContextDiff from scratch and as an adapter, beside plain diffusion and a control of the same size."""
    quiet()
    from accord_lab.bench.context import main
    from accord_lab.bench.context_cost import main as cost_main

    if cost:
        leave_out("with --cost", seeds=seeds, shard=shard, so_far=so_far, model=model)
        with _writing(out, "context-cost"):
            data, text = cost_main(out, quick=quick, progress=not as_json)
        return emit(as_json, data, text)
    if so_far:
        leave_out("with --so-far", shard=shard)
    with _writing(out, "context", shard) as part:
        data, text = main(
            out,
            quick=quick,
            model=model,
            progress=not as_json,
            seeds=3 if seeds is None else seeds,
            shard=part,
            so_far=so_far,
        )
    emit(as_json, data, text)


@app.command("video")
def bench_video(
    quick: Annotated[bool, typer.Option("--quick", help="Four edits, one seed.")] = False,
    edits: Annotated[
        int | None, typer.Option(help="How many edits; 40 if not given. Finished ones are kept, so more can be added.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds of each edit; 3 if not given.")] = None,
    shard: Annotated[
        str | None, typer.Option(help="I/N: only a share of the edits; after all N, run without it for the table.")
    ] = None,
    so_far: Annotated[bool, typer.Option("--so-far", help="Make nothing; the table of what is finished.")] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="Instead: peak memory and time as the video grows beyond the window.")
    ] = False,
    model: Model = None,
    device: Device = None,
    out: Out = Path("docs/bench"),
    as_json: AsJson = False,
) -> None:
    """Edits of lab videos: frame by frame, Tune-A-Video, with context, with attention injection."""
    quiet()
    from accord_lab.bench.video import main
    from accord_lab.bench.video_memory import main as memory_main

    if memory:
        leave_out("with --memory", edits=edits, seeds=seeds, shard=shard, so_far=so_far, model=model, device=device)
        with _writing(out, "video-memory"):
            data, text = memory_main(out, quick=quick, progress=not as_json)
        return emit(as_json, data, text)
    if so_far:
        leave_out("with --so-far", shard=shard)
    where = pick_device(device)
    with _writing(out, "video", shard) as part:
        data, text = main(out, quick, model, where, not as_json, count=edits, seeds=seeds, shard=part, so_far=so_far)
    emit(as_json, data, text)


@app.command("speed")
def bench_speed(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repeats and no SD 1.5 size.")] = False,
    tuning: Annotated[
        bool, typer.Option("--tuning", help="Instead: the cost of reward tuning, strategy by strategy.")
    ] = False,
    large: Annotated[
        bool, typer.Option("--large", help="Instead: networks of real size, SD 1.5 to Flux, on a GPU.")
    ] = False,
    device: Device = None,
    out: Out = Path("docs/bench"),
    as_json: AsJson = False,
) -> None:
    """Cost of modulated attention beside plain and materialised attention, as ratios of one run."""
    quiet()
    if large:
        leave_out("with --large", quick=quick, tuning=tuning)
        from accord_lab.bench.speed_large import main as large_main

        where = pick_device(device)
        with _writing(out, "speed-large"):
            data, text = large_main(out, device=where, progress=not as_json)
        return emit(as_json, data, text)
    if tuning:
        leave_out("with --tuning, which is of the CPU", device=device)
        from accord_lab.bench.speed_tuning import main as tuning_main

        with _writing(out, "speed-tuning"):
            data, text = tuning_main(out, quick=quick, progress=not as_json)
        return emit(as_json, data, text)
    from accord_lab.bench.speed import main

    where = pick_device(device)
    with _writing(out, "speed"):
        data, text = main(device=where, out=out, quick=quick, progress=not as_json)
    emit(as_json, data, text)


def _check_quick_seeds(quick: bool) -> None:
    """Refuse more seeds than a quick table has."""
    if quick and (said("seeds").get("seeds") or 0) > 2:
        raise InputError("--quick takes two seeds at most; give --seeds 1 or 2, or leave --quick out")
