import polars as pl
import pytest

from atomvision_ml.evaluation.results_page import results_page
from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.errors import NotPublishedError
from atomvision_ml.storage.lake import Lake, Version

FIRST = Version(code_version="1")


def figure(model, role, value, seed=0):
    return {
        "task": "segmentation", "model": model, "model_id": f"{model}@{seed}", "role": role, "size": "full",
        "seed": seed, "slice": "all|1000", "metric": "iou", "value": value, "low": value - 0.01,
        "high": value + 0.01, "n_items": 20,
    }  # fmt: skip


@pytest.fixture
def lake(tmp_path, small_set):
    lake = Lake(tmp_path / "root")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "any").write_text("content")
    items = small_set.holdout.with_columns(blob=pl.lit(lake.put_blob(folder)))
    lake.publish("evaluation/holdout", table("evaluation/holdout").conform(items.to_arrow()), version=FIRST)
    rows = [
        figure("segmenter", "model", 0.90),
        figure("segmenter", "model", 0.92, seed=1),
        figure("otsu", "classical", 0.5),
    ]
    lake.publish("evaluation/metrics", table("evaluation/metrics").from_rows(rows), version=FIRST)
    gain = {
        "task": "segmentation", "model": "segmenter", "rival": "otsu", "rival_role": "classical",
        "is_best_baseline": True, "size": "full", "slice": "all|1000", "metric": "iou", "value": 0.9,
        "rival_value": 0.5, "gain": 0.4, "low": 0.35, "high": 0.45, "verdict": "above", "n_items": 20,
    }  # fmt: skip
    lake.publish("evaluation/comparisons", table("evaluation/comparisons").from_rows([gain]), version=FIRST)
    return lake


def test_page_has_every_method_its_interval_and_the_command(lake):
    size, text = results_page(lake)
    assert size == "full"
    assert "| **segmenter** | 0.910 (0.890 to 0.930) |" in text, "the mean over two seeds and the hull of intervals"
    assert "| otsu (classical) | 0.500 (0.490 to 0.510) |" in text
    assert "| segmenter | otsu (best baseline) | +0.400 (+0.350 to +0.450) | above |" in text
    assert "make full" in text
    assert "2 training seed(s)" in text
    assert "\nmake full CONFIG=some.yaml\n" in results_page(lake, "make full CONFIG=some.yaml")[1]
    assert "Bravais lattice" not in text, "a task without figures is left out"


def test_page_has_the_confusion_matrices_of_the_lattice_models(lake):
    cells = {"recall_square": 0.8, "confusion_square_as_oblique": 0.2, "confusion_square_as_none": -0.01}
    rows = [figure("lattice_finder", "model", value) for value in cells.values()]
    rows = [row | {"task": "lattice", "metric": metric} for row, metric in zip(rows, cells, strict=True)]
    lake.publish("evaluation/metrics", table("evaluation/metrics").from_rows(rows), version=FIRST)
    _, text = results_page(lake)
    assert "| square | – | 0.800 (0.790 to 0.810) | – | – | 0.200 (0.190 to 0.210) | 0 |" in text


def test_every_table_is_well_formed(lake):
    _, text = results_page(lake)
    tables = [block.splitlines() for block in text.split("\n\n") if block.lstrip().startswith("|")]
    assert len(tables) == 2
    for lines in tables:
        assert len({line.count("|") for line in lines if line}) == 1


def test_a_lake_without_figures_is_an_error(tmp_path):
    with pytest.raises(NotPublishedError, match="evaluation/metrics"):
        results_page(Lake(tmp_path))
