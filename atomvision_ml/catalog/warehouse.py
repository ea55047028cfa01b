"""The DuckDB warehouse: views with comments over the published heads; nothing is ever stored in it.

Two doors lead in:

* the file ``catalog/atomvision.duckdb`` for every DuckDB client. It is built aside and swapped, holds views only,
  and therefore locks nobody out. Its views name the heads by absolute path and show what is published *now*.
* :func:`snapshot`, a connection in memory over heads that are opened once, with all access to files off: what
  ``atomvision sql`` uses. It can neither write nor read anything else, whatever the query says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from atomvision_ml.catalog.views import VIEWS
from atomvision_ml.schemas.core import Column, Table
from atomvision_ml.schemas.tables import TABLES
from atomvision_ml.storage.files import put_in_place
from atomvision_ml.storage.keys import CATALOG_WAREHOUSE, view_name
from atomvision_ml.storage.lake import Lake, NotPublishedError

BUILD_COMMAND = "atomvision tables --build"
"""What a person types to have the file built outside Dagster."""


class WarehouseMissingError(LookupError):
    """The warehouse file has not been built yet."""


class QueryRefusedError(ValueError):
    """The query is not one reading statement."""


_READING = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI}
"""Statements that make sense in a snapshot (MULTI is PIVOT). A courtesy: what protects the data is that a snapshot
has no access to files."""


def warehouse_path(lake: Lake) -> Path:
    """Where the file of this lake is."""
    return lake.local / "catalog" / "atomvision.duckdb"


def build_warehouse(lake: Lake) -> list[dict[str, Any]]:
    """Build the file aside, swap it in, and return the rows of ``catalog/warehouse``.

    Readers keep the file that they have opened; new ones see the new file. ``catalog/warehouse`` counts as
    materialised, since it is about to be.
    """
    path = warehouse_path(lake)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = lake.scratch("warehouse") / f"{uuid4().hex}.duckdb"
    try:
        with duckdb.connect(aside) as connection:
            definitions = _create_views(connection, lambda table: _file_sql(lake, table))
        put_in_place(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    materialised = {key for key in TABLES if lake.exists(key)} | {CATALOG_WAREHOUSE}
    return [
        {
            "view": name,
            "asset_key": key,
            "is_materialised": materialised.issuperset(bases),
            "description": description,
            "sql": sql,
        }
        for (name, key, bases, description), sql in zip(_catalogue(), definitions, strict=True)
    ]


def open_warehouse(lake: Lake) -> duckdb.DuckDBPyConnection:
    """A read-only connection to the file, for Python; close it or use it as a context manager.

    A file whose definitions are no longer right is built again first: the root was moved or copied, a table was
    published for the first time, the dictionary changed, or the root is a bucket with new heads.

    Raises:
        WarehouseMissingError: it was never built; the message names the command.
    """
    path = warehouse_path(lake)
    if not path.exists():
        raise WarehouseMissingError(f"there is no warehouse in {lake.root} yet; run `{BUILD_COMMAND}` or `make demo`")
    connection = _attach(path)
    if _is_current(connection, lake):
        return connection
    connection.close()
    build_warehouse(lake)
    return _attach(path)


def _attach(path: Path) -> duckdb.DuckDBPyConnection:
    """Open the file as it is now. ``duckdb.connect(path)`` would share, within one process, the database that an
    older connection holds, and so show the file before the swap."""
    connection = duckdb.connect(":memory:")
    connection.execute(f"ATTACH {_literal(str(path))} AS atomvision (READ_ONLY)")
    connection.execute("USE atomvision")
    return connection


def snapshot(lake: Lake) -> duckdb.DuckDBPyConnection:
    """A connection in memory with all views over the heads as they are now, and no access to any file.

    Reading files, COPY, ATTACH, INSTALL and changing the settings are refused by DuckDB itself; a table created
    in it ends with the connection. (A connection that may read a folder may also write there: in DuckDB 2.0 even
    a SELECT can, by COPY in a common table expression.)
    """
    connection = duckdb.connect(":memory:")
    for key, table in TABLES.items():
        connection.register(key, _frame(lake, table))
    _create_views(connection, lambda table: _select(table, _names(table), f'FROM "{table.key}"'))
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


@contextmanager
def ask(lake: Lake, query: str) -> Iterator[pa.RecordBatchReader]:
    """The result of one reading statement over a :func:`snapshot`, batch by batch.

    Raises:
        QueryRefusedError: there is no statement, more than one, or one that does not read.
        duckdb.Error: DuckDB's own words on what is wrong with it.
    """
    statements = duckdb.extract_statements(query)
    if len(statements) != 1:
        raise QueryRefusedError(f"one statement is expected, but there are {len(statements)}")
    kind = statements[0].type
    if kind not in _READING:
        raise QueryRefusedError(f"the warehouse is read only: {kind.name} is refused; ask with SELECT")
    with snapshot(lake) as connection:
        relation = connection.sql(query)
        yield relation.to_arrow_reader()


def table_rows(lake: Lake) -> list[dict[str, Any]]:
    """Every view with ``view``, ``n_rows``, ``is_materialised`` and ``description``, for a list to read."""
    materialised = {key for key in TABLES if lake.exists(key)}
    with snapshot(lake) as connection:
        return [
            {
                "view": name,
                "n_rows": connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0],
                "is_materialised": materialised.issuperset(bases),
                "description": description,
            }
            for name, _, bases, description in _catalogue()
        ]


def _catalogue() -> Iterator[tuple[str, str | None, tuple[str, ...], str]]:
    """View, asset key or None, keys that it reads, description; in the order in which the views are made."""
    for key, table in TABLES.items():
        yield view_name(key), key, (key,), table.description
    for view in VIEWS:
        yield view.name, None, view.bases, view.description


def _create_views(connection: duckdb.DuckDBPyConnection, table_sql: Callable[[Table], str]) -> list[str]:
    """Create all schemas, views and comments; the definitions in the order of :func:`_catalogue`."""
    definitions = []
    connection.execute("BEGIN")
    for table in TABLES.values():
        sql = table_sql(table)
        _create_view(connection, view_name(table.key), table.description, table.columns, sql)
        definitions.append(sql)
    for view in VIEWS:
        _create_view(connection, view.name, view.description, view.columns, view.sql)
        definitions.append(view.sql)
    connection.execute("COMMIT")
    return definitions


def _create_view(
    connection: duckdb.DuckDBPyConnection, name: str, description: str, columns: tuple[Column, ...], sql: str
) -> None:
    script = [
        f"CREATE SCHEMA IF NOT EXISTS {name.split('.')[0]}",
        f"CREATE VIEW {name} AS {sql}",
        f"COMMENT ON VIEW {name} IS {_literal(description)}",
    ]
    for column in columns:
        text = f"{column.description} [{column.unit}]" if column.unit else column.description
        script.append(f'COMMENT ON COLUMN {name}."{column.name}" IS {_literal(text)}')
    connection.execute(";\n".join(script))


def _file_sql(lake: Lake, table: Table) -> str:
    """A table over the files of its heads; typed and empty if there are none.

    A column that no head has yet, because the dictionary grew, is null. The partition column is in the files,
    hence no hive partitioning.
    """
    try:
        heads = lake.heads(table.key)
    except NotPublishedError:
        return _select(table, (), "WHERE false")
    known = {name for head in heads for name in pq.read_schema(head).names}
    patterns = ", ".join(_literal(pattern) for pattern in lake.patterns(table.key))
    return _select(table, known, f"FROM read_parquet([{patterns}], union_by_name = true, hive_partitioning = false)")


def _select(table: Table, known: Collection[str], source: str) -> str:
    """``SELECT`` every column of the dictionary, null where it is not known."""
    missing = table.empty().drop_columns([name for name in _names(table) if name in known])
    types = dict(zip(missing.column_names, _duckdb_types(missing), strict=True))
    columns = [f'CAST(NULL AS {types[name]}) AS "{name}"' if name in types else f'"{name}"' for name in _names(table)]
    return f"SELECT {', '.join(columns)} {source}"


def _duckdb_types(table: pa.Table) -> list[str]:
    return [str(kind) for kind in duckdb.from_arrow(table).types] if table.num_columns else []


def _names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


def _frame(lake: Lake, table: Table) -> pl.LazyFrame:
    """The heads as they are now: opened here, so that a later replacement does not reach a running query."""
    typed = pl.DataFrame(table.empty()).lazy()
    if not lake.exists(table.key):
        return typed
    parts: list[str | None] = [*lake.partitions(table.key)] or [None]
    frames = [lake.scan(table.key, part) for part in parts]
    return pl.concat([typed, *frames], how="diagonal").select(_names(table))


def _is_current(connection: duckdb.DuckDBPyConnection, lake: Lake) -> bool:
    """Whether the file's views are what building them now would give."""
    with duckdb.connect(":memory:") as fresh:
        _create_views(fresh, lambda table: _file_sql(lake, table))
        return _definitions(connection) == _definitions(fresh)


def _definitions(connection: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    views = """
        SELECT schema_name, view_name, sql, comment FROM duckdb_views()
        WHERE NOT internal AND database_name = current_database() ORDER BY ALL"""
    return connection.execute(views).fetchall()


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
