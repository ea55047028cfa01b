"""What leaves the platform."""

import csv
import io

import polars as pl
import pytest

from atomvision_ml.literature.export import links_rows, write_links
from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.errors import NotPublishedError
from atomvision_ml.storage.keys import LITERATURE_LINKS
from atomvision_ml.storage.lake import Lake, Version


@pytest.fixture
def rows(literature_tables: dict[str, pl.DataFrame]) -> list[dict]:
    names = ("papers", "figures", "panels", "mentions")
    return list(links_rows(*(literature_tables[f"literature/{name}"].lazy() for name in names)))


def test_only_standing_relevant_figures_leave(rows: list[dict]) -> None:
    assert [row["arxiv_id"] for row in rows] == ["2005.00001", "2005.00002"]
    first, second = rows
    assert (first["modalities"], first["formulas"]) == (["STEM", "plot"], ["MoS2", "WSe2"])
    assert (second["modalities"], second["formulas"]) == (["STM"], ["C", "Cu"])
    assert first["title"] == "Title of 2005.00001"


def test_captions_leave_where_the_licence_allows_it(rows: list[dict]) -> None:
    assert rows[0]["caption"].startswith("(a) HAADF-STEM")
    assert rows[1]["caption"] is None
    assert rows[1]["image_urls"] == ["https://arxiv.org/html/2005.00002v1/x1.png"]


def test_a_figure_without_materials_has_an_empty_list(literature_tables: dict[str, pl.DataFrame]) -> None:
    tables = [literature_tables[f"literature/{name}"].lazy() for name in ("papers", "figures", "panels")]
    nothing = literature_tables["literature/mentions"].clear().lazy()
    assert [row["formulas"] for row in links_rows(*tables, nothing)] == [[], []]


def test_links_are_written_as_files(tmp_path, rows: list[dict]) -> None:
    lake = Lake(tmp_path)
    with pytest.raises(NotPublishedError):
        write_links(lake, "csv", io.BytesIO())
    lake.publish(LITERATURE_LINKS, table(LITERATURE_LINKS).from_rows(rows), version=Version(code_version="1"))
    stream = io.BytesIO()
    write_links(lake, "csv", stream)
    written = list(csv.DictReader(io.StringIO(stream.getvalue().decode())))
    assert [(row["arxiv_id"], row["formulas"], bool(row["caption"])) for row in written] == [
        ("2005.00001", '["MoS2", "WSe2"]', True),
        ("2005.00002", '["C", "Cu"]', False),
    ]
    stream = io.BytesIO()
    write_links(lake, "parquet", stream)
    assert pl.read_parquet(stream.getvalue())["figure_id"].to_list() == [row["figure_id"] for row in rows]
