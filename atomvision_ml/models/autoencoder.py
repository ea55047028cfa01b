"""The autoencoders: an image of 12.8 Å as some hundred numbers, and back.

Belongs here: their parameters, the normalisation and their use. Both networks begin as the
principal components of the train split, the best linear code of that size, and learn what is to be added
(:mod:`atomvision_ml.models.autoencoder_network`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from atomvision_ml.images.resampling import area_average_matrix, cubic_matrix
from atomvision_ml.models.checkpoint import find_checkpoint
from atomvision_ml.models.components import Floats
from atomvision_ml.models.loading import TrainedNetwork, weights_changed_ns
from atomvision_ml.models.training import TrainingParameters

if TYPE_CHECKING:
    from atomvision_ml.models.autoencoder_network import Autoencoder

SHARE = 8
"""The short latent has this share of the numbers of the whole one."""
_SMOOTH_ANGSTROM = 0.4


class AutoencoderParameters(TrainingParameters):
    """Network, training images and training of an autoencoder; flat and frozen."""

    epochs: int = Field(default=3, ge=1, description="Most epochs.")
    batch_size: int = Field(default=32, ge=1, description="Images in a batch.")
    learning_rate: float = Field(default=2e-4, gt=0, description="Highest learning rate (AdamW, cosine to zero).")
    weight_decay: float = Field(default=1e-4, ge=0, description="AdamW's decoupled weight decay.")
    latent_size: int = Field(default=280, ge=8, description="Numbers in the latent; the paper has 1120.")
    size_px: int = Field(default=64, ge=16, description="Edge of the field in working pixels.")
    working_pixel_size_angstrom: float = Field(default=0.2, gt=0, description="Pixel size seen by the network, Å.")
    component_images: int = Field(
        default=3000, ge=16, description="Noiseless images of the train split to which the components are fitted."
    )
    width: int = Field(default=512, ge=4, description="Width of the hidden layers.")
    images_per_epoch: int = Field(default=640, ge=1, description="Training images in each epoch.")
    minimum_e_per_a2: float = Field(default=300.0, gt=0, description="Least dose of the training images, e/Å².")
    maximum_e_per_a2: float = Field(default=1e5, gt=0, description="Highest dose of the training images, e/Å².")
    clean_fraction: float = Field(default=0.4, ge=0, le=1, description="Share of training images without noise.")
    validation_images: int = Field(default=48, ge=1, description="Most images of the validation split that are used.")

    @model_validator(mode="after")
    def _sizes_fit(self) -> AutoencoderParameters:
        if self.size_px % 8:
            raise ValueError(f"size_px must be a multiple of 8, not {self.size_px}")
        if self.latent_size > min(self.size_px**2, self.component_images):
            raise ValueError(
                f"{self.latent_size} components need at least as many pixels ({self.size_px**2}) and images "
                f"({self.component_images})"
            )
        return self

    @property
    def short_latent_size(self) -> int:
        """Numbers in the short latent."""
        return self.latent_size // SHARE


class ConvAutoencoderParameters(AutoencoderParameters):
    """Network, training images and training of the convolutional autoencoder; flat and frozen."""

    learning_rate: float = Field(default=2e-3, gt=0, description="Highest learning rate (AdamW, cosine to zero).")
    images_per_epoch: int = Field(default=480, ge=1, description="Training images in each epoch.")
    width: int = Field(default=48, ge=4, description="Channels, at a quarter of the resolution.")


@dataclass(frozen=True)
class Reconstruction:
    """What an autoencoder makes of an image.

    Attributes:
        reconstruction: [y, x] float32, in the units of the image.
        latent: (tiles, latent_size) float32, one row for each field of 12.8 Å, row by row from the upper left.
        tiles_px: (tiles, 2) int, y and x of the upper left corner of each field in working pixels.
        model: name of the model and the first digits of its weights' SHA-256.
    """

    reconstruction: Floats
    latent: Floats
    tiles_px: NDArray[np.int64]
    model: str


def reconstruct(
    image: ArrayLike,
    pixel_size_angstrom: float,
    model: str | Path | None = None,
    *,
    device: str = "cpu",
) -> Reconstruction:
    """Encode an image and decode it again.

    The image is brought to the working pixel size by area averaging and divided into fields of 12.8 Å that overlap by
    half; their reconstructions are joined with a smooth window.

    Args:
        image: [y, x], finite; brightness and contrast do not matter.
        pixel_size_angstrom: edge of a pixel in Å.
        model: a checkpoint folder, the name of a released model, or None for the released ``conv_autoencoder``.
        device: torch device.

    Raises:
        ValueError: the image is not two-dimensional, not finite or smaller than one field, or the pixel size is not
            positive.
        CheckpointError: the model is not found or damaged.
    """
    folder = find_checkpoint("conv_autoencoder" if model is None else model)
    return load_autoencoder(folder, device).reconstruct(image, pixel_size_angstrom)


class LoadedAutoencoder(TrainedNetwork):
    """A trained network, ready for use."""

    network: Autoencoder
    parameters: AutoencoderParameters

    def encode(self, fields: Floats, kept: int | None = None) -> Floats:
        """Latents (n, kept) of normalised fields (n, y, x); the whole latent by default."""
        import torch

        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(fields, np.float32))[:, None].to(self.device)
            return self.network.encode(images, kept or self.parameters.latent_size).cpu().numpy()

    def decode(self, latent: Floats) -> Floats:
        """Fields (n, y, x) of latents (n, kept)."""
        import torch

        with torch.inference_mode():
            numbers = torch.from_numpy(np.ascontiguousarray(latent, np.float32)).to(self.device)
            return self.network.decode(numbers)[:, 0].cpu().numpy()

    def reconstruct(self, image: ArrayLike, pixel_size_angstrom: float) -> Reconstruction:
        """As :func:`reconstruct`."""
        working, edge = self.parameters.working_pixel_size_angstrom, self.parameters.size_px
        values = _checked(image, pixel_size_angstrom, edge * working)
        down = [area_average_matrix(length, pixel_size_angstrom, working) for length in values.shape]
        small = down[0] @ values @ down[1].T
        corners = [(y, x) for y in _starts(small.shape[0], edge) for x in _starts(small.shape[1], edge)]
        tiles = np.stack([small[y : y + edge, x : x + edge] for y, x in corners])
        middle, spread = levels(tiles, working)
        latent = self.encode((tiles - middle) / spread)
        decoded = self.decode(latent) * spread + middle
        joined = _joined(decoded, corners, small.shape)
        up = [
            cubic_matrix(len(matrix), (np.arange(length) + 0.5) * pixel_size_angstrom / working - 0.5)
            for matrix, length in zip(down, values.shape, strict=True)
        ]
        fine = up[0] @ joined @ up[1].T
        return Reconstruction(fine.astype(np.float32), latent, np.array(corners), self.label)


def load_autoencoder(folder: str | Path, device: str = "cpu") -> LoadedAutoencoder:
    """A trained autoencoder of either kind from its checkpoint folder; raises CheckpointError."""
    return _load(str(folder), weights_changed_ns(Path(folder)), device)


@lru_cache(maxsize=2)
def _load(folder: str, modified_ns: int, device: str) -> LoadedAutoencoder:
    return LoadedAutoencoder.load(folder, build_network, ("autoencoder", "conv_autoencoder"), "an autoencoder", device)


def build_network(parameters: AutoencoderParameters) -> Autoencoder:
    """The network without components and untrained: float32 (n, 1, y, x) as of :func:`levels`, to the same."""
    from atomvision_ml.models.autoencoder_network import Autoencoder
    from atomvision_ml.models.training import seeded

    with seeded(parameters.seed, "weights"):
        is_convolutional = isinstance(parameters, ConvAutoencoderParameters)
        return Autoencoder(
            parameters.size_px, parameters.latent_size, parameters.width, is_convolutional=is_convolutional
        )


def levels(images: NDArray[Any], pixel_size_angstrom: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean, and standard deviation after smoothing by σ = 0.4 Å (1 where it is zero), each (n, 1, 1), of (n, y, x).

    Networks and principal components alike see images less the mean, divided by that deviation, and both numbers are
    given to them for the reconstruction.
    """
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(images, (0, *(_SMOOTH_ANGSTROM / pixel_size_angstrom,) * 2), mode="nearest")
    spread = smooth.std(axis=(1, 2), keepdims=True)
    return images.mean(axis=(1, 2), keepdims=True), np.where(spread > 1e-9 * np.abs(smooth).max(), spread, 1.0)


def _starts(length: int, edge: int) -> list[int]:
    """Corners of windows that overlap by at least half and end with the image."""
    count = 1 + -(-(length - edge) // (edge // 2))
    return [round(number * (length - edge) / max(1, count - 1)) for number in range(count)]


def _joined(tiles: Floats, corners: list[tuple[int, int]], shape: tuple[int, ...]) -> NDArray[np.float64]:
    edge = tiles.shape[1]
    line = np.sin(np.pi * (np.arange(edge) + 0.5) / edge) ** 2
    window = np.outer(line, line)
    total, weights = np.zeros(shape), np.zeros(shape)
    for tile, (y, x) in zip(tiles, corners, strict=True):
        total[y : y + edge, x : x + edge] += window * tile
        weights[y : y + edge, x : x + edge] += window
    return total / weights


def _checked(image: ArrayLike, pixel_size_angstrom: float, field_angstrom: float) -> NDArray[np.float64]:
    values = np.asarray(image, np.float64)
    if values.ndim != 2:
        raise ValueError(f"an image is [y, x], not of shape {values.shape}")
    if not (np.isfinite(pixel_size_angstrom) and pixel_size_angstrom > 0):
        raise ValueError(f"pixel_size_angstrom must be positive, not {pixel_size_angstrom}")
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{bad} of {values.size} pixels are not finite; fill or crop them first")
    if min(values.shape) * pixel_size_angstrom < field_angstrom - 1e-6:
        raise ValueError(
            f"{values.shape[0]} x {values.shape[1]} pixels of {pixel_size_angstrom} Å are smaller than the "
            f"network's field of {field_angstrom:g} Å"
        )
    return values
