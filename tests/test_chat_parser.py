"""A parse by a chat model: what it says is believed where the prompt bears it, and the built-in parse stands else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from accord.prompts.chat import ChatParser, Endpoint, LocalChat, checked, load_chat
from accord.prompts.parser import parse
from accord.types import InputError, Notice

PROMPT = "Two red foxes chase a ball next to a fire hydrant, no people, 8k"
ANSWER: dict[str, Any] = {
    "things": [
        {"head": "foxes", "compound": "foxes", "count": 2, "attributes": ["red"]},
        {"head": "ball", "compound": "ball", "count": 1, "attributes": []},
        {"head": "hydrant", "compound": "fire hydrant", "count": 1, "attributes": []},
    ],
    "relations": [[0, "near", 2, "next to"]],
    "actions": [[0, "chase", 1]],
    "absent": ["people"],
    "style": ["8k"],
}


def changed(**parts: Any) -> dict[str, Any]:
    return ANSWER | parts


def test_an_answer_becomes_a_parse_with_the_spans_of_its_words() -> None:
    found = checked(parse(PROMPT), ANSWER)
    assert [(t.compound.text, t.count.exact, [(a.text, a.kind) for a in t.attributes]) for t in found.things] == [
        ("foxes", 2, [("red", "color")]),
        ("ball", 1, []),
        ("fire hydrant", 1, []),
    ]
    assert found.things[0].count.said is not None and found.things[0].count.said.text == "Two"
    assert [(r.subject, r.name, r.object, r.said.text) for r in found.relations] == [(0, "near", 2, "next to")]
    assert [(a.subject, a.verb.text, a.object) for a in found.actions] == [(0, "chase", 1)]
    assert [a.text for a in found.absences] == ["people"] and [s.text for s in found.styles] == ["8k"]
    spans = [*found.things, *(t.head for t in found.things), *found.absences, *found.styles, found.actions[0].verb]
    assert all(PROMPT[s.start : s.end] == s.text for s in spans)
    assert not found.unjudged


def test_words_that_the_answer_leaves_out_are_unjudged() -> None:
    found = checked(parse(PROMPT), changed(actions=[], style=[]))
    assert [u.text for u in found.unjudged] == ["chase", "8k"]


def test_the_same_noun_twice_is_two_places() -> None:
    prompt = "a red cup beside a blue cup"
    rows = [{"head": "cup", "count": 1, "attributes": [c]} for c in ("red", "blue")]
    found = checked(parse(prompt), {"things": rows, "relations": [[0, "near", 1, "beside"]]})
    assert [t.text for t in found.things] == ["red cup", "blue cup"]


@pytest.mark.parametrize(
    "answer",
    [
        {"things": "foxes"},
        {"things": ["foxes"]},
        {"things": [{"head": "wolves"}]},
        {"things": [{"head": "foxes", "compound": "ball"}]},
        {"things": [{"head": "foxes", "count": 7}]},
        {"things": [{"head": "foxes", "count": True}]},
        {"things": [{"head": "foxes", "count": -1}]},
        {"things": [{"head": "foxes", "attributes": ["blue"]}]},
        {"things": [{"head": "foxes", "attributes": [["red"]]}]},
        {"things": [{"head": "fox"}]},  # not as it is written
        changed(relations=[[0, "near", 3, "next to"]]),
        changed(relations=[[0, "besides", 2, "next to"]]),
        changed(relations=[[0, "near", 2]]),
        changed(relations=[[0, "near", 2, "beneath"]]),
        changed(actions=[[True, "chase", 1]]),
        changed(absent=["cars"]),
        changed(style=[8]),
        {"things": [{"head": "ball"}] * 300},
    ],
)
def test_an_answer_that_the_prompt_does_not_bear_is_not_used(answer: dict[str, Any]) -> None:
    with pytest.warns(Notice, match="was not used") as said:
        assert ChatParser(lambda *_: json.dumps(answer))(PROMPT) == parse(PROMPT)
    assert len(said) == 1


@pytest.mark.parametrize("text", ["", "I cannot do that.", "{", "[1]", '{"things": NaN}'])
def test_an_answer_that_is_no_json_is_not_used(text: str) -> None:
    with pytest.warns(Notice, match="was not used"):
        assert ChatParser(lambda *_: text)(PROMPT) == parse(PROMPT)


def test_a_fence_around_the_answer_is_no_matter() -> None:
    said = f"Here you are:\n```json\n{json.dumps(ANSWER)}\n```"
    assert ChatParser(lambda *_: said)(PROMPT) == checked(parse(PROMPT), ANSWER)


def test_an_answer_is_asked_for_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def chat(instructions: str, prompt: str) -> str:
        asked.append(prompt)
        return json.dumps(ANSWER)

    first = ChatParser(chat, tmp_path)(PROMPT)
    assert ChatParser(chat, tmp_path)(PROMPT) == first and asked == [PROMPT]
    ChatParser(chat)(PROMPT)
    assert len(asked) == 2


def test_the_model_is_asked_for_the_plain_text_alone() -> None:
    asked: list[str] = []

    def chat(instructions: str, prompt: str) -> str:
        asked.append(prompt)
        return '{"things": [{"head": "star", "count": 1, "attributes": ["red"]}]}'

    found = ChatParser(chat)("a (red:1.3) star <lora:ink:1>")
    assert asked == ["a red star"] and [a.text for a in found.things[0].attributes] == ["red"]
    assert [s.kind for s in found.stripped] == [s.kind for s in parse("a (red:1.3) star <lora:ink:1>").stripped]


def test_a_prompt_in_another_language_is_not_asked_for() -> None:
    def chat(*_: str) -> str:
        raise AssertionError("it was asked")

    assert ChatParser(chat)("ein roter Stern neben einem blauen Schlüssel").language == "de"


class Handler(BaseHTTPRequestHandler):
    """An OpenAI-compatible server with one model."""

    answer: str = json.dumps(ANSWER)
    status: int = 200
    asked: ClassVar[list[dict[str, Any]]] = []

    def _send(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self._send({"data": [{"id": "small"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(asked | {"path": self.path, "key": self.headers.get("Authorization")})
        self._send({"choices": [{"message": {"content": self.answer}}]})

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Handler]]]:
    handler = type("One", (Handler,), {"asked": []})
    running = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/v1", handler
    running.shutdown()
    running.server_close()


def test_an_endpoint_is_asked_as_openai_is(server: tuple[str, type[Handler]]) -> None:
    address, handler = server
    assert ChatParser(Endpoint(address, key="k"))(PROMPT) == checked(parse(PROMPT), ANSWER)
    (asked,) = handler.asked
    assert (asked["path"], asked["model"], asked["temperature"]) == ("/v1/chat/completions", "small", 0)
    assert asked["messages"][1] == {"role": "user", "content": PROMPT} and asked["key"] == "Bearer k"
    ChatParser(Endpoint(f"{address}#large"))(PROMPT)
    assert handler.asked[1]["model"] == "large"


def test_the_key_of_openai_goes_to_openai_alone(server: tuple[str, type[Handler]], monkeypatch: Any) -> None:
    address, handler = server
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.delenv("ACCORD_PARSER_KEY", raising=False)
    ChatParser(Endpoint(address))(PROMPT)
    assert handler.asked[-1]["key"] is None
    for other in ("http://api.openai.com/v1", "https://api.openai.com.evil.org/v1", "https://api.openai.com:8443/v1"):
        assert not Endpoint(other).headers
    assert Endpoint("https://api.openai.com/v1#m").headers == {"Authorization": "Bearer secret"}
    monkeypatch.setenv("ACCORD_PARSER_KEY", "own")
    ChatParser(Endpoint(address))(PROMPT)
    assert handler.asked[-1]["key"] == "Bearer own"


def test_an_endpoint_that_fails_leaves_the_built_in_parse(server: tuple[str, type[Handler]]) -> None:
    address, handler = server
    handler.status = 500
    with pytest.warns(Notice, match="500"):
        assert ChatParser(Endpoint(address))(PROMPT) == parse(PROMPT)
    with pytest.warns(Notice, match="was not used"):  # nobody listens there
        assert ChatParser(Endpoint("http://127.0.0.1:9/v1"))(PROMPT) == parse(PROMPT)


@pytest.mark.parametrize("address", ["ftp://host/v1", "http://", "http://host:port/v1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="is no address"):
        load_chat(address)


def test_a_local_model_is_asked_by_its_own_template(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    letters = {chr(i): i for i in range(128)}
    raw = Tokenizer(models.BPE(vocab=letters, merges=[], unk_token=chr(0)))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token=chr(0), eos_token=chr(1), pad_token=chr(1))
    GPT2LMHeadModel(GPT2Config(vocab_size=128, n_positions=8192, n_embd=8, n_layer=1, n_head=1)).save_pretrained(
        tmp_path
    )
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no chat template"):
        LocalChat(str(tmp_path))
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.warns(Notice, match="was not used"):  # random weights say nothing
        assert ChatParser(LocalChat(str(tmp_path), max_new_tokens=8))(PROMPT) == parse(PROMPT)
    with pytest.raises(InputError, match="parser"):
        load_chat(str(tmp_path / "none"))
