"""The written rule of the retraining loop: when labelled micrographs enter the training set, and into which split."""

from datetime import date, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomvision_ml.evaluation.adoption import (
    TEST_SHARE,
    VAL_SHARE,
    AdoptionParameters,
    adopt,
    decide_adoption,
    experimental_rows,
    holdout_rows,
    not_trained_on,
    split_of,
    usable_micrographs,
)
from atomvision_ml.schemas.tables import table

TODAY = date(2026, 11, 21)
RECORDS = st.integers(0, 40).map(lambda number: f"r{number}")
USABLE = st.dictionaries(RECORDS, st.integers(0, 30).map(lambda days: TODAY - timedelta(days=days)), max_size=40)
RULES = st.builds(AdoptionParameters, new_images=st.integers(1, 20), waiting_days=st.integers(0, 20))


@given(adopted=st.sets(RECORDS), usable=USABLE, rule=RULES)
def test_the_rule_as_it_is_written(adopted, usable, rule):
    adoption = decide_adoption(adopted, usable, TODAY, rule)
    waiting = {record: day for record, day in usable.items() if record not in adopted}
    oldest = max(((TODAY - day).days for day in waiting.values()), default=0)
    assert adoption.n_waiting == len(waiting)
    assert adoption.is_due == (len(waiting) >= rule.new_images or (len(waiting) >= 1 and oldest >= rule.waiting_days))
    assert str(len(waiting) or "no new") in adoption.reason


@given(usable=USABLE, rule=RULES, days=st.integers(0, 40))
def test_time_alone_brings_every_waiting_image_in_and_nothing_else(usable, rule, days):
    later = TODAY + timedelta(days=days)
    assert not decide_adoption(set(usable), usable, later, rule).is_due
    if decide_adoption(set(), usable, TODAY, rule).is_due:
        assert decide_adoption(set(), usable, later, rule).is_due
    if usable and days >= rule.waiting_days:
        assert decide_adoption(set(), usable, later, rule).is_due


def micrograph(number, **changed):
    return {
        "day": "2026-11-20",
        "record_id": f"r{number}",
        "receipt_id": f"receipt{number}",
        "blob": f"blob{number}",
        "shape_y": 256,
        "shape_x": 256,
        "n_frames": 1,
        "dtype": "uint16",
        "is_calibrated": True,
        "pixel_size_y_nm": 0.01,
        "pixel_size_x_nm": 0.01,
        "sample_id": f"sample{number // 2}",
        "label_lattice": "hexagonal",
        "original_filename": f"{number}.tif",
    } | changed


def micrographs(*rows):
    return pl.DataFrame(list(rows), infer_schema_length=None)


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ({"label_lattice": None}, {}),
        ({"sample_id": None}, {"no sample_id": 1}),
        ({"is_calibrated": False, "pixel_size_y_nm": None, "pixel_size_x_nm": None}, {"not calibrated": 1}),
        ({"pixel_size_x_nm": 0.0102}, {"pixels not square": 1}),
        ({"shape_y": 40}, {"smaller than 48 px": 1}),
    ],
    ids=["unlabelled", "no sample", "not calibrated", "pixels not square", "small"],
)
def test_what_cannot_be_trained_on_changes_nothing_and_the_reason_is_told(changed, counts):
    rows = micrographs(*(micrograph(number) for number in range(4)), micrograph(9, **changed))
    assert usable_micrographs(rows)["record_id"].to_list() == ["r0", "r1", "r2", "r3"]
    assert not_trained_on(rows) == counts
    former = pl.DataFrame(experimental_rows(rows.head(4)))
    adoption, kept = adopt(former, rows, TODAY, AdoptionParameters(new_images=1, waiting_days=0))
    assert not adoption.is_due
    assert kept == former.to_dicts()


def test_rows_that_wait_leave_the_former_ones_as_they_were_even_if_a_label_was_mended():
    first = micrographs(*(micrograph(number) for number in range(3)))
    former = pl.DataFrame(experimental_rows(first))
    mended = micrographs(*(micrograph(number, label_lattice="square") for number in range(5)))
    adoption, rows = adopt(former, mended, TODAY, AdoptionParameters(new_images=3))
    assert (adoption.is_due, adoption.n_waiting) == (False, 2)
    assert rows == former.to_dicts()
    adoption, rows = adopt(former, mended, TODAY, AdoptionParameters(new_images=2))
    assert adoption.is_due
    assert {row["bravais_lattice"] for row in rows} == {"square"}


def test_rows_fulfil_the_contract():
    rows = experimental_rows(micrographs(*(micrograph(number) for number in range(30))))
    manifest = table("models/training_sets").from_rows(rows)
    assert [row["pixel_size_angstrom"] for row in rows] == pytest.approx([0.1] * 30)
    items = holdout_rows(pl.DataFrame(pl.from_arrow(manifest)))
    assert {item["image_id"] for item in items} == {row["image_id"] for row in rows if row["split"] == "test"}


@given(sample=st.text(max_size=30))
def test_a_sample_has_one_split(sample):
    assert split_of(sample) == split_of(sample) in ("train", "val", "test")


def test_shares_of_the_samples_and_the_hold_out_is_frozen():
    splits = [split_of(f"sample {number}") for number in range(4000)]
    assert splits.count("test") / 4000 == pytest.approx(TEST_SHARE, abs=0.03)
    assert splits.count("val") / 4000 == pytest.approx(VAL_SHARE, abs=0.02)
    known = {"a": "train", "b": "val", "graphene on Cu": "train", "S-1": "test"}
    assert {name: split_of(name) for name in known} == known
