"""Objects of a bucket: creation by one client only, atomic writes, faults of the bucket."""

import sys
import threading

import pytest

from gsto_jax.errors import UserError
from gsto_jax.files import atomic_write, disk_error_message, read_json_object, write_text
from gsto_jax.storage import paths
from gsto_jax.storage.errors import bucket_error_message, is_refused, is_unavailable
from gsto_jax.storage.objects import create_object, list_names, read_object
from gsto_jax.storage.paths import to_path


@pytest.fixture
def folder(bucket):
    return to_path(bucket, "--workdir")


def test_one_of_many_clients_creates_an_object(folder):
    created = []

    def create(n):
        if create_object(folder / "a", b"%d" % n):
            created.append(n)

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == 1
    assert read_object(folder / "a") == b"%d" % created[0]
    assert read_object(folder / "b") is None


def test_files_and_folders_are_replaced(folder):
    assert not list_names(folder)
    for text in ("one", "two"):
        write_text(folder / "a.txt", text)
    assert (folder / "a.txt").read_text() == "two"
    with atomic_write(folder / "d") as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "x").write_text("1")
        (temporary / "y").write_text("2")
    assert (folder / "d" / "inner" / "x").read_text() == "1"
    with atomic_write(folder / "d") as temporary:
        temporary.mkdir()
        (temporary / "z").write_text("3")
    assert list_names(folder / "d") == ["z"]
    with pytest.raises(ZeroDivisionError), atomic_write(folder / "a.txt") as temporary:
        temporary.write_text("three")
        raise ZeroDivisionError
    assert (folder / "a.txt").read_text() == "two"
    assert list_names(folder) == ["a.txt", "d"]


def test_listings_show_what_other_clients_wrote(folder, emulator):
    (folder / "a").write_text("a")
    assert list_names(folder) == ["a"]
    create_object(folder / "b", b"")
    (folder / "a").unlink()
    assert list_names(folder) == ["b"]
    (folder / "c").write_bytes(b"12345678")
    emulator.truncate(str(folder / "c"))
    assert read_object(folder / "c") == b"1234"


def test_short_outage_is_waited_for(folder, emulator):
    write_text(folder / "a.json", '{"x": 1}')
    emulator.unavailable(0.5)
    assert read_json_object(folder / "a.json") == {"x": 1}


def test_long_outage_is_one_error(folder, emulator, monkeypatch):
    import gcsfs.retry

    monkeypatch.setattr(gcsfs.retry, "min", lambda *_: 0.01, raising=False)  # waits between tries
    write_text(folder / "a.json", '{"x": 1}')
    emulator.unavailable(60)
    with pytest.raises(Exception, match="Service Unavailable") as error:
        read_json_object(folder / "a.json")  # which is not missing
    assert "did not answer" in bucket_error_message(error.value, folder)
    assert not is_refused(error.value)


def test_refused_access_is_one_error_at_once(folder, emulator):
    write_text(folder / "a.json", '{"x": 1}')
    emulator.refuse(True)
    for access in (read_json_object, lambda path: write_text(path, "x")):
        with pytest.raises(OSError) as error:
            access(folder / "a.json")
        assert is_refused(error.value)
        assert str(folder) in bucket_error_message(error.value, folder)
        assert disk_error_message(error.value) is None


def test_errors_of_several_clients():
    exceptions = pytest.importorskip("google.api_core.exceptions")
    gcsfs = pytest.importorskip("gcsfs.retry")
    assert is_refused(exceptions.Forbidden("no storage.buckets.get"))
    assert is_refused(gcsfs.HttpError({"code": 401, "message": "Anonymous caller"}))
    assert is_refused(ValueError("PERMISSION_DENIED: Error reading gs://b/x"))
    for error in (
        gcsfs.HttpError({"code": 503, "message": "Service Unavailable"}),
        exceptions.ServiceUnavailable("later"),
        ValueError("UNAVAILABLE: HTTP response code: 503"),
        ConnectionResetError(104, "Connection reset by peer"),
    ):
        assert is_unavailable(error) and not is_refused(error)
    assert not is_unavailable(gcsfs.HttpError({"code": 416, "message": "range"}))
    assert not is_unavailable(ValueError("DATA_LOSS: expected 100 bytes"))


def test_errors_of_disks_are_not_those_of_buckets(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        (tmp_path / "a").read_bytes()
    assert bucket_error_message(error.value) is None
    assert bucket_error_message(error.value, tmp_path) is None
    assert not is_refused(UserError("Forbidden: a word"))


def test_errors_of_other_servers_and_formats_are_not_those_of_buckets(monkeypatch):
    class DecodeError(Exception):
        pass

    DecodeError.__module__ = "google.protobuf.message"
    monkeypatch.setitem(sys.modules, "gcsfs", sys)
    assert bucket_error_message(DecodeError("truncated")) is None
    error = type("ConnectionError", (OSError,), {"__module__": "requests.exceptions"})("no route")
    assert "did not answer" in bucket_error_message(error)
    for client in ("gcsfs", "s3fs", "adlfs"):
        monkeypatch.delitem(sys.modules, client, raising=False)
    assert bucket_error_message(error) is None


def test_missing_client_is_named(monkeypatch):
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--workdir=gs://b/run needs.* gcsfs: pip .*\[gcs\]"):
        to_path("gs://b/run", "--workdir")
