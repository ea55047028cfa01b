"""``atomvision bench``: speed as ratios against named peers, measured in the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

_LEAST_WIDTH = 200
"""Columns of text: names of benchmarks are not cut, also where the output goes to a file."""


def bench(
    structures: Annotated[int, typer.Option(min=1, help="Random structures to take the median over.")] = 60,
    whole_set: Annotated[bool, typer.Option(help="Also whole sets of images and records, with peak memory.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    sources: Annotated[Path | None, typer.Option(help="Folder of the databases; default: ATOMVISION_SOURCES.")] = None,
) -> None:
    """Measure images against jarvis-tools' STEMConv, graphs against the published route, pages against BeautifulSoup.

    Same structures and pages, same run, one core.
    """
    from itertools import chain

    from atomvision_ml.images.benchmark import benchmark_rows
    from atomvision_ml.literature.benchmark import N_RECORDS, literature_benchmark_rows
    from atomvision_ml.models.graphs.benchmark import graph_benchmark_rows
    from atomvision_ml.settings import settings

    chosen, rows = sources or settings().sources, []
    graphs = graph_benchmark_rows(chosen, n_structures=structures)
    papers = literature_benchmark_rows(n_records=N_RECORDS if whole_set else ())
    for row in chain(papers, graphs, benchmark_rows(chosen, n_structures=structures, has_whole_set=whole_set)):
        rows.append(row)
        if as_json:
            typer.echo(json.dumps(row))
    if not as_json:
        _print_table(rows)


def _print_table(rows: list[dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(box=None)
    for name in names:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*(_text(row.get(name)) for name in names))
    console = Console()
    console.width = max(console.width, _LEAST_WIDTH)
    console.print(table)


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
