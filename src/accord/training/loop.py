"""One training loop for everything that Accord trains. It takes a loss function and knows no method.

A step's batch and noise are functions of (seed, step) alone, so a run that was killed and resumed follows the same
loss curve, bit for bit on CPU, as one that was not.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors import SafetensorError
from torch import nn
from tqdm.auto import tqdm

from accord.files import check_regular, parse_json, reason, replace_file
from accord.training import checkpoints
from accord.training.processes import Processes
from accord.types import InputError, check_numbers

# (number of the micro-batch, its generator) -> mean loss over it, scalars to log. With gradient accumulation the
# number is step * gradient_accumulation + micro, so that every micro-batch has its own
LossFn = Callable[[int, torch.Generator], tuple[torch.Tensor, dict[str, float]]]
AfterStep = Callable[[int], bool]  # called with the steps taken; True ends the run
Draw = Callable[[Any, Sequence[dict[str, Any]]], None]  # called with a figure and rows of the curve


@dataclass(frozen=True)
class LoopConfig:
    """The knobs of a run.

    Raises:
        ValueError: for a field out of range, named in the message.
    """

    steps: int
    learning_rate: float
    warmup_steps: int = 200
    final_lr_share: float = 0.02  # cosine decay from learning_rate to this share of it
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0  # 0 switches the average off; ramped up over the first steps
    seed: int = 0
    bf16: bool | None = None  # autocast (weights and optimiser stay in float32); None: where the device computes in it
    gradient_accumulation: int = 1  # micro-batches a step
    max_skipped: int = 20  # steps in a row with a loss or gradient that is not finite, before the run is given up
    save_every: int = 500
    log_every: int = 20

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}")
        for name in ("gradient_accumulation", "max_skipped", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    @classmethod
    def of(cls, config: Any, **changes: Any) -> LoopConfig:
        """The fields that a method's own config has under the same names; `changes` come first."""
        shared = {f.name: getattr(config, f.name) for f in fields(cls) if hasattr(config, f.name)}
        return cls(**{**shared, **changes})

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then cosine decay; sized to the steps actually taken."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        low = self.final_lr_share
        return self.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))


def computes_bf16(device: torch.device | str) -> bool:
    """Whether bfloat16 is fast on a device; a CPU without instructions for it emulates it ten times slower."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    mkldnn = torch.device(device).type == "cpu" and torch.backends.mkldnn.is_available()
    return mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random generator of one step, a function of (seed, step) alone."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


def trained_in(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """The trainable parameters of named modules, by name."""
    return {f"{name}.{key}": p for name, m in modules.items() for key, p in m.named_parameters() if p.requires_grad}


class Run:
    """A resumable run in a folder: `checkpoints/`, `curve.jsonl`, `curve.png`.

    Args:
        modules: named modules; those with trainable parameters are trained.
        config: the knobs.
        folder: where checkpoints and curve go; an unfinished run found there is resumed.
        save_frozen: whether checkpoints hold the frozen parameters too; without them (an adapter on a large model)
            the modules must come with the same ones when the run is resumed.
        processes: those that share each step; gradients are averaged over them, and the first one writes.

    Attributes:
        numbers, tensors: what a method wants checkpointed with the run.
        skipped: how many steps were left out because their loss or gradient was not finite.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        config: LoopConfig,
        folder: Path,
        save_frozen: bool = True,
        processes: Processes | None = None,
    ) -> None:
        self.modules, self.config, self.folder = dict(modules), config, Path(folder)
        self.save_frozen, self.processes = save_frozen, processes or Processes()
        self.named = trained_in(modules)
        self.optimizer = torch.optim.AdamW(
            list(self.named.values()), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        self.ema = {k: p.detach().clone() for k, p in self.named.items()} if config.ema_decay else {}
        self.step = self.skipped = self.skipped_in_a_row = 0
        self.sums: dict[str, float] = {}  # scalars since the last row of the curve, and how many of them were finite
        self.counts: dict[str, float] = {}
        self.numbers: dict[str, float] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self.on_row: list[Callable[[dict[str, float]], None]] = []  # called with each row of the curve
        if os.path.lexists(self.folder / "curve.jsonl"):
            check_regular(self.folder / "curve.jsonl", "curve")
        self._resume()

    # --- state ---------------------------------------------------------------------------------------------------
    def _all_tensors(self) -> dict[str, torch.Tensor]:
        if self.save_frozen:
            tensors = {f"model.{n}.{k}": v for n, m in self.modules.items() for k, v in m.state_dict().items()}
        else:
            tensors = {f"model.{k}": v.detach() for k, v in self.named.items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.items()}
        for key, parameter in self.named.items():
            for name, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optim.{name}.{key}"] = torch.as_tensor(value)
        counts = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        for prefix, values in (
            ("sums", self.sums),
            ("finite", self.counts),
            ("numbers", self.numbers),
            ("counts", counts),
        ):
            tensors |= {f"{prefix}.{k}": torch.tensor(v, dtype=torch.float64) for k, v in values.items()}
        tensors |= {f"tensors.{k}": v for k, v in self.tensors.items()}
        # copied, as tied weights may not share storage in safetensors; off the device, which may have no room for two
        # of each
        return {k: v.detach().to("cpu", copy=True) for k, v in tensors.items()}

    def _resume(self) -> None:
        found = checkpoints.load_latest(self.folder / "checkpoints", self._fits)
        if found is None:
            for name in checkpoints.names(self.folder / "checkpoints"):
                tqdm.write(f"checkpoint {name} is corrupt, and there is no other; starting afresh", file=sys.stderr)
            if self.processes.first:
                (self.folder / "curve.jsonl").unlink(missing_ok=True)
            return
        self.step, tensors, corrupt = found
        for name in corrupt:
            tqdm.write(f"checkpoint {name} is corrupt; going on from step {self.step}", file=sys.stderr)
        if not corrupt and self.processes.first:
            tqdm.write(f"the run in {str(self.folder)!r} goes on from step {self.step}", file=sys.stderr)

        def under(prefix: str) -> dict[str, torch.Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        for name, module in self.modules.items():
            module.load_state_dict(under(f"model.{name}."), strict=self.save_frozen)
        device = next(iter(self.named.values())).device
        self.ema = {k: tensors[f"ema.{k}"].to(device) for k in self.ema}
        for key, parameter in self.named.items():
            names = [n for n in ("step", "exp_avg", "exp_avg_sq") if f"optim.{n}.{key}" in tensors]
            state = {n: tensors[f"optim.{n}.{key}"] for n in names}
            self.optimizer.state[parameter] = {n: v if n == "step" else v.to(device) for n, v in state.items()}
        self.sums, self.counts = ({k: float(v) for k, v in under(f"{name}.").items()} for name in ("sums", "finite"))
        self.sums = self.sums if self.counts else {}  # of a checkpoint that did not count yet
        self.numbers = {k: float(v) for k, v in under("numbers.").items()}
        counts = under("counts.")
        self.skipped, self.skipped_in_a_row = (int(counts.get(k, 0)) for k in ("skipped", "skipped_in_a_row"))
        self.tensors = under("tensors.")
        if self.processes.first:
            self._truncate_curve()

    def _fits(self, tensors: dict[str, torch.Tensor]) -> bool:
        """Whether a checkpoint has all weights of this run, in their shapes and types, and the optimiser's whole state
        of what it has any of.
        """

        def like(key: str, own: torch.Tensor) -> bool:
            found = tensors.get(key)
            return found is not None and found.shape == own.shape and found.dtype == own.dtype

        weights = {k: v for k, v in self._all_tensors().items() if k.startswith(("model.", "ema."))}
        single = [v for k, v in tensors.items() if k.startswith(("sums.", "finite.", "numbers.", "counts."))]
        states = [
            {f"optim.step.{key}": torch.zeros(()), f"optim.exp_avg.{key}": p, f"optim.exp_avg_sq.{key}": p}
            for key, p in self.named.items()
        ]
        return (
            all(like(k, v) for k, v in weights.items())
            and all(v.numel() == 1 and v.dtype == torch.float64 for v in single)
            and all(all(like(k, v) for k, v in state.items()) for state in states if state.keys() & tensors.keys())
        )

    def _truncate_curve(self) -> None:
        path = self.folder / "curve.jsonl"
        if path.exists():
            lines = []
            for line in path.read_text(encoding="utf8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError):  # a line cut short by a crash
                    if parse_json(line)["step"] <= self.step:
                        lines.append(line)
            replace_file(path, lambda p: p.write_text("".join(s + "\n" for s in lines), encoding="utf8"))

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            InputError: if it cannot be written, naming the last good one.
        """
        self._share_sums()
        if self.processes.first:
            folder = self.folder / "checkpoints"
            try:
                checkpoints.save(folder, self.step, self._all_tensors())
            except (OSError, SafetensorError) as error:
                good = checkpoints.newest(folder)
                last = f"the last good one is {good}" if good else "there is none yet"
                raise InputError(
                    f"checkpoint of step {self.step} cannot be written to {str(folder)!r} ({reason(error)}); {last}: "
                    "make room and train again"
                ) from error
        self.processes.wait()

    # --- the loop ------------------------------------------------------------------------------------------------
    def train(
        self,
        loss_fn: LossFn,
        describe: str = "train",
        after_step: AfterStep | None = None,
        progress: bool = True,
        plot: bool = True,
    ) -> None:
        """Take the steps that are left.

        Args:
            loss_fn: see LossFn.
            describe: label of the progress bar.
            after_step: called after each step, before it is checkpointed.
            progress: whether to draw the bar.
            plot: whether to draw `curve.png` at the end.

        Raises:
            InputError: if `max_skipped` steps in a row were not finite, or a checkpoint cannot be written.
        """
        config = self.config
        device = next(iter(self.named.values())).device
        bf16 = computes_bf16(device) if config.bf16 is None else config.bf16
        first = self.processes.first
        for module in self.modules.values():
            module.train()
        self.folder.mkdir(parents=True, exist_ok=True)
        with (
            open(self.folder / "curve.jsonl", "a", encoding="utf8") if first else contextlib.nullcontext() as curve,
            tqdm(
                total=config.steps, initial=self.step, desc=describe, mininterval=2.0, disable=not (first and progress)
            ) as bar,
        ):
            while self.step < config.steps and not self.numbers.get("stopped"):
                for group in self.optimizer.param_groups:
                    group["lr"] = config.lr_at(self.step)
                logs = self._step(loss_fn, device, bf16)
                self.step += 1
                self.note(logs)
                if after_step is not None and after_step(self.step):
                    self.numbers["stopped"] = 1.0
                last = self.step == config.steps or self.numbers.get("stopped")
                if self.step % config.log_every == 0 or last:
                    row = self._row()
                    bar.set_postfix({k: f"{v:.4f}" for k, v in row.items() if k != "step"})
                    if curve is not None:
                        self._append(curve, row)
                    for report in self.on_row:
                        report(row)
                if self.step % config.save_every == 0 or last:
                    self.save()
                bar.update()
                if self.skipped_in_a_row >= config.max_skipped:
                    raise InputError(
                        f"the loss or its gradient was not finite in {self.skipped_in_a_row} steps in a row, up to "
                        "step "
                        f"{self.step}; lower the learning rate or look at the reward"
                    )
        if first and plot:
            self.plot()

    def _append(self, curve: TextIO, row: dict[str, float]) -> None:
        try:
            curve.write(json.dumps(row) + "\n")
            curve.flush()
        except OSError as error:
            good = checkpoints.newest(self.folder / "checkpoints")
            raise InputError(
                f"{curve.name!r} cannot be written ({error.strerror or error}); the last good checkpoint is {good}: "
                "make room and train again"
            ) from error

    def _step(self, loss_fn: LossFn, device: torch.device, bf16: bool) -> dict[str, float]:
        """Gradients of all micro-batches and processes, then one step of the optimiser if they are finite."""
        config = self.config
        logs: dict[str, float] = {}
        for micro in range(config.gradient_accumulation):
            number = self.step * config.gradient_accumulation + micro
            # without the cache: a weight that was first cast under no_grad would be found in it, without its graph
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
                loss, scalars = loss_fn(number, step_generator(config.seed, number))
            (loss / config.gradient_accumulation).backward()
            for key, value in {"loss": float(loss.detach()), **scalars}.items():
                logs[key] = logs.get(key, 0.0) + value / config.gradient_accumulation
        if self.processes.world > 1:
            for p in self.named.values():
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
            self.processes.mean_([p.grad for p in self.named.values() if p.grad is not None])
        norm = nn.utils.clip_grad_norm_(self.named.values(), config.max_grad_norm)
        # a loss may be infinite with a gradient that is finite (zero); all processes decide the same
        finite = bool(torch.isfinite(norm)) and self.processes.all(math.isfinite(logs["loss"]))
        if finite:
            self.optimizer.step()
            self._average()
        self.skipped += not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        self.optimizer.zero_grad(set_to_none=True)
        return logs

    def note(self, values: Mapping[str, float]) -> None:
        """Scalars for the next row of the curve, beside those of its steps."""
        for key, value in values.items():
            finite = math.isfinite(value)
            self.sums[key] = self.sums.get(key, 0.0) + (value if finite else 0.0)
            self.counts[key] = self.counts.get(key, 0.0) + finite

    def _row(self) -> dict[str, float]:
        """The row of the curve: means of what was finite since the last one, over all processes."""
        self._share_sums()
        row: dict[str, float] = {"step": self.step}
        row |= {key: self.sums[key] / self.counts[key] for key in sorted(self.sums) if self.counts.get(key)}
        self.sums, self.counts = {}, {}
        return row | ({"skipped": self.skipped} if self.skipped else {})

    def _share_sums(self) -> None:
        """Replace what the processes have summed up by its mean over them, which is all that a row or a checkpoint
        needs.
        """
        if self.processes.world > 1:
            keys = sorted(self.sums)
            values = torch.tensor(
                [[d.get(k, 0.0) for k in keys] for d in (self.sums, self.counts)], dtype=torch.float64
            )
            values = values.to(next(iter(self.named.values())).device)
            self.processes.mean_([values])
            self.sums, self.counts = (dict(zip(keys, row, strict=True)) for row in values.tolist())

    def _average(self) -> None:
        if not self.ema:
            return
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        keys = list(self.ema)
        torch._foreach_lerp_([self.ema[k] for k in keys], [self.named[k].detach() for k in keys], 1 - decay)

    @torch.no_grad()
    def use_ema(self) -> None:
        """Put the averaged weights into the modules (at the end of a run)."""
        for key, value in self.ema.items():
            self.named[key].copy_(value)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in the modules, in eval mode, for an evaluation in the middle of a run."""
        raw = {k: self.named[k].detach().clone() for k in self.ema}
        self.use_ema()
        for module in self.modules.values():
            module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            with torch.no_grad():
                for key, value in raw.items():
                    self.named[key].copy_(value)
            for module in self.modules.values():
                module.train()

    def plot(self, draw: Draw | None = None) -> None:
        """Draw `curve.png` from `curve.jsonl`, where matplotlib is installed.

        Args:
            draw: called with an empty figure and the rows that have a loss; the loss by step if None.
        """
        try:
            from matplotlib.figure import Figure  # not pyplot, whose backend is the user's
        except ImportError:
            return  # as without TensorBoard: the numbers are in the file
        rows = []
        for line in (self.folder / "curve.jsonl").read_text(encoding="utf8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                rows.append(parse_json(line))
        rows = [
            r for r in rows if isinstance(r, dict) and {"loss", "step"} <= r.keys()
        ]  # all but those of which no step was finite
        if not rows:
            return
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        (draw or _draw_loss)(figure, rows)
        replace_file(self.folder / "curve.png", lambda p: figure.savefig(p, dpi=110, format="png"))


def _draw_loss(figure: Any, rows: Sequence[dict[str, Any]]) -> None:
    axis = figure.subplots()
    axis.semilogy([r["step"] for r in rows], [r["loss"] for r in rows])
    axis.set(xlabel="step", ylabel="loss")
