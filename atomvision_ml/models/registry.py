"""The models by name. Belongs here: one entry per model, nothing that imports a model's own module."""

from __future__ import annotations

from typing import Any

from atomvision_ml.models.specs import (
    atoms,
    defects,
    lattice,
    lattice_graph,
    reconstruction,
    segmentation,
    super_resolution,
)
from atomvision_ml.models.specs.spec import ModelSpec, resolve
from atomvision_ml.schemas.vocabulary import MODELS


class UnknownModelError(LookupError):
    """No model of that name is registered; the message lists those that are."""


_SPECS: tuple[ModelSpec, ...] = (
    *lattice.SPECS,
    *lattice_graph.SPECS,
    *segmentation.SPECS,
    *atoms.SPECS,
    *super_resolution.SPECS,
    *reconstruction.SPECS,
    *defects.SPECS,
)
_BY_NAME = {spec.name: spec for spec in _SPECS}
assert {spec.name: spec.task for spec in _SPECS} == MODELS


def model_names(task: str | None = None) -> tuple[str, ...]:
    """Registered names, all or those of one task."""
    return tuple(spec.name for spec in _SPECS if task is None or spec.task == task)


def model_spec(name: str) -> ModelSpec:
    """The entry of that name.

    Raises:
        UnknownModelError: not registered; the message lists the valid names.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnknownModelError(f"unknown model {name!r}; registered are {', '.join(_BY_NAME)}") from None


def create_model(name: str, **parameters: Any) -> Any:
    """The model as it is before any training.

    Args:
        name: registered name.
        **parameters: fields of the model's parameter class; the others keep their defaults.

    Returns:
        For a network an untrained :class:`torch.nn.Module`; for a classical method a function of
        ``(image, pixel_size_angstrom)``.

    Raises:
        UnknownModelError: the name is not registered.
        pydantic.ValidationError: a parameter is unknown or out of range.
    """
    spec = model_spec(name)
    chosen = spec.parameters_class()(**parameters)
    build = resolve(spec.build_path)
    if spec.kind == "network":
        return build(chosen)

    def apply(image: Any, pixel_size_angstrom: float) -> Any:
        return build(image, pixel_size_angstrom, chosen)

    return apply
