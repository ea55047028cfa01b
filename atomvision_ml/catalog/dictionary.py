"""Documentation generated from the table dictionary: one HTML page for each table and view, and an index."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from atomvision_ml.catalog.views import VIEWS
from atomvision_ml.schemas.core import Column
from atomvision_ml.schemas.tables import TABLES
from atomvision_ml.storage.keys import page_name, view_name


def build_dictionary(folder: Path) -> list[dict[str, Any]]:
    """Write the pages into the folder (made if missing); start at ``index.html``.

    Returns:
        The rows of ``catalog/dictionary`` without ``blob``, one for each column of each table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pages = _pages()
    environment = Environment(
        loader=PackageLoader("atomvision_ml.catalog"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["prose"] = _prose
    page = environment.get_template("page.html.j2")
    for entry in pages:
        (folder / entry["page"]).write_text(page.render(entry=entry, pages=pages), encoding="utf-8")
    domains = dict.fromkeys(entry["name"].split(".")[0] for entry in pages)
    index = environment.get_template("index.html.j2").render(pages=pages, domains=domains)
    (folder / "index.html").write_text(index, encoding="utf-8")
    return [
        {
            "asset_key": key,
            "view": view_name(key),
            "column_name": column.name,
            "type": str(column.type),
            "unit": column.unit,
            "is_nullable": column.nullable,
            "constraints": constraints(column),
            "description": column.description,
            "page": page_name(key),
        }
        for key, table in TABLES.items()
        for column in table.columns
    ]


def constraints(column: Column) -> str | None:
    """The column's rules in words; None if it has none."""
    rules = ["unique"] if column.unique else []
    if column.minimum is not None:
        rules.append(f"≥ {column.minimum:g}")
    if column.maximum is not None:
        rules.append(f"≤ {column.maximum:g}")
    if column.one_of is not None:
        rules.append("one of " + ", ".join(column.one_of))
    return "; ".join(rules) or None


def _pages() -> list[dict[str, Any]]:
    tables = [
        {
            "name": view_name(key),
            "page": page_name(key),
            "key": key,
            "description": table.description,
            "dimension": table.dimension,
            "columns": _columns(table.columns),
            "sql": None,
            "bases": [],
            "used_by": [view.name for view in VIEWS if key in view.bases],
        }
        for key, table in TABLES.items()
    ]
    views = [
        {
            "name": view.name,
            "page": f"{view.name}.html",
            "key": None,
            "description": view.description,
            "dimension": None,
            "columns": _columns(view.columns),
            "sql": view.sql.strip(),
            "bases": [view_name(key) for key in view.bases],
            "used_by": [],
        }
        for view in VIEWS
    ]
    return tables + views


def _columns(columns: tuple[Column, ...]) -> list[dict[str, Any]]:
    return [
        {
            "name": column.name,
            "type": str(column.type),
            "unit": column.unit or "",
            "rules": "; ".join(filter(None, ["may be null" if column.nullable else "", constraints(column)])),
            "description": column.description,
        }
        for column in columns
    ]


_NAMES = tuple(view_name(key) for key in TABLES) + tuple(view.name for view in VIEWS)
_LINK = re.compile(r"(?<![\w.])(" + "|".join(re.escape(name) for name in sorted(_NAMES, reverse=True)) + r")(?![\w])")


def _prose(text: str) -> Markup:
    """Plain text to HTML: escaped, `code` as code, names of tables as links to their pages."""
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(_LINK.sub(r'<a href="\1.html">\1</a>', safe))
