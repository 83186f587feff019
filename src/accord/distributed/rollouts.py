"""Tuning whose pictures are drawn and judged by workers on Ray: `accord train reward --rollout-workers N`.

    from accord.distributed.cluster import Cluster
    from accord.distributed.rollouts import RayRollouts

    drawing = RayRollouts(make, Cluster(workers=4, gpus=1))
    accord.train_reward(pipe, prompts, reward, "out/tuned", "nft", drawing=drawing)

Each worker loads pipeline and reward once. Once a round the adapter's weights are put into Ray's store, and each worker
takes them from there. A worker that has nothing to do is given the next share. One that dies is replaced, and what it
had begun is drawn again; every share comes back once.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from accord.distributed.cluster import Cluster, need_ray
from accord.methods.tune.drawing import Artist, Round, Setting
from accord.methods.tune.registry import Strategy
from accord.methods.tune.rollouts import Batch, Draw, Rollouts, Tensors
from accord.rewards.composed import Composed
from accord.rewards.registry import Reward
from accord.types import InputError

TRIES = 3  # deaths over one share, and deaths a worker while none comes to load, before the run is given up
PATIENCE = 60.0  # seconds without any worker before a note says so

Make = Callable[[str], "tuple[Any, Composed | Reward]"]


@dataclass(frozen=True)
class RayRollouts:
    """A `Drawing` of a run: its rounds are drawn by the workers of a cluster.

    Attributes:
        make: device -> pipeline and reward, the same as the run's. It is sent to the workers, which call it once each.
        cluster: where they are, and how many.
    """

    make: Make
    cluster: Cluster

    @contextmanager
    def __call__(self, setting: Setting) -> Iterator[Draw]:
        """What draws, for the time of the block; the workers load meanwhile."""
        with self.cluster.opened() as ray:
            workers = _Workers(ray, self.make, self.cluster, setting)
            try:
                yield workers.draw
            finally:
                workers.end()


class _Worker:
    """The actor: an `Artist` that is loaded once. Loading is a call of its own, whose error is told as it is."""

    def __init__(self) -> None:
        self.artist: Artist | None = None
        self.round: Any = None

    def load(self, make: Make, device: str, setting: Setting) -> None:
        self.artist = Artist(*make(device), setting)

    def draw(self, a_round: list[Any], strategy: Strategy, share: Batch) -> Tensors:
        """A share in a round, whose reference comes in a list, so that it is fetched when it is a new one alone."""
        assert self.artist is not None
        if a_round[0] != self.round:
            self.artist.begin(need_ray().get(a_round[0]))
            self.round = a_round[0]
        return self.artist.draw(strategy, share)


class _Workers:
    """The workers of a run: some load or draw, the others wait for a share."""

    def __init__(self, ray: Any, make: Make, cluster: Cluster, setting: Setting) -> None:
        self.ray = ray
        self.kind = ray.remote(num_cpus=1, num_gpus=cluster.gpus, max_restarts=0)(_Worker)
        self.told = (make, "cuda" if cluster.gpus else "cpu", setting)
        # reference to what comes of it -> who does it, and the place of the share that is drawn; None: it loads
        self.busy: dict[Any, tuple[Any, int | None]] = {}
        self.idle: list[Any] = []
        self.count = cluster.workers
        self.tries: Counter[int | None] = Counter()  # that ended in a death, by what was done
        for _ in range(cluster.workers):
            self._start()

    def draw(self, strategy: Strategy, rollouts: Rollouts, shares: Sequence[Batch]) -> Iterator[tuple[int, Tensors]]:
        """See `accord.methods.tune.rollouts.Draw`."""
        a_round, left = self.ray.put(Round.of(rollouts)), deque(range(len(shares)))
        self.tries.clear()
        # what a round that was broken off has left comes to nothing
        self.busy = {reference: (worker, None) for reference, (worker, _) in self.busy.items()}
        while left or any(place is not None for _, place in self.busy.values()):
            while left and self.idle:
                worker, place = self.idle.pop(), left.popleft()
                self.busy[worker.draw.remote([a_round], strategy, shares[place])] = worker, place
            for done in self._done():
                worker, at = self.busy.pop(done)
                made, died = self._result(done)
                if died is None:
                    self.idle.append(worker)
                    self.tries[at] = 0
                    if at is not None:
                        yield at, made
                    continue
                self.tries[at] += 1
                what = "loading" if at is None else f"drawing {shares[at].prompts[0][:40]!r}"
                if self.tries[at] == (most := TRIES * self.count if at is None else TRIES):
                    raise InputError(f"{most} rollout workers died {what} ({died}); give each more memory")
                tqdm.write(f"a rollout worker died {what} ({died}); another one takes its place", file=sys.stderr)
                self._start()
                if at is not None:
                    left.appendleft(at)

    def end(self) -> None:
        """Stop them all; those that draw are not waited for."""
        for worker in (*self.idle, *(worker for worker, _ in self.busy.values())):
            self.ray.kill(worker)

    def _start(self) -> None:
        worker = self.kind.remote()
        self.busy[worker.load.remote(*self.told)] = worker, None

    def _done(self) -> list[Any]:
        """What is done first, alone; nothing, and a note, if all workers have been loading for long."""
        done, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=PATIENCE)
        if not done and all(place is None for _, place in self.busy.values()):
            free = self.ray.available_resources()
            cpus, gpus = (f"{free.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
            tqdm.write(f"no rollout worker is ready yet; {cpus} and {gpus} are free", file=sys.stderr)
        return done

    def _result(self, done: Any) -> tuple[Any, str | None]:
        """What a worker gave, or what it died of; bad input is raised as it was there."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(done), None
        except errors.RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None
            raise
        except (errors.RayActorError, errors.WorkerCrashedError, errors.ObjectLostError) as error:
            return None, type(error).__name__
