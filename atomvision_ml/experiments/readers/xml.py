"""XML of headers, parsed without entities, external files or network."""

from __future__ import annotations

from typing import Any

from lxml import etree

from atomvision_ml.experiments.reading import UnreadableError

_DEEPEST = 24


def parse(text: bytes | str) -> etree._Element:
    """The root element.

    Raises:
        UnreadableError: no well-formed XML.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        return etree.fromstring(text.encode() if isinstance(text, str) else text, parser)
    except etree.XMLSyntaxError as error:
        raise UnreadableError(f"damaged XML in the header: {error}") from error


def as_dict(element: etree._Element, depth: int = 0) -> dict[str, Any]:
    """Children by tag: text of leaves, dicts of others, lists where a tag comes more than once. Namespaces go."""
    told: dict[str, Any] = {}
    for child in element:
        if not isinstance(child.tag, str) or depth > _DEEPEST:
            continue
        tag = etree.QName(child).localname
        value: Any = as_dict(child, depth + 1) if len(child) else (child.text or "").strip()
        if tag in told:
            earlier = told[tag]
            told[tag] = [*earlier, value] if isinstance(earlier, list) else [earlier, value]
        else:
            told[tag] = value
    return told
