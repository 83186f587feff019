"""`accord bench transplant`: does a denoiser align better with the encoder that learned to read prompts from pictures?

Reverse Stable Diffusion, section 5, says so. Measured on SceneBench with the same prompts and seeds, the encoder mixed
in with several weights, beside encoders that are moved as far in a random direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from accord.diffusion.call import GUIDANCE, STEPS
from accord.diffusion.pipelines import SD, Pipeline, load
from accord.judges.captioners import load_captioner
from accord.methods.invert.inverter import Inverter
from accord.methods.invert.predictors import Predictor
from accord.methods.invert.transplant import perturbed, transplanted
from accord.methods.realign.config import RealignConfig
from accord.types import InputError
from accord_lab.bench.runner import Bench, cache_folder, slug
from accord_lab.bench.scenes import Job, Maker, lead, lead_line, make_jobs, page, results, run_method

WEIGHTS = (0.05, 0.2, 1.0)


@dataclass(kw_only=True)
class Transplant(Bench[str, dict[str, Any]]):
    """A sweep of the weight.

    Attributes:
        inverter: folder with a unet predictor of this pipeline, as `accord train inverter --kind unet` saves it.
    """

    name = "transplant"
    inverter: Path | None = None
    model: str | None = None
    jobs: list[Job] = field(default_factory=list)  # SceneBench's with one seed if empty

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inverter is None:
            raise InputError(
                "the transplant needs an inverter; give the folder of one with a unet predictor as `inverter`"
            )
        self.jobs = self.jobs or make_jobs(self.quick, 1)

    @cached_property
    def models(self) -> tuple[Maker, Predictor, Path]:
        """The pipeline with its judge, the predictor, and the folder of what is kept of them."""
        assert self.inverter is not None
        predictor = _unet_of(Inverter.from_pretrained(self.inverter), self.inverter)
        captioner, pipe = load_captioner(), load(self.model, classes=SD)
        cache = cache_folder(self.out, self.name, pipe, predictor, STEPS, GUIDANCE)
        return Maker(pipe, captioner, RealignConfig()), predictor, cache

    def settings(self, pipe: Pipeline, predictor: Predictor) -> dict[str, AbstractContextManager[None]]:
        """What is done to the denoiser, by the name of its row."""
        found: dict[str, AbstractContextManager[None]] = {"base": nullcontext()}
        for weight in WEIGHTS:
            found[f"transplanted, weight {weight:g}"] = transplanted(pipe, predictor, weight)
            found[f"moved at random, weight {weight:g}"] = perturbed(pipe, predictor, weight)
        return found

    def cells(self) -> Sequence[str]:
        maker, predictor, _ = self.models
        return list(self.settings(maker.pipe, predictor))

    def measure(self, cell: str) -> dict[str, Any]:
        maker, predictor, cache = self.models
        with self.settings(maker.pipe, predictor)[cell]:
            fresh = Maker(maker.pipe, maker.captioner, maker.config)  # it keeps first pictures, of another denoiser
            return run_method(cell, fresh.base, self.jobs, cache / f"{slug(cell)}.jsonl", self.progress)

    def results(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        pairs = zip(rows[1::2], rows[2::2], strict=True)
        against = [{"of": a["method"], "over": b["method"], **lead(a, b)} for a, b in pairs]
        return {**results(rows, self.jobs, "base"), "against_control": against}

    @staticmethod
    def render(data: dict[str, Any]) -> str:
        text = page(data, "An encoder that learned to read prompts, put back into the denoiser")
        return text + "\n" + "".join(map(lead_line, data["against_control"]))


def _unet_of(inverter: Inverter, folder: Path) -> Predictor:
    for predictor, kind in zip(inverter.predictors, inverter.kinds, strict=True):
        if kind.is_white_box:
            return predictor
    raise InputError(f"inverter {str(folder)!r} has no unet predictor; train one of the kind unet")
