"""Where each database is found: in a folder by file name, else at its public address."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from atomvision_ml.structures.sources.files import SourceUnavailableError

_COMPRESSED = r"(?:\.(?:zip|gz|bz2|xz))?"


@dataclass(frozen=True)
class Database:
    """What is known of one structure database.

    ``pattern`` matches its file names, ``hint`` a folder name that speaks for it where several files match;
    ``address`` is the public address of the dump and ``file_name`` the name that a download gets; ``note`` is for
    people who cannot download it.
    """

    source: str
    title: str
    pattern: re.Pattern[str]
    hint: str
    address: str
    file_name: str
    reference: str
    licence: str
    note: str = ""


@dataclass(frozen=True)
class Found:
    """A dump on this machine and the name or address that its records show as their origin."""

    path: Path
    origin: str


DATABASES = {
    database.source: database
    for database in (
        Database(
            source="jarvis_dft_2d",
            title="JARVIS-DFT 2D",
            pattern=re.compile(rf"(?:jarvis_|j)?(?:dft_2d|d2-\d)[\w-]*(?:\.json{_COMPRESSED}|\.zip)", re.I),
            hint="jarvis",
            address="https://ndownloader.figshare.com/files/38521268",
            file_name="dft_2d.json.zip",
            reference="JARVIS-DFT 2D, https://doi.org/10.6084/m9.figshare.6815705",
            licence="not stated in the dump; see the terms at https://doi.org/10.6084/m9.figshare.6815705",
        ),
        Database(
            source="c2db",
            title="C2DB",
            pattern=re.compile(rf"c2db(?:[\w.-]*?\.(?:db|sqlite3?){_COMPRESSED}|\.zip)", re.I),
            hint="c2db",
            address="https://cmr.fysik.dtu.dk/_downloads/9aa16654ee19990db4180e59da4490e8/c2db.db",
            file_name="c2db.db",
            reference=(
                "Computational 2D Materials Database: Haastrup et al., 2D Materials 5, 042002 (2018); "
                "Gjerding et al., 2D Materials 8, 044002 (2021)"
            ),
            licence="not stated in the dump; see the terms at https://cmr.fysik.dtu.dk/c2db/c2db.html",
            note=" Its authors give the full file on request: https://cmr.fysik.dtu.dk/c2db/c2db.html.",
        ),
        Database(
            source="twodmatpedia",
            title="2DMatPedia",
            pattern=re.compile(rf"(?:db|(?:2d|twod)matpedia[\w-]*)\.jsonl?{_COMPRESSED}|2dmatpedia\.zip", re.I),
            hint="2dmatpedia",
            address="http://www.2dmatpedia.org/static/db.json.gz",
            file_name="db.json.gz",
            reference="2DMatPedia, https://www.nature.com/articles/s41597-019-0097-3",
            licence="not stated in the dump; see the terms at http://www.2dmatpedia.org",
        ),
    )
}


def find(database: Database, folder: Path) -> Path | None:
    """The dump below the folder, at any depth; None if there is none.

    Several matches: first those below a folder named after the database, then the least deep, then by name.

    Raises:
        SourceUnavailableError: the folder does not exist.
    """
    if not folder.is_dir():
        raise SourceUnavailableError(f"ATOMVISION_SOURCES={folder} is not a folder; correct it or unset it")
    matches = [
        Path(parent) / name
        for parent, _, names in os.walk(folder)
        for name in names
        if database.pattern.fullmatch(name) and (Path(parent) / name).is_file()
    ]
    return min(matches, key=lambda path: _rank(path.relative_to(folder), database.hint), default=None)


def _rank(path: Path, hint: str) -> tuple[bool, int, str]:
    return hint not in str(path).lower(), len(path.parts), str(path)


def obtain(database: Database, folder: Path | None, scratch: Path) -> Found:
    """The dump found below the folder, or downloaded into scratch.

    Raises:
        SourceUnavailableError: neither is possible; the message says what to do.
    """
    path = find(database, folder) if folder is not None else None
    if path is not None:
        return Found(path, path.name)
    from atomvision_ml.structures.sources.download import DownloadError, download

    try:
        provenance = download(database.address, scratch / database.file_name)
    except DownloadError as error:
        where = f"below {folder}" if folder is not None else "below a folder and set ATOMVISION_SOURCES to it"
        raise SourceUnavailableError(
            f"{database.title} is not on this machine and could not be downloaded from {database.address}: {error}. "
            f"Put its dump ({database.file_name}, plain or compressed) {where}, then materialise again.{database.note}"
        ) from error
    return Found(scratch / database.file_name, provenance.url)
