"""Tuning on tiny pipelines of other families: every strategy, checkpoints, and adapters that load back whole."""

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from zoo import CALL, ZOO

from accord.diffusion.adapters import put_on
from accord.diffusion.checkpointing import checkpointed, items_of_lists
from accord.diffusion.lora import add_lora, named_networks, remove_lora, save_lora, without_lora
from accord.diffusion.opened import Opened, networks_of
from accord.diffusion.pipelines import ddim_of
from accord.methods.tune.config import TuneConfig
from accord.methods.tune.train import train_reward
from accord.types import InputError

pytestmark = pytest.mark.usefixtures("no_curve")
PROMPTS = ["a red star", "two green moon", "a blue key", "a moon"]
GUIDANCE = ("guidance_scale", "guidance_scale_2", "true_cfg_scale", "negative_prompt")
SIZES = {name: {k: v for k, v in call.items() if k not in GUIDANCE} for name, call in CALL.items()}


class Red:
    """How much redder than green the pictures are, or the opposite: a reward whose best direction is known."""

    differentiable = True

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign

    def __call__(self, images, prompts):
        return self.sign * (images[:, 0] - images[:, 1]).mean((1, 2))


KNOBS = {
    "refl": {"margin": 1e3, "steps": 4, "learning_rate": 2e-2},
    "draft": {"margin": 1e3, "steps": 4, "learning_rate": 2e-2},
    "raft": {"candidates": 6, "refresh": 1},
    "grpo": {"group_size": 12, "trained_steps": 2},
    "nft": {"group_size": 12},
}


def config_of(strategy: str, **changes) -> TuneConfig:
    """The reward's loss alone, unguided."""
    small = {
        "steps": 6,
        "batch_size": 2,
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
        "learning_rate": 5e-3,
        "warmup_steps": 0,
        "ema_decay": 0.0,
        "weight_decay": 0.0,
        "reward_weight": 1.0,
        "pretrain_weight": 0.0,
        "kl_weight": 0.0,
        "eval_every": 100,
        "eval_prompts": 2,
        "anchors": 6,
        "rank": 4,
        "bf16": False,
    }
    return TuneConfig.of(strategy, **{**small, **KNOBS.get(strategy, {}), **changes})


def gain(folder, name: str, strategy: str, sign: float = 1.0) -> float:
    """By how much the reward of two prompts that were not trained on rose."""
    tuned = train_reward(
        ZOO[name](),
        PROMPTS,
        Red(sign),
        folder,
        config=config_of(strategy),
        progress=False,
        call=SIZES[name],
    )
    evaluations = tuned.report["evaluations"]
    return evaluations[-1]["reward"] - evaluations[0]["reward"]


FLOW = ("sd35", "qwenimage", "zimage", "sana")
QUICK = [(name, way) for name in FLOW for way in ("refl", "draft")] + [("zimage", "grpo"), ("zimage", "nft")]
SLOW = [(name, way) for name in FLOW[:2] + FLOW[3:] for way in ("grpo", "nft")]


@pytest.mark.parametrize(
    ("name", "strategy"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_a_strategy_raises_the_reward_and_its_opposite(tmp_path, name, strategy):
    signs = (1.0,) if strategy in ("refl", "draft") else (1.0, -1.0)
    assert all(gain(tmp_path / f"{sign}", name, strategy, sign) > 0.02 for sign in signs)


@pytest.mark.parametrize("name", ["zimage", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sana", "sd35"))])
def test_raft_ends_apart_for_a_reward_and_its_opposite(tmp_path, name):
    """It also learns what pictures have in common, whichever the reward is."""
    assert gain(tmp_path / "a", name, "raft") + gain(tmp_path / "b", name, "raft", -1.0) > 0.02


@pytest.mark.parametrize("name", ["sdxl", "qwenimage", "wan22", "pixart", "hunyuanimage"])
def test_a_whole_run_with_guidance_and_every_term(tmp_path, name):
    """Of classes with zeros for no text, a guidance of another name, two networks, no loader at all, or a guider."""
    pipe = ZOO[name]()
    changes = {"pretrain_weight": 1.0, "kl_weight": 0.5, "gradient_checkpointing": True, "guidance_scale": 3.0}
    config = config_of("refl", **{**changes, "steps": 2, "learning_rate": 1e-2, "eval_every": 1})
    before = {n: {k: v.clone() for k, v in net.state_dict().items()} for n, net in named_networks(pipe).items()}
    tuned = train_reward(pipe, PROMPTS, Red(), tmp_path, config=config, progress=False, call=SIZES[name])
    assert tuned.report["pipeline"] == type(pipe).__name__ and tuned.report["steps_skipped"] == 0
    loading = (tmp_path / "README.md").read_text()
    assert ("pipe.transformer_2.load_lora_adapter" in loading) == (name == "wan22")
    remove_lora(pipe)
    for n, net in named_networks(pipe).items():
        after = net.state_dict()
        assert after.keys() == before[n].keys() and all(torch.equal(after[k], v) for k, v in before[n].items())


def rollout(pipe, name: str) -> torch.Tensor:
    return Opened(pipe, 2, **CALL[name]).rollout(PROMPTS[:1], [torch.Generator().manual_seed(0)])


@pytest.mark.parametrize("name", list(ZOO))
def test_an_adapter_is_loaded_back_whole(tmp_path, name):
    """By diffusers itself where it has a loader, and by Accord for every class; off again, nothing is left of it."""
    pipe = ZOO[name]()
    plain = rollout(pipe, name)
    add_lora(pipe, 2)
    generator = torch.Generator().manual_seed(0)
    for network in networks_of(pipe):
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    tuned = rollout(pipe, name)
    assert not torch.equal(tuned, plain)
    save_lora(pipe, tmp_path)
    assert torch.equal(rollout(pipe, name), tuned)
    again = ZOO[name]()
    put_on(again, str(tmp_path))
    assert torch.equal(rollout(again, name), tuned)
    if name != "pixart":  # whose network has no loader
        vanilla = ZOO[name]()
        if hasattr(vanilla, "load_lora_weights"):
            vanilla.load_lora_weights(tmp_path)
        else:
            vanilla.transformer.load_lora_adapter(tmp_path, use_safetensors=True)
        if name == "wan22":
            vanilla.transformer_2.load_lora_adapter(tmp_path / "transformer_2", use_safetensors=True)
        assert torch.equal(rollout(vanilla, name), tuned)
    with without_lora(pipe):
        assert torch.equal(rollout(pipe, name), plain)
    remove_lora(pipe)
    assert torch.equal(rollout(pipe, name), plain)


def test_an_adapter_that_diffusers_would_lose_a_part_of_is_refused(tmp_path, monkeypatch):
    """With the older names half of an adapter with `add_*_proj` is passed over, in silence."""
    from diffusers.utils import convert_state_dict_to_diffusers

    from accord.diffusion import lora

    pipe, own = ZOO["sd35"](), lora._tensors
    add_lora(pipe, 2)
    monkeypatch.setattr(lora, "_tensors", lambda *given: convert_state_dict_to_diffusers(own(*given)))
    with pytest.raises(InputError, match="not loaded whole"):
        save_lora(pipe, tmp_path)


@pytest.mark.parametrize("name", ["hunyuanimage", "chroma", "sd35", "zimage", "wan", "sd1"])
def test_checkpoints_change_neither_outputs_nor_gradients(name):
    pipe = ZOO[name]()
    add_lora(pipe, 2)
    opened, networks = Opened(pipe, 2, **CALL[name]), networks_of(pipe)
    state = opened.rollout(PROMPTS[:1], [torch.Generator().manual_seed(0)])
    trained = [p for network in networks for p in network.parameters() if p.requires_grad]

    def found() -> tuple[torch.Tensor, ...]:
        output = opened.output(PROMPTS[:1], state, step=1)
        gradients = torch.autograd.grad(output.square().mean(), trained, allow_unused=True)
        return (output, *(g for g in gradients if g is not None))

    plain = found()
    runs = []
    for module in networks[0].modules():  # what a checkpoint computes again runs twice
        module.register_forward_pre_hook(lambda module, _: runs.append(module))
    once = len((found(), runs)[1])
    runs.clear()
    with checkpointed(networks):
        assert all(torch.equal(a, b) for a, b in zip(plain, found(), strict=True))
    assert len(runs) > 1.5 * once
    assert not any("forward" in vars(block) for block in items_of_lists(networks[0]))


@pytest.mark.parametrize("name", list(ZOO))
def test_who_is_run_by_ddim(name):
    """Whose process is DDIM's, whatever its sampler; flow, and CogVideoX's own betas, are not."""
    assert (ddim_of(ZOO[name]()) is not None) == (name in ("sd1", "sdxl", "pixart"))


def test_what_cannot_be_tuned_is_refused(tmp_path):
    class Closed(StableDiffusion3Pipeline):
        @property
        def prepare_latents(self):
            raise AttributeError

    half, blind = ZOO["sd35"](), Closed(**ZOO["sd35"]().components)
    half.transformer.half()
    for pipe, message in ((half, "float16 weights are lost"), (blind, "no prepare_latents")):
        with pytest.raises(InputError, match=message):
            train_reward(pipe, PROMPTS, Red(), tmp_path / "x", config=config_of("refl"), call=SIZES["sd35"])
    with pytest.raises(InputError, match="takes no heigth; did you mean height"):
        train_reward(ZOO["sd35"](), PROMPTS, Red(), tmp_path / "x", config=config_of("refl"), call={"heigth": 32})
    assert not (tmp_path / "x").exists()  # nothing is begun
