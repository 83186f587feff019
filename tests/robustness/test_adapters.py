"""An adapter that is on is on whole; what is not is refused or named, and leaves the pipeline as it was."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from conftest import tiny_flux, tiny_pipeline, tiny_sd3, tiny_sdxl
from safetensors.torch import load_file, save_file

import accord

PREFIX = {"sd1": "unet", "sdxl": "unet", "sd3": "transformer", "flux": "transformer"}
MAKE = {"sd1": tiny_pipeline, "sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny pipeline of each kind in a folder."""
    made = {}
    for kind, make in MAKE.items():
        made[kind] = tmp_path_factory.mktemp(kind)
        make().save_pretrained(made[kind])
    return made


def network(pipe, kind="sd1"):
    return getattr(pipe, PREFIX[kind])


def projections(net) -> dict[str, torch.Tensor]:
    return {n: m.weight for n, m in net.named_modules() if n.endswith("to_q") and hasattr(m, "weight")}


def lora(net, prefix="", rank=2, form="{}.lora_A.weight {}.lora_B.weight"):
    generator = torch.Generator().manual_seed(3)
    out = {}
    for name, weight in projections(net).items():
        down, up = form.format(prefix + name, prefix + name).split()
        out[down] = torch.randn(rank, weight.shape[1], generator=generator)
        out[up] = torch.randn(weight.shape[0], rank, generator=generator)
    return out


def changes(net) -> dict[str, torch.Tensor]:
    """What the active adapter adds to each projection."""
    out = {}
    for name, module in net.named_modules():
        for adapter in getattr(module, "active_adapters", ()) if hasattr(module, "lora_A") else ():
            out[name] = module.scaling[adapter] * module.lora_B[adapter].weight @ module.lora_A[adapter].weight
    return out


def same(pipe, other, kind="sd1") -> bool:
    a, b = network(pipe, kind).state_dict(), network(other, kind).state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("kind", MAKE)
def test_an_adapter_of_diffusers_is_on_whole(folders, tmp_path, kind):
    plain = accord.load(str(folders[kind]), "cpu")
    tensors = lora(network(plain, kind), PREFIX[kind] + ".")
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors")
    pipe = accord.load(str(folders[kind]), "cpu", lora=tmp_path)
    found = changes(network(pipe, kind))
    assert len(found) == len(tensors) // 2
    for name, delta in found.items():
        key = f"{PREFIX[kind]}.{name}"
        assert torch.allclose(delta, tensors[f"{key}.lora_B.weight"] @ tensors[f"{key}.lora_A.weight"], atol=1e-5)


def test_a_folder_of_peft_is_read_with_its_alpha(folders, tmp_path):
    import peft

    pipe = accord.load(str(folders["sd1"]), "cpu")
    wrapped = peft.get_peft_model(
        tiny_pipeline().unet, peft.LoraConfig(r=4, lora_alpha=16, target_modules=["to_q", "to_k"])
    )
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    wrapped.save_pretrained(tmp_path / "peft")
    told = torch.randn(1, 4, 16, 16), torch.tensor(10), torch.randn(1, 5, 32)
    with torch.no_grad():
        wanted, before = wrapped(*told)[0], pipe.unet(*told)[0]
        found = accord.load(str(folders["sd1"]), "cpu", lora=tmp_path / "peft").unet(*told)[0]
    assert torch.allclose(found, wanted, atol=1e-3) and not torch.allclose(found, before, atol=1e-2)


def test_kohyas_file_has_each_layers_own_alpha(folders, tmp_path):
    pipe = accord.load(str(folders["sd1"]), "cpu")
    tensors, wanted = {}, {}
    for i, (name, weight) in enumerate(projections(pipe.unet).items()):
        rank, alpha, key = 2 + i % 2, 1.0 + i, "lora_unet_" + name.replace(".", "_")
        down, up = torch.randn(rank, weight.shape[1]), torch.randn(weight.shape[0], rank)
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
        wanted[name] = alpha / rank * up @ down
    save_file(tensors, tmp_path / "kohya.safetensors")
    found = changes(accord.load(str(folders["sd1"]), "cpu", lora=tmp_path / "kohya.safetensors").unet)
    assert found.keys() == wanted.keys()
    for name, delta in found.items():
        assert torch.allclose(delta, wanted[name], atol=1e-4), name


def test_a_small_scale_in_half_precision_is_not_lost(folders, tmp_path):
    pipe = accord.load(str(folders["sd1"]), "cpu")
    name, weight = next(iter(projections(pipe.unet).items()))
    key = "lora_unet_" + name.replace(".", "_")
    down, up = torch.ones(4, weight.shape[1]).half(), (1e-6 * torch.ones(weight.shape[0], 4)).half()
    save_file(
        {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(1 / 64)},
        tmp_path / "x.safetensors",
    )
    found = changes(accord.load(str(folders["sd1"]), "cpu", lora=tmp_path / "x.safetensors").unet)[name]
    assert torch.allclose(found, 1 / 256 * up.float() @ down.float(), rtol=1e-3)


def test_a_second_adapter_that_fails_comes_off_alone(folders, tmp_path):
    from accord.diffusion.adapters import put_on

    pipe = accord.load(str(folders["sd1"]), "cpu")
    tensors = lora(pipe.unet, "unet.")
    save_file(tensors, tmp_path / "first.safetensors")
    put_on(pipe, str(tmp_path / "first.safetensors"))
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    save_file(
        {k: torch.randn(2, 7) if "lora_A" in k else torch.randn(7, 2) for k in tensors}, tmp_path / "second.safetensors"
    )
    with pytest.raises(accord.InputError, match="size mismatch"):
        put_on(pipe, str(tmp_path / "second.safetensors"))
    after = pipe.unet.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize(
    ("case", "part"),
    [
        ("another prefix", "none of its"),
        ("another model", "cannot be loaded"),
        ("misshapen", "size mismatch"),
        ("half", "no two matrices"),
        ("nan", "not finite"),
        ("dora", "DoRA"),
        ("lokr", "LoKr"),
        ("whole numbers", "whole numbers"),
        ("no lora", "no LoRA"),
        ("empty", "holds no LoRA"),
        ("text", "cannot be read"),
        ("of a U-Net on a transformer", "none of its"),
    ],
)
def test_what_cannot_be_put_on_is_refused_and_leaves_nothing(folders, tmp_path, case, part):
    from accord.diffusion.adapters import put_on

    kind = "sd3" if case.startswith("of a U-Net") else "sd1"
    pipe, plain = accord.load(str(folders[kind]), "cpu"), accord.load(str(folders[kind]), "cpu")
    tensors = lora(accord.load(str(folders["sd1"]), "cpu").unet, "unet.")
    first = next(iter(tensors))
    if case == "another prefix":
        tensors = {"model.diffusion." + k: v for k, v in tensors.items()}
    elif case == "another model":
        tensors = {k.replace("transformer_blocks", "blocks"): v for k, v in tensors.items()}
    elif case == "misshapen":
        tensors[first] = torch.randn(2, 7)
    elif case == "half":
        del tensors[first]
    elif case == "nan":
        tensors[first][0, 0] = float("nan")
    elif case == "dora":
        tensors[first.replace("lora_A.weight", "lora_magnitude_vector")] = torch.ones(3)
    elif case == "lokr":
        tensors = {"unet.x.lokr_w1": torch.ones(2, 2)}
    elif case == "whole numbers":
        tensors[first] = tensors[first].long()
    elif case == "no lora":
        tensors = {"unet.conv_in.weight": torch.ones(2, 2)}
    elif case == "empty":
        tensors = {}
    path = tmp_path / "adapter.safetensors"
    save_file(tensors, path)
    if case == "text":
        path.write_text("no tensors")
    with pytest.raises(accord.InputError, match=part):
        put_on(pipe, str(path))
    assert same(pipe, plain, kind)


def test_modules_that_are_not_there_are_named(folders, tmp_path):
    pipe = accord.load(str(folders["sd1"]), "cpu")
    tensors = lora(pipe.unet, "unet.") | {
        "unet.no.such.lora_A.weight": torch.randn(2, 32),
        "unet.no.such.lora_B.weight": torch.randn(32, 2),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        accord.load(str(folders["sd1"]), "cpu", lora=tmp_path / "x.safetensors")
    assert any("unet.no.such" in str(w.message) for w in said)


def test_the_command_line_tells_of_them_too(folders, tmp_path, capfd, monkeypatch):
    from accord import cli

    pipe = accord.load(str(folders["sd1"]), "cpu")
    tensors = lora(pipe.unet, "unet.") | {
        "unet.no.such.lora_A.weight": torch.randn(2, 32),
        "unet.no.such.lora_B.weight": torch.randn(32, 2),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    line = [
        "generate",
        "a star",
        "--model",
        folders["sd1"],
        "--lora",
        tmp_path / "x.safetensors",
        "--steps",
        "1",
        "--out",
        tmp_path / "out",
        "--json",
    ]
    monkeypatch.setattr("sys.argv", ["accord", *map(str, line)])
    with pytest.raises(SystemExit) as end, warnings.catch_warnings():
        cli.main()
    said = capfd.readouterr().err
    assert not end.value.code and "note: adapter" in said and "unet.no.such" in said


def test_a_pickled_adapter_is_refused_with_the_mend(folders, tmp_path):
    torch.save({"unet.x.lora_A.weight": torch.ones(1, 1)}, tmp_path / "pytorch_lora_weights.bin")
    with pytest.raises(accord.InputError, match="pickled") as refusal:
        accord.load(str(folders["sd1"]), "cpu", lora=tmp_path)
    assert "safetensors" in str(refusal.value) and "weights_only" not in str(refusal.value)


def test_an_alpha_pattern_is_taken_as_a_name(folders, tmp_path):
    """An expression out of a file may never end; peft itself writes names."""
    pipe = accord.load(str(folders["sd1"]), "cpu")
    folder = tmp_path / "peft"
    folder.mkdir()
    names = list(projections(pipe.unet))
    save_file({"base_model.model." + k: v for k, v in lora(pipe.unet).items()}, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "alpha_pattern": {names[0]: 8, "(a+)+$": 4}}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    found = changes(accord.load(str(folders["sd1"]), "cpu", lora=folder).unet)
    saved = load_file(folder / "adapter_model.safetensors")
    for name in names:
        key = f"base_model.model.{name}"
        wanted = (4.0 if name == names[0] else 1.0) * saved[f"{key}.lora_B.weight"] @ saved[f"{key}.lora_A.weight"]
        assert torch.allclose(found[name], wanted, atol=1e-4), name


def test_the_embedded_adapter_is_on(tmp_path):
    pipe = accord.load(device="cpu", lora="lab")
    assert len(changes(pipe.unet)) * 2 == len(
        load_file(Path(accord.__file__).parent / "embedded/tuned/pytorch_lora_weights.safetensors")
    )
