from collections import Counter, defaultdict

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.evaluation.splits import (
    SplitParameters,
    assign_splits,
    prototype_of,
    split_counts,
    training_set_rows,
)
from atomvision_ml.schemas.tables import table
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES, SPLITS

ITEMS = st.lists(
    st.tuples(st.integers(0, 60).map(lambda n: f"g{n}"), st.sampled_from(BRAVAIS_LATTICES)), min_size=1, max_size=200
)


@given(items=ITEMS, seed=st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_every_group_has_one_split_whatever_the_order(items, seed):
    parameters = SplitParameters(seed=seed)
    groups, classes = zip(*items, strict=True)
    splits = assign_splits(groups, classes, parameters)
    assert set(splits) == set(groups)
    assert set(splits.values()) <= set(SPLITS)
    assert assign_splits(groups[::-1], classes[::-1], parameters) == splits


@given(sizes=st.lists(st.integers(1, 12), min_size=3, max_size=40), classes=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_each_class_is_in_each_split(sizes, classes):
    items = [
        (f"{name}-{number}", name)
        for name in BRAVAIS_LATTICES[:classes]
        for number, size in enumerate(sizes)
        for _ in range(size)
    ]
    groups, names = zip(*items, strict=True)
    splits = assign_splits(groups, names)
    present = defaultdict(set)
    for group, name in items:
        present[name].add(splits[group])
    assert all(found == set(SPLITS) for found in present.values())


def test_shares_are_near_the_wanted_ones():
    groups = [f"g{n // 3}" for n in range(900)]
    classes = [BRAVAIS_LATTICES[n // 3 % 5] for n in range(900)]
    splits = assign_splits(groups, classes)
    counts = Counter((splits[group], name) for group, name in zip(groups, classes, strict=True))
    for name in BRAVAIS_LATTICES:
        assert counts["test", name] == pytest.approx(36, abs=3)
        assert counts["val", name] == pytest.approx(18, abs=3)


def test_seed_matters():
    groups = [f"g{n}" for n in range(100)]
    one, other = (assign_splits(groups, ["square"] * 100, SplitParameters(seed=seed)) for seed in (0, 1))
    assert one != other


def test_shares_must_leave_something():
    with pytest.raises(ValueError, match="leave nothing"):
        SplitParameters(val_fraction=0.5, test_fraction=0.5)


def test_rows_fulfil_the_contract_and_are_the_same_for_every_task(small_set):
    both = [training_set_rows(task, small_set.images, small_set.materials) for task in ("lattice", "segmentation")]
    for rows in both:
        table("models/training_sets").from_rows(rows)
        assert sum(split_counts(rows).values()) == len(rows)
        assert min(split_counts(rows).values()) > 0
        by_group = defaultdict(set)
        for row in rows:
            by_group[row["split_group"]].add(row["split"])
        assert all(len(found) == 1 for found in by_group.values())
    assert [row["split"] for row in both[0]] == [row["split"] for row in both[1]]


def test_one_slab_per_material_or_all(small_set):
    materials = small_set.materials.head(1).with_columns(
        pl.Series("slab_ids", [small_set.images["slab_id"].head(3).to_list()])
    )
    every = training_set_rows("lattice", small_set.images, materials, SplitParameters(is_one_slab_per_material=False))
    assert len(every) == 3
    assert len(training_set_rows("lattice", small_set.images, materials)) == 1


def test_nothing_in_common_is_an_error(small_set):
    stranger = small_set.materials.with_columns(representative_slab_id=pl.lit("x"))
    with pytest.raises(ValueError, match="none of"):
        training_set_rows("lattice", small_set.images, stranger)
    with pytest.raises(ValueError, match="unknown task"):
        training_set_rows("cooking", small_set.images, small_set.materials)


def test_prototypes_do_not_depend_on_names_or_on_the_size_of_the_cell():
    assert prototype_of("MoS2", 187) == prototype_of("S2W", 187) == "AB2|187"
    assert prototype_of("MoS2", 164) != prototype_of("MoS2", 187)
    assert prototype_of("Mo2S4", 187) == prototype_of("MoS2", 187)


def test_no_prototype_and_no_material_is_in_two_splits(small_set):
    parameters = SplitParameters(group_by="prototype")
    rows = training_set_rows("lattice", small_set.images, small_set.materials, parameters)
    table("models/training_sets").from_rows(rows)
    known = {row["representative_slab_id"]: row for row in small_set.materials.iter_rows(named=True)}
    splits = defaultdict(set)
    for row in rows:
        material = known[row["slab_id"]]
        prototype = prototype_of(material["reduced_formula"], material["space_group_number"])
        assert row["split_group"] == prototype
        splits[prototype].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {row["split"] for row in rows} == set(SPLITS)
    by_composition = training_set_rows("lattice", small_set.images, small_set.materials)
    assert {row["image_id"] for row in rows} == {row["image_id"] for row in by_composition}
    assert [row["split"] for row in rows] != [row["split"] for row in by_composition]
    assert len({row["split_group"] for row in rows}) < len(rows), "some structures share a prototype"
