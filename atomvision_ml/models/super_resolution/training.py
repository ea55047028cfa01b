"""How the super-resolvers are trained: pairs of fine scenes and their coarse images, drawn on the fly; content loss.

Belongs here: pairs, content loss and validation. What the adversary adds is in
:mod:`atomvision_ml.models.super_resolution.srgan`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atomvision_ml.images.detector import dose_name
from atomvision_ml.images.reduction import FACTOR, REDUCTIONS
from atomvision_ml.images.scenes import SceneLibrary, SceneParameters, draw_scenes
from atomvision_ml.models.checkpoint import Checkpoint
from atomvision_ml.models.super_resolution.resolver import (
    PROBE_ANGSTROM,
    Prepared,
    SuperResolverParameters,
    build_network,
    prepare,
)
from atomvision_ml.models.training import Progress, stable_seed
from atomvision_ml.models.training_run import OpenBlob, TrainingData, train_checkpoint

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]

FINE_PIXELS_ANGSTROM = (0.2, 0.1)
COARSE_PIXELS_ANGSTROM = tuple(FACTOR * size for size in FINE_PIXELS_ANGSTROM)
VALIDATION_DOSES = (None, 1000.0)
_VALIDATION_PX = 48
_MARGIN_PX = 8
"""Fine pixels at the border of a crop that do not count: the network knows nothing beyond it."""
_LEAST_SQUARE = 1e-4
"""Mean square residual, in units of the expected one, below which a crop's loss hardly falls any more."""


@dataclass(frozen=True)
class Pairs:
    """A batch of n pairs.

    Attributes:
        channels: (n, INPUT_CHANNELS, y, x) float32, see :func:`prepare`.
        linear: (n, 1, 4y, 4x) float32, the Wiener estimates.
        truth: (n, 1, 4y, 4x) float32, the true images in the same units.
        units: (n, 1, 1, 1) float32.
        fine_pixel_angstrom: of all.
    """

    channels: Floats
    linear: Floats
    truth: Floats
    units: Floats
    fine_pixel_angstrom: float


def train_super_resolver(
    items: pl.DataFrame,
    open_blob: OpenBlob,
    parameters: SuperResolverParameters | None = None,
    *,
    scratch: Path,
    progress: Progress | None = None,
    device: str = "auto",
    data_versions: dict[str, str] | None = None,
) -> Checkpoint:
    """Train on the ``train`` split, stop by the ``val`` split; the ``test`` split is never read.

    Args:
        items: rows of ``models/training_sets`` of the task ``super_resolution``.
        open_blob: local folder of a blob, as :meth:`Lake.blob`.
        parameters: of network and training.
        scratch, progress, device, data_versions: as :func:`atomvision_ml.models.training_run.train_checkpoint`.

    Raises:
        ValueError: the train or the val split is empty, or the device is unknown.
        FloatingPointError: the loss is not finite.
    """
    chosen = parameters or SuperResolverParameters()
    data = TrainingData(items, open_blob, data_versions or {})
    return train_checkpoint(
        "super_resolver",
        ResolverLearner(data, chosen),
        chosen,
        data,
        description=(
            f"Generator of {chosen.blocks} residual blocks of {chosen.width} channels that adds to the Wiener estimate "
            "of an image on a grid four times as fine; content loss only."
        ),
        scratch=scratch,
        progress=progress,
        device=device,
    )


class ResolverLearner:
    """Pairs, content loss and validation; a :class:`atomvision_ml.models.training.Learner`."""

    monitor = "val_psnr_db"

    def __init__(self, data: TrainingData, parameters: SuperResolverParameters) -> None:
        self.parameters = parameters
        self.network = build_network(parameters)
        self._train = SceneLibrary(data.rows("train"), data.open_blob)
        self._validation = self._validation_pairs(data)

    def batches_per_epoch(self) -> int:
        """Batches of ``batch_size`` crops, at least one."""
        return max(1, self.parameters.crops_per_epoch // self.parameters.batch_size)

    def batches(self, epoch: int) -> Iterator[Pairs]:
        """Pairs of random structures, each about equally often, in an order drawn from the epoch."""
        from threadpoolctl import ThreadpoolController

        chosen = self.parameters
        random = np.random.default_rng(stable_seed(chosen.seed, "crops", epoch))
        wanted = self.batches_per_epoch() * chosen.batch_size
        rounds = -(-wanted // len(self._train))
        order = np.concatenate([random.permutation(len(self._train)) for _ in range(rounds)])[:wanted]
        blas = ThreadpoolController()
        for batch in order.reshape(-1, chosen.batch_size):
            with blas.limit(limits=1, user_api="blas"):
                pairs = self._drawn([int(number) for number in batch], random)
            yield pairs

    def loss(self, batch: Pairs, device: torch.device) -> torch.Tensor:
        """The content loss; see :func:`content_loss`."""
        import torch

        channels = torch.from_numpy(batch.channels).to(device).contiguous(memory_format=torch.channels_last)
        return content_loss(self.network(channels), batch, device)

    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean PSNR for each pixel size and dose, and ``val_psnr_db``, their mean."""
        import torch

        scores = {}
        for (fine_px, dose), pairs in self._validation.items():
            values = []
            for seen, truth in pairs:
                answer = self.network(torch.from_numpy(seen.channels)[None].to(device))[0, 0].float().cpu().numpy()
                values.append(psnr_db(seen.image(answer), truth))
            scores[f"val_psnr_db_{fine_px}_{dose_name(dose)}"] = float(np.mean(values))
        return {"val_psnr_db": float(np.mean(list(scores.values()))), **scores}

    def _drawn(self, numbers: list[int], random: np.random.Generator) -> Pairs:
        chosen = self.parameters
        is_aliased = random.random() < chosen.aliased_fraction
        fine_px = FINE_PIXELS_ANGSTROM[0 if is_aliased else 1]
        clean_fraction = chosen.clean_fraction if is_aliased else chosen.resolved_clean_fraction
        reduction = "bicubic" if is_aliased and random.random() < chosen.bicubic_fraction else "physical"
        projections = [self._train.projection(number) for number in numbers]
        ranges = _clean_scenes(chosen.crop_px, fine_px).model_copy(update={"recast_fraction": chosen.recast_fraction})
        fine = draw_scenes(projections, ranges, random).clean
        low, high = np.log(chosen.minimum_e_per_a2), np.log(chosen.maximum_e_per_a2)
        pairs = []
        for image in fine:
            dose = None if random.random() < clean_fraction else float(np.exp(random.uniform(low, high)))
            coarse, noise = coarse_image(image, fine_px, dose, reduction, random)
            pairs.append((prepare(coarse, FACTOR * fine_px, noise), image))
        return _as_batch(pairs, fine_px)

    def _validation_pairs(
        self, data: TrainingData
    ) -> dict[tuple[float, float | None], list[tuple[Prepared, NDArray[np.floating]]]]:
        """The same scenes at each pixel size and dose; poses and noise depend on the item alone."""
        chosen = self.parameters
        rows = sorted(data.rows("val"), key=lambda row: stable_seed(row["item_id"]))[: chosen.validation_images]
        library = SceneLibrary(rows, data.open_blob)
        pairs: dict[tuple[float, float | None], list[tuple[Prepared, NDArray[np.floating]]]] = {}
        for fine_px in FINE_PIXELS_ANGSTROM:
            for dose in VALIDATION_DOSES:
                for number, row in enumerate(rows):
                    random = np.random.default_rng(stable_seed(row["item_id"], fine_px, dose))
                    scenes = draw_scenes([library.projection(number)], _clean_scenes(_VALIDATION_PX, fine_px), random)
                    coarse, noise = coarse_image(scenes.clean[0], fine_px, dose, "physical", random)
                    seen = prepare(coarse, FACTOR * fine_px, noise)
                    pairs.setdefault((fine_px, dose), []).append((seen, scenes.clean[0]))
        return pairs


def content_loss(answer: torch.Tensor, batch: Pairs, device: torch.device) -> torch.Tensor:
    """Mean over the crops of the logarithm of the mean square residual: the mean PSNR, but for sign and scale.

    Args:
        answer: (n, 1, 4y, 4x), what the network adds, in units of the expected error.
        batch: of the answer.
        device: of the answer.
    """
    import torch

    wanted = torch.from_numpy((batch.truth - batch.linear) / batch.units).to(device)
    inside = slice(_MARGIN_PX, -_MARGIN_PX)
    difference = (answer.float() - wanted)[..., inside, inside]
    return torch.log(difference.square().mean(dim=(1, 2, 3)) + _LEAST_SQUARE).mean()


def coarse_image(
    fine: NDArray[np.floating],
    fine_pixel_angstrom: float,
    mean_detected_e_per_a2: float | None,
    reduction: str,
    random: np.random.Generator,
) -> tuple[NDArray[np.float64], float]:
    """The low-resolution image of a fine one; the dose falls on the coarse grid.

    Args:
        fine: [y, x], noiseless, 1/Å².
        fine_pixel_angstrom: its pixel size.
        mean_detected_e_per_a2: mean detected dose, or None for no noise. The coarse pixels count electrons (Poisson).
        reduction: a name of :data:`REDUCTIONS`.
        random: of the counts.

    Returns:
        [y/4, x/4] in 1/Å² (counts scaled back), and the variance of a pixel's noise, on average.
    """
    coarse = np.clip(REDUCTIONS[reduction](fine), 0, None)
    mean = float(coarse.mean())
    if mean_detected_e_per_a2 is None or mean <= 0:
        return coarse, 0.0
    electrons = mean_detected_e_per_a2 * (FACTOR * fine_pixel_angstrom) ** 2 / mean
    return random.poisson(coarse * electrons) / electrons, mean / electrons


def psnr_db(image: NDArray[np.floating], truth: NDArray[np.floating], border_px: int = 16) -> float:
    """PSNR in dB: the range is that of the true image, the border (fine pixels) does not count."""
    inside = (slice(border_px, -border_px),) * 2
    seen, true = np.asarray(image, np.float64)[inside], np.asarray(truth, np.float64)[inside]
    span = float(true.max() - true.min())
    return float(10 * np.log10(span**2 / max(float(np.mean((seen - true) ** 2)), 1e-20 * span**2, 1e-300)))


def _clean_scenes(edge_px: int, fine_px: float) -> SceneParameters:
    return SceneParameters(
        size_px=FACTOR * edge_px,
        minimum_pixel_size_angstrom=fine_px,
        maximum_pixel_size_angstrom=fine_px,
        minimum_sigma_angstrom=PROBE_ANGSTROM,
        maximum_sigma_angstrom=PROBE_ANGSTROM,
        clean_fraction=1.0,
    )


def _as_batch(pairs: list[tuple[Prepared, NDArray[np.floating]]], fine_px: float) -> Pairs:
    return Pairs(
        channels=np.stack([seen.channels for seen, _ in pairs]),
        linear=np.stack([seen.linear for seen, _ in pairs])[:, None],
        truth=np.stack([seen.standardised(image) for seen, image in pairs])[:, None],
        units=np.array([seen.unit for seen, _ in pairs], np.float32)[:, None, None, None],
        fine_pixel_angstrom=fine_px,
    )
