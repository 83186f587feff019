"""`accord bench`: every table under docs/bench, a command each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from accord.cli.options import App, AsJson, Device, Model, Out, emit, pick_device, quiet
from accord.types import InputError


class Benches(TyperGroup):
    """Commands of which an unknown one is refused with the names that there are."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise InputError(f"bench {args[0]!r} is unknown; use {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)


app = App(help="Measure, and write a table: JSON, Markdown and pictures.", cls=Benches, no_args_is_help=True)

Quick = Annotated[bool, typer.Option("--quick", help="A small share of it.")]
SoFar = Annotated[bool, typer.Option("--so-far", help="Measure nothing; the table of what is finished.")]
Shard = Annotated[str | None, typer.Option(help="I/N: only a share of it; after all N, run without it for the table.")]
FourSeeds = Annotated[
    int | None,
    typer.Option(help="How many of the four seeds of sampling; finished pictures are kept, so more can be added."),
]
TABLES = Path("out/bench")  # a folder each


def _run(name: str, as_json: bool, shard: str | None = None, so_far: bool = False, **settings: Any) -> None:
    """Run a bench with these settings, and print its table."""
    quiet()
    if "device" in settings:
        settings["device"] = pick_device(settings["device"])
    from accord.data.shards import parse_shard
    from accord_lab.bench.runner import bench_named

    part = parse_shard(shard) if shard else None
    emit(as_json, *bench_named(name)(progress=not as_json, **settings).run(part, so_far))


@app.command("scenes")
def scenes(
    quick: Annotated[bool, typer.Option("--quick", help="A small share of it, under 5 minutes on 2 cores.")] = False,
    seeds: FourSeeds = None,
    shard: Shard = None,
    model: Model = None,
    device: Device = None,
    out: Out = TABLES / "scenes",
    as_json: AsJson = False,
) -> None:
    """SceneBench: base, best-of-N, Attend-and-Excite and realign, same prompts and seeds, judged by the reader."""
    _run("scenes", as_json, shard, quick=quick, seeds=seeds, model=model, device=device, out=out)


@app.command("rewards")
def rewards(
    minutes: Annotated[
        float, typer.Option(help="Processor time of each strategy, over threads; twice as much for the one that ships.")
    ] = 12.0,
    seeds: FourSeeds = None,
    quick: Quick = False,
    shard: Shard = None,
    so_far: SoFar = False,
    model: Model = None,
    out: Out = TABLES / "rewards",
    as_json: AsJson = False,
) -> None:
    """Reward tuning: every strategy at equal processor time beside base, control and best-of-4."""
    _run("rewards", as_json, shard, so_far, quick=quick, minutes=minutes, seeds=seeds, model=model, out=out)


@app.command("sensitivity")
def sensitivity(
    quick: Quick = False, model: Model = None, out: Out = TABLES / "sensitivity", as_json: AsJson = False
) -> None:
    """Which reward sees which swapped word."""
    _run("sensitivity", as_json, quick=quick, model=model, out=out)


@app.command("hacking")
def hacking(quick: Quick = False, model: Model = None, out: Out = TABLES / "hacking", as_json: AsJson = False) -> None:
    """A run that is made to hack its reward, and the guard."""
    _run("hacking", as_json, quick=quick, model=model, out=out)


@app.command("invert")
def invert(
    quick: Quick = False,
    kind: Annotated[
        list[str] | None, typer.Option(help="unet, clip, vit, swin or blip; repeat; all five if not given.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Training seeds of the full system; three if not given.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of each predictor; 600 if not given.")] = None,
    only_pairs: Annotated[bool, typer.Option("--only-pairs", help="Make the pairs and stop.")] = False,
    shard: Shard = None,
    model: Model = None,
    device: Device = None,
    out: Out = TABLES / "invert",
    as_json: AsJson = False,
) -> None:
    """Inversion: every predictor, plain and with each part of the method, beside plain baselines."""
    knobs: dict[str, Any] = {"kind": kind, "seeds": seeds, "steps": steps, "only_pairs": only_pairs}
    _run("invert", as_json, shard, quick=quick, **knobs, model=model, device=device, out=out)


@app.command("invert-speed")
def invert_speed(
    quick: Quick = False,
    inverter: Annotated[Path | None, typer.Option(help="Folder; the embedded one if not given.")] = None,
    device: Device = None,
    out: Out = TABLES / "invert-speed",
    as_json: AsJson = False,
) -> None:
    """Inversion: time of one image, and images a second in bulk."""
    _run("invert-speed", as_json, quick=quick, inverter=inverter, device=device, out=out)


@app.command("kernel")
def kernel(
    quick: Quick = False,
    large: Annotated[
        bool, typer.Option("--large", help="A million rows and 10,000 centroids too, an hour or more.")
    ] = False,
    out: Out = TABLES / "kernel",
    as_json: AsJson = False,
) -> None:
    """Time and memory of domain adaptation (DAKL), beside scikit-learn's direct route."""
    _run("kernel", as_json, quick=quick, large=large, out=out)


@app.command("transplant")
def transplant(
    inverter: Annotated[Path | None, typer.Option(help="Folder of an inverter with a unet predictor.")] = None,
    quick: Quick = False,
    model: Model = None,
    out: Out = TABLES / "transplant",
    as_json: AsJson = False,
) -> None:
    """The encoder that learned inversion put back into the denoiser, on SceneBench."""
    _run("transplant", as_json, quick=quick, inverter=inverter, model=model, out=out)


@app.command("context")
def context(
    quick: Quick = False,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Training seeds of the main variants, 3 if not given; finished runs are kept, so more can be added."
        ),
    ] = None,
    shard: Shard = None,
    so_far: SoFar = False,
    model: Model = None,
    out: Out = TABLES / "context",
    as_json: AsJson = False,
) -> None:
    """ContextDiff from scratch and as an adapter, beside plain diffusion and a control of the same size."""
    _run("context", as_json, shard, so_far, quick=quick, seeds=seeds, model=model, out=out)


@app.command("context-cost")
def context_cost(quick: Quick = False, out: Out = TABLES / "context-cost", as_json: AsJson = False) -> None:
    """The time of sampling with context beside plain sampling."""
    _run("context-cost", as_json, quick=quick, out=out)


@app.command("video")
def video(
    quick: Annotated[bool, typer.Option("--quick", help="Four edits, one seed.")] = False,
    edits: Annotated[
        int | None, typer.Option(help="How many edits; 40 if not given. Finished ones are kept, so more can be added.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds of each edit; 3 if not given.")] = None,
    shard: Shard = None,
    so_far: SoFar = False,
    model: Model = None,
    device: Device = None,
    out: Out = TABLES / "video",
    as_json: AsJson = False,
) -> None:
    """Edits of lab videos: frame by frame, Tune-A-Video, with context, with attention injection."""
    knobs: dict[str, Any] = {"edits": edits, "seeds": seeds, "model": model, "device": device}
    _run("video", as_json, shard, so_far, quick=quick, **knobs, out=out)


@app.command("video-memory")
def video_memory(quick: Quick = False, out: Out = TABLES / "video-memory", as_json: AsJson = False) -> None:
    """Peak memory and time of an edit as the video grows beyond the window."""
    _run("video-memory", as_json, quick=quick, out=out)


@app.command("speed")
def speed(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repeats and no SD 1.5 size.")] = False,
    device: Device = None,
    out: Out = TABLES / "speed",
    as_json: AsJson = False,
) -> None:
    """Cost of modulated attention beside plain and materialised attention, as ratios of one run."""
    _run("speed", as_json, quick=quick, device=device, out=out)


@app.command("speed-large")
def speed_large(device: Device = None, out: Out = TABLES / "speed-large", as_json: AsJson = False) -> None:
    """Cost of modulated attention in networks of real size, SD 1.5 to Flux, on a GPU."""
    _run("speed-large", as_json, device=device, out=out)


@app.command("speed-tuning")
def speed_tuning(quick: Quick = False, out: Out = TABLES / "speed-tuning", as_json: AsJson = False) -> None:
    """The cost of reward tuning, strategy by strategy, on the CPU."""
    _run("speed-tuning", as_json, quick=quick, out=out)
