"""The arguments of a pipeline's own call, out of what Accord is told: steps, guidance, a negative prompt, a size, and
whatever else this pipeline takes.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from PIL import Image

from accord.data.images import open_image
from accord.diffusion.families import Family, family_of
from accord.diffusion.opened import NETWORKS, check_call, size_unit, swapped
from accord.diffusion.pipelines import check_prompts
from accord.embedded import PIPELINE
from accord.types import InputError, a_kind

STEPS, GUIDANCE = 25, 5.0  # what the lab's tables are made with
# said otherwise, or not to be said: seeds say how many pictures a prompt has
OWN = (
    *("prompt", "num_inference_steps", "generator", "output_type", "return_dict"),
    *("num_images_per_prompt", "num_videos_per_prompt"),
)


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
        call: further arguments of the pipeline's own call. A picture may be given as its path.

    Raises:
        InputError: for an argument that this pipeline does not take or would not use.
    """
    check_call(pipe)
    taken = inspect.signature(type(pipe).__call__).parameters
    given = {**(call or {}), **{n: v for n, v in (("height", height), ("width", width)) if v is not None}}
    _check_taken(pipe, given, taken)
    # None says something where the call has a default that is no number (Sana's instructions), and nothing elsewhere
    kept = {n for n, v in given.items() if v is not None or not isinstance(taken[n].default, (int, float, type(None)))}
    found = {name: _opened_pictures(given[name], taken[name].annotation) for name in given if name in kept}
    for name, value in found.items():
        _check_kind(pipe, name, value, taken[name].annotation)
    _check_pictures(pipe, found, taken)
    check_size(pipe, found.get("height"), found.get("width"))
    _check_latents(pipe, found)
    if ("height" in found) != ("width" in found):  # Stable Diffusion takes its own size then, and says nothing
        raise InputError("height and width go together; give both")
    lab = is_lab(pipe)
    steps = STEPS if lab and num_inference_steps is None else num_inference_steps
    grid = next((name for name in ("timesteps", "sigmas") if name in found), None)
    if grid is not None:
        if num_inference_steps is not None:
            raise InputError(f"num_inference_steps is not used beside {grid}; give one of them")
        steps = len(found[grid])
    if steps is None:
        steps = taken["num_inference_steps"].default
    if not isinstance(steps, int) or steps < 1:
        raise InputError(f"num_inference_steps must be a whole number of at least 1, not {steps}")
    if guidance_scale is None and lab and "guidance_scale" not in found:
        guidance_scale = GUIDANCE
    network = next((getattr(pipe, n) for n in NETWORKS if getattr(pipe, n, None) is not None), None)
    family = family_of(network)
    if guidance_scale is not None:
        name = _guidance_argument(pipe, family, taken, guidance_scale)
        if name in found:
            raise InputError(
                f"the guidance is given twice, as the guidance scale and as {name} in `call`; give one of them"
            )
        found[name] = max(0.0, guidance_scale - family.guidance_offset)
    _check_used(pipe, network, found, family)
    if negative_prompt and found.get("negative_prompt"):
        raise InputError("the negative prompt is given twice, on its own and in `call`; give it once")
    negative = found.pop("negative_prompt", None) or negative_prompt
    if any(value for name, value in found.items() if name.startswith("negative_prompt")):
        _check_guided(pipe, found, taken, family)
    if negative:
        if "negative_prompt" not in taken:
            raise InputError(f"{a_kind(pipe)} takes no negative prompt; leave it out")
        _check_guided(pipe, found, taken, family)
        if isinstance(negative, str) and negative.strip():
            check_prompts(pipe, [negative], "negative prompt")
        found["negative_prompt"] = negative
    elif family.negative_prompt is not None and _scale(found, taken, family.guidance) > 1:
        found["negative_prompt"] = family.negative_prompt  # without one it is unguided, and says so only in a log
    elif found.get("true_cfg_scale", 0) > 1 and "negative_prompt_embeds" not in found:
        raise InputError("true_cfg_scale is not used without a negative prompt; give `negative_prompt` too")
    if found.get("guidance_rescale") and _scale(found, taken, "guidance_scale") <= 1:
        raise InputError(
            "guidance_rescale is not used without guidance; leave it out, or raise the guidance scale above 1"
        )
    _check_eta(pipe, found.get("eta", 0.0))
    return {"num_inference_steps": steps, **found}


def joined_call(call: Mapping[str, Any] | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the pipeline's own call, some of them given as keywords.

    Raises:
        InputError: for one that is given twice.
    """
    twice = sorted(set(call or ()) & set(more))
    if twice:
        raise InputError(f"{twice[0]} is given twice, as a keyword and in `call`; give it once")
    return {**(call or {}), **more}


def _guidance_argument(pipe: Any, family: Family, taken: Mapping[str, Any], guidance_scale: float) -> str:
    """The argument of the call that is the guidance scale; `Opened` gives "guidance_scale" to a pipeline's guider.

    Raises:
        InputError: for a scale that is no number, or a pipeline that has none.
    """
    if not math.isfinite(guidance_scale) or guidance_scale < 0:
        raise InputError(f"guidance_scale must be a finite number of at least 0, not {guidance_scale}")
    if family.guidance == "guider":
        if getattr(pipe, "guider", None) is None:
            raise InputError(
                f"this {type(pipe).__name__} has no guider, as one that was distilled; leave the guidance scale "
                "out, or give distilled_guidance_scale in `call`"
            )
        return "guidance_scale"
    if family.guidance not in taken:
        near = _nearest("guidance_scale", taken)
        raise InputError(
            f"{a_kind(pipe)} takes no guidance scale; "
            + (f"leave it out, or give {near} in `call`" if near else "leave it out")
        )
    return family.guidance


def is_lab(pipe: Any) -> bool:
    """Whether this is the embedded pipeline, which has defaults of its own."""
    return getattr(pipe, "name_or_path", None) == str(PIPELINE)


def check_size(pipe: Any, height: int | None, width: int | None) -> None:
    """Refuse a size that the VAE and the network cannot make, which some pipelines would round.

    Raises:
        InputError: naming the number that it must be a multiple of.
    """
    unit = size_unit(pipe)
    for name, side in (("height", height), ("width", width)):
        if side is not None and (not isinstance(side, int) or side < unit or side % unit):
            raise InputError(f"`{name}` must be a multiple of {unit} for {a_kind(pipe)}, not {side}")


def _check_latents(pipe: Any, found: Mapping[str, Any]) -> None:
    """Refuse a size beside latents of another, which would not be used."""
    latents = found.get("latents")
    if latents is None or getattr(latents, "ndim", 0) != 4 or not hasattr(pipe, "vae_scale_factor"):
        return
    sides = {name: found.get(name) for name in ("height", "width")}
    own = (side * pipe.vae_scale_factor for side in latents.shape[-2:])
    if any(side not in (None, of_latents) for side, of_latents in zip(sides.values(), own, strict=True)):
        raise InputError(f"{sides} are not those of the latents; leave them out")


def _check_eta(pipe: Any, eta: Any) -> None:
    """Refuse an eta that DDIM has not, or that the scheduler would not be given."""
    if not isinstance(eta, (int, float)) or not 0 <= eta <= 1:
        raise InputError(f"eta must be in [0, 1], not {eta}")
    if eta and "eta" not in inspect.signature(pipe.scheduler.step).parameters:
        raise InputError(f"{a_kind(pipe.scheduler)} takes no eta; leave it out, or use DDIM")


def _check_taken(pipe: Any, given: Mapping[str, Any], taken: Mapping[str, Any]) -> None:
    """Refuse an argument that the pipeline's call does not take, naming the nearest that it does."""
    for name in given:
        if name in OWN:
            raise InputError(f"{name} is no further argument of the call; it is given on its own")
        if name not in taken:
            near = _nearest(name, taken)
            raise InputError(f"{a_kind(pipe)} takes no {name}; {f'did you mean {near}?' if near else 'leave it out'}")


def _nearest(name: str, taken: Mapping[str, Any]) -> str | None:
    """The argument of the call whose name is most like this one."""
    return next(iter(difflib.get_close_matches(name, [n for n in taken if n not in ("self", *OWN)], 1)), None)


def _scale(given: Mapping[str, Any], taken: Mapping[str, Any], name: str) -> float:
    """The guidance that the call will have."""
    value = given.get(name, taken[name].default if name in taken else None)
    return 0.0 if value is None else float(value)


def _check_guided(pipe: Any, given: Mapping[str, Any], taken: Mapping[str, Any], family: Family) -> None:
    """Refuse a negative prompt that would not be used: without guidance, or beside a distilled one."""
    name = "true_cfg_scale" if "true_cfg_scale" in taken else "guidance_scale"
    said = name in taken or (family.guidance == "guider" and name in given)  # a guider's own scale is not known here
    if said and _scale(given, taken, name) + family.guidance_offset <= 1:
        raise InputError(f"a negative prompt is not used without guidance; leave it out, or raise {name} above 1")
    if name == "guidance_scale" and said and _guides(pipe, _scale(given, taken, name)) is False:
        raise InputError(
            f"a negative prompt is not used by this {type(pipe).__name__}, which is distilled to run without one; "
            "leave it out"
        )


def _guides(pipe: Any, scale: float) -> bool | None:
    """Whether a call at this scale runs the network without the prompt too, as the pipeline says it; None if it says
    nothing.
    """
    if not isinstance(getattr(type(pipe), "do_classifier_free_guidance", None), property):
        return None
    try:
        with swapped(pipe, _guidance_scale=scale):
            return bool(pipe.do_classifier_free_guidance)
    except AttributeError:  # it looks at more that its call notes
        return None


def _check_used(pipe: Any, network: Any, given: Mapping[str, Any], family: Family) -> None:
    """Refuse a guidance that this pipeline would pass over: of a network that was distilled to need none.

    Whether it guides is what its `do_classifier_free_guidance` says; whether the network takes the scale as an input
    stands in its configuration.
    """
    scale, config = given.get("guidance_scale"), getattr(network, "config", {})
    if scale is None or family.guidance == "guider" or scale + family.guidance_offset <= 1:
        return
    is_input, guides = config.get("guidance_embeds"), _guides(pipe, scale)
    unused = is_input is False if guides is None else not (guides or is_input or config.get("time_cond_proj_dim"))
    if unused:
        raise InputError(
            f"this {type(pipe).__name__} passes guidance_scale={scale:g} over, as its network takes none"
            + (
                f"; give {family.guidance} instead"
                if family.guidance != "guidance_scale"
                else "; leave it out, or give 1"
            )
        )


def _check_pictures(pipe: Any, given: Mapping[str, Any], taken: Mapping[str, Any]) -> None:
    """Refuse a call without a picture that it cannot do without: one that may not be None, by its annotation."""
    if {"video", "conditions"} & taken.keys():  # one of several will do
        return
    for name, parameter in taken.items():
        kinds = _members(parameter.annotation)
        single = name in ("image", "mask_image") or name.endswith("_image")
        if single and Image.Image in kinds and type(None) not in kinds and given.get(name) is None:
            raise InputError(
                f"{a_kind(pipe)} needs a picture as its argument {name}; give it in `call`, as a picture or its path"
            )


def _opened_pictures(value: Any, annotation: Any) -> Any:
    """A picture, or several, where their paths are given; all else as it is."""
    if Image.Image not in _members(annotation):
        return value
    if isinstance(value, (list, tuple)):
        return [open_image(v) if isinstance(v, (str, Path)) else v for v in value]
    return open_image(value) if isinstance(value, (str, Path)) else value


def _check_kind(pipe: Any, name: str, value: Any, annotation: Any) -> None:
    """Refuse what JSON can say where the pipeline's call says that it takes something else."""
    if not isinstance(value, (str, bool, int, float, dict, list)):
        return  # tensors and functions come from Python, where the call itself says what is wrong
    kinds = _members(annotation)
    if not all(isinstance(kind, type) for kind in kinds):
        return  # Any, or nothing is said
    if float in kinds:
        kinds = (*kinds, int)
    if tuple in kinds:
        kinds = (*kinds, list)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(dict.fromkeys(kind.__name__ for kind in kinds if kind is not type(None)))
        raise InputError(f"{name} of {a_kind(pipe)} is not to be {value!r}; give {names}")


def _members(annotation: Any) -> tuple[Any, ...]:
    """The outermost kinds that an annotation allows: (dict, NoneType) of `dict[str, Any] | None`."""
    if get_origin(annotation) in (Union, UnionType):
        return tuple(kind for part in get_args(annotation) for kind in _members(part))
    return (get_origin(annotation) or annotation,)
