"""`accord.realign` as a pipeline's own call, for `custom_pipeline=` of diffusers.

    class AccordPipeline(RealignMixin, StableDiffusionPipeline): ...

`integrations/diffusers/` has such classes, one a file, as diffusers loads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image

from accord.diffusion.pipelines import device_of
from accord.judges.loading import load_judge
from accord.judges.protocol import Answers, Judge
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.fine import realign
from accord.reports.results import Realigned
from accord.types import InputError


@dataclass
class RealignOutput(BaseOutput):
    """What a realigning pipeline returns.

    Attributes:
        images: the repaired pictures.
        realigned: of each picture what was found and done, with the picture before.
    """

    images: list[Image.Image]
    realigned: list[Realigned]


class RealignMixin:
    """A call that generates, finds what is missing, and repairs it; put before a text-to-image class of diffusers.

    All else is the class's own: loading, devices, offloading, adapters, saving.
    """

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seeds: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        judge: str | Judge | Answers | None = None,
        config: RealignConfig | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str = "",
        return_dict: bool = True,
        **call: Any,
    ) -> Any:
        """Repaired pictures, one for each prompt and seed, seeds varying fastest.

        Args:
            prompt: one or several.
            seeds: 0 if neither these nor a generator is given.
            generator: fresh ones of the CPU, whose seeds are taken: `torch.Generator().manual_seed(3)`.
            judge: folder or hub id for `accord.load_judge`, or a judge; the embedded captioner, for the lab's pipeline
                alone, if None.
            config: the knobs of the repair.
            call: further arguments of the class's own call: height, width, ...

        Returns:
            a `RealignOutput`, or the tuple (images, realigned).

        Raises:
            InputError: as `accord.realign`; for seeds beside a generator, or a generator that was drawn from.
        """
        if seeds is not None and generator is not None:
            raise InputError("seeds are not used beside a generator; give one of them")
        if generator is not None:
            seeds = [_seed_of(g) for g in ([generator] if isinstance(generator, torch.Generator) else generator)]
        plain = self._plain()
        named = load_judge(judge, str(device_of(plain))) if isinstance(judge, str) else judge
        found = realign(
            plain,
            prompt,
            0 if seeds is None else seeds,
            config=config,
            captioner=named,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            call=call,
        )
        images = [result.after for result in found]
        return RealignOutput(images=images, realigned=found) if return_dict else (images, found)

    def _plain(self) -> Any:
        """This pipeline as the class that it extends: the same parts and settings, not copies."""
        kinds = type(self).__mro__
        kind = next(k for k in kinds if issubclass(k, DiffusionPipeline) and not issubclass(k, RealignMixin))
        plain = object.__new__(kind)
        object.__setattr__(plain, "__dict__", self.__dict__)
        return plain


def _seed_of(generator: torch.Generator) -> int:
    """The seed of a generator that nothing was drawn from.

    Raises:
        InputError: for another one, whose pictures no seed gives.
    """
    seed = generator.initial_seed()
    fresh = generator.device.type == "cpu" and torch.equal(
        generator.get_state(), torch.Generator().manual_seed(seed).get_state()
    )
    if not fresh:
        raise InputError(
            "a generator of another device, or that was drawn from, has no seed that makes its pictures again; give "
            "seeds, or torch.Generator().manual_seed(SEED)"
        )
    return seed
