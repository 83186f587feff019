"""`train_reward`, RealignDiff's coarse stage: an adapter is trained until plain pictures of it earn more reward.

    loss = reward_weight * strategy + pretrain_weight * ||f - target||^2 + kl_weight * ||f - f_untuned||^2

The second and third term, on by default, hold the model to what it was: pictures with their captions (`pairs`), or,
where there are none, pictures of the untuned pipeline. The whole loop is `Run` of `accord.training`, which knows
nothing of this.

Letters in shapes: B pictures, N pictures of an evaluation; a state is what the pipeline's loop denoises, [B,...].
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from accord.data.images import fit, to_tensor
from accord.data.prompts import check_says_something
from accord.diffusion.call import call_arguments
from accord.diffusion.checkpointing import checkpointed
from accord.diffusion.loading import load_tensors
from accord.diffusion.lora import named_networks, save_lora
from accord.diffusion.opened import check_seams, networks_of
from accord.diffusion.pipelines import check_no_context, check_prompts, device_of
from accord.diffusion.sharding import is_sharded
from accord.files import read_json, replace_file, write_file
from accord.methods.tune.card import report_of, write_card
from accord.methods.tune.config import TuneConfig, strategy_of
from accord.methods.tune.curve import draw, keep_pictures, write_pictures
from accord.methods.tune.drawing import Drawing, Setting, as_composed
from accord.methods.tune.registry import Strategy
from accord.methods.tune.rollouts import Batch, Draw, Rollouts, draw_here, frames_of, of_each
from accord.methods.tune.scores import models_of, same_score, scores_of
from accord.methods.tune.watching import Watching
from accord.rewards.composed import Composed, check_gradient
from accord.rewards.registry import Reward
from accord.training.fingerprint import fingerprint
from accord.training.guard import Guard, GuardConfig
from accord.training.limits import Drift, Limits
from accord.training.loop import LoopConfig
from accord.training.processes import Processes
from accord.training.session import Session, session
from accord.types import InputError, a_kind

EVAL_SEED = 1_000_000
PREPARED = ("anchor.safetensors", "scales.json")  # files of a run that are made before its first step


@dataclass(frozen=True)
class Tuned:
    """What `train_reward` leaves.

    Attributes:
        folder: adapter (`pytorch_lora_weights.safetensors`), model card, report, curve, checkpoints, pictures of the
            evaluations, and a page of them.
        report: what was measured, JSON-ready; `report["verdict"]` says in words whether the guard stopped the run.
    """

    folder: Path
    report: dict[str, Any]


def train_reward(
    pipe: Any,
    prompts: Sequence[str],
    reward: Composed | Reward,
    out: str | Path,
    strategy: Strategy | str | None = None,
    config: TuneConfig | None = None,
    *,
    held_out: Reward | None = None,
    pairs: tuple[Sequence[Image.Image], Sequence[str]] | None = None,
    progress: bool = True,
    call: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    watcher: Composed | Reward | None = None,
    paraphrases: Mapping[str, str] | None = None,
    whole: bool = False,
    drawing: Drawing | None = None,
) -> Tuned:
    """Tune any text-to-image or text-to-video pipeline of diffusers with a reward. The pipeline itself is tuned too
    (`remove_lora` undoes it).

    Args:
        pipe: the pipeline; each of its denoising networks gets an adapter.
        prompts: what to train on; some of them are kept out for the evaluations.
        reward: what `make_rewards` gives, or anything of the `Reward` protocol.
        out: folder of the run; one that is found there is resumed.
        strategy: refl, draft, raft, grpo, nft or awm (or sft, the control), or one with its knobs; overrides the one
            in `config`.
        held_out: a score that is never trained on, for the guard; no guard without it.
        pairs: pictures and captions for the denoising term; pictures of the untuned pipeline are made if None.
        call: further arguments of the pipeline's own call: height, width, max_sequence_length ...
        limits: how far the pictures may drift (norm, brightness, contrast, diversity, paraphrases, watching judge)
            before the run is stopped; without them what costs no picture is measured, and nothing is stopped by it.
        watcher: the score of a second judge that only watches.
        paraphrases: prompts that are trained on -> the same in other words; some of both are looked at.
        whole: an adapter on every linear layer and convolution of the network, not on its attention alone.
        drawing: who draws and judges the pictures of each round (`accord.distributed.rollouts`), for raft, grpo, nft
            and awm; this process if None. The run is the same, and is resumed with another or without.

    Raises:
        InputError: for a pipeline, prompt, reward, folder or number that cannot be used.
    """
    config, watching = config or TuneConfig(), Watching(limits, watcher, paraphrases)
    reward = as_composed(reward)
    if strategy is not None:
        try:
            config = replace(config, strategy=strategy_of(strategy))
        except ValueError as error:
            raise InputError(str(error)) from error
    texts = list(dict.fromkeys(prompts))
    _check_pipeline(pipe, texts, config, call)
    watching.check(texts)
    for text in (*texts, *(paraphrases or {}).values()):
        check_says_something(text)  # which a reward would do in the middle of the run
    _check_scores(config.strategy, reward, held_out, watcher)
    processes = Processes(pipe.device)
    if drawing is not None:
        check_drawn(config.strategy, processes)
    processes.mine(config.batch_size // config.gradient_accumulation)  # refuses what cannot be shared
    settings: dict[str, Any] = {
        **config.flat(),
        "prompts": len(texts),
        "prompts_digest": fingerprint(texts),
        "rewards": reward.weights,
        "held_out": None if held_out is None else type(held_out).__name__,
        "model": fingerprint(*networks_of(pipe)),
        "judges": fingerprint(*models_of(reward, held_out, watcher)),
        "pairs": None if pairs is None else fingerprint(list(pairs[1])),
        "whole": True if whole else None,  # what is None was not there before
        **watching.settings(),
    }
    if call:
        settings["call"] = {name: str(value) for name, value in call.items()}
    setting = Setting.of(pipe, reward, config, call, whole)
    opened = session(
        pipe,
        Path(out),
        settings,
        rank=config.rank,
        seed=config.seed,
        whole=whole,
        prepared=PREPARED,
        processes=processes,
    )
    with drawing(setting) if drawing else nullcontext(draw_here) as drawer, opened as training:
        tuner = Tuner(pipe, texts, reward, training, config, held_out, pairs, progress, call, watching, drawer)
        tuner.rollouts.key = json.dumps(settings, sort_keys=True)
        tuner.train()
        return tuner.finish()


def _check_pipeline(pipe: Any, prompts: Sequence[str], config: TuneConfig, call: Mapping[str, Any] | None) -> None:
    """Refuse a pipeline that cannot be tuned or called like this, before anything is written, and too few prompts."""
    check_seams(pipe)
    check_trained_here(pipe)
    call_arguments(pipe, guidance_scale=config.guidance_scale, call=call)
    if len(prompts) < 2:
        raise InputError(f"{len(prompts)} different prompts are too few to train on and to evaluate; give at least 2")
    check_prompts(pipe, prompts)


def _check_scores(strategy: Strategy, reward: Composed, held_out: Any, watcher: Any) -> None:
    """Refuse scores that are to be apart and are one, and rewards without the gradient that a strategy needs."""
    if any(same_score(a, b) for a in scores_of(reward) for b in scores_of(held_out)):
        raise InputError("the held-out score is one of the rewards that are trained on; give another one")
    if any(same_score(a, b) for a in scores_of(reward) for b in scores_of(watcher)):
        raise InputError("the judge of `watcher` is the one that is trained with; give another one")
    for name, part in reward.rewards.items():
        if strategy.needs_gradient and not part.differentiable:
            raise InputError(
                f"reward {name!r} has no gradient, which {strategy.name} needs; use the strategy raft, grpo, nft or awm"
            )


def check_drawn(strategy: Strategy, processes: Processes) -> None:
    """Refuse to have pictures drawn elsewhere where no one else can.

    Raises:
        InputError: for a strategy that makes no rounds of pictures, or a run of several processes.
    """
    if not strategy.rolls_out:
        raise InputError(
            f"{strategy.name} makes no rounds of pictures that others could draw; let none draw them, or use the "
            "strategy raft, grpo, nft or awm"
        )
    if processes.world > 1:
        raise InputError(
            f"a run of {processes.world} processes draws its pictures itself; start one process to have others draw"
        )


def check_trained_here(pipe: Any) -> None:
    """Refuse a pipeline whose networks would not be trained as they are run.

    Raises:
        InputError: for a network that was distilled with guidance, one in float16, one whose weights are not as they
            compute between its runs, or one that is run with a context.
    """
    check_no_context(pipe)
    for network in networks_of(pipe):
        if getattr(network.config, "time_cond_proj_dim", None) is not None:
            raise InputError(
                "a denoiser that was distilled with guidance (LCM) cannot be tuned here; tune the model it was made "
                "from"
            )
        _check_weights_stay(pipe, network)
        if network.dtype == torch.float16:
            raise InputError(
                "gradients through float16 weights are lost in rounding; load the pipeline in float32, or in bfloat16 "
                "where the device computes in it"
            )


def _check_weights_stay(pipe: Any, network: nn.Module) -> None:
    """Refuse weights that are brought for a run alone, and are away when the gradient needs them."""
    place, name = device_of(pipe), type(network).__name__
    if away := {p.device.type for p in network.parameters()} - {place.type}:
        raise InputError(
            f"the weights of the {name} wait on {' and '.join(sorted(away))} and compute on {place}, so they are away "
            "when a gradient needs them; tune without offloading"
        )
    small = {str(p.dtype) for p in network.parameters() if p.is_floating_point() and p.element_size() == 1}
    if small:
        raise InputError(
            f"the weights of the {name} are kept in {small.pop().removeprefix('torch.')}, and are so again when a "
            "gradient needs them; tune without layerwise casting"
        )


class Tuner:
    """One tuning run: its anchors, batches, loss, evaluations and result."""

    def __init__(
        self,
        pipe: Any,
        prompts: list[str],
        reward: Composed,
        training: Session,
        config: TuneConfig,
        held_out: Reward | None,
        pairs: tuple[Sequence[Image.Image], Sequence[str]] | None,
        progress: bool,
        call: Mapping[str, Any] | None = None,
        watching: Watching | None = None,
        drawer: Draw = draw_here,
    ) -> None:
        self.watching = watching = watching or Watching()
        self.pipe, self.reward, self.config, self.held_out = pipe, reward, config, held_out
        self.folder, self.training, processes = training.folder, training, training.processes
        kept = min(config.eval_prompts, len(prompts) // 2)
        every = len(prompts) // kept
        self.eval_prompts = prompts[::every][:kept]
        kept_out = set(self.eval_prompts)
        self.prompts = [p for p in prompts if p not in kept_out]
        self.rollouts = Rollouts(pipe, self.prompts, reward, config, processes, call)
        self.rollouts.progress = progress and processes.first
        if not is_sharded(pipe):  # then all processes draw equally many pictures, whatever one of them had kept
            self.rollouts.folder = self.folder / "rollouts"
        self.rollouts.draw = drawer
        loop = LoopConfig.of(config, log_every=min(10, config.eval_every))
        self._prepare(pairs, processes)
        self.run = training.run(named_networks(pipe), loop)
        self.rollouts.state, self.rollouts.trained = self.run.tensors, self.run.named
        self.guard = Guard(GuardConfig(config.guard_z, config.guard_patience), self.run.numbers, self.run.tensors)
        self.drift = Drift(watching.limits, self.run.numbers, self.run.tensors)
        self.progress = progress

    # --- before the first step -----------------------------------------------------------------------------------
    def _prepare(self, pairs: tuple[Sequence[Image.Image], Sequence[str]] | None, processes: Processes) -> None:
        """Anchor latents, and the scales of the rewards; kept in `anchor.safetensors` and `scales.json`."""
        anchor, scales = (self.folder / name for name in PREPARED)
        there = processes.all(anchor.exists() and scales.exists())
        if not there and (processes.first or is_sharded(self.pipe)):
            with torch.no_grad(), self.rollouts.untuned():
                texts = [self.prompts[i % len(self.prompts)] for i in range(self.config.anchors)]
                own = self._own_pictures(texts)
                latents, captions = (own, texts) if pairs is None else self._encoded(pairs)
                scored = [
                    self.rollouts.parts(
                        self.rollouts.decode(texts[i : i + 8], own[i : i + 8].to(self.pipe.device)), texts[i : i + 8]
                    )
                    for i in range(0, len(own), 8)
                ]
            self.reward.calibrate({name: torch.cat([s[name] for s in scored]) for name in self.reward.rewards})
            if processes.first:
                replace_file(anchor, lambda p: save_file({"latents": latents.float().cpu().contiguous()}, p))
                write_file(scales, json.dumps({"scales": self.reward.scales, "captions": captions}).encode())
        processes.wait()
        again = "train in another folder"
        saved = read_json(scales, "the run's", again)
        self.anchors = load_tensors(anchor, "the run's", again).get("latents", torch.zeros(0))
        self.anchor_captions = saved.get("captions", [])
        try:
            self.reward.scales = {k: (float(v[0]), float(v[1])) for k, v in saved["scales"].items()}
            if self.reward.scales.keys() != self.reward.rewards.keys() or not 0 < len(self.anchors) == len(
                self.anchor_captions
            ):
                raise ValueError
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            raise InputError(f"{str(scales)!r} and {anchor.name} are not of one whole run; {again}") from None
        if self.config.strategy.needs_gradient:
            texts = self.anchor_captions[:2]
            states = self.anchors[: len(texts)].to(self.pipe.device, self.rollouts.dtype)
            pictures, told = frames_of(self.rollouts.decode(texts, states).detach(), texts)
            for name, part in self.reward.rewards.items():
                check_gradient(part, pictures, told, f"reward {name!r}")
        self.rollouts.forget()

    def _own_pictures(self, texts: list[str]) -> torch.Tensor:
        """States [B,...] of the untuned pipeline."""
        generators = [torch.Generator().manual_seed(self.config.seed * 1_000_003 + i) for i in range(len(texts))]
        return torch.cat(
            [self.rollouts.pictures(texts[i : i + 8], generators[i : i + 8]) for i in range(0, len(texts), 8)]
        )

    def _encoded(self, pairs: tuple[Sequence[Image.Image], Sequence[str]]) -> tuple[torch.Tensor, list[str]]:
        images, captions = pairs
        if len(images) != len(captions) or not images:
            raise InputError(
                f"{len(images)} pictures were given with {len(captions)} captions; give one caption for each picture"
            )
        like = self.rollouts.opened.noise(captions[:1], [torch.Generator().manual_seed(0)])
        made = self.rollouts.decode(list(captions[:1]), like)
        if made.dim() != 4:
            raise InputError(f"pairs are pictures, and {a_kind(self.pipe)} makes videos; leave them out")
        height, width = made.shape[-2:]
        parts = [
            self.rollouts.opened.encode(
                captions[i : i + 8], torch.cat([fit(to_tensor(p), (height, width)) for p in images[i : i + 8]])
            )
            for i in range(0, len(images), 8)
        ]
        return torch.cat(parts), list(captions)

    # --- the run -------------------------------------------------------------------------------------------------
    def batch(self, number: int) -> Batch:
        """This process's share of micro-batch `number`: a function of (seed, number) alone."""
        config, processes = self.config, self.run.processes
        step, micro = divmod(number, config.gradient_accumulation)
        rng = np.random.default_rng((config.seed, 31, config.strategy.drawn_at(step)))
        numbers = rng.integers(len(self.prompts), size=config.batch_size)
        seeds = rng.integers(2**40, size=config.batch_size)
        shared = int(rng.integers(2**40))
        size = config.batch_size // config.gradient_accumulation
        places = [micro * size + i for i in processes.mine(size)]
        chosen = [int(numbers[i]) for i in places]
        return Batch(step, places, [self.prompts[i] for i in chosen], chosen, [int(seeds[i]) for i in places], shared)

    def loss(self, number: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        config, batch = self.config, self.batch(number)
        if number % config.gradient_accumulation == 0:
            batches = [self.batch(number + k) for k in range(config.gradient_accumulation)]
            config.strategy.prepare(self.rollouts, batches)
        loss, logs = config.strategy.loss(self.rollouts, batch)
        logs["strategy"] = float(loss.detach())
        loss = config.reward_weight * loss
        if config.pretrain_weight or config.kl_weight:
            rows = [s % len(self.anchors) for s in batch.seeds]
            latents = self.anchors[rows].to(self.pipe.device)
            captions = [self.anchor_captions[i] for i in rows]
            denoising, drift = self.rollouts.denoising_loss(
                latents, captions, batch.generators(salt=2), config.kl_weight > 0
            )
            loss = loss + config.pretrain_weight * denoising + config.kl_weight * drift
            logs |= {"denoising": float(denoising.detach()), "drift": float(drift.detach())}
        return loss, logs

    def train(self) -> None:
        if self.run.step == 0 and "evaluation.0.reward" not in self.run.tensors:
            self.evaluate(0)
        networks = networks_of(self.pipe) if self.config.gradient_checkpointing else ()
        with checkpointed(networks):
            self.run.train(self.loss, f"tune {self.config.strategy.name}", self.after_step, self.progress, plot=False)

    def after_step(self, step: int) -> bool:
        if step % self.config.eval_every and step != self.config.steps:
            return False
        self.evaluate(step)
        return self.parted or self.drifted

    @property
    def drifted(self) -> bool:
        """Whether the run was stopped beyond one of its limits; the same in all processes."""
        return not self.run.processes.all(not self.drift.stopped)

    @property
    def parted(self) -> bool:
        """Whether the guard, if there is one, has stopped the run; the same in all processes."""
        return self.config.guard and self.held_out is not None and not self.run.processes.all(not self.guard.stopped)

    def evaluate(self, step: int) -> None:
        """Reward and held-out score on fixed prompts and seeds, with the averaged weights."""
        images, states = [], []
        with self.run.averaged():
            for i in range(0, len(self.eval_prompts), 8):
                texts = self.eval_prompts[i : i + 8]
                generators = [torch.Generator().manual_seed(EVAL_SEED + i + k) for k in range(len(texts))]
                states.append(self.rollouts.pictures(texts, generators))
                images.append(self.rollouts.decode(texts, states[-1]))
            pictures = torch.cat(images)
            reward = self._scores(self.reward, images)
            found = self.watching.measures(self.rollouts, self.eval_prompts, torch.cat(states), pictures, reward)
            scores = {"reward": reward}
            if self.held_out is not None:
                scores["held_out"] = self._scores(self.held_out, images)
        state = self.run.tensors
        for name, values in scores.items():
            state[f"evaluation.{step}.{name}"] = values.float().cpu()
        for name, values in scores.items():
            if not torch.isfinite(values).any() or (
                step == 0 and not torch.isfinite(values).all()
            ):  # later on, a few are left out
                raise InputError(f"the {name.replace('_', '-')} score is not finite at step {step}; use another")
        drifts = {f"drift/{name}": value for name, value in self.drift.update(step, found).items()}
        if step:
            self.run.note(drifts)
        for name, value in drifts.items():
            state[f"evaluation.{step}.{name}"] = torch.tensor(value)
        if self.guard.update(step, reward, scores.get("held_out", reward), not self.drift.in_doubt):
            for key, parameter in self.run.named.items():
                state[f"best.{key}"] = self.run.ema.get(key, parameter.detach()).clone().cpu()
        shown = pictures if pictures.dim() == 4 else pictures[:, pictures.shape[1] // 2]
        if self.run.processes.first:
            keep_pictures(self.folder, step, shown)
        if (logger := self.training.logger) is not None:
            logger.scalars(
                {"step": step} | {f"evaluation/{k}": float(v[torch.isfinite(v)].mean()) for k, v in scores.items()}
            )
            logger.images("evaluation", shown, step, self.eval_prompts)

    def _scores(self, score: Any, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """A score [N] of the evaluation's pictures, which come in batches of 8."""
        found = []
        for i, batch in enumerate(images):
            pictures, texts = frames_of(batch, self.eval_prompts[8 * i : 8 * i + 8])
            found.append(of_each(score(pictures, texts), len(batch)))
        return torch.cat(found)

    def finish(self) -> Tuned:
        """Put the best weights in, write adapter, card and report."""
        stopped = self.parted or self.drifted
        with torch.no_grad():
            for key, parameter in self.run.named.items():
                source = self.run.tensors[f"best.{key}"] if stopped else self.run.ema.get(key, parameter)
                parameter.copy_(source.to(parameter.device))
        for network in networks_of(self.pipe):
            network.eval()
        report = report_of(self)
        if self.run.processes.first:
            save_lora(self.pipe, self.folder)
            write_file(self.folder / "report.json", (json.dumps(report, indent=1) + "\n").encode())
            write_card(self, report)
            self.rollouts.drop_kept()
            write_pictures(self, report)
            self.run.plot(partial(draw, self, report))
        self.run.processes.wait()
        return Tuned(self.folder, report)
