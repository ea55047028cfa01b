"""Sources as arXiv delivers them, and those that mean harm."""

import gzip
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.literature.archives import ArchiveError, ArchiveLimits, member_bytes, read_source

PAPER = rb"\documentclass{article}\begin{document}M\"uller\end{document}"


def packed(members: dict[str, bytes], extra: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info in extra:
            archive.addfile(info)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


ARCHIVE = packed({"ms.tex": PAPER, "./figs/a.eps": b"%!PS-Adobe", "anc/data.bin": b"\0\1"})


def test_an_archive_gives_texts_and_names() -> None:
    source = read_source(ARCHIVE)
    assert source.kind == "tex"
    assert source.texts == {"ms.tex": PAPER.decode()}
    assert source.names == {"ms.tex", "figs/a.eps", "anc/data.bin"}
    assert member_bytes(ARCHIVE, "figs/a.eps") == b"%!PS-Adobe"
    with pytest.raises(ArchiveError, match="no file"):
        member_bytes(ARCHIVE, "figs/b.eps")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (gzip.compress(PAPER, mtime=0), "tex"),
        (PAPER, "tex"),
        (PAPER.replace(b'\\"u', b"\xfc"), "tex"),
        (b"%PDF-1.4 \\", "pdf"),
        (gzip.compress(b"%!PS-Adobe", mtime=0), "postscript"),
        (b"<!DOCTYPE html><html>", "html"),
        (b"\x89PNG\r\n\0", "other"),
        (packed({"a.pdf": b"%PDF"}), "other"),
    ],
    ids=["gzipped_tex", "tex", "latin_1", "pdf", "gzipped_postscript", "html", "picture", "archive_without_tex"],
)
def test_sources_are_known_by_their_bytes(data: bytes, kind: str) -> None:
    assert read_source(data).kind == kind


def test_names_that_lead_out_and_links_are_left_out() -> None:
    link = tarfile.TarInfo("evil.tex")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device = tarfile.TarInfo("dev.tex")
    device.type = tarfile.CHRTYPE
    source = read_source(
        packed({"../up.tex": PAPER, "/abs.tex": PAPER, "x/../../y.tex": PAPER, "ok.tex": PAPER}, (link, device))
    )
    assert set(source.texts) == {"ok.tex"}


@pytest.mark.parametrize(
    ("data", "limits", "words"),
    [
        (packed({f"{n}.tex": PAPER for n in range(20)}), {"maximum_members": 10}, "more than 10 members"),
        (packed({"a.bin": bytes(4 * 2**20)}), {}, "times its size"),
        (packed({"a.bin": bytes(4 * 2**20)}), {"maximum_bytes": 2**20}, "bytes"),
        (packed({"a.tex": PAPER * 100}), {"maximum_text_bytes": 1000}, "TeX file"),
        (ARCHIVE[:-20], {}, "ends early"),
        (gzip.compress(gzip.decompress(ARCHIVE)[:700]), {}, "cut|damaged"),
        (b"\x1f\x8b\x08rubbish", {}, "gzip"),
    ],
    ids=["members", "ratio", "bytes", "text", "cut_gzip", "cut_tar", "no_gzip"],
)
def test_bombs_and_damage_are_refused(data: bytes, limits: dict, words: str) -> None:
    with pytest.raises(ArchiveError, match=words):
        read_source(data, ArchiveLimits(**limits))


@given(cut=st.integers(0, len(ARCHIVE)), flip=st.integers(0, len(ARCHIVE) - 1))
@settings(max_examples=150, deadline=None)
def test_any_damage_is_an_archive_error_or_harmless(cut: int, flip: int) -> None:
    damaged = bytearray(ARCHIVE[:cut])
    if flip < len(damaged):
        damaged[flip] ^= 0xFF
    try:
        source = read_source(bytes(damaged))
    except ArchiveError:
        return
    assert len(source.texts) <= 1
