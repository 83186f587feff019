"""A small client of a studio's API.

from accord.studio.client import Client

studio = Client("http://127.0.0.1:8017")
job = studio.repair("a red star to the left of a blue key", seed=1)
studio.download(job["id"], "out/star.zip")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from accord.files import read_bytes, write_file
from accord.types import InputError

ENDED = ("done", "failed", "cancelled")


class Client:
    """What asks a studio.

    Args:
        url: where the studio is.
        token: that it was started with, if it was.
        http: another client of httpx to ask with; it is not closed with this one.
    """

    def __init__(self, url: str = "http://127.0.0.1:8017", token: str | None = None, http: Any = None) -> None:
        headers = {"x-accord-studio": "1"} | ({"authorization": f"Bearer {token}"} if token else {})
        self.url = url
        self._is_own = http is None
        self._http = http or httpx.Client(base_url=url, timeout=60.0, trust_env=False)
        self._http.headers.update(headers)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._is_own:
            self._http.close()

    # --- asked --------------------------------------------------------------------------------------------------------
    def health(self) -> dict[str, Any]:
        return self._json("GET", "/health")

    def about(self) -> dict[str, Any]:
        """What may be chosen, and what is taken at most."""
        return self._json("GET", "/api/about")

    def parse(self, prompt: str) -> dict[str, Any]:
        """A prompt taken apart."""
        return self._json("POST", "/api/parse", json={"prompt": prompt})

    def upload(self, path: str | Path) -> str:
        """Send a picture or a video; returns its id."""
        data = read_bytes(path, "upload")
        return str(self._json("POST", "/api/uploads", params={"name": Path(path).name}, content=data)["id"])

    def submit(self, room: str, **asked: Any) -> dict[str, Any]:
        """A new job of a room: repair, read, edit or compare; returned as it is now."""
        return self._json("POST", f"/api/{room}", json=asked)

    def job(self, job: str) -> dict[str, Any]:
        return self._json("GET", f"/api/jobs/{job}")

    def jobs(self, most: int = 100) -> list[dict[str, Any]]:
        """The newest jobs."""
        found: list[dict[str, Any]] = self._json("GET", "/api/jobs", params={"most": most})["jobs"]
        return found

    def cancel(self, job: str) -> dict[str, Any]:
        return self._json("POST", f"/api/jobs/{job}/cancel")

    def forget(self, job: str) -> None:
        """Remove a job that has ended."""
        self._json("DELETE", f"/api/jobs/{job}")

    def events(self, job: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What happens to a job, a kind and its data, until it has ended."""
        try:
            with self._http.stream("GET", f"/api/jobs/{job}/events", timeout=None) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    raise _error(answer)
                kind = ""
                for line in answer.iter_lines():
                    if line.startswith("event: "):
                        kind = line.removeprefix("event: ")
                    elif line.startswith("data: "):
                        yield kind, json.loads(line.removeprefix("data: "))
        except httpx.HTTPError as error:
            raise InputError(f"the studio cannot be reached ({error}); start it, or check its address") from error

    def wait(self, job: str, see: Callable[[str, Mapping[str, Any]], None] | None = None) -> dict[str, Any]:
        """A job once it has ended.

        Args:
            see: called with each event on the way.

        Raises:
            InputError: if it failed.
        """
        while True:
            for kind, data in self.events(job):
                if see is not None:
                    see(kind, data)
            found = self.job(job)
            if found["state"] == "failed":
                raise InputError(found["error"])
            if found["state"] in ENDED:
                return found

    def repair(self, prompt: str, **asked: Any) -> dict[str, Any]:
        """A repaired picture of a prompt, once it is done."""
        return self.wait(self.submit("repair", prompt=prompt, **asked)["id"])

    def read(self, path: str | Path, **asked: Any) -> dict[str, Any]:
        """The prompt of a picture, once it is read."""
        return self.wait(self.submit("read", upload=self.upload(path), **asked)["id"])

    def file(self, job: str, name: str) -> bytes:
        """A file of a job."""
        return bytes(self._answer("GET", f"/api/jobs/{job}/files/{name}").content)

    def download(self, job: str, path: str | Path) -> Path:
        """All files of a job, zipped, as a file."""
        write_file(Path(path), self._answer("GET", f"/api/jobs/{job}/download").content)
        return Path(path)

    def _json(self, method: str, path: str, **told: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._answer(method, path, **told).json()
        return found

    def _answer(self, method: str, path: str, **told: Any) -> Any:
        try:
            answer = self._http.request(method, path, **told)
        except httpx.HTTPError as error:
            raise InputError(f"the studio cannot be reached ({error}); start it, or check its address") from error
        if answer.status_code >= 400:
            raise _error(answer)
        return answer


def _error(answer: Any) -> InputError:
    try:
        said = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        said = f"the studio answered {answer.status_code}; look at its log"
    return InputError(said)
