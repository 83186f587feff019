"""One readable prompt for each picture: the best of its candidates and of their word edits.

Letters in shapes: B pictures, E of the embedding, V vocabulary, T texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from accord.data.lexicon import Lexicon
from accord.methods.invert.data import Embed
from accord.methods.invert.vocabulary import Vocabulary
from accord.prompts.phrases import phrases_of
from accord.prompts.swaps import swaps
from accord.types import InputError

WORD_WEIGHT = 0.02  # of the words' log-likelihood beside the cosine, in the choice of the readable prompt
CAPTION_WEIGHT = 0.01  # of log P(text | image), in nats, under the captioner
EDIT_ROUNDS = 2

# texts, and of each the number of its picture, to log P(text | image) [T], in nats
Likelihood = Callable[[list[str], list[int]], torch.Tensor]
Texts = Mapping[int, Sequence[str]]  # the number of a picture -> texts for it


@dataclass(frozen=True)
class _Choice:
    """A text, its cosine to the predicted embedding and its whole score."""

    text: str
    cosine: float
    score: float


def readable_prompts(
    candidates: Sequence[Sequence[str]],
    vectors: torch.Tensor,
    words: torch.Tensor,
    vocabulary: Vocabulary,
    embed: Embed,
    lexicon: Lexicon,
    seen: Likelihood | None = None,
) -> list[tuple[str, float]]:
    """For each picture the best of its candidates and of their word edits, and its cosine to the predicted embedding.

    Ranked by cos + WORD_WEIGHT * log-likelihood of which words it holds + CAPTION_WEIGHT * `seen`: the embedding and
    the words are those of a prompt, which leaves open what the image must show. The texts of all pictures are embedded
    in one call: one for the candidates, and one for each of EDIT_ROUNDS.

    Args:
        candidates: of each of B pictures, at least one.
        vectors: predicted embeddings [B,E].
        words: predicted probabilities of the vocabulary's words [B,V].
        lexicon: the words that edits exchange.

    Raises:
        InputError: if `embed` gives vectors of another size than the predicted ones.
    """

    def best_of(texts: Texts) -> dict[int, _Choice]:
        cosine, score = _scores(texts, vectors, words, vocabulary, embed)
        if seen is not None:
            score = score + CAPTION_WEIGHT * seen(_flat(texts), [i for i, own in texts.items() for _ in own])
        found, start = {}, 0
        for i, own in texts.items():
            best = int(score[start : start + len(own)].argmax())
            found[i] = _Choice(own[best], float(cosine[start + best]), float(score[start + best]))
            start += len(own)
        return found

    chosen = best_of(dict(enumerate(candidates)))
    open_ones = list(chosen)  # pictures whose prompt the last round made better
    for _ in range(EDIT_ROUNDS):
        edits = {i: own for i in open_ones if (own := _edits(chosen[i].text, lexicon))}
        if not edits:
            break
        better = {i: c for i, c in best_of(edits).items() if c.score > chosen[i].score}
        chosen |= better
        open_ones = list(better)
    return [(c.text, c.cosine) for c in chosen.values()]


def _edits(text: str, lexicon: Lexicon) -> list[str]:
    """The text with one word exchanged, in every way that the lexicon knows."""
    if not any(c.isalnum() for c in text):
        return []
    prompt = phrases_of(text)
    return [t for w in prompt.words for _, t in swaps(prompt, w, lexicon)]


def _flat(texts: Texts) -> list[str]:
    return [t for own in texts.values() for t in own]


def _scores(
    texts: Texts, vectors: torch.Tensor, words: torch.Tensor, vocabulary: Vocabulary, embed: Embed
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine of each text to the embedding of its picture, and the same with the words' log-likelihood, [T] each."""
    row_of = {t: row for row, t in enumerate(sorted(dict.fromkeys(_flat(texts)), key=len))}  # by length: less padding
    embedded = embed(list(row_of)).cpu()
    if embedded.shape[1] != vectors.shape[1]:
        raise InputError(
            f"the sentence embedder gives {embedded.shape[1]} numbers and the inverter {vectors.shape[1]}; "
            "use the embedder that the inverter was trained with"
        )
    cosine = torch.cat([embedded[[row_of[t] for t in own]] @ vectors[i] for i, own in texts.items()])
    return cosine, cosine + WORD_WEIGHT * torch.cat([vocabulary.likelihood(words[i], own) for i, own in texts.items()])
