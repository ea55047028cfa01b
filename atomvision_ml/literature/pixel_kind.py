"""Whether pixels look like a micrograph or like a drawing (plot, scheme).

Belongs here: the decision by pixels alone. What the caption says is in :mod:`atomvision_ml.literature.modality`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

PixelKind = Literal["micrograph", "drawing"]

_FLAT = 3
"""Largest step between neighbours, in grey values, of a flat place: what JPEG leaves there."""


def pixel_kind(image: np.ndarray) -> tuple[PixelKind, float]:
    """What an image looks like, and how sure that is.

    Drawings are strokes on one flat colour; micrographs vary everywhere, or smoothly.

    Args:
        image: uint8 [y, x, 3].
    """
    from scipy.special import expit

    grey = image[:: max(1, image.shape[0] // 400), :: max(1, image.shape[1] // 400)].mean(axis=-1)
    values, counts = np.unique(np.rint(grey / 4), return_counts=True)
    commonest = counts.max() / counts.sum()
    extreme = float(min(4 * values[counts.argmax()], 255 - 4 * values[counts.argmax()])) / 255
    steps = np.abs(np.diff(grey, axis=1)) if grey.shape[1] > 1 else np.zeros(1)
    flat = float((steps <= _FLAT).mean())
    evidence = float(expit(10 * (commonest - 0.4) + 4 * (flat - 0.6) - 6 * extreme))
    return ("drawing", evidence) if evidence > 0.5 else ("micrograph", 1 - evidence)
