"""Background and gain of micrographs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.images.preprocess import detrend, gain_against, smooth_part

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
