"""Captioners of the BLIP and BLIP-2 interface: a caption of a picture, and the likelihood of a given one.

Letters in shapes: I images, B texts, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from accord.data.lexicon import DEFAULT, Lexicon
from accord.data.prompts import words_beyond
from accord.diffusion.loading import kind_of, load_model, load_tokenizer, loading
from accord.diffusion.state import held
from accord.embedded import CAPTIONER
from accord.judges.likelihood import by_likelihood
from accord.judges.processors import check_kind, load_image_processor
from accord.types import InputError, Prompt, WordScore


class Captioner(nn.Module):
    """One interface over `BlipForConditionalGeneration` and `Blip2ForConditionalGeneration`, with OPT or T5.

    Args:
        model: the transformers model.
        tokenizer: its tokenizer.
        image_size: side of the square picture that the model takes.
        image_mean, image_std: its normalisation, of values in 0..1.
        lexicon: the words that its counterfactuals are drawn from.
        source: folder or hub id that it was read from; None for the embedded one.
    """

    mean: torch.Tensor
    std: torch.Tensor
    any_size = False
    differentiable, writes = True, True  # its likelihoods have gradients; it writes captions

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_size: int,
        image_mean: list[float],
        image_std: list[float],
        lexicon: Lexicon = DEFAULT,
        source: str | None = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.image_size, self.lexicon, self.source = (
            model,
            tokenizer,
            image_size,
            lexicon,
            source,
        )
        self.register_buffer("mean", torch.tensor(image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(image_std).view(1, 3, 1, 1), persistent=False)
        self.kind = model.config.model_type
        if self.kind == "blip-2" and not model.config.use_decoder_only_language_model:
            self.kind = "blip-2-t5"
        # texts that go through the decoder at once; a prompt has a hundred counterfactuals, too many for a language
        # model
        self.chunk = 256 if sum(p.numel() for p in model.parameters()) < 100e6 else 16

    @classmethod
    def from_pretrained(cls, model: str, device: str = "cpu", dtype: torch.dtype | None = None) -> Captioner:
        """A captioner from a folder or hub id; `lexicon.json` in the folder is used if it is there.

        Raises:
            InputError: for a model that cannot be read or is of another class.
        """
        from transformers import Blip2ForConditionalGeneration, BlipForConditionalGeneration
        from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

        classes = {"blip": BlipForConditionalGeneration, "blip-2": Blip2ForConditionalGeneration}
        what = f"captioner {model!r}"
        kind = check_kind(model, what, classes, "a BLIP, BLIP-2 or Florence-2")
        network = load_model(classes[kind], model, what, dtype=dtype or torch.float32)
        if (
            kind == "blip-2" and network.config.image_token_index is None
        ):  # where the picture stands in what the language model reads
            raise InputError(
                f"{what} has no image_token_index in its config.json, and could write no caption; use a newer "
                "revision of it"
            )
        tokenizer = load_tokenizer(model, what)
        processor = load_image_processor(BlipImageProcessorPil, model, what)
        with loading(what):
            size = int(processor.size["height"])
        path = Path(model) / "lexicon.json"
        lexicon = Lexicon.load(path) if path.is_file() else DEFAULT
        source = None if model == str(CAPTIONER) else model
        return cls(network, tokenizer, size, processor.image_mean, processor.image_std, lexicon, source).to(device)

    def check_length(self, text: str) -> None:
        """Refuse a text whose last words would not be read, and so not be judged.

        Raises:
            InputError: naming the words that fall off.
        """
        most = self.tokenizer.model_max_length  # T5's positions have no end
        most = min(most, int(getattr(self.model.config.text_config, "max_position_embeddings", most)))
        with held(self.tokenizer):
            lost = words_beyond(text, lambda part: len(self.tokenizer(part).input_ids), most)
        if lost:
            raise InputError(
                f"the prompt is longer than the {most} tokens that the captioner reads, these words would fall off: "
                f"{lost!r}; shorten it"
            )

    @property
    def name(self) -> str:
        """What it is called in a report."""
        return self.source or "of the lab"

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures [I,3,H,W] in 0..1 to the model's input, differentiably."""
        pixels = images.to(self.device, torch.float32)
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            pixels = F.interpolate(pixels, (self.image_size,) * 2, mode="bicubic", antialias=True).clamp(0, 1)
        return ((pixels - self.mean) / self.std).to(self.model.dtype)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Image states [I, T, D] that the text decoder attends to (BLIP) or is prefixed with (BLIP-2)."""
        pixels = self.preprocess(images)
        with held(self.model):
            if self.kind == "blip":
                return self.model.vision_model(pixels).last_hidden_state
            return self.model.get_image_features(pixels).pooler_output

    @torch.no_grad()
    def caption(self, images: torch.Tensor, max_new_tokens: int = 32) -> list[str]:
        """A greedy caption per picture, [I,3,H,W] in 0..1."""
        pixels = self.preprocess(images)
        with held(self.model, self.tokenizer):
            if self.kind == "blip":
                out = self.model.generate(pixels, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
            else:
                out = self.model.generate(pixel_values=pixels, max_new_tokens=max_new_tokens, do_sample=False)
            return [t.strip() for t in self.tokenizer.batch_decode(out, skip_special_tokens=True)]

    def log_likelihood(
        self, states: torch.Tensor, texts: list[str], image_of: list[int], chunk: int | None = None
    ) -> torch.Tensor:
        """log P(text | image), summed over tokens (end token included), [B]; differentiable in `states`.

        With a gradient every chunk but a single one is computed again in the backward pass, so memory is that of one
        chunk.

        Args:
            states: [I, T, D] from `encode`.
            texts: B texts.
            image_of: for each text the index of its picture.
            chunk: texts at once; `self.chunk` if None.
        """
        chunk = chunk or self.chunk
        again = states.requires_grad and torch.is_grad_enabled() and len(texts) > chunk
        parts = []
        for start in range(0, len(texts), chunk):
            rows = torch.tensor(image_of[start : start + chunk], device=states.device)
            inputs = states[rows], texts[start : start + chunk]
            parts.append(
                checkpoint(self._held_likelihood, *inputs, use_reentrant=False)
                if again
                else self._held_likelihood(*inputs)
            )
        return torch.cat(parts)

    def _held_likelihood(self, states: torch.Tensor, texts: list[str]) -> torch.Tensor:
        with held(self.model, self.tokenizer):
            return self._log_likelihood(states, texts)

    def verdicts(self, images: torch.Tensor, prompts: Sequence[Prompt]) -> list[tuple[WordScore, ...]]:
        """For each picture and its prompt, a WordScore per word, by likelihood against its counterfactuals."""
        return by_likelihood(self, images, prompts)

    def _log_likelihood(self, states: torch.Tensor, texts: list[str]) -> torch.Tensor:
        """log P of each text [B] on its states [B, T, D]. Model and tokenizer are held."""
        if self.kind == "blip":
            ids = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(self.device)
            ids.input_ids[:, 0] = self.model.config.text_config.bos_token_id  # BLIP's decoder starts with [DEC]
            logits = self.model.text_decoder(
                input_ids=ids.input_ids, attention_mask=ids.attention_mask, encoder_hidden_states=states
            ).logits[:, :-1]
            target, mask = ids.input_ids[:, 1:], ids.attention_mask[:, 1:]
        elif self.kind == "blip-2-t5":  # the encoder reads the picture and a start token, as where captions are written
            ids = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
            target, mask = ids.input_ids, ids.attention_mask
            start = torch.full((len(texts), 1), self.model.config.text_config.bos_token_id, device=self.device)
            read = torch.cat([states, self.model.get_input_embeddings()(start).to(states.dtype)], 1)
            before = self.model.language_model.prepare_decoder_input_ids_from_labels(target)
            logits = self.model.language_model(inputs_embeds=read, decoder_input_ids=before).logits
        else:
            ids, mask = self._language_model_ids(texts)
            words = self.model.get_input_embeddings()(ids)
            prefix = torch.ones(states.shape[:2], dtype=mask.dtype, device=self.device)
            logits = self.model.language_model(
                inputs_embeds=torch.cat([states.to(words.dtype), words], 1), attention_mask=torch.cat([prefix, mask], 1)
            ).logits[:, states.shape[1] : -1]
            target, mask = ids[:, 1:], mask[:, 1:]
        picked = logits.float().log_softmax(-1).gather(-1, target[..., None])[..., 0]
        return (picked * mask).sum(-1)

    def _language_model_ids(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask [B, T] of BLIP-2's language model: start, text, end as its own configuration has them."""
        config = self.model.config.text_config
        written = [self.tokenizer(t, add_special_tokens=False).input_ids for t in texts]
        rows = [torch.tensor([config.bos_token_id, *ids, config.eos_token_id]) for ids in written]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=config.pad_token_id)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
        return ids.to(self.device), mask.to(self.device)


def load_captioner(model: str | None = None, device: str = "cpu", dtype: torch.dtype | None = None) -> Captioner:
    """The embedded captioner (None or `lab`), or a BLIP, BLIP-2 or Florence-2 from a folder or hub id."""
    from accord.judges.florence import Florence2Captioner

    if model in (None, "lab"):
        return Captioner.from_pretrained(str(CAPTIONER), device, dtype)
    families: dict[str, type[Captioner]] = {"florence2": Florence2Captioner}
    family = families.get(kind_of(str(model), f"captioner {model!r}"), Captioner)
    return family.from_pretrained(str(model), device, dtype)
