"""What every training of a pipeline does around its own loss.

    with session(pipe, folder, settings, rank=8) as training:
        run = training.run(named_networks(pipe), LoopConfig(...))
        run.train(loss_fn)

The folder is taken, the networks are frozen, an adapter is put on, attention runs plainly, rows go to TensorBoard. If
anything fails, the adapter comes off again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from accord.diffusion.attention import plain_attention
from accord.diffusion.lora import add_lora, check_no_lora, remove_lora
from accord.diffusion.opened import networks_of
from accord.diffusion.state import frozen
from accord.training.claim import claim
from accord.training.loop import LoopConfig, Run
from accord.training.processes import Processes
from accord.training.tensorboard import TensorBoardLogger


class Session:
    """A training that has its folder.

    Attributes:
        folder: where everything of it goes.
        processes: those that share each step.
        logger: TensorBoard, once `run` was called, in the first process; None in the others.
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder, self.processes = folder, processes
        self.logger: TensorBoardLogger | None = None

    def run(self, modules: Mapping[str, nn.Module], loop: LoopConfig) -> Run:
        """The run in the folder, from its last checkpoint on. Frozen weights are not checkpointed."""
        run = Run(modules, loop, self.folder, save_frozen=False, processes=self.processes)
        if self.processes.first:
            self.logger = TensorBoardLogger(self.folder / "tensorboard", run.step)
            run.on_row.append(self.logger.scalars)
        return run


@contextmanager
def session(
    pipe: Any,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    rank: int | None = None,
    seed: int = 0,
    whole: bool = False,
    prepared: Sequence[str] = (),
    processes: Processes | None = None,
) -> Iterator[Session]:
    """Take `folder` for a training of a pipeline's networks; a run found there is resumed.

    Args:
        settings: what the run depends on, JSON-ready; a run is not resumed with others.
        rank: of a new adapter on each network, which stays on if all goes well; none if None.
        seed: of the adapter.
        whole: it is on every linear layer and convolution, not on the attention alone.
        prepared: names of files that are made before the first step; those of a run that took none are removed.
        processes: those that share each step; as many as the launcher started if None.

    Raises:
        InputError: for a folder that another process has, that holds another run, or that cannot be written; for a
            network that has an adapter already.
    """
    processes = processes or Processes(pipe.device)
    if rank is not None:
        check_no_lora(pipe, "which the new one would switch off")
    with claim(folder, settings, processes) as anew, frozen(pipe):
        if anew and processes.first:
            for name in prepared:
                (folder / name).unlink(missing_ok=True)
        processes.wait()
        training = Session(folder, processes)
        with _adapter(pipe, rank, seed, whole), plainly_attending(pipe):
            try:
                yield training
            finally:
                if training.logger is not None:
                    training.logger.close()


@contextmanager
def _adapter(pipe: Any, rank: int | None, seed: int, whole: bool) -> Iterator[None]:
    """A new adapter that comes off again if the block fails; none if `rank` is None."""
    if rank is not None:
        add_lora(pipe, rank, seed, whole)
    try:
        yield
    except BaseException:
        if rank is not None:
            remove_lora(pipe)
        raise


@contextmanager
def plainly_attending(pipe: Any) -> Iterator[None]:
    """Plain attention in the networks whose processors are the usual one."""
    with ExitStack() as stack:
        for network in networks_of(pipe):
            if getattr(network, "attn_processors", None):
                stack.enter_context(plain_attention(network))
        yield
