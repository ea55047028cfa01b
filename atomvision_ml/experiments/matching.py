"""A micrograph beside the simulated image of a crystal: same calibration, same lattice, aligned.

Belongs here: which crystals have the measured lattice, and the comparison of one with the pixels. The simulation is the
convolution approximation (:mod:`atomvision_ml.images.stem`): it knows Z contrast, not thickness, channelling or bright
field. The crystal is strained onto the measured lattice, so the score judges the motif, and the strain is told apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.experiments.distortion import affine_distortion, lattice_maps
from atomvision_ml.images.preprocess import detrend
from atomvision_ml.images.stem import Projection, View, render_batch

Array = NDArray[np.float64]

_PERIODS = 8
"""Periods of the longer vector that are compared: more would ask a drifting scan to be one lattice."""

_SMALLEST_PX = 64
_PIXELS_A_PERIOD = 16
_SAME = 1e-6


@dataclass(frozen=True)
class SimulatedMatch:
    """A part of a micrograph and its simulated counterpart.

    Attributes:
        similarity: correlation coefficient of the two, −1 to 1, at the best pose.
        measured: [y, x], the part of the image, detrended, of zero mean and unit variance.
        simulated: [y, x], the same of the simulation.
        pixel_size: edge of a pixel, in the unit of the micrograph.
        distortion: (2, 2) on columns (x, y): takes the crystal to the picture, rotation and mirror included.
        strains: principal stretches of it, less one.
    """

    similarity: float
    measured: Array
    simulated: Array
    pixel_size: float
    distortion: Array
    strains: tuple[float, float]


@dataclass(frozen=True)
class LatticeMatch:
    """A crystal whose cell is the measured one.

    Attributes:
        row: of the table it came from.
        scale: picture over crystal.
        anisotropy: largest over smallest principal stretch, less one.
    """

    row: Mapping[str, Any]
    scale: float
    anisotropy: float


def matching_cells(
    cell: ArrayLike,
    rows: Iterable[Mapping[str, Any]],
    *,
    largest_scale: float = 0.06,
    largest_anisotropy: float = 0.04,
    most: int = 10,
) -> list[LatticeMatch]:
    """Rows whose ``primitive_cell_angstrom`` is the measured cell up to scale and distortion of a scan, nearest first.

    Args:
        cell: (2, 2) rows, Å.
        rows: with ``primitive_cell_angstrom`` (4,); rows without one are left out.
        largest_scale: |scale − 1| of a pixel size that is believed.
        largest_anisotropy: of a scan.
        most: rows returned.
    """
    area = abs(np.linalg.det(np.asarray(cell, np.float64)))
    found = []
    for row in rows:
        if row["primitive_cell_angstrom"] is None:
            continue
        known = np.reshape(row["primitive_cell_angstrom"], (2, 2))
        if abs(np.sqrt(area / abs(np.linalg.det(known))) - 1) > largest_scale:
            continue
        distortion = affine_distortion(cell, known)
        if distortion.anisotropy <= largest_anisotropy:
            found.append(LatticeMatch(row, distortion.scale, distortion.anisotropy))
    return sorted(found, key=lambda each: np.hypot(np.log(each.scale), each.anisotropy))[:most]


def simulate_match(
    image: ArrayLike,
    pixel_size: float,
    cell: ArrayLike,
    crystal: Projection,
    *,
    sigma: float,
    is_dark: bool = False,
    largest_strain: float = 0.1,
) -> SimulatedMatch | None:
    """Simulate a crystal at a micrograph's calibration, in the pose that resembles it most.

    Every map of the crystal's lattice onto the measured one (rotations and mirrors that the lattice allows) is drawn;
    the shift is the maximum of the cross-correlation, by Fourier transforms.

    Args:
        image: [y, x], finite.
        pixel_size: edge of a pixel.
        cell: (2, 2) rows, measured reduced cell, in the unit of the pixel size.
        crystal: with two periods, Å.
        sigma: standard deviation of a column, in the unit of the pixel size.
        is_dark: the image has dark columns.
        largest_strain: largest principal strain of a map, wrong scale included.

    Returns:
        The best pose; None if the lattices differ by more than the strain.
    """
    measured_cell = np.asarray(cell, np.float64)
    part, pixel = _part(np.asarray(image), pixel_size, measured_cell)
    maps = list(_distinct(lattice_maps(measured_cell, crystal.periods_angstrom), largest_strain))
    best: tuple[float, Array, Array] | None = None
    for map_ in maps:
        drawn = Projection(crystal.positions_angstrom @ map_.T, crystal.weights, crystal.periods_angstrom @ map_.T)
        value, aligned = _aligned(part, drawn, pixel, max(sigma, 0.5 * pixel), -1.0 if is_dark else 1.0)
        if best is None or value > best[0]:
            best = value, aligned, map_
    if best is None:
        return None
    stretches = np.linalg.svd(best[2], compute_uv=False)
    return SimulatedMatch(best[0], part, best[1], pixel, best[2], (float(stretches[1] - 1), float(stretches[0] - 1)))


def _distinct(maps: Iterable[Array], largest_strain: float) -> Iterable[Array]:
    """Maps of small strain, each once; turns and mirrors that the lattice allows may make another motif."""
    kept: list[Array] = []
    for map_ in maps:
        high, low = np.linalg.svd(map_, compute_uv=False)
        if max(high - 1, 1 - low) > largest_strain or any(np.abs(map_ - other).max() < _SAME for other in kept):
            continue
        kept.append(map_)
        yield map_


def _part(values: NDArray[Any], pixel: float, cell: Array) -> tuple[Array, float]:
    """The square middle of some periods, binned to what a column needs, of zero mean and unit variance."""
    longest = float(np.linalg.norm(cell, axis=1).max())
    edge = int(np.clip(_PERIODS * longest / pixel, _SMALLEST_PX, min(values.shape)))
    edge = min(edge, min(values.shape))
    top, left = ((full - edge) // 2 for full in values.shape)
    part = detrend(values[top : top + edge, left : left + edge])
    shortest = float(np.linalg.norm(cell, axis=1).min())
    factor = max(1, min(int(shortest / _PIXELS_A_PERIOD / pixel), edge // _SMALLEST_PX))
    edge = edge // factor
    part = part[: edge * factor, : edge * factor].reshape(edge, factor, edge, factor).mean(axis=(1, 3))
    return _standard(part), pixel * factor


def _standard(values: Array) -> Array:
    spread = float(values.std())
    return (values - values.mean()) / (spread or 1.0)


def _aligned(part: Array, drawn: Projection, pixel: float, sigma: float, sign: float) -> tuple[float, Array]:
    """The largest correlation coefficient over all shifts of the crystal, and the crystal so shifted.

    The maximum of the circular correlation, under a window and within a cell, gives the shift; the crystal is then
    drawn anew there, because it is not periodic with the field.
    """

    def simulated(shift: tuple[float, float]) -> Array:
        image = render_batch([drawn], [View(pixel, len(part), 0.0, shift)], sigma_angstrom=sigma)[0]
        return _standard(sign * image.astype(float))

    window = np.outer(np.hanning(len(part)), np.hanning(len(part)))
    spectrum = np.fft.rfft2(part * window) * np.conj(np.fft.rfft2(simulated((0.0, 0.0))))
    cross = np.fft.irfft2(spectrum, part.shape)
    step = np.fft.fftfreq(len(part), 1 / len(part))
    reach = float(np.linalg.norm(drawn.periods_angstrom, axis=1).sum()) / pixel
    near = np.hypot(step[:, None], step[None, :]) <= max(reach, 1.0)
    row, column = (int(n) for n in np.unravel_index(int(np.argmax(np.where(near, cross, -np.inf))), cross.shape))
    y, x = step[row] + _vertex(cross[:, column], row), step[column] + _vertex(cross[row], column)
    image = simulated((float(x) * pixel, float(y) * pixel))
    return float((part * image).mean()), image


def _vertex(line: Array, peak: int) -> float:
    """Offset of a parabola's vertex from the maximum of a circular line."""
    before, here, after = line[peak - 1], line[peak], line[(peak + 1) % len(line)]
    bend = before - 2 * here + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
