"""The page and the table of mined figures."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image
from rich.console import Console

from atomvision_ml.catalog.warehouse import snapshot
from atomvision_ml.evaluation.gallery.literature import LiteratureGalleryParameters, build_literature_gallery
from atomvision_ml.evaluation.mined_figures import mined_figures
from atomvision_ml.literature.export import links_rows
from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.keys import LITERATURE_IMAGES, LITERATURE_LINKS
from atomvision_ml.storage.lake import Lake, Version

PRIVATE = "2005.00002"


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.files: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.files += [str(value) for name, value in attrs if name in ("src", "href") and tag in ("img", "image")]


@pytest.fixture
def tables(literature_tables: dict[str, pl.DataFrame], tmp_path: Path) -> dict[str, Any]:
    """The tables, with an image of every figure: a PNG, and a BMP for the one without licence and for the old one."""
    rows = []
    for figure in literature_tables["literature/figures"].iter_rows(named=True):
        is_png = figure["figure_id"] == "figure-2005.00001"
        file = tmp_path / figure["figure_id"] / ("x1.png" if is_png else "x1.bmp")
        file.parent.mkdir()
        Image.fromarray(np.full((30, 60), 7, np.uint8)).save(file)
        rows.append(
            {
                **{name: figure[name] for name in ("month", "figure_id", "is_redistributable")},
                "url": figure["image_urls"][0], "place": 1, "status": "accepted", "blob": file.parent.name,
                "file": file.name, "sha256": "0" * 64, "width_px": 60, "height_px": 30,
            }
        )  # fmt: skip
    boxed = literature_tables["literature/panels"].with_columns(
        box_px=pl.when(pl.col("label") == "a").then(pl.lit([0, 0, 20, 30])),
        image_url=pl.lit("https://arxiv.org/html/2005.00001v1/x1.png"),
    )
    made = {**literature_tables, "literature/panels": boxed}
    made[LITERATURE_IMAGES] = pl.DataFrame(table(LITERATURE_IMAGES).from_rows(rows))
    return {key.removeprefix("literature/"): rows.lazy() for key, rows in made.items()}


def test_only_free_pictures_and_captions_are_shown(tables: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    rows = build_literature_gallery(
        folder, **tables, open_blob=lambda blob: tmp_path / blob, asked=["http://a.test/oai"]
    )
    assert rows == [{"page": "index.html", "title": "Mined figures", "n_items": 2}]
    text = (folder / "index.html").read_text("utf-8")
    assert [path.name for path in (folder / "pictures").iterdir()] == ["figure-2005.00001-1.png"]
    assert "HAADF-STEM image of MoS2" in text
    assert "STM image of graphene" not in text, "a caption that may not be passed on"
    assert f"https://arxiv.org/html/{PRIVATE}v1/x1.png" in text
    assert "2005.00003" not in text, "withdrawn"
    assert "Resistivity" not in text
    assert 'width="20" height="30"' in text
    assert "Harvested from a.test.\n" in text
    assert "These papers do not come from arXiv" in text


def test_the_page_stands_alone(tables: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    build_literature_gallery(folder, **tables, open_blob=lambda blob: tmp_path / blob)
    parser = _Links()
    parser.feed((folder / "index.html").read_text("utf-8"))
    assert parser.files
    assert all((folder / file).is_file() for file in parser.files)


def test_the_newest_figures_are_kept_and_none_is_well(tables: dict[str, Any], tmp_path: Path) -> None:
    one = LiteratureGalleryParameters(maximum_figures=1)
    shown = {"open_blob": lambda blob: tmp_path / blob, "parameters": one}
    build_literature_gallery(tmp_path / "one", **tables, **shown, asked=["https://oaipmh.arxiv.org/oai"])
    text = (tmp_path / "one" / "index.html").read_text("utf-8")
    assert re.findall(r"arXiv:([\d.]+)v", text) == [PRIVATE]
    assert "2 figures" in text
    assert "do not come from arXiv" not in text
    nothing = {**tables, "figures": tables["figures"].head(0)}
    assert build_literature_gallery(tmp_path / "none", **nothing, **shown)[0]["n_items"] == 0


def test_pictures_that_browsers_do_not_show_are_copied_as_png(tables: dict[str, Any], tmp_path: Path) -> None:
    free = {"is_redistributable": pl.lit(True)}
    freed = {
        **tables,
        "figures": tables["figures"].with_columns(**free),
        "images": tables["images"].with_columns(**free),
    }
    build_literature_gallery(tmp_path / "gallery", **freed, open_blob=lambda blob: tmp_path / blob)
    with Image.open(tmp_path / "gallery" / "pictures" / f"figure-{PRIVATE}-1.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (60, 30))


def test_the_end_table_has_a_line_for_each_figure(literature_tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with snapshot(lake) as connection:
        assert mined_figures(connection) is None
    names = ("papers", "figures", "panels", "mentions")
    rows = links_rows(*(literature_tables[f"literature/{name}"].lazy() for name in names))
    lake.publish(LITERATURE_LINKS, table(LITERATURE_LINKS).from_rows(list(rows)), version=Version(code_version="1"))
    console = Console(width=120, record=True, file=io.StringIO())
    with snapshot(lake) as connection:
        console.print(mined_figures(connection))
    text = console.export_text()
    assert "2 of 2" in text
    assert re.search(r"2005\.00002 +1 +Title of 2005\.00002 +STM +C, Cu", text)
