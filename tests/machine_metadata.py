"""The metadata server of a virtual machine on Compute Engine, on loopback."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def serve(values):
    """Answers requests for `instance/KEY` with values by key. Yields HOST:PORT.

    The values may change meanwhile; "requests" counts the requests, if it is a key.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if "requests" in values:
                values["requests"] += 1
            key = self.path.removeprefix("/computeMetadata/v1/instance/")
            known = key in values and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(str(values.get(key, "")).encode())

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
