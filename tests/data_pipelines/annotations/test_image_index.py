"""Image files found by the paths that annotations have for them."""

import pytest

from data_pipelines import DataError
from data_pipelines.annotations import ImageIndex


@pytest.fixture
def index(tmp_path):
    for name in ("a.jpg", "x/b.jpg", "y/b.jpg", "e\u0301 1.PNG", "IMG.jpg", "img.jpg", "z.txt"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "outside.jpg").touch()
    return ImageIndex(tmp_path / "images")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.jpg", "a.jpg"),
        ("A.JPG", "a.jpg"),
        ("images/a.jpg", "a.jpg"),
        ("../images/a.jpg", "a.jpg"),
        ("C:/data/a.jpg", "a.jpg"),
        ("https://host/x/b.jpg", "x/b.jpg"),
        ("y/b.jpg", "y/b.jpg"),
        ("images/\u00e9 1.png", "e\u0301 1.PNG"),
        ("img.jpg", "img.jpg"),
        ("IMG.jpg", "IMG.jpg"),
        ("../outside.jpg", None),
        ("aa.jpg", None),
        ("z/images/b.jpg", None),
        ("z.txt", None),
        ("", None),
    ],
)
def test_find(index, path, expected):
    assert index.find(path) == expected


def test_find_by_the_name_of_the_labelme_file(index):
    assert index.find("gone.jpg", "x/b") == "x/b.jpg"
    assert index.find("a.jpg", "x/b") == "a.jpg"
    assert index.find("gone.jpg", "b") is None


@pytest.mark.parametrize("path", ["b.jpg", "Img.jpg"])
def test_several_images(index, path):
    with pytest.raises(DataError, match=f"{path} names several images"):
        index.find(path)


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        ImageIndex(tmp_path / "images")
