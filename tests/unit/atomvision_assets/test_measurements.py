"""Lattice planes and particles as assets: rows for every micrograph, and old ones are not measured again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from atomvision_assets.experiments import measurements
from atomvision_assets.experiments.measurement_checks import audit_measured
from atomvision_assets.store import Store
from atomvision_ml.evaluation.facet_benchmark import rendered_image
from atomvision_ml.experiments.micrograph_store import write_micrograph
from atomvision_ml.experiments.particle_fields import ParticleFieldParameters, draw_field
from atomvision_ml.experiments.reference_phases import reference_phases
from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.lake import Version

pytestmark = pytest.mark.filterwarnings("ignore::dagster.PreviewWarning", "ignore::dagster.BetaWarning")

DAY = "2026-11-20"
QUALITY = ("noise", "snr", "focus", "astigmatism", "astigmatism_angle_deg", "clipped_share")
Receive = Callable[[str, np.ndarray, float, str], None]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(root=str(tmp_path / "lake"))


@pytest.fixture
def receive(store: Store, tmp_path: Path) -> Receive:
    rows: list[dict[str, Any]] = []

    def receive(record_id: str, pixels: np.ndarray, pixel_size_nm: float, technique: str) -> None:
        sizes = {"pixel_size_y_nm": pixel_size_nm, "pixel_size_x_nm": pixel_size_nm}
        folder = tmp_path / record_id
        write_micrograph(folder, pixels.astype(np.uint16), {**sizes, "record_id": record_id})
        rows.append(
            {
                "day": DAY,
                "record_id": record_id,
                "receipt_id": record_id,
                "blob": store.lake.put_blob(folder),
                "shape_y": pixels.shape[0],
                "shape_x": pixels.shape[1],
                "n_frames": 1,
                "dtype": "uint16",
                "is_calibrated": True,
                **sizes,
                "technique": technique,
                "material_formula": "Au",
                "original_filename": f"{record_id}.dm4",
                **dict.fromkeys(QUALITY, 1.0),
            }
        )
        made = table("experiments/micrographs").from_rows(rows)
        store.lake.publish("experiments/micrographs", made, version=Version(code_version="1"), partition=DAY)

    return receive


def materialize(store: Store, asset: dg.AssetsDefinition) -> tuple[list[dict[str, Any]], dg.AssetMaterialization]:
    result = dg.materialize(
        [dg.AssetSpec(["experiments", "micrographs"], partitions_def=asset.partitions_def), asset],
        selection=[asset.key],
        resources={"store": store},
        partition_key=DAY,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    (event,) = result.asset_materializations_for_node(asset.key.to_python_identifier())
    return store.lake.scan(asset.key.to_user_string(), DAY).collect().to_dicts(), event


def test_planes_of_a_gold_grain_and_none_of_a_surface(
    store: Store, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    image, pixel, _ = rendered_image(reference_phases()["Au"], (1, 1, 0), random, is_grain=False, dose_e_per_a2=2000.0)
    receive("gold", image, pixel / 10, "HRTEM")
    receive("surface", image, pixel / 10, "STM")
    rows, event = materialize(store, measurements.facets)
    gold = [row for row in rows if row["record_id"] == "gold"]
    assert {tuple(row["family"]) for row in gold if row["state"] == "decided"} >= {(1, 1, 1), (2, 0, 0)}
    assert all(row["is_phase_declared"] and row["is_calibrated"] for row in gold)
    assert [row["reason"] for row in rows if row["record_id"] == "surface"] == ["STM shows no lattice fringes"]
    assert "preview" in event.metadata

    # What is measured already is not opened again.
    receive("later", np.zeros((64, 64)) + np.eye(64), pixel / 10, "TEM")
    opened: list[str] = []

    def measure(micrograph: dict[str, Any], *_: Any) -> tuple[list[dict[str, Any]], None, None]:
        opened.append(micrograph["record_id"])
        return [{"day": DAY, "record_id": micrograph["record_id"], "state": "undecided", "reason": "none"}], None, None

    monkeypatch.setattr("atomvision_ml.experiments.facet_rows.facet_rows", measure)
    again, _ = materialize(store, measurements.facets)
    assert opened == ["later"]
    assert [row for row in again if row["record_id"] != "later"] == rows


def test_particles_of_a_field(store: Store, receive: Receive) -> None:
    image, known = draw_field(ParticleFieldParameters(size_px=256, count=8, diameter_px=36), 0)
    receive("field", image, 0.5, "TEM")
    rows, event = materialize(store, measurements.particles)
    assert len(rows) == len(known)
    assert {row["shape_class"] for row in rows} == {"A"}
    assert np.mean([row["area_nm2"] for row in rows]) == pytest.approx(
        np.mean([each.area_px for each in known]) / 4, rel=0.05
    )
    assert "preview" in event.metadata


def test_rows_that_miss_or_repeat_a_micrograph_are_refused() -> None:
    row = {"record_id": "a", "spot": 1}
    empty = {"record_id": "b", "spot": None, "reason": None}
    missing, unexplained = audit_measured([row, empty], [{"record_id": "a"}, {"record_id": "c"}], "spot")
    assert not missing.passed
    assert missing.details["different"] == ["b", "c"]
    assert not unexplained.passed
    assert all(audit.passed for audit in audit_measured([row], [{"record_id": "a"}], "spot"))
