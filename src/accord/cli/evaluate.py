"""`accord eval SUITE`: measure a model or a folder of pictures, resume, merge, compare."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from accord.cli.cluster import Address, Engine, GpusPerWorker, NumWorkers, judged_on, spread_of
from accord.cli.options import (
    HUB_CAPTIONER,
    HUB_CLIP,
    App,
    AsJson,
    BatchSize,
    Call,
    Device,
    Dtype,
    Height,
    Lora,
    ModelConfig,
    NegativePrompt,
    OwnGuidance,
    Steps,
    Variant,
    Width,
    call_options,
    check_file,
    checked,
    emit,
    leave_out,
    pick_device,
    quiet,
    say_lab_only,
    tell_skipped,
    torch_type,
)
from accord.types import InputError

RUNS = Path("out/eval")  # a folder each, if none is given
LAB = "lab"


class Suites(TyperGroup):
    """Commands of which an unknown one is refused with the names that there are."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise InputError(f"suite {args[0]!r} is unknown; use {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)


app = App(
    help="Measure a model, or a folder of pictures, by a suite; a run is a folder that can be resumed and compared.",
    cls=Suites,
    no_args_is_help=True,
)

Pictures = Annotated[
    Path | None,
    typer.Option(
        "--images",
        help=(
            "Folder of pictures: 00012-3.png (prompt 12 from 0, seed 3), GenEval's layout, KEY.png, a metadata file, "
            "or another run."
        ),
    ),
]
ModelId = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Instead of --images: pipeline folder, hub id or .safetensors file that makes them, or lab.",
    ),
]
SeedCount = Annotated[
    int | None,
    typer.Option(
        "--seeds", min=1, max=1000, help="Pictures a prompt; one if not given, of --images all that there are."
    ),
]
Every = Annotated[int, typer.Option(min=1, help="Only every N-th prompt, from the first on; numbers stay.")]
Shard = Annotated[
    str | None, typer.Option(help="I/N: every N-th prompt from the I-th on; the last one makes the tables.")
]
RunOut = Annotated[Path | None, typer.Option("--out", help=f"Folder of the run; {RUNS}/SUITE if not given.")]
OwnPrompts = Annotated[Path | None, typer.Option(help="Prompts in the lab's words; SceneBench if not given.")]


def _file(text: str) -> Any:
    return Annotated[Path | None, typer.Option("--prompts", help=text)]


def _judge(text: str) -> Any:
    return Annotated[str | None, typer.Option(help=text)]


FILE = _file("File of prompts: .txt, .csv, .jsonl, .json or COCO captions.")
JUDGE = _judge(
    "Judge: folder or hub id of a captioner, a chat model that sees pictures or a CLIP, or lab; if not given lab, and "
    f"with another --model {HUB_CAPTIONER}."
)
CHAT = _judge("Judge that answers questions: folder or hub id of a chat model that sees pictures.")
# the name, what it measures, and the options that only it has
SUITES: dict[str, tuple[str, dict[str, Any]]] = {
    "checks": (
        "Each word of a prompt against words in its place, by the judge.",
        {"prompts": FILE, "judge": JUDGE},
    ),
    "captions": (
        "The captioner's sentence against the prompt, as a cosine: RealignDiff's caption reward.",
        {"prompts": FILE, "judge": JUDGE},
    ),
    "questions": (
        "Questions with expected answers: TIFA, DSG, DPG-Bench, or a file of your own.",
        {
            "prompts": _file(
                "CSV or JSONL with prompt, question and answer (and choices, tag, id, depends), TIFA's JSON, DSG's or "
                "DPG-Bench's CSV."
            ),
            "judge": CHAT,
        },
    ),
    "geneval": (
        "GenEval: objects, counts, colours and places, by a detector and CLIP.",
        {
            "prompts": _file(
                "Your evaluation_metadata.jsonl, or a file of accord eval prompts; if not given what --images has in "
                "GenEval's layout."
            ),
            "detector": Annotated[
                str | None,
                typer.Option(help="Mask2Former for instances: folder or hub id; the hub's small one if not given."),
            ],
            "clip": Annotated[str | None, typer.Option(help=f"CLIP that names colours; {HUB_CLIP} if not given.")],
            **{
                name: Annotated[float | None, typer.Option(help=f"{text}; as published if not given.")]
                for name, text in (
                    ("threshold", "Score from which on a thing counts"),
                    ("counting_threshold", "The same where things are counted"),
                    ("shortening", "Share of both sizes by which an offset is shortened"),
                    ("direction", "Share of an offset that is a direction"),
                )
            },
        },
    ),
    "geneval2": (
        "GenEval 2 by Soft-TIFA, of your own copy.",
        {"prompts": _file("Your geneval2_data.jsonl, or questions in another layout."), "judge": CHAT},
    ),
    "vqascore": (
        "VQAScore: whether the judge says yes to the prompt.",
        {
            "prompts": FILE,
            "judge": _judge("Judge: folder or hub id of a chat model that sees pictures, or a folder of CLIP-FlanT5."),
        },
    ),
    "scenes": ("SceneBench, judged by the lab's reader.", {"prompts": OwnPrompts}),
}
COMMON: dict[str, tuple[Any, Any]] = {
    "images": (Pictures, None),
    "model": (ModelId, None),
    "variant": (Variant, None),
    "model_config": (ModelConfig, None),
    "lora": (Lora, None),
    "seeds": (SeedCount, None),
    "every": (Every, 1),
    "steps": (Steps, None),
    "guidance": (OwnGuidance, None),
    "negative_prompt": (NegativePrompt, None),
    "height": (Height, None),
    "width": (Width, None),
    "call": (Call, None),
    "shard": (Shard, None),
    "batch_size": (BatchSize, 16),
    "device": (Device, None),
    "dtype": (Dtype, "float32"),
    "out": (RunOut, None),
    "engine": (Engine, "local"),
    "address": (Address, None),
    "num_workers": (NumWorkers, None),
    "gpus_per_worker": (GpusPerWorker, None),
    "as_json": (AsJson, False),
}


def _command(name: str, options: dict[str, Any]) -> Callable[..., None]:
    """The command that runs a suite with these options."""

    def command(**settings: Any) -> None:
        run(Options.of(name, settings))

    parameters = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for key, (kind, default) in {**{k: (v, None) for k, v in options.items()}, **COMMON}.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


for _name, (_help, _options) in SUITES.items():
    app.command(_name, help=_help)(_command(_name, _options))


@dataclass(frozen=True)
class Options:
    """What the command of a suite was given: those of COMMON, and of the suite's own those that it has.

    Attributes:
        suite: its name.
        thresholds: of GenEval, as its config calls them; empty for another suite.
    """

    suite: str
    prompts: Path | None
    images: Path | None
    model: str | None
    variant: str | None
    model_config: str | None
    lora: str | None
    seeds: int | None
    every: int
    steps: int | None
    guidance: float | None
    negative_prompt: str | None
    height: int | None
    width: int | None
    call: list[str] | None
    shard: str | None
    batch_size: int
    device: str | None
    dtype: str
    out: Path | None
    engine: str
    address: str | None
    num_workers: int | None
    gpus_per_worker: float | None
    as_json: bool
    judge: str | None = None
    detector: str | None = None
    clip: str | None = None
    thresholds: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, suite: str, settings: Mapping[str, Any]) -> Options:
        """From the command's parameters."""
        names = {f.name for f in fields(cls)}
        known = {name: value for name, value in settings.items() if name in names}
        return cls(suite=suite, thresholds={n: v for n, v in settings.items() if n not in names}, **known)

    @property
    def own_model(self) -> str | None:
        """What `accord.load` is given."""
        return None if self.model == LAB else self.model

    @property
    def call_arguments(self) -> dict[str, Any]:
        """Of `accord.generate`."""
        return call_options(self.steps, self.guidance, self.negative_prompt, self.height, self.width, self.call)

    def check(self) -> None:
        """Refuse options that do not go together."""
        if (self.images is None) == (self.model is None):
            raise InputError("nothing to judge, or twice; give --images DIR or --model ID, one of them")
        if self.images is not None:
            making = (
                "variant",
                "model_config",
                "lora",
                "steps",
                "guidance",
                "negative_prompt",
                "height",
                "width",
                "call",
            )
            leave_out("with --images", **{name: getattr(self, name) for name in making}, **_said("dtype"))
        elif self.model == LAB:
            leave_out("with the lab's model", variant=self.variant, model_config=self.model_config)


def run(options: Options) -> None:
    """`accord eval SUITE`."""
    quiet()
    options.check()
    told = options.call_arguments
    from accord.data.pairs import PairsFile
    from accord.data.shards import parse_shard
    from accord.evaluation.run import Task, run_suite
    from accord.files import check_writable

    part = parse_shard(options.shard or "1/1")
    spread = spread_of(options.engine, options.address, options.num_workers, options.gpus_per_worker, None)
    kind = torch_type(options.dtype)
    where = options.device if spread else pick_device(options.device)
    suite, skipped = suite_of(options.suite), PairsFile()
    config = _thresholds(options.thresholds)
    records, chosen = _records(options, suite, skipped)
    target = check_writable(options.out or RUNS / options.suite)
    source, numbers = _source(options, suite, chosen, skipped, (where, kind))
    judges, load_all = _judges(suite, options, where)

    def make() -> Any:
        return suite(**load_all(), **({} if config is None else {"config": config}))

    about = {
        "prompts": _about_prompts(options, records),
        "settings": _about_settings(options, told, config),
        "judges": judges,
        "device": where,
    }
    tell_skipped(skipped.skipped)
    if options.images is not None:
        _say_size(source, chosen, numbers, suite, options.judge)
    task = Task(suite, chosen, source, make, numbers, about)
    engine = None if spread is None else judged_on(spread)
    data = run_suite(task, target, part, options.batch_size, progress=not options.as_json, spread=engine)
    data["skipped_rows"] = skipped.skipped
    emit(options.as_json, data, _text(data, suite.name))


def _records(options: Options, suite: Any, skipped: Any) -> tuple[list[Any], list[Any]]:
    """All prompts of the suite, and those of `--every`."""
    file = options.images if options.prompts is None and suite.of_pictures else options.prompts
    records = suite.records(file, skipped)
    chosen = [r for r in records if r.number % options.every == 0]
    if not chosen:
        raise InputError(f"--every {options.every} leaves none of the prompts that can be read; give a smaller number")
    return records, chosen


def _source(
    options: Options, suite: Any, chosen: Sequence[Any], skipped: Any, load_on: tuple[str | None, Any]
) -> tuple[Any, list[int]]:
    """Where the pictures come from, and the seeds of each prompt; none stand for all that there are.

    Args:
        load_on: device and type of the pipeline.
    """
    from accord.evaluation.pictures import Found, Generated

    if options.images is not None:
        found = Found(options.images)
        for row in found.skipped.skipped:
            skipped.skip(row["row"], f"{row['reason']} (of the table in --images)")
        return found, [] if options.seeds is None else found.seeds(chosen)[: options.seeds]

    def load() -> Any:
        import accord

        device, dtype = load_on
        variant, config = options.variant, options.model_config
        pipe = accord.load(options.own_model, device, dtype, options.lora, variant=variant, model_config=config)
        _check_call(pipe, options.call_arguments)
        return pipe

    numbers = [suite.first_seed + i for i in range(options.seeds or 1)]
    return Generated(load, suite, options.call_arguments), numbers


def _about_prompts(options: Options, records: Sequence[Any]) -> dict[str, Any]:
    """What `run.json` says of the prompts."""
    from accord.training.fingerprint import fingerprint

    return {
        "file": None if options.prompts is None else options.prompts.name,
        "count": len(records),
        "every": options.every,
        "fingerprint": fingerprint([(r.number, r.prompt, r.about) for r in records]),
    }


def _about_settings(options: Options, told: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """What `run.json` says of the pictures, and of how they are judged."""
    made = options.images is None
    return {
        "images": None if options.images is None else str(options.images),
        "model": options.model,
        "variant": options.variant,
        "model_config": options.model_config,
        "lora": options.lora,
        "dtype": options.dtype if made else None,
        **(told if made else {}),
        **({} if config is None else {"thresholds": asdict(config)}),
    }


def suite_of(name: str) -> Any:
    """The suite of that name; the lab brings its own."""
    import accord_lab.suite  # noqa: F401 (it registers it)
    from accord.evaluation.registry import suite_named

    return suite_named(name)


def _said(*names: str) -> dict[str, Any]:
    from accord.cli.options import said

    return said(*names)


def _check_call(pipe: Any, told: dict[str, Any]) -> None:
    """Refuse what the pipeline does not take, before the first picture."""
    from accord.diffusion.call import call_arguments
    from accord.diffusion.generate import check_generates

    check_generates(pipe)
    call_arguments(pipe, **told)


def _thresholds(given: Mapping[str, float | None]) -> Any:
    """GenEval's config of these options; None for another suite."""
    if not given:
        return None
    from accord.evaluation.geneval import GenEvalConfig

    return checked(GenEvalConfig, **{name: value for name, value in given.items() if value is not None})


def _judges(suite: Any, options: Options, device: str | None) -> tuple[dict[str, str], Callable[[], dict[str, Any]]]:
    """What `run.json` calls the judges, and what loads them.

    Raises:
        InputError: for a suite that needs a chat model, if none is named.
    """
    import accord

    ids: dict[str, str] = {}
    loads: dict[str, Callable[[], Any]] = {}
    if "judge" in suite.needs:
        judge = options.judge or (LAB if options.model in (LAB, None) else HUB_CAPTIONER)
        ids["judge"], loads["judge"] = judge, lambda: accord.load_judge(judge, pick_device(device))
    if "answers" in suite.needs:
        answers = options.judge
        if answers is None:
            raise InputError("this suite asks questions, and --judge is missing; give a chat model, folder or hub id")
        ids["answers"], loads["answers"] = (
            answers,
            lambda: load_answers(answers, pick_device(device), suite.name == "vqascore"),
        )
    if "detector" in suite.needs:
        from accord.judges.detect import INSTANCES, InstanceDetector

        detector, clip = options.detector or INSTANCES, options.clip or HUB_CLIP
        ids["detector"], loads["detector"] = (
            detector,
            lambda: InstanceDetector.from_pretrained(detector, pick_device(device)),
        )
        ids["clip"], loads["clip"] = clip, lambda: accord.load_clip(clip, pick_device(device))
    if "embed" in suite.needs:
        ids["embed"], loads["embed"] = "all-MiniLM-L6-v2", lambda: accord.load_sentence(device=pick_device(device))
    return ids, lambda: {need: load() for need, load in loads.items()}


def load_answers(model: str, device: str, score: bool = False) -> Any:
    """A judge that answers questions.

    Args:
        score: whether CLIP-FlanT5, which only says how well a prompt fits, is one too.

    Raises:
        InputError: for a model that does not.
    """
    import accord
    from accord.files import read_json
    from accord.judges.protocol import Answers
    from accord.judges.vqascore import ClipFlanT5

    if (
        score
        and (Path(model) / "config.json").is_file()
        and "mm_vision_tower" in read_json(Path(model) / "config.json", "configuration of the judge")
    ):
        return ClipFlanT5.from_pretrained(model, device)
    judge = accord.load_judge(model, device)
    if not isinstance(judge, Answers):
        raise InputError(f"judge {model!r} answers no questions; give a chat model that sees pictures")
    return judge


def _say_size(source: Any, records: Any, seeds: Any, suite: Any, judge: str | None) -> None:
    """A note where an embedded model judges pictures that it cannot know."""
    from accord.data.images import image_size

    if "judge" not in suite.needs:
        return
    record, seed = source.jobs(records, seeds)[0]
    say_lab_only(image_size(source.of(record)[seed]), judge, "--judge ID")


def _text(data: dict[str, Any], name: str) -> str:
    """What a run says at its end."""
    if not data["finished"]:
        return f"{data['pictures']} pictures of this shard are in {data['out']}; the other shards are missing"
    return f"{_table(data['summary'], name)}\ngallery: {Path(data['out']) / 'index.html'}"


def _table(summary: dict[str, Any], name: str) -> str:
    from accord.reports.tables import aligned, duration

    def row(called: str, figure: dict[str, Any]) -> list[str]:
        if figure["mean"] is None:
            return [called, "-", "-", str(figure["prompts"])]
        known = figure["ci95"] is not None  # of one prompt there is none
        within = "{:.3f} to {:.3f}".format(*figure["ci95"]) if known else "-"
        return [called, f"{figure['mean']:.3f}", within, str(figure["prompts"])]

    rows = [row(summary["figure"], summary["overall"])]
    rows += [row("  " + tag, figure) for tag, figure in summary["tags"].items()]
    rows += [row(called, figure) for called, figure in summary["figures"].items()]
    if summary["right"] is not None and summary["figure"] != "right":
        rows.append(row("right pictures", summary["right"]))
    lines = [aligned([name, "mean", "95 %", "prompts"], rows)]
    if summary["missing_tags"]:
        lines.append(f"no figure of the whole: no picture is tagged {', '.join(summary['missing_tags'])}")
    if summary["unjudged"]:
        lines.append(f"{summary['unjudged']} pictures have no score, and are in no mean")
    lines += [f"skipped prompt {s['number']}, seed {s['seed']}: {s['reason']}" for s in summary["skipped"]]
    cost = f"{summary['pictures']} pictures, {duration(summary['judge_seconds'])} each to judge"
    if summary["seconds"] is not None:
        cost += f", {duration(summary['seconds'])} to make"
    return "\n".join([*lines, cost])


@app.command("merge")
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Folders with shards of one run; or the folder of all of them.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the merged run; with one folder it is that.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make one run of its shards, if they were made in several folders."""
    quiet()
    from accord.evaluation.run import merge as merged
    from accord.evaluation.run import read_about

    if len(runs) == 1:
        leave_out("with a single folder", out=out)
    elif out is None:
        raise InputError("several runs are merged into a new folder; give it as --out")
    target = runs[0] if out is None else out
    summary = merged(runs, target)
    name = read_about(target)["suite"]
    emit(
        as_json, {"out": str(target), "summary": summary}, f"{_table(summary, name)}\ngallery: {target / 'index.html'}"
    )


@app.command("compare")
def compare(
    run_a: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of another one, of the same suite, prompts and judge.")],
    out: Annotated[Path, typer.Option(help="Folder for compare.json and compare.md.")] = Path("out/compare"),
    as_json: AsJson = False,
) -> None:
    """Differences of two runs with their intervals, by tag, and at equal cost."""
    quiet()
    from accord.evaluation.compare import compare as compared
    from accord.evaluation.compare import table_of, write_comparison
    from accord.files import check_writable

    if (out / "run.json").exists():
        raise InputError(f"--out {str(out)!r} holds a run, whose page would be replaced; give another folder")
    check_writable(out)
    data = compared(run_a, run_b)
    write_comparison(data, run_a, run_b, out)
    emit(
        as_json,
        {**data, "out": str(out)},
        f"{table_of(data)}\ncompare: {out / 'compare.md'}, side by side: {out / 'index.html'}",
    )


@app.command("prompts")
def prompts(
    out: Annotated[Path, typer.Option(help="File to write, .jsonl.")],
    count: Annotated[int, typer.Option(min=1, help="How many prompts; GenEval has 553.")] = 553,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Draw prompts like GenEval's, of its six kinds and COCO's classes, for accord eval geneval."""
    import json

    from accord.evaluation.geneval_prompts import geneval_records
    from accord.files import check_writable, only_writer, write_file

    if out.suffix.lower() != ".jsonl":
        raise InputError(f"output {str(out)!r} is no .jsonl; name it so")
    records = geneval_records(count, seed)
    check_file(out)
    with only_writer(check_writable(out.parent), out.name):
        write_file(out, "".join(json.dumps(r) + "\n" for r in records).encode())
    emit(as_json, {"prompts": len(records), "out": str(out)}, f"{len(records)} prompts in {out}")


@app.command("agreement")
def agreement(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run of geneval.")],
    verdicts: Annotated[Path, typer.Argument(help="Verdicts of the original's program: results.jsonl.")],
    as_json: AsJson = False,
) -> None:
    """How often a run of geneval says what the original's program says of the same pictures."""
    quiet()
    from accord.evaluation.geneval import agreement as agreed
    from accord.evaluation.geneval_records import read_verdicts
    from accord.evaluation.run import finished_rows, read_about
    from accord.reports.tables import aligned

    about = read_about(folder)
    if about["suite"] != "geneval":
        raise InputError(f"the run in {str(folder)!r} is one of {about['suite']}; give one of geneval")
    ours = {
        f"{row['number']:05d}/samples/{row['seed']:04d}.png": (row["tags"][0], row["verdict"])
        for row in finished_rows(folder)
    }
    data = agreed(ours, read_verdicts(verdicts))
    rows = [
        [
            name,
            f"{d['agreement']:.3f}",
            "-" if d["kappa"] is None else f"{d['kappa']:.3f}",
            f"{d['ours']:.3f}",
            f"{d['theirs']:.3f}",
            str(d["pictures"]),
        ]
        for name, d in (("overall", data["overall"]), *data["tags"].items())
    ]
    emit(as_json, data, aligned(["agreement", "share", "kappa", "ours", "theirs", "pictures"], rows))
