"""Opening dump files: plain or compressed (told by content, not by name), with limits, and as a stream of records."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

MAXIMUM_BYTES = 8 * 2**30
"""Largest decompressed dump that is read."""

FREE_BYTES = 256 * 2**20
MAXIMUM_RATIO = 250
"""Beyond :data:`FREE_BYTES`, a dump may decompress to this many times its size; JSON reaches 10 to 30."""

MAXIMUM_ITEM_BYTES = 64 * 2**20
_CHUNK = 2**20
_SPACE = re.compile(r"[ \t\n\r]*")

DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, RuntimeError)
"""What the decompressors of the standard library raise on a truncated, damaged or encrypted file."""


class SourceUnavailableError(RuntimeError):
    """A database cannot be had: not found, unreachable, or its file is damaged. The message says what to do.

    Permanent: trying again without changing something will not help.
    """


@dataclass(frozen=True)
class Item:
    """One JSON value of a dump: its 1-based place, the value, or the reason why its text is no JSON object."""

    place: int
    value: dict[str, Any]
    reason: str | None = None
    raw: bytes = b""


class _Bounded:
    """A binary stream that refuses to give more than ``limit`` bytes."""

    def __init__(self, stream: IO[bytes], limit: int, path: Path) -> None:
        self._stream, self._left, self._limit, self._path = stream, limit, limit, path

    def read(self, size: int) -> bytes:
        return self._counted(self._stream.read(size))

    def readline(self, size: int) -> bytes:
        return self._counted(self._stream.readline(size))

    def copy_to(self, target: Path) -> None:
        with target.open("wb") as file:
            while block := self.read(_CHUNK):
                file.write(block)

    def _counted(self, block: bytes) -> bytes:
        self._left -= len(block)
        if self._left < 0:
            raise SourceUnavailableError(
                f"{self._path} decompresses to more than {self._limit / 2**20:.0f} MiB, which no dump of this "
                f"database does; replace it by the original file"
            )
        return block


def compression(path: Path) -> str | None:
    """``zip``, ``gz``, ``bz2``, ``xz`` or None, by the first bytes of the file."""
    with path.open("rb") as stream:
        start = stream.read(6)
    magic = {"zip": b"PK\x03\x04", "gz": b"\x1f\x8b", "bz2": b"BZh", "xz": b"\xfd7zXZ\x00"}
    return next((name for name, first in magic.items() if start.startswith(first)), None)


@contextmanager
def open_dump(path: Path, *, member_suffix: str, maximum_bytes: int = MAXIMUM_BYTES) -> Iterator[_Bounded]:
    """The decompressed content of a dump as a bounded binary stream.

    Args:
        path: plain, zip, gzip, bzip2 or xz file.
        member_suffix: ending of the member wanted in a zip that holds several files.
        maximum_bytes: limit of the decompressed size.

    Raises:
        SourceUnavailableError: unreadable, damaged, truncated, encrypted, or larger than the limits.
    """
    with ExitStack() as stack, damage_reported(path):
        kind = compression(path)
        size = path.stat().st_size
        limit = maximum_bytes if kind is None else min(maximum_bytes, max(FREE_BYTES, MAXIMUM_RATIO * size))
        if kind == "zip":
            archive = stack.enter_context(zipfile.ZipFile(path))
            stream: IO[bytes] = stack.enter_context(archive.open(_member(archive, path, member_suffix)))
        else:
            openers: dict[str | None, Callable[[Path], IO[bytes]]] = {"gz": _gzip, "bz2": _bz2, "xz": _xz, None: _plain}
            stream = stack.enter_context(openers[kind](path))
        yield _Bounded(stream, limit, path)


def _plain(path: Path) -> IO[bytes]:
    return path.open("rb")


def _gzip(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb"))


def _bz2(path: Path) -> IO[bytes]:
    return cast(IO[bytes], bz2.open(path, "rb"))


def _xz(path: Path) -> IO[bytes]:
    return cast(IO[bytes], lzma.open(path, "rb"))


@contextmanager
def damage_reported(path: Path) -> Iterator[None]:
    """Turn what the decompressors raise into a SourceUnavailableError that names the file and what to do."""
    try:
        yield
    except SourceUnavailableError:
        raise
    except DAMAGE as error:
        raise SourceUnavailableError(damaged(path, f"{type(error).__name__}: {error}")) from error


def damaged(path: Path, why: str) -> str:
    """The message for a file that cannot be used."""
    return f"{path} is damaged or incomplete ({why}); delete it and put the original file there"


def _member(archive: zipfile.ZipFile, path: Path, suffix: str) -> zipfile.ZipInfo:
    files = [info for info in archive.infolist() if not info.is_dir() and "__MACOSX" not in info.filename]
    wanted = files if len(files) == 1 else [info for info in files if info.filename.lower().endswith(suffix)]
    if not wanted:
        raise SourceUnavailableError(f"{path} holds no *{suffix} file: {[info.filename for info in files][:5]}")
    return max(wanted, key=lambda info: (info.file_size, info.filename))


def json_items(path: Path, *, maximum_bytes: int = MAXIMUM_BYTES) -> Iterator[Item]:
    """The records of a JSON list or of JSON lines, one after the other, without holding the file.

    A line that is no JSON object becomes an item with a reason. In a list, a syntax error makes the rest of the file
    unreadable, and so does an end in mid-record.

    Raises:
        SourceUnavailableError: empty, damaged or truncated, or not JSON at all.
    """
    with damage_reported(path), open_dump(path, member_suffix=".json", maximum_bytes=maximum_bytes) as stream:
        start = _first_bytes(stream, path)
        yield from (_list_items if start[:1] == b"[" else _line_items)(stream, start, path)


def _first_bytes(stream: _Bounded, path: Path) -> bytes:
    """The start of the file from the first byte that is neither white space nor a byte-order mark."""
    while block := stream.read(_CHUNK):
        start = block.removeprefix(codecs.BOM_UTF8).lstrip()
        if start[:1] in (b"[", b"{"):
            return start
        if start:
            what = "an HTML page" if start[:1] == b"<" else "no JSON"
            raise SourceUnavailableError(damaged(path, f"it holds {what}"))
    raise SourceUnavailableError(damaged(path, "it is empty"))


def _line_items(stream: _Bounded, start: bytes, path: Path) -> Iterator[Item]:
    found_any = False
    for place, line in enumerate(_lines(stream, start, path), 1):
        if not line.strip():
            continue
        item = _line_item(place, line, path)
        found_any = found_any or item.reason is None
        yield item
    if not found_any:
        raise SourceUnavailableError(damaged(path, "no line is a JSON object"))


def _lines(stream: _Bounded, start: bytes, path: Path) -> Iterator[bytes]:
    *complete, rest = start.split(b"\n")
    for line in complete:
        yield line + b"\n"
    while block := stream.readline(_CHUNK):
        rest += block
        if len(rest) > MAXIMUM_ITEM_BYTES:
            raise SourceUnavailableError(damaged(path, "a line of more than 64 MiB"))
        if rest.endswith(b"\n"):
            yield rest
            rest = b""
    if rest:
        yield rest


def _line_item(place: int, line: bytes, path: Path) -> Item:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        if _ends_early(error, line):
            raise SourceUnavailableError(damaged(path, f"it ends in the middle of line {place}")) from error
        return Item(place, {}, f"line {place} is not JSON: {error}", line)
    if not isinstance(value, dict):
        return Item(place, {}, f"line {place} is not a JSON object", line)
    return Item(place, value, None, line)


def _ends_early(error: Exception, line: bytes) -> bool:
    """The last line, without its end, whose only fault is that the text stops: a truncated file."""
    if line.endswith(b"\n") or not isinstance(error, json.JSONDecodeError):
        return False
    return error.pos >= len(error.doc.rstrip()) - 1 or error.msg.startswith("Unterminated string")


def _list_items(stream: _Bounded, start: bytes, path: Path) -> Iterator[Item]:
    text = _TextWindow(stream, start[1:], path)
    place = 0
    while text.next_character() != "]":
        place += 1
        value = text.next_value(place)
        if isinstance(value, dict):
            yield Item(place, value)
        else:
            raw = repr(value).encode("utf-8", "backslashreplace")
            yield Item(place, {}, f"item {place} is not a JSON object", raw)
        text.skip_comma(place)
    text.check_end()


class _TextWindow:
    """The part of a long JSON text that is being read."""

    def __init__(self, stream: _Bounded, start: bytes, path: Path) -> None:
        self._stream, self._path = stream, path
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        self._text, self._at = "", 0
        self._is_over = False
        self._append(start)

    def next_character(self) -> str:
        """The next character that is no white space, not consumed."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more(_CHUNK):
                raise self._damage("it ends before its list does")

    def next_value(self, place: int) -> object:
        """Consume one JSON value."""
        size = _CHUNK
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if not self._more(size):
                    raise self._damage(f"item {place}: {error}") from error
            else:
                if end < len(self._text) or not self._more(size):
                    self._at = end
                    return value
            if len(self._text) - self._at > MAXIMUM_ITEM_BYTES:
                raise self._damage(f"item {place} is no JSON value, or larger than 64 MiB")
            size *= 2

    def skip_comma(self, place: int) -> None:
        character = self.next_character()
        if character not in ",]":
            raise self._damage(f"after item {place}: {character!r} where a comma was expected")
        self._at += character == ","

    def check_end(self) -> None:
        """Read to the end of the file, so that its checksum is verified, and allow white space only."""
        self._at += 1
        while True:
            if self._text[self._at :].strip():
                raise self._damage("text after the end of its list")
            if not self._more(_CHUNK):
                return

    def _more(self, size: int) -> bool:
        if self._is_over:
            return False
        block = self._stream.read(size)
        self._is_over = not block
        self._append(block)
        return not self._is_over

    def _append(self, block: bytes) -> None:
        try:
            new = self._decoder.decode(block, final=self._is_over)
        except UnicodeDecodeError as error:
            raise self._damage(f"not UTF-8: {error}") from error
        self._text, self._at = self._text[self._at :] + new, 0

    def _damage(self, why: str) -> SourceUnavailableError:
        return SourceUnavailableError(damaged(self._path, why))
