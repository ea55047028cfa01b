"""The classical defect finder: vacancies, substitutions and strained regions of one crystal, without training.

Belongs here: what is public, and the rules. The measurement of the sites is in
:mod:`atomvision_ml.models.defect_sites`. Knowing what the perfect crystal looks like is enough to find what is not: as
in Ziatdinov et al. (ACS Nano 11, 12742, 2017), defects are departures from the lattice, and need no examples of their
own. Each column is compared with the equivalent ones of the same image, so neither element nor dose need be known.

Rules, for a site of kind k with intensity a, displacement u, and median m_k and spread s_k of its kind:

* a differs from m_k by more than the noise allows (Student's t of the kind's own spread, a fixed number of false alarms
  an image) and by a least share of m_k;
* such a site is a **vacancy** if next to nothing is left, or about one half (one of two coincident atoms), else a
  **substitution**;
* a **strained region** is where the gradient of u over the neighbours, symmetrised, exceeds a least strain and the
  noise, and where one strain that fades away explains most of the displacements around; sites with another intensity do
  not take part, and none near the field's edge, where a gradient has neighbours on one side only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.models.defect_sites import Sites, measure_sites

Floats = NDArray[np.float64]

MODEL_NAME = "defect_finder"

_MAD = 1.4826
_CLEAN_SPREAD = 0.01  # of a column's intensity: what overlap with columns not seen may do


class DefectFinderParameters(BaseModel):
    """How the finder decides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probe_sigma_angstrom: float = Field(default=0.5, gt=0, description="Standard deviation of a column's image, Å.")
    superlattice_evidence: float = Field(
        default=150.0, ge=0, description="Log Bayes factor that a larger cell needs; a few defects look like one."
    )
    false_alarms: float = Field(
        default=0.02, gt=0, lt=1, description="Sites called damaged by noise alone, expected in each image."
    )
    minimum_change: float = Field(
        default=0.15, gt=0, lt=1, description="Least change of a column's intensity, as a share of it."
    )
    minimum_brightness: float = Field(
        default=0.04,
        ge=0,
        lt=1,
        description="Least intensity that is judged, and least change, as a share of the brightest column's.",
    )
    most_left: float = Field(
        default=0.25, ge=0, lt=1, description="Share of its intensity up to which a column is missing as a whole."
    )
    half_width: float = Field(
        default=0.08, ge=0, lt=0.5, description="How far from one half a column with a missing atom may be."
    )
    most_damaged_share: float = Field(
        default=0.25, gt=0, le=1, description="Share of a kind's sites above which they are no defects but structure."
    )
    border_angstrom: float = Field(default=1.5, ge=0, description="Sites nearer to the field's edge are not judged, Å.")
    neighbourhood_angstrom: float = Field(default=2.0, gt=0, description="Range over which strain is averaged, Å.")
    minimum_strain: float = Field(default=0.015, gt=0, description="Least strain of a strained region.")
    strain_sigmas: float = Field(default=5.0, gt=0, description="Strain over its standard error in such a region.")
    strain_contrast: float = Field(
        default=2.0, gt=0, description="Strain of such a region over that of the quiet sites (20 % quantile)."
    )
    region_distance_angstrom: float = Field(default=12.0, gt=0, description="Least distance of two regions, Å.")
    region_border_angstrom: float = Field(default=3.0, ge=0, description="No region nearer to the field's edge, Å.")
    region_width_angstrom: float = Field(default=4.0, gt=0, description="Over which the strain of a region fades, Å.")
    explained_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the displacements' squares, beyond noise, that its strain explains.",
    )


@dataclass(frozen=True)
class FoundDefect:
    """One candidate.

    Attributes:
        kind: ``vacancy``, ``substitution`` or ``strain``.
        x_angstrom, y_angstrom: the site in the perfect crystal, or the middle of the region.
        change: of the column's intensity, as a share of it; 0 for strain.
        strain: largest principal strain by modulus; 0 otherwise.
        significance: change or strain over its standard error.
    """

    kind: str
    x_angstrom: float
    y_angstrom: float
    change: float
    strain: float
    significance: float


@dataclass(frozen=True)
class DefectResult:
    """What the finder says of an image.

    Attributes:
        defects: candidates, the most significant first of each kind.
        n_sites: columns that were judged.
        lattice_vectors_angstrom: (2, 2) rows of the crystal's primitive vectors.
        smallest_change: median over the sites of the least change that could have been found, as a share of the
            intensity; None if no site could be judged.
        model: name of the model.
    """

    defects: tuple[FoundDefect, ...]
    n_sites: int
    lattice_vectors_angstrom: Floats
    smallest_change: float | None
    model: str = MODEL_NAME


def find_defects(
    image: ArrayLike, pixel_size_angstrom: float, parameters: DefectFinderParameters | None = None
) -> DefectResult:
    """Vacancies, substitutions and strained regions of an image of one crystal.

    Args:
        image: [y, x], finite, any unit; at least some five periods along each side.
        pixel_size_angstrom: edge of a pixel in Å.
        parameters: how to decide; None for the defaults.

    Returns:
        The candidates; none if all columns of each kind are alike.

    Raises:
        NoLatticeError: the image shows no lattice.
        ValueError: the image is not [y, x] or not finite, or the pixel size is not positive.
    """
    chosen = parameters or DefectFinderParameters()
    sites = measure_sites(
        image,
        pixel_size_angstrom,
        probe_sigma_angstrom=chosen.probe_sigma_angstrom,
        superlattice_evidence=chosen.superlattice_evidence,
    )
    judged = sites.depth_angstrom() >= chosen.border_angstrom
    ratio, spread, threshold = _compared(sites, judged, chosen)
    damaged = _damaged(sites, judged, ratio, spread, threshold, chosen)
    points = [_point(sites, int(n), ratio[n], spread[n], chosen) for n in np.flatnonzero(damaged)]
    points.sort(key=lambda each: -each.significance)
    regions = _regions(sites, judged, damaged, chosen)
    least = np.maximum(threshold * spread, chosen.minimum_change)
    known = least[judged & np.isfinite(least)]
    return DefectResult(
        (*points, *regions),
        int(judged.sum()),
        sites.lattice_vectors_angstrom,
        float(np.median(known)) if len(known) else None,
    )


def _compared(sites: Sites, judged: NDArray[np.bool_], chosen: DefectFinderParameters) -> tuple[Floats, Floats, Floats]:
    """Intensity over the median of the kind, relative spread of the kind, and the threshold in spreads; (n,) each."""
    from scipy.stats import t as student

    n = len(sites.kinds)
    brightest = float(sites.typical_intensities.max())
    ratio, spread, threshold = np.ones(n), np.full(n, np.inf), np.full(n, np.inf)
    tail = chosen.false_alarms / max(int(judged.sum()), 1) / 2
    for kind, typical in enumerate(sites.typical_intensities):
        mine = sites.kinds == kind
        known = mine & judged
        if typical <= max(chosen.minimum_brightness * brightest, 0.0) or known.sum() < 4:
            continue
        ratio[mine] = sites.intensities[mine] / typical
        spread[mine] = np.hypot(_MAD * float(np.median(np.abs(ratio[known] - 1))), _CLEAN_SPREAD)
        threshold[mine] = float(student.isf(tail, max(int(known.sum()) - 1, 3)))
    return ratio, spread, threshold


def _damaged(
    sites: Sites,
    judged: NDArray[np.bool_],
    ratio: Floats,
    spread: Floats,
    threshold: Floats,
    chosen: DefectFinderParameters,
) -> NDArray[np.bool_]:
    change = np.abs(ratio - 1)
    typical = sites.typical_intensities[sites.kinds]
    is_bright = change * typical >= chosen.minimum_brightness * sites.typical_intensities.max()
    damaged = judged & (change >= chosen.minimum_change) & (change > threshold * spread) & is_bright
    for kind in range(len(sites.typical_intensities)):
        mine = judged & (sites.kinds == kind)
        if damaged[mine].sum() > chosen.most_damaged_share * mine.sum():
            damaged[mine] = False
    return damaged


def _point(sites: Sites, number: int, ratio: float, spread: float, chosen: DefectFinderParameters) -> FoundDefect:
    x, y = sites.positions_angstrom[number].tolist()
    kind = "vacancy" if is_missing(ratio, chosen) else "substitution"
    return FoundDefect(kind, x, y, float(ratio - 1), 0.0, float(abs(ratio - 1) / spread))


def is_missing(ratio: float, parameters: DefectFinderParameters | None = None) -> bool:
    """Whether what is left of a column's intensity means missing atoms: next to nothing, or about one half."""
    chosen = parameters or DefectFinderParameters()
    return ratio <= chosen.most_left or abs(ratio - 0.5) <= chosen.half_width


def _regions(
    sites: Sites, judged: NDArray[np.bool_], damaged: NDArray[np.bool_], chosen: DefectFinderParameters
) -> list[FoundDefect]:
    """Places of the strongest strain, the strongest first, no two closer than ``region_distance_angstrom``."""
    known = np.where(damaged | (sites.depth_angstrom() < 0), 0.0, sites.displacement_information)
    strain, error = local_strain(sites, known, chosen.neighbourhood_angstrom)
    good = judged & np.isfinite(error) & (error > 0) & (sites.depth_angstrom() >= chosen.region_border_angstrom)
    if good.sum() < 4:
        return []
    scale = float(np.quantile((strain / np.where(good, error, 1.0))[good], 0.3)) / _QUIET_STRAIN
    error = error * np.clip(scale, 1.0, _MOST_UNDERRATED)
    least = max(chosen.minimum_strain, chosen.strain_contrast * float(np.quantile(strain[good], 0.2)))
    is_strained = good & (strain >= least) & (strain >= chosen.strain_sigmas * error)
    regions: list[FoundDefect] = []
    for n in np.flatnonzero(is_strained)[np.argsort(-strain[is_strained])]:
        place = sites.positions_angstrom[n]
        if any(np.hypot(*(place - (r.x_angstrom, r.y_angstrom))) < chosen.region_distance_angstrom for r in regions):
            continue
        near = good & (np.hypot(*(sites.positions_angstrom - place).T) < chosen.neighbourhood_angstrom)
        x, y = np.average(sites.positions_angstrom[near], axis=0, weights=strain[near] ** 2)
        if explained_share(sites, known, np.array([x, y]), chosen.region_width_angstrom) < chosen.explained_share:
            continue
        regions.append(FoundDefect("strain", float(x), float(y), 0.0, float(strain[n]), float(strain[n] / error[n])))
    return regions


_QUIET_STRAIN = 0.85
"""30 % quantile of the largest principal strain by modulus over its standard error, where there is only noise."""
_MOST_UNDERRATED = 3.0
"""How far the standard errors may be raised where the image is less quiet than its noise."""


_REACH_WIDTHS = 1.6  # how far a region's displacements are looked at
_MOST_WEIGHT = 1.5  # of a site, in medians: a model's error does not fall with the noise
_LEAST_SIGNAL = 0.3  # share of the squares that is not taken for noise


def explained_share(sites: Sites, information: Floats, centre_angstrom: Floats, width_angstrom: float) -> float:
    """How well one fading strain, u(r) = t + ε (r − c) exp(−|r − c|²/2w²), explains the displacements around c.

    Weighted least squares for the shift t and the symmetric ε. Columns that the model of the crystal misplaces move
    each for itself; a strained region moves its columns together.

    Args:
        sites: with displacements.
        information: (n,) inverse variances of the displacements, 1/Å²; 0 leaves a site out.
        centre_angstrom: (2,) c.
        width_angstrom: w.

    Returns:
        The share of the weighted squares about their mean, less what noise makes of them; 0 with fewer than six sites.
    """
    away = sites.positions_angstrom - centre_angstrom
    squared = (away**2).sum(axis=1)
    near = (squared < (_REACH_WIDTHS * width_angstrom) ** 2) & (information > 0)
    if near.sum() < 6:
        return 0.0
    weight = np.sqrt(information[near])
    weight = np.minimum(weight, _MOST_WEIGHT * float(np.median(weight)))
    x, y = (away[near] * np.exp(-0.5 * squared[near] / width_angstrom**2)[:, None]).T
    zero, one = np.zeros(len(x)), np.ones(len(x))
    shift = np.concatenate([np.column_stack([one, zero]), np.column_stack([zero, one])])
    strain = np.concatenate([np.column_stack([x, y, zero]), np.column_stack([zero, x, y])])
    root = np.tile(weight, 2)[:, None]
    moved = root[:, 0] * sites.displacements_angstrom[near].T.ravel()

    def squares_left(design: Floats) -> float:
        rest = moved - root * design @ np.linalg.lstsq(root * design, moved, rcond=None)[0]
        return float(rest @ rest)

    before, after = squares_left(shift), squares_left(np.column_stack([shift, strain]))
    noise = 2 * float((weight**2 / information[near]).sum())
    return (before - after) / max(before - noise, _LEAST_SIGNAL * before, 1e-12)


def local_strain(sites: Sites, information: Floats, length_angstrom: float) -> tuple[Floats, Floats]:
    """Largest principal strain by modulus at each site, from the displacements of its surroundings.

    Weighted least squares of u(r) = c + D r over the sites within three lengths, weighted by a Gaussian of that length
    and the information; the strain is the symmetric part of D.

    Args:
        sites: with displacements.
        information: (n,) inverse variances of the displacements, 1/Å²; 0 leaves a site out.
        length_angstrom: standard deviation of the Gaussian.

    Returns:
        (n,) moduli and (n,) standard errors of a component as the information gives them; NaN where the
        surroundings do not suffice.
    """
    from scipy.sparse import csr_array
    from scipy.spatial import cKDTree

    places, n = sites.positions_angstrom, len(sites.kinds)
    pairs = cKDTree(places).query_pairs(3 * length_angstrom, output_type="ndarray")
    i = np.concatenate([pairs[:, 0], pairs[:, 1], np.arange(n)])
    j = np.concatenate([pairs[:, 1], pairs[:, 0], np.arange(n)])
    step = places[j] - places[i]
    taper = np.exp(-0.5 * (step**2).sum(axis=1) / length_angstrom**2)
    weight = taper * information[j]
    design = np.column_stack([np.ones(len(step)), step])
    sums = csr_array((np.ones(len(i)), (i, np.arange(len(i)))), shape=(n, len(i)))
    outer = (design[:, :, None] * design[:, None, :]).reshape(-1, 9)
    normal = (sums @ (weight[:, None] * outer)).reshape(-1, 3, 3)
    spread = (sums @ ((weight * taper)[:, None] * outer)).reshape(-1, 3, 3)
    right = sums @ (weight[:, None, None] * design[:, :, None] * sites.displacements_angstrom[j][:, None, :]).reshape(
        -1, 6
    )
    enough = (sums @ (weight > 0)) >= 5
    enough &= np.linalg.cond(np.where(enough[:, None, None], normal, np.eye(3))) < 1e8
    inverse = np.linalg.inv(np.where(enough[:, None, None], normal, np.eye(3)))
    gradient = (inverse @ right.reshape(-1, 3, 2))[:, 1:]
    strain = np.linalg.eigvalsh((gradient + gradient.transpose(0, 2, 1)) / 2)
    variance = np.diagonal(inverse @ spread @ inverse, axis1=1, axis2=2)[:, 1:].mean(axis=1)
    largest = np.abs(strain).max(axis=1)
    return np.where(enough, largest, np.nan), np.where(enough, np.sqrt(np.clip(variance, 0, None)), np.nan)
