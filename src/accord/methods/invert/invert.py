"""`accord.invert`: which prompt made this image? An embedding, ranked words, retrieved prompts, and one readable
prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from accord.data.images import to_rgb
from accord.data.lexicon import Lexicon
from accord.data.prompt_files import read_prompts
from accord.data.prompts import parse, swaps
from accord.methods.invert.data import Embed
from accord.methods.invert.inverter import Inverter, pixels_of
from accord.methods.invert.vocabulary import Vocabulary
from accord.rewards.captioners import Captioner, load_captioner
from accord.rewards.sentence import load_sentence
from accord.types import InputError

WORD_WEIGHT = 0.02  # of the words' log-likelihood beside the cosine, in the choice of the readable prompt
CAPTION_WEIGHT = 0.01  # of log P(text | image), in nats, under the captioner
EDIT_ROUNDS = 2

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

Likelihood = Callable[[Sequence[str]], torch.Tensor]  # texts to log P(text | image) [T], in nats


@dataclass(frozen=True)
class Inverted:
    """What is read from one image.

    Attributes:
        embedding: unit vector [E], as all-MiniLM-L6-v2 embeds prompts.
        words: (word, probability), most probable first.
        retrieved: (prompt of the bank, cosine), nearest first.
        prompt: one readable prompt.
        score: of that prompt: its cosine to the embedding.
    """

    embedding: torch.Tensor
    words: tuple[tuple[str, float], ...]
    retrieved: tuple[tuple[str, float], ...]
    prompt: str
    score: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "prompt": self.prompt,
            "score": self.score,
            "words": [{"word": w, "probability": p} for w, p in self.words],
            "retrieved": [{"prompt": t, "cosine": c} for t, c in self.retrieved],
            "embedding": [round(float(v), 6) for v in self.embedding],
        }


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


def invert(
    images: Image.Image | Sequence[Image.Image],
    inverter: Inverter | None = None,
    bank: Bank | Sequence[str] | None = None,
    captioner: Captioner | None = None,
    embed: Embed | None = None,
    *,
    top_words: int = 10,
    top_prompts: int = 5,
    readable: bool = True,
    batch_size: int = 64,
    progress: bool = False,
) -> list[Inverted]:
    """Read prompts back from images.

    Args:
        images: one PIL image or several, of any size and mode.
        inverter: the embedded one if None.
        bank: prompts to retrieve from.
        captioner: gives candidates for the readable prompt; the one that the inverter was trained with if None.
        embed: the sentence embedder; the packaged all-MiniLM-L6-v2 if None.
        readable: whether to make a readable prompt; without it `prompt` is the nearest of the bank, or empty.

    Raises:
        InputError: if there is no image, embedder and inverter do not fit, or a readable prompt of larger pictures than
            the lab's is wanted of an inverter that names no captioner.
    """
    pictures = [images] if isinstance(images, Image.Image) else list(images)
    if any(not isinstance(p, Image.Image) for p in pictures):
        raise InputError("images must be PIL pictures; open a file with accord.data.images.open_image")
    if isinstance(bank, str):
        raise InputError(f"a bank is a list of prompts, not the text {bank!r}; read a file with Bank.from_file")
    if not pictures:
        raise InputError("there is no image to invert; give at least one")
    inverter = inverter or Inverter.from_pretrained()
    needs_text = readable or bank is not None
    if needs_text and embed is None:
        embed = load_sentence()
    if bank is not None and not isinstance(bank, Bank):
        assert embed is not None
        bank = Bank(bank, embed)
    if readable and captioner is None:
        if inverter.captioner is None and inverter.captioner_id is None and inverter.is_beyond_the_lab:
            raise InputError(
                "this inverter names no captioner, and the embedded one knows the lab's scenes alone; give "
                "captioner=load_captioner(ID), or readable=False"
            )
        captioner = inverter.captioner or load_captioner(inverter.captioner_id, inverter.device)
    out: list[Inverted] = []
    for start in tqdm(range(0, len(pictures), batch_size), desc="invert", disable=not progress):
        part = pictures[start : start + batch_size]
        vectors, words = inverter(part)
        retrieved = bank.nearest(vectors, top_prompts) if isinstance(bank, Bank) else [()] * len(part)
        captions, states = [""] * len(part), None
        if readable and captioner is not None:
            pixels = pixels_of([to_rgb(p) for p in part], captioner.image_size)
            captions, states = captioner.caption(pixels), captioner.encode(pixels)
        for i, (vector, probability, near, caption) in enumerate(zip(vectors, words, retrieved, captions, strict=True)):
            prompt, score = (near[0] if near else ("", 0.0)) if not readable else ("", 0.0)
            if readable:
                assert embed is not None and captioner is not None and states is not None
                candidates = [c for c in (caption, *(t for t, _ in near)) if c.strip()] or ["a picture"]
                seen = partial(_seen, captioner, states[i : i + 1])
                prompt, score = readable_prompt(
                    candidates, vector, probability, inverter.vocabulary, embed, captioner.lexicon, seen
                )
            top = probability.topk(min(top_words, len(probability)) if inverter.has_words else 0)
            ranked = tuple((inverter.vocabulary.words[int(i)], float(p)) for p, i in zip(*top, strict=True))
            out.append(Inverted(vector, ranked, near, prompt, score))
    return out


def _seen(captioner: Captioner, states: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
    """log P(text | image) [T] of texts, of the one image of these states [1,...]."""
    return captioner.log_likelihood(states, list(texts), [0] * len(texts)).float().cpu()


def readable_prompt(
    candidates: Sequence[str],
    vector: torch.Tensor,
    probability: torch.Tensor,
    vocabulary: Vocabulary,
    embed: Embed,
    lexicon: Lexicon,
    seen: Likelihood | None = None,
) -> tuple[str, float]:
    """The best of the candidates and of their word edits, and its cosine to the predicted `vector` [E].

    Ranked by cos + WORD_WEIGHT * log-likelihood of which words it holds, under the predicted `probability` [V],
    + CAPTION_WEIGHT * `seen`: the embedding and the words are those of a prompt, which leaves open what the image must
    show.
    """

    def rank(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        cosine, score = _scores(texts, vector, probability, vocabulary, embed)
        return cosine, score if seen is None else score + CAPTION_WEIGHT * seen(texts)

    texts, (cosine, score) = list(candidates), rank(candidates)
    best = int(score.argmax())
    text, found, top = texts[best], float(cosine[best]), float(score[best])
    for _ in range(EDIT_ROUNDS):
        prompt = parse(text) if any(c.isalnum() for c in text) else None
        edits = [t for w in prompt.words for _, t in swaps(prompt, w, lexicon)] if prompt else []
        if not edits:
            break
        cosine, score = rank(edits)
        best = int(score.argmax())
        if float(score[best]) <= top:
            break
        text, found, top = edits[best], float(cosine[best]), float(score[best])
    return text, found


def _scores(
    texts: Sequence[str], vector: torch.Tensor, probability: torch.Tensor, vocabulary: Vocabulary, embed: Embed
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and whole score of each text, [T] each."""
    vectors = embed(list(texts)).cpu()
    if vectors.shape[1] != len(vector):
        raise InputError(
            f"the sentence embedder gives {vectors.shape[1]} numbers and the inverter {len(vector)}; "
            "use the embedder that the inverter was trained with"
        )
    cosine = vectors @ vector
    return cosine, cosine + WORD_WEIGHT * vocabulary.likelihood(probability, texts)
