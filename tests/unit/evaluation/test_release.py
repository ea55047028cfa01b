import json
import shutil

import polars as pl
import pytest

from atomvision_ml.evaluation import release
from atomvision_ml.evaluation.release import ReleaseError, content_hashes, release_checkpoint
from atomvision_ml.models.checkpoint import load_checkpoint, model_row, released_checkpoint
from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.lake import Lake, Version

MODEL_ID = "segmenter@v1"


def answer(item, model_id, role, iou):
    return {
        "item_id": item, "model_id": model_id, "role": role, "n_true_positive": 5, "n_false_positive": 1,
        "n_false_negative": 1, "n_true_negative": 9, "iou": iou, "n_columns": 4, "n_found": 4, "n_matched": 4,
        "squared_error_angstrom2": 0.01, "atoms": [], "n_published_right": 12,
    }  # fmt: skip


@pytest.fixture
def lake(tmp_path, small_set):
    lake = Lake(tmp_path / "root")
    images = pl.lit(lake.put_blob(shutil.copytree(small_set.folder, tmp_path / "images"))).alias("blob")
    training_set = table("models/training_sets").conform(
        small_set.training_set("segmentation").with_columns(images).to_arrow()
    )
    made_of = lake.publish(
        "models/training_sets", training_set, version=Version(code_version="1"), partition="segmentation"
    )
    items = small_set.holdout.filter(pl.col("task") == "segmentation").with_columns(images)
    lake.publish(
        "evaluation/holdout", table("evaluation/holdout").conform(items.to_arrow()), version=Version(code_version="1")
    )
    checkpoint = load_checkpoint(released_checkpoint("segmenter"))
    blob = lake.put_blob(shutil.copytree(checkpoint.folder, tmp_path / "checkpoint"))
    row = model_row(checkpoint, version="v1", size="full", blob=blob)
    inputs = {"models/training_sets/segmentation": made_of.data_version}
    lake.publish(
        "models/segmenter",
        table("models/segmenter").from_rows([row]),
        version=Version(code_version="1", inputs=inputs),
    )
    rows = [
        answer(item, *method)
        for item in items["item_id"]
        for method in ((MODEL_ID, "model", 0.9), (f"{MODEL_ID}.s1", "model", 0.1), ("otsu", "classical", 0.4))
    ]
    lake.publish(
        "predictions/segmenter", table("predictions/segmenter").from_rows(rows), version=Version(code_version="1")
    )
    return lake


def test_card_has_figures_beside_the_baselines_and_hashes_of_contents(lake, tmp_path):
    made = release_checkpoint(lake, "segmenter", tmp_path / "released" / "segmenter", how_to_make="make it")
    stored = json.loads((made.folder / "card.json").read_text())
    iou = {(row["model"], row["slice"]): row["value"] for row in stored["metrics"] if row["metric"] == "iou"}
    assert iou["segmenter", "all|1000"] == pytest.approx(0.9), "further seeds are not in the figure"
    assert iou["otsu", "all|1000"] == pytest.approx(0.4)
    facts = lake.facts("models/training_sets", "segmentation")
    assert stored["data_versions"] == {"models/training_sets/segmentation": facts.content_sha256}
    assert stored["how_to_make"] == "make it"
    assert made.weights().keys() == load_checkpoint(released_checkpoint("segmenter")).weights().keys()
    assert [path.name for path in made.folder.parent.iterdir()] == ["segmenter"]


def test_too_large_a_checkpoint_leaves_the_released_one_as_it_is(lake, tmp_path, monkeypatch):
    target = tmp_path / "released" / "segmenter"
    release_checkpoint(lake, "segmenter", target, how_to_make="first")
    monkeypatch.setattr(release, "MAXIMUM_BYTES", 1000)
    with pytest.raises(ReleaseError, match="at most 8 MB"):
        release_checkpoint(lake, "segmenter", target, how_to_make="second")
    assert load_checkpoint(target).card.how_to_make == "first"
    assert [path.name for path in target.parent.iterdir()] == ["segmenter"]


def test_hashes_of_what_is_no_longer_there_are_refused(lake):
    fewer = lake.scan("models/training_sets", "segmentation").collect().head(3)
    lake.publish(
        "models/training_sets",
        table("models/training_sets").conform(fewer.to_arrow()),
        version=Version(code_version="1"),
        partition="segmentation",
    )
    with pytest.raises(ReleaseError, match="published anew"):
        content_hashes(lake, "models/segmenter")


def test_released_checkpoints_are_small_enough():
    from atomvision_ml.models.checkpoint import released_names

    for name in released_names():
        assert sum(path.stat().st_size for path in released_checkpoint(name).iterdir()) <= release.MAXIMUM_BYTES, name
