"""The program on human poses, from downloads to the server's file."""

import json
import os
import re
import zipfile
from pathlib import Path

import cv2
import pytest

from tests.data_pipelines.downloads_trees import coco_files, image_bytes
from tests.program import run

CONFIG = "--config=configs/lsp_pose_w18s.py"
SMALL = (
    "--config.model.variant=mini",
    "--config.model.hrnet.gfm=False",
    "--config.data.crop=(64,48)",
    "--config.run.trackers=()",
    "--config.run.eval_every=0",
    "--config.eval.batch_size=2",
)
TRAIN = ("--config.train.steps=4", "--config.train.batch_size=2", "--config.run.log_every=1")


FIRST = 12345678901234567
"""Added to ids of images: float64 has no such number."""


def write_downloads(root):
    """Three persons in two training images, one in val and none in another, three in test-dev.

    Persons are category 0, beside a dog; ids of images have 17 digits.
    """
    images = [{"id": FIRST + n, "file_name": f"{n:012d}.jpg"} for n in (21, 22)]
    files = coco_files() | {
        "annotations/image_info_test-dev2017.json": json.dumps({"images": images}).encode()
    }
    for name in [name for name in files if "person_keypoints" in name]:
        content = json.loads(files[name])
        content["categories"] = [{"id": 0, "name": "person"}, {"id": 1, "name": "dog"}]
        for image in content["images"]:
            image["id"] += FIRST
        for person in content["annotations"]:
            person |= {"image_id": person["image_id"] + FIRST, "category_id": 0}
        dog = content["annotations"][0] | {"category_id": 1, "id": 99}
        content["annotations"].append(dog)
        files[name] = json.dumps(content).encode()
    for n in (21, 22):
        files[f"test2017/{n:012d}.jpg"] = image_bytes(n, kind=".jpg")
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    boxes = [
        {"image_id": FIRST + n, "category_id": 0, "bbox": [5, 5, 20, 30], "score": 0.9 - n / 100}
        for n in (11, 12, 21, 22)
    ]
    (root / "boxes.json").write_text(json.dumps(boxes))


@pytest.mark.slow
def test_from_downloads_to_a_submission(tmp_path):
    downloads, work = tmp_path / "downloads", tmp_path / "run"
    write_downloads(downloads)
    data = f"--config.data.root={tmp_path / 'sets'}"
    check_preparation(downloads, data)
    trained = run(CONFIG, data, *SMALL, *TRAIN, f"--workdir={work}")
    assert trained.returncode == 0, trained.stderr
    assert "4 steps of 2 from 3 persons" in trained.stdout
    assert re.search(r"AP [\d.]+ \(ground-truth boxes\)", trained.stdout)
    assert "true joints, encoded" in trained.stdout
    again = run("--mode=eval", CONFIG, data, *SMALL, f"--workdir={work}")
    pattern = re.compile(r"AP [\d.]+ \(")
    assert pattern.search(again.stdout)[0] == pattern.search(trained.stdout)[0]
    check_submission(work, (CONFIG, data, *SMALL, f"--workdir={work}"), downloads / "boxes.json")
    check_prediction(work, downloads / "val2017", tmp_path)
    page = run("--mode=report", f"--workdir={work}")
    assert page.returncode == 0, page.stderr


def check_preparation(downloads, data):
    prepared = run("--mode=prepare", CONFIG, data, f"--source={downloads}", "--partial")
    assert prepared.returncode == 0, prepared.stderr
    assert "persons are category 'person' (id 0); left out: 1 of 'dog' (id 1)" in prepared.stdout
    kept = run("--mode=prepare", CONFIG, data, f"--source={downloads.parent}", "--partial")
    assert f"is kept as it was built from {downloads} (train 3, val 1" in kept.stdout, kept.stderr


def check_submission(work, args, boxes):
    detections = f"--config.data.keypoints.detections={boxes}"
    detected = run("--mode=eval", *args, detections)
    assert "2 persons in 2 images, detector boxes boxes.json" in detected.stdout, detected.stderr
    sent = run("--mode=submit", *args, detections)
    assert sent.returncode == 0, sent.stderr
    path = work / "person_keypoints_test-dev2017_lsp_pose_w18s_results.zip"
    assert f"submission  {path}" in sent.stdout
    with zipfile.ZipFile(path) as archive:
        poses = json.loads(archive.read(f"{path.stem}.json"))
    assert sorted(pose["image_id"] for pose in poses) == [FIRST + 21, FIRST + 22]
    assert {pose["category_id"] for pose in poses} == {0}
    saved = json.loads((work / "eval-val" / "results.json").read_text())
    assert {pose["image_id"] for pose in saved} == {FIRST + 11, FIRST + 12}
    assert run("--mode=submit", *args).returncode == 2


def check_prediction(work, images, folder):
    image, other = images / f"{11:012d}.jpg", images / f"{12:012d}.jpg"
    boxes, output = folder / "by_image.json", folder / "out"
    boxes.write_text(json.dumps({image.name: [[1, 2, 30, 30], [20, 5, 30, 30]]}))
    predict = ("--mode=predict", f"--checkpoint={work}", f"--output={output}")
    named = (*predict, "--save=overlay,heatmaps,branches,gates")
    predicted = run(*named, f"--boxes={boxes}", str(image))
    assert predicted.returncode == 0, predicted.stderr
    persons = json.loads((output / "poses.json").read_text())
    assert [len(rows) for rows in persons.values()] == [2]
    best = [max(row["keypoints"][2::3]) for rows in persons.values() for row in rows]
    low = sum(score < 0.2 for score in best)
    note = f"no joint of {low} persons scores 0.2 (pose.visibility_threshold) or more"
    assert (note in predicted.stdout) == (low > 0), (best, predicted.stdout)
    assert cv2.imread(str(output / "overlay" / f"{11:012d}.jpg")).shape == (40, 60, 3)
    outside = run(*named, "--boxes=70,5,20,30", str(other))
    assert outside.returncode == 1 and "must overlap the image of 60x40 pixels" in outside.stderr
    lost = run(*named, f"--boxes={boxes}", str(other))
    assert (lost.returncode, "has no boxes of" in lost.stderr) == (1, True)
    whole = run(*named, str(other))
    assert whole.returncode == 0, whole.stderr
    assert len(json.loads((output / "poses.json").read_text())) == 2
    for flags, message in (
        (["--long_side=100"], "--long_side is for segmentation"),
        (["--save=ids"], "must be some of overlay, heatmaps"),
        (["--boxes=1,2"], "--boxes must be x,y,w,h"),
        (["--config.pose.sigma=2.0"], "fixed by the checkpoint"),
    ):
        result = run(*predict, *flags, str(other))
        assert (result.returncode, message in result.stderr) == (2, True), result.stderr


@pytest.mark.slow
@pytest.mark.skipif("GSTO_DATA" not in os.environ, reason="set GSTO_DATA to the real datasets")
def test_real_persons_and_a_detectors_boxes(tmp_path):
    """The truth of the four images has AP 1, and every box of the file becomes a pose."""
    from configs import lsp_pose_w18s
    from configs.loading import plain_values
    from data_pipelines import DataConfig, PersonSource
    from gsto_jax.config import PoseConfig
    from gsto_jax.pose.metrics import evaluate_coco, to_coco_results
    from tests.gsto_jax.noisy_poses import poses_from_annotations

    source = Path(os.environ["GSTO_DATA"]) / "coco_kp"
    data = f"--config.data.root={tmp_path}"
    prepared = run("--mode=prepare", CONFIG, data, f"--source={source}", "--partial")
    assert prepared.returncode == 0, prepared.stderr
    config = lsp_pose_w18s.get_config()
    config.data.root = str(tmp_path)
    values = plain_values(config)
    persons = PersonSource(DataConfig(**values["data"]), "val")
    labeled = [p for p in persons.annotations() if any(p["keypoints"][2::3])]
    assert (len(persons), len(labeled), len(persons.image_ids())) == (12, 12, 4)
    sigmas = values["data"]["keypoints"]["sigmas"]
    coco_results = to_coco_results(
        poses_from_annotations(labeled), sigmas, PoseConfig(**values["pose"])
    )
    figures = evaluate_coco(coco_results, persons.annotations(), persons.image_ids(), sigmas)
    assert figures["AP"] == figures["AR"] == 1

    (boxes,) = (source / "person_detection_results").glob("*.json")
    detections = f"--config.data.keypoints.detections={boxes}"
    work = f"--workdir={tmp_path / 'run'}"
    trained = run(CONFIG, data, *SMALL, *TRAIN, detections, work)
    assert trained.returncode == 0, trained.stderr
    assert f"118 persons in 4 images, detector boxes {boxes.name}" in trained.stdout
