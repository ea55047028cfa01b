import numpy as np
import polars as pl
import pytest
from sklearn import metrics as reference

from atomvision_ml.evaluation.metrics import MetricParameters, figures_of, metric_rows, over_seeds, paired_difference
from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.schemas.tables import table
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES

CLASSES = list(BRAVAIS_LATTICES)


def lattice_frames(n=120, accuracy=0.8, seed=0, classes=5):
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, n)
    answer = np.where(random.random(n) < accuracy, truth, random.integers(0, 5, n))
    scores = random.dirichlet(np.ones(5), n)
    holdout = pl.DataFrame(
        {
            "item_id": [f"lattice:{i}@clean" for i in range(n)],
            "task": "lattice",
            "source": "prototypes",
            "split_group": [f"g{i // 3}" for i in range(n)],
            "mean_detected_e_per_a2": pl.Series([None] * n, dtype=pl.Float64),
            "bravais_lattice": [CLASSES[i] for i in truth],
            "is_ambiguous": [i % 10 == 0 for i in range(n)],
            "class_strain_percent": 0.1,
            "next_class_strain_percent": [None if i % 2 else 2.0 for i in range(n)],
            "superlattice_contrast": pl.Series([None] * n, dtype=pl.Float64),
            "field_angstrom": 25.6,
        }
    )
    predictions = pl.DataFrame(
        {
            "item_id": holdout["item_id"],
            "model_id": "lattice_finder@1",
            "role": "model",
            "lattice": [None if i % 17 == 0 else CLASSES[k] for i, k in enumerate(answer)],
            "probabilities": scores.tolist(),
            "vector_error_angstrom": random.random(n),
        }
    )
    return predictions, holdout


def test_figures_equal_those_of_scikit_learn():
    predictions, holdout = lattice_frames()
    rows = metric_rows(predictions, holdout, size="demo", parameters=MetricParameters(resamples=0))
    value = {row["metric"]: row["value"] for row in rows if row["slice"] == "all|clean"}
    truth, answer = holdout["bravais_lattice"].to_list(), [name or "none" for name in predictions["lattice"]]
    assert value["accuracy"] == pytest.approx(reference.accuracy_score(truth, answer))
    expected = reference.f1_score(truth, answer, labels=CLASSES, average="macro", zero_division=0)
    assert value["macro_f1"] == pytest.approx(expected)
    recalls = reference.recall_score(truth, answer, labels=CLASSES, average=None, zero_division=0)
    assert value["balanced_accuracy"] == pytest.approx(recalls.mean())
    assert [value[f"recall_{name}"] for name in CLASSES] == pytest.approx(list(recalls))
    shares = reference.confusion_matrix(truth, answer, labels=[*CLASSES, "none"], normalize="true")
    for row, true in enumerate(CLASSES):
        others = [value[f"confusion_{true}_as_{found}"] for found in (*CLASSES, "none") if found != true]
        assert others == pytest.approx(list(np.delete(shares[row], row)))
    table("evaluation/metrics").from_rows(rows)


@pytest.fixture(scope="module")
def torchmetrics():
    from atomvision_ml.models._torchvision import ensure_torchvision

    ensure_torchvision()
    from torchmetrics.functional import classification

    return classification


@pytest.mark.parametrize("seed", [0, 1])
def test_figures_equal_those_of_torchmetrics(torchmetrics, seed):
    import torch

    predictions, holdout = lattice_frames(n=400, seed=seed)
    scores = np.array(predictions["probabilities"].to_list())
    predictions = predictions.with_columns(lattice=pl.Series([CLASSES[i] for i in scores.argmax(axis=1)]))
    figures = figures_of(predictions.join(holdout, on="item_id"), MetricParameters(resamples=0))
    given = torch.tensor(scores), torch.tensor([CLASSES.index(name) for name in holdout["bravais_lattice"]])
    expected = {
        "accuracy": torchmetrics.multiclass_accuracy(*given, num_classes=5, average="micro"),
        "balanced_accuracy": torchmetrics.multiclass_accuracy(*given, num_classes=5, average="macro"),
        "macro_f1": torchmetrics.multiclass_f1_score(*given, num_classes=5, average="macro"),
        "ece": torchmetrics.multiclass_calibration_error(*given, num_classes=5, n_bins=10, norm="l1"),
    }
    for name, value in expected.items():
        assert figures[name]["value"] == pytest.approx(float(value), abs=1e-6), name
    truth, answer = holdout["bravais_lattice"].to_list(), predictions["lattice"].to_list()
    assert figures["balanced_accuracy"]["value"] == pytest.approx(reference.balanced_accuracy_score(truth, answer))


def test_areas_equal_those_of_torchmetrics(torchmetrics):
    import torch

    random = np.random.default_rng(0)
    truth, found = random.random((6, 20, 20)) < 0.3, random.random((6, 20, 20)) < 0.4
    n_pixels = {
        "n_true_positive": truth & found,
        "n_false_positive": ~truth & found,
        "n_false_negative": truth & ~found,
        "n_true_negative": ~truth & ~found,
    }
    predictions = pl.DataFrame({name: mask.sum(axis=(1, 2)) for name, mask in n_pixels.items()}).with_columns(
        iou=(truth & found).sum(axis=(1, 2)) / (truth | found).sum(axis=(1, 2)),
        **dict.fromkeys(("n_columns", "n_found", "n_matched", "n_published_right"), pl.lit(1)),
        squared_error_angstrom2=pl.lit(0.0),
        split_group=pl.int_range(pl.len()).cast(pl.String),
        task=pl.lit("segmentation"),
    )
    figures = figures_of(predictions, MetricParameters(resamples=0))
    given = torch.tensor(found), torch.tensor(truth)
    assert figures["dice"]["value"] == pytest.approx(float(torchmetrics.binary_f1_score(*given)))
    assert figures["precision"]["value"] == pytest.approx(float(torchmetrics.binary_precision(*given)))
    assert figures["recall"]["value"] == pytest.approx(float(torchmetrics.binary_recall(*given)))
    assert figures["pixel_accuracy"]["value"] == pytest.approx(float(torchmetrics.binary_accuracy(*given)))
    each = [float(torchmetrics.binary_jaccard_index(a, b)) for a, b in zip(*given, strict=True)]
    assert figures["iou"]["value"] == pytest.approx(np.mean(each))


def test_absent_classes_do_not_count():
    predictions, holdout = lattice_frames(accuracy=1.0, classes=3)
    figures = figures_of(predictions.with_columns(lattice=holdout["bravais_lattice"]).join(holdout, on="item_id"))
    assert figures["macro_f1"]["value"] == 1
    assert "recall_oblique" not in figures


def test_calibration_error_by_hand():
    predictions, holdout = lattice_frames(n=4)
    predictions = predictions.with_columns(
        probabilities=pl.Series([[0.9, 0.1, 0, 0, 0]] * 2 + [[0.62, 0.38, 0, 0, 0]] * 2),
        lattice=pl.Series(["hexagonal"] * 4),
    )
    holdout = holdout.with_columns(bravais_lattice=pl.Series(["hexagonal", "square", "hexagonal", "hexagonal"]))
    figures = figures_of(predictions.join(holdout, on="item_id"))
    assert figures["ece"]["value"] == pytest.approx((2 * 0.4 + 2 * 0.38) / 4)


def test_slices():
    predictions, holdout = lattice_frames()
    rows = metric_rows(predictions, holdout, size="demo", parameters=MetricParameters(resamples=0))
    n = {row["slice"]: row["n_items"] for row in rows}
    assert n == {
        "all|clean": 120,
        "unambiguous|clean": 108,
        "clear|clean": 60,
        "prototypes|clean": 120,
        "strain_1_to_3|clean": 60,
    }


def test_bins_are_fixed_and_hold_shown_figures_only():
    predictions, holdout = lattice_frames(n=8)
    holdout = holdout.with_columns(
        next_class_strain_percent=pl.Series([0.5, 1.0, 2.9, 3.0, 10.0, 99.0, None, None]),
        periods_in_view=pl.Series([5.9, 6.0, 6.5, 7.0, 8.9, 9.0, 20.0, 1.0]),
        pixel_size_angstrom=pl.Series([0.1] * 4 + [0.125] * 3 + [0.25]),
        superlattice_contrast=pl.Series([0.01, 0.05, 0.19, 0.2, 0.9, None, None, None]),
        nearest_columns_angstrom=pl.Series([0.99, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
    )
    rows = metric_rows(predictions, holdout, size="demo", parameters=MetricParameters(resamples=0))
    n = {row["slice"].removesuffix("|clean"): row["n_items"] for row in rows}
    assert {name: count for name, count in n.items() if "_" in name} == {
        "strain_0_to_1": 1, "strain_1_to_3": 2, "strain_3_to_10": 1, "strain_from_10": 2,
        "contrast_0_to_0.05": 1, "contrast_0.05_to_0.2": 2, "contrast_from_0.2": 2,
        "periods_0_to_6": 2, "periods_6_to_7": 2, "periods_7_to_9": 2, "periods_from_9": 2,
        "pixel_0_to_0.11": 4, "pixel_0.11_to_0.16": 3, "pixel_from_0.16": 1,
    }  # fmt: skip
    assert n["resolvable"] == 7  # the first is ambiguous and has columns 0.99 Å apart
    shown = {row["metric"] for row in rows if "_" in row["slice"]}
    assert shown <= set(PROTOCOLS["lattice"].shown_metrics)
    assert "accuracy" in shown


def test_visible_contrast_depends_on_the_dose():
    predictions, holdout = lattice_frames(n=6)
    holdout = holdout.with_columns(
        superlattice_contrast=pl.lit(0.01),
        next_class_strain_percent=pl.lit(5.0),
        mean_detected_e_per_a2=pl.Series([100.0, 100.0, 1000.0, 1000.0, None, None]),
    )
    rows = metric_rows(predictions, holdout, size="demo", parameters=MetricParameters(resamples=0))
    # 0.01 · √(100 · 25.6²) = 2.6 is hidden, 0.01 · √(1000 · 25.6²) = 8.1 is visible
    assert {row["slice"] for row in rows if row["slice"].startswith("clear")} == {"clear|1000", "clear|clean"}


def test_interval_holds_the_value_and_is_as_wide_as_theory_says():
    predictions, holdout = lattice_frames(n=600, seed=3)
    holdout = holdout.with_columns(split_group=pl.col("item_id"))
    figures = figures_of(predictions.join(holdout, on="item_id"), MetricParameters(resamples=4000))["accuracy"]
    assert figures["low"] < figures["value"] < figures["high"]
    expected = 2 * 1.96 * np.sqrt(figures["value"] * (1 - figures["value"]) / 600)
    assert figures["high"] - figures["low"] == pytest.approx(expected, rel=0.1)


def test_whole_groups_are_resampled():
    """Items that repeat each other are no more evidence than one of them."""
    predictions, holdout = lattice_frames(n=60, seed=1)
    one = predictions.join(holdout.with_columns(split_group=pl.col("item_id")), on="item_id")
    tenfold = pl.concat([one] * 10)
    narrow, wide = (figures_of(frame)["accuracy"] for frame in (one, tenfold))
    assert wide["high"] - wide["low"] == pytest.approx(narrow["high"] - narrow["low"], rel=0.05)


def test_equal_seeds_give_equal_intervals():
    predictions, holdout = lattice_frames()
    assert metric_rows(predictions, holdout, size="demo") == metric_rows(predictions, holdout, size="demo")


def test_segmentation_by_hand():
    holdout = lattice_frames(n=2)[1].with_columns(task=pl.lit("segmentation"))
    predictions = pl.DataFrame(
        {
            "item_id": holdout["item_id"],
            "model_id": "otsu",
            "role": "classical",
            "n_true_positive": [6, 2],
            "n_false_positive": [2, 0],
            "n_false_negative": [0, 2],
            "n_true_negative": [92, 96],
            "n_published_right": [90, 80],
            "iou": [0.75, 0.5],
            "n_columns": [10, 10],
            "n_found": [8, 10],
            "n_matched": [8, 8],
            "squared_error_angstrom2": [0.16, 0.16],
        }
    )
    rows = metric_rows(predictions, holdout, size="demo", seeds={"segmenter@1": 7})
    value = {row["metric"]: row["value"] for row in rows if row["slice"] == "all|clean"}
    assert value["iou"] == pytest.approx(0.625)
    assert value["dice"] == pytest.approx(16 / 20)
    assert value["precision"] == value["recall"] == pytest.approx(0.8)
    assert value["pixel_accuracy"] == pytest.approx(0.98)
    assert value["detection_f1"] == pytest.approx(2 * 16 / 38)
    assert value["localisation_rmse_angstrom"] == pytest.approx(0.1)
    assert {row["seed"] for row in rows} == {0}


def test_unknown_items_are_named():
    predictions, holdout = lattice_frames(n=5)
    with pytest.raises(ValueError, match="lattice:4@clean"):
        metric_rows(predictions, holdout.head(4), size="demo")


def test_paired_difference_sees_what_single_intervals_do_not():
    random = np.random.default_rng(0)
    hard = random.random(200)
    value, low, high = paired_difference(hard + 0.02, hard, [f"g{i}" for i in range(200)])
    assert (value, low, high) == pytest.approx((0.02, 0.02, 0.02))


def test_seeds_are_put_together_as_the_leaderboard_does():
    predictions, holdout = lattice_frames()
    other, _ = lattice_frames(seed=5)
    both = pl.concat([predictions, other.with_columns(model_id=pl.lit("lattice_finder@1.s1"))])
    rows = metric_rows(both, holdout, size="full", seeds={"lattice_finder@1.s1": 1})
    assert {(row["model_id"], row["seed"]) for row in rows} == {("lattice_finder@1", 0), ("lattice_finder@1.s1", 1)}
    own = [row for row in rows if (row["slice"], row["metric"]) == ("all|clean", "accuracy")]
    whole = over_seeds(pl.DataFrame(rows, infer_schema_length=None))
    (row,) = whole.filter((pl.col("slice") == "all|clean") & (pl.col("metric") == "accuracy")).to_dicts()
    assert row["value"] == pytest.approx(np.mean([row["value"] for row in own]))
    assert (row["low"], row["high"]) == (min(row["low"] for row in own), max(row["high"] for row in own))
    assert row["n_seeds"] == 2
