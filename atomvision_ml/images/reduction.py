"""Images on a grid of coarser pixels, and linear ways back to the fine one.

Belongs here: what relates a fine grid to one of pixels four times as large. Both grids share their outer edges: coarse
pixel n covers the fine pixels 4n to 4n + 3, and its centre lies at fine pixel 4n + 1.5. Every way back includes this
half-pixel shift; forgetting it would move all atoms by 1.5 fine pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atomvision_ml.images.resampling import cubic_matrix

Floats = NDArray[np.float64]

FACTOR = 4
_PAD_PX = 8
"""Coarse pixels by which an image is mirrored at its border before a Fourier transform."""


def box_reduced(fine: NDArray[np.floating]) -> Floats:
    """What coarse pixels integrate: the mean over 4 × 4 fine pixels, [..., y, x].

    So the specimen is seen where the coarse pixels fill the field without gaps. Whatever the box lets through above
    half a cycle per coarse pixel is aliased.

    Raises:
        ValueError: an edge is no multiple of 4.
    """
    height, width = _checked_edges(fine)
    blocks = np.asarray(fine, np.float64).reshape(*fine.shape[:-2], height // FACTOR, FACTOR, width // FACTOR, FACTOR)
    return blocks.mean(axis=(-3, -1))


def bicubic_reduced(fine: NDArray[np.floating]) -> Floats:
    """Reduction as in the AtomVision paper: bicubic, the kernel widened by the factor as Pillow does; [..., y, x].

    The kernel (Keys, a = −1/2) has negative lobes; what becomes negative is set to zero.

    Raises:
        ValueError: an edge is no multiple of 4.
    """
    height, width = _checked_edges(fine)
    return np.clip(_widened_cubic(height) @ np.asarray(fine, np.float64) @ _widened_cubic(width).T, 0, None)


REDUCTIONS: dict[str, Callable[[NDArray[np.floating]], Floats]] = {"physical": box_reduced, "bicubic": bicubic_reduced}
"""How low-resolution images are made, by name."""


def cubic_upsampled(coarse: NDArray[np.floating]) -> Floats:
    """Cubic convolution (Keys, a = −1/2) to the fine grid, [..., y, x]; pixels beyond the border repeat it."""
    along_y, along_x = (cubic_matrix(edge, _fine_places(edge)) for edge in coarse.shape[-2:])
    return along_y @ np.asarray(coarse, np.float64) @ along_x.T


def fourier_upsampled(coarse: NDArray[np.floating]) -> Floats:
    """Trigonometric interpolation to the fine grid, [..., y, x]; the border is mirrored by 8 coarse pixels."""
    along = [
        np.exp(-2j * np.pi * f * (FACTOR - 1) / 2) * (np.abs(f) * 2 * FACTOR < 1)
        for f in _frequencies(coarse.shape[-2:])
    ]
    return _filtered(coarse, along[0][:, None] * along[1])


@dataclass(frozen=True)
class WienerFilter:
    """The best linear estimate of a fine image from coarse pixels that integrate, alias and are noisy.

    X(f) = S(f) H*(f) / (Σ_k S(f_k) |H(f_k)|² + N) · Y(f): the sum runs over the 16 frequencies f_k that a coarse pixel
    cannot tell apart, H is the transfer of its box with the half-pixel shift, S the power spectrum of fine images, N
    that of the noise. The border is mirrored by 8 coarse pixels.

    Attributes:
        gain: (4y, 4x) complex, of the padded image.
        error_variance: expected mean square error of a fine pixel, in the units of S.
    """

    gain: NDArray[np.complex128]
    error_variance: float

    @classmethod
    def of(cls, shape: tuple[int, int], spectrum: Callable[[Floats], Floats], noise_variance: float) -> WienerFilter:
        """The filter for coarse images of a shape.

        Args:
            shape: (y, x) of the coarse image.
            spectrum: S, mean |F|² per fine pixel, in the square of the image's units, of frequencies in cycles per
                fine pixel.
            noise_variance: of a coarse pixel, in the square of the image's units.
        """
        fy, fx = _frequencies(shape)
        transfer = _box(fy)[:, None] * _box(fx)
        power = spectrum(np.hypot(fy[:, None], fx))
        ny, nx = len(fy) // FACTOR, len(fx) // FACTOR
        wanted = power * transfer.conj()
        seen = (power * np.abs(transfer) ** 2).reshape(FACTOR, ny, FACTOR, nx).sum(axis=(0, 2))
        seen = np.tile(seen + FACTOR**2 * noise_variance, (FACTOR, FACTOR))
        gain = np.divide(wanted, seen, out=np.zeros_like(wanted), where=seen > 1e-9 * seen.max())
        explained = (gain * wanted.conj()).real
        return cls(gain, float(np.mean(np.clip(power - explained, 0, None))))

    def __call__(self, coarse: NDArray[np.floating]) -> Floats:
        """The fine image [..., 4y, 4x] of a coarse one; its mean is taken from the image itself."""
        mean = coarse.mean(axis=(-2, -1), keepdims=True)
        return mean + _filtered(coarse - mean, self.gain)


def probe_spectrum(
    sigma_angstrom: float, pixel_size_angstrom: float, variance: float = 1.0
) -> Callable[[Floats], Floats]:
    """S of atoms at places of which nothing is known: white, times the transfer of a Gaussian probe.

    Args:
        sigma_angstrom: of the probe.
        pixel_size_angstrom: of the fine grid.
        variance: of a fine image.
    """
    sigma = sigma_angstrom / pixel_size_angstrom

    def spectrum(frequency: Floats) -> Floats:
        return variance * 4 * np.pi * sigma**2 * np.exp(-((2 * np.pi * sigma * frequency) ** 2))

    return spectrum


def variance_kept(sigma_angstrom: float, pixel_size_angstrom: float) -> float:
    """Share of a fine image's variance that is left after :func:`box_reduced`, for the spectrum of a probe."""
    frequency = _fft_frequencies(1024)
    power = np.exp(-((2 * np.pi * sigma_angstrom / pixel_size_angstrom * frequency) ** 2))
    return float((np.sum(power * np.abs(_box(frequency)) ** 2) / np.sum(power)) ** 2)


def _checked_edges(fine: NDArray[np.floating]) -> tuple[int, int]:
    height, width = fine.shape[-2:]
    if height % FACTOR or width % FACTOR:
        raise ValueError(f"edges must be multiples of {FACTOR}, not {height} x {width}")
    return height, width


def _fine_places(edge: int) -> Floats:
    """Centres of the fine pixels in coarse pixels."""
    return (np.arange(FACTOR * edge) - (FACTOR - 1) / 2) / FACTOR


def _widened_cubic(edge: int) -> Floats:
    """Matrix (edge / 4, edge) of Pillow's bicubic reduction: Keys' kernel four times as wide, cut at the border."""
    place = _fine_places(edge // FACTOR)
    distance = np.abs(place[None, :] - np.arange(edge // FACTOR)[:, None])
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


def _frequencies(shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Frequencies along y and x of the padded fine image, cycles per fine pixel."""
    height, width = shape
    return _fft_frequencies(FACTOR * (height + 2 * _PAD_PX)), _fft_frequencies(FACTOR * (width + 2 * _PAD_PX))


def _fft_frequencies(edge: int) -> Floats:
    return np.asarray(np.fft.fftfreq(edge), np.float64)


def _box(frequency: Floats) -> NDArray[np.complex128]:
    """Transfer of the mean over the four fine pixels 0 to 3."""
    return np.exp(2j * np.pi * frequency[:, None] * np.arange(FACTOR)).mean(axis=1)


def _filtered(coarse: NDArray[np.floating], gain: NDArray[np.complex128]) -> Floats:
    """The fine image whose Fourier coefficients are those of the coarse one, repeated over 4 × 4 zones, times gain."""
    from scipy import fft

    widths = [(0, 0)] * (coarse.ndim - 2) + [(_PAD_PX, _PAD_PX)] * 2
    padded = np.pad(np.asarray(coarse, np.float64), widths, mode="symmetric")
    zones = np.tile(fft.fft2(padded), (1,) * (coarse.ndim - 2) + (FACTOR, FACTOR))
    fine = fft.ifft2(zones * gain).real * FACTOR**2
    inside = slice(FACTOR * _PAD_PX, -FACTOR * _PAD_PX)
    return np.ascontiguousarray(fine[..., inside, inside])
