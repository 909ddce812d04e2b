"""Logs of JSON lines on disks and in buckets."""

import threading

import pytest

from gsto_jax.storage import log
from gsto_jax.storage.log import open_log
from gsto_jax.storage.objects import list_names
from gsto_jax.storage.paths import to_path


@pytest.fixture
def folder(bucket):
    return to_path(bucket, "--workdir")


def steps(path):
    return [line["step"] for line in open_log(path).read()]


def test_starts_write_objects_of_their_own(folder):
    path = folder / "training.jsonl"
    assert steps(path) == []
    first, second = open_log(path), open_log(path)
    first.append({"step": 1})
    assert [line["step"] for line in first.read()] == [1]
    second.append({"step": 2})
    second.flush()
    first.append({"step": 3})
    first.flush()
    assert steps(path) == [1, 3, 2]
    assert list_names(path) == ["000001", "000002"]


def test_lines_are_written_in_the_background(folder, monkeypatch):
    monkeypatch.setattr(log, "FLUSH_SECONDS", 0)
    writer = open_log(folder / "a.jsonl")
    writer.append({"step": 1})
    writer._pending.result()
    assert steps(folder / "a.jsonl") == [1]


def test_flush_waits_for_a_write_in_the_background(folder):
    writer = open_log(folder / "a.jsonl")
    with writer._write_lock:  # which has written no line so far
        writer.append({"step": 1})
        writer._written = 2
        flush = threading.Thread(target=writer.flush)
        flush.start()
        flush.join(0.1)
        assert flush.is_alive()
        writer._written = 0
    flush.join()
    assert steps(folder / "a.jsonl") == [1]


def test_large_objects_are_followed_by_others(folder, monkeypatch):
    monkeypatch.setattr(log, "MAX_OBJECT_BYTES", 20)
    writer = open_log(folder / "a.jsonl")
    for step in range(5):
        writer.append({"step": step})
        writer.flush()
    assert steps(folder / "a.jsonl") == list(range(5))
    assert list_names(folder / "a.jsonl") == ["000001", "000002", "000003"]


def test_an_outage_loses_no_line(folder, emulator, monkeypatch):
    import gcsfs.retry

    monkeypatch.setattr(gcsfs.retry, "min", lambda *_: 0.01, raising=False)
    writer = open_log(folder / "a.jsonl")
    writer.append({"step": 1})
    emulator.unavailable(60)
    with pytest.raises(Exception, match="Service Unavailable"):
        writer.flush()
    writer.append({"step": 2})
    emulator.unavailable(0)
    writer.flush()
    assert steps(folder / "a.jsonl") == [1, 2]


def test_a_lost_answer_repeats_no_line(folder, emulator, monkeypatch):
    """The bucket creates the object, and answers that it is unavailable, until we give up."""
    import gcsfs.retry

    monkeypatch.setattr(gcsfs.retry, "min", lambda *_: 0.01, raising=False)
    other, writer = open_log(folder / "a.jsonl"), open_log(folder / "a.jsonl")
    writer.append({"step": 1})
    emulator.lose_answers(True)
    with pytest.raises(Exception, match="Service Unavailable"):
        writer.flush()
    emulator.lose_answers(False)
    assert steps(folder / "a.jsonl") == [1]
    other.append({"step": 9})
    other.flush()
    writer.append({"step": 2})
    writer.flush()
    assert steps(folder / "a.jsonl") == [1, 2, 9]


def test_a_log_copied_to_a_disk_goes_on(tmp_path):
    folder = tmp_path / "a.jsonl"
    folder.mkdir()
    (folder / "000001").write_text('{"step": 1}\n{"step": 2')
    writer = open_log(folder)
    writer.append({"step": 3})
    writer.append({"step": 4})
    assert steps(folder) == [1, 3, 4]


def test_a_log_copied_to_a_bucket_goes_on(folder):
    (folder / "a.jsonl").write_text('{"step": 1}\n')
    writer = open_log(folder / "a.jsonl")
    writer.append({"step": 2})
    writer.flush()
    assert steps(folder / "a.jsonl") == [1, 2]
