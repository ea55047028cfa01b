import numpy as np
import polars as pl
import pytest

from atomvision_ml.evaluation.holdout import (
    HoldoutParameters,
    ItemReader,
    holdout_rows,
    load_item,
    noise_seed,
)
from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.images.stem import render_batch
from atomvision_ml.schemas.vocabulary import TASKS


def test_test_split_only_at_every_dose(small_set):
    splits = dict(small_set.training_sets.select("image_id", "split").iter_rows())
    assert {splits[image] for image in small_set.holdout["image_id"]} == {"test"}
    for task, protocol in PROTOCOLS.items():
        own = small_set.holdout.filter(pl.col("task") == task)
        n_test = small_set.training_set(task).filter(pl.col("split") == "test").height
        assert own.height == n_test * len(protocol.doses_e_per_a2)


def test_rows_do_not_depend_on_order(small_set):
    again = holdout_rows(small_set.training_sets.reverse(), small_set.images.reverse(), small_set.open_blob)
    assert again == small_set.holdout.to_dicts()


def test_noise_is_the_same_for_every_task_and_every_reading(small_set):
    rows = small_set.holdout.filter(pl.col("mean_detected_e_per_a2") == 1000).sort("image_id", "task").to_dicts()
    one, other = rows[:2]
    assert one["image_id"] == other["image_id"]
    assert one["task"] != other["task"]
    first, second = load_item(one, small_set.open_blob), load_item(other, small_set.open_blob)
    assert np.array_equal(first, second)
    assert first.mean() / one["pixel_size_angstrom"] ** 2 == pytest.approx(1000, rel=0.02)
    assert noise_seed("a", 100.0) != noise_seed("a", 1000.0) != noise_seed("b", 1000.0)
    assert noise_seed("a", None) is None


def test_clean_item_is_the_stored_image(small_set):
    row = small_set.holdout.filter(pl.col("mean_detected_e_per_a2").is_null()).row(0, named=True)
    reader = ItemReader(small_set.open_blob)
    assert np.array_equal(reader.image(row), reader.clean(row))
    assert reader.mask(row).dtype == bool


def test_projection_and_view_are_those_of_the_image(small_set):
    row = small_set.holdout.row(0, named=True)
    reader = ItemReader(small_set.open_blob)
    projection, view = reader.projection(row), reader.view(row)
    (again,) = render_batch([projection], [view])
    assert np.allclose(again, reader.clean(row), rtol=1e-4, atol=1e-4 * again.max())
    assert view.pixel_size_angstrom == row["pixel_size_angstrom"]
    assert len(reader.numbers(row)) == len(projection.weights)


def test_nearest_columns_are_those_of_the_crystal(small_set):
    """The stored columns are merged within 1 Å; atoms that lie closer are told by the hold-out."""
    rows = small_set.holdout.unique("image_id").to_dicts()
    assert len({row["nearest_columns_angstrom"] for row in rows}) > 1
    reader = ItemReader(small_set.open_blob)
    for row in rows:
        xy = reader.columns(row).positions_angstrom
        distances = np.linalg.norm(xy[:, None] - xy, axis=2) + 99 * np.eye(len(xy))
        if row["nearest_columns_angstrom"] >= 1:
            assert distances.min() == pytest.approx(row["nearest_columns_angstrom"], abs=1e-6)
        else:
            assert distances.min() > row["nearest_columns_angstrom"]


def test_capped_size_keeps_the_classes(small_set):
    rows = holdout_rows(
        small_set.training_sets, small_set.images, small_set.open_blob, HoldoutParameters(maximum_images=3)
    )
    images = {(row["task"], row["image_id"]) for row in rows}
    assert len(images) == 3 * len(TASKS)
    assert len({row["bravais_lattice"] for row in rows}) == 3


def test_missing_image_and_empty_split_are_named(small_set):
    with pytest.raises(ValueError, match="are not in images/stem"):
        holdout_rows(small_set.training_sets, small_set.images.head(0), small_set.open_blob)
    training = small_set.training_sets.filter(pl.col("split") == "train")
    with pytest.raises(ValueError, match="no task has items"):
        holdout_rows(training, small_set.images, small_set.open_blob)
