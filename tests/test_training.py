"""The training loop: it learns, and a killed run goes on as if it had never been killed."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from accord import files
from accord.training import checkpoints
from accord.training.loop import LoopConfig, Run, step_generator
from accord.types import InputError

STEPS = 24
TRUE_WEIGHT = torch.linspace(-1, 1, 6).view(2, 3)


def config(**kwargs) -> LoopConfig:
    values = {
        "steps": STEPS,
        "learning_rate": 0.05,
        "warmup_steps": 4,
        "ema_decay": 0.9,
        "bf16": False,
        "save_every": 5,
        "log_every": 2,
    }
    return LoopConfig(**(values | kwargs))


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def loss_fn_of(model: nn.Linear, fail_at: int | None = None, delay: float = 0.0):
    """Regression on a known matrix; raises at step `fail_at`."""

    def loss_fn(step: int, generator: torch.Generator):
        if step == fail_at:
            raise KeyboardInterrupt
        time.sleep(delay)
        x = torch.randn(8, 3, generator=generator)
        error = (model(x) - x @ TRUE_WEIGHT.T).float()
        return error.square().mean(), {"largest": float(error.detach().abs().max())}

    return loss_fn


def train(folder: Path, fail_at: int | None = None, **kwargs) -> Run:
    model = linear()
    run = Run({"model": model}, config(**kwargs), folder)
    run.train(loss_fn_of(model, fail_at))
    return run


def state(run: Run) -> dict[str, torch.Tensor]:
    return {f"model.{k}": v for k, v in run.modules["model"].state_dict().items()} | {
        f"ema.{k}": v for k, v in run.ema.items()
    }


def assert_same(run: Run, other: Run) -> None:
    """Parameters, averages and curve, bit for bit."""
    a, b = state(run), state(other)
    assert len(a) == 4 and a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert (run.folder / "curve.jsonl").read_bytes() == (other.folder / "curve.jsonl").read_bytes()


def steps_of(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Run:
    return train(tmp_path_factory.mktemp("undisturbed"))


# --- learning ------------------------------------------------------------------------------------------------------
def test_loss_falls_and_the_run_leaves_its_files(tmp_path):
    run = train(tmp_path, steps=150, log_every=10, save_every=50)
    rows = [json.loads(s) for s in (tmp_path / "curve.jsonl").read_text(encoding="utf8").splitlines()]
    assert [r["step"] for r in rows] == list(range(10, 151, 10))
    assert rows[-1]["loss"] < 0.1 * rows[0]["loss"] and rows[-1]["largest"] < rows[0]["largest"]
    assert (run.modules["model"].weight - TRUE_WEIGHT).abs().max() < 0.1
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoints", "curve.jsonl", "curve.png"}
    assert steps_of(tmp_path) == ["step-00000100", "step-00000150"]


def test_the_curve_holds_means_over_its_window(tmp_path):
    rows = [json.loads(s) for s in (train(tmp_path).folder / "curve.jsonl").read_text(encoding="utf8").splitlines()]
    single = [
        json.loads(s) for s in (train(tmp_path / "1", log_every=1).folder / "curve.jsonl").read_text().splitlines()
    ]
    for i, row in enumerate(rows):
        assert row["loss"] == pytest.approx((single[2 * i]["loss"] + single[2 * i + 1]["loss"]) / 2)


def test_a_row_is_of_what_was_finite_and_the_last_one_may_be_short(tmp_path):
    run = Run({"model": (model := linear())}, config(steps=5, log_every=3, save_every=2), tmp_path)
    real = loss_fn_of(model)

    def loss_fn(step, generator):
        loss, logs = real(step, generator)
        return (loss * float("nan") if step == 1 else loss), logs | {
            "own": float("nan") if step == 1 else 1.0 + step,
            "never": float("nan"),
        }

    run.train(loss_fn, progress=False)
    rows = [json.loads(s) for s in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [(r["step"], r["own"]) for r in rows] == [(3, 2.0), (5, 4.5)] and all("never" not in r for r in rows)
    assert rows[0]["skipped"] == 1 and rows[0]["loss"] > 0


def test_the_average_follows_its_equation(tmp_path):
    model, seen = linear(), []
    run = Run({"model": model}, config(steps=6, ema_decay=0.3), tmp_path)
    start = model.weight.detach().clone()
    inner = loss_fn_of(model)

    def loss_fn(step, generator):
        seen.append(model.weight.detach().clone())
        return inner(step, generator)

    run.train(loss_fn)
    expected = start
    for step, weight in enumerate([*seen[1:], model.weight.detach()]):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    assert torch.allclose(run.ema["model.weight"], expected, atol=1e-6)
    assert not torch.equal(expected, model.weight)
    run.use_ema()
    assert torch.equal(model.weight, run.ema["model.weight"])


def test_a_step_with_an_infinite_gradient_is_left_out(tmp_path):
    model = linear()
    run = Run({"model": model}, config(steps=3), tmp_path)
    before = [p.detach().clone() for p in model.parameters()]
    run.train(lambda step, generator: (model(torch.ones(1, 3)).sum() * math.inf, {}))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_frozen_parameters_are_kept_and_checkpointed(tmp_path):
    model = linear()
    model.bias.requires_grad_(False)
    bias = model.bias.clone()
    run = Run({"model": model}, config(steps=5), tmp_path)
    run.train(loss_fn_of(model))
    assert torch.equal(model.bias, bias) and set(run.named) == {"model.weight"}
    _, tensors, _ = checkpoints.load_latest(tmp_path / "checkpoints")
    assert torch.equal(tensors["model.model.bias"], bias)


def test_noise_is_a_function_of_seed_and_step():
    draw = lambda *key: torch.randn(4, generator=step_generator(*key))  # noqa: E731
    assert torch.equal(draw(1, 2), draw(1, 2))
    assert not torch.equal(draw(1, 2), draw(1, 3)) and not torch.equal(draw(1, 2), draw(2, 2))


# --- going on ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fail_at", [3, 5, 12, 17, 23])
def test_an_interrupted_run_ends_as_an_undisturbed_one(tmp_path, undisturbed, fail_at):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, fail_at)
    resumed = Run({"model": linear()}, config(), tmp_path)
    assert resumed.step == fail_at // 5 * 5
    assert_same(train(tmp_path), undisturbed)


def test_a_run_interrupted_again_and_again_ends_as_an_undisturbed_one(tmp_path, undisturbed):
    for fail_at in (7, 11, 13, 19):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, fail_at)
    assert_same(train(tmp_path), undisturbed)


def test_a_finished_run_is_not_taken_further(tmp_path, undisturbed):
    train(tmp_path)
    again = train(tmp_path, fail_at=0)
    assert again.step == STEPS
    assert_same(again, undisturbed)


def test_without_a_checkpoint_an_old_curve_is_dropped(tmp_path, undisturbed):
    (tmp_path / "curve.jsonl").write_text('{"step": 2, "loss": 99}\n', encoding="utf8")
    assert_same(train(tmp_path), undisturbed)


def test_a_curve_cut_short_is_mended(tmp_path, undisturbed):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, fail_at=14)
    with open(tmp_path / "curve.jsonl", "a", encoding="utf8") as file:
        file.write('{"step": 14, "lo')
    assert_same(train(tmp_path), undisturbed)


def damage(path: Path, how: str) -> None:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["truncated", "empty", "missing"])
@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
def test_a_corrupt_newest_checkpoint_is_passed_over(tmp_path, undisturbed, capfd, file, how):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, fail_at=17)
    assert steps_of(tmp_path) == ["step-00000010", "step-00000015"]
    damage(tmp_path / "checkpoints" / "step-00000015" / file, how)
    resumed = Run({"model": linear()}, config(), tmp_path)
    assert resumed.step == 10
    assert "step-00000015 is corrupt; going on from step 10" in "".join(capfd.readouterr())
    assert_same(train(tmp_path), undisturbed)


def test_a_run_whose_checkpoints_are_all_corrupt_starts_afresh(tmp_path, undisturbed, capfd):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, fail_at=17)
    for folder in (tmp_path / "checkpoints").iterdir():
        damage(folder / "state.safetensors", "truncated")
    assert Run({"model": linear()}, config(), tmp_path).step == 0
    said = capfd.readouterr()
    assert "step-00000015 is corrupt, and there is no other" in said.err and not said.out
    assert_same(train(tmp_path), undisturbed)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_training import Run, config, linear, loss_fn_of
model = linear()
Run({"model": model}, config(), Path(sys.argv[2])).train(loss_fn_of(model, delay=0.1))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_process_is_resumed_bit_for_bit(tmp_path, undisturbed):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        curve, deadline = tmp_path / "curve.jsonl", time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if curve.exists() and curve.read_text().count("\n") >= 6:  # past the checkpoint of step 10
                break
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    resumed = Run({"model": linear()}, config(), tmp_path)
    assert 10 <= resumed.step < STEPS
    assert_same(train(tmp_path), undisturbed)


# --- checkpoints ---------------------------------------------------------------------------------------------------
def test_save_keeps_two_and_leaves_no_part(tmp_path):
    (
        tmp_path / f"{files.part_of(tmp_path / 'x').name.rpartition('-')[0]}-1.0.part"
    ).mkdir()  # what a killed save leaves
    for step in (10, 20, 30, 30):
        checkpoints.save(tmp_path, step, {"x": torch.full((2,), float(step))})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000020", "step-00000030"]
    step, tensors, corrupt = checkpoints.load_latest(tmp_path)
    assert step == 30 and tensors["x"].tolist() == [30, 30] and corrupt == []


def test_checkpoints_keep_types_and_values(tmp_path):
    tensors = {"a": torch.rand(3, 2).t(), "b": torch.arange(4), "c": torch.tensor(0.1, dtype=torch.float64)}
    checkpoints.save(tmp_path, 1, tensors)
    _, found, _ = checkpoints.load_latest(tmp_path)
    assert all(torch.equal(found[k], tensors[k]) and found[k].dtype == tensors[k].dtype for k in tensors)


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoints.load_latest(tmp_path / "nothing") is None


def test_replace_file_is_all_or_nothing(tmp_path):
    path = tmp_path / "x.txt"
    files.replace_file(path, lambda p: p.write_text("one"))

    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(InputError, match=r"x.txt' cannot be written .disk full.; make room"):
        files.replace_file(path, fail)
    assert path.read_text() == "one" and [p.name for p in tmp_path.iterdir()] == ["x.txt"]


# --- knobs ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("learning_rate", 0.0),
        ("learning_rate", -1.0),
        ("ema_decay", 1.0),
        ("ema_decay", -0.1),
        ("save_every", 0),
        ("log_every", 0),
    ],
)
def test_a_field_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} must be .*{value}"):
        config(**{field: value})


def test_learning_rate_at_its_corners():
    knobs = LoopConfig(steps=110, learning_rate=1.0, warmup_steps=10, final_lr_share=0.1)
    assert knobs.lr_at(0) == pytest.approx(0.1) and knobs.lr_at(9) == knobs.lr_at(10) == pytest.approx(1.0)
    assert knobs.lr_at(60) == pytest.approx(0.55) and knobs.lr_at(110) == pytest.approx(0.1)
    rates = [knobs.lr_at(s) for s in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


def test_learning_rate_without_warmup_starts_at_the_top():
    assert LoopConfig(steps=10, learning_rate=0.5, warmup_steps=0).lr_at(0) == 0.5


def test_micro_batches_are_one_batch(tmp_path):
    """Numbers run on from step to step; gradients and scalars are means over the micro-batches."""
    model, numbers = linear(), []
    run = Run({"model": model}, config(steps=3, gradient_accumulation=2, save_every=9), tmp_path)
    before = model.weight.detach().clone()

    def loss_fn(number, generator):
        numbers.append(number)
        return (model.weight * (number + 1)).sum(), {"number": float(number)}

    run.config = config(steps=1, gradient_accumulation=2, log_every=9, max_grad_norm=1e9, weight_decay=0.0)
    run._step(loss_fn, torch.device("cpu"), False)
    assert numbers == [0, 1]
    state = run.optimizer.state[model.weight]
    assert torch.allclose(state["exp_avg"], torch.full_like(before, 0.1 * 1.5))  # the mean of 1 and 2
    run.step = 1
    logs = run._step(loss_fn, torch.device("cpu"), False)
    assert numbers == [0, 1, 2, 3] and logs["number"] == pytest.approx(2.5)


def test_skipped_steps_are_counted_up_and_in_a_row(tmp_path):
    model = linear()
    run = Run({"model": model}, config(steps=9), tmp_path)
    losses = iter([float("nan"), float("nan"), 1.0, float("inf")])

    def loss_fn(number, generator):
        return model.weight.sum() * next(losses), {}

    counts = []
    for _ in range(4):
        run._step(loss_fn, torch.device("cpu"), False)
        counts.append((run.skipped, run.skipped_in_a_row))
    assert counts == [(1, 1), (2, 2), (2, 0), (3, 1)]


def test_what_the_loss_does_not_reach_is_left_alone(tmp_path):
    """No gradient is no gradient of zero, with which the optimiser would still let the weights decay."""
    model, idle = linear(), linear()
    run = Run({"model": model, "idle": idle}, config(steps=2, weight_decay=0.5), tmp_path)
    before = idle.weight.detach().clone()
    run._step(lambda number, generator: (model.weight.sum(), {}), torch.device("cpu"), False)
    assert torch.equal(idle.weight, before) and not run.optimizer.state.get(idle.weight)
