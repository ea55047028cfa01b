"""The segmenter: a small U-Net that tells atom from background, trained on simulated images.

Belongs here: its parameters, network, training crops and use. Images of any pixel size are brought to one working
pixel size by exact area averaging (for integer ratios this is binning, so counts stay Poisson counts). The network
gives for each working pixel the log-odds (r − d)/τ of lying within r = 0.5 Å of a column, d being the distance to the
nearest one: a smooth function, which is interpolated back to the image's own pixels with little loss, so that the
edges of the atoms are placed to a fraction of a working pixel.

U-Net: Ronneberger, Fischer, Brox, arXiv:1505.04597; implementation: segmentation-models-pytorch.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from atomvision_ml.images.atoms import find_atoms, mask_columns
from atomvision_ml.models.checkpoint import (
    WEIGHTS,
    Checkpoint,
    CheckpointError,
    ModelCard,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from atomvision_ml.models.registry import model_spec
from atomvision_ml.models.training import (
    Progress,
    TrainingParameters,
    TrainingResult,
    curves_picture,
    resolve_device,
    seeded,
    stable_seed,
    train,
)

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
OpenBlob = Callable[[str], Path]

VALIDATION_DOSES = (None, 1000.0, 100.0)
_REACH_ANGSTROM = 0.5  # beyond this distance from the edge of an atom the target is constant
_TILE_PX, _OVERLAP_PX = 512, 64
_SMOOTH_ANGSTROM = 0.4
_BLUR_ANGSTROM, _BLUR_REACH_PX = 0.2, 3
_WEAK = 0.03  # contrast, in units of the image's spread, above which the second channel is logarithmic


class SegmenterParameters(TrainingParameters):
    """Network, training images and training of the segmenter; flat and frozen."""

    epochs: int = Field(default=10, ge=1, description="Most epochs.")
    batch_size: int = Field(default=8, ge=1, description="Crops in a batch.")
    encoder: str = Field(default="resnet18", description="Encoder of segmentation-models-pytorch.")
    encoder_depth: int = Field(default=2, ge=2, le=5, description="Halvings of the resolution.")
    decoder_width: int = Field(default=16, ge=4, description="Channels at full resolution; doubled per halving.")
    working_pixel_size_angstrom: float = Field(default=0.2, gt=0, description="Pixel size seen by the network, Å.")
    radius_angstrom: float = Field(default=0.5, gt=0, description="Radius of an atom in the mask, Å.")
    edge_width_angstrom: float = Field(default=0.1, gt=0, description="τ of the target (r − d)/τ, Å.")
    crop_px: int = Field(default=64, ge=32, description="Edge of a training crop in working pixels.")
    crops_per_epoch: int = Field(default=640, ge=1, description="Training crops in each epoch.")
    minimum_e_per_a2: float = Field(default=50.0, gt=0, description="Least dose of the training crops, e/Å².")
    maximum_e_per_a2: float = Field(default=1e5, gt=0, description="Highest dose of the training crops, e/Å².")
    recast_fraction: float = Field(
        default=0.5, ge=0, le=1, description="Share of crops drawn anew from the columns, with other intensities."
    )
    clean_fraction: float = Field(default=0.2, ge=0, le=1, description="Share of training crops without noise.")
    views: int = Field(
        default=8,
        ge=1,
        le=8,
        description="Views (4 turned, then 4 turned mirrored) whose log-odds are averaged in use.",
    )
    validation_images: int = Field(default=16, ge=1, description="Most images of the validation split that are used.")


@dataclass(frozen=True)
class Segmentation:
    """What the segmenter says of an image.

    Attributes:
        probability: [y, x] float32, of lying within 0.5 Å of an atomic column.
        mask: [y, x] bool, probability at least one half.
        atoms: one dictionary per atom: ``x_angstrom``, ``y_angstrom`` from the centre of pixel [0, 0], ``intensity``
            (mean of the image over the atom's pixels).
        model: name of the model and the first digits of its weights' SHA-256.
    """

    probability: Floats
    mask: NDArray[np.bool_]
    atoms: list[dict[str, float]]
    model: str


def build_network(parameters: SegmenterParameters) -> torch.nn.Module:
    """The untrained network: float32 (n, 1, y, x) as of :func:`normalise`, edges divisible by 2^depth, to log-odds.

    The U-Net sees two channels: the image, and the inverse hyperbolic sine of the image blurred by σ = 0.2 Å, in which
    a column of a few percent of the brightest one's intensity stands out like the others.

    Raises:
        ValueError: segmentation-models-pytorch does not know the encoder.
    """
    from atomvision_ml.models._torchvision import ensure_torchvision

    ensure_torchvision()
    import segmentation_models_pytorch as smp
    import torch
    from torch.nn.functional import conv2d, pad

    depth, width = parameters.encoder_depth, parameters.decoder_width
    with seeded(parameters.seed, "weights"):
        try:
            unet = smp.Unet(
                parameters.encoder,
                encoder_depth=depth,
                encoder_weights=None,
                in_channels=2,
                classes=1,
                decoder_channels=[width * 2 ** (depth - 1 - level) for level in range(depth)],
            )
        except KeyError as error:
            raise ValueError(f"unknown encoder {parameters.encoder!r}: {error}") from error
    _drop_unused_stages(unet.encoder, depth)
    place = torch.arange(-_BLUR_REACH_PX, _BLUR_REACH_PX + 1)
    line = torch.exp(-0.5 * (place * parameters.working_pixel_size_angstrom / _BLUR_ANGSTROM) ** 2)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet
            self.blur: torch.Tensor
            self.register_buffer("blur", (line / line.sum()).outer(line / line.sum())[None, None], persistent=False)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            reach = (_BLUR_REACH_PX,) * 4
            smooth = conv2d(pad(image, reach, mode="replicate"), self.blur)
            weak = torch.asinh(smooth / _WEAK) / 4
            return self.unet(torch.cat([image, weak], dim=1))

    return Network()


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
        parameters: of network and training.
        scratch: folder for the resume file and, at the end, the checkpoint in ``scratch/checkpoint``; an
            interrupted training goes on from its last epoch when called again with the same folder.
        progress: called with (batches done, batches in all).
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        data_versions: data version of the inputs by key, for the card.

    Returns:
        The checkpoint, with a card that has no test figures yet (:func:`update_card` adds them).

    Raises:
        ValueError: the train or the val split is empty, or the device is unknown.
        FloatingPointError: the loss is not finite.
    """
    chosen = parameters or SegmenterParameters()
    learner = SegmenterLearner(items, open_blob, chosen)
    identity = hashlib.sha256(
        "\n".join(f"{row['item_id']} {row['split']} {row['blob']}" for row in items.sort("item_id").to_dicts()).encode()
    ).hexdigest()
    result = train(learner, chosen, scratch=scratch, fingerprint=identity, device=device, progress=progress)
    counts = {str(split): count for split, count in items["split"].value_counts().iter_rows()}
    return save_checkpoint(
        scratch / "checkpoint",
        parameters=chosen,
        card=_card(chosen, result, counts, data_versions or {}, sorted(items["source"].unique())),
        weights=result.weights,
        curves=result.history,
        curves_picture=curves_picture(result.history, "segmenter"),
    )


def segment(
    image: ArrayLike,
    pixel_size_angstrom: float,
    model: str | Path | None = None,
    *,
    device: str = "cpu",
) -> Segmentation:
    """Tell atoms from background.

    Brightness and contrast do not matter: counts, detector values and detrended images alike. Images larger than 512
    working pixels are segmented in overlapping tiles.

    Args:
        image: [y, x], finite.
        pixel_size_angstrom: edge of a pixel in Å.
        model: a checkpoint folder, the name of a released model, or None for the released segmenter.
        device: torch device.

    Returns:
        Probability, mask and atoms. A constant image has no atoms.

    Raises:
        ValueError: the image is not two-dimensional, has values that are not finite, is smaller than 8 pixels or
            2 Å, or the pixel size is not positive.
        CheckpointError: the model is not found or damaged.
    """
    values = _checked(image, pixel_size_angstrom)
    folder = find_checkpoint("segmenter" if model is None else model)
    loaded = _load(str(folder), (folder / WEIGHTS).stat().st_mtime_ns if (folder / WEIGHTS).is_file() else 0, device)
    probability = loaded.probability(values, pixel_size_angstrom)
    atoms = find_atoms(probability, values, pixel_size_angstrom)
    return Segmentation(probability, probability >= 0.5, atoms, loaded.label)


@dataclass(frozen=True)
class LoadedSegmenter:
    """A trained network, ready for use."""

    network: torch.nn.Module
    parameters: SegmenterParameters
    label: str
    device: torch.device

    def probability(self, image: NDArray[Any], pixel_size_angstrom: float) -> Floats:
        """Probability [y, x] float32 that a pixel's centre lies within 0.5 Å of a column; zero if it is constant."""
        values = np.asarray(image, np.float64)
        if values.max() - values.min() <= 1e-9 * max(abs(values.max()), abs(values.min())):
            return np.zeros(values.shape, np.float32)
        working = self.parameters.working_pixel_size_angstrom
        down = [area_average_matrix(edge, pixel_size_angstrom, working) for edge in values.shape]
        small = normalise(down[0] @ values @ down[1].T, working)
        odds = self._log_odds(small.astype(np.float32))
        up = [
            cubic_matrix(len(matrix), (np.arange(edge) + 0.5) * pixel_size_angstrom / working - 0.5)
            for matrix, edge in zip(down, values.shape, strict=True)
        ]
        fine = up[0] @ odds @ up[1].T
        return (1 / (1 + np.exp(-np.clip(fine, -30, 30)))).astype(np.float32)

    def _log_odds(self, image: Floats) -> Floats:
        """Log-odds on the working grid, tile by tile."""
        result = np.empty_like(image)
        step = _TILE_PX - 2 * _OVERLAP_PX
        for y in range(0, max(1, image.shape[0] - 2 * _OVERLAP_PX), step):
            for x in range(0, max(1, image.shape[1] - 2 * _OVERLAP_PX), step):
                tile = image[y : y + _TILE_PX, x : x + _TILE_PX]
                top, left = _OVERLAP_PX if y else 0, _OVERLAP_PX if x else 0
                odds = np.mean([self._view(tile, number) for number in range(self.parameters.views)], axis=0)
                result[y + top : y + tile.shape[0], x + left : x + tile.shape[1]] = odds[top:, left:]
        return result

    def _view(self, tile: Floats, number: int) -> Floats:
        """Log-odds of a turned, and from the fifth on mirrored, tile, turned back. An image has no preferred side."""
        odds = self._tile(_turned(tile, number % 4, number >= 4))
        return np.rot90(odds[:, ::-1] if number >= 4 else odds, -(number % 4))

    def _tile(self, tile: Floats) -> Floats:
        import torch

        multiple = 2**self.parameters.encoder_depth
        height, width = tile.shape
        padded = np.pad(tile, ((0, -height % multiple), (0, -width % multiple)), mode="symmetric")
        with torch.inference_mode():
            tensor = torch.from_numpy(np.ascontiguousarray(padded))[None, None].to(self.device)
            odds = self.network(tensor.contiguous(memory_format=torch.channels_last))[0, 0].float().cpu().numpy()
        return odds[:height, :width]


def load_segmenter(folder: str | Path, device: str = "cpu") -> LoadedSegmenter:
    """A trained segmenter from its checkpoint folder; raises CheckpointError."""
    checkpoint = load_checkpoint(folder)
    if checkpoint.name != "segmenter":
        raise CheckpointError(f"{folder} holds a {checkpoint.name}, not a segmenter")
    parameters = SegmenterParameters(**checkpoint.parameters)
    network = build_network(parameters)
    try:
        network.load_state_dict(checkpoint.weights())
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: weights do not fit the parameters: {error}") from error
    chosen = resolve_device(device)
    digest = hashlib.sha256((checkpoint.folder / WEIGHTS).read_bytes()).hexdigest()[:12]
    return LoadedSegmenter(network.eval().to(chosen), parameters, f"segmenter@{digest}", chosen)


@lru_cache(maxsize=2)
def _load(folder: str, modified_ns: int, device: str) -> LoadedSegmenter:
    """Reading a network takes longer than using it; the time of change keeps a replaced folder from being missed."""
    return load_segmenter(folder, device)


def normalise(image: NDArray[Any], pixel_size_angstrom: float) -> NDArray[Any]:
    """Zero at the darkest place, unit standard deviation; both of the image smoothed by σ = 0.4 Å.

    So neither brightness, contrast nor noise sets the scale. The darkest place is the 1 % quantile.
    """
    low, spread = _levels(image, pixel_size_angstrom)
    return (image - low) / spread


def _levels(image: NDArray[Any], pixel_size_angstrom: float) -> tuple[float, float]:
    """1 % quantile and standard deviation (1 if it is zero) of the image smoothed by σ = 0.4 Å."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(image, _SMOOTH_ANGSTROM / pixel_size_angstrom, mode="nearest")
    return float(np.quantile(smooth, 0.01)), float(smooth.std()) or 1.0


def area_average_matrix(n_px: int, pixel_size_angstrom: float, new_pixel_size_angstrom: float) -> NDArray[np.float64]:
    """Matrix (m, n) that averages n pixels over m new ones, edges aligned at the first pixel's outer edge.

    For finer new pixels it interpolates (Keys' cubic) instead. The last new pixel may reach beyond the field; it is
    then the average over its part inside.
    """
    count = max(1, int(np.ceil(n_px * pixel_size_angstrom / new_pixel_size_angstrom - 1e-6)))
    if new_pixel_size_angstrom < pixel_size_angstrom:
        place = (np.arange(count) + 0.5) * new_pixel_size_angstrom / pixel_size_angstrom - 0.5
        return cubic_matrix(n_px, np.clip(place, 0, n_px - 1))
    edges = np.arange(count + 1) * new_pixel_size_angstrom
    low, high = np.arange(n_px) * pixel_size_angstrom, np.arange(1, n_px + 1) * pixel_size_angstrom
    overlap = np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low)
    weights = np.clip(overlap, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def cubic_matrix(n_px: int, places_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrix (m, n) of cubic convolution (Keys, IEEE Trans. ASSP 29, 1153, 1981; a = −1/2) at fractional pixels.

    Pixels beyond the border equal the one at the border.
    """
    first = np.floor(places_px).astype(int)
    matrix = np.zeros((len(places_px), n_px))
    rows = np.arange(len(places_px))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(places_px - first - offset)
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        np.add.at(matrix, (rows, np.clip(first + offset, 0, n_px - 1)), weight)
    return matrix


def signed_distance(mask: NDArray[np.bool_], pixel_size_angstrom: float, parameters: SegmenterParameters) -> Floats:
    """r − d on the working grid, d the distance to the nearest column of the mask; clipped to ±0.5 Å.

    Where columns cannot be told exactly (cut by the border, touching), the distance to the mask's own edge is taken.
    """
    from scipy.ndimage import distance_transform_edt
    from scipy.spatial import cKDTree

    working, radius = parameters.working_pixel_size_angstrom, parameters.radius_angstrom
    edges = [area_average_matrix(edge, pixel_size_angstrom, working).shape[0] for edge in mask.shape]
    y, x = ((np.arange(edge) + 0.5) * working - pixel_size_angstrom / 2 for edge in edges)
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    columns, is_exact = mask_columns(mask, pixel_size_angstrom, radius)
    inside = np.full(len(grid), -_REACH_ANGSTROM)
    if is_exact.any():
        near, _ = cKDTree(columns[is_exact]).query(grid, distance_upper_bound=radius + _REACH_ANGSTROM)
        inside = np.maximum(inside, radius - np.minimum(near, radius + _REACH_ANGSTROM))
    rest = mask & ~_disks(columns[is_exact], mask.shape, pixel_size_angstrom, radius)
    if rest.any():
        depth = distance_transform_edt(rest) - distance_transform_edt(~rest)
        depth = (depth - 0.5 * np.sign(depth)) * pixel_size_angstrom
        places = [(np.arange(edge) + 0.5) * working / pixel_size_angstrom - 0.5 for edge in edges]
        matrices = [cubic_matrix(n, np.clip(place, 0, n - 1)) for n, place in zip(mask.shape, places, strict=True)]
        inside = np.maximum(inside, (matrices[0] @ depth @ matrices[1].T).ravel())
    return np.clip(inside, -_REACH_ANGSTROM, _REACH_ANGSTROM).reshape(edges).astype(np.float32)


@dataclass(frozen=True)
class _Sample:
    """A training image: clean intensities on its own grid, target on the working grid, the matrices between them."""

    image: Floats
    target: Floats
    pixel_size_angstrom: float
    mean: float
    low: float
    spread: float
    down_y: Floats
    down_x: Floats
    columns_angstrom: NDArray[np.float64]
    species: NDArray[np.int64]
    sigma_angstrom: float

    @property
    def n_bytes(self) -> int:
        return self.image.nbytes + self.target.nbytes


class SegmenterLearner:
    """Training and validation crops of the segmenter; a :class:`atomvision_ml.models.training.Learner`."""

    monitor = "val_iou"
    cache_bytes = 512 * 2**20

    def __init__(self, items: pl.DataFrame, open_blob: OpenBlob, parameters: SegmenterParameters) -> None:
        ordered = items.sort("item_id")
        by_split = {split: ordered.filter(pl.col("split") == split).to_dicts() for split in ("train", "val")}
        for split, rows in by_split.items():
            if not rows:
                raise ValueError(f"the {split} split is empty; the segmenter needs images in train and val")
        self.parameters = parameters
        self.network = build_network(parameters)
        self._train = by_split["train"]
        self._validation = sorted(by_split["val"], key=lambda row: stable_seed(row["item_id"]))
        self._validation = self._validation[: parameters.validation_images]
        self._open_blob = open_blob
        self._sets: dict[str, Any] = {}
        self._cache: OrderedDict[str, _Sample] = OrderedDict()
        self._cached_bytes = 0

    def batches_per_epoch(self) -> int:
        """Batches of ``batch_size`` crops, at least one."""
        return max(1, self.parameters.crops_per_epoch // self.parameters.batch_size)

    def batches(self, epoch: int) -> Iterator[tuple[Floats, Floats]]:
        """Crops and targets (batch, 1, y, x), each image about equally often, in an order drawn from the epoch."""
        from threadpoolctl import ThreadpoolController

        chosen = self.parameters
        random = np.random.default_rng(stable_seed(chosen.seed, "crops", epoch))
        wanted = self.batches_per_epoch() * chosen.batch_size
        rounds = -(-wanted // len(self._train))
        order = np.concatenate([random.permutation(len(self._train)) for _ in range(rounds)])[:wanted]
        blas = ThreadpoolController()
        for batch in order.reshape(-1, chosen.batch_size):
            with blas.limit(limits=1, user_api="blas"):  # many small products: waking threads costs more than it saves
                crops = [self._crop(self._sample(self._train[index]), random) for index in batch]
            yield tuple(np.stack(part)[:, None] for part in zip(*crops, strict=True))  # type: ignore[misc]

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
        for dose in VALIDATION_DOSES:
            values = []
            for row in self._validation:
                sample = self._sample(row)
                image, target = self._whole(sample, dose, stable_seed(row["item_id"], dose))
                odds = self.network(torch.from_numpy(image)[None, None].to(device))[0, 0].float().cpu().numpy()
                values.append(_iou(odds > 0, target > 0))
            scores[f"val_iou_{dose_name(dose)}"] = float(np.mean(values))
        return {"val_iou": float(np.mean(list(scores.values()))), **scores}

    def _whole(self, sample: _Sample, dose: float | None, seed: int) -> tuple[Floats, Floats]:
        """The middle of an image, at most 128 working pixels, always the same noise."""
        multiple = 2**self.parameters.encoder_depth
        edge = min(128, *sample.target.shape) // multiple * multiple
        y, x = ((size - edge) // 2 for size in sample.target.shape)
        return self._cut(sample, y, x, edge, dose, np.random.default_rng(seed))

    def _crop(self, sample: _Sample, random: np.random.Generator) -> tuple[Floats, Floats]:
        """A random crop at a random dose, turned and mirrored at random; of the stored image, or recast."""
        chosen = self.parameters
        low, high = np.log(chosen.minimum_e_per_a2), np.log(chosen.maximum_e_per_a2)
        dose = None if random.random() < chosen.clean_fraction else float(np.exp(random.uniform(low, high)))
        if random.random() < chosen.recast_fraction and len(sample.columns_angstrom):
            return self._recast(sample, dose, random)
        edge = min(chosen.crop_px, *sample.target.shape)
        y, x = (int(random.integers(0, size - edge + 1)) for size in sample.target.shape)
        pair = self._cut(sample, y, x, edge, dose, random)
        turns, is_mirrored = int(random.integers(4)), bool(random.integers(2))
        return tuple(_turned(part, turns, is_mirrored) for part in pair)  # type: ignore[return-value]

    def _recast(self, sample: _Sample, dose: float | None, random: np.random.Generator) -> tuple[Floats, Floats]:
        """The columns of an image in another pose, a little stretched, with other intensities.

        A few prototypes show few pairs of elements; drawn with random intensities, from 2 % to 100 %, their columns
        show many more. Columns of one kind get one intensity, in half of the crops varied from column to column.
        """
        from scipy.spatial import cKDTree

        chosen = self.parameters
        edge, working = min(chosen.crop_px, *sample.target.shape), chosen.working_pixel_size_angstrom
        scale, angle = random.uniform(0.92, 1.1), random.uniform(0, 2 * np.pi)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        field = np.array(sample.image.shape[::-1]) * sample.pixel_size_angstrom
        reach = edge * working / np.sqrt(2) / scale + 1.0
        centre = field / 2 + random.uniform(-1, 1, 2) * np.clip(field / 2 - reach, 0, None)
        columns = (sample.columns_angstrom - centre) @ turn.T
        near = np.abs(columns).max(axis=1) < edge * working / 2 + 4 * sample.sigma_angstrom
        columns = columns[near]
        weights = np.exp(random.uniform(np.log(0.02), 0, sample.species.max() + 1))[sample.species[near]]
        if random.random() < 0.5:
            weights = weights * np.exp(random.normal(0, 0.5, len(weights)))
        along = (np.arange(edge) - (edge - 1) / 2) * working
        sigma2 = sample.sigma_angstrom**2 + working**2 / 12
        x, y = (np.exp(-0.5 * (along - columns[:, axis, None]) ** 2 / sigma2) for axis in (0, 1))
        clean = (y.T * weights) @ x
        grid = np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)
        away, _ = cKDTree(columns).query(grid, distance_upper_bound=chosen.radius_angstrom + _REACH_ANGSTROM)
        target = np.clip(chosen.radius_angstrom - away, -_REACH_ANGSTROM, _REACH_ANGSTROM).reshape(edge, edge)
        low, spread = _levels(clean, working)
        mean, noise, seen = clean.mean(), 0.0, clean
        if dose is not None:
            seen = random.poisson(clean * dose * working**2 / mean) * mean / (dose * working**2)
            noise = mean**2 / (dose * 4 * np.pi * _SMOOTH_ANGSTROM**2)
        return ((seen - low) / np.sqrt(spread**2 + noise)).astype(np.float32), target.astype(np.float32)

    def _cut(
        self, sample: _Sample, y: int, x: int, edge: int, dose: float | None, random: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """Noise on the image's own pixels, then the working grid, then the normalisation of :func:`normalise`."""
        down_y, down_x = sample.down_y[y : y + edge], sample.down_x[x : x + edge]
        rows, columns = _support(down_y), _support(down_x)
        block = sample.image[rows, columns].astype(np.float64)
        noise = 0.0
        if dose is not None:
            counts_per_unit = dose * sample.pixel_size_angstrom**2 / sample.mean
            block = random.poisson(np.clip(block, 0, None) * counts_per_unit) / counts_per_unit
            noise = sample.mean**2 / (dose * 4 * np.pi * _SMOOTH_ANGSTROM**2)
        small = down_y[:, rows] @ block.astype(np.float32) @ down_x[:, columns].T
        scaled = (small - sample.low) / np.sqrt(sample.spread**2 + noise)
        return scaled.astype(np.float32), sample.target[y : y + edge, x : x + edge]

    def _sample(self, row: dict[str, Any]) -> _Sample:
        """The image of a row, from a cache of bounded size."""
        known = self._cache.get(row["item_id"])
        if known is not None:
            self._cache.move_to_end(row["item_id"])
            return known
        sample = self._read(row)
        self._cache[row["item_id"]] = sample
        self._cached_bytes += sample.n_bytes
        while self._cached_bytes > self.cache_bytes and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= dropped.n_bytes
        return sample

    def _read(self, row: dict[str, Any]) -> _Sample:
        from atomvision_ml.images.stem_set import StemSet

        if row["blob"] not in self._sets:
            self._sets[row["blob"]] = StemSet.open(self._open_blob(row["blob"]))
        stored = self._sets[row["blob"]]
        image, mask = stored.image(row["index"]), stored.mask(row["index"])
        pixel, working = row["pixel_size_angstrom"], self.parameters.working_pixel_size_angstrom
        down_y, down_x = (area_average_matrix(edge, pixel, working).astype(np.float32) for edge in image.shape)
        low, spread = _levels(down_y @ image @ down_x.T, working)
        columns, species = _kinds(image, mask, pixel, self.parameters.radius_angstrom)
        return _Sample(
            image=image,
            target=signed_distance(mask, pixel, self.parameters),
            pixel_size_angstrom=pixel,
            mean=float(image.mean()) or 1.0,
            low=low,
            spread=spread,
            down_y=down_y,
            down_x=down_x,
            columns_angstrom=columns,
            species=species,
            sigma_angstrom=stored.parameters.sigma_angstrom,
        )


def dose_name(mean_detected_e_per_a2: float | None) -> str:
    """``clean`` without noise, else the dose as a short number."""
    return "clean" if mean_detected_e_per_a2 is None else f"{mean_detected_e_per_a2:g}"


def _checked(image: ArrayLike, pixel_size_angstrom: float) -> NDArray[np.float64]:
    values = np.asarray(image, np.float64)
    if values.ndim != 2:
        raise ValueError(f"an image is [y, x], not of shape {values.shape}")
    if not (np.isfinite(pixel_size_angstrom) and pixel_size_angstrom > 0):
        raise ValueError(f"pixel_size_angstrom must be positive, not {pixel_size_angstrom}")
    if min(values.shape) < 8 or min(values.shape) * pixel_size_angstrom < 2:
        raise ValueError(
            f"{values.shape[0]} x {values.shape[1]} pixels of {pixel_size_angstrom} Å are too small to segment; "
            "at least 8 pixels and 2 Å along each axis are needed"
        )
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{bad} of {values.size} pixels are not finite; fill or crop them first")
    return values


def _drop_unused_stages(encoder: torch.nn.Module, depth: int) -> None:
    """ResNet encoders of the library keep the stages beyond their depth; they would only weigh the checkpoint."""
    from torch import nn

    for stage in range(depth, 5):
        if isinstance(getattr(encoder, f"layer{stage}", None), nn.Sequential):
            setattr(encoder, f"layer{stage}", nn.Identity())


def _kinds(
    image: NDArray[Any], mask: NDArray[np.bool_], pixel_size_angstrom: float, radius: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Columns (k, 2) in Å, and a number (k,) that those of about equal intensity share.

    Nothing if columns inside the field touch each other, so that their places are not exact. Those cut by the border
    are taken as they are: crops are drawn from the middle.
    """
    columns, is_exact = mask_columns(mask, pixel_size_angstrom, radius)
    field = np.array(mask.shape[::-1]) * pixel_size_angstrom
    inner = ((columns > 1) & (columns < field - 1)).all(axis=1)
    if not inner.any() or not is_exact[inner].all():
        return np.zeros((0, 2)), np.zeros(0, np.int64)
    x, y = np.clip(np.rint(columns / pixel_size_angstrom).astype(int), 0, np.array(mask.shape)[::-1] - 1).T
    level = np.rint(10 * np.log(np.maximum(image[y, x], 1e-12))).astype(int)
    return columns, np.unique(level, return_inverse=True)[1].astype(np.int64)


def _disks(columns: NDArray[Any], shape: tuple[int, ...], pixel_size_angstrom: float, radius: float) -> Any:
    """Disks a pixel wider than the mask's, so that nothing of a whole atom remains."""
    from atomvision_ml.images.columns import column_mask

    square = column_mask(columns, max(shape), pixel_size_angstrom, radius + 1.5 * pixel_size_angstrom)
    return square[: shape[0], : shape[1]]


def _support(matrix: Floats) -> slice:
    """Pixels that the rows of a matrix touch."""
    used = np.flatnonzero(matrix.any(axis=0))
    return slice(int(used[0]), int(used[-1]) + 1)


def _turned(values: Floats, turns: int, is_mirrored: bool) -> Floats:
    turned = np.rot90(values, turns)
    return np.ascontiguousarray(turned[:, ::-1] if is_mirrored else turned)


def _iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    union = int((found | truth).sum())
    return float((found & truth).sum() / union) if union else 1.0


def _card(
    parameters: SegmenterParameters,
    result: TrainingResult,
    splits: dict[str, int],
    data_versions: dict[str, str],
    sources: Sequence[str],
) -> ModelCard:
    import torch

    spec = model_spec("segmenter")
    return ModelCard(
        name="segmenter",
        task="segmentation",
        description=(
            f"U-Net ({parameters.encoder}, depth {parameters.encoder_depth}) that gives for each pixel the probability "
            f"of lying within {parameters.radius_angstrom} Å of an atomic column (columns closer than 1 Å merged)."
        ),
        intended_use=spec.intended_use,
        limits=list(spec.limits),
        trained_on=f"Simulated images of {', '.join(sources)}; splits by composition.",
        data_versions=data_versions,
        splits=splits,
        training={
            "epochs": len(result.history),
            "best_epoch": result.best_epoch + 1,
            "seconds": round(result.seconds, 1),
            "device": result.device,
            "precision": result.precision,
            "validation": {key: round(value, 4) for key, value in result.best.items() if key.startswith("val")},
            "torch": torch.__version__,
        },
    )
