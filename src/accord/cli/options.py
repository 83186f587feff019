"""Options that commands share, and what they do with them."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from accord.embedded import SIDE
from accord.files import bar_options, reason
from accord.types import InputError, Notice

T = TypeVar("T")
SCHEMA_VERSION = 1  # of what commands print with --json; a key that goes, or means something else, makes another
VERBS = ("merge", "compare", "prompts", "agreement")  # commands of `accord eval` that are no suites
# who judges pictures of a pipeline that is not the lab's, if nobody is named
HUB_CAPTIONER = "Salesforce/blip2-opt-2.7b"
HUB_CLIP = "openai/clip-vit-large-patch14"
HUB_DETECTOR = "IDEA-Research/grounding-dino-tiny"

Model = Annotated[
    str | None, typer.Option(help="Pipeline folder, hub id or .safetensors file; the embedded lab if not given.")
]
Weights = Annotated[
    str,
    typer.Option(
        help="What (red:1.3) and ((blue)) do: strip sets them aside, honour weighs the words (CLIP encoders, compel)."
    ),
]
Variant = Annotated[
    str | None,
    typer.Option(
        help=(
            "With --model: which of its weights' files, fp16 say; the usual ones, or the only ones there are, if not "
            "given."
        )
    ),
]
ModelConfig = Annotated[
    str | None,
    typer.Option(
        help=(
            "With a .safetensors file as --model: folder or hub id of a pipeline of its kind, for its configuration "
            "and what the file lacks; the usual one from the hub if not given."
        )
    ),
]
Lora = Annotated[
    str | None,
    typer.Option(
        help="Adapter to put on, as accord train reward leaves it: folder, file or hub id; lab for the embedded one."
    ),
]
JudgeId = Annotated[
    str | None,
    typer.Option(
        "--judge",
        "--captioner",
        help=(
            "Who judges: folder or hub id of a BLIP, BLIP-2 or Florence-2, a chat model that sees pictures, a CLIP or "
            f"SigLIP, or lab for the embedded captioner; if not given lab, and with --model {HUB_CAPTIONER}."
        ),
    ),
]
ClipId = Annotated[
    str | None,
    typer.Option(
        help=f"CLIP folder or hub id, or lab for the embedded one; if not given lab, and with --model {HUB_CLIP}."
    ),
]
OwnJudgeId = Annotated[
    str | None,
    typer.Option(
        "--judge",
        "--captioner",
        help=(
            "Who judges: folder or hub id of a BLIP, BLIP-2 or Florence-2, a chat model that sees pictures, a CLIP or "
            "SigLIP; the embedded captioner, which knows the lab's scenes alone, if not given."
        ),
    ),
]
CalibrationFile = Annotated[
    Path | None, typer.Option("--calibration", help="File of accord.judges.calibrate, fitted to this judge.")
]
OwnClipId = Annotated[
    str | None,
    typer.Option(
        "--clip", help="CLIP folder or hub id; the embedded one, which knows the lab's scenes alone, if not given."
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; CUDA if there is one by default.")]
Dtype = Annotated[
    str, typer.Option(help="float32, float16 or bfloat16, of the pipeline's weights; half precision is for CUDA.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed.")]
Seeds = Annotated[
    list[int], typer.Option("--seed", min=0, max=2**63 - 1, help="Seed; repeat for several pictures a prompt.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout and nothing else there.")]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Prompts = Annotated[list[str], typer.Argument(help="One or more prompts, each in quotes.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures at once; each batch is written before the next.")]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1, max=1000, help="Denoising steps; if not given those of the pipeline's own call, without --model 25."
    ),
]
Guidance = Annotated[
    float, typer.Option(min=0, help="Guidance scale; at 1 or less the prompt alone is followed, unguided.")
]
OwnGuidance = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        min=0,
        help=(
            "Guidance scale; at 1 or less the prompt alone is followed, unguided; if not given that of the pipeline's "
            "own call, without --model 5."
        ),
    ),
]
NegativePrompt = Annotated[
    str | None, typer.Option(help="What the pictures are not to show; for pipelines that are guided away from it.")
]
Height = Annotated[
    int | None, typer.Option(min=1, help="Of the pictures, in pixels, with --width; the pipeline's own if not given.")
]
Width = Annotated[
    int | None, typer.Option(min=1, help="Of the pictures, in pixels, with --height; the pipeline's own if not given.")
]
Call = Annotated[
    list[str] | None,
    typer.Option(
        "--call",
        metavar="KEY=VALUE",
        help="A further argument of the pipeline's own call, as JSON or a plain word: eta=0.5; repeat for several.",
    ),
]


_context: ContextVar[typer.Context | None] = ContextVar("context", default=None)


# arguments of pipelines, and settings of a run, whose options are called otherwise
_RENAMED = {
    "num_inference_steps": ("inference_steps", "steps"),  # of tuning, whose own steps are others
    "guidance_scale": ("guidance",),
    "weights_of_words": ("weights",),
}
# a quotation, which may hold anything that a user wrote, or the name of an argument
_QUOTED_OR_NAME = re.compile(
    r"""(?<!\w)'(?:\\.|[^'\\])*'(?!\w)|(?<!\w)"(?:\\.|[^"\\])*"(?!\w)|`(\w+)(?:=True)?`"""
    rf"""|\b({"|".join(_RENAMED)})\b"""
)


class Command(TyperCommand):
    """A command that takes no number which is none, whatever the option, and lets `said` ask what was given."""

    def invoke(self, ctx: Any) -> Any:
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(number, float) and not math.isfinite(number):
                    raise InputError(f"{parameter.opts[0]} must be a finite number, not {number}; give one")
                if isinstance(number, int) and abs(number) >= 2**63:
                    raise InputError(f"{parameter.opts[0]} must be below 2**63; give a smaller number")
        token = _context.set(ctx)
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise InputError(self._with_options(str(error))) from error
        finally:
            _context.reset(token)

    def _with_options(self, text: str) -> str:
        """The library's message with this command's options in place of its arguments, which stand as `name`; what is
        quoted is left as it is.
        """
        flags = {p.name: p.opts[0] for p in self.params if p.opts[0].startswith("--")}
        renamed = {name: flags[o] for name, options in _RENAMED.items() for o in options[::-1] if o in flags}
        return _QUOTED_OR_NAME.sub(lambda m: flags.get(m[1]) or renamed.get(m[1] or m[2], m[0]), text)


class App(typer.Typer):
    """Commands of the kind `Command`."""

    def command(self, name: str | None = None, **settings: Any) -> Any:
        return super().command(name, cls=Command, **settings)


def said(*names: str) -> dict[str, Any]:
    """Those of the running command's options that were given, be it with the value that they have by default; for
    `leave_out`.
    """
    ctx = _context.get()
    sources = {} if ctx is None else {n: ctx.get_parameter_source(n) for n in names}
    return {
        n: ctx.params[n]
        for n, source in sources.items()
        if ctx is not None and source is not None and source.name == "COMMANDLINE"
    }


def hush() -> None:
    """Keep libraries' warnings off the terminal, and show Accord's own as notes; python -W asks for all of them."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", Notice)
        warnings.showwarning = _note  # type: ignore[assignment]


def _note(message: Warning | str, *_: Any) -> None:
    print(f"note: {message}", file=sys.stderr)


def quiet() -> None:
    """Keep libraries' notices off the terminal; errors are still raised."""
    hush()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each try to reach the hub
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    for module, name in ((diffusers_logging, "DIFFUSERS_VERBOSITY"), (transformers_logging, "TRANSFORMERS_VERBOSITY")):
        module.disable_progress_bar()
        if os.environ[name] == "error":  # where they were imported before
            module.set_verbosity_error()


def heading() -> dict[str, Any]:
    """What the JSON of every command begins with: its schema, a file of that name in `docs/schemas` with its version,
    the version of Accord, and the command.
    """
    import accord

    ctx = _context.get()
    words = [] if ctx is None else ctx.command_path.split()[1:]
    if not words:
        return {}
    grouped = words[0] == "bench" or (words[0] == "eval" and words[-1] not in VERBS)  # one schema for all of these
    name = words[0] if grouped else "-".join(words)
    return {"schema": f"accord.{name}/{SCHEMA_VERSION}", "accord": accord.__version__, "command": " ".join(words)}


def emit(as_json: bool, data: dict[str, Any], text: str) -> None:
    """Print a result, as JSON under its `heading`, or as text.

    Raises:
        InputError: for a number that is not finite, which JSON cannot say, or if what reads the output takes no more.
    """
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one speaks
        return
    try:
        shown = json.dumps({**heading(), **data}, allow_nan=False) if as_json else text
    except ValueError as error:
        raise InputError(
            "the result holds a number that is not finite, which JSON cannot say; leave --json out to see it"
        ) from error
    try:
        print(shown, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(
            f"the result cannot be printed ({reason(error)}); make room, or let it be printed elsewhere"
        ) from error


def tell_skipped(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows that are left out, one a line on stderr."""
    if os.environ.get("RANK", "0") == "0":
        for row in sorted(rows, key=lambda r: r["row"]):
            text = f" ({row['text']!r})" if row.get("text") else ""
            print(f"skipped row {row['row']}{text}: {row['reason']}", file=sys.stderr)


def counted(found: Iterable[T], what: str, total: int, quietly: bool) -> Iterator[T]:
    """These with a bar, which is not there before the first of them is: what is refused as a whole shows none."""
    from tqdm.auto import tqdm

    with contextlib.ExitStack() as open_bars:
        bar: Any = None
        for one in found:
            if bar is None:
                bar = open_bars.enter_context(tqdm(total=total, desc=what, disable=quietly, **bar_options()))
            bar.update()
            yield one


def check_said(*prompts: str, parsed: bool = False) -> None:
    """Refuse a prompt that says nothing, before any model is loaded.

    Args:
        parsed: whether it must be fit to be taken apart.
    """
    from accord.data.prompts import check_sayable, check_says_something

    for prompt in prompts:
        if not prompt.strip():
            raise InputError("the prompt is empty; give it at least one word")
        (check_says_something if parsed else check_sayable)(prompt)


def plainly(prompts: Sequence[str]) -> list[str]:
    """The prompts without the syntax of prompt programs, which no pipeline reads; a note says what was set aside."""
    from accord.prompts.parser import plain_text

    out = []
    for prompt in prompts:
        plain, stripped = plain_text(prompt)
        if not stripped or not plain.strip():
            out.append(prompt)
            continue
        kinds = sorted({s.kind for s in stripped})
        warnings.warn(f"the prompt is read as {plain!r}; set aside: {', '.join(kinds)}", Notice, stacklevel=2)
        out.append(plain)
    return out


def check_weights(weights: str) -> bool:
    """Whether weights of words are honoured. Raises InputError for another word than strip or honour."""
    if weights not in ("strip", "honour"):
        raise InputError(f"weights {weights!r} is unknown; use strip or honour")
    return weights == "honour"


def weights_of(prompt: str) -> Sequence[tuple[str, float]]:
    """The pieces of a prompt's plain text with their weights; empty if all are 1.

    Raises:
        InputError: for a weight that belongs to no word.
    """
    from accord.prompts.parser import weighted_text

    pieces, lost = weighted_text(prompt)
    if lost:
        raise InputError(
            f"{lost[0].text!r} in {prompt[:40]!r} is the weight of no word; write (word:1.2) or leave `weights` out"
        )
    return pieces if any(weight != 1 for _, weight in pieces) else ()


def check_file(out: Path) -> None:
    """Refuse to write a file where something is that is none: a folder, a pipe, a device."""
    if out.exists() and not out.is_file():
        raise InputError(f"output {str(out)!r} is no file, and none can be put in its place; choose another name")


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths are one place, whatever links lead there."""
    return os.path.realpath(one) == os.path.realpath(other)


def check_pairs(path: Path | None) -> None:
    """Refuse pairs that are not there, before any model is loaded; what they hold is looked at when they are read."""
    if path is not None and not path.exists():
        raise InputError(f"pairs {str(path)!r} do not exist; check the path")


def pick_device(named: str | None) -> str:
    """The device that was named, refused if it is not here, or the default one."""
    from accord.diffusion.pipelines import check_device, default_device

    where = named or default_device()
    check_device(where)
    return where


def torch_type(name: str) -> Any:
    """torch's type of that name."""
    import torch

    if name not in ("float32", "float16", "bfloat16"):
        raise InputError(f"dtype {name!r} is unknown; use float32, float16 or bfloat16")
    return getattr(torch, name)


def call_options(
    steps: int | None,
    guidance: float | None,
    negative_prompt: str | None,
    height: int | None,
    width: int | None,
    call: Sequence[str] | None,
) -> dict[str, Any]:
    """What these options are as arguments of `accord.generate`, `accord.realign` and `make_pairs`.

    Raises:
        InputError: for a further argument that is not KEY=VALUE, or is given twice.
    """
    more: dict[str, Any] = {k: v for k, v in (("height", height), ("width", width)) if v is not None}
    for text in call or ():
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise InputError(f"--call {text!r} is not KEY=VALUE; write for example eta=0.5")
        if name in more:
            raise InputError(f"{name} was given twice; give it once")
        more[name] = _json_or_text(value)
    return {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "negative_prompt": negative_prompt or "",
        "call": more,
    }


def _json_or_text(value: str) -> Any:
    """What a text says as JSON, or the text itself where it says nothing.

    Raises:
        InputError: for a number that is not finite.
    """

    def refuse(number: str) -> float:
        raise InputError(f"{number} is no finite number; give one")

    try:
        return json.loads(value, parse_constant=refuse)
    except ValueError:
        return value


def judge_of(named: str | None, model: str | None, hub: str) -> str | None:
    """Who judges: the model that was named, or the one for this pipeline."""
    return named or (None if model is None else hub)


def checked(make: Callable[..., T], renamed: Mapping[str, str] | None = None, /, **given: Any) -> T:
    """What `make(**given)` is, a config as a rule; its ValueError becomes a sentence that names options and not fields.

    Args:
        renamed: field -> option without its dashes, where they are called otherwise.
    """
    try:
        return make(**given)
    except ValueError as error:
        text, renamed = str(error), renamed or {}
        for name in given:
            if name in renamed or "_" in name:  # a field of one word is called as its option is
                text = re.sub(rf"\b{name}\b", "--" + renamed.get(name, name.replace("_", "-")), text)
        raise InputError(text) from error


def leave_out(why: str, **given: Any) -> None:
    """Refuse an option that would do nothing: those of `given` that are neither None, nor False, nor empty."""
    for name, value in given.items():
        if value is not None and value is not False and value != []:
            raise InputError(f"--{name.replace('_', '-')} is not used {why}; leave it out")


def say_lab_only(size: tuple[int, int], named: Any, what: str) -> None:
    """A note on stderr where an embedded model judges a picture that it cannot know."""
    if named is None and size != (SIDE, SIDE):
        print(
            f"note: the embedded models know the lab's scenes of {SIDE}x{SIDE} pixels alone; for other pictures "
            f"give {what}",
            file=sys.stderr,
        )


def say_unknown_things(prompts: Iterable[str], named: Any, what: str) -> None:
    """A note on stderr for the first prompt that names a thing which the lab does not have.

    Args:
        named: the model that is used in place of the lab's; no note with one.
        what: how to name one.
    """
    from accord_lab.scenes.ask import unknown_things
    from accord_lab.scenes.lexicon import NOUNS

    for prompt in prompts if named is None else ():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how a prompt is read is said elsewhere, and why it cannot be
            try:
                unknown = unknown_things(prompt)
            except InputError:
                continue
        if unknown:
            print(
                f"note: the lab has no {unknown[0]!r}; its nouns are {', '.join(NOUNS)}; for others give {what}",
                file=sys.stderr,
            )
            return


def read_by_the_lab(frames: Any, prompt: str) -> dict[str, float]:
    """On videos of the lab, the share of frames that the reader finds right; nothing of others, and a note on stderr
    why.
    """
    from accord_lab.scenes.ask import ask_of, check, still
    from accord_lab.scenes.read import read

    if frames[0].size != (SIDE, SIDE):
        return {}
    try:
        ask = ask_of(still(prompt))
        return {"frames_right": sum(check(read(f), ask).right for f in frames) / len(frames)}
    except InputError as error:  # another prompt than the lab's, or the packages that draw its scenes are not installed
        print(f"note: the frames are not read: {error}", file=sys.stderr)
        return {}


def frame_range(text: str | None) -> tuple[int, int | None]:
    """START:STOP, either may be left out."""
    if text is None:
        return 0, None
    start, colon, stop = text.partition(":")
    try:
        if not colon:
            raise ValueError
        first, last = int(start or 0), int(stop) if stop else None
        if first < 0 or (last or 0) < 0:
            raise ValueError
        return first, last
    except ValueError:
        raise InputError(f"frames {text!r} is not START:STOP, counted from 0; write for example 0:16") from None


def places_of(given: Sequence[str]) -> list[tuple[str, tuple[float, float, float, float]]]:
    """THING=X0,Y0,X1,Y1 of each. Raises InputError for what is written otherwise."""
    out = []
    for text in given:
        thing, _, numbers = text.rpartition("=")
        try:
            x0, y0, x1, y1 = map(float, numbers.split(","))
        except ValueError:
            raise InputError(f"--place {text!r} is not THING=X0,Y0,X1,Y1; write for example moon=0,0,0.4,0.5") from None
        if not thing.strip():
            raise InputError(f"--place {text!r} names no thing; write for example moon=0,0,0.4,0.5")
        out.append((thing.strip(), (x0, y0, x1, y1)))
    return out


def file_name(index: int, prompt: str, seed: int, digits: int = 3) -> str:
    """A name that this machine's files can have: what its letters do not hold is left out."""
    letters = prompt.lower().encode(sys.getfilesystemencoding(), "ignore").decode(sys.getfilesystemencoding())
    words = "-".join("".join(c if c.isalnum() else " " for c in letters).split())[:60]
    words = words.encode("utf8")[:180].decode("utf8", "ignore").strip("-")  # a name has 255 bytes at most
    return f"{index:0{digits}d}-{words}-s{seed}"
