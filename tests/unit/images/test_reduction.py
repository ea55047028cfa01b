import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.images.reduction import (
    FACTOR,
    REDUCTIONS,
    WienerFilter,
    bicubic_reduced,
    box_reduced,
    cubic_upsampled,
    fourier_upsampled,
    probe_spectrum,
    variance_kept,
)

UPSAMPLINGS = (cubic_upsampled, fourier_upsampled)


def blobs(seed, edge=128, sigma=6.0):
    """A few Gaussians, smooth enough for coarse pixels."""
    random = np.random.default_rng(seed)
    places = random.uniform(30, edge - 31, (3, 2))
    y, x = np.indices((edge, edge))
    return sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)) for cx, cy in places)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_boxes_conserve_the_sum(seed):
    fine = np.random.default_rng(seed).random((2, 24, 32))
    coarse = box_reduced(fine)
    assert coarse.shape == (2, 6, 8)
    assert np.allclose(coarse.sum(axis=(1, 2)) * FACTOR**2, fine.sum(axis=(1, 2)))


def test_bicubic_reduction_is_that_of_pillow():
    from PIL import Image

    fine = np.random.default_rng(1).random((64, 48)) + 1
    by_pillow = Image.fromarray(fine.astype(np.float32)).resize((12, 16), Image.Resampling.BICUBIC)
    assert np.abs(bicubic_reduced(fine) - np.asarray(by_pillow)).max() < 1e-5


@pytest.mark.parametrize("reduce", REDUCTIONS.values())
def test_edges_must_be_multiples_of_four(reduce):
    with pytest.raises(ValueError, match="multiples of 4"):
        reduce(np.zeros((10, 12)))


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_no_way_back_moves_the_image(seed):
    """The half-pixel shift is in every way back: the image stays where it is, to a twentieth of a fine pixel."""
    from skimage.registration import phase_cross_correlation

    image = blobs(seed)
    wiener = WienerFilter.of((32, 32), probe_spectrum(0.6, 0.1), 0.0)
    for upsample in (*UPSAMPLINGS, wiener):
        shift, _, _ = phase_cross_correlation(
            image, upsample(box_reduced(image)), upsample_factor=50, normalization=None
        )
        assert np.abs(shift).max() <= 0.05


def test_fourier_interpolation_is_exact_between_the_samples():
    y, x = np.indices((64, 64))
    place_y, place_x = (FACTOR * (axis + 0.5) - 0.5 for axis in (y, x))
    coarse = np.cos(2 * np.pi * 0.03 * place_x) + np.cos(2 * np.pi * 0.05 * place_y)
    fine_y, fine_x = np.indices((256, 256))
    truth = np.cos(2 * np.pi * 0.03 * fine_x) + np.cos(2 * np.pi * 0.05 * fine_y)
    inner = (slice(64, -64),) * 2
    assert np.abs(fourier_upsampled(coarse) - truth)[inner].max() < 0.03
    assert np.abs(cubic_upsampled(coarse) - truth)[inner].max() > 0.03


@given(noise=st.floats(0, 2), seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_wiener_error_is_what_it_says(noise, seed):
    """On noise of the assumed spectrum the filter makes the error that it expects, and beats interpolation."""
    random = np.random.default_rng(seed)
    spectrum = probe_spectrum(0.5, 0.2)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    white = np.fft.fft2(random.normal(size=(256, 256)))
    truth = np.fft.ifft2(white * np.sqrt(spectrum(frequency))).real
    coarse = box_reduced(truth) + np.sqrt(noise) * random.normal(size=(64, 64))
    wiener = WienerFilter.of((64, 64), spectrum, noise)
    inner = (slice(32, -32),) * 2
    error = np.mean((wiener(coarse) - truth)[inner] ** 2)
    assert error == pytest.approx(wiener.error_variance, rel=0.25)
    assert error < np.mean((cubic_upsampled(coarse) - truth)[inner] ** 2)


def test_variance_kept_by_the_box():
    spectrum = probe_spectrum(0.5, 0.2)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(512), np.fft.fftfreq(512)))
    white = np.fft.fft2(np.random.default_rng(0).normal(size=(512, 512)))
    image = np.fft.ifft2(white * np.sqrt(spectrum(frequency))).real
    assert box_reduced(image).var() / image.var() == pytest.approx(variance_kept(0.5, 0.2), rel=0.05)
