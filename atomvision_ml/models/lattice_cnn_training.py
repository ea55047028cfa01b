"""How the lattice network is trained: balanced scenes drawn on the fly, calibration on the validation split.

Belongs here: batches, loss and validation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atomvision_ml.images.detector import dose_name, poisson_counts
from atomvision_ml.images.scenes import SceneLibrary
from atomvision_ml.models import backbones
from atomvision_ml.models.checkpoint import Checkpoint
from atomvision_ml.models.lattice_cnn import LatticeCnnParameters, build_network
from atomvision_ml.models.lattice_inputs import Floats, field_of_view, network_input, random_turns
from atomvision_ml.models.lattice_scenes import LatticeLibrary, draw_lattice_scenes
from atomvision_ml.models.training import Progress, stable_seed
from atomvision_ml.models.training_run import OpenBlob, TrainingData, train_checkpoint
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES

if TYPE_CHECKING:
    import torch

Labels = NDArray[np.int64]

VALIDATION_DOSES = (None, 1000.0, 300.0, 100.0)
"""Each validation image is taken at one of them, in turn."""

_CHUNK = 32
_MOST_TEMPERATURE, _LEAST_TEMPERATURE = 20.0, 0.05


def train_lattice_cnn(
    items: pl.DataFrame,
    open_blob: OpenBlob,
    parameters: LatticeCnnParameters | None = None,
    *,
    scratch: Path,
    progress: Progress | None = None,
    device: str = "auto",
    data_versions: dict[str, str] | None = None,
) -> Checkpoint:
    """Train on the ``train`` split, stop and calibrate by the ``val`` split; the ``test`` split is never read.

    Args:
        items: rows of ``models/training_sets`` of the task ``lattice``.
        open_blob: local folder of a blob, as :meth:`Lake.blob`.
        parameters: of network and training.
        scratch, progress, device, data_versions: as :func:`atomvision_ml.models.training_run.train_checkpoint`.

    Returns:
        The checkpoint, with a card that has no test figures yet (:func:`update_card` adds them).

    Raises:
        ValueError: the train or the val split is empty, or the device is unknown.
        FloatingPointError: the loss is not finite.
    """
    chosen = parameters or LatticeCnnParameters()
    data = TrainingData(items, open_blob, data_versions or {})
    return train_checkpoint(
        "lattice_cnn",
        LatticeCnnLearner(data, chosen),
        chosen,
        data,
        description=(
            f"Convolutional network ({chosen.architecture}, input: {chosen.inputs}) for the five Bravais lattices; "
            "probabilities calibrated by one temperature on the validation split."
            f"{backbones.sentence(chosen.backbone_weights)}"
        ),
        scratch=scratch,
        progress=progress,
        device=device,
    )


class LatticeCnnLearner:
    """Training scenes and validation images of the network; a :class:`atomvision_ml.models.training.Learner`."""

    monitor = "val_score"

    def __init__(self, data: TrainingData, parameters: LatticeCnnParameters) -> None:
        self.parameters = parameters
        self.network: Any = build_network(parameters)
        backbones.start_from(self.network.get_submodule("body"), parameters.backbone_weights)
        self._train = LatticeLibrary(SceneLibrary(data.rows("train"), data.open_blob))
        self._validation = [
            (network_input(fields, parameters.inputs), truth)
            for fields, truth in validation_fields(data, parameters.validation_images)
        ]

    def batches_per_epoch(self) -> int:
        """Batches of all scenes of an epoch and their repeats, at least one."""
        chosen = self.parameters
        return max(1, chosen.scenes_per_epoch * chosen.repeats // chosen.batch_size)

    def batches(self, epoch: int) -> Iterator[tuple[Floats, Labels]]:
        """Inputs (batch, channels, y, x) and class numbers (batch,), all classes equally often."""
        chosen = self.parameters
        random = np.random.default_rng(stable_seed(chosen.seed, "scenes", epoch))
        drawn: list[tuple[Floats, Labels]] = []
        scenes = max(chosen.scenes_per_epoch, chosen.batch_size)
        for number in range(self.batches_per_epoch()):
            if len(drawn) * chosen.batch_size < scenes:
                drawn.append(self._drawn(random))
                yield drawn[-1]
                continue
            if number % len(drawn) == 0:
                drawn = _shuffled(drawn, random)
            inputs, truth = drawn[number % len(drawn)]
            yield random_turns(inputs, chosen.inputs, random), truth

    def loss(self, batch: tuple[Floats, Labels], device: torch.device) -> torch.Tensor:
        """Cross-entropy."""
        import torch
        from torch.nn.functional import cross_entropy

        inputs, truth = (torch.from_numpy(part).to(device) for part in batch)
        return cross_entropy(self.network(inputs.contiguous(memory_format=torch.channels_last)).float(), truth)

    def validate(self, device: torch.device) -> dict[str, float]:
        """Accuracy on natural scenes of the val split, and ``val_score``, the mean log-likelihood after calibration.

        The network's temperature is set here, so that the weights of the best epoch carry their own.
        """
        import torch

        self.network.temperature.fill_(1.0)
        logits, truth = [], []
        for inputs, labels in self._validation:
            seen = torch.from_numpy(inputs).to(device).contiguous(memory_format=torch.channels_last)
            logits.append(self.network(seen).double().cpu().numpy())
            truth.append(labels)
        every, right = np.concatenate(logits), np.concatenate(truth)
        temperature, score = best_temperature(every, right)
        self.network.temperature.fill_(temperature)
        return {
            "val_score": score,
            "val_accuracy": float(np.mean(every.argmax(axis=1) == right)),
            "val_temperature": temperature,
        }

    def _drawn(self, random: np.random.Generator) -> tuple[Floats, Labels]:
        from threadpoolctl import ThreadpoolController

        chosen = self.parameters
        lattices = balanced_classes(chosen.batch_size, random)
        with ThreadpoolController().limit(limits=1, user_api="blas"):
            scenes, _ = draw_lattice_scenes(self._train, lattices, chosen, random)
            fields = [field_of_view(each.seen[0], each.pixel_size_angstrom) for each in scenes]
        return network_input(fields, chosen.inputs), class_numbers(lattices)


def balanced_classes(count: int, random: np.random.Generator) -> list[str]:
    """So many Bravais classes in random order, each as often as any other or once more."""
    order = random.permutation(len(BRAVAIS_LATTICES))
    chosen = [BRAVAIS_LATTICES[int(order[number % len(order)])] for number in range(count)]
    return [chosen[int(number)] for number in random.permutation(count)]


def class_numbers(lattices: list[str]) -> Labels:
    """Published class numbers (n,) int64."""
    return np.array([BRAVAIS_LATTICES.index(name) for name in lattices], np.int64)


def validation_fields(data: TrainingData, most: int) -> Iterator[tuple[list[Floats], Labels]]:
    """Stored images of the val split with the noise of one dose each, in batches; the choice depends on the items."""
    rows = sorted(data.rows("val"), key=lambda row: stable_seed(row["item_id"]))[:most]
    library = SceneLibrary(rows, data.open_blob)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        fields = [_validation_field(library, row, start + number) for number, row in enumerate(part)]
        yield fields, class_numbers([row["bravais_lattice"] for row in part])


def validation_image(library: SceneLibrary, row: dict[str, Any], number: int) -> Floats:
    """The stored image of a row, at the dose that is this number's turn."""
    dose = VALIDATION_DOSES[number % len(VALIDATION_DOSES)]
    clean = library.stem_set(row["blob"]).image(row["index"])
    if dose is None:
        return clean
    seed = stable_seed("validation", row["item_id"], dose_name(dose)) % 2**32
    return poisson_counts(clean, row["pixel_size_angstrom"], dose, seed).astype(np.float32)


def _validation_field(library: SceneLibrary, row: dict[str, Any], number: int) -> Floats:
    return field_of_view(validation_image(library, row, number), row["pixel_size_angstrom"])


def best_temperature(logits: NDArray[np.float64], truth: Labels) -> tuple[float, float]:
    """The temperature with the highest mean log-likelihood of the truth, and that likelihood.

    Args:
        logits: (n, classes).
        truth: (n,) class numbers.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(log_temperature: float) -> float:
        likely = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(likely[np.arange(len(truth)), truth].mean())

    found = minimize_scalar(loss, bounds=(np.log(_LEAST_TEMPERATURE), np.log(_MOST_TEMPERATURE)), method="bounded")
    return float(np.exp(found.x)), -float(found.fun)


def _shuffled(drawn: list[tuple[Floats, Labels]], random: np.random.Generator) -> list[tuple[Floats, Labels]]:
    """The same scenes in other batches."""
    inputs, truth = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    order = random.permutation(len(truth))
    edges = np.arange(0, len(truth), len(drawn[0][1]))[1:]
    return list(zip(np.split(inputs[order], edges), np.split(truth[order], edges), strict=True))
