"""What the commands that are given an image file share: its pixels, and the size of them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from atomvision_ml.experiments.record import Record
    from atomvision_ml.experiments.worker import FileReader

_UNEVEN = 0.05


def captured(file: Path, number: int, reader: FileReader) -> tuple[Record, np.ndarray]:
    """Record and pixels ([y, x] or [frame, y, x], as in the file) of an image of a microscope's file.

    Args:
        file: of any format that the inbox takes.
        number: which image of the file, from 0.
        reader: the worker that opens it.

    Raises:
        RejectedError: the file is not taken.
        ProfileError: the folder that the settings name has a file that is no profile.
        SidecarError: its sidecar file cannot be used.
        ValueError: it has no such image.
    """
    import numpy as np

    from atomvision_ml.experiments.capture import capture
    from atomvision_ml.experiments.profiles import load_profiles
    from atomvision_ml.settings import settings

    with tempfile.TemporaryDirectory() as folder:
        found = capture(file, folder, reader, load_profiles(settings().profiles_folder()))
        if number >= len(found.records):
            raise ValueError(f"has {len(found.records)} images, so no image {number}")
        return found.records[number], np.array(found.pixels[number])


def pixel_size_xy(record: Record, given: float | None) -> tuple[float, float] | None:
    """Edges of a pixel in Å along x and y: the given one, else the record's; None where neither is known."""
    if given is not None:
        return (given, given)
    if record.pixel_size_x_nm is None or record.pixel_size_y_nm is None:
        return None
    return (10 * record.pixel_size_x_nm, 10 * record.pixel_size_y_nm)


def image_and_pixel_size(
    file: Path, pixel_size_angstrom: float | None, number: int, reader: FileReader
) -> tuple[np.ndarray, float]:
    """An image [y, x] and the edge of its pixels in Å.

    Arrays (npy), and pictures (png, tif) of a stated pixel size, are read as they are; everything else is read and
    checked as by ``atomvision look``, frames averaged, and tells its own calibration unless another one is given.

    Args:
        file: an image file.
        pixel_size_angstrom: edge of a pixel in Å; None for what the file says.
        number: which image of the file, from 0.
        reader: the worker that opens files of microscopes.

    Raises:
        ValueError: not readable, no such image, no pixel size, or pixels that are not square; the message says which.
    """
    from atomvision_ml.experiments.micrograph_store import measured_image
    from atomvision_ml.experiments.worker import RejectedError
    from atomvision_ml.images.files import SUFFIXES, read_image

    suffix = file.suffix.lower()
    if suffix == ".npy" and pixel_size_angstrom is None:
        raise ValueError(f"{file}: {_NO_SIZE}")
    if pixel_size_angstrom is not None and suffix in SUFFIXES and number == 0:
        return read_image(file), pixel_size_angstrom
    try:
        record, pixels = captured(file, number, reader)
        size = _edge(record, pixel_size_angstrom)
    except RejectedError as error:
        raise ValueError(f"{file}: {error.reason}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return measured_image(pixels, record.model_dump()).astype(float), size


_NO_SIZE = "does not tell the size of its pixels; give --pixel-size-angstrom"


def _edge(record: Record, given: float | None) -> float:
    """One edge for both axes."""
    size = pixel_size_xy(record, given)
    if size is None:
        raise ValueError(_NO_SIZE)
    x, y = size
    if abs(y / x - 1) > _UNEVEN:
        raise ValueError(f"its pixels are not square: {x:.4g} × {y:.4g} Å; resample it, or give --pixel-size-angstrom")
    return float((x * y) ** 0.5)
