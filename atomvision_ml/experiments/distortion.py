"""Distortion of scans: the affine part against a known lattice, jitter of lines, drift between frames.

Belongs here: what the instrument did to the picture of a crystal. One frame cannot tell steady drift from a wrong
scale: both are affine. What bends within the frame is in :mod:`.strain`.

Axes as everywhere: x along columns, the fast direction of a scan; y along rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.experiments.spot_lattice import propagated
from atomvision_ml.structures.lattice import as_cell, reduce_cell

Array = NDArray[np.float64]

_MIRROR = np.diag([1.0, -1.0])
_BASES = tuple(
    np.reshape(numbers, (2, 2))
    for numbers in itertools.product((-1, 0, 1), repeat=4)
    if abs(round(np.linalg.det(np.reshape(numbers, (2, 2))))) == 1
)
_TURN = 1e-6
"""How much a radian of rotation counts beside strain: only among equal strains."""

_ROWS = 3.0
"""Rows over which a line is compared with its neighbours (standard deviation of a Gaussian)."""

_ALONG_PX = 1.0
"""Smoothing along the line (standard deviation); neighbouring pixels' noise is then correlated."""

_ROUNDS, _LONGEST_STEP_PX = 3, 3.0
_FEWEST_ROWS = 16


@dataclass(frozen=True)
class Affine:
    """How the picture of a lattice differs from the lattice: x' = scale_x · x + …, y' = scale_y · y, after a rotation.

    Attributes:
        scale_x: picture over crystal along the fast direction.
        scale_y: the same along the slow one.
        shear_deg: lean of the slow axis towards x, in degrees: drift along x, or scan coils not at right angles.
        rotation_deg: of the crystal against its reference, counter-clockwise in (x, y).
        sigmas: standard uncertainties of the three, in this order.
    """

    scale_x: float
    scale_y: float
    shear_deg: float
    rotation_deg: float
    sigmas: tuple[float, float, float]

    @property
    def scale(self) -> float:
        """Mean scale; the pixel size divided by it would give the reference lattice its area."""
        return float(np.sqrt(self.scale_x * self.scale_y))

    @property
    def matrix(self) -> Array:
        """(2, 2) upper triangular matrix on columns (x, y)."""
        return np.array([[self.scale_x, np.tan(np.radians(self.shear_deg)) * self.scale_y], [0.0, self.scale_y]])

    @property
    def strains(self) -> tuple[float, float]:
        """Smallest and largest principal stretch, less one."""
        stretches = np.linalg.svd(self.matrix, compute_uv=False)
        return float(stretches[1] - 1), float(stretches[0] - 1)

    @property
    def anisotropy(self) -> float:
        """Largest over smallest principal stretch, less one: what is left when the scale is put right."""
        low, high = self.strains
        return (1 + high) / (1 + low) - 1


def affine_distortion(cell: ArrayLike, reference: ArrayLike, covariance: ArrayLike | None = None) -> Affine:
    """The smallest affine map from a reference lattice to a measured one, over all bases and both handednesses.

    Args:
        cell: (2, 2) rows, as measured.
        reference: (2, 2) rows, what the crystal has; in the same unit for meaningful scales.
        covariance: (4, 4) of the measured components; None for exact ones.

    Raises:
        ValueError: a cell is not finite or has no area.
    """
    measured = as_cell(cell)
    maps = (each if np.linalg.det(each) > 0 else each @ _MIRROR for each in lattice_maps(measured, reference))
    best = min(maps, key=_size)
    reference_basis = np.linalg.inv(best) @ measured.T

    def numbers(components: Array) -> Array:
        return _triangular(components.reshape(2, 2).T @ np.linalg.inv(reference_basis))

    spread = np.zeros((4, 4)) if covariance is None else np.asarray(covariance, np.float64)
    values, sigmas = propagated(numbers, measured.ravel(), spread)
    scale_x, scale_y, shear, rotation = (float(value) for value in values)
    return Affine(scale_x, scale_y, shear, rotation, (float(sigmas[0]), float(sigmas[1]), float(sigmas[2])))


def lattice_maps(cell: ArrayLike, reference: ArrayLike) -> list[Array]:
    """Linear maps (2, 2) on columns (x, y) that take a lattice to a measured one, for bases of small indices.

    Args:
        cell: (2, 2) rows, reduced.
        reference: (2, 2) rows, any basis.

    Returns:
        Maps of either handedness; those of small strain are among them.
    """
    measured, known = as_cell(cell), reduce_cell(reference)
    return [measured.T @ np.linalg.inv((basis @ known).T) for basis in _BASES]


def _size(map_: Array) -> float:
    """How far a map is from a rotation, scale and anisotropy together; of equal ones the least turned is smaller."""
    high, low = np.linalg.svd(map_, compute_uv=False)
    turn = abs(float(np.arctan2(map_[1, 0] - map_[0, 1], map_[0, 0] + map_[1, 1])))
    return float(np.hypot(np.log(high), np.log(low))) + _TURN * turn


def _triangular(map_: Array) -> Array:
    """scale_x, scale_y, shear (°) and rotation (°) of map = triangular · rotation."""
    from scipy.linalg import rq

    upper, rotation = rq(map_)
    signs = np.sign(np.diag(upper))
    upper, rotation = upper * signs, rotation * signs[:, None]
    shear = np.degrees(np.arctan2(upper[0, 1], upper[1, 1]))
    return np.array([upper[0, 0], upper[1, 1], shear, np.degrees(np.arctan2(rotation[1, 0], rotation[0, 0]))])


def line_jitter_px(image: ArrayLike) -> float:
    """Standard deviation (px) of the shifts of scan lines along x, against the mean of their neighbours.

    Each row is compared with the image smoothed along y: shift = Σ (row − smooth) ∂ₓsmooth / Σ (∂ₓsmooth)², by least
    squares, three times, as rows put in place give a sharper mean. The part that noise explains, judged by the rows'
    residuals, is taken off. Zero for fewer than 16 rows.

    Args:
        image: [y, x], finite.
    """
    from scipy.ndimage import gaussian_filter1d

    values = np.asarray(image, np.float32)
    if min(values.shape) < _FEWEST_ROWS:
        return 0.0
    rows = gaussian_filter1d(values, _ALONG_PX, axis=1, mode="nearest")
    place, shifts = np.arange(rows.shape[1]), np.zeros(len(rows))
    moved = rows
    for _ in range(_ROUNDS):
        step, of_noise = _shifts(moved)
        shifts += step
        moved = np.stack([np.interp(place + shift, place, row) for row, shift in zip(rows, shifts, strict=True)])
    return float(np.sqrt(max(float(shifts.var()) - of_noise, 0.0)))


def _shifts(rows: NDArray[np.floating]) -> tuple[Array, float]:
    """Shift (n,) of each row against its neighbours, and the median of the variances that noise gives them."""
    from scipy.ndimage import gaussian_filter1d

    smooth = gaussian_filter1d(rows, _ROWS, axis=0, mode="nearest")
    slope = np.gradient(smooth, axis=1).astype(np.float64)
    difference = (rows - smooth) / (1 - 1 / (_ROWS * np.sqrt(2 * np.pi)))
    information = (slope**2).sum(axis=1)
    least = 1e-3 * float(np.median(information))
    if not least > 0:
        return np.zeros(len(rows)), 0.0
    information = np.maximum(information, least)
    shifts = np.clip(-(difference * slope).sum(axis=1) / information, -_LONGEST_STEP_PX, _LONGEST_STEP_PX)
    left = difference + shifts[:, None] * slope
    # Smoothing makes the noise of neighbouring pixels alike: its power counts 2√π times its width.
    correlation = 2 * np.sqrt(np.pi) * _ALONG_PX
    return shifts, float(np.median(correlation * left.var(axis=1) / information))


def frame_drift_px(frames: Iterable[ArrayLike]) -> Array:
    """Displacement (n, 2) (x, y) in px of each frame against the first, summed from frame to frame.

    Cross-correlation of successive frames under a Hann window (scikit-image), to a tenth of a pixel. In a crystal a
    step of more than half a period is mistaken for a smaller one.

    Args:
        frames: images [y, x] of one shape; one after the other is held.

    Raises:
        ValueError: frames of different shapes.
    """
    from skimage.registration import phase_cross_correlation

    places, before = [np.zeros(2)], None
    for frame in frames:
        values = np.asarray(frame, np.float32)
        if before is not None and before.shape != values.shape:
            raise ValueError(f"frames of one field have one shape; got {before.shape} and {values.shape}")
        if before is not None:
            window = np.outer(*(np.hanning(edge) for edge in values.shape))
            pair = [(each - each.mean()) * window for each in (before, values)]
            shift, _, _ = phase_cross_correlation(*pair, upsample_factor=10, normalization=None)
            places.append(places[-1] - np.asarray(shift, np.float64)[::-1])
        before = values
    return np.array(places if before is not None else np.empty((0, 2)))
