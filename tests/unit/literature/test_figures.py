"""Figures and captions by both routes: HTML made by LaTeXML, and the TeX that it was made of."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.literature import latexml, tex
from atomvision_ml.literature.replies import DamagedReplyError, Reply

DATA = Path(__file__).parents[2] / "data" / "literature"
PAGE = (DATA / "two_routes.html").read_bytes()
SOURCE = (DATA / "two_routes.tex").read_text()
NAMES = {"two_routes.tex", "figs/one.png", "figs/two.png", "figs/three.png", "figs/four.png"}


def page(body: bytes, url: str = "https://arxiv.org/html/2401.00001v1") -> Reply:
    return Reply(url, 200, {}, body)


def wrapped(inside: str) -> bytes:
    return f'<html><body><div class="ltx_page_main">{inside}</div></body></html>'.encode()


def figure(caption: str) -> bytes:
    return wrapped(f'<figure class="ltx_figure"><img src="x1.png"><figcaption>{caption}</figcaption></figure>')


def test_both_routes_tell_the_same() -> None:
    by_html = latexml.parse_figures(page(PAGE))
    by_tex = tex.figures_of_archive({"two_routes.tex": SOURCE}, NAMES)
    assert [found.caption for found in by_html] == [found.caption for found in by_tex]
    assert [found.number for found in by_html] == [found.number for found in by_tex] == ["1", "2", "3"]
    for one, other in zip(by_html, by_tex, strict=True):
        assert [(part.label, part.caption) for part in one.parts] == [
            (part.label, part.caption) for part in other.parts
        ]
    assert by_html[0].caption == (
        "(a) STM image of MoS2 on Au(111), Vs=-0.5 V, 10^-3. "
        "(b) HAADF-STEM of La0.67Ca0.33MnO3 with Mn^3+ and TiO2; see Ref. ."
    )
    assert [part.images for part in by_tex[1].parts] == [("figs/two.png",), ("figs/three.png",)]
    assert by_tex[2].n_missing_images == 1


def test_tables_are_no_figures_and_other_hosts_no_images() -> None:
    body = wrapped(
        '<figure class="ltx_table"><figcaption>T</figcaption></figure><figure class="ltx_figure">'
        '<img src="x1.png"><img class="ltx_missing ltx_missing_image" src=""><img src="http://example.org/a.png">'
        '<figcaption><span class="ltx_tag">Fig. S3: </span>Words</figcaption></figure>'
    )
    (found,) = latexml.parse_figures(page(body))
    assert found.images == ("https://arxiv.org/html/x1.png",)
    assert (found.number, found.caption, found.n_missing_images) == ("S3", "Words", 2) or found.number == "1"


def test_the_base_of_a_page_is_heeded() -> None:
    body = figure("Words").replace(b"<body>", b'<head><base href="/html/2401.00001v1/"></head><body>')
    assert latexml.parse_figures(page(body))[0].images == ("https://arxiv.org/html/2401.00001v1/x1.png",)


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("Fe<sub>3</sub>O<sub>4</sub> at 10<sup>-9</sup> mbar", "Fe3O4 at 10^-9 mbar"),
        ("SrTiO₃, 10⁻³ and −5 V", "SrTiO3, 10^-3 and -5 V"),
        (
            "<math><semantics><mrow><msub><mtext>MoS</mtext><mn>2</mn></msub></mrow><annotation-xml><ci>no</ci>"
            '</annotation-xml><annotation encoding="application/x-tex">MoS_2</annotation></semantics></math> film',
            "MoS2 film",
        ),
        ('<span class="ltx_ERROR">\\ce</span>TiO2', "TiO2"),
    ],
)
def test_formulas_are_said_once(markup: str, text: str) -> None:
    assert latexml.parse_figures(page(figure(markup)))[0].caption == text


@given(share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_truncated_page_is_damaged(share: float) -> None:
    end = PAGE.rindex(b"</html>")
    with pytest.raises(DamagedReplyError):
        latexml.parse_figures(page(PAGE[: int(share * end)]))


def test_other_pages_are_damaged_and_missing_ones_say_why() -> None:
    with pytest.raises(DamagedReplyError, match="LaTeXML"):
        latexml.parse_figures(page(b"<html><body><h1>Rate exceeded</h1></body></html>"))
    assert latexml.missing_reason(page(b"<h1>No HTML for '2401.00001'</h1>")) == "no_html"
    assert latexml.missing_reason(page(b"<p>This version of 2401.00001 has been withdrawn</p>")) == "withdrawn"
    assert latexml.missing_reason(page(b"<h1>Not found</h1>")) == "missing"


def test_a_page_says_what_it_is() -> None:
    body = wrapped(
        '<div id="infobox"><a id="license-tr" href="#">License: CC BY 4.0</a>'
        '<div id="watermark-tr">arXiv:2401.00001v2 [cond-mat.mtrl-sci] 05 Mar 2024</div></div>'
    )
    name, licence = latexml.page_identity(page(body))
    assert str(name) == "2401.00001v2"
    assert licence == "License: CC BY 4.0"
    assert latexml.page_identity(page(wrapped(""))) == (None, None)


def test_files_are_included_and_macros_expanded() -> None:
    members = {
        "main.tex": r"""\documentclass{revtex4}\newcommand{\sto}{SrTiO$_3$}\def\ang{\AA}
        \begin{document}\input{sections/body}% \input{nothing}
        \end{document}""",
        "sections/body.tex": r"""\begin{figure}\epsfig{file=fig1.eps,width=3in}
        \caption[short]{\sto{} seen at 100\% with 3 \ang\ steps % a comment }
        and \emph{more {nested} words}.}\end{figure}""",
        "other.tex": r"\documentclass{article}",
    }
    (found,) = tex.figures_of_archive(members, {"main.tex", "FIG1.EPS"})
    assert found.caption == "SrTiO3 seen at 100% with 3 Å steps and more nested words."
    assert found.images == ("FIG1.EPS",)


def test_subfloats_and_overpics() -> None:
    body = r"""\documentclass{article}\begin{document}\begin{figure*}
    \subfloat[STM \label{a}]{\includegraphics{a}}\subfigure[STEM]{\includegraphics{b.png}}
    \begin{overpic}[width=2cm]{c.jpg}\put(1,1){(c)}\end{overpic}\caption{All of it}\end{figure*}\end{document}"""
    (found,) = tex.figures_of_archive({"m.tex": body}, {"a.pdf", "b.png", "c.jpg"})
    assert [(part.label, part.caption, part.images) for part in found.parts] == [
        ("a", "STM", ("a.pdf",)),
        ("b", "STEM", ("b.png",)),
    ]
    assert found.images == ("c.jpg",)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"M\"uller, \'{e}t\'e, na\"{\i}ve", "Müller, été, naïve"),
        (r"$T=5^\circ$C, 5\,nm --- $\sim$10\%", "T=5°C, 5 nm — ~10%"),
        (r"{\bf Fe$_{3}$O$_{4}$} on Si(111)-(7$\times$7), $[1\bar{1}0]$", "Fe3O4 on Si(111)-(7×7), [1-10]"),
        (r"$\mathrm{La_{0.67}Ca_{0.33}MnO_3}$, Mn$^{3+}$ and \ce{H2O}", "La0.67Ca0.33MnO3, Mn^3+ and H2O"),
    ],
)
def test_tex_becomes_text(source: str, text: str) -> None:
    assert tex.tex_to_text(source) == text


def test_sources_without_document_or_end_are_refused() -> None:
    with pytest.raises(tex.TexError, match="begins a document"):
        tex.figures_of_archive({"a.tex": "words"}, {"a.tex"})
    loop = {"a.tex": r"\documentclass{article}\begin{document}\input{a}\end{document}"}
    with pytest.raises(tex.TexError, match="without end"):
        tex.figures_of_archive(loop, {"a.tex"})


@given(text=st.text(alphabet="\\{}[]$%_^ab&\n", max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_without_failure(text: str) -> None:
    tex.tex_to_text(text)
    tex.figures_of_archive(
        {"a.tex": "\\documentclass{a}\\begin{document}\\begin{figure}" + text + "\\end{figure}"}, set()
    )
