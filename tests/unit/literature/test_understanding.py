"""Panels, modalities and chemistry of captions: the rules, one by one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.literature.captions import distribute, expand_labels
from atomvision_ml.literature.chemistry import composition, find_materials, normalised_formula, reduced_formula
from atomvision_ml.literature.modality import is_relevant, modalities, panel_modalities


@pytest.mark.parametrize(
    ("group", "labels"),
    [
        ("a", "a"),
        ("a-c", "abc"),
        ("a–c, e", "abce"),
        ("a, b and d", "abd"),
        ("a to d", "abcd"),
        ("A,B", "ab"),
    ],
)
def test_groups_of_labels_are_expanded(group: str, labels: str) -> None:
    assert expand_labels(group) == tuple(labels)


@pytest.mark.parametrize(
    ("caption", "texts"),
    [
        ("(a) STM of MoS2. (b, c) STEM of it.", {"a": "STM of MoS2.", "b": "STEM of it.", "c": "STEM of it."}),
        ("Growth. (a)–(c) TEM; (d) SEM.", {"a": "TEM", "b": "TEM", "c": "TEM", "d": "SEM."}),
        ("a, Schematic. b, HAADF image of Au.", {"a": "Schematic.", "b": "HAADF image of Au."}),
        ("(A) One. (B) Two, along the line in (A).", {"a": "One.", "b": "Two, along the line in (A)."}),
        ("The Si(111) surface by Eq. (1).", {"": "The Si(111) surface by Eq. (1)."}),
    ],
)
def test_text_goes_to_its_panel(caption: str, texts: dict[str, str]) -> None:
    assert {panel.label: panel.text for panel in distribute(caption).panels} == texts


def test_labels_may_stand_behind_what_they_name() -> None:
    panels = {panel.label: panel.text for panel in distribute("STM (a) and STEM (b) images of graphene.").panels}
    assert panels["a"].startswith("STM")
    assert panels["b"].startswith("STEM")
    assert all("graphene" in text for text in panels.values())


@given(text=st.text(max_size=120))
@settings(max_examples=200, deadline=None)
def test_any_caption_is_divided_into_distinct_panels(text: str) -> None:
    labels = [panel.label for panel in distribute(text).panels]
    assert labels
    assert len(set(labels)) == len(labels)
    find_materials(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("HAADF-STEM image", ["STEM"]),
        ("aberration-corrected scanning transmission electron microscopy", ["STEM"]),
        ("scanning tunnelling microscopy topograph and dI/dV spectrum", ["STM", "plot"]),
        ("HRTEM image with its FFT", ["HRTEM", "diffraction"]),
        ("bright-field TEM", ["TEM"]),
        ("nc-AFM image, SEM micrograph", ["AFM", "SEM"]),
        ("Women in STEM education", []),
        ("embryonic stem cells and the stem of a plant", []),
        ("short-term memory (STM) capacity", []),
        ("Data are mean ± SEM", []),
        ("the TEM00 mode of the cavity", []),
        ("antiferromagnetic (AFM) order", []),
    ],
)
def test_modalities_and_their_namesakes(text: str, names: list[str]) -> None:
    assert modalities(text) == names
    assert is_relevant(text) == any(name in ("STM", "STEM", "HRTEM", "TEM") for name in names)


def test_panels_inherit_what_is_said_of_all() -> None:
    found = panel_modalities(distribute("STM images of graphene. (a) As grown. (b) Annealed. (c) Height profile."))
    assert [(each.label, each.modality) for each in found] == [("a", "STM"), ("b", "STM"), ("c", "plot")]
    assert found[0].confidence < 0.9 < found[2].confidence


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("MoS2 on Au(111)", [("MoS2", "sample", None), ("Au", "substrate", "111")]),
        ("La0.67Ca0.33MnO3 on SrTiO3(001)", [("La0.67Ca0.33MnO3", "sample", None), ("SrTiO3", "substrate", "001")]),
        ("Ca(OH)2 and h-BN", [("CaO2H2", "sample", None), ("BN", "sample", None)]),
        ("YBa2Cu3O7-δ film", [("YBa2Cu3O7", "sample", None)]),
        ("graphene on a Cu grid", [("C", "sample", None), ("Cu", "support", None)]),
        ("imaged with a W tip", [("W", "tip", None)]),
        ("In the inset, STM, TEM and DNA; at 5 K, I-V curves in V", []),
        ("Mn^3+ and Mn^4+ ions", []),
    ],
)
def test_materials_and_their_parts(text: str, found: list[tuple]) -> None:
    assert [(each.formula, each.role, each.facet) for each in find_materials(text)] == found


@pytest.mark.parametrize(
    ("formula", "normalised", "reduced"),
    [
        ("MoS2", "MoS2", "MoS2"),
        ("Mo2S4", "Mo2S4", "MoS2"),
        ("Ca(OH)2", "CaO2H2", "CaH2O2"),
        ("La0.67Ca0.33MnO3", "La0.67Ca0.33MnO3", "Ca0.33La0.67MnO3"),
        ("AxB2", None, None),
        ("Xx2", None, None),
        ("Ca(OH", None, None),
    ],
)
def test_formulas_are_normalised(formula: str, normalised: str | None, reduced: str | None) -> None:
    assert normalised_formula(formula) == normalised
    assert reduced_formula(formula) == reduced
    assert (composition(formula) is None) == (normalised is None)
