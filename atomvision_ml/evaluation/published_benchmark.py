"""The published benchmark of the five lattices: labels, split and setting of the AtomVision paper.

Belongs here: what can be had under the published labels, beside the published figure. They follow from the cell as a
database delivers it, rounded to 0.01 (Å, degrees), so that the same crystal has several labels; images are axis-aligned
(the first vector along x) and without noise. Run as a module it reads ``structures/slabs`` from the lake and the labels
below ``ATOMVISION_SOURCES``::

    python -m atomvision_ml.evaluation.published_benchmark --epochs 2 --edge-px 64

On a GPU the paper's own recipe: ``--epochs 100 --edge-px 224 --device cuda``.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from atomvision_ml.images.stem import View, project, render_batch
from atomvision_ml.models.lattice_cnn import LatticeCnnParameters, build_network
from atomvision_ml.models.lattice_inputs import Floats, field_of_view, network_input
from atomvision_ml.models.training import TrainingParameters, resolve_device, stable_seed, train
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES
from atomvision_ml.structures.lattice import class_strains, classify_cell, reduce_cell

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Row = dict[str, Any]

PUBLISHED_ACCURACY = 0.8304
"""DenseNet of the paper on its 2,288 test images."""

_NAME = re.compile(r"stem_2d_image_bravais_class\.json(?:\.(?:zip|gz))?", re.I)
_PIXEL_ANGSTROM, _SIZE_PX, _CROP_PX = 0.2, 256, 224
_ON_AXIS_ANGSTROM = 0.05
_MOST_STEPS = 12


class PublishedLabelsError(FileNotFoundError):
    """The published labels cannot be found or read; the message says what to do."""


class PublishedBenchmarkParameters(TrainingParameters):
    """The paper's recipe (Adam at 1e-3, negative log-likelihood, batches of 32), as far as the machine allows."""

    epochs: int = Field(default=2, ge=1, description="Most epochs; the paper has 100.")
    batch_size: int = Field(default=32, ge=2, description="Images in a batch.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Highest learning rate (cosine to zero).")
    warmup_fraction: float = Field(default=0.0, ge=0, le=0.5, description="Share of the steps with a linear rise.")
    weight_decay: float = Field(default=0.0, ge=0, description="Zero makes AdamW Adam.")
    patience: int = Field(default=100, ge=1, description="Stop after so many epochs without a better validation score.")
    network: Literal["densenet121", "compact"] = Field(
        default="densenet121",
        description="The paper's network on pixels, or the compact one on spectrum and autocorrelation.",
    )
    edge_px: int = Field(default=64, ge=32, le=224, description="Edge to which the 224 px crop is averaged.")
    validation_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="Share of the train ids that choose epochs."
    )
    train_most: int = Field(default=0, ge=0, description="Most train ids; 0 = all.")


def find_labels(folder: Path | None) -> Path:
    """The file of the published labels below a folder, plain or compressed.

    Raises:
        PublishedLabelsError: there is no such folder or file.
    """
    advice = "give --labels, or set ATOMVISION_SOURCES to a folder that holds stem_2d_image_bravais_class.json.zip"
    if folder is None or not folder.is_dir():
        raise PublishedLabelsError(f"{folder} is no folder with the published labels; {advice}")
    found = sorted(
        Path(parent) / name for parent, _, names in os.walk(folder) for name in names if _NAME.fullmatch(name)
    )
    if not found:
        raise PublishedLabelsError(f"no published labels below {folder}; {advice}")
    return found[0]


def read_labels(path: Path) -> pl.DataFrame:
    """The published labels.

    Args:
        path: JSON of ``{"train": {"<id>.jpg": class number}, "test": …}``, plain, zip or gzip.

    Returns:
        ``native_id``, ``split`` (train or test) and ``label``, the class's name.

    Raises:
        PublishedLabelsError: the file is damaged or of another form.
    """
    try:
        stored = json.loads(_text(path))
        rows = [
            {"native_id": name.removesuffix(".jpg"), "split": split, "label": BRAVAIS_LATTICES[int(number)]}
            for split in ("train", "test")
            for name, number in stored[split].items()
        ]
    except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise PublishedLabelsError(f"{path} does not hold the published labels: {error!r}") from error
    return pl.DataFrame(rows, schema={"native_id": pl.String, "split": pl.String, "label": pl.String})


def _text(path: Path) -> bytes:
    import gzip
    import zipfile

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return archive.read(archive.namelist()[0])
    content = path.read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def published_items(labels: pl.DataFrame, slabs: pl.DataFrame) -> pl.DataFrame:
    """Accepted slabs whose id has a published label, ordered by slab.

    Args:
        labels: of :func:`read_labels`.
        slabs: rows of ``structures/slabs``.

    Returns:
        The slabs' rows with ``native_id``, ``split`` and ``label``.

    Raises:
        ValueError: no slab has a published label.
    """
    accepted = slabs.filter(pl.col("status") == "accepted").with_columns(
        native_id=pl.col("slab_id").str.splitn(":", 2).struct.field("field_1")
    )
    joined = accepted.join(labels, on="native_id", how="inner").sort("slab_id")
    if joined.is_empty():
        raise ValueError("none of the slabs has a published label; JARVIS-DFT 2D, 2DMatPedia and C2DB have")
    return joined


def lattice_features(cell_angstrom: ArrayLike) -> Array:
    """What an image tells of the delivered cell, if its first vector lies along x.

    Args:
        cell_angstrom: (2, 2) any basis of the lattice as imaged, rows in Å.

    Returns:
        (18,): length of the shortest lattice vector along x (0 if there is none), spacing and offset of the rows along
        it, lengths of the two nearest vectors of the next row and their differences from it, lengths and angle of the
        reduced cell, strains to the classes, and the class.
    """
    reduced = reduce_cell(cell_angstrom)
    lengths = np.linalg.norm(reduced, axis=1)
    angle = float(np.degrees(np.arccos(np.clip(abs(reduced[0] @ reduced[1]) / lengths.prod(), 0, 1))))
    strains = class_strains(reduced)
    one_hot = [float(classify_cell(reduced).name == name) for name in BRAVAIS_LATTICES]
    return np.array([*_rows_along_x(reduced), *lengths, angle, *list(strains.values())[:4], *one_hot])


def _rows_along_x(reduced: Array) -> list[float]:
    steps = np.arange(-_MOST_STEPS, _MOST_STEPS + 1)
    points = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2) @ reduced
    on_axis = points[(np.abs(points[:, 1]) < _ON_AXIS_ANGSTROM) & (points[:, 0] > 0.5)]
    if not len(on_axis):
        return [0.0] * 6
    length = float(on_axis[:, 0].min())
    spacing = abs(float(np.linalg.det(reduced))) / length
    next_row = points[np.abs(points[:, 1] - spacing) < _ON_AXIS_ANGSTROM, 0]
    offset = float(np.min(np.abs(next_row))) if len(next_row) else 0.0
    first, second = np.hypot(offset, spacing), np.hypot(length - offset, spacing)
    return [length, spacing, offset / length, float(first - length), float(second - length), spacing / length]


def reader_figures(items: pl.DataFrame) -> dict[str, float]:
    """What the published labels let anyone reach who reads lattices without error, on the test ids.

    Args:
        items: of :func:`published_items`.

    Returns:
        ``majority_class``, ``blind_reader``: sound class, mapped to the published label most frequent with it in the
        train ids, ``oriented_reader``: boosted trees on :func:`lattice_features` of the exact cell.
    """
    train, test = (items.filter(pl.col("split") == split) for split in ("train", "test"))
    truth = _numbers(test["label"])
    majority = int(np.bincount(_numbers(train["label"])).argmax())
    blind = blind_answers(train, test["bravais_lattice"].to_list())
    oriented = oriented_reader(train).predict(_features(test["primitive_cell_angstrom"]))
    return {
        "majority_class": float(np.mean(truth == majority)),
        "blind_reader": float(np.mean(blind == truth)),
        "oriented_reader": float(np.mean(oriented == truth)),
    }


def blind_answers(train: pl.DataFrame, lattices: Sequence[str]) -> Labels:
    """Published class numbers for sound classes: for each the label most frequent with it in the train ids."""
    labels = _numbers(train["label"])
    sound = _numbers(train["bravais_lattice"])
    best = [int(np.bincount(labels[sound == number], minlength=5).argmax()) for number in range(len(BRAVAIS_LATTICES))]
    return np.array([best[BRAVAIS_LATTICES.index(name)] for name in lattices], np.int64)


def oriented_reader(train: pl.DataFrame) -> Any:
    """Boosted trees (scikit-learn) from :func:`lattice_features` to published labels, fitted on exact cells."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    trees = HistGradientBoostingClassifier(max_iter=80, learning_rate=0.15, random_state=0)
    return trees.fit(_features(train["primitive_cell_angstrom"]), _numbers(train["label"]))


def finder_figures(items: pl.DataFrame, most: int = 0) -> dict[str, float]:
    """The lattice finder on the test images, its vectors read by both readers; an image without lattice is wrong.

    Args:
        items: of :func:`published_items`.
        most: test ids, in the order of a hash; 0 = all.

    Returns:
        ``n``, ``finder_blind``, ``finder_oriented``, ``finder_sound`` (accuracy of the finder for the sound label).
    """
    from atomvision_ml.models.lattice_finder import NoLatticeError, find_lattice

    train = items.filter(pl.col("split") == "train")
    test = _first(items.filter(pl.col("split") == "test"), most)
    trees = oriented_reader(train)
    right = np.zeros((test.height, 3), bool)
    for number, (row, image) in enumerate(zip(test.iter_rows(named=True), images(test), strict=True)):
        try:
            found = find_lattice(image, _PIXEL_ANGSTROM)
        except NoLatticeError:
            continue
        truth = BRAVAIS_LATTICES.index(row["label"])
        features = lattice_features(found.lattice_vectors_angstrom)[None]
        right[number] = (
            blind_answers(train, [found.lattice])[0] == truth,
            trees.predict(features)[0] == truth,
            found.lattice == row["bravais_lattice"],
        )
    blind, oriented, sound = right.mean(axis=0).tolist()
    return {"n": test.height, "finder_blind": blind, "finder_oriented": oriented, "finder_sound": sound}


def images(items: pl.DataFrame) -> Iterator[Floats]:
    """The image of each slab in the paper's setting: 256 px of 0.2 Å, first vector along x, no noise."""
    for row in items.iter_rows(named=True):
        projection = project(
            np.asarray(row["numbers"]),
            np.reshape(row["positions_angstrom"], (-1, 3)),
            np.reshape(row["cell_angstrom"], (3, 3)),
        )
        yield render_batch([projection], [View(_PIXEL_ANGSTROM, _SIZE_PX)])[0]


def train_published(
    items: pl.DataFrame, parameters: PublishedBenchmarkParameters, *, scratch: Path, device: str = "auto"
) -> dict[str, float]:
    """Train a network on the published labels of the train ids, and judge it once on the test ids.

    Args:
        items: of :func:`published_items`.
        parameters: of network and training.
        scratch: folder of the resume file.
        device: as :func:`atomvision_ml.models.training.resolve_device`.

    Returns:
        ``n_train``, ``n_test``, ``accuracy``, ``epochs``, ``seconds``.
    """
    import torch

    learner = PublishedLearner(items, parameters)
    result = train(learner, parameters, scratch=scratch, fingerprint=learner.fingerprint, device=device)
    learner.network.load_state_dict(result.weights)
    learner.network.eval()
    with torch.inference_mode():
        accuracy = learner.accuracy("test", resolve_device(device))
    return {
        "n_train": len(learner.truth["train"]),
        "n_test": len(learner.truth["test"]),
        "accuracy": accuracy,
        "epochs": len(result.history),
        "seconds": result.seconds,
    }


class PublishedLearner:
    """Fixed images and published labels; a :class:`atomvision_ml.models.training.Learner`."""

    monitor = "val_accuracy"
    network: Any

    def __init__(self, items: pl.DataFrame, parameters: PublishedBenchmarkParameters) -> None:
        self.parameters = parameters
        kind: Any = "pixels" if parameters.network == "densenet121" else "centred"
        self.network = build_network(
            LatticeCnnParameters(architecture=parameters.network, inputs=kind, seed=parameters.seed)
        )
        self.seen: dict[str, Floats] = {}
        self.truth: dict[str, Labels] = {}
        for split, part in _three_parts(items, parameters).items():
            self.seen[split] = np.concatenate([self._input(image) for image in images(part)])
            self.truth[split] = _numbers(part["label"])
        self.fingerprint = str(stable_seed(*items["slab_id"], parameters.model_dump_json()))

    def batches_per_epoch(self) -> int:
        """Whole batches of the train ids, at least one."""
        return max(1, len(self.truth["train"]) // self.parameters.batch_size)

    def batches(self, epoch: int) -> Iterator[tuple[Floats, Labels]]:
        """Images and labels, in an order drawn from the epoch."""
        random = np.random.default_rng(stable_seed(self.parameters.seed, "published", epoch))
        order, size = random.permutation(len(self.truth["train"])), self.parameters.batch_size
        for number in range(self.batches_per_epoch()):
            part = order[number * size : (number + 1) * size]
            yield self.seen["train"][part], self.truth["train"][part]

    def loss(self, batch: tuple[Floats, Labels], device: torch.device) -> torch.Tensor:
        """Negative log-likelihood."""
        import torch
        from torch.nn.functional import cross_entropy

        seen, truth = (torch.from_numpy(part).to(device) for part in batch)
        return cross_entropy(self.network(seen.contiguous(memory_format=torch.channels_last)).float(), truth)

    def validate(self, device: torch.device) -> dict[str, float]:
        """Accuracy on the validation part of the train ids."""
        return {"val_accuracy": self.accuracy("val", device)}

    def accuracy(self, split: str, device: torch.device) -> float:
        """Share of right answers among the images of a split."""
        import torch

        right = []
        for start in range(0, len(self.truth[split]), 64):
            part = torch.from_numpy(self.seen[split][start : start + 64]).to(device)
            answers = self.network(part.contiguous(memory_format=torch.channels_last)).argmax(dim=1).cpu().numpy()
            right.append(answers == self.truth[split][start : start + 64])
        return float(np.mean(np.concatenate(right)))

    def _input(self, image: Floats) -> Floats:
        """The paper's 224 px crop of the middle, averaged to ``edge_px``; or the maps of the compact network."""
        from atomvision_ml.images.resampling import area_average_matrix

        if self.parameters.network == "compact":
            return network_input([field_of_view(image, _PIXEL_ANGSTROM)], "centred")
        margin = (_SIZE_PX - _CROP_PX) // 2
        crop = image[margin : margin + _CROP_PX, margin : margin + _CROP_PX]
        matrix = area_average_matrix(_CROP_PX, 1.0, _CROP_PX / self.parameters.edge_px)[: self.parameters.edge_px]
        small = matrix @ crop @ matrix.T
        return ((small - small.mean()) / (small.std() + 1e-9)).astype(np.float32)[None, None]


def _three_parts(items: pl.DataFrame, parameters: PublishedBenchmarkParameters) -> dict[str, pl.DataFrame]:
    """Train, validation (a part of the published train ids) and test."""
    train = _first(items.filter(pl.col("split") == "train"), parameters.train_most)
    count = max(1, round(parameters.validation_fraction * train.height))
    ordered = _first(train, 0)
    return {"train": ordered[count:], "val": ordered[:count], "test": items.filter(pl.col("split") == "test")}


def _first(items: pl.DataFrame, most: int) -> pl.DataFrame:
    """The first so many items in the order of a hash of their slab; all for 0."""
    keys = [stable_seed("published", name) for name in items["slab_id"]]
    ordered = items.with_columns(pl.Series("_key", keys, dtype=pl.Int64)).sort("_key").drop("_key")
    return ordered.head(most) if most else ordered


def _numbers(names: pl.Series) -> Labels:
    return np.array([BRAVAIS_LATTICES.index(name) for name in names], np.int64)


def _features(cells: pl.Series) -> Array:
    return np.stack([lattice_features(np.reshape(cell, (2, 2))) for cell in cells])


def comparison_rows(figures: Mapping[str, float], n_test: int) -> list[Row]:
    """Method and accuracy with its binomial 95 % interval (Wilson), the published figure first."""
    rows: list[Row] = [{"method": "published DenseNet (2,288 test images)", "accuracy": PUBLISHED_ACCURACY}]
    z = 1.96
    for method, value in figures.items():
        middle = (value + z**2 / (2 * n_test)) / (1 + z**2 / n_test)
        half = z * np.sqrt(value * (1 - value) / n_test + z**2 / (4 * n_test**2)) / (1 + z**2 / n_test)
        rows.append({"method": method, "accuracy": value, "low": float(middle - half), "high": float(middle + half)})
    return rows


def _main() -> None:
    import typer

    def benchmark(
        labels: str = "",
        slabs: str = "",
        network: str = "densenet121",
        epochs: int = 2,
        edge_px: int = 64,
        train_most: int = 0,
        finder_most: int = 0,
        has_finder: bool = True,
        has_network: bool = True,
        device: str = "auto",
        scratch: str = "",
    ) -> None:
        """Print the comparison as JSON; ``--slabs`` names Parquet files (a glob) instead of the lake."""
        from atomvision_ml.settings import settings

        items = published_items(
            read_labels(Path(labels) if labels else find_labels(settings().sources)),
            pl.read_parquet(slabs) if slabs else _published_slabs(),
        )
        n_test = items.filter(pl.col("split") == "test").height
        typer.echo(json.dumps({"n_train": items.height - n_test, "n_test": n_test}))
        for row in comparison_rows(reader_figures(items), n_test):
            typer.echo(json.dumps(row))
        if has_finder:
            found = finder_figures(items, finder_most)
            count = int(found.pop("n"))
            for row in comparison_rows(found, count)[1:]:
                typer.echo(json.dumps({**row, "n": count}))
        if has_network:
            chosen = PublishedBenchmarkParameters.model_validate(
                {"network": network, "epochs": epochs, "edge_px": edge_px, "train_most": train_most}
            )
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(scratch) if scratch else Path(temporary)
                typer.echo(
                    json.dumps({"network": network, **train_published(items, chosen, scratch=folder, device=device)})
                )

    typer.run(benchmark)


def _published_slabs() -> pl.DataFrame:
    from atomvision_ml.storage.keys import STRUCTURES_SLABS
    from atomvision_ml.storage.lake import Lake

    return Lake.from_settings().scan(STRUCTURES_SLABS).collect()


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO)
    _main()
