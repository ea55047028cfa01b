"""Speed and memory of the literature: captions understood, pages read beside BeautifulSoup, records harvested.

Belongs here: measurements whose results are rows. Pages are those of the authored corpus, filled up with their own
paragraphs to the size of pages of arXiv; records are made here.
"""

from __future__ import annotations

import multiprocessing
import re
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomvision_ml.literature.double.corpus_reader import CORPUS
from atomvision_ml.literature.latexml import caption_text, parse_figures
from atomvision_ml.literature.oai import OaiRecord, parse_page
from atomvision_ml.literature.papers import update_papers
from atomvision_ml.literature.replies import Reply
from atomvision_ml.literature.scoring import read_labelled
from atomvision_ml.literature.understanding import captions_per_second, understand
from atomvision_ml.storage.lake import Lake
from atomvision_ml.timing import best_s

if TYPE_CHECKING:
    from lxml import html

Row = dict[str, Any]

PAGE_BYTES = 200_000
"""About what the page of a paper has."""
N_RECORDS = (10_000, 100_000)
"""Memory that is flat is the same for both."""

_REPEATS = 15
"""So many that one of them is not disturbed: a shared core is slower by up to 40 % at times."""
_PER_PAGE = 1000
_PER_MONTH = 250
_PARAGRAPH = re.compile(r'<p class="ltx_p">.*?</p>', re.DOTALL)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NAMESPACES = 'xmlns="http://www.openarchives.org/OAI/2.0/"', 'xmlns="http://arxiv.org/OAI/arXivRaw/"'


def literature_benchmark_rows(*, n_pages: int = 12, n_records: Sequence[int] = N_RECORDS) -> Iterator[Row]:
    """Measure, one row at a time; times are processor time of one core, the best of some repeats.

    Args:
        n_pages: pages to read.
        n_records: how many records to harvest, each time in a fresh process.

    Yields:
        Rows with ``benchmark``, ``structures`` (what was read), ``ours_ms`` for one of them, ``items_per_s``; of pages
        ``peer_ms`` (BeautifulSoup with Python's own parser), ``ratio``, ``mb_per_s``; of records ``seconds`` and
        ``peak_memory_gb`` of the process.
    """
    captions = [caption["caption"] for caption in read_labelled()]
    yield _captions_row("captions_understood", f"{len(captions)} captions", captions_per_second(captions, _REPEATS))
    nodes = caption_nodes(captions)
    from_nodes = len(nodes) / best_s(lambda: [understand(caption_text(node)) for node in nodes], _REPEATS)
    yield _captions_row("captions_from_nodes", f"{len(nodes)} caption nodes", from_nodes)
    yield _pages_row(benchmark_pages(n_pages))
    for count in n_records:
        yield _harvest_row(count)


def benchmark_pages(count: int) -> list[Reply]:
    """Pages of the corpus as replies, each filled up to 200 kB with copies of its own paragraphs."""
    files = sorted(CORPUS.glob("*/v*/html/index.html"))[:count]
    return [Reply(f"https://arxiv.org/html/{file.parts[-4]}v1", 200, {}, _filled(file)) for file in files]


def caption_nodes(captions: Sequence[str]) -> list[html.HtmlElement]:
    """The captions of all pages of the corpus as their parsed nodes, and more captions as plain ones."""
    from lxml import html

    pages = (
        html.document_fromstring(page.read_text(encoding="utf-8"))
        for page in sorted(CORPUS.glob("*/v*/html/index.html"))
    )
    plain = (html.fragment_fromstring(escape(caption), create_parent="figcaption") for caption in captions)
    return [*(node for page in pages for node in page.iter("figcaption")), *plain]


def soup_captions(page: Reply) -> list[str]:
    """What a plain script does: all captions of figures, markup and doubled formulas included."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(page.body, "html.parser")
    return [caption.get_text(" ", strip=True) for caption in soup.select("figure.ltx_figure > figcaption")]


def _filled(file: Path) -> bytes:
    text = file.read_text(encoding="utf-8")
    paragraphs = "\n".join(_PARAGRAPH.findall(text))
    copies = max(0, PAGE_BYTES - len(text.encode())) // len(paragraphs.encode())
    before, end, after = text.rpartition("</article>")
    return f"{before}{paragraphs * copies}{end}{after}".encode()


def _captions_row(name: str, what: str, per_second: float) -> Row:
    return {
        "benchmark": name,
        "structures": what,
        "ours_ms": 1e3 / per_second,
        "items_per_s": per_second,
        "aim": 2000.0,
    }


def _pages_row(pages: Sequence[Reply]) -> Row:
    ours = best_s(lambda: [parse_figures(page) for page in pages], _REPEATS)
    theirs = best_s(lambda: [soup_captions(page) for page in pages], repeats=2)
    return {
        "benchmark": "html_pages",
        "structures": f"{len(pages)} pages of {PAGE_BYTES // 1000} kB",
        "peer_ms": 1e3 * theirs / len(pages),
        "ours_ms": 1e3 * ours / len(pages),
        "ratio": theirs / ours,
        "items_per_s": len(pages) / ours,
        "mb_per_s": sum(len(page.body) for page in pages) / ours / 1e6,
    }


def _harvest_row(count: int) -> Row:
    """Records from pages of the interface to published months, in a fresh process."""
    with tempfile.TemporaryDirectory() as scratch:
        process = multiprocessing.get_context("spawn").Process(target=_harvest, args=(count, Path(scratch)))
        start = time.perf_counter()
        process.start()
        process.join()
        seconds = time.perf_counter() - start
        if process.exitcode != 0:
            raise RuntimeError(f"the harvest of {count} records failed with exit code {process.exitcode}")
        peak = int((Path(scratch) / "peak").read_text())
    return {
        "benchmark": "harvest",
        "structures": f"{count:,} records",
        "seconds": seconds,
        "items_per_s": count / seconds,
        "peak_memory_gb": peak / 1e9,
    }


def _harvest(count: int, folder: Path) -> None:
    update_papers(Lake(folder / "lake"), _records(count), folder / "unfinished")
    (folder / "peak").write_text(str(1024 * _peak_kib()))


def _peak_kib() -> int:
    """Largest memory of this process; where Linux tells it, without what its parent had when it began."""
    status = Path("/proc/self/status")
    if status.is_file() and (match := re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)):
        return int(match[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _records(count: int) -> Iterator[OaiRecord]:
    """Records as a harvest gives them, page by page; their months are mixed on every page."""
    months = count // _PER_MONTH
    for start in range(0, count, _PER_PAGE):
        records = "".join(
            _record(number % months, number // months) for number in range(start, min(count, start + _PER_PAGE))
        )
        body = (
            f"<OAI-PMH {_NAMESPACES[0]}><responseDate>2024-05-01T00:00:00Z</responseDate>"
            f"<ListRecords>{records}</ListRecords></OAI-PMH>"
        )
        yield from parse_page(Reply("http://127.0.0.1/oai", 200, {}, body.encode())).records


def _record(month: int, number: int) -> str:
    year, place = 1991 + (month + 8) // 12, (month + 8) % 12 + 1
    stamp = f"{year % 100:02d}{place:02d}"
    name = f"{stamp}.{number + 1:04d}" if (year, place) >= (2007, 4) else f"cond-mat/{stamp}{number + 1:03d}"
    words = f"Scanning tunnelling microscopy of sample {number} in month {month}. " * 12
    return (
        f"<record><header><identifier>oai:arXiv.org:{name}</identifier><datestamp>2020-01-01</datestamp></header>"
        f"<metadata><arXivRaw {_NAMESPACES[1]}><id>{name}</id>"
        f'<version version="v1"><date>Mon, 10 {_MONTHS[place - 1]} {year} 00:00:00 GMT</date></version>'
        f"<title>Sample {number} of {month}</title><authors>A. Author</authors><categories>cond-mat</categories>"
        f"<abstract>{words}</abstract></arXivRaw></metadata></record>"
    )
