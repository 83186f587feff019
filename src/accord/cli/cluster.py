"""`--engine ray`: the work of a command as it travels to workers, and what is said of it.

Each of these makes rows of rows with the same calls as the command on one machine.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from accord.cli.jobs import Task, in_batches
from accord.cli.making import Drawing, Repairing, write_picture, write_repair
from accord.cli.options import checked, emit, file_name, leave_out, said
from accord.types import InputError

Row = dict[str, Any]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="Where it runs: local (this process) or ray (workers of Ray, on this machine or at --address).",
    ),
]
Address = Annotated[
    str | None, typer.Option(help="With --engine ray: of a Ray cluster, or auto; this machine if not given.")
]
NumWorkers = Annotated[
    int | None, typer.Option(min=1, help="With --engine ray: workers, each of which holds the models; 1 if not given.")
]
GpusPerWorker = Annotated[
    float | None, typer.Option(min=0, help="With --engine ray: GPUs of each worker, 0.5 say; none if not given.")
]
MaxFailures = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="With --engine ray: share of rows that may fail before all is stopped; 0.1 if not given."
    ),
]


@dataclass(frozen=True)
class Spread:
    """How a command is spread over workers."""

    cluster: Any
    failures: float

    def run(self, work: Any, source: Callable[..., Any], out: Any, batch_size: int, progress: bool) -> Row:
        """As `run_rows`."""
        from accord.distributed.engine import run_rows

        return run_rows(work, source, out, self.cluster, batch_size, self.failures, progress)


def spread_of(
    engine: str, address: str | None, num_workers: int | None, gpus: float | None, failures: float | None
) -> Spread | None:
    """What these options say; None to run in this process.

    Raises:
        InputError: for another engine, or options of Ray without it.
    """
    if engine not in ("local", "ray"):
        raise InputError(f"--engine {engine!r} is unknown; use local or ray")
    if engine == "local":
        given = said("address", "num_workers", "gpus_per_worker", "max_failures")
        leave_out("without --engine ray", **{name: str(value) for name, value in given.items()})
        return None
    from accord.distributed.cluster import Cluster, need_ray
    from accord.distributed.engine import FAILURES

    need_ray()
    cluster = checked(Cluster, address=address, workers=num_workers or 1, gpus=gpus or 0.0)
    return Spread(cluster, FAILURES if failures is None else failures)


def tell(as_json: bool, data: Row) -> None:
    """Print what a job did."""
    lines = [f"made {data['made']}, kept {data['kept']}, failed {data['failures']}: rows in {data['out']}"]
    lines += [f"failed {row['id']}: {row['reason']}" for row in data["failed"][:10]]
    emit(as_json, data, "\n".join(lines))


# --- prompts to pictures --------------------------------------------------------------------------------------------
_PICTURE = {"prompt": "string", "seed": "int64", "file": "string", "bytes": "int64"}
_REPAIR = {**_PICTURE, "seed_after": "int64", "before": "double", "after": "double"}
_WRITES: dict[str, tuple[Callable[..., Row], dict[str, Any]]] = {
    "generate": (write_picture, _PICTURE),
    "realign": (write_repair, _REPAIR),
}


@dataclass(frozen=True)
class Making:
    """`accord generate` or `realign` of rows with prompts.

    Attributes:
        how: `Drawing` or `Repairing`.
        out: folder or address that pictures are written to.
    """

    what: str
    how: Drawing | Repairing
    out: str
    device: str | None

    @property
    def kinds(self) -> Row:
        return _WRITES[self.what][1]

    @property
    def settings(self) -> Row:
        return {"command": self.what, **_plain(asdict(self.how))}

    def load(self) -> tuple[str, Callable[[list[Row]], list[Row | InputError]]]:
        from accord.distributed.places import place_of
        from accord.training.fingerprint import fingerprint

        pipe, making = self.how.load(self.device)
        out, write = place_of(self.out), _WRITES[self.what][0]

        def do(rows: list[Row]) -> list[Row | InputError]:
            with out.filled() as folder:
                task = Task(
                    self.what,
                    self.how.pipeline.told,
                    making,
                    lambda name, made: write(folder, name, made),
                    self.how.batch_size,
                    quietly=True,
                )
                return _pictures(task, rows)

        return fingerprint(pipe), do


def _pictures(task: Task, rows: Sequence[Row]) -> list[Row | InputError]:
    """What is made of rows, each with its seed."""
    from accord.data.prompt_files import PromptRow

    found: dict[int, Row | InputError] = {}
    jobs = []
    for index, row in enumerate(rows):
        own = {name: row.get(name) for name in ("seed", "width", "height", "negative_prompt")}
        try:
            jobs += task.jobs_of(PromptRow(index, row["prompt"], **own), ())
        except InputError as error:
            found[index] = error
    for batch in in_batches(jobs, task.batch_size):
        for job, made in zip(batch, task.made(batch), strict=True):
            if isinstance(made, InputError):
                found[job.index] = made
                continue
            said = task.write(_name(rows[job.index]["id"], job.text, job.seed), made)
            found[job.index] = {"prompt": job.prompt, "seed": job.seed, **said}
    return [found[index] for index in range(len(rows))]


def _name(row_id: str, text: str, seed: int) -> str:
    """Of a picture: as on one machine where the id is a row's number, else of the id's own digits."""
    if match := re.fullmatch(r"(\d{5,})-s\d+", row_id):
        return file_name(int(match[1]), text, seed, digits=5)
    return hashlib.blake2b(row_id.encode(), digest_size=12).hexdigest()


def make_on_cluster(
    spread: Spread,
    what: str,
    how: Drawing | Repairing,
    file: Path | None,
    prompts: Sequence[str] | None,
    seeds: Sequence[int],
    device: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """`accord generate` and `realign` with `--engine ray`."""
    from accord.distributed.places import place_of
    from accord.distributed.sources import Done, of_place, of_rows, seeded

    if prompts or file is None:
        raise InputError("--engine ray works on --prompts FILE; give one instead of PROMPTS")
    target, given = place_of(out), place_of(file)
    numbered = given.local is not None and given.kind() != "folder"
    size = how.batch_size

    def source(done: Done) -> tuple[Any, int | None]:
        if not numbered:
            return of_place(given, done, ("prompt",), seeds)
        rows = _numbered(given.local, seeds, seeded)
        left = [row for row in rows if row["id"] not in done]
        return of_rows(left, done, -(-len(left) // size)), len(left)

    work = Making(what, how, target.everywhere, device)
    tell(as_json, spread.run(work, source, target, size, not as_json))


def _numbered(file: Any, seeds: Sequence[int], seeded: Callable[..., list[Row]]) -> list[Row]:
    """The rows of a prompts file of this machine; their numbers are their ids."""
    from accord.data.pairs import PairsFile
    from accord.data.prompt_files import read_rows

    broken, rows = PairsFile(), []
    for row in read_rows(file, broken):
        own = {name: getattr(row, name) for name in ("seed", "width", "height", "negative_prompt")}
        rows += seeded({"id": f"{row.number:05d}", "prompt": row.prompt, **own}, seeds)
    return rows + [{"id": f"{b['row']:05d}", "prompt": b.get("text"), "wrong": b["reason"]} for b in broken.skipped]


def _plain(value: Any) -> Any:
    """The value of JSON's kinds; paths and types by what they say."""
    if isinstance(value, dict):
        return {str(name): _plain(of) for name, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(of) for of in value]
    return value if value is None or isinstance(value, (str, bool, int, float)) else repr(value)


# --- pictures to rows -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scoring:
    """`accord score` of rows with a picture and a prompt."""

    judges: Any  # `accord.cli.scoring.Judges`
    kinds: Row = field(
        default_factory=lambda: {
            "prompt": "string",
            "overall": "double",
            "reason": "string",
            "clip": "double",
            "caption": "string",
            "caption_reward": "double",
            "passes": "bool",
            "phrases": [{"text": "string", "probability": "double"}],
            "words": [
                {
                    "text": "string",
                    "kind": "string",
                    "start": "int64",
                    "probability": "double",
                    "reads_as": "string",
                    "reads_as_probability": "double",
                    "judged": "string",
                }
            ],
            "unjudged": ["string"],
        }
    )

    @property
    def settings(self) -> Row:
        return {"command": "score", **_plain({**asdict(self.judges), "device": None})}

    def load(self) -> tuple[str, Callable[[list[Row]], list[Row]]]:
        from accord.cli.scoring import load_judges, scores

        judge, clip, settings = load_judges(self.judges)

        def do(rows: list[Row]) -> list[Row]:
            with tempfile.TemporaryDirectory() as folder:
                paths = _written(rows, Path(folder))
                return scores([(p, row["prompt"]) for p, row in zip(paths, rows, strict=True)], judge, clip)

        return str(settings["weights"]), do


@dataclass(frozen=True)
class Inverting:
    """`accord invert` of rows with a picture.

    Attributes:
        bank: prompts to retrieve from.
    """

    inverter: Path | None
    judge: str | None
    bank: tuple[str, ...] | None
    words_only: bool
    device: str | None

    @property
    def kinds(self) -> Row:
        from accord.methods.invert.bulk import KINDS

        return {name: kind for name, kind in KINDS.items() if name != "image"}

    @property
    def settings(self) -> Row:
        from accord.training.fingerprint import fingerprint

        said = _plain({**vars(self), "device": None, "bank": self.bank and fingerprint(self.bank)})
        return {"command": "invert", **said}

    def load(self) -> tuple[str, Callable[[list[Row]], list[Row]]]:
        from accord.cli.options import pick_device
        from accord.cli.pictures import reader_of
        from accord.data.images import open_image
        from accord.training.fingerprint import fingerprint

        bank = None if self.bank is None else list(self.bank)
        reader = reader_of(self.inverter, self.judge, bank, self.words_only, pick_device(self.device))

        def do(rows: list[Row]) -> list[Row]:
            with tempfile.TemporaryDirectory() as folder:
                images = [open_image(path) for path in _written(rows, Path(folder))]
            return [found.to_dict() for found in reader(images)]

        return fingerprint(*reader.inverter.predictors, reader.inverter.weights), do


def _written(rows: Sequence[Row], folder: Path) -> list[Path]:
    """The pictures of rows as files, which are read with all their bounds. Raises InputError for one that is not."""
    from accord.distributed.places import place_of
    from accord.distributed.sources import picture_bytes

    paths = []
    for number, row in enumerate(rows):
        place = place_of(row["place"]) if row.get("image") is None else None
        if place is not None and place.local is not None:
            paths.append(place.local)
            continue
        paths.append(folder / f"{number}")
        paths[-1].write_bytes(picture_bytes(row))
    return paths


def pictures_on_cluster(
    spread: Spread, work: Any, source: Path, out: Path, needs: Sequence[str], batch_size: int, as_json: bool
) -> None:
    """`accord score` and `invert` with `--engine ray`."""
    from accord.distributed.places import place_of
    from accord.distributed.sources import of_place

    given = place_of(source)
    data = spread.run(work, lambda done: of_place(given, done, needs), place_of(out), batch_size, not as_json)
    tell(as_json, data)


# --- parts of pairs -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Pairing:
    """`accord pairs make`, a part a row.

    Attributes:
        prompts: of all parts.
    """

    pipeline: Any
    prompts: tuple[str, ...]
    seed: int
    out: str
    device: str | None
    kinds: Row = field(default_factory=dict)
    settings: Row = field(default_factory=dict)  # the parts say themselves what they are of

    @property
    def parts(self) -> int:
        from accord.methods.invert.pairs import PART_SIZE

        return -(-len(self.prompts) // PART_SIZE)

    def load(self) -> tuple[str, Callable[[list[Row]], list[Row]]]:
        from accord.methods.invert.pairs import make_parts
        from accord.training.fingerprint import fingerprint

        pipe = self.pipeline.load(self.device)

        def do(rows: list[Row]) -> list[Row]:
            for row in rows:
                share = (int(row["id"]), self.parts)
                make_parts(pipe, self.prompts, self.out, seed=self.seed, shard=share, **self.pipeline.told)
            return [{} for _ in rows]

        return fingerprint(pipe), do


def make_pairs_on(spread: Spread, work: Pairing, progress: bool) -> int:
    """The parts of pairs, by workers; returns how many pairs there are.

    Raises:
        InputError: for the first part that cannot be made.
    """
    from tqdm.auto import tqdm

    from accord.data.pair_folders import write_metadata
    from accord.distributed.engine import results
    from accord.distributed.sources import Done, of_rows
    from accord.files import bar_options

    rows = [{"id": str(number)} for number in range(1, work.parts + 1)]
    told = {"desc": "parts", "total": len(rows), "disable": not progress, **bar_options()}
    with spread.cluster.opened(), tqdm(**told) as bar:
        for found in results(work, of_rows(rows, Done(), len(rows)), spread.cluster, 1):
            for one in found:
                if one["wrong"] is not None:
                    raise InputError(one["wrong"])
            bar.update(len(found))
    return write_metadata(Path(work.out))


# --- eval -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Judging:
    """Batches of a run of `accord eval`, a batch a row.

    Attributes:
        models: loads them, as `accord.evaluation.run.in_turn` is given it.
    """

    models: Callable[[], Any]
    batches: Sequence[Sequence[Any]]
    kinds: Row = field(default_factory=lambda: {"rows": "string", "put": ["string"]})
    settings: Row = field(default_factory=dict)

    def load(self) -> tuple[str, Callable[[list[Row]], list[Row]]]:
        weights, rows_of = self.models()

        def do(asked: list[Row]) -> list[Row]:
            found = [rows_of(self.batches[int(row["id"])]) for row in asked]
            return [{"rows": json.dumps(rows), "put": put} for rows, put in found]

        return json.dumps(weights), do


def judged_on(spread: Spread) -> Callable[..., Iterator[Any]]:
    """As `accord.evaluation.run.in_turn`, by workers."""
    from accord.distributed.engine import results
    from accord.distributed.sources import Done, of_rows

    def judged(models: Callable[[], Any], batches: Sequence[Sequence[Any]]) -> Iterator[Any]:
        rows = [{"id": str(number)} for number in range(len(batches))]
        with spread.cluster.opened():
            data = of_rows(rows, Done(), len(rows))
            for found in results(Judging(models, batches), data, spread.cluster, 1):
                for one in found:
                    if one["wrong"] is not None:
                        raise InputError(one["wrong"])
                    yield json.loads(one["weights"]), partial(_rowed, one)

    return judged


def _rowed(one: Row) -> tuple[list[Row], list[str]]:
    return json.loads(one["rows"]), one["put"]
