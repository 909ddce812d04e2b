"""Draws what each augmentation option does to a training image.

    python benchmarks/augmentation_figure.py docs/augmentation.png
    python benchmarks/augmentation_figure.py augmentation.png configs/mine.py

Of a config, its own options are drawn; if it has none, as in the first command, those of `EXAMPLE`.
"""

import sys
from dataclasses import fields, replace
from functools import partial

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from configs import loading
from configs.loading import plain_values
from data_pipelines import DataConfig, make_source
from data_pipelines.transforms.segmentation import RandomScaleCropFlip
from gsto_jax.config import AugmentConfig
from gsto_jax.drawing.tiles import as_rgb, tile_grid, with_caption
from gsto_jax.training.augmentation import augment

EXAMPLE = AugmentConfig(
    brightness=0.3, contrast=0.5, saturation=0.8, hue=0.1, gamma=1.0, blur=2.0, cutout=0.5
)
ROTATION = 15.0
"""Degrees, with `EXAMPLE`."""
DRAWS = 4
WIDTH = 1000
"""Width of the figure in pixels."""


def figure(config: ConfigDict) -> np.ndarray:
    """Returns rows of tiles: the image, and draws of each option alone, then of all together."""
    values = plain_values(config)
    data, options = DataConfig(**values["data"]), AugmentConfig(**values["augment"])
    rotation = data.rotation
    if not options.is_enabled and not rotation:
        options, rotation = EXAMPLE, ROTATION
    source = make_source(data, data.train_split)
    example = source[0]
    size = example["image"].shape[:2]
    rows: dict[str, tuple[AugmentConfig, float]] = {
        f"{field.name} {value:g}": (AugmentConfig(**{field.name: value}), 0.0)
        for field in fields(options)
        if (value := getattr(options, field.name))
    }
    if rotation:
        rows[f"rotation {rotation:g}"] = (AugmentConfig(), rotation)
    rows["all"] = (options, rotation)
    transform = RandomScaleCropFlip(
        crop=size, scale_min=1, scale_step=0, num_scales=1, flip=False, rotation=rotation
    )
    tiles = []
    for name, (augmentation, angle) in rows.items():
        rotate = replace(transform, rotation=angle)
        crops = [rotate.random_map(example, np.random.default_rng(seed)) for seed in range(DRAWS)]
        images = np.stack([crop["image"] for crop in crops])
        seeds = np.stack([crop["augment_seed"] for crop in crops])
        change = jax.jit(partial(augment, config=augmentation, mean=data.mean))
        pixels = np.asarray(change(images, seeds)).round().astype(np.uint8)
        row = [with_caption("image", as_rgb(example["image"]))]
        tiles.append(row + [with_caption(name, as_rgb(x)) for x in pixels])
    return tile_grid(tiles)


def main() -> None:
    """Writes the figure."""
    if len(sys.argv) not in (2, 3):
        sys.exit(f"usage: python {sys.argv[0]} FIGURE.png [CONFIG]")
    config = sys.argv[2] if len(sys.argv) == 3 else "configs/quickstart.py"
    image = Image.fromarray(figure(loading.load(config)))
    image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.BOX)
    image.quantize(256, dither=Image.Dither.NONE).save(sys.argv[1], optimize=True)


if __name__ == "__main__":
    main()
