"""How the graph classifier is trained: scenes drawn on the fly, their graphs, patches of these, and its validation.

Belongs here: the learner. Each scene has a pose, a dose and, half of the time, other intensities of its species; noise
reaches the graph through the atom finder, so that missed, invented and displaced atoms are as frequent as in use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atomvision_ml.images.atom_graphs import AtomGraphs, build_graphs
from atomvision_ml.images.scenes import SceneLibrary, SceneParameters, at_dose, draw_scenes
from atomvision_ml.images.stem import Projection
from atomvision_ml.models.checkpoint import Checkpoint
from atomvision_ml.models.graphs.parts import bond_part, repeat_part
from atomvision_ml.models.lattice_graph import (
    MODEL_NAME,
    GraphBatch,
    LatticeGraphParameters,
    build_network,
    network_input,
)
from atomvision_ml.models.training import Progress, stable_seed
from atomvision_ml.models.training_run import OpenBlob, TrainingData, train_checkpoint
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES

if TYPE_CHECKING:
    import torch

VALIDATION_DOSES = (None, 1000.0, 100.0)
_PIXEL_ANGSTROM = 0.2
_MOST_PX = 256
_LEAST_ATOMS = 3
_VALIDATION_BATCH = 16


def train_lattice_graph(
    items: pl.DataFrame,
    open_blob: OpenBlob,
    parameters: LatticeGraphParameters | None = None,
    *,
    scratch: Path,
    progress: Progress | None = None,
    device: str = "auto",
    data_versions: dict[str, str] | None = None,
) -> Checkpoint:
    """Train on the ``train`` split, stop by the ``val`` split; the ``test`` split is never read.

    Args:
        items: rows of ``models/training_sets`` of the task ``lattice``.
        open_blob: local folder of a blob, as :meth:`Lake.blob`.
        parameters: of network and training.
        scratch, progress, device, data_versions: as :func:`atomvision_ml.models.training_run.train_checkpoint`.

    Raises:
        ValueError: the train or the val split is empty, or the device is unknown.
        FloatingPointError: the loss is not finite.
    """
    chosen = parameters or LatticeGraphParameters()
    data = TrainingData(items, open_blob, data_versions or {})
    return train_checkpoint(
        MODEL_NAME,
        LatticeGraphLearner(data, chosen),
        chosen,
        data,
        description=(
            f"ALIGNN of width {chosen.width} on the graph of an image's atoms: {chosen.bond_layers} layers on bonds of "
            f"up to 4 Å, {chosen.repeat_layers} on the repeats of each atom's surroundings."
        ),
        scratch=scratch,
        progress=progress,
        device=device,
    )


class LatticeGraphLearner:
    """Training and validation graphs; a :class:`atomvision_ml.models.training.Learner`."""

    monitor = "val_log_likelihood"

    def __init__(self, data: TrainingData, parameters: LatticeGraphParameters) -> None:
        self.parameters = parameters
        self.network = build_network(parameters)
        self._train = SceneLibrary(_unambiguous(data.rows("train")), data.open_blob)
        classes = np.array([row["bravais_lattice"] for row in self._train.rows])
        self._of_class = [found for name in BRAVAIS_LATTICES if len(found := np.flatnonzero(classes == name))]
        self._validation = self._validation_graphs(data)

    def batches_per_epoch(self) -> int:
        """Each scene is used in ``patches`` batches."""
        chosen = self.parameters
        return max(1, chosen.scenes_per_epoch // chosen.batch_size) * chosen.patches

    def batches(self, epoch: int) -> Iterator[tuple[GraphBatch, NDArray[np.int64]]]:
        """Patches and class numbers, each class equally often, drawn from the epoch alone."""
        chosen = self.parameters
        random = np.random.default_rng(stable_seed(chosen.seed, "scenes", epoch))
        for _ in range(self.batches_per_epoch() // chosen.patches):
            numbers = [int(random.choice(self._of_class[n % len(self._of_class)])) for n in range(chosen.batch_size)]
            graphs = self._drawn(numbers, random)
            labels = np.array(
                [BRAVAIS_LATTICES.index(self._train.rows[number]["bravais_lattice"]) for number in numbers]
            )
            usable = [n for n, graph in enumerate(graphs) if len(graph.positions_angstrom) >= _LEAST_ATOMS]
            for _ in range(chosen.patches):
                yield self._patches([graphs[n] for n in usable], random), labels[usable]

    def loss(self, batch: tuple[GraphBatch, NDArray[np.int64]], device: torch.device) -> torch.Tensor:
        """Cross-entropy."""
        import torch
        from torch.nn.functional import cross_entropy

        graphs, labels = batch
        return cross_entropy(self.network(graphs).float(), torch.from_numpy(labels).to(device))

    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean log-probability of the true class, and the accuracy at each dose."""
        import torch

        logs, right = [], {}
        for dose, (graphs, labels) in self._validation.items():
            parts = [
                self.network(network_input(graphs[start : start + _VALIDATION_BATCH], self.parameters)).float()
                for start in range(0, len(graphs), _VALIDATION_BATCH)
            ]
            chances = torch.log_softmax(torch.cat(parts), dim=1).cpu().numpy()
            logs.append(chances[np.arange(len(labels)), labels].mean())
            right[f"val_accuracy_{'clean' if dose is None else int(dose)}"] = float(
                (chances.argmax(axis=1) == labels).mean()
            )
        return {"val_log_likelihood": float(np.mean(logs)), **right}

    def _patches(self, graphs: Sequence[AtomGraphs], random: np.random.Generator) -> GraphBatch:
        chosen = self.parameters
        return GraphBatch(
            [bond_part(graph, chosen.training_atoms, random) for graph in graphs],
            [repeat_part(graph, chosen.training_repeats, random) for graph in graphs],
        )

    def _drawn(self, numbers: Sequence[int], random: np.random.Generator) -> list[AtomGraphs]:
        """The graph of one fresh scene of each row; scenes of one size are drawn and searched together."""
        chosen = self.parameters
        sizes = np.array([_size_px(self._train.view(number).field_angstrom) for number in numbers])
        graphs: dict[int, AtomGraphs] = {}
        for size in np.unique(sizes):
            rows = np.flatnonzero(sizes == size).tolist()
            projections = [self._train.projection(numbers[row]) for row in rows]
            projections = [
                recoloured(each, random) if random.random() < chosen.recolour_fraction else each for each in projections
            ]
            ranges = SceneParameters(
                size_px=int(size),
                minimum_e_per_a2=chosen.minimum_e_per_a2,
                maximum_e_per_a2=chosen.maximum_e_per_a2,
                clean_fraction=chosen.clean_fraction,
            )
            found = build_graphs(draw_scenes(projections, ranges, random).seen, _PIXEL_ANGSTROM)
            graphs |= {row: found[n] for n, row in enumerate(rows)}
        return [graphs[n] for n in range(len(numbers))]

    def _validation_graphs(self, data: TrainingData) -> dict[float | None, tuple[list[AtomGraphs], NDArray[np.int64]]]:
        """Graphs of the same scenes at each dose; pose and noise depend on the item alone."""
        rows = _unambiguous(data.rows("val"))
        rows = sorted(rows, key=lambda row: stable_seed(row["item_id"]))[: self.parameters.validation_images]
        library = SceneLibrary(rows, data.open_blob)
        result: dict[float | None, tuple[list[AtomGraphs], NDArray[np.int64]]] = {}
        for dose in VALIDATION_DOSES:
            graphs, labels = [], []
            for number, row in enumerate(rows):
                random = np.random.default_rng(stable_seed(row["item_id"], dose))
                ranges = SceneParameters(size_px=_size_px(library.view(number).field_angstrom), **at_dose(dose))
                graph = build_graphs(draw_scenes([library.projection(number)], ranges, random).seen, _PIXEL_ANGSTROM)
                if len(graph.positions_angstrom) >= _LEAST_ATOMS:
                    graphs.append(graph)
                    labels.append(BRAVAIS_LATTICES.index(row["bravais_lattice"]))
            result[dose] = graphs, np.array(labels, np.int64)
        return result


def recoloured(projection: Projection, random: np.random.Generator) -> Projection:
    """Other intensities (10 % to 100 %) for each species, and another scale (0.92 to 1.1); the lattice stays its kind.

    Few prototypes show few pairs of elements; what is equal stays equal, so that no translation is lost.
    """
    _, index = np.unique(projection.weights, return_inverse=True)
    weights = np.exp(random.uniform(np.log(0.1), 0, index.max() + 1))[index] * projection.weights.max()
    scale = float(random.uniform(0.92, 1.1))
    return Projection(projection.positions_angstrom * scale, weights, projection.periods_angstrom * scale)


def _size_px(field_angstrom: float) -> int:
    return int(min(round(field_angstrom / _PIXEL_ANGSTROM), _MOST_PX))


def _unambiguous(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose label no convention could change; all of them if there are no such rows."""
    return [row for row in rows if not row["is_ambiguous"]] or rows
