"""A cluster of Ray: one that is there, or this machine for the time of a block."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from accord.data.extras import need
from accord.types import InputError, reason_of

STORE = 2**30  # bytes of the object store on this machine, if Ray is not there yet
RESTARTS = 3  # of a batch whose worker dies under it; a picture that kills each of them stops the job


@dataclass(frozen=True)
class Cluster:
    """Where batches are worked on.

    Attributes:
        address: of a Ray cluster, as `ray.init` takes it; None for this machine.
        workers: how many hold the models.
        gpus: of each worker; a share, where several fit on one.

    Raises:
        ValueError: for no workers, or less than no GPU.
    """

    address: str | None = None
    workers: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError("num_workers must be at least 1")
        if not self.gpus >= 0:
            raise ValueError("gpus_per_worker must be at least 0")

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        """Ray, connected; what was not connected before is let go of after the block.

        Raises:
            InputError: if Ray is not installed, does not answer, or has too few cores or GPUs.
        """
        ray = need_ray()
        with _quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if ray.is_initialized():
                self._check(ray)
                yield ray
                return
            self._check_answers()
            try:
                ray.init(**self._options())
            except Exception as error:  # whatever the network, or another version of Ray, leads to
                raise InputError(
                    f"no Ray answers at address {self.address or 'local'!r} ({str(error).splitlines()[0][:200]}); "
                    "check that it runs and has the same version"
                ) from error
            try:
                self._check(ray)
                yield ray
            finally:
                ray.shutdown()

    def _check_answers(self) -> None:
        """Refuse HOST:PORT that nobody answers at, which Ray would try for minutes."""
        host, colon, port = (self.address or "").rpartition(":")
        if not (colon and port.isdecimal()) or "/" in host:
            return
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            raise InputError(
                f"no Ray answers at address {self.address!r} ({reason_of(error)}); check that it runs"
            ) from error

    def _options(self) -> dict[str, Any]:
        told: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is not None:
            return {"address": self.address, **told}
        cores = max(os.cpu_count() or 1, self.workers) + 1  # one that reads, beside workers that have a core each
        return {
            "address": "local",
            "num_cpus": cores,
            "include_dashboard": False,
            "object_store_memory": STORE,
            **told,
        }

    def _check(self, ray: Any) -> None:
        there = ray.cluster_resources().get("CPU", 0.0)
        if self.workers >= there:  # they would keep every core, and wait for rows that nobody reads
            raise InputError(
                f"{self.workers} workers need a core each, and one is needed to read for them, but the cluster has "
                f"{there:g}; give fewer `num_workers`"
            )
        there = ray.cluster_resources().get("GPU", 0.0)
        if self.gpus > there:
            raise InputError(
                f"a worker is to have {self.gpus:g} GPUs, and the cluster has {there:g}; give a smaller "
                "`gpus_per_worker`, or another address"
            )


def need_ray() -> Any:
    """The module. Raises InputError if it is not installed."""
    return need("ray", "ray", "Jobs on a cluster")


_SETTINGS = {  # of Ray, while it starts: it reports no use, and its workers are no nicer than other work
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep Ray's own bars and loggers off the terminal."""
    import ray.data

    before = {name: os.environ.get(name) for name in _SETTINGS}
    os.environ.update({name: value for name, value in _SETTINGS.items() if before[name] is None})
    context = ray.data.DataContext.get_current()
    bars = context.enable_progress_bars, context.print_on_execution_start
    context.enable_progress_bars, context.print_on_execution_start = False, False
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        context.enable_progress_bars, context.print_on_execution_start = bars
        for name, value in before.items():
            if value is None:
                del os.environ[name]
