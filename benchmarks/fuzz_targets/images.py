"""Fuzz targets of images and label images."""

import io
import random
import struct
import zlib
from pathlib import Path

from benchmarks.fuzz_targets.mutation import Target, check_message, mutate


def _encode_png(
    width: int, height: int, depth: int, kind: int, pixels: bytes, extra: bytes = b""
) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + check

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


def _mutate_image(seed: bytes, rng: random.Random) -> bytes:
    if not seed.startswith(b"\x89PNG") or rng.random() < 0.3:
        # The headers of all formats hold the size.
        return mutate(seed[:64], rng) + seed[64:]
    side = lambda: rng.choice((0, 1, 6, 40, 2**14, 2**16, 2**20, 2**31 - 1, 2**32 - 1))  # noqa: E731
    depth, kind = rng.choice((1, 2, 4, 8, 16, 3)), rng.choice((0, 2, 3, 4, 6, 1))
    extra = b""
    if rng.random() < 0.3:
        bomb = zlib.compress(bytes(2**24))
        body = rng.choice((b"Comment\0\0", b"ICC\0\0")) + bomb
        name = b"zTXt" if body.startswith(b"C") else b"iCCP"
        extra = (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )
    return _encode_png(side(), side(), depth, kind, rng.randbytes(rng.randrange(200)), extra)


def image_target() -> Target:
    """Images of many formats, parsed by all readers of images."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    seeds = []
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000"):
        for mode in ("RGB", "L"):
            file = io.BytesIO()
            Image.fromarray(pixels).convert(mode).save(file, kind)
            seeds.append(file.getvalue())
    for image in (
        Image.fromarray(pixels).convert("P"),
        Image.fromarray(pixels).convert("RGBA"),
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 200),
        Image.fromarray(pixels[..., 0].astype(np.float32)),
    ):
        file = io.BytesIO()
        image.save(file, "TIFF" if image.mode == "F" else "PNG")
        seeds.append(file.getvalue())

    def parse(data: bytes, folder: Path) -> None:
        from data_pipelines.files.images import (
            decode_colors,
            decode_image,
            decode_label,
            read_image_header,
            verify_image,
        )
        from gsto_jax.image_files import DecodeOptions
        from gsto_jax.predict import media

        path, options = folder / "image.png", DecodeOptions()
        path.write_bytes(data)
        errors = []
        for reader in (
            lambda: decode_image(data, str(path), options),
            lambda: read_image_header(path, str(path)),
            lambda: verify_image(data, str(path)),
            lambda: decode_label(data, str(path), options),
            lambda: decode_colors(data, str(path), options),
            lambda: media.read_image(path),
            lambda: media.read_image_header(path),
        ):
            try:
                reader()
            except ValueError as error:
                check_message(error, "image.png")
                errors.append(error)
        if errors:
            raise errors[0]

    return Target.from_seeds(seeds, _mutate_image, parse)


def label_target() -> Target:
    """Label images of a folder dataset, with ids out of range among them."""
    import cv2
    import numpy as np

    image = cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes()
    ids = np.array([[0, 1, 2, 255, 1, 0]] * 4, np.uint8)
    seeds = [cv2.imencode(".png", x)[1].tobytes() for x in (ids, ids.astype(np.uint16) * 100)]
    seeds.append(
        _encode_png(6, 4, 4, 0, b"".join(b"\0" + bytes([0x12, 0x01, 0x20]) for _ in range(4)))
    )

    def mutate_structure(seed: bytes, rng: random.Random) -> bytes:
        depth = rng.choice((1, 2, 4, 8, 16))
        width, height = rng.choice((6, 6, 6, 5)), rng.choice((4, 4, 4, 3))
        rows = [b"\0" + rng.randbytes(-(-width * depth // 8)) for _ in range(height)]
        return _encode_png(width, height, depth, rng.choice((0, 0, 3)), b"".join(rows))

    def parse(data: bytes, folder: Path) -> None:
        from dataclasses import replace

        from data_pipelines import DataConfig, make_source

        for name, content in (("images/val/a.png", image), ("labels/val/a.png", data)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        config = DataConfig(
            source="folder",
            root=str(folder),
            images="images/{split}",
            labels="labels/{split}",
            image_suffix=".png",
            label_suffix=".png",
            classes=("a", "b", "c"),
            palette=((0, 0, 0), (1, 1, 1), (2, 2, 2)),
            crop=(4, 6),
        )
        colors = replace(config, label_encoding="colors", color_tolerance=60)
        for encoding in (colors, config):
            source = make_source(encoding, "val")
            source.inspect(0)
            try:
                label = source[0]["label"]
            except ValueError as error:
                check_message(error, "a.png")
                if encoding is config:
                    raise
            else:
                assert label.dtype == np.uint8 and set(np.unique(label)) <= {0, 1, 2, 255}

    return Target.from_seeds(seeds, mutate_structure, parse)
