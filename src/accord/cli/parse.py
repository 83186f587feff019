"""`accord parse`: prompts taken apart, to read or as JSON."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from accord.cli.options import emit, leave_out, tell_skipped
from accord.types import InputError

if TYPE_CHECKING:
    from accord.data.pairs import PairsFile
    from accord.prompts.parse import Parse, Span, Thing

SpacyModel = Annotated[
    str | None, typer.Option(help="Installed spaCy pipeline, by name or folder; a small English one if not given.")
]
_SAID = {"left": "left of", "right": "right of", "front": "in front of"}
_COLORS = {
    "thing": "green",
    "relation": "cyan",
    "absent": "red",
    "style": "magenta",
    "quoted": "blue",
    "aside": "white",
}


def parse(
    prompts: Annotated[list[str] | None, typer.Argument(help="One or more prompts, each in quotes.")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--prompts", help="Instead of PROMPTS: a TXT, CSV, JSONL, JSON or Parquet file."),
    ] = None,
    spacy_model: SpacyModel = None,
    parser: Annotated[
        str | None,
        typer.Option(
            help="Chat model that takes the prompts apart: https://HOST/v1 (#MODEL if it has several), a folder or a "
            "hub id. Where its answer does not hold, and without it, the built-in parse stands."
        ),
    ] = None,
    answers: Annotated[Path | None, typer.Option(help="With --parser: folder in which its answers are kept.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line to stdout and nothing else there.")
    ] = False,
) -> None:
    """What prompts say: things, relations, absences, style, and the words that nothing is known of."""
    from accord.data.pairs import PairsFile
    from accord.data.prompt_files import read_prompts
    from accord.prompts.parser import check_prompt

    broken = PairsFile()
    if file is not None and prompts:
        raise InputError("both PROMPTS and --prompts were given; give one of them")
    if file is None and not prompts:
        raise InputError("nothing to take apart; give PROMPTS, or --prompts FILE")
    texts = read_prompts(file, broken, as_written=True) if file is not None else list(prompts or [])
    if file is None:
        for text in texts:
            check_prompt(text)
    if parser is None:
        leave_out("without --parser", answers=answers)
        parses = _parsed(texts, broken, spacy_model)
    else:
        from accord.prompts.chat import ChatParser, load_chat

        parses = map(ChatParser(load_chat(parser), answers, spacy_model), _fine(texts, broken))
    for found in parses:
        if as_json:
            emit(True, found.to_dict(), "")
        else:
            emit(False, {}, shown(found, _is_terminal()) + "\n")
    tell_skipped(broken.skipped)


def _parsed(texts: Sequence[str], broken: PairsFile, spacy_model: str | None) -> Iterator[Parse]:
    """The parses of those prompts that can be taken apart; the others are listed as skipped."""
    from accord.prompts.model import load
    from accord.prompts.parser import parse_all

    with _no_torch() if spacy_model is None else contextlib.nullcontext():
        load(spacy_model)
    return parse_all(_fine(texts, broken), spacy_model)


def _fine(texts: Sequence[str], broken: PairsFile) -> list[str]:
    """Those prompts that can be taken apart; the others are listed as skipped."""
    from accord.prompts.parser import check_prompt

    fine: list[str] = []
    for number, text in enumerate(texts, start=1):
        try:
            check_prompt(text)
            fine.append(text)
        except InputError as error:
            broken.skip(number, str(error))
    return fine


@contextlib.contextmanager
def _no_torch() -> Iterator[None]:
    """Keep spaCy from importing torch, which takes seconds and which a pipeline without transformers never uses."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import spacy  # noqa: F401

        yield
    finally:
        del sys.modules["torch"]


def _is_terminal() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def shown(parse: Parse, colored: bool = False) -> str:
    """A parse to read: the prompt, and below it what it says, a line each."""
    paint = _paint if colored else lambda text, _kind: text
    names = [_name(t) for t in parse.things]
    rows = [
        ("things", ", ".join(paint(_described(t), "thing") for t in parse.things)),
        (
            "relations",
            "; ".join(
                paint(f"{names[r.subject]} {_SAID.get(r.name, r.name)} {names[r.object]}", "relation")
                for r in parse.relations
            ),
        ),
        ("actions", "; ".join(" ".join(_action(names, a.subject, a.verb.text, a.object)) for a in parse.actions)),
        ("places", "; ".join(_place(names, p.thing, p.said.text, p.setting) for p in parse.places)),
        ("background", ", ".join(c.text for g in parse.grounds for c in g.colors)),
        ("absent", ", ".join(paint(a.compound.text, "absent") for a in parse.absences)),
        ("written", ", ".join(paint(f'"{q.text}"', "quoted") for q in parse.quoted)),
        ("style", ", ".join(paint(s.text, "style") for s in parse.styles)),
        ("set aside", ", ".join(paint(f"{' '.join(s.text.split())} ({s.kind})", "aside") for s in parse.stripped)),
        ("unjudged", ", ".join(u.text for u in parse.unjudged)),
    ]
    if parse.language != "en":
        rows.append(("language", f"{parse.language}; only English is taken apart"))
    lines = [f"  {name:<11}{text}" for name, text in rows if text]
    return "\n".join([_in_colors(parse) if colored else parse.prompt, *lines])


def _name(thing: Thing) -> str:
    tints = [a.text for a in thing.attributes if a.kind in ("color", "size", "material")]
    return " ".join([*tints, thing.compound.text])


def _described(thing: Thing) -> str:
    number = {"exact": str(thing.count.number), "at least": f"at least {thing.count.number}", "open": "some"}
    kinds = ", ".join(f"{a.kind} {a.text}" for a in thing.attributes)
    return f"{number[thing.count.kind]} {thing.compound.text}" + (f" ({kinds})" if kinds else "")


def _action(names: Sequence[str], subject: int, verb: str, object_: int | None) -> list[str]:
    return [names[subject], verb, *([names[object_]] if object_ is not None else [])]


def _place(names: Sequence[str], thing: int | None, said: str, setting: int | None) -> str:
    return " ".join(
        [*([names[thing]] if thing is not None else []), said, *([names[setting]] if setting is not None else [])]
    )


def _paint(text: str, kind: str) -> str:
    return typer.style(text, fg=_COLORS[kind], dim=kind == "aside")


def _in_colors(parse: Parse) -> str:
    """The prompt with its parts in their colours; where parts overlap the first one counts."""
    parts: list[tuple[Span, str]] = [(r.said, "relation") for r in parse.relations]
    parts += [(s, "style") for s in parse.styles] + [(a, "absent") for a in parse.absences]
    parts += [(q, "quoted") for q in parse.quoted] + [(t, "thing") for t in parse.things]
    parts += [(s, "aside") for s in parse.stripped]
    out, at = "", 0
    for span, kind in sorted(parts, key=lambda part: part[0].start):
        if span.start >= at:
            out += parse.prompt[at : span.start] + _paint(span.text, kind)
            at = span.end
    return out + parse.prompt[at:]
