"""What the lattice networks see of an image: pixels, or maps that do not know where the crystal lies.

Belongs here: from an image of any size to the input of a network. Power spectrum and autocorrelation do not change when
the crystal is shifted. In polar form a rotation only shifts them along the angle, and the best mirror axis is put at
angle zero, so that nothing of the pose is left. All lengths are relative to the field, which is cut to at most 20 times
the shortest period; the class of a lattice does not depend on its scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.images.preprocess import detrend
from atomvision_ml.images.resampling import area_average_matrix

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
Inputs = Literal["polar", "centred", "pixels"]

EDGE_PX = 128
"""Every image is brought to so many pixels by exact area averaging."""

LARGEST_FIELD_ANGSTROM = 90.0
MOST_PERIODS = 20.0
SMALLEST_SIDE_PX = 24

RADII, ANGLES = 56, 96
"""Size of a polar map: 96 angles over 180°, so that 60° and 90° are whole steps."""

CENTRED_PX = 64
_REACH_SHARE = 0.4  # largest shift of the autocorrelation, as a share of the field
_REACH_BINS = 26.0  # largest frequency, in cycles per field
_NEAREST_ANGSTROM = 1.2  # no lattice has a shorter period
_MIRROR_STEPS = 8  # sub-divisions of an angle when the mirror axis is looked for

CHANNELS = {"polar": 4, "centred": 4, "pixels": 1}
"""Channels of each kind of input, before the network adds turned and mirrored copies."""


def field_of_view(image: ArrayLike, pixel_size_angstrom: float) -> Floats:
    """The middle of an image, as 128 x 128 pixels of zero mean and unit variance without smooth background.

    Args:
        image: [y, x], finite, at least 24 pixels along each side, any unit.
        pixel_size_angstrom: edge of a pixel in Å.

    Returns:
        [128, 128] float32; zeros for a constant image.

    Raises:
        ValueError: the image is too small, not [y, x] or not finite, or the pixel size is not positive.
    """
    values = np.asarray(image)
    if not (np.isfinite(pixel_size_angstrom) and pixel_size_angstrom > 0):
        raise ValueError(f"pixel_size_angstrom must be a positive number; got {pixel_size_angstrom}")
    if values.ndim == 2 and min(values.shape) < SMALLEST_SIDE_PX:
        raise ValueError(f"the image {values.shape} is too small; give at least {SMALLEST_SIDE_PX} px on each side")
    flat = detrend(values)
    field = min(min(flat.shape) * pixel_size_angstrom, LARGEST_FIELD_ANGSTROM)
    small = _square(flat, pixel_size_angstrom, field)
    nearest = _shortest_period(small, field)
    if nearest is not None and MOST_PERIODS * nearest < field / 1.05:
        small = _square(flat, pixel_size_angstrom, MOST_PERIODS * nearest)
    return small


def network_input(fields: Sequence[Floats] | Floats, kind: Inputs) -> Floats:
    """Input of the network for n images.

    Args:
        fields: n images as of :func:`field_of_view`.
        kind: ``pixels``, the image itself (n, 1, 128, 128); ``centred``, spectrum and autocorrelation around zero
            (n, 4, 64, 64); ``polar``, the same over radius and angle with the mirror axis at angle zero (n, 4, 56, 96).

    Returns:
        float32. Channels of ``centred`` and ``polar``: power over the strongest reflection (four decades), power over
        noise (four decades), autocorrelation over its highest peak, and the same with the values near one spread out.
    """
    import torch

    images = torch.from_numpy(np.stack(list(fields)).astype(np.float32))
    if kind == "pixels":
        return images[:, None].numpy()
    spectrum, correlation = _spectrum(images), _autocorrelation(images)
    if kind == "centred":
        return torch.cat([_cut(spectrum), _cut(correlation)], dim=1).numpy()
    shift = torch.linspace(0.03, _REACH_SHARE, RADII) * EDGE_PX
    frequency = torch.linspace(1.0, _REACH_BINS, RADII) * 2
    polar = torch.cat([_polar(spectrum, frequency), _polar(correlation, shift)], dim=1)
    return _mirror_at_zero(polar).contiguous().numpy()


def _square(flat: NDArray[np.float64], pixel_size_angstrom: float, field_angstrom: float) -> Floats:
    """The middle square of a field, averaged to 128 pixels."""
    edge = min(round(field_angstrom / pixel_size_angstrom), *flat.shape)
    top, left = ((size - edge) // 2 for size in flat.shape)
    matrix = area_average_matrix(edge, 1.0, edge / EDGE_PX)[:EDGE_PX]
    small = matrix @ flat[top : top + edge, left : left + edge] @ matrix.T
    small = small - small.mean()
    scale = float(small.std())
    return (small / scale if scale > 1e-12 else np.zeros_like(small)).astype(np.float32)


def _shortest_period(small: Floats, field_angstrom: float) -> float | None:
    """Distance in Å of the nearest high maximum of the autocorrelation; None where there is none."""
    import torch
    from scipy.ndimage import maximum_filter

    middle = _autocorrelation(torch.from_numpy(small)[None])[0, 0].numpy()
    peaks = np.argwhere((middle > 0.6) & (middle == maximum_filter(middle, 5)))
    distances = np.hypot(*(peaks - len(middle) // 2).T) * field_angstrom / EDGE_PX
    distances = distances[distances > _NEAREST_ANGSTROM]
    return float(distances.min()) if len(distances) else None


def _spectrum(images: torch.Tensor) -> torch.Tensor:
    """(n, 2, 107, 107), zero frequency in the middle, in steps of half a cycle per field."""
    import torch

    window = torch.hann_window(EDGE_PX + 2, periodic=False)[1:-1]
    transform = torch.fft.rfft2(images * window[:, None] * window, s=(2 * EDGE_PX, 2 * EDGE_PX))
    reach = int(2 * _REACH_BINS) + 1
    noise = _power(transform[:, 64:192:2, 64::2]).flatten(1).median(dim=1).values[:, None, None]
    right = _power(torch.roll(transform[..., : reach + 1], reach, dims=1)[:, : 2 * reach + 1])
    power = torch.cat([right.flip((1, 2))[..., :-1], right], dim=2)
    top = power.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    relative = (power / top + 1e-4).log10() / 4 + 1
    over_noise = (power / torch.maximum(noise, 1e-6 * top) + 1).log10().clamp(max=4) / 4
    return torch.stack([relative, over_noise], dim=1)


def _power(transform: torch.Tensor) -> torch.Tensor:
    return transform.real**2 + transform.imag**2


def _autocorrelation(images: torch.Tensor) -> torch.Tensor:
    """(n, 2, 103, 103), zero shift in the middle: correlation of the overlapping parts over its highest side peak."""
    import torch

    reach = int(_REACH_SHARE * EDGE_PX)
    size = (EDGE_PX + reach + 1,) * 2
    product = torch.fft.irfft2(_power(torch.fft.rfft2(images, s=size)), s=size)
    product = torch.roll(product, (reach, reach), (-2, -1))[..., : 2 * reach + 1, : 2 * reach + 1]
    along = torch.arange(-reach, reach + 1)
    first, last = (-along).clamp_min(0), EDGE_PX - along.clamp_min(0)
    sums = torch.nn.functional.pad((images**2).cumsum(1).cumsum(2), (1, 0, 1, 0))
    rows = sums[:, last] - sums[:, first]
    energy = rows[..., last] - rows[..., first]
    correlation = product / (energy * energy.flip((-2, -1))).clamp_min(1e-6).sqrt()
    far = along[:, None] ** 2 + along**2 > (0.05 * EDGE_PX) ** 2
    highest = (correlation * far).amax(dim=(1, 2), keepdim=True).clamp_min(1e-3)
    correlation = (correlation / highest).clamp(-0.5, 1.2)
    return torch.stack([correlation, torch.exp(-(1 - correlation).clamp_min(0) / 0.12)], dim=1)


def _cut(maps: torch.Tensor) -> torch.Tensor:
    half, reach = maps.shape[-1] // 2, CENTRED_PX // 2
    return maps[..., half - reach : half + reach, half - reach : half + reach]


def _polar(maps: torch.Tensor, radii_px: torch.Tensor) -> torch.Tensor:
    """Maps (n, c, y, x) around their middle, bicubic, at (n, c, radius, angle) over 180°."""
    import torch
    from torch.nn.functional import grid_sample

    size = maps.shape[-1]
    angle = torch.arange(ANGLES) * (torch.pi / ANGLES)
    x, y = radii_px[:, None] * angle.cos(), radii_px[:, None] * angle.sin()
    places = (torch.stack([x, y], dim=-1) + size // 2) * 2 / (size - 1) - 1
    return grid_sample(maps, places.expand(len(maps), -1, -1, -1), mode="bicubic", align_corners=True)


def _mirror_at_zero(polar: torch.Tensor) -> torch.Tensor:
    """Polar maps turned so that the axis about which they are most alike lies at angle zero."""
    import torch

    waves = torch.fft.rfft(polar, dim=-1)
    weights = torch.tensor([0.5, 0.5, 0.0, 1.0])[:, None, None]
    centred = polar - polar.mean(dim=-1, keepdim=True)
    power = torch.fft.rfft(centred, dim=-1)
    alike = torch.fft.irfft((power**2 * weights).sum(dim=(1, 2)), n=ANGLES * _MIRROR_STEPS, dim=-1)
    axis = alike.argmax(dim=-1) / (2 * _MIRROR_STEPS)
    order = torch.arange(waves.shape[-1])
    turn = torch.exp(2j * torch.pi * axis[:, None] * order / ANGLES)
    return torch.fft.irfft(waves * turn[:, None, None], n=ANGLES, dim=-1)


def random_turns(batch: Floats, kind: Inputs, random: np.random.Generator) -> Floats:
    """The batch as if images had been mirrored, or another of their axes had been chosen; pixels are only mirrored."""
    drawn = batch.copy()
    for number in range(len(batch)):
        if random.random() < 0.5:
            drawn[number] = np.roll(batch[number, ..., ::-1], 1 if kind == "polar" else 0, axis=-1)
        if kind == "polar" and random.random() < 0.5:
            drawn[number] = np.roll(drawn[number], ANGLES // 2, axis=-1)
    return drawn
