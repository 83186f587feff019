"""`accord studio`: a page in the browser."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from accord.cli.options import HUB_CAPTIONER, HUB_CLIP, Device, Dtype, pick_device, quiet, torch_type
from accord.cli.videos import STABLE_DIFFUSION
from accord.files import budget, entries
from accord.types import InputError

# of what visitors send, decoded, unless the environment says otherwise
BUDGETS = {"ACCORD_MAX_PICTURE_MB": "128", "ACCORD_MAX_VIDEO_MB": "256"}


def studio(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Pipeline folder, hub id or .safetensors file, or lab; repeat for several to choose from. The "
            "embedded lab if not given."
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(help=f"Who judges, as of accord realign; if not given lab, and for other models {HUB_CAPTIONER}."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(help=f"CLIP folder or hub id; if not given lab, and for other models {HUB_CLIP}."),
    ] = None,
    inverter: Annotated[
        Path | None,
        typer.Option(help="Inverter folder that reads prompts back; the embedded one, for the lab, if not given."),
    ] = None,
    folder: Annotated[Path, typer.Option(help="For jobs, uploads and results.")] = Path("out/studio"),
    show: Annotated[
        list[Path] | None, typer.Option(help="Folder that accord realign wrote, to be shown; repeat for several.")
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option(help="Folder below which runs of accord eval are found, to compare; out/eval if not given."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs --share-token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 8017,
    share_token: Annotated[
        str | None,
        typer.Option(
            help="What visitors must have, at least 16 letters; new makes one. The environment's ACCORD_STUDIO_TOKEN "
            "is taken too."
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Repair, read, edit and compare in the browser, on this machine."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            f"the studio needs the package {error.name!r}; pip install -e '.[studio]' in Accord's folder"
        ) from error
    token = share_token or os.environ.get("ACCORD_STUDIO_TOKEN") or None
    if token == "new":
        token = secrets.token_urlsafe(18)
    if token is None and not _is_loopback(host):
        raise InputError(f"--host {host!r} can be reached from elsewhere; give --share-token, or leave it out")
    if inverter is not None:
        entries(inverter, "inverter folder")
    quiet()
    torch_type(dtype)
    from accord.studio.serve import serve
    from accord.studio.settings import Settings

    roots = runs if runs is not None else [Path("out/eval")]
    settings = Settings(
        folder=folder,
        models=tuple(dict.fromkeys(model or ["lab"])),
        judge=judge,
        clip=clip,
        inverter=None if inverter is None else str(inverter),
        hub_judge=HUB_CAPTIONER,
        hub_clip=HUB_CLIP,
        device=pick_device(device),
        dtype=dtype,
        runs=tuple(roots),
        token=token,
        warm=True,
        edit_usual=STABLE_DIFFUSION,
    )
    with _smaller_budgets():
        serve(settings, host, port, show or [])


@contextlib.contextmanager
def _smaller_budgets() -> Iterator[None]:
    """What visitors send may take no more than BUDGETS, unless the environment says otherwise.

    In the environment, as uploads are decoded in processes of their own.
    """
    added = {name: value for name, value in BUDGETS.items() if name not in os.environ}
    os.environ.update(added)
    try:
        for name in BUDGETS:
            budget(name.split("_")[2].lower())
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
