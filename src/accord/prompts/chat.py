"""A parse by a chat model, for prompts that are long or written freely: asked for the same content, and believed only
where the prompt's own words bear it. Off unless somebody asks for it; the built-in parse stands where it fails.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from accord.files import parse_json, read_json, write_file
from accord.prompts import lexicon
from accord.prompts.parse import Absence, Action, Attribute, Count, Parse, Relation, RelationName, Span, Style, Thing
from accord.prompts.parser import parse
from accord.prompts.things import attribute_kind
from accord.types import InputError, Notice, reason_of

Chat = Callable[[str, str], str]  # (instructions, prompt) to the model's answer

INSTRUCTIONS = """\
Take the text-to-image prompt of the user apart. Answer with one JSON object and nothing else:
{"things": [{"head": noun, "compound": noun with the words that make it another noun, "count": number or null, \
"attributes": [words]}], "relations": [[subject, name, object, words]], "actions": [[subject, verb, object or null]], \
"absent": [nouns], "style": [words]}
Every word is copied from the prompt as it is written there. Things are what one should see, in the order of the text; \
media, style, light and the background are no things. A count is a number only where the prompt says how many; one for \
"a" and for a singular, null for a plural without a number. Attributes are the adjectives of a thing, its colour, size \
and material. Subject and object are indices of things, from 0. A relation's name is one of left, right, above, below, \
on, near, inside, front, behind, and its words are those that say it. Absent is what is not to be seen: "no cars", \
"without a hat". Style is the words about the picture and not what is in it.
Example: "oil painting of two red foxes chasing a ball next to a fire hydrant, no people, 8k" gives
{"things": [{"head": "foxes", "compound": "foxes", "count": 2, "attributes": ["red"]}, {"head": "ball", "compound": \
"ball", "count": 1, "attributes": []}, {"head": "hydrant", "compound": "fire hydrant", "count": 1, "attributes": []}], \
"relations": [[0, "near", 2, "next to"]], "actions": [[0, "chasing", 1]], "absent": ["people"], "style": \
["oil painting", "8k"]}
"""
MOST_THINGS = 200
_OPENAI = "api.openai.com"
_TIMEOUT = 120.0  # seconds that an endpoint may take
_ANSWER_TOKENS = 4096
_NEAR = 40  # letters between a noun and the words before or after it that belong to its phrase


class Endpoint:
    """A chat model behind an OpenAI-compatible address.

    Args:
        address: "https://host/v1", or "https://host/v1#model" where it serves several.
        key: sent as a bearer token. If None the environment's ACCORD_PARSER_KEY, or OPENAI_API_KEY where the address is
            https://api.openai.com and no other.

    Raises:
        InputError: for an address that is none.
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        import httpx

        base, _, self.model = address.partition("#")
        self.base = base.rstrip("/")
        try:
            url = httpx.URL(self.base)
        except (httpx.InvalidURL, ValueError) as error:
            raise InputError(f"parser {address!r} is no address ({reason_of(error)}); give https://HOST/v1") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise InputError(f"parser {address!r} is no address; give https://HOST/v1, with #MODEL if it has several")
        key = key or os.environ.get("ACCORD_PARSER_KEY")
        if not key and (url.scheme, url.host, url.port) == ("https", _OPENAI, None):
            key = os.environ.get("OPENAI_API_KEY")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    @property
    def name(self) -> str:
        return f"{self.base}#{self.model}"

    def __call__(self, instructions: str, prompt: str) -> str:
        import httpx

        with httpx.Client(timeout=_TIMEOUT, headers=self.headers) as client:
            if not self.model:
                self.model = client.get(f"{self.base}/models").raise_for_status().json()["data"][0]["id"]
            answer = client.post(
                f"{self.base}/chat/completions",
                json={
                    "model": self.model,
                    "messages": _messages(instructions, prompt),
                    "temperature": 0,
                    "max_tokens": _ANSWER_TOKENS,
                },
            )
            return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])


class LocalChat:
    """A chat model of transformers, from a folder or hub id.

    Raises:
        InputError: for a model that cannot be read, or has no chat template.
    """

    def __init__(self, model: str, device: str = "cpu", max_new_tokens: int = _ANSWER_TOKENS) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.name, self.max_new_tokens = model, max_new_tokens
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(model)
            self.network = AutoModelForCausalLM.from_pretrained(model).eval().to(device)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise InputError(
                f"parser {model!r} cannot be read ({reason_of(error)}); give https://HOST/v1, a folder or a hub id"
            ) from error
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError(f"parser {model!r} has no chat template; use a model that was tuned for chat")

    def __call__(self, instructions: str, prompt: str) -> str:
        import torch

        told = self.tokenizer.apply_chat_template(
            _messages(instructions, prompt), add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self.network.device)
        with torch.no_grad():
            out = self.network.generate(**told, max_new_tokens=self.max_new_tokens, do_sample=False)
        return str(self.tokenizer.decode(out[0, told["input_ids"].shape[1] :], skip_special_tokens=True))


class ChatParser:
    """`parse` by a chat model, with the built-in parse where its answer does not hold.

    Args:
        chat: an `Endpoint`, a `LocalChat`, or any function from (instructions, prompt) to an answer.
        cache: folder of answers; a prompt is asked once. None keeps nothing.
        spacy_model: of the built-in parse.
    """

    def __init__(self, chat: Chat, cache: Path | None = None, spacy_model: str | None = None) -> None:
        self.chat, self.cache, self.spacy_model = chat, cache, spacy_model

    def __call__(self, prompt: str) -> Parse:
        """The parse of a prompt.

        A prompt whose answer is missing or does not hold gets the built-in parse, and a `Notice` says why.

        Raises:
            InputError: as `parser.parse`.
        """
        built_in = parse(prompt, self.spacy_model)
        if built_in.language != "en":
            return built_in
        try:
            return checked(built_in, self._answer(built_in.plain))
        except Exception as error:  # of any network, server or model: the built-in parse is there
            warnings.warn(
                f"the parser's answer to {prompt[:40]!r} was not used ({reason_of(error)}); the built-in parse was",
                Notice,
                stacklevel=2,
            )
            return built_in

    def _answer(self, text: str) -> Mapping[str, Any]:
        place = self._place(text)
        if place is not None and place.exists():
            return read_json(place, "answer")
        said = self.chat(INSTRUCTIONS, text)
        found = re.search(r"\{.*\}", said, re.DOTALL)  # models like to put it into a fence
        answer = parse_json(found[0]) if found else None
        if not isinstance(answer, dict):
            raise ValueError("it holds no JSON object")
        if place is not None:
            write_file(place, json.dumps(answer).encode())
        return answer

    def _place(self, text: str) -> Path | None:
        if self.cache is None:
            return None
        asked = "\x00".join((getattr(self.chat, "name", type(self.chat).__name__), INSTRUCTIONS, text))
        return self.cache / f"{hashlib.sha256(asked.encode()).hexdigest()[:32]}.json"


def load_chat(name: str, device: str = "cpu") -> Chat:
    """The chat model behind an address (http:// or https://), or of a folder or hub id.

    Raises:
        InputError: as `Endpoint` and `LocalChat`.
    """
    return Endpoint(name) if "://" in name else LocalChat(name, device)


def checked(built_in: Parse, answer: Mapping[str, Any]) -> Parse:
    """What an answer says, in the types of a parse, with the spans of its words.

    Args:
        built_in: the parse of the same prompt; what was stripped, quoted, the language and the background are its own.
        answer: as `INSTRUCTIONS` ask for it.

    Raises:
        ValueError: for an answer of another form, or with words or numbers that the prompt does not have.
    """
    words = _Words(built_in)
    rows = _list(answer, "things")
    if len(rows) > MOST_THINGS:
        raise ValueError(f"it has {len(rows)} things")
    things = tuple(words.thing(row) for row in rows)
    relations, actions = [], []
    for row in _list(answer, "relations"):
        subject, name, object_, said = _row(row, 4)
        if name not in get_args(RelationName):
            raise ValueError(f"{name!r} is no relation")
        relations.append(Relation(_index(subject, things), name, _index(object_, things), words.find(said)))
    for row in _list(answer, "actions"):
        subject, verb, object_ = _row(row, 3)
        target = None if object_ is None else _index(object_, things)
        actions.append(Action(_index(subject, things), words.find(verb), target))
    absences = [words.find(noun) for noun in _list(answer, "absent")]
    styles = [words.find(text) for text in _list(answer, "style")]
    found = replace(
        built_in,
        things=things,
        relations=tuple(relations),
        actions=tuple(actions),
        places=(),
        absences=tuple(Absence(s.text, s.start, s.end, _last_word(s), s) for s in absences),
        styles=tuple(Style(s.text, s.start, s.end, "style") for s in styles),
        quoted=tuple(replace(q, thing=None) for q in built_in.quoted),
    )
    return replace(found, unjudged=_rest(found))


class _Words:
    """Finds the words of an answer in the prompt."""

    def __init__(self, parsed: Parse) -> None:
        self.prompt = parsed.prompt
        text = list(parsed.prompt.lower())
        for part in parsed.stripped:
            if part.kind not in ("weight", "alternative", "break", "markup"):
                text[part.start : part.end] = "\x00" * (part.end - part.start)
        self.text = "".join(text)
        self.taken: set[tuple[int, int]] = set()  # heads

    def places(self, said: Any) -> list[Span]:
        """Everywhere that some words stand."""
        if not isinstance(said, str) or not said.strip():
            raise ValueError(f"{said!r} stands where words should")
        pattern = r"[\s\-_]+".join(re.escape(w) for w in re.split(r"[\s\-_]+", said.lower().strip()) if w)
        spans = [m.span() for m in re.finditer(rf"(?<!\w){pattern}(?!\w)", self.text)]
        if not spans:
            raise ValueError(f"the prompt does not say {said!r}")
        return [Span(self.prompt[a:b], a, b) for a, b in spans]

    def find(self, said: Any, near: int = 0) -> Span:
        """The place of some words that is nearest to a character."""
        return min(self.places(said), key=lambda s: abs(s.start - near))

    def thing(self, row: Any) -> Thing:
        """A thing of the answer: its noun at the first place that no thing before it has, else at the last one."""
        if not isinstance(row, dict):
            raise ValueError("a thing is no object")
        head_said = row.get("head")
        compounds = self.places(row.get("compound") or head_said)
        compound = next((s for s in compounds if (s.start, s.end) not in self.taken), compounds[-1])
        self.taken.add((compound.start, compound.end))
        inside = [s for s in self.places(head_said) if compound.start <= s.start and s.end <= compound.end]
        if not inside:
            raise ValueError(f"{head_said!r} is not in {compound.text!r}")
        head = inside[-1]
        attributes = sorted({self.find(a, compound.start) for a in _list(row, "attributes")}, key=lambda s: s.start)
        noted = tuple(Attribute(s.text, s.start, s.end, attribute_kind(_last_word(s).text.lower())) for s in attributes)
        count = self._count(row.get("count"), compound.start)
        parts = [compound, *(p for p in (*attributes, count.said) if p and abs(p.start - compound.start) < _NEAR)]
        start, end = min(p.start for p in parts), max(p.end for p in parts)
        return Thing(self.prompt[start:end], start, end, head, compound, count, noted)

    def _count(self, number: Any, near: int) -> Count:
        if number is None:
            return Count()
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{number!r} is no count")
        if number == 1:
            return Count("exact", 1)
        names = {str(number)} | {w for t in (lexicon.NUMBERS, lexicon.FIXED) for w, n in t.items() if n == number}
        said = [m for m in re.finditer(r"[^\W_]+", self.text) if m[0] in names]
        if not said:
            raise ValueError(f"the prompt does not say {number}")
        first = min(said, key=lambda m: abs(m.start() - near))
        return Count("exact", number, Span(self.prompt[first.start() : first.end()], *first.span()))


def _messages(instructions: str, prompt: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": instructions}, {"role": "user", "content": prompt}]


def _list(found: Mapping[str, Any], name: str) -> list[Any]:
    value = found.get(name, [])
    if not isinstance(value, list):
        raise ValueError(f"{name} is no list")
    return value


def _row(row: Any, length: int) -> list[Any]:
    if not isinstance(row, list) or len(row) != length:
        raise ValueError(f"{row!r} has not {length} parts")
    return row


def _index(i: Any, things: tuple[Thing, ...]) -> int:
    if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < len(things):
        raise ValueError(f"{i!r} is the index of no thing")
    return i


def _last_word(span: Span) -> Span:
    start = span.start + max(span.text.rfind(" "), span.text.rfind("-")) + 1
    return Span(span.text[start - span.start :], start, span.end)


def _rest(found: Parse) -> tuple[Span, ...]:
    """The words that no part holds, short words of grammar aside."""
    held = [*found.things, *found.grounds, *found.absences, *found.quoted, *found.styles, *found.stripped]
    spans = [(p.start, p.end) for p in held] + [(r.said.start, r.said.end) for r in found.relations]
    spans += [(a.verb.start, a.verb.end) for a in found.actions]
    spans += [(a.start, a.end) for t in found.things for a in t.attributes]
    spans += [(t.count.said.start, t.count.said.end) for t in found.things if t.count.said]
    return tuple(
        Span(m[0], *m.span())
        for m in re.finditer(r"[^\W_]+(?:['’-][^\W_]+)*", found.prompt)
        if m[0].lower() not in _GRAMMAR and not any(a <= m.start() < b for a, b in spans)
    )


_GRAMMAR = frozenset(
    "a an the this that these those its his her their and or of in on at to from by with for is are was were be been "
    "being has have it he she they there here who which while as no not without nor but".split()
)
