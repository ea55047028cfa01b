"""Atomic columns of a micrograph in a few seconds: bright spots, each fitted by a Gaussian on a flat background.

Belongs here: a quick look, bounded in time and memory whatever the size. The joint fit of all atoms
(:mod:`atomvision_ml.models.atom_finder`) resolves neighbours that overlap; this does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.images.atoms import laplacian_of_gaussian_atoms
from atomvision_ml.images.preprocess import detrend

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

Array = NDArray[np.float64]

_ROUNDS = 8
_REACH_SIGMAS = 1.8
_CHUNK = 20_000
_MOST_CLASSES = 4
_APART = 2.0
_SMALLEST_SHARE = 0.03
_FEWEST_FOR_CLASSES = 24


@dataclass(frozen=True)
class SpotColumns:
    """Columns of an image, in pixels.

    Attributes:
        positions: (n, 2) x and y.
        position_sigmas: (n,) standard uncertainty along one axis, from each fit's residual.
        intensities: (n,) integral above the local background, in values of the image times px².
        backgrounds: (n,) local background, of the detrended image.
        sigma: of the fitted Gaussian, one for all.
        elongation: largest over smallest width of the mean column, less one; 0 is round.
        elongation_deg: direction of the larger width, from x towards y.
        classes: (n,) group of intensity, 0 the brightest; all 0 where one group is enough.
        class_intensities: mean of each group.
    """

    positions: Array
    position_sigmas: Array
    intensities: Array
    backgrounds: Array
    sigma: float
    elongation: float
    elongation_deg: float
    classes: NDArray[np.int64]
    class_intensities: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.positions)


def find_columns(image: ArrayLike, sigma_px: float, *, relative_threshold: float = 0.2) -> SpotColumns:
    """Bright columns of an image.

    Blobs of a Laplacian of Gaussian start a Gauss-Newton fit of position, height and background in a window of 1.8 σ
    about each. Fits that leave their window or turn negative are dropped, as are columns whose window leaves the image.

    Args:
        image: [y, x], finite.
        sigma_px: standard deviation of a column, about; the mean column then gives its own.
        relative_threshold: least response of a blob, as a share of the largest.

    Raises:
        ValueError: the image is not [y, x] or not finite, or the width is not positive.
    """
    if not sigma_px > 0:
        raise ValueError(f"sigma_px must be positive, not {sigma_px}")
    flat = detrend(image)
    if flat.std() <= 1e-9 * np.abs(np.asarray(image)).max():
        flat = np.zeros_like(flat)
    blobs = laplacian_of_gaussian_atoms(
        flat, 1.0, sigma_angstrom=sigma_px, relative_threshold=relative_threshold, distance_angstrom=1.5 * sigma_px
    )
    width, long, short, angle = _mean_column(flat, blobs[:, :2], sigma_px)
    parts = [_fitted(flat, blobs[start : start + _CHUNK, :2], width) for start in range(0, len(blobs), _CHUNK)]
    found = np.concatenate(parts) if parts else np.zeros((0, 5))
    found = found[np.lexsort((found[:, 0], found[:, 1]))]
    intensities = found[:, 2] * 2 * np.pi * width**2
    classes, levels = intensity_classes(intensities)
    elongation = long / short - 1 if short > 0 else 0.0
    return SpotColumns(found[:, :2], found[:, 4], intensities, found[:, 3], width, elongation, angle, classes, levels)


def intensity_classes(intensities: ArrayLike) -> tuple[NDArray[np.int64], tuple[float, ...]]:
    """Groups of columns by intensity: a mixture of up to four Gaussians that stand apart, by Schwarz's criterion.

    Args:
        intensities: (n,); fewer than 24 are one group.

    Returns:
        Group (n,) of each, 0 the brightest, and the groups' mean intensities.
    """
    from sklearn.mixture import GaussianMixture

    values = np.asarray(intensities, np.float64)
    if len(values) < _FEWEST_FOR_CLASSES or np.ptp(values) == 0:
        return np.zeros(len(values), np.int64), tuple([float(values.mean())] if len(values) else [])
    scaled = ((values - values.mean()) / values.std())[:, None]
    models = [GaussianMixture(count, random_state=0).fit(scaled) for count in range(1, _MOST_CLASSES + 1)]
    best = min((model for model in models if _is_divided(model)), key=lambda model: model.bic(scaled))
    order = np.argsort(-best.means_[:, 0])
    members = np.argsort(order)[best.predict(scaled)]
    levels = best.means_[order, 0] * values.std() + values.mean()
    return members.astype(np.int64), tuple(float(level) for level in levels)


def _is_divided(model: GaussianMixture) -> bool:
    """Whether neighbouring parts of a mixture stand apart: D = √2 |Δμ| / √(σ₁² + σ₂²) > 2 (Ashman et al., 1994)."""
    order = np.argsort(model.means_[:, 0])
    means, variances = model.means_[order, 0], model.covariances_[order, 0, 0]
    is_apart = np.diff(means) * np.sqrt(2) > _APART * np.sqrt(variances[1:] + variances[:-1])
    return bool(is_apart.all() and model.weights_.min() > _SMALLEST_SHARE)


def _windows(flat: Array, centres: Array, half: int) -> tuple[Array, Array, Array]:
    """Pixels (n, w, w) about the nearest pixels, and these pixels' x and y (n,)."""
    x, y = np.rint(centres).astype(int).T
    steps = np.arange(-half, half + 1)
    rows = np.clip(y[:, None] + steps, 0, flat.shape[0] - 1)
    columns = np.clip(x[:, None] + steps, 0, flat.shape[1] - 1)
    return flat[rows[:, :, None], columns[:, None, :]], x.astype(float), y.astype(float)


def _mean_column(flat: Array, centres: Array, sigma: float) -> tuple[float, float, float, float]:
    """Width of the mean column, its largest and smallest width (px) and the direction of the largest (°)."""
    from scipy.optimize import least_squares

    half = max(2, int(np.ceil(_REACH_SIGMAS * sigma)))
    inside = np.all((centres > half) & (centres < np.array(flat.shape)[::-1] - 1 - half), axis=1)
    if not inside.any():
        return sigma, sigma, sigma, 0.0
    mean = _windows(flat, centres[inside][:4096], half)[0].mean(axis=0)
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(float)

    def residual(p: Array) -> Array:
        form = p[2] * (x - p[0]) ** 2 + 2 * p[3] * (x - p[0]) * (y - p[1]) + p[4] * (y - p[1]) ** 2
        return np.asarray((p[5] * np.exp(-0.5 * np.clip(form, -50, 50)) + p[6] - mean).ravel())

    start = [0, 0, sigma**-2, 0, sigma**-2, np.ptp(mean), mean.min()]
    p = least_squares(residual, start, max_nfev=60).x
    values, vectors = np.linalg.eigh([[p[2], p[3]], [p[3], p[4]]])
    if values[0] <= 0 or not 0.4 * sigma < (values.prod()) ** -0.25 < 2.5 * sigma:
        return sigma, sigma, sigma, 0.0
    long, short = values[0] ** -0.5, values[1] ** -0.5
    direction = vectors[:, 0] * (np.sign(vectors[0, 0]) or 1.0)
    # Positions of single blobs scatter by whole pixels: the mean column is blurred by 1/12 px² along each axis.
    blur = 1 / 12
    long, short = (float(np.sqrt(max(width**2 - blur, 0.25 * width**2))) for width in (long, short))
    return float(np.sqrt(long * short)), long, short, float(np.degrees(np.arctan2(direction[1], direction[0])))


def _fitted(flat: Array, centres: Array, sigma: float) -> Array:
    """(m, 5): x, y, height, background, σ of the position of each window whose fit holds."""
    half = max(2, int(np.ceil(_REACH_SIGMAS * sigma)))
    pixels, x0, y0 = _windows(flat, centres, half)
    steps = np.arange(-half, half + 1, dtype=float)
    place = centres - np.stack([x0, y0], axis=1)
    data = pixels.reshape(len(pixels), -1)
    for _ in range(_ROUNDS):
        basis = _basis(place, steps, sigma)
        normal = basis @ basis.transpose(0, 2, 1)
        normal[:, np.arange(4), np.arange(4)] *= 1 + 1e-9
        solved = np.linalg.solve(normal + 1e-12 * np.eye(4), (basis @ data[:, :, None]))[..., 0]
        height = solved[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            move = np.nan_to_num(solved[:, 1:3] / height[:, None])
        place = np.clip(place + np.clip(move, -0.5 * sigma, 0.5 * sigma), -half, half)
    left = data - (solved[:, None, :] @ basis)[:, 0]
    variance = (left**2).sum(axis=1) / max(data.shape[1] - 4, 1)
    inverse = np.linalg.inv(normal + 1e-12 * np.eye(4))
    sigmas = np.sqrt(variance * (inverse[:, 1, 1] + inverse[:, 2, 2]) / 2) / np.maximum(np.abs(height), 1e-300)
    last = np.array(flat.shape)[::-1] - 1 - half
    found = place + np.stack([x0, y0], axis=1)
    holds = (height > 0) & np.all(np.abs(place) < half, axis=1) & np.all((found >= half) & (found <= last), axis=1)
    return np.column_stack([found, height, solved[:, 3], sigmas])[holds]


def _basis(place: Array, steps: Array, sigma: float) -> Array:
    """(n, 4, pixels): the Gaussian at the place, its derivatives by x and y, and a constant."""
    x, y = (steps[None, :] - place[:, axis, None] for axis in (0, 1))
    bell = np.exp(-0.5 * (x[:, None, :] ** 2 + y[:, :, None] ** 2) / sigma**2)
    by_x, by_y = bell * x[:, None, :] / sigma**2, bell * y[:, :, None] / sigma**2
    parts = np.stack([bell, by_x, by_y, np.ones_like(bell)], axis=1)
    return parts.reshape(len(place), 4, -1)
