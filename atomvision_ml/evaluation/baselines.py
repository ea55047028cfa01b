"""What every model is quoted against: simple methods, tuned on the train split, and trivial answers.

Belongs here: the baselines and their tuning. They get a fair chance: their parameters are those with the best score on
images of the train split, chosen for each dose by itself (no model is told the dose).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atomvision_ml.evaluation.holdout import DOSES, ItemReader, OpenBlob, noise_seed
from atomvision_ml.images.atoms import laplacian_of_gaussian_atoms, local_maxima
from atomvision_ml.models.training import stable_seed
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES

Mask = NDArray[np.bool_]
Image = NDArray[Any]
Setting = tuple[float, ...]
Settings = dict[float | None, Setting]

ATOM_RADIUS_ANGSTROM = 0.5

OTSU_GRID: tuple[Setting, ...] = tuple(product((0.0, 0.1, 0.2, 0.3, 0.4), (0.8, 1.0, 1.2, 1.4, 1.6, 1.8)))
"""Smoothing in Å, and factor on the threshold above the image's minimum."""

LOG_GRID: tuple[Setting, ...] = tuple(product((0.2, 0.3, 0.4, 0.5), (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)))
"""Scale of the Laplacian of Gaussian in Å, and least response as a share of the largest."""

READER_GRID: tuple[Setting, ...] = tuple(product((0.3, 0.5, 0.7, 0.8, 0.9), (0.01, 0.02, 0.03, 0.05)))
"""Least height of an autocorrelation peak as a share of the highest, and strain up to which a class is accepted."""


@dataclass(frozen=True)
class SegmentationBaselines:
    """Tuned parameters of the classical segmentations by dose."""

    otsu: Settings
    laplacian_of_gaussian: Settings


@dataclass(frozen=True)
class LatticeBaselines:
    """Tuned parameters of the autocorrelation reader by dose, and the class shares of the train split."""

    reader: Settings
    class_shares: dict[str, float]

    @property
    def majority_class(self) -> str:
        """The most frequent class of the train split."""
        return max(self.class_shares, key=lambda name: self.class_shares[name])


def otsu_mask(image: Image, pixel_size_angstrom: float, smoothing_angstrom: float = 0.0, factor: float = 1.0) -> Mask:
    """Threshold by Otsu's criterion (IEEE Trans. SMC 9, 62, 1979) after Gaussian smoothing.

    Args:
        image: [y, x].
        pixel_size_angstrom: edge of a pixel in Å.
        smoothing_angstrom: standard deviation of the smoothing in Å.
        factor: on the threshold's height above the image's minimum; 1 is Otsu's own.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.filters import threshold_otsu

    values = np.asarray(image, float)
    if smoothing_angstrom:
        values = gaussian_filter(values, smoothing_angstrom / pixel_size_angstrom, mode="nearest")
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return np.zeros(values.shape, bool)
    return values > low + factor * (threshold_otsu(values) - low)


def log_atoms(image: Image, pixel_size_angstrom: float, scale_angstrom: float, share: float) -> NDArray[np.float64]:
    """Atoms by the Laplacian of Gaussian, sub-pixel; (n, 3) x, y in Å and response."""
    return laplacian_of_gaussian_atoms(
        image, pixel_size_angstrom, sigma_angstrom=scale_angstrom, relative_threshold=share
    )


def disks(positions_angstrom: NDArray[np.float64], shape: tuple[int, ...], pixel_size_angstrom: float) -> Mask:
    """Disks of 0.5 Å around positions (n, 2), drawn as the true masks are."""
    from atomvision_ml.images.columns import column_mask

    square = column_mask(positions_angstrom, max(shape), pixel_size_angstrom, ATOM_RADIUS_ANGSTROM)
    return square[: shape[0], : shape[1]]


def read_lattice(
    image: Image, pixel_size_angstrom: float, least_height: float = 0.5, tolerance: float = 0.03
) -> tuple[str, NDArray[np.float64]] | None:
    """The plain reader: the two shortest independent peaks of the autocorrelation, reduced and classified.

    No refinement, no weighing of weak reflections: what one gets in a few lines.

    Args:
        image: [y, x].
        pixel_size_angstrom: edge of a pixel in Å.
        least_height: of a peak, as a share of the highest beside the centre.
        tolerance: strain up to which the cell counts as of a higher class.

    Returns:
        Class and reduced vectors (2, 2) in Å; None where no two independent peaks stand out.
    """
    from atomvision_ml.structures.lattice import classify_cell, reduce_cell

    values = np.asarray(image, float)
    values = values - values.mean()
    if not np.any(values):
        return None
    spectrum = np.abs(np.fft.fft2(values, [2 * edge for edge in values.shape])) ** 2
    spectrum -= np.median(spectrum)
    correlation = np.fft.fftshift(np.fft.ifft2(np.clip(spectrum, 0, None)).real)
    centre = np.array(correlation.shape) // 2
    reach = [edge // 2 for edge in values.shape]
    correlation = correlation[tuple(slice(c - r, c + r + 1) for c, r in zip(centre, reach, strict=True))]
    overlap = [1 - np.abs(np.arange(-r, r + 1)) / edge for r, edge in zip(reach, values.shape, strict=True)]
    correlation = correlation / (overlap[0][:, None] * overlap[1])
    peaks = local_maxima(correlation, 0.8 / pixel_size_angstrom, 0.0)
    steps = (peaks - reach)[:, ::-1] * pixel_size_angstrom
    heights = correlation[peaks[:, 0], peaks[:, 1]]
    lengths = np.hypot(*steps.T)
    away = lengths > 1.0
    if not away.any():
        return None
    steps, lengths = steps[away], lengths[away]
    high = heights[away] >= least_height * heights[away].max()
    cell = _shortest_pair(steps[high][np.argsort(lengths[high], kind="stable")])
    if cell is None:
        return None
    reduced = reduce_cell(cell)
    return classify_cell(reduced, tolerance).name, reduced


def tune_segmentation(
    items: pl.DataFrame, open_blob: OpenBlob, *, maximum_images: int = 24, doses: Sequence[float | None] | None = None
) -> SegmentationBaselines:
    """Best parameters of Otsu and of the Laplacian of Gaussian on the train split, for each dose.

    Args:
        items: rows of ``models/training_sets``; only the ``train`` split is used.
        open_blob: local folder of a blob.
        maximum_images: as many are used.
        doses: at which; by default those of the hold-out.

    Raises:
        ValueError: the train split is empty.
    """
    rows = _train_rows(items, maximum_images)
    reader = ItemReader(open_blob)

    def by_otsu(image: Image, row: Mapping[str, Any], setting: Setting) -> float:
        return mask_iou(otsu_mask(image, row["pixel_size_angstrom"], *setting), reader.mask(row))

    def by_log(image: Image, row: Mapping[str, Any], setting: Setting) -> float:
        found = log_atoms(image, row["pixel_size_angstrom"], *setting)
        return mask_iou(disks(found[:, :2], image.shape, row["pixel_size_angstrom"]), reader.mask(row))

    chosen = DOSES["segmentation"] if doses is None else doses
    return SegmentationBaselines(
        otsu={dose: _best(rows, reader, dose, OTSU_GRID, by_otsu) for dose in chosen},
        laplacian_of_gaussian={dose: _best(rows, reader, dose, LOG_GRID, by_log) for dose in chosen},
    )


def tune_lattice(
    items: pl.DataFrame, open_blob: OpenBlob, *, maximum_images: int = 24, doses: Sequence[float | None] | None = None
) -> LatticeBaselines:
    """Best parameters of the autocorrelation reader on the train split, and that split's class shares.

    Arguments and errors as :func:`tune_segmentation`.
    """
    rows = _train_rows(items, maximum_images)
    reader = ItemReader(open_blob)

    def score(image: Image, row: Mapping[str, Any], setting: Setting) -> float:
        found = read_lattice(image, row["pixel_size_angstrom"], *setting)
        return float(found is not None and found[0] == row["bravais_lattice"])

    counts = Counter(items.filter(pl.col("split") == "train")["bravais_lattice"])
    chosen = DOSES["lattice"] if doses is None else doses
    return LatticeBaselines(
        reader={dose: _best(rows, reader, dose, READER_GRID, score) for dose in chosen},
        class_shares={name: counts[name] / counts.total() for name in BRAVAIS_LATTICES},
    )


def mask_iou(found: Mask, truth: Mask) -> float:
    """Intersection over union; 1 where both are empty."""
    union = int(np.count_nonzero(found | truth))
    return np.count_nonzero(found & truth) / union if union else 1.0


def _best(
    rows: Sequence[Mapping[str, Any]],
    reader: ItemReader,
    dose: float | None,
    grid: Sequence[Setting],
    score: Callable[[Image, Mapping[str, Any], Setting], float],
) -> Setting:
    """The setting with the best mean score; of equal ones the first."""
    totals = np.zeros(len(grid))
    for row in rows:
        exposed = {
            **row,
            "mean_detected_e_per_a2": dose,
            "noise_seed": noise_seed(f"tuning:{row['image_id']}", dose),
        }
        image = reader.image(exposed)
        totals += [score(image, row, setting) for setting in grid]
    return grid[int(np.argmax(totals))]


def _train_rows(items: pl.DataFrame, maximum: int) -> list[dict[str, Any]]:
    rows = items.filter(pl.col("split") == "train").to_dicts()
    if not rows:
        raise ValueError("the train split is empty; the baselines are tuned on it")
    return sorted(rows, key=lambda row: stable_seed("tuning", row["image_id"]))[:maximum]


def _shortest_pair(steps: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The shortest step and the shortest one at least 20° away from it, as rows."""
    if not len(steps):
        return None
    first = steps[0]
    sines = np.abs(first[0] * steps[:, 1] - first[1] * steps[:, 0]) / (np.hypot(*first) * np.hypot(*steps.T))
    independent = np.flatnonzero(sines > np.sin(np.deg2rad(20)))
    return np.stack([first, steps[independent[0]]]) if len(independent) else None
