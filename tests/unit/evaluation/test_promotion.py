import math

import polars as pl
import pytest

from atomvision_ml.evaluation.promotion import Standing, champion_row, decide
from atomvision_ml.evaluation.protocol import PromotionRule
from atomvision_ml.schemas.tables import table

RULE = PromotionRule(metric="iou", slice="all|1000", margin=0.05, tolerance=0.01)
BASELINES = {"otsu": 0.6, "laplacian_of_gaussian": 0.8}


def verdict(value, incumbent=None, baselines=BASELINES):
    return decide(Standing(model_id="new", value=value), baselines, incumbent, RULE)


def test_better_than_its_baselines_is_promoted():
    result = verdict(0.86)
    assert result.is_promoted
    assert result.champion_id == "new"
    assert "laplacian_of_gaussian 0.8000" in result.reason
    assert "0.8600" in result.reason


@pytest.mark.parametrize("value", [0.5, 0.8, 0.85])
def test_not_better_by_the_margin_is_refused(value):
    result = verdict(value)
    assert not result.is_promoted
    assert result.champion_id is None
    assert "0.05 above it is demanded" in result.reason


def test_worse_than_the_incumbent_is_refused_and_the_incumbent_stays():
    result = verdict(0.9, Standing(model_id="old", value=0.95))
    assert not result.is_promoted
    assert result.champion_id == "old"
    assert "old in office has 0.9500" in result.reason


@pytest.mark.parametrize("value", [0.945, 0.95, 0.99])
def test_equal_or_better_replaces_the_incumbent(value):
    result = verdict(value, Standing(model_id="old", value=0.95))
    assert result.is_promoted
    assert result.champion_id == "new"
    assert result.incumbent == 0.95


def test_an_incumbent_that_no_longer_passes_loses_office():
    result = verdict(0.7, Standing(model_id="new", value=0.7))
    assert result.champion_id is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_figures_must_be_finite(value):
    with pytest.raises(ValueError, match="finite"):
        verdict(value)


def test_baselines_are_demanded():
    with pytest.raises(ValueError, match="at least one baseline"):
        verdict(0.9, baselines={})


def metrics(**values):
    roles = {"otsu": "classical", "all_background": "trivial"}
    return pl.DataFrame(
        [
            {
                "task": "segmentation",
                "model_id": name,
                "role": roles.get(name, "model"),
                "slice": "all|1000",
                "metric": "iou",
                "value": value,
            }
            for name, value in values.items()
        ]
    )


def candidate(name):
    return {"model_id": name, "name": "segmenter", "blob": f"blob of {name}"}


def test_rows_of_champions_over_three_candidates():
    first = champion_row("segmentation", candidate("a"), metrics(a=0.9, otsu=0.6, all_background=0.0))
    assert (first["model_id"], first["blob"], first["is_promoted"]) == ("a", "blob of a", True)
    worse = champion_row("segmentation", candidate("b"), metrics(b=0.8, otsu=0.6), first)
    assert (worse["model_id"], worse["blob"], worse["candidate_id"]) == ("a", "blob of a", "b")
    assert not worse["is_promoted"]
    assert worse["incumbent"] == 0.9
    better = champion_row("segmentation", candidate("c"), metrics(c=0.91, otsu=0.6), worse)
    assert (better["model_id"], better["incumbent"]) == ("c", 0.9)
    table("models/champions").from_rows([better])


def test_nobody_yet():
    row = champion_row("segmentation", candidate("a"), metrics(a=0.5, otsu=0.6))
    assert row["model_id"] is None
    assert row["blob"] is None
    table("models/champions").from_rows([row])


def test_figures_are_demanded():
    with pytest.raises(ValueError, match="no iou on all"):
        champion_row("segmentation", candidate("a"), metrics(otsu=0.6))
