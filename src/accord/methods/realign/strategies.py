"""Four ways from a reward to a loss. RealignDiff's coarse stage is `refl`; the others are one function each beside it.

A strategy takes the Tuner (pipeline, reward, knobs) and a Batch (prompts with a seed each) and returns the loss, whose
gradient reaches the adapter, and scalars to log. Rewards here are normalised: 0 is the untuned pipeline's mean, 1 its
spread.

Letters in shapes: B pictures, C H W of the latents.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from accord.diffusion.loop import decode_with_grad, denoise, predicted_x0, rooted_eta, sample

if TYPE_CHECKING:
    from accord.methods.realign.tuning import Tuner


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

    def generators(self, salt: int = 0) -> list[torch.Generator]:
        """A CPU generator a picture."""
        return [torch.Generator().manual_seed((s + 7_919 * salt) % 2**62) for s in self.seeds]

    def randint(self, low: int, high: int) -> int:
        """One number in [low, high) for all pictures of the step."""
        generator = torch.Generator().manual_seed(self.shared_seed)
        return int(torch.randint(low, high, (1,), generator=generator))


GRPO_ETA = (
    0.999  # 1 up to rounding: at 1 the first step from zero terminal SNR takes the root of a negative rounding error
)
Strategy = Callable[["Tuner", Batch], tuple[torch.Tensor, dict[str, float]]]


def refl(tuner: Tuner, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """mean(relu(m - r(x0^))), x0^ predicted by one step with gradient after a rollout without.

    Source: ImageReward (arXiv 2304.05977), algorithm 1, as RealignDiff uses it.
    """
    config, pipe = tuner.config, tuner.pipe
    first = int(config.stop_from * config.num_inference_steps)
    stop = batch.randint(first, max(first + 1, round(config.stop_until * config.num_inference_steps)))
    scheduler, conditioning, latents = tuner.start(batch)
    rollout = sample(
        pipe, batch.prompts, latents=latents, conditioning=conditioning, scheduler=scheduler, **tuner.sampling
    )
    latents = latents * scheduler.init_noise_sigma
    for step in itertools.islice(rollout, stop):
        latents = step.latents
    timestep = scheduler.timesteps[stop]
    output = denoise(pipe, scheduler, latents, timestep, conditioning, config.guidance_scale)
    x0 = predicted_x0(scheduler, output, timestep, latents)
    rewards, logs = tuner.judge(decode_with_grad(pipe, x0), batch.prompts)
    return (config.margin - rewards).relu().mean(), logs


def draft(tuner: Tuner, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """mean(relu(m - r(x))), with the graph of the last K steps. Source: DRaFT (arXiv 2309.17400), DRaFT-K."""
    config, pipe = tuner.config, tuner.pipe
    scheduler, conditioning, latents = tuner.start(batch)
    steps = sample(
        pipe,
        batch.prompts,
        latents=latents,
        conditioning=conditioning,
        scheduler=scheduler,
        grad_steps=config.draft_steps,
        **tuner.sampling,
    )
    for step in steps:
        latents = step.latents
    rewards, logs = tuner.judge(decode_with_grad(pipe, latents), batch.prompts)
    return (config.margin - rewards).relu().mean(), logs


def raft(tuner: Tuner, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """Denoising loss on the best of N pictures of each prompt. Source: RAFT (arXiv 2304.06767).

    Each picture is judged by its own prompt. The kept latents of the whole global batch are the run's state, collected
    anew every `raft_refresh` steps.
    """
    if batch.step % tuner.config.raft_refresh == 0:
        _collect(tuner, batch)
    kept, numbers, rewards = (tuner.run.tensors[f"raft.{k}"][batch.places] for k in ("latents", "numbers", "rewards"))
    judged = [i for i, r in enumerate(rewards.tolist()) if math.isfinite(r)] or list(range(len(rewards)))
    prompts, generators = [tuner.prompts[int(i)] for i in numbers], batch.generators(salt=3)
    loss = tuner.denoising_loss(
        kept[judged].to(tuner.pipe.device), [prompts[i] for i in judged], [generators[i] for i in judged]
    )[0]
    # where none of a prompt's pictures could be judged there is nothing to learn from; where none at all, the step is
    # skipped
    return loss + 0 * rewards[judged].max().to(loss), {"kept_reward": float(rewards[judged].mean())}


@torch.no_grad()
def _collect(tuner: Tuner, batch: Batch) -> None:
    """Keep the best of `raft_candidates` latents [B,C,H,W] for each prompt, in the places of the global batch."""
    candidates, scores = [], []
    for k in range(tuner.config.raft_candidates):
        latents = tuner.pictures(batch.prompts, batch.generators(salt=100 + k))
        candidates.append(latents)
        scores.append(tuner.judge(decode_with_grad(tuner.pipe, latents), batch.prompts)[0])
    judged = torch.stack(scores).nan_to_num(-torch.inf)  # [N, B]; what cannot be judged is not the best
    best = torch.stack(candidates)[judged.argmax(0), torch.arange(judged.shape[1])]
    device, gather, state = judged.device, tuner.run.processes.gather, tuner.run.tensors
    places = gather(torch.tensor(batch.places, device=device)).cpu()
    found = {
        "latents": best.float(),
        "numbers": torch.tensor(batch.numbers, device=device),
        "rewards": judged.amax(0).float(),
    }
    for name, value in found.items():
        whole = gather(value).cpu()
        key = f"raft.{name}"
        if key not in state:
            state[key] = torch.zeros(tuner.config.batch_size, *whole.shape[1:], dtype=whole.dtype)
        state[key][places] = whole


def grpo(tuner: Tuner, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """-A log p of the steps taken by DDIM with eta = 1, A the reward normalised in its prompt's group.

    Source: Flow-GRPO (arXiv 2505.05470) and DDPO (arXiv 2305.13301), equation of the clipped objective, with one pass
    over each trajectory. Rewards are gathered from all processes before they are normalised.
    """
    config, pipe = tuner.config, tuner.pipe
    size = config.group_size
    prompts = [p for p in batch.prompts for _ in range(size)]
    seeds = [(s * size + k) % 2**62 for s in batch.seeds for k in range(size)]
    numbers = [n for n in batch.numbers for _ in range(size)]
    group = Batch(batch.step, [], prompts, numbers, seeds, batch.shared_seed)
    scheduler, conditioning, latents = tuner.start(group)
    before, after, times = [], [], []
    x = latents * scheduler.init_noise_sigma
    steps = sample(
        pipe,
        prompts,
        latents=latents,
        conditioning=conditioning,
        scheduler=scheduler,
        eta=GRPO_ETA,
        generator=group.generators(1),
        **tuner.sampling,
    )
    with torch.no_grad():
        for step in steps:
            before.append(x)
            after.append(step.latents)
            times.append(step.timestep)
            x = step.latents
        rewards, logs = tuner.judge(decode_with_grad(pipe, x), prompts)
    gather = tuner.run.processes.gather
    everyone = gather(torch.tensor(numbers, device=rewards.device))
    advantage = group_advantages(rewards, numbers, gather(rewards), everyone.tolist())
    # the last step has no noise, and so no probability
    order = torch.randperm(len(times) - 1, generator=torch.Generator().manual_seed(batch.shared_seed))
    chosen = order[: config.grpo_timesteps].tolist() or [0]
    losses = []
    for i in chosen:
        output = denoise(pipe, scheduler, before[i], times[i], conditioning, config.guidance_scale)
        mean, spread = ddim_moments(scheduler, output, times[i], before[i])
        log_p = gaussian_log_p(after[i], mean, spread)
        ratio = (log_p - log_p.detach()).exp()  # 1 on the first and only pass; its gradient is that of log p
        losses.append(policy_loss(ratio, advantage, config.clip_range))
    return torch.stack(losses).mean(), logs


def policy_loss(ratio: torch.Tensor, advantage: torch.Tensor, clip_range: float) -> torch.Tensor:
    """mean(max(-A ratio, -A clip(ratio))), ratio = p / p_old [B]. Source: PPO (arXiv 1707.06347), (7), negated."""
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(-advantage * ratio, -advantage * clipped).mean()


def group_advantages(
    rewards: torch.Tensor, numbers: list[int], all_rewards: torch.Tensor, all_numbers: list[int]
) -> torch.Tensor:
    """(r - mean of the prompt's group) / its spread, [B]; a group without spread has no advantage.

    `numbers` names the prompt of each reward; `all_*` are those of every process.
    """
    every = torch.tensor(all_numbers, device=rewards.device)
    out = []
    for reward, number in zip(rewards, numbers, strict=True):
        group = all_rewards[every == number]
        spread = group.std(unbiased=False)
        out.append((reward - group.mean()) / (spread + 1e-4))
    return torch.stack(out).clamp(-5, 5).detach()


def ddim_moments(
    scheduler: Any, output: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Mean [B,C,H,W] and standard deviation of x_{t-1} under DDIM with eta = GRPO_ETA.

    Source: DDIM (arXiv 2010.02502), (12), (16).
    """
    zero = torch.zeros_like(latents)
    eta = rooted_eta(scheduler, timestep, GRPO_ETA)
    mean = scheduler.step(output, timestep, latents, eta=eta, variance_noise=zero, return_dict=False)[0]
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    variance = scheduler._get_variance(int(timestep), int(timestep) - stride)
    return mean, eta * float(variance.clamp(min=1e-12) ** 0.5)


def gaussian_log_p(x: torch.Tensor, mean: torch.Tensor, spread: float) -> torch.Tensor:
    """Mean over the latents' elements of log N(x; mean, spread^2) without its constant, [B]."""
    return -((x.detach() - mean).float().square() / (2 * spread**2)).flatten(1).mean(1)


def sft(tuner: Tuner, _batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """No reward at all: the control.

    What is trained on is the denoising loss that every strategy has beside its own.
    """
    return torch.zeros((), device=tuner.pipe.device), {}


STRATEGIES: dict[str, Strategy] = {"refl": refl, "draft": draft, "raft": raft, "grpo": grpo, "sft": sft}
NEEDS_GRADIENT = ("refl", "draft")
