"""Making pairs: prompts rendered by a pipeline, in DiffusionDB's layout. Its own misalignments are the label noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline
from PIL import Image
from tqdm.auto import tqdm

from accord.data.pair_folders import read_part, write_metadata, write_part
from accord.data.pairs import need_parquet
from accord.data.shards import share_of
from accord.diffusion.call import GUIDANCE, call_arguments, is_lab
from accord.diffusion.generate import check_generates, generate_each
from accord.diffusion.pipelines import check_prompts
from accord.files import check_writable, only_writer
from accord.training.fingerprint import fingerprint
from accord.types import InputError

STEPS = 12  # of the lab's pairs
PART_SIZE = 1000  # of pairs, as in DiffusionDB


def make_pairs(pipe: DiffusionPipeline, prompts: Sequence[str], out: str | Path, **options: Any) -> int:
    """Render one picture a prompt into `out/part-000001/...` and `out/metadata.parquet`; finished parts are kept, and
    more prompts may be added at the end.

    Args:
        pipe, prompts, out, options: as of `make_parts`.

    Returns:
        the number of pairs in the folder so far.

    Raises:
        InputError: as `make_parts`.
    """
    make_parts(pipe, prompts, out, **options)
    return write_metadata(Path(out))


def make_parts(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    out: str | Path,
    *,
    seed: int = 0,
    num_inference_steps: int | None = STEPS,
    guidance_scale: float | None = GUIDANCE,
    negative_prompt: str = "",
    call: Mapping[str, Any] | None = None,
    part_size: int = PART_SIZE,
    batch_size: int = 32,
    shard: tuple[int, int] | None = None,
    progress: bool = False,
) -> None:
    """The parts of `make_pairs`, without the metadata of all.

    The picture's own seed is a function of `seed` and its row, so that a run that was stopped goes on as if it had not.

    Args:
        pipe: any pipeline that `accord.generate` runs.
        num_inference_steps: those of the pipeline's own call if None; of the lab's pipelines 12.
        guidance_scale, negative_prompt, call: as of `accord.generate`.
        part_size: pairs of a part.
        shard: (i, n): only every n-th part from the i-th on; a run without it then finds them finished.

    Raises:
        InputError: for a prompt that is too long, or a folder that cannot be written or holds other pairs.
    """
    check_generates(pipe)
    if num_inference_steps is None and is_lab(pipe):
        num_inference_steps = STEPS
    told: dict[str, Any] = {"guidance_scale": guidance_scale, "negative_prompt": negative_prompt, "call": call}
    arguments = call_arguments(pipe, num_inference_steps=num_inference_steps, **told)
    told["num_inference_steps"] = steps = arguments.pop("num_inference_steps")
    scale = arguments.pop("guidance_scale", None) if guidance_scale is None else guidance_scale
    folder = check_writable(Path(out))
    need_parquet()  # for the metadata at the end
    check_prompts(pipe, prompts)
    seeds = np.random.default_rng((seed, 3)).integers(2**31, size=len(prompts)).tolist()

    model = fingerprint(pipe)
    further = {name: repr(value) for name, value in sorted(arguments.items())}  # other arguments are other pictures

    def row_of(i: int) -> dict[str, Any]:
        sampler = type(pipe.scheduler).__name__
        return {
            "p": prompts[i],
            "se": seeds[i],
            "c": scale,
            "st": steps,
            "sa": sampler,
            "model": model,
            **({"call": further} if further else {}),
        }

    def make_part(number: int, start: int) -> None:
        there, due = read_part(folder, number), [row_of(i) for i in range(start, min(len(prompts), start + part_size))]
        if there is not None and there[: len(due)] == due:
            return
        if there is not None and there != due[: len(there)]:
            raise InputError(
                f"part {number} of folder {str(out)!r} is of other prompts, another model or adapter, another seed or "
                "other settings; give another `out`"
            )
        images: list[Image.Image] = []
        for i in tqdm(
            range(start, min(len(prompts), start + part_size), batch_size),
            desc="pairs",
            leave=False,
            disable=not progress,
        ):
            texts = list(prompts[i : min(i + batch_size, start + part_size)])
            own = seeds[i : i + len(texts)]
            images += generate_each(pipe, texts, own, **told)
        write_part(folder, number, images, due)

    starts = list(enumerate(range(0, len(prompts), part_size), start=1))
    for number, start in tqdm(share_of(starts, shard), desc="parts", disable=not progress):
        with only_writer(
            folder, f"part-{number:06d}"
        ):  # shards run at the same time, and a run without any beside them
            make_part(number, start)
