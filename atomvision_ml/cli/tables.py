"""``atomvision tables``: what there is to be queried."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from atomvision_ml.cli.output import failed


def tables(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array instead of a table.")] = False,
    build: Annotated[bool, typer.Option("--build", help="First build the DuckDB file for other programs.")] = False,
) -> None:
    """List every view of the warehouse with its rows, whether it is materialised, and what it is."""
    from atomvision_ml.catalog.export import render_table
    from atomvision_ml.catalog.warehouse import build_warehouse, table_rows, warehouse_path
    from atomvision_ml.storage.lake import Lake

    try:
        lake = Lake.from_settings()
        if build:
            build_warehouse(lake)
            typer.echo(f"built {warehouse_path(lake)}", err=True)
        rows = table_rows(lake)
    except OSError as error:
        raise failed(str(error)) from None
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    shown = [
        (row["view"], row["n_rows"], "yes" if row["is_materialised"] else "no", _first_sentence(row["description"]))
        for row in rows
    ]
    render_table(["view", "rows", "materialised", "description"], shown, sys.stdout, f"in {lake.root}")


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].split(": ")[0].rstrip(".")
