"""From harvested records to ``literature/papers``: one row for each paper, by the month of its first version.

Belongs here: what a record says of a paper, how a newer record replaces an older one, and the publication of the months
that differ. A harvest may be larger than memory: its records are sorted into months on disk, then each month is made by
itself.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from atomvision_ml.literature.identifiers import parse_arxiv_id
from atomvision_ml.literature.licences import permission
from atomvision_ml.literature.modality import techniques
from atomvision_ml.literature.oai import OaiRecord
from atomvision_ml.schemas.tables import table
from atomvision_ml.schemas.vocabulary import FIRST_MONTH
from atomvision_ml.storage.keys import LITERATURE_PAPERS
from atomvision_ml.storage.lake import Lake, Version, always
from atomvision_ml.storage.versions import content_sha256

CODE_VERSION = "1"
"""Of everything that is read out of a record; a new one makes all months anew at the next harvest."""

Row = dict[str, Any]

_WITHDRAWN = re.compile(
    r"^(?:[Tt]his\s+)?(?:(?:paper|article|submission|manuscript|work|version|preprint)\s+)?"
    r"(?:has been\s+|is\s+|was\s+)?[Ww]ithdrawn\b"
)
_EMPTY = re.compile(r"^0\s?kb$", re.IGNORECASE)
_BATCH = 2500


def update_papers(
    lake: Lake, records: Iterable[OaiRecord], folder: Path, *, may_publish: Callable[[], bool] = always
) -> list[str]:
    """Publish every month that the records change.

    Args:
        lake: where the papers are published.
        records: of a whole harvest, in its order.
        folder: for unfinished work; with the same folder a stopped update goes on.
        may_publish: asked before each publication.

    Returns:
        The months that changed, sorted; of an update that was stopped, also those of its first part.

    Raises:
        PublicationRefusedError: this run may no longer publish.
        ContractError: a record does not fit the dictionary.
    """
    changed = folder / "changed"
    changed.mkdir(parents=True, exist_ok=True)
    published = set(lake.partitions(LITERATURE_PAPERS))
    outdated = {month for month in published if lake.facts(LITERATURE_PAPERS, month).code_version != CODE_VERSION}
    for month in sorted(_sorted_by_month(records, folder / "months") | outdated):
        former = lake.scan(LITERATURE_PAPERS, month).collect().to_dicts() if month in published else []
        rows = table(LITERATURE_PAPERS).from_rows(merged(former, _records_of(month, folder / "months")))
        if rows.num_rows == 0:
            continue
        is_known = month in published and month not in outdated
        if is_known and lake.facts(LITERATURE_PAPERS, month).content_sha256 == content_sha256(rows):
            continue
        (changed / month).touch()
        version = Version(code_version=CODE_VERSION)
        lake.publish(LITERATURE_PAPERS, rows, version=version, partition=month, may_publish=may_publish)
    return sorted(path.name for path in changed.iterdir())


def merged(former: Sequence[Row], records: Iterable[OaiRecord]) -> list[Row]:
    """The rows of a month after a harvest, ordered by identifier; the newest record of a paper decides.

    Args:
        former: rows of ``literature/papers``.
        records: in the order in which they came; those of deleted papers that are not known are left out.
    """
    rows = {row["arxiv_id"]: row for row in former}
    for record in records:
        known = rows.get(record.arxiv_id)
        if known is not None and record.datestamp < known["datestamp"]:
            continue
        if not record.is_deleted:
            rows[record.arxiv_id] = _row(record)
        elif known is not None:
            rows[record.arxiv_id] = {**known, "datestamp": record.datestamp, "is_withdrawn": True}
    return [{**row, **_read_out(row)} for _, row in sorted(rows.items())]


def month_of(record: OaiRecord) -> str:
    """Month of the first version, ``YYYY-MM`` (UTC); what is dated before arXiv began stands in its first month."""
    return max(f"{record.versions[0].submitted_at:%Y-%m}", FIRST_MONTH)


def _row(record: OaiRecord) -> Row:
    newest = record.versions[-1]
    return {
        "month": month_of(record),
        "arxiv_id": record.arxiv_id,
        "datestamp": record.datestamp,
        "first_version_at": record.versions[0].submitted_at,
        "latest_version": newest.version,
        "latest_version_at": newest.submitted_at,
        "versions": [version.model_dump() for version in record.versions],
        "title": record.title,
        "authors": record.authors,
        "abstract": record.abstract,
        "categories": list(record.categories),
        "comments": record.comments,
        "journal_reference": record.journal_reference,
        "doi": record.doi,
        "licence_url": record.licence_url,
        "is_withdrawn": bool(_EMPTY.match(newest.size or "") or _WITHDRAWN.match(record.comments or "")),
    }


def _read_out(row: Row) -> Row:
    """What follows from a record: it is made anew with each publication of the month."""
    allowed = permission(row["licence_url"])
    named = techniques(f"{row['title']}. {row['abstract']}")
    return {
        "licence": allowed.licence,
        "is_redistributable": allowed.is_redistributable,
        "techniques": list(named),
        "is_candidate": bool(named) and not row["is_withdrawn"],
    }


def _sorted_by_month(records: Iterable[OaiRecord], folder: Path) -> set[str]:
    """Write the records to one file for each month, in their order."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for batch in _batches(records):
        for month, lines in batch.items():
            with (folder / month).open("a", encoding="utf-8") as file:
                file.writelines(lines)
    return {path.name for path in folder.iterdir()}


def _batches(records: Iterable[OaiRecord]) -> Iterator[dict[str, list[str]]]:
    batch: dict[str, list[str]] = defaultdict(list)
    for number, record in enumerate(records, start=1):
        for month in _possible_months(record):
            batch[month].append(record.model_dump_json() + "\n")
        if number % _BATCH == 0:
            yield batch
            batch = defaultdict(list)
    yield batch


def _possible_months(record: OaiRecord) -> list[str]:
    """The month of a record; of a deleted one, whose dates are gone, those that its identifier leaves open."""
    if not record.is_deleted:
        return [month_of(record)]
    named = parse_arxiv_id(record.arxiv_id).month
    year, month = (int(part) for part in named.split("-"))
    before = f"{year}-{month - 1:02d}" if month > 1 else f"{year - 1}-12"
    return [each for each in (before, named) if each >= FIRST_MONTH]


def _records_of(month: str, folder: Path) -> Iterator[OaiRecord]:
    path = folder / month
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield OaiRecord.model_validate_json(line)
