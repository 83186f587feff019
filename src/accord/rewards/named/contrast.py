"""How much more probable the prompt is than the prompts that differ from it in one word."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from accord.judges.captioners import Captioner
from accord.judges.likelihood import counterfactuals
from accord.prompts.phrases import phrases_of
from accord.prompts.swaps import exchanged
from accord.rewards.registry import reward


@reward("contrast", needs=("captioner",))
class CaptionContrast:
    """log P(p|x) - logsumexp over swaps p' of log P(p'|x): which prompt, of all that differ in one word?
    Differentiable.

    The swaps exchange each checkable word (noun, colour, count, size, relation) for its counterfactuals, and the
    colours of two things for each other. A prompt without any has the score 0.

    Args:
        captioner: gives the likelihoods; its lexicon gives the counterfactuals.
        ceiling: scores are bounded by it from above, softly, so that a picture that is right already pays no more.
    """

    differentiable = True

    def __init__(self, captioner: Captioner, ceiling: float = 6.0) -> None:
        self.captioner, self.ceiling = captioner, ceiling

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        texts: list[str] = []
        owner: list[int] = []
        rows: list[range] = []
        for i, prompt in enumerate(prompts):
            mine = [prompt, *swapped(prompt, self.captioner)]
            rows.append(range(len(texts), len(texts) + len(mine)))
            texts += mine
            owner += [i] * len(mine)
        scores = self.captioner.log_likelihood(self.captioner.encode(images), texts, owner)
        out = []
        for row in rows:
            own, others = scores[row.start], scores[row.start + 1 : row.stop]
            out.append(own - others.logsumexp(0) if len(others) else own * 0)
        raw = torch.stack(out)
        return self.ceiling - torch.nn.functional.softplus(self.ceiling - raw)


def swapped(prompt: str, captioner: Captioner) -> list[str]:
    """The prompt with one word exchanged, in every way that the captioner's lexicon knows, and with two colours
    exchanged.
    """
    parsed = phrases_of(prompt)
    texts = [text for _, options in counterfactuals(parsed, captioner.lexicon) for _, text in options]
    colors = [w for p in parsed.phrases if not p.background for w in p.words if w.kind == "color"]
    for i, a in enumerate(colors):
        for b in colors[i + 1 :]:
            if a.text != b.text:
                texts.append(exchanged(prompt, a, b))
    return list(dict.fromkeys(t for t in texts if t != prompt))
