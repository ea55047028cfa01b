"""Principal components of fields: the best linear code of a given size, and where the autoencoders begin.

Belongs here: the fit (scikit-learn) and its use on normalised fields.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Components:
    """Fitted principal components of fields of ``shape``.

    Attributes:
        shape: (y, x) of a field.
        middle: (pixels,) float32, mean field.
        components: (size, pixels) float32, orthonormal, those of most variance first.
        variances: (size,) float32, mean square of each coefficient, of fields that were not fitted.
        left_over: mean square per pixel of what they all leave out of those fields.
        n_fields: to how many fields they were fitted.
    """

    shape: tuple[int, int]
    middle: Floats
    components: Floats
    variances: Floats
    left_over: float
    n_fields: int

    def encode(self, fields: Floats, size: int) -> Floats:
        """Coefficients (n, size) of fields (n, y, x)."""
        flat: Floats = (fields.reshape(len(fields), -1) - self.middle).astype(np.float32)
        return flat @ self.components[:size].T

    def decode(self, latent: Floats, noise: NDArray[np.float64] | None = None) -> Floats:
        """Fields (n, y, x) of coefficients (n, size).

        Args:
            latent: coefficients.
            noise: (n,) variance of the noise in each coefficient; given, coefficients are shrunk by
                variance / (variance + noise), the linear estimate of least mean squared error (Wiener).
        """
        size = latent.shape[1]
        if noise is not None:
            variances = self.variances[:size]
            latent = latent * (variances / (variances + noise[:, None])).astype(np.float32)
        return (self.middle + latent @ self.components[:size]).reshape(len(latent), *self.shape)


def fit_components(fields: Floats, others: Floats, size: int, seed: int = 0) -> Components:
    """The first ``size`` principal components of fields (n, y, x), by randomised subspace iteration.

    The variances are those of ``others``: among the last components of a thousand, those of the fields that were fitted
    are smaller by orders of magnitude.

    Halko, Martinsson, Tropp, arXiv:0909.4061; implementation: scikit-learn.

    Raises:
        ValueError: fewer fields or pixels than components.
    """
    from sklearn.decomposition import PCA

    flat = fields.reshape(len(fields), -1)
    if size > min(flat.shape):
        raise ValueError(f"{size} components cannot be fitted to {flat.shape[0]} fields of {flat.shape[1]} pixels")
    fitted = PCA(size, svd_solver="randomized", iterated_power=2, random_state=seed % 2**32).fit(flat)
    middle, components = fitted.mean_.astype(np.float32), fitted.components_.astype(np.float32)
    apart = others.reshape(len(others), -1) - middle
    coefficients = apart @ components.T
    return Components(
        shape=(fields.shape[1], fields.shape[2]),
        middle=middle,
        components=components,
        variances=(coefficients.astype(float) ** 2).mean(axis=0).astype(np.float32),
        left_over=float(((apart - coefficients @ components).astype(float) ** 2).mean()),
        n_fields=len(fields),
    )
