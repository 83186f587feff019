"""The lab's AutoencoderKL: 64x64 pixels to 16x16x4 latents.

Silhouettes are small and flat, so the loss weighs the things ten times the background, and most steps see 32x32
windows around a thing: four times the steps for the same arithmetic.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from accord.training.loop import LoopConfig, Run
from accord_lab.scenes.lexicon import IMAGE_SIZE
from accord_lab.scenes.render import foreground, render
from accord_lab.scenes.scene import Scene, sample_scene

FOREGROUND_WEIGHT = 10.0
KL_WEIGHT = 2e-5
CROP = 32
FULL_SHARE = 0.3  # the last share of the steps sees whole pictures
SCALED_ON = 512  # pictures by which the latents are scaled to a spread of 1


def config(steps: int = 5000) -> LoopConfig:
    return LoopConfig(steps=steps, learning_rate=1e-3, weight_decay=0.0, ema_decay=0.999)


def build() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 48, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [B,H,W,3] -> float32 [B,3,H,W] in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def batch(rng: np.random.Generator, size: int, crop: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [B,3,H,W] in -1..1 and loss weights [B,1,H,W], mean about 1 over the things."""
    images, weights = [], []
    for _ in range(size):
        scene = sample_scene(rng)
        image, weight = render(scene), 1 + (FOREGROUND_WEIGHT - 1) * (foreground(scene) > 0.02)
        if crop:
            x, y = _window(scene, rng)
            image, weight = image[y : y + CROP, x : x + CROP], weight[y : y + CROP, x : x + CROP]
        images.append(image)
        weights.append(weight)
    return to_tensor(np.stack(images)), torch.from_numpy(np.stack(weights).astype(np.float32))[:, None]


def _window(scene: Scene, rng: np.random.Generator) -> tuple[int, int]:
    thing = scene.things[int(rng.integers(len(scene.things)))]
    corner = np.asarray(thing.center) - CROP / 2 + rng.integers(-8, 9, size=2)
    x, y = np.clip(corner, 0, IMAGE_SIZE - CROP).astype(int)
    return int(x), int(y)


def train(folder: Path, steps: int | None = None, seed: int = 0, device: str = "cpu", batch_size: int = 16) -> None:
    """Train into `folder/vae` (standard form) with checkpoints and curve in `folder/runs/vae`."""
    loop = replace(config(steps) if steps else config(), seed=seed)
    torch.manual_seed(seed)
    vae = build().to(device).to(memory_format=torch.channels_last)
    run = Run({"vae": vae}, loop, Path(folder) / "runs" / "vae")

    def loss_fn(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        crop = step < (1 - FULL_SHARE) * loop.steps
        images, weights = batch(np.random.default_rng((seed, step)), batch_size * (2 if crop else 1), crop)
        images = images.to(device, memory_format=torch.channels_last)
        weights = weights.to(device)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        error = vae.decode(posterior.mean + posterior.std * noise).sample.float() - images
        distance = error.abs() + 2 * error.square()
        reconstruction = (weights * distance).mean()
        kl = posterior.kl().mean()
        return reconstruction + KL_WEIGHT * kl, {"reconstruction": float(reconstruction.detach())}

    run.train(loss_fn, "vae")
    run.use_ema()
    vae.eval()
    with torch.no_grad():
        latents = vae.encode(batch(np.random.default_rng(7), SCALED_ON, False)[0].to(device)).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    vae.half().save_pretrained(Path(folder) / "vae")
