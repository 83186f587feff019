"""A studio on a port, until Ctrl-C."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from accord.files import reason
from accord.studio.server import make_app
from accord.studio.settings import Settings
from accord.studio.studio import reports_in
from accord.types import InputError


def serve(settings: Settings, host: str, port: int, show: Sequence[Path] = ()) -> None:
    """Run a studio. Its address is printed once it can be opened.

    Args:
        show: folders of repairs that it shows.

    Raises:
        InputError: if the address is taken, another studio has this folder, or there is no repair to show.
    """
    for folder in show:
        reports_in(folder)  # before anything is made
    listening = _socket(host, port)
    try:
        app = make_app(settings)
    except BaseException:
        listening.close()
        raise
    studio = app.studio  # type: ignore[attr-defined]
    try:
        for folder in show:
            studio.show(folder)
    except BaseException:
        studio.close()
        listening.close()
        raise
    name = host if ":" not in host else f"[{host}]"
    address = f"http://{name}:{listening.getsockname()[1]}/"
    if settings.token is not None:
        address += f"?token={settings.token}"
    print(f"the studio is open: {address}", flush=True)
    config = uvicorn.Config(
        app, log_level="warning", timeout_keep_alive=30, timeout_graceful_shutdown=2, server_header=False, ws="none"
    )
    uvicorn.Server(config).run(sockets=[listening])
    print("the studio is closed", file=sys.stderr)


def _socket(host: str, port: int) -> socket.socket:
    """A socket that listens there."""
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(kind, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)  # now: who opens the printed address waits, and no other studio takes it
    except (OSError, UnicodeError) as error:  # UnicodeError: of a name that no machine can have
        raise InputError(
            f"the studio cannot listen on {host!r}, `port` {port} ({reason(error)}); choose another `host` or `port`"
        ) from error
    return listening
