"""Six small papers in the form of the double's corpus, made once per process and never changed by a test."""

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from atomvision_ml.literature.double.corpus_reader import Corpus, read_corpus

PAGE = """<!DOCTYPE html>
<html><head><title>T</title><base href="/html/{name}/"/></head><body><div class="ltx_page_main"><article
class="ltx_document"><figure class="ltx_figure" id="S1.F1"><img class="ltx_graphics" src="x1.png"/><figcaption
class="ltx_caption"><span class="ltx_tag ltx_tag_figure">Figure 1: </span>STEM image of MoS2.</figcaption></figure>
</article></div></body></html>
"""
TEX = """\\documentclass{article}\\begin{document}\\begin{figure}\\includegraphics{a}\\caption{STEM image of
MoS$_2$.}\\end{figure}\\end{document}
"""
BY = "http://creativecommons.org/licenses/by/4.0/"


def paper(name: str, days: list[str], **fields: Any) -> dict[str, Any]:
    versions = [
        {"version": number, "submitted_at": f"{day}T12:00:30Z", "size": "9kb", "source_type": "D", "license": BY}
        for number, day in enumerate(days, start=1)
    ]
    common = {
        "id": name,
        "submitter": "A. Nyström",
        "title": f"Atoms of {name}",
        "authors": "A. Nyström, B. Õnne",
        "author_list": ["A. Nyström", "B. Õnne"],
        "abstract": "We show an STM study of layers.\n",
        "categories": ["cond-mat.mtrl-sci"],
        "datestamp": days[-1],
        "versions": versions,
    }
    return {**common, **fields}


PAPERS = (
    paper(
        "1803.04417",
        ["2018-03-12", "2018-09-03"],
        abstract="Atoms by STEM & more, < 1 nm.",
        title="Layers of MoS$_2$",
        comments="5 pages",
        doi="10.1/x",
        journal_ref="J. At. 1, 2",
        report_no="R-7",
    ),
    paper("1803.05000", ["2018-03-14"], abstract="Our result stems from education.", categories=["physics.optics"]),
    paper("1803.06000", ["2018-03-31"], categories=["cs.CV", "cond-mat.mes-hall"]),
    paper("1804.00001", ["2018-04-01"], abstract="The scanning tunneling microscope at 4 K."),
    paper("cond-mat/0701123", ["2007-01-09"], categories=["cond-mat"], datestamp="2018-04-01"),
    paper("1804.00002", ["2018-04-02", "2018-05-02"], is_withdrawn=True, comments="Withdrawn by the authors"),
)


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    for fields in PAPERS:
        write_paper(folder, fields)
    pages = folder / "1803.04417"
    for version in ("v1", "v2"):
        name = f"1803.04417{version}"
        write(pages / version / "html" / "index.html", PAGE.format(name=name).encode())
        write(pages / version / "html" / "x1.png", png())
        write(pages / version / "src" / "main.tex", TEX.encode())
        write(pages / version / "src" / "figs" / "a.png", png())
    write(folder / "cond-mat_0701123" / "v1" / "src" / "main.tex", TEX.encode())
    write(folder / "1804.00001" / "v1" / "paper.pdf", b"%PDF-1.4 a paper")
    write(folder / "1804.00002" / "v1" / "html" / "index.html", PAGE.format(name="1804.00002v1").encode())
    return read_corpus(folder)


def write_paper(folder: Path, fields: dict[str, Any]) -> Path:
    path = folder / fields["id"].replace("/", "_") / "paper.yaml"
    write(path, yaml.safe_dump(fields, allow_unicode=True).encode())
    return path


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (40, 30), 7).save(file, "PNG")
    return file.getvalue()
