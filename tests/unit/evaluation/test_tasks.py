import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.evaluation.atom_matching import columns_that_count, match_atoms
from atomvision_ml.evaluation.baselines import (
    autocorrelation_peaks,
    disks,
    log_atoms,
    mask_iou,
    otsu_mask,
    read_lattice,
    tune_segmentation,
)
from atomvision_ml.evaluation.holdout import ItemReader
from atomvision_ml.evaluation.metrics import metric_rows
from atomvision_ml.evaluation.tasks.lattice import predict_lattice, vector_error
from atomvision_ml.evaluation.tasks.segmentation import predict_segmentation
from atomvision_ml.models.checkpoint import released_checkpoint
from atomvision_ml.schemas.tables import table


@pytest.fixture(scope="module")
def few(small_set):
    """Two images of each task."""
    images = small_set.holdout["image_id"].unique().sort().head(2)
    return small_set.holdout.filter(pl.col("image_id").is_in(images.implode()))


@pytest.fixture(scope="module")
def segmented(small_set, few):
    calls = []
    answers = predict_segmentation(
        few,
        small_set.training_set("segmentation"),
        small_set.open_blob,
        checkpoint=released_checkpoint("segmenter"),
        model_id="segmenter@abc",
        progress=lambda *args: calls.append(args),
    )
    assert calls[-1] == (6, 6)
    return pl.DataFrame(answers)


def test_every_item_is_answered_by_model_and_baselines(few, segmented):
    assert segmented.height == 4 * 6
    assert set(segmented["model_id"]) == {"segmenter@abc", "otsu", "laplacian_of_gaussian", "all_background"}
    pixels = segmented.select(pl.sum_horizontal(pl.col("^n_(true|false).*$")))
    assert pixels.to_series().n_unique() == 1


def test_released_model_beats_the_baselines(few, segmented):
    rows = metric_rows(segmented, few, size="demo")
    table("evaluation/metrics").from_rows(rows)
    iou = {(row["model"], row["slice"]): row["value"] for row in rows if row["metric"] == "iou"}
    for dose in ("clean", "1000", "100"):
        assert iou["segmenter", f"all|{dose}"] > iou["otsu", f"all|{dose}"]
        assert iou["all_background", f"all|{dose}"] == 0


def test_lattice_predictions_fulfil_the_contract(small_set, few):
    answers = predict_lattice(few, small_set.training_set("lattice"), small_set.open_blob, model_id="lattice_finder@1")
    frame = pl.DataFrame(answers)
    assert frame.height == 3 * 8
    own = frame.filter(pl.col("role") == "model")
    assert own["is_correct"].mean() > 0.7
    assert frame.filter(pl.col("role") == "trivial")["lattice"].n_unique() == 1
    rows = metric_rows(frame, few, size="demo")
    assert {row["slice"] for row in rows} >= {"all|clean", "all|100", "unambiguous|1000", "prototypes|300"}


@pytest.mark.slow
def test_two_processes_give_the_same(small_set):
    training_set = small_set.training_set("lattice")
    few = small_set.holdout.filter(pl.col("task") == "lattice").head(17)
    one, two = (predict_lattice(few, training_set, small_set.open_blob, processes=processes) for processes in (1, 2))
    assert one.equals(two)


def test_image_without_lattice_counts_as_wrong(small_set, few, monkeypatch):
    from atomvision_ml.models import lattice_finder

    def refuse(*args):
        raise lattice_finder.NoLatticeError("nothing periodic")

    monkeypatch.setattr(lattice_finder, "find_lattice", refuse)
    answers = pl.DataFrame(predict_lattice(few, small_set.training_set("lattice"), small_set.open_blob))
    own = answers.filter(pl.col("role") == "model")
    assert own["lattice"].is_null().all()
    assert not own["is_correct"].any()
    rows = metric_rows(answers, few, size="demo")
    assert {row["value"] for row in rows if row["model"] == "lattice_finder" and row["metric"] == "accuracy"} == {0.0}


def test_no_items_is_an_error(small_set, few):
    with pytest.raises(ValueError, match="no items of the task 'lattice'"):
        predict_lattice(few.head(0), small_set.training_set("lattice"), small_set.open_blob)


@given(seed=st.integers(0, 1000), turns=st.integers(-2, 2))
@settings(max_examples=50, deadline=None)
def test_vector_error_does_not_know_the_basis(seed, turns):
    random = np.random.default_rng(seed)
    true = np.array([[3.0, 0.2], [0.5, 4.0]]) + random.normal(0, 0.1, (2, 2))
    other = np.array([[1, turns], [0, 1]]) @ true
    assert vector_error(other, true) < 1e-9
    step = np.array([[0.03, 0.04], [0.0, 0.01]])
    assert vector_error(other + step, true) == pytest.approx(0.05)


def test_matching_counts_what_it_should():
    columns = np.array([[5, 5], [7, 5], [9, 5], [0.3, 5]])
    counts = [True, True, False, False]
    found = [[5.1, 5], [7, 5.9], [9.0, 5.2], [0.2, 5.1], [12, 12], [19.6, 3]]
    match = match_atoms(found, columns, counts, (20, 20))
    assert (match.n_columns, match.n_matched) == (2, 1)
    assert match.n_found == 3  # the match, the one too far off, the invented one
    assert match.squared_error_angstrom2 == pytest.approx(0.01)
    nothing = match_atoms([], columns, counts, (20, 20))
    assert (nothing.n_columns, nothing.n_found, nothing.n_matched) == (2, 0, 0)
    assert match_atoms([[5, 5]], np.zeros((0, 2)), [], (20, 20)).n_found == 1


def test_one_column_is_matched_once():
    match = match_atoms([[5.1, 5], [4.95, 5]], [[5, 5]], [True], (20, 20))
    assert (match.n_matched, match.n_found) == (1, 2)
    assert match.squared_error_angstrom2 == pytest.approx(0.0025)


def test_true_columns_agree_with_the_table(small_set):
    reader = ItemReader(small_set.open_blob)
    for row in small_set.holdout.unique("image_id", maintain_order=True).iter_rows(named=True):
        columns = reader.columns(row)
        stored = small_set.images.filter(pl.col("image_id") == row["image_id"])["columns"].to_list()[0]
        truth = np.array([(column["x_angstrom"], column["y_angstrom"]) for column in stored])
        assert np.abs(columns.positions_angstrom - truth).max() < 1e-9
        counts = columns_that_count(columns, (row["field_angstrom"],) * 2)
        assert 0 < counts.sum() < len(truth)


def test_reader_reads_a_plain_lattice():
    y, x = np.indices((200, 200)) * 0.1
    image = np.cos(2 * np.pi * x / 4) + np.cos(2 * np.pi * y / 4)
    name, vectors = read_lattice(image, 0.1)
    assert name == "square"
    assert np.allclose(np.linalg.norm(vectors, axis=1), 4, atol=0.1)
    assert read_lattice(np.ones((50, 50)), 0.1) is None
    assert autocorrelation_peaks(np.ones((50, 50)), 0.1).shape == (0, 3)


def test_simple_segmentations_of_nothing():
    assert not otsu_mask(np.ones((30, 30)), 0.1).any()
    assert log_atoms(np.ones((30, 30)), 0.1, 0.5, 0.1).shape == (0, 3)
    assert not disks(np.zeros((0, 2)), (30, 40), 0.1).any()
    assert mask_iou(np.zeros(3, bool), np.zeros(3, bool)) == 1


def test_tuning_uses_only_the_train_split(small_set):
    items = small_set.training_set("segmentation")
    without = items.filter(pl.col("split") == "train")
    full, part = (
        tune_segmentation(rows, small_set.open_blob, maximum_images=2, doses=[None]) for rows in (items, without)
    )
    assert full == part
    with pytest.raises(ValueError, match="train split is empty"):
        tune_segmentation(items.filter(pl.col("split") == "test"), small_set.open_blob)
