"""Encodes PNG, EXIF and TIFF variants that Pillow and OpenCV do not write."""

import struct
import zlib

import numpy as np

UNDO = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}
"""Maps each EXIF orientation to the function from the upright to the stored image."""

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
"""Color types of PNG."""


def chunk(kind: bytes, body: bytes) -> bytes:
    """Returns a PNG chunk."""
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(
    values: np.ndarray, color: int, depth: int = 8, before: bytes = b"", after: bytes = b""
) -> bytes:
    """Returns a PNG of values `h w` or `h w c`, with extra chunks before and after the pixels."""
    height, width = values.shape[:2]
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        rows = [np.packbits(row.reshape(-1)).tobytes() for row in bits]
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"".join(
        [
            *(b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), before),
            *(chunk(b"IDAT", pixels), after, chunk(b"IEND", b"")),
        ]
    )


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """Returns EXIF data with only an orientation, of TIFF type SHORT (3) or LONG (4)."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + {3: "HH", 4: "I"}[kind], *([orientation, 0][: 5 - kind]))
    entry = struct.pack(f"{order}HHI", 274, kind, 1) + value
    start, end = struct.pack(f"{order}I", 8), struct.pack(f"{order}I", 0)
    return magic + start + struct.pack(f"{order}H", 1) + entry + end


def tiff(values: np.ndarray, **changes: int) -> bytes:
    """Returns an uncompressed TIFF of values `h w` or `h w c` of any dtype.

    Args:
      values: little endian.
      changes: tags by name: photometric (0: white is 0, 1, 2: RGB), extra (of the last channel: 0,
        1: premultiplied alpha, 2: alpha), orientation, planes (2: separate).
    """
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    bits, sample_format = 8 * values.dtype.itemsize, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    separate = changes.get("planes", 1) == 2
    data = (np.moveaxis(values, -1, 0) if separate else values).tobytes()
    strips = channels if separate else 1
    tags: dict[int, list[int]] = {
        **{256: [width], 257: [height], 258: [bits] * channels, 259: [1]},
        **{262: [changes.get("photometric", 1 if channels < 3 else 2)]},
        **{273: [0] * strips, 274: [changes.get("orientation", 1)], 277: [channels]},
        **{278: [height], 279: [len(data) // strips] * strips},
        **{284: [changes.get("planes", 1)], 339: [sample_format] * channels},
    }
    if "extra" in changes:
        tags[338] = [changes["extra"]]
    lists = sum(4 * len(v) for v in tags.values() if len(v) > 1)
    offset = 8 + 2 + 12 * len(tags) + 4
    first_strip = offset + lists
    tags[273] = [first_strip + n * (len(data) // strips) for n in range(strips)]
    entries, values_after = b"", b""
    for tag in sorted(tags):
        content = struct.pack(f"<{len(tags[tag])}I", *tags[tag])
        entries += struct.pack("<HHI", tag, 4, len(tags[tag]))
        if len(content) == 4:
            entries += content
        else:
            entries += struct.pack("<I", offset + len(values_after))
            values_after += content
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8) + directory + values_after + data
