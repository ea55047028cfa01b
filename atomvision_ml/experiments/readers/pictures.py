"""PNG and JPEG: grey values only; everything else must come from the sidecar file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atomvision_ml.experiments.reading import (
    Picture,
    Reading,
    ReadLimits,
    UnreadableError,
    check_claim,
    collected,
    grey,
    plain,
)

_GREY_MODES = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B")


def read(path: Path, limits: ReadLimits) -> Reading:
    """The picture, if it is grey or all its channels are equal.

    Raises:
        UnreadableError: damaged, cut, coloured, or larger than the limits.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            check_claim((picture.height, picture.width), 4, path.stat().st_size, limits)
            header = plain({"format": picture.format, "mode": picture.mode, **_texts(picture.info)})
            lossy = ("JPEG: its values have been altered by compression",) if picture.format == "JPEG" else ()
            is_grey = picture.mode in _GREY_MODES
            pixels = np.asarray(picture if is_grey else picture.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableError(f"a damaged picture: {error}") from error
    shades = pixels if is_grey else grey(pixels)
    if shades is None:
        raise UnreadableError("a colour picture, not measured values")
    return collected([Picture(pixels=shades, header=header, warnings=lossy)], limits)


def _texts(info: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in info.items() if isinstance(value, str | int | float | tuple)}
