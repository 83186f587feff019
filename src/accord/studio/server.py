"""The studio over HTTP: a page, and a JSON API that the page and `accord.studio.client` use."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Mapping
from importlib.resources import files
from pathlib import Path as FilePath
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import accord
from accord.studio.events import ALL
from accord.studio.guard import Guard
from accord.studio.rooms.compare import CompareRequest
from accord.studio.rooms.edit import EditRequest
from accord.studio.rooms.read import ReadRequest
from accord.studio.rooms.repair import RepairRequest
from accord.studio.settings import Settings
from accord.studio.store import ENDED, Missing
from accord.studio.studio import Studio
from accord.studio.work import Room
from accord.types import InputError

PAGE_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
GALLERY_POLICY = "frame-ancestors 'self'"  # of the gallery, which brings a policy of its own
Id = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
log = logging.getLogger("accord.studio")
api = APIRouter(prefix="/api")


class Prompted(BaseModel):
    """A prompt to be taken apart."""

    prompt: str = Field(max_length=20_000)


def _studio(request: Request) -> Studio:
    found: Studio = request.app.state.studio
    return found


# --- asked -----------------------------------------------------------------------------------------------------------
@api.get("/about", summary="What may be chosen, and what is taken at most")
def about(request: Request) -> dict[str, Any]:
    return _studio(request).about()


@api.post("/parse", summary="A prompt taken apart, with marks on its text")
async def parse(request: Request, asked: Prompted) -> dict[str, Any]:
    async with request.app.state.parsing:  # who types waits for who types, and nobody else does
        return await to_thread.run_sync(_studio(request).parsed, asked.prompt)


@api.post("/uploads", status_code=201, summary="A picture or a video, as the body of the request")
async def upload(request: Request, name: Annotated[str, Query(max_length=300)] = "upload") -> dict[str, Any]:
    studio = _studio(request)
    handle, path = tempfile.mkstemp(prefix=".sent-", dir=studio.folder)
    sent = FilePath(path)
    try:
        with os.fdopen(handle, "wb") as file:
            async for part in request.stream():
                file.write(part)
        async with request.app.state.decoding:  # one at a time: what is decoded takes memory
            return await to_thread.run_sync(studio.keep, sent, name)
    finally:
        sent.unlink(missing_ok=True)


@api.get("/uploads/{upload}", summary="What is known of an upload")
def upload_of(request: Request, upload: Id) -> dict[str, Any]:
    return _studio(request).upload(upload)


@api.get("/uploads/{upload}/shown", summary="The picture, or a frame of the video, at most 1024 pixels a side")
def shown(request: Request, upload: Id) -> Response:
    studio = _studio(request)
    studio.upload(upload)
    return FileResponse(studio.folder / "uploads" / upload / "shown.png", media_type="image/png")


# --- jobs ------------------------------------------------------------------------------------------------------------
def _submitted(request: Request, room: str, asked: BaseModel) -> dict[str, Any]:
    studio = _studio(request)
    job = studio.submit(room, asked)
    return job.to_dict(studio.store.ahead(job))


@api.post("/repair", status_code=201, summary="Make a picture, and repair it")
def repair(request: Request, asked: RepairRequest) -> dict[str, Any]:
    return _submitted(request, "repair", asked)


@api.post("/read", status_code=201, summary="Read the prompt of an uploaded picture")
def read(request: Request, asked: ReadRequest) -> dict[str, Any]:
    return _submitted(request, "read", asked)


@api.post("/edit", status_code=201, summary="Edit an uploaded video with words")
def edit(request: Request, asked: EditRequest) -> dict[str, Any]:
    return _submitted(request, "edit", asked)


@api.post("/compare", status_code=201, summary="Compare two models, or two runs of accord eval")
def compare(request: Request, asked: CompareRequest) -> dict[str, Any]:
    return _submitted(request, "compare", asked)


@api.get("/jobs", summary="The newest jobs, without their results")
def jobs(request: Request, most: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
    store = _studio(request).store
    return {"jobs": [job.to_dict(store.ahead(job), whole=False) for job in store.jobs(most)]}


@api.get("/jobs/{job}", summary="A job with its progress and its result")
def job_of(request: Request, job: Id) -> dict[str, Any]:
    store = _studio(request).store
    found = store.job(job)
    return found.to_dict(store.ahead(found))


@api.post("/jobs/{job}/cancel", summary="Cancel a job: one that waits at once, one that runs at its next step")
def cancel(request: Request, job: Id) -> dict[str, Any]:
    return _studio(request).cancel(job).to_dict()


@api.delete("/jobs/{job}", summary="Remove a job that has ended, with its files")
def forget(request: Request, job: Id) -> dict[str, Any]:
    _studio(request).forget(job)
    return {"forgotten": job}


@api.get("/jobs/{job}/files/{name:path}", summary="A file of a job")
def file_of(request: Request, job: Id, name: str) -> Response:
    path, kind = _studio(request).file_of(job, name)
    headers = {"content-security-policy": GALLERY_POLICY if path.suffix == ".html" else "default-src 'none'"}
    headers["cache-control"] = "private, max-age=300"
    return FileResponse(path, media_type=kind, headers=headers)


@api.get("/jobs/{job}/download", summary="All files of a job and its command line, zipped")
def download(request: Request, job: Id) -> Response:
    studio = _studio(request)
    found = studio.store.job(job)
    handle, path = tempfile.mkstemp(prefix=".zip-", dir=studio.folder)
    with os.fdopen(handle, "wb") as file:
        studio.zipped(found, file)
    name = f"accord-{found.room}-{found.number}.zip"
    gone = BackgroundTask(os.unlink, path)
    return FileResponse(path, media_type="application/zip", filename=name, background=gone)


# --- events ----------------------------------------------------------------------------------------------------------
@api.get("/jobs/{job}/events", summary="How a job comes on, as server-sent events: job, step, preview, rounds, ...")
def events_of(request: Request, job: Id) -> Response:
    studio = _studio(request)
    studio.store.job(job)
    return _stream(studio, job)


@api.get("/events", summary="Every job whenever its state changes, as server-sent events")
def events(request: Request) -> Response:
    return _stream(_studio(request), ALL)


def _stream(studio: Studio, topic: str) -> Response:
    if studio.hub.count() >= studio.hub.most:
        raise HTTPException(503, f"{studio.hub.most} pages listen already; close one")
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(_events(studio, topic), media_type="text/event-stream", headers=headers)


async def _events(studio: Studio, topic: str) -> AsyncIterator[str]:
    """First how things are, then what happens, until the job has ended."""
    listener = studio.hub.listen(topic)
    try:
        if topic != ALL:
            job = studio.store.job(topic)
            yield _event("job", json.dumps(job.to_dict(studio.store.ahead(job))))
            if job.state in ENDED:
                return
        else:
            yield ": here\n\n"
        async for kind, text in listener:
            yield _event(kind, text) if kind else ": still here\n\n"
            if topic != ALL and kind == "job" and json.loads(text)["state"] in ENDED:
                return
    finally:
        studio.hub.leave(listener)


def _event(kind: str, text: str) -> str:
    return f"event: {kind}\ndata: {text}\n\n"


# --- the application -------------------------------------------------------------------------------------------------
def page_files() -> dict[str, tuple[bytes, str]]:
    """What the page is made of, by name: it is read once, and no path is ever looked up."""
    found = {}
    folders = (files("accord.studio") / "page", files("accord.reports"))
    for folder in folders:
        for path in folder.iterdir():
            kind = PAGE_TYPES.get(FilePath(path.name).suffix)
            if kind is not None and path.name not in ("gallery.html", "gallery.js"):
                found[path.name] = (path.read_bytes(), kind)
    return found


def make_app(settings: Settings, rooms: Mapping[str, Room] | None = None) -> Guard:
    """The studio as an ASGI application. Its worker runs from its start to its end.

    Args:
        rooms: how jobs are done; those of the page if not given.

    Raises:
        InputError: if another studio has this folder, or it cannot be written to.
    """
    studio = Studio(settings, rooms)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.decoding, app.state.parsing = asyncio.Semaphore(1), asyncio.Semaphore(1)
        studio.start()
        yield
        await to_thread.run_sync(studio.close)

    app = FastAPI(
        title="Accord studio",
        version=accord.__version__,
        summary="Jobs of four rooms. Requests that change something carry the header x-accord-studio: 1.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
    )
    app.state.studio = studio
    app.include_router(api)
    page = app.state.page = page_files()

    @app.get("/health", summary="Whether the studio works")
    def health() -> dict[str, Any]:
        return studio.health()

    @app.get("/", include_in_schema=False)
    def index() -> Response:
        return Response(page["index.html"][0], media_type=page["index.html"][1])

    @app.get("/page/{name}", include_in_schema=False)
    def part(name: str) -> Response:
        if name not in page:
            raise HTTPException(404, "there is no such file")
        return Response(page[name][0], media_type=page[name][1], headers={"cache-control": "no-cache"})

    _answer_errors(app)
    guard = Guard(app, settings)
    guard.studio = studio  # type: ignore[attr-defined]
    return guard


def _answer_errors(app: FastAPI) -> None:
    """Whatever is refused is {"error": one sentence}."""

    def said(status: int, text: str) -> Response:
        return JSONResponse({"error": text.encode("utf8", "replace").decode()}, status)

    @app.exception_handler(InputError)
    def refused(_request: Request, error: InputError) -> Response:
        return said(400, str(error))

    @app.exception_handler(ClientDisconnect)
    def left(_request: Request, _error: ClientDisconnect) -> Response:
        return said(400, "the visitor left before all was sent")

    @app.exception_handler(Missing)
    def missing(_request: Request, _error: Missing) -> Response:
        return said(404, "there is no such job or file; it may have been removed")

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"][1:])[:100]
        return said(422, f"{place or 'the request'}: {first['msg'][:300]}")

    @app.exception_handler(HTTPException)
    def answered(_request: Request, error: HTTPException) -> Response:
        return said(error.status_code, str(error.detail))

    @app.exception_handler(sqlite3.Error)
    def unkept(_request: Request, error: sqlite3.Error) -> Response:
        log.error("the database failed", exc_info=error)
        return said(503, f"the studio's database cannot be used ({error}); make room on its disk, and try again")

    @app.exception_handler(Exception)
    def failed(_request: Request, error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        return said(500, "the studio failed at this; its log says where")
