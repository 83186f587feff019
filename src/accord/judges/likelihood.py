"""Verdicts of a judge that gives likelihoods of texts: the prompt against the same prompt with a word exchanged.

A word's probability is P(word | x) = P(p | x) / (P(p | x) + sum over swaps p' of P(p' | x)). That something is not
there ("no fish") is asked by itself: P(none | x) is the product, over three captions with a place for a noun y ("a y",
"... and a y", "a y and ..."), of 1 - P(with the fish | x) / sum over y of P(with y | x), without the nouns of the
prompt's things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from accord.data.lexicon import Lexicon
from accord.judges.protocol import check_scores
from accord.prompts.swaps import peers, singular_of, spelled, swaps, with_article
from accord.prompts.wording import usual
from accord.types import Prompt, Word, WordScore


class Likelihood(Protocol):
    """A judge that gives likelihoods: a captioner, or what ranks texts as one would (CLIP)."""

    lexicon: Lexicon

    def encode(self, images: torch.Tensor) -> torch.Tensor: ...

    def log_likelihood(self, states: torch.Tensor, texts: list[str], image_of: list[int]) -> torch.Tensor: ...


def by_likelihood(
    judge: Likelihood, images: torch.Tensor, prompts: Sequence[Prompt], kind: str = "captioner"
) -> list[tuple[WordScore, ...]]:
    """A WordScore for each word of each prompt that has counterfactuals, in the order of the text.

    Args:
        images: [B,3,H,W] in 0..1.
        kind: what the judge is called in an error.

    Raises:
        InputError: for likelihoods that are not finite.
    """
    texts: list[str] = []
    owner: list[int] = []
    plans = []
    for i, prompt in enumerate(prompts):
        plan: list[_Check] = []
        base = len(texts)
        asked, own = _as_asked(prompt, judge.lexicon)
        texts.append(asked.text)
        for word, options in counterfactuals(asked, judge.lexicon):
            rows = len(texts) + np.arange(len(options))
            plan.append(_Check(own[word], [name for name, _ in options], [(np.array([base]), rows)]))
            texts += [text for _, text in options]
        for word in prompt.absences:
            askings = []
            for others, itself in absence_texts(asked, word, judge.lexicon):
                rows = len(texts) + np.arange(len(others) + 1)
                askings.append((rows[:-1], rows[-1:]))
                texts += [*others, *itself]
            if askings:
                plan.append(_Check(word, [word.text], askings))
        plans.append(sorted(plan, key=lambda check: check.word.start))
        owner += [i] * (len(texts) - len(owner))
    scores = judge.log_likelihood(judge.encode(images), texts, owner).double().cpu().numpy()
    check_scores(scores, kind)
    return [tuple(check.score(scores) for check in plan) for plan in plans]


def counterfactuals(prompt: Prompt, lexicon: Lexicon) -> list[tuple[Word, list[tuple[str, str]]]]:
    """Each checkable word that has counterfactuals, with (replacement, whole prompt) pairs."""
    found = [(w, swaps(prompt, w, lexicon)) for w in prompt.words]
    return [(w, s) for w, s in found if s]


@dataclass(frozen=True)
class _Check:
    """What decides about a word, as rows of all texts.

    Attributes:
        names: of the texts against it.
        askings: (texts that bear it out, texts that do not); a word holds if it does in every asking.
    """

    word: Word
    names: list[str]
    askings: list[tuple[np.ndarray, np.ndarray]]

    def score(self, likelihoods: np.ndarray) -> WordScore:
        """From log-likelihoods [T]."""
        probability = 1.0
        for own, against in self.askings:
            rows = np.concatenate([own, against])
            shares = np.exp(likelihoods[rows] - likelihoods[rows].max())
            shares /= shares.sum()
            probability *= float(shares[: len(own)].sum())
        others = shares[len(own) :]
        best = int(others.argmax())
        absent = self.word.kind == "absence"
        reads_as = 1 - probability if absent else float(others[best])
        return WordScore(self.word, probability, self.names[best], reads_as, len(own) if absent else len(others))


def absence_texts(prompt: Prompt, absence: Word, lexicon: Lexicon) -> list[tuple[list[str], list[str]]]:
    """Captions that ask for what is not to be there, by itself, after what is there, and before it: each asking is
    (of other nouns, of the noun itself).

    The nouns of the prompt's own things are left out: they are there, and say nothing about this one.
    """
    own = singular_of(absence.text, lexicon)[0]
    said = {singular_of(p.head.text, lexicon)[0] for p in prompt.phrases}
    known = peers(own, lexicon)
    others = [n for n in known if not lexicon.alike(n, own) and not any(lexicon.alike(n, s) for s in said)]
    if not others:
        return []
    nouns, itself = [with_article(n) for n in others], with_article(own)
    rest = " and ".join(prompt.phrases[i].text for i in prompt.things)
    forms = ["{0}", "{1} and {0}", "{0} and {1}"] if rest else ["{0}"]
    return [([form.format(n, rest) for n in nouns], [form.format(itself, rest)]) for form in forms]


def _as_asked(prompt: Prompt, lexicon: Lexicon) -> tuple[Prompt, dict[Word, Word]]:
    """The prompt as the captioner is asked, and what each of its words stands for: in the usual wording of a captioner
    with few words; else as it is, digits in words as their counterfactuals are.
    """
    found = None if lexicon.by_class else usual(prompt, lexicon)
    if found is not None:
        return found
    spelt = spelled(prompt)
    same = len(spelt.words) == len(prompt.words)
    return spelt, dict(zip(spelt.words, prompt.words if same else spelt.words, strict=True))
