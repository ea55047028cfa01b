"""Least squares of a periodic image: harmonic amplitudes, refinement of the reciprocal basis, uncertainties.

Belongs here: the model I(r) = a₀ + Σ_h 2 Re[A_h exp(2πi h·B·r)] for a given reciprocal basis B (rows, cycles per
pixel) and a half plane of integer pairs h. All sums are separable in x and y, so that each costs one matrix product,
and the Gram matrix of the harmonics on a rectangle is a product of two Dirichlet kernels. Coordinates are counted
from the centre of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
Indices = NDArray[np.int64]


def harmonic_indices(basis: Array, largest_frequency: float) -> Indices:
    """Integer pairs h ≠ 0 of one half plane with |h·B| ≤ largest_frequency, shortest first.

    Args:
        basis: (2, 2) reciprocal basis, rows, cycles per pixel.
        largest_frequency: Radius in cycles per pixel.
    """
    inverse = np.linalg.inv(basis)
    reach = np.ceil(largest_frequency * np.linalg.norm(inverse, axis=0)).astype(int)
    first, second = np.meshgrid(np.arange(reach[0] + 1), np.arange(-reach[1], reach[1] + 1), indexing="ij")
    pairs = np.column_stack((first.ravel(), second.ravel()))
    pairs = pairs[(pairs[:, 0] > 0) | (pairs[:, 1] > 0)]
    lengths = np.linalg.norm(pairs @ basis, axis=1)
    order = np.argsort(lengths, kind="stable")
    return pairs[order[lengths[order] <= largest_frequency]]


@dataclass(frozen=True)
class HarmonicFit:
    """Harmonic amplitudes of an image by least squares.

    Attributes:
        basis: (2, 2) reciprocal basis.
        indices: (H, 2) harmonics.
        amplitudes: (H,) complex amplitudes A_h.
        variances: (H,) variance of |A_h| per unit pixel variance (real plus imaginary part).
        model: [y, x] constant and harmonics.
        residual: [y, x] image minus model.
    """

    basis: Array
    indices: Indices
    amplitudes: Complex
    variances: Array
    model: Array
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
        self._parts_x = np.vstack((self.along_x.real, self.along_x.imag))
        self.along_y = np.exp(2j * np.pi * np.outer(frequencies[:, 1], self.y))

    def analyse(self, image: Array) -> Complex:
        """Σ_r I(r) exp(−2πi k·r) of each harmonic."""
        half = len(self.along_x)
        both = image @ self._parts_x.T
        return np.einsum("hy,yh->h", self.along_y.conj(), both[:, :half] - 1j * both[:, half:])

    def synthesise(self, amplitudes: Complex) -> Array:
        """Σ_h 2 Re[A_h exp(2πi k·r)] as an image."""
        weighted = 2 * amplitudes[:, None] * self.along_y
        return np.vstack((weighted.real, -weighted.imag)).T @ self._parts_x


def _gram_factors(frequencies: Array, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Gram matrices of the functions (1, 2 cos …) and (2 sin …); they do not mix on a centred rectangle."""
    with_constant = np.vstack((np.zeros((1, 2)), frequencies))
    differences, sums = (
        along_x * along_y
        for along_x, along_y in zip(
            _dirichlet_kernels(with_constant[:, 0], shape[1]),
            _dirichlet_kernels(with_constant[:, 1], shape[0]),
            strict=True,
        )
    )
    cosines = 2 * (differences + sums)
    cosines[0] /= 2
    cosines[:, 0] /= 2
    return cosines, 2 * (differences - sums)[1:, 1:]


def _dirichlet_kernels(frequency: Array, n: int) -> tuple[Array, Array]:
    """Σ_x cos(2π (f − g) x) and Σ_x cos(2π (f + g) x) over n centred points, for all pairs of frequencies (H,)."""
    sine, cosine = np.sin(np.pi * frequency), np.cos(np.pi * frequency)
    sine_n, cosine_n = np.sin(np.pi * n * frequency), np.cos(np.pi * n * frequency)
    kernels = []
    for sign in (-1, 1):
        numerator = np.outer(sine_n, cosine_n) + sign * np.outer(cosine_n, sine_n)
        denominator = np.outer(sine, cosine) + sign * np.outer(cosine, sine)
        is_whole = np.abs(denominator) < 1e-9
        kernels.append(np.where(is_whole, float(n), numerator / np.where(is_whole, 1.0, denominator)))
    return kernels[0], kernels[1]


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
    model = real[0] + waves.synthesise(amplitudes)
    return HarmonicFit(basis, indices, amplitudes, variances, model, image - model), waves


def _ridge_inverse(gram: Array) -> Array:
    """Inverse with a ridge far below the information of one resolved harmonic, for fields with few periods."""
    ridge = 1e-6 * float(np.diag(gram).max())
    return np.asarray(np.linalg.inv(gram + ridge * np.eye(len(gram))), dtype=np.float64)


@dataclass(frozen=True)
class RefinedBasis:
    """A refined reciprocal basis: the fit, and the (4, 4) covariance of (b1x, b1y, b2x, b2y)."""

    fit: HarmonicFit
    covariance: Array


def refine_basis(image: Array, basis: Array, indices: Indices, *, steps: int) -> RefinedBasis:
    """Gauss-Newton refinement of the reciprocal basis, amplitudes eliminated at each step (variable projection).

    The derivative of the model by B is 2πi (h ⊗ r) A_h exp(2πi h·B·r); its coupling to the amplitudes is neglected in
    the normal matrix, since r is counted from the centre. The covariance is the sandwich estimate J⁺ diag(residual²)
    J⁺ᵀ, which holds for noise that is stronger on the atoms (White, Econometrica 48, 817, 1980).

    Raises:
        numpy.linalg.LinAlgError: no harmonic carries any signal.
    """
    fit, waves = _fit(image, basis, indices)
    for step in range(steps + 1):
        slopes = [waves.synthesise(2j * np.pi * fit.indices[:, i] * fit.amplitudes) for i in (0, 1)]
        normal = _moments(slopes, waves)
        if step == steps:
            break
        gradient = np.array(
            [
                (product.sum(axis=0) @ waves.x, product.sum(axis=1) @ waves.y)
                for product in (s * fit.residual for s in slopes)
            ]
        )
        change = np.linalg.solve(normal, gradient.ravel()).reshape(2, 2)
        moved = float(np.abs(change).max()) * max(image.shape)
        fit, waves = _fit(image, fit.basis + change * min(1.0, 0.3 / max(moved, 1e-12)), indices)
    inverse = np.linalg.inv(normal)
    spread = _moments([slope * fit.residual for slope in slopes], waves)
    return RefinedBasis(fit, inverse @ spread @ inverse)


def _moments(slopes: list[Array], waves: _Waves) -> Array:
    """(4, 4) sums Σ_r s_i s_j (x, y)ᵀ(x, y), in the order (s1 x, s1 y, s2 x, s2 y)."""
    moments = np.empty((2, 2, 2, 2))
    for i, j in ((0, 0), (0, 1), (1, 1)):
        product = slopes[i] * slopes[j]
        mixed = waves.y @ product @ waves.x
        block = [[product.sum(axis=0) @ waves.x**2, mixed], [mixed, product.sum(axis=1) @ waves.y**2]]
        moments[i, :, j, :] = moments[j, :, i, :] = block
    return moments.reshape(4, 4)
