"""Submissions: label ids at full size, names, and atomic writes."""

import zipfile

import cv2
import numpy as np
import pytest

from gsto_jax import UserError
from gsto_jax.segmentation.submission import SubmissionWriter, label_id_table

TABLE = label_id_table(((-1, 255), (0, 255), (7, 0), (26, 1), (27, 1)), 2)


def test_writes_label_ids_at_full_size(tmp_path):
    path = tmp_path / "submission.zip"
    predictions = np.random.default_rng(0).integers(0, 2, (3, 6, 8), np.uint8)
    batch = {"size": np.array([[6, 8], [4, 5], [4, 5]]), "index": np.array([1, 0, 0])}
    batch["mask"] = np.array([True, True, False])
    with SubmissionWriter(path, TABLE, ["ulm/ulm_1", "bonn/bonn_2"]) as writer:
        writer.write(batch, predictions, None)
        assert not path.exists()
    assert writer.written == 2
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["bonn_2_pred.png", "ulm_1_pred.png"]
        for n, name in enumerate(archive.namelist()):
            data = np.frombuffer(archive.read(name), np.uint8)
            ids = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
            height, width = batch["size"][n]
            expected = np.where(predictions[n, :height, :width], 26, 7)
            np.testing.assert_array_equal(ids, expected)
    assert [p.name for p in tmp_path.iterdir()] == ["submission.zip"]


def test_failed_writes_keep_the_old_file(tmp_path):
    path = tmp_path / "submission.zip"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), SubmissionWriter(path, TABLE, ["a"]):
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["submission.zip"]


def test_invalid_submissions(tmp_path):
    with pytest.raises(UserError, match="got 2 images named a"):
        SubmissionWriter(tmp_path / "x.zip", TABLE, ["ulm/a", "bonn/a", "b"])
    with pytest.raises(UserError, match="got numbers such as 000000"):
        SubmissionWriter(tmp_path / "x.zip", TABLE, ["000000", "000001"])
    with pytest.raises(UserError, match=r"data\.id_map .*class 1"):
        label_id_table(((7, 0), (300, 1)), 2)
