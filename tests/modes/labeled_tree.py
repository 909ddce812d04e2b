"""A dataset of images and label maps in folders."""

import cv2
import numpy as np

LABEL = np.zeros((40, 60), np.uint8)
LABEL[:, 30:] = 1


def write_tree(root, labels):
    """Writes two splits of images, 40 by 60; returns the arguments of a run on them.

    `labels` maps the number of a training image to its label map, for those without `LABEL`.
    """
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 2)):
        lines = []
        for n in range(count):
            for kind in ("image", "label"):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
            image, label = f"image/{split}/{n}.png", f"label/{split}/{n}.png"
            cv2.imwrite(str(root / image), rng.integers(0, 255, (40, 60, 3)))
            odd = labels.get(n, LABEL) if split == "train" else LABEL
            cv2.imwrite(str(root / label), odd)
            lines.append(f"{image} {label}")
        (root / f"{split}.txt").write_text("\n".join(lines))
    return [
        "--config=configs/camvid_w18s.py:runlocal",
        f"--config.data.root={root}",
        "--config.data.train_size=0",
        "--config.model.variant=mini",
    ]
