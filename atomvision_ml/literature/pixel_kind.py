"""Whether pixels look like a micrograph or like a drawing (plot, scheme).

Belongs here: the decision by pixels alone. What the caption says is in :mod:`atomvision_ml.literature.modality`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

PixelKind = Literal["micrograph", "drawing"]

_WHITE = 235
"""Grey value from which a pixel is paper: what JPEG leaves of white."""

_LARGEST_PX = 400
"""Rows and columns looked at."""


def pixel_kind(image: np.ndarray) -> tuple[PixelKind, float]:
    """What an image looks like, and how sure that is.

    Drawings are strokes on white paper, which is also what lies at their border; the weights come from a logistic
    regression on drawn figures. Drawings on dark ground are taken for micrographs.

    Args:
        image: uint8 [y, x, 3].
    """
    from scipy.special import expit

    height, width = image.shape[:2]
    seen = image[:: -(-height // _LARGEST_PX), :: -(-width // _LARGEST_PX)]
    is_white = seen.min(axis=-1) >= _WHITE
    sides = (is_white[:2], is_white[-2:], is_white[:, :2], is_white[:, -2:])
    border = np.concatenate([side.ravel() for side in sides])
    drawing = float(expit(4.4 * is_white.mean() + 6.6 * border.mean() - 5.1))
    return ("drawing", drawing) if drawing > 0.5 else ("micrograph", 1 - drawing)
