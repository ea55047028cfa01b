import numpy as np
import polars as pl
import pytest

from atomvision_ml.evaluation.answers import by_task
from atomvision_ml.evaluation.comparisons import comparison_rows
from atomvision_ml.evaluation.metrics import MetricParameters, paired_difference
from atomvision_ml.schemas.tables import table
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES

CLASSES = np.array(BRAVAIS_LATTICES)
N = 150


@pytest.fixture(scope="module")
def holdout():
    random = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "item_id": [f"lattice:{i}@1000" for i in range(N)],
            "task": "lattice",
            "source": "prototypes",
            "split_group": [f"g{i // 3}" for i in range(N)],
            "mean_detected_e_per_a2": 1000.0,
            "bravais_lattice": CLASSES[random.integers(0, 5, N)],
            "is_ambiguous": False,
            "class_strain_percent": 0.0,
            "next_class_strain_percent": pl.Series([None] * N, dtype=pl.Float64),
            "superlattice_contrast": pl.Series([None] * N, dtype=pl.Float64),
            "field_angstrom": 25.6,
        }
    )


def answers(holdout, model_id, role, right):
    truth = holdout["bravais_lattice"].to_numpy()
    wrong = CLASSES[(np.searchsorted(np.sort(CLASSES), truth) + 1) % 5]
    other = np.where(wrong == truth, CLASSES[0], wrong)
    return pl.DataFrame(
        {
            "item_id": holdout["item_id"],
            "model_id": model_id,
            "role": role,
            "lattice": np.where(right, truth, other),
            "is_correct": right,
            "probabilities": pl.Series([None] * holdout.height, dtype=pl.List(pl.Float64)),
            "vector_error_angstrom": pl.Series([None] * holdout.height, dtype=pl.Float64),
        }
    )


@pytest.fixture(scope="module")
def table_of_all(holdout):
    random = np.random.default_rng(1)
    good, fair = random.random(N) < 0.9, random.random(N) < 0.6
    almost = fair.copy()
    almost[np.flatnonzero(~fair)[:2]] = True
    return pl.concat(
        [
            answers(holdout, "lattice_finder@1", "model", good),
            answers(holdout, "peaks", "classical", fair),
            answers(holdout, "nearly_peaks", "classical", almost),
            answers(holdout, "majority_class", "trivial", random.random(N) < 0.2),
        ]
    )


def rows_of(answered, holdout):
    rows = comparison_rows(answered, holdout, size="demo")
    return {(row["slice"], row["metric"], row["model"], row["rival"]): row for row in rows}, rows


def test_gains_equal_the_paired_difference_of_item_scores(table_of_all, holdout):
    found, rows = rows_of(table_of_all, holdout)
    table("evaluation/comparisons").from_rows(rows)
    row = found["all|1000", "accuracy", "lattice_finder", "peaks"]
    scores = {name: part["is_correct"].to_numpy() for (name,), part in table_of_all.group_by("model_id")}
    groups = holdout["split_group"].to_list()
    expected = paired_difference(scores["lattice_finder@1"], scores["peaks"], groups, MetricParameters())
    assert (row["gain"], row["low"], row["high"]) == pytest.approx(expected)
    assert row["verdict"] == "above"


def test_best_baseline_is_marked_once_and_baselines_are_no_models(table_of_all, holdout):
    _, rows = rows_of(table_of_all, holdout)
    assert {row["model"] for row in rows} == {"lattice_finder"}
    own = [row for row in rows if (row["slice"], row["metric"]) == ("all|1000", "macro_f1")]
    assert len(own) == 3
    assert [row["rival"] for row in own if row["is_best_baseline"]] == ["nearly_peaks"]


def test_lower_calibration_error_is_a_gain(holdout):
    right = np.arange(N) % 2 == 0
    sure = answers(holdout, "lattice_finder@1", "model", right).with_columns(
        probabilities=pl.Series([[0.5, 0.5, 0.0, 0.0, 0.0]] * N)
    )
    boastful = answers(holdout, "peaks", "classical", right).with_columns(
        probabilities=pl.Series([[1.0, 0.0, 0.0, 0.0, 0.0]] * N)
    )
    found, _ = rows_of(pl.concat([sure, boastful]), holdout)
    row = found["all|1000", "ece", "lattice_finder", "peaks"]
    assert row["gain"] == pytest.approx(row["rival_value"] - row["value"])
    assert row["verdict"] == "above"


def test_equal_methods_are_level_and_other_items_are_not_compared(holdout):
    right = np.arange(N) % 3 > 0
    own = answers(holdout, "lattice_finder@1", "model", right)
    same = answers(holdout, "peaks", "classical", right)
    fewer = answers(holdout.head(30), "majority_class", "trivial", right[:30])
    found, _ = rows_of(pl.concat([own, same, fewer]), holdout)
    assert {key[3] for key in found} == {"peaks"}
    assert {row["verdict"] for row in found.values()} == {"level"}


def test_further_seeds_can_be_left_out(table_of_all, holdout):
    repeat = table_of_all.filter(pl.col("model_id") == "lattice_finder@1").with_columns(
        model_id=pl.lit("lattice_finder@1.s1")
    )
    both = pl.concat([table_of_all, repeat])
    again = comparison_rows(both, holdout, size="demo", leave_out=["lattice_finder@1.s1"])
    assert again == comparison_rows(table_of_all, holdout, size="demo")


def test_tables_are_put_together_without_repeating_baselines(table_of_all):
    whole = by_task({"lattice_finder": table_of_all, "segmenter": table_of_all.head(0)})
    assert whole["lattice"].height == table_of_all.height
    assert whole["segmentation"].height == 0
