"""A registered model with the weights that were chosen for it, applied to one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomvision_ml.models.specs.spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ChosenModel:
    """A registered model and, unless it has no weights and default parameters, its checkpoint folder."""

    spec: ModelSpec
    folder: Path | None

    @property
    def name(self) -> str:
        """Registered name."""
        return self.spec.name

    def __call__(
        self,
        image: np.ndarray,
        pixel_size_angstrom: float,
        *,
        scan_distortion_percent: float = 0.0,
        background_degree: int | None = None,
    ) -> Any:
        """What the model says of an image [y, x]; its own result type. It is told what it can take, no more.

        Args:
            image: [y, x].
            pixel_size_angstrom: edge of a pixel, Å.
            scan_distortion_percent: strain that the scan may add.
            background_degree: degree of the background that the image is known to have.

        Raises:
            ValueError: an image that the model does not take, or of which it has nothing to say.
        """
        predict = self.spec.predictor()
        known = {"scan_distortion_percent": scan_distortion_percent or None, "background_degree": background_degree}
        told: dict[str, Any] = {name: known[name] for name in self.spec.takes if known[name] is not None}
        if self.spec.kind == "network":
            return predict(image, pixel_size_angstrom, self.folder, **told)
        if self.folder is None and not told:
            return predict(image, pixel_size_angstrom)
        from atomvision_ml.models.checkpoint import load_checkpoint

        stored = {} if self.folder is None else load_checkpoint(self.folder).parameters
        return predict(image, pixel_size_angstrom, self.spec.parameters_class()(**{**stored, **told}))
