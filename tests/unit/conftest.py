"""A small, real set of images that several tests share: made once per process, never changed by a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class SmallSet:
    """Images of a few embedded prototypes, and the manifests made of them."""

    images: pl.DataFrame
    materials: pl.DataFrame
    training_sets: pl.DataFrame
    holdout: pl.DataFrame
    folder: Path

    @property
    def open_blob(self) -> Callable[[str], Path]:
        return lambda blob: {"small": self.folder}[blob]

    def training_set(self, task: str) -> pl.DataFrame:
        return self.training_sets.filter(pl.col("task") == task)


@pytest.fixture(scope="session")
def slab_row() -> Callable[..., dict[str, Any]]:
    """Makes the accepted row of structures/slabs of a layer; its labels are what the test says, not computed."""
    from atomvision_ml.structures.lattice import reduce_cell

    def make(name: str, atoms: Atoms, **labels: Any) -> dict[str, Any]:
        cell = atoms.cell.array.copy()
        cell[2] = [0, 0, 20.0]
        return {
            "slab_id": f"prototypes:{name}",
            "status": "accepted",
            "numbers": atoms.numbers.tolist(),
            "positions_angstrom": atoms.positions.ravel().tolist(),
            "cell_angstrom": cell.ravel().tolist(),
            "primitive_cell_angstrom": reduce_cell(cell[:2, :2]).ravel().tolist(),
            "bravais_lattice": "hexagonal",
            "class_strain_percent": 0.0,
            "next_class_strain_percent": None,
            "superlattice_contrast": None,
            "is_ambiguous": False,
            **labels,
        }

    return make


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> SmallSet:
    from atomvision_ml.evaluation.holdout import holdout_rows
    from atomvision_ml.evaluation.splits import training_set_rows
    from atomvision_ml.images.stem import StemParameters
    from atomvision_ml.images.stem_set import with_blob, write_stem_set
    from atomvision_ml.schemas.tables import table
    from atomvision_ml.schemas.vocabulary import TASKS
    from atomvision_ml.structures.matching import material_rows
    from atomvision_ml.structures.prototypes import prototype_rows
    from atomvision_ml.structures.slabs import slab_rows

    def frame(key: str, rows: list) -> pl.DataFrame:
        return pl.DataFrame(pl.from_arrow(table(key).from_rows(rows)))

    every = prototype_rows()
    records = frame("structures/records", every[:: max(1, len(every) // 28)])
    slabs = frame("structures/slabs", slab_rows(records))
    materials = frame("structures/materials", material_rows(slabs, records))
    folder = tmp_path_factory.mktemp("small") / "stem"
    parameters = StemParameters(size_px=128, minimum_field_angstrom=18.0)
    images = pl.from_arrow(with_blob(write_stem_set(slabs, folder, parameters, source="prototypes"), "small"))
    images = pl.DataFrame(images)
    sets = [frame("models/training_sets", training_set_rows(task, images, materials)) for task in TASKS]
    training_sets = pl.concat(sets)
    holdout = frame("evaluation/holdout", holdout_rows(training_sets, images, {"small": folder}.__getitem__))
    return SmallSet(images, materials, training_sets, holdout, folder)
