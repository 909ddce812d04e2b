"""Loads `examples/serve.py` with parallel clients, and checks every answer.

    python benchmarks/serve_load.py DIR [--clients=50] [--seconds=60] [--warm_up=10] [--csv=FILE]

DIR is an export of a segmentation network, or a model.onnx or model.jax. Clients send images of two
sizes in turn, over loopback; one of them also sends files that are damaged or too large, and
another asks for the health of the server. Fails if an answer is wrong, if an image is refused, if
the server's memory grows after the warm-up by more than 5 %, or if the server does not stop at
SIGTERM. Linux only.

The CSV is named after machine and runtime; "load_before" is the number of other processes that were
running or ready to run, the average of the minute before the start.
"""

import argparse
import io
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
from PIL import Image

from benchmarks.csv_rows import write_rows
from gsto_jax.predict.exported import ExportedPredictor
from gsto_jax.predict.programs import find_program

SERVER = Path(__file__).parents[1] / "examples" / "serve.py"
SIZES = ((96, 160), (120, 128))
MAX_GROWTH = 1.05


class Load:
    """Sends requests until `stop` is set.

    Attributes:
      seconds: time to each answer.
      answers: number of answers by status.
      errors: messages.
    """

    def __init__(self, url: str, model: Path) -> None:
        self.url, self.stop = url, threading.Event()
        self.seconds: list[float] = []
        self.health_seconds: list[float] = []
        self.answers: Counter[int] = Counter()
        self.errors: list[str] = []
        self.predictor = predictor = ExportedPredictor.load(model)
        rng = np.random.default_rng(0)
        self.files = []
        for n in range(8):
            coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
            image = cv2.resize(coarse, SIZES[n % 2][::-1], interpolation=cv2.INTER_CUBIC)
            content = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
            self.files.append((content, predictor(image).labels))
        large = cv2.imencode(".png", np.zeros((4096, 4096), np.uint8))[1].tobytes()
        self.refused = [(400, self.files[0][0][:200]), (413, large), (413, bytes(20 * 2**20))]

    def send(self, content: bytes | None = None, path: str = "") -> tuple[int, bytes]:
        """Returns status and body of an answer."""
        try:
            with urllib.request.urlopen(self.url + path, content, timeout=60) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, body = error.code, error.read()
        self.answers[status] += 1
        return status, body

    def send_images(self, client: int) -> None:
        """Sends images in turn, and compares the class indices."""
        count = client
        while not self.stop.is_set():
            content, expected = self.files[count % len(self.files)]
            start = time.perf_counter()
            status, body = self.send(content)
            self.seconds.append(time.perf_counter() - start)
            if status != 200:
                self.errors.append(f"status {status}: {body[:100]!r}")
            elif (np.asarray(Image.open(io.BytesIO(body))) == expected).mean() < 0.999:
                self.errors.append("wrong class indices")
            count += 1

    def send_bad_files(self) -> None:
        """Sends files that the server must refuse."""
        while not self.stop.wait(0.5):
            for expected, content in self.refused:
                status, _ = self.send(content)
                if status != expected:
                    self.errors.append(f"status {status} in place of {expected}")

    def ask_health(self) -> None:
        """Asks for the health of the server."""
        while not self.stop.wait(0.2):
            start = time.perf_counter()
            status, body = self.send(path="/health")
            self.health_seconds.append(time.perf_counter() - start)
            if status != 200 or not json.loads(body)["ready"]:
                self.errors.append(f"health: status {status}")

    def guarded(self, task: Any, *args: Any) -> None:
        """Runs a client, and records its exception."""
        try:
            task(*args)
        except Exception as error:
            self.errors.append(repr(error))


def memory(process: subprocess.Popen) -> float:
    """Returns the resident memory of a process in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def run_load(process: subprocess.Popen, load: Load, args: argparse.Namespace) -> dict[str, Any]:
    """Runs the clients; returns the row of the CSV."""
    tasks: list[tuple[Any, ...]] = [(load.send_images, n) for n in range(args.clients)]
    tasks += [(load.send_bad_files,), (load.ask_health,)]
    threads = [threading.Thread(target=load.guarded, args=task) for task in tasks]
    for thread in threads:
        thread.start()
    time.sleep(args.warm_up)
    warm, first = memory(process), len(load.seconds)
    samples, start = [warm], time.perf_counter()
    while time.perf_counter() - start < args.seconds and not load.errors:
        time.sleep(0.5)
        samples.append(memory(process))
    elapsed, seconds = time.perf_counter() - start, load.seconds[first:]
    health = json.loads(load.send(path="/health")[1])
    load.stop.set()
    for thread in threads:
        thread.join()
    if not (seconds and load.health_seconds):
        sys.exit(f"no answers after the warm-up; errors: {load.errors[:1]}")
    if max(samples) > MAX_GROWTH * warm:
        load.errors.append(f"memory grew from {warm:.0f} to {max(samples):.0f} MiB")
    return {
        "clients": args.clients,
        "seconds": round(elapsed, 1),
        "images": len(seconds),
        "images_per_second": round(len(seconds) / elapsed, 1),
        "images_per_batch": round(health["images"] / max(health["batches"], 1), 2),
        "median_ms": round(1000 * statistics.median(seconds)),
        "p99_ms": round(1000 * float(np.quantile(seconds, 0.99))),
        "max_ms": round(1000 * max(seconds)),
        "health_max_ms": round(1000 * max(load.health_seconds)),
        "refused": sum(count for status, count in load.answers.items() if status >= 400),
        "errors": len(load.errors),
        "warm_mib": round(warm, 1),
        "max_mib": round(max(samples), 1),
        "last_mib": round(samples[-1], 1),
    }


def main(args: argparse.Namespace) -> None:
    """Starts the server, loads it and stops it; prints and writes the row."""
    model, load_before = find_program(args.model), os.getloadavg()[0]
    assert model is not None, args.model
    command = [sys.executable, str(SERVER), str(model), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            load = Load(process.stdout.readline().strip(), model)
            row = run_load(process, load, args)
            process.send_signal(signal.SIGTERM)
            if process.wait(30):
                load.errors.append(f"the server ended with status {process.returncode}")
        finally:
            process.kill()
    print(", ".join(f"{name} {value}" for name, value in row.items()))
    settings = load.predictor.program.description["settings"]
    network = f"{settings.get('name', 'made by hand')} ({settings['model'].get('variant', '')})"
    sizes = " ".join(f"{height}x{width}" for height, width in SIZES)
    described = {"model": model.name, "network": network, "sizes": sizes}
    runtime = {".onnx": "onnxruntime", ".jax": "jax"}[model.suffix]
    machine = f"{platform.machine()}_{os.cpu_count()}cores_{runtime}{version(runtime)}"
    path = args.csv or Path(__file__).with_name(f"serve_load_{machine}.csv")
    write_rows(path, [described | {"load_before": round(load_before, 1)} | row])
    if load.errors:
        sys.exit(f"{len(load.errors)} errors, the first: {load.errors[0]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="export, or model.onnx or model.jax")
    parser.add_argument("--clients", type=int, default=50, help="number of parallel clients")
    parser.add_argument("--seconds", type=float, default=60, help="duration after the warm-up")
    parser.add_argument("--warm_up", type=float, default=10, help="seconds of the warm-up")
    parser.add_argument("--csv", help="file to write; by default named after the machine")
    main(parser.parse_args())
