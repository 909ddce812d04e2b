"""Paths of flags: local ones stay pathlib paths, URLs keep their scheme."""

from pathlib import Path

import pytest

from gsto_jax.errors import UserError
from gsto_jax.storage.paths import is_remote, join_path, to_path


def test_local_paths_are_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert to_path("runs/a", "--workdir") == tmp_path / "runs/a"
    assert to_path("~/a", "--workdir") == Path("/home/someone/a")
    assert not is_remote(to_path("runs/a", "--workdir"))


def test_urls_keep_their_scheme():
    path = to_path("gs://bucket/runs/a", "--workdir")
    assert str(path / "config.json") == "gs://bucket/runs/a/config.json"
    assert is_remote(path)


@pytest.mark.parametrize("text", ["ftp://host/run", "gs:/bucket/run", "hdfs://a/b", "gcs://b/run"])
def test_other_schemes_are_refused(text):
    with pytest.raises(UserError, match="--workdir"):
        to_path(text, "--workdir")


def test_absolute_paths_and_urls_replace_the_root(tmp_path):
    for root in (tmp_path, to_path("gs://bucket/data", "root")):
        assert str(join_path(root, "a/b.txt", "list")) == f"{root}/a/b.txt"
        assert str(join_path(root, f"{tmp_path}/b.txt", "list")) == f"{tmp_path}/b.txt"
        assert str(join_path(root, "gs://other/b.txt", "list")) == "gs://other/b.txt"
