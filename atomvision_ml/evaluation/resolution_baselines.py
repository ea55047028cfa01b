"""Classical super-resolution: what a network must be compared with.

Belongs here: methods without training, and what they may know: the box of the coarse pixels, the spectrum of the train
split, the level of the noise; the lattice fit also that the image is periodic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atomvision_ml.images.reduction import FACTOR, WienerFilter, cubic_upsampled, fourier_upsampled, variance_kept
from atomvision_ml.images.scenes import SceneLibrary
from atomvision_ml.images.stem import View, render_batch
from atomvision_ml.models.lattice_finder import LatticeFinderParameters, NoLatticeError, find_lattice
from atomvision_ml.models.lattice_harmonics import HarmonicFit, harmonic_indices, refine_basis
from atomvision_ml.models.training import stable_seed

Floats = NDArray[np.float64]

_PROBE_ANGSTROM = 0.5
_REACH_PER_ANGSTROM = 1.15
"""Highest frequency of the lattice fit: the probe lets exp(−2π²σ²g²) = 0.1 % of it through."""
_MOST_HARMONICS = 400
_MOST_VARIANCE = 2.0
"""Variance of the fine image over that expected of it, above which harmonics were mistaken for each other."""
_LOW_FREQUENCY = 0.5
_SEARCHES = tuple(LatticeFinderParameters(largest_index=index, most_harmonics=100 * index) for index in (2, 4))
"""Tried in turn until one explains the image: an eager finder takes aliased reflections for those of a superlattice."""
_LEAST_RING_POWER = 1e-4
_WORST_RESIDUAL = 0.01
"""Mean square residual, as a share of the image's variance and beyond the noise, with which a fit is still believed."""


@dataclass(frozen=True)
class RadialSpectrum:
    """Mean power spectrum of fine images of unit variance, by frequency.

    Attributes:
        step: cycles per fine pixel between two entries.
        power: (n,) mean |F|² per fine pixel.
    """

    step: float
    power: tuple[float, ...]

    def __call__(self, frequency: NDArray[np.float64]) -> NDArray[np.float64]:
        """Power at frequencies in cycles per fine pixel; zero beyond the last entry."""
        places = np.arange(len(self.power)) * self.step
        return np.asarray(np.interp(frequency, places, self.power, right=0.0), np.float64)


def train_spectrum(
    training_set: pl.DataFrame,
    open_blob: Callable[[str], Path],
    fine_pixel_angstrom: float,
    *,
    size_px: int = 256,
    maximum_images: int = 32,
) -> RadialSpectrum:
    """Spectrum of the train split on a fine grid: periodograms under a Hann window, averaged over rings.

    Args:
        training_set: rows of ``models/training_sets``; only the train split is read.
        open_blob: local folder of a blob.
        fine_pixel_angstrom: pixel size of the fine grid.
        size_px: edge of the images.
        maximum_images: how many are averaged, drawn by a hash of the item.

    Raises:
        ValueError: the train split is empty.
    """
    rows = training_set.filter(pl.col("split") == "train").to_dicts()
    if not rows:
        raise ValueError("the train split is empty; the Wiener filter takes its spectrum from there")
    rows = sorted(rows, key=lambda row: stable_seed(row["item_id"]))[:maximum_images]
    library = SceneLibrary(rows, open_blob)
    poses = [library.view(number) for number in range(len(rows))]
    views = [View(fine_pixel_angstrom, size_px, pose.rotation_deg, pose.shift_angstrom) for pose in poses]
    images = render_batch([library.projection(number) for number in range(len(rows))], views).astype(np.float64)
    window = np.hanning(size_px)[:, None] * np.hanning(size_px)
    ring = _rings((size_px, size_px))
    total = np.zeros(size_px // 2)
    for image in images:
        standard = (image - image.mean()) / (image.std() or 1.0)
        power = np.abs(np.fft.fft2(standard * window)) ** 2 / np.sum(window**2)
        total += ring_means(power, ring)
    return RadialSpectrum(1 / size_px, tuple((total / len(images)).tolist()))


def upscaled_by_all(
    coarse: NDArray[np.floating], fine_pixel_angstrom: float, noise_variance: float, spectrum: RadialSpectrum
) -> dict[str, Floats]:
    """The fine image by each classical method: ``bicubic``, ``fourier``, ``wiener``, ``lattice_harmonics``.

    Args:
        coarse: [y, x], square.
        fine_pixel_angstrom: pixel size of the fine grid.
        noise_variance: of a coarse pixel, on average.
        spectrum: of the train split, for the Wiener filter.

    Returns:
        [4y, 4x] each, by name. Where no lattice fits, ``lattice_harmonics`` is the Wiener estimate.
    """
    wiener = wiener_estimate(coarse, fine_pixel_angstrom, noise_variance, spectrum)
    try:
        by_lattice = lattice_harmonics(coarse, fine_pixel_angstrom, noise_variance)
    except (NoLatticeError, np.linalg.LinAlgError):
        by_lattice = wiener
    return {
        "bicubic": cubic_upsampled(coarse),
        "fourier": fourier_upsampled(coarse),
        "wiener": wiener,
        "lattice_harmonics": by_lattice,
    }


def wiener_estimate(
    coarse: NDArray[np.floating], fine_pixel_angstrom: float, noise_variance: float, spectrum: RadialSpectrum
) -> Floats:
    """The Wiener filter with the spectrum of the train split, scaled to the image's own variance."""
    variance = float(coarse.var())
    signal = max(variance - noise_variance, 0.02 * variance) / variance_kept(_PROBE_ANGSTROM, fine_pixel_angstrom)
    relative = noise_variance / signal if signal > 0 else 0.0
    return _wiener(coarse.shape[:2], spectrum, float(f"{relative:.2e}"))(coarse)


@lru_cache(maxsize=64)
def _wiener(shape: tuple[int, int], spectrum: RadialSpectrum, relative_noise: float) -> WienerFilter:
    return WienerFilter.of(shape, spectrum, relative_noise)


def lattice_harmonics(coarse: NDArray[np.floating], fine_pixel_angstrom: float, noise_variance: float) -> Floats:
    """Fit a lattice and all harmonics that the probe lets through, and draw them on the fine grid.

    The lattice comes from :func:`find_lattice` and is refined with harmonics beyond half a cycle per coarse pixel: of a
    known lattice, aliased reflections lie at known places. Each amplitude is divided by the transfer of the box, and
    shrunk by its own signal over signal and noise.

    Args:
        coarse: [y, x].
        fine_pixel_angstrom: pixel size of the fine grid.
        noise_variance: of a coarse pixel, on average.

    Raises:
        NoLatticeError: no lattice is found, or it does not explain the image.
        numpy.linalg.LinAlgError: the harmonics cannot be told apart.
    """
    mean, spread = float(coarse.mean()), float(coarse.std())
    values = np.asarray((coarse - mean) / (spread or 1.0), np.float64)
    noise = noise_variance / (spread**2 or 1.0)
    most = _MOST_VARIANCE / variance_kept(_PROBE_ANGSTROM, fine_pixel_angstrom)
    for parameters in _SEARCHES:
        fit = _lattice_fit(values, FACTOR * fine_pixel_angstrom, parameters)
        fine = _synthesised(fit, max(noise, fit.pixel_variance), coarse.shape)
        if fit.pixel_variance <= 2 * noise + _WORST_RESIDUAL and fine.var() < most:
            return mean + spread * fine
    raise NoLatticeError(
        f"the lattice leaves {fit.pixel_variance:.3f} of the image's variance unexplained, or invents more"
    )


def _lattice_fit(values: Floats, pixel_size_angstrom: float, parameters: LatticeFinderParameters) -> HarmonicFit:
    """All harmonics of the lattice of a coarse image of unit variance."""
    vectors = find_lattice(values, pixel_size_angstrom, parameters).lattice_vectors_angstrom
    basis = np.asarray(np.linalg.inv(vectors / pixel_size_angstrom).T, np.float64)
    indices = harmonic_indices(basis, _REACH_PER_ANGSTROM * pixel_size_angstrom)[:_MOST_HARMONICS]
    low = indices[np.linalg.norm(indices @ basis, axis=1) < _LOW_FREQUENCY]
    if len(low) >= 2:
        basis = refine_basis(values, basis, low, steps=2).fit.basis
    return refine_basis(values, basis, indices, steps=3).fit


def _synthesised(fit: HarmonicFit, noise: float, shape: tuple[int, ...]) -> Floats:
    """The harmonics of a coarse fit on the fine grid [4y, 4x], without the box."""
    box = np.prod(np.sinc(fit.frequencies) / np.sinc(fit.frequencies / FACTOR), axis=1)
    power = np.abs(fit.amplitudes) ** 2
    shrunk = np.clip(1 - noise * fit.variances / np.maximum(power, 1e-300), 0, 1)
    amplitudes = 2 * fit.amplitudes * shrunk / box
    along = [(np.arange(FACTOR * edge) - (FACTOR * edge - 1) / 2) / FACTOR for edge in shape]
    wave_y = np.exp(2j * np.pi * np.outer(fit.frequencies[:, 1], along[0])) * amplitudes[:, None]
    wave_x = np.exp(2j * np.pi * np.outer(fit.frequencies[:, 0], along[1]))
    return np.asarray(wave_y.real.T @ wave_x.real - wave_y.imag.T @ wave_x.imag, np.float64)


def fourier_ring_correlation(
    image: NDArray[np.floating], truth: NDArray[np.floating], pixel_size_angstrom: float
) -> tuple[Floats, Floats]:
    """Correlation of two images over rings of equal frequency, under a Hann window.

    Crystals have reflections and nothing between them; rings that hold less than 10⁻⁴ of the power of the true image's
    strongest ring say nothing of the image, and are left out.

    Args:
        image, truth: [n, n].
        pixel_size_angstrom: of both.

    Returns:
        Frequencies in 1/Å, without zero, of the rings that count, and the correlation on each.
    """
    edge = image.shape[0]
    window = np.hanning(edge)[:, None] * np.hanning(edge)
    one, other = (np.fft.fft2((values - values.mean()) * window) for values in (image, truth))
    ring = _rings((edge, edge))
    cross = ring_means((one * other.conj()).real, ring)
    own, true = (ring_means(np.abs(values) ** 2, ring) for values in (one, other))
    found = np.divide(cross, np.sqrt(own * true), out=np.zeros_like(cross), where=own * true > 0)
    counts = true >= _LEAST_RING_POWER * true.max()
    counts[0] = False
    return np.flatnonzero(counts) / (edge * pixel_size_angstrom), found[counts]


def ring_means(values: NDArray[Any], ring: NDArray[np.int64]) -> Floats:
    """Mean over each ring of a transform, from frequency zero to half a cycle per pixel."""
    count = values.shape[0] // 2
    inside = ring < count
    totals = np.bincount(ring[inside], values[inside], count)
    return totals / np.bincount(ring[inside], minlength=count)


@lru_cache(maxsize=8)
def _rings(shape: tuple[int, int]) -> NDArray[np.int64]:
    """Number of the ring that each Fourier coefficient lies in."""
    y, x = (np.fft.fftfreq(edge, 1 / edge) for edge in shape)
    return np.rint(np.hypot(y[:, None], x)).astype(np.int64)
