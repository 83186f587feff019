"""The command line: `accord --help`. Heavy imports are made inside the commands, so that help is instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from accord.cli import bench, clips, pairs, pictures, train
from accord.cli.options import AsJson, emit
from accord.types import InputError

app = typer.Typer(
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
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    """Make a text-to-image diffusion model do what its prompt says: measure, explain, repair."""


def info(as_json: AsJson = False) -> None:
    """Versions, devices and the embedded models."""
    import importlib.metadata as metadata
    import platform

    import torch

    import accord

    folder = Path(accord.__file__).parent / "lab" / "models"
    sizes = {
        p.name: round(sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) / 2**20, 1)
        for p in sorted(folder.iterdir())
        if p.is_dir()
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


for command in (pictures.generate, pictures.score, pictures.realign, clips.edit, pictures.invert, info):
    app.command()(command)
for name, group in (("train", train.app), ("pairs", pairs.app), ("bench", bench.app)):
    app.add_typer(group, name=name)


def main() -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    try:
        app()
    except (InputError, ImportError) as error:
        print(f"accord: {error}", file=sys.stderr)
        raise SystemExit(2) from None
