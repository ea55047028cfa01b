"""Training images drawn on the fly: structures in random poses, at random pixel size, probe, dose and distortion.

Belongs here: what is random of an image, and how it is drawn from one generator, so that equal seeds give equal images.
Rendering is faster than reading stored images, and no network sees the same image twice. What a network makes of a
scene (crops, targets, normalisation) is its own affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from atomvision_ml.images.columns import Columns, columns_in_view, columns_of
from atomvision_ml.images.detector import DetectorParameters, detect
from atomvision_ml.images.stem import Projection, View, render_batch

if TYPE_CHECKING:
    from atomvision_ml.images.stem_set import StemSet

Floats = NDArray[np.float32]


class SceneParameters(BaseModel):
    """Ranges from which scenes are drawn; flat and frozen. Pixel size and probe are drawn once for each batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_px: int = Field(default=128, ge=8, description="Edge of the square image in px.")
    minimum_pixel_size_angstrom: float = Field(default=0.2, gt=0, description="Smallest pixel in Å.")
    maximum_pixel_size_angstrom: float = Field(default=0.2, gt=0, description="Largest pixel in Å.")
    minimum_sigma_angstrom: float = Field(default=0.5, gt=0, description="Sharpest probe (standard deviation), Å.")
    maximum_sigma_angstrom: float = Field(default=0.5, gt=0, description="Bluntest probe, Å.")
    minimum_e_per_a2: float = Field(default=50.0, gt=0, description="Least mean detected dose, e/Å².")
    maximum_e_per_a2: float = Field(default=1e5, gt=0, description="Highest mean detected dose, e/Å².")
    clean_fraction: float = Field(default=0.2, ge=0, le=1, description="Share of scenes without noise.")
    maximum_background_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="Highest share of electrons that carry no image."
    )
    maximum_line_jitter_angstrom: float = Field(default=0.0, ge=0, description="Strongest jitter of scan lines, Å.")
    maximum_drift_angstrom: float = Field(default=0.0, ge=0, description="Farthest drift along either axis, Å.")
    recast_fraction: float = Field(
        default=0.0, ge=0, le=1, description="Share of scenes with other intensities and another scale (see `recast`)."
    )
    is_posed: bool = Field(default=True, description="Random rotation and shift; else both are zero.")

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> SceneParameters:
        for low, high in (
            (self.minimum_pixel_size_angstrom, self.maximum_pixel_size_angstrom),
            (self.minimum_sigma_angstrom, self.maximum_sigma_angstrom),
            (self.minimum_e_per_a2, self.maximum_e_per_a2),
        ):
            if low > high:
                raise ValueError(f"{low} is given as the least, {high} as the highest value")
        return self


@dataclass(frozen=True)
class Scenes:
    """A batch of n images and all that is known of them.

    Attributes:
        clean: (n, y, x) float32, noiseless and undistorted, 1/Å².
        seen: (n, y, x) float32, with dose, background and scan distortion; counts scaled to the mean of ``clean``.
        doses_e_per_a2: (n,) float64, mean detected dose; NaN where there is no noise.
        projections: n structures as drawn (recast ones differ from those given).
        views: n poses, all of one size and pixel size.
        sigma_angstrom: probe of the whole batch.
    """

    clean: Floats
    seen: Floats
    doses_e_per_a2: NDArray[np.float64]
    projections: tuple[Projection, ...]
    views: tuple[View, ...]
    sigma_angstrom: float

    @property
    def pixel_size_angstrom(self) -> float:
        """Edge of a pixel in Å, the same for the whole batch."""
        return self.views[0].pixel_size_angstrom

    def columns(self, index: int, margin_angstrom: float = 0.0, distance_angstrom: float = 1.0) -> Columns:
        """Columns of one image in image coordinates; those closer than the distance are merged by intensity."""
        projection = self.projections[index]
        cell = columns_of(projection, distance_angstrom)
        return columns_in_view(cell, projection.periods_angstrom, self.views[index], margin_angstrom)


class SceneLibrary:
    """The structures behind rows that name an image by ``blob`` and ``index`` (``models/training_sets`` and others).

    Args:
        rows: mappings with ``blob`` and ``index``.
        open_blob: local folder of a blob, as :meth:`Lake.blob`.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], open_blob: Callable[[str], Path]) -> None:
        self.rows = list(rows)
        self._open_blob = open_blob
        self._sets: dict[str, StemSet] = {}
        self._known: dict[int, Projection] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def projection(self, number: int) -> Projection:
        """The projected cell behind row ``number``; the same object each time."""
        if number not in self._known:
            row = self.rows[number]
            self._known[number] = self.stem_set(row["blob"]).projection(row["index"])
        return self._known[number]

    def view(self, number: int) -> View:
        """The pose in which the image of row ``number`` is stored."""
        row = self.rows[number]
        return self.stem_set(row["blob"]).view(row["index"])

    def stem_set(self, blob: str) -> StemSet:
        """The set of a blob, opened once."""
        from atomvision_ml.images.stem_set import StemSet

        if blob not in self._sets:
            self._sets[blob] = StemSet.open(self._open_blob(blob))
        return self._sets[blob]


def draw_scenes(projections: Sequence[Projection], parameters: SceneParameters, random: np.random.Generator) -> Scenes:
    """One scene of each structure.

    Args:
        projections: n structures with two periods each.
        parameters: the ranges.
        random: the only source of randomness.

    Raises:
        ValueError: no structures.
    """
    if not projections:
        raise ValueError("no structures to draw scenes of")
    chosen = parameters
    pixel = float(random.uniform(chosen.minimum_pixel_size_angstrom, chosen.maximum_pixel_size_angstrom))
    sigma = float(random.uniform(chosen.minimum_sigma_angstrom, chosen.maximum_sigma_angstrom))
    drawn = tuple(recast(each, random) if random.random() < chosen.recast_fraction else each for each in projections)
    views = tuple(_pose(each, pixel, chosen, random) for each in drawn)
    clean = render_batch(drawn, views, sigma_angstrom=sigma)
    seen = np.empty_like(clean)
    doses = np.full(len(drawn), np.nan)
    low, high = np.log(chosen.minimum_e_per_a2), np.log(chosen.maximum_e_per_a2)
    for number, image in enumerate(clean):
        is_clean, dose = random.random() < chosen.clean_fraction, float(np.exp(random.uniform(low, high)))
        doses[number] = np.nan if is_clean else dose
        seen[number] = expose(image, pixel, None if is_clean else dose, chosen, random)
    return Scenes(clean, seen, doses, drawn, views, sigma)


def expose(
    clean: Floats,
    pixel_size_angstrom: float,
    mean_detected_e_per_a2: float | None,
    parameters: SceneParameters,
    random: np.random.Generator,
) -> Floats:
    """An image through the detector, scaled back to the mean of ``clean``; without noise where there is no dose."""
    mean = float(clean.mean(dtype=float))
    if mean <= 0:
        return clean
    dose = 1.0 if mean_detected_e_per_a2 is None else mean_detected_e_per_a2
    detector = DetectorParameters(
        mean_detected_e_per_a2=dose,
        background_fraction=float(random.uniform(0, parameters.maximum_background_fraction)),
        line_jitter_angstrom=float(random.uniform(0, parameters.maximum_line_jitter_angstrom)),
        drift_x_angstrom=float(random.uniform(-1, 1) * parameters.maximum_drift_angstrom),
        drift_y_angstrom=float(random.uniform(-1, 1) * parameters.maximum_drift_angstrom),
        is_noisy=mean_detected_e_per_a2 is not None,
    )
    counts = detect(clean, pixel_size_angstrom, detector, seed=int(random.integers(2**62)))
    return counts * np.float32(mean / (dose * pixel_size_angstrom**2))


def at_dose(mean_detected_e_per_a2: float | None) -> dict[str, float]:
    """Fields of :class:`SceneParameters` by which every scene has this dose; None for scenes without noise."""
    if mean_detected_e_per_a2 is None:
        return {"clean_fraction": 1.0}
    dose = mean_detected_e_per_a2
    return {"clean_fraction": 0.0, "minimum_e_per_a2": dose, "maximum_e_per_a2": dose}


def recast(projection: Projection, random: np.random.Generator) -> Projection:
    """The same places in other hands: each species gets another intensity, and the cell another scale.

    A few prototypes show few pairs of elements; drawn with intensities from 2 % to 100 %, their columns show many more.
    In half of the cases the intensity also varies from atom to atom. Scale 0.92 to 1.1, the same along both axes.
    """
    species, index = np.unique(projection.weights, return_inverse=True)
    weights = np.exp(random.uniform(np.log(0.02), 0, len(species)))[index] * projection.weights.max()
    if random.random() < 0.5:
        weights = weights * np.exp(random.normal(0, 0.5, len(weights)))
    scale = float(random.uniform(0.92, 1.1))
    return Projection(projection.positions_angstrom * scale, weights, projection.periods_angstrom * scale)


def _pose(projection: Projection, pixel: float, parameters: SceneParameters, random: np.random.Generator) -> View:
    if not parameters.is_posed:
        return View(pixel, parameters.size_px)
    view = View(pixel, parameters.size_px, float(random.uniform(0, 360)))
    x, y = random.uniform(0, 1, 2) @ projection.periods_angstrom @ view.rotation.T
    return View(pixel, parameters.size_px, view.rotation_deg, (float(x), float(y)))
