"""`accord.load` on what pipelines are saved as: variants, missing parts, single files, any class with a prompt."""

import subprocess
import sys

import pytest
import torch
from conftest import assert_refused, tiny_pipeline, tiny_sd3
from diffusers import StableDiffusionImg2ImgPipeline
from safetensors.torch import save_file
from zoo import CALL, shared

import accord
from accord.types import InputError


def pictures(pipe, **call):
    return accord.generate(pipe, "a red star", 3, output_type="pt", num_inference_steps=2, **call)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_folder_that_holds_one_variant_alone_is_loaded(tmp_path, variant):
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "pipe", variant="fp16")
    assert not (tmp_path / "pipe" / "unet" / "diffusion_pytorch_model.safetensors").exists()
    again = accord.load(str(tmp_path / "pipe"), "cpu", variant=variant)
    assert torch.equal(pictures(again), pictures(pipe))


def test_a_variant_that_is_not_there_is_refused(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "pipe")
    with pytest.raises(InputError, match="no weights of the variant 'fp16'; leave `variant` out"):
        accord.load(str(tmp_path / "pipe"), "cpu", variant="fp16")


def test_a_pipeline_saved_without_one_of_its_text_encoders_is_loaded(tmp_path):
    pipe = tiny_sd3()
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipe.save_pretrained(tmp_path / "pipe")
    again = accord.load(str(tmp_path / "pipe"), "cpu")
    assert again.text_encoder_3 is None
    size = {"height": 32, "width": 32}
    # the weights are the same, but lie elsewhere in memory, where their sums may be rounded otherwise
    assert torch.allclose(pictures(again, **size), pictures(pipe, **size), atol=1e-5)


@pytest.mark.parametrize("name", ["qwenimage", "wan", "ltx"])
def test_classes_that_no_list_of_diffusers_names_are_loaded(tmp_path, name):
    shared(name).save_pretrained(tmp_path / "pipe")
    again = accord.load(str(tmp_path / "pipe"), "cpu")
    assert type(again) is type(shared(name)) and CALL[name]


def test_a_pipeline_that_begins_with_a_picture_is_loaded(tmp_path):
    StableDiffusionImg2ImgPipeline(**tiny_pipeline().components, requires_safety_checker=False).save_pretrained(
        tmp_path / "pipe"
    )
    assert isinstance(accord.load(str(tmp_path / "pipe"), "cpu"), StableDiffusionImg2ImgPipeline)


def test_a_single_file_without_its_configuration_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"cannot be had .*; give `model_config`, a folder or hub id"):
        accord.load(str(tmp_path / "model.safetensors"), "cpu")


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin"])
def test_a_single_file_that_is_a_pickle_is_not_opened(tmp_path, name):
    torch.save({}, tmp_path / name)
    with pytest.raises(InputError, match=r"is no .safetensors file; pickled weights can hold code"):
        accord.load(str(tmp_path / name), "cpu")


@pytest.mark.parametrize(
    "given", [["--height", 33], ["--call", "nonsense=1"], ["--call", "eta"], ["--call", "eta=NaN"]]
)
def test_the_commands_refuse_arguments_that_the_call_does_not_take(accord_cli, given):
    assert_refused(accord_cli("generate", "a red star", "--steps", 1, *given))


def test_the_commands_hand_arguments_to_the_call(accord_cli):
    told = ["--steps", 2, "--negative-prompt", "a key", "--height", 32, "--width", 32, "--call", "eta=0.5"]
    code, out, err = accord_cli("generate", "a red star", *told)
    assert code == 0 and out.endswith("png\n"), err


@pytest.mark.parametrize("load", [accord.load_captioner, accord.load_clip])
def test_a_judge_that_is_not_here_while_the_hub_is_not_reached_says_so(load, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"'nobody/nothing' is not on this machine, and the hub cannot be reached"):
        load("nobody/nothing")


@pytest.mark.parametrize("module", ["accord", "accord.cli"])
def test_the_command_is_a_module_too(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, accord.__version__)
