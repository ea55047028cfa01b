"""The captions of the authored corpus with what a person says of them, in the form of the labelled captions.

Belongs here: a second authored set for the scores of the caption extractor, of other wording and whole figures::

    python -m atomvision_ml.literature.double.labels > corpus.jsonl
    python -m atomvision_ml.literature.scoring corpus.jsonl
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from atomvision_ml.literature.double.build import CORPUS, MANUSCRIPTS
from atomvision_ml.literature.double.manuscript import FigureText, Manuscript, PanelText, load_manuscripts
from atomvision_ml.literature.extraction import whole_caption
from atomvision_ml.literature.tex import figures_of_archive

Row = dict[str, Any]
_STRATA = (("stm", {"STM"}), ("stem_tem", {"STEM", "HRTEM", "TEM"}), ("other_microscopy", {"SEM", "AFM"}))


def labelled_captions() -> list[Row]:
    """Every distinct caption of a paper with its truth; see ``docs/literature_labels.md`` for the form."""
    rows: dict[tuple[str, str], Row] = {}
    for manuscript in load_manuscripts(MANUSCRIPTS):
        for version in range(1, len(manuscript.versions) + 1):
            source = CORPUS / manuscript.slug / f"v{version}" / "src"
            if source.is_dir():
                for row in _rows(manuscript, version, source):
                    rows.setdefault((manuscript.id, row["caption"]), row)
    return list(rows.values())


def _rows(manuscript: Manuscript, version: int, source: Path) -> list[Row]:
    members = [path for path in sorted(source.rglob("*")) if path.is_file()]
    names = {path: path.relative_to(source).as_posix() for path in members}
    texts = {name: path.read_text(encoding="utf-8") for path, name in names.items() if path.suffix == ".tex"}
    found = figures_of_archive(texts, set(names.values()))
    return [
        {
            "id": f"{manuscript.id}v{version}:{place}",
            "stratum": _stratum(figure),
            "provenance": "authored",
            "caption": whole_caption(source_figure),
            "is_relevant": figure.relevant,
            "panels": [_panel(panel) for plate in figure.plates for panel in plate.panels],
        }
        for place, (source_figure, figure) in enumerate(zip(found, manuscript.figures_of(version), strict=True), 1)
    ]


def _stratum(figure: FigureText) -> str:
    shown = {panel.shows for plate in figure.plates for panel in plate.panels}
    return next((name for name, modalities in _STRATA if shown & modalities), "no_micrograph")


def _panel(panel: PanelText) -> Row:
    row = panel.truth()
    if panel.bar is not None and panel.bar_in != "image":
        row["scale_bar"] = {"value": panel.bar, "unit": panel.unit}
    return row


if __name__ == "__main__":
    for labelled in labelled_captions():
        print(json.dumps(labelled, ensure_ascii=False))
