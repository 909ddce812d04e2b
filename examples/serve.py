"""Serves an export over HTTP with jax, NumPy and Pillow alone.

python examples/serve.py export/model.jax 8000
curl --data-binary @picture.jpg http://localhost:8000 > classes.png

A POST's body is a picture in any format that Pillow reads; the answer is a PNG of class indices, of
the picture's size. The first picture of each size waits while the network compiles for it.
"""

import io
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import numpy as np
from PIL import Image

LIMIT = 64 * 2**20  # bytes of a picture


class Handler(BaseHTTPRequestHandler):
    """Answers pictures with their labels."""

    def do_POST(self) -> None:
        """Labels one picture."""
        length = int(self.headers.get("Content-Length", 0))
        if not 0 < length <= LIMIT:
            return self.send_error(413, f"send a picture of 1 to {LIMIT} bytes")
        try:
            picture = Image.open(io.BytesIO(self.rfile.read(length))).convert("RGB")
        except Exception as error:  # whatever a damaged file makes the decoders raise
            return self.send_error(400, f"no picture: {type(error).__name__}")
        labels = np.asarray(predict(np.asarray(picture)[None])["labels"])[0]
        png = io.BytesIO()
        Image.fromarray(labels).save(png, "PNG")
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(png.tell()))
        self.end_headers()
        self.wfile.write(png.getvalue())


if __name__ == "__main__":
    predict = jax.jit(jax.export.deserialize(bytearray(Path(sys.argv[1]).read_bytes())).call)
    server = ThreadingHTTPServer(("localhost", int(sys.argv[2])), Handler)
    print(f"http://localhost:{server.server_port}", flush=True)
    server.serve_forever()
