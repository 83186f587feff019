"""What predictors are trained on: images with their prompts' embeddings, words, and captions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from accord.data.images import fit, open_image, to_tensor
from accord.data.pairs import PairsFile
from accord.files import replace_file
from accord.judges.captioners import Captioner
from accord.types import InputError, Pair

Embed = Callable[[list[str]], torch.Tensor]


@dataclass
class PairSet:
    """Pairs in memory.

    Attributes:
        images: uint8 [N,3,S,S].
        prompts: N prompts.
        targets: unit vectors [N,E] of the prompts.
        captions: N captions of the images; empty where no predictor reads them.
        sizes: N widths and heights of the pictures before they were scaled; empty where that is not known.
    """

    images: torch.Tensor
    prompts: list[str]
    targets: torch.Tensor
    captions: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prompts)

    def pixels(self, rows: Sequence[int] | np.ndarray | torch.Tensor, side: int | None = None) -> torch.Tensor:
        """float32 [B,3,side,side] in 0..1."""
        images = self.images[torch.as_tensor(rows)].float() / 255
        return images if side is None else fit(images, side)

    def captions_of(self, rows: Sequence[int] | np.ndarray | torch.Tensor) -> list[str] | None:
        return [self.captions[int(i)] for i in rows] if self.captions else None

    def subset(self, rows: Sequence[int] | np.ndarray) -> PairSet:
        index = [int(i) for i in rows]
        captions = [self.captions[i] for i in index] if self.captions else []
        return PairSet(self.images[index], [self.prompts[i] for i in index], self.targets[index], captions)

    def add_captions(self, captioner: Captioner, batch_size: int = 128, progress: bool = False) -> None:
        """Caption every image (once)."""
        if self.captions:
            return
        starts = range(0, len(self), batch_size)
        for start in tqdm(starts, desc="caption", disable=not progress):
            rows = range(start, min(len(self), start + batch_size))
            self.captions += captioner.caption(self.pixels(list(rows), captioner.image_size))

    def save(self, path: Path) -> None:
        """Write everything into one safetensors file."""
        texts = json.dumps({"prompts": self.prompts, "captions": self.captions}).encode()
        tensors = {
            "images": self.images,
            "targets": self.targets.cpu(),
            "texts": torch.frombuffer(bytearray(texts), dtype=torch.uint8),
        }
        replace_file(path, lambda p: save_file({k: v.contiguous() for k, v in tensors.items()}, p))

    @classmethod
    def load(cls, path: Path) -> PairSet:
        """What `save` wrote."""
        tensors = load_file(path)
        texts = json.loads(bytes(tensors["texts"].tolist()))
        return cls(tensors["images"], texts["prompts"], tensors["targets"], texts["captions"])


def load_pairs(pairs: Sequence[Pair], side: int, embed: Embed, skipped: PairsFile, progress: bool = False) -> PairSet:
    """Read the pictures of pairs, scaled to side x side; broken ones are skipped and counted.

    Raises:
        InputError: if not one can be read.
    """
    images = torch.empty(len(pairs), 3, side, side, dtype=torch.uint8)
    prompts: list[str] = []
    sizes: list[tuple[int, int]] = []
    for pair in tqdm(pairs, desc="read", disable=not progress):
        try:
            opened = open_image(pair.image)
            picture = fit(to_tensor(opened), side)
        except InputError as error:
            skipped.skip(pair.row, str(error))
            continue
        images[len(prompts)] = (picture[0] * 255).round().byte()
        prompts.append(pair.prompt)
        sizes.append(opened.size)
    if not prompts:
        raise InputError(f"none of {len(pairs)} pictures can be read; check the paths in the pairs")
    return PairSet(images[: len(prompts)], prompts, embed(prompts).cpu(), sizes=sizes)
