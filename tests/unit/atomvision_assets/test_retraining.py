"""The retraining loop with real assets: which files make the training set change, and what follows from it.

Only the fused lattice model is trained here; the other lattice models are the released ones, those of other tasks are
absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from atomvision_assets.evaluation import assets as evaluation
from atomvision_assets.models import assets as models
from atomvision_assets.models import champions, lattice
from atomvision_assets.store import SKIP_UNCHANGED_TAG, Store
from atomvision_ml.catalog.warehouse import ask
from atomvision_ml.evaluation.adoption import split_of
from atomvision_ml.evaluation.answers import with_items
from atomvision_ml.evaluation.decisions import record_decision
from atomvision_ml.evaluation.promotion import deciding_figure
from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.experiments.micrograph_store import write_micrograph
from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.models.checkpoint import load_checkpoint, model_row, released_checkpoint
from atomvision_ml.models.registry import model_names, model_spec
from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.lake import Lake, Version

pytestmark = pytest.mark.filterwarnings("ignore::dagster.PreviewWarning")

FIRST = Version(code_version="1")
ROOMS = dg.load_assets_from_modules([evaluation, models, champions, lattice], include_specs=True)
CONFIG: dict[str, dict[str, Any]] = {
    "models/training_sets": {"new_images": 5, "waiting_days": 10_000},
    "models/lattice_fusion": {"scenes": 10, "batch_size": 5, "epochs": 2, "validation_images": 3},
    "evaluation/holdout": {"maximum_images": 3},
}
LOOP = (
    "models/training_sets",
    "evaluation/holdout",
    "models/lattice_finder",
    "models/lattice_fusion",
    "predictions/lattice_finder",
    "predictions/lattice_fusion",
    "evaluation/experimental_holdout",
    "evaluation/experimental_answers",
    "models/verdicts",
    "models/champions",
)
QUALITY = ("noise", "snr", "focus", "astigmatism", "astigmatism_angle_deg", "clipped_share")
CELLS = {"square": np.diag([3.2, 3.2]), "rectangular": np.diag([3.1, 4.6])}
SAMPLES = {split: [f"s{n}" for n in range(40) if split_of(f"s{n}") == split] for split in ("train", "val", "test")}


class Platform:
    """A lake with simulated images and the models of before, and an instance of Dagster."""

    def __init__(self, root: Path, small_set: Any, instance: dg.DagsterInstance):
        self.store, self.instance, self.scratch = Store(root=str(root / "lake")), instance, root / "scratch"
        blob = self.blob_of(small_set.folder)
        self.publish("images/stem", small_set.images.with_columns(blob=pl.lit(blob)).to_arrow(), "prototypes")
        self.publish("structures/materials", small_set.materials.to_arrow())
        for name in model_names():
            self.publish(f"models/{name}", self.released(name) if model_spec(name).task == "lattice" else [])
            self.publish(f"predictions/{name}", [])
        self.micrographs: list[dict[str, Any]] = []

    @property
    def lake(self) -> Lake:
        return self.store.lake

    def publish(self, key: str, rows: Any, partition: str | None = None) -> None:
        made = table(key).from_rows(rows) if isinstance(rows, list) else table(key).conform(rows)
        self.lake.publish(key, made, version=FIRST, partition=partition)

    def blob_of(self, folder: Path) -> str:
        from shutil import copytree

        return self.lake.put_blob(Path(copytree(folder, self.scratch / "copy")))

    def released(self, name: str) -> list[dict[str, Any]]:
        if model_spec(name).kind != "network":
            return []
        checkpoint = load_checkpoint(released_checkpoint(name))
        return [model_row(checkpoint, version="released", size="demo", blob=self.blob_of(checkpoint.folder))]

    def receive(self, label: str | None, sample: str | None) -> None:
        """A micrograph of a crystal, as the ingestion publishes it."""
        number = len(self.micrographs)
        cell = CELLS[label or "square"]
        crystal = Projection(np.array([[0.0, 0.0]]), np.array([300.0]), cell)
        clean = render_batch([crystal], [View(0.15, 128, 13.0 * number)])[0]
        pixels = np.random.default_rng(number).poisson(clean * 20 + 3).astype(np.uint16)
        sizes = {"pixel_size_y_nm": 0.015, "pixel_size_x_nm": 0.015}
        folder = self.scratch / f"micrograph{number}"
        write_micrograph(folder, pixels, {**sizes, "record_id": f"r{number}"})
        row = {
            "day": "2026-11-20", "record_id": f"r{number}", "receipt_id": f"{number}",
            "blob": self.lake.put_blob(folder), "shape_y": 128, "shape_x": 128, "n_frames": 1, "dtype": "uint16",
            "is_calibrated": True, **sizes, "sample_id": sample, "label_lattice": label,
            "original_filename": f"{sample}_{number}.dm4", **dict.fromkeys(QUALITY, 1.0),
        }  # fmt: skip
        self.micrographs.append(row)
        self.publish("experiments/micrographs", self.micrographs, "2026-11-20")

    def run(self, *keys: str) -> set[str]:
        """Materialise; the keys that were computed, not skipped."""
        computed = set()
        for key in keys or LOOP:
            result = dg.materialize(
                ROOMS,
                selection=[dg.AssetKey(key.split("/"))],
                instance=self.instance,
                resources={"store": self.store},
                partition_key="lattice" if key == "models/training_sets" else None,
                tags={SKIP_UNCHANGED_TAG: "true"},
                run_config={
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                    "ops": {key.replace("/", "__"): {"config": CONFIG[key]}} if key in CONFIG else {},
                },
            )
            (event,) = result.asset_materializations_for_node(key.replace("/", "__"))
            if "is_unchanged" not in event.metadata:
                computed.add(key)
        return computed

    def metadata(self, key: str) -> Mapping[str, dg.MetadataValue[Any]]:
        event = self.instance.get_latest_materialization_event(dg.AssetKey(key.split("/")))
        assert event is not None
        assert event.asset_materialization is not None
        return event.asset_materialization.metadata

    def rows(self, key: str, partition: str | None = None) -> list[dict[str, Any]]:
        return self.lake.scan(key, partition).collect().to_dicts()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, small_set: Any) -> Iterator[Platform]:
    with dg.DagsterInstance.ephemeral() as instance:
        platform = Platform(tmp_path_factory.mktemp("platform"), small_set, instance)
        platform.run()
        yield platform


def test_first_a_model_of_simulated_images_is_in_office_or_refused(platform: Platform) -> None:
    (fusion,) = platform.rows("models/lattice_fusion")
    book = platform.rows("models/verdicts")
    assert {row["model_id"] for row in book} >= {fusion["model_id"]}
    assert all(row["trained_on"] == [] and row["slices"] == ["unambiguous|1000"] for row in book)
    assert platform.rows("evaluation/experimental_answers") == []


def test_micrographs_that_nobody_labelled_and_too_few_labelled_ones_change_nothing(platform: Platform) -> None:
    before = platform.lake.facts("models/training_sets", "lattice").data_version
    for _ in range(3):
        platform.receive(None, SAMPLES["train"][0])
    for number in range(4):
        platform.receive("square", SAMPLES["train"][number])
    platform.receive("square", None)
    assert platform.run() == set()
    assert platform.lake.facts("models/training_sets", "lattice").data_version == before
    said = platform.metadata("models/training_sets")
    assert said["micrographs"].value.startswith("4 new labelled images")
    assert said["labelled_but_not_trained_on"].value == {"no sample_id": 1}


def test_enough_labelled_ones_train_one_model_anew_and_end_in_a_verdict(platform: Platform) -> None:
    versions = {key: platform.lake.facts(key).data_version for key in ("models/lattice_finder", "evaluation/holdout")}
    (former,) = platform.rows("models/lattice_fusion")
    n_verdicts = len(platform.rows("models/verdicts"))
    for sample in SAMPLES["test"][:2]:
        for label in CELLS:
            platform.receive(label, sample)
    computed = platform.run()
    assert computed == set(LOOP) - {
        "models/lattice_finder", "evaluation/holdout", "predictions/lattice_finder",
    }  # fmt: skip
    assert {key: platform.lake.facts(key).data_version for key in versions} == versions
    (made,) = platform.rows("models/lattice_fusion")
    weights = [load_checkpoint(platform.lake.blob(row["blob"])).weights()["head.0.weight"] for row in (former, made)]
    assert not np.array_equal(*(each.numpy() for each in weights))
    (verdict,) = platform.rows("models/verdicts")[n_verdicts:]
    assert verdict["model_id"] == made["model_id"]
    assert verdict["verdict"] in ("promoted", "refused")
    assert {image["record_id"] for image in verdict["trained_on"]} == {"r3", "r4", "r5", "r6"}
    assert verdict["slices"] == list(PROTOCOLS["lattice"].rule.deciding)
    (champion,) = platform.rows("models/champions")
    assert (champion["candidate_id"], champion["reason"]) == (made["model_id"], verdict["reason"])


def test_figures_are_those_of_what_is_stored(platform: Platform) -> None:
    *_, verdict = platform.rows("models/verdicts")
    tables = ("predictions/lattice_fusion", "evaluation/experimental_answers")
    answers = [platform.lake.scan(key).collect() for key in tables]
    items = [platform.lake.scan(key).collect() for key in ("evaluation/holdout", "evaluation/experimental_holdout")]
    own = pl.concat(answers, how="diagonal_relaxed").filter(pl.col("model_id") == verdict["model_id"])
    joined = with_items(own, pl.concat(items, how="diagonal_relaxed"))
    assert deciding_figure(joined, PROTOCOLS["lattice"].rule) == pytest.approx(verdict["value"])
    assert set(items[1]["split_group"]) == {f"sample:{sample}" for sample in SAMPLES["test"][:2]}
    kept = pl.read_parquet(platform.lake.blob(verdict["answers_blob"]) / "answers.parquet")
    assert set(kept["item_id"]) == set(own["item_id"])


def test_again_nothing_is_computed_and_the_story_is_one_query(platform: Platform) -> None:
    assert platform.run() == set()
    with ask(platform.lake, "SELECT * FROM models.story ORDER BY number DESC LIMIT 1") as result:
        (story,) = result.read_all().to_pylist()
    (made,) = platform.rows("models/lattice_fusion")
    assert (story["model_id"], story["n_files"]) == (made["model_id"], 4)
    assert {file["original_filename"] for file in story["files"]} == {
        row["original_filename"] for row in platform.micrographs if row["record_id"] in ("r3", "r4", "r5", "r6")
    }
    assert {"models/training_sets/lattice", "evaluation/holdout"} <= {each["key"] for each in story["inputs"]}


def test_a_person_decides_otherwise(platform: Platform) -> None:
    (made,) = platform.rows("models/lattice_fusion")
    seat = platform.rows("models/champions")[0]["model_id"]
    decision = "reject" if seat == made["model_id"] else "approve"
    record_decision(platform.lake, decision, "lattice", made["model_id"], reason="a test", decided_by="Ada")
    assert platform.run() == {"models/verdicts", "models/champions"}
    (champion,) = platform.rows("models/champions")
    assert (champion["model_id"] == made["model_id"]) == (decision == "approve")
    *_, row = platform.rows("models/verdicts")
    assert (row["decided_by"], row["reason"]) == ("Ada", "a test")
