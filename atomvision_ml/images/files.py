"""Files: images (png, tif, npy) to and from arrays [y, x], and structures of any format that ASE reads.

Belongs here: formats. What a simulation stores in numbers is in :mod:`atomvision_ml.images.stem_set`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atomvision_ml.workers import DAMAGE

if TYPE_CHECKING:
    import ase

SUFFIXES = (".png", ".tif", ".tiff", ".npy")

_ANGSTROM_PER_CM = 1e8


class StructureFileError(ValueError):
    """A structure cannot be read; the message names the file, the fault and the way out."""


class ImageFileError(ValueError):
    """An image cannot be read or written; the message names the file, the fault and the way out."""


def read_image(path: str | Path) -> np.ndarray:
    """An image as numbers.

    Colour is averaged to grey (equal weights, alpha left out); grey values keep their scale.

    Args:
        path: a .png, .tif, .tiff or .npy file.

    Returns:
        float64 [y, x].

    Raises:
        ImageFileError: missing, unreadable, of another format, not one image, empty or not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageFileError(f"{path}: no such file")
    pixels = _read(path)
    if pixels.ndim == 3 and pixels.shape[-1] in (3, 4) and path.suffix.lower() != ".npy":
        pixels = pixels[..., :3].mean(axis=-1)
    if pixels.ndim == 3 and 1 in (pixels.shape[0], pixels.shape[-1]):
        pixels = pixels[0] if pixels.shape[0] == 1 else pixels[..., 0]
    if pixels.ndim != 2 or pixels.size == 0:
        raise ImageFileError(f"{path}: holds an array of shape {pixels.shape}; one image [y, x] is wanted")
    if pixels.dtype.kind not in "biuf":
        raise ImageFileError(f"{path}: holds values of type {pixels.dtype}; numbers are wanted")
    pixels = pixels.astype(float)
    if not np.isfinite(pixels).all():
        raise ImageFileError(f"{path}: has values that are not finite (NaN or infinity)")
    return pixels


def _read(path: Path) -> np.ndarray:
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if suffix in (".tif", ".tiff"):
            import tifffile

            return tifffile.imread(path)
        if suffix == ".png":
            from PIL import Image

            with Image.open(path) as picture:
                if picture.mode in ("P", "PA", "LA", "CMYK"):
                    return np.asarray(picture.convert("RGB"))
                return np.asarray(picture)
    except DAMAGE as error:
        raise ImageFileError(f"{path}: cannot be read as {suffix}: {error}") from error
    raise ImageFileError(f"{path}: format {suffix or 'without a suffix'} is not one of {', '.join(SUFFIXES)}")


def write_image(path: str | Path, image: np.ndarray, pixel_size_angstrom: float) -> None:
    """Write an image; the suffix chooses the form.

    ``.png``: 8-bit, scaled to the image's range (a constant image is black). ``.npy``: the numbers in float. ``.tif``:
    float32 with the pixel size in the resolution tags (px per cm) and, as JSON, in the ImageDescription.

    Raises:
        ImageFileError: another suffix, not one image, or the file cannot be written.
    """
    path = Path(path)
    pixels = np.asarray(image)
    if pixels.ndim != 2:
        raise ImageFileError(f"{path}: one image [y, x] is wanted, not an array of shape {pixels.shape}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ImageFileError(f"{path}: format {suffix or 'without a suffix'} is not one of {', '.join(SUFFIXES)}")
    try:
        if suffix == ".npy":
            np.save(path, pixels)
        elif suffix == ".png":
            from PIL import Image

            Image.fromarray(eight_bit(pixels)).save(path)
        else:
            import tifffile

            resolution = _ANGSTROM_PER_CM / pixel_size_angstrom
            tifffile.imwrite(
                path,
                pixels.astype(np.float32),
                resolution=(resolution, resolution),
                resolutionunit="CENTIMETER",
                description=json.dumps({"pixel_size_angstrom": pixel_size_angstrom, "axes": "yx"}),
                metadata=None,
            )
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_pixel_size(path: str | Path) -> float | None:
    """Pixel size in Å of a TIFF file written by :func:`write_image`; None if the file does not tell."""
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        return None
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            told = json.loads(file.pages.first.description).get("pixel_size_angstrom")
    except (tifffile.TiffFileError, OSError, ValueError, AttributeError):
        return None
    return float(told) if isinstance(told, int | float) and told > 0 else None


def eight_bit(image: np.ndarray) -> np.ndarray:
    """uint8 [y, x], scaled from the image's minimum (0) to its maximum (255); a constant image is 0."""
    pixels = np.asarray(image, float)
    low, high = (pixels.min(), pixels.max()) if pixels.size else (0.0, 0.0)
    scaled = (pixels - low) / (high - low) if high > low else np.zeros(pixels.shape)
    return np.rint(255 * scaled).astype(np.uint8)


def read_structure(path: str | Path) -> ase.Atoms:
    """The last structure of a file of any format that ASE reads.

    Raises:
        StructureFileError: missing, of an unknown format, damaged, without atoms, or with unknown species.
    """
    from ase.io import ParseError, read
    from ase.io.formats import UnknownFileTypeError

    path = Path(path)
    if not path.is_file():
        raise StructureFileError(f"{path}: no such file")
    try:
        atoms = read(path)
    except UnknownFileTypeError as error:
        raise StructureFileError(
            f"{path}: ASE does not know this format ({error}); give a suffix such as .cif, .vasp, .xyz or .json"
        ) from error
    except (*DAMAGE, ParseError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StructureFileError(f"{path}: ASE cannot read this file: {reason}") from error
    if isinstance(atoms, list) or len(atoms) == 0:
        raise StructureFileError(f"{path}: holds no atoms")
    if not (np.isfinite(atoms.positions).all() and atoms.numbers.min() > 0):
        raise StructureFileError(f"{path}: has atoms of unknown species or positions that are not finite")
    return atoms
