"""From dropped files to a verdict under the real daemon: one retraining for labelled images, none for others."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from inbox_daemon import Platform

from atomvision_assets.declare import asset_key_of
from atomvision_assets.store import SKIP_UNCHANGED_TAG, Store
from atomvision_ml.evaluation.answers import with_items
from atomvision_ml.evaluation.promotion import deciding_figure
from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.experiments.double import drop
from atomvision_ml.models.checkpoint import load_checkpoint, model_row, released_checkpoint
from atomvision_ml.models.registry import model_names, model_spec
from atomvision_ml.schemas.tables import table
from atomvision_ml.schemas.vocabulary import TASKS
from atomvision_ml.settings import Settings
from atomvision_ml.storage.lake import Lake, Version
from dagster_project.definitions import build_definitions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

WORKSPACE = Path(__file__).parent / "retraining_workspace.yaml"
TINY = {"scenes": 20, "epochs": 2, "validation_images": 5}
LIMIT_S = 1200


class World:
    """A platform with simulated images, a first lattice model and its verdict."""

    def __init__(self, platform: Platform):
        self.platform = platform
        self.definitions = build_definitions(Settings(root=str(platform.root)), Store(root=str(platform.root)))

    def seed(self) -> None:
        """The simulated part by real assets; models that are not looked at are absent."""
        for key in ("structures/records", "structures/slabs", "images/stem"):
            self.make(key, "prototypes")
        self.make("structures/materials")
        for task in TASKS:
            self.make("models/training_sets", task)
        self.make("evaluation/holdout", maximum_images=5)
        for name in model_names():
            self.publish(f"models/{name}", self.released(name))
            self.publish(f"predictions/{name}", [])
        self.make("models/lattice_finder")
        self.make("predictions/lattice_finder")
        self.make("models/lattice_fusion", **TINY)
        for key in ("predictions/lattice_fusion", "evaluation/experimental_holdout", "evaluation/experimental_answers"):
            self.make(key)
        self.make("models/verdicts")
        self.make("models/champions")

    def make(self, key: str, partition: str | None = None, **config: Any) -> None:
        with self.platform.instance() as instance:
            node = key.replace("/", "__")
            dg.materialize(
                [self.definitions.resolve_assets_def(asset_key_of(key))],
                instance=instance,
                partition_key=partition,
                tags={SKIP_UNCHANGED_TAG: "true"},
                run_config={
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                    **({"ops": {node: {"config": config}}} if config else {}),
                },
            )

    def publish(self, key: str, rows: list[dict[str, Any]]) -> None:
        facts = self.platform.lake.publish(key, table(key).from_rows(rows), version=Version(code_version="1"))
        event = dg.AssetMaterialization(asset_key_of(key), tags={"dagster/data_version": facts.data_version})
        with self.platform.instance() as instance:
            instance.report_runless_asset_event(event)

    def released(self, name: str) -> list[dict[str, Any]]:
        if name not in ("lattice_cnn", "lattice_graph"):
            return []
        assert model_spec(name).task == "lattice"
        checkpoint = load_checkpoint(released_checkpoint(name))
        blob = self.platform.lake.put_blob(Path(shutil.copytree(checkpoint.folder, self.platform.folder / name)))
        return [model_row(checkpoint, version="released", size="demo", blob=blob)]

    def rows(self, key: str, partition: str | None = None) -> list[dict[str, Any]]:
        return self.platform.lake.scan(key, partition).collect().to_dicts()

    def trainings(self) -> int:
        """Runs of the daemon that made the fused model."""
        return sum(
            run.asset_selection is not None and asset_key_of("models/lattice_fusion") in run.asset_selection
            for run in self.platform.runs()
        )

    def manifest_runs(self) -> int:
        """Ended runs of the daemon that looked whether the training set of the lattice is to change."""
        partition = ("dagster/partition", "dagster/asset_partition_range_start")
        return sum(
            "lattice" in {run.tags.get(tag) for tag in partition} and run.status == dg.DagsterRunStatus.SUCCESS
            for run in self.platform.runs()
        )

    def looked(self, before: int) -> bool:
        """Whether the training set has been looked at since, and nothing goes on."""
        return self.manifest_runs() > before and all(run.is_finished for run in self.platform.runs())


def stored_figure(lake: Lake, verdict: dict[str, Any]) -> float | None:
    """The deciding figure of a verdict's model, computed again from the tables of its answers and of their items."""
    answered = (f"predictions/{verdict['name']}", "evaluation/experimental_answers")
    answers, items = (
        pl.concat([lake.scan(key).collect() for key in keys], how="diagonal_relaxed")
        for keys in (answered, ("evaluation/holdout", "evaluation/experimental_holdout"))
    )
    rule = PROTOCOLS[verdict["task"]].rule
    assert rule is not None
    return deciding_figure(with_items(answers.filter(pl.col("model_id") == verdict["model_id"]), items), rule)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("retraining")
    platform = Platform(folder / "platform", {}, workspace=WORKSPACE)
    world = World(platform)
    try:
        world.seed()
        platform.start()
        yield world
    finally:
        platform.stop()


def test_files_without_label_and_copies_train_nothing(world: World, tmp_path: Path) -> None:
    drop(tmp_path / "drop")
    before = world.manifest_runs()
    version = world.platform.lake.facts("models/training_sets", "lattice").data_version
    unlabelled = tmp_path / "drop" / "GS-01_001.hspy"
    for name in ("one.hspy", "copy.hspy"):
        shutil.copy(unlabelled, world.platform.drop / name)
    world.platform.wait_until(lambda: world.looked(before), LIMIT_S, "looked at")
    states = sorted(receipt.state for receipt in world.platform.receipts())
    assert states == ["accepted", "duplicate"]
    assert world.platform.lake.facts("models/training_sets", "lattice").data_version == version
    assert world.trainings() == 0


def test_labelled_files_train_one_model_and_end_in_a_verdict(world: World) -> None:
    (former,) = world.rows("models/lattice_fusion")
    n_verdicts = len(world.rows("models/verdicts"))
    drop(world.platform.drop / "demo")
    world.platform.wait_until(lambda: len(world.rows("models/verdicts")) > n_verdicts, LIMIT_S, "judged")
    (made,) = world.rows("models/lattice_fusion")
    world.platform.wait_until(
        lambda: [row["candidate_id"] for row in world.rows("models/champions")] == [made["model_id"]],
        LIMIT_S,
        "told who is in office",
    )
    world.platform.wait_until(lambda: all(run.is_finished for run in world.platform.runs()), LIMIT_S, "quiet")
    assert world.trainings() == 1
    assert world.rows("models/lattice_fusion") == [made]
    old, new = (load_checkpoint(world.platform.lake.blob(row["blob"])).weights() for row in (former, made))
    assert not bool((old["head.0.weight"] == new["head.0.weight"]).all())
    (verdict,) = world.rows("models/verdicts")[n_verdicts:]
    assert verdict["model_id"] == made["model_id"]
    assert verdict["verdict"] in ("promoted", "refused")
    assert len(verdict["trained_on"]) == 14
    assert len(world.rows("evaluation/experimental_holdout")) == 10
    assert stored_figure(world.platform.lake, verdict) == pytest.approx(verdict["value"])
    (champion,) = world.rows("models/champions")
    in_office = made["model_id"] if verdict["verdict"] == "promoted" else verdict["incumbent_id"]
    assert champion["model_id"] == verdict["champion_id"] == in_office
    assert (champion["candidate_id"], champion["reason"]) == (made["model_id"], verdict["reason"])
    assert champion["is_promoted"] == (verdict["verdict"] == "promoted")


def test_the_same_files_again_change_nothing(world: World) -> None:
    before, n_trainings, book = world.manifest_runs(), world.trainings(), world.rows("models/verdicts")
    files = [path for path in (world.platform.drop / "demo").iterdir() if path.suffix == ".tif"][:10]
    for number, path in enumerate(files):
        shutil.copy(path, world.platform.drop / f"again_{number}.tif")
    world.platform.wait_until(lambda: len(world.platform.receipts()) >= 30 + len(files), LIMIT_S, "received")
    world.platform.wait_until(lambda: world.looked(before), LIMIT_S, "looked at")
    assert world.trainings() == n_trainings
    assert world.rows("models/verdicts") == book
