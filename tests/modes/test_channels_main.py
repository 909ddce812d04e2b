"""Multi-band TIFFs from a folder to predictions, through the command line."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.program import run

CONFIG = """
from configs import base


def get_config(arg=None):
    config = base.get_config()
    config.name, config.model.init, config.run.trackers = "bands", "he", ()
    config.train.batch_size, config.train.steps, config.eval.batch_size = 2, 2, 2
    config.data.images, config.data.labels = "images/{split}", "labels/{split}"
    config.data.classes, config.data.crop = ("field", "water"), (64, 64)
    config.data.channels, config.data.value_range = 5, (0, 10000)
    config.data.mean, config.data.std = (0.3,) * 5, (0.2,) * 5
    return base.apply_arguments(config, arg)
"""


def write_folder(root):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for n in range(2):
            label = np.zeros((64, 64), np.uint8)
            label[:, 20 + 10 * n :] = 1
            bands = rng.integers(0, 3000, (64, 64, 5)) + 5000 * label[..., None].astype(int)
            planes = np.moveaxis(bands.astype(np.uint16), 2, 0)
            options = {"photometric": "minisblack", "planarconfig": "separate"}
            tifffile.imwrite(root / "images" / split / f"{n}.tif", planes, **options)
            Image.fromarray(label).save(root / "labels" / split / f"{n}.png")


@pytest.mark.long
def test_multi_band_images_are_trained_and_predicted(tmp_path):
    write_folder(tmp_path / "data")
    (tmp_path / "bands.py").write_text(CONFIG)
    trained = run(
        f"--config={tmp_path}/bands.py",
        f"--config.data.root={tmp_path}/data",
        f"--workdir={tmp_path}/run",
    )
    assert trained.returncode == 0, trained.stderr
    assert "mean IoU" in trained.stdout
    panel = np.asarray(Image.open(tmp_path / "run/eval-val/0.png"))
    assert panel.ndim == 3 and panel.shape[2] == 3
    image = tmp_path / "data/images/val/0.tif"
    rgb = tmp_path / "rgb.png"
    Image.new("RGB", (64, 64)).save(rgb)
    flags = (f"--checkpoint={tmp_path}/run", f"--output={tmp_path}/out")
    predicted = run("--mode=predict", *flags, str(image), str(rgb))
    assert predicted.returncode == 1
    assert f"error: cannot read {rgb}: it must have 5 channels; got 3" in predicted.stderr
    ids = np.asarray(Image.open(tmp_path / "out/ids/0.png"))
    assert ids.shape == (64, 64) and ids.max() <= 1
