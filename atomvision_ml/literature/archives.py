"""What ``/src/`` delivers: recognised by its bytes, unpacked within limits, nothing of it ever written to disk.

Belongs here: tar archives (plain or gzip), single files (plain or gzip), PDF and what has no TeX. Archives come from
strangers: sizes, numbers and ratios are bounded while unpacking, links and devices are left out, names are never used
as paths.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from dataclasses import dataclass
from posixpath import normpath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["tex", "pdf", "postscript", "html", "other"]

_GZIP = b"\x1f\x8b"
_TAR_MAGIC = slice(257, 262)


class ArchiveError(ValueError):
    """The archive is damaged or exceeds a limit; the message says which."""


class ArchiveLimits(BaseModel):
    """What is accepted; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    maximum_members: int = Field(default=2000, ge=1, description="Files in an archive.")
    maximum_bytes: int = Field(default=500 * 2**20, ge=1, description="Bytes of all files, unpacked.")
    maximum_ratio: float = Field(default=200.0, ge=1, description="Unpacked over packed size, beyond the first MiB.")
    maximum_text_bytes: int = Field(default=8 * 2**20, ge=1, description="Bytes of one TeX file.")


@dataclass(frozen=True)
class Source:
    """An unpacked source.

    Attributes:
        kind: ``tex`` if there is a TeX file in it.
        texts: text of the TeX files by member name.
        names: names of all members.
    """

    kind: Kind
    texts: dict[str, str]
    names: frozenset[str]


def read_source(data: bytes, limits: ArchiveLimits | None = None) -> Source:
    """Unpack what ``/src/<id>`` delivered.

    Args:
        data: the body of the reply.
        limits: what is accepted.

    Raises:
        ArchiveError: damaged, or beyond the limits.
    """
    chosen = limits or ArchiveLimits()
    plain = _unzipped(data, chosen) if data.startswith(_GZIP) else data
    if plain[_TAR_MAGIC] == b"ustar":
        return _from_tar(plain, chosen)
    kind = _kind(plain)
    if kind != "tex":
        return Source(kind, {}, frozenset())
    return Source("tex", {"main.tex": _text(plain, chosen)}, frozenset({"main.tex"}))


def member_bytes(data: bytes, name: str, limits: ArchiveLimits | None = None) -> bytes:
    """One file of an archive.

    Raises:
        ArchiveError: damaged, beyond the limits, or no such file.
    """
    chosen = limits or ArchiveLimits()
    plain = _unzipped(data, chosen) if data.startswith(_GZIP) else data
    with _opened(plain) as archive:
        for member in _members(archive, chosen):
            if normpath(member.name) == name:
                return _content(archive, member)
    raise ArchiveError(f"the archive has no file {name!r}")


def _from_tar(plain: bytes, limits: ArchiveLimits) -> Source:
    texts, names = {}, set()
    with _opened(plain) as archive:
        for member in _members(archive, limits):
            name = normpath(member.name)
            names.add(name)
            if name.lower().endswith((".tex", ".ltx")) or "." not in name:
                content = _content(archive, member)
                if _kind(content) == "tex":
                    texts[name] = _text(content, limits)
    return Source("tex" if texts else "other", texts, frozenset(names))


def _opened(plain: bytes) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=io.BytesIO(plain), mode="r:")
    except tarfile.TarError as error:
        raise ArchiveError(f"no tar archive: {error}") from error


def _members(archive: tarfile.TarFile, limits: ArchiveLimits) -> list[tarfile.TarInfo]:
    """Plain files with harmless names; links, devices and names that lead out of the archive are left out."""
    members, total = [], 0
    try:
        for number, member in enumerate(archive):
            if number >= limits.maximum_members:
                raise ArchiveError(f"more than {limits.maximum_members} members")
            if not member.isfile():
                continue
            total += member.size
            if total > limits.maximum_bytes:
                raise ArchiveError(f"more than {limits.maximum_bytes} bytes")
            name = normpath(member.name)
            if not (name.startswith(("/", "..")) or "\0" in name or len(name) > 255):
                members.append(member)
    except (tarfile.TarError, OSError, ValueError) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(f"damaged archive: {error}") from error
    return members


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    content = file.read() if file is not None else b""
    if len(content) != member.size:
        raise ArchiveError(f"{member.name!r} is cut: {len(content)} of {member.size} bytes")
    return content


def _unzipped(data: bytes, limits: ArchiveLimits) -> bytes:
    """Gzip, unpacked in steps so that a bomb stops at the limit."""
    unpacker, parts, size = zlib.decompressobj(wbits=31), [], 0
    rest = data
    try:
        while rest and not unpacker.eof:
            part = unpacker.decompress(rest, 2**20)
            rest = unpacker.unconsumed_tail
            parts.append(part)
            size += len(part)
            if size > limits.maximum_bytes:
                raise ArchiveError(f"more than {limits.maximum_bytes} bytes")
            if size > 2**20 and size > limits.maximum_ratio * len(data):
                raise ArchiveError(f"unpacks to more than {limits.maximum_ratio:g} times its size")
    except zlib.error as error:
        raise ArchiveError(f"damaged gzip: {error}") from error
    if not unpacker.eof:
        raise ArchiveError(f"the gzip ends early, after {len(data)} bytes")
    return b"".join(parts)


def _kind(content: bytes) -> Kind:
    start = content[:2048].lstrip()
    if start.startswith(b"%PDF"):
        return "pdf"
    if start.startswith(b"%!PS"):
        return "postscript"
    if start[:200].lower().startswith((b"<!doctype html", b"<html")):
        return "html"
    is_binary = b"\0" in content[:4096]
    return "other" if is_binary or b"\\" not in content[:200_000] else "tex"


def _text(content: bytes, limits: ArchiveLimits) -> str:
    """TeX is UTF-8, or else Latin-1, which takes any byte."""
    if len(content) > limits.maximum_text_bytes:
        raise ArchiveError(f"a TeX file of {len(content)} bytes; at most {limits.maximum_text_bytes} are read")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")
