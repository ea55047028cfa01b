"""Counting missing atoms of a known crystal: its lattice is found, laid over the image, and every site is weighed.

Belongs here: the counter. Sites are not searched for, they are known; so vacancies may touch each other, and an atom
missing from a column of two is seen by the column's intensity. The lattice comes from the lattice finder, origin and
orientation from the crystal's own Fourier coefficients, slow distortions (drift) from the fitted positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.images.atom_fit import AtomFitParameters, fit_atoms, fit_intensities
from atomvision_ml.images.columns import Columns, columns_of
from atomvision_ml.images.stem import Projection, fourier_terms, images_of_atoms
from atomvision_ml.models.lattice_finder import find_lattice

Floats = NDArray[np.float64]

_OUTSIDE_ANGSTROM = 1.0
_PRESENT = 0.6  # of the median intensity: such sites say where the crystal lies
_GRID = 48
_ITERATIONS = 4  # enough to say where the crystal lies


@dataclass(frozen=True)
class VacancyCount:
    """Sites of a crystal in an image.

    Attributes:
        positions_angstrom: (n, 2) sites inside the border, image coordinates.
        n_missing: (n,) atoms missing from each site's column.
        shares: (n,) intensity relative to a whole column of its kind.
    """

    positions_angstrom: Floats
    n_missing: NDArray[np.int64]
    shares: Floats

    @property
    def total(self) -> int:
        """Missing atoms in all."""
        return int(self.n_missing.sum())


def count_vacancies(
    image: ArrayLike,
    pixel_size_angstrom: float,
    crystal: Projection,
    *,
    sigma_angstrom: float = 0.5,
    border_angstrom: float = 1.0,
) -> VacancyCount:
    """Atoms that a known crystal lacks in an image.

    Args:
        image: [y, x], best as counts.
        pixel_size_angstrom: edge of a pixel in Å.
        crystal: the perfect layer in any orientation, its columns of equal atoms.
        sigma_angstrom: standard deviation of an atom's image.
        border_angstrom: sites nearer to the field's edge are not counted.

    Returns:
        The sites and what is missing from each.

    Raises:
        NoLatticeError: nothing periodic is in the image.
        ValueError: the lattice in the image is not the crystal's.
    """
    values = np.asarray(image, float)
    pixel = pixel_size_angstrom
    columns = columns_of(crystal)
    sites, kind = expected_sites(values, pixel, crystal)
    known = AtomFitParameters(sigma_angstrom=sigma_angstrom)
    few = AtomFitParameters(sigma_angstrom=sigma_angstrom, iterations=_ITERATIONS)
    for _ in range(2):
        shares = _shares(fit_intensities(values, pixel, sites, known).intensities, kind)
        present = shares > _PRESENT
        fitted = fit_atoms(values, pixel, sites[present], few)
        sites = _aligned(sites, present, fitted.positions_angstrom)
    shares = _shares(fit_intensities(values, pixel, sites, known).intensities, kind)
    return counted_within(values.shape, pixel, border_angstrom, sites, shares, columns.n_atoms[kind])


def expected_sites(
    image: ArrayLike, pixel_size_angstrom: float, crystal: Projection
) -> tuple[Floats, NDArray[np.int64]]:
    """Where a known crystal should have its columns, by its lattice and its Fourier coefficients alone.

    Args and errors as :func:`count_vacancies`.

    Returns:
        (n, 2) sites in the field and up to 1 Å outside, Å from the centre of pixel [0, 0], and (n,) which column of
        the cell each is, as :func:`atomvision_ml.images.columns.columns_of` orders them.
    """
    values, pixel = np.asarray(image, float), pixel_size_angstrom
    periods = find_lattice(values, pixel).lattice_vectors_angstrom
    turned, origin = _laid_over(values, pixel, crystal, periods)
    return _sites(columns_of(crystal), crystal.periods_angstrom, turned, origin, values.shape, pixel)


def counted_within(
    shape: tuple[int, ...],
    pixel_size_angstrom: float,
    border_angstrom: float,
    sites: Floats,
    shares: Floats,
    n_atoms: NDArray[np.int64],
) -> VacancyCount:
    """The sites inside the border of an image [y, x], their shares rounded to whole atoms of ``n_atoms`` (n,)."""
    edge = (np.array(shape)[::-1] - 1) * pixel_size_angstrom - border_angstrom
    inner = np.all((sites >= border_angstrom) & (sites <= edge), axis=1)
    full = n_atoms[inner]
    missing = np.clip(np.rint((1 - shares[inner]) * full), 0, full).astype(np.int64)
    return VacancyCount(sites[inner], missing, shares[inner])


def _laid_over(image: Floats, pixel: float, crystal: Projection, found: Floats) -> tuple[Floats, Floats]:
    """The crystal's periods as they lie in the image (2, 2), and where its origin is (2,): the best of all ways."""
    best = (-np.inf, np.zeros((2, 2)), np.zeros(2))
    for turned in _equivalents(found, crystal.periods_angstrom):
        score, origin = _origin(image, pixel, crystal, turned)
        if score > best[0]:
            best = (score, turned, origin)
    return best[1], best[2]


def _equivalents(found: Floats, periods: Floats) -> list[Floats]:
    """Bases of the found lattice that have the form of the crystal's periods, turned but not mirrored."""
    wanted, handed = periods @ periods.T, np.sign(np.linalg.det(periods))
    errors, bases = [], []
    for numbers in product(range(-2, 3), repeat=4):
        change = np.reshape(numbers, (2, 2))
        if round(abs(np.linalg.det(change))) != 1:
            continue
        basis = change @ found
        if np.sign(np.linalg.det(basis)) == handed:
            errors.append(np.abs(basis @ basis.T - wanted).max() / wanted.max())
            bases.append(basis)
    least = min(errors)
    if least > 0.1:
        raise ValueError("the lattice in the image is not that of the crystal")
    return [basis for error, basis in zip(errors, bases, strict=True) if error < max(0.06, 1.5 * least)]


def _origin(image: Floats, pixel: float, crystal: Projection, turned: Floats) -> tuple[float, Floats]:
    """Correlation of image and crystal at the best origin, and that origin in Å."""
    terms = fourier_terms(crystal, 0.5, 1e-2)
    assert terms is not None
    index = np.rint(terms.g_per_angstrom @ crystal.periods_angstrom.T)
    chosen = np.any(index != 0, axis=1)
    index, amplitudes = index[chosen], terms.amplitudes[chosen]
    g = index @ np.linalg.inv(turned).T
    y, x = (np.arange(edge) * pixel for edge in image.shape)
    along = np.exp(-2j * np.pi * np.outer(g[:, 1], y)) * np.hanning(len(y))
    across = np.exp(-2j * np.pi * np.outer(g[:, 0], x)) * np.hanning(len(x))
    seen = ((along @ (image - image.mean())) * across).sum(axis=1)
    step = np.arange(_GRID) / _GRID
    fractions = np.stack(np.meshgrid(step, step), axis=-1).reshape(-1, 2)
    # Moved by t, the crystal's coefficients turn by exp(-2πi g·t).
    score = ((seen * amplitudes.conj()) * np.exp(2j * np.pi * fractions @ index.T)).real.sum(axis=1)
    top = int(np.argmax(score))
    return float(score[top]), fractions[top] @ turned


def _sites(
    columns: Columns, periods: Floats, turned: Floats, origin: Floats, shape: tuple[int, ...], pixel: float
) -> tuple[Floats, NDArray[np.int64]]:
    """All columns of the crystal in and just around the field, (n, 2), and which column of the cell each is (n,)."""
    cell = columns.positions_angstrom @ np.linalg.inv(periods) @ turned + origin
    high = (np.array(shape)[::-1] - 1) * pixel + _OUTSIDE_ANGSTROM
    return images_of_atoms(cell, turned, np.full(2, -_OUTSIDE_ANGSTROM), high)


def _shares(intensities: Floats, kind: NDArray[np.int64]) -> Floats:
    """Intensities relative to the median of their kind."""
    shares = np.empty_like(intensities)
    for number in np.unique(kind):
        own = kind == number
        shares[own] = intensities[own] / np.median(intensities[own])
    return shares


def _aligned(sites: Floats, present: NDArray[np.bool_], fitted: Floats) -> Floats:
    """Sites moved by the affine map that brings those present nearest to where they were fitted; outliers left out."""
    design = np.column_stack([np.ones(len(sites)), sites])
    step = fitted - sites[present]
    good = np.hypot(*(step - np.median(step, axis=0)).T) < 0.3
    if good.sum() < 6:
        return sites
    change = np.linalg.lstsq(design[present][good], step[good], rcond=None)[0]
    return sites + design @ change
