"""Serves an export over HTTP.

python examples/serve.py export 8000
curl --data-binary @image.jpg http://localhost:8000 > classes.png

A POST's body is an image file in any format that Pillow reads. It is read as in training:
`model.json` beside the model says what becomes of transparency, EXIF orientation and 16-bit values.
The answer is a PNG of class indices, of the size of the image as read. The first image of each size
waits while the network compiles for it.

Needs jax, and of gsto_jax the image reader alone, which imports NumPy, OpenCV and Pillow.
"""

import argparse
import contextlib
import io
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from gsto_jax.image_files import DecodeOptions, ImageError, decode

LIMIT = 64 * 2**20
"""Largest size of an image file in bytes."""


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="folder of an export, or model.jax in it")
    parser.add_argument("port", type=int, nargs="?", default=8000, help="0: any (default: 8000)")
    parser.add_argument("--host", default="localhost", help="address (default: localhost)")
    arguments = parser.parse_args()
    if arguments.model.is_dir():
        arguments.model = arguments.model / "model.jax"
    for path in (arguments.model, arguments.model.with_name("model.json")):
        if not path.is_file():
            parser.error(f"there is no {path}: give the folder that --mode=export wrote")
    return arguments


def load(model: Path) -> Callable[[bytes], np.ndarray]:
    """Returns a function from the content of an image file to its class indices, `h w` uint8."""
    described = json.loads(model.with_name("model.json").read_text())
    rule = DecodeOptions(**described["decode_options"])
    call = jax.jit(jax.export.deserialize(bytearray(model.read_bytes())).call)

    def predict(data: bytes) -> np.ndarray:
        return np.asarray(call(decode(data, rule).pixels[None])["labels"])[0]

    return predict


class Handler(BaseHTTPRequestHandler):
    """Answers images with their labels."""

    predict: Callable[[bytes], np.ndarray]

    def do_POST(self) -> None:
        """Labels one image."""
        length = int(self.headers.get("Content-Length", 0))
        if not 0 < length <= LIMIT:
            return self.send_error(413, f"send an image of 1 to {LIMIT} bytes")
        try:
            labels = type(self).predict(self.rfile.read(length))
        except ImageError as error:
            return self.send_error(400, "no image that can be read", str(error))
        png = io.BytesIO()
        Image.fromarray(labels).save(png, "PNG")
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(png.tell()))
        self.end_headers()
        self.wfile.write(png.getvalue())


def main() -> None:
    """Serves until it is interrupted."""
    arguments = parse_arguments()
    Handler.predict = staticmethod(load(arguments.model))
    server = ThreadingHTTPServer((arguments.host, arguments.port), Handler)
    print(f"http://{arguments.host}:{server.server_port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
