"""Trained networks read back from their checkpoint folders: what loading has in common for all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from atomvision_ml.models.checkpoint import WEIGHTS, CheckpointError, load_checkpoint
from atomvision_ml.models.registry import model_spec
from atomvision_ml.models.training import resolve_device
from atomvision_ml.storage.blobs import file_sha256

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with its weights, ready for use.

    Attributes:
        network: in evaluation mode, on the device.
        parameters: an instance of the model's registered parameter class.
        label: name of the model and the first digits of its weights' SHA-256.
        device: where the network is.
    """

    network: Any
    parameters: Any
    label: str
    device: torch.device

    @classmethod
    def load(
        cls, folder: str | Path, build: Callable[[Any], Any], names: Collection[str], kind: str, device: str = "cpu"
    ) -> Self:
        """The trained network of a checkpoint folder.

        Args:
            folder: the checkpoint.
            build: makes the untrained network of the parameters.
            names: registered names that are accepted.
            kind: what was asked for, in words, e.g. ``a segmenter``.
            device: torch device.

        Raises:
            CheckpointError: a damaged folder, another model, or weights that do not fit.
        """
        checkpoint = load_checkpoint(folder)
        if checkpoint.name not in names:
            raise CheckpointError(f"{folder} holds a {checkpoint.name}, not {kind}")
        parameters = model_spec(checkpoint.name).parameters_class()(**checkpoint.parameters)
        network = build(parameters)
        try:
            network.load_state_dict(checkpoint.weights())
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: weights do not fit the parameters: {error}") from error
        chosen = resolve_device(device)
        digest = file_sha256(checkpoint.folder / WEIGHTS)[:12]
        return cls(network.eval().to(chosen), parameters, f"{checkpoint.name}@{digest}", chosen)


def weights_changed_ns(folder: Path) -> int:
    """Time of change of the weights, for caches: a replaced folder is then not missed. 0 where there are none."""
    weights = folder / WEIGHTS
    return weights.stat().st_mtime_ns if weights.is_file() else 0
