"""What a strategy works with: rollouts of the pipeline that is tuned, their pictures and their rewards.

Letters in shapes: B pictures, C H W of the latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDIMScheduler

from accord.diffusion.loop import Step, decode_with_grad, denoise, initial_noise, run, sample
from accord.diffusion.lora import without_lora
from accord.diffusion.objective import ab_at, prediction_target
from accord.diffusion.pipelines import Conditioning, Pipeline, conditioning_of, latent_scheduler
from accord.rewards.composed import Composed
from accord.training.processes import Processes

if TYPE_CHECKING:
    from accord.methods.tune.config import TuneConfig

CAPTION_DROPOUT = 0.1  # of the denoising term, which keeps guidance alive


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


class Rollouts:
    """The pipeline that is tuned, its reward, and the knobs.

    Attributes:
        prompts: what is trained on; `Batch.numbers` are places in it.
        state: tensors that are checkpointed with the run; a strategy keeps its own under `<name>.`.
        processes: those that share each step.
    """

    def __init__(
        self, pipe: Pipeline, prompts: list[str], reward: Composed, config: TuneConfig, processes: Processes
    ) -> None:
        self.pipe, self.prompts, self.reward, self.config = pipe, prompts, reward, config
        self.processes, self.state = processes, dict[str, torch.Tensor]()
        self.scheduler = latent_scheduler(DDIMScheduler, pipe)
        self.sampling: dict[str, Any] = {
            "num_inference_steps": config.num_inference_steps,
            "guidance_scale": config.guidance_scale,
        }

    def start(self, batch: Batch) -> tuple[DDIMScheduler, Conditioning, torch.Tensor]:
        """A scheduler with its timesteps set, the conditioning, and z_T [B,C,H,W] from the batch's seeds."""
        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(self.config.num_inference_steps, device=self.pipe.device)
        noise = initial_noise(self.pipe, len(batch.prompts), batch.generators(), dtype=self.pipe.unet.dtype)
        return scheduler, self.conditioning(batch.prompts, self.config.guidance_scale > 1), noise

    @torch.no_grad()
    def conditioning(self, prompts: list[str], guided: bool) -> Conditioning:
        return conditioning_of(self.pipe, prompts, guided=guided)

    @torch.no_grad()
    def pictures(self, prompts: list[str], generators: list[torch.Generator]) -> torch.Tensor:
        """Latents [B,C,H,W] of the pipeline as it stands."""
        noise = initial_noise(self.pipe, len(prompts), generators, dtype=self.pipe.unet.dtype)
        return run(sample(self.pipe, prompts, latents=noise, scheduler=self.scheduler, **self.sampling))

    def sample(self, prompts: list[str], **settings: Any) -> Iterator[Step]:
        """Steps from noise to picture, as `accord.diffusion.loop.sample` takes them, with the run's own settings."""
        return sample(self.pipe, prompts, **settings, **self.sampling)

    def output(
        self, scheduler: DDIMScheduler, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The guided output of the denoiser [B,C,H,W], with its graph."""
        return denoise(self.pipe, scheduler, latents, timestep, conditioning, self.config.guidance_scale)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [B,C,H,W] to pictures [B,3,H,W] in 0..1, with the graph."""
        return decode_with_grad(self.pipe, latents)

    def judge(self, images: torch.Tensor, prompts: list[str]) -> tuple[torch.Tensor, dict[str, float]]:
        """Normalised rewards [B] and the mean of each part as it is; one that is infinite is NaN, so that no loss hides
        it.
        """
        parts = self.reward.parts(images, prompts)
        rewards = self.reward.combine(parts)
        rewards = torch.where(torch.isfinite(rewards), rewards, torch.nan)
        logs = {"reward": float(rewards.mean().detach())}
        return rewards, logs | {f"reward/{k}": float(v.mean().detach()) for k, v in parts.items()}

    def denoising_loss(
        self, latents: torch.Tensor, prompts: list[str], generators: list[torch.Generator], anchored: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """||f - target||^2 and, if `anchored`, ||f - f_untuned||^2 at one random timestep a picture."""
        scheduler, device = self.scheduler, latents.device
        count = scheduler.config.num_train_timesteps
        draws = [
            (
                torch.randn(latents.shape[1:], generator=g),
                torch.randint(count, (1,), generator=g),
                torch.rand(1, generator=g),
            )
            for g in generators
        ]
        noise = torch.stack([d[0] for d in draws]).to(device)
        timesteps = torch.cat([d[1] for d in draws]).to(device)
        with torch.no_grad():
            conditioning = conditioning_of(
                self.pipe, prompts, guided=False, dropped=torch.cat([d[2] for d in draws]) < CAPTION_DROPOUT
            )
        clean = latents.float()
        noisy = scheduler.add_noise(clean, noise, timesteps).to(self.pipe.unet.dtype)
        output = denoise(self.pipe, scheduler, noisy, timesteps, conditioning).float()
        target = prediction_target(clean, noise, ab_at(scheduler, timesteps, clean), scheduler.config.prediction_type)
        loss = (output - target).square().mean()
        if not anchored:
            return loss, torch.zeros_like(loss)
        with torch.no_grad(), without_lora(self.pipe):
            reference = denoise(self.pipe, scheduler, noisy, timesteps, conditioning).float()
        return loss, (output - reference).square().mean()
