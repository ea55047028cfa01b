"""Several seeds of one network: one checkpoint, further rows beside it, each resumable by itself."""

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from pydantic import Field

from atomvision_assets.models.factory import ModelAssets, Size, model_assets
from atomvision_assets.store import Store, Work
from atomvision_ml.models.checkpoint import Checkpoint, ModelCard, save_checkpoint
from atomvision_ml.models.segmenter import SegmenterParameters, build_network
from atomvision_ml.models.training import seeded
from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.lake import Version

pytestmark = pytest.mark.filterwarnings("ignore::dagster.PreviewWarning")

FIRST = Version(code_version="1")


class Config(dg.Config, SegmenterParameters):
    """Parameters of the segmenter."""

    size: Size = Field(default="demo", description="Size of the graph.")


class Bench:
    """The two assets of the segmenter, whose training keeps the untrained network; told when to break off."""

    def __init__(self, root: Path, small_set: Any):
        self.store = Store(root=str(root / "lake"))
        self.breaks_off_at: int | None = None
        self.made: list[int] = []
        lake = self.store.lake
        blob = lake.put_blob(Path(shutil.copytree(small_set.folder, root / "images")))
        chosen = {"models/training_sets": ("segmentation", small_set.training_set("segmentation"))}
        chosen["evaluation/holdout"] = (None, small_set.holdout.filter(pl.col("task") == "segmentation"))
        for key, (partition, frame) in chosen.items():
            rows = table(key).conform(frame.with_columns(blob=pl.lit(blob)).to_arrow())
            lake.publish(key, rows, version=FIRST, partition=partition)
        self.assets = model_assets(
            ModelAssets(
                name="segmenter", config=Config, train=self.train, predict=self.predict, code_version="1",
                prediction_code_version="1", kinds={"pytorch"}, full={"encoder_depth": 3},
            )
        )  # fmt: skip

    def train(self, work: Work, training_set: pl.DataFrame, parameters: dict[str, Any]) -> Checkpoint:
        seed, folder = parameters["seed"], work.scratch() / "checkpoint"
        if seed == self.breaks_off_at:
            raise ValueError("broken off")
        if not folder.exists():
            self.made.append(seed)
        chosen = SegmenterParameters(**parameters)
        with seeded(seed):
            network = build_network(chosen)
        card = ModelCard(
            name="segmenter", task="segmentation", description="d", intended_use="u", limits=[], trained_on="nothing"
        )
        return save_checkpoint(folder, parameters=chosen, card=card, weights=network.state_dict())

    def predict(
        self, work: Work, holdout: pl.DataFrame, training_set: pl.DataFrame, model_id: str, checkpoint: Path
    ) -> Any:
        counts = dict.fromkeys(("n_true_positive", "n_false_positive", "n_false_negative", "n_true_negative"), 1)
        counts |= dict.fromkeys(("n_columns", "n_found", "n_matched", "n_published_right"), 1)
        fixed = {**counts, "iou": 0.5, "squared_error_angstrom2": 0.0, "atoms": []}
        methods = ((model_id, "model"), ("otsu", "classical"))
        rows = [
            {"item_id": item, "model_id": name, "role": role, **fixed}
            for item in holdout["item_id"]
            for name, role in methods
        ]
        return table("predictions/segmenter").from_rows(rows)

    def run(self, key: str, instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
        node = key.replace("/", "__")
        return dg.materialize(
            self.assets, selection=[dg.AssetKey(key.split("/"))], instance=instance, resources={"store": self.store},
            raise_on_error=False,
            run_config={
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                **({"ops": {node: {"config": config}}} if config else {}),
            },
        )  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path, small_set: Any) -> Bench:
    return Bench(tmp_path, small_set)


def test_one_seed_at_the_demo_size_and_three_at_full(bench: Bench) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert bench.run("models/segmenter", instance, size="demo").success
        (row,) = bench.store.lake.scan("models/segmenter").collect().to_dicts()
        assert (row["seed"], row["is_checkpoint"]) == (0, True)
        assert bench.run("models/segmenter", instance, size="full", seed=5).success
        rows = bench.store.lake.scan("models/segmenter").collect().to_dicts()
        assert [(row["seed"], row["is_checkpoint"]) for row in rows] == [(5, True), (6, False), (7, False)]
        assert len({row["model_id"] for row in rows}) == len({row["blob"] for row in rows}) == 3
        assert rows[1]["model_id"] == f"{rows[0]['model_id']}.s6"
        assert bench.run("models/segmenter", instance, size="full", seeds=2).success
        assert bench.store.lake.scan("models/segmenter").collect().height == 2


def test_a_run_that_broke_off_goes_on_with_the_seed_that_was_missing(bench: Bench) -> None:
    bench.breaks_off_at = 2
    with dg.DagsterInstance.ephemeral() as instance:
        assert not bench.run("models/segmenter", instance, size="full").success
        assert not bench.store.lake.exists("models/segmenter")
        bench.breaks_off_at = None
        assert bench.run("models/segmenter", instance, size="full").success
    assert bench.made == [0, 1, 2], "each seed found its own unfinished work again"


def test_all_seeds_are_judged_and_baselines_once(bench: Bench) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert bench.run("models/segmenter", instance, size="full").success
        assert bench.run("predictions/segmenter", instance).success
    n_items = bench.store.lake.scan("evaluation/holdout").collect().height
    counts = dict(bench.store.lake.scan("predictions/segmenter").collect()["model_id"].value_counts().iter_rows())
    models = bench.store.lake.scan("models/segmenter").collect()["model_id"].to_list()
    assert counts == {**dict.fromkeys(models, n_items), "otsu": n_items}
