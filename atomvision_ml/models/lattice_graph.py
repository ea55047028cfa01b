"""The graph classifier: the Bravais lattice from the atoms of an image and what joins them.

Belongs here: its parameters, network and use. Two ALIGNN towers look at one image: one at the bonds of up to 4 Å and
their angles, as in the AtomVision paper; the other at the repeats, the vectors between atoms whose surroundings are
alike, of which a lattice is made. Each pools what its nodes say; a last layer decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from atomvision_ml.images.atom_graphs import AtomGraphs, build_graphs
from atomvision_ml.models.checkpoint import find_checkpoint
from atomvision_ml.models.graphs.ops import Backend
from atomvision_ml.models.graphs.parts import Part, bond_part, repeat_part
from atomvision_ml.models.lattice_finder import NoLatticeError
from atomvision_ml.models.loading import TrainedNetwork, weights_changed_ns
from atomvision_ml.models.training import TrainingParameters, seeded
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES

if TYPE_CHECKING:
    import torch

MODEL_NAME = "lattice_graph"


class LatticeGraphParameters(TrainingParameters):
    """Network, training graphs and training of the graph classifier; flat and frozen."""

    epochs: int = Field(default=4, ge=1, description="Most epochs.")
    batch_size: int = Field(default=32, ge=1, description="Graphs in a batch.")
    learning_rate: float = Field(default=5e-3, gt=0, description="Highest learning rate (AdamW, cosine to zero).")
    patience: int = Field(default=50, ge=1, description="Stop after so many epochs without a better validation score.")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="fp32", description="Sums over neighbours are narrow and scattered: bf16 gains nothing."
    )
    width: int = Field(default=32, ge=4, description="Hidden features of nodes, edges and pairs of edges.")
    bond_layers: int = Field(default=1, ge=0, description="ALIGNN layers on the bonds; 0 = no such tower.")
    bond_convolutions: int = Field(default=1, ge=0, description="Edge-gated convolutions after them.")
    bond_dropout: float = Field(
        default=0.7, ge=0, lt=1, description="Share of training graphs of which the bonds are not heard."
    )
    repeat_layers: int = Field(default=1, ge=0, description="ALIGNN layers on the repeats; 0 = no such tower.")
    backend: Backend = Field(default="auto", description="Graph operations: dgl, torch, or auto.")
    training_atoms: int = Field(default=20, ge=4, description="Atoms of a training patch of bonds.")
    training_repeats: int = Field(default=4, ge=1, description="Atoms whose repeats a training patch has.")
    patches: int = Field(default=4, ge=1, description="Patches of each training scene.")
    scenes_per_epoch: int = Field(default=384, ge=1, description="Training scenes in each epoch.")
    minimum_e_per_a2: float = Field(default=50.0, gt=0, description="Least dose of the training scenes, e/Å².")
    maximum_e_per_a2: float = Field(default=1e5, gt=0, description="Highest dose of the training scenes, e/Å².")
    clean_fraction: float = Field(default=0.4, ge=0, le=1, description="Share of training scenes without noise.")
    recolour_fraction: float = Field(
        default=0.5, ge=0, le=1, description="Share of training scenes whose species have other intensities."
    )
    use_atoms: int = Field(default=150, ge=8, description="Atoms of the patch of bonds in use.")
    use_repeats: int = Field(default=48, ge=1, description="Atoms whose repeats are used.")
    validation_images: int = Field(default=128, ge=1, description="Most images of the validation split that are used.")


@dataclass(frozen=True)
class GraphBatch:
    """Graphs of several images for the network: one part of bonds and one of repeats for each."""

    bonds: Sequence[Part]
    repeats: Sequence[Part]


@dataclass(frozen=True)
class LatticeGraphResult:
    """What the graph classifier says.

    Attributes:
        lattice: the most probable Bravais class.
        probabilities: class name to probability, summing to 1.
        graph: of the image.
        model: name of the model and the first digits of its weights' SHA-256.
    """

    lattice: str
    probabilities: dict[str, float]
    graph: AtomGraphs
    model: str


class NoAtomsError(NoLatticeError):
    """The image shows too few atoms for a graph; the message says how many."""


def build_network(parameters: LatticeGraphParameters) -> torch.nn.Module:
    """The untrained network: a :class:`GraphBatch` of n images to log-odds (n, 5).

    Raises:
        ValueError: no layers at all.
        RuntimeError: DGL is asked for and cannot be imported.
    """
    from atomvision_ml.models.graphs.classifier import GraphClassifier
    from atomvision_ml.models.graphs.ops import graph_ops

    if not parameters.bond_layers and not parameters.repeat_layers:
        raise ValueError("a graph classifier needs bond_layers or repeat_layers")
    with seeded(parameters.seed, "weights"):
        return GraphClassifier(
            graph_ops(parameters.backend),
            width=parameters.width,
            bond_layers=parameters.bond_layers,
            bond_convolutions=parameters.bond_convolutions,
            bond_dropout=parameters.bond_dropout,
            repeat_layers=parameters.repeat_layers,
            classes=len(BRAVAIS_LATTICES),
        )


def network_input(graphs: Sequence[AtomGraphs], parameters: LatticeGraphParameters) -> GraphBatch:
    """What the network sees of graphs in use: the middle of each field."""
    return GraphBatch(
        [bond_part(graph, parameters.use_atoms) for graph in graphs],
        [repeat_part(graph, parameters.use_repeats) for graph in graphs],
    )


def classify_graph(
    image: ArrayLike, pixel_size_angstrom: float, model: str | Path | None = None, *, device: str = "cpu"
) -> LatticeGraphResult:
    """Bravais lattice of an image of one crystal, from its atoms.

    Args:
        image: [y, x], finite, any unit.
        pixel_size_angstrom: edge of a pixel in Å.
        model: a checkpoint folder, or None for the released model.
        device: torch device.

    Raises:
        NoAtomsError: fewer than three atoms are found.
        ValueError: the image is not [y, x] or not finite, or the pixel size is not positive.
        CheckpointError: the model is not found or damaged.
    """
    values = np.asarray(image, np.float32)
    if values.ndim != 2:
        raise ValueError(f"an image is [y, x], not of shape {values.shape}")
    graph = build_graphs(values, pixel_size_angstrom)[0]
    if len(graph.positions_angstrom) < 3:
        raise NoAtomsError(f"{len(graph.positions_angstrom)} atoms are found; a graph needs at least 3")
    loaded = load_cached(model, device)
    chances = loaded.probabilities([graph])[0]
    named = {name: float(value) for name, value in zip(BRAVAIS_LATTICES, chances, strict=True)}
    return LatticeGraphResult(max(named, key=named.__getitem__), named, graph, loaded.label)


class LoadedLatticeGraph(TrainedNetwork):
    """A trained network, ready for use."""

    network: torch.nn.Module
    parameters: LatticeGraphParameters

    def probabilities(self, graphs: Sequence[AtomGraphs]) -> NDArray[np.float64]:
        """Class probabilities (n, 5) in the order of the published class numbers."""
        import torch

        with torch.inference_mode():
            odds = self.network(network_input(graphs, self.parameters))
        return torch.softmax(odds.double(), dim=1).cpu().numpy()


def load_lattice_graph(folder: str | Path, device: str = "cpu") -> LoadedLatticeGraph:
    """A trained graph classifier from its checkpoint folder; raises CheckpointError."""
    return LoadedLatticeGraph.load(folder, build_network, (MODEL_NAME,), f"a {MODEL_NAME}", device)


def load_cached(model: str | Path | None, device: str = "cpu") -> LoadedLatticeGraph:
    """The network of a folder or the released one, read once."""
    folder = find_checkpoint(MODEL_NAME if model is None else model)
    return _load(str(folder), weights_changed_ns(folder), device)


@lru_cache(maxsize=2)
def _load(folder: str, modified_ns: int, device: str) -> LoadedLatticeGraph:
    return load_lattice_graph(folder, device)
