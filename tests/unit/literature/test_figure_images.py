"""Image files of strangers: decoded by a child within limits, fetched once, damaged ones asked for again."""

import io
import os
import shutil
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atomvision_ml.literature.double.corpus_reader import Corpus
from atomvision_ml.literature.double.faults import Faults, Rule
from atomvision_ml.literature.double.server import Double, serve
from atomvision_ml.literature.image_decoder import BadImageError, ImageLimits, ImageReader
from atomvision_ml.literature.image_files import RASTER, ImageFetcher, image_rows, stored_pixels
from atomvision_ml.literature.replies import OutageError
from atomvision_ml.literature.transport import Transport, TransportParameters
from atomvision_ml.storage.lake import Lake

URL = "https://arxiv.org/html/1803.04417v1/x1.png"


@pytest.fixture(scope="module")
def reader() -> Iterator[ImageReader]:
    with ImageReader(ImageLimits(maximum_pixels=250_000, timeout_s=20)) as made:
        yield made


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


GREY = np.linspace(0, 255, 40 * 30).reshape(30, 40).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF"])
def test_size_and_pixels(reader: ImageReader, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded(Image.fromarray(GREY), kind))
    assert reader.size(path) == (40, 30)
    pixels = reader.pixels(path)
    assert (pixels.shape, pixels.dtype) == ((30, 40, 3), np.uint8)
    assert np.abs(pixels[..., 0].astype(int) - GREY).max() < (1 if kind != "JPEG" else 30)


def test_transparent_parts_are_white_and_deep_images_are_stretched(reader: ImageReader, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(Image.new("RGBA", (8, 6), (0, 0, 0, 0))))
    assert (reader.pixels(path) == 255).all()
    path.write_bytes(encoded(Image.fromarray(np.array([[1000, 3000]], np.uint16))))
    assert reader.pixels(path)[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no known format"),
        (b"<html></html>", "no known format"),
        (encoded(Image.fromarray(GREY))[:-40], "damaged"),
        (encoded(Image.new("1", (1000, 1000))), "1000 × 1000 pixels"),
    ],
    ids=["empty", "web page", "truncated", "huge"],
)
def test_what_cannot_be_decoded_is_refused(reader: ImageReader, tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(BadImageError, match=reason):
        reader.size(path)


def test_decoder_that_dies_or_hangs_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(Image.fromarray(GREY)))
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    with ImageReader(ImageLimits(timeout_s=3)) as reader:
        with pytest.raises(BadImageError, match="longer than 3 s"):
            reader.size(pipe)
        assert reader.size(path) == (40, 30)
        os.kill(reader.worker.process_id, signal.SIGSEGV)
        with pytest.raises(BadImageError, match="the decoder ended"):
            reader.size(path)
        assert reader.size(path) == (40, 30)


def test_decoder_with_too_little_memory_says_so(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(Image.new("L", (6000, 6000))))
    with ImageReader(ImageLimits(maximum_memory_bytes=200 * 2**20)) as reader, pytest.raises(BadImageError):
        reader.pixels(path)


@pytest.fixture
def double(small_corpus: Corpus) -> Iterator[Double]:
    with serve(small_corpus) as served:
        yield served


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "root")


@pytest.fixture
def fetcher(double: Double, lake: Lake, reader: ImageReader, tmp_path: Path) -> Iterator[ImageFetcher]:
    quick = TransportParameters(contact="curator@example.org", interval_s=0, backoff_s=0, attempts=4)
    archive = source(encoded(Image.fromarray(GREY), "EPS"))
    with Transport(quick, tmp_path / "limit", "0.1") as transport:
        yield ImageFetcher(transport, double.url, reader, lake.scratch("images"), lake.put_blob, lambda url: archive)


def source(drawing: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("a.eps")
        member.size = len(drawing)
        archive.addfile(member, io.BytesIO(drawing))
    return file.getvalue()


HTML = {"figure_id": "f", "month": "2018-03", "route": "html", "is_redistributable": True}
FROM_TEX = {**HTML, "route": "tex"}


def test_image_is_kept_as_it_came(fetcher: ImageFetcher, lake: Lake, reader: ImageReader, small_corpus: Corpus) -> None:
    row = fetcher.row(HTML, URL)
    assert (row["status"], row["width_px"], row["height_px"]) == ("accepted", 40, 30)
    original = small_corpus.folder / "1803.04417" / "v1" / "html" / "x1.png"
    assert (lake.blob(row["blob"]) / row["file"]).read_bytes() == original.read_bytes()
    pixels = stored_pixels(row, lake.blob, reader)
    assert pixels is not None
    assert pixels.shape == (30, 40, 3)


@pytest.mark.parametrize("kind", ["damaged_image", "empty_image", "huge_image", "html", "cut_off"])
def test_damaged_image_is_asked_for_again(double: Double, fetcher: ImageFetcher, kind: Any) -> None:
    double.faults = Faults([Rule(kinds=(kind,), nth=(1,))])
    assert fetcher.row(HTML, URL)["status"] == "accepted"
    assert len(double.log.requests) == 2
    assert fetcher.row(HTML, URL)["status"] == "accepted"
    assert len(double.log.requests) == 2, "what was fetched is found in scratch"


def test_image_that_is_always_damaged_is_rejected_and_an_outage_is_not_taken_for_it(
    double: Double, fetcher: ImageFetcher
) -> None:
    double.faults = Faults([Rule(kinds=("damaged_image",), probability=1.0)])
    row = fetcher.row(HTML, URL)
    assert (row["status"], row["reason"][:8]) == ("rejected", "damaged:")
    for kind in ("html", "unavailable", "empty_image"):
        double.faults = Faults([Rule(kinds=(kind,), probability=1.0)])
        with pytest.raises(OutageError):
            fetcher.row(HTML, URL)


def test_image_that_is_not_there_is_missing(fetcher: ImageFetcher) -> None:
    row = fetcher.row(HTML, URL.replace("x1", "x9"))
    assert (row["status"], row["reason"][:7]) == ("rejected", "missing")


@pytest.mark.skipif(shutil.which("gs") is None, reason="Ghostscript is not installed")
def test_vector_graphics_of_a_source_are_drawn(double: Double, fetcher: ImageFetcher, lake: Lake) -> None:
    row = fetcher.row(FROM_TEX, "https://arxiv.org/src/1803.04417v1#a.eps")
    assert (row["status"], row["file"]) == ("accepted", RASTER)
    assert row["width_px"] / row["height_px"] == pytest.approx(40 / 30, rel=0.05)
    assert (lake.blob(row["blob"]) / "image.eps").read_bytes().startswith(b"%!PS")
    assert double.log.requests == ()


def test_file_that_the_archive_does_not_have_is_rejected(fetcher: ImageFetcher) -> None:
    row = fetcher.row(FROM_TEX, "https://arxiv.org/src/1803.04417v1#b.eps")
    assert (row["status"], "no file" in row["reason"]) == ("rejected", True)


def test_only_relevant_current_figures_are_fetched_and_known_images_not_again() -> None:
    asked: list[str] = []

    def fetch(figure: dict[str, Any], url: str) -> dict[str, Any]:
        asked.append(url)
        return {"status": "accepted", "reason": None}

    def figure(name: str, urls: list[str], **fields: bool) -> dict[str, Any]:
        common = {"figure_id": name, "month": "2018-03", "image_urls": urls, "is_redistributable": False}
        return {**common, "is_relevant": True, "is_current": True, **fields}

    figures = [
        figure("a", ["1", "2"]),
        figure("b", ["3"], is_relevant=False),
        figure("c", ["4"], is_current=False),
    ]
    old = {"figure_id": "c", "url": "4", "place": 1, "status": "accepted", "reason": None}
    known = {"figure_id": "a", "url": "2", "place": 2, "status": "accepted", "reason": None}
    bad = {"figure_id": "a", "url": "1", "place": 1, "status": "rejected", "reason": "vector graphics need Ghostscript"}
    rows = image_rows(figures, [old, known, bad], fetch)
    assert asked == ["1"]
    assert [(row["figure_id"], row["url"], row["place"]) for row in rows] == [
        ("c", "4", 1),
        ("a", "1", 1),
        ("a", "2", 2),
    ]
