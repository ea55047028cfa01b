"""The classical lattice finder: Bravais class and lattice vectors of an atomic-resolution image, without training.

Belongs here: the sequence of steps and what is public. The steps themselves are in the ``lattice_*`` modules beside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.images.preprocess import detrend, smooth_part
from atomvision_ml.models.lattice_evidence import log_bayes_factor, off_lattice, sublattice_matrices
from atomvision_ml.models.lattice_harmonics import HarmonicFit, RefinedBasis, harmonic_indices, refine_basis
from atomvision_ml.models.lattice_spectrum import Peaks, Spectrum, power_spectrum, significant_peaks
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES
from atomvision_ml.structures.lattice import class_strains, reduce_cell

Array = NDArray[np.float64]

MODEL_NAME = "lattice_finder"


class NoLatticeError(ValueError):
    """The image shows no two-dimensional lattice; the message says why."""


class LatticeFinderParameters(BaseModel):
    """How the finder decides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_tolerance: float = Field(default=0.003, gt=0, description="Symmetrising strain within which a cell is in a class.")
    relative_floor: float = Field(
        default=1e-3, gt=0, lt=1, description="Amplitude, relative to the strongest reflection, below which nothing is believed."
    )
    minimum_evidence: float = Field(
        default=5.0, ge=0, description="Log Bayes factor, over the prior of the index, that accepts a superlattice."
    )
    largest_index: int = Field(default=6, ge=2, le=12, description="Largest index of a superlattice tested for weak reflections.")
    most_harmonics: int = Field(default=320, ge=8, description="Most harmonics (half plane) in the least-squares fit.")
    displacement_tolerance_angstrom: float = Field(default=0.004, ge=0)


@dataclass(frozen=True)
class LatticeResult:
    """What the finder says of one image."""

    lattice: str
    probabilities: dict[str, float]
    lattice_vectors_angstrom: Array
    uncertainties_angstrom: Array
    model: str = MODEL_NAME
    diagnostics: dict[str, float] = field(default_factory=dict)


DEBUG = None


def find_lattice(image: ArrayLike, pixel_size_angstrom: float, parameters: LatticeFinderParameters | None = None) -> LatticeResult:
    """..."""
    parameters = parameters or LatticeFinderParameters()
    values = _checked(image, pixel_size_angstrom)
    spectrum = power_spectrum(values, is_windowed=True)
    peaks = _peaks(spectrum, parameters)
    values, factor = _binned(values, peaks)
    basis = _base_lattice(peaks.frequencies * factor, peaks, min(values.shape))
    reach = float(np.linalg.norm(peaks.frequencies, axis=1).max()) * factor * 1.05 + 1 / min(values.shape)
    search = _Search(values, reach, pixel_size_angstrom * factor, parameters)
    refined = search.run(basis)
    return _result(refined, search, pixel_size_angstrom * factor, parameters)


def _checked(image, pixel_size_angstrom):
    values = np.asarray(image)
    if values.ndim != 2:
        raise ValueError(f"an image is [y, x]; got shape {values.shape} (convert colour to grey first)")
    if not (math.isfinite(pixel_size_angstrom) and pixel_size_angstrom > 0):
        raise ValueError(f"pixel_size_angstrom must be positive; got {pixel_size_angstrom}")
    if min(values.shape) < 24:
        raise NoLatticeError(f"the field of {values.shape[1]} × {values.shape[0]} pixels is too small; give at least 24 × 24")
    values = detrend(values)
    scale = values.std()
    if not scale > 1e-12 * max(1e-300, np.abs(np.asarray(image)).max()):
        raise NoLatticeError("the image is constant")
    return values / scale


def _peaks(spectrum: Spectrum, parameters) -> Peaks:
    peaks = significant_peaks(spectrum, threshold=18.0, floor=0.0, most=64)
    far = np.linalg.norm(peaks.frequencies, axis=1) * min(spectrum.field) > 1.6
    peaks = Peaks(peaks.frequencies[far], peaks.power[far], peaks.snr[far])
    if len(peaks):
        keep = peaks.power > peaks.power[0] * parameters.relative_floor**2
        peaks = Peaks(peaks.frequencies[keep], peaks.power[keep], peaks.snr[keep])
    if len(peaks) < 2:
        raise NoLatticeError("no two significant reflections in the power spectrum")
    return peaks


def _binned(values, peaks):
    highest = np.abs(peaks.frequencies).max()
    factor = max(1, min(int(0.33 / highest), min(values.shape) // 48))
    if factor == 1:
        return values, 1
    ny, nx = (n // factor * factor for n in values.shape)
    return values[:ny, :nx].reshape(ny // factor, factor, nx // factor, factor).mean(axis=(1, 3)), factor


def _base_lattice(frequencies: Array, peaks: Peaks, size: int) -> Array:
    """The coarsest lattice spanned by two strong peaks that explains most of the peaks."""
    strong = frequencies[:14]
    weights = np.log(peaks.snr)
    best, best_score = None, -np.inf
    for i in range(len(strong)):
        for j in range(i):
            pair = strong[[i, j]]
            area = abs(np.linalg.det(pair)) * size * size
            if area < 4.0 or area < 0.2 * np.prod(np.linalg.norm(pair, axis=1)) * size * size * 0.5:
                continue
            coordinates = frequencies @ np.linalg.inv(pair)
            whole = np.rint(coordinates)
            miss = np.linalg.norm((coordinates - whole) @ pair, axis=1) * size
            explained = miss < 0.3 + 0.06 * np.abs(whole).sum(axis=1)
            score = float((weights * explained).sum()) / weights.sum() + 0.05 * math.log(area)
            if score > best_score:
                best, best_score = pair, score
    if best is None:
        raise NoLatticeError("the significant reflections lie on one line: periodic in one direction only")
    return _fitted_to_peaks(_reduced(best), frequencies, weights, size)


def _fitted_to_peaks(basis, frequencies, weights, size):
    for _ in range(3):
        whole = np.rint(frequencies @ np.linalg.inv(basis))
        miss = np.linalg.norm(frequencies - whole @ basis, axis=1) * size
        use = (miss < 0.35) & np.any(whole != 0, axis=1)
        if np.linalg.matrix_rank(whole[use]) < 2:
            break
        w = use * weights
        basis = np.linalg.solve((whole * w[:, None]).T @ whole, (whole * w[:, None]).T @ frequencies)
    return basis


def _reduced(basis: Array) -> Array:
    return reduce_cell(basis)


class _Search:
    def __init__(self, values, reach, pixel, parameters):
        self.values, self.reach, self.pixel, self.parameters = values, reach, pixel, parameters
        self.log = []

    def refine(self, basis, steps=2):
        indices = harmonic_indices(basis, self.reach, self.parameters.most_harmonics)
        for _ in range(steps):
            refined = refine_basis(self.values, basis, indices, steps=1)
            self.values = self.values - smooth_part(refined.fit.residual)
            basis = refined.fit.basis
        return refined

    def run(self, basis):
        refined = self.refine(basis)
        for _ in range(5):
            finer = self.finer(refined.fit)
            if finer is None:
                break
            refined = self.refine(_reduced(finer), 2)
        for _ in range(4):
            coarser = self.coarser(refined.fit)
            if coarser is None:
                break
            refined = self.refine(_reduced(coarser), 2)
        return refined

    def noise(self, fit: HarmonicFit, spectrum: Spectrum, frequencies):
        n = self.values.size
        floor = (self.parameters.relative_floor * np.abs(fit.amplitudes).max() * n) ** 2
        angles = np.arange(12) * (np.pi / 6)
        ring = np.concatenate([r * np.column_stack((np.cos(angles), np.sin(angles))) for r in (1.6, 2.6)]) / min(self.values.shape)
        local = np.median(spectrum.power_at(frequencies[:, None, :] + ring), axis=1) / math.log(2)
        return np.maximum(np.maximum(local, spectrum.noise_at(frequencies)), floor)

    def envelope(self, fit: HarmonicFit):
        power = np.abs(fit.amplitudes) ** 2 * self.values.size**2
        g2 = (fit.frequencies**2).sum(axis=1)
        keep = power > 1e-6 * power.max()
        design = np.column_stack((np.ones(keep.sum()), g2[keep]))
        if keep.sum() < 4:
            level, slope = np.log(power[keep].mean()), 0.0
        else:
            level, slope = np.linalg.lstsq(design, np.log(power[keep]), rcond=None)[0]
            slope = min(slope, 0.0)
            level = np.log((power[keep] * np.exp(-slope * g2[keep])).mean())
        return lambda f: np.exp(level + slope * (f**2).sum(axis=1))

    def displacement(self, power_super, fit_main_freq, fit_main_power):
        g2 = (fit_main_freq**2).sum(axis=1) * (2 * np.pi) ** 2
        return math.sqrt(2 * max(power_super, 0) / max((g2 * fit_main_power).sum(), 1e-300)) * self.pixel

    def finer(self, fit: HarmonicFit):
        spectrum = power_spectrum(fit.residual, is_windowed=False, padding=2)
        env = self.envelope(fit)
        best, best_score = None, self.parameters.minimum_evidence
        main_power = np.abs(fit.amplitudes) ** 2 * self.values.size**2
        for index in range(2, self.parameters.largest_index + 1):
            for matrix in sublattice_matrices(index):
                m = np.array(matrix).T
                basis = _reduced(np.linalg.inv(m) @ fit.basis)
                if np.linalg.norm(basis, axis=1).min() * min(self.values.shape) < 1.2:
                    continue
                indices = harmonic_indices(basis, self.reach, self.parameters.most_harmonics)
                frequencies = indices @ basis
                main = frequencies @ np.linalg.inv(fit.basis)
                new = np.abs(main - np.rint(main)).max(axis=1) > 1e-6
                frequencies = frequencies[new]
                power = spectrum.power_at(frequencies)
                noise = self.noise(fit, spectrum, frequencies)
                score = log_bayes_factor(power / noise, env(frequencies) / noise) - self.penalty(index)
                u = self.displacement((power - noise).sum(), fit.frequencies, main_power)
                self.log.append(("finer", index, matrix, round(score, 1), round(u, 5)))
                if score > best_score and u > self.parameters.displacement_tolerance_angstrom:
                    best, best_score = basis, score
        return best

    def penalty(self, index):
        return 1.5 * math.log(index)

    def coarser(self, fit: HarmonicFit):
        spectrum = power_spectrum(fit.residual, is_windowed=False, padding=2)
        noise = self.noise(fit, spectrum, fit.frequencies) / self.values.size
        snr = np.abs(fit.amplitudes) ** 2 / (noise / 1 * fit.variances)
        power = np.abs(fit.amplitudes) ** 2 * self.values.size**2
        best, best_score = None, self.parameters.minimum_evidence
        for index in range(2, self.parameters.largest_index + 1):
            for matrix in sublattice_matrices(index):
                m = np.array(matrix)
                off = off_lattice(fit.indices, m)
                if off.all() or not off.any():
                    continue
                env = self.envelope(HarmonicFit(fit.basis, fit.indices[~off], fit.amplitudes[~off], fit.variances[~off], fit.residual))
                score = log_bayes_factor(snr[off], env(fit.frequencies[off]) / (noise[off] * self.values.size)) - self.penalty(index)
                u = self.displacement(power[off].sum() - noise[off].sum() * self.values.size, fit.frequencies[~off], power[~off])
                self.log.append(("coarser", index, matrix, round(score, 1), round(u, 5)))
                if score < best_score or u < self.parameters.displacement_tolerance_angstrom:
                    if best is None or index > best[0]:
                        best = (index, m @ fit.basis)
        return None if best is None else best[1]


def _result(refined: RefinedBasis, search, pixel, parameters) -> LatticeResult:
    basis = refined.fit.basis
    cell = reduce_cell(np.linalg.inv(basis).T * pixel)
    change = np.rint(cell / pixel @ basis.T)
    jacobian = np.empty((4, 4))
    inverse = np.linalg.inv(basis)
    for k in range(4):
        unit = np.zeros(4)
        unit[k] = 1
        jacobian[:, k] = (change @ -(inverse @ unit.reshape(2, 2) @ inverse).T * pixel).ravel()
    covariance = jacobian @ refined.covariance @ jacobian.T
    probabilities = _class_probabilities(cell, covariance, parameters)
    lattice = max(probabilities, key=probabilities.get)
    return LatticeResult(lattice, probabilities, cell, np.sqrt(np.diag(covariance)).reshape(2, 2), MODEL_NAME, {"log": search.log, "h": len(refined.fit.indices)})


def _class_probabilities(cell, covariance, parameters):
    strains = class_strains(cell)
    names = ("hexagonal", "square", "rectangular", "rhombic")
    variance = dict.fromkeys(names, 0.0)
    values, vectors = np.linalg.eigh(covariance)
    for value, vector in zip(values, vectors.T, strict=True):
        step = math.sqrt(max(value, 0)) * vector.reshape(2, 2)
        up, down = class_strains(cell + step), class_strains(cell - step)
        for name in names:
            variance[name] += max(abs(up[name] - strains[name]), abs(down[name] - strains[name])) ** 2
    inside = {}
    for name in names:
        sigma = math.sqrt(variance[name])
        bound = math.hypot(parameters.class_tolerance, 2.5 * sigma)
        inside[name] = 0.5 * math.erfc((strains[name] - bound) / math.sqrt(2) / math.hypot(sigma, 0.0003))
    high = {name: inside[name] for name in ("hexagonal", "square")}
    rest = (1 - high["hexagonal"]) * (1 - high["square"])
    p = {"hexagonal": high["hexagonal"], "square": high["square"] * (1 - high["hexagonal"])}
    p["rectangular"] = rest * inside["rectangular"] * (1 - 0.5 * inside["rhombic"])
    p["rhombic"] = rest * inside["rhombic"] * (1 - 0.5 * inside["rectangular"])
    p["oblique"] = rest * (1 - inside["rectangular"]) * (1 - inside["rhombic"])
    total = sum(p.values())
    return {name: p[name] / total for name in BRAVAIS_LATTICES}
