"""Advantage-weighted matching (arXiv 2509.25050): the denoising loss, weighed by how good a picture is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from accord.diffusion.process import Level
from accord.methods.tune.forward import Forward, Noised
from accord.methods.tune.registry import strategy


@strategy("awm")
@dataclass(frozen=True)
class Awm(Forward):
    """A w |x0^ - x0|^2 + reference_weight |f - f_untuned|^2, w = t |x0^ - x0|^(2 (power - 1)) without its graph.

    x0 are pictures of the old weights, A how good they are in their prompt's group, t the share of noise in x_t. It is
    `nft`'s loss at the old weights with another weight for each picture. Beyond them it is unbounded below where A is
    negative: the distance to the untuned model and the average that the old weights are hold it, so the former has a
    larger weight here.

    Source: AWM (arXiv 2509.25050) for the loss; the weight, and the error in x0, are choices of this project.
    """

    reference_weight: float = 0.1
    power: float = 0.25  # of the error; 1 is the plain square

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.power <= 1:
            raise ValueError(f"power must be in (0, 1], not {self.power}")

    def errors(self, output: torch.Tensor, old: torch.Tensor, noised: Noised) -> torch.Tensor:
        return awm_loss(output, noised.x_t, noised.clean, noised.level, noised.advantage, self.power)


def awm_loss(
    output: torch.Tensor,
    x_t: torch.Tensor,
    clean: torch.Tensor,
    level: Level,
    advantage: torch.Tensor,
    power: float,
) -> torch.Tensor:
    """A t e^(power - 1) e, e = mean |x0^ - x0|^2, [B]; the weight has no graph.

    Args:
        output: what the trained weights say at x_t, [B,...].
        clean: x0; level: the noise in x_t; advantage: A [B].
    """
    error = (level.x0(x_t.float(), output.float()) - clean.float()).square().flatten(1).mean(1)
    share = (level.s / (level.a + level.s)).flatten()  # t of a flow
    return advantage * share * error.detach().clamp(min=1e-10) ** (power - 1) * error
