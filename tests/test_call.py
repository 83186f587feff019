"""What a pipeline's own call is given, and what would be passed over or misread: small inputs that failed."""

import pytest
import torch
from zoo import CALL, fresh, shared

from accord.diffusion.call import call_arguments
from accord.diffusion.generate import generate
from accord.diffusion.opened import Opened, size_unit
from accord.diffusion.spans import read_texts
from accord.diffusion.tap import attention_layout, observed
from accord.judges.captioners import load_captioner
from accord.methods.edit.editing import edit_pixels, flow_edit, invert
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.fine import realign
from accord.types import InputError, a_kind

RED = "a red star"


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


# --- what would not be used -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("hunyuanimage", {"guidance_scale": 1.0, "negative_prompt": "a key"}, "not used without guidance"),
        ("sdxl", {"guidance_scale": 1.0, "call": {"negative_prompt_2": "a key"}}, "not used without guidance"),
        ("sdxl", {"num_inference_steps": 7, "call": {"timesteps": [900, 500]}}, "not used beside timesteps"),
        ("sd1", {"negative_prompt": "a key", "call": {"negative_prompt": "a moon"}}, "given twice"),
        ("sd1", {"guidance_scale": -3.0}, "at least 0, not -3.0"),
        ("sd1", {"num_inference_steps": 0}, "a whole number of at least 1, not 0"),
        ("sd1", {"num_inference_steps": 1.5}, "a whole number of at least 1, not 1.5"),
        ("sd1", {"call": {"num_images_per_prompt": 2}}, "num_images_per_prompt is no further argument"),
        ("sd1", {"call": {"clip_skip": "foo"}}, "clip_skip of a StableDiffusionPipeline is not to be 'foo'; give int"),
        ("sd1", {"call": {"guidance_rescale": "abc"}}, "is not to be 'abc'; give float or int"),
        ("sd1", {"call": {"cross_attention_kwargs": "foo"}}, "give dict"),
        ("sd1", {"call": {"latents": 3}}, "latents of a StableDiffusionPipeline is not to be 3; give Tensor"),
        ("sd1", {"call": {"callback_on_step_end": 3}}, "is not to be 3"),
    ],
)
def test_what_would_not_be_used_or_is_of_another_kind_is_refused(name, given, message):
    with pytest.raises(InputError, match=message):
        call_arguments(shared(name), **given)


def distilled(name):
    """As the zoo's, with a network that takes no guidance, or a pipeline that says so."""
    pipe = fresh(name)
    if name == "flux":  # FLUX.1 schnell
        config = {k: v for k, v in pipe.transformer.config.items() if not k.startswith("_")}
        pipe.register_modules(transformer=type(pipe.transformer)(**{**config, "guidance_embeds": False}).eval())
    elif name == "flux2klein":
        pipe.register_to_config(is_distilled=True)
    else:  # LCM: the scale is an input of its network
        pipe.unet.register_to_config(time_cond_proj_dim=16)
    return pipe


@pytest.mark.parametrize("name", ["flux", "flux2klein"])
def test_a_guidance_that_would_be_passed_over_is_refused(name):
    pipe = distilled(name)
    with pytest.raises(InputError, match=r"passes guidance_scale=4 over, as its network takes none; leave it out"):
        call_arguments(pipe, guidance_scale=4.0)
    with pytest.raises(InputError, match="passes guidance_scale=4 over"):
        call_arguments(pipe, call={"guidance_scale": 4.0})
    assert call_arguments(pipe, guidance_scale=1.0)["guidance_scale"] == 1.0
    assert "guidance_scale" not in call_arguments(pipe)
    call_arguments(shared(name), guidance_scale=4.0)


def test_qwens_other_scale_is_named():
    with pytest.raises(
        InputError, match="passes guidance_scale=4 over, as its network takes none; give true_cfg_scale"
    ):
        call_arguments(shared("qwenimage"), call={"guidance_scale": 4.0})


@pytest.mark.parametrize("name", ["flux2klein", "sd1"])
def test_a_negative_prompt_that_a_distilled_pipeline_would_not_use_is_refused(name):
    pipe = distilled(name)
    with pytest.raises(InputError, match=r"takes no negative prompt|not used by this .* distilled"):
        call_arguments(pipe, negative_prompt="a key")


def test_an_argument_is_given_once():
    for run in (generate, realign):
        with pytest.raises(InputError, match="height is given twice, as a keyword and in `call`"):
            run(shared("sd1"), RED, call={"height": 32}, height=32)


def test_keywords_of_realign_are_arguments_of_the_call():
    told = {"num_inference_steps": 1, "captioner": load_captioner(), "config": RealignConfig(rounds=0)}
    (made,) = realign(shared("sd1"), RED, height=32, width=48, **told)
    assert made.before.size == (48, 32)
    with pytest.raises(InputError, match="takes no heigth; did you mean height"):
        realign(shared("sd1"), RED, heigth=32, **told)


def test_one_second_prompt_is_for_all_pictures():
    call = {k: v for k, v in CALL["sdxl"].items() if k != "guidance_scale"}
    told = {"seeds": 0, "num_inference_steps": 1, "output_type": "pt", "guidance_scale": 5.0}
    one = generate(
        shared("sdxl"), [RED, "two green moon"], prompt_2="a key", negative_prompt_2="a moon", **call, **told
    )
    alone = generate(shared("sdxl"), "two green moon", prompt_2="a key", negative_prompt_2="a moon", **call, **told)
    assert torch.allclose(one[1], alone[0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "unit"), [("sd1", 2), ("sd35", 4), ("flux", 4), ("auraflow", 4), ("cogvideox", 16), ("hunyuanimage", 2)]
)
def test_a_size_is_a_multiple_of_what_vae_and_patches_make(name, unit):
    assert size_unit(shared(name)) == unit
    for side in (unit * 8 + unit // 2, unit * 8 + 1):
        with pytest.raises(
            InputError, match=f"`width` must be a multiple of {unit} for an? {type(shared(name)).__name__}"
        ):
            call_arguments(shared(name), height=unit * 8, width=side)


def test_a_size_that_fails_within_the_call_is_named():
    """AuraFlow has no positions for more patches than it was made for."""
    call = {k: v for k, v in CALL["auraflow"].items() if k not in ("height", "width", "guidance_scale")}
    with pytest.raises(InputError, match=r"fails at height=64, width=64 .*`height` and `width` multiples of 4"):
        generate(shared("auraflow"), RED, num_inference_steps=1, height=64, width=64, **call)


def test_errors_of_hands_are_no_errors_of_the_size():
    def fail(step):
        raise RuntimeError("of a hand")

    with pytest.raises(RuntimeError, match="of a hand"):
        Opened(shared("sd1"), 2, **CALL["sd1"]).rollout([RED], generators(0), on_step=fail)


def test_what_fits_is_handed_on():
    call = {"timesteps": [900, 500], "cross_attention_kwargs": {"scale": 0.5}, "clip_skip": 1, "guidance_rescale": 0}
    given = call_arguments(shared("sdxl"), guidance_scale=5, call=call)
    assert given["num_inference_steps"] == 2 and all(given[name] == value for name, value in call.items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"num_inference_steps": 5000}, "cannot take these steps"),
        ({"seeds": []}, "no prompts or no seeds"),
        ({"seeds": 2**64}, "a seed must be in 0 to"),
        ({"seeds": "one"}, "seeds must be whole numbers"),
    ],
)
def test_numbers_out_of_range_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        generate(shared("sd1"), RED, **{"num_inference_steps": 1, **given})


def test_another_size_than_was_asked_for_is_refused():
    with pytest.raises(InputError, match=r"a HiDreamImagePipeline makes height=.* where 64 is asked for"):
        generate(shared("hidream"), RED, num_inference_steps=1, call={**CALL["hidream"], "height": 64, "width": 64})
    with pytest.raises(InputError, match=r"a WanPipeline makes num_frames=.* where 6 is asked for"):
        generate(shared("wan"), RED, num_inference_steps=1, call={**CALL["wan"], "num_frames": 6})


def test_pictures_of_another_size_or_number_are_refused():
    opened = Opened(shared("sd35"), 2, **CALL["sd35"])
    for shape, message in (((1, 3, 48, 32), "48x32 pixels are not of the size"), ((2, 3, 32, 32), "for 1 prompts")):
        with pytest.raises(InputError, match=message):
            opened.encode([RED], torch.rand(shape))


def test_a_start_and_its_strength_go_together():
    opened = Opened(shared("sd1"), 2, **CALL["sd1"])
    state = opened.noise([RED], generators(0))
    with pytest.raises(InputError, match="start and strength go together"):
        opened.rollout([RED], generators(0), start=state)
    with pytest.raises(InputError, match="start and strength go together"):
        opened.rollout([RED], generators(0), strength=0.5)


# --- edits ------------------------------------------------------------------------------------------------------------
def test_edits_of_other_steps_or_without_an_inverse_are_refused():
    four, eight = (Opened(shared("sd35"), n, **CALL["sd35"]) for n in (4, 8))
    x0 = four.noise([RED], generators(0))
    with pytest.raises(InputError, match="source and target run other steps"):
        flow_edit(four, eight, [RED], [RED], x0, generators(0))
    with pytest.raises(InputError, match="source and target run other steps"):
        edit_pixels(four, eight, torch.rand(3, 32, 32), RED, RED, torch.Generator().manual_seed(0))
    pipe = fresh("sd1")
    pipe.scheduler = type(pipe.scheduler).from_config(
        pipe.scheduler.config, prediction_type="sample", set_alpha_to_one=True
    )
    opened = Opened(pipe, 3, **CALL["sd1"])
    with pytest.raises(InputError, match="keeps nothing of its state, so it has no inverse"):
        invert(opened, [RED], opened.noise([RED], generators(0)))


# --- which rows, which tokens -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("negative", [RED, f"{RED}, a key", "a key"])
@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd35", "sana", "hidream", "qwenimage"])
def test_the_prompts_rows_are_found_beside_a_negative_prompt_that_holds_them(name, negative):
    own = {**CALL[name], **({"negative_prompt": " "} if "true_cfg_scale" in CALL[name] else {})}
    usual = read_texts(Opened(shared(name), 2, **own), [RED])
    found = read_texts(Opened(shared(name), 2, **{**CALL[name], "negative_prompt": negative}), [RED])
    assert (found.rows, found.call) == (usual.rows, usual.call)


@pytest.mark.parametrize("name", ["lumina2", "zimage", "flux2klein", "qwenimage", "krea2"])
@pytest.mark.parametrize("prompt", ["a", "user", "an assistant", "color and text"])
def test_words_that_a_template_holds_are_found_in_the_prompt(name, prompt):
    opened = Opened(shared(name), 2, **CALL[name])
    texts, plain = read_texts(opened, [prompt]), read_texts(opened, ["red star"])

    def first(found):
        return next(i for i, s in enumerate(found.spans[found.longest][0]) if s is not None)

    assert first(texts) == first(plain)
    spans = [s for s in texts.spans[texts.longest][0] if s is not None]
    letters = {i for i, letter in enumerate(prompt) if letter != " "}
    assert letters <= {i for low, high in spans for i in range(low, high)}


@pytest.mark.parametrize("name", ["sd1", "sdxl", "flux", "qwenimage"])
def test_a_prompt_that_ends_another_ones_is_read_off_its_own_row(name):
    prompts = ["a picture of a flag", "a flag", "there is a flag", "a flag"]
    texts = read_texts(Opened(shared(name), 2, **CALL[name]), prompts)
    assert len(set(texts.rows)) == 4
    for row, prompt in zip(texts.spans[texts.longest], prompts, strict=True):
        letters = {i for span in row if span is not None for i in range(*span)}
        assert {i for i, letter in enumerate(prompt) if letter != " "} <= letters


@pytest.mark.parametrize("name", ["chroma", "qwenimage", "flux", "sd1"])
def test_latents_are_not_read_as_texts(name):
    """Of many tokens of noise some round to something that looks dyed."""
    opened = Opened(shared(name), 1, **{**CALL[name], "height": 128, "width": 128})
    texts = read_texts(opened, [RED])
    assert list(texts.spans) == ["encoder_hidden_states"]


def test_images_at_other_places_of_a_row_are_refused():
    opened, prompts = (
        Opened(shared("lumina2"), 2, **CALL["lumina2"]),
        [RED, "a red star and the green moon on the left"],
    )
    with (
        pytest.raises(InputError, match="texts of other lengths move the image of a Lumina2Pipeline"),
        observed(opened, attention_layout(opened, prompts), lambda attention: None),
    ):
        raise AssertionError("entered")


def test_an_interrupted_forward_leaves_no_tap():
    pipe = shared("sd1")
    opened = Opened(pipe, 2, **CALL["sd1"])
    where, plain = attention_layout(opened, [RED]), opened.rollout([RED], generators(0))

    def stop(*_):
        raise KeyboardInterrupt

    handle = pipe.unet.mid_block.register_forward_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt), observed(opened, where, lambda a: torch.zeros_like(a.query)):
            opened.rollout([RED], generators(0))
    finally:
        handle.remove()
    assert not torch.overrides._get_current_function_mode_stack()
    assert torch.equal(opened.rollout([RED], generators(0)), plain)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("LTXPipeline", "an LTXPipeline"),
        ("SD3Transformer2DModel", "an SD3Transformer2DModel"),
        ("AuraFlowPipeline", "an AuraFlowPipeline"),
        ("EulerDiscreteScheduler", "an EulerDiscreteScheduler"),
        ("FluxPipeline", "a FluxPipeline"),
        ("HiDreamImagePipeline", "a HiDreamImagePipeline"),
        ("UNet2DConditionModel", "a UNet2DConditionModel"),
        ("UniPCMultistepScheduler", "a UniPCMultistepScheduler"),
        ("DDIMScheduler", "a DDIMScheduler"),
        ("StableDiffusionPipeline", "a StableDiffusionPipeline"),
    ],
)
def test_articles_are_those_that_are_spoken(name, said):
    assert a_kind(name) == said


def test_a_negative_prompt_whose_end_would_fall_off_is_refused():
    pipe = shared("sd1")
    call_arguments(pipe, negative_prompt="blurry")
    with pytest.raises(InputError, match=r"the negative prompt is longer than the \d+ tokens .* star'; shorten it"):
        call_arguments(pipe, negative_prompt="a " * 80 + "star")
