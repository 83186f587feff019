"""A run from a finished state part-way in which only what lies under a mask changes.

After each step the state is x_s = m x_s + (1 - m) (a_s x0 + s_s e): outside the mask the source, noised to that level
by the noise that the run began with. Sources: RePaint (arXiv 2201.09865), blended latent diffusion (arXiv 2206.02779).
The levels are those of the pipeline's own grid, so it works with every epsilon, v and flow model.

Letters in shapes: B prompts; a state is what the pipeline's loop denoises, [B,...], packed as the pipeline packs it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from accord.diffusion.opened import Opened, Step, part_of
from accord.diffusion.process import Level, levels


class Blend:
    """What a run calls after each step (`on_step`), so that it keeps a source outside a mask.

    Args:
        source: the clean state that the run starts from, [B,...].
        mask: 0..1, shaped as the state or broadcast to it; 0 where the source is kept. See `state_mask`.
        grid: the levels of the run's steps and the one after them, of `grid_from`.
    """

    def __init__(self, source: torch.Tensor, mask: torch.Tensor, grid: Sequence[Level]) -> None:
        self.source, self.mask, self.grid = source, mask, grid
        self.noise: torch.Tensor | None = None

    def __call__(self, step: Step) -> torch.Tensor:
        """The next state, [B,...]; after the last step it is the source itself outside the mask."""
        state = step.next()
        source, mask = self.source.to(state), self.mask.to(state)
        if self.noise is None:  # what the run began with: x_t = a x0 + s e
            now = self.grid[0].to(state)
            self.noise = (step.latents.to(now.a) - now.a * source.to(now.a)) / now.s
        kept = source
        if step.index + 1 < step.count:
            kept = self.grid[step.index + 1].to(state).noised(source.to(self.noise), self.noise).to(state)
        return mask * state + (1 - mask) * kept


def grid_from(opened: Opened, prompts: Sequence[str], state: torch.Tensor, strength: float) -> list[Level]:
    """The levels of a run that takes this share of the steps from a state, and the one after its last step: n + 1.

    Raises:
        InputError: for a scheduler whose noise levels are not known.
    """
    scheduler = opened.schedule(prompts, state)
    if strength < 1:
        first, scheduler.timesteps = part_of(scheduler, strength)
        if getattr(scheduler, "sigmas", None) is not None:
            scheduler.sigmas = scheduler.sigmas[first:]
    return levels(scheduler)


def latents_of(state: torch.Tensor, places: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """States [B,...] laid out as the picture is, [B, *shape]; `packed` is the way back. See `state_mask`."""
    flat = torch.empty(len(state), places.numel(), dtype=state.dtype, device=state.device)
    flat[:, places.flatten().to(state.device)] = state.flatten(1)
    return flat.view(len(state), *shape)


def packed(latents: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """What is laid out as the picture is, [B,C,h,w] or [B,C,F,h,w], as a state."""
    return latents.flatten(1)[:, places.flatten().to(latents.device)].view(len(latents), *places.shape)


def state_mask(masks: torch.Tensor, places: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Masks of the picture as masks of states, [B,...].

    Args:
        masks: [B,h,w] in 0..1.
        places: where each element of a state is among the latents, and
        shape: of these, [C,h,w] or [C,F,h,w]: both of `Opened.order`.
    """
    sized = masks[:, None].float()
    if sized.shape[-2:] != shape[-2:]:
        sized = F.interpolate(sized, tuple(shape[-2:]), mode="area")
    spread = sized.view(len(masks), *[1] * (len(shape) - 2), *shape[-2:]).expand(-1, *shape)
    return packed(spread, places)
