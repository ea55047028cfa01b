"""Figures as functions of sums over items: small helpers that every task's figures share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Figures = dict[str, Floats]
Evaluate = Callable[[Figures], Figures]
"""From sums (b, ...) by name to metrics (b,) by name."""


def ratio(top: Floats, bottom: Floats) -> Floats:
    """NaN where there is nothing to divide by."""
    return np.divide(top, bottom, out=np.full(np.broadcast(top, bottom).shape, np.nan), where=bottom > 0)


def mean_of_known(values: Floats) -> Floats:
    """Mean along axis 1 over what is not NaN."""
    known = np.isfinite(values)
    return ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1).astype(float))
