"""Every format that a library or these tests can write: pixels exactly, calibration within 1e-6."""

import math

import h5py
import numpy as np
import pytest
import tifffile
from experiment_files import CALIBRATED, DTYPES, WRITERS, X_NM, Y_NM, micrograph, write_ser, write_sxm, write_velox

from atomvision_ml.experiments.readers.registry import read
from atomvision_ml.experiments.reading import ReadLimits, UnreadableError
from atomvision_ml.experiments.units import UnitError, convert, normalised, quantity

LIMITS = ReadLimits()
CASES = [(name, dtype) for name, dtypes in DTYPES.items() for dtype in dtypes]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_pixels_are_read_exactly(tmp_path, name, dtype):
    suffix, write = WRITERS[name]
    pixels = micrograph(dtype)
    path = tmp_path / f"image{suffix}"
    write(path, pixels)
    kind, reading = read(path, LIMITS)
    picture = reading.pictures[0]
    assert kind == ("tiff" if name == "imagej" else name)
    assert picture.pixels.dtype.newbyteorder("=") == pixels.dtype
    np.testing.assert_array_equal(picture.pixels, pixels)
    if name in CALIBRATED:
        assert math.isclose(convert(picture.y.scale, picture.y.unit, "nm"), Y_NM, rel_tol=1e-6)
        assert math.isclose(convert(picture.x.scale, picture.x.unit, "nm"), X_NM, rel_tol=1e-6)
    else:
        assert picture.y.scale is None


@pytest.mark.parametrize("direction", ["down", "up"])
def test_scans_are_turned_the_way_the_sample_lies(tmp_path, direction):
    pixels = micrograph("f4")
    write_sxm(tmp_path / "scan.sxm", pixels, direction)
    forward, backward = read(tmp_path / "scan.sxm", LIMITS)[1].pictures
    np.testing.assert_array_equal(forward.pixels, pixels)
    np.testing.assert_array_equal(backward.pixels, pixels)
    assert forward.quantity == "Z"
    assert forward.intensity[2] == "m"


def test_the_name_decides_nothing(tmp_path):
    pixels = micrograph()
    path = tmp_path / "scan.dm3"
    write_sxm(path, pixels.astype("f4"))
    kind, reading = read(path, LIMITS)
    assert kind == "sxm"
    np.testing.assert_array_equal(reading.pictures[0].pixels, pixels.astype("f4"))


def test_tia_diffraction_is_reciprocal(tmp_path):
    write_ser(tmp_path / "pattern_1.ser", micrograph(), 4.2e7, 4.3e7)
    picture = read(tmp_path / "pattern_1.ser", LIMITS)[1].pictures[0]
    assert convert(picture.y.scale, picture.y.unit, "1/nm") == pytest.approx(0.042)
    assert convert(picture.x.scale, picture.x.unit, "1/nm") == pytest.approx(0.043)


def test_tia_header_without_pixels_names_its_partner(tmp_path):
    suffix, write = WRITERS["emi"]
    write(tmp_path / f"image{suffix}", micrograph())
    (tmp_path / "image_1.ser").unlink()
    with pytest.raises(UnreadableError, match=r"image_1\.ser, which holds the pixels, is not beside it"):
        read(tmp_path / "image.emi", LIMITS)


def test_frames_are_a_stack_and_complex_images_are_left_out(tmp_path):
    pixels = micrograph("i2")
    path = tmp_path / "stack.emd"
    write_velox(path, pixels)
    with h5py.File(path, "a") as file:
        (group,) = file["Data/Image"].values()
        del group["Data"]
        group["Data"] = np.stack([pixels, pixels + 1, pixels + 2], axis=-1)
        other = file.create_group("Data/Image/ffff")
        other["Data"] = np.zeros((20, 20, 1), [("realFloat", "<f4"), ("imagFloat", "<f4")])
        other["Metadata"] = group["Metadata"][()]
    _, reading = read(path, LIMITS)
    assert len(reading.pictures) == 1
    np.testing.assert_array_equal(reading.pictures[0].pixels[2], pixels + 2)
    assert "complex values" in reading.skipped[0]


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("colour", [False, True])
def test_grey_pictures_in_colour_are_read_and_coloured_ones_refused(tmp_path, colour, planes):
    grey = micrograph("u1")
    channels = np.stack([grey, grey, grey + 1 if colour else grey], axis=-1 if planes == "contig" else 0)
    path = tmp_path / "screen.tif"
    tifffile.imwrite(path, channels, photometric="rgb", planarconfig=planes, metadata=None)
    if colour:
        with pytest.raises(UnreadableError, match="colour picture"):
            read(path, LIMITS)
    else:
        np.testing.assert_array_equal(read(path, LIMITS)[1].pictures[0].pixels, grey)


def test_a_screen_resolution_is_no_calibration(tmp_path):
    path = tmp_path / "screen.tif"
    tifffile.imwrite(path, micrograph(), resolution=(96, 96), resolutionunit="INCH", metadata=None)
    assert read(path, LIMITS)[1].pictures[0].y.scale is None


def test_each_image_of_an_ome_file_has_its_own_calibration(tmp_path):
    path = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        for image, edge in ((micrograph(), Y_NM), (micrograph(rows=64), 3 * Y_NM)):
            sizes = {"PhysicalSizeX": edge, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": edge, "PhysicalSizeYUnit": "nm"}
            file.write(image, metadata={"axes": "YX", **sizes})
    edges = [convert(picture.y.scale, picture.y.unit, "nm") for picture in read(path, LIMITS)[1].pictures]
    assert edges == pytest.approx([Y_NM, 3 * Y_NM])


def test_a_preview_of_another_size_is_not_calibrated(tmp_path):
    path = tmp_path / "preview.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(micrograph(), resolution=(1e7 / X_NM, 1e7 / Y_NM), resolutionunit="CENTIMETER", metadata=None)
        file.write(micrograph(rows=18, columns=30), metadata=None)
    image, preview = read(path, LIMITS)[1].pictures
    assert image.y.scale is not None
    assert preview.y.scale is None


def test_an_ome_file_opens_no_other_file(tmp_path):
    """OME-XML may name other files; the pixels are those of this one."""
    suffix, write = WRITERS["ome_tiff"]
    secret, path = tmp_path / f"secret{suffix}", tmp_path / f"image{suffix}"
    write(secret, micrograph() + 1)
    write(path, micrograph())
    xml = tifffile.tiffcomment(path)
    uuid = tifffile.tiffcomment(secret).partition('UUID="urn:uuid:')[2][:36]
    plane = f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="secret.ome.tif">urn:uuid:{uuid}</UUID></TiffData>'
    begin, end = xml.index("<TiffData"), xml.index("</Pixels>")
    tifffile.tiffcomment(path, xml[:begin] + plane + xml[end:])
    try:
        pixels = read(path, LIMITS)[1].pictures[0].pixels
    except UnreadableError:
        return
    np.testing.assert_array_equal(pixels, micrograph())


@pytest.mark.parametrize(
    ("value", "unit", "wanted", "result"),
    [
        (300000, "V", "kV", 300.0),
        (2.0, "A", "nm", 0.2),
        (2.0, "A", "pA", 2e12),
        (1.5, "µm", "nm", 1500.0),
        (0.2, "[n_m]", "nm", 0.2),
        (0.5, "1 / nm", "1/nm", 0.5),
        (3.0, "nm^-1", "1/nm", 3.0),
        (1e9, "1/m", "1/nm", 1.0),
        (0.025, "rad", "mrad", 25.0),
        (50, "K X", "x", 50000.0),
    ],
)
def test_units(value, unit, wanted, result):
    assert convert(value, unit, wanted) == pytest.approx(result, rel=1e-12)


def test_units_of_another_kind_are_refused():
    with pytest.raises(UnitError, match="'eV' cannot be converted to 'nm'"):
        convert(1.0, "eV", "nm")
    assert normalised("µm") == normalised("um") == "um"
    assert quantity("80 kV") == (80.0, "kV")
    assert quantity("kV") is None
