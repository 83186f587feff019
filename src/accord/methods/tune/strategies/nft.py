"""DiffusionNFT (arXiv 2509.16117): the forward process learns from better pictures, and away from worse ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from accord.diffusion.process import Level
from accord.methods.tune.forward import Forward, Noised
from accord.methods.tune.registry import strategy


@strategy("nft")
@dataclass(frozen=True)
class Nft(Forward):
    """C (r |x0+ - x0|^2 / w+ + (1 - r) |x0- - x0|^2 / w-) / mix + reference_weight |f - f_untuned|^2.

    x0 are pictures of the old weights, r in 0..1 how good they are in their prompt's group, x0+ and x0- what the
    outputs mix f + (1 - mix) f_old and (1 + mix) f_old - mix f say at the same x_t. Written in x0, it is one loss for
    epsilon, v, x0 and flow.

    Source: DiffusionNFT (arXiv 2509.16117), algorithm 1, with the adaptive weights of its code.
    """

    mix: float = 1.0  # the paper's beta: how far x0+ and x0- are from the old weights' (0.1 is faster and less stable)
    scale: float = 5.0  # C

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(0, "scale")
        if self.mix <= 0:
            raise ValueError(f"mix must be positive, not {self.mix}")

    def errors(self, output: torch.Tensor, old: torch.Tensor, noised: Noised) -> torch.Tensor:
        good = goodness(noised.advantage)
        return self.scale * nft_loss(output, old, noised.x_t, noised.clean, noised.level, good, self.mix)


def goodness(advantage: torch.Tensor) -> torch.Tensor:
    """r [B] in 0..1: clip(A / 10 + 1/2)."""
    return (advantage / 10 + 0.5).clamp(0, 1)


def nft_loss(
    output: torch.Tensor,
    old: torch.Tensor,
    x_t: torch.Tensor,
    clean: torch.Tensor,
    level: Level,
    good: torch.Tensor,
    mix: float,
) -> torch.Tensor:
    """(r |x0+ - x0|^2 / w+ + (1 - r) |x0- - x0|^2 / w-) / mix, [B]; w = mean |x0+- - x0| without its graph.

    Where `output` is `old` its gradient is that of A |f - target|^2 times a number of each picture, for every `mix`.

    Args:
        output, old: what the trained and the old weights say at x_t, [B,...].
        clean: x0; level: the noise in x_t; good: r [B].
    """
    x_t, clean, output, old = (t.float() for t in (x_t, clean, output, old))

    def error(mixed: torch.Tensor) -> torch.Tensor:
        off = (level.x0(x_t, mixed) - clean).flatten(1)
        return off.square().mean(1) / off.detach().abs().mean(1).clamp(min=1e-5)

    toward, away = error(mix * output + (1 - mix) * old), error((1 + mix) * old - mix * output)
    return (good * toward + (1 - good) * away) / mix
