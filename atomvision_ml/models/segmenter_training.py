"""How the segmenter is trained: scenes drawn on the fly, their targets, and its validation.

Belongs here: crops and targets. Each scene is drawn on a pixel size of its own and brought to the network's working
grid exactly as an image in use is (:meth:`LoadedSegmenter.probability`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atomvision_ml.images.detector import dose_name
from atomvision_ml.images.resampling import area_average_matrix
from atomvision_ml.images.scenes import SceneLibrary, SceneParameters, Scenes, draw_scenes
from atomvision_ml.models import backbones
from atomvision_ml.models.checkpoint import Checkpoint
from atomvision_ml.models.segmenter import (
    GaussianSegmenterParameters,
    SegmenterParameters,
    build_network,
    levels,
)
from atomvision_ml.models.training import Progress, stable_seed
from atomvision_ml.models.training_run import OpenBlob, TrainingData, train_checkpoint

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]

VALIDATION_DOSES = (None, 1000.0, 100.0)
PIXEL_SIZES_ANGSTROM = (0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25)
"""Those of ``images/stem``; one is drawn for each batch."""
_REACH_ANGSTROM = 0.5  # beyond this distance from the edge of an atom the target is constant
_SMOOTH_ANGSTROM = 0.4
_VALIDATION_PX = 128


def train_segmenter(
    items: pl.DataFrame,
    open_blob: OpenBlob,
    parameters: SegmenterParameters | None = None,
    *,
    scratch: Path,
    progress: Progress | None = None,
    device: str = "auto",
    data_versions: dict[str, str] | None = None,
) -> Checkpoint:
    """Train on the ``train`` split, stop by the ``val`` split; the ``test`` split is never read.

    Args:
        items: rows of ``models/training_sets`` of the task ``segmentation``.
        open_blob: local folder of a blob, as :meth:`Lake.blob`.
        parameters: of network and training; their class says which of the two segmenters is trained.
        scratch, progress, device, data_versions: as :func:`atomvision_ml.models.training_run.train_checkpoint`.

    Returns:
        The checkpoint, with a card that has no test figures yet (:func:`update_card` adds them).

    Raises:
        ValueError: the train or the val split is empty, or the device is unknown.
        FloatingPointError: the loss is not finite.
    """
    chosen = parameters or SegmenterParameters()
    data = TrainingData(items, open_blob, data_versions or {})
    is_gaussian = isinstance(chosen, GaussianSegmenterParameters)
    learner = GaussianSegmenterLearner(data, chosen) if is_gaussian else SegmenterLearner(data, chosen)
    return train_checkpoint(
        "gaussian_segmenter" if is_gaussian else "segmenter",
        learner,
        chosen,
        data,
        description=(
            f"U-Net ({chosen.encoder}, depth {chosen.encoder_depth}) that gives for each pixel the probability "
            f"of lying within {chosen.radius_angstrom} Å of an atomic column (columns closer than 1 Å merged)."
            f"{backbones.sentence(chosen.backbone_weights)}"
        ),
        scratch=scratch,
        progress=progress,
        device=device,
    )


class SegmenterLearner:
    """Training and validation crops of the segmenter; a :class:`atomvision_ml.models.training.Learner`."""

    monitor = "val_iou"

    def __init__(self, data: TrainingData, parameters: SegmenterParameters) -> None:
        self.parameters = parameters
        self.network = build_network(parameters)
        backbones.start_from(self.network.get_submodule("unet.encoder"), parameters.backbone_weights)
        self._train = SceneLibrary(data.rows("train"), data.open_blob)
        self._validation = self._validation_scenes(data)

    def batches_per_epoch(self) -> int:
        """Batches of ``batch_size`` crops, at least one."""
        return max(1, self.parameters.crops_per_epoch // self.parameters.batch_size)

    def batches(self, epoch: int) -> Iterator[tuple[Floats, Floats]]:
        """Crops and targets (batch, 1, y, x), each structure about equally often, in an order drawn from the epoch."""
        from threadpoolctl import ThreadpoolController

        chosen = self.parameters
        random = np.random.default_rng(stable_seed(chosen.seed, "crops", epoch))
        wanted = self.batches_per_epoch() * chosen.batch_size
        rounds = -(-wanted // len(self._train))
        order = np.concatenate([random.permutation(len(self._train)) for _ in range(rounds)])[:wanted]
        blas = ThreadpoolController()
        for batch in order.reshape(-1, chosen.batch_size):
            with blas.limit(limits=1, user_api="blas"):  # many small products: waking threads costs more than it saves
                crops, targets = self._drawn([int(number) for number in batch], random)
            yield crops[:, None], targets[:, None]

    def loss(self, batch: tuple[Floats, Floats], device: torch.device) -> torch.Tensor:
        """Binary cross-entropy against the soft mask σ((r − d)/τ)."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        crops, targets = (torch.from_numpy(part).to(device) for part in batch)
        odds = self.network(crops.contiguous(memory_format=torch.channels_last))
        soft = torch.sigmoid(targets / self.parameters.edge_width_angstrom)
        return binary_cross_entropy_with_logits(odds.float(), soft)

    def validate(self, device: torch.device) -> dict[str, float]:
        """Mean IoU on the working grid, clean, at 1000 and at 100 e/Å², and ``val_iou``, their mean."""
        import torch

        scores = {}
        for dose, pairs in self._validation.items():
            values = []
            for image, target in pairs:
                answer = self.network(torch.from_numpy(image)[None, None].to(device))[0, 0].float().cpu().numpy()
                values.append(_iou(self.parameters.log_odds(answer) > 0, target > 0))
            scores[f"val_iou_{dose_name(dose)}"] = float(np.mean(values))
        return {"val_iou": float(np.mean(list(scores.values()))), **scores}

    def _drawn(self, numbers: list[int], random: np.random.Generator) -> tuple[Floats, Floats]:
        chosen = self.parameters
        pixel = float(random.choice(PIXEL_SIZES_ANGSTROM))
        scenes = draw_scenes(
            [self._train.projection(number) for number in numbers],
            _scene_parameters(chosen, chosen.crop_px, pixel),
            random,
        )
        return on_working_grid(scenes, chosen, chosen.crop_px)

    def _validation_scenes(self, data: TrainingData) -> dict[float | None, list[tuple[Floats, Floats]]]:
        """The same scenes at each dose; their order and noise depend on the item alone."""
        chosen = self.parameters
        rows = sorted(data.rows("val"), key=lambda row: stable_seed(row["item_id"]))[: chosen.validation_images]
        library = SceneLibrary(rows, data.open_blob)
        pairs: dict[float | None, list[tuple[Floats, Floats]]] = {dose: [] for dose in VALIDATION_DOSES}
        for number, row in enumerate(rows):
            for dose in VALIDATION_DOSES:
                random = np.random.default_rng(stable_seed(row["item_id"], dose))
                ranges = _scene_parameters(chosen, _VALIDATION_PX, row["pixel_size_angstrom"])
                exact = (
                    {"clean_fraction": 1.0} if dose is None else {"minimum_e_per_a2": dose, "maximum_e_per_a2": dose}
                )
                ranges = ranges.model_copy(update={"clean_fraction": 0.0, "recast_fraction": 0.0, **exact})
                scenes = draw_scenes([library.projection(number)], ranges, random)
                image, target = on_working_grid(scenes, chosen, _VALIDATION_PX)
                pairs[dose].append((image[0], target[0]))
        return pairs


class GaussianSegmenterLearner(SegmenterLearner):
    """The same crops; the target is the Gaussian exp(−d²/2s²) of the distance d to the nearest column."""

    parameters: GaussianSegmenterParameters

    def loss(self, batch: tuple[Floats, Floats], device: torch.device) -> torch.Tensor:
        """Binary cross-entropy against the Gaussian."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        crops, targets = (torch.from_numpy(part).to(device) for part in batch)
        answer = self.network(crops.contiguous(memory_format=torch.channels_last))
        distance = self.parameters.radius_angstrom - targets
        soft = torch.exp(-0.5 * (distance / self.parameters.label_width_angstrom) ** 2)
        return binary_cross_entropy_with_logits(answer.float(), soft)


def on_working_grid(scenes: Scenes, parameters: SegmenterParameters, edge: int) -> tuple[Floats, Floats]:
    """What the network sees of scenes, and their targets r − d: float32 (n, edge, edge) each.

    Args:
        scenes: of a field of at least ``edge`` working pixels.
        parameters: radius, working pixel size.
        edge: edge in working pixels.
    """
    pixel, working = scenes.pixel_size_angstrom, parameters.working_pixel_size_angstrom
    down = area_average_matrix(scenes.clean.shape[1], pixel, working)[:edge]
    images, targets = [], []
    for number, (clean, seen) in enumerate(zip(scenes.clean, scenes.seen, strict=True)):
        low, spread = levels(down @ clean @ down.T, working)
        dose, mean = scenes.doses_e_per_a2[number], float(clean.mean(dtype=float))
        noise = 0.0 if np.isnan(dose) else mean**2 / (dose * 4 * np.pi * _SMOOTH_ANGSTROM**2)
        images.append((down @ seen @ down.T - low) / np.sqrt(spread**2 + noise))
        reach = parameters.radius_angstrom + _REACH_ANGSTROM
        columns = scenes.columns(number, reach).positions_angstrom
        targets.append(signed_distance(columns, edge, (working - pixel) / 2, parameters))
    return np.stack(images).astype(np.float32), np.stack(targets)


def signed_distance(
    columns_angstrom: NDArray[np.float64], edge: int, first_angstrom: float, parameters: SegmenterParameters
) -> Floats:
    """r − d on the working grid [y, x], d the distance to the nearest column; clipped to ±0.5 Å.

    Args:
        columns_angstrom: (n, 2) x and y in Å.
        edge: edge of the grid in working pixels.
        first_angstrom: x and y of the centre of its first pixel.
        parameters: radius and working pixel size.
    """
    from scipy.spatial import cKDTree

    along = first_angstrom + np.arange(edge) * parameters.working_pixel_size_angstrom
    reach = parameters.radius_angstrom + _REACH_ANGSTROM
    near = np.full((edge, edge), reach)
    if len(columns_angstrom):
        grid = np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)
        near = cKDTree(columns_angstrom).query(grid, distance_upper_bound=reach)[0].reshape(edge, edge)
    return np.clip(parameters.radius_angstrom - near, -_REACH_ANGSTROM, _REACH_ANGSTROM).astype(np.float32)


def _scene_parameters(parameters: SegmenterParameters, edge: int, pixel_size_angstrom: float) -> SceneParameters:
    """Scenes whose field covers ``edge`` working pixels."""
    size = int(np.ceil(edge * parameters.working_pixel_size_angstrom / pixel_size_angstrom - 1e-6))
    return SceneParameters(
        size_px=size,
        minimum_pixel_size_angstrom=pixel_size_angstrom,
        maximum_pixel_size_angstrom=pixel_size_angstrom,
        minimum_e_per_a2=parameters.minimum_e_per_a2,
        maximum_e_per_a2=parameters.maximum_e_per_a2,
        clean_fraction=parameters.clean_fraction,
        recast_fraction=parameters.recast_fraction,
    )


def _iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    union = int((found | truth).sum())
    return float((found & truth).sum() / union) if union else 1.0
