"""The vocabulary of the classification: most frequent content words of the training prompts, and nothing but those."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from accord.types import InputError

# words that are no noun, adjective, verb or number; what is left stands for the open classes without a tagger
_CLOSED = set(
    "a an the this that these those some any each every no and or but nor so yet if than then as of in on at to from "
    "by for with "
    "without into onto over under above below about against between among through during before after up down out off "
    "near is "
    "are was were be been being am do does did has have had will would can could should may might must shall not it "
    "its he she "
    "they them his her their we us our you your i me my there here who whom which what where when why how very too "
    "also just "
    "only own same other such both all more most less least".split()
)
_SPATIAL = {"above", "below", "under", "over", "near", "left", "right"}  # prepositions that say what is where


def words_of(text: str) -> list[str]:
    """Lower-cased content words, in order; the same on both sides, prompts trained on and prompts compared."""
    found = re.findall(r"[^\W\d_](?:[^\W\d_]|['-](?=[^\W\d_]))*", text.lower())
    return [w for w in found if (w not in _CLOSED or w in _SPATIAL) and len(w) > 1]


@dataclass(frozen=True)
class Vocabulary:
    """Words in order of frequency."""

    words: tuple[str, ...]

    @classmethod
    def build(cls, prompts: Sequence[str], size: int) -> Vocabulary:
        """The `size` most frequent content words of `prompts` (ties in alphabetical order).

        Raises:
            InputError: if there is none.
        """
        counts: Counter[str] = Counter()
        for prompt in prompts:
            counts.update(set(words_of(prompt)))
        if not counts:
            raise InputError("the prompts hold no content word to make a vocabulary of; give prompts in English")
        ranked = sorted(counts, key=lambda w: (-counts[w], w))
        return cls(tuple(ranked[:size]))

    def __len__(self) -> int:
        return len(self.words)

    def present(self, prompts: Sequence[str]) -> torch.Tensor:
        """Which words each prompt holds, float32 [B,V]."""
        index = {w: i for i, w in enumerate(self.words)}
        out = torch.zeros(len(prompts), len(self.words))
        for row, prompt in enumerate(prompts):
            for word in set(words_of(prompt)):
                if word in index:
                    out[row, index[word]] = 1
        return out

    def likelihood(self, probability: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Log-likelihood [B] of which words each of B prompts holds, under probabilities [B,V] (or [V], for all of
        them).
        """
        present = self.present(prompts)
        p = probability.clamp(1e-4, 1 - 1e-4)
        return (present * p.log() + (1 - present) * (1 - p).log()).sum(-1)
