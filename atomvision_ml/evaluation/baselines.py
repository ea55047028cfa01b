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

from atomvision_ml.evaluation.atom_matching import columns_that_count, match_atoms
from atomvision_ml.evaluation.holdout import ItemReader, OpenBlob, noise_seed
from atomvision_ml.evaluation.protocol import PROTOCOLS
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

LOG_SCALES, LOG_SHARES = (0.2, 0.3, 0.4, 0.5), (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
LOG_GRID: tuple[Setting, ...] = tuple(product(LOG_SCALES, LOG_SHARES))
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
    return _read_peaks(autocorrelation_peaks(image, pixel_size_angstrom), least_height, tolerance)


def autocorrelation_peaks(image: Image, pixel_size_angstrom: float) -> NDArray[np.float64]:
    """Local maxima of the autocorrelation beside the centre, (n, 3): x and y in Å, height; the shortest first.

    White noise is taken out of the power spectrum by its median; the shrinking overlap is divided out.
    """
    values = np.asarray(image, float)
    values = values - values.mean()
    if not np.any(values):
        return np.zeros((0, 3))
    spectrum = np.abs(np.fft.fft2(values, [2 * edge for edge in values.shape])) ** 2
    spectrum = np.clip(spectrum - np.median(spectrum), 0, None)
    correlation = np.fft.fftshift(np.fft.ifft2(spectrum).real)
    reach = [edge // 2 for edge in values.shape]
    correlation = correlation[tuple(slice(edge - r, edge + r + 1) for edge, r in zip(values.shape, reach, strict=True))]
    overlap = [1 - np.abs(np.arange(-r, r + 1)) / edge for r, edge in zip(reach, values.shape, strict=True)]
    correlation = correlation / (overlap[0][:, None] * overlap[1])
    peaks = local_maxima(correlation, 0.8 / pixel_size_angstrom, 0.0)
    steps = (peaks - reach)[:, ::-1] * pixel_size_angstrom
    lengths = np.hypot(*steps.T)
    found = np.column_stack([steps, correlation[peaks[:, 0], peaks[:, 1]]])
    order = np.argsort(lengths, kind="stable")
    return found[order[lengths[order] > 1.0]]


def tune_segmentation(
    items: pl.DataFrame, open_blob: OpenBlob, *, maximum_images: int = 16, doses: Sequence[float | None] | None = None
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

    def by_otsu(image: Image, row: Mapping[str, Any]) -> list[float]:
        truth = reader.mask(row)
        return [mask_iou(otsu_mask(image, row["pixel_size_angstrom"], *setting), truth) for setting in OTSU_GRID]

    def by_log(image: Image, row: Mapping[str, Any]) -> list[float]:
        truth, pixel = reader.mask(row), row["pixel_size_angstrom"]
        found = {scale: log_atoms(image, pixel, scale, min(LOG_SHARES)) for scale in LOG_SCALES}
        scores = []
        for scale, share in LOG_GRID:
            atoms = found[scale]
            high = atoms[:, 2] > share * atoms[:, 2].max(initial=0.0)
            scores.append(mask_iou(disks(atoms[high, :2], truth.shape, pixel), truth))
        return scores

    chosen = PROTOCOLS["segmentation"].doses_e_per_a2 if doses is None else doses
    return SegmentationBaselines(
        otsu={dose: _best(rows, reader, dose, OTSU_GRID, by_otsu) for dose in chosen},
        laplacian_of_gaussian={dose: _best(rows, reader, dose, LOG_GRID, by_log) for dose in chosen},
    )


def tune_atoms(
    items: pl.DataFrame, open_blob: OpenBlob, *, maximum_images: int = 16, doses: Sequence[float | None] | None = None
) -> Settings:
    """Scale and least response of the Laplacian of Gaussian with the best mean F1 of columns, for each dose.

    Arguments and errors as :func:`tune_segmentation`.
    """
    rows = _train_rows(items, maximum_images)
    reader = ItemReader(open_blob)

    def f1(image: Image, row: Mapping[str, Any]) -> list[float]:
        pixel, columns = row["pixel_size_angstrom"], reader.columns(row)
        field = ((image.shape[1] - 1) * pixel, (image.shape[0] - 1) * pixel)
        counts = columns_that_count(columns, field)
        found = {scale: log_atoms(image, pixel, scale, min(LOG_SHARES)) for scale in LOG_SCALES}
        scores = []
        for scale, share in LOG_GRID:
            high = found[scale][:, 2] > share * found[scale][:, 2].max(initial=0.0)
            match = match_atoms(found[scale][high, :2], columns.positions_angstrom, counts, field)
            scores.append(2 * match.n_matched / max(1, match.n_columns + match.n_found))
        return scores

    chosen = PROTOCOLS["atoms"].doses_e_per_a2 if doses is None else doses
    return {dose: _best(rows, reader, dose, LOG_GRID, f1) for dose in chosen}


def tune_lattice(
    items: pl.DataFrame, open_blob: OpenBlob, *, maximum_images: int = 24, doses: Sequence[float | None] | None = None
) -> LatticeBaselines:
    """Best parameters of the autocorrelation reader on the train split, and that split's class shares.

    Arguments and errors as :func:`tune_segmentation`.
    """
    rows = _train_rows(items, maximum_images)
    reader = ItemReader(open_blob)

    def is_right(image: Image, row: Mapping[str, Any]) -> list[float]:
        peaks = autocorrelation_peaks(image, row["pixel_size_angstrom"])
        answers = [_read_peaks(peaks, *setting) for setting in READER_GRID]
        return [float(found is not None and found[0] == row["bravais_lattice"]) for found in answers]

    counts = Counter(items.filter(pl.col("split") == "train")["bravais_lattice"])
    chosen = PROTOCOLS["lattice"].doses_e_per_a2 if doses is None else doses
    return LatticeBaselines(
        reader={dose: _best(rows, reader, dose, READER_GRID, is_right) for dose in chosen},
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
    scores: Callable[[Image, Mapping[str, Any]], list[float]],
) -> Setting:
    """The setting with the best mean score; of equal ones the first."""
    totals = np.zeros(len(grid))
    for row in rows:
        exposed = {
            **row,
            "mean_detected_e_per_a2": dose,
            "noise_seed": noise_seed(f"tuning:{row['image_id']}", dose),
        }
        totals += scores(reader.image(exposed), row)
    return grid[int(np.argmax(totals))]


def _train_rows(items: pl.DataFrame, maximum: int) -> list[dict[str, Any]]:
    rows = items.filter(pl.col("split") == "train").to_dicts()
    if not rows:
        raise ValueError("the train split is empty; the baselines are tuned on it")
    return sorted(rows, key=lambda row: stable_seed("tuning", row["image_id"]))[:maximum]


def _read_peaks(
    peaks: NDArray[np.float64], least_height: float, tolerance: float
) -> tuple[str, NDArray[np.float64]] | None:
    from atomvision_ml.structures.lattice import classify_cell, reduce_cell

    high = peaks[:, 2] >= least_height * peaks[:, 2].max(initial=0.0)
    cell = _shortest_pair(peaks[high, :2])
    if cell is None:
        return None
    reduced = reduce_cell(cell)
    return classify_cell(reduced, tolerance).name, reduced


def _shortest_pair(steps: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The shortest step and the shortest one at least 20° away from it, as rows."""
    if not len(steps):
        return None
    first = steps[0]
    sines = np.abs(first[0] * steps[:, 1] - first[1] * steps[:, 0]) / (np.hypot(*first) * np.hypot(*steps.T))
    independent = np.flatnonzero(sines > np.sin(np.deg2rad(20)))
    return np.stack([first, steps[independent[0]]]) if len(independent) else None
