"""The metadata server of a TPU host on Compute Engine, on loopback."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

PATH = "/computeMetadata/v1/instance/attributes/"


@contextlib.contextmanager
def metadata_server(attributes, failures=0):
    """Serves the attributes of an instance after some answers with status 503.

    Yields HOST:PORT, and the list of the requested attributes.
    """
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix(PATH)
            requests.append(name)
            text = attributes.get(name)
            status = 503 if len(requests) <= failures else 404 if text is None else 200
            if self.headers["Metadata-Flavor"] != "Google":
                status = 403
            self.send_response(status)
            self.end_headers()
            self.wfile.write((text or "").encode() if status == 200 else b"<html>")

        def log_message(self, *_):
            """Logs nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def attributes(worker, hosts, slices=1, slice_id=0):
    """Returns the attributes of a worker of a slice; `hosts` are names or addresses."""
    env = {"ACCELERATOR_TYPE": "v5litepod-8", "WORKER_ID": worker}
    if slices > 1:
        env |= {
            "MEGASCALE_NUM_SLICES": slices,
            "MEGASCALE_SLICE_ID": slice_id,
            "MEGASCALE_COORDINATOR_ADDRESS": f"{hosts[0]}:8081",
        }
    return {
        "agent-worker-number": str(worker),
        "worker-network-endpoints": ",".join(f"unknown:unknown:{host}" for host in hosts),
        "tpu-env": "".join(f"{name}: '{value}'\n" for name, value in env.items()),
    }
