"""Figures of HTML pages made by LaTeXML (arxiv.org/html, ar5iv).

Belongs here: finding figures and turning captions to plain text. Formulas stand in such pages up to three times (MathML
for the eye, MathML for meaning, TeX); only the first is text. Pages are parsed by lxml, some twenty times as fast as
BeautifulSoup, which reads the small notices around them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast
from urllib.parse import urljoin, urlsplit

from atomvision_ml.literature.figures import SourceFigure, SubFigure, plain_text
from atomvision_ml.literature.identifiers import ArxivId, parse_arxiv_id
from atomvision_ml.literature.replies import DamagedReplyError, Reply

if TYPE_CHECKING:
    from lxml import html

_SILENT = frozenset({"annotation", "annotation-xml", "cite", "script", "style"})
_UNSAID = frozenset({"ltx_tag", "ltx_ERROR"})
"""Classes of elements that are no text of a caption."""
_FIGURE_NUMBER = re.compile(r"(?:fig(?:ure|\.)?|scheme)\s*\.?\s*([A-Z]?\.?\d+[a-z]?)", re.IGNORECASE)
_LABEL = re.compile(r"^\W*([A-Za-z]|[ivx]+)\W*$")


def parse_figures(reply: Reply) -> list[SourceFigure]:
    """The figures of a page, in its order; tables and algorithms are none.

    Args:
        reply: an HTML page of status 200.

    Raises:
        DamagedReplyError: not a complete page of LaTeXML's.
    """
    page = _page(reply)
    base = page.find(".//base[@href]")
    address = urljoin(reply.url, base.get("href", "")) if base is not None else reply.url
    found: list[SourceFigure] = []
    for element in page.iter("figure"):
        if _is(element, "ltx_figure") and not _is_inside_figure(element):
            found.append(_figure(element, len(found) + 1, address))
    return found


def caption_text(element: html.HtmlElement) -> str:
    """Plain text of a caption without its tag ("Figure 1:")."""
    return plain_text("".join(_pieces(element)))


def page_identity(reply: Reply) -> tuple[ArxivId | None, str | None]:
    """What the page says of itself: identifier with version (its water mark), and the text of its licence.

    A cross-check of what was asked for; None where the page does not say.
    """
    from bs4 import BeautifulSoup, SoupStrainer

    soup = BeautifulSoup(reply.body, "lxml", parse_only=SoupStrainer(id=["watermark-tr", "license-tr"]))
    mark, licence = soup.find(id="watermark-tr"), soup.find(id="license-tr")
    words = re.search(r"arXiv:(\S+)", mark.get_text(" ")) if mark is not None else None
    try:
        name = parse_arxiv_id(words[1]) if words else None
    except ValueError:
        name = None
    return name, " ".join(licence.get_text(" ").split()) if licence is not None else None


def missing_reason(reply: Reply) -> str:
    """Why a page is not there: ``withdrawn``, ``no_html`` or ``missing``, from the text of the 404 page."""
    from bs4 import BeautifulSoup

    words = BeautifulSoup(reply.body, "lxml").get_text(" ").lower()
    if "withdrawn" in words:
        return "withdrawn"
    return "no_html" if "no html" in words else "missing"


def _page(reply: Reply) -> html.HtmlElement:
    from lxml import etree, html

    if not reply.body.rstrip().lower().endswith(b"</html>"):
        raise DamagedReplyError(f"{reply.url}: the page does not end; it has {len(reply.body)} bytes")
    parser = html.HTMLParser(encoding="utf-8", huge_tree=False, no_network=True)
    try:
        page = html.document_fromstring(reply.body, parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError, ValueError) as error:
        raise DamagedReplyError(f"{reply.url}: no HTML ({error})") from error
    if page.find_class("ltx_document") or page.find_class("ltx_page_main"):
        return page
    raise DamagedReplyError(f"{reply.url}: no page made by LaTeXML")


def _figure(element: html.HtmlElement, place: int, base: str) -> SourceFigure:
    parts = [
        _part(inner, base) for inner in element.iter("figure") if inner is not element and _is(inner, "ltx_figure")
    ]
    caption = _caption(element)
    printed = _FIGURE_NUMBER.search(_tag(caption)) if caption is not None else None
    images, missing = _images(element, base)
    return SourceFigure(
        number=printed[1] if printed else str(place),
        caption=caption_text(caption) if caption is not None else "",
        images=images,
        parts=tuple(part for part, _ in parts),
        n_missing_images=missing + sum(lost for _, lost in parts),
    )


def _part(element: html.HtmlElement, base: str) -> tuple[SubFigure, int]:
    caption = _caption(element)
    label = _LABEL.match(_tag(caption)) if caption is not None else None
    images, missing = _images(element, base)
    text = caption_text(caption) if caption is not None else ""
    return SubFigure(label=label[1].lower() if label else "", caption=text, images=images), missing


def _caption(figure: html.HtmlElement) -> html.HtmlElement | None:
    """The caption of this very figure, not of a figure inside it."""
    return next((each for each in figure.iter("figcaption") if _owner(each) is figure), None)


def _images(figure: html.HtmlElement, base: str) -> tuple[tuple[str, ...], int]:
    """Addresses of this very figure's images, on the page's own host, and how many could not be made."""
    own = [image for image in figure.iter("img") if _owner(image) is figure]
    made = [image for image in own if image.get("src") and not _is(image, "ltx_missing")]
    addresses = [urljoin(base, image.get("src", "")) for image in made]
    good = [address for address in addresses if urlsplit(address).netloc == urlsplit(base).netloc]
    return tuple(dict.fromkeys(good)), len(own) - len(good)


def _owner(element: html.HtmlElement) -> html.HtmlElement | None:
    return next((each for each in element.iterancestors("figure")), None)


def _is_inside_figure(element: html.HtmlElement) -> bool:
    return any(_is(outer, "ltx_figure") for outer in element.iterancestors("figure"))


def _is(element: html.HtmlElement, name: str) -> bool:
    return name in (element.get("class") or "").split()


def _tag(caption: html.HtmlElement) -> str:
    """The text of the tag of a caption: "Figure 1:", "(a)"."""
    for element in caption.iter("span"):
        if _is(element, "ltx_tag"):
            return " ".join("".join(cast("list[str]", list(element.itertext()))).split())
    return ""


def _pieces(element: html.HtmlElement) -> list[str]:
    """The text in document order, without tags, errors and all but the first form of formulas."""
    tag = element.tag
    if not isinstance(tag, str) or tag in _SILENT or not _UNSAID.isdisjoint((element.get("class") or "").split()):
        return []
    children = list(element)
    if tag == "msup" and children:
        base, *raised = children
        return [*_pieces(base), "^", *(piece for each in raised for piece in _pieces(each))]
    in_formula = tag.startswith("m")
    pieces = ["^"] if tag == "sup" else []
    pieces.append(_own(element.text, in_formula))
    for child in children:
        pieces += _pieces(child)
        pieces.append(_own(child.tail, in_formula))
    return pieces


def _own(text: str | None, in_formula: bool) -> str:
    """White space between the elements of a formula is layout, not text."""
    if text is None or (in_formula and not text.strip()):
        return ""
    return text
