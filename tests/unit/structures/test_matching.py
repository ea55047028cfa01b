"""Which slabs are one crystal, and which materials share a split group."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.schemas.tables.structures import MATERIALS, SLABS
from atomvision_ml.structures.matching import MatchParameters, is_same_crystal, material_rows
from atomvision_ml.structures.slabs import normalise_slab, slab_row

HEXAGONAL = np.array([[3.2, 0, 0], [-1.6, 1.6 * math.sqrt(3), 0], [0, 0, 24.0]])
HOLLOWS = np.array([[0.0, 0.0], [1 / 3, 2 / 3], [2 / 3, 1 / 3]])
OBLIQUE = np.array([[5.1, 0, 0], [1.1, 6.3, 0], [0, 0, 24.0]])
OBLIQUE_SITES = np.array(
    [[0.05, 0.1, 0.45], [0.4, 0.62, 0.5], [0.81, 0.33, 0.54], [0.55, 0.9, 0.47], [0.2, 0.4, 0.53], [0.7, 0.66, 0.44]]
)
OBLIQUE_NUMBERS = [75, 75, 16, 16, 16, 16]


def record(record_id: str, numbers: list[int], fractional: np.ndarray, cell: np.ndarray, **more: Any) -> dict[str, Any]:
    return {
        "record_id": record_id,
        "source": record_id.split(":")[0],
        "status": "accepted",
        "reason": None,
        "numbers": numbers,
        "positions_angstrom": (np.array(fractional) @ cell).ravel().tolist(),
        "cell_angstrom": np.ravel(cell).tolist(),
        "is_hypothetical": False,
        "parent_id": None,
    } | more


def stack(numbers: list[int], sites: list[int], heights: list[float], name: str, **more: Any) -> dict[str, Any]:
    """A hexagonal stack of single layers of atoms over the three hollow sites; heights in Å."""
    fractional = [[*HOLLOWS[site], 0.4 + height / 24.0] for site, height in zip(sites, heights, strict=True)]
    return record(name, numbers, np.array(fractional), HEXAGONAL, **more)


def materials(*records: dict[str, Any]) -> list[dict[str, Any]]:
    frame = pl.DataFrame(SLABS.from_rows([slab_row(each) for each in records]))
    links = pl.DataFrame(
        [{key: each[key] for key in ("record_id", "is_hypothetical", "parent_id")} for each in records],
        schema={"record_id": pl.String, "is_hypothetical": pl.Boolean, "parent_id": pl.String},
    )
    rows = material_rows(frame, links)
    assert MATERIALS.from_rows(rows).num_rows == len(rows)
    return rows


def oblique_row(fractional: np.ndarray = OBLIQUE_SITES, cell: np.ndarray = OBLIQUE) -> dict[str, Any]:
    return slab_row(record("c2db:reference", OBLIQUE_NUMBERS, fractional, cell))


@given(
    st.integers(0, 10**6),
    st.booleans(),
    st.booleans(),
    st.sampled_from([((1, 0), (0, 1)), ((2, 0), (0, 1)), ((1, 1), (-1, 2)), ((1, 3), (0, 1)), ((2, 1), (0, 2))]),
)
@settings(max_examples=40, deadline=None)
def test_same_crystal_strained_turned_shifted_mirrored_in_another_cell(seed, is_mirrored, is_flipped, shape):
    rng = np.random.default_rng(seed)
    basis = np.eye(3)
    basis[:2, :2] = shape
    count = round(abs(np.linalg.det(basis)))
    points = np.array([[i, j, 0] for i in range(-9, 10) for j in range(-9, 10)])
    inside = points @ np.linalg.inv(basis)
    points = points[((inside > -1e-9) & (inside < 1 - 1e-9)).all(axis=1)]
    assert len(points) == count
    strain = np.eye(3)
    strain[:2, :2] += rng.uniform(-0.02, 0.02, (2, 2))
    angle = rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    motion = strain @ turn @ np.diag([-1.0 if is_mirrored else 1.0, 1.0, -1.0 if is_flipped else 1.0])
    displaced = OBLIQUE_SITES @ OBLIQUE + rng.uniform(-0.05, 0.05, (6, 3))
    positions = np.concatenate([displaced + point @ OBLIQUE for point in points]) + rng.uniform(0, 5, 3)
    cell = basis @ OBLIQUE @ motion
    order = rng.permutation(6 * count)
    numbers = np.tile(OBLIQUE_NUMBERS, count)[order].tolist()
    # Copies in a supercell are displaced alike, so that it folds back.
    slab = normalise_slab(numbers, (positions @ motion)[order], cell)
    other = {
        "numbers": slab.numbers.tolist(),
        "positions_angstrom": slab.positions_angstrom.ravel().tolist(),
        "cell_angstrom": slab.cell_angstrom.ravel().tolist(),
    }
    assert is_same_crystal(oblique_row(), other)
    assert is_same_crystal(other, oblique_row())


def test_one_atom_elsewhere_is_another_crystal():
    moved = OBLIQUE_SITES.copy()
    moved[4, 0] += 0.2
    assert not is_same_crystal(oblique_row(), oblique_row(moved))


def test_a_lattice_strained_too_far_is_another_crystal():
    stretched = OBLIQUE * [[1.12], [1.0], [1.0]]
    assert not is_same_crystal(oblique_row(), oblique_row(cell=stretched))
    assert is_same_crystal(oblique_row(), oblique_row(cell=stretched), MatchParameters(strain=0.15))


def test_polymorphs_of_one_key_stay_apart_and_copies_join():
    # Three single-atom layers over different hollows: the order of the elements makes different crystals, all P3m1.
    bismuth_in_the_middle = stack([53, 83, 34], [0, 1, 2], [0.0, 1.9, 3.5], "c2db:a")
    selenium_in_the_middle = stack([53, 34, 83], [0, 1, 2], [0.0, 1.9, 3.5], "c2db:b")
    upside_down = stack([34, 83, 53], [1, 2, 0], [0.0, 1.6, 3.5], "twodmatpedia:c")
    rows = materials(bismuth_in_the_middle, selenium_in_the_middle, upside_down)
    assert {row["published_key"] for row in rows} == {"BiISe|156"}
    assert [row["slab_ids"] for row in rows] == [["c2db:a", "twodmatpedia:c"], ["c2db:b"]]
    assert rows[0]["sources"] == ["c2db", "twodmatpedia"]
    assert rows[0]["n_slabs"] == 2
    assert {row["split_group"] for row in rows} == {"BiISe"}


def test_the_result_does_not_depend_on_the_order_of_the_rows():
    crystals = [
        stack([53, 83, 34], [0, 1, 2], [0.0, 1.9 + 0.1 * step, 3.5], f"c2db:{step}", is_hypothetical=step < 2)
        for step in range(5)
    ]
    forwards, backwards = materials(*crystals), materials(*crystals[::-1])
    assert forwards == backwards
    assert sum(row["n_slabs"] for row in forwards) == 5
    assert forwards[0]["representative_slab_id"] == "c2db:2"
    assert forwards[0]["material_id"] == "c2db:0"
    assert not forwards[0]["is_hypothetical"]


def test_rejected_slabs_have_no_material():
    good = stack([53, 83, 34], [0, 1, 2], [0.0, 1.9, 3.5], "c2db:a")
    bulk = record("c2db:bulk", [14], np.zeros((1, 3)), np.eye(3) * 3.0)
    damaged = stack([6], [0], [0.0], "c2db:damaged", status="rejected", reason="no cell")
    assert [row["slab_ids"] for row in materials(good, bulk, damaged)] == [["c2db:a"]]
    assert materials(bulk, damaged) == []


def test_split_groups_follow_composition_and_parents():
    parent = stack([42, 16, 16], [1, 2, 2], [1.5, 0.0, 3.0], "prototypes:MoS2")
    variant = stack([42, 34, 34], [1, 2, 2], [1.6, 0.0, 3.2], "prototypes:variant", parent_id="prototypes:MoS2")
    grandchild = stack([74, 34, 34], [1, 2, 2], [1.6, 0.0, 3.2], "prototypes:second", parent_id="prototypes:variant")
    same_formula = stack([74, 34, 34], [1, 2, 0], [1.6, 0.0, 3.2], "c2db:other")
    unrelated = stack([6, 6], [1, 2], [0.0, 0.0], "c2db:graphene")
    orphans = [
        stack([z, 9], [1, 2], [0.0, 0.0], f"prototypes:{z}", parent_id="prototypes:not-delivered") for z in (5, 49)
    ]
    rows = materials(parent, variant, grandchild, same_formula, unrelated, *orphans)
    groups = {row["material_id"]: row["split_group"] for row in rows}
    assert groups == {
        "prototypes:MoS2": "MoS2",
        "prototypes:variant": "MoS2",
        "prototypes:second": "MoS2",
        "c2db:other": "MoS2",
        "c2db:graphene": "C",
        "prototypes:5": "BF",
        "prototypes:49": "BF",
    }


@pytest.mark.parametrize("field", ["strain", "displacement_angstrom", "folding_angstrom"])
def test_parameters_without_sense_are_refused(field):
    with pytest.raises(ValueError, match=field):
        MatchParameters(**{field: 0.0})
