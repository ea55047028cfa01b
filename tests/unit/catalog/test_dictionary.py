"""Pages and rows generated from the table dictionary."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from atomvision_ml.catalog.dictionary import build_dictionary, constraints
from atomvision_ml.catalog.views import VIEWS
from atomvision_ml.schemas.tables import TABLES, table


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "br"}:
            self.open.append(tag)
        self.links += [value for name, value in attrs if name == "href" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    folder: Path = tmp_path_factory.mktemp("pages")
    build_dictionary(folder / "new")
    return {path.name: Page(path.read_text(encoding="utf-8")) for path in (folder / "new").iterdir()}


def test_one_row_for_each_column_and_they_fit_their_own_table(tmp_path: Path) -> None:
    rows = build_dictionary(tmp_path)
    assert len(rows) == sum(len(entry.columns) for entry in TABLES.values())
    assert table("catalog/dictionary").from_rows([{**row, "blob": "x"} for row in rows]).num_rows == len(rows)
    assert all((tmp_path / row["page"]).is_file() for row in rows)


def test_every_table_and_view_has_a_page_and_every_link_leads_somewhere(pages: dict[str, Page]) -> None:
    names = {f"{key.replace('/', '.')}.html" for key in TABLES} | {f"{view.name}.html" for view in VIEWS}
    assert set(pages) == names | {"index.html"}
    assert set(pages["index.html"].links) >= names
    for page in pages.values():
        assert set(page.links) <= set(pages)


def test_pages_say_what_the_dictionary_says(pages: dict[str, Page]) -> None:
    for key, entry in TABLES.items():
        text = pages[f"{key.replace('/', '.')}.html"].text
        assert key in text
        for column in entry.columns:
            assert column.name in text
            assert column.description.replace("`", "") in text
    stem = pages["images.stem.html"]
    assert "structures.slabs.html" in stem.links
    assert "images.stem_atoms.html" in stem.links
    assert "<slab_id>#<n>" in stem.text


def test_constraints_are_told_in_words() -> None:
    slabs = table("structures/slabs")
    assert constraints(slabs.column("space_group_number")) == "≥ 1; ≤ 230"
    assert constraints(slabs.column("vacuum_axis")) == "one of a, b, c"
    assert constraints(slabs.column("formula")) is None
    assert constraints(slabs.column("slab_id")) == "unique"


def test_the_pages_are_the_same_every_time(tmp_path: Path) -> None:
    build_dictionary(tmp_path / "a")
    build_dictionary(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
