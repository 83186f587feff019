"""Prompts as jobs: from the command line, which makes all of them or is refused, or row by row from a file, which sets
bad rows aside, writes what it did into a manifest, and goes on where it ended.
"""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from accord.cli.options import check_said, emit, file_name, leave_out, tell_skipped
from accord.types import InputError, Notice

T = TypeVar("T")
HOPELESS = 16  # rows that fail, and none before them did not, after which the others are not tried

PromptsFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        help=(
            "Instead of PROMPTS: a .txt, .csv, .tsv, .jsonl, .json (COCO captions) or .parquet file. Rows may have a "
            "seed, width, height and negative_prompt of their own. The same command again goes on where it ended."
        ),
    ),
]
GivenPrompts = Annotated[list[str] | None, typer.Argument(help="One or more prompts, each in quotes.")]
FileShard = Annotated[
    str | None,
    typer.Option("--shard", help="With --prompts, I/N: every N-th batch from the I-th on; after all N run without it."),
]


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to be made.

    Attributes:
        index: of the picture, where the prompts are of the command line; of the row, from 1, where they are of a file.
        prompt: as it was given.
        text: without the syntax of prompt programs; what the pipeline reads.
        negative: what the pipeline is guided away from.
        own: what the row says beside its prompt.
    """

    index: int
    prompt: str
    text: str
    seed: int
    negative: str = ""
    own: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Jobs of one kind are made together."""
        return self.negative, self.own.get("width"), self.own.get("height")

    @property
    def index_and_seed(self) -> tuple[int, int]:
        return self.index, self.seed

    @property
    def line(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {"row": self.index, "seed": self.seed, "prompt": self.prompt, **self.own}


@dataclass(frozen=True)
class Making:
    """How pictures are made.

    Attributes:
        accepts: raises InputError for arguments that the pipeline's call does not take.
        reads: raises InputError for a text that is not read to its end.
        make: what comes of jobs of one kind, with the arguments of their call.
        settings: what it is made with, beside pipeline and arguments; of JSON's kinds.
    """

    accepts: Callable[[dict[str, Any]], object]
    reads: Callable[[str], object]
    make: Callable[[Sequence[Job], dict[str, Any]], Sequence[Any]]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Task:
    """What a command does with prompts.

    Attributes:
        what: its name, for the bar.
        told: arguments of the pipeline's call for all pictures, as `call_options` gives them.
        write: writes what came of a job, under a name; returns what the manifest says of it, `file` and `bytes` first.
        passes: runs of the pipeline that a picture may need.
    """

    what: str
    told: dict[str, Any]
    making: Making
    write: Callable[[str, Any], dict[str, Any]]
    batch_size: int
    quietly: bool
    passes: int = 1
    set_aside: dict[str, list[int]] = field(default_factory=dict)  # kinds of syntax, and in which rows
    _accepted: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def arguments(self, job: Job) -> dict[str, Any]:
        """Of the call that makes this job."""
        size = {name: job.own[name] for name in ("width", "height") if name in job.own}
        return {**self.told, "negative_prompt": job.negative, "call": {**self.told["call"], **size}}

    @functools.cached_property
    def takes_negative(self) -> bool:
        """Whether the pipeline is guided away from a negative prompt."""
        try:
            self.making.accepts({**self.told, "negative_prompt": self.told["negative_prompt"] or "blurry"})
        except InputError:
            return False
        return True

    def jobs_of(self, row: Any, seeds: Sequence[int]) -> list[Job]:
        """The pictures of a `PromptRow`.

        Raises:
            InputError: for a row that cannot be made.
        """
        from accord.prompts.parser import negative_text, plain_text

        text, stripped = plain_text(row.prompt)
        negatives = [row.negative_prompt or self.told["negative_prompt"]]
        if not text.strip():
            text, stripped = row.prompt, ()
        kinds: set[str] = {s.kind for s in stripped}
        if "negative prompt" in kinds and self.takes_negative:
            negatives.append(negative_text(row.prompt))
            kinds = kinds - {"negative prompt"} | {_GUIDED}
        for kind in kinds:
            self.set_aside.setdefault(kind, []).append(row.number)
        self.making.reads(text)
        own = {n: v for n in ("negative_prompt", "width", "height") if (v := getattr(row, n)) is not None}
        negative = ", ".join(filter(None, negatives))
        numbers = seeds if row.seed is None else [row.seed]
        jobs = [Job(row.number, row.prompt, text, seed, negative, own) for seed in numbers]
        self._check_kind(jobs[0])
        return jobs

    def _check_kind(self, job: Job) -> None:
        """Refuse what the pipeline does not take; it is asked once for each kind."""
        if job.kind not in self._accepted:
            if len(self._accepted) > 1000:  # each row may have a negative prompt of its own
                self._accepted.clear()
            try:
                self.making.accepts(self.arguments(job))
                self._accepted[job.kind] = ""
            except InputError as error:
                self._accepted[job.kind] = str(error)
        if why := self._accepted[job.kind]:
            raise InputError(why)

    def made(self, jobs: Sequence[Job]) -> list[Any]:
        """What comes of jobs of one kind; of one that cannot be made an InputError."""
        try:
            return list(self.making.make(jobs, self.arguments(jobs[0])))
        except InputError as error:
            return [error] if len(jobs) == 1 else [self.made([job])[0] for job in jobs]


_GUIDED = "guided away"


def in_batches(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    """Jobs of one kind together, in the order in which batches are full."""
    waiting: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        batch = waiting.setdefault(job.kind, [])
        batch.append(job)
        if len(batch) == size:
            yield waiting.pop(job.kind)
    yield from waiting.values()


@dataclass(frozen=True)
class Given:
    """What is to be made: prompts of the command line, or rows of a file.

    Attributes:
        prompts: where they are of the command line.
        rows, broken: the `PromptRow`s of a file, and its rows that could not be read.
        seeds: of each prompt, and of each row that has none of its own.
        share: (i, n): of the file's batches every n-th from the i-th on.
    """

    prompts: Sequence[str]
    seeds: Sequence[int]
    rows: Sequence[Any] | None = None
    broken: Sequence[Mapping[str, Any]] = ()
    share: tuple[int, int] | None = None

    @classmethod
    def of(
        cls, prompts: Sequence[str] | None, file: Path | None, seeds: Sequence[int], shard: str | None, parsed: bool
    ) -> Given:
        """What these options say, read before any model is.

        Args:
            parsed: whether prompts must be fit to be taken apart.

        Raises:
            InputError: for prompts that are given twice, or not at all, or that say nothing; for a file that cannot be
                read.
        """
        from accord.data.pairs import PairsFile
        from accord.data.prompt_files import read_rows
        from accord.data.shards import parse_shard

        if file is None:
            leave_out("without --prompts", shard=shard)
            if not prompts:
                raise InputError("no prompt was given; give PROMPTS, each in quotes, or --prompts FILE")
            check_said(*prompts, parsed=parsed)
            return cls(prompts, seeds)
        if prompts:
            raise InputError("both PROMPTS and --prompts were given; give one of them")
        share, broken = parse_shard(shard) if shard else None, PairsFile()
        return cls((), list(dict.fromkeys(seeds)), read_rows(file, broken), broken.skipped, share)

    @contextlib.contextmanager
    def writing(self, out: Path) -> Iterator[None]:
        """Be the only one who writes to a folder; of shards each is the only one of its number."""
        from accord.data.manifest import lock_name, manifest_name
        from accord.files import check_writable, only_writer

        with only_writer(check_writable(out), lock_name(manifest_name(self.share)) if self.share else ""):
            yield

    def run(self, task: Task, pipe: Any, out: Path) -> FileRun:
        """Make the rows of the file that the manifest in `out` has not got."""
        from accord.data.manifest import Manifest

        settings = settings_of(task, pipe)
        run = FileRun(task, self.rows or (), self.broken, self.seeds, self.share, Manifest(out, settings, self.share))
        run.run()
        return run


# --- from the command line ------------------------------------------------------------------------------------------
def make_all(task: Task, given: Given, show: Callable[[Job, Any, dict[str, Any]], T]) -> list[T]:
    """Make every prompt of the command line with every seed.

    Args:
        show: what is to be said of a job, of what came of it, and of what `task.write` returned.

    Returns:
        what `show` says, in the order of prompts and seeds.

    Raises:
        InputError: for the first that cannot be made; none is made then if that is known before.
    """
    from accord.data.prompt_files import PromptRow
    from accord.diffusion.progress import step_bar

    jobs: list[Job] = []
    for prompt in given.prompts:
        task.set_aside.clear()
        found = task.jobs_of(PromptRow(0, prompt), given.seeds)
        _note_of_one(task, found[0])
        jobs += [replace(job, index=len(jobs) + i) for i, job in enumerate(found)]
    out: dict[int, T] = {}
    with step_bar(len(jobs), task.what, task.quietly, task.passes) as bar:
        for batch in in_batches(jobs, task.batch_size):
            for job, made in zip(batch, task.making.make(batch, task.arguments(batch[0])), strict=True):
                out[job.index] = show(job, made, task.write(file_name(job.index, job.text, job.seed), made))
            bar.finish(len(batch))
    return [out[i] for i in range(len(jobs))]


def _note_of_one(task: Task, job: Job) -> None:
    """Say what a prompt is read as."""
    if job.text == job.prompt:
        return
    kinds = sorted(set(task.set_aside) - {_GUIDED})
    aside = f"; set aside: {', '.join(kinds)}" if kinds else ""
    negative = f", with the negative prompt {job.negative!r}" if _GUIDED in task.set_aside and job.negative else ""
    warnings.warn(f"the prompt is read as {job.text!r}{negative}{aside}", Notice, stacklevel=2)


# --- from a file ----------------------------------------------------------------------------------------------------
def settings_of(task: Task, pipe: Any) -> dict[str, Any]:
    """What all pictures of a run are made with, of JSON's kinds, for its manifest."""
    from accord.diffusion.call import call_arguments
    from accord.training.fingerprint import fingerprint

    plain = (str, bool, int, float)  # a picture is named by its path
    given = {k: v for k, v in call_arguments(pipe, **task.told).items() if isinstance(v, plain)}
    process = {k: repr(v) for k, v in sorted(dict(pipe.scheduler.config).items()) if not k.startswith("_")}
    return {
        "command": task.what,
        "pipeline": type(pipe).__name__,
        "weights": fingerprint(pipe),
        "scheduler": f"{type(pipe.scheduler).__name__} {fingerprint(process)}",
        "dtype": str(pipe.dtype).removeprefix("torch."),
        **given,
        **{k: v if isinstance(v, plain) else repr(v) for k, v in task.told["call"].items()},
        **task.making.settings,
    }


@dataclass
class FileRun:
    """The rows of a file, made as far as the manifest has not got them.

    Attributes:
        rows: `PromptRow`s; one without a seed is made with each of `seeds`.
        broken: rows that could not be read, each with its number and why.
        share: (i, n): every n-th batch from the i-th on; batches are the same whatever the share.
        manifest: of the folder that is written to.
        made, kept, failed: pictures of this run, of runs before, and such that the pipeline could not make.
        skipped: rows that could not be made.
    """

    task: Task
    rows: Sequence[Any]
    broken: Sequence[Mapping[str, Any]]
    seeds: Sequence[int]
    share: tuple[int, int] | None
    manifest: Any
    made: int = 0
    kept: int = 0
    failed: int = 0
    skipped: list[dict[str, Any]] = field(default_factory=list)
    _unwritten: list[dict[str, Any]] = field(default_factory=list)  # lines of skipped rows

    def run(self) -> None:
        """Make what is due, a batch after the other, each written before the next.

        Raises:
            InputError: for a row that was made of another prompt before, or if no row can be made.
        """
        from accord.diffusion.progress import step_bar

        index, count = self.share or (1, 1)
        for row in self.broken:
            self._skip(row["row"], row.get("text", ""), row["reason"])
        total = sum(len(self._seeds(row)) for row in self.rows)
        with step_bar(-(-total // count), self.task.what, self.task.quietly, self.task.passes) as bar:
            for number, batch in enumerate(in_batches(self._jobs(bar), self.task.batch_size)):
                if number % count == index - 1:
                    self._batch(batch, bar)
        if self.share is None and not self.made + self.kept:
            first = f" (row {self.skipped[0]['row']}: {self.skipped[0]['reason']})" if self.skipped else ""
            raise InputError(f"no row of the prompts file could be made{first}; mend it there")
        self.manifest.add(self._unwritten)
        self.manifest.finish()

    def _seeds(self, row: Any) -> Sequence[int]:
        return self.seeds if row.seed is None else [row.seed]

    def _jobs(self, bar: Any) -> Iterator[Job]:
        for row in self.rows:
            try:
                yield from self.task.jobs_of(row, self.seeds)
            except InputError as error:
                self._skip(row.number, row.prompt, str(error))
                bar.leave_out(len(self._seeds(row)) / (self.share or (1, 1))[1])

    def _batch(self, batch: Sequence[Job], bar: Any) -> None:
        due = {job.index_and_seed for job in batch if not self.manifest.has(job.line, job.seed)}
        self.kept += len(batch) - len(due)
        if not due:
            bar.pass_over(len(batch))
            return
        start = time.perf_counter()
        found = self.task.made(batch)  # whole, though a kill has left some of it: other company is other rounding
        seconds = round((time.perf_counter() - start) / len(batch), 4)
        lines = []
        for job, one in zip(batch, found, strict=True):
            if job.index_and_seed not in due:
                continue
            if isinstance(one, InputError):
                self.failed += 1
                self._skip(job.index, job.prompt, str(one), job)
                continue
            said = self.task.write(file_name(job.index, job.text, job.seed, digits=5), one)
            lines.append({**job.line, "status": "done", **said, "seconds": seconds})
        self.made += len(lines)
        if lines:
            self.manifest.add([*self._unwritten, *lines])
            self._unwritten.clear()
        bar.finish(len(batch))
        if not self.made + self.kept and self.failed >= HOPELESS:
            raise InputError(f"the first {self.failed} pictures cannot be made, the last of them because {found[-1]}")

    def _skip(self, number: int, text: str, reason: str, job: Job | None = None) -> None:
        """List a row as skipped; one that no shard has come to yet is listed by one of them."""
        index, count = self.share or (1, 1)
        if job is None and number % count != index % count:
            return
        reason = reason.replace("`", "")
        self.skipped.append({"row": number, "text": text if len(text) <= 100 else text[:97] + "...", "reason": reason})
        line = {"row": number, "seed": None, "prompt": text} if job is None else job.line
        self._unwritten.append({**line, "status": "skipped", "reason": reason})

    @property
    def is_whole(self) -> bool:
        """Whether all of the file's pictures are there, those of other shards too."""
        return self.share is None

    def tell(self, as_json: bool, out: Path, gallery: Path | None = None) -> None:
        """Print what became of the rows."""
        _note_of_many(self.task.set_aside)
        self.skipped.sort(key=lambda row: row["row"])
        tell_skipped(self.skipped)
        path = str(self.manifest.path)
        data = {"made": self.made, "kept": self.kept, "skipped": self.skipped, "out": str(out), "manifest": path}
        lines = [f"made {self.made}, kept {self.kept}, skipped {len(self.skipped)} rows, listed in {path}"]
        if gallery is not None:
            data["gallery"] = str(gallery)
            lines.append(f"all of them: {gallery}")
        emit(as_json, data, "\n".join(lines))


def readable(pipe: Any, rows: Sequence[Any], broken: Any) -> list[str]:
    """The plain texts of `PromptRow`s, those left out that a pipeline does not read to their end, and listed in
    `broken`.
    """
    from accord.diffusion.pipelines import check_prompt_length
    from accord.prompts.parser import plain_text

    texts: list[str] = []
    set_aside: dict[str, list[int]] = {}
    for row in rows:
        plain, stripped = plain_text(row.prompt)
        text = plain if plain.strip() else row.prompt
        try:
            check_prompt_length(pipe, text)
        except InputError as error:
            broken.skip(row.number, str(error), row.prompt)
            continue
        texts.append(text)
        for kind in {s.kind for s in stripped}:
            set_aside.setdefault(kind, []).append(row.number)
    _note_of_many(set_aside)
    if not texts:
        raise InputError(f"no row of the prompts file can be used ({broken.skipped[0]['reason']}); mend it there")
    return texts


def _note_of_many(set_aside: Mapping[str, list[int]]) -> None:
    """Say what syntax rows were read without."""
    if guided := set_aside.get(_GUIDED):
        warnings.warn(
            f"{_count(guided)} a negative prompt in the prompt; the pipeline gets it as one", Notice, stacklevel=2
        )
    aside = {kind: rows for kind, rows in sorted(set_aside.items()) if kind != _GUIDED}
    if aside:
        said = _count(sorted(set().union(*aside.values())))
        warnings.warn(f"{said} syntax that no pipeline reads; set aside: {', '.join(aside)}", Notice, stacklevel=2)


def _count(rows: Sequence[int]) -> str:
    return f"row {rows[0]} has" if len(rows) == 1 else f"{len(rows)} rows, the first of them row {rows[0]}, have"
