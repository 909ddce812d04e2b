"""Checks of labels and of id_map, before training and by the audit."""

import re

import cv2
import numpy as np
import pytest

from data_pipelines import (
    CAMVID,
    CITYSCAPES,
    LIP,
    PASCAL_CONTEXT_59,
    DataError,
    FolderSource,
    Issue,
    audit_labels,
    check_split_labels,
    distinct_colors,
    group_issues,
    report_labels,
)
from data_pipelines.sources.label_checks import describe_shifted_ids, suggest_id_map
from data_pipelines.sources.label_inspection import lossy_format_name
from data_pipelines.sources.label_map import LabelMap
from tests.data_pipelines.prepared_sets import real


@pytest.fixture
def opened(tmp_path, make_folder_config):
    """Writes labels as files of split `val`, and opens them with changed settings."""

    def build(labels, suffix=".png", **changes):
        for n, label in enumerate(labels):
            label = np.asarray(label, np.uint8)
            image = np.linspace(0, 255, label.size).reshape(*label.shape, 1).repeat(3, -1)
            for path, array in (
                (tmp_path / f"images/val/{n:03d}.png", image.astype(np.uint8)),
                (tmp_path / f"labels/val/{n:03d}{suffix}", label),
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(cv2.imencode(path.suffix, array)[1].tobytes())
        fields = {"image_suffix": "", "label_suffix": "", "palette": ()}
        config = make_folder_config(tmp_path, **fields | changes)
        return FolderSource(config, "val"), config

    return build


def checked(opened, trains=True):
    source, config = opened
    lines = []
    stats, report = check_split_labels(source, config, "val", trains, lines.append)
    return stats, report, lines


def full(*ids, shape=(4, 6)):
    """Returns a label with an equal number of pixels of each id."""
    return np.resize(np.repeat(ids, -(-shape[0] * shape[1] // len(ids))), shape)


BINARY = {"classes": ("background", "road")}


def test_masks_of_0_and_255_suggest_an_id_map(opened):
    message = (
        r"3 labels of val .*'background' .*255 is ignored, 50\.0% .*ids 0, 255 .*"
        r"data\.id_map=\(\(0, 0\), \(255, 1\)\)\.$"
    )
    with pytest.raises(DataError, match=message):
        checked(opened([full(0, 255)] * 3, **BINARY))
    remedy = opened([full(0, 255)] * 3, **BINARY, id_map=((0, 0), (255, 1)))
    stats, report, _ = checked(remedy)
    assert stats.pixels == {0: 36, 1: 36}
    assert report == type(report)()
    assert set(np.unique(remedy[0][0]["label"])) == {0, 1}


def test_id_map_is_suggested_for_other_mask_values(opened):
    for labels, classes, pairs in (
        (full(0, 128, 255), ("a", "b", "c"), r"\(0, 0\), \(128, 1\), \(255, 2\)"),
        (full(0, 200), ("a", "b"), r"\(0, 0\), \(200, 1\)"),
        (full(1, 2), ("a", "b"), r"\(1, 0\), \(2, 1\)"),
        (full(0, 127, 255), ("a", "b"), r"\(0, 0\), \(127, 1\), \(255, 255\)"),
    ):
        with pytest.raises(DataError, match=rf"unknown label ids.*id_map=\({pairs}\)"):
            checked(opened([labels], classes=classes))
    with pytest.raises(DataError, match=r"unknown .*\(0, 0\), \(255, 1\)"):
        checked(opened([full(0, 255)], **BINARY, ignore_label=254))


def test_single_class_split_can_be_scored_but_not_trained_on(opened):
    split = opened([full(1), full(1, 255)])
    with pytest.raises(DataError, match=r"2 labels of val .*only the class 'b'"):
        checked(split)
    _, report, _ = checked(split, trains=False)
    assert re.match("scores .* 2 labels of val .*only the class 'b'", report.warnings[0])
    assert report.absent_classes == "'a', 'c'"


@pytest.mark.parametrize("trains", [True, False])
def test_split_without_labeled_pixels(opened, trains):
    action = "trained on" if trains else "scored"
    with pytest.raises(DataError, match=rf"no pixel .*2 labels of val .*{action} \(id 255"):
        checked(opened([full(255)] * 2), trains)
    mapped = opened([full(7, 9)] * 2, id_map=((7, 255), (9, 200), (1, 0)), ignore_label=200)
    with pytest.raises(DataError, match=r"\(ids 7, 9 .*100\.0%"):
        checked(mapped, trains)


def test_rare_class_is_searched_in_all_labels(opened):
    labels = [full(0)] * 50
    labels[29] = full(0, 2)
    stats, report, lines = checked(opened(labels))
    (note,) = lines
    assert re.match(r"val: 13 labels .* 50$", note)
    assert stats.pixels[2] == 12
    assert 13 < stats.records <= 50
    assert report.absent_classes == "'b'"
    source, config = opened(labels)
    stats, _ = check_split_labels(source, config, "val", trains=False)
    assert stats.records == 13, "one class can be scored"


def test_labels_without_labeled_pixels_are_a_warning(opened):
    _, report, _ = checked(opened([full(0, 1, 2), full(255), full(255), full(0, 1)]))
    (warning,) = report.warnings
    assert re.match("val: 2 of 4 labels .*: 001, 002$", warning)


def test_unmapped_class_is_a_warning(opened):
    _, report, _ = checked(opened([full(0, 1)], id_map=((0, 0), (1, 1), (255, 255))))
    (warning,) = report.warnings
    assert "data.id_map" in warning and "'c'" in warning


def test_at_least_two_classes(make_folder_config, tmp_path):
    for classes in (("road",), ()):
        with pytest.raises(DataError, match=r"classes .*2 to 255"):
            make_folder_config(tmp_path, classes=classes, palette=())


def test_class_weights_must_not_all_be_zero(make_folder_config, tmp_path):
    with pytest.raises(DataError, match=r"class_weights .*\(0, 0\.0, 0\)"):
        make_folder_config(tmp_path, class_weights=(0, 0.0, 0))
    assert make_folder_config(tmp_path, class_weights=(0, 1, 0))


def table(name, **changes):
    fields = {"classes": name.names, "id_map": name.id_map, "palette": ()}
    return fields | changes


def test_shifted_id_map_is_detected(opened):
    _, report, _ = checked(opened([full(*range(1, 12), shape=(11, 6))] * 2, **table(CAMVID)))
    (warning,) = report.warnings
    assert re.search("1 to 11, .*maps 0 to 10 and ignores 11, .*'sky'", warning)
    assert "start at 1, set data.id_map=((1, 0), (2, 1)" in warning
    with pytest.raises(DataError, match=r"unknown .*\b11\b.*start at 1"):
        checked(opened([full(*range(1, 12), shape=(11, 6))], **table(CAMVID, id_map=())))


@pytest.mark.parametrize(
    ("classes", "ids", "expected"),
    [
        (CAMVID, range(12), ""),
        (CAMVID, range(1, 11), ""),  # no sky, nothing ignored
        (CAMVID, [2, 5, 11, 255], "start at 1"),
        (CAMVID, [0, 11], ""),
        (CAMVID, [11, 255], ""),  # all is ignored
        (CAMVID, [3, 11, 40], ""),
        (CITYSCAPES, [0, *range(1, 34)], ""),
        (LIP, [*range(20), 255], ""),
        (LIP, [*range(1, 21)], "does not know 20"),
        (PASCAL_CONTEXT_59, range(60), ""),
        (PASCAL_CONTEXT_59, range(59), "1 to 59 and ignores 0, so 'wood'"),
        (PASCAL_CONTEXT_59, [0, 2, 5, 9, 58], ""),  # a few images
    ],
)
def test_shifted_ids(make_folder_config, tmp_path, classes, ids, expected):
    config = make_folder_config(tmp_path, **table(classes))
    text = describe_shifted_ids(config, list(ids))
    assert (expected in text) if expected else text == ""


def test_id_map_is_suggested_if_ids_match_class_count(make_folder_config, tmp_path):
    config = make_folder_config(tmp_path)
    assert "((0, 0), (7, 1), (99, 2), (255, 255))" in suggest_id_map(config, [99, 0, 7, 255])
    assert "((0, 0), (7, 1), (255, 2))" in suggest_id_map(config, [0, 7, 255])
    assert suggest_id_map(config, [0, 1]) == suggest_id_map(config, [0, 1, 2, 3]) == ""


def blob(seed):
    """Returns a label of large shapes, like an annotated one."""
    rng = np.random.default_rng(seed)
    label = np.zeros((96, 128), np.uint8)
    for k in (1, 2, 1, 2):
        center = tuple(int(x) for x in rng.integers(20, 90, 2))
        cv2.circle(label, center, int(rng.integers(8, 30)), k, -1)
    return label


@pytest.mark.parametrize("quality", [75, 90, 95])
@pytest.mark.parametrize("factor", [1, 40, 127])
def test_altered_fraction_of_jpeg_labels(make_folder_config, tmp_path, quality, factor):
    label = blob(quality) * factor
    data = cv2.imencode(".jpg", label, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    altered = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    label_map = LabelMap(
        make_folder_config(tmp_path, id_map=tuple((k * factor, k) for k in range(3)))
    )
    truth, estimate = (altered != label).mean(), label_map.altered_fraction(altered)
    assert truth > 0.01
    assert 0.005 < estimate < truth + 0.02
    if factor > 1:  # neighboring ids change without a trace
        assert estimate == pytest.approx(truth, abs=0.02)
    assert label_map.altered_fraction(label) < 0.002
    assert lossy_format_name(data) == "JPEG"


def test_lossy_format_name():
    label = blob(0)
    lossy = cv2.imencode(".webp", label, [cv2.IMWRITE_WEBP_QUALITY, 80])[1].tobytes()
    lossless = cv2.imencode(".webp", label, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    assert (lossy_format_name(lossy), lossy_format_name(lossless)) == ("lossy WebP", "")
    assert lossy_format_name(cv2.imencode(".png", label)[1].tobytes()) == ""
    assert lossy_format_name(b"") == ""


def test_jpeg_labels_are_one_line_of_the_audit(opened):
    source, config = opened(
        [blob(n) * 40 for n in range(9)], ".jpg", id_map=((0, 0), (40, 1), (80, 2))
    )
    stats = audit_labels(source)
    (line,) = group_issues(stats.problems)
    assert re.match(
        r"9 records .*JPEG.*000\.jpg \([\d.]+%.*001\.jpg, .*002\.jpg \.\.\.; .*PNG", line
    )
    with pytest.raises(DataError, match=r"9 records .*JPEG.* --mode=audit\.$"):
        checked((source, config))


def test_jpeg_label_with_known_ids_is_a_warning(opened):
    every = tuple((k, min(k // 30, 2)) for k in range(256))
    source, config = opened([blob(n) * 40 for n in range(2)], ".jpg", id_map=every)
    stats, report, _ = checked((source, config))
    assert not stats.problems
    assert re.match("2 records .*JPEG", report.warnings[0])


def test_issues_of_one_fault_are_one_line():
    many = [Issue(f"{n}.png", "unknown ids", f"{n} px", "map them", n / 1000) for n in range(468)]
    single = Issue("x.png", "a joint outside its image")
    lines = group_issues([*many[:9], single, *many[9:]])
    assert lines == [
        "468 records have unknown ids (23.3% of their pixels): 0.png (0 px), 1.png, 2.png ...; map"
        " them",
        "x.png has a joint outside its image",
    ]
    assert group_issues(many[5:6]) == ["5.png has unknown ids: 5 px; map them"]
    assert group_issues([]) == []


def test_messages_end_with_one_period(opened, tmp_path):
    source, config = opened([full(0, 1)] * 2)
    for name in ("000.png", "001.png"):
        (tmp_path / "images/val" / name).write_bytes(b"no image")
    with pytest.raises(DataError, match="2 records ") as raised:
        checked((source, config))
    assert ".." not in str(raised.value).replace(" ...", "")
    assert re.search(r"[^.]\), 001\. [^.]*--mode=audit\.$", str(raised.value))


def test_default_palette_has_distinct_colors(make_folder_config, tmp_path):
    for count in (2, 3, 20, 60, 255):
        colors = np.array(distinct_colors(count)).astype(int)
        distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + 999 * np.eye(count)
        assert distances.min() >= (60 if count <= 60 else 30)
        assert np.linalg.norm(colors - 90, axis=-1).min() > 25, "ignored pixels are gray"
    config = make_folder_config(tmp_path, palette=())
    assert config.palette == distinct_colors(3) == distinct_colors(9)[:3]
    with pytest.raises(DataError, match=r"palette .*\b3\b"):
        make_folder_config(tmp_path, palette=((0, 0, 0),))


def test_absent_classes_are_reported(opened):
    source, config = opened([full(0, 2)])
    assert report_labels(audit_labels(source), config, "val", trains=True).absent_classes == "'b'"


REAL = {
    "camvid": table(CAMVID, list_file="{split}.txt"),
    "cityscapes_layout_camvid": table(
        CITYSCAPES,
        images="leftImg8bit/{split}",
        labels="gtFine/{split}",
        image_suffix="_leftImg8bit.png",
        label_suffix="_gtFine_labelIds.png",
    ),
    "lip_sample": table(LIP, images="{split}_images", labels="{split}_segmentations"),
    "ccp_parsing": {
        "images": "{split}_images",
        "labels": "{split}_segmentations",
        "classes": tuple(f"class {k}" for k in range(59)),
    },
    "voc_sample": {
        "images": "JPEGImages",
        "labels": "SegmentationClass",
        "classes": tuple(f"class {k}" for k in range(21)),
        "train_split": "val",
    },
}


@pytest.mark.parametrize("name", REAL)
def test_real_labels_raise_no_false_alarm(make_folder_config, name):
    fields = {"image_suffix": "", "label_suffix": "", "palette": ()} | REAL[name]
    config = make_folder_config(real(name), **fields)
    source = FolderSource(config, "val")
    stats, report = check_split_labels(source, config, "val", trains=True)
    assert (source.warnings, report.problems, report.warnings) == ((), (), ())
    full_stats = audit_labels(source)
    assert full_stats.problems == full_stats.warnings == []
    assert report_labels(full_stats, config, "val", trains=True).warnings == ()
    assert stats.records <= full_stats.records
