"""Background and gain of micrographs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.images.preprocess import detrend, gain_against, local_normalisation, smooth_part

Y, X = np.mgrid[-1:1:60j, -1:1:80j]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=6))
def test_any_quadratic_background_is_removed(c: list[float]) -> None:
    background = c[0] + c[1] * X + c[2] * Y + c[3] * X * Y + c[4] * X**2 + c[5] * Y**2
    np.testing.assert_allclose(detrend(background), 0, atol=1e-9 * max(1, np.abs(c).max()))
    pattern = np.sin(40 * X + 23 * Y)
    np.testing.assert_allclose(detrend(pattern + background), detrend(pattern), atol=1e-8 * max(1, np.abs(c).max()))


def test_smooth_part_is_a_projection() -> None:
    image = np.random.default_rng(0).normal(size=(50, 33))
    smooth = smooth_part(image)
    np.testing.assert_allclose(smooth_part(smooth), smooth, atol=1e-12)
    assert np.abs(smooth_part(image - smooth)).max() < 1e-12


def test_wild_pixels_are_tamed_and_others_kept() -> None:
    image = np.sin(40 * X + 23 * Y)
    spoilt = image.copy()
    spoilt[10, 10] = 1e9
    assert np.abs(detrend(spoilt) - detrend(image))[20:].max() < 0.1


def test_gain_is_recovered() -> None:
    model = np.sin(60 * X) + np.cos(47 * Y + 20 * X)
    gain = 1 - 0.2 * X**2 + 0.1 * Y
    found = gain_against(model * gain, model)
    np.testing.assert_allclose(found / found.mean(), gain / gain.mean(), atol=1e-6)
    np.testing.assert_allclose(gain_against(model, model), 1, atol=1e-9)
    np.testing.assert_allclose(gain_against(model, np.zeros_like(model)), 1)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.float32])
def test_number_types(dtype: type) -> None:
    image = (np.indices((20, 30)).sum(0) % 2).astype(dtype)
    assert detrend(image).dtype == np.float64
    assert abs(detrend(image).mean()) < 1e-12


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.ones((3, 9)), "at least 4"),
        (np.ones((9, 9, 3)), "shape"),
        (np.full((9, 9), np.nan), "81 of 81"),
        (np.ones((9, 9), complex), "real numbers"),
    ],
)
def test_bad_images_are_refused(image: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        detrend(image)


def lattice_image(edge: int = 160) -> np.ndarray:
    y, x = np.mgrid[:edge, :edge] * 0.2
    return 2 + np.cos(2 * np.pi * x / 3) + np.cos(2 * np.pi * y / 4)


def test_local_normalisation_does_not_know_smooth_brightness_and_contrast() -> None:
    y, x = np.mgrid[-1:1:160j, -1:1:160j]
    flat = lattice_image()
    lit = (1 + 0.3 * x) * flat + 5 * y
    plain, evened = (local_normalisation(image, 0.2, decay_angstrom=4.0) for image in (flat, lit))
    inner = slice(40, -40)
    assert np.corrcoef(plain[inner, inner].ravel(), evened[inner, inner].ravel())[0, 1] > 0.98
    for result in (plain, evened):
        assert abs(result[inner, inner].mean()) < 0.05
        assert (result[inner, inner] ** 2).mean() == pytest.approx(1, rel=0.05)
    np.testing.assert_allclose(local_normalisation(7 * flat - 3, 0.2), local_normalisation(flat, 0.2), atol=1e-9)


def test_factor_of_eq_3_is_the_root_of_the_number_of_frames() -> None:
    frames = np.stack([lattice_image(80) * gain for gain in (0.8, 1.0, 1.3)])
    unit = local_normalisation(frames, 0.2)
    printed = local_normalisation(frames, 0.2, is_factor_as_printed=True)
    np.testing.assert_allclose(printed, np.sqrt(3) * unit)
    one = local_normalisation(frames[0], 0.2, is_factor_as_printed=True)
    np.testing.assert_allclose(one, local_normalisation(frames[:1], 0.2)[0])


def test_local_normalisation_of_nothing_and_of_nonsense() -> None:
    assert not local_normalisation(np.full((40, 40), 3.0), 0.2).any()
    with pytest.raises(ValueError, match="shape"):
        local_normalisation(np.zeros(5), 0.2)
    with pytest.raises(ValueError, match="not finite"):
        local_normalisation(np.array([[1.0, np.nan]]), 0.2)
    with pytest.raises(ValueError, match="positive"):
        local_normalisation(np.ones((9, 9)), 0.0)
