"""How the fused lattice model is trained: scenes examined once by the lattice finder, then a small head.

Belongs here: the features and their cache, loss and validation. The network inside is not trained any further. Where
the training set has experimental images, crops of them are examined beside the scenes, which stay as they are.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atomvision_ml.images.scenes import SceneLibrary
from atomvision_ml.models.checkpoint import Checkpoint
from atomvision_ml.models.lattice_classes import SCAN_DISTORTION_PERCENT
from atomvision_ml.models.lattice_cnn import LatticeNetworkParameters, LoadedLatticeCnn, load_lattice_cnn
from atomvision_ml.models.lattice_cnn_training import (
    balanced_classes,
    best_temperature,
    class_numbers,
    validation_image,
)
from atomvision_ml.models.lattice_fusion import (
    LatticeFusionParameters,
    build_fusion,
    evidence_features,
    examined,
    network_features,
)
from atomvision_ml.models.lattice_inputs import LARGEST_FIELD_ANGSTROM, Floats, field_of_view
from atomvision_ml.models.lattice_scenes import LatticeLibrary, draw_lattice_scenes
from atomvision_ml.models.training import Progress, stable_seed
from atomvision_ml.models.training_run import OpenBlob, TrainingData, experimental_items, train_checkpoint
from atomvision_ml.workers import end_with_parent

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Labels = NDArray[np.int64]
Seen = tuple[list[Floats], NDArray[np.float32], Labels]
"""Images as of :func:`field_of_view`, evidence (n, 33) and class numbers (n,)."""

LoadImage = Callable[[Path], NDArray[Any]]
"""From the folder of an experimental image's blob to its pixels [y, x]; must be picklable for several processes."""

CACHE_FILE = "features.npz"
_CHUNK = 20
CROPS = 6
"""Training crops of each experimental image: so about as many as scenes where 30 images are to be trained on."""
_LEAST_CROP = 0.6  # edge of the smallest crop over the shorter side of the field
_SMALLEST_CROP_PX = 48


def train_lattice_fusion(
    items: pl.DataFrame,
    open_blob: OpenBlob,
    parameters: LatticeFusionParameters | None = None,
    *,
    cnn: Path,
    scratch: Path,
    progress: Progress | None = None,
    device: str = "auto",
    data_versions: dict[str, str] | None = None,
    processes: int = 1,
    load_image: LoadImage | None = None,
) -> Checkpoint:
    """Train on scenes of the ``train`` split, stop and calibrate by the ``val`` split; ``test`` is never read.

    Experimental images of the train split are seen as :data:`CROPS` random crops each, turned by quarters and mirrored;
    those of the val split as they are.

    Args:
        items: rows of ``models/training_sets`` of the task ``lattice``, those that the network was trained on.
        open_blob: local folder of a blob, as :meth:`Lake.blob`.
        parameters: of head and training; the network's form is taken from its checkpoint.
        cnn: checkpoint folder of the lattice network, whose weights become part of this one.
        scratch, progress, device, data_versions: as :func:`atomvision_ml.models.training_run.train_checkpoint`; the
            features of a finished examination are kept in ``scratch``.
        processes: among which the scenes are divided; the features do not depend on it.
        load_image: reads experimental images; wanted where ``items`` has some.

    Returns:
        The checkpoint, with a card that has no test figures yet (:func:`update_card` adds them).

    Raises:
        ValueError: the train or the val split is empty, the device is unknown, or there are experimental images and
            nothing to read them with.
        CheckpointError: the network's checkpoint is damaged.
        FloatingPointError: the loss is not finite.
    """
    if load_image is None and experimental_items(items).height:
        raise ValueError(f"{experimental_items(items).height} experimental images, but nothing to read them with")
    network = load_lattice_cnn(cnn)
    form = {name: getattr(network.parameters, name) for name in LatticeNetworkParameters.model_fields}
    chosen = (parameters or LatticeFusionParameters()).model_copy(update=form)
    data = TrainingData(items, open_blob, data_versions or {})
    features = _features(data, chosen, network, scratch, processes, load_image)
    return train_checkpoint(
        "lattice_fusion",
        LatticeFusionLearner(features, chosen, network),
        chosen,
        data,
        description=(
            f"Evidence of the lattice finder beside the lattice network ({network.label}), weighed by a small "
            "perceptron; probabilities calibrated by one temperature on the validation split."
        ),
        scratch=scratch,
        progress=progress,
        device=device,
    )


class LatticeFusionLearner:
    """Examined scenes and the head; a :class:`atomvision_ml.models.training.Learner`.

    Args:
        features: ``train`` and ``val`` (n, 33 + 5 + embedding_size), ``train_truth`` and ``val_truth`` (n,).
        parameters: of head and training.
        network: the lattice network whose weights become part of the model.
    """

    monitor = "val_score"
    network: Any

    def __init__(
        self, features: dict[str, NDArray[Any]], parameters: LatticeFusionParameters, network: LoadedLatticeCnn
    ) -> None:
        import torch

        self.parameters = parameters
        self.network = build_fusion(parameters)
        self.network.cnn.load_state_dict(network.network.state_dict())
        self._features = features
        used = features["train"][:, : len(self.network.mean)]
        self.network.mean.copy_(torch.from_numpy(used.mean(axis=0)))
        self.network.scale.copy_(torch.from_numpy(used.std(axis=0) + 1e-2))

    def batches_per_epoch(self) -> int:
        """Batches of all training scenes, at least one; scenes that fill none are left for the next epoch."""
        return max(1, len(self._features["train"]) // self.parameters.batch_size)

    def batches(self, epoch: int) -> Iterator[tuple[Floats, Labels]]:
        """Features (batch, ...) and class numbers (batch,), in an order drawn from the epoch."""
        chosen = self.parameters
        random = np.random.default_rng(stable_seed(chosen.seed, "order", epoch))
        order = random.permutation(len(self._features["train"]))
        for number in range(self.batches_per_epoch()):
            part = order[number * chosen.batch_size : (number + 1) * chosen.batch_size]
            yield self._features["train"][part], self._features["train_truth"][part]

    def loss(self, batch: tuple[Floats, Labels], device: torch.device) -> torch.Tensor:
        """Cross-entropy."""
        import torch
        from torch.nn.functional import cross_entropy

        features, truth = (torch.from_numpy(part).to(device) for part in batch)
        return cross_entropy(self.network(features).float(), truth)

    def validate(self, device: torch.device) -> dict[str, float]:
        """Accuracy, beside the finder's, and ``val_score``, the mean log-likelihood after calibration."""
        import torch

        features, truth = self._features["val"], self._features["val_truth"]
        self.network.temperature.fill_(1.0)
        logits = self.network(torch.from_numpy(features).to(device)).double().cpu().numpy()
        temperature, score = best_temperature(logits, truth)
        self.network.temperature.fill_(temperature)
        is_found = features[:, :5].any(axis=1)
        return {
            "val_score": score,
            "val_accuracy": float(np.mean(logits.argmax(axis=1) == truth)),
            "val_finder_accuracy": float(np.mean(is_found & (features[:, :5].argmax(axis=1) == truth))),
            "val_temperature": temperature,
        }


def _features(
    data: TrainingData,
    parameters: LatticeFusionParameters,
    network: LoadedLatticeCnn,
    scratch: Path,
    processes: int,
    load_image: LoadImage | None,
) -> dict[str, NDArray[Any]]:
    """Features and truth of both splits, from the cache if it is of the same data, network and scenes."""
    kept = parameters.model_dump_json(include={*_SCENE_FIELDS, "scenes", "validation_images", "seed"})
    identity = hashlib.sha256(f"{data.fingerprint}|{network.label}|{kept}".encode()).hexdigest()
    path = scratch / CACHE_FILE
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["identity"]) == identity:
                return {name: stored[name] for name in stored.files if name != "identity"}
    found: dict[str, NDArray[Any]] = {}
    for split in ("train", "val"):
        parts = []
        for fields, evidence, truth in _seen(split, data, parameters, processes, load_image):
            seen = network_features(network.network, fields, parameters.inputs, network.device)
            parts.append((np.concatenate([evidence, seen], axis=1), truth))
            log.info("%s: %d images examined", split, sum(len(part[1]) for part in parts))
        found[split], found[f"{split}_truth"] = (np.concatenate(each) for each in zip(*parts, strict=True))
    scratch.mkdir(parents=True, exist_ok=True)
    np.savez(path, allow_pickle=False, identity=np.array(identity), **found)
    return found


def _seen(
    split: str,
    data: TrainingData,
    parameters: LatticeFusionParameters,
    processes: int,
    load_image: LoadImage | None,
) -> Iterator[Seen]:
    """What is examined of a split, chunk by chunk: scenes or stored images, then the experimental ones."""
    rows = data.rows(split)
    if split == "val":
        rows = sorted(rows, key=lambda row: stable_seed(row["item_id"]))[: parameters.validation_images]
    count = len(rows) if split == "val" else parameters.scenes
    examine = _validation_chunk if split == "val" else partial(_train_chunk, parameters)
    yield from _mapped(partial(examine, rows, _folders(rows, data), count), _chunks(count), processes)
    taken = data.experimental_rows(split)
    if load_image is not None:
        crops = CROPS if split == "train" else 0
        look = partial(_experimental_chunk, taken, _folders(taken, data), load_image, crops, parameters.seed)
        yield from _mapped(look, range(len(taken)), processes)


def _folders(rows: Sequence[dict[str, Any]], data: TrainingData) -> dict[str, Path]:
    return {blob: data.open_blob(blob) for blob in sorted({row["blob"] for row in rows})}


_SCENE_FIELDS = (
    "natural_fraction",
    "pseudo_centred_fraction",
    "minimum_e_per_a2",
    "maximum_e_per_a2",
    "clean_fraction",
)


def _chunks(count: int) -> range:
    return range(-(-count // _CHUNK))


def _mapped(work: Callable[[int], Seen], chunks: Sequence[int], processes: int) -> Iterator[Seen]:
    if processes <= 1 or len(chunks) < 2 * processes:
        yield from map(work, chunks)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_compute_alone) as pool:
        yield from pool.map(work, chunks)


def _compute_alone() -> None:
    """One thread in each worker: the scenes are divided already."""
    import torch

    end_with_parent()
    torch.set_num_threads(1)


def _train_chunk(
    parameters: LatticeFusionParameters,
    rows: list[dict[str, Any]],
    folders: dict[str, Path],
    count: int,
    chunk: int,
) -> Seen:
    """Scenes of the train split; those of a chunk depend on nothing but its number."""
    random = np.random.default_rng(stable_seed(parameters.seed, "fusion", chunk))
    lattices = balanced_classes(min(_CHUNK, count - chunk * _CHUNK), random)
    library = LatticeLibrary(SceneLibrary(rows, folders.__getitem__))
    scenes, _ = draw_lattice_scenes(library, lattices, parameters, random)
    return _examined([(scene.seen[0], scene.pixel_size_angstrom) for scene in scenes], class_numbers(lattices))


def _validation_chunk(rows: list[dict[str, Any]], folders: dict[str, Path], count: int, chunk: int) -> Seen:
    """Stored images of the val split with the noise of one dose each."""
    library = SceneLibrary(rows, folders.__getitem__)
    numbers = range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, count))
    images = [
        (validation_image(library, rows[number], number), rows[number]["pixel_size_angstrom"]) for number in numbers
    ]
    return _examined(images, class_numbers([rows[number]["bravais_lattice"] for number in numbers]))


def _experimental_chunk(
    rows: list[dict[str, Any]],
    folders: dict[str, Path],
    load_image: LoadImage,
    crops: int,
    seed: int,
    number: int,
) -> Seen:
    """Crops of one experimental image, or the image itself where no crops are asked for."""
    row = rows[number]
    image, pixel = load_image(folders[row["blob"]]), row["pixel_size_angstrom"]
    random = np.random.default_rng(stable_seed(seed, "crops", row["item_id"]))
    images = [(random_crop(image, pixel, random), pixel) for _ in range(crops)] or [(image, pixel)]
    return _examined(images, class_numbers([row["bravais_lattice"]] * len(images)), SCAN_DISTORTION_PERCENT)


def random_crop(image: NDArray[Any], pixel_size_angstrom: float, random: np.random.Generator) -> Floats:
    """A square part of an image [y, x] somewhere in it, turned by a multiple of 90° and perhaps mirrored.

    Its edge is 60 to 100 % of the shorter side, or of 90 Å where that is shorter, and at least 48 px. No pixel is
    interpolated, so the noise stays as it was recorded; none of these operations changes the class of a lattice.
    """
    largest = min(*image.shape, round(LARGEST_FIELD_ANGSTROM / pixel_size_angstrom))
    edge = min(max(round(random.uniform(_LEAST_CROP, 1.0) * largest), _SMALLEST_CROP_PX), *image.shape)
    top, left = (int(random.integers(size - edge + 1)) for size in image.shape)
    part = np.rot90(image[top : top + edge, left : left + edge], int(random.integers(4)))
    return np.ascontiguousarray(part[:, ::-1] if random.random() < 0.5 else part, np.float32)


def _examined(images: list[tuple[Floats, float]], truth: Labels, scan_distortion_percent: float = 0.0) -> Seen:
    from threadpoolctl import ThreadpoolController

    with ThreadpoolController().limit(limits=1, user_api="blas"):
        evidence = [evidence_features(examined(image, pixel, scan_distortion_percent)) for image, pixel in images]
    return [field_of_view(image, pixel) for image, pixel in images], np.stack(evidence), truth
