"""What a table and a column are: the one description from which every contract, schema page and view comes.

Belongs here: the classes. The tables themselves are in :mod:`atomvision_ml.schemas.tables`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

FLOATS = pa.list_(pa.float64())
INTEGERS = pa.list_(pa.int32())
STRINGS = pa.list_(pa.string())


class ContractError(ValueError):
    """A table does not fulfil its contract; the message names the table, the column, the rule and an example."""


class Column(BaseModel):
    """One column: its Arrow type, unit and meaning, and the constraints that its writer must keep.

    ``unit`` is an SI-style symbol or ``None`` for a pure number, a label or an identifier.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, extra="forbid")

    name: str
    type: pa.DataType
    description: str
    unit: str | None = None
    nullable: bool = False
    unique: bool = False
    minimum: float | None = None
    maximum: float | None = None
    one_of: tuple[str, ...] | None = None

    def violations(self, values: pa.ChunkedArray) -> Iterator[str]:
        """Yield one sentence for each broken rule."""
        if not self.nullable and values.null_count:
            yield f"{values.null_count} null values in a column that allows none"
        if self.unique and pc.count_distinct(values, mode="all").as_py() != len(values):
            counts = values.value_counts()
            twice = counts.filter(pc.greater(pc.struct_field(counts, "counts"), 1))
            yield f"values must be unique, but {twice[0]['values'].as_py()!r} occurs more than once"
        if self.minimum is not None or self.maximum is not None:
            yield from self._range_violations(values)
        if self.one_of is not None:
            known = pc.or_kleene(pc.is_in(values, pa.array(self.one_of, values.type)), pc.is_null(values))
            unknown = values.filter(pc.invert(known))
            if len(unknown):
                yield f"{unknown[0].as_py()!r} is not one of {list(self.one_of)}"

    def _range_violations(self, values: pa.ChunkedArray) -> Iterator[str]:
        if pa.types.is_floating(values.type) and pc.any(pc.is_nan(values)).as_py():
            yield "NaN; write null where a value is missing"
        bounds = pc.min_max(values).as_py()
        if bounds["min"] is not None and self.minimum is not None and bounds["min"] < self.minimum:
            yield f"{bounds['min']} is below the minimum {self.minimum}"
        if bounds["max"] is not None and self.maximum is not None and bounds["max"] > self.maximum:
            yield f"{bounds['max']} is above the maximum {self.maximum}"


class Table(BaseModel):
    """One published table: asset key = storage path = DuckDB view = documentation page.

    ``dimension`` names the partition dimension (a column that is present in every row), or is ``None``.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, extra="forbid")

    key: str = Field(pattern=r"^[a-z][a-z0-9_]*/[a-z][a-z0-9_]*$")
    description: str
    columns: tuple[Column, ...]
    dimension: str | None = None

    @property
    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema, with unit and description in each field's metadata."""
        return pa.schema(
            [
                pa.field(
                    column.name,
                    column.type,
                    nullable=column.nullable,
                    metadata={"description": column.description, "unit": column.unit or ""},
                )
                for column in self.columns
            ]
        )

    def column(self, name: str) -> Column:
        """The column of that name; raises KeyError with the known names."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"{self.key} has no column {name!r}; it has {[c.name for c in self.columns]}")

    def empty(self) -> pa.Table:
        """A typed table without rows."""
        return pa.Table.from_batches([], self.arrow_schema)

    def from_rows(self, rows: list[dict[str, Any]]) -> pa.Table:
        """Rows as dictionaries to a conforming table; a missing key is null. Raises ContractError."""
        unknown = sorted({key for row in rows for key in row} - {column.name for column in self.columns})
        if unknown:
            raise ContractError(f"{self.key}: rows have columns that the dictionary does not know: {unknown}")
        arrays = []
        for column in self.columns:
            try:
                arrays.append(pa.array([row.get(column.name) for row in rows], column.type))
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                raise ContractError(f"{self.key}.{column.name}: {error}") from error
        return self.conform(pa.table(arrays, names=[column.name for column in self.columns]))

    def conform(self, table: pa.Table) -> pa.Table:
        """The table with the dictionary's order, types and metadata, all constraints checked.

        Raises:
            ContractError: a column is missing or unknown, cannot be cast, or breaks a constraint. All problems
                are listed.
        """
        names = [column.name for column in self.columns]
        problems = [f"column {name!r} is missing" for name in names if name not in table.column_names]
        problems += [f"column {name!r} is unknown" for name in table.column_names if name not in names]
        if problems:
            raise ContractError(f"{self.key}: " + "; ".join(problems))
        try:
            cast = table.select(names).cast(pa.schema([pa.field(column.name, column.type) for column in self.columns]))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ContractError(f"{self.key}: {error}") from error
        for column in self.columns:
            problems += [f"{column.name}: {text}" for text in column.violations(cast.column(column.name))]
        if problems:
            raise ContractError(f"{self.key}: " + "; ".join(problems))
        return pa.Table.from_arrays(cast.columns, schema=self.arrow_schema)
