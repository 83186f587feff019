"""The relational network r_phi(x0, c, t): image tokens attend to the prompt's token states.

Letters in shapes: B pictures, C h w of the latents, L image tokens, T text tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import nn
from torch.nn import functional as F

from accord.types import InputError


class CrossBlock(nn.Module):
    """Multi-head attention of image tokens [B,L,D] to text states [B,T,E], and a feed-forward, each with a residual."""

    def __init__(self, width: int, text_width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = nn.Linear(text_width, width, bias=False), nn.Linear(text_width, width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        def split(v: torch.Tensor) -> torch.Tensor:
            return v.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = split(self.to_q(self.norm1(x))), split(self.to_k(states)), split(self.to_v(states))
        x = x + self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.feed(self.norm2(x))


class RelationalNetwork(ModelMixin, ConfigMixin):
    """r_phi(x0, c, t) [B,C,h,w], shaped like the latents and bounded by `gain`.

    Source: ContextDiff, section 3.1 (multi-head cross-attention of image and text features with residuals). Design of
    this
    project: a small convolutional encoder of the latents, zero-initialised output (so that training starts from the
    plain process), tanh (which limits what of x0 itself r can carry).

    Args:
        channels: C.
        text_width: E, of the text states.
        width: D.
        layers: blocks of cross-attention.
        heads: of each.
        patch: side of the latent patch that is one image token.
        gain: bound of |r|; 0 is exactly the plain process.
        use_image, use_text: False leaves one side out (the ablations).
        pixel_width: width of the image tokens that `pixel_encoder` gives, 0 for none. They are attended to beside the
            text's.

    Attributes:
        pixel_encoder: clean latents [B,C,h,w] to image tokens [B,P,pixel_width] (`pixels.PixelEncoder`), set by who
            makes or loads a network with `pixel_width`; it is not saved with it.
    """

    pixel_encoder: Callable[[torch.Tensor], torch.Tensor] | None = None

    @register_to_config
    def __init__(
        self,
        channels: int = 4,
        text_width: int = 768,
        width: int = 96,
        layers: int = 2,
        heads: int = 4,
        patch: int = 2,
        gain: float = 1.0,
        use_image: bool = True,
        use_text: bool = True,
        pixel_width: int = 0,
    ) -> None:
        super().__init__()
        if width % heads or width % 4:
            raise ValueError(f"width must be a multiple of heads and of 4, not {width} with {heads} heads")
        if gain < 0:
            raise ValueError(f"gain must not be negative, not {gain}")
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.time = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(width, 2 * width, out_dim=width)
        self.blocks = nn.ModuleList([CrossBlock(width, text_width, heads) for _ in range(layers)])
        self.from_pixels = nn.Linear(pixel_width, text_width) if pixel_width else None
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, channels * patch * patch)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, latents: torch.Tensor, encoder_hidden_states: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        """Clean latents [B,C,h,w], text states [B,T,E], timesteps [B] to r [B,C,h,w]. Sides that `patch` does not
        divide are padded.

        Raises:
            InputError: for a network of pixels that was given no `pixel_encoder`.
        """
        config = self.config
        x = latents if config.use_image else torch.zeros_like(latents)
        states = encoder_hidden_states if config.use_text else torch.zeros_like(encoder_hidden_states)
        if self.from_pixels is not None:
            if self.pixel_encoder is None:
                raise InputError(
                    "this relational network looks at pixels and was given no pixel_encoder; set one "
                    "(PixelEncoder.of(pipe, clip))"
                )
            tokens = self.from_pixels(self.pixel_encoder(x).to(self.dtype))
            states = torch.cat([states.to(self.dtype), tokens], 1)
        height, width = latents.shape[-2:]
        x = F.pad(x.to(self.dtype), (0, -width % config.patch, 0, -height % config.patch))
        x = self.embed(x)
        x = x + self.mix(F.silu(x))
        h, w = x.shape[-2:]
        t = timestep.reshape(-1).expand(len(latents)).to(latents.device)
        time = self.time_embedding(self.time(t).to(x.dtype))
        x = x.flatten(2).transpose(1, 2) + grid_positions(h, w, config.width).to(x) + time[:, None]
        for block in self.blocks:
            x = block(x, states.to(x.dtype))
        x = self.out(self.norm(x)).unflatten(1, (h, w)).permute(0, 3, 1, 2)
        x = F.pixel_shuffle(x, config.patch)[..., :height, :width]
        return (config.gain * torch.tanh(x)).to(latents.dtype)


def grid_positions(h: int, w: int, width: int) -> torch.Tensor:
    """Sines and cosines of row and column as shares of the picture, so that any size means the same: [1,h*w,width]."""
    frequencies = math.pi * 2 ** torch.linspace(0, 5, width // 4)
    rows = (torch.arange(h) + 0.5) / h
    columns = (torch.arange(w) + 0.5) / w
    parts = [
        f(axis[:, None] * frequencies).reshape(*shape, -1).expand(h, w, -1)
        for axis, shape in ((rows, (h, 1)), (columns, (1, w)))
        for f in (torch.sin, torch.cos)
    ]
    return torch.cat(parts, -1).reshape(1, h * w, width)
