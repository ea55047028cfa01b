"""How the autoencoders are trained: fields drawn on the fly, the principal components, and the validation.

Belongs here: training fields and the fit of the components. Networks and components see the same fields: 64 px of
0.2 Å at any rotation and shift, less their mean, in units of their spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atomvision_ml.images.detector import dose_name
from atomvision_ml.images.scenes import SceneLibrary, SceneParameters, Scenes, at_dose, draw_scenes
from atomvision_ml.models.autoencoder import (
    AutoencoderParameters,
    ConvAutoencoderParameters,
    Floats,
    build_network,
    levels,
)
from atomvision_ml.models.checkpoint import Checkpoint
from atomvision_ml.models.components import Components, fit_components
from atomvision_ml.models.training import Progress, stable_seed
from atomvision_ml.models.training_run import OpenBlob, TrainingData, train_checkpoint

if TYPE_CHECKING:
    import torch

    from atomvision_ml.images.stem import Projection

VALIDATION_DOSES = (None, 1000.0)
_DRAWN_AT_ONCE, _VARIANCE_IMAGES, _GAIN_IMAGES = 128, 512, 128


@dataclass(frozen=True)
class Fields:
    """Normalised fields.

    Attributes:
        seen: (n, y, x) float32, what an encoder is given.
        clean: (n, y, x) float32, the same without noise, on the same scale.
        noise: (n,) float64, mean variance of the noise in a pixel; zero where there is none.
        rows: (n,) number of the structure of each.
    """

    seen: Floats
    clean: Floats
    noise: NDArray[np.float64]
    rows: NDArray[np.int64]


def train_autoencoder(
    items: pl.DataFrame,
    open_blob: OpenBlob,
    parameters: AutoencoderParameters,
    *,
    scratch: Path,
    progress: Progress | None = None,
    device: str = "auto",
    data_versions: dict[str, str] | None = None,
) -> Checkpoint:
    """Train on the ``train`` split, stop by the ``val`` split; the ``test`` split is never read.

    Args:
        items: rows of ``models/training_sets`` of the task ``reconstruction``.
        open_blob: local folder of a blob, as :meth:`Lake.blob`.
        parameters: of network and training; :class:`ConvAutoencoderParameters` for the convolutional one.
        scratch, progress, device, data_versions: as :func:`atomvision_ml.models.training_run.train_checkpoint`.

    Raises:
        ValueError: the train or the val split is empty, or the device is unknown.
        FloatingPointError: the loss is not finite.
    """
    data = TrainingData(items, open_blob, data_versions or {})
    is_convolutional = isinstance(parameters, ConvAutoencoderParameters)
    return train_checkpoint(
        "conv_autoencoder" if is_convolutional else "autoencoder",
        AutoencoderLearner(data, parameters),
        parameters,
        data,
        description=_description(parameters, is_convolutional),
        scratch=scratch,
        progress=progress,
        device=device,
    )


def _description(parameters: AutoencoderParameters, is_convolutional: bool) -> str:
    images, wanted = parameters.component_images, 10 * parameters.latent_size
    field = parameters.size_px * parameters.working_pixel_size_angstrom
    text = (
        f"{'Convolutional' if is_convolutional else 'Dense'} correction of {parameters.latent_size} principal "
        f"components of fields of {field:g} Å, fitted to {images} noiseless images drawn from the train split."
    )
    if images < wanted:
        return f"{text} That is fewer than ten images for each component ({wanted}): a larger fit would be better."
    return text


class AutoencoderLearner:
    """Fields and validation of an autoencoder; a :class:`atomvision_ml.models.training.Learner`."""

    monitor = "val_psnr_db"

    def __init__(self, data: TrainingData, parameters: AutoencoderParameters) -> None:
        self.parameters = parameters
        network = build_network(parameters)
        self.network: torch.nn.Module = network
        self._autoencoder = network
        self._train = SceneLibrary(data.rows("train"), data.open_blob)
        network.begin_with(components_of(self._train, parameters))
        rows = sorted(data.rows("val"), key=lambda row: stable_seed(row["item_id"]))[: parameters.validation_images]
        library = SceneLibrary(rows, data.open_blob)
        projections, names = (
            [library.projection(number) for number in range(len(rows))],
            [row["image_id"] for row in rows],
        )
        random = np.random.default_rng(stable_seed(parameters.seed, "gains"))
        self._gauge = draw_fields(library, parameters, _GAIN_IMAGES, random)
        self._validation = {dose: item_fields(projections, names, parameters, dose) for dose in VALIDATION_DOSES}

    def batches_per_epoch(self) -> int:
        """Batches of ``batch_size`` fields, at least one."""
        return max(1, self.parameters.images_per_epoch // self.parameters.batch_size)

    def batches(self, epoch: int) -> Iterator[tuple[Floats, Floats]]:
        """What is seen and what is wanted, (batch, 1, y, x) each."""
        chosen = self.parameters
        random = np.random.default_rng(stable_seed(chosen.seed, "fields", epoch))
        count = self.batches_per_epoch() * chosen.batch_size
        fields = draw_fields(self._train, chosen, count, random)
        order = random.permutation(count).reshape(-1, chosen.batch_size)
        for batch in order:
            yield fields.seen[batch][:, None], fields.clean[batch][:, None]

    def loss(self, batch: tuple[Floats, Floats], device: torch.device) -> torch.Tensor:
        """Mean of ln(mean squared error), of the whole and of the short latent: each field counts in decibels."""
        import torch

        seen, clean = (torch.from_numpy(part).to(device) for part in batch)
        total = seen.new_zeros(())
        for kept in (self.parameters.latent_size, self.parameters.short_latent_size):
            error = (self.network(seen, kept) - clean).float()
            total = total + ((error**2).mean(dim=(1, 2, 3)) + 1e-9).log().mean()
        return total

    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean PSNR on each dose and latent, and ``val_psnr_db``, their mean; range is that of the clean field.

        The network's gains are set here, on other fields of the val split, so that the weights of the best epoch carry
        their own.
        """
        import torch

        sizes = (self.parameters.latent_size, self.parameters.short_latent_size)
        gauge = torch.from_numpy(self._gauge.seen)[:, None].to(device)
        self._autoencoder.set_gains(gauge, torch.from_numpy(self._gauge.clean)[:, None])
        scores = {}
        for dose, fields in self._validation.items():
            seen = torch.from_numpy(fields.seen)[:, None].to(device)
            for name, kept in zip(("", "short_"), sizes, strict=True):
                found = self.network(seen, kept)[:, 0].float().cpu().numpy()
                scores[f"val_psnr_{name}{dose_name(dose)}_db"] = float(psnr(found, fields.clean).mean())
        return {"val_psnr_db": float(np.mean(list(scores.values()))), **scores}


def psnr(found: Floats, truth: Floats) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB of each field (n,), at most 100; the range is max − min of the truth."""
    error = ((found.astype(float) - truth) ** 2).mean(axis=(1, 2))
    span = np.maximum(truth.max(axis=(1, 2)) - truth.min(axis=(1, 2)), 1e-12).astype(float)
    return -10 * np.log10(np.maximum(error / span**2, 1e-10))


def components_of(library: SceneLibrary, parameters: AutoencoderParameters) -> Components:
    """The principal components of noiseless fields, as many as the latent has numbers."""
    random = np.random.default_rng(stable_seed(parameters.seed, "components"))
    fields, others = (
        draw_fields(library, parameters, count, random, at_dose(None)).clean
        for count in (parameters.component_images, _VARIANCE_IMAGES)
    )
    return fit_components(fields, others, parameters.latent_size, parameters.seed)


def draw_fields(
    library: SceneLibrary,
    parameters: AutoencoderParameters,
    count: int,
    random: np.random.Generator,
    dose: dict[str, float] | None = None,
) -> Fields:
    """So many fields, each structure about equally often, at random rotation, shift and dose.

    Args:
        library: the structures.
        parameters: edge, pixel size and range of doses.
        count: fields.
        random: the only source of randomness.
        dose: fields of :class:`SceneParameters` that take the place of the range of doses.
    """
    from threadpoolctl import ThreadpoolController

    rounds = -(-count // len(library))
    rows = np.concatenate([random.permutation(len(library)) for _ in range(rounds)])[:count]
    ranges = _scene_parameters(parameters, dose)
    parts = []
    with ThreadpoolController().limit(limits=1, user_api="blas"):  # many small products
        for start in range(0, count, _DRAWN_AT_ONCE):
            some = rows[start : start + _DRAWN_AT_ONCE]
            scenes = draw_scenes([library.projection(int(row)) for row in some], ranges, random)
            parts.append(_normalised(scenes))
    return _together(parts, rows)


def item_fields(
    projections: Sequence[Projection], image_ids: Sequence[str], parameters: AutoencoderParameters, dose: float | None
) -> Fields:
    """One field of each structure; pose and noise depend on image and dose alone, the pose not on the dose."""
    ranges = _scene_parameters(parameters, at_dose(dose))
    parts = []
    for projection, image_id in zip(projections, image_ids, strict=True):
        random = np.random.default_rng(stable_seed("field", image_id))
        parts.append(_normalised(draw_scenes([projection], ranges, random)))
    return _together(parts, np.arange(len(parts)))


def _together(parts: Sequence[tuple[Floats, Floats, NDArray[np.float64]]], rows: NDArray[np.int64]) -> Fields:
    seen, clean, noise = zip(*parts, strict=True)
    return Fields(np.concatenate(seen), np.concatenate(clean), np.concatenate(noise), rows)


def _normalised(scenes: Scenes) -> tuple[Floats, Floats, NDArray[np.float64]]:
    """Seen, clean and the noise; by Poisson statistics its variance is the mean over the electrons of a pixel."""
    middle, spread = levels(scenes.seen, scenes.pixel_size_angstrom)
    seen, clean = (((part - middle) / spread).astype(np.float32) for part in (scenes.seen, scenes.clean))
    electrons = scenes.doses_e_per_a2 * scenes.pixel_size_angstrom**2
    return seen, clean, np.nan_to_num((middle / spread)[:, 0, 0].astype(float) ** 2 / electrons)


def _scene_parameters(parameters: AutoencoderParameters, dose: dict[str, float] | None) -> SceneParameters:
    pixel = parameters.working_pixel_size_angstrom
    doses = dose or {
        "clean_fraction": parameters.clean_fraction,
        "minimum_e_per_a2": parameters.minimum_e_per_a2,
        "maximum_e_per_a2": parameters.maximum_e_per_a2,
    }
    return SceneParameters(
        size_px=parameters.size_px, minimum_pixel_size_angstrom=pixel, maximum_pixel_size_angstrom=pixel, **doses
    )
