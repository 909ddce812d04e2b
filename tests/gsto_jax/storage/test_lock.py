"""Lock of a folder in a bucket: one holder, takeover of dead ones, fencing of slow ones."""

import threading
import time

import pytest

from gsto_jax.errors import UserError
from gsto_jax.storage import lock
from gsto_jax.storage.lock import BucketLock
from gsto_jax.storage.objects import list_names
from gsto_jax.storage.paths import to_path


@pytest.fixture
def folder(bucket, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(lock, "DEAD_SECONDS", 1.0)
    return to_path(bucket, "--workdir")


def kill(held):
    """Ends the heartbeat of a lock without releasing it, as the death of its process does."""
    held._end.set()
    held._thread.join()


def await_loss(held):
    end = time.monotonic() + 30
    while not held.lost and time.monotonic() < end:
        time.sleep(0.02)
    return held.lost


def test_of_two_starts_at_once_one_gets_the_lock(folder):
    results = []

    def start():
        try:
            results.append(BucketLock(folder))
        except UserError as error:
            results.append(error)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (held,) = (result for result in results if isinstance(result, BucketLock))
    (error,) = (result for result in results if isinstance(result, UserError))
    assert f"{folder} is in use" in str(error)
    assert not held.check()
    held.close()


def test_a_released_lock_is_free_at_once(folder, monkeypatch):
    monkeypatch.setattr(lock, "DEAD_SECONDS", 1e9)
    for _ in range(3):
        BucketLock(folder).close()
    assert list_names(folder) == [f"{lock.PREFIX}000003"]  # numbers never return


def test_an_exit_releases_the_lock(folder, monkeypatch):
    monkeypatch.setattr(lock, "DEAD_SECONDS", 1e9)
    BucketLock(folder)
    lock.release_held()
    second = BucketLock(folder)
    second.close()
    lock.release_held()
    assert not lock._held


def test_a_held_lock_is_refused_and_a_dead_one_taken_over(folder):
    first, messages = BucketLock(folder), []
    with pytest.raises(UserError, match=rf"{folder} is in use by process \d+"):
        BucketLock(folder, log=messages.append)
    assert f"{folder}/{lock.PREFIX}000001" in messages[0]
    kill(first)
    second = BucketLock(folder, log=messages.append)
    assert f"{folder} was taken over by process" in first.check()
    assert not second.check()
    second.close()


@pytest.mark.parametrize("ends", ["released", "killed"])
def test_a_start_waits_for_a_holder_that_is_about_to_end(folder, ends):
    """The previous start of a preempted job, which still writes its lock."""
    first, messages = BucketLock(folder), []
    end = first.close if ends == "released" else lambda: kill(first)
    timer = threading.Timer(0.4, end)
    timer.start()
    second = BucketLock(folder, log=messages.append)
    timer.join()
    assert len(messages) == 1 and "is locked by process" in messages[0]
    assert not second.check()
    second.close()


def test_a_slow_holder_stops(folder):
    """Its heartbeats resume after another start has taken the folder over."""
    first = BucketLock(folder)
    first._write, write = lambda changes: None, first._write
    second = BucketLock(folder)
    first._write = write
    assert "was taken over" in await_loss(first)
    first.close()
    assert not second.check()
    second.close()


def test_a_lock_can_be_broken_by_hand(folder, monkeypatch):
    monkeypatch.setattr(lock, "DEAD_SECONDS", 1e9)
    first = BucketLock(folder)
    (folder / f"{lock.PREFIX}000001").unlink()
    second = BucketLock(folder)
    assert await_loss(first)
    second.close()


def test_a_lock_that_vanishes_during_a_read_has_a_successor(folder, monkeypatch):
    """Another start creates the next number and removes the listed one before it is read."""
    held, numbers, stale = BucketLock(folder), lock._numbers, [[0]]
    monkeypatch.setattr(lock, "_numbers", lambda folder: stale.pop() if stale else numbers(folder))
    assert lock._read_latest(folder).number == 1 and not stale
    held.close()


def test_an_outage_does_not_lose_the_lock(folder, emulator):
    held = BucketLock(folder)
    emulator.unavailable(0.5)
    time.sleep(1)
    assert not held.check()
    held.close()
