"""The segmenter: a small U-Net that tells atom from background, trained on simulated images.

Belongs here: its parameters, network, training crops and use. Images of any pixel size are brought to one working
pixel size by exact area averaging (for integer ratios this is binning, so counts stay Poisson counts). The network
gives for each working pixel the log-odds (r − d)/τ of lying within r = 0.5 Å of a column, d being the distance to the
nearest one: a smooth function, which is interpolated back to the image's own pixels with little loss, so that the
edges of the atoms are placed to a fraction of a working pixel.

U-Net: Ronneberger, Fischer, Brox, arXiv:1505.04597; implementation: segmentation-models-pytorch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, ValidationInfo, field_validator

from atomvision_ml.images.atoms import find_atoms
from atomvision_ml.images.resampling import area_average_matrix, cubic_matrix
from atomvision_ml.models import backbones
from atomvision_ml.models.backbones import WithBackbone
from atomvision_ml.models.checkpoint import find_checkpoint
from atomvision_ml.models.loading import TrainedNetwork, weights_changed_ns
from atomvision_ml.models.training import TrainingParameters, seeded

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
OpenBlob = Callable[[str], Path]

_TILE_PX, _OVERLAP_PX = 512, 64
_SMOOTH_ANGSTROM = 0.4
_BLUR_ANGSTROM, _BLUR_REACH_PX = 0.2, 3
_WEAK = 0.03  # contrast, in units of the image's spread, above which the second channel is logarithmic


class SegmenterParameters(WithBackbone, TrainingParameters):
    """Network, training images and training of the segmenter; flat and frozen."""

    epochs: int = Field(default=4, ge=1, description="Most epochs.")
    batch_size: int = Field(default=8, ge=1, description="Crops in a batch.")
    encoder: str = Field(default="resnet18", description="Encoder of segmentation-models-pytorch.")
    encoder_depth: int = Field(default=2, ge=2, le=5, description="Halvings of the resolution.")
    decoder_width: int = Field(default=16, ge=4, description="Channels at full resolution; doubled per halving.")
    working_pixel_size_angstrom: float = Field(default=0.2, gt=0, description="Pixel size seen by the network, Å.")
    radius_angstrom: float = Field(default=0.5, gt=0, description="Radius of an atom in the mask, Å.")
    edge_width_angstrom: float = Field(default=0.1, gt=0, description="τ of the target (r − d)/τ, Å.")
    crop_px: int = Field(default=64, ge=32, description="Edge of a training crop in working pixels.")
    crops_per_epoch: int = Field(default=480, ge=1, description="Training crops in each epoch.")
    minimum_e_per_a2: float = Field(default=50.0, gt=0, description="Least dose of the training crops, e/Å².")
    maximum_e_per_a2: float = Field(default=1e5, gt=0, description="Highest dose of the training crops, e/Å².")
    recast_fraction: float = Field(
        default=0.5, ge=0, le=1, description="Share of crops drawn anew from the columns, with other intensities."
    )
    clean_fraction: float = Field(default=0.2, ge=0, le=1, description="Share of training crops without noise.")
    views: int = Field(
        default=8,
        ge=1,
        le=8,
        description="Views (4 turned, then 4 turned mirrored) whose log-odds are averaged in use.",
    )
    validation_images: int = Field(default=16, ge=1, description="Most images of the validation split that are used.")
    backbone_weights: str | None = Field(default=None, description=backbones.DESCRIPTION)

    @field_validator("backbone_weights")
    @classmethod
    def _stated(cls, given: str | None, info: ValidationInfo) -> str | None:
        return backbones.stated_weights(given, info.data.get("encoder"))

    def log_odds(self, answer: Floats) -> Floats:
        """Log-odds (r − d)/τ from what the network says; here the same."""
        return answer


class GaussianSegmenterParameters(SegmenterParameters):
    """The same network with the target of Madsen et al. (Adv. Theory Simul. 1, 1800037, 2018): a Gaussian an atom.

    The network learns exp(−d²/2s²), d being the distance to the nearest column; their s is 8 to 10 px of 0.12 Å,
    far too wide for neighbours 1.4 Å apart.
    """

    label_width_angstrom: float = Field(default=0.3, gt=0, description="Standard deviation s of the target, Å.")

    def log_odds(self, answer: Floats) -> Floats:
        """Log-odds (r − d)/τ, d being the distance at which the Gaussian has the probability that the network says."""
        logarithm = -np.logaddexp(0, -np.clip(answer.astype(np.float64), -30, 30))
        distance = self.label_width_angstrom * np.sqrt(-2 * logarithm)
        return ((self.radius_angstrom - distance) / self.edge_width_angstrom).astype(np.float32)


NAMES = ("segmenter", "gaussian_segmenter")
"""Names of the registered segmenters."""


@dataclass(frozen=True)
class Segmentation:
    """What the segmenter says of an image.

    Attributes:
        probability: [y, x] float32, of lying within 0.5 Å of an atomic column.
        mask: [y, x] bool, probability at least one half.
        atoms: one dictionary per atom: ``x_angstrom``, ``y_angstrom`` from the centre of pixel [0, 0], ``intensity``
            (mean of the image over the atom's pixels).
        model: name of the model and the first digits of its weights' SHA-256.
    """

    probability: Floats
    mask: NDArray[np.bool_]
    atoms: list[dict[str, float]]
    model: str


def build_network(parameters: SegmenterParameters) -> torch.nn.Module:
    """The untrained network: float32 (n, 1, y, x) as of :func:`normalise`, edges divisible by 2^depth, to log-odds.

    The U-Net sees two channels: the image, and the inverse hyperbolic sine of the image blurred by σ = 0.2 Å, in which
    a column of a few percent of the brightest one's intensity stands out like the others.

    Raises:
        ValueError: segmentation-models-pytorch does not know the encoder.
    """
    from atomvision_ml.models._torchvision import ensure_torchvision

    ensure_torchvision()
    import segmentation_models_pytorch as smp
    import torch
    from torch.nn.functional import conv2d, pad

    depth, width = parameters.encoder_depth, parameters.decoder_width
    with seeded(parameters.seed, "weights"):
        try:
            unet = smp.Unet(
                parameters.encoder,
                encoder_depth=depth,
                encoder_weights=None,
                in_channels=2,
                classes=1,
                decoder_channels=[width * 2 ** (depth - 1 - level) for level in range(depth)],
            )
        except KeyError as error:
            raise ValueError(f"unknown encoder {parameters.encoder!r}: {error}") from error
    _drop_unused_stages(unet.encoder, depth)
    place = torch.arange(-_BLUR_REACH_PX, _BLUR_REACH_PX + 1)
    line = torch.exp(-0.5 * (place * parameters.working_pixel_size_angstrom / _BLUR_ANGSTROM) ** 2)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet
            self.blur: torch.Tensor
            self.register_buffer("blur", (line / line.sum()).outer(line / line.sum())[None, None], persistent=False)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            reach = (_BLUR_REACH_PX,) * 4
            smooth = conv2d(pad(image, reach, mode="replicate"), self.blur)
            weak = torch.asinh(smooth / _WEAK) / 4
            return self.unet(torch.cat([image, weak], dim=1))

    return Network()


def segment(
    image: ArrayLike,
    pixel_size_angstrom: float,
    model: str | Path | None = None,
    *,
    device: str = "cpu",
) -> Segmentation:
    """Tell atoms from background.

    Brightness and contrast do not matter: counts, detector values and detrended images alike. Images larger than 512
    working pixels are segmented in overlapping tiles.

    Args:
        image: [y, x], finite.
        pixel_size_angstrom: edge of a pixel in Å.
        model: a checkpoint folder, the name of a released model, or None for the released segmenter.
        device: torch device.

    Returns:
        Probability, mask and atoms. A constant image has no atoms.

    Raises:
        ValueError: the image is not two-dimensional, has values that are not finite, is smaller than 8 pixels or
            2 Å, or the pixel size is not positive.
        CheckpointError: the model is not found or damaged.
    """
    values = _checked(image, pixel_size_angstrom)
    folder = find_checkpoint("segmenter" if model is None else model)
    loaded = _load(str(folder), weights_changed_ns(folder), device)
    probability = loaded.probability(values, pixel_size_angstrom)
    atoms = find_atoms(probability, values, pixel_size_angstrom)
    return Segmentation(probability, probability >= 0.5, atoms, loaded.label)


def segment_by_gaussians(
    image: ArrayLike,
    pixel_size_angstrom: float,
    model: str | Path | None = None,
    *,
    device: str = "cpu",
) -> Segmentation:
    """:func:`segment` by the model ``gaussian_segmenter``."""
    return segment(image, pixel_size_angstrom, "gaussian_segmenter" if model is None else model, device=device)


class LoadedSegmenter(TrainedNetwork):
    """A trained network, ready for use."""

    network: torch.nn.Module
    parameters: SegmenterParameters

    def probability(self, image: NDArray[Any], pixel_size_angstrom: float) -> Floats:
        """Probability [y, x] float32 that a pixel's centre lies within 0.5 Å of a column; zero if it is constant."""
        values = np.asarray(image, np.float64)
        if values.max() - values.min() <= 1e-9 * max(abs(values.max()), abs(values.min())):
            return np.zeros(values.shape, np.float32)
        working = self.parameters.working_pixel_size_angstrom
        down = [area_average_matrix(edge, pixel_size_angstrom, working) for edge in values.shape]
        small = normalise(down[0] @ values @ down[1].T, working)
        odds = self._log_odds(small.astype(np.float32))
        up = [
            cubic_matrix(len(matrix), (np.arange(edge) + 0.5) * pixel_size_angstrom / working - 0.5)
            for matrix, edge in zip(down, values.shape, strict=True)
        ]
        fine = up[0] @ odds @ up[1].T
        return (1 / (1 + np.exp(-np.clip(fine, -30, 30)))).astype(np.float32)

    def _log_odds(self, image: Floats) -> Floats:
        """Log-odds on the working grid, tile by tile."""
        result = np.empty_like(image)
        step = _TILE_PX - 2 * _OVERLAP_PX
        for y in range(0, max(1, image.shape[0] - 2 * _OVERLAP_PX), step):
            for x in range(0, max(1, image.shape[1] - 2 * _OVERLAP_PX), step):
                tile = image[y : y + _TILE_PX, x : x + _TILE_PX]
                top, left = _OVERLAP_PX if y else 0, _OVERLAP_PX if x else 0
                odds = np.mean([self._view(tile, number) for number in range(self.parameters.views)], axis=0)
                result[y + top : y + tile.shape[0], x + left : x + tile.shape[1]] = odds[top:, left:]
        return result

    def _view(self, tile: Floats, number: int) -> Floats:
        """Log-odds of a turned, and from the fifth on mirrored, tile, turned back. An image has no preferred side."""
        odds = self._tile(np.ascontiguousarray(np.rot90(tile, number % 4)[:, :: -1 if number >= 4 else 1]))
        return np.rot90(odds[:, ::-1] if number >= 4 else odds, -(number % 4))

    def _tile(self, tile: Floats) -> Floats:
        import torch

        multiple = 2**self.parameters.encoder_depth
        height, width = tile.shape
        padded = np.pad(tile, ((0, -height % multiple), (0, -width % multiple)), mode="symmetric")
        with torch.inference_mode():
            tensor = torch.from_numpy(np.ascontiguousarray(padded))[None, None].to(self.device)
            answer = self.network(tensor.contiguous(memory_format=torch.channels_last))[0, 0].float().cpu().numpy()
        return self.parameters.log_odds(answer[:height, :width])


def load_segmenter(folder: str | Path, device: str = "cpu") -> LoadedSegmenter:
    """A trained segmenter from its checkpoint folder; raises CheckpointError."""
    return LoadedSegmenter.load(folder, build_network, NAMES, "a segmenter", device)


@lru_cache(maxsize=2)
def _load(folder: str, modified_ns: int, device: str) -> LoadedSegmenter:
    """Reading a network takes longer than using it; the time of change keeps a replaced folder from being missed."""
    return load_segmenter(folder, device)


def normalise(image: NDArray[Any], pixel_size_angstrom: float) -> NDArray[Any]:
    """Zero at the darkest place, unit standard deviation; both of the image smoothed by σ = 0.4 Å.

    So neither brightness, contrast nor noise sets the scale. The darkest place is the 1 % quantile.
    """
    low, spread = levels(image, pixel_size_angstrom)
    return (image - low) / spread


def levels(image: NDArray[Any], pixel_size_angstrom: float) -> tuple[float, float]:
    """1 % quantile and standard deviation (1 if it is zero) of the image smoothed by σ = 0.4 Å."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(image, _SMOOTH_ANGSTROM / pixel_size_angstrom, mode="nearest")
    return float(np.quantile(smooth, 0.01)), float(smooth.std()) or 1.0


def _checked(image: ArrayLike, pixel_size_angstrom: float) -> NDArray[np.float64]:
    values = np.asarray(image, np.float64)
    if values.ndim != 2:
        raise ValueError(f"an image is [y, x], not of shape {values.shape}")
    if not (np.isfinite(pixel_size_angstrom) and pixel_size_angstrom > 0):
        raise ValueError(f"pixel_size_angstrom must be positive, not {pixel_size_angstrom}")
    if min(values.shape) < 8 or min(values.shape) * pixel_size_angstrom < 2:
        raise ValueError(
            f"{values.shape[0]} x {values.shape[1]} pixels of {pixel_size_angstrom} Å are too small to segment; "
            "at least 8 pixels and 2 Å along each axis are needed"
        )
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{bad} of {values.size} pixels are not finite; fill or crop them first")
    return values


def _drop_unused_stages(encoder: torch.nn.Module, depth: int) -> None:
    """ResNet encoders of the library keep the stages beyond their depth; they would only weigh the checkpoint."""
    from torch import nn

    for stage in range(depth, 5):
        if isinstance(getattr(encoder, f"layer{stage}", None), nn.Sequential):
            setattr(encoder, f"layer{stage}", nn.Identity())
