"""The literature's figures beside their baselines."""

import pytest

from atomvision_ml.catalog.warehouse import ask
from atomvision_ml.evaluation.caption_baselines import caption_baselines, key_words, most_frequent
from atomvision_ml.evaluation.literature import HEADLINES, caption_metric_rows
from atomvision_ml.literature.scoring import read_labelled
from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.keys import EVALUATION_METRICS
from atomvision_ml.storage.lake import Lake, Version


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(tmp_path_factory.mktemp("lake"))
    rows = table(EVALUATION_METRICS).from_rows([row for row in caption_metric_rows("demo") if row["value"] is not None])
    lake.publish(EVALUATION_METRICS, rows, version=Version(code_version="1"))
    return lake


def test_the_headline_stands_beside_a_baseline_that_it_beats(lake: Lake) -> None:
    with ask(lake, "FROM evaluation.leaderboard WHERE model = 'caption_rules'") as result:
        board = {(row["task"], row["metric"], row["slice"]): row for row in result.read_all().to_pylist()}
    assert all(row["baseline"] is not None for row in board.values())
    row = board["captions", *HEADLINES["captions"]]
    assert row["baseline"] < row["low"] < row["value"] <= row["high"]


def test_all_figures_of_the_whole_set_have_a_baseline(lake: Lake) -> None:
    query = """
        SELECT metric FROM evaluation.metrics WHERE role = 'model' AND slice = 'all'
        EXCEPT SELECT metric FROM evaluation.leaderboard WHERE model = 'caption_rules' AND slice = 'all'"""
    with ask(lake, query) as result:
        assert result.read_all().to_pylist() == []


def test_key_words_divide_and_name() -> None:
    found = key_words("On Cu(111). (a) STM image of MoS2. (b, c) SEM; (d-f) spectra. Scale bar: 5 nm.")
    assert [panel.label for panel in found.panels] == list("abcdef")
    assert [panel.modality for panel in found.panels] == ["STM", "SEM", "SEM", "plot", "plot", "plot"]
    assert [each.formula for each in found.panels[0].materials] == ["Cu", "MoS2"]
    assert found.panels[0].materials[0].facet == "111"
    assert found.panels[0].scale_bar is not None
    assert found.panels[5].scale_bar is None
    assert found.is_relevant


def test_the_most_frequent_answer_does_not_look_at_the_caption() -> None:
    reader = most_frequent(read_labelled())
    assert reader.read("anything") == reader.read("(a) STM image")
    assert {reader.role for reader in caption_baselines(read_labelled())} == {"classical", "trivial"}
