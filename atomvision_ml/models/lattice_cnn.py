"""The lattice network: the Bravais class of an image by a convolutional network.

Belongs here: its parameters, architectures and use. It sees pixels, or maps without position and orientation
(:mod:`atomvision_ml.models.lattice_inputs`). Over polar maps the network also gets the copies turned by 60° and 90° and
the mirrored one, so that each symmetry that tells the classes apart is a comparison at one place.

DenseNet: Huang, Liu, van der Maaten, Weinberger, arXiv:1608.06993; implementation: torchvision. Calibration by
temperature: Guo, Pleiss, Sun, Weinberger, arXiv:1706.04599.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from atomvision_ml.models import backbones
from atomvision_ml.models.backbones import WithBackbone
from atomvision_ml.models.checkpoint import find_checkpoint
from atomvision_ml.models.lattice_inputs import ANGLES, CHANNELS, Inputs, field_of_view, network_input
from atomvision_ml.models.lattice_scenes import LatticeSceneParameters
from atomvision_ml.models.loading import TrainedNetwork, weights_changed_ns
from atomvision_ml.models.training import TrainingParameters, seeded
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]

MODEL_NAME = "lattice_cnn"
N_CLASSES = len(BRAVAIS_LATTICES)


class LatticeNetworkParameters(BaseModel):
    """Form of the network; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["compact", "densenet121"] = Field(
        default="compact", description="A small residual network, or torchvision's DenseNet-121 as in the paper."
    )
    inputs: Inputs = Field(default="polar", description="What the network sees of an image.")
    width: int = Field(default=32, ge=4, description="Channels of the compact network's first layer.")
    embedding_size: int = Field(default=64, ge=4, description="Features before the last layer.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Share of features dropped in training.")


class LatticeCnnParameters(WithBackbone, TrainingParameters, LatticeSceneParameters, LatticeNetworkParameters):
    """Network, training scenes and training of the lattice network; flat and frozen."""

    epochs: int = Field(default=4, ge=1, description="Most epochs.")
    batch_size: int = Field(default=32, ge=2, description="Images in a batch.")
    scenes_per_epoch: int = Field(default=256, ge=1, description="Training scenes drawn for each epoch.")
    repeats: int = Field(default=2, ge=1, description="Times that each scene is shown in its epoch, mirrored or not.")
    validation_images: int = Field(default=80, ge=1, description="Most images of the validation split that are used.")
    backbone_weights: str | None = Field(default=None, description=backbones.DESCRIPTION)

    @field_validator("backbone_weights")
    @classmethod
    def _stated(cls, given: str | None, info: ValidationInfo) -> str | None:
        architecture = info.data.get("architecture")
        return backbones.stated_weights(given, None if architecture == "compact" else architecture)


@dataclass(frozen=True)
class LatticeCnnResult:
    """What the network says of one image.

    Attributes:
        lattice: the most probable Bravais class.
        probabilities: class name to calibrated probability, summing to 1.
        model: name of the model and the first digits of its weights' SHA-256.
    """

    lattice: str
    probabilities: dict[str, float]
    model: str


def build_network(parameters: LatticeCnnParameters) -> torch.nn.Module:
    """The untrained network: float32 (n, channels, y, x) as of :func:`network_input`, to logits (n, 5).

    ``features`` gives the embedding (n, embedding_size). The buffer ``temperature`` divides the logits; it is set on
    the validation split.
    """
    import torch
    from torch import nn

    with seeded(parameters.seed, "weights"):
        channels = 4 * CHANNELS["polar"] if parameters.inputs == "polar" else CHANNELS[parameters.inputs]
        if parameters.architecture == "densenet121":
            body, width = _densenet(channels)
        else:
            body, width = _compact(channels, parameters.width, parameters.inputs == "polar")
        embed = nn.Sequential(nn.Linear(width, parameters.embedding_size), nn.ReLU())
        last = nn.Sequential(nn.Dropout(parameters.dropout), nn.Linear(parameters.embedding_size, N_CLASSES))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.embed, self.last = body, embed, last
            self.temperature: torch.Tensor
            self.register_buffer("temperature", torch.ones(()))

        def features(self, images: torch.Tensor) -> torch.Tensor:
            seen = _with_copies(images) if parameters.inputs == "polar" else images
            return self.embed(self.body(seen))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.last(self.features(images)) / self.temperature

    return Network()


def _with_copies(polar: torch.Tensor) -> torch.Tensor:
    """Polar maps, the same turned by 60° and by 90°, and mirrored about angle zero."""
    import torch

    mirrored = torch.roll(polar.flip(-1), 1, dims=-1)
    turned = [torch.roll(polar, ANGLES // part, dims=-1) for part in (3, 2)]
    return torch.cat([polar, *turned, mirrored], dim=1)


def _compact(channels: int, width: int, is_circular: bool) -> tuple[torch.nn.Module, int]:
    """A convolution, three residual stages, mean and maximum over the map; the last axis of polar maps is a circle."""
    import torch
    from torch import nn
    from torch.nn.functional import pad, relu

    class Convolution(nn.Module):
        def __init__(self, before: int, after: int, stride: int = 1) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(before, after, 3, stride, bias=False)
            self.norm = nn.BatchNorm2d(after)

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            maps = pad(maps, (1, 1, 0, 0), mode="circular" if is_circular else "constant")
            return self.norm(self.convolution(pad(maps, (0, 0, 1, 1))))

    class Stage(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.down = Convolution(before, after, 2)
            self.one, self.two = Convolution(after, after), Convolution(after, after)

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            maps = relu(self.down(maps))
            return relu(maps + self.two(relu(self.one(maps))))

    class Pool(nn.Module):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)

    widths = [width, round(1.5 * width), 2 * width, 3 * width]
    stages = [Stage(before, after) for before, after in pairwise(widths)]
    return nn.Sequential(Convolution(channels, width, 2), nn.ReLU(), *stages, Pool()), 2 * widths[-1]


def _densenet(channels: int) -> tuple[torch.nn.Module, int]:
    """torchvision's DenseNet-121 without its last layer, its first one for so many channels."""
    from atomvision_ml.models._torchvision import ensure_torchvision

    ensure_torchvision()
    from torch import nn
    from torchvision.models import densenet121

    network = densenet121(weights=None)
    width = network.classifier.in_features
    network.features.conv0 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    network.classifier = nn.Identity()
    return network, width


def classify_lattice(
    image: ArrayLike,
    pixel_size_angstrom: float,
    model: str | Path | None = None,
    *,
    device: str = "cpu",
) -> LatticeCnnResult:
    """The Bravais class of an image of one crystal; brightness, contrast, position and orientation do not matter.

    Args:
        image: [y, x], finite, at least 24 pixels along each side and about five periods.
        pixel_size_angstrom: edge of a pixel in Å.
        model: a checkpoint folder, the name of a released model, or None for the released lattice network.
        device: torch device.

    Returns:
        Class and calibrated probabilities. A constant image gets an answer too: the network knows no other.

    Raises:
        ValueError: the image is too small, not two-dimensional or not finite, or the pixel size is not positive.
        CheckpointError: the model is not found or damaged.
    """
    loaded = cached_lattice_cnn(MODEL_NAME if model is None else model, device)
    logits = loaded.logits([field_of_view(image, pixel_size_angstrom)])[0]
    return LatticeCnnResult(*answer(softmax(logits)), loaded.label)


def answer(probabilities: NDArray[Any]) -> tuple[str, dict[str, float]]:
    """The most probable class, and class name to probability, of probabilities (5,)."""
    named = {name: float(value) for name, value in zip(BRAVAIS_LATTICES, probabilities, strict=True)}
    return max(named, key=named.__getitem__), named


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities along the last axis."""
    from scipy.special import softmax as of_logits

    return np.asarray(of_logits(np.asarray(logits, np.float64), axis=-1))


class LoadedLatticeCnn(TrainedNetwork):
    """A trained network, ready for use."""

    parameters: LatticeCnnParameters

    def logits(self, fields: list[Floats]) -> NDArray[np.float64]:
        """Calibrated logits (n, 5) of images as of :func:`field_of_view`."""
        import torch

        with torch.inference_mode():
            return self.network(self._seen(fields)).double().cpu().numpy()

    def features(self, fields: list[Floats]) -> NDArray[np.float64]:
        """Embedding (n, embedding_size) of images as of :func:`field_of_view`."""
        import torch

        with torch.inference_mode():
            return self.network.features(self._seen(fields)).double().cpu().numpy()

    def _seen(self, fields: list[Floats]) -> torch.Tensor:
        import torch

        seen = torch.from_numpy(network_input(fields, self.parameters.inputs)).to(self.device)
        return seen.contiguous(memory_format=torch.channels_last)


def load_lattice_cnn(folder: str | Path, device: str = "cpu") -> LoadedLatticeCnn:
    """A trained lattice network from its checkpoint folder; raises CheckpointError."""
    return LoadedLatticeCnn.load(folder, build_network, (MODEL_NAME,), f"a {MODEL_NAME}", device)


def cached_lattice_cnn(model: str | Path, device: str = "cpu") -> LoadedLatticeCnn:
    """The loaded network of a folder or released name, read once; raises CheckpointError."""
    folder = find_checkpoint(model)
    return _load(str(folder), weights_changed_ns(folder), device)


@lru_cache(maxsize=2)
def _load(folder: str, modified_ns: int, device: str) -> LoadedLatticeCnn:
    return load_lattice_cnn(folder, device)
