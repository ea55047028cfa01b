"""The measurement of the lattice finder on structures."""

from __future__ import annotations

import polars as pl
import pytest

from atomvision_ml.evaluation.lattice_benchmark import (
    Answer,
    LatticeBenchmarkParameters,
    choose,
    figures,
    half_of,
    measure,
    new_prototypes,
)
from atomvision_ml.schemas.tables import table
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES
from atomvision_ml.structures.prototypes import prototype_rows
from atomvision_ml.structures.slabs import slab_rows

PARAMETERS = LatticeBenchmarkParameters(half=None, most_per_class=2, size_px=128, n_bootstrap=50)


@pytest.fixture(scope="module")
def slabs() -> pl.DataFrame:
    records = pl.DataFrame(pl.from_arrow(table("structures/records").from_rows(prototype_rows()[::4])))
    return pl.DataFrame(pl.from_arrow(table("structures/slabs").from_rows(slab_rows(records))))


def test_prototypes_are_read_right(slabs: pl.DataFrame) -> None:
    answers = measure(slabs, PARAMETERS)
    row = figures(answers, PARAMETERS)
    assert row["n"] == len(answers) >= 8
    assert row["accuracy"] >= 0.9
    assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
    assert [answer.found for answer in measure(slabs, PARAMETERS)] == [answer.found for answer in answers]


def test_selection_and_halves(slabs: pl.DataFrame) -> None:
    every = LatticeBenchmarkParameters(half=None, is_selected=False, most_per_class=999)
    ids = {half: {row["slab_id"] for row in choose(slabs, every.model_copy(update={"half": half}))} for half in (0, 1)}
    all_ids = {row["slab_id"] for row in choose(slabs, every)}
    assert ids[0] | ids[1] == all_ids
    assert not ids[0] & ids[1]
    clear = {
        row["slab_id"]
        for row in choose(slabs, every.model_copy(update={"is_selected": True, "mean_detected_e_per_a2": 1.0}))
    }
    assert clear < all_ids


def test_halves_follow_the_reduced_composition() -> None:
    assert half_of([42, 16, 16]) == half_of([16, 42, 16, 16, 42, 16])
    assert {half_of([z]) for z in range(1, 20)} == {0, 1}


def test_an_image_without_a_lattice_counts_as_wrong() -> None:
    answers = [Answer(str(i), name, name if i else "none", 0.9, 1.0) for i, name in enumerate(BRAVAIS_LATTICES)]
    row = figures(answers, PARAMETERS)
    assert row["accuracy"] == pytest.approx(0.8)
    assert row["macro_f1"] == pytest.approx(0.8)
    assert row["recall_hexagonal"] == 0.0
    with pytest.raises(ValueError, match="no answers"):
        figures([], PARAMETERS)


def test_new_prototypes_are_arrangements_that_the_known_source_does_not_have() -> None:
    slabs = pl.DataFrame(
        {"slab_id": ["p:1", "j:1", "j:2", "c:1"], "source": ["prototypes", "jarvis", "jarvis", "c2db"]}
    )
    materials = pl.DataFrame(
        {
            "reduced_formula": ["MoS2", "WSe2", "WSe2"],
            "space_group_number": [187, 187, 12],
            "slab_ids": [["p:1"], ["j:1"], ["j:2", "c:1"]],
        }
    )
    assert new_prototypes(slabs, materials)["slab_id"].to_list() == ["j:2", "c:1"]


def test_a_network_is_asked_like_the_finder(slabs: pl.DataFrame) -> None:
    few = PARAMETERS.model_copy(update={"most_per_class": 1})
    answers = measure(slabs, few, "lattice_cnn")
    assert [answer.slab_id for answer in answers] == [answer.slab_id for answer in measure(slabs, few)]
    assert {answer.found for answer in answers} <= set(BRAVAIS_LATTICES)
