"""What the detector makes of an image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from atomvision_ml.images.detector import DetectorParameters, detect, poisson_counts


def spot(size: int = 64, y: float = 30.0, x: float = 24.0, sigma: float = 3.0) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2))


def centre(image: np.ndarray) -> tuple[float, float]:
    rows, columns = np.indices(image.shape)
    return float((rows * image).sum() / image.sum()), float((columns * image).sum() / image.sum())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    dose=st.floats(1, 1e4),
    pixel=st.floats(0.05, 0.5),
    blur=st.floats(0, 1),
    background=st.floats(0, 0.9),
    jitter=st.floats(0, 0.3),
    drift=st.floats(-1, 1),
    scale=st.floats(1e-3, 1e3),
)
def test_the_expectation_averages_to_the_dose(
    dose: float, pixel: float, blur: float, background: float, jitter: float, drift: float, scale: float
) -> None:
    parameters = DetectorParameters(
        mean_detected_e_per_a2=dose,
        source_size_angstrom=blur,
        background_fraction=background,
        line_jitter_angstrom=jitter,
        drift_x_angstrom=drift,
        drift_y_angstrom=-drift,
        is_noisy=False,
    )
    expected = detect(scale * spot(), pixel, parameters, seed=1)
    assert expected.dtype == np.float32
    assert expected.mean() == pytest.approx(dose * pixel**2, rel=1e-4)
    assert expected.min() >= 0


def test_counts_are_poisson_and_follow_the_seed() -> None:
    flat = np.full((200, 200), 3.0)
    counts = poisson_counts(flat, 0.2, 500.0, seed=7)
    assert np.array_equal(counts, np.rint(counts))
    assert counts.mean() == pytest.approx(20.0, rel=0.01)
    assert counts.var() == pytest.approx(20.0, rel=0.05)
    assert np.array_equal(counts, poisson_counts(flat, 0.2, 500.0, seed=7))
    assert not np.array_equal(counts, poisson_counts(flat, 0.2, 500.0, seed=8))


def test_incident_dose_times_detected_fraction_is_the_detected_dose() -> None:
    by_incident = DetectorParameters(incident_e_per_a2=1e4, detected_fraction=0.03)
    by_detected = DetectorParameters(mean_detected_e_per_a2=300)
    assert np.array_equal(detect(spot(), 0.1, by_incident, 3), detect(spot(), 0.1, by_detected, 3))


def test_the_source_size_adds_in_quadrature() -> None:
    parameters = DetectorParameters(mean_detected_e_per_a2=1e4, source_size_angstrom=0.4, is_noisy=False)
    blurred = detect(spot(), 0.1, parameters)
    rows = np.arange(64)
    variance = (blurred.sum(axis=1) * (rows - centre(blurred)[0]) ** 2).sum() / blurred.sum()
    assert variance == pytest.approx(3.0**2 + 4.0**2, rel=0.02)


def test_background_lifts_the_valleys() -> None:
    parameters = DetectorParameters(mean_detected_e_per_a2=100, background_fraction=0.25, is_noisy=False)
    assert detect(spot(), 1.0, parameters)[0, 63] == pytest.approx(25.0, rel=1e-3)


def test_drift_moves_later_rows_along_its_axes() -> None:
    def seen(**drift: float) -> tuple[float, float]:
        parameters = DetectorParameters(mean_detected_e_per_a2=100, is_noisy=False, **drift)
        return centre(detect(spot(), 0.1, parameters))

    y, x = seen()
    assert seen(drift_x_angstrom=1.0)[1] - x == pytest.approx(10 * 30 / 63, abs=0.1)
    assert seen(drift_x_angstrom=1.0)[0] == pytest.approx(y, abs=0.1)
    assert seen(drift_y_angstrom=1.0)[0] - y == pytest.approx(10 * 30 / 63, abs=1.0)


def test_line_jitter_shifts_whole_rows() -> None:
    stripes = np.tile(np.sin(np.arange(64) / 4) + 1, (64, 1))
    parameters = DetectorParameters(mean_detected_e_per_a2=100, line_jitter_angstrom=0.2, is_noisy=False)
    jittered = detect(stripes, 0.1, parameters, seed=5)
    assert np.abs(np.diff(jittered, axis=0)).max() > 0.2 * jittered.max()
    assert np.array_equal(jittered, detect(stripes, 0.1, parameters, seed=5))


@pytest.mark.parametrize("image", [np.zeros((8, 8)), np.zeros((0, 0)), np.full((8, 8), 2.0)])
def test_empty_and_constant_images_are_no_failure(image: np.ndarray) -> None:
    parameters = DetectorParameters(
        mean_detected_e_per_a2=10, source_size_angstrom=1.0, line_jitter_angstrom=0.1, background_fraction=0.1
    )
    counts = detect(image, 0.5, parameters)
    assert counts.shape == image.shape
    assert bool(counts.any()) == bool(image.any())


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros(5), "two axes"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.array([[1.0, -1.0]]), "negative"),
    ],
)
def test_images_that_cannot_be_counted_are_refused(image: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        poisson_counts(image, 0.1, 10)


@pytest.mark.parametrize("given_", [{}, {"mean_detected_e_per_a2": 1.0, "incident_e_per_a2": 1.0}])
def test_the_dose_is_given_exactly_once(given_: dict) -> None:
    with pytest.raises(ValidationError, match="give either"):
        DetectorParameters(**given_)
