"""Content hashes and data versions."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.storage.versions import Facts, Version, blob_names, content_sha256

POINT = pa.struct([("x", pa.float64()), ("z", pa.int16())])
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("value", pa.float64()),
        ("count", pa.int32()),
        ("flag", pa.bool_()),
        ("numbers", pa.list_(pa.int32())),
        ("points", pa.list_(POINT)),
    ]
)
FINITE = st.floats(allow_nan=False, width=64)
ROW = st.fixed_dictionaries(
    {
        "name": st.none() | st.text(max_size=5),
        "value": st.none() | FINITE,
        "count": st.none() | st.integers(-(2**31), 2**31 - 1),
        "flag": st.none() | st.booleans(),
        "numbers": st.none() | st.lists(st.none() | st.integers(0, 9), max_size=3),
        "points": st.none()
        | st.lists(st.none() | st.fixed_dictionaries({"x": FINITE, "z": st.integers(0, 9)}), max_size=2),
    }
)


def rows_table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROW, max_size=6), cut=st.integers(0, 6))
def test_hash_depends_on_values_not_on_chunks(rows: list[dict], cut: int) -> None:
    whole = rows_table(rows)
    parts = pa.concat_tables([rows_table(rows[:cut]), rows_table(rows[cut:])])
    assert content_sha256(whole) == content_sha256(parts)
    padded = pa.concat_tables([rows_table(rows[:1]), whole]).slice(len(rows[:1]))
    assert content_sha256(whole) == content_sha256(padded)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=4), other=ROW)
def test_hash_tells_different_tables_apart(rows: list[dict], other: dict) -> None:
    first, second = rows_table(rows), rows_table([*rows[:-1], other])
    is_same = repr(first.to_pylist()) == repr(second.to_pylist())  # 0.0 and -0.0 are two values
    assert (content_sha256(first) == content_sha256(second)) == is_same


def test_hash_sees_where_a_list_ends_and_what_is_null() -> None:
    def digest(values: list) -> str:
        return content_sha256(pa.table({"v": pa.array(values, pa.list_(pa.int32()))}))

    assert len({digest([[1, 2], []]), digest([[1], [2]]), digest([[1, 2], None]), digest([[], [1, 2]])}) == 4
    words = [pa.table({"v": values}) for values in (["ab", "c"], ["a", "bc"], ["abc", None], ["abc", ""])]
    assert len({content_sha256(table) for table in words}) == 4


def test_hash_ignores_what_lies_behind_a_null() -> None:
    mask = pa.array([True, False])
    first = pa.Array.from_buffers(pa.int32(), 2, [mask.buffers()[1], pa.array([1, 7], pa.int32()).buffers()[1]])
    second = pa.Array.from_buffers(pa.int32(), 2, [mask.buffers()[1], pa.array([1, 8], pa.int32()).buffers()[1]])
    assert first.to_pylist() == [1, None]
    assert content_sha256(pa.table({"v": first})) == content_sha256(pa.table({"v": second}))


def test_hash_knows_names_and_types() -> None:
    tables = [
        pa.table({"a": pa.array([1], pa.int32())}),
        pa.table({"b": pa.array([1], pa.int32())}),
        pa.table({"a": pa.array([1], pa.int64())}),
    ]
    assert len({content_sha256(table) for table in tables}) == 3


def test_root_version_is_its_content_and_derived_version_is_its_recipe() -> None:
    root = Version(code_version="1", parameters={"sigma_angstrom": 0.5})
    assert root.data_version("abc") == "abc"
    derived = Version(code_version="1", parameters={"a": 1, "b": 2}, inputs={"structures/slabs/c2db": "x"})
    assert derived.data_version("abc") == derived.data_version("float noise of another device")
    reordered = derived.model_copy(update={"parameters": {"b": 2, "a": 1}})
    assert reordered.data_version("abc") == derived.data_version("abc")
    changes = [
        {"code_version": "2"},
        {"parameters": {"a": 1, "b": 3}},
        {"inputs": {"structures/slabs/c2db": "y"}},
        {"inputs": {"structures/slabs/jarvis_dft_2d": "x"}},
    ]
    versions = {derived.model_copy(update=change).data_version("abc") for change in changes}
    assert len(versions) == len(changes)
    assert derived.data_version("abc") not in versions


@given(
    apart=st.dictionaries(st.sampled_from(["e/m/2026-11-20", "e/m/2026-11-21", "e/m"]), st.text(max_size=3)),
    inputs=st.dictionaries(st.sampled_from(["e/records", "i/stem/a", "i/stem/b"]), st.text(max_size=3)),
    content=st.text(max_size=3),
)
def test_version_apart_from_an_input_is_the_one_without_it(apart, inputs, content) -> None:
    parameters = {"seed": 0}
    made = Version(code_version="1", parameters=parameters, inputs={**inputs, **apart})
    facts = Facts(
        key="k/n", partition=None, data_version=made.data_version(content), content_sha256=content, n_rows=0, blobs=(),
        **made.model_dump(),
    )  # fmt: skip
    without = Version(code_version="1", parameters=parameters, inputs=inputs)
    assert facts.version_apart_from("e/m") == without.data_version(content)


def test_parameters_must_be_plain() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Version(code_version="1", parameters={"a": float("nan")}, inputs={"k": "v"}).data_version("abc")
    with pytest.raises(TypeError, match="serializable"):
        Version(code_version="1", parameters={"a": object()}, inputs={"k": "v"}).data_version("abc")


def test_blob_names_come_from_both_columns() -> None:
    table = pa.table({"blob": ["b", "a", "b"], "origin_blob": [None, "c", None]})
    assert blob_names(table) == ("a", "b", "c")
    assert blob_names(pa.table({"x": [1]})) == ()
