import numpy as np
import polars as pl
import pytest

from atomvision_ml.evaluation.gallery.entries import GalleryContext
from atomvision_ml.evaluation.holdout import ItemReader
from atomvision_ml.evaluation.metrics import metric_rows
from atomvision_ml.evaluation.tasks.atoms import draw, predict_atoms
from atomvision_ml.models.checkpoint import released_checkpoint
from atomvision_ml.schemas.tables import table


@pytest.fixture(scope="module")
def few(small_set):
    images = small_set.holdout["image_id"].unique().sort().head(2)
    items = small_set.holdout.filter(pl.col("task") == "atoms", pl.col("image_id").is_in(images.implode()))
    return items.filter(pl.col("mean_detected_e_per_a2").fill_null(1000) == 1000)


@pytest.fixture(scope="module")
def answers(small_set, few):
    found = predict_atoms(
        few,
        small_set.training_set("atoms"),
        small_set.open_blob,
        segmenter=released_checkpoint("segmenter"),
        model_id="atom_finder@1",
    )
    return pl.DataFrame(found)


def test_fit_beats_the_bound_of_single_columns_and_its_baselines(few, answers):
    assert answers.height == 4 * few.height
    rows = metric_rows(answers, few, size="demo")
    table("evaluation/metrics").from_rows(rows)
    value = {(row["model"], row["slice"], row["metric"]): row["value"] for row in rows}
    own = {key[1:]: figure for key, figure in value.items() if key[0] == "atom_finder"}
    for dose in ("clean", "1000"):
        assert own[f"all|{dose}", "detection_f1"] == 1
        assert value["no_atoms", f"all|{dose}", "detection_f1"] == 0
        for name in ("centres_of_mass", "laplacian_of_gaussian"):
            error = value[name, f"all|{dose}", "localisation_rmse_angstrom"]
            assert own[f"all|{dose}", "localisation_rmse_angstrom"] < error
    assert own["all|clean", "localisation_rmse_angstrom"] < 0.01
    assert own["all|1000", "rmse_over_bound"] < 0.7  # the bound takes each column on its own; these crystals repeat
    assert ("all|clean", "rmse_over_bound") not in own


def test_entry_shows_image_atoms_residual_and_curve(small_set, few, answers, tmp_path):
    (tmp_path / "pictures").mkdir()
    row = {**few.row(0, named=True), "is_worst": False}
    own = answers.filter(pl.col("item_id") == row["item_id"]).to_dicts()
    reader = ItemReader(small_set.open_blob)
    context = GalleryContext(folder=tmp_path, reader=reader, images={}, answers={row["item_id"]: own}, checkpoints={})
    entry = draw(row, context)
    assert len(entry["pictures"]) == 4
    for picture in entry["pictures"]:
        assert (tmp_path / picture["file"]).read_bytes().startswith(b"\x89PNG")


def test_squared_error_is_that_of_the_pairs(answers):
    own = answers.filter(pl.col("role") == "model")
    mean = np.hypot(own["error_x_angstrom"], own["error_y_angstrom"]) / own["n_matched"]
    assert (mean**2 <= own["squared_error_angstrom2"] / own["n_matched"] + 1e-12).all()
