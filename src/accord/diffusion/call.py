"""The arguments of a pipeline's own call, out of what Accord is told: steps, guidance, a negative prompt, a size, and
whatever else this pipeline takes.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from accord.diffusion.families import family_of
from accord.diffusion.opened import NETWORKS, check_call
from accord.embedded import PIPELINE
from accord.types import InputError

STEPS, GUIDANCE = 25, 5.0  # what the lab's tables are made with
OWN = ("prompt", "num_inference_steps", "generator", "output_type", "return_dict")  # said otherwise, or not to be said


def call_arguments(
    pipe: Any,
    *,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str = "",
    height: int | None = None,
    width: int | None = None,
    call: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What `Opened(pipe, **arguments)` is given.

    Args:
        num_inference_steps: the default of the pipeline's own call if None; of the lab's pipelines 25.
        guidance_scale: of classifier-free guidance (arXiv 2207.12598), at which 1 is unguided, whatever the pipeline
            counts; for networks that take their guidance as an input (Flux) that input. As above if None; the lab's is
            5.
        height, width: in pixels.
        call: further arguments of the pipeline's own call.

    Raises:
        InputError: for an argument that this pipeline does not take or would not use.
    """
    check_call(pipe)
    taken = inspect.signature(type(pipe).__call__).parameters
    given = {"height": height, "width": width, **(call or {})}
    found = {name: value for name, value in given.items() if value is not None}
    _check_taken(pipe, found, taken)
    check_size(pipe, found.get("height"), found.get("width"))
    lab = getattr(pipe, "name_or_path", None) == str(PIPELINE)
    steps = STEPS if lab and num_inference_steps is None else num_inference_steps
    if steps is None:
        steps = taken["num_inference_steps"].default
    if guidance_scale is None and lab and "guidance_scale" not in found:
        guidance_scale = GUIDANCE
    family = family_of(next((getattr(pipe, n) for n in NETWORKS if getattr(pipe, n, None) is not None), None))
    if guidance_scale is not None:
        name = "guidance_scale" if family.guidance == "guider" else family.guidance
        if name in found:
            raise InputError(
                f"the guidance is given twice, as guidance_scale and as {name} in `call`; give one of them"
            )
        if family.guidance != "guider" and name not in taken:
            raise InputError(f"a {type(pipe).__name__} takes no guidance scale; leave it out")
        found[name] = max(0.0, guidance_scale - family.guidance_offset)
    negative = found.pop("negative_prompt", None) or negative_prompt
    if negative:
        if "negative_prompt" not in taken:
            raise InputError(f"a {type(pipe).__name__} takes no negative prompt; leave it out")
        _check_guided(found, taken, family.guidance_offset)
        found["negative_prompt"] = negative
    elif family.negative_prompt is not None and _scale(found, taken, family.guidance) > 1:
        found["negative_prompt"] = family.negative_prompt  # without one it is unguided, and says so only in a log
    return {"num_inference_steps": steps, **found}


def check_size(pipe: Any, height: int | None, width: int | None) -> None:
    """Refuse a size that the VAE and the network cannot make, which some pipelines would round.

    Raises:
        InputError: naming the number that it must be a multiple of; for one of the two alone.
    """
    # those that pack four neighbours into a token need twice the VAE's factor
    unit = getattr(pipe, "vae_scale_factor", 8) * (2 if hasattr(pipe, "_pack_latents") else 1)
    if (height is None) != (width is None):  # Stable Diffusion takes its own size then, and says nothing
        raise InputError("height and width go together; give both")
    for name, side in (("height", height), ("width", width)):
        if side is not None and (side < unit or side % unit):
            raise InputError(f"{name} must be a multiple of {unit} for a {type(pipe).__name__}, not {side}")


def _check_taken(pipe: Any, given: Mapping[str, Any], taken: Mapping[str, Any]) -> None:
    """Refuse an argument that the pipeline's call does not take, naming the nearest that it does."""
    for name in given:
        if name in OWN:
            raise InputError(f"{name} is no further argument of the call; it is given on its own")
        if name not in taken:
            near = difflib.get_close_matches(name, [n for n in taken if n not in ("self", *OWN)], 1)
            mend = f"did you mean {near[0]}?" if near else "leave it out"
            raise InputError(f"a {type(pipe).__name__} takes no {name}; {mend}")


def _scale(given: Mapping[str, Any], taken: Mapping[str, Any], name: str) -> float:
    """The guidance that the call will have."""
    value = given.get(name, taken[name].default if name in taken else None)
    return 0.0 if value is None else float(value)


def _check_guided(given: Mapping[str, Any], taken: Mapping[str, Any], offset: float) -> None:
    """Refuse a negative prompt that would not be used: without guidance, or beside a distilled one."""
    name = "true_cfg_scale" if "true_cfg_scale" in taken else "guidance_scale"
    if name in taken and _scale(given, taken, name) + offset <= 1:
        raise InputError(f"a negative prompt is not used without guidance; leave it out, or raise {name} above 1")
