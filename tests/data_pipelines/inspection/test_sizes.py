"""Crop, batch size and steps from image sizes and memory."""

import numpy as np
import pytest
import tifffile

from data_pipelines.inspection.sizes import propose_sizes
from tests.data_pipelines.dataset_layouts import save


def images(folder, *sizes):
    paths = [folder / f"{n}.png" for n in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        save(path, np.zeros((*size, 3), np.uint8))
    return paths


def test_crops_fit_the_images(tmp_path):
    for size in ((20, 20), (48, 64), (360, 480), (700, 1400)):
        proposal = propose_sizes(images(tmp_path, size), 100, 2**36, on_cpu=False)
        for crop, side in zip(proposal.crop, size, strict=True):
            assert crop % 32 == 0 and 32 <= crop <= max(32, min(side, 512))
        assert (proposal.height, proposal.width) == size and proposal.is_uniform


def test_the_median_size_counts(tmp_path):
    proposal = propose_sizes(
        images(tmp_path, (100, 200), (120, 180), (900, 900)), 100, 2**36, on_cpu=False
    )
    assert (proposal.height, proposal.width) == (120, 200) and not proposal.is_uniform


@pytest.mark.parametrize("num_train", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("memory", [2**26, 2**32, 2**37])
def test_batches_fit_memory_and_dataset(num_train, memory, tmp_path):
    paths = images(tmp_path, (700, 700))
    small = propose_sizes(paths, num_train, memory, on_cpu=True)
    large = propose_sizes(paths, num_train, memory, on_cpu=False)
    for proposal in (small, large):
        assert 1 <= proposal.batch_size <= min(num_train, 16)
        pixels = proposal.batch_size * proposal.crop[0] * proposal.crop[1]
        assert proposal.batch_size == 1 or pixels * 1024 < memory
        assert 0 < proposal.learning_rate <= 0.02
    assert small.crop <= large.crop and small.steps <= large.steps


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_channels_of_multi_band_images(channels, tmp_path):
    path = tmp_path / "a.tif"
    bands = np.arange(channels * 64, dtype=np.uint16).reshape(8, 8, channels)
    photometric = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(path, bands, photometric=photometric, planarconfig="contig")
    assert propose_sizes([path], 10, 2**34, on_cpu=True).channels == channels


def test_gray_images_are_read_as_rgb(tmp_path):
    save(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    assert propose_sizes([tmp_path / "a.png"], 10, 2**34, on_cpu=True).channels == 3
