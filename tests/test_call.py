"""What a pipeline's own call is given, and what would be passed over or misread: small inputs that failed."""

import pytest
import torch
from zoo import CALL, fresh, shared

from accord.diffusion.call import call_arguments
from accord.diffusion.generate import generate
from accord.diffusion.opened import Opened
from accord.diffusion.spans import read_texts
from accord.diffusion.tap import attention_layout, observed
from accord.methods.edit.editing import edit_pixels, flow_edit, invert
from accord.types import InputError

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
