"""How often the lattice finder is right on structures, with intervals (``docs/results/lattice_finder.md``).

Belongs here: a measurement on structures directly (random rotation, shift and noise, any field and dose), apart from
the frozen hold-out of the asset graph. Run as a module it reads ``structures/slabs`` from the lake::

    python -m atomvision_ml.evaluation.lattice_benchmark --per-class 200
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.evaluation.splits import prototype_of
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES

NO_LATTICE = "none"
"""Stands for an image in which the finder sees no lattice; always counted as wrong."""

Row = dict[str, Any]


class LatticeBenchmarkParameters(BaseModel):
    """One condition: which structures, and how they are imaged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean_detected_e_per_a2: float | None = Field(default=1e3, gt=0, description="Dose; None for noise-free images.")
    size_px: int = Field(default=256, ge=24, description="Edge of the image.")
    pixel_size_angstrom: float = Field(default=0.2, gt=0)
    is_selected: bool = Field(
        default=True,
        description="Only clear cells: strain ≤ 0.2 %, next class ≥ 3 % away, contrast visible at the dose.",
    )
    half: int | None = Field(default=1, ge=0, le=1, description="Half of the compositions; 0 was used for tuning.")
    most_per_class: int = Field(default=200, ge=1, description="Largest number of structures of each class.")
    n_bootstrap: int = Field(default=2000, ge=1)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Answer:
    """One image: the slab, its label, what the finder said (or ``none``) with its probability, and the time it took."""

    slab_id: str
    label: str
    found: str
    probability: float
    cpu_ms: float


def measure(slabs: pl.DataFrame, parameters: LatticeBenchmarkParameters, network: str = "") -> list[Answer]:
    """Image each chosen structure once at random and ask the finder, or a network.

    Args:
        slabs: accepted rows of ``structures/slabs`` with their labels.
        parameters: the condition.
        network: name or folder of a ``lattice_cnn``; the finder if empty.

    Returns:
        One answer per structure, class by class.
    """
    return [_ask(row, parameters, network) for row in choose(slabs, parameters)]


def new_prototypes(slabs: pl.DataFrame, materials: pl.DataFrame, known_source: str = "prototypes") -> pl.DataFrame:
    """The slabs whose prototype no material of a source has: arrangements of atoms that its networks have not seen.

    Args:
        slabs: rows of ``structures/slabs``.
        materials: rows of ``structures/materials``.
        known_source: what the released networks are trained on.
    """
    pairs = materials.select("reduced_formula", "space_group_number").iter_rows()
    named = materials.select(
        pl.Series("prototype", [prototype_of(*pair) for pair in pairs], dtype=pl.String),
        pl.col("slab_ids").alias("slab_id"),
    ).explode("slab_id")
    of_slab = slabs.select("slab_id", "source").join(named, on="slab_id")
    known = of_slab.filter(pl.col("source") == known_source)["prototype"].unique()
    new = of_slab.filter(~pl.col("prototype").is_in(known.implode()))["slab_id"]
    return slabs.filter(pl.col("slab_id").is_in(new.implode()))


def choose(slabs: pl.DataFrame, parameters: LatticeBenchmarkParameters) -> Iterator[Row]:
    """Random structures of the condition, balanced over the classes as far as there are enough.

    Args:
        slabs: rows of ``structures/slabs``.
        parameters: the condition.
    """
    chosen = slabs.filter(pl.col("status") == "accepted")
    if parameters.is_selected:
        chosen = chosen.filter(_is_clear(parameters))
    for name in BRAVAIS_LATTICES:
        rows = chosen.filter(pl.col("bravais_lattice") == name).sort("slab_id")
        if parameters.half is not None:
            rows = rows.filter(
                pl.Series([half_of(numbers) == parameters.half for numbers in rows["numbers"]], dtype=pl.Boolean)
            )
        order = np.random.default_rng([parameters.seed, BRAVAIS_LATTICES.index(name)]).permutation(len(rows))
        yield from rows[order[: parameters.most_per_class].tolist()].iter_rows(named=True)


def figures(answers: list[Answer], parameters: LatticeBenchmarkParameters) -> Row:
    """Accuracy, macro-F1 and recalls, with 95 % bootstrap intervals over the structures.

    Args:
        answers: from :func:`measure`; not empty.
        parameters: the condition.

    Returns:
        ``n``, ``accuracy``, ``macro_f1`` (each with ``_low`` and ``_high``), ``recall_<class>``, ``mean_probability``
        that the finder itself gives its answers (to compare with the accuracy), ``median_cpu_ms``.

    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError("no answers: the condition selects no structure")
    names = [*BRAVAIS_LATTICES, NO_LATTICE]
    labels = np.array([names.index(answer.label) for answer in answers])
    found = np.array([names.index(answer.found) for answer in answers])
    random = np.random.default_rng(parameters.seed)
    draws = [_scores(labels[pick], found[pick]) for pick in _resamples(random, len(labels), parameters.n_bootstrap)]
    low, high = np.percentile(draws, (2.5, 97.5), axis=0)
    accuracy, macro_f1 = _scores(labels, found)
    row: Row = {"n": len(answers)}
    for i, (name, value) in enumerate((("accuracy", accuracy), ("macro_f1", macro_f1))):
        row |= {name: value, f"{name}_low": float(low[i]), f"{name}_high": float(high[i])}
    for i, name in enumerate(BRAVAIS_LATTICES):
        mine = labels == i
        row[f"recall_{name}"] = float(np.mean(found[mine] == i)) if mine.any() else None
    row["mean_probability"] = float(np.mean([answer.probability for answer in answers]))
    row["median_cpu_ms"] = float(np.median([answer.cpu_ms for answer in answers]))
    return row


def _is_clear(parameters: LatticeBenchmarkParameters) -> pl.Expr:
    from atomvision_ml.structures.labels import VISIBLE_AT_SIGMA

    clear = (pl.col("class_strain_percent") <= 0.2) & (pl.col("next_class_strain_percent").fill_null(100.0) >= 3.0)
    if parameters.mean_detected_e_per_a2 is None:
        return clear
    area = (parameters.size_px * parameters.pixel_size_angstrom) ** 2
    least = VISIBLE_AT_SIGMA / math.sqrt(parameters.mean_detected_e_per_a2 * area)
    return clear & (pl.col("superlattice_contrast").fill_null(1.0) > least)


def half_of(numbers: Sequence[int]) -> int:
    """The half, 0 or 1, of a composition: parity of the MD5 of its reduced formula as ((Z, count), …), Z ascending.

    Args:
        numbers: Atomic number of each atom of a cell.
    """
    elements, counts = np.unique(np.asarray(numbers), return_counts=True)
    reduced = tuple(zip(elements.tolist(), (counts // math.gcd(*counts.tolist())).tolist(), strict=True))
    return int(hashlib.md5(repr(reduced).encode(), usedforsecurity=False).hexdigest(), 16) % 2


def _ask(row: Row, parameters: LatticeBenchmarkParameters, network: str) -> Answer:
    from atomvision_ml.models.lattice_cnn import LatticeCnnResult, classify_lattice
    from atomvision_ml.models.lattice_finder import LatticeResult, NoLatticeError, find_lattice

    image = _image(row, parameters)
    start = time.process_time()
    result: LatticeResult | LatticeCnnResult
    try:
        if network:
            result = classify_lattice(image, parameters.pixel_size_angstrom, network)
        else:
            result = find_lattice(image, parameters.pixel_size_angstrom)
        found, probability = result.lattice, result.probabilities[result.lattice]
    except NoLatticeError:
        found, probability = NO_LATTICE, 0.0
    return Answer(row["slab_id"], row["bravais_lattice"], found, probability, 1e3 * (time.process_time() - start))


def _image(row: Row, parameters: LatticeBenchmarkParameters) -> NDArray[np.float64]:
    from atomvision_ml.images.stem import render
    from atomvision_ml.structures.slabs import atoms_from_row

    digest = int.from_bytes(hashlib.sha256(row["slab_id"].encode()).digest()[:4], "big")
    random = np.random.default_rng([parameters.seed, digest])
    shift_x, shift_y = random.uniform(0.0, 30.0, 2)
    return render(
        atoms_from_row(row),
        pixel_size_angstrom=parameters.pixel_size_angstrom,
        size=parameters.size_px,
        rotation_deg=float(random.uniform(0.0, 360.0)),
        shift_angstrom=(float(shift_x), float(shift_y)),
        mean_detected_e_per_a2=parameters.mean_detected_e_per_a2,
        seed=int(random.integers(2**31)),
    )


def _resamples(random: np.random.Generator, n: int, count: int) -> Iterator[NDArray[np.int64]]:
    for _ in range(count):
        yield random.integers(0, n, n)


def _scores(labels: NDArray[np.int64], found: NDArray[np.int64]) -> tuple[float, float]:
    """Accuracy, and F1 averaged over the classes that occur."""
    n = len(BRAVAIS_LATTICES)
    confusion = np.zeros((n + 1, n + 1))
    np.add.at(confusion, (labels, found), 1)
    right, support, claimed = np.diag(confusion)[:n], confusion.sum(axis=1)[:n], confusion.sum(axis=0)[:n]
    f1 = 2 * right / np.maximum(support + claimed, 1)
    return float(right.sum() / len(labels)), float(f1[support > 0].mean())


def _main() -> None:
    import json

    import typer

    def benchmark(
        per_class: int = 200, half: int = 1, slabs: str = "", network: str = "", only_new_prototypes: bool = False
    ) -> None:
        """Print one JSON object per condition; ``--slabs`` names a Parquet file instead of the lake.

        ``--network`` asks a lattice_cnn instead of the finder; ``--only-new-prototypes`` leaves out the arrangements of
        the embedded prototypes, on which released networks are trained.
        """
        table = pl.read_parquet(slabs) if slabs else _published("structures/slabs")
        if only_new_prototypes:
            table = new_prototypes(table, _published("structures/materials"))
        for condition in _conditions(per_class, None if half < 0 else half):
            answers = measure(table, condition, network)
            wrong = [
                f"{answer.slab_id}: {answer.label} read as {answer.found}"
                for answer in answers
                if answer.label != answer.found
            ]
            typer.echo(json.dumps({**condition.model_dump(), **figures(answers, condition), "wrong": wrong}))

    typer.run(benchmark)


def _published(key: str) -> pl.DataFrame:
    from atomvision_ml.storage.lake import Lake

    return Lake.from_settings().scan(key).collect()


def _conditions(per_class: int, half: int | None) -> Iterator[LatticeBenchmarkParameters]:
    for is_selected, size_px in ((True, 256), (False, 256), (False, 128)):
        for dose in (1e3, 3e2, 1e2, None):
            yield LatticeBenchmarkParameters(
                mean_detected_e_per_a2=dose,
                size_px=size_px,
                is_selected=is_selected,
                half=half,
                most_per_class=per_class,
            )


if __name__ == "__main__":
    _main()
