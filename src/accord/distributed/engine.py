"""Ray, opened and closed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Self

from accord.data.extras import need
from accord.types import InputError

STORE = 300 * 2**20  # bytes of the object store of a cluster on this machine


@dataclass(frozen=True)
class Cluster:
    """Workers on Ray, for the time of a block.

    Attributes:
        address: of a cluster that runs; one on this machine if None, which ends with the block.
        num_workers: how many there are.
        gpus_per_worker: GPUs of each; a share of one if below 1.
    """

    address: str | None = None
    num_workers: int = 1
    gpus_per_worker: float = 0.0
    _begun: list[bool] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, not {self.num_workers}")
        if self.gpus_per_worker < 0:
            raise ValueError(f"gpus_per_worker must not be negative, not {self.gpus_per_worker}")

    def __enter__(self) -> Self:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray = need("ray", "ray", "workers on Ray")
        self._begun.append(not ray.is_initialized())
        if self._begun[-1]:
            here: dict[str, Any] = {"num_cpus": self.num_workers, "object_store_memory": STORE}
            try:
                ray.init(
                    address=self.address or "local",
                    include_dashboard=None if self.address else False,
                    log_to_driver=False,
                    logging_level="ERROR",
                    **({} if self.address else here),
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise InputError(f"no Ray cluster is reached at {self.address!r}; give its --address") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._begun.pop():
            need("ray", "ray", "workers on Ray").shutdown()
