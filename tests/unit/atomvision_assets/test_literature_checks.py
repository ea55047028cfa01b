"""Audits of the literature: each can fail, and what is absent at arXiv is no fault."""

from __future__ import annotations

import pytest

from atomvision_assets.failures import PermanentFailure
from atomvision_assets.literature import checks
from atomvision_assets.literature.arxiv import Arxiv
from atomvision_ml.settings import Settings
from atomvision_ml.storage.lake import Lake

PAPERS = [("2018-03", "1803.00001", "cc-by-4.0"), ("2018-04", "1804.00001", "arxiv-nonexclusive-distrib")]


def failed(audits: list[checks.Audit]) -> set[str]:
    return {audit.name for audit in audits if not audit.passed}


def test_papers_stand_once_and_none_is_lost() -> None:
    assert failed(checks.audit_papers(PAPERS, 2)) == set()
    assert failed(checks.audit_papers(PAPERS, 3)) == {"no_paper_is_lost"}
    twice = [*PAPERS, ("2018-04", "1803.00001", "cc-by-4.0")]
    assert failed(checks.audit_papers(twice, 2)) == {"papers_stand_in_one_month"}
    unknown = [*PAPERS, ("2018-04", "1804.00002", "unknown")]
    assert failed(checks.audit_papers(unknown, 2)) == {"licences_are_known"}


def test_absent_texts_are_no_fault_and_damaged_ones_are() -> None:
    accepted = {"status": "accepted", "reason": None}
    absent = [
        {"status": "rejected", "reason": reason} for reason in ("missing: no source", "withdrawn: by its authors")
    ]
    assert checks.audit_acceptance([accepted, *absent], "texts_are_accepted").passed
    assert checks.audit_acceptance(absent, "texts_are_accepted").passed
    damaged = {"status": "rejected", "reason": "damaged: the gzip ends early"}
    assert not checks.audit_acceptance([accepted, damaged], "texts_are_accepted").passed


def test_links_boxes_and_captions_that_are_wrong_are_named() -> None:
    good = {"figure_id": "f", "paper_url": "https://arxiv.org/abs/1", "image_urls": [], "image_labels": []}
    assert checks.audit_links([good]).passed
    for change in ({"paper_url": "http://127.0.0.1/abs/1"}, {"image_urls": ["https://arxiv.org/x"]}):
        audit = checks.audit_links([{**good, **change}])
        assert (audit.passed, audit.details["wrong"]) == (False, ["f"])
    assert checks.audit_boxes([{"panel_id": "p", "box_px": [0, 0, 5, 5]}, {"panel_id": "q"}]).passed
    assert not checks.audit_boxes([{"panel_id": "p", "box_px": [5, 0, 5, 5]}]).passed
    quoted = [{"figure_id": "f", "caption": "STM"}, {"figure_id": "g", "caption": None}]
    assert checks.audit_export(quoted, {"f"}).passed
    assert not checks.audit_export(quoted, {"g"}).passed


@pytest.mark.parametrize(("contact", "words"), [(None, "ATOMVISION_CONTACT"), ("nobody", "contact")])
def test_nobody_is_asked_without_a_contact(tmp_path: object, contact: str | None, words: str) -> None:
    with pytest.raises(PermanentFailure, match=words):
        Arxiv.of(Settings(contact=contact)).transport(Lake(str(tmp_path)))
