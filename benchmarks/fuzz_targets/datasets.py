"""Fuzz targets of downloads and prepared datasets."""

import base64
import io
import json
import random
import struct
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

from benchmarks.fuzz_targets.mutation import (
    Target,
    check_message,
    mutate,
    mutated_json,
    random_bytes,
)


def tiles_target() -> Target:
    """Images in tiles."""
    import numpy as np

    from data_pipelines.files.tiles import encode_tiles

    pixels = np.random.default_rng(0).integers(0, 9, (40, 50, 3), np.uint8)
    seeds = [encode_tiles(pixels, 16), encode_tiles(pixels[..., 0], 16)]

    def mutate_structure(seed: bytes, rng: random.Random) -> bytes:
        import zstandard

        side = lambda: rng.choice((0, 1, 16, 40, 2**14, 2**16, 2**31, 2**32 - 1))  # noqa: E731
        if rng.random() < 0.5:
            head = struct.pack("<4sIIHH", b"GTL1", side(), side(), side() % 2**16, side() % 2**16)
            return head + seed[16:]
        # One tile of another size than the header says.
        packed = zstandard.compress(bytes(rng.choice((0, 767, 768, 769, 2**27))))
        if rng.random() < 0.3:
            packed = mutate(packed, rng)
        head = struct.pack("<4sIIHH", b"GTL1", 16, 16, 3, 16)
        return head + struct.pack("<I", len(packed)) + packed

    def parse(data: bytes, folder: Path) -> None:
        from data_pipelines.files.tiles import Tiles

        try:
            tiles = Tiles(data, "the image x")
            tiles[2:9, 3:30]
            np.asarray(tiles)
        except ValueError as error:
            check_message(error, "the image x")
            raise

    return Target.from_seeds(seeds, mutate_structure, parse)


def _labels(name: str) -> dict[str, Any]:
    """Returns the data options that name the classes or joints of a prepared dataset."""
    from data_pipelines import CITYSCAPES, COCO_KEYPOINTS

    if name == "coco_keypoints":
        keypoints = {"names": COCO_KEYPOINTS.names, "sigmas": COCO_KEYPOINTS.sigmas}
        return {"classes": (), "palette": (), "keypoints": keypoints}
    names, palette, id_map = CITYSCAPES.names, CITYSCAPES.palette, CITYSCAPES.id_map
    return {"classes": names, "palette": palette, "id_map": id_map}


def prepared_target(name: str, storage: str) -> Target:
    """A prepared dataset with one mutated file, parsed by its source."""
    from data_pipelines import DataConfig
    from data_pipelines.builders import BUILDERS, prepare
    from tests.data_pipelines import downloads_trees as trees

    with tempfile.TemporaryDirectory() as temporary:
        tree = {"cityscapes": trees.cityscapes_files, "coco_keypoints": trees.coco_files}[name]()
        source = trees.write_tree(Path(temporary) / "downloads", tree)
        final = prepare(
            BUILDERS[name](), source, Path(temporary) / "sets", storage=storage, partial=True
        )
        files = {path.name: path.read_bytes() for path in final.iterdir() if path.is_file()}
    labels = _labels(name)
    parsed_files = [
        key for key in files if "plan" not in key and "train" not in key and key != ".lock"
    ]

    def generate(rng: random.Random) -> bytes:
        key = rng.choice(parsed_files)
        data = files[key]
        if key.endswith(".json") and rng.random() < 0.7:
            data = mutated_json(json.loads(data), rng)
        elif key.startswith("names") and rng.random() < 0.5:
            names = [rng.choice((b"a", b"../x", b"/x", b"", b"\xff")) for _ in range(3)]
            data = b"\n".join(names) + b"\n"
        else:
            data = mutate(data, rng) if rng.random() < 0.9 else random_bytes(rng)
        return json.dumps([key, base64.b64encode(data).decode()]).encode()

    def parse(data: bytes, folder: Path) -> None:
        import numpy as np

        from data_pipelines import make_source

        key, text = json.loads(data)
        version = folder / name / "1.0.0"
        version.mkdir(parents=True)
        for other, content in (files | {key: base64.b64decode(text)}).items():
            (version / other).write_bytes(content)
        config = DataConfig(source="tfds", root=str(folder), name=name, crop=(24, 32), **labels)
        source = make_source(config, "val")
        for index in range(len(source)):
            path = source.name(index)
            assert ".." not in path.split("/") and not path.startswith("/")
            source.inspect(index)
            source.size(index)
            for value in source[index].values():
                np.asarray(value)

    return Target(generate, parse)


def _random_archive(rng: random.Random) -> tuple[str, bytes]:
    """Returns the suffix and the bytes of an archive."""
    names = ["a.png", "b/c.txt", "../x", "/etc/x", "b/../../x"]
    names += ["..\\x", "inner.zip", "inner.tar.gz"]
    members = rng.sample(names, rng.randrange(1, 4)) if rng.random() < 0.5 else names[:2]
    is_bomb = rng.random() < 0.05
    content = lambda: bytes(2**27) if is_bomb else rng.randbytes(30)  # noqa: E731
    out = io.BytesIO()
    kind = rng.choice((".zip", ".tar", ".tar.gz"))
    if kind == ".zip":
        deflate = zipfile.ZIP_DEFLATED
        compression = rng.choice((*[deflate] * 6, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2))
        with zipfile.ZipFile(out, "w", compression, compresslevel=1) as archive:
            for name in members:
                archive.writestr(name, content())
    else:
        with tarfile.open(
            fileobj=out,
            mode="w:gz" if kind == ".tar.gz" else "w",
            **({"compresslevel": 1} if kind == ".tar.gz" else {}),
        ) as tar:
            for name in members[: 1 if is_bomb else None]:
                info, data = tarfile.TarInfo(name), content()
                info.size = len(data)
                if rng.random() < 0.2:
                    info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
                tar.addfile(info, io.BytesIO(data))
    return kind, out.getvalue()


def archive_target() -> Target:
    """Zip and tar archives with mutated headers, path traversal, links, and bombs."""

    def generate(rng: random.Random) -> bytes:
        kind, data = _random_archive(rng)
        if rng.random() < 0.6:
            only_header = rng.random() < 0.5 and kind == ".tar"
            data = mutate(data[:512], rng) + data[512:] if only_header else mutate(data, rng)
        return json.dumps([kind, base64.b64encode(zlib.compress(data, 1)).decode()]).encode()

    def parse(data: bytes, folder: Path) -> None:
        from data_pipelines import DataError
        from data_pipelines.files.archives import Downloads

        kind, text = json.loads(data)
        archives = folder / "downloads"
        archives.mkdir()
        (archives / f"archive{kind}").write_bytes(zlib.decompress(base64.b64decode(text)))
        with Downloads(archives, folder) as downloads:
            for name in downloads.names:
                assert not name.startswith("/") and ".." not in name.split("/"), name
                downloads.read(name)
            if downloads.broken:
                raise DataError(downloads.broken[0])

    return Target(generate, parse)


def mat_target() -> Target:
    """Label maps in MATLAB files."""
    import numpy as np
    import scipy.io

    from tests.data_pipelines.downloads_trees import mat

    ids = np.arange(24, dtype=np.uint16).reshape(4, 6)
    plain = io.BytesIO()
    scipy.io.savemat(plain, {"LabelMap": ids, "other": [[1, 2], "x"]})
    seeds, bomb = [mat(ids), plain.getvalue()], zlib.compress(bytes(2**28), 1)

    def mutate_structure(seed: bytes, rng: random.Random) -> bytes:
        part = zlib.compress(mutate(plain.getvalue()[128:], rng), 1)
        if rng.random() < 0.05:
            part = bomb
        return plain.getvalue()[:128] + struct.pack("<II", 15, len(part)) + part

    def parse(data: bytes, folder: Path) -> None:
        from data_pipelines.files.matlab import read_mat

        try:
            np.asarray(read_mat(data, "LabelMap"))
        except ValueError as error:
            from data_pipelines import DataError

            raise DataError(str(error)) from None  # as in the builder of Pascal Context

    return Target.from_seeds(seeds, mutate_structure, parse)
