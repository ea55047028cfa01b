"""Manuscripts of the authored corpus: what a person wrote, before anything was built of it.

Belongs here: their form. One YAML file holds a paper with all its versions, the pictures of its figures, and what a
person says that each panel shows. Panels are written in short: ``of: MoS2; Au substrate; C =graphene sample`` are three
materials, ``draw: stem of=MoS2-2H vacancies=3`` is a picture with its arguments.
"""

from __future__ import annotations

import shlex
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.literature.double.plates import NM, PanelDrawing, PlateStyle
from atomvision_ml.schemas.vocabulary import MODALITIES

ROLES = ("sample", "substrate", "tip", "support")


class PanelText(BaseModel):
    """A panel: what it shows, as a person says, and how it is drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str = Field(default="", description="As the caption writes it, without brackets.")
    shows: str = Field(description="Its modality.")
    of: str = Field(default="", description="Materials: formula, `=name` and role, separated by semicolons.")
    facets: tuple[str, ...] = ()
    draw: str = Field(description="Picture and its arguments.")
    nm: float | None = Field(default=None, description="Edge of the field of view.")
    bar: float | None = Field(default=None, description="Length of its scale bar in `unit`.")
    unit: str = "nm"
    bar_in: Literal["image", "caption", "both"] = Field(default="image", description="Where its length is written.")
    letter: str | None = Field(default=None, description="Letter drawn, where it is not the label.")

    def drawing(self) -> PanelDrawing:
        """What the picture needs."""
        picture, *words = shlex.split(self.draw)
        arguments = dict(word.split("=", 1) for word in words)
        return PanelDrawing(
            letter=self.label if self.letter is None else self.letter,
            picture=picture,
            parameters={name: yaml.safe_load(value) for name, value in arguments.items()},
            field_nm=self.nm,
            bar=self.bar,
            bar_unit=self.unit,
            is_bar_labelled=self.bar_in != "caption",
        )

    def truth(self) -> dict[str, Any]:
        """Modality, materials and facets.

        Raises:
            ValueError: no such modality.
        """
        if self.shows not in MODALITIES:
            raise ValueError(f"panel {self.label!r}: {self.shows!r} is none of {', '.join(MODALITIES)}")
        materials = [_material(words) for words in self.of.split(";") if words.strip()]
        return {"label": self.label, "modality": self.shows, "formulas": materials, "facets": list(self.facets)}

    def scale_bar(self, length_px: int | None) -> dict[str, Any] | None:
        """The truth of its scale bar; None without one."""
        if self.bar is None:
            return None
        return {
            "length_nm": self.bar * NM[self.unit] if self.unit in NM else None,
            "length_px": length_px,
            "is_in_image": self.bar_in != "caption",
            "is_in_caption": self.bar_in != "image",
        }


class PlateText(PlateStyle):
    """One image file and its panels."""

    file: str = Field(description="Member of the source archive.")
    is_missing: bool = Field(default=False, description="Named in the text and not in the archive.")
    panels: tuple[PanelText, ...]


class FigureText(BaseModel):
    """A figure of the paper, in its order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    relevant: bool = Field(description="At least one STM, STEM, HRTEM or TEM image of a material.")
    versions: tuple[int, ...] = Field(default=(), description="Versions that have it; empty: all.")
    plates: tuple[PlateText, ...]


class VersionText(BaseModel):
    """A version: its date and what its text changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime
    license: str | None = Field(default=None, description="If it differs from the paper's.")
    changes: tuple[tuple[str, str], ...] = Field(default=(), description="Replacements in the text before it.")
    withdrawn: bool = False


class Manuscript(BaseModel):
    """A paper."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    title: str
    authors: tuple[str, ...]
    affiliation: str = ""
    categories: str
    comments: str | None = None
    journal_ref: str | None = None
    doi: str | None = None
    report_no: str | None = None
    license: str | None = None
    datestamp: date | None = Field(default=None, description="Of the OAI header; else a day after the last version.")
    is_candidate: bool = Field(description="Title or abstract name STM, STEM, HRTEM or TEM, namesakes left out.")
    abstract: str
    versions: tuple[VersionText, ...]
    document_class: str = Field(default="[twocolumn]{revtex4-1}", description="Options and name.")
    preamble: str = ""
    text: str = ""
    files: dict[str, str] = Field(default_factory=dict, description="Further members: included TeX files.")
    figures: tuple[FigureText, ...] = ()
    form: Literal["html", "source", "pdf"] = Field(default="html", description="What arXiv delivers of it.")
    has_base: bool = Field(default=True, description="Whether its page has a `base` element.")

    @property
    def slug(self) -> str:
        """Name of its folder."""
        return self.id.replace("/", "_")

    def text_of(self, version: int) -> str:
        """Its text in a version.

        Raises:
            ValueError: a change whose words the text does not have.
        """
        text = self.text
        for step in self.versions[:version]:
            for old, new in step.changes:
                if old not in text:
                    raise ValueError(f"{self.id}: the text has no {old!r} to change")
                text = text.replace(old, new)
        return text

    def figures_of(self, version: int) -> list[FigureText]:
        """The figures of a version."""
        return [figure for figure in self.figures if not figure.versions or version in figure.versions]


def load_manuscripts(folder: Path) -> list[Manuscript]:
    """All manuscripts of a folder, by identifier; one file may hold several documents.

    Raises:
        ValueError: an identifier twice, or a file that is no manuscript; the message names it.
    """
    found: dict[str, Manuscript] = {}
    for path in sorted(folder.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            manuscript = Manuscript.model_validate(document)
            if manuscript.id in found:
                raise ValueError(f"{path.name}: {manuscript.id} is there twice")
            found[manuscript.id] = manuscript
    return list(found.values())


def _material(words: str) -> dict[str, str]:
    formula, *rest = words.split()
    names = [word[1:].replace("_", " ") for word in rest if word.startswith("=")]
    roles = [word for word in rest if word in ROLES]
    if len(names) + len(roles) != len(rest):
        raise ValueError(f"{words.strip()!r} is no formula with =name and one of {', '.join(ROLES)}")
    truth = {"formula": formula, "role": roles[0] if roles else "sample"}
    return {**truth, "name": names[0]} if names else truth
