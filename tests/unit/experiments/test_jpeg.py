"""JPEG loses pixels by itself: what is read is near what was written, and just what the library that wrote it reads."""

import numpy as np
import pytest
from experiment_files import micrograph
from PIL import Image

from atomvision_ml.experiments.readers.registry import read
from atomvision_ml.experiments.reading import ReadLimits


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_pixels_are_those_of_the_picture_and_near_those_written(tmp_path, suffix):
    pixels = micrograph("u1")
    path = tmp_path / f"image{suffix}"
    Image.fromarray(pixels).save(path, format="JPEG", quality=95)
    kind, reading = read(path, ReadLimits())
    (picture,) = reading.pictures
    assert kind == "jpeg"
    assert picture.pixels.dtype == np.uint8
    assert picture.y.scale is None
    np.testing.assert_array_equal(picture.pixels, np.asarray(Image.open(path)))
    miss = picture.pixels.astype(int) - pixels
    assert np.abs(miss).max() <= 12
    assert np.sqrt(np.mean(miss**2)) < 3  # a row or column off would be 50
