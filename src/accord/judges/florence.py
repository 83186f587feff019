"""Florence-2 as a captioner: captions by its task prompts, and likelihoods of texts as such captions.

It answers tasks, not questions: nothing that is asked by yes and no is judged by it.

Letters in shapes: I images, B texts, T tokens, D width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from accord.diffusion.loading import check_moments, load_model
from accord.diffusion.state import held
from accord.judges.captioners import Captioner
from accord.judges.processors import load_processor
from accord.types import InputError


class Florence2Captioner(Captioner):
    """`Florence2ForConditionalGeneration`: the encoder reads picture and task, the decoder writes the caption."""

    task: ClassVar[str] = "What does the image describe?"  # what its processor makes of <CAPTION>

    @classmethod
    def from_pretrained(cls, model: str, device: str = "cpu", dtype: torch.dtype | None = None) -> Florence2Captioner:
        """A captioner from a folder or hub id.

        Raises:
            InputError: for a model that cannot be read or is of another class.
        """
        from transformers import Florence2ForConditionalGeneration

        what = f"captioner {model!r}"
        processor = load_processor(model, what)
        pictures = processor.image_processor
        check_moments(pictures.image_mean, pictures.image_std, what)
        if not pictures.size.get("height") or pictures.size["height"] != pictures.size.get("width"):
            raise InputError(f"{what} takes pictures that are no squares; give a Florence-2 as it was published")
        network = load_model(Florence2ForConditionalGeneration, model, what, dtype=dtype or torch.float32)
        moments = pictures.image_mean, pictures.image_std
        made = cls(network, processor.tokenizer, int(pictures.size["height"]), *moments, source=model)
        return made.to(device)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """States [I, T, D] of picture and task that the decoder attends to."""
        with held(self.model, self.tokenizer):
            seen = self.model.get_image_features(self.preprocess(images)).pooler_output
            words = self.model.get_input_embeddings()(self._ids([self.task])).expand(len(seen), -1, -1)
            read = torch.cat([seen.to(words.dtype), words], 1)
            return self.model.model.language_model.encoder(inputs_embeds=read).last_hidden_state

    @torch.no_grad()
    def caption(self, images: torch.Tensor, max_new_tokens: int = 32) -> list[str]:
        """A greedy caption per picture, [I,3,H,W] in 0..1."""
        from transformers.modeling_outputs import BaseModelOutput

        states = self.encode(images)
        with held(self.model, self.tokenizer):
            out = self.model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
            )
            return [t.strip() for t in self.tokenizer.batch_decode(out, skip_special_tokens=True)]

    def _log_likelihood(self, states: torch.Tensor, texts: list[str]) -> torch.Tensor:
        """The decoder's first token is given where it writes captions, and counts for nothing."""
        config = self.model.config.text_config
        ids = self._ids(texts)
        before = torch.cat([torch.full_like(ids[:, :1], config.decoder_start_token_id), ids[:, :-1]], 1)
        decoder = self.model.model.language_model.decoder
        hidden = decoder(input_ids=before, encoder_hidden_states=states).last_hidden_state
        logs = self.model.lm_head(hidden[:, 1:]).float().log_softmax(-1)
        target = ids[:, 1:]
        picked = logs.gather(-1, target[..., None])[..., 0]
        return (picked * (target != config.pad_token_id)).sum(-1)

    def _ids(self, texts: list[str]) -> torch.Tensor:
        """Token ids [B, T] with start and end, padded on the right."""
        config = self.model.config.text_config
        written = [self.tokenizer(t, add_special_tokens=False).input_ids for t in texts]
        rows = [torch.tensor([config.bos_token_id, *ids, config.eos_token_id]) for ids in written]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=config.pad_token_id).to(self.device)
