"""``atomvision sql``: one question to the warehouse."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from atomvision_ml.catalog.export import Format, export
from atomvision_ml.cli.output import failed, output_stream


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT statement; `atomvision tables` lists what can be asked.")],
    form: Annotated[Format, typer.Option("--format", help="Form of the result.")] = "table",
    out: Annotated[Path | None, typer.Option(help="File to write instead of standard output.")] = None,
) -> None:
    """Query the published tables with SQL (DuckDB), e.g. "SELECT source, count(*) FROM structures.slabs GROUP BY 1".

    Nothing but the published tables can be read, and nothing can be written, whatever the statement says.
    """
    import duckdb

    from atomvision_ml.catalog.warehouse import QueryRefusedError, ask
    from atomvision_ml.storage.lake import Lake

    if form == "parquet" and out is None and sys.stdout.isatty():
        raise failed("Parquet is binary: redirect the output to a file, or use --out FILE")
    try:
        with ask(Lake.from_settings(), query) as result, output_stream(out) as stream:
            export(result, form, stream)
    except BrokenPipeError:
        sys.stderr.close()
        raise typer.Exit(0) from None
    except (duckdb.Error, QueryRefusedError, OSError) as error:
        raise failed(" ".join(str(error).split("\n\n")[0].split())) from None
