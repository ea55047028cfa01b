"""A small, real set of images that several tests share: made once per process, never changed by a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
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


def _paper(arxiv_id: str, licence: str, *, is_withdrawn: bool = False) -> dict[str, Any]:
    moment = datetime(2020, 5, 1, tzinfo=UTC)
    return {
        "month": "2020-05", "arxiv_id": arxiv_id, "datestamp": moment.date(), "first_version_at": moment,
        "latest_version": 1, "latest_version_at": moment, "versions": [], "title": f"Title of {arxiv_id}",
        "authors": "A. Author", "abstract": "STEM of sheets.", "categories": ["cond-mat.mtrl-sci"],
        "licence": licence, "is_redistributable": licence.startswith("cc-"), "is_withdrawn": is_withdrawn,
        "techniques": ["STEM"], "is_candidate": True,
    }  # fmt: skip


def _figure(arxiv_id: str, caption: str, licence: str, **changed: Any) -> dict[str, Any]:
    from atomvision_ml.literature.understanding import understand

    page = f"https://arxiv.org/abs/{arxiv_id}v1"
    return {
        "month": "2020-05", "figure_id": f"figure-{arxiv_id}", "arxiv_id": arxiv_id, "version": 1, "is_current": True,
        "status": "accepted", "number": "1", "place": 1, "route": "html", "caption": caption, "paper_url": page,
        "image_urls": [f"https://arxiv.org/html/{arxiv_id}v1/x1.png"], "image_labels": [""], "n_missing_images": 0,
        "is_relevant": understand(caption).is_relevant, "licence": licence,
        "is_redistributable": licence.startswith("cc-"),
    } | changed  # fmt: skip


@pytest.fixture(scope="session")
def literature_tables() -> dict[str, pl.DataFrame]:
    """A month of papers, figures, panels and mentions by table key: one free, one not, one withdrawn, one plot."""
    from atomvision_ml.literature.extraction import mention_rows
    from atomvision_ml.literature.understanding import understand
    from atomvision_ml.schemas.tables import table

    free, private = "cc-by-4.0", "arxiv-nonexclusive-distrib"
    told = "(a) HAADF-STEM image of MoS2. (b) HAADF-STEM image of WSe2. (c) Raman spectrum of MoS2."
    figures = [
        _figure("2005.00001", told, free),
        _figure("2005.00002", "STM image of graphene on Cu(111).", private),
        _figure("2005.00003", "STEM image of MoS2.", free),
        _figure("2005.00004", "Resistivity of MoS2.", free),
        _figure("2005.00001", "STEM image of WS2.", free, figure_id="figure-old", is_current=False),
    ]
    papers = [
        _paper("2005.00001", free),
        _paper("2005.00002", private),
        _paper("2005.00003", free, is_withdrawn=True),
        _paper("2005.00004", free),
    ]
    panels = [
        {
            **{name: figure[name] for name in ("month", "figure_id", "arxiv_id", "version", "is_current")},
            "panel_id": f"{figure['figure_id']}:{panel.label}", "label": panel.label, "text": panel.text,
            "label_confidence": panel.label_confidence, "modality": panel.modality,
            "modality_confidence": panel.modality_confidence, "image_status": "absent",
        }
        for figure in figures
        for panel in understand(figure["caption"]).panels
    ]  # fmt: skip
    rows = {"papers": papers, "figures": figures, "panels": panels, "mentions": mention_rows(figures)}
    return {
        f"literature/{name}": pl.DataFrame(table(f"literature/{name}").from_rows(each)) for name, each in rows.items()
    }
