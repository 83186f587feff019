"""The report and the model card of a tuning run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from accord.diffusion.lora import named_networks
from accord.files import write_file
from accord.training.limits import MEASURES, PAIRED

if TYPE_CHECKING:
    from accord.methods.tune.train import Tuner


def report_of(tuner: Tuner) -> dict[str, Any]:
    """What the evaluations saw, with paired 95 % intervals against the untuned pipeline, and a verdict in words."""
    state, guard = tuner.run.tensors, tuner.guard
    steps = sorted({int(k.split(".")[1]) for k in state if k.startswith("evaluation.")})
    names = ["reward"] + (["held_out"] if tuner.held_out is not None else [])
    scores = {(s, n): state[f"evaluation.{s}.{n}"] for s in steps for n in names}
    evaluations: list[dict[str, Any]] = [
        {"step": s, **{n: float(v[torch.isfinite(v)].mean()) for n in names for v in [scores[s, n]]}} for s in steps
    ]
    for row in evaluations:  # of runs before there was any, nothing
        drifts = {name: state.get(f"evaluation.{row['step']}.drift/{name}") for name in (*MEASURES, *PAIRED)}
        row["drift"] = {name: round(float(value), 4) for name, value in drifts.items() if value is not None}
    parted, drifted = tuner.parted, tuner.drifted
    kept = guard.best_step if parted or drifted else steps[-1]
    gains = {n: _gain(scores[kept, n] - scores[0, n]) for n in names}
    return {
        "pipeline": type(tuner.pipe).__name__,
        "model": model_of(tuner.pipe),
        "strategy": tuner.config.strategy.name,
        "rewards": tuner.reward.weights,
        "steps_taken": tuner.run.step,
        "steps_skipped": tuner.run.skipped,
        "kept_step": kept,
        "parted_ways_at": guard.parted_at if parted else None,
        "stopped_by": tuner.drift.sentence or None,
        "evaluations": evaluations,
        "gains": gains,
        "verdict": _verdict(tuner, parted, kept, gains),
        "config": tuner.config.flat(),
    }


def _gain(difference: torch.Tensor) -> dict[str, float]:
    difference = difference[torch.isfinite(difference)]
    error = float(difference.std()) / len(difference) ** 0.5 if len(difference) > 1 else 0.0
    mean = float(difference.mean())
    return {"mean": round(mean, 4), "low": round(mean - 1.96 * error, 4), "high": round(mean + 1.96 * error, 4)}


def _verdict(tuner: Tuner, parted: bool, kept: int, gains: dict[str, dict[str, float]]) -> str:
    if tuner.drift.stopped:
        return f"{tuner.drift.sentence} The adapter of step {kept} is kept."
    if tuner.held_out is None:
        return "No held-out score was given, so nothing says whether the reward was earned or hacked."
    if parted:
        return (
            f"Reward and held-out score parted ways at step {tuner.guard.parted_at}: the reward still rose while the "
            "held-out "
            f"score fell, which is reward hacking. The run was stopped and the adapter of step {kept} kept."
        )
    low, high = gains["held_out"]["low"], gains["held_out"]["high"]
    if high < 0:
        return "The held-out score is lower than the untuned pipeline's: what was gained in reward is not alignment."
    if low > 0:
        return "The held-out score rose with the reward."
    return "The held-out score did not change beyond noise."


def model_of(pipe: Any) -> str:
    """What a pipeline was loaded from; of a folder its name alone."""
    base = Path(str(pipe.config.get("_name_or_path") or "?"))
    return base.name if base.is_absolute() else str(base)  # no path of this machine


def _loading(pipe: Any) -> str:
    """How plain diffusers loads an adapter into such a pipeline; where it cannot, how Accord does."""
    (first, network), *others = named_networks(pipe).items()
    by_network = f'pipe.{first}.load_lora_adapter("this folder", use_safetensors=True)'
    if hasattr(pipe, "load_lora_weights"):
        lines = ['pipe.load_lora_weights("this folder")']
    elif hasattr(network, "load_lora_adapter"):
        lines = [by_network]
    else:
        return 'pipe = accord.load(..., lora="this folder")  # diffusers has no loader for this class'
    lines += [f'pipe.{name}.load_lora_adapter("this folder/{name}", use_safetensors=True)' for name, _ in others]
    return "\n".join(lines)


def write_card(tuner: Tuner, report: dict[str, Any]) -> None:
    """`README.md` of the adapter folder."""
    kind, base_name = report["pipeline"], report["model"]
    rows = [
        f"| {row['step']} | {row['reward']:.3f} | {row['held_out']:.4f} |"
        if "held_out" in row
        else f"| {row['step']} | {row['reward']:.3f} | - |"
        for row in report["evaluations"]
    ]
    weights = ", ".join(f"{k} x {v:g}" for k, v in report["rewards"].items())
    config = "\n".join(f"- {k}: {v}" for k, v in report["config"].items())
    taken, skipped, kept = (report[k] for k in ("steps_taken", "steps_skipped", "kept_step"))
    text = f"""---
library_name: diffusers
tags: [text-to-image, lora, reward-tuning, accord]
---
# LoRA adapter, tuned with {report["strategy"]}

Reward: {weights}. {taken} steps, {skipped} of them skipped; the adapter of step {kept} is kept.

{report["verdict"]}

```python
from diffusers import {kind}

pipe = {kind}.from_pretrained(...)  # tuned on: {base_name}
{_loading(tuner.pipe)}
```

Evaluations on {len(tuner.eval_prompts)} prompts that were not trained on (reward in spreads of the untuned pipeline's):

| step | reward | held-out score |
|---|---|---|
{chr(10).join(rows)}

Settings:

{config}
"""
    write_file(tuner.folder / "README.md", text.encode())
