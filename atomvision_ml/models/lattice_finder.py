"""The classical lattice finder: Bravais class and lattice vectors of an atomic-resolution image, without training.

Belongs here: what is public, and the sequence of steps. The steps themselves are in the ``lattice_*`` modules beside:
peaks of the power spectrum (the transform of the autocorrelation), lattices that explain them, least squares of all
harmonics, evidence for superlattices, class probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.images.preprocess import detrend
from atomvision_ml.models.lattice_classes import class_probabilities, mix, strain_sigmas
from atomvision_ml.models.lattice_evidence import off_lattice, sublattice_matrices
from atomvision_ml.models.lattice_harmonics import HarmonicFit, RefinedBasis
from atomvision_ml.models.lattice_peaks import candidate_lattices
from atomvision_ml.models.lattice_search import LatticeSearch
from atomvision_ml.models.lattice_spectrum import Peaks, power_spectrum, significant_peaks, without_streaks
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES
from atomvision_ml.structures.lattice import CLASS_TOLERANCE, class_strains, classify_cell, reduce_cell

Array = NDArray[np.float64]

MODEL_NAME = "lattice_finder"

_SMALLEST_SIDE_PX = 24
_LONGEST_PERIOD = 1 / 1.6
"""Longest period looked for, as a fraction of the field."""

_SMALLEST_ODDS = 1e-3
"""Alternatives with smaller odds are left out of the probabilities."""

_MOST_ALTERNATIVE_ODDS = 0.8
"""All rejected alternatives together, against the lattice found."""

_STRONG_SHARE = 0.01
"""Power over that of the strongest peak above which a peak is strong."""

_SATELLITE_PER_STRAIN = 3.0
"""Amplitude of the satellites that an uneven scan gives a reflection G, over that of G and over the strain's. A strain
ε of frequency q moves columns by ε/(2πq), which makes satellites of ε G/(2q) at G ± q; a superlattice has q ≥ G/6."""

_BINNED_FREQUENCY = 0.33
"""Images are binned while all reflections stay below this frequency (cycles per binned pixel)."""


class NoLatticeError(ValueError):
    """The image shows no two-dimensional lattice; the message says why."""


class LatticeFinderParameters(BaseModel):
    """How the finder decides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_tolerance: float = Field(
        default=CLASS_TOLERANCE,
        gt=0,
        lt=0.1,
        description="Symmetrising strain (fraction) within which a cell is in a class.",
    )
    scan_distortion_percent: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Standard deviation of the strain that drift and calibration of the scan add; 0: a perfect scan.",
    )
    peak_threshold: float = Field(
        default=18.0, gt=1, description="Power over noise of a significant reflection; exp(-18) per sample."
    )
    relative_floor: float = Field(
        default=1e-3,
        gt=0,
        lt=1,
        description="Amplitude over that of the strongest reflection that counts as noise even if noise-free.",
    )
    minimum_evidence: float = Field(
        default=5.0, ge=0, description="Log Bayes factor, less the penalty of its index, that a superlattice needs."
    )
    minimum_agreement: float = Field(
        default=3.0, description="Log odds, beyond the two peaks that span it, that a lattice of peaks needs."
    )
    largest_index: int = Field(default=6, ge=2, le=12, description="Largest index of a superlattice that is tested.")
    most_harmonics: int = Field(default=400, ge=8, description="Most harmonics (of a half plane) in the fit.")

    @property
    def amplitude_floor(self) -> float:
        """Amplitude over that of the strongest reflection that proves nothing: noise, satellites of an uneven scan."""
        return max(self.relative_floor, _SATELLITE_PER_STRAIN * self.scan_distortion_percent / 100)


@dataclass(frozen=True)
class LatticeResult:
    """What the finder says of one image.

    Attributes:
        lattice: The most probable Bravais class.
        probabilities: Class name to probability, summing to 1.
        lattice_vectors_angstrom: (2, 2) rows (x, y), reduced, right-handed in (x, y), |a| ≤ |b|, primitive; x =
        column ×
            pixel size, y = row × pixel size.
        uncertainties_angstrom: (2, 2) standard uncertainties of the components; the pixel size counts as exact.
        model: Name of the model.
    """

    lattice: str
    probabilities: dict[str, float]
    lattice_vectors_angstrom: Array
    uncertainties_angstrom: Array
    model: str = MODEL_NAME


@dataclass(frozen=True)
class OtherLattice:
    """A lattice that the image may have instead of the one found.

    Attributes:
        lattice: its Bravais class.
        weight: of a lattice with more reflections, its odds; of a parent, which has fewer, the amplitude of the
            strongest reflection that it lacks over that of the strongest one.
        snr: power of that reflection over the noise; 0 where it is not known.
    """

    lattice: str
    weight: float
    snr: float = 0.0


@dataclass(frozen=True)
class LatticeEvidence:
    """What the finder's answer rests on.

    Attributes:
        result: the answer.
        strains: strain (fraction) that makes the cell each class.
        strain_sigmas: standard uncertainty of the strain to each class above oblique.
        resolution_elements: area of the reciprocal cell in resolution elements of the field.
        alternatives: superlattices that could not be excluded.
        parents: lattices that lack some of the reflections found, by index up to 4.
    """

    result: LatticeResult
    strains: dict[str, float]
    strain_sigmas: dict[str, float]
    resolution_elements: float
    alternatives: tuple[OtherLattice, ...]
    parents: tuple[OtherLattice, ...]


def find_lattice(
    image: ArrayLike, pixel_size_angstrom: float, parameters: LatticeFinderParameters | None = None
) -> LatticeResult:
    """Bravais class and lattice vectors of an image of one crystal; nothing need be known of the structure.

    Smooth background and vignetting are removed first. The reflections above the noise of the power spectrum give
    candidate lattices, whose bases are refined by least squares of all harmonics; a superlattice is accepted if the
    whitened residual holds enough evidence for its reflections. The class is that of the cell within the strain
    tolerance, or the most symmetric one within reach where the scan may be distorted (``scan_distortion_percent``).

    Args:
        image: [y, x], finite, any unit; at least 24 pixels and about two periods along each side.
        pixel_size_angstrom: Edge of the square pixels, Å.
        parameters: How to decide; None for the defaults.

    Returns:
        Class with probabilities, primitive vectors with standard uncertainties.

    Raises:
        NoLatticeError: the image is constant, too small, or shows no lattice.
        ValueError: the image is not [y, x] or not finite, or the pixel size is not positive.
    """
    return _found(image, pixel_size_angstrom, parameters or LatticeFinderParameters())[0]


def examine_lattice(
    image: ArrayLike, pixel_size_angstrom: float, parameters: LatticeFinderParameters | None = None
) -> LatticeEvidence:
    """As :func:`find_lattice`, with all that speaks for and against the answer; arguments and errors as there."""
    chosen = parameters or LatticeFinderParameters()
    result, refined, search, pixel = _found(image, pixel_size_angstrom, chosen)
    tolerance = chosen.class_tolerance
    cell, covariance = _real_cell(refined, pixel)
    others = [(odds, _direct(basis)) for odds, basis in search.alternatives if odds > _SMALLEST_ODDS]
    return LatticeEvidence(
        result=result,
        strains=class_strains(cell),
        strain_sigmas=strain_sigmas(cell, covariance, chosen.scan_distortion_percent),
        resolution_elements=_resolution_elements(refined.fit),
        alternatives=tuple(OtherLattice(classify_cell(other, tolerance).name, odds) for odds, other in others),
        parents=tuple(_parents(refined.fit, tolerance)),
    )


def _found(
    image: ArrayLike, pixel_size_angstrom: float, parameters: LatticeFinderParameters
) -> tuple[LatticeResult, RefinedBasis, LatticeSearch, float]:
    """The answer, the refined basis and the search behind it, and the size (Å) of the pixels that these count in."""
    values = _prepared(image, pixel_size_angstrom)
    peaks, bases = _reflections(values, parameters)
    values, factor = _binned(values, peaks)
    size = min(values.shape)
    highest = factor * float(np.linalg.norm(peaks.frequencies, axis=1).max())
    search = LatticeSearch(
        values,
        min(0.5, 1.2 * highest + 1 / size),
        relative_floor=parameters.amplitude_floor,
        minimum_evidence=parameters.minimum_evidence,
        largest_index=parameters.largest_index,
        most_harmonics=parameters.most_harmonics,
    )
    try:
        refined = search.run([basis * factor for basis in bases])
        pixel = pixel_size_angstrom * factor
        return _result(refined, search.alternatives, pixel, parameters), refined, search, pixel
    except np.linalg.LinAlgError as error:
        raise NoLatticeError(f"the reflections cannot be told apart; give a larger field ({error})") from error


def _parents(fit: HarmonicFit, tolerance: float) -> list[OtherLattice]:
    """Every lattice finer in space by 2 to 4, with the strongest of the reflections that it lacks."""
    amplitudes = np.abs(fit.amplitudes)
    power_of_noise = fit.pixel_variance * fit.variances
    found = []
    for index in range(2, 5):
        for matrix in sublattice_matrices(index):
            off = off_lattice(fit.indices, matrix)
            if not off.any():
                continue
            name = classify_cell(_direct(np.array(matrix) @ fit.basis), tolerance).name
            snr = float((amplitudes[off] ** 2 / np.maximum(power_of_noise[off], 1e-300)).max())
            found.append(OtherLattice(name, float(amplitudes[off].max() / amplitudes.max()), snr))
    return found


def _direct(basis: Array) -> Array:
    """Real-space cell of a reciprocal basis."""
    return np.asarray(np.linalg.inv(basis).T, dtype=np.float64)


def _prepared(image: ArrayLike, pixel_size_angstrom: float) -> Array:
    """Checked and detrended image of unit variance."""
    values = np.asarray(image)
    if values.ndim != 2:
        raise ValueError(
            f"an image is [y, x]; got shape {values.shape} (make one grey image of colours or stacks first)"
        )
    if not (math.isfinite(pixel_size_angstrom) and pixel_size_angstrom > 0):
        raise ValueError(f"pixel_size_angstrom must be a positive number; got {pixel_size_angstrom}")
    if min(values.shape) < _SMALLEST_SIDE_PX:
        height, width = values.shape
        raise NoLatticeError(
            f"the field of {width} x {height} pixels is too small; give at least {_SMALLEST_SIDE_PX} on each side"
        )
    flat = detrend(values)
    scale = float(flat.std())
    if scale <= 1e-9 * float(np.abs(values).max()):
        raise NoLatticeError("the image is constant up to a smooth background")
    return flat / scale


def _reflections(values: Array, parameters: LatticeFinderParameters) -> tuple[Peaks, list[Array]]:
    """Peaks of the power spectrum above the noise, and candidate bases for them in cycles per pixel."""
    spectrum = power_spectrum(values, is_windowed=True)
    size = min(values.shape)
    # The reflections of a large cell leave no noise between them in a small field; the outer rings then tell it.
    for attempt, strictness in ((spectrum, 1.0), (spectrum.with_white_floor(), 3.0)):
        peaks = significant_peaks(attempt, threshold=parameters.peak_threshold, most=64)
        peaks = without_streaks(attempt, peaks, parameters.peak_threshold)
        peaks = peaks.where(np.linalg.norm(peaks.frequencies, axis=1) * size * _LONGEST_PERIOD > 1)
        if len(peaks):
            peaks = peaks.where(peaks.power > peaks.power[0] * parameters.amplitude_floor**2)
        try:
            agreement = strictness * parameters.minimum_agreement
            return peaks, [basis / size for basis in _candidates(peaks.frequencies * size, peaks.power, agreement)]
        except NoLatticeError as error:
            reason = error
    raise reason


def _binned(values: Array, peaks: Peaks) -> tuple[Array, int]:
    """The image binned as far as its reflections allow, and the factor."""
    factor = max(1, min(int(_BINNED_FREQUENCY / np.abs(peaks.frequencies).max()), min(values.shape) // 48))
    ny, nx = (n // factor for n in values.shape)
    blocks = values[: ny * factor, : nx * factor].reshape(ny, factor, nx, factor)
    return (blocks.mean(axis=(1, 3)), factor) if factor > 1 else (values, 1)


def _candidates(frequencies_bins: Array, power: Array, minimum_agreement: float) -> list[Array]:
    """Candidate bases, in bins, that explain more peaks than the two that span them.

    Strong peaks are asked first: weak ones may be artefacts; if they are a superlattice's, the residual will show it.
    """
    if len(power) < 2:
        raise NoLatticeError(f"{len(power)} significant reflections in the power spectrum; a lattice needs two")
    for share, fewest in ((_STRONG_SHARE, 3), (0.0, 2)):
        strong = frequencies_bins[power > share * power[0]]
        found = candidate_lattices(strong)
        is_agreed = len(strong) == 2 or (bool(found) and found[0].agreement > minimum_agreement)
        if found and is_agreed and len(strong) >= fewest:
            return [candidate.basis for candidate in found]
    if not found:
        raise NoLatticeError("the significant reflections lie on one line: periodic in one direction only")
    raise NoLatticeError(f"{len(frequencies_bins)} significant reflections, but they do not form one lattice")


def _result(
    refined: RefinedBasis,
    alternatives: list[tuple[float, Array]],
    pixel_size_angstrom: float,
    parameters: LatticeFinderParameters,
) -> LatticeResult:
    tolerance = parameters.class_tolerance
    cell, covariance = _real_cell(refined, pixel_size_angstrom)
    sigmas = strain_sigmas(cell, covariance, parameters.scan_distortion_percent)
    found = class_probabilities(cell, sigmas, tolerance)
    likely = [(odds, basis) for odds, basis in alternatives if odds > _SMALLEST_ODDS]
    share = min(1.0, _MOST_ALTERNATIVE_ODDS / max(sum(odds for odds, _ in likely), 1e-9))
    anything = dict.fromkeys(BRAVAIS_LATTICES, 1 / len(BRAVAIS_LATTICES))
    parts = [(1.0, found), (_odds_unresolved(refined.fit), anything)]
    for odds, basis in likely:
        other = np.asarray(np.linalg.inv(basis).T * pixel_size_angstrom, dtype=np.float64)
        parts.append((share * odds, class_probabilities(other, sigmas, tolerance)))
    probabilities = mix(parts)
    lattice = max(probabilities, key=probabilities.__getitem__)
    return LatticeResult(lattice, probabilities, cell, np.sqrt(np.diag(covariance)).reshape(2, 2))


def _odds_unresolved(fit: HarmonicFit) -> float:
    """Odds that the lattice is another one because the field holds too few of its periods.

    Measured on random structures in fields of 25.6 Å: nearly all lattices found with a reciprocal cell of less than 4
    resolution elements are wrong, none with more than 6.
    """
    return math.exp(min(2.0 * (5.0 - _resolution_elements(fit)), 5.0))


def _resolution_elements(fit: HarmonicFit) -> float:
    """Area of the reciprocal cell in units of that which the field resolves."""
    return abs(float(np.linalg.det(fit.basis))) * fit.residual.size


def _real_cell(refined: RefinedBasis, pixel_size_angstrom: float) -> tuple[Array, Array]:
    """Reduced real-space cell (2, 2) and the (4, 4) covariance of its components, from d(B⁻¹) = −B⁻¹ dB B⁻¹."""
    inverse = np.linalg.inv(refined.fit.basis)
    cell = reduce_cell(inverse.T * pixel_size_angstrom)
    change = np.rint(cell / pixel_size_angstrom @ refined.fit.basis.T)
    units = np.eye(4).reshape(4, 2, 2)
    columns = [(-change @ (inverse @ unit @ inverse).T * pixel_size_angstrom).ravel() for unit in units]
    jacobian = np.column_stack(columns)
    return cell, jacobian @ refined.covariance @ jacobian.T
