"""Serves an exported model over HTTP.

    python examples/serve.py export 8000
    curl --data-binary @image.jpg http://localhost:8000 > classes.png

The body of a POST request is an image file in any format that Pillow reads. It is decoded as in
training: `model.json` next to the model stores what to do with transparency, EXIF orientation and
16-bit values. The response is a PNG of class indices with the size of the decoded image. The first
image of each size waits for a compilation.

Needs jax and `gsto_jax.image_files`, which imports only NumPy, OpenCV and Pillow.
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

MAX_FILE_SIZE = 64 * 2**20  # bytes


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
    parser.add_argument("--host", default="localhost", help="address to bind (default: localhost)")
    args = parser.parse_args()
    if args.model.is_dir():
        args.model = args.model / "model.jax"
    for path in (args.model, args.model.with_name("model.json")):
        if not path.is_file():
            parser.error(f"{path} does not exist: pass the folder that --mode=export wrote")
    return args


def load(model: Path) -> Callable[[bytes], np.ndarray]:
    """Returns a function that maps the bytes of an image file to class indices, `h w` uint8."""
    description = json.loads(model.with_name("model.json").read_text())
    options = DecodeOptions(**description["decode_options"])
    call = jax.jit(jax.export.deserialize(bytearray(model.read_bytes())).call)

    def predict(data: bytes) -> np.ndarray:
        return np.asarray(call(decode(data, options).pixels[None])["labels"])[0]

    return predict


class Handler(BaseHTTPRequestHandler):
    """Responds to images with their predictions."""

    predict: Callable[[bytes], np.ndarray]

    def do_POST(self) -> None:
        """Predicts an image."""
        length = int(self.headers.get("Content-Length", 0))
        if not 0 < length <= MAX_FILE_SIZE:
            return self.send_error(413, f"send an image of 1 to {MAX_FILE_SIZE} bytes")
        try:
            labels = type(self).predict(self.rfile.read(length))
        except ImageError as error:
            return self.send_error(400, "cannot decode the image", str(error))
        png = io.BytesIO()
        Image.fromarray(labels).save(png, "PNG")
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(png.tell()))
        self.end_headers()
        self.wfile.write(png.getvalue())


def main() -> None:
    """Serves until interrupted."""
    args = parse_arguments()
    Handler.predict = staticmethod(load(args.model))
    server = ThreadingHTTPServer((args.host, args.port), Handler)
    print(f"http://{args.host}:{server.server_port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
