"""What the registry knows of a model."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class ModelSpec(BaseModel):
    """One registered model. Paths are ``module:attribute`` and are resolved when the model is first made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    task: str = Field(description="Learning task that it serves.")
    kind: Literal["network", "composed", "classical"] = Field(
        description="Trained weights, a method on top of another model's answer, or a method without training."
    )
    parameters_path: str = Field(description="Frozen pydantic class of the model's parameters.")
    build_path: str = Field(description="Function that takes these parameters, or `predict_path` for a method.")
    predict_path: str = Field(description="Function (image, pixel_size_angstrom, ...) that applies the model.")
    description: str
    intended_use: str
    pixel_sizes_path: str = Field(
        description="Sizes of pixels, Å, that it was trained or is made for; all between them."
    )
    takes: tuple[Literal["scan_distortion_percent", "background_degree"], ...] = Field(
        default=(), description="What it can be told of the way in which an image was taken."
    )
    limits: tuple[str, ...] = Field(description="Where it must not be trusted; goes into every card.")

    def parameters_class(self) -> type[BaseModel]:
        """The pydantic class of the parameters."""
        return resolve(self.parameters_path)

    def pixel_sizes_angstrom(self) -> tuple[float, float]:
        """Smallest and largest pixel, Å, that the model was trained or is made for."""
        sizes = resolve(self.pixel_sizes_path)
        return min(sizes), max(sizes)

    def predictor(self) -> Callable[..., Any]:
        """The function that applies the model to one image."""
        return resolve(self.predict_path)


def resolve(path: str) -> Any:
    """What a path ``module:attribute`` names."""
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)
