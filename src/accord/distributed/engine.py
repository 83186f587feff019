"""Rows of a source through warm workers into a folder, each id once.

    run.json                     settings, and whose weights the workers hold
    rows/part-000001.parquet     results: the id, and the columns of the work
    failed/part-000001.parquet   rows that could not be worked on: the id, and why
    (what the work itself writes, such as pictures)

The driver alone writes rows, so a batch that a killed worker leaves is worked on again and is there once. A driver that
is killed loses what it had not written yet, half a minute's work. The same command again leaves out what is in `rows`,
and tries again what is in `failed`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Protocol

from tqdm.auto import tqdm

from accord.data.batches import each
from accord.data.typed import Kinds, arrow_type, typed_bytes
from accord.distributed.cluster import RESTARTS, Cluster
from accord.distributed.places import Place
from accord.distributed.sources import Done, Row
from accord.files import bar_options
from accord.types import InputError, reason_of

SCHEMA = "accord.rows/1"
PART_ROWS, PART_SECONDS = 4096, 30.0  # after which a part is written
IN_FLIGHT = 2  # batches that wait for or are with a worker: the next is there when one is done, and no more are held
TRIED = 100  # results before a share of failures says anything
FAILURES = 0.1  # share of them that stops a job, if no other is given

Works = Callable[[list[Row]], Sequence[Row | InputError]]


class Work(Protocol):
    """What is done with rows; it travels to the workers as it is.

    Attributes:
        kinds: of the columns of a result, as `accord.data.typed` has them, the id left out.
        settings: what it is done with, of JSON's kinds; rows of other settings are another run.
    """

    @property
    def kinds(self) -> Kinds: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...

    def load(self) -> tuple[str, Works]:
        """The fingerprint of all models, and what makes a result of each row of a batch, or says why there is none.

        Raises:
            InputError: if a model cannot be loaded.
        """
        ...


def worked(do: Works, rows: list[Row]) -> list[Row | InputError]:
    """Results of a batch. If it fails as a whole each row is tried by itself, so that a fault stays with its row."""

    def tolerant(some: Sequence[Row]) -> Sequence[Row | InputError]:
        try:
            return do(list(some))
        except InputError:
            raise
        except Exception as error:  # whatever a row leads a model to; a share of them stops the job
            raise InputError(f"{type(error).__name__}: {reason_of(error)}") from error

    wrong = {i: InputError(str(row["wrong"])) for i, row in enumerate(rows) if row.get("wrong")}
    left = [row for i, row in enumerate(rows) if i not in wrong]
    found = iter(each(tolerant, left) if left else [])
    return [wrong[i] if i in wrong else next(found) for i in range(len(rows))]


class Worker:
    """Holds the models of a work; results travel as a table with `id`, `wrong` and the work's columns."""

    def __init__(self, work: Work) -> None:
        self.kinds = work.kinds
        self.refused = ""
        try:
            self.weights, self.do = work.load()
        except InputError as error:  # told with the first batch, without weights: an error would become one of Ray's
            self.refused = str(error)

    def __call__(self, batch: Any) -> Any:
        import pyarrow as pa

        rows = batch.to_pylist()
        schema = pa.schema([(name, arrow_type(kind)) for name, kind in {**_OWN, **self.kinds}.items()])
        if self.refused:
            return pa.Table.from_pylist([{"id": row["id"], "wrong": self.refused} for row in rows], schema=schema)
        began = time.perf_counter()
        found = worked(self.do, rows)
        seconds = (time.perf_counter() - began) / max(len(rows), 1)
        out = []
        for row, one in zip(rows, found, strict=True):
            said = {"wrong": str(one)} if isinstance(one, InputError) else dict(one)
            out.append({"id": row["id"], "weights": self.weights, "seconds": seconds, **said})
        return pa.Table.from_pylist(out, schema=schema)


_OWN = {"id": "string", "wrong": "string", "weights": "string", "seconds": "double"}


@dataclass
class Rows:
    """The results in a folder.

    Attributes:
        out: the folder.
        kinds: of the columns of a result, the id and the seconds of work left out.
    """

    out: Place
    kinds: Kinds
    _good: list[Row] = field(default_factory=list)
    _bad: list[Row] = field(default_factory=list)
    _written: float = field(default_factory=time.monotonic)

    def done(self) -> Done:
        """Ids of the results that are there.

        Raises:
            InputError: for a part that cannot be read.
        """
        return Done(name for part in self.parts("rows") for name in _ids(part))

    def parts(self, kind: str) -> list[Place]:
        """The files in rows/ or failed/."""
        return (self.out / kind).files(".parquet")

    def add(self, found: Sequence[Row]) -> None:
        """Keep results, and write a part where it is due."""
        for row in found:
            why = row.pop("wrong")
            row.pop("weights")
            if why is None:
                self._good.append(row)
            else:
                self._bad.append({"id": row["id"], "reason": why})
        if len(self._good) >= PART_ROWS or time.monotonic() - self._written > PART_SECONDS:
            self.write()

    def write(self) -> None:
        """Write what is kept."""
        kinds = {"id": "string", "seconds": "double", **self.kinds}
        for kind, rows, columns in (("rows", self._good, kinds), ("failed", self._bad, _WHY)):
            if rows:
                number = max((_number(p) for p in self.parts(kind)), default=0) + 1
                (self.out / kind / f"part-{number:06d}.parquet").write(typed_bytes(rows, columns))
                rows.clear()
        self._written = time.monotonic()


_WHY: Kinds = {"id": "string", "reason": "string"}


def run_rows(
    work: Work,
    source: Callable[[Done], tuple[Any, int | None]],
    out: Place,
    cluster: Cluster,
    batch_size: int = 16,
    failures: float = FAILURES,
    progress: bool = False,
) -> dict[str, Any]:
    """Work on the rows of a source that are not in `out` yet.

    Args:
        source: gives the dataset without what is done (None where nothing is left), and its number of rows if known.
        batch_size: rows that a worker gets at once.
        failures: share of rows that may fail, from the TRIED-th on.

    Returns:
        {"out", "made", "kept", "failed": [{"id", "reason"}], the first hundred, "failures": their number}.

    Raises:
        InputError: if the folder holds rows of other settings or weights, models cannot be loaded, workers keep dying,
            or too many rows fail; what was made until then is kept.
    """
    with out.writing():
        about = _begin(out, work)
        rows = Rows(out, work.kinds)
        done = rows.done()
        for part in rows.parts("failed"):
            part.remove()
        made, bad = 0, 0
        listed: list[Row] = []
        with cluster.opened():
            data, total = source(done)
            told = {"desc": "rows", "unit": "row", "disable": not progress, **bar_options()}
            try:
                with tqdm(total=None if total is None else total + len(done), initial=len(done), **told) as bar:
                    for found in results(work, data, cluster, batch_size) if data is not None else ():
                        about = _checked(out, about, found)
                        wrong = [r for r in found if r["wrong"] is not None]
                        listed += [{"id": r["id"], "reason": r["wrong"]} for r in wrong][: 100 - len(listed)]
                        made, bad = made + len(found) - len(wrong), bad + len(wrong)
                        rows.add(found)
                        bar.update(len(found))
                        if made + bad >= TRIED and bad > failures * (made + bad):
                            first = listed[0]
                            raise InputError(
                                f"{bad} of {made + bad} rows failed, more than a share of {failures:g} (the first: "
                                f"{first['id']!r}, {first['reason']}); mend them, or allow more by `max_failures`"
                            )
            finally:  # what was worked on is not lost when the rest is stopped
                rows.write()
        if not made and not len(done):
            why = f" ({listed[0]['reason']})" if listed else ""
            raise InputError(f"no row could be worked on{why}; look at the source")
    return {"out": str(out), "made": made, "kept": len(done), "failures": bad, "failed": listed}


def results(work: Work, data: Any, cluster: Cluster, batch_size: int) -> Iterator[list[Row]]:
    """What workers make of a dataset, as it comes. Ray has to be connected.

    Raises:
        InputError: as `run_rows`.
    """
    import ray
    import ray.data
    import ray.exceptions

    try:
        # a block is a batch: workers share even a small file, and results come as they are made
        made = data.repartition(target_num_rows_per_block=batch_size).map_batches(
            Worker,
            fn_constructor_args=(work,),
            batch_size=batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=cluster.workers, max_tasks_in_flight_per_actor=IN_FLIGHT),
            num_cpus=1,
            num_gpus=cluster.gpus or None,
            max_restarts=-1,
            max_task_retries=RESTARTS,
        )
        for block in made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            rows = block.to_pylist()
            if rows and rows[0]["weights"] is None:
                raise InputError(rows[0]["wrong"])
            yield rows
    except ray.exceptions.RayError as error:
        raise InputError(_told(error)) from error


def _told(error: BaseException) -> str:
    """What killed workers, as a sentence."""
    last = [line for line in str(error).splitlines() if line.strip()]
    why = last[-1].strip()[:300] if last else type(error).__name__
    return f"the workers failed {RESTARTS} times at one batch ({why}); give them more memory, or a smaller `batch_size`"


# --- run.json ---------------------------------------------------------------------------------------------------------
def _begin(out: Place, work: Work) -> dict[str, Any]:
    """Take the folder for these settings, or refuse it."""
    settings = json.loads(json.dumps(dict(work.settings)))
    now = {"schema": SCHEMA, "accord": version("accord-diffusion"), "settings": settings}
    path = out / "run.json"
    if path.kind() != "file":
        if (out / "rows").files(".parquet"):
            raise InputError(f"{str(out)!r} holds rows, and no run.json says of what; give another `out`")
        return now
    try:
        before = json.loads(path.read())
        settings = before["settings"]
        if before["schema"] != SCHEMA or not isinstance(settings, dict):
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r} is of another command, or damaged; give another `out`") from error
    key = next((k for k in {**now["settings"], **settings} if settings.get(k) != now["settings"].get(k)), None)
    if key is not None:
        raise InputError(
            f"the rows in {str(out)!r} were begun with {key}={settings.get(key)!r}, not {now['settings'].get(key)!r}; "
            "go on with the same settings, or give another `out`"
        )
    return dict(before)


def _checked(out: Place, about: dict[str, Any], found: Sequence[Row]) -> dict[str, Any]:
    """Keep whose weights results are of with the first of them, and refuse others."""
    weights = {row["weights"] for row in found}
    if not weights or weights == {about.get("weights")}:
        return about
    if "weights" in about or len(weights) > 1:
        raise InputError(
            f"the rows in {str(out)!r} are of other weights than a worker holds; give all nodes the same models, or "
            "another `out`"
        )
    about = {**about, "weights": weights.pop()}
    (out / "run.json").write((json.dumps(about, indent=1) + "\n").encode())
    return about


def _ids(part: Place) -> list[str]:
    import pyarrow.parquet as pq

    try:
        with part.system.open_input_file(part.path) as file:
            return list(pq.read_table(file, columns=["id"]).column("id").to_pylist())
    except Exception as error:  # the library raises whatever a damaged file leads it to
        raise InputError(f"part {part.shown!r} cannot be read; remove it, and its rows are made again") from error


def _number(part: Place) -> int:
    digits = part.path.rpartition("-")[2].removesuffix(".parquet")
    return int(digits) if digits.isdecimal() else 0
