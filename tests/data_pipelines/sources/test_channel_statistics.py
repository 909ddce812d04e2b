"""Mean and standard deviation of channels, against NumPy."""

import numpy as np
import pytest

from data_pipelines import channel_statistics, encode_tiles
from data_pipelines.files.tiles import Tiles
from tests.data_pipelines.tiny_source import TinySource


class ManyChannels(TinySource):
    """Images of five channels, one of them constant, every other one as tiles."""

    def __getitem__(self, index):
        height, width = self.size(index)
        image = np.random.default_rng(index).integers(0, 256, (height, width, 5), np.uint8)
        image[..., 3] = 7
        return {"image": Tiles(encode_tiles(image)) if index % 2 else image}


@pytest.mark.parametrize("kind", [TinySource, ManyChannels])
def test_statistics_equal_numpy(kind):
    source = kind(7, sizes=((6, 8), (3, 5)))
    calls: list[int] = []
    mean, std = channel_statistics(source, lambda: calls.append(1))
    pixels = [np.asarray(source[n]["image"]) for n in range(7)]
    pixels = np.concatenate([image.reshape(-1, image.shape[2]) for image in pixels]) / 255
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(0), rtol=1e-12, atol=1e-12)
    assert len(calls) == 7
    assert kind is TinySource or std[3] == 0.0
