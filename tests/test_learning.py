"""What is trained moves the right way: the signed change of what each loss optimises, and its value in closed form.

The toy is a tiny pipeline of the real classes whose denoiser answers one constant a channel, c [4]: its last layer has
weights of zero and a bias that alone is trained. Then the loss is a formula, and a step can be followed by hand.
"""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MODELS, at_rest, moving, tiny_pipeline
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch.nn import functional as F

from accord.diffusion.lora import add_lora
from accord.diffusion.process import Level, levels, of_ab, transition
from accord.methods.context.config import ContextTrainConfig
from accord.methods.context.equations import exact_kl
from accord.methods.context.pipeline import new_relation
from accord.methods.context.train import Objective, train_context
from accord.methods.invert import train as invert_train
from accord.methods.invert.config import InvertTrainConfig, PredictorConfig
from accord.methods.invert.data import PairSet
from accord.methods.invert.predictors import build
from accord.methods.invert.train import predict, train_predictor
from accord.methods.invert.vocabulary import Vocabulary
from accord.methods.tune.config import debug
from accord.methods.tune.forward import advantages
from accord.methods.tune.rollouts import CAPTION_DROPOUT
from accord.methods.tune.strategies.grpo import (
    GRPO_ETA,
    gaussian_log_p,
    group_advantages,
    policy_loss,
)
from accord.methods.tune.strategies.nft import goodness, nft_loss
from accord.methods.tune.train import Tuner
from accord.methods.video.config import EditConfig
from accord.methods.video.editing import VideoEditor
from accord.methods.video.windows import window_rows
from accord.rewards.composed import Composed
from accord.training.guard import Guard, GuardConfig
from accord.training.loop import LoopConfig, step_generator
from accord.training.processes import Processes
from accord.training.session import Session

pytestmark = pytest.mark.usefixtures("no_curve")
PROMPTS = ["a red star", "a blue key", "two green fish", "a pink crown"]
KINDS = ("epsilon", "v_prediction", "sample")
CONSTANT = (0.3, -0.2, 0.1, 0.4)


class Bright:
    """Mean of the pictures, or its opposite: a reward whose best direction is known."""

    differentiable = True

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign

    def __call__(self, images, prompts):
        return self.sign * images.mean((1, 2, 3))


def constant_pipeline(kind: str = "epsilon", constant=(0.0,) * 4):
    """A denoiser that answers `constant`, and a decoder that shows the latents' mean as brightness.

    Its layers before the last are narrower than the others' tiny ones: nothing they do reaches the answer.
    """
    pipe = tiny_pipeline()
    narrow = UNet2DConditionModel.from_config(pipe.unet.config, block_out_channels=(8, 8))
    pipe.register_modules(unet=narrow)
    at_rest(pipe)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    with torch.no_grad():
        pipe.unet.conv_out.weight.zero_()
        pipe.unet.conv_out.bias.copy_(torch.tensor(constant))
    return pipe


def tuner_of(folder: Path, strategy: str, sign: float = 1.0, kind: str = "epsilon", constant=(0.0,) * 4, **changes):
    """A Tuner of which the constant alone is trained."""
    pipe = constant_pipeline(kind, constant)
    folder.mkdir(parents=True, exist_ok=True)
    add_lora(pipe, 2)
    pipe.unet.conv_out.bias.requires_grad_(True)  # the adapter's own matrices have no say in what follows
    knobs = {"guidance_scale": 1.0, "pretrain_weight": 0.0, "kl_weight": 0.0, "reward_weight": 1.0}
    knobs |= {"margin": 50.0} if strategy in ("refl", "draft") else {}
    config = debug(strategy, **{"batch_size": 4, "bf16": False, **knobs, **changes})
    reward = Composed({"bright": Bright(sign)}, {"bright": 1.0})
    return Tuner(pipe, PROMPTS, reward, Session(folder, Processes()), config, None, None, False)


def bias_of(tuner: Tuner) -> torch.Tensor:
    return tuner.run.named["unet.conv_out.bias"]


def descend(tuner: Tuner, steps: int, rate: float) -> None:
    """Plain gradient descent on the constant."""
    bias = bias_of(tuner)
    for number in range(steps):
        bias.grad = None
        tuner.loss(number, torch.Generator())[0].backward()
        with torch.no_grad():
            bias -= rate * bias.grad / bias.grad.norm().clamp(min=1e-12)


def brightness(tuner: Tuner, seeds: int = 4) -> float:
    generators = [torch.Generator().manual_seed(900 + i) for i in range(seeds)]
    with torch.no_grad():
        prompts = ["a red star"] * seeds
        return float(tuner.rollouts.decode(prompts, tuner.rollouts.pictures(prompts, generators)).mean())


# --- strategies ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("strategy", ["refl", "draft", "raft", "grpo", "nft", "awm"])
def test_a_reward_and_its_opposite_pull_apart_around_the_untuned_pipeline(tmp_path, strategy):
    """Trained for bright pictures they become brighter on other seeds, trained for dark ones darker."""
    steps = {"refl": 3, "draft": 3, "raft": 3, "grpo": 4, "nft": 4, "awm": 4}[strategy]
    changes = {
        "raft": {"candidates": 4, "refresh": 1, "kind": "v_prediction"},  # whose target holds the picture
        "grpo": {"group_size": 4},
        "nft": {"group_size": 4, "kind": "v_prediction"},
        "awm": {"group_size": 4, "kind": "v_prediction"},
    }
    found = {}
    for sign in (1.0, -1.0):
        tuner = tuner_of(tmp_path / f"{sign}", strategy, sign, **{"batch_size": 2, **changes.get(strategy, {})})
        before = brightness(tuner)
        descend(tuner, steps, 0.1)
        found[sign] = brightness(tuner) - before
    if strategy == "raft":  # it also learns what pictures have in common, whichever the reward is
        assert found[1.0] > found[-1.0] + 1e-4, found
    else:
        assert found[1.0] > 1e-4 and found[-1.0] < -1e-4, found


@pytest.mark.parametrize("strategy", ["refl", "draft"])
def test_the_margin_ends_what_a_reward_pulls_at(tmp_path, strategy):
    """relu(m - r): a loss of zero, and no gradient, where every reward is beyond the margin; linear below it."""
    tuner = tuner_of(tmp_path / "low", strategy, margin=-1e6)
    loss, logs = tuner.loss(0, torch.Generator())
    bias = bias_of(tuner)
    loss.backward()
    assert float(loss.detach()) == 0 and not bias.grad.any()
    tuner = tuner_of(tmp_path / "high", strategy, margin=50.0)
    loss, logs = tuner.loss(0, torch.Generator())
    assert float(loss.detach()) == pytest.approx(50.0 - logs["reward"], rel=1e-5)


@pytest.mark.parametrize("strategy", ["refl", "draft"])
def test_the_gradient_is_that_of_the_reward(tmp_path, strategy):
    """Against finite differences of the loss: the constant is in every step with a graph, and in no other."""
    tuner = tuner_of(
        tmp_path, strategy, **({"last_steps": 4} if strategy == "draft" else {"stop_from": 0.0, "stop_until": 0.2})
    )
    bias = bias_of(tuner)
    loss = tuner.loss(0, torch.Generator())[0]
    (gradient,) = torch.autograd.grad(loss, bias)
    direction = gradient / gradient.norm()
    values = []
    for step in (1e-2, -1e-2):
        with torch.no_grad():
            bias += step * direction
            values.append(float(tuner.loss(0, torch.Generator())[0]))
            bias -= step * direction
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(float(gradient.norm()), rel=2e-2)


def test_raft_learns_from_the_best_and_not_from_the_worst(tmp_path):
    """Its loss is the denoising loss of what was kept, which is the brightest candidate of each prompt."""
    tuner = tuner_of(tmp_path, "raft", candidates=5)
    batch = tuner.batch(0)
    loss, logs = tuner.loss(0, torch.Generator())
    kept = tuner.run.tensors["raft.latents"]
    tried = [tuner.rollouts.pictures(batch.prompts, batch.generators(salt=100 + k)) for k in range(5)]
    scores = torch.stack([tuner.reward(tuner.rollouts.decode(batch.prompts, t), batch.prompts) for t in tried])
    assert torch.allclose(tuner.run.tensors["raft.rewards"], scores.amax(0), atol=1e-4)
    assert logs["kept_reward"] == pytest.approx(float(scores.amax(0).mean()), abs=1e-4)
    expected = tuner.rollouts.denoising_loss(kept, batch.prompts, batch.generators(salt=3))[0]
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)


def of_a_round(tuner: Tuner, size: int):
    """By hand: the prompts, clean states, advantages, and (noise level, noise) at each of two times, of batch 0."""
    batch, config = tuner.batch(0), tuner.config.strategy
    prompts = [p for p in batch.prompts for _ in range(size)]
    seeds = [s * size + k for s in batch.seeds for k in range(size)]
    clean = tuner.rollouts.pictures(prompts, [torch.Generator().manual_seed(s) for s in seeds])
    rewards = tuner.reward(tuner.rollouts.decode(prompts, clean), prompts)
    numbers = torch.tensor([n for n in batch.numbers for _ in range(size)])
    means = torch.stack([rewards[numbers == n].mean() for n in numbers])
    advantage = (rewards - means) / (rewards.std(unbiased=False) + 1e-4)
    assert advantage.abs().max() < 5
    products = tuner.rollouts.opened.scheduler.alphas_cumprod
    draws = []
    for k in range(2):
        times = []
        for seed in batch.seeds:  # one time for all pictures of a prompt, in its half of 400..950
            share = torch.rand(2, generator=torch.Generator().manual_seed((seed + 7_919 * 500) % 2**62))[k]
            times += [int(400 + 550 * (k + float(share)) / 2)] * size
        makers = [torch.Generator().manual_seed((s + 7_919 * (1000 + k)) % 2**62) for s in seeds]
        noise = torch.stack([torch.randn(4, 16, 16, generator=g) for g in makers])
        draws.append((products[torch.tensor(times)].view(-1, 1, 1, 1), noise))
    assert config.group_size == size and config.times == 2
    return prompts, clean, advantage, draws


@pytest.mark.parametrize("mix", [1.0, 0.1])
def test_nft_in_closed_form(tmp_path, mix):
    """At the first step its loss is C mean_b mean_i |x0^ - x0|^2 / w; its gradient is that of A |f - target|^2 / w."""
    tuner = tuner_of(tmp_path, "nft", constant=CONSTANT, group_size=4, times=2, mix=mix, batch_size=2)
    bias = bias_of(tuner)
    loss = tuner.loss(0, torch.Generator())[0]
    (gradient,) = torch.autograd.grad(loss, bias)
    _, _, advantage, draws = of_a_round(tuner, 4)
    c = torch.tensor(CONSTANT, requires_grad=True)
    value, surrogate = torch.zeros(()), torch.zeros(())
    for ab, noise in draws:
        off = ((1 - ab) / ab).sqrt() * (noise - c.view(1, 4, 1, 1))  # x0^ - x0, of an epsilon network
        square, w = off.square().flatten(1).mean(1), off.detach().abs().flatten(1).mean(1)
        value = value + 5 * (square / w).mean() / mix / 2
        surrogate = surrogate + (advantage * square / w).mean() / 2
    assert float(loss.detach()) == pytest.approx(float(value.detach()), rel=1e-4)
    expected = torch.autograd.grad(surrogate, c)[0]
    assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("power", [1.0, 0.25])
def test_awm_in_closed_form(tmp_path, power):
    """mean_b mean_i A t e^(p - 1) e, its weight without a graph; the distance to the untuned network is 0 at first."""
    tuner = tuner_of(tmp_path, "awm", constant=CONSTANT, group_size=4, times=2, power=power, batch_size=2)
    bias = bias_of(tuner)
    loss = tuner.loss(0, torch.Generator())[0]
    (gradient,) = torch.autograd.grad(loss, bias)
    _, _, advantage, draws = of_a_round(tuner, 4)
    c, found = torch.tensor(CONSTANT, requires_grad=True), torch.zeros(())
    for ab, noise in draws:
        error = (((1 - ab) / ab).sqrt() * (noise - c.view(1, 4, 1, 1))).square().flatten(1).mean(1)
        share = ((1 - ab).sqrt() / (ab.sqrt() + (1 - ab).sqrt())).flatten()
        found = found + (advantage * share * error.detach() ** (power - 1) * error).mean() / 2
    assert float(loss.detach()) == pytest.approx(float(found.detach()), rel=1e-3, abs=1e-5)
    assert torch.allclose(gradient, torch.autograd.grad(found, c)[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "velocity"])
@pytest.mark.parametrize("mix", [1.0, 0.1])
def test_at_the_old_weights_nft_is_advantage_weighted_matching(kind, mix):
    """Its gradient is A |f - target|^2's times one number of each picture, which is the same for every mix."""
    make = torch.Generator().manual_seed(3)
    clean, noise, output = (torch.randn(5, 4, 6, generator=make) for _ in range(3))
    advantage = torch.tensor([-4.0, -1.0, 0.0, 2.0, 5.0])
    level = Level(torch.tensor(0.6), torch.tensor(0.8 if kind != "velocity" else 0.4), kind)
    x_t, target = level.noised(clean, noise), level.target(clean, noise)
    f = output.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(nft_loss(f, output, x_t, clean, level, goodness(advantage), mix).sum(), f)
    (matching,) = torch.autograd.grad((advantage * (f - target).square().flatten(1).mean(1)).sum(), f)
    for row in range(5):
        if advantage[row] == 0:
            assert gradient[row].abs().max() < 1e-6
            continue
        factor = (gradient[row] / matching[row]).flatten()
        assert torch.allclose(factor, factor.mean().expand_as(factor), rtol=1e-3) and float(factor.mean()) > 0
    at_one = torch.autograd.grad(nft_loss(f, output, x_t, clean, level, goodness(advantage), 1.0).sum(), f)[0]
    assert torch.allclose(gradient, at_one, atol=1e-6)


def test_how_good_a_picture_is_by_hand():
    """clip(A / 10 + 1/2), A in spreads of all rewards around the mean of the prompt's group."""
    rewards, numbers = torch.tensor([1.0, 3.0, 5.0, 5.0]), [0, 0, 1, 1]
    spread = float(np.std([1, 3, 5, 5])) + 1e-4
    found = goodness(advantages(rewards, numbers, rewards, numbers))
    assert found.tolist() == pytest.approx([0.5 - 0.1 / spread, 0.5 + 0.1 / spread, 0.5, 0.5])
    crowd = torch.tensor([0.0] * 99 + [1.0])
    assert float(goodness(advantages(crowd, [0] * 100, crowd, [0] * 100))[-1]) == 1  # 9.9 spreads, clamped to 5
    mine = advantages(rewards[:1], [0], rewards, numbers)  # the others are another process's
    assert goodness(mine).tolist() == pytest.approx(found[:1].tolist())


def test_what_could_not_be_judged_has_no_advantage_and_is_in_no_mean():
    rewards, numbers = torch.tensor([1.0, torch.nan, 3.0, 5.0]), [0, 0, 0, 1]
    found = advantages(rewards, numbers, rewards, numbers).tolist()
    spread = float(np.std([1, 3, 5])) + 1e-4
    assert found == pytest.approx([-1 / spread, 0.0, 1 / spread, 0.0])
    assert not np.isfinite(advantages(rewards * torch.nan, numbers, rewards * torch.nan, numbers)).any()


def test_nft_by_hand():
    """One picture of two elements under flow: x0+- from the mixed outputs, each error over its own size."""
    level = Level(torch.tensor(0.6), torch.tensor(0.4), "velocity")
    x, clean = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 0.5]])
    new, old = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, -1.0]])
    toward, away = 0.5 * new + 0.5 * old, 1.5 * old - 0.5 * new
    parts = []
    for output in (toward, away):
        off = (x - 0.4 * output - clean)[0]
        parts.append(float(off.square().mean() / off.abs().mean()))
    expected = (0.8 * parts[0] + 0.2 * parts[1]) / 0.5
    assert float(nft_loss(new, old, x, clean, level, torch.tensor([0.8]), 0.5)[0]) == pytest.approx(expected)


def test_the_old_weights_of_nft_follow_the_trained_ones(tmp_path):
    """old <- share old + (1 - share) new, once a step, share = min(0.1 step, 0.5); they make the pictures."""
    tuner = tuner_of(tmp_path, "nft", group_size=2, times=1, old_rate=0.1, batch_size=4, gradient_accumulation=2)
    bias, old = bias_of(tuner), torch.zeros(4)
    for step in (0, 1, 2, 9):
        with torch.no_grad():
            bias.copy_(torch.full((4,), float(step)))
        share = min(0.1 * step, 0.5)
        old = bias.detach().clone() if step == 0 else share * old + (1 - share) * bias.detach()
        for micro in range(2):
            tuner.loss(2 * step + micro, torch.Generator())
            assert torch.allclose(tuner.run.tensors["nft.old.unet.conv_out.bias"], old)
        assert torch.equal(bias, torch.full((4,), float(step)))


@pytest.mark.parametrize("strategy", ["nft", "awm"])
def test_the_distance_to_the_untuned_network_is_added_to_a_round(tmp_path, strategy):
    """reference_weight mean |f - f_untuned|^2 over the noised pictures, on top of the strategy's own loss."""
    pipe = tiny_pipeline()
    add_lora(pipe, 2)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in pipe.unet.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    reward, losses = Composed({"bright": Bright()}, {"bright": 1.0}), []
    for weight in (0.0, 2.0):
        config = debug(
            strategy, batch_size=2, bf16=False, reward_weight=1.0, group_size=2, times=2, reference_weight=weight
        )
        folder = tmp_path / str(weight)
        folder.mkdir()
        tuner = Tuner(pipe, PROMPTS, reward, Session(folder, Processes()), config, None, None, False)
        losses.append(float(tuner.loss(0, torch.Generator())[0].detach()))
    batch, rollouts = tuner.batch(0), tuner.rollouts
    clean, advantage, _ = rollouts.round[1][tuple(batch.places)]
    distances = []
    with torch.no_grad():
        for piece in tuner.config.strategy._noised(rollouts, batch, clean, advantage):
            own = rollouts.output_at(piece.prompts, piece.x_t, piece.time)
            with rollouts.untuned():
                first = rollouts.output_at(piece.prompts, piece.x_t, piece.time)
            distances += (own - first).square().flatten(1).mean(1).tolist()
    assert len(distances) == 2 * 2 * 2 and min(distances) > 1e-5
    assert losses[1] - losses[0] == pytest.approx(2 * np.mean(distances), rel=1e-3)


def test_grpo_raises_the_probability_of_what_was_better(tmp_path):
    """The step along -gradient raises sum A log p of the very steps that were taken, and its gradient is -A dlog p."""
    tuner = tuner_of(tmp_path, "grpo", batch_size=2, group_size=4, trained_steps=3)
    bias = bias_of(tuner)
    batch = tuner.batch(0)
    loss = tuner.loss(0, torch.Generator())[0]
    (gradient,) = torch.autograd.grad(loss, bias)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-3)  # every ratio is 1, advantages have the mean zero
    objective = grpo_objective(tuner, batch, 4)
    own = objective(torch.zeros(4, requires_grad=True))
    assert torch.allclose(gradient, -own[1], rtol=1e-3, atol=1e-6)
    moved = -0.05 * gradient / gradient.norm()
    assert objective(moved)[0] > own[0]


def grpo_objective(tuner: Tuner, batch, size: int):
    """mean A log p(x_{t-1} | x_t) as a function of the constant, from DDIM's own equation: (value, gradient)."""
    prompts = [p for p in batch.prompts for _ in range(size)]
    seeds = [s * size + k for s in batch.seeds for k in range(size)]
    numbers = [n for n in batch.numbers for _ in range(size)]
    scheduler = DDIMScheduler.from_config(tuner.rollouts.opened.scheduler.config)
    scheduler.set_timesteps(tuner.config.num_inference_steps)
    x = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(s)) for s in seeds])
    noises = [torch.Generator().manual_seed((s + 7_919) % 2**62) for s in seeds]
    path = [x]
    ab = scheduler.alphas_cumprod

    def moments(x_t, t, c):
        """(12) and (16) of DDIM with epsilon = c."""
        s = int(t) - 1000 // tuner.config.num_inference_steps
        ab_t, ab_s = ab[t], ab[s] if s >= 0 else scheduler.final_alpha_cumprod
        sigma = GRPO_ETA * ((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s)).sqrt()
        c = c.view(1, 4, 1, 1)
        x0 = (x_t - (1 - ab_t).sqrt() * c) / ab_t.sqrt()
        return ab_s.sqrt() * x0 + (1 - ab_s - sigma**2).sqrt() * c, sigma

    with torch.no_grad():
        for t in scheduler.timesteps:
            mean, sigma = moments(path[-1], t, torch.zeros(4))
            noise = torch.cat([torch.randn(1, 4, 16, 16, generator=g) for g in noises])
            path.append(mean + sigma * noise)
        rewards = tuner.reward(tuner.rollouts.decode(prompts, path[-1]), prompts)
    advantage = torch.zeros(len(rewards))
    for number in set(numbers):
        rows = torch.tensor([n == number for n in numbers])
        group = rewards[rows]
        advantage[rows] = (group - group.mean()) / (group.std(unbiased=False) + 1e-4)
    order = torch.randperm(len(path) - 2, generator=torch.Generator().manual_seed(batch.shared_seed))[:3].tolist()

    def objective(c):
        c = c.detach().clone().requires_grad_(True)
        total = torch.zeros(())
        for i in order:
            mean, sigma = moments(path[i], scheduler.timesteps[i], c)
            log_p = -((path[i + 1] - mean) ** 2 / (2 * sigma**2)).flatten(1).mean(1)
            total = total + (advantage * log_p).mean() / len(order)
        return float(total.detach()), torch.autograd.grad(total, c)[0]

    return objective


def test_the_clipped_objective_by_hand():
    """A ratio beyond the clip counts where that is the worse of the two: -max(...) is a bound from below."""
    ratio = torch.tensor([1.0, 1.5, 0.5, 1.5, 0.5])
    advantage = torch.tensor([2.0, 1.0, 1.0, -1.0, -1.0])
    each = [float(policy_loss(r[None], a[None], 0.2)) for r, a in zip(ratio, advantage, strict=True)]
    assert each == pytest.approx([-2.0, -1.2, -0.5, 1.5, 0.8])
    assert float(policy_loss(ratio, advantage, 0.2)) == pytest.approx(np.mean(each))


def test_advantages_by_hand():
    rewards = torch.tensor([1.0, 3.0, 5.0, 5.0, 0.0, 0.0, 0.0, 0.0, 100.0])
    numbers = [0, 0, 1, 1, 2, 2, 2, 2, 2]
    found = group_advantages(rewards, numbers, rewards, numbers)
    group = np.array([0, 0, 0, 0, 100.0])
    expected = [-1, 1, 0, 0, *((group - 20) / 40)]
    assert found.tolist() == pytest.approx(expected, abs=1e-3)
    crowd = torch.tensor([0.0] * 99 + [1.0])
    assert float(group_advantages(crowd, [0] * 100, crowd, [0] * 100)[-1]) == 5  # clamped from 9.9
    assert float(group_advantages(-crowd, [0] * 100, -crowd, [0] * 100)[-1]) == -5


def test_log_p_falls_with_the_distance_from_the_mean():
    x, mean = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]], requires_grad=True)
    found = gaussian_log_p(x, mean, torch.tensor(2.0))
    assert float(found.detach()) == pytest.approx(-(1 + 9) / 2 / 8)
    (gradient,) = torch.autograd.grad(found.sum(), mean)
    assert gradient.tolist() == [pytest.approx([1 / 8, 3 / 8])]


@pytest.mark.parametrize("kind", KINDS)
def test_moments_of_a_step_in_closed_form(kind):
    """(12) and (16) of DDIM, with the network's output of each prediction type."""
    pipe = constant_pipeline(kind)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(4)
    x, output = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2))
    grid = levels(scheduler)
    for i, t in enumerate(scheduler.timesteps[:-1]):
        ab_t, ab_s = scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[int(t) - 250]
        x0, e = {
            "epsilon": ((x - (1 - ab_t).sqrt() * output) / ab_t.sqrt(), output),
            "sample": (output, (x - ab_t.sqrt() * output) / (1 - ab_t).sqrt()),
            "v_prediction": (
                ab_t.sqrt() * x - (1 - ab_t).sqrt() * output,
                ab_t.sqrt() * output + (1 - ab_t).sqrt() * x,
            ),
        }[kind]
        sigma = GRPO_ETA * ((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s)).sqrt()
        mean, spread = transition(x, output, grid[i], grid[i + 1], GRPO_ETA)
        assert torch.allclose(mean, ab_s.sqrt() * x0 + (1 - ab_s - sigma**2).sqrt() * e, atol=1e-4)
        assert float(spread) == pytest.approx(float(sigma), rel=1e-4)


# --- the terms that hold the model to what it was -----------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_the_denoising_loss_in_closed_form(tmp_path, kind):
    """mean (c - target)^2 with the noise, sqrt(ab) e - sqrt(1 - ab) x0, or x0; its gradient is 2 mean (c - target)."""
    tuner = tuner_of(tmp_path, "sft", kind=kind, constant=CONSTANT, pretrain_weight=1.0)
    bias = bias_of(tuner)
    clean = 2 * torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    generators = [torch.Generator().manual_seed(40 + i) for i in range(3)]
    loss, drift = tuner.rollouts.denoising_loss(clean, PROMPTS[:3], generators)
    draws = [torch.Generator().manual_seed(40 + i) for i in range(3)]
    each = []
    for x0, g in zip(clean, draws, strict=True):
        noise, t = torch.randn(4, 16, 16, generator=g), torch.randint(1000, (1,), generator=g)
        ab = tuner.rollouts.opened.scheduler.alphas_cumprod[t]
        target = {"epsilon": noise, "sample": x0, "v_prediction": ab.sqrt() * noise - (1 - ab).sqrt() * x0}[kind]
        each.append(torch.tensor(CONSTANT).view(4, 1, 1) - target)
    errors = torch.stack(each)
    assert float(loss.detach()) == pytest.approx(float(errors.square().mean()), rel=1e-5) and float(drift) == 0
    (gradient,) = torch.autograd.grad(loss, bias)
    assert torch.allclose(gradient, 2 * errors.mean((0, 2, 3)) / 4, atol=1e-5)


def test_a_share_of_the_captions_is_dropped_from_the_denoising_loss(tmp_path, monkeypatch):
    tuner, seen = tuner_of(tmp_path, "sft", pretrain_weight=1.0), []
    unguided = tuner.rollouts.unguided
    real = unguided.output
    monkeypatch.setattr(unguided, "output", lambda told, *a, **k: (seen.extend(told), real(told, *a, **k))[1])
    tuner.rollouts.denoising_loss(
        torch.zeros(200, 4, 2, 2), ["a"] * 200, [torch.Generator().manual_seed(i) for i in range(200)]
    )
    assert set(seen) == {"a", ""} and abs(seen.count("") / len(seen) - CAPTION_DROPOUT) < 0.07


def test_sft_lowers_the_denoising_loss_and_no_reward_moves_it(tmp_path):
    """Measured on the same pictures with the same noise, before and after; the reward and its opposite end alike."""
    ends = []
    for sign in (1.0, -1.0):
        tuner = tuner_of(tmp_path / f"{sign}", "sft", sign, constant=CONSTANT, pretrain_weight=1.0)
        bias = bias_of(tuner)

        def denoising(tuner: Tuner = tuner) -> float:
            generators = [torch.Generator().manual_seed(700 + i) for i in range(16)]
            with torch.no_grad():
                return float(tuner.rollouts.denoising_loss(torch.zeros(16, 4, 16, 16), PROMPTS * 4, generators)[0])

        before, start = denoising(), bias.detach().clone()
        descend(tuner, 6, 0.05)
        # noise has the mean zero and the variance one: the loss of a constant c is 1 + mean c^2
        expected = float(bias.detach().square().mean() - start.square().mean())
        assert expected < -0.02 and denoising() - before == pytest.approx(expected, abs=0.015)
        ends.append(bias.detach().clone())
    assert torch.equal(*ends)


def test_drift_is_the_distance_from_the_untuned_network_and_training_lowers_it(tmp_path):
    """An adapter that has moved is pulled back; the distance is that of the two networks' answers."""
    pipe = tiny_pipeline()
    add_lora(pipe, 2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in pipe.unet.named_parameters():
            if "lora_B" in name:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    config = replace(
        debug(), batch_size=4, strategy="sft", pretrain_weight=0.0, kl_weight=1.0, reward_weight=0.0, bf16=False
    )
    reward = Composed({"bright": Bright()}, {"bright": 1.0})
    tmp_path.mkdir(exist_ok=True)
    tuner = Tuner(pipe, PROMPTS, reward, Session(tmp_path, Processes()), config, None, None, False)

    def drift() -> tuple[torch.Tensor, torch.Tensor]:
        generators = [torch.Generator().manual_seed(i) for i in range(4)]
        return tuner.rollouts.denoising_loss(tuner.anchors[:4], PROMPTS, generators, anchored=True)

    with torch.no_grad():
        before = float(drift()[1])
        stepped = float(tuner.loss(0, torch.Generator())[1]["drift"])
    assert before > 1e-4 and stepped > 1e-4
    optimizer = torch.optim.SGD(tuner.run.named.values(), lr=2.0)
    for number in range(4):
        optimizer.zero_grad()
        tuner.loss(number, torch.Generator())[0].backward()
        optimizer.step()
    with torch.no_grad():
        assert float(drift()[1]) < 0.95 * before
        reference = tiny_pipeline().unet
        states = pipe.encode_prompt(["a red star"], "cpu", 1, False)[0]
        x, t = tuner.anchors[:1], torch.tensor([300])
        g = torch.Generator().manual_seed(77)
        while True:  # a draw whose caption is kept
            state = g.get_state()
            noise = torch.randn(4, 16, 16, generator=g)
            t = torch.randint(1000, (1,), generator=g)
            if torch.rand(1, generator=g) >= CAPTION_DROPOUT:
                break
        noisy = tuner.rollouts.opened.scheduler.add_noise(x, noise[None], t)
        expected = (pipe.unet(noisy, t, states).sample - reference(noisy, t, states).sample).square().mean()
        again = torch.Generator()
        again.set_state(state)
        found = tuner.rollouts.denoising_loss(x, ["a red star"], [again], anchored=True)[1]
    assert float(found) == pytest.approx(float(expected), rel=1e-3)


def test_the_loss_is_the_weighted_sum_of_its_three_terms(tmp_path):
    weights = {"reward_weight": 0.3, "pretrain_weight": 0.7, "kl_weight": 2.0}
    tuner = tuner_of(tmp_path, "refl", constant=CONSTANT, **weights)
    loss, logs = tuner.loss(0, torch.Generator())
    expected = 0.3 * logs["strategy"] + 0.7 * logs["denoising"] + 2.0 * logs["drift"]
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5) and logs["denoising"] > 0


def test_the_distance_to_the_untuned_model_is_in_the_weighted_sum(tmp_path):
    pipe = tiny_pipeline()
    tmp_path.mkdir(exist_ok=True)
    add_lora(pipe, 2)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in pipe.unet.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    reward = Composed({"bright": Bright()}, {"bright": 1.0})
    for kl_weight in (0.0, 2.0):
        config = debug("sft", batch_size=4, bf16=False, pretrain_weight=0.7, kl_weight=kl_weight)
        folder = tmp_path / str(kl_weight)
        folder.mkdir()
        tuner = Tuner(pipe, PROMPTS, reward, Session(folder, Processes()), config, None, None, False)
        loss, logs = tuner.loss(0, torch.Generator())
        assert (logs["drift"] > 1e-5) == (kl_weight > 0)
        expected = 0.7 * logs["denoising"] + kl_weight * logs["drift"]
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


# --- the guard -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reward", "held_out", "stopped"),
    [(1.0, -1.0, True), (1.0, 1.0, False), (-1.0, -1.0, False), (-1.0, 1.0, False)],
)
def test_the_guard_stops_where_the_reward_rises_and_the_held_out_score_falls_alone(reward, held_out, stopped):
    guard = Guard(GuardConfig(z=1.0, patience=2), {}, {})
    noise = 0.01 * torch.randn(16, generator=torch.Generator().manual_seed(0))
    guard.update(0, torch.zeros(16), torch.zeros(16))
    best = [guard.update(10 * k, reward * k + noise, held_out * k + noise) for k in (1, 2)]
    assert guard.stopped is stopped and guard.parted_at == (10 if stopped else None)
    assert guard.best_step == (20 if held_out > 0 else 0) and best == [held_out > 0] * 2


def test_the_guard_waits_for_more_than_noise():
    """A fall of so many standard errors of the paired difference, and not one of less."""
    spread = torch.tensor([-1.0, 1.0] * 8)  # a paired difference of deviation 1.03: its error over 16 is 0.258
    for fall, z, stops in ((0.3, 1.0, True), (0.3, 1.5, False), (0.2, 1.0, False), (0.0, 0.0, False)):
        guard = Guard(GuardConfig(z=z, patience=1), {}, {})
        guard.update(0, torch.zeros(16), torch.zeros(16))
        guard.update(1, torch.ones(16), spread - fall)
        assert guard.stopped is stops, (fall, z)
    guard = Guard(GuardConfig(z=1.0, patience=1), {}, {})
    guard.update(0, torch.zeros(1), torch.zeros(1))
    guard.update(1, torch.ones(1), torch.tensor([-0.1]))
    assert guard.stopped  # one picture has no error


def test_the_guard_forgets_a_fall_that_has_passed():
    guard = Guard(GuardConfig(z=1.0, patience=2), {}, {})
    up = torch.arange(4.0)
    guard.update(0, torch.zeros(4), torch.zeros(4))
    guard.update(1, up + 1, torch.full((4,), -1.0))
    guard.update(2, up - 9, torch.full((4,), -1.0))  # the reward fell too: not hacking
    guard.update(3, up + 1, torch.full((4,), -1.0))
    assert not guard.stopped
    guard.update(4, up + 1, torch.full((4,), -1.0))
    assert guard.stopped and guard.parted_at == 3


# --- inversion -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pairs() -> PairSet:
    """Pictures of three colours whose targets are three orthogonal directions."""
    rng = np.random.default_rng(0)
    kind = rng.integers(3, size=24)
    images = torch.zeros(24, 3, 64, 64, dtype=torch.uint8)
    for i, k in enumerate(kind):
        images[i, int(k)] = 200 + int(rng.integers(40))
    prompts = [("a crimson wall", "a verdant wall", "an azure wall")[k] for k in kind]
    return PairSet(images, prompts, F.one_hot(torch.from_numpy(kind), 384).float(), list(prompts))


@pytest.mark.parametrize("kind", ["clip", "vit"])
def test_an_inverter_nears_its_targets_and_names_the_words_that_are_there(tmp_path, pairs, kind):
    vocabulary = Vocabulary.build(pairs.prompts, 10)
    config = InvertTrainConfig(
        steps=12, batch_size=12, curriculum="none", bf16=False, learning_rate=3e-3, vocabulary_weight=1.0, ema_decay=0.0
    )
    predictor = PredictorConfig(kind=kind, hidden=16)

    def scores(model) -> tuple[float, float]:
        vectors, logits = predict(model, pairs)
        present = vocabulary.present(pairs.prompts).bool()
        return (
            float(F.cosine_similarity(vectors, pairs.targets).mean()),
            float(logits[present].mean() - logits[~present].mean()),
        )

    before = scores(build(predictor, len(vocabulary), 0, 384).eval())
    after = scores(train_predictor(predictor, pairs, vocabulary, tmp_path, config))
    assert after[0] > before[0] + 0.02 and after[1] > before[1] + 0.5, (before, after)


@pytest.mark.parametrize("curriculum", ["none", "prefix"])
def test_an_inverter_sees_all_pairs_or_first_the_easy_ones(tmp_path, pairs, monkeypatch, curriculum):
    seen: list[int] = []
    pixels = PairSet.pixels

    def watched(self, rows, side):
        seen.extend(torch.as_tensor(rows).tolist())
        return pixels(self, rows, side)

    order = torch.arange(24).flip(0)  # the last pair is the easiest
    monkeypatch.setattr(invert_train, "_order", lambda *_: order)
    monkeypatch.setattr(PairSet, "pixels", watched)
    config = InvertTrainConfig(steps=4, batch_size=48, curriculum=curriculum, bf16=False)
    vocabulary = Vocabulary.build(pairs.prompts, 10)
    train_predictor(PredictorConfig(kind="clip", hidden=8), pairs, vocabulary, tmp_path, config)
    first, second, last = (set(seen[48 * i : 48 * (i + 1)]) for i in (0, 1, 3))
    if curriculum == "prefix":  # a quarter, a third, a half and all, a step each
        assert first <= set(range(18, 24)) and second <= set(range(16, 24)) and min(last) < 12
    else:
        assert min(first) < 16 and min(second) < 16 and min(last) < 12


# --- context ---------------------------------------------------------------------------------------------------------
CONTEXT = ContextTrainConfig(
    steps=8, batch_size=4, save_every=8, warmup_steps=0, learning_rate=1e-2, ema_decay=0.0, share=1.0, bf16=False
)


def draw(rng: np.random.Generator, size: int, done: float = 0.0) -> tuple[torch.Tensor, list[str]]:
    """Latents that their caption decides: red stars lie high, blue keys low."""
    which = [i % 2 for i in range(size)]
    latents = torch.from_numpy(rng.standard_normal((size, 4, 16, 16)).astype(np.float32))
    return latents + torch.tensor([2.0 if w == 0 else -2.0 for w in which]).view(-1, 1, 1, 1), [
        PROMPTS[w] for w in which
    ]


def objective_of(kind: str, **changes) -> Objective:
    pipe = constant_pipeline(kind, CONSTANT)
    relation = new_relation(pipe, 1.0)
    torch.manual_seed(1)
    torch.nn.init.normal_(relation.out.weight, std=0.2)
    return Objective(pipe, relation.eval(), replace(CONTEXT, **changes))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_context_in_closed_form(kind):
    """Of x_t = sqrt(ab) x0 + k r + sqrt(1 - ab) e: mean (c - target~)^2 with e~ = e + k r / sqrt(1 - ab)."""
    objective = objective_of(kind, estimated_share=0.0)
    latents, captions = draw(np.random.default_rng(0), 3)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    times = torch.tensor([100, 500, 900])
    loss, logs = objective(latents, captions, noise, times, torch.ones(3, dtype=bool), torch.zeros(3, dtype=bool))
    states = objective.pipe.encode_prompt(captions, "cpu", 1, False)[0]
    r = objective.relation(latents, states, times)
    ab = objective.process.scheduler.alphas_cumprod[times].view(3, 1, 1, 1)
    shifted = noise + ab.sqrt() * (1 - ab.sqrt()) * r / (1 - ab).sqrt()
    target = {
        "epsilon": shifted,
        "sample": latents,
        "v_prediction": ab.sqrt() * shifted - (1 - ab).sqrt() * latents,
    }[kind]
    expected = (torch.tensor(CONSTANT).view(1, 4, 1, 1) - target).square().mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert logs["shift"] == pytest.approx(float(r.detach().square().mean().sqrt()), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_of_context_in_closed_form(kind):
    """The KL of two Gaussians at t and t - 1; at t = 0 half the square of x0 - x0^."""
    objective = objective_of(kind, estimated_share=0.0, loss="kl")
    latents, captions = draw(np.random.default_rng(0), 3)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    times = torch.tensor([0, 500, 900])
    loss, _ = objective(latents, captions, noise, times, torch.ones(3, dtype=bool), torch.zeros(3, dtype=bool))
    states = objective.pipe.encode_prompt(captions, "cpu", 1, False)[0]
    c, ab_all, relation = (
        torch.tensor(CONSTANT).view(1, 4, 1, 1),
        objective.process.scheduler.alphas_cumprod,
        objective.relation,
    )
    each = []
    for i, t in enumerate(times.tolist()):
        x0, one = latents[i : i + 1], states[i : i + 1]

        def shift(x, t, one=one):
            return ab_all[t].sqrt() * (1 - ab_all[t].sqrt()) * relation(x, one, torch.tensor([t]))

        ab = ab_all[t]
        noisy = ab.sqrt() * x0 + shift(x0, t) + (1 - ab).sqrt() * noise[i : i + 1]
        guess = {
            "epsilon": (noisy - (1 - ab).sqrt() * c) / ab.sqrt(),
            "v_prediction": ab.sqrt() * noisy - (1 - ab).sqrt() * c,
            "sample": c.expand_as(noisy),
        }[kind]
        if t == 0:
            each.append((x0 - guess).square() / 2)
            continue
        s = t - 1
        now, after = of_ab(ab, kind), of_ab(ab_all[s], kind)
        each.append(exact_kl(x0, guess, shift(x0, t), shift(x0, s), shift(guess, t), shift(guess, s), now, after))
    expected = float(torch.cat(each).mean().detach())
    assert float(loss.detach()) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_of_context_has_a_gradient_at_the_first_step(kind):
    """There the two steps are one, and the branch that is not taken must not be a number that is none."""
    objective = objective_of(kind, estimated_share=0.0, loss="kl")
    latents, captions = draw(np.random.default_rng(0), 2)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    relation = objective.relation.requires_grad_(True)
    times, yes = torch.tensor([0, 0]), torch.ones(2, dtype=bool)
    objective(latents, captions, noise, times, yes, ~yes)[0].backward()
    gradients = [p.grad for p in relation.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    # what x0^ forgets of x_0 in x_t alone; a network that predicts x0 itself, and is a constant, forgets all
    assert (sum(float(g.abs().sum()) for g in gradients) > 0) == (kind != "sample")


@pytest.mark.parametrize("denoiser", ["full", "frozen"])
def test_training_with_context_lowers_its_loss(tmp_path, denoiser):
    """On a batch that was never drawn; with the denoiser frozen the relational network alone does it."""
    pipe = tiny_pipeline()
    config = replace(CONTEXT, denoiser=denoiser, loss="mse", steps=10)

    def loss(relation) -> float:
        objective = Objective(pipe, relation, config)
        latents, captions = draw(np.random.default_rng(99), 8)
        chance = objective.chance(latents.shape, torch.Generator().manual_seed(7))
        with torch.no_grad():
            return float(objective(latents, captions, *chance)[0])

    before = loss(new_relation(pipe, config.share, config.seed))
    after = loss(train_context(pipe, draw, tmp_path, config))
    assert after < before - 1e-3, (before, after)


# --- one video -------------------------------------------------------------------------------------------------------
def video_editor(kind: str = "epsilon", **changes) -> VideoEditor:
    pipe = tiny_pipeline()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    config = EditConfig(tune_steps=8, num_inference_steps=4, window=4, overlap=1, **changes)
    return VideoEditor(pipe, moving(1, 4).video, "a red star", config)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("context", [True, False])
def test_one_shot_tuning_lowers_the_denoising_loss_of_its_video(tmp_path, kind, context):
    editor = video_editor(kind, context=context, learning_rate=3e-3)

    def loss() -> float:
        """Of x_t without a shift: what the network makes of the video's own frames."""
        x0, errors = editor.latents.float(), []
        for k, t in enumerate((200, 500, 800)):
            noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(k))
            times = torch.full((len(x0),), t)
            noisy = editor.scheduler.add_noise(x0, noise, times)
            with torch.no_grad(), editor.parts.put_in(editor.pipe.unet):
                output = editor._network(noisy, t, [editor._conditioning("a red star")])[0]
            errors.append((output - editor.scheduler.process.target(noisy, x0, times)).square().mean())
        return float(torch.stack(errors).mean())

    before = loss()
    editor.tune(tmp_path, progress=False)
    assert loss() < before - 1e-3


@pytest.fixture
def in_float32(monkeypatch):
    """Training computes in float32, also on a processor that is faster in bfloat16."""
    monkeypatch.setattr("accord.training.loop.computes_bf16", lambda device: False)
    monkeypatch.setattr("accord_lab.recipes.denoiser.computes_bf16", lambda device: False)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("context", [None, "estimated", "true"])
def test_the_loss_of_a_video_in_closed_form(tmp_path, in_float32, kind, context):
    """Its first step's: mean (c - target~)^2 of x_t with the shift of the video, or of the network's guess of it."""
    config = EditConfig(
        tune_steps=1, window=4, overlap=1, context=context is not None, estimated=context == "estimated"
    )
    editor = VideoEditor(constant_pipeline(kind, CONSTANT), moving(1, 6).video, "a red star", config)
    if editor.parts.relation is not None:
        torch.manual_seed(1)
        torch.nn.init.normal_(editor.parts.relation.out.weight, std=0.2)
    generator = step_generator(config.seed, 0)
    x0 = editor.latents[window_rows(6, 4, generator)]
    noise, t = torch.randn(x0.shape, generator=generator), torch.randint(1000, (1,), generator=generator)
    ab, c = editor.scheduler.alphas_cumprod[t], torch.tensor(CONSTANT).view(1, 4, 1, 1)
    shifted = noise
    if editor.parts.relation is not None:
        noisy = ab.sqrt() * x0 + (1 - ab).sqrt() * noise
        by_epsilon, by_v = (noisy - (1 - ab).sqrt() * c) / ab.sqrt(), ab.sqrt() * noisy - (1 - ab).sqrt() * c
        shown = x0 if context == "true" else by_epsilon if kind == "epsilon" else by_v
        states = editor._conditioning("a red star").states.expand(len(x0), -1, -1)
        with torch.no_grad():
            r = editor.parts.relation(shown, states, t.expand(len(x0)))
        shifted = noise + ab.sqrt() * (1 - ab.sqrt()) * r / (1 - ab).sqrt()
    target = shifted if kind == "epsilon" else ab.sqrt() * shifted - (1 - ab).sqrt() * x0
    editor.tune(tmp_path, progress=False)
    (row,) = map(json.loads, (tmp_path / "curve.jsonl").read_text().splitlines())
    assert row["loss"] == pytest.approx(float((c - target).square().mean()), rel=1e-3)


# --- the lab's recipes ---------------------------------------------------------------------------------------------
def fast(steps: int) -> LoopConfig:
    return LoopConfig(steps=steps, learning_rate=2e-3, warmup_steps=0, ema_decay=0.0, weight_decay=0.0, bf16=False)


@pytest.fixture
def recipe(monkeypatch):
    import importlib

    def get(name: str):
        module = importlib.import_module(f"accord_lab.recipes.{name}")
        monkeypatch.setattr(module, "config", lambda steps=0: fast(steps))
        return module

    return get


def test_the_vae_recipe_brings_pictures_back_better(tmp_path, recipe, monkeypatch):
    from diffusers import AutoencoderKL

    vae = recipe("vae")
    monkeypatch.setattr(vae, "SCALED_ON", 8)
    images, weights = vae.batch(np.random.default_rng(123), 2, False)
    monkeypatch.setattr(vae, "batch", lambda rng, size, crop: (images, weights))  # so few steps learn these alone

    def error(model) -> float:
        with torch.no_grad():
            return float((model.decode(model.encode(images).latent_dist.mean).sample - images).abs().mean())

    torch.manual_seed(0)
    before = error(vae.build().eval())
    vae.train(tmp_path, steps=10, batch_size=2)
    after = error(AutoencoderKL.from_pretrained(tmp_path / "vae", torch_dtype=torch.float32))
    assert after < before - 0.01, (before, after)


class Enough(Exception):
    """Ends a recipe once its loss was looked at."""


def test_the_vae_recipe_in_closed_form(tmp_path, recipe, monkeypatch):
    """Twice as many crops, then whole pictures; of e = decode(mean + std z) - x: mean w (|e| + 2 e^2) + w_KL KL."""
    vae = recipe("vae")

    def look(run, loss_fn, *_):
        model, steps = run.modules["vae"].eval(), 10
        for step in (0, 6, 7, 9):  # the last 0.3 of the steps are of whole pictures
            crop = step < 7
            loss, _ = loss_fn(step, torch.Generator().manual_seed(5))
            images, weights = vae.batch(np.random.default_rng((3, step)), 4 if crop else 2, crop)
            posterior = model.encode(images.to(memory_format=torch.channels_last)).latent_dist
            z = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(5))
            e = model.decode(posterior.mean + posterior.std * z).sample - images
            expected = (weights * (e.abs() + 2 * e**2)).mean() + vae.KL_WEIGHT * posterior.kl().mean()
            assert len(images) == (4 if crop else 2) and images.shape[-1] == (32 if crop else 64)
            assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5), step
        assert run.config.steps == steps
        raise Enough

    monkeypatch.setattr(vae.Run, "train", look)
    with pytest.raises(Enough):
        vae.train(tmp_path, steps=10, seed=3, batch_size=2)


def test_the_clip_recipe_tells_captions_apart(tmp_path, recipe, monkeypatch):
    """The contrast of the own caption with the others' rises in both directions."""
    from transformers import CLIPModel, CLIPTokenizer

    clip = recipe("clip")
    monkeypatch.setattr(clip, "DENSE_ONLY", 0.0)
    monkeypatch.setattr(clip, "clip_tokenizer", lambda: CLIPTokenizer.from_pretrained(MODELS / "clip"))
    images, texts = clip.batch(np.random.default_rng(0), 8, 0)
    pixels = clip.to_tensor(images)
    monkeypatch.setattr(clip, "batch", lambda rng, size, crops: (images, texts))  # so few steps learn these alone

    def contrast(model) -> float:
        tokenizer = CLIPTokenizer.from_pretrained(MODELS / "clip")
        ids = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(input_ids=ids.input_ids, attention_mask=ids.attention_mask, pixel_values=pixels)
            logits = logits.logits_per_image / model.logit_scale.exp()
        own = logits.diagonal().mean()
        return float(own - (logits.sum() - logits.diagonal().sum()) / (64 - 8))

    clip.train(tmp_path, steps=15, batch_size=8)
    torch.manual_seed(0)
    before = contrast(clip.build(CLIPTokenizer.from_pretrained(tmp_path / "clip")).eval())
    after = contrast(CLIPModel.from_pretrained(tmp_path / "clip", dtype=torch.float32).eval())
    assert after > before + 0.01, (before, after)


def test_the_clip_recipe_in_closed_form(tmp_path, recipe, monkeypatch):
    """Half of the steps the dense task; then the mean of two cross entropies, with a share of crops."""
    from transformers import CLIPModel, CLIPTokenizer

    clip, crops = recipe("clip"), []
    monkeypatch.setattr(clip, "DENSE_ONLY", 0.5)
    monkeypatch.setattr(clip, "CROP_SHARE", 0.25)
    monkeypatch.setattr(clip, "clip_tokenizer", lambda: CLIPTokenizer.from_pretrained(MODELS / "clip"))
    monkeypatch.setattr(clip, "dense_loss", lambda *_: torch.tensor(-1.0))
    images, texts = clip.batch(np.random.default_rng(0), 8, 0)
    monkeypatch.setattr(clip, "batch", lambda rng, size, count: crops.append((size, count)) or (images, texts))

    def look(run, loss_fn, *_):
        model = run.modules["clip"].eval()
        # one that tells most of them apart
        model.load_state_dict(CLIPModel.from_pretrained(MODELS / "clip", dtype=torch.float32).state_dict())
        assert [float(loss_fn(step, None)[0]) == -1 for step in (0, 4, 5, 9)] == [True, True, False, False]
        assert crops == [(8, 2)] * 2
        loss, logs = loss_fn(9, None)
        ids = CLIPTokenizer.from_pretrained(MODELS / "clip")(texts, padding="longest", return_tensors="pt")
        out = model(**{k: ids[k] for k in ("input_ids", "attention_mask")}, pixel_values=clip.to_tensor(images))
        logits = out.logits_per_image.detach()
        both = [-logits.log_softmax(d).diagonal().mean() for d in (0, 1)]
        assert float(loss.detach()) == pytest.approx(float(sum(both)) / 2, rel=1e-5)
        right = [int(row.argmax()) == i for i, row in enumerate(logits)]
        assert logs["accuracy"] == pytest.approx(sum(right) / 8) and sum(right) > 4
        raise Enough

    monkeypatch.setattr(clip.Run, "train", look)
    with pytest.raises(Enough):
        clip.train(tmp_path, steps=10, batch_size=8)


def test_the_captioner_recipe_in_closed_form(tmp_path, recipe, monkeypatch):
    """Half of the steps the nouns alone; then words, which padding has none of, with places and things."""
    from transformers import BertTokenizer

    captioner = recipe("captioner")
    tokenizer = BertTokenizer.from_pretrained(MODELS / "captioner")
    monkeypatch.setattr(captioner, "DENSE_ONLY", 0.5)
    monkeypatch.setattr(captioner, "bert_tokenizer", lambda: tokenizer)
    monkeypatch.setattr(captioner, "dense_loss", lambda *_: torch.tensor(-1.0))
    dense = {captioner.relation_labels: torch.tensor(2.0), captioner.noun_labels: torch.tensor(4.0)}
    monkeypatch.setattr(captioner, "patch_loss", lambda states, head, labels, scenes: dense[labels])
    rng = np.random.default_rng(0)
    drawn = [captioner.example(rng) for _ in range(3)]
    # of three lengths, the last with a relation, whose words weigh more
    drawn = [(d[0], t, d[2]) for d, t in zip(drawn, ("a star", "a red star", "a star above a key"), strict=True)]

    def look(run, loss_fn, *_):
        model = run.modules["captioner"].eval()
        left = itertools.cycle(drawn)
        monkeypatch.setattr(captioner, "example", lambda rng: next(left))
        assert [float(loss_fn(step, None)[0]) == -1 for step in (0, 4, 5)] == [True, True, False]
        loss, logs = loss_fn(9, None)
        total = weight = 0.0
        for image, text, _ in drawn:
            ids = tokenizer(text, return_tensors="pt").input_ids
            ids[:, 0] = tokenizer.bos_token_id
            states = model.vision_model(captioner.to_tensor(image[None])).last_hidden_state
            log_p = model.text_decoder(input_ids=ids, encoder_hidden_states=states).logits[0].log_softmax(-1).detach()
            for position, word in enumerate(ids[0, 1:].tolist()):
                heavy = tokenizer.convert_ids_to_tokens(word) in captioner.RELATION_WORDS
                w = captioner.RELATION_WEIGHT if heavy else 1.0
                total, weight = total - w * float(log_p[position, word]), weight + w
        assert logs["words"] == pytest.approx(total / weight, rel=1e-4)
        assert float(loss.detach()) == pytest.approx(total / weight + 2 + 4, rel=1e-4)
        raise Enough

    monkeypatch.setattr(captioner.Run, "train", look)
    with pytest.raises(Enough):
        captioner.train(tmp_path, steps=10, batch_size=3)


def test_the_captioner_recipe_makes_true_captions_likely(tmp_path, recipe, monkeypatch):
    from transformers import BertTokenizer, BlipForConditionalGeneration

    captioner = recipe("captioner")
    monkeypatch.setattr(captioner, "DENSE_ONLY", 0.0)
    monkeypatch.setattr(captioner, "bert_tokenizer", lambda: BertTokenizer.from_pretrained(MODELS / "captioner"))
    rng = np.random.default_rng(0)
    drawn = [captioner.example(rng) for _ in range(8)]
    pixels = captioner.to_tensor(np.stack([d[0] for d in drawn]))

    def likelihood(model, tokenizer) -> float:
        ids = tokenizer([d[1] for d in drawn], padding="longest", return_tensors="pt")
        ids.input_ids[:, 0] = tokenizer.bos_token_id
        with torch.no_grad():
            states = model.vision_model(pixels).last_hidden_state
            logits = model.text_decoder(
                input_ids=ids.input_ids, attention_mask=ids.attention_mask, encoder_hidden_states=states
            ).logits
        log_p = logits[:, :-1].log_softmax(-1).gather(2, ids.input_ids[:, 1:, None])[..., 0]
        return float(log_p[ids.attention_mask[:, 1:] == 1].mean())

    captioner.train(tmp_path, steps=12, batch_size=4)
    tokenizer = BertTokenizer.from_pretrained(tmp_path / "captioner")
    torch.manual_seed(0)
    before = likelihood(captioner.build(tokenizer).eval(), tokenizer)
    trained = BlipForConditionalGeneration.from_pretrained(tmp_path / "captioner", dtype=torch.float32).eval()
    assert likelihood(trained, tokenizer) > before + 0.5


def test_the_denoiser_recipe_in_closed_form(tmp_path, recipe, monkeypatch):
    """Mean square of the velocity's error at the scaled latents of the drawn scenes, and the contest beside it."""
    denoiser, done, centred, texts = recipe("denoiser"), [], [], []
    shares, sayings, say = denoiser.shares, denoiser.draw_sayings, denoiser.say
    encoded = torch.randn(32, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    index, times = np.asarray([0, 25, 3, 30]), torch.tensor([100, 400, 700, 900])
    for name, value in {
        "SCENES": 24,
        "CENTRED": 8,
        "CAPTION_DROPOUT": 0.0,
        "encode_scenes": lambda *_: encoded,
        "shares": lambda share: done.append(share) or shares(share),
        "draw_scenes": lambda *_: index,
        "draw_sayings": lambda rng, alone, how: centred.append(alone.tolist()) or sayings(rng, alone, how),
        "say": lambda *given: texts.append(say(*given)) or texts[-1],
        "draw_timesteps": lambda *_: times,
    }.items():
        monkeypatch.setattr(denoiser, name, value)
    shutil.copytree(MODELS / "clip", tmp_path / "clip")
    shutil.copytree(MODELS / "pipeline" / "vae", tmp_path / "vae")
    scale = json.loads((tmp_path / "vae" / "config.json").read_text())["scaling_factor"]

    def look(run, loss_fn, *_):
        unet, tower = (run.modules[n].eval() for n in ("unet", "text"))
        loss, logs = loss_fn(4, torch.Generator().manual_seed(5))
        assert done == [0.4] and centred == [[False, True, False, True]]
        latents = encoded[index] * scale
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
        tokenizer = denoiser.CLIPTokenizer.from_pretrained(tmp_path / "clip")
        ids = tokenizer([said.text for said in texts], padding="max_length", return_tensors="pt").input_ids
        scheduler = denoiser.scheduler()
        velocity = unet(scheduler.add_noise(latents, noise, times), times, tower(ids).last_hidden_state).sample
        error = float((velocity - scheduler.get_velocity(latents, noise, times)).square().mean().detach())
        assert logs["error"] == pytest.approx(error, rel=1e-4) and logs["contest"] > 0
        assert float(loss.detach()) == pytest.approx(error + denoiser.GROUNDING * logs["contest"], rel=1e-4)
        raise Enough

    monkeypatch.setattr(denoiser.Run, "train", look)
    with pytest.raises(Enough):
        denoiser.train(tmp_path, steps=10, batch_size=4)


def test_the_denoiser_recipe_lowers_the_velocitys_error(tmp_path, recipe, in_float32, monkeypatch):
    from diffusers import StableDiffusionPipeline

    denoiser = recipe("denoiser")
    monkeypatch.setattr(denoiser, "SCENES", 24)
    monkeypatch.setattr(denoiser, "CENTRED", 8)
    shutil.copytree(MODELS / "clip", tmp_path / "clip")
    shutil.copytree(MODELS / "pipeline" / "vae", tmp_path / "vae")
    scheduler = denoiser.scheduler()

    def error(unet, states, latents) -> float:
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
        times = torch.tensor([100, 400, 700, 900])
        with torch.no_grad():
            velocity = unet(scheduler.add_noise(latents, noise, times), times, states).sample
        return float((velocity - scheduler.get_velocity(latents, noise, times)).square().mean())

    denoiser.train(tmp_path, steps=8, batch_size=4)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline", torch_dtype=torch.float32)
    images = np.stack([denoiser.render(denoiser.scene_of(24 + i, 0)) for i in range(4)])
    with torch.no_grad():
        latents = pipe.vae.encode(denoiser.to_tensor(images)).latent_dist.mean * pipe.vae.config.scaling_factor
    states = pipe.encode_prompt(["a star"] * 4, "cpu", 1, False)[0]
    torch.manual_seed(0)
    denoiser.text_tower(denoiser.CLIPModel.from_pretrained(tmp_path / "clip", dtype=torch.float32))
    before = error(denoiser.build(states.shape[-1]).eval(), states, latents)
    assert error(pipe.unet, states, latents) < before - 1e-3
