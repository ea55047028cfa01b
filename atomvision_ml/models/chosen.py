"""A registered model with the weights that were chosen for it by name, version or folder, applied to one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomvision_ml.models.checkpoint import CheckpointError, find_checkpoint, load_checkpoint
from atomvision_ml.models.registry import model_names, model_spec
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
        stored = {} if self.folder is None else load_checkpoint(self.folder).parameters
        return predict(image, pixel_size_angstrom, self.spec.parameters_class()(**{**stored, **told}))


def load_model(model: str | Path) -> ChosenModel:
    """A model, ready to be called with an image and the size of its pixels.

    Args:
        model: registered name (for a network its released checkpoint), ``NAME@VERSION`` as the data root has published
            it, or a checkpoint folder.

    Raises:
        CheckpointError: none of these, or a damaged checkpoint; the message lists what there is.
    """
    name = str(model)
    if name in model_names() and not Path(model).is_dir():
        spec = model_spec(name)
        return ChosenModel(spec, find_checkpoint(name) if spec.kind == "network" else None)
    folder = _of_version(name) if "@" in name and not Path(model).exists() else find_checkpoint(model)
    return ChosenModel(model_spec(load_checkpoint(folder).name), folder)


def _of_version(model: str) -> Path:
    """Local folder of a checkpoint that the data root has published as NAME@VERSION."""
    from atomvision_ml.storage.lake import Lake

    name = model.partition("@")[0]
    if name not in model_names():
        raise CheckpointError(f"{name!r} is not registered")
    try:
        lake = Lake.from_settings()
        published = {row["model_id"]: row["blob"] for row in lake.scan(f"models/{name}").collect().to_dicts()}
    except (LookupError, OSError) as error:
        raise CheckpointError(f"the data root has no models/{name}: {error}") from error
    if model not in published:
        raise CheckpointError(f"the data root has {', '.join(published) or 'no version'}")
    return lake.blob(published[model])
