"""Results as table, CSV, JSON and Parquet."""

import csv
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atomvision_ml.catalog.export import TABLE_ROWS, Format, export


def exported(table: pa.Table, form: Format) -> bytes:
    stream = io.BytesIO()
    export(table.to_reader(max_chunksize=2), form, stream)
    assert not stream.closed
    return stream.getvalue()


@pytest.fixture
def table() -> pa.Table:
    point = pa.struct([("x", pa.float64())])
    return pa.table(
        {
            "name": ['ä,\n"b"', None, "c"],
            "value": [1.5, float("nan"), None],
            "points": pa.array([[{"x": 1.0}], [], None], pa.list_(point)),
        }
    )


def test_json_is_one_array_without_nan(table: pa.Table) -> None:
    rows = json.loads(exported(table, "json"), parse_constant=lambda name: pytest.fail(name))
    assert rows == [
        {"name": 'ä,\n"b"', "value": 1.5, "points": [{"x": 1.0}]},
        {"name": None, "value": None, "points": []},
        {"name": "c", "value": None, "points": None},
    ]


def test_csv_quotes_and_holds_lists_as_json(table: pa.Table) -> None:
    rows = list(csv.reader(io.StringIO(exported(table, "csv").decode(), newline="")))
    assert rows[0] == ["name", "value", "points"]
    assert rows[1] == ['ä,\n"b"', "1.5", '[{"x": 1.0}]']
    assert rows[3] == ["c", "", ""]


def test_parquet_keeps_every_value(table: pa.Table) -> None:
    back = pq.read_table(pa.BufferReader(exported(table, "parquet")))
    assert back.column("points").to_pylist() == table.column("points").to_pylist()
    assert back.schema.field("value").type == pa.float64()


def test_table_shows_some_rows_and_counts_all(table: pa.Table) -> None:
    text = exported(pa.table({"number": list(range(TABLE_ROWS + 5))}), "table").decode()
    assert f"{TABLE_ROWS + 5} rows, {TABLE_ROWS} shown" in text
    shown = [int(line) for line in text.splitlines() if line.strip().isdigit()]
    assert shown == list(range(TABLE_ROWS))
    one = exported(table.slice(0, 1), "table").decode()
    assert "1 row" in one
    assert "rows" not in one


@pytest.mark.parametrize("form", ["table", "csv", "json", "parquet"])
def test_no_rows_are_fine(form: Any) -> None:
    empty = exported(pa.table({"a": pa.array([], pa.int32())}), form)
    assert b"a" in empty or form == "json"


def test_square_brackets_are_text_not_markup() -> None:
    assert "[bold]x[/bold]" in exported(pa.table({"[red]a": ["[bold]x[/bold]"]}), "table").decode()
