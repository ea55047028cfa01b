"""Writing a page of the gallery from its template."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write one page from a template of the gallery."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    path.write_text(environment.get_template(template).render(**values), encoding="utf-8")
