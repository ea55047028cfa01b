"""The models by name. Belongs here: one entry per model, nothing that imports a model's own module."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.schemas.vocabulary import TASKS


class UnknownModelError(LookupError):
    """No model of that name is registered; the message lists those that are."""


class ModelSpec(BaseModel):
    """One registered model. Paths are ``module:attribute`` and are resolved when the model is first made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    task: str = Field(description="Learning task that it serves.")
    kind: Literal["network", "classical"] = Field(description="Trained weights, or a method without training.")
    parameters_path: str = Field(description="Frozen pydantic class of the model's parameters.")
    build_path: str = Field(description="Function that takes these parameters, or `predict_path` for a method.")
    predict_path: str = Field(description="Function (image, pixel_size_angstrom, ...) that applies the model.")
    description: str
    intended_use: str
    limits: tuple[str, ...] = Field(description="Where it must not be trusted; goes into every card.")

    def parameters_class(self) -> type[BaseModel]:
        """The pydantic class of the parameters."""
        return _resolve(self.parameters_path)

    def predictor(self) -> Callable[..., Any]:
        """The function that applies the model to one image."""
        return _resolve(self.predict_path)


_SPECS = (
    ModelSpec(
        name="lattice_finder",
        task="lattice",
        kind="classical",
        parameters_path="atomvision_ml.models.lattice_finder:LatticeFinderParameters",
        build_path="atomvision_ml.models.lattice_finder:find_lattice",
        predict_path="atomvision_ml.models.lattice_finder:find_lattice",
        description="Autocorrelation peaks, lattice reduction and least squares; no training.",
        intended_use="Bravais lattice and lattice vectors of images of one crystal, seen along a zone axis.",
        limits=(
            "One lattice in the field: no grain boundaries, moirés or precipitates.",
            "At least some three periods along each axis; the fewer, the larger the stated uncertainty.",
            "A centring that is broken only by weak scatterers cannot be seen at a low dose.",
        ),
    ),
    ModelSpec(
        name="segmenter",
        task="segmentation",
        kind="network",
        parameters_path="atomvision_ml.models.segmenter:SegmenterParameters",
        build_path="atomvision_ml.models.segmenter:build_network",
        predict_path="atomvision_ml.models.segmenter:segment",
        description="U-Net that tells atom from background (segmentation-models-pytorch).",
        intended_use="Atoms in HAADF-STEM images of crystalline monolayers, seen along their normal, from 100 e/Å² up.",
        limits=(
            "Trained on simulated images in the convolution approximation only: no channelling, no aberrations.",
            "Probe of σ = 0.5 Å; a much sharper or blunter one, or a wrong pixel size, shifts the edges of the atoms.",
            "Columns much weaker than a neighbour within about 1.3 Å (hydrogen beside a metal) are missed.",
            "No defects, edges, tilt, contamination or scan distortion in the training images.",
        ),
    ),
)
_BY_NAME = {spec.name: spec for spec in _SPECS}
assert {spec.task for spec in _SPECS} <= set(TASKS)


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
    build = _resolve(spec.build_path)
    if spec.kind == "network":
        return build(chosen)

    def apply(image: Any, pixel_size_angstrom: float) -> Any:
        return build(image, pixel_size_angstrom, chosen)

    return apply


def _resolve(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)
