"""Pipelines whose weights wait elsewhere, or are kept in fewer bits, as the libraries make them; on the CPU."""

from __future__ import annotations

import accelerate
import pytest
import torch
from test_tuning_families import SIZES, Red, config_of
from torch import nn
from zoo import fresh, shared

import accord
from accord.diffusion.opened import networks_of
from accord.methods.tune.train import train_reward
from accord.types import InputError

PROMPTS = ["a red star and a blue key", "two green moon"]
CPU = torch.device("cpu")


def modules(pipe):
    return [part for part in pipe.components.values() if isinstance(part, nn.Module)]


def by_layer(pipe):
    """What `enable_sequential_cpu_offload` does: weights are on no device but while their layer runs."""
    for module in modules(pipe):
        accelerate.cpu_offload(module, CPU, offload_buffers=len(module._parameters) > 0)


def by_model(pipe):
    """What `enable_model_cpu_offload` does."""
    hook, pipe._all_hooks = None, []
    for module in modules(pipe):
        _, hook = accelerate.cpu_offload_with_hook(module, CPU, prev_module_hook=hook)


def by_group(pipe):
    for network in networks_of(pipe):
        network.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type="leaf_level")


def cast_by_layer(pipe):
    for network in networks_of(pipe):
        network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def by_torchao(pipe):
    torchao = pytest.importorskip("torchao.quantization")
    for network in networks_of(pipe):
        torchao.quantize_(network, torchao.Int8WeightOnlyConfig())


def by_quanto(pipe):
    quanto = pytest.importorskip("optimum.quanto")
    for network in networks_of(pipe):
        quanto.quantize(network, weights=quanto.qint8)
        quanto.freeze(network)


# what is done to a pipeline -> how far its pictures may be from those without it
KINDS = {by_layer: 0, by_model: 0, by_group: 0, cast_by_layer: 0.05, by_torchao: 0.05, by_quanto: 0.05}
# by which tuning is refused
REFUSED = {
    by_layer: "wait on meta and compute on cpu.*; tune without offloading",
    cast_by_layer: "are kept in float8_e4m3fn.*; tune without layerwise casting",
}


@pytest.mark.parametrize("name", ["sd35", "sdxl"])
@pytest.mark.parametrize("kind", KINDS)
def test_generated_repaired_and_tuned(tmp_path, kind, name):
    pipe = fresh(name)
    kind(pipe)
    told = {"num_inference_steps": 2, "guidance_scale": 4.0, "call": SIZES[name]}
    plain = accord.generate(shared(name), PROMPTS, output_type="pt", **told)

    def pictures():
        return accord.generate(pipe, PROMPTS, output_type="pt", **told)

    first = pictures()
    assert (first - plain).abs().max() <= KINDS[kind]
    for mode in ("new_seed", "renoise"):
        config = accord.RealignConfig(rounds=1, good_enough=1.0, mode=mode)
        made = accord.realign(pipe, PROMPTS, captioner=accord.load_captioner(), config=config, **told)
        assert [r.rounds for r in made] == [1, 1]
    assert torch.equal(pictures(), first)  # left as it was

    def tuned():
        config = config_of("refl", steps=2)
        return train_reward(pipe, PROMPTS, Red(), tmp_path / "run", config=config, progress=False, call=SIZES[name])

    if kind in REFUSED:
        with pytest.raises(InputError, match=REFUSED[kind]):
            tuned()
        return
    assert tuned().report["steps_taken"] == 2
    assert not torch.equal(pictures(), first)
