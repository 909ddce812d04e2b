"""Opens folders of images and labels."""

import pytest

from data_pipelines import FolderSource


@pytest.fixture
def opened(tmp_path, make_folder_config):
    """Opens the split `val` of img/ and ids/ below `tmp_path`, with changed settings."""

    def build(**changes):
        fields = {"images": "img/{split}", "labels": "ids/{split}"}
        fields |= {"image_suffix": "", "label_suffix": ""}
        return FolderSource(make_folder_config(tmp_path, **fields | changes), "val")

    return build
