"""What stands before the studio: who may ask, from where, and how much they may send."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.exceptions import HTTPException

from accord.studio.settings import Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HEADER = "x-accord-studio"  # that every request which changes something carries: no form of another page can
COOKIE = "accord_studio"
SAFE = ("GET", "HEAD")
UPLOADS = "/api/uploads"
OPEN = ("/health",)  # what is answered without the token
LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.I)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; frame-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


class TooMuch(HTTPException):
    """A body is larger, or takes longer, than one may."""


class Guard:
    """An ASGI application around the studio's.

    Refused are other hosts than this machine's names (a page elsewhere that points its name here), without a token;
    requests without the token, with one; changes that come from another page; and bodies that are too large or slow.
    """

    def __init__(self, app: Any, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError("the studio speaks HTTP alone")
        begun = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                own = {name.decode("latin-1").lower() for name, _ in message["headers"]}
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k not in own]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        try:
            if refused := self._refused(scope):
                await _answer(sending, *refused)
            elif (address := self._entered(scope)) is not None:
                await self._enter(sending, address)
            else:
                await self.app(scope, self._bounded(scope, receive), sending)
        except TooMuch as error:
            if not begun:
                await _answer(sending, error.status_code, error.detail)

    # --- who asks -----------------------------------------------------------------------------------------------------
    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        headers = _headers(scope)
        host = headers.get("host", "")
        token = self.settings.token
        if token is None and not LOOPBACK.fullmatch(host):
            return 421, f"this studio answers to this machine alone, not to {host[:80]!r}; open it as 127.0.0.1"
        if token is not None and scope["path"] not in OPEN and not self._has_token(scope, headers, token):
            return 401, "the token is missing or wrong; open the whole address that the studio printed"
        if scope["method"] not in SAFE and (why := _foreign(headers, host)):
            return 403, why
        return None

    def _has_token(self, scope: Scope, headers: dict[str, str], token: str) -> bool:
        given = [headers.get("authorization", "").removeprefix("Bearer ")]
        given += parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        cookies: SimpleCookie = SimpleCookie()
        with contextlib.suppress(CookieError):
            cookies.load(headers.get("cookie", ""))
        if COOKIE in cookies:
            given.append(cookies[COOKIE].value)
        return any(hmac.compare_digest(g.encode(), token.encode()) for g in given)

    def _entered(self, scope: Scope) -> str | None:
        """Where somebody goes on who has opened the page with the token in its address; None for all others."""
        asked = parse_qs(scope["query_string"].decode("latin-1"))
        if self.settings.token is None or scope["method"] != "GET" or "token" not in asked or scope["path"] != "/":
            return None
        rest = urlencode({k: v for k, v in asked.items() if k != "token"}, doseq=True)
        return "/" + (f"?{rest}" if rest else "")

    async def _enter(self, send: Send, address: str) -> None:
        cookie = f"{COOKIE}={self.settings.token}; HttpOnly; SameSite=Strict; Path=/"
        headers = [(b"location", address.encode()), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    # --- how much -----------------------------------------------------------------------------------------------------
    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """The body, up to a number of bytes and seconds."""
        limits, upload = self.settings.limits, scope["path"] == UPLOADS
        most = limits.upload_bytes if upload else limits.json_bytes
        said = _headers(scope).get("content-length", "0")
        if not said.isdecimal() or int(said[:20]) > most:
            raise TooMuch(413, f"the request has more than {most} bytes; send less")
        loop = asyncio.get_running_loop()
        until, got, over = loop.time() + limits.upload_seconds, 0, False

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal got, over
            if over:  # what comes afterwards is that the visitor leaves, for which a stream of events waits
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.01, until - loop.time()))
            except TimeoutError:
                raise TooMuch(
                    408, f"the request was not here after {limits.upload_seconds:g} seconds; try again"
                ) from None
            got += len(message.get("body", b""))
            if got > most:
                raise TooMuch(413, f"the request has more than {most} bytes; send less")
            over = not message.get("more_body", False)
            return message

        return bounded


def _headers(scope: Scope) -> dict[str, str]:
    return {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}


def _foreign(headers: dict[str, str], host: str) -> str:
    """Why a request that changes something is not the page's own; empty if it is."""
    origin = headers.get("origin")
    if origin is not None and _place(origin) != host.lower():
        return "another page asked for this; use the studio's own"
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return "another page asked for this; use the studio's own"
    if HEADER not in headers:
        return f"the header {HEADER} is missing, without which nothing is changed; send {HEADER}: 1"
    return ""


def _place(origin: str) -> str:
    """Host and port of an origin; empty for one that has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


async def _answer(send: Send, status: int, text: str) -> None:
    body = json.dumps({"error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
