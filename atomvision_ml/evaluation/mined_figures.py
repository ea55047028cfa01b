"""The end table of a run: the figures that were mined, a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb
    from rich.table import Table

_ROWS = 10
_QUERY = """
SELECT arxiv_id, coalesce(number, ''), title, array_to_string(modalities, ', '), array_to_string(formulas, ', '),
       licence, (SELECT count(*) FROM literature.links)
FROM literature.links ORDER BY contains(arxiv_id, '/'), arxiv_id DESC, number LIMIT ?"""


def mined_figures(connection: duckdb.DuckDBPyConnection) -> Table | None:
    """The newest figures of ``literature.links``; None where there is none.

    Args:
        connection: with the views of the warehouse, see :func:`atomvision_ml.catalog.warehouse.snapshot`.
    """
    from rich.table import Table
    from rich.text import Text

    from atomvision_ml.literature.captions import plain_caption

    rows = connection.execute(_QUERY, [_ROWS]).fetchall()
    if not rows:
        return None
    heading = f"Mined figures, {len(rows)} of {rows[0][-1]}; all are in literature.links"
    table = Table(title=heading, box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold underline")
    for name in ("paper", "figure"):
        table.add_column(name, no_wrap=True)
    for name in ("title", "shows", "materials", "licence"):
        table.add_column(name)
    for paper, number, words, *told, _ in rows:
        cells = (paper, number, plain_caption(words), *told)
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells))
    return table
