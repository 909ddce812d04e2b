"""The metadata server of a virtual machine, or a TPU host, on Compute Engine, on loopback."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

PATH = "/computeMetadata/v1/instance/"


@contextlib.contextmanager
def metadata_server(values, failures=0):
    """Answers requests for `instance/KEY` with values by key, after some answers of status 503.

    Yields an object with the server's address, HOST:PORT, the values, which may change meanwhile,
    and the list of the requested keys.
    """
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            key = self.path.removeprefix(PATH)
            requests.append(key)
            status = 503 if len(requests) <= failures else 200 if key in values else 404
            if self.headers["Metadata-Flavor"] != "Google":
                status = 403
            self.send_response(status)
            self.end_headers()
            self.wfile.write(values[key].encode() if status == 200 else b"<html>")

        def log_message(self, *_):
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield SimpleNamespace(
                address=f"127.0.0.1:{server.server_port}", values=values, requests=requests
            )
        finally:
            server.shutdown()


def tpu_metadata(worker, hosts, slices=1, slice_id=0):
    """Returns the metadata of a worker of a TPU slice; `hosts` are names or addresses."""
    env = {"ACCELERATOR_TYPE": "v5litepod-8", "WORKER_ID": worker}
    if slices > 1:
        env |= {
            "MEGASCALE_NUM_SLICES": slices,
            "MEGASCALE_SLICE_ID": slice_id,
            "MEGASCALE_COORDINATOR_ADDRESS": f"{hosts[0]}:8081",
        }
    return {
        "attributes/agent-worker-number": str(worker),
        "attributes/worker-network-endpoints": ",".join(f"unknown:unknown:{x}" for x in hosts),
        "attributes/tpu-env": "".join(f"{name}: '{value}'\n" for name, value in env.items()),
    }
