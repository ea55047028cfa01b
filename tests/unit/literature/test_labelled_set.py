"""The frozen captions: unchanged, complete, and true to their guide (docs/literature_labels.md)."""

import hashlib
import json
import re
from collections import Counter
from importlib.resources import files

import pytest
from ase.data import chemical_symbols
from sklearn.metrics import cohen_kappa_score

FOLDER = files("atomvision_ml.literature") / "labelled"
FILES = ("captions.jsonl", "sealed.jsonl", "captions_2.jsonl", "sealed_3.jsonl", "second_pass.jsonl")
SMALLEST = {
    "captions": {"stm": 100, "stem_tem": 100, "other_microscopy": 60, "hard_negative": 60},
    "sealed": {"stm": 31, "stem_tem": 31, "other_microscopy": 19, "hard_negative": 19},
    "captions_2": {"stm": 32, "stem_tem": 32, "other_microscopy": 18, "hard_negative": 18},
    "sealed_3": {"stm": 31, "stem_tem": 31, "other_microscopy": 19, "hard_negative": 19},
}
MODALITIES = {"STM", "STEM", "HRTEM", "TEM", "SEM", "AFM", "diffraction", "plot", "schematic", "other"}
IMAGES = {"STM", "STEM", "HRTEM", "TEM"}
ROLES = {"sample", "substrate", "tip", "support"}
UNITS = {"angstrom", "nm", "um", "mm", "1/nm", "1/angstrom"}
ELEMENT = r"(?:Dy|[A-Z][a-wz]?)"  # x and y are amounts
AMOUNT = r"(?:\d+(?:\.\d+)?)?(?:[+-]?\d*[xyδ])?"
FORMULA = re.compile(rf"(?:{ELEMENT}{AMOUNT})+")
FACET = re.compile(r"(.+)\((?:-?\d){3,4}\)")


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / name).read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def sets() -> dict[str, list[dict]]:
    return {name: lines(f"{name}.jsonl") for name in SMALLEST}


@pytest.fixture(scope="module")
def captions(sets: dict[str, list[dict]]) -> list[dict]:
    return [caption for each in sets.values() for caption in each]


@pytest.fixture(scope="module")
def panels(captions: list[dict]) -> list[tuple[dict, dict]]:
    return [(caption, panel) for caption in captions for panel in caption["panels"]]


def test_the_files_are_the_frozen_ones():
    frozen = dict(line.split()[::-1] for line in (FOLDER / "FROZEN.txt").read_text("utf-8").splitlines())
    assert frozen == {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in FILES}


@pytest.mark.parametrize(
    ("name", "n_captions", "n_panels"),
    [("captions", 353, 925), ("sealed", 100, 262), ("captions_2", 100, 273), ("sealed_3", 100, 291)],
)
def test_there_are_enough_of_every_stratum(sets, name: str, n_captions: int, n_panels: int):
    chosen = sets[name]
    assert (len(chosen), sum(len(caption["panels"]) for caption in chosen)) == (n_captions, n_panels)
    counts = Counter(caption["stratum"] for caption in chosen)
    assert counts.keys() == SMALLEST[name].keys()
    assert all(counts[stratum] >= least for stratum, least in SMALLEST[name].items())


def test_no_caption_and_no_id_occurs_twice(captions):
    texts = Counter(re.sub(r"\W+", "", caption["caption"].lower()) for caption in captions)
    ids = Counter(caption["id"] for caption in captions)
    assert max(texts.values()) == max(ids.values()) == 1


def test_every_caption_is_marked_authored_and_has_panels(captions):
    assert {caption["provenance"] for caption in captions} == {"authored"}
    assert all(caption["panels"] and caption["caption"].strip() == caption["caption"] for caption in captions)


def test_labels_are_unique_within_a_caption_and_stand_in_it(captions):
    for caption in captions:
        labels = [panel["label"] for panel in caption["panels"]]
        assert len(set(labels)) == len(labels), caption["id"]
        assert ("" in labels) == (labels == [""]), caption["id"]


def test_vocabularies_are_closed(panels):
    assert {panel["modality"] for _, panel in panels} == MODALITIES
    assert {formula["role"] for _, panel in panels for formula in panel["formulas"]} == ROLES
    assert {panel["scale_bar"]["unit"] for _, panel in panels if "scale_bar" in panel} <= UNITS
    assert all(panel["scale_bar"]["value"] > 0 for _, panel in panels if "scale_bar" in panel)


def test_relevance_follows_the_panels_except_for_biology(captions):
    for caption in captions:
        has_image = any(panel["modality"] in IMAGES for panel in caption["panels"])
        is_biology = caption["stratum"] == "hard_negative" and has_image
        assert caption["is_relevant"] == (has_image and not is_biology), caption["id"]
    assert not any(caption["is_relevant"] for caption in captions if caption["stratum"] == "hard_negative")
    assert all(caption["is_relevant"] for caption in captions if caption["stratum"] in ("stm", "stem_tem"))


def test_formulas_are_normalised_and_stand_in_their_caption(panels):
    for caption, panel in panels:
        keys = [(formula["formula"], formula["role"]) for formula in panel["formulas"]]
        assert len(set(keys)) == len(keys), caption["id"]
        for formula in panel["formulas"]:
            assert formula["raw"] in caption["caption"], (caption["id"], formula)
            elements = re.findall(ELEMENT, formula["formula"])
            assert elements, (caption["id"], formula)
            assert set(elements) <= set(chemical_symbols[1:]), (caption["id"], formula)
            assert len(set(elements)) == len(elements), (caption["id"], formula)
            is_system = "-".join(sorted(elements)) == formula["formula"] and len(elements) > 1
            assert is_system or FORMULA.fullmatch(formula["formula"]), (caption["id"], formula)


def test_facets_name_a_formula_of_their_panel(panels):
    for caption, panel in panels:
        known = {formula["formula"] for formula in panel["formulas"]}
        for facet in panel["facets"]:
            match = FACET.fullmatch(facet)
            assert match, (caption["id"], facet)
            assert match[1] in known, (caption["id"], facet)


def test_second_pass_agrees_as_the_guide_says(captions):
    rows = lines("second_pass.jsonl")
    known = {(caption["id"], panel["label"]) for caption in captions for panel in caption["panels"]}
    assert {(row["id"], row["label"]) for row in rows} <= known
    assert (len({row["id"] for row in rows}), len(rows)) == (100, 293)
    first, second = ([row[f"{which}_modality"] for row in rows] for which in ("first", "second"))
    assert cohen_kappa_score(first, second) == pytest.approx(0.992, abs=5e-4)
    pairs = [(set(row["first_formulas"]), set(row["second_formulas"])) for row in rows]
    n_both, n_first, n_second = (
        sum(len(chosen) for chosen in sets) for sets in zip(*((a & b, a - b, b - a) for a, b in pairs), strict=True)
    )
    assert (sum(a == b for a, b in pairs), n_first, n_second) == (283, 16, 0)
    assert 2 * n_both / (2 * n_both + n_first + n_second) == pytest.approx(0.979, abs=5e-4)
