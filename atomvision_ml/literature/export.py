"""The public export: which figures there are, where, and what they show.

Belongs here: what may leave. Links and metadata may; captions where the licence of their version allows it; bytes of
images never.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import polars as pl

from atomvision_ml.catalog.export import Format, export
from atomvision_ml.storage.keys import LITERATURE_LINKS

if TYPE_CHECKING:
    from atomvision_ml.storage.lake import Lake

Row = dict[str, Any]

_CARRIED = ("figure_id", "arxiv_id", "version", "number", "paper_url", "image_urls", "licence")


def links_rows(
    papers: pl.LazyFrame, figures: pl.LazyFrame, panels: pl.LazyFrame, mentions: pl.LazyFrame
) -> Iterator[Row]:
    """The relevant figures of the newest versions, ordered by ``figure_id``; none of withdrawn or deleted papers.

    Args:
        papers: rows of ``literature/papers``, whose newest state decides over withdrawals.
        figures: rows of ``literature/figures``.
        panels: rows of ``literature/panels``.
        mentions: rows of ``literature/mentions``.

    Yields:
        Rows of ``literature/links``. Modalities are in the order of the panels, formulas in that of the caption.
    """
    standing = papers.filter(~pl.col("is_withdrawn")).select("arxiv_id", "title")
    caption = pl.when("is_redistributable").then("caption").alias("caption")
    chosen = figures.filter(pl.col("is_relevant") & pl.col("is_current")).select(*_CARRIED, caption)
    found = chosen.join(standing, on="arxiv_id")
    for told, column, name in ((panels, "modality", "modalities"), (mentions, "formula", "formulas")):
        found = found.join(_listed(told, column, name), on="figure_id", how="left").with_columns(
            pl.col(name).fill_null(pl.lit([], dtype=pl.List(pl.String)))
        )
    yield from found.sort("figure_id").collect(engine="streaming").iter_rows(named=True)


def write_links(lake: Lake, form: Format, stream: BinaryIO) -> None:
    """Write ``literature/links`` as CSV, JSON or Parquet, or as a table for people.

    Args:
        lake: where it is published.
        form: of the file.
        stream: where to; left open.

    Raises:
        NotPublishedError: there is no export yet.
    """
    export(lake.scan(LITERATURE_LINKS).collect().to_arrow().to_reader(), form, stream)


def _listed(told: pl.LazyFrame, column: str, name: str) -> pl.LazyFrame:
    """The distinct values of each figure, in their order."""
    return told.group_by("figure_id", maintain_order=True).agg(pl.col(column).unique(maintain_order=True).alias(name))
