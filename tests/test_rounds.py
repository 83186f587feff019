"""Rounds of the strategies of the forward process, and knobs that came later: what is kept, shared and chosen."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import at_rest, tiny_pipeline
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from accord.diffusion.lora import FILE, add_lora, remove_lora, targets_of
from accord.methods.tune.config import TuneConfig, debug
from accord.methods.tune.pairs import passing_pairs
from accord.methods.tune.strategies.grpo import Grpo
from accord.methods.tune.strategies.raft import Raft
from accord.methods.tune.train import Tuner, train_reward
from accord.rewards.composed import Composed
from accord.training.processes import Processes
from accord.training.session import Session
from accord.types import InputError

pytestmark = pytest.mark.usefixtures("no_curve")
PROMPTS = ["a red star", "a blue key", "two green fish", "a pink crown"]
SMALL = {"num_inference_steps": 2, "anchors": 2, "guidance_scale": 1.0, "eval_prompts": 1}
SMALL |= {"bf16": False, "learning_rate": 1e-2}
ALONE = {"reward_weight": 1.0, "pretrain_weight": 0.0, "kl_weight": 0.0}


def narrow_pipeline():
    """A tiny one whose denoiser is narrower still: what it draws is of no interest here."""
    pipe = tiny_pipeline()
    torch.manual_seed(0)
    pipe.register_modules(unet=UNet2DConditionModel.from_config(pipe.unet.config, block_out_channels=(8, 8)))
    return at_rest(pipe)


class Bright:
    """Mean of the pictures; it can be made to fail at a call, as a run that is killed does."""

    differentiable = True

    def __init__(self, fail_at: int | None = None) -> None:
        self.calls, self.fail_at = 0, fail_at

    def __call__(self, images, prompts):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        return images.mean((1, 2, 3))


def tuner_of(folder: Path, strategy: str, **changes) -> Tuner:
    pipe = narrow_pipeline()
    folder.mkdir(parents=True, exist_ok=True)
    add_lora(pipe, 2)
    config = debug(strategy, **{**SMALL, **ALONE, **changes})
    reward = Composed({"bright": Bright()}, {"bright": 1.0})
    return Tuner(pipe, PROMPTS, reward, Session(folder, Processes()), config, None, None, False)


def gradient(tuner: Tuner, micro_batches: int = 1) -> dict[str, torch.Tensor]:
    """Of the first step, over all of its micro-batches."""
    for number in range(micro_batches):
        (tuner.loss(number, torch.Generator())[0] / micro_batches).backward()
    return {k: p.grad.clone() for k, p in tuner.run.named.items() if p.grad is not None}


def assert_near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() and max(float(g.abs().max()) for g in one.values()) > 1e-4
    for key, value in one.items():
        assert torch.allclose(value, other[key], rtol=1e-3, atol=1e-6), key


def test_however_a_round_is_cut_its_gradient_is_one(tmp_path):
    """A run of the network for each picture, the graph of one piece at a time, two micro-batches: all the same."""
    knobs = {"group_size": 3, "times": 2}
    whole = gradient(tuner_of(tmp_path / "whole", "nft", **knobs))
    assert_near(whole, gradient(tuner_of(tmp_path / "one", "nft", **knobs, at_once=1)))
    assert_near(whole, gradient(tuner_of(tmp_path / "less", "nft", **knobs, at_once=2, gradient_checkpointing=True)))
    assert_near(whole, gradient(tuner_of(tmp_path / "two", "nft", **knobs, gradient_accumulation=2), 2))


def test_a_run_killed_in_the_middle_of_a_round_goes_on_with_its_pictures(tmp_path):
    config = replace(debug("nft", **SMALL, **ALONE, group_size=2), steps=2, save_every=1)

    def run(folder: Path, reward: Bright) -> None:
        train_reward(narrow_pipeline(), PROMPTS, reward, folder, config=config, progress=False)

    whole = Bright()
    run(tmp_path / "undisturbed", whole)
    for fail_at in (whole.calls - 1, whole.calls - 2):  # the second group of the last round, and the first
        killed, again = Bright(fail_at), Bright()
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / f"{fail_at}", killed)
        kept = list((tmp_path / f"{fail_at}" / "rollouts").glob("*.safetensors"))
        run(tmp_path / f"{fail_at}", again)
        assert again.calls == whole.calls - fail_at + 1  # what was judged is not judged again
        one, other = (load_file(tmp_path / name / FILE) for name in ("undisturbed", f"{fail_at}"))
        assert all(torch.equal(one[k], other[k]) for k in one)
        curves = [(tmp_path / name / "curve.jsonl").read_bytes() for name in ("undisturbed", f"{fail_at}")]
        assert curves[0] == curves[1] and b'"diversity"' in curves[0]
        assert len(kept) == (fail_at == whole.calls - 1)
    assert not any((tmp_path / "undisturbed" / "rollouts").glob("*"))


def test_a_round_of_several_steps_keeps_its_weights_and_takes_its_pictures_again(tmp_path):
    """Four steps a round, two passes: the third step learns from the first one's pictures, with other noise."""
    tuner = tuner_of(tmp_path, "nft", group_size=2, times=1, refresh=4, passes=2, steps=8)
    strategy, drawn = tuner.config.strategy, []
    assert [strategy.drawn_at(k) for k in range(9)] == [0, 1, 0, 1, 4, 5, 4, 5, 8]
    assert [tuner.batch(k).seeds for k in (2, 3)] == [tuner.batch(k).seeds for k in (0, 1)]
    assert tuner.batch(1).seeds != tuner.batch(0).seeds and tuner.batch(4).seeds != tuner.batch(0).seeds
    made = {}
    for number in range(8):
        tuner.loss(number, torch.Generator())
        with torch.no_grad():  # the optimiser's work
            for parameter in tuner.run.named.values():
                parameter += 0.1
        batch = tuner.batch(number)
        ((clean, advantage, _),) = tuner.rollouts.round[1].values()
        pieces = strategy._noised(tuner.rollouts, batch, clean, advantage)
        noise = torch.cat([(p.x_t - p.level.a * p.clean) / p.level.s for p in pieces])
        made[number] = clean, noise, [p.time for p in pieces]
        drawn.append(tuner.reward.rewards["bright"].calls)
    judged = [after - before for before, after in itertools.pairwise(drawn)]
    assert judged == [2, 0, 0, 2, 2, 0, 0]  # two groups a step, and none in a second pass
    assert torch.equal(made[0][0], made[2][0]) and made[0][2] != made[2][2]
    assert not torch.allclose(made[0][1], made[2][1], atol=0.1)  # fresh noise, at other times
    assert not torch.equal(made[0][0], made[1][0]) and list(tuner.rollouts.earlier) == [4, 5]
    # the pictures of the second step are of the weights that the first one began with
    fresh, second = tuner_of(tmp_path / "fresh", "nft"), tuner.batch(1).in_groups(2)
    assert torch.equal(made[1][0], fresh.rollouts.pictures(second.prompts, second.generators()))


@pytest.mark.parametrize("killed_at", [3, 5])
def test_a_run_killed_in_a_second_pass_goes_on_bit_for_bit(tmp_path, monkeypatch, killed_at):
    knobs = {**SMALL, **ALONE, "group_size": 2, "times": 1, "refresh": 4, "passes": 2}
    config = replace(debug("nft", **knobs), steps=6, save_every=1)

    def run(folder: Path) -> Bright:
        reward = Bright()
        train_reward(narrow_pipeline(), PROMPTS, reward, folder, config=config, progress=False)
        return reward

    whole, loss = run(tmp_path / "undisturbed"), Tuner.loss

    def killed(self, number, generator):
        if number == killed_at:
            raise KeyboardInterrupt
        return loss(self, number, generator)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Tuner, "loss", killed)
        run(tmp_path / "killed")
    again = run(tmp_path / "killed")
    assert again.calls < whole.calls  # what was judged in the first pass is not judged again
    one, other = (load_file(tmp_path / name / FILE) for name in ("undisturbed", "killed"))
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_pictures_of_other_weights_or_damaged_ones_are_made_again(tmp_path):
    tuner = tuner_of(tmp_path, "nft")
    rollouts = tuner.rollouts
    rollouts.keep("a", "key", {"latents": torch.tensor([1.0])})
    assert rollouts.kept("a", "key") == {"latents": torch.tensor([1.0])}
    assert rollouts.kept("a", "other") is rollouts.kept("b", "key") is None
    rollouts.drop_kept(but="a")
    assert rollouts.kept("a", "key") is not None
    (tmp_path / "rollouts" / "a.safetensors").write_bytes(b"no tensors")
    assert rollouts.kept("a", "key") is None
    rollouts.keep("a", "key", {"latents": torch.tensor([1.0])})
    rollouts.drop_kept(but="b")
    assert rollouts.kept("a", "key") is None


def test_an_adapter_of_the_whole_network_is_loaded_by_plain_diffusers(tmp_path):
    config = debug("sft", **{**SMALL, "steps": 1, "rank": 2})
    pipe = narrow_pipeline()
    train_reward(pipe, PROMPTS, Bright(), tmp_path, config=config, progress=False, whole=True)
    told = {"num_inference_steps": 2, "output_type": "latent"}
    tuned = pipe("a red star", generator=torch.Generator().manual_seed(0), **told).images
    remove_lora(pipe)
    plain = pipe("a red star", generator=torch.Generator().manual_seed(0), **told).images
    names = targets_of(pipe.unet, whole=True)
    assert set(targets_of(pipe.unet)) < set(names) and any("conv" in n for n in names)
    pipe.load_lora_weights(tmp_path)
    again = pipe("a red star", generator=torch.Generator().manual_seed(0), **told).images
    assert torch.allclose(again, tuned, atol=1e-5) and not torch.allclose(again, plain, atol=1e-5)
    with pytest.raises(InputError, match="was begun with whole=True"):
        train_reward(narrow_pipeline(), PROMPTS, Bright(), tmp_path, config=config, progress=False)


# --- knobs that came later -------------------------------------------------------------------------------------------
def test_results_are_found_again_by_the_knobs_that_were_there():
    assert repr(Grpo()) == "Grpo(group_size=4, trained_steps=4, clip_range=0.001)"
    assert repr(Raft()) == "Raft(candidates=4, refresh=20)"
    assert repr(Raft(guided=True)) == "Raft(candidates=4, refresh=20, guided=True)" != repr(Raft())
    assert Raft() != Raft(least=0.5) and "least=0.5" in repr(Raft(least=0.5))


def test_grpo_trains_on_the_steps_of_its_times(tmp_path):
    tuner = tuner_of(tmp_path, "grpo", time_from=500, time_until=850, trained_steps=99)
    batch, times = tuner.batch(0), [951.0, 851.0, 751.0, 601.0, 501.0, 401.0, 1.0]
    assert sorted(tuner.config.strategy._chosen(batch, times)) == [2, 3, 4]
    assert sorted(Grpo(trained_steps=99)._chosen(batch, times)) == list(range(6))  # the last one has no noise
    with pytest.raises(InputError, match=r"no step of the 2 lies in 500\.\.850"):
        tuner.config.strategy._chosen(batch, [951.0, 1.0])
    for wrong in ({"time_from": 900, "time_until": 800}, {"time_until": 1001}, {"time_from": -1}):
        with pytest.raises(ValueError, match="time_"):
            TuneConfig.of("grpo", **wrong)


def test_raft_learns_from_what_is_good_enough_alone_at_the_guided_output(tmp_path):
    tuner = tuner_of(tmp_path, "raft", batch_size=2, guidance_scale=3.0, guided=True, least=0.0, refresh=9)
    strategy, batch = tuner.config.strategy, tuner.batch(0)
    loss, logs = strategy.loss(tuner.rollouts, batch)
    kept = tuner.run.tensors["raft.latents"]
    assert logs["kept"] == 1
    how = {"guided": True}
    expected = tuner.rollouts.denoising_loss(kept, batch.prompts, batch.generators(salt=3), **how)[0]
    unguided = tuner.rollouts.denoising_loss(kept, batch.prompts, batch.generators(salt=3))[0]
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert float(expected.detach()) != pytest.approx(float(unguided.detach()), rel=1e-4)
    tuner.run.tensors["raft.passes"][0] = 0
    later = replace(batch, step=1)
    loss, logs = strategy.loss(tuner.rollouts, later)
    alone = tuner.rollouts.denoising_loss(kept[1:], batch.prompts[1:], batch.generators(salt=3)[1:], **how)[0]
    assert float(loss.detach()) == pytest.approx(float(alone.detach()), rel=1e-4) and logs["kept"] == 0.5
    tuner.run.tensors["raft.passes"][1] = 0
    loss, logs = strategy.loss(tuner.rollouts, later)
    assert float(loss.detach()) == 0 and logs["kept"] == 0
    bright = tuner.rollouts.decode(batch.prompts, kept).mean((1, 2, 3))
    replace(strategy, least=float(bright.mean())).prepare(tuner.rollouts, [batch])
    assert tuner.run.tensors["raft.passes"].tolist() == (bright >= bright.mean()).float().tolist()


def test_pairs_that_do_not_pass_are_left_out():
    images = [Image.new("RGB", (8, 8), color) for color in ("black", "white", "gray")]
    reward = Composed({"bright": Bright()}, {"bright": 1.0})
    found = passing_pairs(images, ["a", "b", "c"], reward, 0.4)
    assert found == ([images[1], images[2]], ["b", "c"])
    with pytest.raises(InputError, match="none of the 3 pairs has a reward of at least 2"):
        passing_pairs(images, ["a", "b", "c"], reward, 2.0)


def test_the_curve_says_how_far_apart_the_pictures_of_a_prompt_are(tmp_path):
    for strategy in ("nft", "grpo"):
        tuner = tuner_of(tmp_path / strategy, strategy, group_size=3)
        assert tuner.loss(0, torch.Generator())[1]["diversity"] > 0
    assert json.dumps(tuner.config.flat())
