"""Chat models that see pictures, as judges: any `AutoModelForImageTextToText` with a chat template, and PaliGemma.

All questions on a picture begin with the same tokens, the picture's among them. They go through the model once; each
question goes on from their keys and values. Whether a model allows that is tried out on its first questions: one that
lets the picture attend to the question, say, does not, and is asked one by one. Pictures of one size go through the
model together, which is tried out likewise.

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
from accord.judges.pixels import follow, is_known
from accord.judges.processors import load_processor
from accord.judges.protocol import Question
from accord.judges.questions import by_questions
from accord.types import InputError, Notice, Prompt, WordScore

DESCRIBE = "Describe this picture in one sentence."
TOGETHER = 4  # pictures of one size that are encoded at once
CHUNK = 16  # questions, or texts, that go on from them at once
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
        batches: whether pictures of one size are encoded together; None until it is tried out.
        differentiable: whether pictures have a gradient in its probabilities and likelihoods.
        regions: how it sees a region of a picture: "crop", or "box" for the whole picture with a box drawn in it.
    """

    any_size = True
    image_size = 448  # of regions, which are cropped to squares
    lexicon = DEFAULT
    writes = True  # captions

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model, self.processor, self.name = model, processor, name
        self.tokenizer = processor.tokenizer
        self.shares: bool | None = None
        self.batches: bool | None = None
        self.regions = "crop"
        self.differentiable = is_known(processor.image_processor)
        self.template = _template(processor)
        self.form = FORMS.get(model.config.model_type)
        _check_asked(self.form, self.template, name)
        # logits of the last token alone, where a model can leave out the rest
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        self._known: dict[tuple[str, tuple[int, int]], list[int]] = {}

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
        return [p.cpu().numpy() for p in self.probabilities(images, questions, image_of)]

    def probabilities(
        self, images: torch.Tensor, questions: Sequence[Question], image_of: Sequence[int]
    ) -> list[torch.Tensor]:
        """As `answer`, with the gradient of pictures that ask for one.

        Raises:
            InputError: for pictures that ask for a gradient, if the judge is not `differentiable`.
        """
        out: list[torch.Tensor] = [torch.zeros(0)] * len(questions)
        for seen, own in self._groups(images, image_of):
            asked = [[self._asked(questions[k].text) for k in rows] for rows in own]
            with held(self.model), torch.set_grad_enabled(seen.has_gradient):
                for rows, logits in zip(own, self._answered(seen, asked), strict=True):
                    for k, row in zip(rows, logits.softmax(-1).double(), strict=True):
                        out[k] = self._weighed(row, questions[k])
        return out

    @torch.no_grad()
    def answer_logits(self, picture: Image.Image, questions: Sequence[str]) -> torch.Tensor:
        """Logits [Q, V] of the first token of the answers to questions on one picture."""
        with held(self.model):
            return self._answered(_Seen([picture]), [[self._asked(q) for q in questions]])[0]

    def _groups(self, images: torch.Tensor, image_of: Sequence[int]) -> Iterator[tuple[_Seen, list[list[int]]]]:
        """Pictures that something is asked about, so many as are encoded together, and what is asked about each: rows
        of `image_of`.
        """
        graded = images.requires_grad and torch.is_grad_enabled()
        if graded and not self.differentiable:
            raise InputError(
                f"judge {self.name!r} gives no gradients: how {type(self.processor.image_processor).__name__} prepares "
                "pictures is not known with gradients; use a Qwen-VL, SmolVLM, LLaVA or PaliGemma, or a BLIP"
            )
        pictures = to_pil(images.detach())
        own = [[k for k, of in enumerate(image_of) if of == i] for i in range(len(pictures))]
        wanted = [i for i, rows in enumerate(own) if rows]
        if len(wanted) > 1 and self.batches is None:
            first = _Seen([pictures[i] for i in wanted[:TOGETHER]])
            with held(self.model):
                self.batches = self._is_same(first, [[self._describing]] * len(first.pictures))
        step = TOGETHER if self.batches else 1
        for start in range(0, len(wanted), step):
            part = wanted[start : start + step]
            yield _Seen([pictures[i] for i in part], images[part] if graded else None), [own[i] for i in part]

    def _answered(self, seen: _Seen, texts: Sequence[Sequence[str]]) -> list[torch.Tensor]:
        """Logits [Q, V] of the first token after each text, for each picture. The model is held: Qwen's remembers the
        place of the picture it saw last.
        """
        several = [i for i, own in enumerate(texts) if len(own) > 1]
        every = list(seen.each())
        if several and self.shares is None:
            self.shares = self._is_same(every[several[0]], [texts[several[0]]])
            if not self.shares:
                warnings.warn(
                    f"judge {self.name!r} answers otherwise when its questions share one encoding of the picture; "
                    "they are asked one by one, which takes longer",
                    Notice,
                    stacklevel=2,
                )
        if self.shares if several else len(every) > 1:
            return self._together(seen, texts)
        return [torch.cat([self._alone(one, t) for t in own]) for one, own in zip(every, texts, strict=True)]

    def _alone(self, seen: _Seen, text: str) -> torch.Tensor:
        return self.model(**self._inputs(seen, text), **self._last).logits[:, -1].float()

    def _together(self, seen: _Seen, texts: Sequence[Sequence[str]]) -> list[torch.Tensor]:
        """As `_alone` of each text, [Q, V] a picture, from one encoding of what they begin with."""
        rows = [[self._tokens(seen.pictures[0], text) for text in own] for own in texts]
        every = [row for own in rows for row in own]
        shared = min(_common(every), min(map(len, every)) - 1)
        cache, _ = self._begun(self._inputs(seen, texts[0][0]), shared)
        out: list[list[torch.Tensor]] = [[] for _ in texts]
        for i, _, logits in self._gone_on(cache, [[row[shared:] for row in own] for own in rows]):
            out[i].append(logits[-1])
        return [torch.stack(own) for own in out]

    @torch.no_grad()
    def _is_same(self, seen: _Seen, texts: Sequence[Sequence[str]]) -> bool:
        """Whether the first, the shortest and the longest text on each picture have the same answers alone and
        together.
        """
        try:
            together = self._together(seen, texts)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError):
            return False  # its cache is none that can be gone on from
        limit = max(1e-3, 16 * torch.finfo(self.model.dtype).eps)
        for one, own, found in zip(seen.each(), texts, together, strict=True):
            lengths = [len(self._tokens(one.pictures[0], text)) for text in own]
            tried = sorted({0, int(np.argmin(lengths)), int(np.argmax(lengths))})
            alone = torch.cat([self._alone(one, own[k]) for k in tried])
            off = (found[tried] - alone).std(-1) / alone.std(-1).clamp_min(1e-12)
            if not off.max() < limit:
                return False
        return True

    def _weighed(self, probabilities: torch.Tensor, question: Question) -> torch.Tensor:
        """Of the answers of a question [A], from those of all tokens [V]."""
        begins = [{t for spelling in spellings for t in self.first_tokens(spelling)} for spellings in question.answers]
        out = []
        for i, tokens in enumerate(begins):
            own = tokens.difference(*(other for k, other in enumerate(begins) if k != i))
            out.append(probabilities[sorted(own)].sum() if own else probabilities.new_tensor(torch.nan))
        return torch.stack(out)

    def first_tokens(self, spelling: str) -> set[int]:
        """The tokens that an answer can begin with: of the spelling alone, after a space, and after a line break."""
        found = set()
        for before in ("", " ", "\n"):
            written, lead = self._ids(before + spelling), self._ids(before) if before == "\n" else []
            if written[: len(lead)] == lead:  # else the break and the word are one token
                found |= set(written[len(lead) : len(lead) + 1])
        return {t for t in found if self.tokenizer.decode([t]).strip()}

    # captions and likelihoods ---------------------------------------------------------------------------------------
    @torch.no_grad()
    def caption(self, images: torch.Tensor, max_new_tokens: int = 48, text: str | None = None) -> list[str]:
        """What it says of each picture [I,3,H,W] in 0..1 when it is asked for one sentence, greedily.

        Args:
            text: what it is asked, if not for a description of the picture.
        """
        out = []
        asked = self._describing if text is None else self._asked(text)
        with held(self.model):
            for picture in to_pil(images):
                inputs = self._inputs(_Seen([picture]), asked)
                tokens = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
                with held(self.tokenizer):
                    said = self.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
                lines = said.strip().splitlines()
                out.append(lines[0].strip() if lines else "")
        return out

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """The pictures themselves, [I,3,H,W], for `log_likelihood`."""
        return images

    def log_likelihood(self, states: torch.Tensor, texts: list[str], image_of: list[int]) -> torch.Tensor:
        """log P(text | image) as its answer when it is asked for one sentence, end token included, [B]; with the
        gradient of pictures that ask for one.

        Args:
            states: pictures [I,3,H,W] in 0..1.
            texts: B texts.
            image_of: for each text the index of its picture.

        Raises:
            InputError: for a model that names no token that ends its answers, or pictures that ask for a gradient if
                the judge is not `differentiable`.
        """
        out: list[torch.Tensor] = [torch.zeros(0)] * len(texts)
        end = self._end
        for seen, own in self._groups(states, image_of):
            rows = [[[*self._ids(texts[k]), end] for k in ks] for ks in own]
            with held(self.model), torch.set_grad_enabled(seen.has_gradient):
                inputs = self._inputs(seen, self._describing)
                cache, first = self._begun(inputs, inputs["input_ids"].shape[1])
                for i, k, logits in self._gone_on(cache, rows):
                    logs = torch.cat([first[i : i + 1], logits[:-1]]).log_softmax(-1)
                    row = torch.tensor(rows[i][k], device=logs.device)
                    out[own[i][k]] = logs.gather(-1, row[:, None]).sum()
        return torch.stack(out) if out else torch.zeros(0, device=self.device)

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

    def _inputs(self, seen: _Seen, text: str) -> dict[str, torch.Tensor]:
        """What the model is called with, for pictures of one size and one text, which is the same for all of them."""
        start = self.tokenizer.bos_token  # a template that writes it gets no second one
        once = {"add_special_tokens": False} if start and text.startswith(start) else {}
        count = len(seen.pictures)
        with held(self.tokenizer):
            made = self.processor(text=[text] * count, images=[[p] for p in seen.pictures], return_tensors="pt", **once)
        if seen.images is not None:
            made["pixel_values"] = follow(self.processor.image_processor, seen.images, made["pixel_values"])
        made = made.to(self.device, self.model.dtype)
        return {k: v for k, v in made.items() if isinstance(v, torch.Tensor) and k != "labels"}

    def _tokens(self, picture: Image.Image, text: str) -> list[int]:
        """Token ids of a text with a picture; which ones depends on the picture's size alone."""
        key = (text, picture.size)
        if key not in self._known:
            while len(self._known) >= REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[key] = self._inputs(_Seen([picture]), text)["input_ids"][0].tolist()
        return self._known[key]

    def _ids(self, text: str) -> list[int]:
        """Token ids of a text by itself."""
        with held(self.tokenizer):
            return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _begun(self, inputs: dict[str, torch.Tensor], length: int) -> tuple[Any, torch.Tensor]:
        """Keys and values of the first `length` tokens, all of the pictures' among them, and the logits [I, V] after
        them.

        Raises:
            ValueError: if a token of a picture comes later.
        """
        config = self.model.config
        mark = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
        if mark in inputs["input_ids"][0, length:].tolist():
            raise ValueError("the questions part before the picture ends")
        head = {k: v[:, :length] if k in _OF_TOKENS else v for k, v in inputs.items()}
        out = self.model(**head, use_cache=True, **self._last)
        return out.past_key_values, out.logits[:, -1].float()

    def _gone_on(self, cache: Any, rows: Sequence[Sequence[Sequence[int]]]) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Each row of tokens after what the cache holds of its picture: the picture, the row's number, logits [T, V].

        Shorter rows are padded on the right, where no token before sees it. All pictures go on with as many rows, as
        models expect of a batch: one that has fewer gets rows that nobody reads.
        """
        step = max(1, CHUNK // len(rows))
        for start in range(0, max(map(len, rows)), step):
            parts = [own[start : start + step] for own in rows]
            count = max(map(len, parts))
            filled = [row for part in parts for row in [*part, *[[0]] * (count - len(part))]]
            ids = nn.utils.rnn.pad_sequence([torch.tensor(row, device=self.device) for row in filled], batch_first=True)
            own = _copied(cache)
            own.batch_repeat_interleave(count)
            logits = self.model(input_ids=ids, past_key_values=own, use_cache=True).logits
            for i, part in enumerate(parts):
                for k, row in enumerate(part):
                    yield i, start + k, logits[i * count + k, : len(row)].float()


@dataclass(frozen=True)
class _Seen:
    """Pictures of one size that a model is shown together.

    Attributes:
        images: the same, [I,3,H,W] in 0..1, if they ask for a gradient.
    """

    pictures: list[Image.Image]
    images: torch.Tensor | None = None

    @property
    def has_gradient(self) -> bool:
        return self.images is not None

    def each(self) -> Iterator[_Seen]:
        """One by one."""
        for i, picture in enumerate(self.pictures):
            yield _Seen([picture], None if self.images is None else self.images[i : i + 1])


def _copied(cache: Any) -> Any:
    """A cache that may be gone on from. Tensors with a gradient are shared: a layer that grows makes new ones.

    Raises:
        InputError: for a cache with a gradient whose layers change their tensors.
    """
    from transformers.cache_utils import DynamicLayer

    if not torch.is_grad_enabled():
        return copy.deepcopy(cache)
    other = next((layer for layer in cache.layers if not isinstance(layer, DynamicLayer)), None)
    if other is not None:
        raise InputError(
            f"no gradient goes through the {type(other).__name__} of this judge; use another one, or a reward without "
            "gradients"
        )
    own = copy.copy(cache)
    own.layers = [copy.copy(layer) for layer in cache.layers]
    return own


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
