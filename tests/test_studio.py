"""The studio: its queue, what it refuses, and a repair from the request to the picture."""

import json
import multiprocessing
import os
import shlex
import threading
import time
from collections import Counter
from io import BytesIO
from pathlib import Path
from urllib.parse import quote
from zipfile import ZipFile

import pytest
from conftest import png_chunk
from PIL import Image, PngImagePlugin
from typer.main import get_command

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

from accord.cli import app as commands
from accord.studio.client import Client
from accord.studio.rooms import ROOMS
from accord.studio.rooms.repair import Repair
from accord.studio.server import make_app
from accord.studio.settings import Limits, Settings
from accord.studio.store import Store
from accord.types import InputError

OWN = {"x-accord-studio": "1"}


class Counting(Repair):
    """A room without models: it takes the steps that it is asked for, while `gate` is open."""

    def __init__(self):
        self.gate, self.done = threading.Event(), []
        self.gate.set()

    def run(self, work):
        asked = work.request
        work.stage("counting")
        if asked.prompt == "refuse it":
            raise InputError("it is refused; ask otherwise")
        if asked.prompt == "break it":
            raise RuntimeError("it broke")
        for _ in range(asked.steps or 5):
            self.gate.wait(60)
            work.took_step(1, asked.steps or 5)
            time.sleep(0.001)
        self.done.append(asked.prompt)
        work.write("after.png", Image.new("RGB", (8, 8)))
        return {"prompt": asked.prompt}


@pytest.fixture
def room():
    return Counting()


@pytest.fixture
def opened(tmp_path, room):
    """What opens a studio whose repairs are counted: a client of it."""
    clients = []

    def open_one(token=None, folder=tmp_path / "studio", rooms=None, **limits):
        settings = Settings(folder, token=token, limits=Limits(**limits), device="cpu")
        app = make_app(settings, rooms or {**ROOMS, "repair": room})
        client = TestClient(app, base_url="http://127.0.0.1:8017", raise_server_exceptions=False)
        client.studio = app.studio
        clients.append(client)
        return client.__enter__()

    yield open_one
    room.gate.set()
    for client in clients:
        client.__exit__(None, None, None)


def asked(client, **told):
    answer = client.post("/api/repair", json={"prompt": "a red star", **told}, headers=OWN)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def ended(client, job, seconds=180):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = client.get(f"/api/jobs/{job}").json()
        if found["state"] in ("done", "failed", "cancelled"):
            return found
        time.sleep(0.01)
    raise AssertionError(found)


# --- the queue --------------------------------------------------------------------------------------------------------
def test_jobs_are_done_in_their_order_and_each_once(opened, room):
    client = opened()
    room.gate.clear()
    jobs = [asked(client, prompt=f"{n} red stars") for n in range(2, 32)]
    waits = client.get(f"/api/jobs/{jobs[-1]}").json()
    assert waits["state"] == "queued" and waits["ahead"] == 29
    room.gate.set()
    assert [ended(client, job)["state"] for job in jobs] == ["done"] * 30
    assert room.done == [f"{n} red stars" for n in range(2, 32)]
    listed = client.get("/api/jobs").json()["jobs"]
    assert [j["id"] for j in listed] == jobs[::-1] and all("result" not in j for j in listed)


def test_events_tell_each_step_and_the_end(opened, room):
    client = opened()
    room.gate.clear()
    job = asked(client, steps=12)
    told = []
    with Client(http=client) as studio:
        opener = threading.Timer(0.3, room.gate.set)
        opener.start()
        found = studio.wait(job, lambda kind, data: told.append((kind, data)))
    assert found["state"] == "done" and found["result"] == {"prompt": "a red star"}
    steps = [data["step"] for kind, data in told if kind == "step" and data["steps"]]
    assert steps == list(range(steps[0], 13))
    assert told[0][0] == "job" and told[-1][1]["state"] == "done"


def test_who_listens_after_the_end_is_told_the_end(opened):
    client = opened()
    job = asked(client)
    ended(client, job)
    text = client.get(f"/api/jobs/{job}/events").text
    assert text.count("event: job") == 1 and '"state": "done"' in text


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_at_its_next_step(opened, room):
    client = opened()
    room.gate.clear()
    first, second = asked(client, steps=200), asked(client)
    while client.get(f"/api/jobs/{first}").json()["state"] != "running":
        time.sleep(0.01)
    assert client.post(f"/api/jobs/{second}/cancel", headers=OWN).json()["state"] == "cancelled"
    assert client.post(f"/api/jobs/{first}/cancel", headers=OWN).json()["stopping"] is True
    assert client.delete(f"/api/jobs/{first}", headers=OWN).status_code == 400
    room.gate.set()
    assert ended(client, first)["state"] == "cancelled" and room.done == []
    assert client.delete(f"/api/jobs/{first}", headers=OWN).status_code == 200
    assert client.get(f"/api/jobs/{first}").status_code == 404


def test_a_job_that_fails_says_why_and_the_next_one_is_done(opened):
    client = opened()
    refused, broken, fine = (asked(client, prompt=p) for p in ("refuse it", "break it", "a red star"))
    assert ended(client, refused)["error"] == "it is refused; ask otherwise"
    assert "RuntimeError: it broke" in ended(client, broken)["error"]
    assert ended(client, fine)["state"] == "done"


def test_a_job_that_takes_too_long_is_stopped(opened, room):
    client = opened(job_seconds=0.0)
    assert "more than 0 seconds" in ended(client, asked(client, steps=100))["error"]


def test_no_more_wait_than_may(opened, room):
    client = opened(queued=2)
    room.gate.clear()
    first = asked(client)
    while client.get(f"/api/jobs/{first}").json()["state"] != "running":
        time.sleep(0.01)
    asked(client), asked(client)
    answer = client.post("/api/repair", json={"prompt": "a red star"}, headers=OWN)
    assert answer.status_code == 400 and "2 jobs wait already" in answer.json()["error"]


def test_old_jobs_are_forgotten_with_their_files(opened):
    client = opened(kept=2)
    jobs = [asked(client) for _ in range(4)]
    ended(client, jobs[-1])
    folders = client.studio.folder / "jobs"
    until = time.monotonic() + 60
    while len(list(folders.iterdir())) > 2 and time.monotonic() < until:
        time.sleep(0.02)
    assert {p.name for p in folders.iterdir()} == set(jobs[2:])
    assert client.get(f"/api/jobs/{jobs[0]}").status_code == 404


def test_what_was_begun_and_not_ended_is_done_after_a_restart(tmp_path):
    path = tmp_path / "studio.sqlite"
    store = Store(path)
    first, second, third, fourth = (store.add("repair", {"n": n}, "accord", 9).id for n in range(4))
    assert store.take().id == first and store.take().id == second and store.take().id == third
    store.cancel(second)
    store.note(first, {"step": 3})
    for _ in range(2):  # killed: nothing is closed
        store = Store(path)
        store.recover(tries=3)
        assert [store.job(j).state for j in (first, second, third, fourth)] == [
            "queued",
            "cancelled",
            "queued",
            "queued",
        ]
        assert store.take().id == first and store.job(first).progress == {} and store.take().id == third
    store = Store(path)
    store.recover(tries=3)
    assert store.job(first).state == "failed" and "begun 3 times" in store.job(first).error
    assert store.take().id == fourth and store.take() is None


def test_jobs_that_waited_are_done_by_the_next_studio(opened, room):
    client = opened()
    room.gate.clear()
    jobs = [asked(client, steps=50) for _ in range(3)]
    while client.get(f"/api/jobs/{jobs[0]}").json()["state"] != "running":
        time.sleep(0.01)
    closing = threading.Timer(0.2, room.gate.set)
    closing.start()
    client.__exit__(None, None, None)
    assert len(room.done) < 3
    again = opened()
    assert [ended(again, job)["state"] for job in jobs] == ["done"] * 3 and len(room.done) == 3


def test_a_damaged_database_is_refused(tmp_path):
    store = Store(tmp_path / "studio.sqlite")
    for _ in range(30):
        store.add("repair", {"prompt": "a red star " * 100}, "accord", 99)
    store.close()
    data = bytearray((tmp_path / "studio.sqlite").read_bytes())
    data[4096 : len(data) // 2] = bytes(len(data) // 2 - 4096)  # the first page, which is the file's head, is whole
    (tmp_path / "studio.sqlite").write_bytes(data)
    with pytest.raises(InputError, match=r"cannot be opened \(.*(damaged|malformed)"):
        Store(tmp_path / "studio.sqlite")


def test_a_full_disk_is_said_and_the_studio_goes_on(opened):
    client = opened()
    database = client.studio.store._db
    database.execute("pragma max_page_count = 1")  # what it has already
    answers = [
        client.post("/api/repair", json={"prompt": "a red star " * 150}, headers=OWN).status_code for _ in range(40)
    ]
    assert answers[-1] == 503 and 500 not in answers
    database.execute("pragma max_page_count = 1000000")
    assert ended(client, asked(client))["state"] == "done"


def test_a_folder_has_one_studio(opened, tmp_path):
    opened()
    with pytest.raises(InputError, match="being written to by"):
        make_app(Settings(tmp_path / "studio"))


def test_twenty_listeners_and_two_hundred_jobs(opened, room):
    client = opened()
    room.gate.clear()
    jobs = [asked(client, steps=2) for _ in range(200)]
    told = [[] for _ in range(20)]

    def listen(into):
        with Client(http=client) as studio:
            into += [data["state"] for kind, data in studio.events(jobs[-1]) if kind == "job"]

    threads = [threading.Thread(target=listen, args=(into,)) for into in told]
    for thread in threads:
        thread.start()
    room.gate.set()
    for thread in threads:
        thread.join(60)
    assert all(into[-1] == "done" for into in told)
    assert len(room.done) == 200 and {ended(client, j)["state"] for j in jobs} == {"done"}
    until = time.monotonic() + 5
    while client.studio.hub.count() and time.monotonic() < until:
        time.sleep(0.02)
    assert client.studio.hub.count() == 0


# --- who may ask ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:8017", "localhost@evil", ""])
def test_other_hosts_are_refused(opened, host):
    client = opened()
    assert client.get("/api/about", headers={"host": host}).status_code == 421
    assert client.get("/api/about", headers={"host": "localhost:1"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**OWN, "origin": "http://evil.example"},
        {**OWN, "origin": "null"},
        {**OWN, "origin": "http://["},
        {**OWN, "origin": "http://127.0.0.1:9999"},
        {**OWN, "sec-fetch-site": "cross-site"},
    ],
)
def test_changes_from_other_pages_are_refused(opened, headers, room):
    client = opened()
    answer = client.post("/api/repair", json={"prompt": "a red star"}, headers=headers)
    assert answer.status_code == 403 and client.get("/api/jobs").json() == {"jobs": []}
    own = {**OWN, "origin": "http://127.0.0.1:8017", "sec-fetch-site": "same-origin"}
    assert client.post("/api/repair", json={"prompt": "a red star"}, headers=own).status_code == 201


def test_with_a_token_nobody_else_gets_in(opened):
    token = "a-word-that-nobody-guesses"
    client = opened(token=token)
    assert client.get("/health").status_code == 200
    for path in ("/", "/api/jobs", "/page/app.js", "/api/events", "/?token=wrong"):
        assert client.get(path, headers={"host": "studio.example"}).status_code == 401, path
    bearer = {"authorization": f"Bearer {token}", "host": "studio.example"}
    assert client.get("/api/jobs", headers=bearer).status_code == 200
    entered = client.get(f"/?token={token}", follow_redirects=False)
    cookie = entered.headers["set-cookie"]
    assert entered.status_code == 303 and entered.headers["location"] == "/"
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert client.get("/").status_code == 200  # with the cookie
    assert client.get("/", headers={"cookie": "accord_studio=\x7f;;=,"}).status_code == 401


def test_a_short_token_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least 16"):
        Settings(tmp_path, token="short")


def test_every_answer_has_the_headers_that_keep_others_out(opened):
    client = opened()
    for path in ("/", "/api/about", "/page/app.js", "/nothing"):
        headers = client.get(path).headers
        assert (
            headers["x-content-type-options"] == "nosniff"
            and "default-src 'none'" in headers["content-security-policy"]
        )
    page = client.get("/").text
    assert "http" not in page.replace("http://127.0.0.1", "") and "style=" not in page and "<script>" not in page


# --- what is sent -----------------------------------------------------------------------------------------------------
def png_bytes(size=(64, 64), **text):
    data, info = BytesIO(), PngImagePlugin.PngInfo()
    for name, value in text.items():
        info.add_text(name, value)
    Image.new("RGB", size, "red").save(data, "PNG", pnginfo=info)
    return data.getvalue()


def sent(client, data, name="picture.png"):
    return client.post("/api/uploads", params={"name": name}, content=data, headers=OWN)


def bomb(width=100_000, height=100_000):
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", b"x") + png_chunk(b"IEND", b"")


def test_a_picture_is_kept_and_says_its_prompt(opened):
    client = opened()
    found = sent(client, png_bytes(parameters="a red star\nNegative prompt: blue\nSteps: 20")).json()
    assert (found["kind"], found["width"], found["stated"]) == ("picture", 64, "a red star")
    assert client.get(f"/api/uploads/{found['id']}").json() == found
    shown = client.get(f"/api/uploads/{found['id']}/shown")
    assert Image.open(BytesIO(shown.content)).size == (64, 64)


@pytest.mark.parametrize(
    ("data", "name", "said"),
    [
        (bomb(), "bomb.png", "'bomb.png'"),
        (bomb(5000, 5000), "large.png", "larger than the 16 million"),
        (b"<script>alert(1)</script>", "page.html", "'page.html'"),
        (b"", "nothing.png", "'nothing.png'"),
        (b"not a video", "film.mp4", "'film.mp4'"),
        (png_bytes(), "film.gif", "'film.gif'"),
    ],
)
def test_what_is_no_picture_or_too_large_is_refused_and_nothing_is_kept(opened, data, name, said):
    client = opened()
    answer = sent(client, data, name)
    assert answer.status_code == 400 and said in answer.json()["error"], answer.text
    assert str(client.studio.folder) not in answer.text
    assert list((client.studio.folder / "uploads").iterdir()) == []
    assert not list(client.studio.folder.glob(".sent-*"))


def many_scans(side=1500, count=20_000):
    """A progressive JPEG of one gray, whose last scan is there again and again: half a megabyte, most of a minute."""
    data = BytesIO()
    Image.new("L", (side, side), 90).save(data, "JPEG", progressive=True)
    whole = data.getvalue()
    head, scan = whole[:-2], whole[whole.rindex(b"\xff\xda") : -2]
    return head + count * scan + whole[-2:]


def test_an_upload_that_takes_long_to_decode_is_refused(opened):
    client = opened(decode_seconds=2.0)
    began = time.monotonic()
    answer = sent(client, many_scans(), "slow.jpg")
    assert answer.status_code == 400 and answer.json()["error"].startswith("'slow.jpg' was not decoded within 2 s")
    assert time.monotonic() - began < 10 and multiprocessing.active_children() == []
    assert list((client.studio.folder / "uploads").iterdir()) == []
    assert sent(client, png_bytes()).status_code == 201


def test_a_decoder_that_dies_is_a_damaged_upload(opened, monkeypatch):
    client = opened()
    monkeypatch.setattr("accord.studio.uploads._tell", os._exit)  # with three arguments: it dies of a TypeError
    answer = sent(client, png_bytes(), "killer.png")
    assert answer.status_code == 400 and "'killer.png' cannot be decoded" in answer.json()["error"]


@pytest.mark.parametrize(
    "name", ["../../evil.png", "/etc/passwd", "..\\..\\x.png", "a\0b.png", "\u202egnp.exe", "x" * 200]
)
def test_names_of_uploads_are_no_paths(opened, name):
    client = opened()
    before = sorted(p.name for p in client.studio.folder.parent.iterdir())
    found = sent(client, png_bytes(), name).json()
    kept = client.studio.folder / "uploads" / found["id"]
    assert sorted(p.name for p in kept.iterdir()) in (["original", "shown.png"], ["original.png", "shown.png"])
    assert "/" not in found["name"] and "\\" not in found["name"]
    assert sorted(p.name for p in client.studio.folder.parent.iterdir()) == before


def test_bodies_are_bounded(opened):
    client = opened(upload_bytes=1000, json_bytes=500)
    assert sent(client, b"x" * 1001).status_code == 413
    parts = (b"x" * 400 for _ in range(3))  # without a length
    assert client.post("/api/uploads", content=parts, headers=OWN).status_code == 413
    assert client.post("/api/parse", json={"prompt": "x" * 500}, headers=OWN).status_code == 413
    assert client.get("/health").json()["status"] == "ok"


def test_a_video_is_read_up_to_so_many_frames(opened):
    pytest.importorskip("av")
    client = opened(frames=3)
    data, frames = BytesIO(), [Image.new("RGB", (32, 32), (40 * i, 0, 0)) for i in range(5)]
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], duration=100)
    found = sent(client, data.getvalue(), "film.gif").json()
    assert (found["kind"], found["frames"], found["width"]) == ("video", 3, 32)
    answer = client.post("/api/read", json={"upload": found["id"]}, headers=OWN)
    assert answer.status_code == 400 and "go to Edit" in answer.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": ""},
        {"prompt": "!!"},
        {"prompt": "a star", "seed": -1},
        {"prompt": "a star", "seed": 1.5},
        {"prompt": "a star", "seed": "1"},
        {"prompt": "a star", "steps": 10**6},
        {"prompt": "a star", "model": "../../etc"},
        {"prompt": "a star", "own": 1},
        {"prompt": "x" * 3000},
        {"prompt": "a \ud800 star"},
        {"prompt": "a star", "places": [{"thing": "star", "box": [0.5, 0, 0.1, 1]}]},
        {"prompt": "a star", "places": [{"thing": "star", "box": [0, 0, 2, 1]}]},
        [],
        None,
    ],
)
def test_requests_that_cannot_be_are_one_sentence(opened, body):
    client = opened()
    answer = client.post("/api/repair", content=json.dumps(body), headers={**OWN, "content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert list(answer.json()) == ["error"] and answer.json()["error"].count("\n") == 0


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, '{"prompt": NaN}', '{"prompt":', "\xff"])
def test_damaged_json_is_refused(opened, text):
    client = opened()
    headers = {**OWN, "content-type": "application/json"}
    answer = client.post("/api/parse", content=text.encode("latin-1"), headers=headers)
    assert answer.status_code in (400, 422), answer.text


@pytest.mark.parametrize(
    "name",
    [
        "../../studio.sqlite",
        "..%2f..%2fstudio.sqlite",
        "%2e%2e/%2e%2e/studio.sqlite",
        ".accord.lock",
        "rounds",
        "/etc/passwd",
        "link.png",
    ],
)
def test_files_of_a_job_are_those_in_its_folder(opened, name):
    client = opened()
    job = asked(client)
    ended(client, job)
    folder = client.studio.worker.folder_of(job)
    (folder / "link.png").symlink_to(client.studio.folder / "studio.sqlite")
    assert client.get(f"/api/jobs/{job}/files/after.png").status_code == 200
    answer = client.get(f"/api/jobs/{job}/files/{name}")
    assert answer.status_code in (404, 422) and b"SQLite" not in answer.content


def test_all_of_a_job_can_be_taken_along(opened):
    client = opened()
    job = asked(client, prompt="a red star; $(rm -rf /) 'quoted' <script>alert(1)</script>", seed=7)
    ended(client, job)
    with Client(http=client) as studio:
        path = studio.download(job, client.studio.folder.parent / "star.zip")
    with ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["after.png", "command.txt"]
        said = archive.read("command.txt").decode()
    words = shlex.split(said)
    assert words[:2] == ["accord", "realign"] and words[-1].startswith("a red star; $(rm")


COMMANDS = {
    "repair": [
        {"prompt": "a red star and a blue key", "places": [{"thing": "a red star", "box": [0, 0, 0.5, 0.5]}]},
        {"prompt": "--out=/etc a star", "mode": "renoise", "strength": 0.5, "steps": 20, "guidance": 3.5, "seed": 9},
        {"prompt": "a star", "rounds": 0, "negative_prompt": "-x blue", "model": "lab+tuned"},
    ],
    "compare": [{"a": "lab", "b": "lab+tuned", "prompts": ["a red star"], "seeds": 2, "steps": 10}],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_lines_of_jobs_are_commands(tmp_path, name):
    """Their options are known, and mean what was asked for; nothing is run."""
    room, settings = ROOMS[name], Settings(tmp_path)
    for body in COMMANDS[name]:
        request = room.request.model_validate(body)
        room.check(request, settings, lambda _: {})
        for text in room.command(request, settings, lambda _: {}):
            assert_command(text)


def assert_command(text):
    command, words = get_command(commands), shlex.split(text)[1:]
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return command.make_context(command.name, words).params


def test_the_command_of_a_repair_says_what_was_asked_for(tmp_path):
    room = ROOMS["repair"]
    request = room.request.model_validate(COMMANDS["repair"][1])
    found = assert_command(room.command(request, Settings(tmp_path), lambda _: {})[0])
    assert found["prompts"] == ["--out=/etc a star"] and (found["mode"], found["strength"]) == ("renoise", 0.5)
    assert (found["steps"], found["guidance"], found["seed"], found["rounds"]) == (20, 3.5, [9], 2)


def test_commands_of_uploads_name_the_file_and_no_path(tmp_path):
    settings = Settings(tmp_path)
    about = {"kind": "video", "name": "-film.mp4", "frames": 12, "stated": ""}
    told = {"upload": "0" * 32, "source": "a red car", "target": "a blue car", "tune_steps": 0}
    edit = ROOMS["edit"]
    request = edit.request.model_validate(told)
    found = assert_command(edit.command(request, settings, lambda _: about)[0])
    assert str(found["video"]) == "-film.mp4" and found["frames"] == "0:12" and found["tune_steps"] == 0
    read = ROOMS["read"]
    about = {"kind": "picture", "name": "star.png", "stated": "a red star"}
    lines = read.command(read.request(upload="0" * 32), settings, lambda _: about)
    assert [assert_command(text) is not None for text in lines] == [True, True]


def test_a_prompt_is_taken_apart_while_it_is_typed(opened):
    client = opened()
    with Client(http=client) as studio:
        found = studio.parse("😀 two red stars left of a (key:1.2), no fish, oil painting")
        letters = found["prompt"]
        marked = {(m["kind"], letters[m["start"] : m["end"]]) for m in found["marks"]}
        assert {("thing", "two red stars"), ("relation", "left of"), ("style", "oil painting")} <= marked
        assert found["things"][0]["count"] == 2 and found["absent"] == ["fish"]
        with pytest.raises(InputError, match="empty"):
            studio.parse("!!")


def test_the_api_is_described(opened):
    described = opened().get("/api/openapi.json").json()
    paths = set(described["paths"])
    assert {f"/api/{name}" for name in ROOMS} <= paths and "/health" in paths
    assert all("summary" in how for path in described["paths"].values() for how in path.values())


# --- a real one -------------------------------------------------------------------------------------------------------
def test_a_repair_on_the_lab_is_what_the_command_makes(opened, lab, tmp_path):
    import accord
    from accord.reports.pictures import png

    prompt, places = "two yellow stars and a purple moon", [("a purple moon", (0.0, 0.5, 0.5, 1.0))]
    client = opened(rooms=ROOMS)
    client.studio.worker.models._pipes["lab"] = lab
    told = []
    box = [{"thing": "a purple moon", "box": places[0][1]}]
    with Client(http=client) as studio:
        job = studio.submit("repair", prompt=prompt, seed=2, steps=12, rounds=1, places=box)
        done = studio.wait(job["id"], lambda kind, data: told.append((kind, data)))
        pictures = {name: studio.file(job["id"], name) for name in ("before.png", "after.png", "rounds/1.png")}
        assert done["result"]["report"]["regions"][2]["box"] == list(places[0][1])
        assert done["result"]["row"]["image"] == "after.png" and done["result"]["kept"] == 1
        assert [data["step"] for kind, data in told if kind == "preview"] == [5, 10, 5, 10]  # each fifth, of each round
        assert [data["value"]["number"] for kind, data in told if kind == "rounds"] == [0, 1]
        refused = studio.submit("repair", prompt=prompt, places=[{"thing": "a fish", "box": [0, 0, 1, 1]}])
        with pytest.raises(InputError, match="asks for no thing 'a fish'"):
            studio.wait(refused["id"])
    config = accord.RealignConfig(rounds=1, mode="same_seed")
    plain = accord.realign(lab, prompt, 2, config=config, places=places, num_inference_steps=12)[0]
    assert png(plain.before) == pictures["before.png"]
    assert png(plain.after) == pictures["after.png"] == pictures["rounds/1.png"]
    plain.save(tmp_path / "demo" / "000-stars-s2")
    assert client.studio.show(tmp_path / "demo") == 1 and client.studio.show(tmp_path / "demo") == 0
    shown = client.get("/api/jobs").json()["jobs"][0]
    assert shown["state"] == "done" and shown["request"]["prompt"] == prompt
    assert client.get(f"/api/jobs/{shown['id']}/files/after.png").content == pictures["after.png"]


def test_a_comparison_says_which_prompts_it_left_out(opened, lab):
    client = opened(rooms=ROOMS)
    client.studio.worker.models._pipes["lab"] = lab
    long = "a red star " * 20
    with Client(http=client) as studio:
        job = studio.submit("compare", a="lab", b="lab", prompts=["a red star", long], steps=2)["id"]
        found = studio.wait(job)["result"]
    assert found["data"]["prompts"] == 1
    (left,) = found["left_out"]
    assert left["prompt"] == long.strip() and "longer than the" in left["reason"]


def test_the_bench_of_the_studio_runs(tmp_path):
    from accord_lab.bench.studio import Plan, Studio

    plan = Plan(clicks=1, jobs=4, each=2, listeners=2, steps=5)
    data, text = Studio(out=tmp_path, plan=plan, progress=False).run()
    assert 0 < data["seconds"]["preview"]["median"] < data["seconds"]["picture"]["median"]
    assert (data["lost"], data["doubled"]) == (0, 0) and {"0", "4"} <= set(data["memory_mib"])
    assert "4 jobs queued at once, each a picture of 5 steps, while 2 listeners" in text


def test_a_studio_that_does_not_start_says_why(tmp_path):
    from accord_lab.bench.studio import Served

    (tmp_path / "studio").write_text("no folder")
    with pytest.raises(InputError, match=r"the studio did not start: output folder .* cannot be written"):
        Served(tmp_path)


# --- the command ------------------------------------------------------------------------------------------------------
def test_without_the_extra_the_command_says_what_to_install(accord_cli, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fastapi", None)
    code, _, err = accord_cli("studio")
    assert code == 2 and "pip install -e '.[studio]'" in err and err.count("\n") == 1


def test_a_port_that_is_taken_is_said(accord_cli, tmp_path):
    from accord.studio.serve import _socket

    with _socket("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        code, out, err = accord_cli("studio", "--port", port, "--folder", str(tmp_path / "studio"))
    assert code == 2 and out == "" and f"--port {port} (Address already in use)" in err and err.count("\n") == 1
    assert not (tmp_path / "studio").exists()


def test_another_interface_needs_a_token(accord_cli):
    code, _, err = accord_cli("studio", "--host", "0.0.0.0")
    assert code == 2 and "--share-token" in err
    code, _, err = accord_cli("studio", "--share-token", "short")
    assert code == 2 and "--share-token must have at least 16" in err


# --- damaged requests -------------------------------------------------------------------------------------------------
class Idle:
    """A room whose jobs are checked and done, with nothing made."""

    def __init__(self, room):
        self.name, self.request, self.check, self.command = room.name, room.request, room.check, room.command

    def run(self, work):
        work.took_step(1, 1)
        work.write("after.png", Image.new("RGB", (8, 8)))
        return {}


ODD = [None, True, -1, 0, 2**70, 1.5, 1e400, "", "a red star", "<b>", "\ud800", "\0", "x" * 3000, "🌟" * 700, [], [[]]]
ODD += [["a star"], [0, 0, 1, 1], [{"thing": "a star", "box": [0, 0, 1, float("nan")]}], {}, {"a": 1}, "lab", "0" * 32]
ODD_NAMES = ["0" * 32, "z" * 32, "..%2f", "a" * 500, "%00", "'; drop table jobs; --", "%ff%fe", "é", "after.png"]
FILES = ["after.png", "../studio.sqlite", "a//b.png", "%2e%2e/after.png", ".hidden.png", "", "a" * 300 + ".png"]
NAMES = ["a.png", "b.gif", "c.mp4", "d", "e.jpg", "../../f.webp", "\0.png", "g.GIF", "x" * 299, "h.avi"]
ODD_HEADERS = [
    ("host", "evil"),
    ("origin", "x"),
    ("origin", "http://[::1"),
    ("cookie", "a=\x7f;="),
    ("range", "bytes=9-1"),
]
ODD_HEADERS += [("authorization", "Bearer"), ("accept", "*/*;;"), ("content-length", "-1"), ("if-none-match", "\x7f")]
TYPES = ["application/json"] * 8 + ["text/plain", "", "multipart/form-data; boundary=x", "application/json; charset=é"]


def whole_requests(picture, video):
    """What each path takes, with every field."""
    place = {"thing": "a red star", "box": [0, 0, 0.5, 0.5]}
    repair = {"prompt": "a red star", "seed": 1, "mode": "renoise", "rounds": 1, "strength": 0.5, "steps": 4}
    edit = {"upload": video, "source": "a red car", "target": "a fish", "frames": 2, "tune_steps": 1, "steps": 4}
    return {
        "parse": {"prompt": "two red stars left of a (key:1.2), no fish"},
        "repair": {**repair, "guidance": 3.0, "negative_prompt": "blue", "places": [place], "model": "lab"},
        "read": {"upload": picture, "prompt": "a red star", "model": "lab"},
        "edit": {**edit, "guidance": 3.0, "injection": 0.5, "mask_blending": 0.7, "seed": 1, "model": "lab"},
        "compare": {"a": "lab", "b": "lab+tuned", "prompts": ["a star"], "seeds": 1, "steps": 4, "runs": False},
    }


def broken(draw, data):
    """Bytes with a few of them changed, or the end missing."""
    data = bytearray(data)
    for _ in range(draw.randrange(1, 6)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data[: draw.randrange(len(data))] if draw.random() < 0.3 else data)


def damaged(draw, whole, files, jobs, uploads):
    """A request at random: its kind, method, path, headers and body; most are close to one that is right."""
    kind = draw.choices((*whole, "uploads", "told"), (*[12] * len(whole), 4, 36))[0]
    method, data = ("GET" if kind == "told" else "POST"), b""
    if kind in whole:
        path, body = f"/api/{kind}", dict(whole[kind])
        for name in draw.sample([*body, "own"], draw.randrange(3)):
            body[name] = draw.choice(ODD)
        for name in draw.sample(list(body), draw.random() < 0.1):
            del body[name]
        data = json.dumps(draw.choice(ODD) if draw.random() < 0.05 else body).encode()
        data = broken(draw, data) if draw.random() < 0.2 else data
    elif kind == "uploads":
        path, data = f"/api/uploads?name={quote(draw.choice(NAMES))}", draw.choice(files)
        data = broken(draw, data) if draw.random() < 0.8 else data
    else:
        job, upload = (draw.choice(ODD_NAMES if draw.random() < 0.3 else known) for known in (jobs, uploads))
        own = ("", "/cancel", "/events", "/download", f"/files/{draw.choice(FILES)}")
        paths = ["/", "/health", "/api/about", "/nothing", "/page/app.js", "/page/../server.py", "/api/openapi.json"]
        paths += [f"/api/jobs?most={n}" for n in (1, -1, 2**70, "x")] + [f"/api/jobs/{job}{rest}" for rest in own] * 3
        path = draw.choice([*paths, f"/api/uploads/{upload}", f"/api/uploads/{upload}/shown"])
        method = "POST" if path.endswith("/cancel") else "DELETE" if draw.random() < 0.05 else "GET"
    headers = {"content-type": draw.choice(TYPES), **(OWN if draw.random() < 0.95 else {})}
    headers |= dict(draw.sample(ODD_HEADERS, draw.random() < 0.1))
    if draw.random() < 0.1:
        method = draw.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW"])
    return kind, method, path, {k: v.encode("utf8") for k, v in headers.items()}, data


def fuzz(client, count):
    """Counts of the answers to so many damaged requests, by kind and status."""
    import random

    video = (Path(__file__).parents[1] / "docs" / "img" / "video.mp4").read_bytes()
    files, moving = [png_bytes(parameters="a red star"), video], BytesIO()
    frames = [Image.new("RGB", (32, 32), (40 * i, 0, 0)) for i in range(3)]
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:], duration=100)
    for form in ("JPEG", "WEBP", "TIFF"):
        frames[0].save(data := BytesIO(), form)
        files.append(data.getvalue())
    files.append(moving.getvalue())
    uploads = [sent(client, files[0]).json()["id"], sent(client, video, "film.mp4").json()["id"]]
    whole, jobs, counts = whole_requests(*uploads), [asked(client)], Counter()
    for seed in range(count):
        kind, method, path, headers, data = damaged(random.Random(seed), whole, files, jobs, uploads)
        answer = client.request(method, path, headers=headers, content=data)
        counts[kind, answer.status_code] += 1
        assert answer.status_code < 500, (seed, method, path, headers, data, answer.text)
        if answer.status_code == 201:
            (uploads if kind == "uploads" else jobs).append(answer.json()["id"])
    assert client.get("/health").json()["status"] == "ok"
    return counts


def idle(opened):
    return opened(rooms={name: Idle(room) for name, room in ROOMS.items()})


def test_a_sample_of_damaged_requests_is_never_a_500(opened):
    counts = fuzz(idle(opened), 150)
    assert {200, 201, 400, 404, 422} <= {status for _, status in counts}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_damaged_requests_are_never_a_500(opened):
    counts = fuzz(idle(opened), 10_000)
    assert {kind for kind, status in counts if status == 201} == {*ROOMS, "uploads"}
    print(*(f"{n:6}  {kind} {status}" for (kind, status), n in sorted(counts.items())), sep="\n")


def test_the_dockerfile_has_no_finding():
    import shutil
    import subprocess
    import sys

    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed")
    file = Path(__file__).parents[1] / "docker" / "Dockerfile"
    found = subprocess.run([linter, str(file)], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout
