"""A crystal repeats: an atom's position also learns from the same atom in other cells, as far as these agree.

Belongs here: the empirical Bayes estimate of positions. The lattice finder gives the periods; atoms that they carry
onto each other are members of one site. Their scatter, less what the counts explain, is how far the crystal really
moves its atoms there; each position is drawn towards its site by the share of its deviation that is noise (Efron and
Morris, J. Am. Stat. Assoc. 70, 311, 1975). A perfect crystal is averaged over all of its cells; in a strained or bent
one the scatter says so, and positions stay as they were fitted. An atom that lies further off than noise and scatter
allow stays where it is, and no atom is added: vacancies and displaced atoms remain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from atomvision_ml.images.atom_fit import AtomFit
from atomvision_ml.images.columns import connected_points
from atomvision_ml.models.lattice_finder import NoLatticeError, find_lattice

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_MOST_ATOMS = 2500  # all pairs of the same site are compared
_LINK_ANGSTROM = 0.25  # between members of a site that are brought into one cell
_FEWEST_MEMBERS = 4
_MOST_DEVIATIONS = 4.0
_PASSES = 3
_AT_ONCE = 500  # atoms whose uncertainties are computed together, which bounds the memory


@dataclass(frozen=True)
class _Members:
    """Atoms of sites that have enough: (m,) which atom, which site, and (m, 2) in which cell."""

    atoms: Integers
    sites: Integers
    cells: Integers

    def means(self, values: Floats, weights: Floats) -> Floats:
        """Weighted means (m, k) of values (m, k) over the site that each member belongs to."""
        total = np.bincount(self.sites, weights)
        sums = np.stack([np.bincount(self.sites, weights * column) for column in values.T], axis=1)
        return (sums / total[:, None])[self.sites]


def drawn_to_sites(fit: AtomFit, image: Floats, is_sure: NDArray[np.bool_]) -> AtomFit:
    """The fit with positions drawn towards those of the same atom in other cells.

    Args:
        fit: of the image.
        image: [y, x].
        is_sure: (n,) the atoms that count.

    Returns:
        The fit with other positions; as it was where no lattice is found, or nothing repeats often enough.
    """
    sure = np.flatnonzero(is_sure)
    if not _FEWEST_MEMBERS <= len(sure) <= _MOST_ATOMS:
        return fit
    try:
        vectors = find_lattice(image, fit.pixel_size_angstrom).lattice_vectors_angstrom
    except NoLatticeError:
        return fit
    known = np.full(len(is_sure), np.inf)
    known[sure] = _variances(fit, sure)
    members = _members(fit.positions_angstrom, np.flatnonzero(known < _LINK_ANGSTROM**2), vectors)
    if not len(members.atoms):
        return fit
    positions, variances = fit.positions_angstrom[members.atoms], known[members.atoms]
    drawn, left = fit.positions_angstrom.copy(), fit.noise_left.copy()
    vectors = _refined(positions, members, variances, vectors)
    drawn[members.atoms], left[members.atoms] = _drawn(positions, members, variances, vectors)
    return replace(fit, positions_angstrom=drawn, noise_left=left)


def _variances(fit: AtomFit, atoms: Integers) -> Floats:
    """(m,) variance of a position along an axis by the counts, all other atoms being free too."""
    parts = [fit.deviations(atoms[start : start + _AT_ONCE]) for start in range(0, len(atoms), _AT_ONCE)]
    return (np.concatenate(parts)[:, 1:] ** 2).mean(axis=1)


def _members(positions: Floats, atoms: Integers, vectors: Floats) -> _Members:
    """Sites with enough members, and the cell of each member counted from the site's first one."""
    groups = [atoms[group] for group in connected_points(positions[atoms], vectors, _LINK_ANGSTROM)]
    groups = [group for group in groups if len(group) >= _FEWEST_MEMBERS]
    if not groups:
        return _Members(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2), np.int64))
    inverse = np.linalg.inv(vectors)
    cells = [np.rint((positions[group] - positions[group[0]]) @ inverse).astype(np.int64) for group in groups]
    sites = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return _Members(np.concatenate(groups), sites, np.concatenate(cells))


def _refined(positions: Floats, members: _Members, variances: Floats, vectors: Floats) -> Floats:
    """The vectors (2, 2) that bring the members of each site nearest to each other; far ones count little."""
    weights = 1 / variances
    for _ in range(_PASSES):
        steps = members.cells - members.means(members.cells.astype(float), weights)
        away = positions - members.means(positions, weights)
        if np.linalg.matrix_rank(steps) < 2:
            return vectors
        root = np.sqrt(weights)[:, None]
        vectors = np.asarray(np.linalg.lstsq(root * steps, root * away, rcond=None)[0], np.float64)
        apart = ((away - steps @ vectors) ** 2).sum(axis=1) / variances
        weights = 1 / (variances * (1 + apart / max(float(np.median(apart)), 1e-30)))
    return vectors


def _drawn(positions: Floats, members: _Members, variances: Floats, vectors: Floats) -> tuple[Floats, Floats]:
    """Positions (m, 2) without the noise in their deviation from the site, and the share (m,) of noise that is left."""
    at_first = positions - members.cells @ vectors
    away = at_first - members.means(at_first, 1 / variances)
    real = _real_variances(away, members, variances)
    total = variances + real
    away = at_first - members.means(at_first, 1 / total)
    noise = np.where((away**2).sum(axis=1) <= _MOST_DEVIATIONS**2 * total, variances / total, 0.0)
    left = (1 - noise) ** 2 + noise**2 * (real + _of_lattice(members, 1 / total)) / variances
    return positions - noise[:, None] * away, np.sqrt(np.minimum(left, 1.0))


def _of_lattice(members: _Members, weights: Floats) -> Floats:
    """(m,) variance of the place that site and vectors give each member."""
    steps = members.cells - members.means(members.cells.astype(float), weights)
    spread = np.linalg.pinv(steps.T @ (weights[:, None] * steps))
    return 1 / np.bincount(members.sites, weights)[members.sites] + np.einsum("mi,ij,mj->m", steps, spread, steps)


def _real_variances(away: Floats, members: _Members, variances: Floats) -> Floats:
    """(m,) variance of each site's positions beyond the noise, by the median of the squares."""
    squares = (away**2).sum(axis=1) / (2 * np.log(2))
    sites = [members.sites == site for site in range(members.sites.max() + 1)]
    excess = np.array([np.median(squares[own] - variances[own]) for own in sites])
    return np.maximum(excess, 0.0)[members.sites]
