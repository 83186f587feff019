"""Reward tuning: every strategy on tiny pipelines of the real classes, faults, several processes, the guard."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_blip, tiny_blip2, tiny_pipeline, tiny_sdxl
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from accord.diffusion.generate import generate
from accord.diffusion.lora import add_lora, remove_lora, without_lora
from accord.diffusion.opened import Opened
from accord.diffusion.pipelines import load
from accord.diffusion.process import levels, transition
from accord.judges.clip import ClipScorer, load_clip
from accord.methods.context.config import ContextTrainConfig
from accord.methods.context.train import train_context
from accord.methods.tune import registry
from accord.methods.tune.config import TuneConfig, debug
from accord.methods.tune.registry import STRATEGIES, strategy_names
from accord.methods.tune.rollouts import Batch
from accord.methods.tune.strategies.grpo import GRPO_ETA, gaussian_log_p, group_advantages
from accord.methods.tune.strategies.refl import Refl
from accord.methods.tune.train import Tuner, train_reward
from accord.rewards.composed import Composed
from accord.rewards.named.caption import CaptionReward
from accord.rewards.named.clip import ClipReward
from accord.rewards.named.contrast import CaptionContrast
from accord.rewards.named.likelihood import CaptionLikelihood
from accord.training.guard import Guard, GuardConfig
from accord.training.processes import Processes
from accord.training.session import Session
from accord.types import InputError

pytestmark = pytest.mark.usefixtures("no_curve")
PROMPTS = ["a red star", "a blue key", "two green fish", "a pink crown", "a green tree", "a yellow egg"]
PIPELINES = {"sd1": lambda: tiny_pipeline("sd1"), "sd2": lambda: tiny_pipeline("sd2"), "sdxl": tiny_sdxl}


@cache
def the_clip() -> ClipScorer:
    """The lab's, which no run changes, loaded once."""
    return load_clip()


def likelihood() -> Composed:
    return Composed({"likelihood": CaptionLikelihood(tiny_blip())}, {"likelihood": 1.0})


def clip_reward() -> Composed:
    return Composed({"clip": ClipReward(the_clip())}, {"clip": 1.0})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "pytorch_lora_weights.safetensors")


def run(folder: Path, pipe=None, reward=None, config=None, **kwargs):
    return train_reward(
        pipe or tiny_pipeline(),
        PROMPTS,
        reward or likelihood(),
        folder,
        config=config or debug(),
        progress=False,
        **kwargs,
    )


# --- every strategy on every class ---------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", list(PIPELINES))
@pytest.mark.parametrize("strategy", ["refl", "draft", "raft", "grpo", "nft", "awm", "sft"])
def test_each_strategy_moves_the_adapter(tmp_path, kind, strategy):
    pipe = PIPELINES[kind]()
    plain = generate(pipe, PROMPTS[0], num_inference_steps=2, output_type="latent")
    tuned = run(
        tmp_path,
        pipe,
        config=debug(strategy, learning_rate=1e-2, num_inference_steps=3),
        held_out=ClipReward(the_clip()),
    )
    state = weights(tmp_path)
    ups = [v for k, v in state.items() if "lora_B" in k or "lora.up" in k]
    assert ups and any(v.abs().max() > 0 for v in ups)
    assert not torch.equal(generate(pipe, PROMPTS[0], num_inference_steps=2, output_type="latent"), plain)
    assert (
        tuned.report["strategy"] == strategy
        and tuned.report["steps_taken"] == 2
        and len(tuned.report["evaluations"]) == 3
    )
    assert {"README.md", "report.json", "curve.jsonl", "config.json"} <= {p.name for p in tmp_path.iterdir()}
    assert str(tmp_path) not in (tmp_path / "README.md").read_text()
    remove_lora(pipe)
    assert torch.equal(generate(pipe, PROMPTS[0], num_inference_steps=2, output_type="latent"), plain)


@pytest.mark.parametrize("reward", ["contrast-blip2", "clip", "caption"])
def test_other_rewards(tmp_path, reward):
    made = {
        "contrast-blip2": lambda: CaptionContrast(tiny_blip2()),
        "clip": lambda: ClipReward(the_clip()),
        "caption": lambda: CaptionReward(tiny_blip(), the_clip().text_features),
    }[reward]()
    composed = Composed({reward: made}, {reward: 1.0})
    run(tmp_path, reward=composed, strategy="refl" if made.differentiable else "grpo")
    rows = [json.loads(s) for s in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2] and all(f"reward/{reward}" in r for r in rows)


def test_gradient_checkpointing_and_accumulation_change_nothing(tmp_path):
    # the sums of two halves are rounded otherwise than that of the whole
    base = replace(debug(), batch_size=4, bf16=False, num_inference_steps=3, guidance_scale=1.0)
    run(tmp_path / "a", config=base)
    run(tmp_path / "b", config=replace(base, gradient_checkpointing=True))
    run(tmp_path / "c", config=replace(base, gradient_accumulation=2))
    a, b, c = (weights(tmp_path / n) for n in "abc")
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in a)
    assert all(torch.allclose(a[k], c[k], atol=1e-5) for k in a)


# --- the adapter is everyone's -------------------------------------------------------------------------------------
VANILLA = """
import sys, torch
from safetensors.torch import save_file
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], safety_checker=None, requires_safety_checker=False)
pipe.load_lora_weights(sys.argv[2])
pipe.set_progress_bar_config(disable=True)
out = pipe("a red star", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="latent").images
save_file({"out": out.contiguous()}, sys.argv[3])
assert "accord" not in sys.modules
"""


def test_plain_diffusers_loads_the_adapter(tmp_path):
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "pipe")
    run(tmp_path / "run", pipe, config=replace(debug(), learning_rate=1e-2))
    ours = pipe(
        "a red star", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="latent"
    ).images
    command = [
        sys.executable,
        "-c",
        VANILLA,
        str(tmp_path / "pipe"),
        str(tmp_path / "run"),
        str(tmp_path / "out.safetensors"),
    ]
    subprocess.run(
        command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    )
    theirs = load_file(tmp_path / "out.safetensors")["out"]
    assert torch.allclose(ours, theirs, atol=1e-5)
    again = load(str(tmp_path / "pipe"), lora=tmp_path / "run")
    assert torch.allclose(
        again(
            "a red star", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="latent"
        ).images,
        ours,
        atol=1e-5,
    )
    remove_lora(pipe)
    plain = pipe(
        "a red star", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="latent"
    ).images
    assert (plain - theirs).abs().max() > 1e-3


def test_without_lora_is_the_untuned_network():
    pipe = tiny_pipeline()
    x, t, states = torch.randn(1, 4, 16, 16), torch.tensor([5]), torch.randn(1, 77, 32)
    before = pipe.unet(x, t, states).sample
    add_lora(pipe, 4)
    with torch.no_grad():
        for p in pipe.unet.parameters():
            if p.requires_grad:
                p.fill_(0.1)
    assert not torch.equal(pipe.unet(x, t, states).sample, before)
    with without_lora(pipe):
        assert torch.equal(pipe.unet(x, t, states).sample, before)
    assert any(p.requires_grad for p in pipe.unet.parameters())
    with pytest.raises(InputError, match="has an adapter named"):
        add_lora(pipe, 4)


# --- the equations -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("zero_snr", [False, True])
def test_the_transition_is_the_step_that_ddim_takes(tiny, zero_snr):
    """mean + spread * the step's own noise is the step, for every step but the last."""
    from diffusers import DDIMScheduler

    more = (
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
        if zero_snr
        else {}
    )
    scheduler = DDIMScheduler.from_config(tiny.scheduler.config, **more)
    scheduler.set_timesteps(4)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    before, grid = latents, levels(scheduler)
    makers = [torch.Generator().manual_seed(8)]
    noise_of = torch.Generator().manual_seed(8)
    steps = []
    opened = Opened(tiny, 4, scheduler=scheduler, eta=GRPO_ETA)
    opened.rollout(["a star"], makers, noise=latents, on_step=steps.append)
    for step in steps:
        mean, spread = transition(before, step.output, grid[step.index], grid[step.index + 1], GRPO_ETA)
        noise = torch.randn(1, 4, 16, 16, generator=noise_of)
        assert torch.isfinite(step.next()).all()
        if step.index < 3:
            assert torch.allclose(step.next(), mean + spread * noise, atol=1e-4)
            expected = torch.distributions.Normal(mean, spread).log_prob(step.next())
            normaliser = torch.distributions.Normal(mean, spread).log_prob(mean)
            assert torch.allclose(
                gaussian_log_p(step.next(), mean, spread), (expected - normaliser).mean((1, 2, 3)), atol=1e-3
            )
        before = step.next()


def test_the_last_step_still_gives_a_probability(tiny):
    """A rollout of one step has no other."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(tiny.scheduler.config, set_alpha_to_one=True)
    scheduler.set_timesteps(1)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    mean, spread = transition(latents, torch.zeros_like(latents), *levels(scheduler), GRPO_ETA)
    assert float(spread) == 0 and torch.isfinite(gaussian_log_p(mean, mean, spread)).all()
    off = gaussian_log_p(mean + 1e-6, mean, spread)
    assert float(off) == pytest.approx(-0.5, rel=0.2)  # as with a deviation of 1e-6


def test_advantages_are_normalised_in_their_group():
    rewards = torch.tensor([1.0, 3.0, 5.0, 5.0])
    found = group_advantages(rewards, [0, 0, 1, 1], rewards, [0, 0, 1, 1])
    assert torch.allclose(found, torch.tensor([-1.0, 1.0, 0.0, 0.0]), atol=1e-3)
    # a spread of nearly nothing makes no advantage of rounding
    assert torch.allclose(
        group_advantages(torch.tensor([0.0, 2e-4]), [0, 0], torch.tensor([0.0, 2e-4]), [0, 0]),
        torch.tensor([-0.5, 0.5]),
        atol=1e-3,
    )
    # two processes, one group
    mine = group_advantages(rewards[:1], [7], rewards[:2], [7, 7])
    assert torch.allclose(mine, torch.tensor([-1.0]), atol=1e-3)


def tuner_of(tmp_path, strategy, **changes) -> Tuner:
    pipe = tiny_pipeline()
    tmp_path.mkdir(exist_ok=True)
    add_lora(pipe, 4)
    config = debug(strategy, **changes)
    return Tuner(pipe, PROMPTS, clip_reward(), Session(tmp_path, Processes()), config, None, None, False)


def test_raft_keeps_the_best_of_each_prompt(tmp_path):
    """Each picture is judged by its own prompt: brute force over all candidates."""
    tuner = tuner_of(tmp_path, "raft", candidates=3, batch_size=2)
    batch = tuner.batch(0)
    tuner.config.strategy.loss(tuner.rollouts, batch)
    for i, prompt in enumerate(batch.prompts):
        tried = [tuner.rollouts.pictures([prompt], [batch.generators(salt=100 + k)[i]]) for k in range(3)]
        scores = [float(tuner.reward(tuner.rollouts.decode([prompt], t), [prompt])) for t in tried]
        best = max(range(3), key=scores.__getitem__)
        assert torch.allclose(tuner.run.tensors["raft.latents"][i], tried[best][0], atol=1e-4)
        assert float(tuner.run.tensors["raft.rewards"][i]) == pytest.approx(scores[best], abs=1e-3)


def test_raft_does_not_keep_a_picture_that_cannot_be_judged(tmp_path):
    class Blind:
        differentiable = False
        calls = 0

        def __call__(self, images, prompts):
            self.calls += 1
            return torch.full((len(images),), torch.nan if self.calls == 1 else 0.5)

    tuner = tuner_of(tmp_path, "raft", candidates=2, batch_size=2)
    tuner.rollouts.reward = Composed({"blind": Blind()}, {"blind": 1.0})
    tuner.rollouts.reward.scales = {"blind": (0.0, 1.0)}
    batch = tuner.batch(0)
    loss, logs = tuner.config.strategy.loss(tuner.rollouts, batch)
    second = tuner.rollouts.pictures(batch.prompts, batch.generators(salt=101))
    assert torch.equal(tuner.run.tensors["raft.latents"], second.float())
    assert torch.isfinite(loss) and logs["kept_reward"] == 0.5


def test_raft_does_not_learn_from_what_could_not_be_judged(tmp_path):
    tuner = tuner_of(tmp_path, "raft", batch_size=2, refresh=9)
    tuner.config.strategy.loss(tuner.rollouts, tuner.batch(0))
    batch = tuner.batch(1)
    loss = lambda: float(tuner.config.strategy.loss(tuner.rollouts, batch)[0].detach())  # noqa: E731
    tuner.run.tensors["raft.rewards"][0] = -torch.inf
    kept, numbers = (tuner.run.tensors[f"raft.{k}"] for k in ("latents", "numbers"))
    expected = tuner.rollouts.denoising_loss(kept[1:], [tuner.prompts[int(numbers[1])]], batch.generators(salt=3)[1:])[
        0
    ]
    assert loss() == pytest.approx(float(expected.detach()), abs=1e-6)
    tuner.run.tensors["raft.rewards"][1] = -torch.inf
    assert not np.isfinite(loss())  # such a step is skipped and counted


def test_refl_raises_the_reward(tmp_path):
    """On one prompt and without anchors the reward of what is generated must rise."""
    config = TuneConfig(
        steps=12,
        batch_size=2,
        num_inference_steps=4,
        eval_every=12,
        eval_prompts=1,
        warmup_steps=0,
        ema_decay=0.0,
        learning_rate=2e-2,
        pretrain_weight=0.0,
        kl_weight=0.0,
        reward_weight=1.0,
        strategy=Refl(margin=50.0),
        guidance_scale=1.0,
    )
    tuned = train_reward(
        tiny_pipeline(), ["a red star", "a big red star"], clip_reward(), tmp_path, config=config, progress=False
    )
    first, last = tuned.report["evaluations"][0]["reward"], tuned.report["evaluations"][-1]["reward"]
    assert last > first + 0.5


def test_the_step_with_gradient_is_drawn_where_it_is_asked_for(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Batch, "randint", lambda self, low, high: drawn.append((low, high)) or low)
    changes = {"num_inference_steps": 10, "batch_size": 2, "guidance_scale": 1.0}
    for number, (start, stop) in enumerate(((0.75, 1.0), (0.2, 0.5), (0.2, 0.21))):
        tuner = tuner_of(tmp_path / str(number), "refl", stop_from=start, stop_until=stop, **changes)
        tuner.config.strategy.loss(tuner.rollouts, tuner.batch(0))
    assert drawn == [(7, 10), (2, 5), (2, 3)]


# --- guard ---------------------------------------------------------------------------------------------------------
def test_guard_stops_where_reward_and_held_out_score_part_ways():
    guard = Guard(GuardConfig(z=1.645, patience=2), {}, {})
    g = torch.Generator().manual_seed(0)
    base = torch.randn(16, generator=g)
    noise = lambda: 0.05 * torch.randn(16, generator=g)  # noqa: E731
    assert guard.update(0, torch.zeros(16), base)
    assert guard.update(10, torch.ones(16), base + 0.5)
    assert not guard.update(20, torch.ones(16) * 2, base + 0.49 + noise()) and not guard.stopped  # within noise
    assert not guard.update(30, torch.ones(16) * 3, base - 0.3 + noise()) and not guard.stopped  # once
    assert not guard.update(40, torch.ones(16) * 0.5, base - 0.3 + noise())  # the reward fell too: no hacking
    guard.update(50, torch.ones(16) * 3, base - 0.3 + noise())
    assert not guard.stopped
    guard.update(60, torch.ones(16) * 4, base - 0.5 + noise())
    assert guard.stopped and guard.best_step == 10 and guard.parted_at == 50


def test_a_run_made_to_hack_is_stopped_and_says_so(tmp_path):
    """Reward: brightness, no anchor, a high rate. Held out: its opposite. The adapter kept is the best one's."""

    class Bright:
        differentiable = True

        def __call__(self, images, prompts):
            return images.mean((1, 2, 3))

    class Dark(Bright):
        def __call__(self, images, prompts):
            return -images.mean((1, 2, 3))

    config = TuneConfig(
        steps=60,
        batch_size=2,
        num_inference_steps=4,
        eval_every=3,
        eval_prompts=3,
        warmup_steps=0,
        ema_decay=0.0,
        learning_rate=5e-2,
        pretrain_weight=0.0,
        kl_weight=0.0,
        reward_weight=1.0,
        strategy=Refl(margin=1e3),
        guidance_scale=1.0,
    )
    tuned = run(tmp_path, reward=Composed({"bright": Bright()}, {"bright": 1.0}), config=config, held_out=Dark())
    report = tuned.report
    assert report["steps_taken"] < 60 and report["parted_ways_at"] is not None
    assert report["kept_step"] < report["parted_ways_at"]
    assert "reward hacking" in report["verdict"] and "reward hacking" in (tmp_path / "README.md").read_text()


def test_the_guard_leaves_out_what_has_no_score():
    guard = Guard(GuardConfig(z=1.0, patience=1), {}, {})
    flat = torch.zeros(4)
    assert guard.update(0, flat, torch.tensor([1.0, 1.0, 1.0, 1.0]))
    assert not guard.update(1, flat, torch.full((4,), torch.nan)) and not guard.stopped
    assert guard.update(2, flat, torch.tensor([torch.nan, 2.0, 2.0, 2.0]))
    assert not guard.update(3, flat + 1, torch.tensor([9.0, 1.0, 1.1, 1.0])) and guard.parted_at == 3


# --- faults --------------------------------------------------------------------------------------------------------
FAULTY = replace(debug(), steps=6, save_every=2, eval_every=3, learning_rate=1e-2, num_inference_steps=3)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run(folder, config=FAULTY, held_out=ClipReward(the_clip()))
    return folder


def assert_same(folder: Path, other: Path) -> None:
    assert (folder / "curve.jsonl").read_bytes() == (other / "curve.jsonl").read_bytes()
    a, b = weights(folder), weights(other)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import test_tuning as t
from pathlib import Path
t.run(Path(sys.argv[2]), config=t.FAULTY, held_out=t.ClipReward(t.the_clip()))
"""


def test_a_killed_run_resumes_bit_for_bit(tmp_path, undisturbed):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder)]
    process = subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not list(folder.glob("checkpoints/step-*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL and not (folder / "report.json").exists()
    with pytest.raises(InputError, match="was begun with rank="):
        run(folder, config=replace(FAULTY, rank=2))
    run(folder, config=FAULTY, held_out=ClipReward(the_clip()))
    assert_same(folder, undisturbed)


def test_a_reward_that_is_not_finite_is_skipped_counted_and_given_up(tmp_path):
    inner = CaptionLikelihood(tiny_blip())

    class Sometimes:
        differentiable = True
        calls = 0

        def __init__(self, bad):
            self.bad = bad

        def __call__(self, images, prompts):
            score = inner(images, prompts)
            if images.requires_grad:
                Sometimes.calls += 1
                if Sometimes.calls in self.bad:
                    # the one has a gradient that is not finite, the other (beyond the margin) none at all
                    return score * float("nan") if Sometimes.calls % 2 else score.detach() + float("inf")
            return score

    config = replace(debug(), steps=4, eval_every=10, num_inference_steps=2, guidance_scale=1.0)
    Sometimes.calls = 0
    # the check of the gradient before the run is call 1
    tuned = run(tmp_path / "a", reward=Composed({"s": Sometimes({3})}, {"s": 1.0}), config=config)
    assert tuned.report["steps_skipped"] == 1 and tuned.report["steps_taken"] == 4
    assert all(torch.isfinite(v).all() for v in weights(tmp_path / "a").values())
    Sometimes.calls = 0
    with pytest.raises(InputError, match="not finite in 20 steps in a row"):
        run(
            tmp_path / "b",
            reward=Composed({"s": Sometimes(set(range(2, 99)))}, {"s": 1.0}),
            config=replace(config, steps=40),
        )


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, undisturbed, monkeypatch):
    from accord.training import checkpoints

    real, folder = checkpoints.save_file, tmp_path / "run"

    def full(tensors, path):
        if (Path(path).parents[1] / "step-00000002").exists():
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(InputError, match=r"step 4 cannot be written.*No space left.*last good one is step-00000002"):
        run(folder, config=FAULTY, held_out=ClipReward(the_clip()))
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.undo()
    run(folder, config=FAULTY, held_out=ClipReward(the_clip()))
    assert_same(folder, undisturbed)


# --- two processes -------------------------------------------------------------------------------------------------


def shared(strategy: str) -> TuneConfig:
    """Few steps of sampling, without guidance; without bfloat16 all is rounded alike, however the batch is shared."""
    return debug(
        strategy,
        batch_size=4,
        learning_rate=1e-2,
        bf16=False,
        num_inference_steps=3,
        guidance_scale=1.0,
        eval_prompts=1,
    )


SPREAD = ("raft", "grpo", "nft")  # what refl adds, one draw for all processes, has a test of its own
WORKER = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
import test_tuning as t
from pathlib import Path
torch.set_num_threads(1)  # two threads each on two cores spend their time waiting for each other
second = os.fork()  # after the imports, which take longer than the training
os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if second else "1"
for strategy in t.SPREAD:
    t.run(Path(sys.argv[2]) / strategy, reward=t.clip_reward(), config=t.shared(strategy))
t.context(Path(sys.argv[2]) / "context")
if second:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]))
"""


def context(folder: Path) -> None:
    """A relational network and an adapter, with averaged weights."""
    pipe = tiny_pipeline()
    config = ContextTrainConfig(
        steps=4, batch_size=4, save_every=2, warmup_steps=0, learning_rate=1e-2, ema_decay=0.5, share=1.0, bf16=False
    )

    def draw(rng: np.random.Generator, size: int, done: float) -> tuple[torch.Tensor, list[str]]:
        return torch.from_numpy(rng.standard_normal((size, 4, 16, 16)).astype(np.float32)), ["a red star"] * size

    train_context(pipe, draw, folder, config, processes=Processes(pipe.device))


def test_what_a_step_draws_is_one_for_all_processes(tmp_path):
    """refl's step with a gradient and grpo's timesteps; what a picture draws is that of its place in the batch."""
    tuner = tuner_of(tmp_path, "refl", batch_size=4)
    whole, shares = tuner.batch(3), []
    for rank in range(2):
        tuner.run.processes.rank, tuner.run.processes.world = rank, 2
        shares.append(tuner.batch(3))
    assert [share.shared_seed for share in shares] == [whole.shared_seed] * 2
    assert [share.randint(0, 10**6) for share in shares] == [whole.randint(0, 10**6)] * 2
    assert whole.shared_seed != tuner.batch(4).shared_seed
    for rank, share in enumerate(shares):
        assert share.seeds == whole.seeds[rank::2] and share.prompts == whole.prompts[rank::2]


def test_two_processes_learn_what_one_learns(tmp_path):
    """Same global batch, gradients averaged over gloo: the same adapter to 1e-4 (weights are of the order of 1e-2)."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
    }
    environment |= {"ACCELERATE_USE_CPU": "true", "LOCAL_WORLD_SIZE": "2"}
    command = [sys.executable, "-c", WORKER, str(Path(__file__).parent), str(tmp_path / "two")]
    both = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert both.returncode == 0, both.stderr
    context(tmp_path / "one" / "context")
    for name in ("relation/diffusion_pytorch_model.safetensors", "pytorch_lora_weights.safetensors"):
        one, two = (load_file(tmp_path / n / "context" / name) for n in ("one", "two"))
        assert one.keys() == two.keys() and max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-4
    for strategy in SPREAD:
        run(tmp_path / "one" / strategy, reward=clip_reward(), config=shared(strategy))
        folders = [tmp_path / n / strategy for n in ("one", "two")]
        one, two = (weights(f) for f in folders)
        moved = max(float(v.abs().max()) for k, v in one.items() if "lora_B" in k or "lora.up" in k)
        apart = max(float((one[k] - two[k]).abs().max()) for k in one)
        assert apart < 1e-4 and moved > 5e-3, (strategy, apart, moved)
        rows = [[json.loads(s) for s in (f / "curve.jsonl").read_text().splitlines()] for f in folders]
        assert all(a["loss"] == pytest.approx(b["loss"], abs=1e-4) for a, b in zip(*rows, strict=True))


# --- bad input -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strategy", "ppo"),
        ("steps", 0),
        ("learning_rate", 0.0),
        ("kl_weight", -1.0),
        ("gradient_accumulation", 3),
        ("learning_rate", float("nan")),
        ("kl_weight", float("inf")),
        ("seed", 2**40),
    ],
)
def test_a_field_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        replace(TuneConfig(), **{field: value})
    with pytest.raises(ValueError, match="sft has no other loss"):
        TuneConfig.of("sft", pretrain_weight=0, kl_weight=0)


@pytest.mark.parametrize(
    ("strategy", "field", "value"),
    [
        ("refl", "stop_from", 1.0),
        ("refl", "stop_until", 0.7),
        ("refl", "margin", float("nan")),
        ("draft", "last_steps", 0),
        ("raft", "candidates", 1),
        ("raft", "refresh", 0),
        ("grpo", "group_size", 1),
        ("grpo", "trained_steps", 0),
        ("grpo", "group_size", 2.5),
        ("nft", "group_size", 1),
        ("nft", "times", 0),
        ("nft", "mix", 0.0),
        ("nft", "scale", -1.0),
        ("nft", "old_most", 1.5),
        ("nft", "time_until", 400),
        ("nft", "passes", 2),
        ("awm", "refresh", 0),
        ("awm", "at_once", 0),
        ("awm", "power", 0.0),
        ("raft", "refresh", 1.5),
        ("refl", "steps", 1.5),
    ],
)
def test_a_strategys_knob_out_of_range_is_named(strategy, field, value):
    with pytest.raises(ValueError, match=field):
        TuneConfig.of(strategy, **{field: value})


def test_a_strategy_brings_its_own_knobs():
    """They are told from those of the run by their names alone, so no two have one name."""
    shared = {f.name for f in fields(TuneConfig)}
    for name, kind in STRATEGIES.items():
        own = {f.name for f in fields(kind)}
        assert not own & shared, name
        config = TuneConfig.of(name, steps=7)
        assert config == TuneConfig(strategy=name, steps=7) == TuneConfig(strategy=kind(), steps=7)
        assert config.flat() == {**asdict(kind()), "strategy": name} | {
            f: getattr(config, f) for f in shared - {"strategy"}
        }
        with pytest.raises(TypeError):
            TuneConfig.of(name, nothing=1)
    assert set(strategy_names()) == set(STRATEGIES)

    @dataclass(frozen=True)
    class Greedy(registry.Strategy):
        rank: int = 3

    registry.strategy("greedy")(Greedy)
    try:
        with pytest.raises(ValueError, match="has a knob rank, as the run has"):
            TuneConfig.of("greedy", rank=2)
    finally:
        del STRATEGIES["greedy"]
    with pytest.raises(ValueError, match="registered already"):
        registry.strategy("refl")(Refl)


def test_bad_input_is_refused_before_anything_is_made(tmp_path):
    pipe = tiny_pipeline()
    clip = ClipReward(the_clip())
    composed = Composed({"clip": clip}, {"clip": 1.0})
    cases = [
        ({"prompts": ["a star"]}, "too few"),
        ({"held_out": clip}, "one of the rewards"),
        ({"held_out": ClipReward(load_clip())}, "one of the rewards"),  # the same network, loaded again
        ({"held_out": Composed({"x": clip}, {"x": 1.0})}, "one of the rewards"),
        ({"prompts": ["a star", "-----"]}, "the prompt '-----' is empty"),
        ({"strategy": "ppo"}, "strategy must be one of"),
    ]
    for kwargs, message in cases:
        arguments = {"prompts": PROMPTS, "reward": composed, "out": tmp_path / "x", "config": debug()} | kwargs
        with pytest.raises(InputError, match=message):
            train_reward(pipe, **arguments)
    names = set(pipe.unet.state_dict())
    exact = Composed({"caption": CaptionReward(tiny_blip(), the_clip().text_features)}, {"caption": 1.0})
    with pytest.raises(InputError, match="use the strategy raft, grpo, nft or awm"):
        run(tmp_path / "x", pipe, exact, strategy="refl")
    half, distilled = tiny_pipeline(), tiny_pipeline()
    half.unet.half()
    distilled.register_modules(unet=UNet2DConditionModel.from_config(distilled.unet.config, time_cond_proj_dim=8))
    with pytest.raises(InputError, match="gradients through float16 weights are lost"):
        run(tmp_path / "x", half, config=replace(debug(), bf16=False))
    with pytest.raises(InputError, match="distilled with guidance"):
        run(tmp_path / "x", distilled)
    assert not (tmp_path / "x").exists()

    class Cut:
        differentiable = True

        def __call__(self, images, prompts):
            return images.detach().mean((1, 2, 3))

    with pytest.raises(InputError, match="no usable gradient"):
        run(tmp_path / "y", pipe, Composed({"cut": Cut()}, {"cut": 1.0}), strategy="refl")
    run(tmp_path / "y", pipe, composed, strategy="refl")  # the folder is free, and nothing of the first try is used
    remove_lora(pipe)
    with pytest.raises(InputError, match="was begun with rewards="):
        run(tmp_path / "y", pipe, Composed({"clip": clip}, {"clip": 0.5}), strategy="refl")

    class Bright:  # anything of the protocol is a reward
        differentiable = True

        def __call__(self, images, prompts):
            return images.mean((1, 2, 3))

    assert set(run(tmp_path / "w", pipe, Bright(), strategy="refl").report["gains"]) == {"reward"}
    remove_lora(pipe)

    class Flat:
        differentiable = True

        def __call__(self, images, prompts):
            return images.mean((1, 2, 3), keepdim=True)[..., 0]

    with pytest.raises(InputError, match="gave a tensor of shape"):
        run(tmp_path / "z", pipe, Composed({"flat": Flat()}, {"flat": 1.0}), strategy="refl")
    assert set(pipe.unet.state_dict()) == names  # the adapter is gone again


def test_a_failed_run_leaves_the_pipeline_as_it_was(tmp_path):
    pipe = tiny_pipeline()
    pipe.unet.requires_grad_(True).eval()  # as diffusers loads it
    pipe.vae.requires_grad_(True)
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}

    class Fails:
        differentiable = True
        calls = 0

        def __call__(self, images, prompts):
            self.calls += 1
            if self.calls > 3:
                raise RuntimeError("out of service")
            return images.mean((1, 2, 3))

    with pytest.raises(RuntimeError, match="out of service"):
        run(
            tmp_path,
            pipe,
            Composed({"fails": Fails()}, {"fails": 1.0}),
            strategy="refl",
            config=replace(debug(), gradient_checkpointing=True),
        )
    after = pipe.unet.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)
    assert not pipe.unet.training and not pipe.unet.is_gradient_checkpointing and not hasattr(pipe.unet, "peft_config")
    weights = [*pipe.unet.parameters(), *pipe.vae.parameters()]
    assert all(p.requires_grad and p.grad is None for p in weights)


def test_a_run_is_not_resumed_with_other_pairs_or_judges(tmp_path):
    pictures = [Image.new("RGB", (32, 32), c) for c in ("red", "blue")]
    short = replace(debug(), steps=1)
    run(tmp_path, pairs=(pictures, ["a star", "a key"]), config=short)
    for changed, name in (
        ({"pairs": (pictures, ["a moon", "a key"])}, "pairs"),
        ({"held_out": ClipReward(the_clip())}, "held_out"),
    ):
        with pytest.raises(InputError, match=f"was begun with {name}"):
            run(tmp_path, config=short, **{"pairs": (pictures, ["a star", "a key"]), **changed})
    other = likelihood()
    with torch.no_grad():
        next(other.rewards["likelihood"].captioner.model.parameters()).add_(1)
    with pytest.raises(InputError, match="was begun with judges"):
        run(tmp_path, config=short, pairs=(pictures, ["a star", "a key"]), reward=other)
