"""Checkpoint folders: how a model is kept, carried and read again, without pickle.

A folder holds ``parameters.json`` (name and parameters), ``card.json`` (what the model is, was made from, can and
cannot do), and for a trained network ``weights.safetensors``, ``curves.json`` and ``curves.png``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atomvision_ml.models.registry import UnknownModelError, model_names, model_spec

if TYPE_CHECKING:
    import torch

WEIGHTS, PARAMETERS, CARD = "weights.safetensors", "parameters.json", "card.json"
CURVES, CURVES_PICTURE = "curves.json", "curves.png"


class CheckpointError(ValueError):
    """A folder is not a valid checkpoint; the message names the file and what is wrong with it."""


class ModelCard(BaseModel):
    """What a reader must know before using a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Registered name.")
    task: str = Field(description="Learning task.")
    description: str = Field(description="What it is, in a sentence or two.")
    intended_use: str = Field(description="What it is for.")
    limits: list[str] = Field(description="Where it must not be trusted.")
    trained_on: str = Field(description="The images, in words; empty for a method without training.")
    data_versions: dict[str, str] = Field(default={}, description="Data version of each input, by key.")
    splits: dict[str, int] = Field(default={}, description="Images in each split.")
    metrics: list[dict[str, Any]] = Field(
        default=[], description="Figures with those of the baselines on the same images, as in evaluation/metrics."
    )
    training: dict[str, Any] = Field(default={}, description="Epochs, best epoch, seconds, device, software.")
    how_to_make: str = Field(default="", description="The command or asset that makes it again.")


@dataclass(frozen=True)
class Checkpoint:
    """A validated checkpoint folder."""

    folder: Path
    name: str
    parameters: dict[str, Any]
    card: ModelCard
    n_parameters: int

    def weights(self, device: str = "cpu") -> dict[str, torch.Tensor]:
        """The weights by name; raises CheckpointError for a method without weights."""
        from safetensors.torch import load_file

        path = self.folder / WEIGHTS
        if not path.is_file():
            raise CheckpointError(f"{path}: {self.name} has no weights")
        return load_file(path, device=device)

    def curves(self) -> list[dict[str, float]]:
        """One dictionary per epoch; empty for a method without training."""
        path = self.folder / CURVES
        return json.loads(path.read_text()) if path.is_file() else []


def save_checkpoint(
    folder: Path,
    *,
    parameters: BaseModel,
    card: ModelCard,
    weights: Mapping[str, torch.Tensor] | None = None,
    curves: Sequence[Mapping[str, float]] = (),
    curves_picture: bytes | None = None,
) -> Checkpoint:
    """Write a checkpoint folder (new or emptied of former checkpoint files) and read it back.

    Args:
        folder: where to; made if missing.
        parameters: the model's parameters, an instance of its registered class.
        card: the model's card; its name decides which model this is.
        weights: tensors by name, or None for a method without weights.
        curves: one mapping per epoch.
        curves_picture: PNG bytes.

    Raises:
        UnknownModelError: the card's name is not registered.
        CheckpointError: what was written cannot be read back.
    """
    model_spec(card.name)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, PARAMETERS, CARD, CURVES, CURVES_PICTURE):
        (folder / name).unlink(missing_ok=True)
    if weights is not None:
        from safetensors.torch import save_file

        save_file({key: value.detach().cpu().contiguous() for key, value in weights.items()}, folder / WEIGHTS)
    if curves:
        (folder / CURVES).write_text(json.dumps(list(curves), indent=1) + "\n")
    if curves_picture is not None:
        (folder / CURVES_PICTURE).write_bytes(curves_picture)
    _write_json(folder / PARAMETERS, {"model": card.name, "parameters": parameters.model_dump(mode="json")})
    _write_json(folder / CARD, card.model_dump(mode="json"))
    return load_checkpoint(folder)


def classical_checkpoint(name: str, parameters: BaseModel, folder: Path) -> Checkpoint:
    """The checkpoint of a method without training: its parameters, and a card from its registry entry."""
    spec = model_spec(name)
    card = ModelCard(
        name=name,
        task=spec.task,
        description=spec.description,
        intended_use=spec.intended_use,
        limits=list(spec.limits),
        trained_on="",
    )
    return save_checkpoint(folder, parameters=parameters, card=card)


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read and validate a checkpoint folder (weights are read only when asked for).

    Raises:
        CheckpointError: a file is missing, damaged or contradicts another one.
    """
    folder = Path(folder)
    stored = _read_json(folder / PARAMETERS)
    try:
        spec = model_spec(stored["model"])
        parameters = spec.parameters_class()(**stored["parameters"]).model_dump(mode="json")
        card = ModelCard(**_read_json(folder / CARD))
    except (KeyError, TypeError, UnknownModelError, ValidationError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    if card.name != spec.name:
        raise CheckpointError(f"{folder}: {PARAMETERS} is of {spec.name!r}, {CARD} of {card.name!r}")
    return Checkpoint(
        folder=folder,
        name=spec.name,
        parameters=parameters,
        card=card,
        n_parameters=_count_weights(folder / WEIGHTS) if spec.kind == "network" else 0,
    )


def update_card(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    """The same folder with fields of the card replaced, e.g. ``metrics`` after the evaluation."""
    card = ModelCard(**{**checkpoint.card.model_dump(), **changes})
    _write_json(checkpoint.folder / CARD, card.model_dump(mode="json"))
    return load_checkpoint(checkpoint.folder)


def model_row(
    checkpoint: Checkpoint, *, version: str, size: str, blob: str, is_checkpoint: bool = True
) -> dict[str, Any]:
    """The row of ``models/<name>`` for a checkpoint that was stored as ``blob``."""
    seed = int(checkpoint.parameters.get("seed", 0))
    version = version if is_checkpoint else f"{version}.s{seed}"
    return {
        "model_id": f"{checkpoint.name}@{version}",
        "name": checkpoint.name,
        "version": version,
        "task": checkpoint.card.task,
        "size": size,
        "seed": seed,
        "is_checkpoint": is_checkpoint,
        "blob": blob,
        "n_parameters": checkpoint.n_parameters,
        "parameters_json": json.dumps(checkpoint.parameters, sort_keys=True),
        "card_json": checkpoint.card.model_dump_json(),
    }


def released_checkpoint(name: str) -> Path:
    """Folder of the checkpoint that travels with the package.

    Raises:
        UnknownModelError: no such model.
        CheckpointError: the model is registered, but this installation has no released checkpoint of it.
    """
    model_spec(name)
    folder = Path(__file__).parent / "released" / name
    if not (folder / PARAMETERS).is_file():
        raise CheckpointError(
            f"no released checkpoint of {name!r}; released are {', '.join(released_names()) or 'none'}"
        )
    return folder


def released_names() -> tuple[str, ...]:
    """Models that have a released checkpoint."""
    root = Path(__file__).parent / "released"
    return tuple(name for name in model_names() if (root / name / PARAMETERS).is_file())


def find_checkpoint(model: str | Path) -> Path:
    """Folder of a model given as a folder or as the name of a released one.

    Raises:
        CheckpointError: neither a folder nor a released model.
    """
    if Path(model).is_dir():
        return Path(model)
    if str(model) in model_names():
        return released_checkpoint(str(model))
    raise CheckpointError(
        f"{str(model)!r} is neither a checkpoint folder nor a released model ({', '.join(released_names()) or 'none'})"
    )


def _count_weights(path: Path) -> int:
    """Trainable numbers, from the header alone (buffers of batch normalisation do not count)."""
    from safetensors import SafetensorError, safe_open

    buffers = ("running_mean", "running_var", "num_batches_tracked")
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = [file.get_slice(key).get_shape() for key in file.keys() if not key.endswith(buffers)]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    total = 0
    for shape in shapes:
        count = 1
        for edge in shape:
            count *= edge
        total += count
    return total


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
