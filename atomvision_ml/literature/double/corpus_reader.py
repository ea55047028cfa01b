"""The papers that the double serves, as they lie on disk.

Belongs here: the form of the corpus, one folder for each paper: ``paper.yaml`` with what arXiv's metadata say, and for
each version ``v<n>/html/`` (page and converted images), ``v<n>/src/`` (files of the source) or ``v<n>/paper.pdf``. What
is absent there is missing on the server too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from atomvision_ml.literature.identifiers import ArxivId, parse_arxiv_id
from atomvision_ml.literature.oai import EARLIEST_DAY

CORPUS = Path(__file__).parent / "corpus"
"""The corpus that comes with this package."""
NAME = r"(?P<base>\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7})(?:v(?P<version>[1-9]\d*))?"
"""How requests name a paper: as an identifier looks like, whether or not there can be such a month."""


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class HeldVersion(BaseModel):
    """One version of a paper."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(ge=1)
    submitted_at: Annotated[datetime, AfterValidator(_utc)]
    size: str | None = Field(default=None, description="As arXiv writes it, e.g. `123kb`.")
    source_type: str | None = Field(default=None, description="arXiv's letters for the kind of source.")
    license: str | None = Field(default=None, description="Address of the licence.")


class HeldPaper(BaseModel):
    """One paper as arXiv knows it; names as in arXiv's own replies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    submitter: str
    title: str
    authors: str = Field(description="One string, as in arXivRaw.")
    author_list: tuple[str, ...]
    abstract: str
    categories: tuple[str, ...] = Field(min_length=1, description="The primary one first.")
    comments: str | None = None
    journal_ref: str | None = None
    doi: str | None = None
    report_no: str | None = None
    datestamp: date = Field(description="Day of the record's last change.")
    is_withdrawn: bool = Field(default=False, description="Whether the newest version has no text.")
    is_deleted: bool = Field(default=False, description="Whether OAI-PMH shows a header only.")
    versions: tuple[HeldVersion, ...] = Field(min_length=1)

    @property
    def newest(self) -> HeldVersion:
        """The newest version."""
        return self.versions[-1]

    def until(self, day: date) -> HeldPaper | None:
        """The paper as it was at the end of a day; None if it was not there yet."""
        versions = tuple(version for version in self.versions if version.submitted_at.date() <= day)
        if not versions:
            return None
        if len(versions) == len(self.versions) and self.datestamp <= day:
            return self
        is_whole = len(versions) == len(self.versions)
        changes = {
            "versions": versions,
            "datestamp": max(EARLIEST_DAY, versions[-1].submitted_at.date()),
            "is_withdrawn": self.is_withdrawn and is_whole,
            "comments": self.comments if is_whole else None,
        }
        return self.model_copy(update=changes)


@dataclass(frozen=True)
class Corpus:
    """Papers and their files.

    Attributes:
        folder: with one folder for each paper.
        papers: ordered by identifier.
    """

    folder: Path
    papers: tuple[HeldPaper, ...]

    @cached_property
    def by_id(self) -> dict[str, HeldPaper]:
        """The papers by identifier."""
        return {paper.id: paper for paper in self.papers}

    def until(self, day: date) -> Corpus:
        """The corpus as it was at the end of a day: later versions and papers are not there yet."""
        return replace(self, papers=tuple(paper for held in self.papers if (paper := held.until(day)) is not None))

    def with_paper(self, paper: HeldPaper) -> Corpus:
        """The corpus with one paper added, or changed if it has it already."""
        papers = {**self.by_id, paper.id: paper}
        return replace(self, papers=tuple(papers[name] for name in sorted(papers)))

    def page_file(self, name: ArxivId, path: str) -> Path | None:
        """A file of a version's HTML page; pictures that need no conversion lie with the source only."""
        return self._file(name, f"html/{path}") or (None if path == "index.html" else self._file(name, f"src/{path}"))

    def pdf_file(self, name: ArxivId) -> Path | None:
        """The PDF of a version that has no source."""
        return self._file(name, "paper.pdf")

    def source_files(self, name: ArxivId) -> dict[str, Path]:
        """Files of a version's source by member name, in order of their names; none without source."""
        folder = self._version_folder(name) / "src"
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path for path in files}

    def _file(self, name: ArxivId, path: str) -> Path | None:
        parts = PurePosixPath(path).parts
        if ".." in parts or path.startswith("/") or "\0" in path:
            return None
        found = self._version_folder(name).joinpath(*parts)
        return found if found.is_file() else None

    def _version_folder(self, name: ArxivId) -> Path:
        return self.folder / name.base.replace("/", "_") / f"v{name.version}"


def read_corpus(folder: Path | None = None) -> Corpus:
    """Read a corpus.

    Args:
        folder: with one folder for each paper; None: the one of this package.

    Raises:
        ValueError: no corpus, or a paper that is not of the form above; the message names the file.
    """
    chosen = folder or CORPUS
    papers = [_paper(path) for path in sorted(chosen.glob("*/paper.yaml"))]
    if not papers:
        raise ValueError(f"{chosen} has no papers: expected <paper>/paper.yaml")
    return Corpus(chosen, tuple(sorted(papers, key=lambda paper: paper.id)))


def _paper(path: Path) -> HeldPaper:
    try:
        content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        paper = HeldPaper.model_validate(content)
        parse_arxiv_id(paper.id)
    except (yaml.YAMLError, ValidationError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    numbers = [version.version for version in paper.versions]
    if numbers != list(range(1, len(numbers) + 1)):
        raise ValueError(f"{path}: the versions are {numbers}, not 1, 2, …")
    if paper.id.replace("/", "_") != path.parent.name:
        raise ValueError(f"{path}: the paper {paper.id} does not lie in a folder of its name")
    return paper
