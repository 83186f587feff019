"""Which characters of the prompt each token stands for that a network is told: found by dye, for any pipeline.

The states that the text encoders give are replaced by their own position. What `encode_prompt` then crops from a
template, stacks, pads, masks and joins shows in what the network gets: there each token says where it came from. The
tokenizers say which characters those positions are. So templates, stacked layers, padding on the left, several encoders
and textual inversions need no line of their own; and it shows which rows of the network's batch are the prompts', and
which the negative ones'.

Letters in shapes: B prompts, T tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

import torch

from accord.diffusion.opened import Left, Opened, swapped
from accord.diffusion.state import held, parts_of
from accord.types import InputError, a_kind

Span = tuple[int, int]
Spans = list["Span | None"]  # a token's characters in the prompt; None for templates, special tokens and padding

_DIGITS = 5  # channels of the dye
_BASE = 64  # positions are written in digits of this base, which half precision holds
_ENCODERS = tuple(("tokenizer" + n, "text_encoder" + n) for n in ("", "_2", "_3", "_4"))
_SENTINEL = "qzxj"  # a prompt that no template holds
_STATES = ("last_hidden_state", "hidden_states")


@dataclass(frozen=True)
class Texts:
    """What the network is told of B prompts.

    Attributes:
        spans: for each argument of the network with text in it, the spans of each prompt's tokens: [B][T].
        rows: the row of the network's batch that each prompt is in, [B].
        call: which call of the network within a step that is, from 0.
        shown: for each argument of the network that is a mask of tokens, how many it shows of each prompt's row, [B].
    """

    spans: dict[str, list[Spans]]
    rows: list[int]
    call: int
    shown: dict[str, list[int]] = field(default_factory=dict)

    @property
    def longest(self) -> str:
        """The argument that holds most of the words."""
        return max(self.spans, key=lambda name: sum(s is not None for spans in self.spans[name] for s in spans))


def read_texts(opened: Opened, prompts: Sequence[str]) -> Texts:
    """Follow the prompts through the pipeline's text encoders, all of a batch at once: padding depends on it.

    Raises:
        InputError: if the network is told nothing in which the prompts can be found.
    """
    if opened.prefixes is None:
        opened.prefixes = {}
        opened.prefixes = _followed(opened, [_SENTINEL])[1]
    return _followed(opened, prompts)[0]


def network_arguments(opened: Opened, prompts: Sequence[str]) -> dict[str, Any]:
    """What the network is given first in a run, by name, or by number if it has none."""

    def read(_network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise Left({str(i): a for i, a in enumerate(args)} | kwargs)

    with held(*parts_of(opened.pipe)), ExitStack() as stack:  # or another thread's run would be left
        for network in opened.networks:
            stack.callback(network.register_forward_pre_hook(read, with_kwargs=True).remove)
        return opened.until_left(prompts, remembered=True)


def text_states(opened: Opened, prompts: Sequence[str]) -> list[torch.Tensor]:
    """The states of each prompt's text, [T,D], as the network is given them by an unguided pipeline.

    Of several texts (two encoders, layers) it is the one that holds most of the words. A pipeline that pads a batch to
    its longest text is asked for each prompt by itself, so that none depends on the others.
    """
    if opened.text_layout is None:
        name = read_texts(opened, [_SENTINEL]).longest
        short, long = (_rows_told(opened, [text], name)[0] for text in (_SENTINEL, f"{_SENTINEL} {_SENTINEL}"))
        opened.text_layout = name, len(short) == len(long)
    name, together = opened.text_layout
    if together:
        return _rows_told(opened, prompts, name)
    return [_rows_told(opened, [prompt], name)[0] for prompt in prompts]


def _rows_told(opened: Opened, prompts: Sequence[str], name: str) -> list[torch.Tensor]:
    """[T,D] of each row of an argument of the network; layers of an encoder lie one after the other in D."""
    rows = _rows_of(network_arguments(opened, prompts)[name], name) or []
    if len(rows) != len(prompts):
        raise InputError(
            f"the network of {a_kind(opened.pipe)} is told other texts than the prompts' in an unguided run; "
            "use another pipeline"
        )
    return [row.flatten(1) for row in rows]


def _followed(opened: Opened, prompts: Sequence[str]) -> tuple[Texts, dict[int, int]]:
    """What the network is told, and how long each encoder's template is before a prompt."""
    pipe = opened.pipe
    # a negative prompt may hold the prompt itself
    neutral = {name: "" for name in opened.call if name.startswith("negative_prompt") and "embeds" not in name}
    with held(*parts_of(pipe)), swapped(opened, call={**opened.call, **neutral}), ExitStack() as stack:
        encoders = [
            _Dyed(number, getattr(pipe, tokenizer), stack, pipe, tokenizer, getattr(pipe, encoder))
            for number, (tokenizer, encoder) in enumerate(_ENCODERS, 1)
            if getattr(pipe, tokenizer, None) is not None and getattr(pipe, encoder, None) is not None
        ]
        expand = getattr(pipe, "maybe_convert_prompt", None)
        reader = _Reader(encoders, list(prompts), expand, opened.prefixes or {})

        def read(_network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            texts = reader.texts({str(i): a for i, a in enumerate(args)} | kwargs, opened.call_of_step)
            if texts is not None:
                raise Left(texts)

        for network in opened.networks:
            stack.callback(network.register_forward_pre_hook(read, with_kwargs=True).remove)
        found = opened.until_left(prompts)
    if not isinstance(found, Texts):
        raise InputError(
            f"the words of the prompt are not found in what the network of {a_kind(pipe)} is told; it can be "
            "run and scored here, but not repaired"
        )
    return found, {e.number: text.find(_SENTINEL) for e in encoders for text in e.texts if _SENTINEL in text}


class _Dyed:
    """One text encoder whose states are its positions, and its tokenizer, which remembers what it was given."""

    def __init__(self, number: int, inner: Any, stack: ExitStack, pipe: Any, name: str, encoder: Any) -> None:
        self.number, self.tokenizer = number, inner
        self.remembering = _Remembering(inner)
        self.calls: list[tuple[torch.Tensor, list[str]]] = []  # ids [B,T], and the texts that they are of
        stack.enter_context(swapped(pipe, **{name: self.remembering}))
        stack.callback(encoder.register_forward_pre_hook(self._before, with_kwargs=True).remove)
        stack.callback(encoder.register_forward_hook(self._after).remove)

    @property
    def texts(self) -> list[str]:
        return [text for _, texts in self.calls for text in texts]

    def _before(self, _encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        self.calls.append((ids, self.remembering.taken()))

    def _after(self, _encoder: Any, _args: Any, output: Any) -> Any:
        for name in _STATES:
            states = output.get(name) if hasattr(output, "get") else None
            if states is not None:
                output[name] = self._dyed(states) if torch.is_tensor(states) else tuple(map(self._dyed, states))
        return output

    def _dyed(self, states: torch.Tensor) -> torch.Tensor:
        """[B,T,D], whose first channels are the position in two digits, the encoder, its call and the row."""
        shape = tuple(self.calls[-1][0].shape)
        if tuple(states.shape[:2]) == shape[::-1] != shape:  # ChatGLM's are [T,B,D]
            return self._dyed(states.transpose(0, 1)).transpose(0, 1)
        rows, length = states.shape[:2]
        position = torch.arange(length, device=states.device)
        dye = torch.zeros_like(states)
        dye[..., 0], dye[..., 1] = (position % _BASE).to(states), (position // _BASE + 1).to(states)
        dye[..., 2], dye[..., 3] = self.number, len(self.calls)
        dye[..., 4] = torch.arange(1, rows + 1, device=states.device).to(states)[:, None]
        return dye


class _Remembering:
    """A tokenizer that remembers the texts that the thread which made it gives it; another one may measure its own."""

    def __init__(self, inner: Any) -> None:
        object.__setattr__(self, "inner", inner)
        object.__setattr__(self, "stands_for", inner)  # or another thread's call would change how this one pads
        object.__setattr__(self, "texts", [])
        object.__setattr__(self, "thread", threading.get_ident())

    def __call__(self, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == self.thread:
            self.texts.extend(_strings(text))
        return self.inner(text, *args, **kwargs)

    def apply_chat_template(self, conversation: Any, *args: Any, tokenize: bool = True, **kwargs: Any) -> Any:
        if tokenize:  # from the talk to tokens in one call
            prompted = kwargs.get("add_generation_prompt", False)
            written = self.inner.apply_chat_template(conversation, tokenize=False, add_generation_prompt=prompted)
            self.texts.extend(_strings(written))
        return self.inner.apply_chat_template(conversation, *args, tokenize=tokenize, **kwargs)

    def taken(self) -> list[str]:
        """The texts since the last call."""
        texts = list(self.texts)
        self.texts.clear()
        return texts

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)


class _Reader:
    """Reads the dye off what a network is given."""

    def __init__(
        self,
        encoders: list[_Dyed],
        prompts: list[str],
        expand: Callable[..., Any] | None,
        prefixes: Mapping[int, int],
    ) -> None:
        self.encoders = {e.number: e for e in encoders}
        self.prompts, self.expand, self.prefixes = prompts, expand, prefixes
        self._spans: dict[tuple[int, int, int, str], dict[int, Span]] = {}

    def texts(self, given: dict[str, Any], call: int) -> Texts | None:
        """None if no argument is of these prompts."""
        spans: dict[str, list[Spans]] = {}
        rows: list[int] = []
        for name, value in given.items():
            batch = _rows_of(value, name)
            if batch is None:
                continue
            found = self._prompts_in(batch)
            if found is not None:
                spans[name], rows = [s for _, s in found], [row for row, _ in found]
        masks = {n: v for n, v in given.items() if "mask" in n and torch.is_tensor(v) and v.dim() == 2}
        shown = {
            n: [int(v[row].bool().sum()) for row in rows] for n, v in masks.items() if len(v) > max(rows, default=0)
        }
        return Texts(spans, rows, call, shown) if spans else None

    def _prompts_in(self, batch: list[torch.Tensor]) -> list[tuple[int, Spans]] | None:
        """For each prompt the row that it is in, and its spans there; equal prompts take one row each."""
        taken: set[int] = set()
        found = []
        for prompt in self.prompts:
            best: tuple[int, Spans] | None = None
            for row, states in enumerate(batch):
                if row in taken:
                    continue
                spans = self._read(states, prompt)
                if any(s is not None for s in spans) and (best is None or _covered(spans) > _covered(best[1])):
                    best = row, spans
            if best is None:
                return None
            taken.add(best[0])
            found.append(best)
        return found

    def _read(self, states: torch.Tensor, prompt: str) -> Spans:
        """[T,D] to the spans of its tokens in a prompt; none of another text."""
        out: Spans = []
        if states.shape[-1] < _DIGITS:
            return out
        dye = states.float()[:, :_DIGITS]
        whole = (dye == dye.round()).all(-1).tolist()  # latents are not, and are among the arguments too
        for token, is_whole in zip(dye.tolist(), whole, strict=True):
            low, high, number, call, row = (int(v) if is_whole else 0 for v in token)
            encoder = self.encoders.get(number)
            dyed = encoder is not None and 1 <= call <= len(encoder.calls) and high >= 1
            dyed = dyed and 1 <= row <= len(encoder.calls[call - 1][0])  # type: ignore[union-attr]
            out.append(self._offsets(number, call, row, prompt).get((high - 1) * _BASE + low) if dyed else None)
        return out

    def _offsets(self, number: int, call: int, row: int, prompt: str) -> dict[int, Span]:
        """Position of a token in an encoder's call to its span in the prompt."""
        key = number, call, row, prompt
        if key not in self._spans:
            encoder = self.encoders[number]
            ids, texts = encoder.calls[call - 1]
            ids_of_row = ids[row - 1].tolist()
            # texts may be said several times, to be counted or as a template; those of this row, as a prompt may stand
            # in another row's too ("a flag" in "a picture of a flag")
            own = texts[row - 1 :: len(ids)] if len(texts) % len(ids) == 0 else texts
            text = own[0] if len(own) == 1 else next((t for t in own if prompt in t), "")
            expanded = prompt if self.expand is None else self.expand(prompt, encoder.tokenizer)
            self._spans[key] = _spans_in(
                encoder.tokenizer, ids_of_row, text, prompt, expanded, self.prefixes.get(number, 0)
            )
        return self._spans[key]


def _spans_in(tokenizer: Any, ids: list[int], text: str, prompt: str, expanded: str, prefix: int) -> dict[int, Span]:
    """Position to span in the prompt, for tokens `ids` of a text that holds the prompt, or what it was expanded to.

    Args:
        prefix: how long the template is before it, which may hold the prompt's words too.
    """
    start, said = -1, ""
    for said in (expanded, expanded.strip(), expanded.lower().strip()):  # some pipelines clean what they are given
        start = text.find(said, prefix) if said else -1
        if start >= 0:
            break
    if start < 0:
        return {}
    origin = _origin(said, prompt)
    spans = {}
    for position, (low, high) in _offsets_of(tokenizer, text, ids).items():
        chars = [c for i in range(max(low - start, 0), min(high - start, len(said))) if (c := origin[i]) is not None]
        if chars:
            spans[position] = min(chars), max(chars) + 1
    return spans


def _origin(said: str, prompt: str) -> list[int | None]:
    """For each character of what was said, the one of the prompt: what a textual inversion adds belongs to the last
    character of its placeholder.
    """
    if said == prompt:
        return list(range(len(prompt)))
    origin: list[int | None] = [None] * len(said)
    for block in SequenceMatcher(None, said.lower(), prompt.lower(), autojunk=False).get_matching_blocks():
        for i in range(block.size):
            origin[block.a + i] = block.b + i
    last = None
    for i, char in enumerate(origin):
        last = char if char is not None else last
        origin[i] = last
    return origin


def _offsets_of(tokenizer: Any, text: str, ids: list[int]) -> dict[int, Span]:
    """Position to characters of the text, for those of its tokens among `ids`, which may be padded or cut."""
    if getattr(tokenizer, "is_fast", False):
        own = tokenizer(text, return_offsets_mapping=True, add_special_tokens=True)
        of_text, where = list(own["input_ids"]), own["offset_mapping"]
        start = _find(of_text, ids)
        if start is None:  # cut: as far as the two agree
            start = 0
            agree = next((n for n, (a, b) in enumerate(zip(of_text, ids, strict=False)) if a != b), len(ids))
            where = where[:agree]
        return {start + i: (a, b) for i, (a, b) in enumerate(where) if a < b}
    spans, done, lower = {}, 0, text.lower()
    special = set(getattr(tokenizer, "all_special_ids", ()))
    for position, token in enumerate(ids):  # a slow one says no offsets: by what its tokens say
        said = "" if token in special else tokenizer.decode([token]).lower().strip()
        found = lower.find(said, done) if said else -1
        if found >= 0:
            spans[position] = found, found + len(said)
            done = found + len(said)
    return spans


def _find(part: list[int], whole: list[int]) -> int | None:
    return next((i for i in range(len(whole) - len(part) + 1) if whole[i : i + len(part)] == part), None)


def _rows_of(value: Any, name: str) -> list[torch.Tensor] | None:
    """[T,D] for each row of the batch, of an argument that may be text; None for others."""
    if isinstance(value, list) and value and all(torch.is_tensor(v) and v.dim() == 2 for v in value):
        return value  # a list of texts of their own lengths
    if not torch.is_tensor(value) or not value.is_floating_point():
        return None
    if value.dim() == 3:
        return list(value)
    if value.dim() == 4 and name.endswith("llama3"):  # [layers, B, T, D]
        return list(value[0])
    return list(value[:, :, 0]) if value.dim() == 4 else None  # [B, T, layers, D]


def _covered(spans: Spans) -> int:
    return sum(s is not None for s in spans)


def _strings(text: Any) -> list[str]:
    if isinstance(text, str):
        return [text]
    return [s for t in text for s in _strings(t)] if isinstance(text, (list, tuple)) else []
