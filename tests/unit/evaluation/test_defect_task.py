"""The task ``defects``: its baselines, its matching, its figures."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from atomvision_ml.evaluation.defect_baselines import Evidence, plain_defects, tune_defects
from atomvision_ml.evaluation.defect_benchmark import RIVALS
from atomvision_ml.evaluation.gallery.entries import GalleryContext
from atomvision_ml.evaluation.holdout import ItemReader
from atomvision_ml.evaluation.metrics import metric_rows
from atomvision_ml.evaluation.tasks import TASKS
from atomvision_ml.evaluation.tasks.defects import _counts, predict_defects, sheet_of
from atomvision_ml.images.defects import Defect
from atomvision_ml.models.defect_finder import FoundDefect
from atomvision_ml.schemas.tables import table


@pytest.fixture(scope="module")
def few(small_set):
    own = small_set.holdout.filter(pl.col("task") == "defects")
    images = own["image_id"].unique().sort().head(2)
    return own.filter(pl.col("image_id").is_in(images.implode()))


@pytest.fixture(scope="module")
def answers(small_set, few):
    training_set = small_set.training_set("defects")
    train = training_set.filter(pl.col("split") == "train").head(2)
    return pl.DataFrame(predict_defects(few, train, small_set.open_blob, model_id="defect_finder@1", rivals=RIVALS))


def found(kind, x, y, change=0.0):
    return FoundDefect(kind, x, y, change, 0.0, 9.0)


def test_every_item_is_answered_by_finder_baselines_and_rivals(few, answers):
    assert answers.height == 4 * few.height
    assert set(answers["model_id"]) == {"defect_finder@1", "intensity_threshold", "graph_rules", "no_defects"}
    truths = answers.select("item_id", pl.sum_horizontal(pl.col("^n_true_.*$"))).unique()
    assert truths.height == few.height


def test_finder_beats_thresholds_and_nothing(few, answers):
    rows = metric_rows(answers, few, size="demo")
    table("evaluation/metrics").from_rows(rows)
    f1 = {(row["model"], row["slice"]): row["value"] for row in rows if row["metric"] == "f1"}
    for dose in ("clean", "1000", "300"):
        assert f1["defect_finder", f"all|{dose}"] > 0.5
        assert f1["defect_finder", f"all|{dose}"] > f1["intensity_threshold", f"all|{dose}"]
        assert f1["no_defects", f"all|{dose}"] == 0


def test_the_sheet_is_the_same_at_all_doses(small_set, few, answers):
    reader = ItemReader(small_set.open_blob)
    for _, rows in few.group_by("image_id"):
        sheets = [sheet_of(row, reader) for row in rows.to_dicts()]
        assert len({sheet.defects for sheet in sheets}) == 1
    joined = answers.join(few.select("item_id", "image_id"), on="item_id")
    assert joined.select("image_id", "n_true_vacancy", "n_true_strain").unique().height == 2


def test_an_entry_is_drawn(small_set, few, answers, tmp_path):
    (tmp_path / "pictures").mkdir()
    row = {**few.to_dicts()[0], "is_worst": False}
    of_item = answers.filter(pl.col("item_id") == row["item_id"]).to_dicts()
    context = GalleryContext(tmp_path, ItemReader(small_set.open_blob), {}, {row["item_id"]: of_item}, {})
    entry = TASKS["defects"].draw(row, context)
    for picture in entry["pictures"]:
        assert (tmp_path / picture["file"]).read_bytes().startswith(b"\x89PNG")
    assert [name for name, _ in entry["facts"][:3]] == ["vacancy", "substitution", "strain"]


def test_a_defect_is_paired_once_and_only_with_its_kind():
    truth = [Defect("vacancy", 5, 5, 1, -1.0), Defect("substitution", 9, 5, 1, 0.5)]
    truth += [Defect("strain", 15, 15, 9, strain=0.05, radius_angstrom=4.0)]
    said = [found("vacancy", 5.1, 5), found("vacancy", 4.9, 5), found("vacancy", 9, 5), found("strain", 18, 15)]
    counts = _counts(truth, [np.inf, 2.0, np.inf], said)
    assert (counts["n_true_vacancy"], counts["n_found_vacancy"], counts["n_matched_vacancy"]) == (1, 3, 1)
    assert (counts["n_visible_substitution"], counts["n_matched_substitution"]) == (0, 0)
    assert counts["n_matched_strain"] == 1
    assert counts["n_located"] == 2
    assert counts["f1"] == pytest.approx(2 * 2 / 7)
    assert _counts([], [], [])["f1"] == 1
    assert _counts(truth, np.full(3, np.inf), [])["f1"] == 0


def test_thresholds_find_a_dim_atom_and_a_gap():
    places = np.stack(np.meshgrid(np.arange(2, 30, 3.0), np.arange(2, 30, 3.0)), axis=-1).reshape(-1, 2)
    atoms = np.column_stack([places, np.ones(len(places))])
    atoms[12, 2] = 0.5
    atoms[40, 2] = 1.8
    gap = atoms[57, :2].copy()
    said = plain_defects(Evidence.of(np.delete(atoms, 57, axis=0)), 30.0, 0.3, 1.2)
    places_of = {
        kind: sorted((one.x_angstrom, one.y_angstrom) for one in said if one.kind == kind)
        for kind in ("vacancy", "substitution")
    }
    assert places_of["substitution"] == [tuple(atoms[40, :2])]
    assert len(places_of["vacancy"]) == 2
    for place in (tuple(atoms[12, :2]), tuple(gap)):
        assert min(np.hypot(x - place[0], y - place[1]) for x, y in places_of["vacancy"]) < 0.1
    assert plain_defects(Evidence.of(atoms[:3]), 30.0, 0.3, 1.2) == []


def test_tuning_uses_only_the_train_split(small_set):
    rows = small_set.training_set("defects").filter(pl.col("split") == "test")
    with pytest.raises(ValueError, match="train split is empty"):
        tune_defects(rows, lambda row, dose: (np.ones((8, 8)), 0.1), lambda row, said: 0.0, [None])
