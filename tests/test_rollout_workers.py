"""Tuning whose pictures two workers of a real Ray on this machine draw: what one process learns, deaths, resume.

The workers are started once, and draw for all strategies: what they are told of a run is the same for all of them.
"""

import functools
import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_rounds import ALONE, SMALL, narrow_pipeline, tuner_of

from accord.diffusion.lora import FILE
from accord.methods.tune.config import debug
from accord.methods.tune.drawing import Artist, Setting
from accord.methods.tune.strategies.grpo import Grpo
from accord.methods.tune.train import train_reward
from accord.rewards.composed import Composed
from accord.training.limits import Limits
from accord.types import InputError

pytest.importorskip("ray")
from accord.distributed.cluster import Cluster
from accord.distributed.rollouts import RayRollouts

pytestmark = pytest.mark.usefixtures("no_curve")
PROMPTS = ["a red star", "a blue key", "two green fish", "a pink crown", "a yellow egg"]
KNOBS = {"nft": {"group_size": 2}, "awm": {"group_size": 2}, "raft": {"refresh": 1}, "grpo": {"group_size": 2}}


class Bright:
    """Mean of the pictures. Whoever finds the file `fatal` there removes it, and dies at once."""

    differentiable = True

    def __init__(self, fatal: Path | None = None) -> None:
        self.fatal = fatal

    def __call__(self, images, prompts):
        if self.fatal is not None and self.fatal.exists():
            self.fatal.unlink()  # of two, one finds it
            os.kill(os.getpid(), signal.SIGKILL)
        return images.mean((1, 2, 3))


class Red(Bright):
    """Another score, for the guard and to watch."""

    def __call__(self, images, prompts):
        return images[:, 0].mean((1, 2))


def made(fatal: Path, device: str):
    assert device == "cpu"
    return narrow_pipeline(), Bright(fatal)


def config_of(strategy: str, **changes):
    few = {**SMALL, **ALONE, **KNOBS[strategy], "batch_size": 4, "rank": 2, "steps": 2, **changes}
    return debug(strategy, **few)


def run(folder: Path, strategy: str, draw=None, **changes):
    return train_reward(
        narrow_pipeline(),
        PROMPTS,
        Bright(),
        folder,
        config=config_of(strategy, **changes),
        held_out=Red(),
        watcher=Red(),
        limits=Limits(),
        progress=False,
        drawing=draw and (lambda setting: nullcontext(draw)),
    )


def assert_same(one: Path, other: Path) -> None:
    """Weights and curve, bit for bit."""
    a, b = load_file(one / FILE), load_file(other / FILE)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert (one / "curve.jsonl").read_bytes() == (other / "curve.jsonl").read_bytes()


@pytest.fixture(scope="module")
def fatal(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fatal") / "now"


@pytest.fixture(scope="module")
def like_workers():
    """One thread in this process, as workers have; workers that find this file, and are no nicer than others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        patch.setenv("RAY_worker_niceness", "0")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def draw(fatal, like_workers):
    """Two workers."""
    pipe, reward = narrow_pipeline(), Composed({"reward": Bright()}, {"reward": 1.0})
    setting = Setting.of(pipe, reward, config_of("nft"), None, False)
    with RayRollouts(functools.partial(made, fatal), Cluster(workers=2))(setting) as draw:
        yield draw


@pytest.mark.parametrize("strategy", ["nft", "raft"])
def test_workers_draw_what_one_process_draws(tmp_path, draw, strategy):
    """Bit for bit, over two micro-batches: what is drawn at once is the same."""
    for folder, drawn_by in (("alone", None), ("workers", draw)):
        report = run(tmp_path / folder, strategy, drawn_by, gradient_accumulation=2).report
        assert report["steps_taken"] == 2 and report["steps_skipped"] == 0
    assert_same(tmp_path / "alone", tmp_path / "workers")


def test_grpo_learns_what_one_process_learns(tmp_path, draw):
    """One process draws a micro-batch at once, workers prompt by prompt: to 1e-4, of weights that moved by 1e-2."""
    for folder, drawn_by in (("alone", None), ("workers", draw)):
        run(tmp_path / folder, "grpo", drawn_by)
    one, two = (load_file(tmp_path / folder / FILE) for folder in ("alone", "workers"))
    moved = max(float(v.abs().max()) for k, v in one.items() if "lora_B" in k or "lora.up" in k)
    assert moved > 5e-3 and max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-4


def test_a_worker_that_dies_is_replaced_and_its_share_is_drawn_once_more(tmp_path, draw, fatal, capfd):
    run(tmp_path / "alone", "awm")
    fatal.touch()
    run(tmp_path / "workers", "awm", draw)
    assert not fatal.exists() and "died drawing" in capfd.readouterr().err
    assert_same(tmp_path / "alone", tmp_path / "workers")
    tuner = tuner_of(tmp_path / "tuner", "awm", **KNOBS["awm"])
    shares = tuner.batch(0).in_groups(6).cut(1)
    places = [place for place, _ in draw(tuner.config.strategy, tuner.rollouts, shares)]
    assert sorted(places) == list(range(12))


def test_a_killed_run_goes_on_with_what_its_workers_had_drawn(tmp_path, draw):
    """Killed in the middle of its second round, then gone on with workers; as one process that was not killed."""
    asked = []

    def dying(strategy, rollouts, shares):
        asked.append(len(shares))
        for number, drawn in enumerate(draw(strategy, rollouts, shares)):
            if len(asked) == 2 and number == 1:  # two are drawn at this moment
                raise KeyboardInterrupt
            yield drawn

    run(tmp_path / "alone", "nft")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "workers", "nft", dying)
    run(tmp_path / "workers", "nft", dying)
    assert asked == [4, 4, 3]  # of four groups one was kept
    assert_same(tmp_path / "alone", tmp_path / "workers")
    assert not list((tmp_path / "workers" / "rollouts").iterdir())


def test_bad_input_is_said_as_one_process_says_it(tmp_path, draw):
    tuner = tuner_of(tmp_path, "grpo")
    strategy = Grpo(group_size=2, time_from=1, time_until=2)
    with pytest.raises(InputError, match=r"^no step of the 2 lies in 1\.\.2"):
        list(draw(strategy, tuner.rollouts, tuner.batch(0).in_groups(2).cut(2)))


def test_who_draws_has_the_pipeline_and_the_reward_of_the_run():
    reward = Composed({"reward": Bright()}, {"reward": 1.0})
    setting = Setting.of(narrow_pipeline(), reward, config_of("nft"), None, False)
    other = narrow_pipeline()
    with torch.no_grad():
        other.unet.conv_in.weight[0] += 1
    for pipe, judge, what in ((other, Bright(), "pipeline"), (narrow_pipeline(), Red(), "reward")):
        with pytest.raises(InputError, match=f"a rollout worker has another {what} than the run"):
            Artist(pipe, judge, setting)


def test_a_strategy_without_rounds_has_none_drawn_elsewhere(tmp_path):
    with pytest.raises(InputError, match="refl makes no rounds of pictures"):
        train_reward(
            narrow_pipeline(),
            PROMPTS,
            Bright(),
            tmp_path / "run",
            config=replace(config_of("nft"), strategy="refl"),
            drawing=lambda setting: nullcontext(),
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_line_has_its_pictures_drawn(accord_cli, tmp_path, like_workers):
    """The lab, judged by the embedded captioner on the workers too: the adapter and curve of one process."""
    Path("prompts.txt").write_text("\n".join(PROMPTS))
    line = "train reward --prompts prompts.txt --strategy nft --strategy-option group_size=2 --steps 2 --batch-size 4 "
    line += "--inference-steps 2 --anchors 4 --eval-every 2 --rank 2 --held-out none --device cpu --json --out"
    for more in (["one"], ["two", "--rollout-workers", "2"]):
        code, out, err = accord_cli(*line.split(), *more)
        assert code == 0 and out.startswith("{"), err
    assert_same(tmp_path / "one", tmp_path / "two")


def test_options_of_workers_are_refused_where_none_draw(accord_cli):
    Path("prompts.txt").write_text("\n".join(PROMPTS))
    least = ["train", "reward", "--prompts", "prompts.txt", "--strategy"]
    for more, why in (
        (["refl", "--rollout-workers", "2"], "--rollout-workers is not used by refl; leave it out"),
        (["nft", "--address", "auto"], "--address is not used without --rollout-workers; leave it out"),
        (["nft", "--gpus-per-worker", "0"], "--gpus-per-worker is not used without --rollout-workers; leave it out"),
    ):
        assert accord_cli(*least, *more) == (2, "", f"accord: {why}\n")
