"""Crops of CamVid by label, on which a classification network is overfitted."""

import csv
import json

import cv2
import numpy as np
import pytest

from benchmarks.classification_overfit import CLASSES, SIDE, best_window, main, overfit, write_crops
from data_pipelines.labels import CAMVID


def test_the_window_with_the_most_pixels_is_found():
    mask = np.zeros((100, 150), bool)
    mask[20 : 20 + SIDE, 70 : 70 + SIDE] = True
    mask[:10] = True
    assert best_window(mask) == (1.0, 20, 70)
    assert best_window(np.zeros((SIDE, SIDE), bool)) == (0.0, 0, 0)


def test_crops_lie_in_folders_of_their_classes(tmp_path):
    car, label = CAMVID.names.index("car"), np.zeros((80, 140), np.uint8)
    image = np.zeros((80, 140, 3), np.uint8)
    label[8:72, 70:134], image[8:72, 70:134] = car, 200
    for name, pixels in (("a.png", image), ("a_label.png", label)):
        cv2.imwrite(str(tmp_path / name), pixels)
    (tmp_path / "train.txt").write_text("a.png a_label.png\n")
    write_crops(tmp_path, tmp_path / "crops")
    folders = sorted(path.name for path in (tmp_path / "crops" / "train").iterdir())
    assert folders == sorted(CLASSES) and len(CLASSES) == 10
    crop = cv2.imread(str(tmp_path / "crops/train/car/a.png"))
    assert crop.shape == (SIDE, SIDE, 3) and (crop == 200).all()


def test_a_missing_result_is_written_once(tmp_path):
    (tmp_path / "classes").mkdir()
    evaluations = tmp_path / "classes" / "evaluations.jsonl"
    for top1 in (0.96, 0.97):
        evaluations.write_text(json.dumps({"images": 200, "top1": top1, "top5": 1.0}) + "\n")
        overfit(tmp_path, 400)
    (path,) = tmp_path.glob("*.csv")
    (row,) = csv.DictReader(path.read_text().splitlines())
    assert (row["top1"], row["steps"], row["seconds"]) == ("0.96", "400", "")


def test_camvid_must_have_a_list(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["overfit", f"--camvid={tmp_path}", f"--workdir={tmp_path}/w"])
    with pytest.raises(SystemExit):
        main()
    assert "--camvid" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_interrupted_crops_are_not_kept(tmp_path, monkeypatch):
    (tmp_path / "train.txt").write_text("a.png a_label.png\n")
    monkeypatch.setattr("sys.argv", ["overfit", f"--camvid={tmp_path}", f"--workdir={tmp_path}/w"])

    def stop(_, folder):
        folder.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.classification_overfit.write_crops", stop)
    with pytest.raises(KeyboardInterrupt):
        main()
    assert list((tmp_path / "w").iterdir()) == []
