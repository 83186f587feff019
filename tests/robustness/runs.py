"""Runs of a second or less of all that is resumed: begun in a folder, or gone on with there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from bases import PROMPTS, Bases, moving


@dataclass(frozen=True)
class RunKind:
    """A kind of run.

    Attributes:
        resume: begins the run in a folder, or goes on with it.
        made: patterns of what a finished run leaves beside its checkpoints.
    """

    resume: Callable[[Path, Bases], None]
    made: tuple[str, ...]

    def artefacts(self, folder: Path) -> dict[str, str]:
        """A digest of every file that the run has made."""
        files = {
            p
            for pattern in self.made
            for found in folder.glob(pattern)
            for p in ([found] if found.is_file() else found.rglob("*"))
        }
        return {
            str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files) if p.is_file()
        }


def _loop(folder: Path, bases: Bases, learning_rate: float = 1e-2) -> None:
    """The loop itself, on a network of a few weights."""
    import torch

    from accord.training.claim import claim
    from accord.training.loop import LoopConfig, Run

    settings: dict[str, Any] = {"steps": 4, "learning_rate": learning_rate}
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 4))

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        x = torch.randn(8, 4, generator=generator)
        error = (network(x) - x.flip(1)).square().mean()
        return error, {"error": float(error.detach())}

    with claim(folder, settings):
        run = Run(
            {"network": network},
            LoopConfig(**settings, warmup_steps=0, ema_decay=0.9, save_every=2, log_every=1),
            folder,
        )
        run.train(loss, progress=False)
        run.use_ema()
        write_tensors(folder / "network.safetensors", network.state_dict())


def write_tensors(path: Path, tensors: dict[str, Any]) -> None:
    """As Accord writes: all or nothing, and in no other thing's place."""
    from safetensors.torch import save

    from accord.files import write_file

    write_file(path, save({k: v.contiguous() for k, v in tensors.items()}))


@cache
def _pairs() -> Any:
    """Eight pictures with prompts and vectors."""
    import torch

    from accord.methods.invert.data import PairSet

    maker = torch.Generator().manual_seed(0)
    images = torch.randint(256, (8, 3, 64, 64), generator=maker, dtype=torch.uint8)
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(8)]
    return PairSet(images, prompts, torch.nn.functional.normalize(torch.randn(8, 16, generator=maker), dim=-1))


def _inverter(folder: Path, bases: Bases) -> None:
    from accord.methods.invert.config import InvertTrainConfig, PredictorConfig
    from accord.methods.invert.train import train_predictor
    from accord.methods.invert.vocabulary import Vocabulary

    config = InvertTrainConfig(steps=4, batch_size=2, curriculum="prefix", save_every=2, bf16=False)
    kind = PredictorConfig("clip", str(bases("models/clip")), hidden=8)
    predictor = train_predictor(kind, _pairs(), Vocabulary.build(_pairs().prompts, 20), folder, config)
    write_tensors(folder / "predictor.safetensors", predictor.state_dict())


def _reward(folder: Path, bases: Bases) -> None:
    from accord.diffusion.pipelines import load
    from accord.judges.clip import load_clip
    from accord.methods.tune.config import debug
    from accord.methods.tune.train import train_reward
    from accord.rewards.named.clip import ClipReward

    pipe = load(str(bases("models/sd")), "cpu")
    reward = ClipReward(load_clip(str(bases("models/clip"))))
    train_reward(pipe, PROMPTS, reward, folder, config=replace(debug(), bf16=False), progress=False)


def train_context_on(bases: Bases, folder: Path, denoiser: str) -> None:
    import numpy as np
    import torch

    from accord.diffusion.pipelines import load
    from accord.methods.context.config import ContextTrainConfig
    from accord.methods.context.train import train_context

    def draw(rng: np.random.Generator, size: int, done: float) -> tuple[torch.Tensor, list[str]]:
        return torch.from_numpy(rng.standard_normal((size, 4, 16, 16)).astype(np.float32)), [
            PROMPTS[i % 2] for i in range(size)
        ]

    config = ContextTrainConfig(
        steps=2,
        batch_size=2,
        save_every=1,
        warmup_steps=0,
        learning_rate=1e-2,
        ema_decay=0.0,
        share=0.3,
        rank=2,
        denoiser=denoiser,
        bf16=False,
    )
    train_context(load(str(bases("models/sd")), "cpu"), draw, folder, config)


def _edit(folder: Path, bases: Bases) -> None:
    from fractions import Fraction

    from accord.data.video import Video
    from accord.diffusion.pipelines import load
    from accord.methods.video.config import EditConfig
    from accord.methods.video.editing import VideoEditor

    config = EditConfig(tune_steps=2, num_inference_steps=4, window=4, overlap=1, share=0.3)
    video = Video(tuple(moving(2)), Fraction(8))
    editor = VideoEditor(load(str(bases("models/sd")), "cpu"), video, "a red star", config)
    editor.tune(folder, progress=False)
    editor.save(folder)
    editor.load(folder)


def _make_pairs(folder: Path, bases: Bases) -> None:
    from accord.diffusion.pipelines import load
    from accord.files import only_writer
    from accord.methods.invert.pairs import make_pairs

    with only_writer(folder, "shard-1-of-1"):  # as the command has it
        make_pairs(load(str(bases("models/sd")), "cpu"), PROMPTS[:4], folder, num_inference_steps=2, part_size=2)


def _table(folder: Path, bases: Bases) -> None:
    from accord.files import only_writer
    from accord.methods.invert.bulk import invert_files
    from accord.methods.invert.inverter import Inverter
    from accord.methods.invert.reader import Reader

    pictures = bases.folder / "pictures-to-invert"
    if not pictures.is_dir():
        pictures.mkdir(exist_ok=True)
        for i, frame in enumerate(moving(3)):
            frame.save(pictures / f"{i}.png")
    paths = [*sorted(pictures.glob("*.png")), pictures / "missing.png"]
    with only_writer(folder, "words.jsonl"):  # as the command has it
        invert_files(paths, folder / "words.jsonl", reader=Reader(Inverter.from_pretrained(bases("models/inverter"))))


RUNS = {
    "loop": RunKind(_loop, ("network.safetensors",)),
    "inverter": RunKind(_inverter, ("predictor.safetensors",)),
    "reward": RunKind(_reward, ("pytorch_lora_weights.safetensors", "README.md", "report.json")),
    "context": RunKind(
        lambda folder, bases: train_context_on(bases, folder, "lora"), ("relation", "pytorch_lora_weights.safetensors")
    ),
    "edit": RunKind(_edit, ("temporal", "relation", "queries.safetensors", "tuned.json")),
    "pairs": RunKind(_make_pairs, ("part-*", "metadata.parquet")),
    "table": RunKind(_table, ("words.jsonl", "words.*.json")),
}
