"""`accord bench NAME`: every table under docs/bench. A bench is a name, what it measures, and its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from accord.cli.options import App, AsJson, Device, Model, Out, emit, pick_device, quiet
from accord.types import InputError

TABLES = Path("out/bench")  # a folder each, if none is given


class Benches(TyperGroup):
    """Commands of which an unknown one is refused with the names that there are."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise InputError(f"bench {args[0]!r} is unknown; use {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)


app = App(help="Measure, and write a table: JSON, Markdown and pictures.", cls=Benches, no_args_is_help=True)


def _flag(name: str, text: str) -> Any:
    return Annotated[bool, typer.Option(name, help=text)]


def _number(text: str) -> Any:
    return Annotated[int | None, typer.Option(help=text)]


def _folder(text: str) -> Any:
    return Annotated[Path | None, typer.Option(help=text)]


# a flag is off, a number 12 minutes, and all else None by default
QUICK = _flag("--quick", "A small share of it.")
SO_FAR = _flag("--so-far", "Measure nothing; the table of what is finished.")
SHARD = Annotated[str | None, typer.Option(help="I/N: only a share of it; after all N, run without it for the table.")]
SEEDS = _number("How many of the four seeds of sampling; finished pictures are kept, so more can be added.")
MINUTES = Annotated[
    float,
    typer.Option(
        help="Processor time of each strategy, over threads; twice as much for the one that ships, and more for some."
    ),
]
KINDS = Annotated[list[str] | None, typer.Option(help="unet, clip, vit, swin or blip; repeat; all five if not given.")]
WATCHER = _folder("A second captioner, of another training seed, which only watches: its folder.")
BENCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "scenes": (
        "SceneBench: every method beside base, more steps, rewriting and best-of-N, same prompts and seeds; the reader "
        "judges.",
        {
            "quick": _flag("--quick", "A small share of it, under 5 minutes on 2 cores."),
            "seeds": SEEDS,
            "select": Annotated[
                str | None, typer.Option(help="What the better picture is chosen by: score (if not given) or pass.")
            ],
            "watcher": WATCHER,
            "lora": Annotated[
                str | None,
                typer.Option(
                    help="Adapter of the tuned rows: folder, file or hub id; if not given the embedded one, and for "
                    "other models no such rows."
                ),
            ],
            "shard": SHARD,
            "model": Model,
            "device": Device,
        },
    ),
    "judge": (
        "False passes, false fails and calibration of the judge that selects and rewards, the reader being the truth.",
        {
            "quick": QUICK,
            "seeds": _number("Pictures of each prompt, 8 if not given; finished ones are kept, so more can be added."),
            "watcher": WATCHER,
            "sheets": _folder("Measure nothing; contact sheets to look at, and a table to fill in, into this folder."),
            "eyes": Annotated[
                Path | None, typer.Option(help="That table, filled in; what was seen goes into the page.")
            ],
            "shard": SHARD,
            "model": Model,
        },
    ),
    "rewards": (
        "Reward tuning: every strategy at equal processor time beside base, control and best-of-4.",
        {"quick": QUICK, "minutes": MINUTES, "seeds": SEEDS, "shard": SHARD, "so_far": SO_FAR, "model": Model},
    ),
    "sensitivity": ("Which reward sees which swapped word.", {"quick": QUICK, "model": Model}),
    "roles": ("Whether text states and denoiser know which of two things is where.", {"quick": QUICK, "model": Model}),
    "hacking": ("A run that is made to hack its reward, and the guard.", {"quick": QUICK, "model": Model}),
    "invert": (
        "Inversion: every predictor, plain and with each part of the method, beside plain baselines.",
        {
            "quick": QUICK,
            "kind": KINDS,
            "seeds": _number("Training seeds of the full system; three if not given."),
            "steps": _number("Of each predictor; 600 if not given."),
            "only_pairs": _flag("--only-pairs", "Make the pairs and stop."),
            "shard": SHARD,
            "model": Model,
            "device": Device,
        },
    ),
    "invert-speed": (
        "Inversion: time of one image, and images a second in bulk.",
        {"quick": QUICK, "inverter": _folder("Folder; the embedded one if not given."), "device": Device},
    ),
    "kernel": (
        "Time and memory of domain adaptation (DAKL), beside scikit-learn's direct route.",
        {"quick": QUICK, "large": _flag("--large", "A million rows and 10,000 centroids too, an hour or more.")},
    ),
    "judging": (
        "How many pictures a second GenEval's judge takes, without the detector and CLIP, and what it holds.",
        {"quick": QUICK},
    ),
    "scaling": ("What Ray adds to scoring in bulk, and how two workers scale.", {"quick": QUICK}),
    "transplant": (
        "The encoder that learned inversion put back into the denoiser, on SceneBench.",
        {"quick": QUICK, "inverter": _folder("Folder of an inverter with a unet predictor."), "model": Model},
    ),
    "context": (
        "ContextDiff from scratch and as an adapter, beside plain diffusion and a control of the same size.",
        {
            "quick": QUICK,
            "seeds": _number("Training seeds of the main variants, 3 if not given; finished runs are kept."),
            "shard": SHARD,
            "so_far": SO_FAR,
            "model": Model,
        },
    ),
    "context-cost": ("The time of sampling with context beside plain sampling.", {"quick": QUICK}),
    "video": (
        "Edits of lab videos: frame by frame, Tune-A-Video, with context, with attention injection.",
        {
            "quick": _flag("--quick", "Four edits, one seed."),
            "edits": _number("How many edits; 40 if not given. Finished ones are kept, so more can be added."),
            "seeds": _number("Seeds of each edit; 3 if not given."),
            "shard": SHARD,
            "so_far": SO_FAR,
            "model": Model,
            "device": Device,
        },
    ),
    "video-memory": ("Peak memory and time of an edit as the video grows beyond the window.", {"quick": QUICK}),
    "speed": (
        "Cost of modulated attention beside plain, tapped and materialised attention, as ratios of one run.",
        {"quick": _flag("--quick", "Fewer repeats and no SD 1.5 size."), "device": Device},
    ),
    "speed-large": (
        "Cost of modulated attention in networks of real size, SD 1.5 to Qwen-Image, on a GPU.",
        {"device": Device},
    ),
    "tuning-memory": ("What tuning SD 1.5 to Flux holds in memory, counted without a device.", {"quick": QUICK}),
    "studio": (
        "The studio: seconds from a click to the first picture, and a long queue's memory and jobs.",
        {"quick": QUICK},
    ),
    "speed-tuning": ("The cost of reward tuning, strategy by strategy, on the CPU.", {"quick": QUICK}),
}


def _command(name: str, options: dict[str, Any]) -> Callable[..., None]:
    """The command that runs a bench with these options, and prints its table."""

    def command(as_json: bool, shard: str | None = None, so_far: bool = False, **settings: Any) -> None:
        quiet()
        if "device" in settings:
            settings["device"] = pick_device(settings["device"])
        from accord.data.shards import parse_shard
        from accord_lab.bench.runner import bench_named

        part = parse_shard(shard) if shard else None
        emit(as_json, *bench_named(name)(progress=not as_json, **settings).run(part, so_far))

    options = {**options, "out": Out, "as_json": AsJson}
    defaults: dict[Any, Any] = {bool: False, float: 12.0, Path: TABLES / name}
    parameters = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(kind.__origin__), annotation=kind)
        for key, kind in options.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = options
    return command


for _name, (_help, _options) in BENCHES.items():
    app.command(_name, help=_help)(_command(_name, _options))
