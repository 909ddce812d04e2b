"""Serves an exported network over HTTP, without JAX if it is a model.onnx.

    python examples/serve.py export 8000
    curl --data-binary @image.jpg http://localhost:8000 > classes.png
    curl --data-binary @image.jpg "http://localhost:8000?boxes=120,40,200,380" > poses.json
    curl http://localhost:8000/health

The body of a POST request is an image file, which is decoded as in training.

A segmentation network answers with a PNG of class indices with the size of the decoded image.
Images of one size that arrive within a few milliseconds are predicted together.

A pose network takes the boxes of the persons, x,y,w,h in pixels separated by ";"; without boxes the
image is one person, and with empty boxes= there is none. It answers with JSON, as poses.json of
--mode=predict: for each person "bbox", "keypoints" (x, y, score of each joint) and "score".

A classification network answers with JSON, as predictions.json of --mode=predict: "class" and
"probability" of the most probable classes.

| status | reason |
|---|---|
| 400 | the body is not an image, or one that the network does not take; invalid boxes or query |
| 404 | a GET of anything but /health |
| 411 | a POST without Content-Length |
| 413 | more than --max_bytes, --max_pixels or --max_boxes |
| 500 | the prediction failed; the reason is in the output of the server |
| 503 | --queue requests are in progress, or the server stops; Retry-After says when to try again |

GET /health returns JSON: whether the server is ready, its model, and counts. SIGTERM and Ctrl-C
complete the requests in progress, and refuse others.

model.onnx needs onnxruntime, NumPy, OpenCV, Pillow and jaxtyping. model.jax needs JAX, which
compiles once per image size and number of images or boxes; their number is therefore padded to a
power of two. Each compiled program stays in memory: serve model.onnx where clients send images of
many sizes.
"""

import argparse
import io
import json
import math
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from gsto_jax.errors import UserError
from gsto_jax.image_files import ImageError, decode, read_header
from gsto_jax.predict.class_prediction import ClassPrediction
from gsto_jax.predict.exported_classes import ExportedClassPredictor
from gsto_jax.predict.exported_pose import ExportedPosePredictor
from gsto_jax.predict.pose_prediction import PosePrediction
from gsto_jax.predict.programs import Program, ProgramError, find_program, load_program

SOCKET_SECONDS = 20  # that a client may pause
STOP_SECONDS = 20  # that requests in progress may take after SIGTERM
MORE_THREADS = 32  # beside --queue, for answers about health and refusals
TEXT, JSON = "text/plain", "application/json"

BoxTexts = list[list[str]]
Result = np.ndarray | PosePrediction | ClassPrediction


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="folder of an export, or model.onnx or model.jax in it")
    parser.add_argument("port", type=int, nargs="?", default=8000, help="0: any (default: 8000)")
    parser.add_argument("--host", default="localhost", help="address to bind (default: localhost)")
    for name, default, text in (
        ("max_batch", 8, "images that are predicted together"),
        ("wait_ms", 5, "milliseconds to wait for further images of the same size"),
        ("queue", 64, "requests in progress"),
        ("max_bytes", 16 * 2**20, "bytes of an image file"),
        ("max_pixels", 2**22, "pixels of an image"),
        ("max_boxes", 64, "persons in an image"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    args = parser.parse_args()
    for name, least in (("max_batch", 1), ("wait_ms", 0), ("queue", 0)):
        if getattr(args, name) < least:
            parser.error(f"--{name} must be at least {least}; got {getattr(args, name)}")
    try:
        args.program = find_program(args.model)
        if args.program is None:
            parser.error(f"{args.model} has no program: pass the folder that --mode=export wrote")
        args.program = load_program(args.program)
    except UserError as error:
        parser.error(str(error))
    return args


def parse_boxes(values: Sequence[str] | None) -> BoxTexts | None:
    """Splits the last value of a query into boxes, whose numbers are not parsed; None for None."""
    if values is None:
        return None
    return [row.split(",") for row in values[-1].split(";")] if values[-1] else []


class Waiting(NamedTuple):
    """An image that waits to be predicted."""

    image: np.ndarray
    boxes: BoxTexts | None
    result: Future[Result]
    deadline: float


class Batcher:
    """Predicts at most `max_batch` images of equal size together, in one thread.

    An image waits some seconds for others; a pose network predicts one image at a time. `counts`
    are the numbers of images and batches.
    """

    def __init__(self, program: Program, max_batch: int, seconds: float) -> None:
        self.program, self.seconds = program, seconds
        self.poses = ExportedPosePredictor(program) if program.task_name == "pose" else None
        is_classification = program.task_name == "classification"
        self.classes = ExportedClassPredictor(program) if is_classification else None
        self.max_batch = 1 if self.poses else max_batch
        self.counts = Counter(images=0, batches=0)
        self._waiting: deque[Waiting] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def __call__(self, image: np.ndarray, boxes: BoxTexts | None) -> Result:
        """Returns the prediction of an image `h w c` uint8; a label map is `h w` uint8."""
        result: Future[Result] = Future()
        with self._changed:
            self._waiting.append(Waiting(image, boxes, result, time.monotonic() + self.seconds))
            self._changed.notify()
        return result.result()

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            try:
                results = self._predict(batch)
            except Exception as error:  # the requests fail, the server goes on
                for entry in batch:
                    entry.result.set_exception(error)
                continue
            self.counts.update(images=len(batch), batches=1)
            for entry, result in zip(batch, results, strict=False):  # there may be padding
                entry.result.set_result(result)

    def _next_batch(self) -> list[Waiting]:
        """Waits for images, and returns those of the size of the first."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting)
                first = self._waiting[0]
                alike = [x for x in self._waiting if x.image.shape == first.image.shape]
                remaining = first.deadline - time.monotonic()
                if len(alike) >= self.max_batch or remaining <= 0:
                    break
                self._changed.wait(remaining)
            batch = alike[: self.max_batch]
            chosen = set(map(id, batch))
            self._waiting = deque(x for x in self._waiting if id(x) not in chosen)
            return batch

    def _predict(self, batch: Sequence[Waiting]) -> Sequence[Result]:
        if self.poses:
            return [self.poses(entry.image, entry.boxes) for entry in batch]
        images = np.stack([entry.image for entry in batch])
        if self.program.runtime == "jax":  # which compiles for each number of images
            size = min(1 << (len(images) - 1).bit_length(), self.max_batch)
            images = np.pad(images, ((0, size - len(images)), *[(0, 0)] * 3), "edge")
        outputs = self.program.call({"image": images})
        if self.classes is None:
            return outputs["labels"]
        rows = zip(batch, outputs["probabilities"], strict=False)  # there may be padding
        return [self.classes.prediction(entry.image, row) for entry, row in rows]


class Server(ThreadingHTTPServer):
    """Answers connections in threads that stay: many new ones would fragment memory."""

    request_queue_size = 128  # connections that wait to be accepted

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.program = args, args.program
        self.predict = Batcher(args.program, args.max_batch, args.wait_ms / 1000)
        self.in_progress, self.is_stopping = 0, False
        self.answers: Counter[int] = Counter()
        self.changed = threading.Condition()
        self.threads = ThreadPoolExecutor(args.queue + MORE_THREADS)
        super().__init__((args.host, args.port), Handler)

    def enter(self) -> bool:
        """Returns whether a request may begin; `leave` ends it."""
        with self.changed:
            is_accepted = not self.is_stopping and self.in_progress < self.args.queue
            self.in_progress += is_accepted
            return is_accepted

    def leave(self) -> None:
        """Ends a request."""
        with self.changed:
            self.in_progress -= 1
            self.changed.notify()

    def stop(self) -> None:
        """Refuses further requests, and waits for those in progress."""
        with self.changed:
            self.is_stopping = True
            self.changed.wait_for(lambda: not self.in_progress, STOP_SECONDS)
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Passes a connection to a thread."""
        self.threads.submit(self.process_request_thread, request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Reports a connection that broke."""
        print(f"{client_address[0]}: {sys.exception()}", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """Answers a request."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = SOCKET_SECONDS

    def do_GET(self) -> None:
        """Answers with the health of the server."""
        if self.path != "/health":
            return self.answer(404, b"POST an image, or GET /health")
        server = self.server
        health = {
            "ready": not server.is_stopping,
            "model": str(server.program.path),
            "task": server.program.task_name,
            "runtime": server.program.runtime,
            "in_progress": server.in_progress,
            "queue": server.args.queue,
            "answers": dict(server.answers),
            **server.predict.counts,
        }
        body = json.dumps(health).encode()
        self.answer(503 if server.is_stopping else 200, body, JSON)

    def do_POST(self) -> None:
        """Predicts an image."""
        text, most = self.headers.get("Content-Length", ""), self.server.args.max_bytes
        if not text.isdecimal():
            return self.refuse(411, "send the image with its Content-Length", most)
        length = int(text[:18])
        if length > most:
            return self.refuse(413, f"send at most {most} bytes", min(length, 2 * most))
        if not self.server.enter():
            return self.refuse(503, "too many requests are in progress", length)
        try:
            self.answer(*self.prediction(self.rfile.read(length)))
        finally:
            self.server.leave()

    def prediction(self, data: bytes) -> tuple[int, bytes, str]:
        """Returns the answer to the bytes of an image file."""
        program, most = self.server.program, self.server.args.max_pixels
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if unknown := sorted(set(query) - {"boxes"}):
            return 400, f"the query must be boxes=...; got {', '.join(unknown)}".encode(), TEXT
        boxes, most_boxes = parse_boxes(query.get("boxes")), self.server.args.max_boxes
        if boxes is not None and program.task_name != "pose":
            reason = f"boxes are for pose networks; this is a {program.task_name} network"
            return 400, reason.encode(), TEXT
        if boxes is not None and len(boxes) > most_boxes:
            return 413, f"send at most {most_boxes} boxes".encode(), TEXT
        try:
            if math.prod(read_header(data, sys.maxsize).size) > most:
                return 413, f"send an image of at most {most} pixels".encode(), TEXT
            pixels = decode(data, program.decode_options).pixels
            program.check_size(pixels.shape[:2])
            result = self.server.predict(pixels, boxes)
        except Exception as error:
            if isinstance(error, ImageError | UserError) and not isinstance(error, ProgramError):
                return 400, f"cannot predict the image: {error}".encode(), TEXT
            self.log_error("%s", error)
            return 500, b"the prediction failed", TEXT
        if isinstance(result, PosePrediction):
            return 200, json.dumps(result.persons()).encode(), JSON
        if isinstance(result, ClassPrediction):
            return 200, json.dumps(result.entries()).encode(), JSON
        png = io.BytesIO()
        Image.fromarray(result).save(png, "PNG")
        return 200, png.getvalue(), "image/png"

    def refuse(self, status: int, reason: str, length: int) -> None:
        """Answers, and discards a body that was not read: a reset would hide the answer."""
        self.answer(status, reason.encode())
        while length > 0 and (chunk := self.rfile.read1(min(length, 2**16))):
            length -= len(chunk)

    def answer(self, status: int, body: bytes, kind: str = TEXT) -> None:
        """Sends a response and closes the connection."""
        with self.server.changed:
            self.server.answers[status] += 1
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        if status == 503:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Prints nothing: GET /health has the counts."""


def main() -> None:
    """Serves until SIGTERM or Ctrl-C."""
    args, stop = parse_arguments(), threading.Event()
    try:
        server = Server(args)
    except (OSError, OverflowError) as error:
        sys.exit(f"error: cannot listen at {args.host}:{args.port}: {error}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://{args.host}:{server.server_port}", flush=True)
    stop.wait()
    server.stop()
    print("stopped", flush=True)
    os._exit(0)  # idle connections would be waited for


if __name__ == "__main__":
    main()
