"""Least squares of a periodic image: harmonic amplitudes, refinement of the reciprocal basis, uncertainties.

Belongs here: the model I(r) = a₀ + Σ_h 2 Re[A_h exp(2πi h·B·r)] for a given reciprocal basis B (rows, cycles per pixel) and a
half plane of integer pairs h. All sums are separable in x and y, so that each costs one matrix product, and the Gram matrix
of the harmonics on a rectangle is a product of two Dirichlet kernels. Coordinates are counted from the centre of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
Indices = NDArray[np.int64]


def harmonic_indices(basis: Array, largest_frequency: float, most: int | None = None) -> Indices:
    """Integer pairs h ≠ 0 of one half plane with |h·B| ≤ largest_frequency, shortest first.

    Args:
        basis: (2, 2) reciprocal basis, rows, cycles per pixel.
        largest_frequency: Radius in cycles per pixel.
        most: Keep at most this many.
    """
    inverse = np.linalg.inv(basis)
    reach = np.ceil(largest_frequency * np.linalg.norm(inverse, axis=0)).astype(int)
    first, second = np.meshgrid(np.arange(reach[0] + 1), np.arange(-reach[1], reach[1] + 1), indexing="ij")
    pairs = np.column_stack((first.ravel(), second.ravel()))
    pairs = pairs[(pairs[:, 0] > 0) | (pairs[:, 1] > 0)]
    lengths = np.linalg.norm(pairs @ basis, axis=1)
    order = np.argsort(lengths, kind="stable")
    return pairs[order[lengths[order] <= largest_frequency]][:most]


@dataclass(frozen=True)
class HarmonicFit:
    """Harmonic amplitudes of an image by least squares.

    Attributes:
        basis: (2, 2) reciprocal basis.
        indices: (H, 2) harmonics.
        amplitudes: (H,) complex amplitudes A_h.
        variances: (H,) variance of |A_h| per unit pixel variance (real plus imaginary part).
        residual: [y, x] image minus model.
    """

    basis: Array
    indices: Indices
    amplitudes: Complex
    variances: Array
    residual: Array

    @cached_property
    def frequencies(self) -> Array:
        """(H, 2) frequencies of the harmonics in cycles per pixel."""
        return self.indices @ self.basis

    @cached_property
    def pixel_variance(self) -> float:
        """Mean square of the residual."""
        return float(np.mean(self.residual**2))


class _Waves:
    """cos and sin factors of harmonics along x and y, with analysis and synthesis."""

    def __init__(self, frequencies: Array, shape: tuple[int, int]) -> None:
        self.y = np.arange(shape[0]) - (shape[0] - 1) / 2
        self.x = np.arange(shape[1]) - (shape[1] - 1) / 2
        self.along_x = np.exp(2j * np.pi * np.outer(frequencies[:, 0], self.x))
        self.along_y = np.exp(2j * np.pi * np.outer(frequencies[:, 1], self.y))

    def analyse(self, image: Array) -> Complex:
        """Σ_r I(r) exp(−2πi k·r) of each harmonic."""
        half = len(self.along_x)
        both = image @ np.vstack((self.along_x.real, self.along_x.imag)).T
        return np.einsum("hy,yh->h", self.along_y.conj(), both[:, :half] - 1j * both[:, half:])

    def synthesise(self, amplitudes: Complex) -> Array:
        """Σ_h 2 Re[A_h exp(2πi k·r)] as an image."""
        weighted = 2 * amplitudes[:, None] * self.along_y
        return np.vstack((weighted.real, -weighted.imag)).T @ np.vstack((self.along_x.real, self.along_x.imag))


def _dirichlet(frequency: Array, n: int) -> Array:
    """Σ_x cos(2π f x) over n centred points."""
    sine = np.sin(np.pi * frequency)
    is_whole = np.abs(sine) < 1e-9
    return np.where(is_whole, float(n), np.sin(np.pi * n * frequency) / np.where(is_whole, 1.0, sine))


def _gram_factors(frequencies: Array, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Gram matrices of the functions (1, 2 cos …) and (2 sin …); they do not mix on a centred rectangle."""
    with_constant = np.vstack((np.zeros((1, 2)), frequencies))
    kx, ky = with_constant[:, 0], with_constant[:, 1]
    differences = _dirichlet(kx[:, None] - kx, shape[1]) * _dirichlet(ky[:, None] - ky, shape[0])
    sums = _dirichlet(kx[:, None] + kx, shape[1]) * _dirichlet(ky[:, None] + ky, shape[0])
    cosines = 2 * (differences + sums)
    cosines[0] /= 2
    cosines[:, 0] /= 2
    return cosines, 2 * (differences - sums)[1:, 1:]


def fit_harmonics(image: Array, basis: Array, indices: Indices) -> HarmonicFit:
    """Least-squares amplitudes of the harmonics and a constant.

    Args:
        image: [y, x], finite.
        basis: (2, 2) reciprocal basis, cycles per pixel.
        indices: (H, 2) harmonics, H ≥ 1.

    Raises:
        numpy.linalg.LinAlgError: the harmonics cannot be told apart on this field.
    """
    fit, _ = _fit(image, basis, indices)
    return fit


def _fit(image: Array, basis: Array, indices: Indices) -> tuple[HarmonicFit, _Waves]:
    frequencies = indices @ basis
    waves = _Waves(frequencies, (image.shape[0], image.shape[1]))
    projections = waves.analyse(image)
    cosines, sines = _gram_factors(frequencies, (image.shape[0], image.shape[1]))
    inverse_cosines, inverse_sines = _ridge_inverse(cosines), _ridge_inverse(sines)
    real = inverse_cosines @ np.concatenate(([image.sum()], 2 * projections.real))
    imaginary = inverse_sines @ (2 * projections.imag)
    amplitudes = real[1:] + 1j * imaginary
    variances = np.diag(inverse_cosines)[1:] + np.diag(inverse_sines)
    residual = image - real[0] - waves.synthesise(amplitudes)
    return HarmonicFit(basis, indices, amplitudes, variances, residual), waves


def _ridge_inverse(gram: Array) -> Array:
    """Inverse with a ridge far below the information of one resolved harmonic, for fields with few periods."""
    return np.linalg.inv(gram + 1e-6 * np.max(np.diag(gram)) * np.eye(len(gram)))


@dataclass(frozen=True)
class RefinedBasis:
    """A refined reciprocal basis: the fit, and the (4, 4) covariance of (b1x, b1y, b2x, b2y)."""

    fit: HarmonicFit
    covariance: Array


def refine_basis(image: Array, basis: Array, indices: Indices, *, steps: int) -> RefinedBasis:
    """Gauss-Newton refinement of the reciprocal basis, amplitudes eliminated at each step (variable projection).

    The derivative of the model by B is 2πi (h ⊗ r) A_h exp(2πi h·B·r); its coupling to the amplitudes is neglected in the
    normal matrix, since r is counted from the centre. The covariance is the sandwich estimate J⁺ diag(residual²) J⁺ᵀ, which holds
    for noise that is stronger on the atoms (White, Econometrica 48, 817, 1980).

    Raises:
        numpy.linalg.LinAlgError: no harmonic carries any signal.
    """
    fit, waves = _fit(image, basis, indices)
    normal = np.eye(4)
    for step in range(steps + 1):
        slopes = [waves.synthesise(2j * np.pi * fit.indices[:, i] * fit.amplitudes) for i in (0, 1)]
        columns = [slope * axis for slope in slopes for axis in (waves.x[None, :], waves.y[:, None])]
        jacobian = np.stack([column.ravel() for column in columns])
        normal = jacobian @ jacobian.T
        if step == steps:
            break
        change = np.linalg.solve(normal, jacobian @ fit.residual.ravel()).reshape(2, 2)
        moved = float(np.abs(change).max()) * max(image.shape)
        fit, waves = _fit(image, fit.basis + change * min(1.0, 0.3 / max(moved, 1e-12)), indices)
        if moved < 1e-5:
            break
    inverse = np.linalg.inv(normal)
    scores = jacobian * fit.residual.ravel()
    return RefinedBasis(fit, inverse @ (scores @ scores.T) @ inverse)
