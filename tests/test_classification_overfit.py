"""Crops of CamVid by label, on which a classification network is overfitted."""

import cv2
import numpy as np

from benchmarks.classification_overfit import CLASSES, SIDE, best_window, write_crops
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
