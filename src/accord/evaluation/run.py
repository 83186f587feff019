"""A run is a folder: pictures of a suite's prompts, judged, in a form that others read.

    run.json             settings, versions, device, seeds, judges, and whose weights they were
    rows.jsonl           a line a picture, appended while it runs; rows-00001-of-00004.jsonl of a shard
    rows.parquet         the same with proper types, once all are there; metadata.parquet is its copy, under the name
                         that `datasets` (imagefolder) and Accord look for in a folder of pictures
    summary.json         the figures with their intervals, and the pictures that were skipped
    index.html           a gallery of all pictures
    images/00012-3.png   the picture of prompt 12 with seed 3

The same command again goes on where a run was stopped. A batch is the unit: what a kill has left of one is made again
as a whole, so that a run that was stopped ends with the numbers of one that was not.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import accord
from accord.data.batches import each
from accord.data.pairs import need_parquet
from accord.data.shards import shard_name, share_of
from accord.data.typed import read_typed, write_typed
from accord.evaluation.pictures import Job, Made, Pictures, picture_name
from accord.evaluation.registry import Judged, Record, Suite
from accord.evaluation.rows import KINDS, Journal, Row, read_rows, row_of, skipped_row
from accord.evaluation.stats import figure_of, mean_of_groups
from accord.evaluation.weights import weights_of
from accord.files import bar_options, check_writable, only_writer, read_json, reason, replace_file, write_file
from accord.reports.gallery import write_gallery
from accord.reports.pictures import png
from accord.types import InputError, Notice

SCHEMA = "accord.run/1"
SUMMARY = "accord.summary/1"
COMPARED = ("suite", "prompts", "settings", "seeds", "judges", "shards", "weights")  # what makes another run
SAID = ("accord", "versions", "device", "batch_size")  # what may move last digits, and is said


@dataclass(frozen=True)
class Task:
    """What a run is to do.

    Attributes:
        suite: its class.
        records: all its prompts, of all shards.
        pictures: where the pictures come from.
        make: gives the suite with its judges, when the first picture is due.
        seeds: of each prompt; all that there are if empty.
        about: what `run.json` says beside it: "settings", "judges", "device", "prompts"; JSON-ready.
    """

    suite: type[Suite]
    records: Sequence[Record]
    pictures: Pictures
    make: Callable[[], Suite]
    seeds: Sequence[int]
    about: Mapping[str, Any]


def versions() -> dict[str, str]:
    """Of the packages that decide what a picture and a verdict are."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "diffusers", "transformers")}


def run_suite(
    task: Task,
    out: Path,
    shard: tuple[int, int] = (1, 1),
    batch_size: int = 16,
    progress: bool = False,
    spread: Spread | None = None,
) -> dict[str, Any]:
    """Make and judge the pictures of this shard that are not there yet; with the last of all shards, the tables too.

    Args:
        spread: gives batches to whoever makes and judges them, `in_turn` if None; `out` is one place for all of them.

    Returns:
        {"out", "pictures" of this shard, "new", "skipped", "finished"} and, once all shards are there, "summary".

    Raises:
        InputError: if the folder holds another run or is written to by another process, or if no picture can be made,
            read or judged.
    """
    need_parquet()
    index, count = shard
    journal_path = out / f"{shard_name('rows', index, count)}.jsonl"
    with only_writer(check_writable(out), journal_path.stem):
        about = {
            "schema": SCHEMA,
            "accord": accord.__version__,
            "suite": task.suite.name,
            "figure": task.suite.figure,
            "mean_of_tags": list(task.suite.mean_of_tags),
            "seeds": list(task.seeds),
            "shards": count,
            "versions": versions(),
            "batch_size": batch_size,
            **task.about,
        }
        every = task.pictures.jobs(task.records, task.seeds)
        due, own = set(map(_key, every)), {record.number for record in share_of(task.records, shard)}
        about["pictures"] = len(due)
        jobs = [job for job in every if job[0].number in own]  # none, where there are more shards than prompts
        batches = [jobs[start : start + batch_size] for start in range(0, len(jobs), batch_size)]
        with _begun(out, about, journal_path), contextlib.closing(Journal(journal_path)) as journal:
            journal.mend({_key(job) for job in jobs})
            if not jobs:
                journal.append([])  # a shard that is done
            new = _work(task, out, batches, journal, about, progress, spread or in_turn)
    finished = due <= _done(journals(out))
    data = {"out": str(out), "pictures": len(jobs), "new": new, "finished": finished}
    return {**data, "summary": finish(out)} if finished else data


def _key(job: Job) -> tuple[int, int]:
    return job[0].number, job[1]


Rowed = tuple[list[Row], list[str]]  # the rows of a batch, and which of its pictures were not in their place before
Loaded = tuple[dict[str, Any], Callable[[Sequence[Job]], Rowed]]  # whose weights are loaded, and what they make
# what loads models, and batches -> of each batch, in any order, whose weights, and what gives its rows
Spread = Callable[[Callable[[], Loaded], Sequence[Sequence[Job]]], Iterable[tuple[dict[str, Any], Callable[[], Rowed]]]]


def in_turn(
    load: Callable[[], Loaded], batches: Sequence[Sequence[Job]]
) -> Iterator[tuple[dict[str, Any], Callable[[], Rowed]]]:
    """One batch after the other, in this process."""
    weights, rows_of = load()
    for batch in batches:
        yield weights, partial(rows_of, batch)


def _loaded(task: Task, out: Path) -> Loaded:
    """The models of a run."""
    suite = task.make()
    (out / "images").mkdir(exist_ok=True)

    def rows_of(batch: Sequence[Job]) -> Rowed:
        put: list[Path] = []
        try:
            return _rows(suite, task.pictures, batch, out, put), [place.relative_to(out).as_posix() for place in put]
        except InputError:
            for place in put:
                place.unlink(missing_ok=True)
            raise

    return {"pipeline": task.pictures.weights(), "judge": weights_of(suite)}, rows_of


def _work(
    task: Task,
    out: Path,
    batches: Sequence[Sequence[Job]],
    journal: Journal,
    about: dict[str, Any],
    progress: bool,
    spread: Spread,
) -> int:
    """Do the batches that the journal has not; returns the number of new pictures."""
    left = [part for b in batches if (part := [job for job in b if _key(job) not in journal.done])]
    if not left:
        return 0
    new, total, known = 0, sum(map(len, batches)), None
    told = {"desc": task.suite.name, "unit": "picture", "disable": not progress, **bar_options()}
    with contextlib.ExitStack() as open_bars:
        bar: Any = None
        for weights, rows_of in spread(partial(_loaded, task, out), left):
            if weights != known:  # once, if all that work on them hold the same
                _begin(out, {**about, "weights": weights})
                _say_changes(out, about)
                known = weights
            bar = bar or open_bars.enter_context(tqdm(total=total, initial=len(journal.done), **told))
            rows, put = rows_of()
            try:
                whys = [row["skipped"] for row in rows if "skipped" in row]
                if len(whys) == len(rows) and not journal.done:  # what all fail by is no matter of one row
                    raise InputError(whys[0])
                journal.append(rows)
            except InputError:
                for name in put:
                    (out / name).unlink(missing_ok=True)
                raise
            new += len(rows)
            bar.update(len(rows))
    return new


def _rows(suite: Suite, pictures: Pictures, batch: Sequence[Job], out: Path, put: list[Path]) -> list[Row]:
    """The rows of a batch; its pictures are in their place before. Those that were not there are listed in `put`."""
    made = [m if isinstance(m, Made) else Made(None, why=str(m)) for m in each(pictures, batch)]
    names = [picture_name(record, seed, m.path) for (record, seed), m in zip(batch, made, strict=True)]
    good = [i for i, m in enumerate(made) if m.image is not None]
    for i in good:
        put += [] if (out / names[i]).exists() else [out / names[i]]
        _put(made[i], out / names[i])
    began = time.perf_counter()

    def judge(chosen: Sequence[int]) -> list[Judged]:
        images = [image for i in chosen if (image := made[i].image) is not None]
        return suite.judge([batch[i][0] for i in chosen], images)

    judged = dict(zip(good, each(judge, good), strict=True)) if good else {}
    seconds = (time.perf_counter() - began) / max(len(good), 1)
    rows = []
    for i, ((record, seed), name, m) in enumerate(zip(batch, names, made, strict=True)):
        found = judged.get(i, InputError(m.why))
        if isinstance(found, InputError):
            rows.append(skipped_row(record, seed, str(found)))
        else:
            rows.append(row_of(record, seed, name, found, m.calls, m.seconds, seconds))
    return rows


def _put(made: Made, place: Path) -> None:
    """The picture in its place: written, or, of a file that is there, linked, or copied from another disk."""
    if made.path is None:
        assert made.image is not None
        write_file(place, png(made.image))
        return
    source = os.path.realpath(made.path)

    def take(part: Path) -> None:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)

    if not place.exists() or not os.path.samefile(source, place):
        replace_file(place, take)


# --- run.json ---------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _begun(out: Path, about: Mapping[str, Any], journal: Path) -> Iterator[None]:
    """`_begin`, and leave nothing of a run that is refused before its first row, if no other shard is at work."""
    new = not (out / "run.json").exists()
    _begin(out, about)
    try:
        yield
    except InputError:
        if journal.exists() and not journal.stat().st_size:
            journal.unlink()
        with contextlib.suppress(OSError):
            (out / "images").rmdir()  # which only an empty folder suffers
        others = set(out.glob(".accord.rows*.lock")) - {out / f".accord.{journal.stem}.lock"}
        if new and not journals(out) and not others:
            (out / "run.json").unlink(missing_ok=True)
        raise


def _begin(out: Path, about: Mapping[str, Any]) -> None:
    """Take the folder for this run, or refuse it.

    Raises:
        InputError: naming what differs.
    """
    with _alone_with(out):
        _take(out, json.loads(json.dumps(dict(about))))


def _alone_with(out: Path) -> contextlib.AbstractContextManager[None]:
    """Be the only one who reads `run.json` and writes it anew: shards that do so at once wait for each other."""
    return only_writer(out, "run.json", wait=True)


def _take(out: Path, now: Mapping[str, Any]) -> None:
    path = out / "run.json"
    if not path.exists():
        if any(out.glob("rows*.jsonl")):
            raise InputError(f"{str(out)!r} holds rows of a run whose run.json is missing; give another `out`")
        write_file(path, (json.dumps(now, indent=1) + "\n").encode())
        return
    before = read_about(out)
    for name in COMPARED:
        if name in now and name in before and (what := _differs(name, before[name], now[name])):
            raise InputError(
                f"the run in {str(out)!r} was begun with {what}; go on with the same settings, or give another `out`"
            )
    known = {**now, **before}  # the weights are known once they are loaded
    known |= {"pictures": now["pictures"]} if "pictures" in now else {}  # a folder of pictures may have grown
    if known != before:
        write_file(path, (json.dumps(known, indent=1) + "\n").encode())


def _say_changes(out: Path, about: Mapping[str, Any]) -> None:
    """Say what differs from what the run was begun with, and keep it in `resumed_with` of `run.json`."""
    now = {name: about[name] for name in SAID if name in about}
    with _alone_with(out):
        before = read_about(out)
        first = {name: before[name] for name in now if name in before}
        if all(first[name] == now[name] for name in first) or now in before.get("resumed_with", []):
            return
        after = {**before, "resumed_with": [*before.get("resumed_with", []), now]}
        write_file(out / "run.json", (json.dumps(after, indent=1) + "\n").encode())
    differing = [what for name in first if (what := _differs(name, first[name], now[name]))]
    warnings.warn(
        f"the run in {str(out)!r} was begun with {' and '.join(differing)}; figures may differ in their last digits",
        Notice,
        stacklevel=2,
    )


def _differs(name: str, before: Any, now: Any) -> str:
    """ "steps 25, and not 50", or nothing."""
    if before == now:
        return ""
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(k for k in (*before, *now) if before.get(k) != now.get(k))
        return _differs(f"{name} {key}" if name in ("weights", "prompts") else key, before.get(key), now.get(key))
    return f"{name} {before!r}, and not {now!r}"


def read_about(run: Path) -> dict[str, Any]:
    """What `run.json` says.

    Raises:
        InputError: if the folder holds no run that this version reads.
    """
    if not (run / "run.json").is_file():
        raise InputError(f"folder {str(run)!r} holds no run (run.json); give one that accord eval wrote")
    found = read_json(run / "run.json", "record of the run", "run the suite again, into another folder")
    if found.get("schema") != SCHEMA:
        raise InputError(
            f"the run in {str(run)!r} has the schema {found.get('schema')!r}, and {SCHEMA!r} is read; run it again"
        )
    kinds = {"suite": str, "figure": str, "mean_of_tags": list, "seeds": list, "shards": int, "versions": dict}
    broken = next((name for name, kind in kinds.items() if not isinstance(found.get(name), kind)), None)
    if broken is not None:
        raise InputError(f"run.json of the run in {str(run)!r} says no {broken}; run it again")
    return found


def finished_rows(run: Path) -> Iterable[Row]:
    """The rows of a finished run, some at once.

    Raises:
        InputError: for one that is not finished, or whose table cannot be read.
    """
    if not (run / "rows.parquet").is_file():
        raise InputError(f"the run in {str(run)!r} is not finished; run it to its end, or merge its shards")
    return read_typed(run / "rows.parquet", "rows of the run")


# --- tables -----------------------------------------------------------------------------------------------------------
def journals(run: Path) -> list[Path]:
    """The journals of a run, of all shards that are there."""
    return sorted(run.glob("rows*.jsonl"))


def _done(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """Prompt and seed of all rows of these journals."""
    return {(row["number"], row["seed"]) for path in paths for row in read_rows(path)}


def all_rows(run: Path) -> Iterator[Row]:
    """All rows of a run in the order of its prompts, skipped ones among them, one after the other."""
    return heapq.merge(*map(_in_order, journals(run)), key=_place)


def _place(row: Row) -> tuple[int, int]:
    return row["number"], row["seed"]


def _in_order(journal: Path) -> Iterator[Row]:
    """The rows of a journal in the order of its prompts; they are held only where pictures came in between later."""
    places = [_place(row) for row in read_rows(journal)]
    rows = read_rows(journal)
    return rows if places == sorted(places) else iter(sorted(rows, key=_place))


def good_rows(run: Path) -> Iterator[Row]:
    """Those that were judged."""
    return (row for row in all_rows(run) if "skipped" not in row)


def finish(run: Path) -> dict[str, Any]:
    """Write the tables of all rows that are there; returns the summary.

    Raises:
        InputError: if none was judged, or the tables cannot be written.
    """
    about = read_about(run)
    summary = summarise(all_rows(run), about["figure"], about["mean_of_tags"])
    if not summary["pictures"]:
        why = f" ({summary['skipped'][0]['reason']})" if summary["skipped"] else ""
        raise InputError(f"the run in {str(run)!r} has no judged picture{why}; give prompts and pictures that fit")
    write_typed(run / "rows.parquet", good_rows(run), KINDS)
    replace_file(run / "metadata.parquet", lambda part: shutil.copyfile(run / "rows.parquet", part))
    data = {"schema": SUMMARY, "accord": accord.__version__, "suite": about["suite"], **summary}
    write_file(run / "summary.json", (json.dumps(data, indent=1) + "\n").encode())
    write_gallery(run, read_typed(run / "rows.parquet", "rows of the run"), f"{about['suite']}: {run.resolve().name}")
    return data


def summarise(rows: Iterable[Row], figure: str, mean_of_tags: Sequence[str] = ()) -> dict[str, Any]:
    """The figures of a run, in one pass. A mean over tags of which one is missing is None: it could not be compared.

    Returns:
        {"figure", "overall", "missing_tags", "figures", "tags", "right", "pictures", "unjudged", "skipped", "seconds",
        "judge_seconds", "denoiser_calls"}. A figure is {"mean", "ci95", "prompts", "pictures"}.
    """
    scores: dict[int, list[float]] = {}
    named: dict[str, dict[int, list[float]]] = {}
    tagged: dict[str, dict[int, list[float]]] = {}
    right: dict[int, list[float]] = {}
    costs: dict[str, list[float]] = {name: [] for name in ("seconds", "judge_seconds", "denoiser_calls")}
    skipped: list[dict[str, Any]] = []
    pictures = unjudged = 0
    for row in rows:
        number = row["number"]
        if "skipped" in row:
            skipped.append({"number": number, "seed": row["seed"], "prompt": row["prompt"], "reason": row["skipped"]})
            continue
        pictures += 1
        unjudged += row["score"] is None
        if row["score"] is not None:
            scores.setdefault(number, []).append(row["score"])
        if row["verdict"] is not None:
            right.setdefault(number, []).append(float(row["verdict"]))
        for one in row["figures"]:
            if one["value"] is not None:
                named.setdefault(one["name"], {}).setdefault(number, []).append(one["value"])
        for tag in row["by_tag"]:
            if tag["score"] is not None:
                tagged.setdefault(tag["tag"], {}).setdefault(number, []).append(tag["score"])
        for name, values in costs.items():
            if row[name] is not None:
                values.append(row[name])
    missing = [tag for tag in mean_of_tags if tag not in tagged]
    whole = (
        mean_of_groups([tagged[tag] for tag in mean_of_tags if tag in tagged]) if mean_of_tags else figure_of(scores)
    )
    if missing:
        whole |= {"mean": None, "ci95": None}
    return {
        "figure": figure,
        "overall": whole,
        "missing_tags": missing,
        "figures": {name: figure_of(found) for name, found in named.items()},
        "tags": {name: figure_of(found) for name, found in tagged.items()},
        "right": figure_of(right) if right else None,
        "pictures": pictures,
        "unjudged": unjudged,
        "skipped": skipped,
        **{name: sum(values) / len(values) if values else None for name, values in costs.items()},
    }


# --- merging ----------------------------------------------------------------------------------------------------------
def merge(runs: Sequence[Path], out: Path) -> dict[str, Any]:
    """One run of the shards of several folders, or of the shards of one: the tables of what is there.

    Args:
        out: the folder of the merged run; with one run that folder itself.

    Returns:
        the summary.

    Raises:
        InputError: if they are no shards of one run, or a picture is in two of them.
    """
    need_parquet()
    about = _of_one_run(runs)
    paths = [(run, path) for run in runs for path in journals(run)]
    shards = [path.name for _, path in paths]
    twice = next((name for name in shards if shards.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"the shard {twice.removesuffix('.jsonl')} is in two of the runs; give each once")
    with contextlib.ExitStack() as stack:
        check_writable(out)
        for name in sorted({"rows", *(path.stem for _, path in paths)}):  # none of its shards is at work
            stack.enter_context(only_writer(out, name))
        _check_whole(about, [path for _, path in paths])
        if len(runs) > 1:
            _begin(out, about)
            for run, path in paths:
                _copy(run, path, out)
        return finish(out)


def _of_one_run(runs: Sequence[Path]) -> dict[str, Any]:
    """What is said of a run in the folders of its shards. Shards without a picture do not say whose weights it has.

    Raises:
        InputError: if they are of several runs.
    """
    told: dict[str, Any] = {}
    resumed: list[Any] = []
    for run in runs:
        about = read_about(run)
        for name in (*COMPARED, "pictures"):
            if name in about and name in told and (what := _differs(name, told[name], about[name])):
                raise InputError(
                    f"{str(run)!r} and {str(runs[0])!r} are no shards of one run: {what}; merge shards alone"
                )
        resumed += [one for one in about.get("resumed_with", []) if one not in resumed]
        told = {**about, **told}
    return {**told, "resumed_with": resumed} if resumed else told


def _check_whole(about: Mapping[str, Any], paths: Sequence[Path]) -> None:
    """Refuse what lacks a shard, or a shard that was stopped. A run of before its count was kept says only how many
    shards there are.
    """
    shards, pictures = about["shards"], about.get("pictures")
    twice = sum(1 for path in paths for _ in read_rows(path)) - len(_done(paths))
    if twice:
        raise InputError(f"{twice} of the pictures are in two of the shards; give each picture once")
    missing = 0 if pictures is None else pictures - len(_done(paths))
    if shards > len(paths) and (missing > 0 or pictures is None):
        raise InputError(
            f"{shards - len(paths)} of {shards} shards are missing; run the suite for these too, or name their folders"
        )
    if missing > 0:
        raise InputError(
            f"{missing} of {pictures} pictures are missing, as a shard was stopped; give its command again, and merge "
            "then"
        )


def _copy(run: Path, journal: Path, out: Path) -> None:
    """The rows and the pictures of a shard into the merged run; the rows last, which say that all is there."""
    (out / "images").mkdir(exist_ok=True)
    for row in read_rows(journal):
        if "skipped" not in row:
            try:
                _put(Made(None, run / row["file_name"]), out / row["file_name"])
            except OSError as error:
                raise InputError(
                    f"the picture {row['file_name']!r} of the run {str(run)!r} cannot be copied ({reason(error)}); "
                    "check that it is there"
                ) from error
    replace_file(out / journal.name, lambda part: shutil.copyfile(journal, part))
