"""What a strategy works with: rollouts of the pipeline that is tuned, their pictures and their rewards.

Letters in shapes: B pictures; a state is what the pipeline's loop denoises, [B,...], packed as the pipeline packs it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from accord.diffusion.call import call_arguments
from accord.diffusion.lora import without_lora
from accord.diffusion.opened import Opened, empty_as_unguided, networks_of
from accord.diffusion.pipelines import ddim_of
from accord.diffusion.process import level_at
from accord.files import replace_file
from accord.rewards.composed import Composed
from accord.training.processes import Processes

if TYPE_CHECKING:
    from accord.methods.tune.config import TuneConfig
    from accord.methods.tune.registry import Strategy

CAPTION_DROPOUT = 0.1  # of the denoising term, which keeps guidance alive
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """This process's share of a micro-batch.

    Attributes:
        step: number of the optimiser's step.
        places: their places in the global batch.
        prompts: B prompts.
        numbers: their indices in the training prompts.
        seeds: B seeds, each of (seed of the run, step, place in the global batch) alone.
        shared_seed: one seed for what all pictures of a step share.
    """

    step: int
    places: list[int]
    prompts: list[str]
    numbers: list[int]
    seeds: list[int]
    shared_seed: int

    def salted(self, salt: int) -> Batch:
        """The same with other seeds, a function of these and `salt` alone."""
        return replace(self, seeds=[(s + 7_919 * salt) % 2**62 for s in self.seeds])

    def generators(self, salt: int = 0) -> list[torch.Generator]:
        """A CPU generator a picture."""
        return [torch.Generator().manual_seed(s) for s in self.salted(salt).seeds]

    def randint(self, low: int, high: int) -> int:
        """One number in [low, high) for all pictures of the step."""
        generator = torch.Generator().manual_seed(self.shared_seed)
        return int(torch.randint(low, high, (1,), generator=generator))

    def some(self, count: int, of: int) -> list[int]:
        """`count` numbers below `of`, each once, for all pictures of the step."""
        return torch.randperm(of, generator=torch.Generator().manual_seed(self.shared_seed))[:count].tolist()

    def part(self, first: int, stop: int) -> Batch:
        """The pictures from `first` on and before `stop`."""
        rows = slice(first, stop)
        return replace(
            self,
            places=self.places[rows],
            prompts=self.prompts[rows],
            numbers=self.numbers[rows],
            seeds=self.seeds[rows],
        )

    def in_groups(self, size: int) -> Batch:
        """Each prompt `size` times, with seeds of its own."""
        return replace(
            self,
            places=[],
            prompts=[p for p in self.prompts for _ in range(size)],
            numbers=[n for n in self.numbers for _ in range(size)],
            seeds=[(s * size + k) % 2**62 for s in self.seeds for k in range(size)],
        )

    def cut(self, size: int) -> list[Batch]:
        """Parts of `size` pictures, the last one of those that are left; that of groups keeps no places."""
        return [self.part(first, first + size) for first in range(0, len(self.prompts), size)]


class Draw(Protocol):
    """Where the pictures of a round are drawn and judged: in this process, or by others."""

    def __call__(
        self, strategy: Strategy, rollouts: Rollouts, shares: Sequence[Batch]
    ) -> Iterable[tuple[int, Tensors]]:
        """The place of each share and what `strategy.draw` gives for it with the weights that are in `rollouts` now;
        each once, as soon as it is there, in any order.
        """
        ...


def draw_here(strategy: Strategy, rollouts: Rollouts, shares: Sequence[Batch]) -> Iterator[tuple[int, Tensors]]:
    """One share after the other, in this process."""
    for place, share in enumerate(shares):
        yield place, strategy.draw(rollouts, share)


class Rollouts:
    """The pipeline that is tuned, its reward, and the knobs.

    Attributes:
        opened: the pipeline as it is run, with guidance.
        prompts: what is trained on; `Batch.numbers` are places in it.
        state: tensors that are checkpointed with the run; a strategy keeps its own under `<name>.`.
        trained: the parameters that are trained, by name.
        processes: those that share each step.
        folder: where pictures of a round are kept for the time of the round; nowhere if None.
        key: what they depend on beside their prompts, seeds and the trained weights.
        round: what `Strategy.prepare` left of the step that is taken, by the places of its micro-batches.
        earlier: the same by the step that made it, for as long as later steps take it again.
        draw: where the pictures of a round are drawn and judged.
        progress: whether to draw bars.
    """

    def __init__(
        self,
        pipe: Any,
        prompts: list[str],
        reward: Composed,
        config: TuneConfig,
        processes: Processes,
        call: Mapping[str, Any] | None = None,
    ) -> None:
        self.pipe, self.prompts, self.reward, self.config = pipe, prompts, reward, config
        self.processes, self.state = processes, dict[str, torch.Tensor]()
        self.trained: Mapping[str, torch.Tensor] = {}
        self.folder: Path | None = None
        self.key = ""
        self.round: tuple[int, dict[tuple[int, ...], Any]] | None = None
        self.earlier: dict[int, dict[tuple[int, ...], Any]] = {}
        self.draw: Draw = draw_here
        self.progress = False
        arguments = functools.partial(call_arguments, pipe, num_inference_steps=config.num_inference_steps)
        alone = {name: value for name, value in (call or {}).items() if name != "negative_prompt"}
        self.opened, self.unguided = (
            Opened(pipe, scheduler=ddim_of(pipe), **arguments(guidance_scale=scale, call=given))
            for scale, given in ((config.guidance_scale, call), (1.0, alone))
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's weights."""
        network: Any = networks_of(self.pipe)[0]
        return network.dtype

    @property
    def scheduler(self) -> Any:
        """What the pipeline is run with."""
        return self.opened.scheduler or self.pipe.scheduler

    @property
    def names(self) -> list[str]:
        """Of the rewards."""
        return list(self.reward.rewards)

    def forget(self) -> None:
        """Embed texts anew: those that were embedded outside of a run's autocast are others."""
        for opened in (self.opened, self.unguided):
            opened.forget()

    @torch.no_grad()
    def pictures(self, prompts: list[str], generators: list[torch.Generator]) -> torch.Tensor:
        """States [B,...] of the pipeline as it stands, after its last step."""
        return self.opened.rollout(prompts, generators)

    def output(self, prompts: list[str], state: torch.Tensor, step: int) -> torch.Tensor:
        """The guided output of the network [B,...] at a state and step of the grid, with its graph."""
        return self.opened.output(prompts, state, step=step)

    def output_at(self, prompts: list[str], state: torch.Tensor, time: float) -> torch.Tensor:
        """The same at any time, in the scheduler's own units."""
        return self.opened.output(prompts, state, timestep=time)

    def decode(self, prompts: list[str], state: torch.Tensor) -> torch.Tensor:
        """A state to pictures [B,3,H,W] or videos [B,F,3,H,W] in 0..1, with the graph."""
        return self.opened.decode(prompts, state)

    def judge(self, images: torch.Tensor, prompts: list[str]) -> tuple[torch.Tensor, dict[str, float]]:
        """Normalised rewards [B] and the mean of each part as it is; one that is infinite is NaN, so that no loss hides
        it.
        """
        return self.graded(self.parts(images, prompts))

    def graded(self, parts: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        """`judge` of pictures whose `parts` are known."""
        rewards = self.reward.combine(parts)
        rewards = torch.where(torch.isfinite(rewards), rewards, torch.nan)
        logs = {"reward": float(rewards.mean().detach())}
        return rewards, logs | {f"reward/{k}": float(v.mean().detach()) for k, v in parts.items()}

    def parts(self, images: torch.Tensor, prompts: list[str]) -> dict[str, torch.Tensor]:
        """Each reward as it is, [B]; of a video the mean over its frames."""
        pictures, texts = frames_of(images, prompts)
        return {name: of_each(found, len(prompts)) for name, found in self.reward.parts(pictures, texts).items()}

    def drawn(
        self, strategy: Strategy, shares: Sequence[Batch], kept_as: Callable[[Batch], tuple[str, str]] | None = None
    ) -> list[Tensors]:
        """What `strategy.draw` gives for each share, in their order, wherever and in which order they are drawn.

        Args:
            kept_as: name and key that a share is kept by in the folder as soon as it is there. What a run that was
                killed has left under them is not drawn again.
        """
        named = [kept_as(share) if kept_as else None for share in shares]
        found = {i: there for i, name in enumerate(named) if name and (there := self.kept(*name)) is not None}
        missing = [i for i in range(len(shares)) if i not in found]
        with tqdm(
            total=sum(len(share.prompts) for share in shares),
            initial=sum(len(shares[i].prompts) for i in found),
            desc=f"pictures of round {shares[0].step + 1}",
            unit="picture",
            leave=False,
            mininterval=2.0,
            delay=2.0,
            disable=not self.progress,
        ) as bar:
            for place, made in self.draw(strategy, self, [shares[i] for i in missing]):
                found[i := missing[place]] = made
                if name := named[i]:
                    self.keep(*name, made)
                bar.update(len(shares[i].prompts))
        return [{k: v.to(self.pipe.device) for k, v in found[i].items()} for i in range(len(shares))]

    def of_round(self, strategy: Strategy, batch: Batch) -> Any:
        """What `strategy.prepare` left for a micro-batch; prepared now if that was not (outside of a run)."""
        if self.round is None or self.round[0] != batch.step or tuple(batch.places) not in self.round[1]:
            strategy.prepare(self, [batch])
        assert self.round is not None
        return self.round[1][tuple(batch.places)]

    def drop_rounds(self, first: int) -> None:
        """Let go of what steps before this one have made."""
        self.earlier = {step: made for step, made in self.earlier.items() if step >= first}

    def kept(self, name: str, key: str) -> Tensors | None:
        """What a run that was killed has left in the folder under a name, if it was made for the same `key`."""
        if self.folder is None:
            return None
        try:
            with safe_open(self.folder / f"{name}.safetensors", "pt") as file:
                if (file.metadata() or {}).get("key") == key:
                    return {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):  # not there, or not whole
            pass
        return None

    def keep(self, name: str, key: str, made: Tensors) -> None:
        """Leave tensors for `kept`."""
        if self.folder is not None:
            tensors = {k: v.detach().cpu().contiguous() for k, v in made.items()}
            replace_file(self.folder / f"{name}.safetensors", lambda p: save_file(tensors, p, metadata={"key": key}))

    def drop_kept(self, but: str = "") -> None:
        """Remove what `kept` has left in the folder, but for names that begin with `but`."""
        if self.folder is not None and self.processes.first:
            for path in self.folder.glob("*.safetensors"):
                if not but or not path.name.startswith(but):
                    path.unlink(missing_ok=True)

    def untuned(self) -> Any:
        """The pipeline as it was before its adapter, for the time of the block."""
        return without_lora(self.pipe)

    @contextmanager
    def weights(self, others: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Other values in the parameters that are trained, for the time of the block; no graph may span it."""
        own = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        try:
            self.put_in(others)
            yield
        finally:
            self.put_in(own)

    @torch.no_grad()
    def put_in(self, values: Mapping[str, torch.Tensor]) -> None:
        """Other values in the parameters that are trained."""
        for name, parameter in self.trained.items():
            parameter.copy_(values[name])

    def denoising_loss(
        self,
        clean: torch.Tensor,
        prompts: list[str],
        generators: list[torch.Generator],
        anchored: bool = False,
        guided: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """||f - target||^2 and, if `anchored`, ||f - f_untuned||^2 at one random timestep a picture.

        Args:
            clean: states [B,...] without noise.
            guided: f is the guided output, of the whole caption; else it is without guidance, and a share of the
                captions is dropped.
        """
        scheduler = self.unguided.scheduler or self.pipe.scheduler
        count = scheduler.config.num_train_timesteps
        draws = [
            (
                torch.randn(clean.shape[1:], generator=g),
                torch.randint(count, (1,), generator=g),
                float(torch.rand(1, generator=g)) < CAPTION_DROPOUT,
            )
            for g in generators
        ]
        noise = torch.stack([d[0] for d in draws]).to(clean.device)
        timesteps = torch.cat([d[1] for d in draws]).to(clean.device)
        told = ["" if dropped else prompt for prompt, (_, _, dropped) in zip(prompts, draws, strict=True)]
        clean = clean.float()
        level = level_at(scheduler, timesteps, clean)
        noisy = level.noised(clean, noise).to(self.dtype)

        def output() -> torch.Tensor:
            if guided:
                return self.opened.output(prompts, noisy, timestep=timesteps).float()
            with empty_as_unguided(self.pipe):
                return self.unguided.output(told, noisy, timestep=timesteps).float()

        loss = (found := output()).sub(level.target(clean, noise)).square().mean()
        if not anchored:
            return loss, torch.zeros_like(loss)
        with torch.no_grad(), self.untuned():
            reference = output()
        return loss, (found - reference).square().mean()


def frames_of(images: torch.Tensor, prompts: Sequence[str]) -> tuple[torch.Tensor, list[str]]:
    """Pictures [B,3,H,W] as they are; videos [B,F,3,H,W] as their frames [B*F,3,H,W]; and a prompt for each."""
    if images.dim() == 4:
        return images, list(prompts)
    return images.flatten(0, 1), [p for p in prompts for _ in range(images.shape[1])]


def of_each(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Scores of `frames_of` as those of the B = `count` pictures or videos: the mean over the frames."""
    return scores if len(scores) == count else scores.unflatten(0, (count, -1)).mean(1)
