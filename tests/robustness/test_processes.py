"""Two processes and one folder; left-overs of killed ones."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from accord.types import InputError


def _hold(folder, ready, leave):
    from accord.files import only_writer

    with only_writer(folder):
        ready.set()
        leave.wait(60)


def _write_and_die(folder, ready):
    from accord.files import only_writer, part_of, replace_file

    with only_writer(folder):
        part_of(folder / "x.png").mkdir()

        def write(part):
            part.write_bytes(b"half")
            ready.set()
            time.sleep(60)

        replace_file(folder / "y.json", write)


@pytest.fixture
def spawn():
    context = multiprocessing.get_context("spawn")
    running = []

    def start(target, *arguments):
        events = [context.Event() for _ in range(2)]
        process = context.Process(
            target=target, args=(*arguments, *events[: target.__code__.co_argcount - len(arguments)])
        )
        process.start()
        running.append(process)
        assert events[0].wait(60)
        return process, events[1]

    yield start
    for process in running:
        process.kill()
        process.join()


def test_a_folder_has_one_writer(tmp_path, spawn):
    from accord.files import only_writer, save_folder

    process, leave = spawn(_hold, tmp_path)
    with (
        pytest.raises(InputError, match=rf"process {process.pid} on .*; wait for it, or choose another place"),
        only_writer(tmp_path),
    ):
        pass
    with pytest.raises(InputError, match="another process"):
        save_folder(tmp_path, lambda part: (part / "x").write_text("x"))
    leave.set()
    process.join(60)
    save_folder(tmp_path, lambda part: (part / "x").write_text("x"))
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_dead_writers_lock_is_stale_and_its_parts_are_swept(tmp_path, spawn):
    from accord.files import only_writer

    process, _ = spawn(_write_and_die, tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(list(tmp_path.glob(".accord.*"))) == 3
    with only_writer(tmp_path):
        assert [p.name for p in tmp_path.iterdir()] == [".accord.lock"]
    assert not list(tmp_path.iterdir())


def test_parts_of_the_living_are_not_swept(tmp_path):
    from accord.files import part_of, sweep

    mine = part_of(tmp_path / "x.json")
    mine.write_text("still being written")
    another = tmp_path / mine.name.replace(mine.name.split(".")[2], "0badcafe")
    another.write_text("of another machine, just now")
    sweep(tmp_path)
    assert mine.exists() and another.exists()
    os.utime(another, (0, 0))
    sweep(tmp_path)
    assert mine.exists() and not another.exists()


def test_a_pid_that_was_given_again_is_no_owner(tmp_path):
    from accord.files import part_of, sweep

    path = part_of(tmp_path / "x.json")
    born = path.name.split("-")[1].split(".")[0]
    old = tmp_path / path.name.replace(f"-{born}.", "-1.")
    old.write_text("of a process of the same number")
    sweep(tmp_path)
    assert not old.exists()


def test_temporary_names_are_of_one_process_and_one_call(tmp_path):
    from accord.files import part_of

    found = {part_of(tmp_path / "edited.mp4").name for _ in range(50)}
    assert len(found) == 50 and all(n.startswith(".") and n.endswith(".mp4") for n in found)


def test_threads_are_writers_too(tmp_path):
    from accord.files import only_writer

    refused = []

    def second():
        try:
            with only_writer(tmp_path):
                pass
        except InputError as error:
            refused.append(error)

    with only_writer(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(refused) == 1


def test_a_device_is_not_replaced_by_a_file(tmp_path):
    from accord.files import write_file

    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(InputError, match="pipe, a device or a socket"):
        write_file(tmp_path / "pipe.csv", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["pipe.csv"]


@pytest.mark.parametrize("make", ["file", "inside a file", "link to nothing", "long", "nul"])
def test_a_folder_that_cannot_be_is_refused_and_nothing_is_made(tmp_path, make):
    from accord.files import check_writable

    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    place = {
        "file": "file",
        "inside a file": "file/a/b",
        "link to nothing": "link/a",
        "long": "new/" + "x" * 300,
        "nul": "a\0b",
    }[make]
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / place)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_proving_that_a_folder_can_be_written_makes_none(tmp_path):
    from accord.files import check_writable

    check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_could_not_be_replaced_stays(tmp_path, monkeypatch):
    from accord import files

    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "old").write_text("old")
    real = os.replace

    def fail(source, target):
        if str(target).endswith("frames") and not (tmp_path / "frames").exists() and list(source.glob("new")):
            raise PermissionError(13, "Permission denied")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(PermissionError):
        files.replace_folder(tmp_path / "frames", lambda part: (part / "new").write_text("new"))
    assert [p.name for p in tmp_path.iterdir()] == ["frames"] and [p.name for p in (tmp_path / "frames").iterdir()] == [
        "old"
    ]


def test_an_inverter_is_trained_by_one_process(tmp_path):
    from accord.files import only_writer
    from accord.methods.invert.config import InvertTrainConfig, PredictorConfig
    from accord.methods.invert.fit import train_inverter

    with only_writer(tmp_path / "out"), pytest.raises(InputError, match="being written to"):
        train_inverter(tmp_path / "pairs.csv", tmp_path / "out", [PredictorConfig()], InvertTrainConfig())


def test_a_name_of_any_length_can_be_locked(tmp_path):
    from accord.files import only_writer

    with only_writer(tmp_path, "x" * 249):
        assert len(list(tmp_path.iterdir())) == 1


def test_a_refused_block_leaves_no_folder(tmp_path):
    from accord.files import only_writer

    with pytest.raises(ValueError, match="refused"), only_writer(tmp_path / "a" / "b"):
        raise ValueError("refused")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    import errno

    from accord.files import replace_file

    def write(part):
        part.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match="No space left") as refusal:
        replace_file(tmp_path / "a" / "x.json", write)
    assert "\n" not in str(refusal.value) and not [p for p in tmp_path.rglob("*") if p.is_file()]
