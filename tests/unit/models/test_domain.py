"""Images like the training images pass, others are named; nothing crashes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import graphene, mx2

from atomvision_ml.images.detector import DetectorParameters, detect, poisson_counts
from atomvision_ml.images.stem import render
from atomvision_ml.models.domain import MEANINGS, RANGES, check_domain, scene_statistics, training_ranges
from atomvision_ml.models.registry import model_names, model_spec
from atomvision_ml.models.segmenter_training import PIXEL_SIZES_ANGSTROM

CLEAN = render(mx2("MoS2", vacuum=5), pixel_size_angstrom=0.2, size=128, rotation_deg=13.0)


@pytest.mark.parametrize("dose", [None, 1e4, 300.0, 100.0])
@pytest.mark.parametrize("scale", [1.0, -50.0])
def test_training_images_pass_in_any_unit(dose, scale):
    image = CLEAN if dose is None else poisson_counts(CLEAN, 0.2, dose, 1)
    found = check_domain(abs(scale) * image + scale, 0.2)
    assert found.outside == found.warnings == ()
    assert found.typicality > 0.05
    assert set(found.statistics) == set(MEANINGS)


@pytest.mark.parametrize(
    ("image", "pixel", "names"),
    [
        (poisson_counts(CLEAN, 0.2, 0.5, 1), 0.2, {"log10_signal_to_noise"}),
        (CLEAN, 0.8, {"finest_detail_angstrom", "dominant_period_angstrom"}),
        (CLEAN, 0.04, {"finest_detail_angstrom", "dominant_period_angstrom"}),
        (CLEAN**4, 0.2, {"finest_detail_angstrom"}),
        (CLEAN + 40 * CLEAN.max() * np.linspace(0, 1, 128), 0.2, {"uneven_share"}),
        (np.random.default_rng(0).normal(size=(128, 128)), 0.2, {"log10_signal_to_noise"}),
    ],
    ids=["noise", "coarse pixel", "fine pixel", "sharp probe", "slope", "noise alone"],
)
def test_what_is_out_of_range_is_named(image, pixel, names):
    found = check_domain(image, pixel)
    assert names <= set(found.outside)
    assert found.typicality < 0.02
    assert len(found.warnings) == len(found.outside)
    for name, sentence in zip(found.outside, found.warnings, strict=True):
        assert sentence.startswith(name)
        assert "training range" in sentence


@pytest.mark.parametrize(
    ("model", "pixel", "is_known"),
    [
        ("segmenter", 0.8, False),
        ("segmenter", 0.25, True),
        ("refined_segmenter", 0.05, False),
        ("super_resolver", 0.2, False),
        ("super_resolver", 0.4, True),
        ("lattice_cnn", 0.1, True),
        ("lattice_finder", 0.05, True),
    ],
)
def test_a_pixel_size_that_a_model_does_not_know_is_named(model, pixel, is_known):
    found = check_domain(CLEAN, pixel, model=model)
    about = [sentence for sentence in found.warnings if sentence.startswith("pixel_size_angstrom")]
    assert ("pixel_size_angstrom" not in found.outside) is is_known
    assert len(found.warnings) == len(found.outside)
    assert [model in sentence for sentence in about] == [True] * (not is_known)


def test_ranges_are_those_of_the_training_scenes():
    sizes = {name: model_spec(name).pixel_sizes_angstrom() for name in model_names()}
    assert sizes["segmenter"] == (min(PIXEL_SIZES_ANGSTROM), max(PIXEL_SIZES_ANGSTROM))
    assert sizes["srgan"] == (0.4, 0.8)
    assert sizes["lattice_fusion"] == pytest.approx((0.1, 0.7))
    assert all(0 < low < high < 1 for low, high in sizes.values())


def test_a_blunt_probe_is_seen():
    blunt = detect(CLEAN, 0.2, DetectorParameters(mean_detected_e_per_a2=1e4, source_size_angstrom=0.9))
    assert "finest_detail_angstrom" in check_domain(blunt, 0.2).outside


def test_images_that_cannot_be_compared():
    for image in (np.ones((40, 40)), np.zeros((8, 30)), np.random.default_rng(0).normal(size=(6, 6))):
        found = check_domain(image, 0.1)
        assert found.typicality == 0
        assert len(found.warnings) == 1
    with pytest.raises(ValueError, match="finite"):
        check_domain(np.full((40, 40), np.nan), 0.1)
    with pytest.raises(ValueError, match="positive"):
        check_domain(np.eye(40), 0.0)


def test_one_bright_pixel_and_extreme_values_do_not_crash():
    image = CLEAN.copy()
    image[40, 40] = 1e12
    for pixel in (1e-3, 0.2, 1e18):
        assert all(np.isfinite(value) for value in check_domain(image, pixel).statistics.values())
    spike = np.zeros((64, 64))
    spike[10, 10] = 1.0
    assert check_domain(spike, 0.2).typicality == 0


def test_ranges_hold_most_of_what_they_are_made_of():
    statistics = scene_statistics(40, seed=7)
    ranges = training_ranges(statistics)
    for name in MEANINGS:
        values = np.array([one[name] for one in statistics])
        assert ((values >= ranges[name]["low"]) & (values <= ranges[name]["high"])).mean() > 0.9
    own = check_domain(render(graphene(vacuum=5), size=128), 0.1, ranges)
    assert 0 <= own.typicality <= 1
    with pytest.raises(ValueError, match="too few"):
        training_ranges(statistics[:5])


def test_released_ranges_hold_fresh_scenes():
    stored = json.loads(RANGES.read_text())
    assert set(stored) == {*MEANINGS, "unusual"}
    fresh = scene_statistics(40, seed=11)
    flagged = [any(not stored[n]["low"] <= v <= stored[n]["high"] for n, v in one.items()) for one in fresh]
    assert np.mean(flagged) <= 0.1
