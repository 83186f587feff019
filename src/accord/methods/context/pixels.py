"""The pixel side of r_phi as in the paper: CLIP's patch tokens of the decoded picture. Costs a VAE decode a step."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from accord.diffusion.opened import Opened
from accord.diffusion.pipelines import device_of
from accord.judges.clip import ClipScorer, resized


class PixelEncoder:
    """Clean states [B,C,h,w] to image tokens [B,L,D]. Frozen; nothing of it is trained or saved with r_phi.

    Args:
        pipe: whose call decodes; one whose states are its latents, and pictures.
        tower: CLIP's image half.
        image_mean, image_std: its normalisation, of values in 0..1.
    """

    def __init__(
        self, pipe: Any, tower: CLIPVisionModelWithProjection, image_mean: list[float], image_std: list[float]
    ) -> None:
        self.opened = Opened(pipe, num_inference_steps=1, scheduler=pipe.scheduler)
        self.tower = tower.eval().requires_grad_(False).to(device_of(pipe))
        self.mean, self.std = (
            torch.tensor(v, device=device_of(pipe)).view(1, 3, 1, 1) for v in (image_mean, image_std)
        )

    @classmethod
    def of(cls, pipe: Any, clip: ClipScorer) -> PixelEncoder:
        """The image half of a CLIP."""
        return cls(pipe, vision_tower(clip), clip.mean.flatten().tolist(), clip.std.flatten().tolist())

    @property
    def width(self) -> int:
        return int(self.tower.config.hidden_size)

    @torch.no_grad()
    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        pictures = self.opened.decode([""] * len(latents), latents)
        pixels = resized(pictures.float(), int(self.tower.config.image_size))
        pixels = (pixels - self.mean.to(pixels)) / self.std.to(pixels)  # the pipeline may have been moved since
        return self.tower(pixel_values=pixels.to(self.tower.dtype)).last_hidden_state


def vision_tower(clip: ClipScorer) -> CLIPVisionModelWithProjection:
    """The image half of a CLIPModel in the class that pipelines keep as `image_encoder`; the weights are shared."""
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**clip.model.config.vision_config.to_dict()))
    wanted = set(tower.state_dict())
    found = {k: v for k, v in clip.model.state_dict().items() if k in wanted}
    tower.load_state_dict(found, assign=True)
    return tower
