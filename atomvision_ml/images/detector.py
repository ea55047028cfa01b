"""What source, scan and detector make of an ideal image: blur, scan distortion, background and counting statistics.

Belongs here: everything between the ideal image and the counts that a detector delivers. Images come from
:mod:`atomvision_ml.images.stem`, or from anywhere else.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator


class DetectorParameters(BaseModel):
    """A detector and its scan; flat and frozen. The defaults are an ideal counter without dose given twice.

    The dose is either ``mean_detected_e_per_a2``, or ``incident_e_per_a2`` times ``detected_fraction``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean_detected_e_per_a2: float | None = Field(
        default=None, ge=0, description="Detected electrons per Å², averaged over the field, background included."
    )
    incident_e_per_a2: float | None = Field(default=None, ge=0, description="Incident electrons per Å².")
    detected_fraction: float = Field(
        default=0.05, ge=0, le=1, description="Share of the incident electrons detected, averaged over the field."
    )
    source_size_angstrom: float = Field(
        default=0.0, ge=0, description="Standard deviation of the Gaussian source image that blurs the image, in Å."
    )
    background_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the detected electrons that carry no image."
    )
    line_jitter_angstrom: float = Field(
        default=0.0, ge=0, description="Standard deviation of each row's random shift along x, in Å."
    )
    drift_x_angstrom: float = Field(default=0.0, description="Drift along x from the first to the last row, in Å.")
    drift_y_angstrom: float = Field(default=0.0, description="Drift along y from the first to the last row, in Å.")
    is_noisy: bool = Field(default=True, description="Poisson counts; False returns their expectation.")

    @model_validator(mode="after")
    def _dose_is_given_once(self) -> DetectorParameters:
        if (self.mean_detected_e_per_a2 is None) == (self.incident_e_per_a2 is None):
            raise ValueError("give either mean_detected_e_per_a2 or incident_e_per_a2 (with detected_fraction)")
        return self

    @property
    def mean_e_per_a2(self) -> float:
        """Detected electrons per Å², averaged over the field."""
        if self.mean_detected_e_per_a2 is not None:
            return self.mean_detected_e_per_a2
        return float(self.incident_e_per_a2 or 0.0) * self.detected_fraction


def detect(image: np.ndarray, pixel_size_angstrom: float, parameters: DetectorParameters, seed: int = 0) -> np.ndarray:
    """Counts per pixel of an ideal image.

    In this order: blur by the source, shift of rows by drift and jitter, background, scaling to the dose, noise.

    Args:
        image: [y, x], any scale, not negative.
        pixel_size_angstrom: edge of a pixel in Å.
        parameters: the detector.
        seed: the same seed gives the same counts.

    Returns:
        float32 counts [y, x]; their expectation averages to dose · pixel area. An empty image gives zeros.

    Raises:
        ValueError: the image is not two-dimensional, not finite, or has negative values.
    """
    ideal = _checked(image, pixel_size_angstrom)
    random = np.random.default_rng(seed)
    seen = _scanned(_blurred(ideal, pixel_size_angstrom, parameters), pixel_size_angstrom, parameters, random)
    mean = float(seen.mean()) if seen.size else 0.0
    if mean <= 0:
        return np.zeros(ideal.shape, np.float32)
    share = parameters.background_fraction
    expected = (seen * ((1 - share) / mean) + share) * (parameters.mean_e_per_a2 * pixel_size_angstrom**2)
    return (random.poisson(expected) if parameters.is_noisy else expected).astype(np.float32)


def poisson_counts(
    image: np.ndarray, pixel_size_angstrom: float, mean_detected_e_per_a2: float, seed: int = 0
) -> np.ndarray:
    """:func:`detect` with a dose and nothing else."""
    return detect(image, pixel_size_angstrom, DetectorParameters(mean_detected_e_per_a2=mean_detected_e_per_a2), seed)


def dose_name(mean_detected_e_per_a2: float | None) -> str:
    """``clean`` without noise, else the dose as a short number."""
    return "clean" if mean_detected_e_per_a2 is None else f"{mean_detected_e_per_a2:g}"


def _checked(image: np.ndarray, pixel_size_angstrom: float) -> np.ndarray:
    ideal = np.asarray(image, float)
    if ideal.ndim != 2:
        raise ValueError(f"an image has two axes [y, x], not shape {ideal.shape}")
    if not pixel_size_angstrom > 0:
        raise ValueError(f"pixel_size_angstrom must be positive, not {pixel_size_angstrom}")
    if ideal.size and not np.isfinite(ideal).all():
        raise ValueError("the image has values that are not finite")
    if ideal.size and ideal.min() < -1e-5 * np.abs(ideal).max():
        raise ValueError("the image has negative values; intensities must not be negative")
    return np.clip(ideal, 0, None)


def _blurred(image: np.ndarray, pixel_size_angstrom: float, parameters: DetectorParameters) -> np.ndarray:
    if parameters.source_size_angstrom == 0 or image.size == 0:
        return image
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, parameters.source_size_angstrom / pixel_size_angstrom, mode="reflect")


def _scanned(
    image: np.ndarray, pixel_size_angstrom: float, parameters: DetectorParameters, random: np.random.Generator
) -> np.ndarray:
    drift = np.array([parameters.drift_x_angstrom, parameters.drift_y_angstrom])
    if image.size == 0 or (parameters.line_jitter_angstrom == 0 and not drift.any()):
        return image
    from scipy.ndimage import map_coordinates

    rows, columns = image.shape
    progress = np.linspace(0.0, 1.0, rows) if rows > 1 else np.zeros(1)
    jitter = random.normal(0.0, parameters.line_jitter_angstrom, rows)
    shift_x = (drift[0] * progress + jitter) / pixel_size_angstrom
    shift_y = drift[1] * progress / pixel_size_angstrom
    y, x = np.mgrid[:rows, :columns].astype(float)
    coordinates = [y - shift_y[:, None], x - shift_x[:, None]]
    return np.clip(map_coordinates(image, coordinates, order=3, mode="reflect"), 0, None)
