"""Nothing of a model's folder is run, and what is missing, misshapen, left over or not finite is refused."""

import builtins
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import MODELS, tiny_blip2, tiny_pipeline
from safetensors.torch import load_file, save_file

import accord
from accord.types import InputError


def changed(path: Path, change) -> None:
    """A safetensors file with its tensors changed in place."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def config_changed(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def drop(name: str):
    return lambda tensors: tensors.pop(name)


def spoil(name: str, value: float = float("nan")):
    return lambda tensors: tensors[name].view(-1)[:1].fill_(value)


def some(path: Path, part: str = "") -> str:
    return next(k for k in sorted(load_file(path)) if part in k)


@pytest.fixture
def pipeline_folder(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.fixture
def judge(tmp_path, request):
    """A copy of an embedded model: (folder, what loads it)."""
    shutil.copytree(MODELS / request.param, tmp_path / request.param)
    load = {"captioner": accord.load_captioner, "clip": accord.load_clip, "inverter": accord.Inverter.from_pretrained}[
        request.param
    ]
    return tmp_path / request.param, load


WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


# --- code -----------------------------------------------------------------------------------------------------------
def test_an_inverter_folder_cannot_run_code(tmp_path, monkeypatch):
    """Its config named any function of transformers, which imported a file of the folder."""
    folder = tmp_path / "inverter"
    shutil.copytree(MODELS / "inverter", folder)
    (folder / "evil.py").write_text(
        "import builtins\nbuiltins.accord_was_run = True\nclass Evil:\n    def __init__(self, *a, **k): pass\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config["predictors"][0]["architecture"] |= {
        "config_module": "transformers.models.auto.auto_factory",
        "config_class": "get_class_from_dynamic_module",
        "config": {"class_reference": "evil.Evil", "pretrained_model_name_or_path": str(folder)},
        "class": "Evil",
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError):
        accord.Inverter.from_pretrained(folder)
    assert not hasattr(builtins, "accord_was_run")


@pytest.mark.parametrize("module", ["transformers.models.auto.modeling_auto", "transformers.utils.hub", "os"])
def test_an_inverter_calls_known_classes_alone(tmp_path, module):
    folder = tmp_path / "inverter"
    shutil.copytree(MODELS / "inverter", folder)
    config = json.loads((folder / "config.json").read_text())
    config["predictors"][0]["architecture"] |= {
        "module": module,
        "class": "system",
        "config_module": module,
        "config_class": "system",
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no other class is called"):
        accord.Inverter.from_pretrained(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": 10**9},
        {"num_hidden_layers": 10**7},
        {"hidden_size": [1]},
        {"_attn_implementation": "x/y", "hidden_act": "os.system"},
    ],
)
def test_an_inverters_sizes_are_those_of_its_file(tmp_path, settings):
    folder = tmp_path / "inverter"
    shutil.copytree(MODELS / "inverter", folder)
    config = json.loads((folder / "config.json").read_text())
    config["predictors"][0]["architecture"]["config"] |= settings
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError):
        accord.Inverter.from_pretrained(folder)


@pytest.mark.parametrize("judge", ["captioner", "clip"], indirect=True)
def test_custom_code_is_not_asked_for(judge, monkeypatch):
    folder, load = judge
    (folder / "mine.py").write_text("import builtins\nbuiltins.accord_was_run = True\n")
    config_changed(
        folder / "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}
    )
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("it asked on the terminal"))
    with pytest.raises(InputError, match="code of its own") as refusal:
        load(str(folder))
    assert "trust_remote_code" not in str(refusal.value) and not hasattr(builtins, "accord_was_run")


@pytest.mark.parametrize(
    "part",
    [
        ["os", "system"],
        ["subprocess", "Popen"],
        ["evil", "Evil"],
        ["diffusers", "a.b"],
        ["transformers"],
        "no",
        [1, 2],
        ["accord.files", "write_file"],
    ],
)
def test_a_pipelines_parts_are_of_the_two_libraries(pipeline_folder, part, monkeypatch):
    (pipeline_folder / "unet" / "evil.py").write_text("import builtins\nbuiltins.accord_was_run = True\n")
    monkeypatch.syspath_prepend(pipeline_folder / "unet")
    config_changed(pipeline_folder / "model_index.json", unet=part)
    with pytest.raises(InputError):
        accord.load(str(pipeline_folder), "cpu")
    assert not hasattr(builtins, "accord_was_run") and "evil" not in sys.modules


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "value"),
    [("layers_per_block", 10**9), ("transformer_layers_per_block", [1, 10**9]), ("cross_attention_dim", 10**12)],
)
def test_a_config_of_endless_layers_is_refused(pipeline_folder, name, value):
    config_changed(pipeline_folder / "unet" / "config.json", **{name: value})
    with pytest.raises(InputError, match=name):
        accord.load(str(pipeline_folder), "cpu")


def test_attention_code_is_not_fetched(pipeline_folder):
    config_changed(pipeline_folder / "text_encoder" / "config.json", attn_implementation="someone/kernels")
    with pytest.raises(InputError, match="someone/kernels"):
        accord.load(str(pipeline_folder), "cpu")


@pytest.mark.parametrize("judge", ["captioner", "clip"], indirect=True)
def test_pickled_weights_are_refused_with_the_mend(judge):
    folder, load = judge
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="pickled") as refusal:
        load(str(folder))
    assert "convert" in str(refusal.value) and "weights_only" not in str(refusal.value)


def test_a_pipelines_pickled_weights_are_refused(pipeline_folder):
    torch.save(load_file(pipeline_folder / WEIGHTS["unet"]), pipeline_folder / "unet" / "diffusion_pytorch_model.bin")
    (pipeline_folder / WEIGHTS["unet"]).unlink()
    with pytest.raises(InputError, match="pickled"):
        accord.load(str(pipeline_folder), "cpu")


# --- weights --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize(("change", "said"), [(drop, "lacks weights"), (spoil, "not finite")])
def test_a_pipeline_whose_weights_are_not_whole_is_refused(pipeline_folder, part, change, said):
    path = pipeline_folder / WEIGHTS[part]
    name = some(path, "weight")
    changed(path, change(name))
    with pytest.raises(InputError, match=said) as refusal:
        accord.load(str(pipeline_folder), "cpu")
    assert name.split(".")[-2] in str(refusal.value)


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_pipeline_whose_config_is_of_other_weights_is_refused(pipeline_folder, part):
    path = pipeline_folder / WEIGHTS[part]
    changed(path, lambda tensors: tensors.update({"another.layer.weight": torch.ones(2)}))
    with pytest.raises(InputError, match="no place for"):
        accord.load(str(pipeline_folder), "cpu")


def test_whole_numbers_are_no_weights(pipeline_folder):
    path = pipeline_folder / WEIGHTS["unet"]
    changed(path, lambda tensors: tensors.update({"conv_in.weight": tensors["conv_in.weight"].long()}))
    with pytest.raises(InputError, match="whole numbers in the place of weights"):
        accord.load(str(pipeline_folder), "cpu")


def test_misshapen_weights_are_refused(pipeline_folder):
    path = pipeline_folder / WEIGHTS["unet"]
    changed(path, lambda tensors: tensors.update({"conv_in.weight": torch.ones(3, 3)}))
    with pytest.raises(InputError, match=r"conv_in|shape"):
        accord.load(str(pipeline_folder), "cpu")


@pytest.mark.parametrize("judge", ["captioner", "clip", "inverter"], indirect=True)
@pytest.mark.parametrize(("change", "said"), [(drop, "lacks weights|does not fit"), (spoil, "not finite")])
def test_a_judge_whose_weights_are_not_whole_is_refused(judge, change, said):
    folder, load = judge
    path = next(folder.glob("*.safetensors"))
    changed(path, change(some(path, "weight")))
    with pytest.raises(InputError, match=said):
        load(str(folder))


@pytest.mark.parametrize("judge", ["clip"], indirect=True)
def test_a_clip_without_its_projection_is_refused(judge):
    folder, load = judge
    changed(folder / "model.safetensors", drop("visual_projection.weight"))
    with pytest.raises(InputError, match="visual_projection"):
        load(str(folder))


@pytest.mark.parametrize("judge", ["captioner", "clip"], indirect=True)
@pytest.mark.parametrize(
    "values",
    [
        {"image_mean": [float("nan"), 0.5, 0.5]},
        {"image_std": [0.0, 0.5, 0.5]},
        {"image_std": [float("inf"), 1, 1]},
        {"image_mean": 0.5},
        {"image_std": [0.5]},
        {"image_mean": ["a", 1, 1]},
    ],
)
def test_a_processor_that_makes_no_numbers_is_refused(judge, values):
    folder, load = judge
    config_changed(folder / "preprocessor_config.json", **values)
    with pytest.raises(InputError, match="processor"):
        load(str(folder))


def test_an_inverters_weights_are_no_whole_numbers(tmp_path):
    folder = tmp_path / "inverter"
    shutil.copytree(MODELS / "inverter", folder)
    changed(
        folder / "predictor-0.safetensors",
        lambda tensors: tensors.update({"embed.weight": tensors["embed.weight"].long()}),
    )
    with pytest.raises(InputError, match="whole numbers"):
        accord.Inverter.from_pretrained(folder)


def test_an_inverters_mean_must_be_finite(tmp_path):
    folder = tmp_path / "inverter"
    shutil.copytree(MODELS / "inverter", folder)
    config = json.loads((folder / "config.json").read_text())
    config["predictors"][0]["architecture"]["std"] = [0.5, 0.0, 0.5]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="deviation"):
        accord.Inverter.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["vit", "swin", "dinov2"])
def test_a_tower_of_the_hub_comes_back(tmp_path, kind):
    import transformers as t

    from accord.methods.invert.config import PredictorConfig
    from accord.methods.invert.inverter import Inverter
    from accord.methods.invert.predictors import build
    from accord.methods.invert.vocabulary import Vocabulary

    small = {
        "image_size": 32,
        "patch_size": 8,
        "id2label": {0: "a", 1: "b", 2: "c"},
        "label2id": {"a": 0, "b": 1, "c": 2},
    }
    sizes = (
        {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
        if kind == "swin"
        else {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    )
    made = {
        "vit": (t.ViTForImageClassification, t.ViTConfig),
        "swin": (t.SwinForImageClassification, t.SwinConfig),
        "dinov2": (t.Dinov2ForImageClassification, t.Dinov2Config),
    }
    network, config = made[kind]
    network(config(**small, **sizes)).save_pretrained(tmp_path / "hub")
    how = PredictorConfig(kind="swin" if kind == "swin" else "vit", model=str(tmp_path / "hub"), hidden=8)
    predictor = build(how, 2)
    Inverter([predictor], [how], Vocabulary(("red", "star"))).save_pretrained(tmp_path / "inverter")
    back = Inverter.from_pretrained(tmp_path / "inverter").predictors[0]
    pixels = torch.rand(1, 3, 32, 32)
    assert torch.allclose(back.eval()(pixels)[0], predictor.eval()(pixels)[0], atol=1e-2)


def test_scores_that_are_not_finite_are_refused():
    from PIL import Image

    captioner = accord.load_captioner()
    with torch.no_grad():
        captioner.model.text_decoder.cls.predictions.bias.fill_(float("nan"))
    with pytest.raises(InputError, match="captioner are not finite"):
        accord.score(Image.new("RGB", (64, 64)), "a red star", captioner)
    clip = accord.load_clip()
    with torch.no_grad():
        clip.model.visual_projection.weight[0, 0] = float("inf")
    with pytest.raises(InputError, match="CLIP are not finite"):
        accord.score(Image.new("RGB", (64, 64)), "a red star", clip=clip)


def test_a_context_whose_weights_are_not_whole_is_refused(tmp_path):
    from accord.methods.context.pipeline import load_context, new_relation

    pipe = tiny_pipeline()
    new_relation(pipe).save_pretrained(tmp_path / "relation")
    (tmp_path / "config.json").write_text(json.dumps({"shift": "quadratic"}))
    load_context(pipe, tmp_path)
    path = tmp_path / "relation" / "diffusion_pytorch_model.safetensors"
    changed(path, spoil("out.weight"))
    with pytest.raises(InputError, match="not finite"):
        load_context(pipe, tmp_path)
    changed(path, drop("out.weight"))
    with pytest.raises(InputError, match="lacks weights"):
        load_context(pipe, tmp_path)


def test_a_blip2_without_the_pictures_place_is_refused_before_the_sampling(tmp_path):
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    folder, judge = tmp_path / "blip2", tiny_blip2()
    judge.model.save_pretrained(folder)
    judge.tokenizer.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    accord.load_captioner(str(folder))
    config = json.loads((folder / "config.json").read_text())
    config.pop("image_token_index")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="image_token_index"):
        accord.load_captioner(str(folder))


# --- files that are none --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("judge", ["captioner", "clip"], indirect=True)
def test_a_pipe_in_a_models_folder_does_not_hang(judge, name):
    folder, load = judge
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match="pipe, a device or a socket"):
        load(str(folder))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"model_type": ' + "1" * 5000 + "}",
        '{"a": 1, "a": 2}',
        "[1]",
        "",
        "\xff",
        '{"vision_config": NaN}',
    ],
)
@pytest.mark.parametrize("judge", ["captioner", "clip", "inverter"], indirect=True)
def test_a_damaged_config_is_one_sentence(judge, text):
    folder, load = judge
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as refusal:
        load(str(folder))
    assert "\n" not in str(refusal.value)
