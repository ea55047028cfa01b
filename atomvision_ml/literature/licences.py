"""What may be passed on of a paper: one function of its licence, decided for each version by itself.

Belongs here: the rule. arXiv's metadata (title, abstract, identifiers) are CC0 and always free; captions and images are
content. Storing e-prints for one's own research is allowed under every licence; passing them on is not (arXiv's terms
of use).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Permission:
    """What a licence allows.

    Attributes:
        licence: short name, e.g. ``cc-by-4.0``, ``arxiv-nonexclusive``, ``unknown``.
        is_redistributable: images and captions may be passed on as they are.
        allows_derivatives: crops of panels may be passed on too.
        is_share_alike: only under the same licence.
        is_non_commercial: only without commercial use.
    """

    licence: str
    is_redistributable: bool = False
    allows_derivatives: bool = False
    is_share_alike: bool = False
    is_non_commercial: bool = False


UNKNOWN = Permission("unknown")
_CREATIVE_COMMONS = re.compile(
    r"^https?://(?:www\.)?creativecommons\.org/licenses/(?P<terms>by(?:-nc)?(?:-nd|-sa)?)/(?P<version>\d\.\d)(?:/[a-z-]*)?/?$"
)
_ZERO = re.compile(r"^https?://(?:www\.)?creativecommons\.org/publicdomain/zero/(?P<version>\d\.\d)/?$")
_PUBLIC_DOMAIN = re.compile(r"^https?://(?:www\.)?creativecommons\.org/licenses/publicdomain/?$")
_ARXIV = re.compile(r"^https?://(?:www\.)?arxiv\.org/licenses/(?P<name>nonexclusive-distrib|assumed-1991-2003)\b")


def permission(licence_url: str | None) -> Permission:
    """What the licence at an address allows; an unknown or missing one allows nothing.

    Args:
        licence_url: as arXiv's metadata have it, e.g. ``http://creativecommons.org/licenses/by/4.0/``.
    """
    address = (licence_url or "").strip()
    if match := _CREATIVE_COMMONS.match(address):
        terms = match["terms"].split("-")
        return Permission(
            licence=f"cc-{match['terms']}-{match['version']}",
            is_redistributable=True,
            allows_derivatives="nd" not in terms,
            is_share_alike="sa" in terms,
            is_non_commercial="nc" in terms,
        )
    if match := _ZERO.match(address):
        return Permission(f"cc0-{match['version']}", is_redistributable=True, allows_derivatives=True)
    if _PUBLIC_DOMAIN.match(address):
        return Permission("public-domain", is_redistributable=True, allows_derivatives=True)
    if match := _ARXIV.match(address):
        return Permission(f"arxiv-{match['name']}")
    return UNKNOWN
