"""What the models say of stored micrographs, and the page and the pairs of each."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.ndimage import zoom

from atomvision_ml.evaluation.matched_pairs import SLAB_COLUMNS, matching_materials, projected_slab
from atomvision_ml.evaluation.micrograph_pages import PAGE, PageParameters, n_waiting, pair_rows
from atomvision_ml.experiments.analysis import analyse
from atomvision_ml.experiments.findings import TASKS_ASKED, finding_rows, finding_words
from atomvision_ml.experiments.micrograph_store import measured_image, write_micrograph
from atomvision_ml.experiments.reference_phases import named_phases, reference_phases
from atomvision_ml.experiments.zone_axes import projected_phase
from atomvision_ml.images.detector import DetectorParameters, detect
from atomvision_ml.images.stem import View, render_batch
from atomvision_ml.models.chosen import ChosenModel
from atomvision_ml.models.registry import model_spec
from atomvision_ml.schemas.tables import table
from atomvision_ml.structures.prototypes import prototype_rows

PIXEL = 0.2


def titanate(size: int = 192, rotation_deg: float = 12.0, drift_x_angstrom: float = 0.0) -> np.ndarray:
    crystal = projected_phase(reference_phases()["SrTiO3"], (0, 0, 1))
    clean = render_batch([crystal], [View(PIXEL, size, rotation_deg, (0.4, 1.1))])[0]
    scan = DetectorParameters(mean_detected_e_per_a2=1e3, drift_x_angstrom=drift_x_angstrom)
    return detect(clean, PIXEL, scan, seed=1)


def stored(folder: Path, name: str, pixels: np.ndarray, **known: Any) -> dict[str, Any]:
    """A row of experiments/micrographs whose blob is a folder of that path."""
    row = {"record_id": name, "receipt_id": f"r-{name}", "day": "2026-01-02", "n_frames": 1, "blob": str(folder / name)}
    row |= {"pixel_size_x_nm": PIXEL / 10, "pixel_size_y_nm": PIXEL / 10, "material_formula": None, "phase": None}
    row |= known
    write_micrograph(folder / name, pixels, row)
    return row


def pages(rows: list[dict[str, Any]], tmp_path: Path, **options: Any) -> list[dict[str, Any]]:
    def keep(folder: Path) -> str:
        target = tmp_path / "kept" / folder.name
        shutil.copytree(folder, target, dirs_exist_ok=True)
        return str(target)

    options = {"findings": [], "slabs": None, **options}
    return pair_rows(rows, {}, open_blob=Path, keep=keep, scratch=tmp_path / "scratch", **options)


def test_pages_and_pairs_of_stored_micrographs(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(100, 10, (128, 128)).astype(np.float32)
    micrographs = [
        stored(tmp_path, "titanate", titanate(), material_formula="SrTiO3"),
        stored(tmp_path, "noise", noise, pixel_size_x_nm=None, pixel_size_y_nm=None),
        stored(tmp_path, "tiny", noise[:20, :20]),
    ]
    rows = pages(micrographs, tmp_path)
    table("evaluation/matched_pairs").from_rows(rows)
    by_name = {row["record_id"]: row for row in rows}
    pair = by_name["titanate"]
    assert (pair["crystal"], pair["zone_axis"], pair["rank"]) == ("SrTiO3 [001]", "SrTiO3 [001]", 1)
    assert pair["similarity"] > 0.9
    assert pair["scale"] == pytest.approx(1, abs=2e-3)
    page = (Path(pair["blob"]) / PAGE).read_text()
    assert "SrTiO3 [001]" in page
    assert page.count("data:image/png;base64") >= 7
    assert by_name["noise"]["reason"] == "no lattice was found"
    assert "all lengths are in pixels" in (Path(by_name["noise"]["blob"]) / PAGE).read_text()
    assert "at least 32 px" in by_name["tiny"]["reason"]
    again = pages(micrographs[:2], tmp_path, former=rows, parameters=PageParameters(most_pages=0))
    assert again == [row for row in rows if row["record_id"] != "tiny"]
    later = pages(micrographs[:1], tmp_path, parameters=PageParameters(most_pages=0))
    assert later[0]["blob"] is None
    assert "no page yet" in later[0]["reason"]
    assert (n_waiting(rows), n_waiting(later)) == (0, 1)


def test_models_answer_or_say_why_not(tmp_path: Path) -> None:
    champions = {
        model_spec(name).task: (f"{name}@1", ChosenModel(model_spec(name), None))
        for name in ("lattice_finder", "atom_finder", "defect_finder")
    }
    image = titanate(drift_x_angstrom=0.8)
    row = stored(tmp_path, "titanate", image)
    rows = finding_rows(row, image, champions)
    table("experiments/findings").from_rows(rows)
    assert [each["task"] for each in rows] == list(TASKS_ASKED)
    lattice, segmentation, atoms, defects = rows
    said = json.loads(lattice["prediction_json"])
    assert said["lattice"] == "square"
    assert said["strain_percent"]["square"] == pytest.approx(100 * 0.8 / (2 * 192 * PIXEL), abs=0.1)
    assert finding_words(lattice).startswith("square")
    assert segmentation["reason"] == "no model is in office"
    assert json.loads(atoms["prediction_json"])["n_atoms"] > 50
    assert " atoms in the middle" in finding_words(atoms)
    assert json.loads(defects["prediction_json"])["n_sites"] > 50
    assert " among " in finding_words(defects)
    for known, reason in (
        ({"pixel_size_x_nm": None}, "not calibrated"),
        ({"pixel_size_x_nm": 3.0, "pixel_size_y_nm": 3.0}, "30 Å"),
        ({"pixel_size_x_nm": 0.01}, "not square"),
    ):
        assert reason in finding_rows({**row, **known}, image, champions)[0]["reason"]
    noise = np.random.default_rng(0).normal(size=(64, 64))
    silent = finding_rows(row, noise, champions)[0]
    assert silent["prediction_json"] is None
    assert "lattice" in silent["reason"]
    assert silent["is_out_of_distribution"]


def test_slabs_of_the_measured_cell_are_drawn() -> None:
    known = [row for row in prototype_rows() if len(row["numbers"]) > 1][:12]
    rows = []
    for number, row in enumerate(known):
        slab = {
            "slab_id": f"s:{number}",
            "source": "prototypes",
            "reduced_formula": "O2Ti",
            "primitive_cell_angstrom": None,
        }
        slab |= {name: row[name] for name in ("numbers", "positions_angstrom", "cell_angstrom")}
        slab["primitive_cell_angstrom"] = projected_slab(slab).periods_angstrom.ravel().tolist()
        rows.append({name: slab[name] for name in SLAB_COLUMNS})
    chosen = rows[3]
    image = render_batch([projected_slab(chosen)], [View(PIXEL, 192, 33.0)])[0]
    found = analyse(image, PIXEL)
    matches = matching_materials(image, found, (), pl.LazyFrame(rows))
    assert matches[0].name == chosen["slab_id"]
    assert matches[0].similarity > 0.97
    oblong = np.asarray(zoom(image, (0.8, 1.0), order=1))
    of_oblong = matching_materials(oblong, analyse(oblong, (PIXEL, PIXEL / 0.8)), (), pl.LazyFrame(rows))
    assert of_oblong[0].name == chosen["slab_id"]
    assert of_oblong[0].similarity > 0.95
    assert not matching_materials(image, analyse(image), (), pl.LazyFrame(rows))
    assert not matching_materials(image, found, (), pl.LazyFrame(rows), "SrTiO3")
    assert not matching_materials(image, found, (), pl.LazyFrame(rows), "Sr0.5TiO3")
    assert matching_materials(image, found, (), pl.LazyFrame(rows), "Ti2O4")[0].name == chosen["slab_id"]


def test_phases_of_a_record_and_values_of_pixels() -> None:
    phases = reference_phases()
    assert [phase.name for phase in named_phases({"material_formula": "SrTiO3", "phase": None}, phases)] == ["SrTiO3"]
    assert [phase.name for phase in named_phases({"phase": "magnetite, Fd-3m"}, phases)] == ["Fe3O4"]
    assert named_phases({"material_formula": None}, phases) == ()
    frames = np.array([[[1.0, np.nan], [3.0, 5.0]], [[3.0, 1.0], [5.0, 7.0]]])
    values = measured_image(frames, {"intensity_scale": 2.0, "intensity_offset": 1.0})
    assert values.tolist() == [[5.0, 9.0], [9.0, 13.0]]


def test_all_methods_measure_the_same_lattice() -> None:
    from atomvision_ml.evaluation.scan_study import lattice_of_positions, lattices

    image = titanate()
    found = analyse(image, PIXEL, [reference_phases()["SrTiO3"]])
    told = lattices(image, found, with_networks=False)
    assert set(told) == {"spots", "lattice finder", "columns"}
    for cell, covariance in told.values():
        assert np.linalg.norm(cell, axis=1) == pytest.approx([3.905, 3.905], abs=0.01)
        assert np.all(np.diag(covariance) > 0)
    assert lattice_of_positions(np.zeros((3, 2)), np.eye(2)) is None
