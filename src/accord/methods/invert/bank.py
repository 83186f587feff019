"""Prompts to retrieve from: those whose embeddings are nearest to what an inverter reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from accord.data.prompt_files import read_prompts
from accord.methods.invert.data import Embed
from accord.types import InputError

# small words of German, French, Spanish, Italian, Portuguese and Dutch that are no English words, and English ones
_FOREIGN = set(
    "der das und mit ein eine einem einen einer auf im von zu ist le la les une des du avec sur dans et est el los "
    "las una unos con del por en y "
    "il lo gli di che della nel sul e um uma com na da het een voor".split()
)
_ENGLISH = set(
    "a an the of and with in on at to from by for is are "
    "above below over under left right next beside behind its his her".split()
)


class Bank:
    """Prompts to retrieve from, with their embeddings.

    Raises:
        InputError: for fewer than two prompts, or prompts most of which are not in English, which the embedder cannot
            read.
    """

    def __init__(self, prompts: Sequence[str], embed: Embed) -> None:
        self.prompts = list(dict.fromkeys(prompts))
        if len(self.prompts) < 2:
            raise InputError(f"a bank of {len(self.prompts)} prompt has nothing to choose from; give at least 2")
        foreign = [p for p in self.prompts if not_english(p)]
        if 2 * len(foreign) > len(self.prompts):
            raise InputError(
                "most prompts of the bank are in a language that the sentence embedder cannot read "
                f"({foreign[0][:40]!r}); give prompts in English"
            )
        self.vectors = embed(self.prompts).cpu()

    @classmethod
    def from_file(cls, path: str | Path, embed: Embed) -> Bank:
        """A bank from any file that `read_prompts` reads.

        Raises:
            InputError: for a file that cannot be used.
        """
        return cls(read_prompts(path), embed)

    def nearest(self, vectors: torch.Tensor, count: int) -> list[tuple[tuple[str, float], ...]]:
        """For each unit vector [B,E] the `count` nearest prompts with their cosines.

        Raises:
            InputError: if the vectors have another size than the bank's.
        """
        if vectors.shape[1] != self.vectors.shape[1]:
            raise InputError(
                f"the bank's embeddings have {self.vectors.shape[1]} numbers and the inverter's {vectors.shape[1]}; "
                "use the sentence embedder that the inverter was trained with"
            )
        cosines, rows = (vectors @ self.vectors.T).topk(min(count, len(self.prompts)), dim=-1)
        return [
            tuple((self.prompts[int(i)], float(c)) for i, c in zip(r, cs, strict=True))
            for r, cs in zip(rows, cosines, strict=True)
        ]


def not_english(prompt: str) -> bool:
    """Whether a prompt has no word in Latin letters, or more of another language's small words than of English ones."""
    words = re.findall(r"[^\W\d_]+", prompt.lower())
    return not re.search("[a-zA-Z]", prompt) or sum(w in _FOREIGN for w in words) > sum(w in _ENGLISH for w in words)
