"""The georeference of TIFFs, and GeoTIFFs of predictions (needs rasterio, from the extra `geo`)."""

import errno
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gsto_jax.drawing.tiles import Color
from gsto_jax.errors import UserError
from gsto_jax.image_files import ImageHeader
from gsto_jax.types import Size

INSTALL = "pip install 'gsto-jax[geo]'"
"""Command that installs rasterio."""
_TRANSFORM_TAGS = (33550, 34264)  # ModelPixelScale, ModelTransformation
_CACHE_BYTES = 2**26  # of GDAL, whose default is a twentieth of the memory


@dataclass(frozen=True)
class Georeference:
    """Where the pixels of a TIFF lie on the ground.

    Attributes:
      crs: coordinate reference system of rasterio; None if the file has none.
      transform: affine transform of rasterio from (column, row) to coordinates.
    """

    crs: Any
    transform: Any


def is_geotiff(header: ImageHeader) -> bool:
    """Returns whether a file has a georeference that upright pixels share."""
    tags = header.tags or {}
    return header.orientation == 1 and any(tag in tags for tag in _TRANSFORM_TAGS)


def has_rasterio() -> bool:
    """Returns whether rasterio is installed."""
    try:
        import rasterio  # noqa: F401
    except ImportError:
        return False
    return True


@contextmanager
def open_tiff(path: Path) -> Iterator[Any]:
    """Opens a TIFF as a dataset of rasterio; raises UserError if it is damaged."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with _environment():
        with tiff_errors(path), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            # No other driver, since some formats refer to further files.
            dataset = rasterio.open(path, driver="GTiff")
        with dataset:
            yield dataset


@contextmanager
def tiff_errors(path: Path) -> Iterator[None]:
    """Converts read errors of rasterio into a UserError that names the file."""
    from rasterio.errors import RasterioError

    try:
        yield
    except RasterioError as error:
        raise UserError(f"cannot read {path}: it is damaged ({error}); replace the file") from None


def _environment() -> Any:
    import rasterio

    return rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES)


def read_georeference(path: Path) -> Georeference:
    """Reads the georeference of a TIFF; raises UserError."""
    with open_tiff(path) as dataset:
        return Georeference(dataset.crs, dataset.transform)


class GeoTiffWriter:
    """Writes a GeoTIFF of uint8 strip by strip; a context manager.

    Args:
      path: path of the file.
      size: (h, w) of the image.
      bands: number of bands, 1 or 3.
      georeference: of the image.
      palette: RGB color of each value, of a single band; None for gray.
      scale: value of a pixel of 1, such as 1 / 255.
      nodata: value of pixels without a class; None for none.

    Raises:
      OSError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        size: Size,
        bands: int,
        georeference: Georeference,
        palette: Sequence[Color] | None = None,
        scale: float = 1.0,
        nodata: int | None = None,
    ) -> None:
        import rasterio

        self.path, self._checksum = path, 0
        self._starts = [0]
        with _environment():
            self._dataset = rasterio.open(
                path,
                "w",
                driver="GTiff",
                height=size[0],
                width=size[1],
                count=bands,
                dtype="uint8",
                crs=georeference.crs,
                transform=georeference.transform,
                nodata=nodata,
                compress="deflate",
                bigtiff="if_safer",
                **({"photometric": "rgb", "interleave": "pixel"} if bands == 3 else {}),
            )
            if palette is not None:
                self._dataset.write_colormap(1, dict(enumerate(palette)))
            if scale != 1:
                self._dataset.scales = [scale] * bands

    def __enter__(self) -> "GeoTiffWriter":
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        with _environment():
            self._dataset.close()
        if failure is None:
            self._check()

    def write(self, pixels: np.ndarray) -> None:
        """Appends rows `h w` or `h w 3` uint8."""
        height, width = pixels.shape[:2]
        bands = np.ascontiguousarray(pixels.reshape(height, width, -1).transpose(2, 0, 1))
        start = self._starts[-1]
        with _environment():
            self._dataset.write(bands, window=((start, start + height), (0, width)))
        self._starts.append(start + height)
        self._checksum = zlib.crc32(bands.data, self._checksum)

    def _check(self) -> None:
        # GDAL does not report a full disk, and reads missing rows as 0.
        checksum = 0
        try:
            with open_tiff(self.path) as dataset, tiff_errors(self.path):
                for start, stop in pairwise(self._starts):
                    window = (start, stop), (0, dataset.width)
                    checksum = zlib.crc32(dataset.read(window=window).data, checksum)
        except UserError:
            checksum = -1
        if checksum != self._checksum:
            raise OSError(errno.EIO, "its GeoTIFF is incomplete; the disk may be full")
