"""Single `.safetensors` files: SD 1 and XL with all weights, named as files are published, and a denoiser alone."""

from __future__ import annotations

import functools
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig
from zoo import CALL, fresh, shared

import accord
from accord.types import InputError

PROMPT = "a red star"
# names of diffusers -> those of published files, in order
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE = {
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "resnets": "block",
}
# of open_clip, in which XL's second text encoder is published
OPEN_CLIP = {
    "text_model.": "",
    "encoder.layers": "transformer.resblocks",
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def renamed(name, table):
    for old, new in table.items():
        name = name.replace(old, new)
    return name


def unet_name(name, layers, attended):
    """
    Args:
        layers: of a down block.
        attended: the up blocks that have attention.
    """
    match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
    if match:
        way, block, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        each = layers + 1
        if way == "down":
            place = {"downsamplers": (block + 1) * each}.get(kind, 1 + block * each + number)
            name = f"input_blocks.{place}.{int(kind == 'attentions')}.{rest.replace('conv.', 'op.', kind[0] == 'd')}"
        elif kind == "upsamplers":
            name = f"output_blocks.{block * each + layers}.{2 if block in attended else 1}.{rest}"
        else:
            name = f"output_blocks.{block * each + number}.{int(kind == 'attentions')}.{rest}"
    name = renamed(name, UNET)
    return "model.diffusion_model." + (name if "transformer_blocks" in name else renamed(name, RESNET))


def unet_weights(unet):
    attended = [i for i, kind in enumerate(unet.config.up_block_types) if "CrossAttn" in kind]
    return {unet_name(k, unet.config.layers_per_block, attended): v for k, v in unet.state_dict().items()}


def vae_weights(vae):
    last = len(vae.config.block_out_channels) - 1
    turned = {
        re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{last - int(m[1])}", k): v for k, v in vae.state_dict().items()
    }
    return {"first_stage_model." + renamed(k.replace("down_blocks", "down"), VAE): v for k, v in turned.items()}


def clip_weights(encoder, prefix):
    return {f"{prefix}text_model.{k.removeprefix('text_model.')}": v for k, v in encoder.state_dict().items()}


def open_clip_weights(encoder, prefix):
    """Queries, keys and values are one matrix, the projection is turned."""
    found = {}
    for key, value in encoder.state_dict().items():
        if key == "text_projection.weight":
            found[prefix + "text_projection"] = value.T
        elif match := re.fullmatch(r"(.*)self_attn\.q_proj\.(weight|bias)", key):
            parts = [encoder.state_dict()[f"{match[1]}self_attn.{n}_proj.{match[2]}"] for n in "qkv"]
            found[prefix + renamed(match[1], OPEN_CLIP) + f"attn.in_proj_{match[2]}"] = torch.cat(parts)
        elif not re.search(r"self_attn\.[kv]_proj", key):
            found[prefix + renamed(key, OPEN_CLIP)] = value
    return found


@functools.cache
def pipeline(name):
    """The zoo's; of XL with another width of its second encoder, by which diffusers tells the two apart in a file."""
    if name != "sdxl":
        return shared(name)
    pipe = fresh(name)
    torch.manual_seed(0)
    config = {**pipe.text_encoder_2.config.to_dict(), "hidden_size": 64, "intermediate_size": 64}
    encoder = type(pipe.text_encoder_2)(CLIPTextConfig.from_dict(config))
    known = {k: v for k, v in pipe.unet.config.items() if not k.startswith("_")}
    unet = type(pipe.unet)(**{**known, "cross_attention_dim": 32 + 64})
    pipe.register_modules(text_encoder_2=encoder.eval(), unet=unet.eval())
    return pipe


def all_weights(name):
    pipe = pipeline(name)
    found = unet_weights(pipe.unet) | vae_weights(pipe.vae)
    if name == "sd1":
        return found | clip_weights(pipe.text_encoder, "cond_stage_model.transformer.")
    found |= clip_weights(pipe.text_encoder, "conditioner.embedders.0.transformer.")
    return found | open_clip_weights(pipe.text_encoder_2, "conditioner.embedders.1.model.")


def saved(name, tmp_path, weights):
    """The file, and the folder of a pipeline of its kind."""
    pipeline(name).save_pretrained(tmp_path / name)
    file = tmp_path / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in weights.items()}, file)
    return str(file), str(tmp_path / name)


def without_weights(folder):
    """As a folder of configurations and tokenizers alone."""
    for path in sorted(folder.rglob("*.safetensors")):
        path.unlink()


def check_same(pipe, name):
    call = {k: v for k, v in CALL[name].items() if k != "guidance_scale"}
    told = {"num_inference_steps": 2, "guidance_scale": 5.0, "output_type": "pt", "call": call}
    # the weights are the same, but lie elsewhere in memory, where their sums may be rounded otherwise
    assert torch.allclose(
        accord.generate(pipe, PROMPT, **told), accord.generate(pipeline(name), PROMPT, **told), atol=1e-5
    )


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_file_with_all_weights_is_loaded_by_a_folder_of_configurations(name, tmp_path):
    file, folder = saved(name, tmp_path, all_weights(name))
    without_weights(tmp_path / name)
    check_same(accord.load(file, "cpu", model_config=folder), name)


@pytest.mark.parametrize("name", ["flux", "zimage"])
def test_a_file_of_the_denoiser_alone_is_loaded_by_a_folder_with_the_rest(name, tmp_path):
    file, folder = saved(name, tmp_path, shared(name).transformer.state_dict())
    for path in (tmp_path / name / "transformer").glob("*.safetensors"):
        path.unlink()
    check_same(accord.load(file, "cpu", model_config=folder), name)
    without_weights(tmp_path / name)
    with pytest.raises(InputError, match=r"cannot be loaded .*; give `model_config`, a folder"):
        accord.load(file, "cpu", model_config=folder)


def test_files_that_are_not_whole_or_no_such_files_are_refused(tmp_path):
    file, folder = saved("sd1", tmp_path, all_weights("sd1"))
    with pytest.raises(InputError, match=r"cannot be had .*; give `model_config`, a folder or hub id"):
        accord.load(file, "cpu", model_config=str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="leave `variant` out"):
        accord.load(file, "cpu", variant="fp16", model_config=folder)
    with pytest.raises(InputError, match=r"`model_config` is the configuration of a single .* and .* is none"):
        accord.load(folder, "cpu", model_config=folder)
    shutil.copy(file, tmp_path / "sd1.ckpt")
    with pytest.raises(InputError, match="pickled weights can hold code"):
        accord.load(str(tmp_path / "sd1.ckpt"), "cpu", model_config=folder)
    weights = load_file(file)
    save_file({k: v for k, v in weights.items() if "middle_block" not in k}, file)
    with pytest.raises(InputError, match=r"cannot be loaded|lacks weights"):
        accord.load(file, "cpu", model_config=folder)
    (tmp_path / "sd1.safetensors").write_bytes(b"1234567890" * 100)
    with pytest.raises(InputError, match=r"cannot be (read|loaded)"):
        accord.load(file, "cpu", model_config=folder)


def test_the_commands_take_the_configuration(accord_cli, tmp_path):
    file, folder = saved("sd1", tmp_path, all_weights("sd1"))
    told = ["generate", PROMPT, "--steps", 1, "--out", tmp_path / "out"]
    code, out, err = accord_cli(*told, "--model", file, "--model-config", folder)
    assert code == 0 and out.endswith("png\n"), err
    code, _, err = accord_cli(*told, "--model", folder, "--model-config", folder)
    assert code == 2 and "--model-config is the configuration of a single .safetensors file" in err
    code, _, err = accord_cli(*told, "--model-config", folder)
    assert code == 2 and "--model-config is not used without --model" in err
