"""`accord train`: the lab's models, adapters, inverters and relational networks."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accord.cli.options import (
    HUB_CAPTIONER,
    HUB_CLIP,
    App,
    AsJson,
    Call,
    ClipId,
    Device,
    Guidance,
    Height,
    JudgeId,
    Model,
    ModelConfig,
    NegativePrompt,
    Out,
    Seed,
    Variant,
    Width,
    call_options,
    check_pairs,
    checked,
    counted,
    emit,
    judge_of,
    leave_out,
    pick_device,
    plainly,
    quiet,
    said,
    tell_skipped,
)
from accord.methods.tune.registry import strategy_names
from accord.rewards.registry import reward_names
from accord.types import InputError, Pair

if TYPE_CHECKING:
    from accord.data.pairs import PairsFile
    from accord.methods.invert.config import PredictorConfig
    from accord.methods.tune.config import TuneConfig

app = App(help="Train models.", no_args_is_help=True)


@app.command("lab")
def train_lab(
    part: Annotated[str, typer.Argument(help="vae, clip, captioner or denoiser (in this order), roles or flow.")],
    out: Annotated[
        Path, typer.Option(help="Folder for models, checkpoints and curves; a run found there is resumed.")
    ] = Path("runs/lab"),
    steps: Annotated[int | None, typer.Option(help="Steps; the recipe's own number by default.")] = None,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    go_on: Annotated[
        bool, typer.Option("--continue", help="Start from the embedded weights, not from nothing.")
    ] = False,
    start: Annotated[
        Path | None, typer.Option(help="Start from the finished part in this folder of another run, not from nothing.")
    ] = None,
) -> None:
    """Train an embedded model of the lab; a killed run goes on where it was."""
    quiet()
    from accord.diffusion.pipelines import check_device
    from accord.embedded import FOLDER
    from accord.files import check_writable
    from accord_lab.recipes import train

    check_device(device)
    check_writable(out)
    if go_on and start is not None:
        raise InputError("--continue and --start are two places to start from; give one of them")
    train(part, out, steps=steps, seed=seed, device=device, start=FOLDER if go_on else start)
    print(f"written to {out}")


@app.command("reward")
def train_reward(
    prompts: Annotated[
        Path, typer.Option(help="Prompts: .txt (one a line), .csv, .tsv, .jsonl, or COCO captions .json.")
    ],
    model: Model = None,
    variant: Variant = None,
    model_config: ModelConfig = None,
    reward: Annotated[
        list[str],
        typer.Option(
            help=(
                f"{', '.join(reward_names()[:-1])} or {reward_names()[-1]}, as NAME or NAME=WEIGHT; repeat to add up."
            )
        ),
    ] = ["contrast"],  # noqa: B006
    held_out: Annotated[
        str | None,
        typer.Option(
            help=(
                "A score that is never trained on, for the guard: clip, inversion (the embedded inverter, for the lab "
                "alone), or another reward; none for no guard. If not given inversion, and with --model clip."
            )
        ),
    ] = None,
    strategy: Annotated[
        str, typer.Option(help=f"One of {', '.join(strategy_names())}; sft is the control without reward.")
    ] = "refl",
    strategy_option: Annotated[
        list[str] | None,
        typer.Option(help="A knob of the strategy alone, as NAME=NUMBER (group_size=8 of grpo); repeat for more."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 300,
    batch_size: Annotated[int, typer.Option(help="Prompts a step, over all processes.")] = 8,
    accumulate: Annotated[int, typer.Option(help="Micro-batches a step.")] = 1,
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate; 3e-4, for refl and sft on the lab 7e-4.")
    ] = None,
    rank: Annotated[int, typer.Option(help="Rank of the adapter.")] = 8,
    whole: Annotated[
        bool,
        typer.Option("--whole", help="An adapter on all linear layers and convolutions, not on attention alone."),
    ] = False,
    inference_steps: Annotated[
        int | None,
        typer.Option(help="Denoising steps of a rollout; 40, on the lab 12 (refl), 20 (raft, grpo) or 10 (nft, awm)."),
    ] = None,
    stop_from: Annotated[
        float | None,
        typer.Option(
            help="refl: the one step with gradient is drawn from this share of the rollout on; 0.75, on the lab 0.2."
        ),
    ] = None,
    stop_until: Annotated[
        float | None,
        typer.Option(help="refl: and up to this share (earlier steps decide what is where); 1, on the lab 0.67."),
    ] = None,
    guidance: Guidance = 5.0,
    negative_prompt: NegativePrompt = None,
    height: Height = None,
    width: Width = None,
    call: Call = None,
    reward_weight: Annotated[
        float | None,
        typer.Option(help="Weight of the reward's loss; 0.1, for raft, grpo, nft and awm 1, on the lab 0.5 for refl."),
    ] = None,
    pretrain_weight: Annotated[
        float | None, typer.Option(help="Weight of the denoising loss; 1, for grpo, nft and awm 0.")
    ] = None,
    kl_weight: Annotated[
        float | None,
        typer.Option(
            help="Weight of the distance to the untuned model; 0.5, for nft and awm 0 (their reference_weight is one)."
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Pictures and captions for the denoising loss (CSV, JSONL, Parquet, or a folder as accord pairs make "
                "leaves it); the model's own pictures if not given."
            )
        ),
    ] = None,
    pairs_least: Annotated[
        float | None,
        typer.Option(help="Learn from those pairs alone whose reward, as it is, is at least this (0.5 for passes)."),
    ] = None,
    anchors: Annotated[
        int,
        typer.Option(
            help=(
                "How many pictures of its own: they scale the rewards and, without --pairs, are those of the "
                "denoising loss."
            )
        ),
    ] = 64,
    eval_every: Annotated[
        int, typer.Option(help="Steps between two evaluations on prompts that are not trained on.")
    ] = 50,
    save_every: Annotated[
        int | None, typer.Option(help="Steps between two checkpoints; 50, for nft and awm 1.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "How far pictures may drift before the run is stopped, as NAME=NUMBER (brightness=0.2): norm, "
                "brightness, contrast, diversity, paraphrase; repeat for more. none: they stop nothing."
            )
        ),
    ] = None,
    watcher: Annotated[
        str | None,
        typer.Option(
            help=(
                "A second judge, folder or hub id, of another training seed or make, that trains nothing: the run "
                "stops where its score falls."
            )
        ),
    ] = None,
    paraphrases: Annotated[
        str | None,
        typer.Option(
            help=(
                "Prompts in other words (CSV, JSONL, Parquet with prompt and paraphrase; lab: by the lab's grammar): "
                "the run stops where the gain is lost on them."
            )
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    rollout_workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=(
                "raft, grpo, nft, awm: so many workers of Ray draw and judge the pictures of each round; this process "
                "if not given."
            ),
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="With --rollout-workers: of a Ray cluster, or auto; this machine if not given."),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With --rollout-workers: GPUs of each, 0.5 say; if not given none, and with --device cuda 1.",
        ),
    ] = None,
    judge: JudgeId = None,
    clip: ClipId = None,
    seed: Seed = 0,
    device: Device = None,
    out: Out = Path("out/tuned"),
    as_json: AsJson = False,
) -> None:
    """Tune a pipeline with a reward; leaves a LoRA that plain diffusers loads. A run found in --out is resumed.

    Several processes: accelerate launch -m accord.cli train reward ...
    """
    quiet()
    import accord
    from accord.files import check_writable
    from accord.training.claim import check_same

    further = _further_call(negative_prompt, height, width, call)
    scores = _Scores.of(reward, held_out, model)
    its = _Strategy.of(strategy, model)
    stops = {"stop_from": stop_from, "stop_until": stop_until}
    its.check_uses(**stops, reward_weight=reward_weight, rollout_workers=rollout_workers)
    if rollout_workers is None:
        leave_out("without --rollout-workers", address=address, gpus_per_worker=gpus_per_worker)
    terms = {"pretrain_weight": pretrain_weight, "kl_weight": kl_weight}
    if not its.weighs_any(terms):
        leave_out("with --pretrain-weight 0 and --kl-weight 0", pairs=pairs)
    if pairs is None:
        leave_out("without --pairs", pairs_least=pairs_least)
    scores.check_uses(judge, clip)
    own = {"learning_rate": learning_rate, "num_inference_steps": inference_steps, "save_every": save_every}
    config = its.config(
        {**own, **stops, "reward_weight": reward_weight, **terms},
        strategy_option or [],
        steps=steps,
        batch_size=batch_size,
        gradient_accumulation=accumulate,
        rank=rank,
        guidance_scale=guidance,
        anchors=anchors,
        eval_every=eval_every,
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
    )
    bounds = _limits(limit)
    check_writable(out)
    check_same(out, config.flat())
    where = pick_device(device)
    models = _Models(model, variant, model_config, judge, clip, scores.weights)
    drawing = _drawn_by(rollout_workers, address, gpus_per_worker, models, where) if rollout_workers else None
    material = _Material.read(prompts, paraphrases, pairs, not as_json)
    pipe = models.pipeline(device)
    where = str(pipe.device)
    judges = models.judges(scores.needed, where)
    watching = None if watcher is None else _watching(watcher, judges[0], scores.weights, where)
    material.tell_skipped()
    rewards = accord.make_rewards(scores.weights, *judges)
    examples = material.passing(rewards, pairs_least, where)
    tuned = accord.train_reward(
        pipe,
        material.texts,
        rewards,
        out,
        config=config,
        held_out=_held_out(scores.held_out, *judges),
        pairs=examples,
        progress=not as_json,
        call=further,
        limits=bounds,
        watcher=watching,
        paraphrases=material.others,
        whole=whole,
        drawing=drawing,
    )
    _tell_tuned(as_json, tuned.report, out, material)


def _further_call(
    negative_prompt: str | None, height: int | None, width: int | None, call: Sequence[str] | None
) -> dict[str, Any]:
    """The further arguments of the pipeline's call, the negative prompt among them."""
    further: dict[str, Any] = call_options(None, None, negative_prompt, height, width, call)["call"]
    return further | ({"negative_prompt": negative_prompt} if negative_prompt else {})


@dataclass(frozen=True)
class _Scores:
    """What a run is trained on, and the score that guards it.

    Attributes:
        weights: of the rewards, by name.
        held_out: name of the score that is never trained on, or none.
    """

    weights: Mapping[str, float]
    held_out: str

    @classmethod
    def of(cls, reward: Sequence[str], held_out: str | None, model: str | None) -> _Scores:
        """Of --reward and --held-out. Raises InputError for scores that do not go together, or not with the model."""
        if held_out == "inversion" and model is not None:
            raise InputError(
                f"the embedded inverter reads pictures of the lab alone, not of {model!r}; choose another --held-out"
            )
        held_out = held_out or ("inversion" if model is None else "clip")
        return cls(_weights(reward, held_out), held_out)

    @property
    def needed(self) -> set[str]:
        """The models that they look with: captioner, clip."""
        from accord.rewards.registry import registered

        scores = registered()
        return {need for name in {*self.weights, self.held_out} & scores.keys() for need in scores[name].needs}

    def check_uses(self, judge: str | None, clip: str | None) -> None:
        """Refuse a model that none of them looks with."""
        for need, option in (("captioner", {"judge": judge}), ("clip", {"clip": clip})):
            if need not in self.needed:
                leave_out("by these scores", **option)


@dataclass(frozen=True)
class _Strategy:
    """A strategy as --strategy names it.

    Attributes:
        kind: the class of its own knobs.
        usual: what the knobs of a run are where nothing is said.
    """

    name: str
    kind: Any
    usual: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, model: str | None) -> _Strategy:
        """The strategy of this name, on the lab if `model` is None. Raises InputError if there is none."""
        from accord.embedded import TUNING
        from accord.methods.tune.config import strategy_of

        kind = type(checked(strategy_of, strategy=name))
        return cls(name, kind, {**kind.usual, **(TUNING.get(name, {}) if model is None else {})})

    @property
    def knobs(self) -> list[str]:
        """The names of its own knobs."""
        return [f.name for f in fields(self.kind)]

    def check_uses(self, **given: Any) -> None:
        """Refuse those of stop_from, stop_until, reward_weight and rollout_workers that it would not use."""
        used = {*self.knobs}
        used |= {"reward_weight"} if self.kind.has_loss else set()
        used |= {"rollout_workers"} if self.kind.rolls_out else set()
        leave_out(f"by {self.name}", **{name: value for name, value in given.items() if name not in used})

    def weighs_any(self, terms: Mapping[str, float | None]) -> bool:
        """Whether a loss has a weight: the one given, or the usual one."""
        return any(self.usual.get(name, 1) if given is None else given for name, given in terms.items())

    def config(self, own_options: Mapping[str, Any], further: Sequence[str], **knobs: Any) -> TuneConfig:
        """The config of a run.

        Args:
            own_options: knobs with an option of their own, None where it was not given.
            further: those of --strategy-option.
            knobs: all others.

        Raises:
            InputError: for a knob that is unknown, given twice, or out of its bounds.
        """
        from accord.methods.tune.config import TuneConfig

        given, own = {k: v for k, v in own_options.items() if v is not None}, self._own_knobs(further)
        if twice := own.keys() & {*given, *_OPTIONS}:
            raise InputError(f"the knob {min(twice)!r} of {self.name} was given twice; give it once")
        options = _OPTIONS | {name: f"strategy-option {name}" for name in own}
        return checked(TuneConfig.of, options, strategy=self.name, **knobs, **{**self.usual, **given, **own})

    def _own_knobs(self, given: Sequence[str]) -> dict[str, float | int]:
        """The knobs of --strategy-option."""
        found: dict[str, float | int] = {}
        for name, number in map(_knob, given):
            if name not in self.knobs:
                its = f"its own are {', '.join(self.knobs)}" if self.knobs else "it has none"
                raise InputError(f"strategy {self.name} has no knob {name!r}; {its}")
            if name in found:
                raise InputError(f"the knob {name!r} of {self.name} was given twice; give it once")
            found[name] = number
        return found


@dataclass(frozen=True)
class _Material:
    """What a run learns from, read before any model is loaded.

    Attributes:
        texts: prompts.
        others: these in other words, by prompt.
        examples: pictures and captions for the denoising loss; the model's own pictures if None.
        broken, unread: rows of the prompts, and of the pairs, that are left out.
    """

    texts: Sequence[str]
    others: Mapping[str, str] | None
    examples: tuple[Sequence[Any], list[str]] | None
    broken: PairsFile
    unread: PairsFile

    @classmethod
    def read(cls, prompts: Path, paraphrases: str | None, pairs: Path | None, progress: bool) -> _Material:
        """Of these files. Raises InputError if one cannot be read."""
        from accord.data.pairs import PairsFile
        from accord.data.prompt_files import read_prompts

        broken, unread = PairsFile(), PairsFile()
        texts = plainly(read_prompts(prompts, broken))
        others = _in_other_words(paraphrases, texts, broken)
        examples = _pictures_of(pairs, unread, progress) if pairs is not None else None
        return cls(texts, others, examples, broken, unread)

    def tell_skipped(self) -> None:
        """What is left out, on stderr."""
        tell_skipped(self.broken.skipped)
        tell_skipped(self.unread.skipped)

    def passing(self, rewards: Any, least: float | None, where: str) -> tuple[Sequence[Any], list[str]] | None:
        """The examples whose reward is at least this; all of them for None."""
        if self.examples is None or least is None:
            return self.examples
        from accord.methods.tune.pairs import passing_pairs

        found = passing_pairs(*self.examples, rewards, least, where)
        print(f"{len(found[1])} of {len(self.examples[1])} pairs pass", file=sys.stderr)
        return found


def _tell_tuned(as_json: bool, report: Mapping[str, Any], out: Path, material: _Material) -> None:
    """Print what a run has gained."""
    gains = "".join(f"{k} {v['mean']:+.4f} [{v['low']:+.4f}, {v['high']:+.4f}]; " for k, v in report["gains"].items())
    skipped = {"skipped": material.broken.skipped, "skipped_pairs": material.unread.skipped}
    emit(
        as_json,
        {**report, "folder": str(out), "gallery": str(out / "index.html"), **skipped},
        f"{gains}{report['verdict']}\nadapter and report: {out}\npictures before and after: {out / 'index.html'}",
    )


@dataclass(frozen=True)
class _Models:
    """Which models a run is made of, as options name them; it travels to workers, which load the same.

    Attributes:
        weights: of the rewards, by name.
    """

    model: str | None
    variant: str | None
    model_config: str | None
    judge: str | None
    clip: str | None
    weights: Mapping[str, float]

    def pipeline(self, device: str | None) -> Any:
        """On the device; its networks shared out, if the launcher was asked for that."""
        import accord
        from accord.training.processes import Processes, wants_sharding

        load = partial(accord.load, self.model, variant=self.variant, model_config=self.model_config)
        if not wants_sharding():
            return load(device)
        from accord.diffusion.sharding import shard

        where = pick_device(device)
        Processes(where)
        pipe = load("cpu")
        shard(pipe, where)
        return pipe

    def judges(self, needed: Collection[str], where: str) -> tuple[Any, Any]:
        """The captioner and the CLIP, each None if it is not needed."""
        import accord

        captioner, similarity = None, None
        if "captioner" in needed:
            captioner = accord.load_judge(judge_of(self.judge, self.model, HUB_CAPTIONER), where)
        if "clip" in needed:
            similarity = accord.load_clip(judge_of(self.clip, self.model, HUB_CLIP), where)
        return captioner, similarity

    def __call__(self, device: str) -> tuple[Any, Any]:
        """The pipeline and the rewards, for a worker."""
        import accord
        from accord.rewards.registry import registered

        scores = registered()
        needed = {need for name in self.weights for need in scores[name].needs}
        return self.pipeline(device), accord.make_rewards(self.weights, *self.judges(needed, device))


def _drawn_by(workers: int, address: str | None, gpus: float | None, models: _Models, device: str) -> Any:
    """Who draws the pictures of rounds: workers of Ray, on GPUs where this process is on one."""
    from accord.distributed.cluster import Cluster, need_ray
    from accord.distributed.rollouts import RayRollouts

    need_ray()
    gpus = float(device.startswith("cuda")) if gpus is None else gpus
    return RayRollouts(models, checked(Cluster, address=address, workers=workers, gpus=gpus))


def _weights(given: Sequence[str], held_out: str) -> dict[str, float]:
    """The rewards and their weights. Raises InputError for one that is unknown, given twice, or held out."""
    from accord.rewards.registry import registered

    named, scores = [_weight(r) for r in given], registered()
    weights, names = dict(named), [n for n, _ in named]
    if len(weights) < len(named):
        raise InputError(f"reward {max(names, key=names.count)!r} was given twice; give it once, with its weight")
    if held_out in weights:
        raise InputError(f"the held-out score {held_out!r} is trained on; choose another --held-out")
    if unknown := {*weights, held_out} - {*scores, "inversion", "none"}:
        raise InputError(
            f"score {min(unknown)!r} is unknown; choose among {', '.join(scores)}, and for --held-out also inversion "
            "and none"
        )
    return weights


_OPTIONS = {  # of knobs that are called otherwise on the command line
    "gradient_accumulation": "accumulate",
    "guidance_scale": "guidance",
    "num_inference_steps": "inference-steps",
}


def _in_other_words(source: str | None, texts: Sequence[str], broken: PairsFile) -> dict[str, str] | None:
    """What --paraphrases names, by prompt."""
    if source is None:
        return None
    if source == "lab":
        from accord_lab.scenes.paraphrase import paraphrases

        return paraphrases(texts)
    from accord.data.prompt_files import read_paraphrases

    return read_paraphrases(source, broken)


def _watching(watcher: str, judging: Any, weights: Mapping[str, float], where: str) -> Any:
    """The score of a second judge: the rewards that the first one gives."""
    import accord
    from accord.rewards.registry import registered
    from accord.training.watching import check_watches

    other, scores = accord.load_judge(watcher, where), registered()
    check_watches(other, judging, watcher)
    told = {n: w for n, w in weights.items() if "captioner" in scores[n].needs} or {"contrast": 1.0}
    return accord.make_rewards(told, other)


def _limits(given: Sequence[str] | None) -> Any:
    """Limits with these changes; None for `none`."""
    from accord.training.limits import Limits

    if given == ["none"]:
        return None
    names, found = [f.name for f in fields(Limits)], {}
    for name, number in map(_knob, given or []):
        if name not in names:
            raise InputError(f"limit {name!r} is unknown; choose among {', '.join(names)}, or none for no limit at all")
        if name in found:
            raise InputError(f"the limit {name!r} was given twice; give it once")
        found[name] = number
    return checked(Limits, {name: f"limit {name}" for name in names}, **found)


def _held_out(name: str, judge: Any, similarity: Any) -> Any:
    """The guard's score of that name, or None."""
    import accord

    if name == "inversion":
        return accord.InversionScore()
    return None if name == "none" else accord.make_rewards({name: 1.0}, judge, similarity).rewards[name]


def _weight(text: str) -> tuple[str, float]:
    """NAME or NAME=WEIGHT."""
    name, _, number = text.partition("=")
    try:
        if not math.isfinite(value := float(number or 1)) or not value:
            raise ValueError
        return name, value
    except ValueError:
        raise InputError(f"reward {text!r} is not NAME or NAME=WEIGHT; write for example contrast=1.0") from None


def _knob(text: str) -> tuple[str, float]:
    """NAME=NUMBER, whole where it is written so."""
    name, _, number = text.partition("=")
    try:
        return name, int(number) if number.lstrip("+-").isdigit() else float(number)
    except ValueError:
        raise InputError(f"{text!r} is not NAME=NUMBER; write for example group_size=8") from None


@app.command("inverter")
def train_inverter_command(
    pairs: Annotated[
        Path, typer.Option(help="Pairs: DiffusionDB folder, folder with metadata.jsonl, or CSV, JSONL, Parquet.")
    ],
    kind: Annotated[
        list[str],
        typer.Option(help="denoiser, clip, vit, swin or blip, as KIND or KIND=MODEL; repeat for an ensemble."),
    ] = ["clip"],  # noqa: B006
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Weight in the ensemble, one for each --kind; fitted on the validation split if not given."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of each predictor.")] = 2000,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Learning rate.")] = 5e-4,
    curriculum: Annotated[
        str,
        typer.Option(
            help="none, prefix (the paper's: easy pairs first; it harmed on the lab), or random (its control)."
        ),
    ] = "none",
    vocabulary_weight: Annotated[float, typer.Option(help="Of the word classification; 0 switches it off.")] = 0.1,
    vocabulary_size: Annotated[int, typer.Option(help="Words at most.")] = 1000,
    similar: Annotated[
        float, typer.Option(min=-1, max=1, help="Cosine above which two prompts stay in one part of the split.")
    ] = 0.9,
    limit: Annotated[int | None, typer.Option(min=1, help="Read at most so many pairs.")] = None,
    out_of_domain: Annotated[Path | None, typer.Option(help="Other pairs, to measure on.")] = None,
    caption: Annotated[
        bool,
        typer.Option(
            "--caption/--no-caption",
            help="For denoiser: tell it a caption of the picture; --no-caption is the ablation, empty text.",
        ),
    ] = True,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            "--captioner",
            help=(
                "For denoiser, who writes captions: BLIP or BLIP-2 folder or hub id; the embedded one for the lab's "
                "pipeline."
            ),
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    out: Out = Path("out/inverter"),
    as_json: AsJson = False,
) -> None:
    """Train an inverter on pairs; a run found in --out is resumed."""
    quiet()
    import accord
    from accord.files import check_writable
    from accord.judges.captioners import load_captioner
    from accord.methods.invert.config import InvertTrainConfig
    from accord.methods.invert.inverter import check_weights

    where = pick_device(device)
    kinds = _predictors(kind, caption)
    config = checked(
        InvertTrainConfig,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        curriculum=curriculum,
        vocabulary_weight=vocabulary_weight,
        vocabulary_size=vocabulary_size,
        seed=seed,
    )
    white = [k for k in kinds if k.is_white_box]
    if not white:
        leave_out("without --kind denoiser", judge=judge, no_caption=not caption)
    if not caption:
        leave_out("with --no-caption", judge=judge)
    if len(kinds) == 1:
        leave_out("with one --kind", weight=weight)
    if not vocabulary_weight:
        leave_out("with --vocabulary-weight 0", **said("vocabulary_size"))
    check_weights(weight or None, len(kinds))
    check_pairs(pairs)
    check_pairs(out_of_domain)
    check_writable(out)
    judge = judge or (HUB_CAPTIONER if any(k.model for k in white) else None)
    report = accord.train_inverter(
        pairs,
        out,
        kinds,
        config,
        weights=weight or None,
        similar=similar,
        limit=limit,
        other=out_of_domain,
        device=where,
        progress=not as_json,
        captioner=load_captioner(judge, where) if white and caption else None,
    )
    text = f"{_cosines(report, kinds)}\ninverter: {out / 'inverter'}"
    emit(as_json, {**report, "out": str(out)}, text)


def _predictors(given: Sequence[str], caption: bool) -> list[PredictorConfig]:
    """The predictors of --kind, KIND or KIND=MODEL each."""
    from accord.methods.invert.config import PredictorConfig

    named = [(kind, model or None) for kind, _, model in (text.partition("=") for text in given)]
    return [checked(PredictorConfig, kind=k, model=m, caption_conditioned=caption) for k, m in named]


def _cosines(report: Mapping[str, Any], kinds: Sequence[PredictorConfig]) -> str:
    """How near each predictor and their ensemble come, a line each."""
    lines = [
        f"{p['kind']}: cosine {p['test']['cosine']:.4f} on {report['split']['test']} test images"
        for p in report["predictors"]
    ]
    if "ensemble" in report:
        shares = ", ".join(f"{k.kind} {w:g}" for k, w in zip(kinds, report["weights"], strict=True))
        lines.append(f"ensemble: cosine {report['ensemble']['test']['cosine']:.4f}, weights {shares}")
    return "\n".join(lines)


@app.command("context")
def train_context_command(
    pairs: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Pictures and captions (CSV, JSONL, Parquet, or a folder as accord pairs make leaves it); scenes of "
                "the lab if not given."
            )
        ),
    ] = None,
    scenes: Annotated[int | None, typer.Option(help="How many scenes of the lab; 8000 if not given.")] = None,
    model: Model = None,
    variant: Variant = None,
    model_config: ModelConfig = None,
    denoiser: Annotated[str, typer.Option(help="frozen, lora, or full (all of it is trained).")] = "lora",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="With full: start from random weights of the same architecture.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 2000,
    batch_size: Annotated[int, typer.Option(help="Pictures a step, over all processes.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Learning rate.")] = 3e-4,
    rank: Annotated[int | None, typer.Option(help="Rank of the adapter of a lora denoiser; 8 if not given.")] = None,
    shift: Annotated[str, typer.Option(help="quadratic (the paper's), prior or data.")] = "quadratic",
    gain: Annotated[float, typer.Option(help="Bound of the relational network's output.")] = 1.0,
    share: Annotated[float, typer.Option(help="Its size, as a share of the denoiser's parameters.")] = 0.15,
    estimated_share: Annotated[
        float | None,
        typer.Option(
            help=(
                "Share of pictures whose context is that of the network's own guess; 1 if not given, 0 is the paper's "
                "training."
            )
        ),
    ] = None,
    text_only: Annotated[
        bool, typer.Option("--text-only", help="The network does not look at the picture: a shift of the text alone.")
    ] = False,
    loss: Annotated[str, typer.Option(help="mse, or kl: the exact bound.")] = "mse",
    pixels: Annotated[
        bool, typer.Option("--pixels", help="The network also looks at the decoded picture through a CLIP (slow).")
    ] = False,
    clip: Annotated[
        str | None, typer.Option(help="That CLIP: folder or hub id; the embedded one if not given.")
    ] = None,
    save_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 500,
    seed: Seed = 0,
    device: Device = None,
    out: Out = Path("out/context"),
    as_json: AsJson = False,
) -> None:
    """Train a relational network (ContextDiff) on a pipeline, as an adapter or from scratch.

    A run found in --out is resumed.
    """
    quiet()
    import accord
    from accord.data.pairs import PairsFile
    from accord.files import check_writable
    from accord.methods.context.config import ContextTrainConfig
    from accord.methods.context.data import draw_from
    from accord.methods.context.train import train_context
    from accord.training.claim import check_same
    from accord.training.fingerprint import fingerprint

    if denoiser != "lora":
        leave_out(f"with a {denoiser} denoiser", rank=rank)
    if text_only:
        leave_out("with --text-only", pixels=pixels, estimated_share=estimated_share)
    if pairs is not None:
        leave_out("with --pairs", scenes=scenes)
    if not pixels:
        leave_out("without --pixels", clip=clip)
    if not gain:
        leave_out("with --gain 0, which shifts nothing", pixels=pixels, estimated_share=estimated_share)
    own = {"rank": rank, "estimated_share": estimated_share}
    config = checked(
        ContextTrainConfig,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        denoiser=denoiser,
        shift=shift,
        gain=gain,
        share=share,
        use_image=not text_only,
        loss=loss,
        pixels=pixels,
        save_every=save_every,
        seed=seed,
        **{name: value for name, value in own.items() if value is not None},
    )
    if fresh and denoiser != "full":
        raise InputError(
            f"--fresh starts from random weights, which a {denoiser} denoiser never leaves; add --denoiser full"
        )
    if scenes is not None and scenes < 1:
        raise InputError(f"scenes must be at least 1, not {scenes}")
    check_writable(out)
    check_same(out, asdict(config))
    pick_device(device)
    unread = PairsFile()
    given = None if pairs is None else _pictures_of(pairs, unread, not as_json)
    pipe = accord.load(model, device, variant=variant, model_config=model_config)
    similarity = accord.load_clip(clip, str(pipe.device)) if pixels else None
    tell_skipped(unread.skipped)
    images, captions = given or _rendered(scenes or 8000, seed)
    latents = _latents(pipe, images, out, not as_json)
    if fresh:
        _start_afresh(pipe, seed)
    data = fingerprint(latents, captions)
    train_context(pipe, draw_from(latents, captions), out, config, clip=similarity, data=data)
    emit(
        as_json,
        {"out": str(out), "steps": steps, "skipped": unread.skipped},
        f"relational network: {out / 'relation'}\nuse it: accord generate PROMPT --context {out}",
    )


def _rendered(scenes: int, seed: int) -> tuple[Sequence[Any], list[str]]:
    """So many scenes of the lab, and their captions."""
    from accord_lab.scenes.pairs import rendered_pairs

    return rendered_pairs(scenes, seed + 21)


def _latents(pipe: Any, images: Sequence[Any], out: Path, progress: bool) -> Any:
    """The pictures' latents, which are kept in `out`; of several processes one alone writes there."""
    from accord.files import only_writer
    from accord.methods.context.data import encode_images
    from accord.training.processes import Processes

    processes = Processes(pipe.device)
    with only_writer(out) if processes.first else contextlib.nullcontext():
        return encode_images(pipe, images, out / "latents.safetensors", progress=progress, processes=processes)


def _start_afresh(pipe: Any, seed: int) -> None:
    """Put networks of the same architecture with random weights in place of the pipeline's own."""
    import torch

    from accord.diffusion.lora import named_networks

    torch.manual_seed(seed)
    anew = {
        name: type(net).from_config(net.config).to(pipe.device)  # type: ignore[attr-defined]
        for name, net in named_networks(pipe).items()
    }
    pipe.register_modules(**anew)


def _pictures_of(pairs: Path, unread: PairsFile, progress: bool) -> tuple[Sequence[Any], list[str]]:
    """All readable pictures of a pairs file or folder, and their captions; `unread` gets the others. They stay on the
    disk until they are used.
    """
    from accord.data.images import Pictures, open_image
    from accord.data.pair_folders import stream_pairs
    from accord.methods.invert.bulk import reason_as_named

    rows = list(stream_pairs(pairs, unread))

    def readable() -> Iterator[Pair]:
        for pair in rows:
            try:
                open_image(pair.image)
            except InputError as error:
                unread.skip(pair.row, reason_as_named(error, pair.image, pair.name))
                continue
            yield pair

    found = list(counted(readable(), "pictures", len(rows), not progress))
    if not found:
        why = (
            f" (row {unread.skipped[0]['row']}: {unread.skipped[0]['reason'].partition(';')[0]})"
            if unread.skipped
            else ""
        )
        raise InputError(f"pairs {str(pairs)!r} have no readable picture{why}; check the paths")
    return Pictures([pair.image for pair in found]), [pair.prompt for pair in found]
