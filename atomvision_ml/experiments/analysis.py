"""What a microscopist wants to know of one micrograph: all measurements of this room, in order, on one image.

Belongs here: the order, what each step needs of the former, and what is said where a step has nothing to say. Nothing
raises on a bad picture: a step that cannot be taken leaves a note. Without calibration every length is in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.experiments.diffraction_spots import Region, Spots, find_spots
from atomvision_ml.experiments.distortion import Affine, affine_distortion, frame_drift_px, line_jitter_px
from atomvision_ml.experiments.facets import FacetAssignment, assign_facets
from atomvision_ml.experiments.quality import Quality, image_quality
from atomvision_ml.experiments.reference_phases import ReferencePhase
from atomvision_ml.experiments.spot_columns import SpotColumns, find_columns
from atomvision_ml.experiments.spot_lattice import SpotLattice, lattice_of_spots
from atomvision_ml.experiments.strain import StrainMap, bend_of_rows, strain_map
from atomvision_ml.experiments.zone_axes import ZoneAxis, is_decided, name_zone_axis
from atomvision_ml.images.preprocess import detrend
from atomvision_ml.models.domain import Domain, check_domain
from atomvision_ml.models.lattice_classes import SCAN_DISTORTION_PERCENT, strains_percent
from atomvision_ml.models.lattice_spectrum import power_spectrum
from atomvision_ml.structures.lattice import class_strains, symmetrise_cell

Array = NDArray[np.float64]
PixelSize = float | tuple[float, float] | None

_COLUMN_WIDTH = 0.18
"""Standard deviation of a column in spacings of the strongest planes, to start from."""

_SPECIAL = ("hexagonal", "square", "rectangular", "rhombic")
_SMALLEST_PX = 32
_DARK_SKEWNESS = -0.3
_EVEN_PIXELS = 1e-3
_TRUSTED_SCALE = 0.02
"""Disagreement with a known crystal up to which a calibration passes without a word."""


class AnalysisParameters(BaseModel):
    """What is done to an image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    largest_px: int = Field(
        default=2048, ge=256, description="Longest edge for spots and columns; of more, the middle."
    )
    scan_distortion_percent: float = Field(
        default=SCAN_DISTORTION_PERCENT, ge=0, le=10, description="Standard deviation of the strain that a scan adds."
    )
    forgiven_strain: float = Field(
        default=0.03, ge=0, lt=0.2, description="Strain up to which a cell is compared with a class of higher symmetry."
    )


@dataclass(frozen=True)
class RadialProfile:
    """Mean power over noise in rings of the diffractogram: ring centres in 1/Å (or 1/px), and the means."""

    frequencies: Array
    power_over_noise: Array


@dataclass(frozen=True)
class Analysis:
    """What was measured; parts that could not be are None, and ``notes`` say why.

    Attributes:
        shape: rows and columns.
        pixel_size_xy_angstrom: edges of a pixel along x and y; None where the image is not calibrated.
        region: part of the image that spots, profile and columns come from; positions count from the whole's origin.
        quality: noise, sharpness, anisotropy, saturation.
        profile: radial mean of the diffractogram.
        spots: of the diffractogram.
        lattice: fitted to them.
        planes: of the spots, against the phases asked for.
        zone_axes: that show this lattice, of the phases asked for, most probable first.
        distortion: affine, against ``distortion_reference``.
        distortion_reference: a zone axis, or the class of higher symmetry that the crystal may have.
        line_jitter_px: of scan lines.
        frame_drift_px: (n, 2) x and y of each frame against the first; None for a single one.
        strain: map against the mean lattice.
        columns: bright columns, or dark ones if ``is_dark``.
        is_dark: whether columns are darker than their surroundings.
        domain: comparison with the training images of the networks; None without calibration.
        notes: what could not be done, and what to beware of.
    """

    shape: tuple[int, int]
    pixel_size_xy_angstrom: tuple[float, float] | None
    region: Region
    quality: Quality
    profile: RadialProfile
    spots: Spots
    lattice: SpotLattice | None
    planes: FacetAssignment | None
    zone_axes: tuple[ZoneAxis, ...]
    distortion: Affine | None
    distortion_reference: str
    line_jitter_px: float
    frame_drift_px: Array | None
    strain: StrainMap | None
    columns: SpotColumns | None
    is_dark: bool
    domain: Domain | None
    notes: tuple[str, ...]

    @property
    def unit(self) -> str:
        """Unit of lengths: Å, or px."""
        return "Å" if self.pixel_size_xy_angstrom else "px"

    @property
    def column_positions(self) -> Array:
        """(n, 2) x and y of the columns from the centre of pixel [0, 0] of the whole image, in Å (or px)."""
        found = np.zeros((0, 2)) if self.columns is None else self.columns.positions
        return (found + np.array([self.region.x_px, self.region.y_px])) * (self.pixel_size_xy_angstrom or (1.0, 1.0))

    @property
    def zone_axis(self) -> ZoneAxis | None:
        """The zone axis, where one stands out."""
        return self.zone_axes[0] if is_decided(self.zone_axes) else None

    @property
    def bend_px(self) -> float | None:
        """Largest bend of the rows' displacements from a straight line, px: uneven drift, or a bent crystal."""
        return None if self.strain is None else float(np.abs(bend_of_rows(self.strain.row_displacement)).max())

    def summary(self) -> dict[str, Any]:
        """The numbers as JSON can hold them."""
        lattice, columns, strain = self.lattice, self.columns, self.strain
        said: dict[str, Any] = {
            "shape": list(self.shape),
            "pixel_size_xy_angstrom": self.pixel_size_xy_angstrom and list(self.pixel_size_xy_angstrom),
            "length_unit": "angstrom" if self.pixel_size_xy_angstrom else "px",
            "quality": vars(self.quality),
            "n_spots": len(self.spots),
            "line_jitter_px": self.line_jitter_px,
            "frame_drift_px": None if self.frame_drift_px is None else self.frame_drift_px.tolist(),
            "lattice": None if lattice is None else _lattice_said(lattice),
            "zone_axes": [_axis_said(axis) for axis in self.zone_axes[:5]],
            "zone_axis": self.zone_axis.name if self.zone_axis else None,
            "distortion": None if self.distortion is None else _distortion_said(self),
            "strain_spread": None if strain is None else dict(zip(("xx", "yy", "xy"), strain.spread(), strict=True)),
            "strain_sigma": None if strain is None else strain.strain_sigma,
            "bend_px": self.bend_px,
            "n_columns": None if columns is None else len(columns),
            "column_groups": None if columns is None else np.bincount(columns.classes).tolist(),
            "typicality": self.domain.typicality if self.domain else None,
            "notes": list(self.notes),
        }
        return said


def analyse(
    image: ArrayLike,
    pixel_size_angstrom: PixelSize = None,
    phases: Iterable[ReferencePhase] = (),
    frames: Iterable[ArrayLike] | None = None,
    parameters: AnalysisParameters | None = None,
) -> Analysis:
    """Measure one micrograph.

    Args:
        image: [y, x], finite, sides of at least 32 pixels.
        pixel_size_angstrom: edge of a pixel in Å, or its edges along x and y; None if it is not known.
        phases: what the crystal may be; without any, no axis is named.
        frames: frames [y, x] of which the image is the mean, for their drift.
        parameters: what is done.

    Raises:
        ValueError: the image is not [y, x], too small or not finite, or the pixel size is not positive.
    """
    chosen, values = parameters or AnalysisParameters(), np.asarray(image)
    if values.ndim != 2 or min(values.shape) < _SMALLEST_PX or values.dtype.kind not in "biuf":
        raise ValueError(f"an image is [y, x] of real numbers, at least {_SMALLEST_PX} px wide; got {values.shape}")
    pixel, notes = _pixel(pixel_size_angstrom), []
    region = _region(values.shape, chosen.largest_px)
    part = np.asarray(region.of(values), np.float32)
    if (part.shape) != values.shape:
        notes.append(f"spots, lattice and columns come from the middle {region.width_px} × {region.height_px} pixels")
    quality = image_quality(values)
    spots = find_spots(part)
    lattice = lattice_of_spots(spots, pixel or (1.0, 1.0), chosen.scan_distortion_percent)
    if lattice is None:
        notes.append(f"{len(spots)} spots in the diffractogram form no lattice")
    known = tuple(phases)
    is_even = pixel is None or abs(pixel[1] / pixel[0] - 1) < _EVEN_PIXELS
    planes = assign_facets(spots, pixel[0] if pixel else None, known) if known and len(spots) and is_even else None
    axes = name_zone_axis(lattice, known, is_calibrated=pixel is not None) if lattice and known else ()
    if known and lattice and not is_decided(axes):
        notes.append("no zone axis of the phases asked for stands out" if axes else "no zone axis of the phases fits")
    distortion, reference = _distortion(lattice, axes, chosen.forgiven_strain)
    if is_decided(axes) and pixel and abs(axes[0].distortion.scale - 1) > _TRUSTED_SCALE:
        scale = axes[0].distortion.scale
        notes.append(f"the stated pixel size disagrees with {axes[0].name} by {100 * (scale - 1):+.1f} %")
    is_dark, columns = _columns(part, spots, lattice)
    domain = check_domain(part, pixel[0]) if pixel and is_even else None
    notes += _cautions(pixel, is_even, quality, domain)
    return Analysis(
        shape=(int(values.shape[0]), int(values.shape[1])),
        pixel_size_xy_angstrom=pixel,
        region=region,
        quality=quality,
        profile=radial_profile(part, pixel),
        spots=spots,
        lattice=lattice,
        planes=planes,
        zone_axes=axes,
        distortion=distortion,
        distortion_reference=reference,
        line_jitter_px=line_jitter_px(part),
        frame_drift_px=None if frames is None else frame_drift_px(frames),
        strain=_strain(values, spots, lattice, quality.noise),
        columns=columns,
        is_dark=is_dark,
        domain=domain,
        notes=tuple(notes),
    )


def of_technique(found: Analysis, technique: str | None) -> Analysis:
    """The same with a note where the record's technique says that no crystal is seen directly."""
    if technique != "DIFFRACTION":
        return found
    note = "a diffraction pattern by its record: lattice, columns and strain are those of its spots, in the image plane"
    return replace(found, notes=(*found.notes, note))


def radial_profile(image: ArrayLike, pixel_size_xy: tuple[float, float] | None = None) -> RadialProfile:
    """Mean power over noise in rings of one resolution element.

    Args:
        image: [y, x], finite.
        pixel_size_xy: edges of a pixel; None for frequencies in 1/px.
    """
    flat = detrend(image)
    spectrum = power_spectrum(flat, is_windowed=True)
    x, y = pixel_size_xy or (1.0, 1.0)
    frequency = np.hypot(np.fft.rfftfreq(spectrum.shape[1], x)[None, :], np.fft.fftfreq(spectrum.shape[0], y)[:, None])
    step = 1 / min(flat.shape[1] * x, flat.shape[0] * y)
    count = int(0.5 / max(x, y) / step)
    ring = np.minimum((frequency / step + 0.5).astype(int), count).ravel()
    total = np.maximum(np.bincount(ring, minlength=count + 1), 1)
    mean = np.bincount(ring, spectrum.power.ravel(), count + 1) / total
    floor = max(
        float(np.median(spectrum.floor[-max(1, len(spectrum.floor) // 5) :])), 1e-12 * float(mean.max()), 1e-300
    )
    return RadialProfile(np.arange(1, count) * step, mean[1:count] / floor)


def _pixel(size: PixelSize) -> tuple[float, float] | None:
    if size is None:
        return None
    both = (float(size), float(size)) if isinstance(size, int | float) else (float(size[0]), float(size[1]))
    if not all(0 < edge < np.inf for edge in both):
        raise ValueError(f"the pixel size must be positive, not {size}")
    return both


def _region(shape: tuple[int, ...], largest_px: int) -> Region:
    height, width = (min(edge, largest_px) for edge in shape)
    return Region((shape[0] - height) // 2, (shape[1] - width) // 2, height, width)


def _distortion(
    lattice: SpotLattice | None, axes: tuple[ZoneAxis, ...], forgiven_strain: float
) -> tuple[Affine | None, str]:
    """Against the named axis; else against the highest class that a small strain reaches; else nothing."""
    if lattice is None:
        return None, ""
    if is_decided(axes):
        return axes[0].distortion, axes[0].name
    strains = class_strains(lattice.cell)
    name = next((name for name in _SPECIAL if strains[name] <= forgiven_strain), None)
    if name is None:
        return None, ""
    distortion = affine_distortion(lattice.cell, symmetrise_cell(lattice.cell, name), lattice.covariance)
    return distortion, f"a {name} lattice of the same area, should the crystal have one"


def _strain(values: NDArray[Any], spots: Spots, lattice: SpotLattice | None, noise: float) -> StrainMap | None:
    """By the two strongest spots of the lattice that are not collinear."""
    if lattice is None:
        return None
    own = np.flatnonzero(lattice.indices.any(axis=1))
    for other in own[1:]:
        if (
            lattice.indices[own[0], 0] * lattice.indices[other, 1]
            != lattice.indices[own[0], 1] * lattice.indices[other, 0]
        ):
            return strain_map(values, spots.frequencies[[own[0], other]], noise)
    return None


def _columns(part: NDArray[Any], spots: Spots, lattice: SpotLattice | None) -> tuple[bool, SpotColumns | None]:
    from scipy.ndimage import gaussian_filter
    from scipy.stats import skew

    if lattice is None:
        return False, None
    width = _COLUMN_WIDTH / float(np.linalg.norm(spots.frequencies[lattice.indices.any(axis=1)][0]))
    flat = detrend(part)
    is_dark = float(skew(gaussian_filter(flat, width), axis=None)) < _DARK_SKEWNESS
    return is_dark, find_columns(-flat if is_dark else flat, width)


def _cautions(pixel: tuple[float, float] | None, is_even: bool, quality: Quality, domain: Domain | None) -> list[str]:
    notes = []
    if pixel is None:
        notes.append("the image is not calibrated: all lengths are in pixels")
    if not is_even:
        notes.append(
            "pixels are not square: planes are not assigned and the image is not compared with training images"
        )
    if quality.clipped_share > 0.001:
        notes.append(f"{quality.clipped_share:.1%} of the pixels are saturated: intensities there mean nothing")
    return [*notes, *(domain.warnings if domain else ())]


def _lattice_said(lattice: SpotLattice) -> dict[str, Any]:
    values, sigmas = lattice.parameters
    names = ("a", "b", "gamma_deg")
    return {
        "bravais_lattice": lattice.lattice,
        "probabilities": lattice.probabilities,
        "strain_percent": strains_percent(lattice.cell),
        "vectors": lattice.cell.tolist(),
        "vector_uncertainties": lattice.uncertainties.tolist(),
        **{name: float(value) for name, value in zip(names, values, strict=True)},
        **{f"{name}_uncertainty": float(value) for name, value in zip(names, sigmas, strict=True)},
    }


def _axis_said(axis: ZoneAxis) -> dict[str, Any]:
    return {
        "name": axis.name,
        "probability": axis.probability,
        "deviation": axis.deviation,
        "scale": axis.distortion.scale,
        "anisotropy": axis.distortion.anisotropy,
    }


def _distortion_said(analysis: Analysis) -> dict[str, Any]:
    found = analysis.distortion
    assert found is not None
    return {
        "reference": analysis.distortion_reference,
        "scale_x": found.scale_x,
        "scale_y": found.scale_y,
        "shear_deg": found.shear_deg,
        "sigmas": list(found.sigmas),
        "anisotropy": found.anisotropy,
    }
