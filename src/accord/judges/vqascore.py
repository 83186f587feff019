"""VQAScore: the probability that a model says yes when it is asked whether a picture shows a prompt.

Z. Lin et al., Evaluating Text-to-Visual Generation with Image-to-Text Generation, 2024. `vqa_score` asks any chat
model; `ClipFlanT5` is the model of the paper, on the CLIP and T5 of transformers. `soft_tifa` puts the answers to the
questions of a prompt together as GenEval 2 does.

Letters in shapes: I pictures, B pairs of picture and prompt, P patches, D width of T5, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from accord.data.images import to_pil
from accord.data.lexicon import NUMBERS
from accord.diffusion.loading import (
    check_finite,
    check_folder,
    check_keys,
    load_model,
    load_tensors,
    load_tokenizer,
    loading,
)
from accord.diffusion.state import held
from accord.files import read_json
from accord.judges.protocol import Answers, Question
from accord.judges.questions import IN_ONE_WORD
from accord.types import InputError

QUESTION = 'Does this figure show "{}"? Please answer Yes or No.'
ASKED_OF_T5 = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: ",
    '\nDoes this figure show "{}"? Please answer yes or no. ASSISTANT: ',
)  # before the picture and after it
TOWER = "openai/clip-vit-large-patch14-336"


def vqa_score(judge: Answers, images: torch.Tensor, prompts: Sequence[str]) -> np.ndarray:
    """P("Yes") [B] at the first position of a chat model's answer: the sum over the tokens that "Yes" begins with
    when it is written alone, after a space, and after a line break.

    Args:
        images: [B,3,H,W] in 0..1.
        prompts: B prompts.
    """
    questions = [Question(QUESTION.format(p), (("Yes",),)) for p in prompts]
    return np.array([p[0] for p in judge.answer(images, questions, list(range(len(prompts))))])


# Soft-TIFA ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SoftTifa:
    """Soft-TIFA of prompts, times 100.

    Attributes:
        am, gm: mean over the prompts of the arithmetic, and of the geometric, mean of a prompt's questions.
        rows: for each prompt its questions' probabilities.
    """

    am: float
    gm: float
    rows: tuple[np.ndarray, ...]


def spellings(answer: str) -> tuple[str, ...]:
    """How an answer may be written: as it is, small and capitalised; a number in digits and as a word."""
    text = answer.strip()
    names = {str(number): name for name, number in NUMBERS.items()} | {"0": "zero"}
    digits = {name: digit for digit, name in names.items()}
    other = names.get(text) or digits.get(text.lower())
    forms = [f for word in (text, other) if word for f in (word, word.lower(), word.capitalize())]
    return tuple(dict.fromkeys(forms))


def means(probabilities: np.ndarray) -> tuple[float, float]:
    """Soft-TIFA's AM and GM: the arithmetic and the geometric mean of a prompt's probabilities [Q]. With a zero among
    them the geometric mean is zero.
    """
    with np.errstate(divide="ignore"):  # the logarithm of 0 is -inf, and exp brings it back to 0
        return float(probabilities.mean()), float(np.exp(np.log(probabilities).mean()))


def soft_tifa(judge: Answers, images: torch.Tensor, questions: Sequence[Sequence[tuple[str, str]]]) -> SoftTifa:
    """The expected answers' probabilities, put together. Each is asked as "{question} Answer in one word."

    Args:
        images: [I,3,H,W] in 0..1, one a prompt.
        questions: for each picture its (question, expected answer) pairs.

    Raises:
        InputError: for a picture without questions.
    """
    if len(questions) != len(images) or not all(questions):
        raise InputError("Soft-TIFA needs at least one question for each picture; leave pictures without any out")
    asked = [Question(f"{q} {IN_ONE_WORD}", (spellings(a),)) for own in questions for q, a in own]
    image_of = [i for i, own in enumerate(questions) for _ in own]
    found = np.array([p[0] for p in judge.answer(images, asked, image_of)])
    rows = tuple(found[np.array(image_of) == i] for i in range(len(questions)))
    am, gm = np.mean([means(row) for row in rows], axis=0)
    return SoftTifa(100 * float(am), 100 * float(gm), rows)


# CLIP-FlanT5 --------------------------------------------------------------------------------------------------------
class ClipFlanT5(nn.Module):
    """CLIP-FlanT5: patches of a CLIP, brought to the width of a FlanT5, stand among its input tokens.

    Args:
        tower: a `CLIPVisionModel`.
        t5: a `T5ForConditionalGeneration`.
        projector: Linear, GELU, Linear from the tower's width to that of T5.
        tokenizer: of T5.
        image_mean, image_std: the tower's normalisation.
        name: folder or hub id.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        tower: Any,
        t5: Any,
        projector: nn.Sequential,
        tokenizer: Any,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        name: str = "CLIP-FlanT5",
    ) -> None:
        super().__init__()
        self.tower, self.t5, self.projector, self.tokenizer, self.name = tower, t5, projector, tokenizer, name
        self.register_buffer("mean", torch.tensor(image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(image_std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_pretrained(
        cls, model: str, device: str = "cpu", dtype: torch.dtype | None = None, tower: str | None = None
    ) -> ClipFlanT5:
        """From a folder that has T5's weights under their own names, beside `mm_projector.0` and `mm_projector.2`.

        Args:
            model: folder with safetensors weights, as `huggingface-cli download` of a converted revision leaves it.
            tower: the CLIP whose patches are taken; that of the model's `config.json` if None.

        Raises:
            InputError: for a folder that is not there, pickled or lacks weights.
        """
        from transformers import CLIPVisionModel, T5Config, T5ForConditionalGeneration
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        what = f"CLIP-FlanT5 {model!r}"
        folder = Path(model)
        if not (folder / "config.json").is_file():
            raise InputError(f"{what} is no folder with a config.json; download the model and give its folder")
        check_folder(model, what)
        settings = read_json(folder / "config.json", f"{what}: its")
        tensors: dict[str, torch.Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            tensors |= load_tensors(path, what)
        weights = {
            k: v for k, v in tensors.items() if not k.startswith(("mm_projector.", "vision_tower.", "embed_tokens."))
        }
        kind = dtype or torch.float32
        own = {
            k: v for k, v in settings.items() if k not in ("model_type", "architectures") and not k.startswith("mm_")
        }
        if own.get("tie_word_embeddings") is False and "lm_head.weight" not in weights:
            raise InputError(f"{what} lacks weights (lm_head.weight); give a whole one")
        with loading(what):  # which leaves an output layer of its own untied, as the constructor would not
            t5, report = T5ForConditionalGeneration.from_pretrained(
                None, config=T5Config(**own), state_dict=weights, dtype=kind, output_loading_info=True
            )
            check_keys(t5, report, what)
        tower = tower or str(settings.get("mm_vision_tower", TOWER))
        vision = load_model(CLIPVisionModel, tower, f"{what}: its tower {tower!r}", unused=_TEXT_HALF, dtype=kind)
        try:
            shapes = [tensors[f"mm_projector.{i}.weight"].shape for i in (0, 2)]
            projector = nn.Sequential(nn.Linear(*shapes[0][::-1]), nn.GELU(), nn.Linear(*shapes[1][::-1]))
            projector.load_state_dict({k.removeprefix("mm_projector."): v for k, v in tensors.items() if "mm_pro" in k})
        except (KeyError, RuntimeError) as error:
            raise InputError(f"{what} has no projector of Linear, GELU, Linear (mm_projector.0 and .2)") from error
        check_finite(t5, what)
        with loading(what):
            processor = CLIPImageProcessorPil.from_pretrained(tower)
        made = cls(
            vision,
            t5,
            projector.to(kind),
            load_tokenizer(model, what),
            processor.image_mean,
            processor.image_std,
            model,
        )
        return made.eval().requires_grad_(False).to(device)

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures [I,3,H,W] in 0..1, padded to squares with the mean colour and scaled to the tower's side."""
        side = int(self.tower.config.image_size)
        squares = [_squared(picture, self.mean.flatten().tolist()) for picture in to_pil(images)]
        pixels = torch.stack(
            [
                torch.from_numpy(np.asarray(s.resize((side, side), Image.Resampling.BICUBIC)).copy()).permute(2, 0, 1)
                for s in squares
            ]
        )
        pixels = pixels.to(self.mean.device).float() / 255
        return (pixels - self.mean) / self.std

    def patches(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures to T5's input embeddings [I, P, D]: the tower's second-last layer, without its class token."""
        pixels = self.preprocess(images).to(self.tower.dtype)
        with held(self.tower):
            states = self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        return self.projector(states)

    @torch.no_grad()
    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> np.ndarray:
        """sqrt(P("Yes") P(end)) [B] of pictures [B,3,H,W] in 0..1 and B prompts: exp of the mean over both tokens."""
        return self.pair_scores(images, prompts, list(range(len(prompts))))

    @torch.no_grad()
    def pair_scores(self, images: torch.Tensor, prompts: Sequence[str], image_of: Sequence[int]) -> np.ndarray:
        """As `score`, for prompts [B] on pictures [I,3,H,W]; a picture is encoded once."""
        patches = self.patches(images)
        embed = self.t5.get_input_embeddings()
        rows = []
        for prompt, i in zip(prompts, image_of, strict=True):
            # each part is a text of its own, so an end token stands before the picture
            before, after = (embed(self._ids(text)) for text in (ASKED_OF_T5[0], ASKED_OF_T5[1].format(prompt)))
            rows.append(torch.cat([before, patches[i].to(before.dtype), after]))
        longest = max(map(len, rows))
        inputs = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
        mask = torch.stack([(torch.arange(longest) < len(row)).long() for row in rows]).to(inputs.device)
        labels = self._ids("Yes").repeat(len(rows), 1)  # with its end token
        with held(self.t5):
            logits = self.t5(inputs_embeds=inputs, attention_mask=mask, labels=labels).logits.float()
        picked = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        return picked.mean(-1).exp().double().cpu().numpy()

    def _ids(self, text: str) -> torch.Tensor:
        with held(self.tokenizer):
            return torch.tensor(self.tokenizer(text).input_ids, device=self.mean.device)


_TEXT_HALF = ("text_model", "text_projection", "visual_projection", "logit_scale")  # of a whole CLIP's file


def _squared(picture: Image.Image, mean: Sequence[float]) -> Image.Image:
    """The picture in the middle of a square of the mean colour."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side), tuple(int(m * 255) for m in mean))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square
