"""A champion of before is asked again only what it was never asked: by its checkpoint."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from atomvision_ml.evaluation import kept_answers
from atomvision_ml.evaluation.kept_answers import answers_of, keep_answers
from atomvision_ml.evaluation.metrics import metric_rows
from atomvision_ml.evaluation.tasks.lattice import answer_again, experimental_answers
from atomvision_ml.experiments.micrograph_store import write_micrograph
from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.models.checkpoint import classical_checkpoint
from atomvision_ml.models.lattice_finder import LatticeFinderParameters
from atomvision_ml.schemas.tables import table


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folder with the checkpoint of the lattice finder and a micrograph of a square crystal, by a scan that drifts."""
    place = tmp_path_factory.mktemp("blobs")
    classical_checkpoint("lattice_finder", LatticeFinderParameters(), place / "finder")
    cell = 3.2 * np.array([[1.01, 0.0], [0.015, 0.995]])
    clean = render_batch([Projection(np.zeros((1, 2)), np.array([300.0]), cell)], [View(0.15, 128, 20.0)])[0]
    pixels = np.random.default_rng(0).poisson(clean * 30).astype(np.uint16)
    write_micrograph(place / "m0", pixels, {"record_id": "r0", "pixel_size_y_nm": 0.015, "pixel_size_x_nm": 0.015})
    return place


def taken(*records):
    rows = [
        {
            "item_id": f"lattice:{record}", "task": "lattice", "image_id": record, "source": "experiments",
            "split_group": "sample:S", "blob": "m0", "index": 0, "pixel_size_angstrom": 0.15,
            "bravais_lattice": "square", "is_ambiguous": False, "original_filename": f"{record}.dm4",
        }
        for record in records
    ]  # fmt: skip
    return pl.DataFrame(pl.from_arrow(table("evaluation/experimental_holdout").from_rows(rows)))


def opener(small_set, place):
    return lambda blob: small_set.folder if blob == "small" else place / blob


def test_only_new_and_changed_items_are_asked(small_set, place, tmp_path, monkeypatch):
    items = small_set.holdout.filter(pl.col("task") == "lattice").head(3)
    open_blob = opener(small_set, place)
    answers = answer_again(items, open_blob, checkpoint=place / "finder", model_id="lattice_finder@a")
    keep_answers(tmp_path / "kept", "lattice", pl.DataFrame(answers), items)
    other_noise = pl.when(pl.col("item_id") == items["item_id"][0]).then(12345).otherwise(pl.col("noise_seed"))
    present = items.with_columns(noise_seed=other_noise).with_columns(mean_detected_e_per_a2=pl.lit(300.0))
    present = pl.concat([present, taken("r0")], how="diagonal_relaxed")
    seat = {"task": "lattice", "model_id": "lattice_finder@a", "answers_blob": "kept", "blob": "finder"}
    asked = []
    real = kept_answers.TASKS["lattice"].answer_again
    task = kept_answers.TASKS["lattice"]
    told = lambda rows, *rest, **more: (asked.extend(rows["item_id"]), real(rows, *rest, **more))[1]  # noqa: E731
    monkeypatch.setitem(kept_answers.TASKS, "lattice", type(task)(**{**vars(task), "answer_again": told}))
    find = {"kept": tmp_path / "kept", "finder": Path(place / "finder")}
    found = answers_of(seat, present, lambda blob: find.get(blob) or open_blob(blob))
    assert sorted(asked) == sorted([items["item_id"][0], "lattice:r0"])
    assert sorted(found["item_id"]) == sorted(present["item_id"])
    assert found.filter(pl.col("item_id") == "lattice:r0")["lattice"].to_list() == ["square"]


def test_experimental_items_have_a_slice_of_their_own(small_set, place):
    holdout = taken("r0", "r1")
    models = [{"model_id": "lattice_finder@a", "blob": "finder"}]
    manifest = small_set.training_set("lattice")
    first = experimental_answers(models, holdout.head(1), manifest, opener(small_set, place))
    assert dict(first.select("model_id", "is_correct").iter_rows())["lattice_finder@a"]
    relabelled = holdout.with_columns(bravais_lattice=pl.lit("rhombic"))
    again = experimental_answers(models, relabelled, manifest, opener(small_set, place), former=first)
    assert again.filter(pl.col("model_id") == "lattice_finder@a")["is_correct"].to_list() == [False, False]
    table("evaluation/experimental_answers").conform(again.to_arrow())
    every = pl.concat([small_set.holdout, relabelled], how="diagonal_relaxed")
    rows = metric_rows(again, every, size="demo")
    assert {row["slice"] for row in rows} == {"experiment|as_taken"}
    none = experimental_answers(models, holdout.clear(), manifest, opener(small_set, place), former=first)
    assert none.is_empty()
