"""The fused lattice model: the lattice finder's evidence beside what the lattice network sees.

Belongs here: the finder's evidence as numbers, the head that weighs both, and its use. The finder measures the cell to
a fraction of a percent, the network has seen what structures look like. The head starts as the finder's answer and
learns corrections: a superlattice that the label forgives, a centring broken by a reflection that hardly stands
out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from atomvision_ml.models.checkpoint import find_checkpoint
from atomvision_ml.models.lattice_cnn import (
    N_CLASSES,
    LatticeCnnParameters,
    LatticeNetworkParameters,
    answer,
    build_network,
    softmax,
)
from atomvision_ml.models.lattice_finder import (
    LatticeEvidence,
    LatticeFinderParameters,
    LatticeResult,
    NoLatticeError,
    OtherLattice,
    examine_lattice,
)
from atomvision_ml.models.lattice_inputs import Floats, field_of_view, network_input
from atomvision_ml.models.lattice_scenes import LatticeSceneParameters
from atomvision_ml.models.loading import TrainedNetwork, weights_changed_ns
from atomvision_ml.models.training import TrainingParameters, seeded
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES

if TYPE_CHECKING:
    import torch

MODEL_NAME = "lattice_fusion"

_SPECIAL = BRAVAIS_LATTICES[:4]
_LEAST_PROBABILITY = 1e-6
_FURTHEST = 4.0
"""Standardised features are clipped there, so that no odd image leaves the range of training."""

N_EVIDENCE = 5 + 4 + 4 + 4 + 5 + 5 + 5 + 1
"""Length of :func:`evidence_features`."""


class LatticeFusionParameters(TrainingParameters, LatticeSceneParameters, LatticeNetworkParameters):
    """Head, training scenes and training of the fused model; the form of the network is that of its checkpoint."""

    epochs: int = Field(default=20, ge=1, description="Most epochs.")
    batch_size: int = Field(default=32, ge=2, description="Images in a batch.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Highest learning rate (AdamW, cosine to zero).")
    patience: int = Field(default=20, ge=1, description="Stop after so many epochs without a better validation score.")
    weight_decay: float = Field(default=5e-2, ge=0, description="AdamW's decoupled weight decay.")
    natural_fraction: float = Field(
        default=0.6, ge=0, le=1, description="Share of scenes of a structure in its own lattice."
    )
    pseudo_centred_fraction: float = Field(
        default=0.6, ge=0, le=1, description="Share of the other scenes that are a superlattice broken by one atom."
    )
    hidden: int = Field(default=32, ge=4, description="Width of the head's hidden layer.")
    has_embedding: bool = Field(
        default=False,
        description="Whether the head sees the network's embedding beside its logits; asks for thousands of scenes.",
    )
    scenes: int = Field(default=160, ge=8, description="Training scenes, each examined once by the lattice finder.")
    validation_images: int = Field(default=60, ge=1, description="Most images of the validation split that are used.")


@dataclass(frozen=True)
class LatticeFusionResult:
    """What the fused model says of one image.

    Attributes:
        lattice: the most probable Bravais class.
        probabilities: class name to calibrated probability, summing to 1.
        lattice_vectors_angstrom: (2, 2) of the lattice finder, as in its result; None where it found no lattice. They
            belong to the finder's class, which may be another one.
        uncertainties_angstrom: (2, 2) their standard uncertainties, or None.
        model: name of the model and the first digits of its weights' SHA-256.
    """

    lattice: str
    probabilities: dict[str, float]
    lattice_vectors_angstrom: NDArray[np.float64] | None
    uncertainties_angstrom: NDArray[np.float64] | None
    model: str


def evidence_features(evidence: LatticeEvidence | None) -> NDArray[np.float32]:
    """The finder's evidence as numbers; zeros where it found no lattice.

    Args:
        evidence: of :func:`examine_lattice`, or None.

    Returns:
        (33,) float32: log probability of each class; log strain to each class above oblique, and its log standard
        uncertainty; length ratio, angle, log area and log resolution elements; for each class the
        log amplitude and log power over noise of the reflection that speaks against the nearest parent of that class,
        and the log odds of superlattices of that class; 1.
    """
    if evidence is None:
        return np.zeros(N_EVIDENCE, np.float32)
    cell = evidence.result.lattice_vectors_angstrom
    lengths = np.linalg.norm(cell, axis=1)
    parents = [min(_of(evidence.parents, name), key=_weight, default=None) for name in BRAVAIS_LATTICES]
    finer = [sum(each.weight for each in _of(evidence.alternatives, name)) for name in BRAVAIS_LATTICES]
    shape = [
        float(lengths[1] / lengths[0]),
        math.acos(float(np.clip(cell[0] @ cell[1] / lengths.prod(), -1, 1))),
        math.log(abs(float(np.linalg.det(cell)))),
        math.log(evidence.resolution_elements),
    ]
    values = [
        *_log_probabilities(evidence.result),
        *[math.log10(evidence.strains[name] + 1e-5) for name in _SPECIAL],
        *[math.log10(evidence.strain_sigmas[name] + 1e-6) for name in _SPECIAL],
        *shape,
        *[0.0 if each is None else math.log10(each.weight + 1e-5) for each in parents],
        *[6.0 if each is None else min(6.0, math.log10(each.snr + 0.1)) for each in parents],
        *[math.log10(odds + 1e-4) for odds in finer],
        1.0,
    ]
    return np.array(values, np.float32)


def _weight(other: OtherLattice) -> float:
    return other.weight


def _of(others: tuple[OtherLattice, ...], name: str) -> list[OtherLattice]:
    return [each for each in others if each.lattice == name]


def _log_probabilities(result: LatticeResult) -> list[float]:
    return [math.log(max(result.probabilities[name], _LEAST_PROBABILITY)) for name in BRAVAIS_LATTICES]


def examined(
    image: ArrayLike, pixel_size_angstrom: float, scan_distortion_percent: float = 0.0
) -> LatticeEvidence | None:
    """The finder's evidence, or None where it sees no lattice; raises ValueError as :func:`find_lattice`."""
    parameters = LatticeFinderParameters(scan_distortion_percent=scan_distortion_percent)
    try:
        return examine_lattice(image, pixel_size_angstrom, parameters)
    except NoLatticeError:
        return None


def build_fusion(parameters: LatticeFusionParameters) -> torch.nn.Module:
    """The untrained model: features (n, 33 + 5 + embedding_size) to logits (n, 5).

    The features are the finder's evidence and, of the network ``cnn`` inside, logits and embedding
    (:func:`network_features`). Buffers ``mean`` and ``scale`` standardise them.
    """
    import torch
    from torch import nn

    total = N_EVIDENCE + N_CLASSES + (parameters.embedding_size if parameters.has_embedding else 0)
    network = build_network(cnn_parameters(parameters))
    with seeded(parameters.seed, "head"):
        last = nn.Linear(parameters.hidden, N_CLASSES)
        head = nn.Sequential(
            nn.Linear(total, parameters.hidden),
            nn.ReLU(),
            nn.Dropout(parameters.dropout),
            last,
        )
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)

    class Fusion(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cnn = network.requires_grad_(False)
            self.head = head
            self.trust = nn.Parameter(torch.tensor([1.0, 0.0]))
            self.mean: torch.Tensor
            self.scale: torch.Tensor
            self.temperature: torch.Tensor
            self.register_buffer("mean", torch.zeros(total))
            self.register_buffer("scale", torch.ones(total))
            self.register_buffer("temperature", torch.ones(()))

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            said = features[:, :N_CLASSES]
            seen = features[:, N_EVIDENCE : N_EVIDENCE + N_CLASSES].log_softmax(dim=1)
            standard = ((features[:, :total] - self.mean) / self.scale).clamp(-_FURTHEST, _FURTHEST)
            logits = self.trust[0] * said + self.trust[1] * seen + self.head(standard)
            return logits / self.temperature

    return Fusion()


def cnn_parameters(parameters: LatticeFusionParameters) -> LatticeCnnParameters:
    """Those of the network inside."""
    form = LatticeNetworkParameters.model_fields
    return LatticeCnnParameters(**{name: getattr(parameters, name) for name in form}, seed=parameters.seed)


def network_features(network: Any, fields: list[Floats], inputs: Any, device: torch.device) -> NDArray[np.float32]:
    """Logits and embedding (n, 5 + embedding_size) float32 that a lattice network has of :func:`field_of_view` images.

    Args:
        network: in evaluation mode.
        fields: n images.
        inputs: what the network sees.
        device: where the network is.
    """
    import torch

    with torch.inference_mode():
        seen = torch.from_numpy(network_input(fields, inputs)).to(device)
        embedding = network.features(seen.contiguous(memory_format=torch.channels_last))
        logits = network.last(embedding) / network.temperature
        return torch.cat([logits, embedding], dim=1).float().cpu().numpy()


def fuse_lattice(
    image: ArrayLike,
    pixel_size_angstrom: float,
    model: str | Path | None = None,
    *,
    scan_distortion_percent: float = 0.0,
    device: str = "cpu",
) -> LatticeFusionResult:
    """The Bravais class of an image of one crystal, by lattice finder and network together.

    Args:
        image: [y, x], finite, at least 24 pixels along each side.
        pixel_size_angstrom: edge of a pixel in Å.
        model: a checkpoint folder, the name of a released model, or None for the released fused model.
        scan_distortion_percent: strain that the scan may add, as for the lattice finder.
        device: torch device of the network.

    Returns:
        Class and calibrated probabilities, with the vectors of the lattice finder.

    Raises:
        ValueError: the image is too small, not two-dimensional or not finite, or the pixel size is not positive.
        CheckpointError: the model is not found or damaged.
    """
    folder = find_checkpoint(MODEL_NAME if model is None else model)
    loaded = _load(str(folder), weights_changed_ns(folder), device)
    field = field_of_view(image, pixel_size_angstrom)
    evidence = examined(image, pixel_size_angstrom, scan_distortion_percent)
    logits = loaded.logits([field], evidence_features(evidence)[None])[0]
    found = None if evidence is None else evidence.result
    return LatticeFusionResult(
        *answer(softmax(logits)),
        None if found is None else found.lattice_vectors_angstrom,
        None if found is None else found.uncertainties_angstrom,
        loaded.label,
    )


class LoadedFusion(TrainedNetwork):
    """A trained fused model, ready for use."""

    parameters: LatticeFusionParameters

    def logits(self, fields: list[Floats], evidence: NDArray[np.float32]) -> NDArray[np.float64]:
        """Calibrated logits (n, 5) of n images as of :func:`field_of_view` and their evidence (n, 33)."""
        import torch

        seen = network_features(self.network.cnn, fields, self.parameters.inputs, self.device)
        features = torch.from_numpy(np.concatenate([evidence, seen], axis=1)).to(self.device)
        with torch.inference_mode():
            return self.network(features).double().cpu().numpy()


def load_lattice_fusion(folder: str | Path, device: str = "cpu") -> LoadedFusion:
    """A trained fused model from its checkpoint folder; raises CheckpointError."""
    return LoadedFusion.load(folder, build_fusion, (MODEL_NAME,), f"a {MODEL_NAME}", device)


@lru_cache(maxsize=2)
def _load(folder: str, modified_ns: int, device: str) -> LoadedFusion:
    return load_lattice_fusion(folder, device)
