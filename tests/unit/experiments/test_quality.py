"""Quality figures against images whose noise, blur and saturation are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from atomvision_ml.experiments.quality import clipped_share, image_quality


def crystal(sigma_px: float | tuple[float, float] = 2.0, period_px: float = 16.0, size: int = 256) -> np.ndarray:
    """A square lattice of Gaussians of peak about 1."""
    points = np.zeros((size, size))
    place = np.arange(period_px / 2, size, period_px).astype(int)
    points[np.ix_(place, place)] = 1
    blurred = gaussian_filter(points, sigma_px, mode="wrap")
    return blurred / blurred.max()


@settings(max_examples=15, deadline=None)
@given(noise=st.floats(0.02, 0.5), gain=st.floats(1e-3, 1e4), offset=st.floats(-1e3, 1e3), seed=st.integers(0, 99))
def test_noise_is_found_in_units_of_the_image(noise: float, gain: float, offset: float, seed: int) -> None:
    clean = crystal()
    noisy = clean + np.random.default_rng(seed).normal(0, noise, clean.shape)
    found = image_quality(gain * noisy + offset)
    assert found.noise == pytest.approx(gain * noise, rel=0.12)
    assert found.snr == pytest.approx(clean.std() / noise, rel=0.2, abs=0.1)


def test_blur_lowers_the_focus_and_noise_hardly_does() -> None:
    random = np.random.default_rng(1).normal(0, 0.05, (256, 256))
    focus = [image_quality(crystal(sigma) + random).focus for sigma in (1.5, 2.0, 2.5, 3.0)]
    assert focus == sorted(focus, reverse=True)
    quiet, loud = (image_quality(crystal(2.0) + times * random).focus for times in (1, 4))
    assert loud == pytest.approx(quiet, rel=0.1)


@pytest.mark.parametrize(("blur", "angle"), [((3.0, 2.0), 0.0), ((2.0, 3.0), 90.0)], ids=["along-y", "along-x"])
def test_astigmatism_and_the_sharper_axis(blur: tuple[float, float], angle: float) -> None:
    round_one, long_one = image_quality(crystal(2.0)), image_quality(crystal(blur))
    assert round_one.astigmatism < 0.02
    assert long_one.astigmatism > 0.3
    assert abs(long_one.astigmatism_angle_deg) == pytest.approx(angle, abs=2)


def test_saturated_pixels_are_counted() -> None:
    values = np.random.default_rng(2).normal(100, 20, (128, 128))
    assert clipped_share(values) == 0
    assert clipped_share(np.clip(values, None, 120)) == pytest.approx((values >= 120).mean())
    assert clipped_share(np.clip(values, 80, 120)) == pytest.approx(((values >= 120) | (values <= 80)).mean())


@pytest.mark.parametrize("mean", [0.1, 0.7, 1.5, 30.0])
def test_few_electrons_are_not_saturation(mean: float) -> None:
    counts = np.random.default_rng(3).poisson(mean, (256, 256))
    assert clipped_share(counts) == 0


def test_a_constant_image_and_what_is_no_image() -> None:
    assert image_quality(np.full((32, 32), 7)).snr == 0
    with pytest.raises(ValueError, match=r"\[y, x\]"):
        image_quality(np.zeros((3, 32, 32)))
    with pytest.raises(ValueError, match="not finite"):
        image_quality(np.full((32, 32), np.nan))
