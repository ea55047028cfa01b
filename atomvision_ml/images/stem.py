"""STEM images in the convolution approximation: I(r) = Σ_j Z_j^p · G_σ(r − r_j), G_σ a normalised 2D Gaussian.

Belongs here: the image kernels and their parameters. What the detector does to an image is in
:mod:`atomvision_ml.images.detector`; files, masks and published sets have their own modules.

Conventions. Arrays are ``[y, x]``; x runs along columns, y along rows; the file's origin lies at the centre of pixel
``[0, 0]``; positions are rotated counter-clockwise in (x, y) about the origin, then shifted. The projection is along z:
the first two cell vectors give the 2D lattice through their in-plane components; a third vector is never repeated,
because a layer has vacuum there. Coincident atoms add, and atoms outside the field contribute: there is no edge error.

Two exact forms of the same sum, of which the cheaper is taken:

* lattice Fourier sum, I(r) = Re Σ_g F(g) exp(2πi g·r) with
  F(g) = exp(−2π²σ²g²)/A · Σ_j Z_j^p exp(−2πi g·r_j) over one cell of area A. With the origin at the centre of the
  field, cosines are even and sines odd, so one quadrant of pixels is computed and the others follow by sign. Terms are
  left out only while the sum of their moduli stays below the tolerance: the error is bounded, not estimated;
* atom sum: a Gaussian is separable, so a strip of rows is one matrix product over the atoms within reach.

The Gaussian's "width 0.5 Å" of the AtomVision paper (Choudhary et al., 2023) is taken as the standard deviation σ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from atomvision_ml.settings import cores
from atomvision_ml.structures.lattice import reduce_cell

if TYPE_CHECKING:
    import ase
    import torch

Precision = Literal["float32", "float64"]

_TOLERANCE: dict[str, float] = {"float32": 4e-6, "float64": 5e-7}
"""Bound of what the truncation may leave out, relative to the image's maximum."""

_REACH_SIGMAS: dict[str, float] = {"float32": 7.0, "float64": 8.0}
"""Distance in σ beyond which the atom sum leaves an atom out."""

_STRIP_PX = 32
_CHUNK_ATOMS = 4096
_BLOCK_TERMS = 256
"""Terms whose tables are made at a time, which bounds memory."""


class StemParameters(BaseModel):
    """What makes one STEM set another data set. Flat and frozen.

    The pixel is the smallest of minimum, minimum + step, … maximum that gives the wanted field. At the largest one,
    0.25 Å, the Nyquist frequency 2 Å⁻¹ holds the probe (σ = 0.5 Å) down to exp(−2π²σ²g²) = 3e-9.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_px: int = Field(default=256, ge=16, le=4096, description="Edge of the square image in px.")
    sigma_angstrom: float = Field(default=0.5, gt=0, description="Standard deviation of the Gaussian probe in Å.")
    z_exponent: float = Field(default=1.7, ge=0, description="Exponent p of Z.")
    minimum_field_angstrom: float = Field(default=25.0, gt=0, description="Smallest field of view in Å.")
    minimum_periods: float = Field(
        default=6.0, ge=0, description="Periods of the longer primitive vector wanted in the field."
    )
    minimum_pixel_size_angstrom: float = Field(default=0.1, gt=0, description="Smallest pixel in Å.")
    pixel_size_step_angstrom: float = Field(default=0.025, gt=0, description="Step between pixel sizes in Å.")
    maximum_pixel_size_angstrom: float = Field(default=0.25, gt=0, description="Largest pixel in Å.")
    is_randomly_posed: bool = Field(
        default=True, description="Random rotation and shift, seeded by slab and `seed`; else both are zero."
    )
    images_per_slab: int = Field(default=1, ge=1, le=1000, description="Images, in different poses, of each slab.")
    column_distance_angstrom: float = Field(default=1.0, ge=0, description="Columns closer than this are merged, in Å.")
    mask_radius_angstrom: float = Field(default=0.5, gt=0, description="Mask radius around a column in Å.")
    seed: int = Field(default=0, ge=0, description="Seed of the poses.")

    @model_validator(mode="after")
    def _pixel_sizes_are_a_range(self) -> StemParameters:
        if self.maximum_pixel_size_angstrom < self.minimum_pixel_size_angstrom:
            raise ValueError("maximum_pixel_size_angstrom is below minimum_pixel_size_angstrom")
        return self

    def pixel_size_angstrom(self, longer_period_angstrom: float) -> float:
        """The pixel size in Å for a lattice whose longer primitive vector has that length in Å."""
        field = max(self.minimum_field_angstrom, self.minimum_periods * longer_period_angstrom)
        excess = field / self.size_px - self.minimum_pixel_size_angstrom
        steps = max(0, int(np.ceil(excess / self.pixel_size_step_angstrom - 1e-9)))
        size = self.minimum_pixel_size_angstrom + steps * self.pixel_size_step_angstrom
        return round(min(size, self.maximum_pixel_size_angstrom), 9)


@dataclass(frozen=True)
class Projection:
    """A structure seen along z.

    Attributes:
        positions_angstrom: in-plane positions of the atoms of one cell, (n, 2) float64.
        weights: Z^p of each atom, (n,) float64; a removed atom is an atom of negative weight.
        periods_angstrom: in-plane lattice vectors as rows, (2, 2) for a layer, (1, 2) for a wire, (0, 2) for a cluster.
    """

    positions_angstrom: np.ndarray
    weights: np.ndarray
    periods_angstrom: np.ndarray

    @property
    def area_angstrom2(self) -> float:
        """Area of the cell; only a layer has one."""
        return abs(_determinant(self.periods_angstrom))


def _determinant(rows: np.ndarray) -> float:
    (ax, ay), (bx, by) = rows.tolist()
    return float(ax * by - ay * bx)


@dataclass(frozen=True)
class View:
    """How a structure lies under the square field of view: pixel size (Å), edge (px), rotation (°), shift (Å)."""

    pixel_size_angstrom: float
    size_px: int = 256
    rotation_deg: float = 0.0
    shift_angstrom: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not 0 < self.pixel_size_angstrom < math.inf:
            raise ValueError(f"pixel_size_angstrom must be positive, not {self.pixel_size_angstrom}")
        if self.size_px < 1:
            raise ValueError(f"size must be at least 1 px, not {self.size_px}")
        if not all(map(math.isfinite, (self.rotation_deg, *self.shift_angstrom))):
            raise ValueError("rotation_deg and shift_angstrom must be finite numbers")

    @property
    def field_angstrom(self) -> float:
        """Edge of the field: pixels times pixel size."""
        return self.size_px * self.pixel_size_angstrom

    @property
    def rotation(self) -> np.ndarray:
        """(2, 2) matrix R; a row of coordinates p becomes ``p @ R.T``."""
        angle = math.radians(self.rotation_deg)
        cosine, sine = math.cos(angle), math.sin(angle)
        return np.array([[cosine, -sine], [sine, cosine]])

    def place(self, positions_angstrom: np.ndarray) -> np.ndarray:
        """Positions (n, 2) of the structure to image coordinates in Å from the centre of pixel [0, 0]."""
        return positions_angstrom @ self.rotation.T + np.asarray(self.shift_angstrom, float)


def project(
    numbers: np.ndarray,
    positions_angstrom: np.ndarray,
    cell_angstrom: np.ndarray,
    is_periodic: Sequence[bool] = (True, True),
    z_exponent: float = 1.7,
) -> Projection:
    """Project atoms along z.

    Args:
        numbers: atomic numbers (n,).
        positions_angstrom: (n, 3) or (n, 2) in Å.
        cell_angstrom: cell vectors as rows, (3, 3) or (2, 2) in Å; only rows 0 and 1, components x and y, are used.
        is_periodic: whether each of the first two vectors is repeated.
        z_exponent: p in Z^p.

    Raises:
        ValueError: not finite numbers, or the periodic vectors span no area in the (x, y) plane.
    """
    positions = np.asarray(positions_angstrom, float)[:, :2]
    vectors = np.asarray(cell_angstrom, float)[:2, :2]
    periods = vectors[np.asarray(is_periodic[:2], bool)]
    if not (np.isfinite(positions).all() and np.isfinite(periods).all()):
        raise ValueError("positions and cell must be finite numbers")
    if len(periods) and _smallest_extent(periods) < 1e-3:
        raise ValueError(
            "the periodic cell vectors a and b span no area in the (x, y) plane; images are projections along z: "
            "turn the structure so that its layer lies in the (x, y) plane"
        )
    if len(periods) == 2 and not _is_reduced(periods):
        periods = reduce_cell(periods)
    return Projection(positions, np.asarray(numbers, float) ** z_exponent, periods)


def _is_reduced(periods: np.ndarray) -> bool:
    (ax, ay), (bx, by) = periods.tolist()
    # A thousandth off is as good: reduction keeps enumerations short, nothing else.
    return 2 * abs(ax * bx + ay * by) <= 1.001 * min(ax * ax + ay * ay, bx * bx + by * by)


def _smallest_extent(periods: np.ndarray) -> float:
    """Length (Å) of one vector, or distance of the end of the shorter of two from the line of the longer."""
    longest = float(np.hypot(periods[:, 0], periods[:, 1]).max())
    return longest if len(periods) == 1 or longest == 0 else abs(_determinant(periods)) / longest


def project_atoms(atoms: ase.Atoms, z_exponent: float = 1.7) -> Projection:
    """:func:`project` for ``ase.Atoms``; the first two axes repeat where ``pbc`` says so."""
    return project(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc[:2], z_exponent)


def with_patches(projection: Projection, positions_angstrom: np.ndarray, weights: np.ndarray) -> Projection:
    """The structure with single-atom patches added: weight +Z^p adds an atom, −Z^p removes one. Periods are kept.

    Images are linear, so the image of one patch without periods may as well be added to a rendered image.
    """
    return Projection(
        np.vstack([projection.positions_angstrom, np.asarray(positions_angstrom, float).reshape(-1, 2)]),
        np.concatenate([projection.weights, np.asarray(weights, float).reshape(-1)]),
        projection.periods_angstrom,
    )


def inverse_periods(periods_angstrom: np.ndarray) -> np.ndarray:
    """(2, k) matrix that takes positions (n, 2) to fractions of the k = 1 or 2 lattice vectors: ``xy @ inverse``."""
    if len(periods_angstrom) == 1:
        return periods_angstrom.T / (periods_angstrom**2).sum()
    (ax, ay), (bx, by) = periods_angstrom.tolist()
    return np.array([[by, -ay], [-bx, ax]]) / (ax * by - ay * bx)


def images_of_atoms(
    positions_angstrom: np.ndarray, periods_angstrom: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All periodic images of atoms inside a rectangle.

    Args:
        positions_angstrom: (n, 2) in Å.
        periods_angstrom: (k, 2) lattice vectors, k = 0, 1, 2.
        low, high: corners (2,) of the closed rectangle in Å.

    Returns:
        Positions (m, 2) in Å and, for each, the index (m,) of its atom; ordered by lattice translation, then atom.
    """
    low, high = np.asarray(low, float), np.asarray(high, float)
    positions = np.asarray(positions_angstrom, float)
    if len(positions) == 0:
        return np.zeros((0, 2)), np.zeros(0, np.int64)
    if len(periods_angstrom):
        inverse = inverse_periods(periods_angstrom)
        positions = positions - np.floor(positions @ inverse) @ periods_angstrom
        lower, upper = low - positions.max(axis=0), high - positions.min(axis=0)
        corners = np.array([[x, y] for x in (lower[0], upper[0]) for y in (lower[1], upper[1])]) @ inverse
        first, last = np.ceil(corners.min(axis=0) - 1e-9), np.floor(corners.max(axis=0) + 1e-9)
        axes = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
        cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes)) @ periods_angstrom
        margin_low, margin_high = lower - 1e-9, upper + 1e-9
        cells = cells[np.all((cells >= margin_low) & (cells <= margin_high), axis=1)]
    else:
        cells = np.zeros((1, 2))
    everywhere = (cells[:, None, :] + positions[None, :, :]).reshape(-1, 2)
    inside = np.flatnonzero(np.all((everywhere >= low) & (everywhere <= high), axis=1))
    return everywhere[inside], inside % len(positions)


@dataclass(frozen=True)
class FourierTerms:
    """Half plane of reflections of a layer.

    Attributes:
        g_per_angstrom: (m, 2) in 1/Å.
        amplitudes: F(g) (m,), doubled except for g = 0.
        scale: a lower bound of the layer's maximum, to which the tolerance was relative.
    """

    g_per_angstrom: np.ndarray
    amplitudes: np.ndarray
    scale: float

    @cached_property
    def moduli(self) -> np.ndarray:
        """|F|, (m,)."""
        return np.abs(self.amplitudes)

    @cached_property
    def phases(self) -> np.ndarray:
        """Phases of F in turns, (m,)."""
        return np.angle(self.amplitudes) / (2 * np.pi)


def fourier_terms(
    projection: Projection, sigma_angstrom: float, relative_tolerance: float = 1e-7, maximum_terms: float = np.inf
) -> FourierTerms | None:
    """The reflections that matter of a layer.

    The sum of the moduli of all that is left out is at most ``relative_tolerance`` of a lower bound of the image's
    maximum (the mean, or the peak of the heaviest atom).

    Returns:
        The terms, or None if the half plane holds more than ``maximum_terms`` (then the atom sum is cheaper).
    """
    area, weights = projection.area_angstrom2, projection.weights
    peak = 1 / (2 * np.pi * sigma_angstrom**2)
    moduli = np.abs(weights)
    total = float(moduli.sum())
    scale = max(abs(float(weights.sum())) / area, float(moduli.max()) * peak)
    allowed = relative_tolerance * scale
    cut2 = np.log(max(total * peak / (0.1 * allowed), 2.0)) / (2 * np.pi**2 * sigma_angstrom**2)
    if np.pi * cut2 * area / 2 > 4 * maximum_terms:
        return None
    g, g2 = _half_plane(projection.periods_angstrom, cut2)
    factors = np.exp(-2 * np.pi**2 * sigma_angstrom**2 * g2) * (2 / area)
    factors[0] /= 2
    amplitudes = (_cis(g @ -projection.positions_angstrom.T) @ weights) * factors
    moduli = np.abs(amplitudes)
    order = np.argsort(moduli)
    kept = order[np.searchsorted(np.cumsum(moduli[order]), 0.9 * allowed, side="right") :]
    if len(kept) > maximum_terms:
        return None
    return FourierTerms(g[kept], amplitudes[kept], scale)


def _cis(turns: np.ndarray) -> np.ndarray:
    """exp(2πi·turns); faster than the exponential of complex numbers."""
    waves = np.empty(turns.shape, complex)
    angle = 2 * np.pi * turns
    np.cos(angle, out=waves.real)
    np.sin(angle, out=waves.imag)
    return waves


def _half_plane(periods_angstrom: np.ndarray, cut2: float) -> tuple[np.ndarray, np.ndarray]:
    """Reciprocal vectors (m, 2) with g² ≤ cut2, one of each ±g, the first being 0; and their squares (m,)."""
    (ax, ay), (bx, by) = periods_angstrom.tolist()
    area, cut = ax * by - ay * bx, cut2**0.5
    most_h, most_k = int(cut * np.hypot(ax, ay)), int(cut * np.hypot(bx, by))
    h, k = np.arange(-most_h, most_h + 1.0), np.arange(most_k + 1.0)[:, None]
    gx, gy = ((by * h - ay * k) / area).ravel()[most_h:], ((ax * k - bx * h) / area).ravel()[most_h:]
    g2 = gx * gx + gy * gy
    inside = np.flatnonzero(g2 <= cut2)
    return np.stack([gx[inside], gy[inside]], axis=1), g2[inside]


def render(
    atoms: ase.Atoms,
    *,
    pixel_size_angstrom: float = 0.1,
    size: int = 256,
    sigma_angstrom: float = 0.5,
    z_exponent: float = 1.7,
    rotation_deg: float = 0.0,
    shift_angstrom: tuple[float, float] = (0.0, 0.0),
    mean_detected_e_per_a2: float | None = None,
    seed: int = 0,
    precision: Precision = "float64",
) -> np.ndarray:
    """STEM image of any structure, in the convolution approximation.

    Args:
        atoms: the structure; its first two cell vectors repeat where ``pbc`` says so, a non-periodic one is a cluster.
        pixel_size_angstrom: edge of a pixel in Å.
        size: edge of the square image in px.
        sigma_angstrom: standard deviation of the Gaussian probe in Å.
        z_exponent: p in Z^p.
        rotation_deg: counter-clockwise in (x, y) about the origin, in degrees.
        shift_angstrom: (x, y) shift after the rotation, in Å.
        mean_detected_e_per_a2: if given, Poisson counts with this mean over the field, in electrons/Å².
        seed: seed of the counts.
        precision: "float64" (within 1e-6 of the maximum) or "float32" (within 1e-5, faster).

    Returns:
        (size, size) array [y, x]: Σ Z^p · normalised Gaussian in 1/Å², of type ``precision``; with a dose, counts per
        pixel as float32.

    Raises:
        ValueError: a parameter out of range, or periodic vectors that span no area in the (x, y) plane.
    """
    view = View(pixel_size_angstrom, size, rotation_deg, (float(shift_angstrom[0]), float(shift_angstrom[1])))
    image = render_batch([project_atoms(atoms, z_exponent)], [view], sigma_angstrom=sigma_angstrom, precision=precision)
    if mean_detected_e_per_a2 is None:
        return image[0]
    from atomvision_ml.images.detector import poisson_counts

    return poisson_counts(image[0], pixel_size_angstrom, mean_detected_e_per_a2, seed)


def render_batch(
    projections: Sequence[Projection],
    views: Sequence[View],
    *,
    sigma_angstrom: float = 0.5,
    precision: Precision = "float32",
    group_size: int = 8,
) -> np.ndarray:
    """Images of many structures, each in its own view.

    Args:
        projections: n structures; what depends on the structure alone is computed once for each object.
        views: n views, all of one ``size_px``.
        sigma_angstrom: standard deviation of the probe in Å.
        precision: type of the sums and of the result.
        group_size: images with about equally many Fourier terms that share one batched product.

    Returns:
        (n, size, size) array [image, y, x] in 1/Å².
    """
    if len(projections) != len(views) or len({view.size_px for view in views}) > 1:
        raise ValueError("render_batch needs one view for each structure, all of one size_px")
    if not sigma_angstrom > 0:
        raise ValueError(f"sigma_angstrom must be positive, not {sigma_angstrom}")
    size = views[0].size_px if views else 0
    images = np.empty((len(views), size, size), precision)
    fourier: list[tuple[int, FourierTerms]] = []
    known: dict[tuple[int, float], FourierTerms | None] = {}
    for n, (projection, view) in enumerate(zip(projections, views, strict=True)):
        key = (id(projection), view.pixel_size_angstrom)
        if key not in known:
            known[key] = _terms_if_cheaper(projection, view, sigma_angstrom, precision)
        terms = known[key]
        if terms is not None:
            fourier.append((n, terms))
        else:
            _atom_sum(projection, view, sigma_angstrom, images[n])
    fourier.sort(key=lambda item: len(item[1].amplitudes))
    for start in range(0, len(fourier), group_size):
        chosen, terms_of = zip(*fourier[start : start + group_size], strict=True)
        _fourier_sum(terms_of, [views[n] for n in chosen], [images[n] for n in chosen])
        for n, terms in zip(chosen, terms_of, strict=True):
            if _may_lie_between_atoms(projections[n], views[n]) and images[n].max() < terms.scale / 2:
                _atom_sum(projections[n], views[n], sigma_angstrom, images[n])
    return images


def _may_lie_between_atoms(projection: Projection, view: View) -> bool:
    """Whether the field may hold no whole cell: its maximum may then be below that of the layer."""
    return view.field_angstrom < float(np.hypot(*projection.periods_angstrom.T).sum())


def _terms_if_cheaper(projection: Projection, view: View, sigma: float, precision: str) -> FourierTerms | None:
    """The Fourier terms of a layer if their sum costs less than the atom sum, else None.

    Measured on real structures, a term (half of the pixels, two products) costs about two thirds of an atom within
    reach of the field (one product over the rows it reaches, and two Gaussians); the atom sum begins 200 terms later.
    """
    if len(projection.periods_angstrom) < 2 or len(projection.weights) == 0:
        return None
    reach = 2 * _REACH_SIGMAS[precision] * sigma
    atoms = len(projection.weights) / projection.area_angstrom2 * (view.field_angstrom + reach) ** 2
    return fourier_terms(projection, sigma, _TOLERANCE[precision], maximum_terms=1.5 * atoms + 200)


def _fourier_sum(terms: Sequence[FourierTerms], views: list[View], images: list[np.ndarray]) -> None:
    """Batched lattice Fourier sum into ``images``, (size, size) each, in their precision.

    y counts from the middle of the field. Σ_g Re[F e^{iα(x)} e^{iβ(y)}] has the part E = Σ Re(F e^{iα}) cos β, even in
    y, and O = −Σ Im(F e^{iα}) sin β, odd in y. The upper half of the rows takes up E, the lower half O, one block of
    terms after the other; then upper = E − mirrored O, and lower = O + mirrored E = 2 O + mirrored upper.
    """
    import torch

    lower = (views[0].size_px + 1) // 2
    turns, phases, moduli = _laid_out(terms, views)
    for start in range(0, turns.shape[2], _BLOCK_TERMS):
        block = slice(start, start + _BLOCK_TERMS)
        real, imaginary, cosine, sine = _waves(
            turns[..., block], phases[:, block], moduli[:, block], views[0].size_px, images[0].dtype
        )
        for n, (image, term) in enumerate(zip(images, terms, strict=True)):
            m = max(0, len(term.amplitudes) - start)
            sums = torch.from_numpy(image)
            if m:
                sums[:lower].addmm_(cosine[n, :, :m], real[n, :, :m].T, beta=min(start, 1))
                sums[lower:].addmm_(sine[n, :, :m], imaginary[n, :, :m].T, beta=min(start, 1), alpha=-1)
    for image in images:
        mirrored, odd = image[: image.shape[0] - lower][::-1], image[lower:]
        np.subtract(mirrored, odd, out=mirrored)
        np.add(odd, odd, out=odd)
        np.add(odd, mirrored, out=odd)


def _laid_out(terms: Sequence[FourierTerms], views: Sequence[View]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turns per px along x and y (n, 2, m), phases in turns (n, m) at the first pixel of the middle row, moduli (n, m).

    Images with fewer terms are filled up with zeros.
    """
    widest = max(len(term.amplitudes) for term in terms)
    turns = np.zeros((len(terms), 2, widest))
    phases, moduli = np.zeros((2, len(terms), widest))
    for n, (term, view) in enumerate(zip(terms, views, strict=True)):
        m, px = len(term.amplitudes), view.pixel_size_angstrom
        g = view.rotation @ term.g_per_angstrom.T
        to_middle_row = (-view.shift_angstrom[0], (view.size_px - 1) / 2 * px - view.shift_angstrom[1])
        np.multiply(g, px, out=turns[n, :, :m])
        np.add(term.phases, to_middle_row @ g, out=phases[n, :m])
        moduli[n, :m] = term.moduli
    return turns, phases, moduli


def _waves(
    turns: np.ndarray, phases: np.ndarray, moduli: np.ndarray, size: int, dtype: np.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Re and Im of modulus · exp(2πi(turns·x + phase)) for all columns, cos(2π·turns·y) for the upper and
    sin(2π·turns·y) for the lower rows; (n, pixels, m) each.

    The exponentials are taken in float64 on a coarse and a fine part of each axis, whose products are all the others.
    """
    import torch

    (x_steps, y_steps), parts = _steps(size)
    angle = np.concatenate([turns[:, :1] * x_steps, turns[:, 1:] * y_steps], axis=1)
    angle[:, : parts[0]] += phases[:, None]
    angle *= 2 * np.pi
    kind, lower = getattr(torch, dtype.name), (size + 1) // 2
    radians, strength = torch.from_numpy(angle), torch.from_numpy(moduli).to(kind).unsqueeze(1)
    c, s = (wave.to(kind).split(parts, dim=1) for wave in (radians.cos(), radians.sin()))
    real, imaginary = c[0] * strength, s[0] * strength
    return (
        _sum_of_products(real, c[1], imaginary, s[1], -1)[:, :size],
        _sum_of_products(imaginary, c[1], real, s[1], 1)[:, :size],
        _sum_of_products(c[3], c[2], s[3], s[2], -1)[:, :lower],
        _sum_of_products(s[4], c[2], c[4], s[2], 1)[:, : size - lower],
    )


@lru_cache(maxsize=8)
def _steps(size: int) -> tuple[tuple[np.ndarray, np.ndarray], list[int]]:
    """Positions in px along x (coarse, fine) and along y from the middle (fine, coarse upper, coarse lower), (k, 1).

    Also returns the lengths of these five parts.
    """
    fine, lower, middle = max(1, round(size**0.5)), (size + 1) // 2, (size - 1) / 2
    x = [np.arange(0.0, size, fine), np.arange(float(fine))]
    y = [np.arange(float(fine)), np.arange(0.0, lower, fine) - middle, np.arange(lower, size, fine) - middle]
    return (np.concatenate(x)[:, None], np.concatenate(y)[:, None]), [len(part) for part in x + y]


def _sum_of_products(
    coarse: torch.Tensor, fine: torch.Tensor, other: torch.Tensor, other_fine: torch.Tensor, sign: int
) -> torch.Tensor:
    """coarse·fine ± other·other_fine for all pairs of coarse and fine, (n, coarse × fine, m)."""
    product = coarse.unsqueeze(2) * fine.unsqueeze(1)
    return product.addcmul_(other.unsqueeze(2), other_fine.unsqueeze(1), value=sign).flatten(1, 2)


def _atom_sum(projection: Projection, view: View, sigma: float, image: np.ndarray) -> None:
    """Atom sum into ``image`` (size, size): one matrix product a strip of rows, over the atoms within reach of it."""
    import torch

    dtype = getattr(torch, image.dtype.name)
    size, px = view.size_px, view.pixel_size_angstrom
    reach, edge = _REACH_SIGMAS[image.dtype.name] * sigma, (size - 1) * px
    placed = view.place(projection.positions_angstrom)
    low, high = np.full(2, -reach), np.full(2, edge + reach)
    xy, index = images_of_atoms(placed, projection.periods_angstrom @ view.rotation.T, low, high)
    order = np.argsort(xy[:, 1], kind="stable")
    xy = xy[order]
    weights = torch.as_tensor(projection.weights[index[order]] / (2 * np.pi * sigma**2), dtype=dtype)
    pixel = torch.arange(size, dtype=dtype)
    nearest = np.rint(xy / px)
    whole, rest = (torch.as_tensor(part, dtype=dtype) for part in (nearest, xy / px - nearest))
    scale = px / (sigma * 2**0.5)
    sums = torch.from_numpy(image).zero_()
    gx = _gaussian(pixel, whole[:, 0], rest[:, 0], scale) if len(xy) <= _CHUNK_ATOMS else None
    for rows, chunk in _strips(xy[:, 1], size, px, reach):
        gy = _gaussian(pixel[rows], whole[chunk, 1], rest[chunk, 1], scale).mul_(weights[chunk, None])
        across = gx[chunk] if gx is not None else _gaussian(pixel, whole[chunk, 0], rest[chunk, 0], scale)
        sums[rows].addmm_(gy.T, across)


def _strips(y: np.ndarray, size: int, px: float, reach: float) -> Iterator[tuple[slice, slice]]:
    """Strips of rows, and the slices of the atoms, sorted by y, that reach them; bounded in length."""
    for start in range(0, size, _STRIP_PX):
        stop = min(start + _STRIP_PX, size)
        first, last = np.searchsorted(y, [start * px - reach, (stop - 1) * px + reach])
        for chunk in range(first, last, _CHUNK_ATOMS):
            yield slice(start, stop), slice(chunk, min(chunk + _CHUNK_ATOMS, last))


def _gaussian(pixel: torch.Tensor, whole: torch.Tensor, rest: torch.Tensor, scale: float) -> torch.Tensor:
    """exp(−((k − c)·scale)²), (n, len(pixel)), for centres c = whole + rest in px; in two parts, for they cancel."""
    distance = pixel[None, :] - whole[:, None]
    return distance.sub_(rest[:, None]).mul_(scale).square_().neg_().exp_()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within the block torch uses ``count`` threads; the former number is restored."""
    import torch

    former = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def torch_pool() -> ThreadPoolExecutor:
    """One thread a core, each with torch on one thread: torch's number of threads belongs to the calling thread."""
    import torch

    return ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,))
