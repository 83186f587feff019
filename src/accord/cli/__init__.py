"""The command line: `accord --help`. Heavy imports are made inside the commands, so that help is instant."""

from __future__ import annotations

import errno
import sys
from typing import Annotated, Any, NoReturn

import typer

from accord.cli import bench, evaluate, pairs, pictures, train, videos
from accord.cli import parse as parsing
from accord.cli import studio as showing
from accord.cli.options import App, AsJson, emit, hush
from accord.files import reason, speak_any_language
from accord.types import InputError

STOPPED = 130  # exit code of a command that Ctrl-C has stopped
USAGE: Any = typer.BadParameter.__mro__[
    1
]  # what typer raises for words that are no command; where it is kept depends on its version
# what a machine, and no mistake in this code, makes of a file
MACHINE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENFILE,
)

app = App(
    help="Make a text-to-image diffusion model do what its prompt says: measure, explain, repair.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(asked: bool) -> None:
    if asked:
        import accord

        print(accord.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make a text-to-image diffusion model do what its prompt says: measure, explain, repair."""


def info(as_json: AsJson = False) -> None:
    """Versions, devices and the embedded models."""
    import importlib.metadata as metadata
    import platform

    import torch

    import accord
    from accord.embedded import CAPTIONER, CLIP, INVERTER, LORA, PIPELINE

    sizes = {
        p.name: round(sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) / 2**20, 1)
        for p in (CAPTIONER, CLIP, INVERTER, PIPELINE, LORA)
    }
    versions = {n: metadata.version(n) for n in ("torch", "diffusers", "transformers")}
    data = {
        "accord": accord.__version__,
        "python": platform.python_version(),
        **versions,
        "devices": ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))],
        "embedded_models_mib": sizes,
    }
    emit(as_json, data, "\n".join(f"{k}: {v}" for k, v in data.items()))


for command in (
    pictures.generate,
    pictures.score,
    pictures.realign,
    videos.edit,
    pictures.invert,
    parsing.parse,
    showing.studio,
    info,
):
    app.command()(command)
for name, group in (("train", train.app), ("pairs", pairs.app), ("eval", evaluate.app), ("bench", bench.app)):
    app.add_typer(group, name=name)


def main() -> None:
    """Entry point: bad input is one line on stderr and exit code 2."""
    speak_any_language()
    hush()
    try:
        code = app(standalone_mode=False, prog_name="accord")
    except USAGE as error:
        _refuse_usage(error)
    except (InputError, ImportError) as error:
        _refuse(str(error))
    except OSError as error:
        if error.errno not in MACHINE:
            raise
        _refuse(
            f"{str(error.filename or 'a file')!r} cannot be read or written ({reason(error)}); make room, or check "
            "its rights"
        )
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    if code == STOPPED:
        print("accord: stopped", file=sys.stderr)
    raise SystemExit(code or 0)


def _refuse(sentence: str) -> NoReturn:
    print(f"accord: {InputError(sentence)}", file=sys.stderr)
    raise SystemExit(2) from None


def _refuse_usage(error: Any) -> NoReturn:
    """Refuse words that are no command in one line, like all else that is refused; answer no words with the help."""
    said = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        if said.strip():  # with rich it has been printed
            print(said)
        raise SystemExit(2) from None
    said = " ".join(said.split()).rstrip(".")
    command = error.ctx.command_path if error.ctx is not None else "accord"
    _refuse(f"{said[:1].lower()}{said[1:]}; see {command} --help")
