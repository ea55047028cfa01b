"""The super-resolvers in use: parameters, what a network sees of an image, and the image on a grid four times as fine.

Belongs here: everything between an image and its network, the same in training and in use. The network sees the Wiener
estimate and predicts what is left to the true image, in units of the error that a Wiener estimate is expected to have:
so its answers are of order one at every dose and pixel size, and where the linear estimate is nearly exact, no network
can spoil it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from atomvision_ml.images.reduction import FACTOR, WienerFilter, box_reduced, probe_spectrum, variance_kept
from atomvision_ml.models.checkpoint import find_checkpoint
from atomvision_ml.models.loading import TrainedNetwork, weights_changed_ns
from atomvision_ml.models.super_resolution.networks import build_generator
from atomvision_ml.models.training import TrainingParameters, seeded

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]

PROBE_ANGSTROM = 0.5
"""σ of the probe in all training images, and in the spectrum of the linear estimate."""

_LEAST_ERROR = 0.01
"""Least unit of the network's answer, in standard deviations of the fine image."""
_SMALLEST_PX = 16
MODELS_HERE = ("super_resolver", "srgan")


class SuperResolverParameters(TrainingParameters):
    """Network, training images and training of the super-resolver; flat and frozen."""

    epochs: int = Field(default=5, ge=1, description="Most epochs.")
    batch_size: int = Field(default=8, ge=1, description="Crops in a batch.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Highest learning rate (AdamW, cosine to zero).")
    weight_decay: float = Field(default=1e-4, ge=0, description="AdamW's decoupled weight decay.")
    width: int = Field(default=32, ge=4, description="Channels of the generator.")
    blocks: int = Field(default=6, ge=1, description="Residual blocks of the generator.")
    crop_px: int = Field(default=28, ge=16, description="Edge of a training crop in coarse pixels.")
    crops_per_epoch: int = Field(default=320, ge=1, description="Training crops in each epoch.")
    aliased_fraction: float = Field(
        default=0.4, ge=0, le=1, description="Share of batches with fine pixels of 0.2 Å; the others have 0.1 Å."
    )
    minimum_e_per_a2: float = Field(default=300.0, gt=0, description="Least dose of the training crops, e/Å².")
    maximum_e_per_a2: float = Field(default=1e4, gt=0, description="Highest dose of the training crops, e/Å².")
    clean_fraction: float = Field(
        default=0.4, ge=0, le=1, description="Share of training crops without noise, fine pixels of 0.2 Å."
    )
    resolved_clean_fraction: float = Field(
        default=0.05, ge=0, le=1, description="The same at 0.1 Å, where the linear estimate is nearly exact then."
    )
    recast_fraction: float = Field(
        default=0.3, ge=0, le=1, description="Share of crops with other intensities and another scale."
    )
    bicubic_fraction: float = Field(
        default=0.2, ge=0, le=1, description="Share of batches at 0.2 Å reduced bicubically, not by integration."
    )
    views: int = Field(
        default=1, ge=1, le=8, description="Views (4 turned, then 4 turned mirrored) whose answers are averaged in use."
    )
    validation_images: int = Field(default=12, ge=1, description="Most images of the validation split that are used.")


@dataclass(frozen=True)
class Upscaled:
    """An image on a grid four times as fine.

    Attributes:
        image: [4y, 4x] float32, in the units of the image (the mean over 4 × 4 pixels compares to its pixel). Fine
            pixel m has its centre at coarse pixel (m − 1.5) / 4.
        pixel_size_angstrom: of the fine grid.
        reproduced_share: share of the given image's variance that the fine one explains when its pixels are averaged
            again, 1 at most; None for a constant image. What it lacks to 1 is noise taken out, or signal lost. It
            says nothing of what is shown between the given pixels.
        model: name of the model and the first digits of its weights' SHA-256.
    """

    image: Floats
    pixel_size_angstrom: float
    reproduced_share: float | None
    model: str


def build_network(parameters: SuperResolverParameters) -> torch.nn.Module:
    """The untrained generator; see :func:`atomvision_ml.models.super_resolution.networks.build_generator`."""
    with seeded(parameters.seed, "weights"):
        return build_generator(parameters.width, parameters.blocks)


def upscale(
    image: ArrayLike,
    pixel_size_angstrom: float,
    model: str | Path | None = None,
    *,
    noise_variance: float | None = None,
    device: str = "cpu",
) -> Upscaled:
    """The image on a grid of pixels a quarter as large.

    Args:
        image: [y, x], finite; counts or any linear scale. Where nothing is negative, nothing in the result is.
        pixel_size_angstrom: of the image; the networks know 0.4 and 0.8 Å.
        model: a checkpoint folder, the name of a released model, or None for the released super-resolver.
        noise_variance: of a pixel, averaged over the image, in the square of its units; None: whole numbers are taken
            as counts (then it is the mean), of anything else it is estimated from the image, which where atoms are
            hardly resolved takes signal for noise.
        device: torch device.

    Raises:
        ValueError: the image is not two-dimensional, has values that are not finite, fewer than 16 pixels along an
            axis, or the pixel size is not positive.
        CheckpointError: the model is not found, damaged, or no super-resolver.
    """
    values = _checked(image, pixel_size_angstrom)
    folder = find_checkpoint("super_resolver" if model is None else model)
    loaded = _load(str(folder), weights_changed_ns(folder), device)
    noise = estimated_noise(values) if noise_variance is None else noise_variance
    fine = loaded.upscale(values, pixel_size_angstrom, noise)
    variance = float(values.var())
    left = float((values - box_reduced(fine)).var())
    share = 1 - left / variance if variance > 0 else None
    return Upscaled(fine, pixel_size_angstrom / FACTOR, share, loaded.label)


@dataclass(frozen=True)
class Prepared:
    """What a network sees of an image, and how its answer becomes an image.

    Attributes:
        channels: (INPUT_CHANNELS, y, x) float32.
        linear: [4y, 4x] float32, the Wiener estimate, in standard deviations of the fine image from the mean.
        unit: what an answer of one adds to ``linear``.
        mean, scale: of the fine image, in the units of the image.
        least: the fine image is nowhere less; zero for intensities.
    """

    channels: Floats
    linear: Floats
    unit: float
    mean: float
    scale: float
    least: float

    def standardised(self, fine: NDArray[np.floating]) -> Floats:
        """An image [4y, 4x] in the units of ``linear``."""
        return ((fine - self.mean) / self.scale).astype(np.float32)

    def image(self, answer: NDArray[np.floating]) -> Floats:
        """The fine image of a network's answer [4y, 4x]."""
        return np.clip(self.mean + self.scale * (self.linear + self.unit * answer), self.least, None).astype(np.float32)


def prepare(coarse: NDArray[np.floating], pixel_size_angstrom: float, noise_variance: float) -> Prepared:
    """What the network sees.

    Args:
        coarse: [y, x].
        pixel_size_angstrom: of the coarse image.
        noise_variance: of its pixels, on average.
    """
    fine_px = pixel_size_angstrom / FACTOR
    mean, variance = float(coarse.mean()), float(coarse.var())
    signal = max(variance - noise_variance, 0.02 * variance, 1e-12 * mean**2) or 1.0
    scale = float(np.sqrt(signal / _kept(fine_px)))
    relative = noise_variance / scale**2
    # Two digits of the noise are plenty, and let images of one dose share a filter.
    wiener = _wiener((coarse.shape[0], coarse.shape[1]), fine_px, float(f"{relative:.1e}"))
    standard = (coarse - mean) / scale
    linear = wiener(standard).astype(np.float32)
    unit = max(float(np.sqrt(wiener.error_variance)), _LEAST_ERROR)
    height, width = coarse.shape
    sub_pixels = linear.reshape(height, FACTOR, width, FACTOR).transpose(1, 3, 0, 2).reshape(-1, height, width)
    known = (
        np.log10(unit) + 1,
        np.log10(relative + 1e-4) / 2 + 1,
        float(np.clip(mean / scale, 0, 5)),
        5 * (fine_px - 0.15),
    )
    constant = np.broadcast_to(np.array(known, np.float32)[:, None, None], (len(known), height, width))
    channels = np.concatenate([sub_pixels, standard[None].astype(np.float32), constant])
    least = 0.0 if coarse.min() >= 0 else -np.inf
    return Prepared(channels.astype(np.float32), linear, unit, mean, scale, least)


@lru_cache(maxsize=64)
def _wiener(shape: tuple[int, int], fine_px: float, relative_noise: float) -> WienerFilter:
    return WienerFilter.of(shape, probe_spectrum(PROBE_ANGSTROM, fine_px), relative_noise)


@lru_cache(maxsize=64)
def _kept(fine_px: float) -> float:
    return variance_kept(PROBE_ANGSTROM, fine_px)


def estimated_noise(image: NDArray[np.floating]) -> float:
    """Variance of a pixel's noise: the mean of counts, else what is left of the image by a mask that no plane passes.

    Immerkær, Fast noise variance estimation, Comput. Vis. Image Underst. 64, 300 (1996).
    """
    from scipy.ndimage import convolve

    if image.max(initial=0) > 1 and image.min(initial=0) >= 0 and np.array_equal(image, np.rint(image)):
        return float(image.mean())
    mask = np.outer((1, -2, 1), (1, -2, 1))
    left = convolve(np.asarray(image, np.float64), mask, mode="nearest")[1:-1, 1:-1]
    return float(np.pi / 2 * np.mean(np.abs(left)) ** 2 / np.sum(mask**2))


class LoadedResolver(TrainedNetwork):
    """A trained network, ready for use."""

    network: torch.nn.Module
    parameters: SuperResolverParameters

    def upscale(self, image: NDArray[np.floating], pixel_size_angstrom: float, noise_variance: float) -> Floats:
        """The image [4y, 4x] float32; a constant one stays constant."""
        values = np.asarray(image, np.float64)
        if values.max() - values.min() <= 1e-9 * max(abs(values.max()), abs(values.min())):
            return np.full([FACTOR * edge for edge in values.shape], values.flat[0], np.float32)
        views = [
            self._view(values, number, pixel_size_angstrom, noise_variance) for number in range(self.parameters.views)
        ]
        return np.mean(views, axis=0, dtype=np.float32)

    def _view(self, image: NDArray[Any], number: int, pixel_size_angstrom: float, noise_variance: float) -> Floats:
        """Answer to a turned, and from the fifth on mirrored, image, turned back. An image has no preferred side."""
        import torch

        turned = np.rot90(image, number % 4)[:, :: -1 if number >= 4 else 1]
        seen = prepare(np.ascontiguousarray(turned), pixel_size_angstrom, noise_variance)
        with torch.inference_mode():
            channels = torch.from_numpy(seen.channels)[None].to(self.device)
            answer = self.network(channels.contiguous(memory_format=torch.channels_last))[0, 0].float().cpu().numpy()
        fine = seen.image(answer)
        return np.rot90(fine[:, ::-1] if number >= 4 else fine, -(number % 4))


def load_resolver(folder: str | Path, device: str = "cpu") -> LoadedResolver:
    """A trained super-resolver from its checkpoint folder; raises CheckpointError."""
    return LoadedResolver.load(folder, build_network, MODELS_HERE, f"one of {', '.join(MODELS_HERE)}", device)


@lru_cache(maxsize=4)
def _load(folder: str, modified_ns: int, device: str) -> LoadedResolver:
    """Reading a network takes longer than using it; the time of change keeps a replaced folder from being missed."""
    return load_resolver(folder, device)


def _checked(image: ArrayLike, pixel_size_angstrom: float) -> NDArray[np.float64]:
    values = np.asarray(image, np.float64)
    if values.ndim != 2:
        raise ValueError(f"an image is [y, x], not of shape {values.shape}")
    if not (np.isfinite(pixel_size_angstrom) and pixel_size_angstrom > 0):
        raise ValueError(f"pixel_size_angstrom must be positive, not {pixel_size_angstrom}")
    if min(values.shape) < _SMALLEST_PX:
        raise ValueError(
            f"{values.shape[0]} x {values.shape[1]} pixels are too few; at least {_SMALLEST_PX} are needed"
        )
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{bad} of {values.size} pixels are not finite; fill or crop them first")
    return values
