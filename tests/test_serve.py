"""The serving example: answers, refusals, stop, and load."""

import http.client
import io
import json
import runpy
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gsto_jax.predict.exported import ExportedPredictor
from gsto_jax.predict.exported_classes import ExportedClassPredictor
from gsto_jax.predict.exported_pose import ExportedPosePredictor
from tests.gsto_jax.exported_programs import (
    describe,
    write_class_program,
    write_pose_program,
    write_program,
)
from tests.image_bytes import RGB, RGBA, chunk, exif, png

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "serve.py"

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxruntime"))), reason="the extra onnx is not installed"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    write_program(path, describe())
    return path


@contextmanager
def serve(model, *flags):
    """Yields the process of the server and its URL."""
    command = [sys.executable, str(SCRIPT), str(model), "0", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def url(model):
    with serve(model, "--max_pixels=3000", "--max_bytes=20000", "--wait_ms=100") as (_, address):
        yield address


def post(url, content):
    with urllib.request.urlopen(url, content, timeout=60) as answer:
        assert answer.headers["Content-Type"] == "image/png"
        return np.asarray(Image.open(io.BytesIO(answer.read())))


def refusal(url, content):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, content, timeout=60)
    with refused.value as error:
        return error.code, error.read().decode(), error.headers


def health(url):
    with urllib.request.urlopen(f"{url}/health", timeout=60) as answer:
        return json.load(answer)


def image_of(seed, size=(40, 56)):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]


def test_answers_equal_predictions(url, model):
    predictor = ExportedPredictor.load(model)
    image = image_of(0)
    np.testing.assert_array_equal(post(url, png(image, RGB)), predictor(image).labels)
    photo = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    photo[:20, :30, 3] = 0
    content = png(photo, RGBA, before=chunk(b"eXIf", exif(3)))
    path = model.with_name("photo.png")
    path.write_bytes(content)
    expected = predictor(path)
    assert (expected.image[-20:, -30:] == 255).all(), "turned, and white behind"
    np.testing.assert_array_equal(post(url, content), expected.labels)


def test_parallel_requests_of_one_size_are_predicted_together(url, model):
    predictor, before = ExportedPredictor.load(model), health(url)
    images = [image_of(seed, (40, 56) if seed < 8 else (24, 32)) for seed in range(12)]
    answers = [None] * len(images)

    def send(n):
        answers[n] = post(url, png(images[n], RGB))

    threads = [threading.Thread(target=send, args=(n,)) for n in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for image, answer in zip(images, answers, strict=True):
        np.testing.assert_array_equal(answer, predictor(image).labels)
    after = health(url)
    assert after["images"] - before["images"] == len(images)
    assert after["batches"] - before["batches"] < len(images)
    assert after["ready"] and after["in_progress"] == 0 and after["runtime"] == "onnx"


def test_bad_requests_are_refused(url):
    image = png(image_of(0), RGB)
    assert refusal(url, b"no image")[0] == 400
    assert refusal(url, image[:100])[0] == 400
    status, reason, _ = refusal(url, png(np.zeros((50, 61, 3), np.uint8), RGB))
    assert (status, reason) == (413, "send an image of at most 3000 pixels")
    status, reason, _ = refusal(url, bytes(20_001))
    assert (status, reason) == (413, "send at most 20000 bytes")
    assert refusal(f"{url}/other", None)[0] == 404
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.request("POST", "/", iter([image]))  # chunked, without a length
    assert connection.getresponse().status == 411
    connection.close()
    assert post(url, image).shape == (40, 56)


def test_poses(tmp_path, url):
    image, path = png(image_of(0), RGB), tmp_path / "pose.onnx"
    write_pose_program(path)
    predictor = ExportedPosePredictor.load(path)
    with serve(path, "--max_boxes=2", "--max_pixels=3000") as (_, poses):

        def persons(query):
            with urllib.request.urlopen(poses + query, image, timeout=60) as answer:
                return json.load(answer)

        expected = predictor(image_of(0), [[4, 6, 20, 10], [0, 0, 9, 9.5]]).persons()
        assert persons("?boxes=4,6,20,10;0,0,9,9.5") == expected
        assert persons("") == predictor(image_of(0)).persons()
        assert persons("?boxes=") == predictor(image_of(0), []).persons()
        status, reason, _ = refusal(f"{poses}?box=1,2,3,4", image)
        assert status == 400 and "box" in reason
        for query in ("?boxes=1,2,3", "?boxes=a,2,3,4", "?boxes=1,2,3,4;5", "?boxes=99,0,5,5"):
            status, reason, _ = refusal(poses + query, image)
            assert status == 400 and "boxes must" in reason
        status, reason, _ = refusal(f"{poses}?boxes=0,0,9,9;0,0,9,9;0,0,9,9", image)
        assert (status, reason) == (413, "send at most 2 boxes")
        assert refusal(poses, png(np.zeros((50, 61, 3), np.uint8), RGB))[0] == 413
        assert refusal(poses, b"no image")[0] == 400
        assert health(poses)["task"] == "pose" and health(poses)["images"] == 3
    status, reason, _ = refusal(f"{url}?boxes=0,0,9,9", image)
    assert status == 400 and "for pose networks" in reason


def test_classes(tmp_path):
    path = tmp_path / "model.onnx"
    write_class_program(path)
    images = [image_of(seed) for seed in range(2)]
    with serve(path) as (_, url):
        for image in images:
            with urllib.request.urlopen(url, png(image, RGB), timeout=60) as answer:
                assert answer.headers["Content-Type"] == "application/json"
                assert json.load(answer) == ExportedClassPredictor.load(path)(image).entries()
        status, reason, _ = refusal(f"{url}?boxes=0,0,9,9", png(images[0], RGB))
        assert status == 400 and "this is a classification network" in reason
        assert health(url)["task"] == "classification"


def test_a_program_that_fails_does_not_stop_the_server(tmp_path):
    write_program(tmp_path / "model.onnx", describe(), size=(16, 24))  # which it does not describe
    with serve(tmp_path / "model.onnx") as (process, url):
        assert refusal(url, png(image_of(0), RGB))[:2] == (500, "the prediction failed")
        assert post(url, png(image_of(0, (16, 24)), RGB)).shape == (16, 24)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert "model.onnx fails in onnxruntime" in errors and "Traceback" not in errors


def test_a_full_server_refuses_and_stops(model):
    with serve(model, "--queue=0") as (process, url):
        status, _, headers = refusal(url, png(image_of(0), RGB))
        assert (status, headers["Retry-After"]) == (503, "1")
        assert health(url)["answers"] == {"503": 1}
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output, errors) == (0, "stopped\n", "")


def test_requests_in_progress_are_completed(model):
    answers = []
    with serve(model, "--wait_ms=1500") as (process, url):
        thread = threading.Thread(target=lambda: answers.append(post(url, png(image_of(0), RGB))))
        thread.start()
        while thread.is_alive() and not health(url)["in_progress"]:
            pass
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
        thread.join()
        assert (process.returncode, output, errors) == (0, "stopped\n", "")
    assert answers[0].shape == (40, 56)


def test_a_port_in_use_is_named(model, url):
    port = url.rpartition(":")[2]
    command = [sys.executable, str(SCRIPT), str(model), port]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert f"cannot listen at localhost:{port}" in result.stderr


def test_usage(tmp_path, monkeypatch, capsys):
    parse = runpy.run_path(str(SCRIPT))["parse_arguments"]

    def usage(*args):
        monkeypatch.setattr(sys, "argv", ["serve.py", *map(str, args)])
        with pytest.raises(SystemExit):
            parse()
        return "".join(capsys.readouterr())

    assert "usage: serve.py [-h]" in usage("--help")
    assert "has no program: pass the folder that" in usage(tmp_path)
    assert "--max_batch must be at least 1; got 0" in usage(tmp_path, "--max_batch=0")
    assert "does not exist" in usage(tmp_path / "model.onnx")
    (tmp_path / "damaged.onnx").write_bytes(b"onnx")
    assert "damaged.onnx cannot be loaded" in usage(tmp_path / "damaged.onnx")


@pytest.mark.slow
def test_fifty_clients_for_some_seconds(model, tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "serve_load.py"), str(model)]
    result = subprocess.run(
        [*command, "--seconds=4", "--warm_up=2", f"--csv={tmp_path}/load.csv"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "clients 50" in result.stdout and "errors 0" in result.stdout
