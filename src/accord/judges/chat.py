"""Chat models that see pictures, as judges: any `AutoModelForImageTextToText` with a chat template, and PaliGemma.

All questions on a picture begin with the same tokens, the picture's among them. They go through the model once; each
question goes on from their keys and values. Whether a model allows that is tried out on its first questions: one that
lets the picture attend to the question, say, does not, and is asked one by one.

Letters in shapes: I pictures, Q questions, A answers of a question, B texts, T tokens, V words of the vocabulary.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from accord.data.images import to_pil
from accord.data.lexicon import DEFAULT
from accord.diffusion.loading import kind_of, load_model
from accord.diffusion.state import held
from accord.judges.processors import load_processor
from accord.judges.protocol import Question
from accord.judges.questions import by_questions
from accord.types import InputError, Notice, Prompt, WordScore

DESCRIBE = "Describe this picture in one sentence."
CHUNK = 16  # questions, or texts, that go on from a picture at once
REMEMBERED = 4096  # tokens of so many questions are kept
_OF_TOKENS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class Form:
    """How a model without a chat template is asked, as it was trained."""

    question: str
    describe: str


FORMS = {"paligemma": Form("<image>answer en {}", "<image>caption en")}


class ChatJudge:
    """Answers, captions and likelihoods of a chat model.

    Args:
        model: an image-text-to-text model of transformers.
        processor: its processor.
        name: folder or hub id.

    Attributes:
        shares: whether questions go on from one encoding of their picture; None until it is tried out.
    """

    any_size = True
    image_size = 448  # of regions, which are cropped to squares
    lexicon = DEFAULT
    differentiable, writes = False, True  # no gradient goes through the processor; it writes captions

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model, self.processor, self.name = model, processor, name
        self.tokenizer = processor.tokenizer
        self.shares: bool | None = None
        self.template = _template(processor)
        self.form = FORMS.get(model.config.model_type)
        _check_asked(self.form, self.template, name)
        # logits of the last token alone, where a model can leave out the rest
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        self._ids: dict[tuple[str, tuple[int, int]], list[int]] = {}

    @classmethod
    def from_pretrained(cls, model: str, device: str = "cpu", dtype: torch.dtype | None = None) -> ChatJudge:
        """A judge from a folder or hub id.

        Args:
            dtype: of its weights; if None float32 on a CPU, and elsewhere what they were saved in.

        Raises:
            InputError: for a model that cannot be read, is no image-text-to-text model or has no chat template.
        """
        from transformers import AutoModelForImageTextToText

        what = f"judge {model!r}"
        kind = kind_of(model, what)
        processor = load_processor(model, what)
        _check_asked(FORMS.get(kind), _template(processor), model)  # before the weights, which may be large
        wanted = dtype or (torch.float32 if device == "cpu" else "auto")
        network = load_model(AutoModelForImageTextToText, model, what, dtype=wanted)
        return cls(network.to(device), processor, model)

    @property
    def source(self) -> str:
        """Folder or hub id."""
        return self.name

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def check_length(self, text: str) -> None:
        """Nothing is refused: a question quotes a few words of the prompt."""

    def verdicts(self, images: torch.Tensor, prompts: Sequence[Prompt]) -> list[tuple[WordScore, ...]]:
        """For each picture and its prompt, a WordScore per word, by its answers to questions."""
        return by_questions(self, images, prompts, self.lexicon)

    # answers --------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def answer(self, images: torch.Tensor, questions: Sequence[Question], image_of: Sequence[int]) -> list[np.ndarray]:
        """Probabilities [A] of the answers of each question, at the first position of what the model would say.

        An answer's is the sum over the distinct first tokens of its spellings, written alone, after a space and after
        a line break. A token that begins two answers of a question counts for neither; NaN for an answer that has no
        other.

        Args:
            images: [I,3,H,W] in 0..1.
            questions: Q questions.
            image_of: for each question the index of its picture.
        """
        out: list[np.ndarray] = [np.zeros(0)] * len(questions)
        with held(self.model):
            for i, picture in enumerate(to_pil(images)):
                own = [k for k, of in enumerate(image_of) if of == i]
                if own:
                    logits = self.answer_logits(picture, [questions[k].text for k in own])
                    for k, row in zip(own, logits.softmax(-1).double().cpu().numpy(), strict=True):
                        out[k] = self._weighed(row, questions[k])
        return out

    @torch.no_grad()
    def answer_logits(self, picture: Image.Image, questions: Sequence[str]) -> torch.Tensor:
        """Logits [Q, V] of the first token of the answers to questions on one picture."""
        texts = [self._asked(q) for q in questions]
        with held(self.model):  # Qwen's model remembers the place of the picture it saw last
            if len(texts) > 1 and self.shares is None:
                self.shares = self._can_share(picture, texts)
                if not self.shares:
                    warnings.warn(
                        f"judge {self.name!r} answers otherwise when its questions share one encoding of the picture; "
                        "they are asked one by one, which takes longer",
                        Notice,
                        stacklevel=2,
                    )
            if len(texts) > 1 and self.shares:
                return self._together(picture, texts)
            return torch.cat([self._alone(picture, text) for text in texts])

    def _alone(self, picture: Image.Image, text: str) -> torch.Tensor:
        return self.model(**self._inputs(picture, text), **self._last).logits[:, -1].float()

    def _together(self, picture: Image.Image, texts: Sequence[str]) -> torch.Tensor:
        """As `_alone` of each text, [Q, V], from one encoding of what they begin with."""
        rows = [self._tokens(picture, text) for text in texts]
        shared = min(_common(rows), min(map(len, rows)) - 1)
        cache, _ = self._begun(self._inputs(picture, texts[0]), shared)
        return torch.cat([logits[-1:] for logits in self._gone_on(cache, [row[shared:] for row in rows])])

    def _can_share(self, picture: Image.Image, texts: Sequence[str]) -> bool:
        """Whether the first, the shortest and the longest question have the same answers alone and together."""
        lengths = [len(self._tokens(picture, text)) for text in texts]
        tried = sorted({0, int(np.argmin(lengths)), int(np.argmax(lengths))})
        try:
            together = self._together(picture, texts)[tried]
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError):
            return False  # its cache is none that can be gone on from
        alone = torch.cat([self._alone(picture, texts[k]) for k in tried])
        off = (together - alone).std(-1) / alone.std(-1).clamp_min(1e-12)
        return bool(off.max() < max(1e-3, 16 * torch.finfo(self.model.dtype).eps))

    def _weighed(self, probabilities: np.ndarray, question: Question) -> np.ndarray:
        begins = [{t for spelling in spellings for t in self.first_tokens(spelling)} for spellings in question.answers]
        out = []
        for i, tokens in enumerate(begins):
            own = tokens.difference(*(other for k, other in enumerate(begins) if k != i))
            out.append(float(probabilities[sorted(own)].sum()) if own else float("nan"))
        return np.array(out)

    def first_tokens(self, spelling: str) -> set[int]:
        """The tokens that an answer can begin with: of the spelling alone, after a space, and after a line break."""

        def ids(text: str) -> list[int]:
            return list(self.tokenizer(text, add_special_tokens=False).input_ids)

        found = set()
        for before in ("", " ", "\n"):
            written, lead = ids(before + spelling), ids(before) if before == "\n" else []
            if written[: len(lead)] == lead:  # else the break and the word are one token
                found |= set(written[len(lead) : len(lead) + 1])
        return {t for t in found if self.tokenizer.decode([t]).strip()}

    # captions and likelihoods ---------------------------------------------------------------------------------------
    @torch.no_grad()
    def caption(self, images: torch.Tensor, max_new_tokens: int = 48) -> list[str]:
        """What it says of each picture [I,3,H,W] in 0..1 when it is asked for one sentence, greedily."""
        out = []
        with held(self.model):
            for picture in to_pil(images):
                inputs = self._inputs(picture, self._describing)
                tokens = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
                said = tokens[0, inputs["input_ids"].shape[1] :]
                lines = self.tokenizer.decode(said, skip_special_tokens=True).strip().splitlines()
                out.append(lines[0].strip() if lines else "")
        return out

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """The pictures themselves, [I,3,H,W], for `log_likelihood`."""
        return images

    @torch.no_grad()
    def log_likelihood(self, states: torch.Tensor, texts: list[str], image_of: list[int]) -> torch.Tensor:
        """log P(text | image) as its answer when it is asked for one sentence, end token included, [B]; no gradient.

        Args:
            states: pictures [I,3,H,W] in 0..1.
            texts: B texts.
            image_of: for each text the index of its picture.

        Raises:
            InputError: for a model that names no token that ends its answers.
        """
        out = torch.zeros(len(texts), device=self.device)
        end = self._end
        with held(self.model):
            for i, picture in enumerate(to_pil(states)):
                own = [k for k, of in enumerate(image_of) if of == i]
                if not own:
                    continue
                rows = [[*self.tokenizer(texts[k], add_special_tokens=False).input_ids, end] for k in own]
                inputs = self._inputs(picture, self._describing)
                cache, first = self._begun(inputs, inputs["input_ids"].shape[1])
                for k, row, logits in zip(own, rows, self._gone_on(cache, rows), strict=True):
                    logs = torch.cat([first, logits[:-1]]).log_softmax(-1)
                    out[k] = logs[torch.arange(len(row)), torch.tensor(row)].sum()
        return out

    # what the model is given ----------------------------------------------------------------------------------------
    def _asked(self, question: str) -> str:
        """The text of a question, with a place for the picture."""
        if self.form is not None:
            return self.form.question.format(question)
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        aloud = {"enable_thinking": False} if "enable_thinking" in str(self.template) else {}  # it answers at once
        return str(
            self.processor.apply_chat_template(
                [turn], self.template, add_generation_prompt=True, tokenize=False, **aloud
            )
        )

    @property
    def _end(self) -> int:
        """The token that ends an answer. What it stops at when it writes comes first: a tokenizer's end of a text need
        not be the end of a turn. Raises InputError.
        """
        stops = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        end = next(iter(stops), None) if isinstance(stops, (list, tuple)) else stops
        end = self.tokenizer.eos_token_id if end is None else end
        if end is None:
            raise InputError(
                f"judge {self.name!r} names no token that ends its answers, so it gives no likelihoods of texts; put "
                "its eos_token_id into its generation_config.json"
            )
        return int(end)

    @property
    def _describing(self) -> str:
        return self.form.describe if self.form is not None else self._asked(DESCRIBE)

    def _inputs(self, picture: Image.Image, text: str) -> dict[str, torch.Tensor]:
        """What the model is called with, for one picture and one text."""
        start = self.tokenizer.bos_token  # a template that writes it gets no second one
        once = {"add_special_tokens": False} if start and text.startswith(start) else {}
        made = self.processor(text=[text], images=[[picture]], return_tensors="pt", **once)
        made = made.to(self.device, self.model.dtype)
        return {k: v for k, v in made.items() if isinstance(v, torch.Tensor) and k != "labels"}

    def _tokens(self, picture: Image.Image, text: str) -> list[int]:
        """Token ids of a text with a picture; which ones depends on the picture's size alone."""
        key = (text, picture.size)
        if key not in self._ids:
            while len(self._ids) >= REMEMBERED:
                self._ids.pop(next(iter(self._ids)))
            self._ids[key] = self._inputs(picture, text)["input_ids"][0].tolist()
        return self._ids[key]

    def _begun(self, inputs: dict[str, torch.Tensor], length: int) -> tuple[Any, torch.Tensor]:
        """Keys and values of the first `length` tokens, all of the picture's among them, and the logits [1, V] after
        them.

        Raises:
            ValueError: if a token of the picture comes later.
        """
        config = self.model.config
        mark = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
        if mark in inputs["input_ids"][0, length:].tolist():
            raise ValueError("the questions part before the picture ends")
        head = {k: v[:, :length] if k in _OF_TOKENS else v for k, v in inputs.items()}
        out = self.model(**head, use_cache=True, **self._last)
        return out.past_key_values, out.logits[:, -1].float()

    def _gone_on(self, cache: Any, rows: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """Logits [T, V] of each row of tokens after what the cache holds. Shorter rows are padded on the right, where
        no token before sees it.
        """
        for start in range(0, len(rows), CHUNK):
            part = [torch.tensor(row, device=self.device) for row in rows[start : start + CHUNK]]
            ids = nn.utils.rnn.pad_sequence(part, batch_first=True)
            own = copy.deepcopy(cache)
            own.batch_repeat_interleave(len(part))
            logits = self.model(input_ids=ids, past_key_values=own, use_cache=True).logits
            for row, found in zip(part, logits, strict=True):
                yield found[: len(row)].float()


def _template(processor: Any) -> Any:
    """The chat template of a processor, or of its tokenizer; None if neither has one."""
    return getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)


def _check_asked(form: Form | None, template: Any, name: str) -> None:
    """Refuse a model that nobody says how to ask. Raises InputError."""
    if form is None and not template:
        raise InputError(
            f"judge {name!r} has no chat template, so how it is asked is not known; use a chat model, such as "
            "Qwen/Qwen3-VL-8B-Instruct"
        )


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    return next((i for i, column in enumerate(zip(*rows, strict=False)) if len(set(column)) > 1), min(map(len, rows)))
