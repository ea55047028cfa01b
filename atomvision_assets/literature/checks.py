"""What must be true of literature tables beyond their contract. Pure functions of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from atomvision_assets.store import Audit
from atomvision_ml.literature.addresses import ARXIV_URL
from atomvision_ml.literature.texts import ABSENT

DAMAGED_LIMIT = 0.05
UNKNOWN_LICENCES_LIMIT = 0.01

HARVEST = {
    "papers_stand_in_one_month": "No paper is in two months.",
    "no_paper_is_lost": "At least as many papers are known as after the harvest before.",
    "licences_are_known": "At most 1 % of the papers have a licence that is missing or unknown (a warning).",
}
TEXTS = {"texts_are_accepted": "At most 5 % of the texts that there are cannot be used (a warning)."}
FIGURES = {
    "texts_are_readable": "At most 5 % of the texts cannot be read (a warning).",
    "links_are_well_formed": "Every link leads to a page of arXiv's, every image has a label column of its own.",
}
IMAGES = {"images_are_accepted": "At most 5 % of the images that there are cannot be used (a warning)."}
PANELS = {"boxes_have_an_area": "Every box has left < right and top < bottom."}
LINKS = {"nothing_private_is_exported": "No caption without a licence that allows it."}

Row = Mapping[str, Any]


def audit_papers(papers: Iterable[tuple[str, str, str]], n_before: int) -> list[Audit]:
    """Whether all papers are there, once each, with a licence.

    Args:
        papers: month, identifier and short name of the licence.
        n_before: papers known after the harvest before.
    """
    months: dict[str, str] = {}
    twice: list[str] = []
    licences: Counter[str] = Counter()
    for month, arxiv_id, licence in papers:
        if months.setdefault(arxiv_id, month) != month:
            twice.append(arxiv_id)
        licences[licence] += 1
    share = licences["unknown"] / max(len(months), 1)
    return [
        Audit("papers_stand_in_one_month", not twice, {"in_two": sorted(twice)[:20]}),
        Audit("no_paper_is_lost", len(months) >= n_before, {"n_papers": len(months), "n_before": n_before}),
        Audit("licences_are_known", share <= UNKNOWN_LICENCES_LIMIT, {"licences": dict(licences)}, is_warning=True),
    ]


def audit_acceptance(rows: Iterable[Row], name: str) -> Audit:
    """Whether enough of what there is can be used; what is absent at arXiv is no fault. Reasons are counted."""
    reasons: Counter[str] = Counter()
    n_there = n_damaged = 0
    for row in rows:
        is_absent = row["status"] == "rejected" and str(row["reason"]).startswith(ABSENT)
        n_there += not is_absent
        if row["status"] == "rejected":
            reasons[str(row["reason"]).split(":")[0]] += 1
            n_damaged += not is_absent
    details = {"n_there": n_there, "n_damaged": n_damaged, "reasons": dict(reasons.most_common(20))}
    return Audit(name, n_damaged <= DAMAGED_LIMIT * n_there, details, is_warning=True)


def audit_links(rows: Iterable[Row]) -> Audit:
    """Whether all links of figures are addresses of arXiv's."""
    wrong = [
        row["figure_id"]
        for row in rows
        if not all(url.startswith(f"{ARXIV_URL}/") for url in (row["paper_url"], *row["image_urls"]))
        or len(row["image_urls"]) != len(row["image_labels"])
    ]
    return Audit("links_are_well_formed", not wrong, {"wrong": wrong[:20]})


def audit_boxes(rows: Iterable[Row]) -> Audit:
    """Whether boxes of panels are boxes."""
    boxes = ((row["panel_id"], row.get("box_px")) for row in rows)
    wrong = [name for name, box in boxes if box is not None and not (0 <= box[0] < box[2] and 0 <= box[1] < box[3])]
    return Audit("boxes_have_an_area", not wrong, {"wrong": wrong[:20]})


def audit_export(rows: Iterable[Row], redistributable: Collection[str]) -> Audit:
    """Whether only what may be passed on is in the export.

    Args:
        rows: of ``literature/links``.
        redistributable: figures whose licence allows it.
    """
    quoted = {row["figure_id"] for row in rows if row["caption"] is not None}
    private = sorted(quoted - set(redistributable))
    return Audit("nothing_private_is_exported", not private, {"private": private[:20]})
