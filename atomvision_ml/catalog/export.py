"""Results of queries as text or files: a table for the terminal, CSV, JSON, Parquet.

Everything but the terminal table goes out batch by batch, so that a result may be larger than memory.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["table", "csv", "json", "parquet"]

TABLE_ROWS = 200
"""Rows that the terminal table shows at most."""

_CELL_CHARACTERS = 60


def export(result: pa.RecordBatchReader, form: Format, stream: BinaryIO) -> None:
    """Write a result to a binary stream: UTF-8 text, or Parquet (zstd).

    CSV holds lists and structs as JSON; JSON is one array with one object a line, NaN and infinities as null.
    """
    if form == "parquet":
        _write_parquet(result, stream)
        return
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    try:
        {"table": _write_table, "csv": _write_csv, "json": _write_json}[form](result, text)
        text.flush()
    finally:
        text.detach()


def render_table(names: list[str], rows: Iterable[Iterable[Any]], file: IO[str], caption: str = "") -> None:
    """A plain table for people; numbers to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [all(_is_number(row[index]) for row in cells) for index in range(len(names))]
    table = RichTable(box=box.SIMPLE_HEAD)
    for name, is_number in zip(names, numeric, strict=True):
        table.add_column(Text(name), justify="right" if is_number else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(value) for value in row))
    console = Console(file=file)
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)
    if caption:
        console.print(Text(caption), soft_wrap=True)


def _write_parquet(result: pa.RecordBatchReader, stream: BinaryIO) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(stream, result.schema, compression="zstd") as writer:
        for batch in result:
            writer.write_batch(batch)


def _write_table(result: pa.RecordBatchReader, text: io.TextIOWrapper) -> None:
    rows = _rows(result)
    shown = list(islice(rows, TABLE_ROWS))
    n_more = sum(1 for _ in rows)
    n_rows = len(shown) + n_more
    caption = f"{n_rows} row{'' if n_rows == 1 else 's'}"
    if n_more:
        caption += f", {len(shown)} shown; --format csv, json or parquet gives all"
    render_table(result.schema.names, shown, text, caption)


def _write_csv(result: pa.RecordBatchReader, text: io.TextIOWrapper) -> None:
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(result.schema.names)
    for row in _rows(result):
        writer.writerow([_to_json(value) if isinstance(value, (list, dict)) else value for value in row])


def _write_json(result: pa.RecordBatchReader, text: io.TextIOWrapper) -> None:
    text.write("[")
    for number, row in enumerate(_rows(result)):
        text.write(("," if number else "") + "\n" + _to_json(dict(zip(result.schema.names, row, strict=True))))
    text.write("\n]\n")


def _rows(result: pa.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
    for batch in result:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _to_json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    return value if isinstance(value, (str, int, type(None))) else str(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = _to_json(value) if isinstance(value, (list, dict)) else str(value)
    return text if len(text) <= _CELL_CHARACTERS or "\n" in text else text[: _CELL_CHARACTERS - 1] + "…"


def _is_number(text: str) -> bool:
    if not text:
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True
