"""One training loop for everything that Accord trains. It takes a loss function and knows no method.

A step's batch and noise are functions of (seed, step) alone, so a run that was killed and resumed follows the same
loss curve, bit for bit on CPU, as one that was not.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from accord.training import checkpoints

LossFn = Callable[[int, torch.Generator], tuple[torch.Tensor, dict[str, float]]]


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
    bf16: bool = True  # autocast; weights and optimiser stay in float32
    save_every: int = 500
    log_every: int = 20

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {self.ema_decay}")
        for name in ("save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then cosine decay; sized to the steps actually taken."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        low = self.final_lr_share
        return self.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random generator of one step, a function of (seed, step) alone."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


class Run:
    """A resumable run in a folder: `checkpoints/`, `curve.jsonl`, `curve.png`.

    Args:
        modules: named modules; those with trainable parameters are trained, all of them checkpointed.
        config: the knobs.
        folder: where checkpoints and curve go; an unfinished run found there is resumed.
    """

    def __init__(self, modules: Mapping[str, nn.Module], config: LoopConfig, folder: Path) -> None:
        self.modules, self.config, self.folder = dict(modules), config, Path(folder)
        self.named = {
            f"{name}.{key}": p for name, m in modules.items() for key, p in m.named_parameters() if p.requires_grad
        }
        self.optimizer = torch.optim.AdamW(
            list(self.named.values()), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        self.ema = {k: p.detach().clone() for k, p in self.named.items()} if config.ema_decay else {}
        self.step = 0
        self.sums: dict[str, float] = {}  # scalars since the last row of the curve
        self._resume()

    # --- state ---------------------------------------------------------------------------------------------------
    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {f"model.{n}.{k}": v for n, m in self.modules.items() for k, v in m.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.items()}
        for key, parameter in self.named.items():
            for name, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optim.{name}.{key}"] = torch.as_tensor(value)
        tensors |= {f"sums.{k}": torch.tensor(v, dtype=torch.float64) for k, v in self.sums.items()}
        return {k: v.clone() for k, v in tensors.items()}  # tied weights may not share storage in safetensors

    def _resume(self) -> None:
        found = checkpoints.load_latest(self.folder / "checkpoints")
        if found is None:
            (self.folder / "curve.jsonl").unlink(missing_ok=True)
            return
        self.step, tensors, corrupt = found
        for name in corrupt:
            tqdm.write(f"checkpoint {name} is corrupt; going on from step {self.step}")
        for name, module in self.modules.items():
            prefix = f"model.{name}."
            module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        device = next(iter(self.named.values())).device
        self.ema = {k: tensors[f"ema.{k}"].to(device) for k in self.ema}
        for key, parameter in self.named.items():
            names = [n for n in ("step", "exp_avg", "exp_avg_sq") if f"optim.{n}.{key}" in tensors]
            state = {n: tensors[f"optim.{n}.{key}"] for n in names}
            self.optimizer.state[parameter] = {n: v if n == "step" else v.to(device) for n, v in state.items()}
        self.sums = {k[len("sums.") :]: float(v) for k, v in tensors.items() if k.startswith("sums.")}
        self._truncate_curve()

    def _truncate_curve(self) -> None:
        path = self.folder / "curve.jsonl"
        if path.exists():
            lines = []
            for line in path.read_text(encoding="utf8").splitlines():
                with contextlib.suppress(ValueError):  # a line cut short by a crash
                    if json.loads(line)["step"] <= self.step:
                        lines.append(line)
            checkpoints.replace_file(path, lambda p: p.write_text("".join(s + "\n" for s in lines), encoding="utf8"))

    def save(self) -> None:
        checkpoints.save(self.folder / "checkpoints", self.step, self._tensors())

    # --- the loop ------------------------------------------------------------------------------------------------
    def train(self, loss_fn: LossFn, describe: str = "train") -> None:
        """Take the steps that are left. `loss_fn(step, generator)` returns the loss and scalars to log."""
        config = self.config
        device = next(iter(self.named.values())).device
        for module in self.modules.values():
            module.train()
        self.folder.mkdir(parents=True, exist_ok=True)
        with (
            open(self.folder / "curve.jsonl", "a", encoding="utf8") as curve,
            tqdm(total=config.steps, initial=self.step, desc=describe, mininterval=2.0) as bar,
        ):
            while self.step < config.steps:
                for group in self.optimizer.param_groups:
                    group["lr"] = config.lr_at(self.step)
                with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                    loss, logs = loss_fn(self.step, step_generator(config.seed, self.step))
                loss.backward()
                norm = nn.utils.clip_grad_norm_(self.named.values(), config.max_grad_norm)
                if torch.isfinite(norm):
                    self.optimizer.step()
                    self._average()
                self.optimizer.zero_grad(set_to_none=True)
                self.step += 1
                for key, value in {"loss": float(loss.detach()), **logs}.items():
                    self.sums[key] = self.sums.get(key, 0.0) + value
                if self.step % config.log_every == 0:
                    row = {"step": self.step, **{k: v / config.log_every for k, v in sorted(self.sums.items())}}
                    curve.write(json.dumps(row) + "\n")
                    curve.flush()
                    bar.set_postfix({k: f"{v:.4f}" for k, v in row.items() if k != "step"})
                    self.sums = {}
                if self.step % config.save_every == 0 or self.step == config.steps:
                    self.save()
                bar.update()
        self.plot()

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

    def plot(self) -> None:
        """Draw `curve.png` from `curve.jsonl`."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        rows = [json.loads(s) for s in (self.folder / "curve.jsonl").read_text(encoding="utf8").splitlines()]
        if not rows:
            return
        figure, axis = plt.subplots(figsize=(6, 3.5))
        axis.semilogy([r["step"] for r in rows], [r["loss"] for r in rows])
        axis.set(xlabel="step", ylabel="loss")
        figure.tight_layout()
        checkpoints.replace_file(self.folder / "curve.png", lambda p: figure.savefig(p, dpi=110, format="png"))
        plt.close(figure)
