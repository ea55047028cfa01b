"""The refined segmenter: the atoms of the segmenter's map, fitted together, drawn as disks.

Belongs here: from fitted columns to mask and probability. A pixel is *atom* if its centre lies within 0.5 Å of a
column; most pixels of such a disk lie near its edge, so a mask can be no better than the positions behind it: 1, 3 or
5 pm of error cost 0.03, 0.09 or 0.15 of IoU. The joint fit (:mod:`atomvision_ml.images.atom_fit`) reaches the
Cramér-Rao bound of the positions, and what repeats in the image is known better still; a map that a network draws pixel
by pixel does not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from atomvision_ml.models.atom_finder import (
    AtomFinderParameters,
    complete_fit,
    fitted_columns,
    intensity_deviations,
    rows_inside,
)
from atomvision_ml.models.segmenter import Segmentation, segment

if TYPE_CHECKING:
    from atomvision_ml.images.atom_fit import AtomFit
    from atomvision_ml.images.columns import Columns

Floats = NDArray[np.float64]

_LEAST_DEVIATION_ANGSTROM = 1e-3


class RefinedSegmenterParameters(AtomFinderParameters):
    """How atoms are fitted and drawn; flat and frozen."""

    least_column_intensity: float = Field(
        default=0.0, ge=0, description="Least intensity of a column that is drawn, as a share of the brightest."
    )
    radius_angstrom: float = Field(default=0.5, gt=0, description="Radius of an atom in the mask, Å.")


def segment_refined(
    image: ArrayLike,
    pixel_size_angstrom: float,
    parameters: RefinedSegmenterParameters | None = None,
    *,
    segmenter: str | Path | None = None,
    device: str = "cpu",
) -> Segmentation:
    """Tell atoms from background, edges placed by a joint fit of all atoms.

    Args:
        image: [y, x], finite; best as counts, whose noise is then known.
        pixel_size_angstrom: edge of a pixel in Å.
        parameters: of the fit and of the disks.
        segmenter: checkpoint folder or name of the network that says where atoms are; by default the released one.
        device: torch device of the network.

    Returns:
        As :func:`segment`. The probability is that of the pixel's centre lying within the radius of the nearest
        column, for the standard deviation that the counts allow a column which stands alone, and the less where other
        cells of the crystal agree; ``intensity`` is the fitted integral in units of the image times Å².

    Raises:
        ValueError, CheckpointError: as :func:`segment`.
    """
    chosen = parameters or RefinedSegmenterParameters()
    seen = segment(image, pixel_size_angstrom, segmenter, device=device)
    if not chosen.is_fitted:
        return seen
    start = np.array([(atom["x_angstrom"], atom["y_angstrom"]) for atom in seen.atoms]).reshape(-1, 2)
    refined = refine(np.asarray(image, np.float64), pixel_size_angstrom, start, chosen)
    return replace(refined, model=f"refined_segmenter on {seen.model}")


def refine(
    image: Floats, pixel_size_angstrom: float, start_angstrom: Floats, parameters: RefinedSegmenterParameters
) -> Segmentation:
    """The segmentation by a joint fit that starts from these atoms.

    Args:
        image: [y, x], finite.
        pixel_size_angstrom: edge of a pixel in Å.
        start_angstrom: (n, 2) positions to start from; without any there are no atoms.
        parameters: of the fit and of the disks.
    """
    if not len(start_angstrom):
        nothing = np.zeros(image.shape, np.float32)
        return Segmentation(nothing, nothing > 0, [], "refined_segmenter")
    fit = complete_fit(image, pixel_size_angstrom, start_angstrom, parameters)
    columns = fitted_columns(fit, image.shape, parameters)
    probability = _probability(fit, columns, image.shape, parameters.radius_angstrom)
    atoms = rows_inside(columns.positions_angstrom, columns.weights, image.shape, pixel_size_angstrom)
    return Segmentation(probability, probability >= 0.5, atoms, "refined_segmenter")


def _probability(fit: AtomFit, columns: Columns, shape: tuple[int, ...], radius: float) -> NDArray[np.float32]:
    """[y, x], that a pixel's centre lies within the radius of the nearest column."""
    from scipy.spatial import cKDTree
    from scipy.special import ndtr

    if not len(columns.weights):
        return np.zeros(shape, np.float32)
    # The position of a lonely Gaussian is known to sqrt(2) sigma times the relative deviation of its intensity.
    relative = intensity_deviations(fit, columns.positions_angstrom) / columns.weights
    left = fit.noise_left[cKDTree(fit.positions_angstrom).query(columns.positions_angstrom)[1]]
    deviation = np.maximum(np.sqrt(2) * fit.sigma_angstrom * relative * left, _LEAST_DEVIATION_ANGSTROM)
    y, x = np.indices(shape) * fit.pixel_size_angstrom
    reach = radius + 5 * float(deviation.max())
    distance, nearest = cKDTree(columns.positions_angstrom).query(
        np.column_stack([x.ravel(), y.ravel()]), distance_upper_bound=reach
    )
    spread = np.append(deviation, 1.0)[nearest]
    return ndtr((radius - distance) / spread).reshape(shape).astype(np.float32)
