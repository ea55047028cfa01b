"""Classes of particle shapes that nobody named: a mixture of Gaussians over sizeless measures of shape.

Belongs here: measures and classes. The number of classes is that of the least Bayesian information criterion (Schwarz,
Ann. Stat. 6, 461 (1978)).
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

MEASURES = ("aspect_ratio", "circularity", "solidity", "extent")
_MOST_CLASSES = 6
_FEWEST_EACH = 12
"""Particles wanted for each class: a Gaussian of four measures has fourteen numbers."""
_LEAST_SPREAD = 0.02
"""Standard deviation, in the measures' own units, below which differences are those of pixels."""


def shape_classes(measures: ArrayLike, seed: int = 0) -> NDArray[np.str_]:
    """Class of each particle.

    Args:
        measures: (n, 4) values of `MEASURES`; the aspect ratio counts by its logarithm.
        seed: of the mixture's starts.

    Returns:
        (n,) letters, ``A`` the most frequent class; all ``A`` where there are too few particles to tell.

    Raises:
        ValueError: another number of columns, or values that are not finite.
    """
    from sklearn.mixture import GaussianMixture

    values = np.asarray(measures, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(MEASURES) or not np.isfinite(values).all():
        raise ValueError(f"shapes are finite rows of {', '.join(MEASURES)}; got shape {values.shape}")
    if not len(values):
        return np.array([], dtype="<U1")
    values = np.column_stack((np.log(values[:, 0]), values[:, 1:]))
    most = min(_MOST_CLASSES, len(values) // _FEWEST_EACH)
    if most < 2:
        return np.full(len(values), "A")
    mixtures = [
        GaussianMixture(count, reg_covar=_LEAST_SPREAD**2, n_init=4, random_state=seed).fit(values)
        for count in range(1, most + 1)
    ]
    found = min(mixtures, key=lambda mixture: mixture.bic(values)).predict(values)
    return _by_frequency(found)


def _by_frequency(found: Sequence[int] | NDArray[np.int64]) -> NDArray[np.str_]:
    numbers, inverse, counts = np.unique(found, return_inverse=True, return_counts=True)
    rank = np.empty(len(numbers), dtype=int)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(numbers))
    return np.array(list(string.ascii_uppercase))[rank[inverse]]
