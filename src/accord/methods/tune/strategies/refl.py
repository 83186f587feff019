"""ReFL, RealignDiff's coarse stage: a reward through one step, after ImageReward (arXiv 2304.05977)."""

from __future__ import annotations

import itertools

import torch

from accord.diffusion.objective import predicted_x0
from accord.methods.tune.registry import strategy
from accord.methods.tune.rollouts import Batch, Rollouts


@strategy("refl", needs_gradient=True)
def refl(rollouts: Rollouts, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """mean(relu(m - r(x0^))), x0^ predicted by one step with gradient after a rollout without.

    Source: ImageReward (arXiv 2304.05977), algorithm 1, as RealignDiff uses it.
    """
    config = rollouts.config
    first = int(config.stop_from * config.num_inference_steps)
    stop = batch.randint(first, max(first + 1, round(config.stop_until * config.num_inference_steps)))
    scheduler, conditioning, latents = rollouts.start(batch)
    rollout = rollouts.sample(batch.prompts, latents=latents, conditioning=conditioning, scheduler=scheduler)
    latents = latents * scheduler.init_noise_sigma
    for step in itertools.islice(rollout, stop):
        latents = step.latents
    timestep = scheduler.timesteps[stop]
    output = rollouts.output(scheduler, latents, timestep, conditioning)
    x0 = predicted_x0(scheduler, output, timestep, latents)
    rewards, logs = rollouts.judge(rollouts.decode(x0), batch.prompts)
    return (config.margin - rewards).relu().mean(), logs
