"""The atom finder: the segmenter's map, watershed and centre of mass, then one joint fit of all atoms.

Belongs here: its parameters and its steps. The segmenter says where atoms are; the fit
(:mod:`atomvision_ml.images.atom_fit`) puts them where the counts want them. What then stands out of the residual is an
atom that was missed: it is added and all are fitted again; what is not significant is taken out. So weak columns beside
heavy ones, atoms just outside the field, and two atoms under one maximum are seen too. Whether there is a background is
asked of the image. What the crystal repeats makes positions surer (:mod:`atomvision_ml.models.repetition`).

Atoms closer than 1 Å are given as one column at their intensity-weighted centre, as the true columns are; the atoms as
they were fitted are in the result as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.images.atom_fit import AtomFit, AtomFitParameters, fit_atoms
from atomvision_ml.images.atoms import as_rows, local_maxima
from atomvision_ml.images.columns import Columns, merge_columns
from atomvision_ml.models.repetition import drawn_to_sites
from atomvision_ml.models.segmenter import segment

Floats = NDArray[np.float64]

_LEAST_DISTANCE_ANGSTROM = 0.2  # two fitted atoms closer than this are one
_OUTSIDE_ANGSTROM = 1.5
_ROUGH_ANGSTROM = 5e-3  # step at which a fit ends that only serves to see which atoms there are
_REFUSED_ANGSTROM = 0.5  # a candidate so near to an atom that was taken out is the same one
_MASK_PROBABILITY = 0.5
_CANDIDATE_ANGSTROM = 1.5  # of neighbouring candidates the best is tried first: it may explain the others
_CANDIDATE_SHARE, _CANDIDATE_INTENSITY = 0.5, 0.5
"""Of the wanted significance and intensity: neighbours and background have taken up a part of a missed atom."""


class AtomFinderParameters(BaseModel):
    """How atoms are found; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    is_fitted: bool = Field(default=True, description="Joint fit; else the centres of mass of the segmenter's map.")
    sigma_angstrom: float | None = Field(
        default=0.5, gt=0, description="Standard deviation of an atom's image in Å; null: fitted, the same for all."
    )
    background_degree: int | None = Field(
        default=None,
        ge=-1,
        le=4,
        description="Degree of the background; -1: there is none; null: none or a constant one, as the image says.",
    )
    is_counts: bool | None = Field(
        default=None, description="Whether pixels are counted electrons; null: if all are whole and not negative."
    )
    rounds: int = Field(default=5, ge=0, description="How often the residual is searched for missed atoms.")
    least_significance: float = Field(
        default=5.0, gt=0, description="Standard deviations by which an atom's intensity must exceed zero."
    )
    least_intensity: float = Field(
        default=0.012, ge=0, description="Least intensity of a fitted atom, as a share of the brightest."
    )
    least_column_intensity: float = Field(
        default=0.03, ge=0, description="Least intensity of a column that is reported, as a share of the brightest."
    )
    has_repetition: bool = Field(
        default=True,
        description="Positions are drawn towards those of the same atom in other cells, as far as it repeats.",
    )
    column_distance_angstrom: float = Field(default=1.0, ge=0, description="Atoms closer than this are one column, Å.")


@dataclass(frozen=True)
class FoundAtoms:
    """Atoms of an image.

    Attributes:
        columns: one dictionary per column: ``x_angstrom``, ``y_angstrom`` from the centre of pixel [0, 0],
            ``intensity`` (integral in units of the image times Å²; without fit the mean of its pixels).
        atoms: the same before those closer than 1 Å were put together.
        probability: [y, x], the segmenter's.
        sigma_angstrom: of the fitted Gaussian; None without fit.
        fit: the joint fit; None without.
        model: of the segmenter.
    """

    columns: list[dict[str, float]]
    atoms: list[dict[str, float]]
    probability: NDArray[np.float32]
    sigma_angstrom: float | None
    fit: AtomFit | None
    model: str


def find_atoms(
    image: ArrayLike,
    pixel_size_angstrom: float,
    parameters: AtomFinderParameters | None = None,
    *,
    segmenter: str | Path | None = None,
    device: str = "cpu",
) -> FoundAtoms:
    """Sub-pixel positions and intensities of all atoms.

    Args:
        image: [y, x], finite; best as counts, whose noise is then known.
        pixel_size_angstrom: edge of a pixel in Å.
        parameters: of the finder.
        segmenter: checkpoint folder or name; by default the released one.
        device: torch device of the segmenter.

    Returns:
        Columns and atoms inside the field, ordered by y, then x. A constant image has none.

    Raises:
        ValueError: the image is not two-dimensional, not finite or too small, or the pixel size is not positive.
        CheckpointError: the segmenter is not found or damaged.
    """
    chosen = parameters or AtomFinderParameters()
    values = np.asarray(image, np.float64)
    seen = segment(values, pixel_size_angstrom, segmenter, device=device)
    if not chosen.is_fitted or not seen.atoms:
        return FoundAtoms(seen.atoms, seen.atoms, seen.probability, None, None, seen.model)
    start = np.array([(atom["x_angstrom"], atom["y_angstrom"]) for atom in seen.atoms])
    fit = complete_fit(values, pixel_size_angstrom, start, chosen)
    atoms, columns = reported_atoms(fit, values.shape, chosen)
    return FoundAtoms(columns, atoms, seen.probability, fit.sigma_angstrom, fit, seen.model)


def complete_fit(
    image: Floats, pixel_size_angstrom: float, start_angstrom: Floats, parameters: AtomFinderParameters
) -> AtomFit:
    """The joint fit, with missed atoms added and insignificant ones taken out.

    A lattice of weak atoms looks much like a constant background. So, unless its degree is given, there is a background
    only where it is significant beside the atoms that are found without it, and the fit with it, whose atoms may be
    others, has the lower Akaike criterion. Positions then learn from the crystal's repetition
    (:mod:`atomvision_ml.models.repetition`); the fit's model is that before.

    Args:
        image: [y, x], finite.
        pixel_size_angstrom: edge of a pixel in Å.
        start_angstrom: (n, 2) positions to start from.
        parameters: of the finder.
    """
    fit = _with_background(image, pixel_size_angstrom, start_angstrom, parameters)
    if not parameters.has_repetition:
        return fit
    return drawn_to_sites(fit, image, _kept(fit, image.shape, parameters))


def _with_background(
    image: Floats, pixel_size_angstrom: float, start_angstrom: Floats, parameters: AtomFinderParameters
) -> AtomFit:
    """The completed fit with the background that is asked for, or that the image asks for."""
    none, constant = (
        AtomFitParameters(
            sigma_angstrom=parameters.sigma_angstrom, is_counts=parameters.is_counts, background_degree=degree
        )
        for degree in (-1, 0)
    )
    if parameters.background_degree is not None:
        given = none.model_copy(update={"background_degree": parameters.background_degree})
        return _completed(image, pixel_size_angstrom, start_angstrom, parameters, given)
    without = _completed(image, pixel_size_angstrom, start_angstrom, parameters, none)
    nested = fit_atoms(image, pixel_size_angstrom, without.positions_angstrom, _rough(constant))
    if without.deviance - nested.deviance < parameters.least_significance**2:
        return without
    both = without, _completed(image, pixel_size_angstrom, start_angstrom, parameters, constant)
    return min(both, key=lambda fit: fit.information_criterion)


def _rough(how: AtomFitParameters) -> AtomFitParameters:
    return how.model_copy(update={"tolerance_angstrom": _ROUGH_ANGSTROM})


def _completed(
    image: Floats,
    pixel_size_angstrom: float,
    start_angstrom: Floats,
    parameters: AtomFinderParameters,
    how: AtomFitParameters,
) -> AtomFit:
    """As :func:`complete_fit`, with a background of known degree."""
    fit, refused = fit_atoms(image, pixel_size_angstrom, start_angstrom, _rough(how)), np.zeros((0, 2))
    for _ in range(parameters.rounds):
        kept = _kept(fit, image.shape, parameters)
        refused = np.vstack([refused, fit.positions_angstrom[~kept]])
        missed = _far_from(refused, _missed(fit, image, parameters))
        if kept.all() and not len(missed):
            break
        fit = fit_atoms(image, pixel_size_angstrom, np.vstack([fit.positions_angstrom[kept], missed]), _rough(how))
    return fit_atoms(image, pixel_size_angstrom, fit.positions_angstrom, how)


def reported_atoms(
    fit: AtomFit, shape: tuple[int, ...], parameters: AtomFinderParameters
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Atoms of a fit, and columns of them, that lie in the field; as in :class:`FoundAtoms`."""
    kept = _kept(fit, shape, parameters)
    columns = fitted_columns(fit, shape, parameters)
    pairs = ((fit.positions_angstrom[kept], fit.intensities[kept]), (columns.positions_angstrom, columns.weights))
    atoms, merged = (rows_inside(xy, weights, shape, fit.pixel_size_angstrom) for xy, weights in pairs)
    return atoms, merged


def fitted_columns(fit: AtomFit, shape: tuple[int, ...], parameters: AtomFinderParameters) -> Columns:
    """Columns of a fit, also those just outside the field; weights are intensities."""
    kept = _kept(fit, shape, parameters)
    x, y = fit.positions_angstrom[kept].T
    columns = merge_columns(x, y, fit.intensities[kept], parameters.column_distance_angstrom)
    bright = np.flatnonzero(columns.weights >= parameters.least_column_intensity * _brightest(fit, shape))
    return columns.take(bright, columns.positions_angstrom[bright])


def region_statistics(
    positions_angstrom: ArrayLike, probability: ArrayLike, image: ArrayLike, pixel_size_angstrom: float
) -> list[dict[str, float]]:
    """What the image shows of each atom's region, by scikit-image.

    The pixels of probability at least one half are divided by a watershed from the atoms.

    Args:
        positions_angstrom: (n, 2) x and y inside the field.
        probability: [y, x], of an atom.
        image: [y, x].
        pixel_size_angstrom: edge of a pixel in Å.

    Returns:
        For each atom ``maximum``, ``minimum``, ``mean`` of the image, and ``area_angstrom2``. An atom on whose place
        the map shows none has the pixel it lies in.
    """
    from skimage.measure import regionprops_table
    from skimage.segmentation import watershed

    chance, values = np.asarray(probability, float), np.asarray(image, float)
    positions = np.asarray(positions_angstrom, float).reshape(-1, 2)
    place = np.clip(np.rint(positions / pixel_size_angstrom).astype(int), 0, np.array(values.shape)[::-1] - 1)
    seeds = np.zeros(values.shape, np.int32)
    seeds[place[:, 1], place[:, 0]] = np.arange(1, len(place) + 1)
    regions = watershed(-chance, seeds, mask=(chance >= _MASK_PROBABILITY) | (seeds > 0))
    names = {"intensity_max": "maximum", "intensity_min": "minimum", "intensity_mean": "mean", "area": "area"}
    table = regionprops_table(regions, values, properties=("label", *names))
    rows = {
        int(label): {name: float(table[key][n]) for key, name in names.items()}
        for n, label in enumerate(table["label"])
    }
    result = []
    for number, (x, y) in enumerate(place, start=1):
        here = float(values[y, x])
        row = rows.get(number, {"maximum": here, "minimum": here, "mean": here, "area": 1.0})
        row["area_angstrom2"] = row.pop("area") * pixel_size_angstrom**2
        result.append(row)
    return result


def _kept(fit: AtomFit, shape: tuple[int, ...], parameters: AtomFinderParameters) -> NDArray[np.bool_]:
    """Which atoms are bright and sure enough, near the field, and not one with a brighter one."""
    from scipy.spatial import cKDTree

    if not len(fit.intensities):
        return np.zeros(0, bool)
    is_kept = fit.intensities >= parameters.least_significance * intensity_deviations(fit, fit.positions_angstrom)
    is_kept &= fit.intensities >= parameters.least_intensity * _brightest(fit, shape)
    edge = np.array(shape)[::-1] * fit.pixel_size_angstrom
    is_kept &= np.all(
        (fit.positions_angstrom > -_OUTSIDE_ANGSTROM) & (fit.positions_angstrom < edge + _OUTSIDE_ANGSTROM), axis=1
    )
    near = cKDTree(fit.positions_angstrom).query_pairs(_LEAST_DISTANCE_ANGSTROM, output_type="ndarray")
    weaker = np.where(fit.intensities[near[:, 0]] < fit.intensities[near[:, 1]], near[:, 0], near[:, 1])
    is_kept[weaker] = False
    return is_kept


def intensity_deviations(fit: AtomFit, positions_angstrom: Floats) -> Floats:
    """Standard deviations (n,) of the intensities of atoms at these positions (n, 2), as if each stood alone."""
    information = _information(fit)
    place = np.rint(positions_angstrom / fit.pixel_size_angstrom).astype(int)
    place = np.clip(place, 0, np.array(information.shape)[::-1] - 1)
    return np.asarray(1 / np.sqrt(information[place[:, 1], place[:, 0]]))


def _missed(fit: AtomFit, image: Floats, parameters: AtomFinderParameters) -> Floats:
    """Positions (n, 2) at which the residual, matched with the Gaussian, stands out of the noise."""
    from scipy.ndimage import gaussian_filter

    pixel, sigma = fit.pixel_size_angstrom, fit.sigma_angstrom
    matched = gaussian_filter(fit.weights * (image - fit.model), sigma / pixel, mode="constant") / pixel**2
    information = _information(fit)
    peaks = local_maxima(
        matched / np.sqrt(information), _CANDIDATE_ANGSTROM / pixel, _CANDIDATE_SHARE * parameters.least_significance
    )
    bright = (matched / information)[peaks[:, 0], peaks[:, 1]]
    peaks = peaks[bright > _CANDIDATE_INTENSITY * parameters.least_intensity * _brightest(fit, image.shape)]
    return peaks[:, ::-1] * pixel


def _far_from(places: Floats, candidates: Floats) -> Floats:
    """Candidates (n, 2) that do not lie where an atom was tried and taken out again."""
    from scipy.spatial import cKDTree

    if not len(places) or not len(candidates):
        return candidates
    return candidates[cKDTree(places).query(candidates)[0] > _REFUSED_ANGSTROM]


def _information(fit: AtomFit) -> Floats:
    """Inverse variance, at each pixel, of the intensity of one lonely atom there."""
    from scipy.ndimage import gaussian_filter

    pixel, sigma = fit.pixel_size_angstrom, fit.sigma_angstrom
    smooth = gaussian_filter(fit.weights, sigma / (np.sqrt(2) * pixel), mode="constant")
    return np.maximum(smooth / (4 * np.pi * sigma**2 * pixel**2), 1e-300)


def _brightest(fit: AtomFit, shape: tuple[int, ...]) -> float:
    inside = _inside(fit.positions_angstrom, shape, fit.pixel_size_angstrom)
    return float(fit.intensities[inside].max(initial=0.0))


def _inside(positions: Floats, shape: tuple[int, ...], pixel: float) -> NDArray[np.bool_]:
    edge = (np.array(shape)[::-1] - 0.5) * pixel
    return np.asarray(np.all((positions >= -0.5 * pixel) & (positions <= edge), axis=1))


def rows_inside(positions: Floats, intensities: Floats, shape: tuple[int, ...], pixel: float) -> list[dict[str, float]]:
    """One dictionary per position (n, 2) in the field, ordered by y, then x."""
    inside = np.flatnonzero(_inside(positions, shape, pixel))
    order = inside[np.lexsort(positions[inside].T)]
    return as_rows(positions[order], intensities[order])
