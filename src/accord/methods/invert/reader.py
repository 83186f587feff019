"""`accord.invert`: which prompt made this image? An embedding, ranked words, retrieved prompts, and one readable
prompt.

Letters in shapes: B pictures, E of the embedding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from accord.judges.captioners import Captioner, load_captioner
from accord.methods.invert.bank import Bank
from accord.methods.invert.data import Embed
from accord.methods.invert.inverter import Inverter, views
from accord.methods.invert.readable import readable_prompts
from accord.rewards.sentence import load_sentence
from accord.types import InputError


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


@dataclass(frozen=True)
class Reader:
    """All that reads prompts back from pictures.

    A picture is converted once, scaled once to each size that a network takes, and captioned once. What is compared
    with the pictures of a batch is embedded together.

    Attributes:
        inverter: gives embeddings and words.
        bank: prompts to retrieve from; none is retrieved if None.
        captioner: gives candidates for the readable prompt and judges them; no readable prompt is made if None.
        embed: the sentence embedder, for readable prompts.
    """

    inverter: Inverter
    bank: Bank | None = None
    captioner: Captioner | None = None
    embed: Embed | None = None

    def __post_init__(self) -> None:
        if self.captioner is not None and self.embed is None:
            raise InputError("a readable prompt needs a sentence embedder; give `embed`")

    @classmethod
    def of(
        cls,
        inverter: Inverter | None = None,
        bank: Bank | Sequence[str] | None = None,
        captioner: Captioner | None = None,
        embed: Embed | None = None,
        readable: bool = True,
    ) -> Reader:
        """A reader; what is None is loaded, if it is needed.

        Args:
            inverter: the embedded one if None.
            bank: prompts to retrieve from.
            captioner: the one that the inverter was trained with if None.
            embed: the packaged all-MiniLM-L6-v2 if None.
            readable: whether to make readable prompts.

        Raises:
            InputError: if the bank is a text, or a readable prompt of larger pictures than the lab's is wanted of an
                inverter that names no captioner.
        """
        if isinstance(bank, str):
            raise InputError(f"a bank is a list of prompts, not the text {bank!r}; read a file with Bank.from_file")
        inverter = inverter or Inverter.from_pretrained()
        if embed is None and (readable or bank is not None):
            embed = load_sentence()
        if bank is not None and not isinstance(bank, Bank):
            assert embed is not None
            bank = Bank(bank, embed)
        if readable and captioner is None:
            if inverter.captioner is None and inverter.captioner_id is None and inverter.is_beyond_the_lab:
                raise InputError(
                    "this inverter names no captioner, and the embedded one knows the lab's scenes alone; give "
                    "captioner=load_judge(ID), or readable=False"
                )
            captioner = (
                inverter.own_captioner()  # which its predictors use too
                if inverter.needs_captions
                else inverter.captioner or load_captioner(inverter.captioner_id, inverter.device)
            )
        return cls(inverter, bank, captioner if readable else None, embed)

    @torch.no_grad()
    def __call__(
        self,
        pictures: Sequence[Image.Image],
        top_words: int = 10,
        top_prompts: int = 5,
        batch_size: int = 64,
        progress: bool = False,
    ) -> list[Inverted]:
        """Pictures of any size and mode to what is read from each.

        Raises:
            InputError: if embedder, bank and inverter do not fit.
        """
        found: list[Inverted] = []
        for start in tqdm(range(0, len(pictures), batch_size), desc="invert", disable=not progress):
            found += self._batch(pictures[start : start + batch_size], top_words, top_prompts)
        return found

    def _batch(self, pictures: Sequence[Image.Image], top_words: int, top_prompts: int) -> list[Inverted]:
        inverter, captioner = self.inverter, self.captioner
        pixels = views(pictures, inverter.sides | ({captioner.image_size} if captioner is not None else set()))
        captions = captioner.caption(pixels[captioner.image_size]) if captioner is not None else None
        vectors, words = inverter.read(pixels, captions if captioner is inverter.captioner else None)
        retrieved = self.bank.nearest(vectors, top_prompts) if self.bank is not None else [()] * len(pictures)
        if captioner is not None and captions is not None:
            candidates = [
                [t for t in (caption, *(p for p, _ in near)) if t.strip()] or ["a picture"]
                for caption, near in zip(captions, retrieved, strict=True)
            ]
            prompts = self._readable(candidates, vectors, words, captioner, pixels[captioner.image_size])
        else:
            prompts = [near[0] if near else ("", 0.0) for near in retrieved]
        likely, rows = words.topk(min(top_words, words.shape[1]) if inverter.has_words else 0)
        ranked = [
            tuple((inverter.vocabulary.words[i], p) for i, p in zip(row, own, strict=True))
            for row, own in zip(rows.tolist(), likely.tolist(), strict=True)
        ]
        return [
            Inverted(vector, own, near, prompt, score)
            for vector, own, near, (prompt, score) in zip(vectors, ranked, retrieved, prompts, strict=True)
        ]

    def _readable(
        self,
        candidates: Sequence[Sequence[str]],
        vectors: torch.Tensor,
        words: torch.Tensor,
        captioner: Captioner,
        pixels: torch.Tensor,
    ) -> list[tuple[str, float]]:
        """The readable prompts of a batch, with what the captioner sees in its pixels [B,3,S,S]."""
        assert self.embed is not None
        states = captioner.encode(pixels)

        def seen(texts: list[str], image_of: list[int]) -> torch.Tensor:
            return captioner.log_likelihood(states, texts, image_of).float().cpu()

        return readable_prompts(
            candidates, vectors, words, self.inverter.vocabulary, self.embed, captioner.lexicon, seen
        )


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
    """Read prompts back from images. Keep a `Reader` to read more than once: this loads anew what is not given.

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
    if not pictures:
        raise InputError("there is no image to invert; give at least one")
    reader = Reader.of(inverter, bank, captioner, embed, readable)
    return reader(pictures, top_words, top_prompts, batch_size, progress)
