"""A bucket on this machine: gcp-storage-emulator in a process of its own, with what it lacks.

Added here are generations in answers to reads, the conditions ifGenerationMatch and
ifGenerationNotMatch (create if absent), ranges from the end, threads; and faults to inject.

    python -m tests.bucket        # prints its address, and serves until its input is closed
"""

import atexit
import functools
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

ROOT = Path(__file__).parents[1]
NAME = "bucket"


class Emulator:
    """A running emulator.

    Attributes:
      address: its URL, for HTTP.
    """

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bucket"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._process.stdout.readline().strip()
        assert self.address.startswith("http"), "the emulator did not start"

    @property
    def variables(self):
        """Environment variables with which clients reach the emulator instead of Google."""
        addresses = dict.fromkeys(
            ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"), self.address
        )
        return addresses | {
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": self.address,  # array_record
            "EPATH_USE_TF": "false",
            "FSSPEC_GCS_TOKEN": "anon",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "GOOGLE_AUTH_DISABLE": "1",
            "NO_GCE_CHECK": "true",
        }

    def unavailable(self, seconds):
        """Answers 503 to everything for a number of seconds; 0 ends it."""
        self._control(unavailable=seconds)

    def refuse(self, refuses, prefix=""):
        """Answers 403 to every request of an object whose name starts with a prefix, or to none."""
        self._control(refuse=int(refuses), prefix=prefix)

    def lose_answers(self, loses):
        """Does what requests that create objects ask for, and answers 503 to them."""
        self._control(lose_answers=int(loses))

    def truncate(self, url):
        """Cuts an object, by its gs:// URL, in half."""
        self._control(truncate=url.removeprefix(f"gs://{NAME}/"))

    def requests(self):
        """Returns the number of requests so far by "METHOD NAME"."""
        with urllib.request.urlopen(f"{self.address}/control") as answer:
            return json.load(answer)

    def close(self):
        self._process.communicate()  # closes its input, which ends it

    def _control(self, **values):
        query = urllib.parse.urlencode(values)
        urllib.request.urlopen(f"{self.address}/control?{query}").close()


@functools.cache
def emulator():
    """Returns the emulator of this process, which ends with it."""
    started = Emulator()
    atexit.register(started.close)
    return started


class Faults:
    """What the emulator does wrong, on request."""

    def __init__(self):
        self.unavailable_until, self.refused_prefix, self.loses_answers = 0.0, None, False
        self.requests = {}

    def status(self, method, name):
        """Returns the status with which a request fails; None if it does not."""
        key = f"{method} {name}"
        self.requests[key] = self.requests.get(key, 0) + 1
        if time.monotonic() < self.unavailable_until:
            return HTTPStatus.SERVICE_UNAVAILABLE
        if self.refused_prefix is not None and (name or "").startswith(self.refused_prefix):
            return HTTPStatus.FORBIDDEN
        return None


def serve():
    """Serves a bucket until the input of this process is closed."""
    import gcp_storage_emulator.server as emulator_server
    from gcp_storage_emulator.handlers import objects
    from gcp_storage_emulator.storage import Storage

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, request, client_address):
            if not isinstance(sys.exception(), ConnectionError):  # a client that was killed
                super().handle_error(request, client_address)

    logging.disable(logging.CRITICAL)  # it reports each object that a client asks for in vain
    emulator_server.server.HTTPServer = Server
    emulator_server.Router = _router(emulator_server, objects, Faults())
    # The whole index is written as JSON at every change, and deleted objects are kept, by default.
    Storage._write_config_to_file = lambda self: None
    Storage._bucket_soft_delete_retention_seconds = lambda self, bucket_name: 0
    server = emulator_server.create_server("127.0.0.1", 0, in_memory=True, default_bucket=NAME)
    server.start()
    while server._api._httpd is None:
        time.sleep(0.01)
    print(f"http://127.0.0.1:{server._api._httpd.server_address[1]}", flush=True)
    sys.stdin.read()
    os._exit(0)


def _router(emulator_server, objects, faults):
    lock = threading.Lock()  # the emulator's storage has none

    class Router(emulator_server.Router):
        def handle(self, method):
            handler = self._request_handler
            url = urlparse(handler.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            # The body is read before the lock, so that a slow client blocks nobody.
            body = emulator_server._read_raw_data(handler) or b""
            if not handler.headers.get("Content-Length"):
                del handler.headers["Transfer-Encoding"]
                handler.headers["Content-Length"] = str(len(body))
            handler.rfile = io.BytesIO(body)
            name = _object_name(url.path, query, body)
            with lock:
                if url.path == "/control":
                    return _answer(handler, 200, _control(faults, handler.storage, objects, query))
                if status := faults.status(method, name):
                    return _answer(handler, status, {"error": {"message": status.phrase}})
                if faults.loses_answers and method == "POST":
                    wfile, handler.wfile = handler.wfile, io.BytesIO()
                    self._handle(method, name, query)
                    handler.wfile, status = wfile, HTTPStatus.SERVICE_UNAVAILABLE
                    return _answer(handler, status, {"error": {"message": status.phrase}})
                return self._handle(method, name, query)

        def _handle(self, method, name, query):
            handler = self._request_handler
            if status := _unmet_condition(handler.storage, method, name, query):
                return _answer(handler, status, {"error": {"message": "conditionNotMet"}})
            _add_generation(handler, method, name, query)
            return super().handle(method)

    return Router


def _unmet_condition(storage, method, name, query):
    """Returns the status of a request whose generation differs from the expected one."""
    if name is None:
        return None
    generation = _generation(storage, name)
    if query.get("ifGenerationMatch", generation) != generation:
        return HTTPStatus.PRECONDITION_FAILED
    if query.get("ifGenerationNotMatch") == generation:
        is_read = method == "GET"
        return HTTPStatus.NOT_MODIFIED if is_read else HTTPStatus.PRECONDITION_FAILED
    return None


def _add_generation(handler, method, name, query):
    """Adds the generation to the answer of a read, and resolves a range from the end."""
    if name is None or method != "GET":
        return
    generation = _generation(handler.storage, name)
    if generation == "0":
        return
    requested = re.fullmatch(r"bytes=-(\d+)", handler.headers.get("Range", "").strip())
    if requested:
        size = len(handler.storage.get_file(NAME, name))
        start = max(0, size - int(requested[1]))
        handler.headers.replace_header("Range", f"bytes={start}-{max(size - 1, 0)}")
    if "alt" in query:
        end_headers = handler.end_headers

        def end_with_generation():
            handler.send_header("x-goog-generation", generation)
            end_headers()

        handler.end_headers = end_with_generation


def _object_name(path, query, body):
    """Returns the object of a request: in its path, its query or its multipart body; or None."""
    _, _, rest = path.partition(f"/b/{NAME}/o")
    if name := unquote(rest.removeprefix("/")):
        return name
    if query.get("uploadType") == "multipart" and "name" not in query:
        metadata = re.search(rb"\r?\n\r?\n(\{.*?\})\r?\n--", body, re.DOTALL)
        return json.loads(metadata[1]).get("name") if metadata else None
    return query.get("name")


def _generation(storage, name):
    entry = storage.objects.get(NAME, {}).get(name)
    return str(entry["generation"]) if entry else "0"


def _control(faults, storage, objects, query):
    if "unavailable" in query:
        faults.unavailable_until = time.monotonic() + float(query["unavailable"])
    if "refuse" in query:
        faults.refused_prefix = query.get("prefix", "") if query["refuse"] == "1" else None
    if "lose_answers" in query:
        faults.loses_answers = query["lose_answers"] == "1"
    if "truncate" in query:
        name = query["truncate"]
        data = storage.get_file(NAME, name)
        data = data[: len(data) // 2]
        entry = storage.get_file_obj(NAME, name) | {"generation": str(time.time_ns())}
        entry |= {"size": str(len(data)), "md5Hash": None, "crc32c": None, "etag": None}
        storage.create_file(NAME, name, data, objects._checksums(data, entry))
    return faults.requests


def _answer(handler, status, value):
    data = json.dumps(value).encode()
    handler.send_response(int(status))
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


if __name__ == "__main__":
    serve()
