"""What kind of picture a panel is, from words alone; and whether a paper is about such pictures.

Belongs here: the words of each modality, and the guards against their namesakes: STEM education and stem cells, STM for
short-term memory, SEM for a standard error, TEM00 modes, AFM for antiferromagnetic. Abbreviations are case-sensitive.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.literature.captions import CaptionParts

Modality = Literal["STM", "STEM", "HRTEM", "TEM", "SEM", "AFM", "diffraction", "plot", "schematic", "other"]

MICROSCOPY: tuple[Modality, ...] = ("STM", "STEM", "HRTEM", "TEM")
"""What the corpus is about."""


class PanelModality(BaseModel):
    """What a panel is said to be."""

    model_config = ConfigDict(frozen=True)

    label: str
    modality: Modality
    confidence: float = Field(ge=0, le=1)


def without_namesakes(text: str) -> str:
    """The text without words that only look like a modality."""
    return _vocabulary()[1].sub(" ", text)


def modalities(text: str) -> list[Modality]:
    """The modalities that a text names, in the order in which they are named first."""
    clean = without_namesakes(text)
    found = [
        (match.start(), name) for name, pattern in _vocabulary()[0] if (match := pattern.search(clean)) is not None
    ]
    return [name for _, name in sorted(found)]


def panel_modalities(parts: CaptionParts) -> list[PanelModality]:
    """The modality of each panel: of its own words first, then of what is said of all, then of the panel before.

    Args:
        parts: the caption, divided.
    """
    shared = modalities(parts.preamble)
    found: list[PanelModality] = []
    for panel in parts.panels:
        own = modalities(panel.text)
        name: Modality = "other"
        confidence = 0.5
        if own:
            name, confidence = own[0], 0.95 if len(own) == 1 else 0.85
        elif shared:
            name, confidence = shared[0], 0.8 if len(shared) == 1 else 0.6
        elif found:
            name = found[-1].modality
        found.append(PanelModality(label=panel.label, modality=name, confidence=confidence))
    return found


def is_relevant(text: str) -> bool:
    """Whether a text (abstract, title, caption) speaks of STM, STEM, HRTEM or TEM, and not of a namesake."""
    return any(name in MICROSCOPY for name in modalities(text))


@cache
def _vocabulary() -> tuple[list[tuple[Modality, re.Pattern[str]]], re.Pattern[str]]:
    """The patterns of the modalities, and that of their namesakes."""
    import yaml

    words = yaml.safe_load((Path(__file__).parent / "modalities.yaml").read_text(encoding="utf-8"))
    patterns = [
        (each["name"], re.compile(rf"\b(?:{'|'.join(map(_any_case, each['words']))})\b"))
        for each in words["modalities"]
    ]
    return patterns, re.compile("|".join(words["namesakes"]))


def _any_case(word: str) -> str:
    """Words are words in any case; abbreviations are not."""
    return f"(?i:{word})" if word == word.lower() else word
