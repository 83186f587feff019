"""Pipelines that begin with a picture or look at one: img2img, inpainting, ControlNet; of SD 1, XL and Flux."""

from __future__ import annotations

import diffusers as D
import numpy as np
import pytest
import torch
from PIL import Image
from zoo import CALL, fresh, heads, shared

import accord
from accord.diffusion.call import call_arguments
from accord.diffusion.opened import Opened
from accord.judges.captioners import load_captioner
from accord.methods.realign.config import RealignConfig
from accord.types import InputError

PROMPTS = ["a red star and a blue key", "two green moon"]
STEPS = 4


def picture(seed: int = 0, mask: bool = False) -> Image.Image:
    made = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    if mask:
        made[:] = 0
        made[8:24, 8:24] = 255
    return Image.fromarray(made)


def generators():
    return [torch.Generator().manual_seed(i) for i in range(len(PROMPTS))]


def at_rest(module):
    return module.eval().requires_grad_(False)


def controlnet(pipe):
    torch.manual_seed(0)
    net = at_rest(D.ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 16)))
    for weight in net.parameters():  # its own last ones are zeros
        weight.data.normal_(std=0.05)
    return net


def flux_control(pipe):
    """Of twice the channels: the control picture's latents are beside those of the picture."""
    torch.manual_seed(0)
    config = {k: v for k, v in pipe.transformer.config.items() if not k.startswith("_")}
    return at_rest(D.FluxTransformer2DModel(**{**config, "in_channels": 32, "out_channels": 16}))


def flux_controlnet(pipe):
    torch.manual_seed(0)
    net = D.FluxControlNetModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
        **heads(),
    )
    return at_rest(net)


IMAGE, MASKED = {"image": picture()}, {"image": picture(), "mask_image": picture(mask=True)}
# name -> pipeline of the zoo that it is made of, class, further parts, what its call is given, whether it takes a size
KINDS = {
    "sd1-img2img": ("sd1", D.StableDiffusionImg2ImgPipeline, {}, IMAGE | {"strength": 0.75}, False),
    "sd1-inpaint": ("sd1", D.StableDiffusionInpaintPipeline, {}, MASKED | {"strength": 0.75}, True),
    "sd1-controlnet": ("sd1", D.StableDiffusionControlNetPipeline, {"controlnet": controlnet}, IMAGE, True),
    "sdxl-img2img": ("sdxl", D.StableDiffusionXLImg2ImgPipeline, {}, IMAGE | {"strength": 0.75}, False),
    "sdxl-inpaint": ("sdxl", D.StableDiffusionXLInpaintPipeline, {}, MASKED | {"strength": 0.75}, True),
    "flux-img2img": ("flux", D.FluxImg2ImgPipeline, {}, IMAGE | {"strength": 0.75}, True),
    "flux-inpaint": ("flux", D.FluxInpaintPipeline, {}, MASKED | {"strength": 0.75}, True),
    "flux-control": ("flux", D.FluxControlPipeline, {"transformer": flux_control}, {"control_image": picture()}, True),
    "flux-controlnet": (
        "flux",
        D.FluxControlNetPipeline,
        {"controlnet": flux_controlnet},
        {"control_image": picture()},
        True,
    ),
}


def made(kind):
    name, cls, parts, call, sized = KINDS[kind]
    pipe = fresh(name)
    components = {k: v for k, v in pipe.components.items() if v is not None}
    components |= {part: make(pipe) for part, make in parts.items()}
    more = (
        {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False} if name == "sd1" else {}
    )
    pipe = cls(**components, **more)
    pipe.set_progress_bar_config(disable=True)
    own = {k: v for k, v in CALL[name].items() if sized or k not in ("height", "width")}
    return pipe, own | call


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_those_of_its_own_call_and_repaired(kind):
    pipe, call = made(kind)
    own = pipe(prompt=PROMPTS, generator=generators(), num_inference_steps=STEPS, output_type="pt", **call).images
    given = {k: v for k, v in call.items() if k != "guidance_scale"}
    told = {"guidance_scale": call["guidance_scale"], "num_inference_steps": STEPS}
    assert torch.equal(
        accord.generate(pipe, PROMPTS, generator=generators(), output_type="pt", call=given, **told), own
    )
    opened = Opened(pipe, STEPS, **call)
    steps = []
    assert torch.equal(torch.as_tensor(opened.pictures(PROMPTS, generators(), before_step=steps.append)), own)
    assert len(steps) == steps[0].count == (3 if "strength" in call else STEPS)
    config = RealignConfig(rounds=1, good_enough=1.0)
    for result in accord.realign(pipe, PROMPTS, [0, 1], config=config, captioner=load_captioner(), call=given, **told):
        assert result.rounds == 1 and result.alignment_after.overall >= result.alignment_before.overall
    assert torch.equal(
        pipe(prompt=PROMPTS, generator=generators(), num_inference_steps=STEPS, output_type="pt", **call).images, own
    )


@pytest.mark.parametrize("kind", ["sd1-img2img", "sdxl-img2img", "flux-img2img"])
def test_a_step_of_the_part_that_is_taken_is_evaluated_again(kind):
    pipe, call = made(kind)
    opened, steps = Opened(pipe, STEPS, **call), []
    final = opened.rollout(PROMPTS, generators(), on_step=steps.append)
    for step in steps:
        assert torch.equal(opened.output(PROMPTS, step.latents, step=step.index), step.output)
    latents = opened.vae_latents(PROMPTS, final).detach()
    assert torch.allclose(opened.state_of(PROMPTS, latents, final), final, atol=1e-4)


@pytest.mark.parametrize("kind", ["sd1-inpaint", "sdxl-inpaint", "flux-inpaint"])
def test_a_last_state_that_is_not_the_pipelines_is_refused(kind):
    """What is kept of the picture is put back after every step, and after the last."""
    pipe, call = made(kind)
    with pytest.raises(InputError, match="changes its state between its steps, as inpainting does"):
        Opened(pipe, STEPS, **call).rollout(PROMPTS, generators())


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("sd1-img2img", "image"),
        ("sd1-inpaint", "mask_image"),
        ("sd1-controlnet", "image"),
        ("flux-control", "control_image"),
    ],
)
def test_a_picture_that_is_not_given_is_named(kind, missing):
    pipe, call = made(kind)
    given = {k: v for k, v in call.items() if k not in (missing, "guidance_scale")}
    for run in (accord.generate, accord.realign):
        with pytest.raises(InputError, match=rf"needs a picture as its argument {missing}; give it in `call`"):
            run(pipe, "a red star", call=given)


def test_a_picture_may_be_a_path(tmp_path):
    pipe, _ = made("sd1-img2img")
    picture().save(tmp_path / "a.png")
    given = call_arguments(pipe, call={"image": str(tmp_path / "a.png")})
    assert given["image"].tobytes() == picture().tobytes()
    with pytest.raises(InputError, match=r"no\.png"):
        call_arguments(pipe, call={"image": str(tmp_path / "no.png")})


def test_one_that_begins_with_a_picture_does_not_begin_with_another():
    pipe, call = made("sd1-img2img")
    with pytest.raises(InputError, match="begins with a picture already; use the `mode` new_seed or same_seed"):
        accord.realign(pipe, PROMPTS, config=RealignConfig(mode="renoise"), captioner=load_captioner(), call=call)
    opened = Opened(pipe, STEPS, **call)
    with pytest.raises(InputError, match="begins with a picture, and not part-way from another"):
        opened.rollout(PROMPTS, generators(), start=opened.noise(PROMPTS, generators()), strength=0.5)


def test_from_the_command_line(accord_cli, tmp_path):
    pipe, _ = made("sd1-img2img")
    pipe.save_pretrained(tmp_path / "pipe")
    picture().save(tmp_path / "a.png")
    told = ["generate", "a red star", "--model", tmp_path / "pipe", "--steps", 4, "--out", tmp_path / "out"]
    code, _, err = accord_cli(*told)
    assert code == 2 and err.count("\n") == 1 and "needs a picture as its argument image" in err
    code, out, err = accord_cli(*told, "--call", f"image={tmp_path / 'a.png'}", "--call", "strength=0.5")
    assert code == 0 and Image.open(out.strip()).size == (32, 32), err
    assert shared("sd1") is not pipe
