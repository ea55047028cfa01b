"""What a caption says of its figure: panels, their modality, their materials and their scale bars.

Belongs here: the extractor as a whole, made of :mod:`.captions`, :mod:`.modality`, :mod:`.chemistry` and
:mod:`.scale_statements`; and its speed.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.literature.captions import CaptionParts, PanelText, distribute
from atomvision_ml.literature.chemistry import Mention, constituents_of, find_materials
from atomvision_ml.literature.modality import is_relevant_figure, panel_modalities
from atomvision_ml.literature.scale_statements import ScaleBar, scale_bars_of
from atomvision_ml.schemas.vocabulary import Modality

_AND = re.compile(r"(?<!\bbetween)(?:,\s(?:and\s)?|\sand\s)")


class Panel(BaseModel):
    """A panel as its caption tells it."""

    model_config = ConfigDict(frozen=True)

    label: str = Field(description="As written, without brackets; empty for a figure of one panel.")
    text: str = Field(description="Its own words.")
    label_confidence: float = Field(ge=0, le=1)
    modality: Modality
    modality_confidence: float = Field(ge=0, le=1)
    materials: tuple[Mention, ...] = Field(description="Each formula once per role.")
    scale_bar: ScaleBar | None = Field(default=None, description="Where the caption states it.")


class FigureUnderstanding(BaseModel):
    """A caption understood."""

    model_config = ConfigDict(frozen=True)

    preamble: str
    is_relevant: bool = Field(description="At least one STM, STEM, HRTEM or TEM image of a material.")
    panels: tuple[Panel, ...]


def understand(caption: str) -> FigureUnderstanding:
    """Divide a caption and find out what its panels show.

    Args:
        caption: the whole caption, plain or with remains of TeX.
    """
    parts = distribute(caption)
    modalities = panel_modalities(parts)
    materials = _materials(parts)
    bars = scale_bars_of(parts, modalities)
    return FigureUnderstanding(
        preamble=parts.preamble,
        is_relevant=is_relevant_figure(parts, modalities),
        panels=tuple(
            Panel(
                label=panel.label,
                text=panel.text,
                label_confidence=panel.confidence,
                modality=modality.modality,
                modality_confidence=modality.confidence,
                materials=found,
                scale_bar=bars.get(panel.label),
            )
            for panel, modality, found in zip(parts.panels, modalities, materials, strict=True)
        ),
    )


def captions_per_second(captions: Sequence[str], repeats: int = 3) -> float:
    """Captions understood per second of one core: the best of some repeats, in processor time.

    Args:
        captions: what is understood; the patterns are compiled before the clock starts.
        repeats: how often.
    """
    for caption in captions[:1]:
        understand(caption)
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        for caption in captions:
            understand(caption)
        seconds.append(time.process_time() - start)
    return len(captions) / min(seconds)


def _materials(parts: CaptionParts) -> list[tuple[Mention, ...]]:
    """The materials of each panel: of the preamble, of its own words, and of those of its sentence if it has none."""
    texts = dict.fromkeys(
        text for text in (parts.preamble, *(each for panel in parts.panels for each in _texts(panel))) if text
    )
    constituents: frozenset[str] = frozenset().union(*(constituents_of(text) for text in texts))
    found = {text: find_materials(text, constituents) for text in texts}
    shared = found.get(parts.preamble, [])
    together: dict[str, list[str]] = {}
    for panel in parts.panels:
        together.setdefault(panel.text, []).append(panel.label)
    result = []
    for panel in parts.panels:
        own: Sequence[Mention] = found.get(panel.text, [])
        labels = together[panel.text]
        if len(labels) > 1 and len(own) > 1:
            own = _dealt(panel.text, own, len(labels), labels.index(panel.label))
        if not own:
            own = found.get(panel.shared, [])
        mentions = [*shared, *own, *found.get(panel.remarks, [])]
        result.append(tuple({(each.formula, each.role): each for each in reversed(mentions)}.values())[::-1])
    return result


def _dealt(text: str, mentions: Sequence[Mention], count: int, place: int) -> Sequence[Mention]:
    """Of as many materials as labels, joined by "and", each label has its own; else all have all."""
    borders = [0, *(match.end() for match in _AND.finditer(text)), len(text)]
    parts = [
        part
        for start, end in itertools.pairwise(borders)
        if (part := [mention for mention in mentions if start <= mention.start < end])
    ]
    return parts[place] if len(parts) == count else mentions


def _texts(panel: PanelText) -> tuple[str, ...]:
    return panel.text, panel.shared, panel.remarks
