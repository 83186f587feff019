"""`accord bench invert --transplant`: does a denoiser align better with the encoder that learned to read prompts from
pictures?

Reverse Stable Diffusion, section 5, says so. Measured on SceneBench with the same prompts and seeds, the encoder mixed
in with several weights, beside encoders that are moved as far in a random direction.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from accord.diffusion.generate import GUIDANCE, STEPS
from accord.diffusion.pipelines import SD, load
from accord.files import check_writable, write_file
from accord.methods.invert.inverter import Inverter
from accord.methods.invert.predictors import Predictor
from accord.methods.invert.transplant import perturbed, transplanted
from accord.methods.realign.config import RealignConfig
from accord.rewards.captioners import load_captioner
from accord.types import InputError
from accord_lab.bench.cache import cache_folder
from accord_lab.bench.scenes import (
    Bench,
    Job,
    lead,
    make_jobs,
    results,
    row_of,
    run_method,
    table,
    told_lead,
)

WEIGHTS = (0.05, 0.2, 1.0)


def main(
    out: Path,
    inverter: Path | None,
    model: str | None = None,
    quick: bool = False,
    progress: bool = True,
    jobs: list[Job] | None = None,
) -> tuple[dict[str, Any], str]:
    """Sweep the weight; writes `transplant.json` and `.md` (`transplant-quick.*` with `quick`).

    Args:
        inverter: folder with a unet predictor of this pipeline, as `accord train inverter --kind unet` saves it.

    Raises:
        InputError: if no inverter is named, or none of its predictors is a unet.
    """
    check_writable(out)
    if inverter is None:
        raise InputError("the transplant needs an inverter; give the folder of one with a unet predictor as `inverter`")
    predictor = _unet_of(Inverter.from_pretrained(inverter), inverter)
    captioner, pipe = load_captioner(), load(model, classes=SD)
    if jobs is None:
        jobs = make_jobs(True, 1) if quick else make_jobs(False, 1)
    cache = cache_folder(out, "transplant", pipe, predictor, STEPS, GUIDANCE)
    settings: dict[str, AbstractContextManager[None]] = {"base": nullcontext()}
    for weight in WEIGHTS:
        settings[f"transplanted, weight {weight:g}"] = transplanted(pipe, predictor, weight)
        settings[f"moved at random, weight {weight:g}"] = perturbed(pipe, predictor, weight)
    rows = []
    for name, setting in settings.items():
        with setting:
            bench = Bench(pipe, captioner, RealignConfig())
            records = run_method(
                name, bench.base, jobs, cache / f"{name.replace(', ', '-').replace(' ', '-')}.jsonl", progress
            )
        rows.append(row_of(name, records, jobs))
    pairs = zip(rows[1::2], rows[2::2], strict=True)
    against = [{"of": a["method"], "over": b["method"], **lead(a, b)} for a, b in pairs]
    data = {"bench": "invert --transplant", "quick": quick, **results(rows, jobs, "base"), "against_control": against}
    text = table(data).replace(
        "# SceneBench", "# An encoder that learned to read prompts, put back into the denoiser", 1
    )
    text += "\n" + "".join(f"- {told_lead(a)}\n" for a in against)
    stem = "transplant-quick" if quick else "transplant"
    write_file(out / f"{stem}.json", (json.dumps(data, indent=1) + "\n").encode())
    write_file(out / f"{stem}.md", text.encode())
    return data, text


def _unet_of(inverter: Inverter, folder: Path) -> Predictor:
    for predictor, kind in zip(inverter.predictors, inverter.kinds, strict=True):
        if kind.kind == "unet":
            return predictor
    raise InputError(f"inverter {str(folder)!r} has no unet predictor; train one of the kind unet")
