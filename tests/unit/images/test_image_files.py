"""Image and structure files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from ase.build import graphene
from ase.io import write
from PIL import Image

from atomvision_ml.images.files import (
    ImageFileError,
    StructureFileError,
    read_image,
    read_pixel_size,
    read_structure,
    write_image,
)

RAMP = np.arange(12.0).reshape(3, 4)


def test_numbers_survive_npy_and_tif(tmp_path: Path) -> None:
    for name in ("a.npy", "a.tif"):
        write_image(tmp_path / name, RAMP, 0.2)
        assert np.array_equal(read_image(tmp_path / name), RAMP)


def test_a_tif_tells_its_pixel_size_to_all(tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", RAMP, 0.2)
    assert read_pixel_size(tmp_path / "a.tif") == 0.2
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages.first.tags
        assert file.pages.first.dtype == np.float32
        numerator, denominator = tags["XResolution"].value
        assert tags["ResolutionUnit"].value == 3
        # px per cm, and 0.2 Å is 2e-9 cm
        assert numerator / denominator == pytest.approx(1 / 2e-9, rel=1e-6)


def test_a_png_is_eight_bit_over_the_range(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", RAMP - 5, 0.2)
    pixels = read_image(tmp_path / "a.png")
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert pixels[0, 3] == round(255 * 3 / 11)
    write_image(tmp_path / "flat.png", np.ones((3, 4)), 0.2)
    assert not read_image(tmp_path / "flat.png").any()


def test_colour_is_averaged(tmp_path: Path) -> None:
    colour = np.zeros((5, 6, 4), np.uint8)
    colour[..., 1], colour[..., 3] = 90, 255
    Image.fromarray(colour).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.full((5, 6), 30.0))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.png", b"no png", "cannot be read"),
        ("a.tif", b"no tif", "cannot be read"),
        ("a.npy", b"no npy", "cannot be read"),
        ("a.jpg", b"", "not one of"),
        ("a", b"", "without a suffix"),
    ],
)
def test_unreadable_images_are_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageFileError, match=words) as caught:
        read_image(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3, 4)), "one image"),
        (np.zeros((0, 3)), "one image"),
        (np.full((3, 3), np.nan), "not finite"),
        (np.array([["a"]]), "numbers are wanted"),
    ],
)
def test_arrays_that_are_no_image_are_refused(tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ImageFileError, match=words):
        read_image(tmp_path / "a.npy")


def test_missing_files_and_unwritable_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match="no such file"):
        read_image(tmp_path / "a.png")
    with pytest.raises(ImageFileError, match="cannot be written"):
        write_image(tmp_path / "nowhere" / "a.npy", RAMP, 0.1)
    with pytest.raises(StructureFileError, match="no such file"):
        read_structure(tmp_path / "a.cif")


@pytest.mark.parametrize("name", ["a.vasp", "a.cif", "a.xyz", "a.json"])
def test_structures_of_ase_formats_are_read(tmp_path: Path, name: str) -> None:
    atoms = graphene(vacuum=5)
    atoms.pbc = True
    write(tmp_path / name, atoms)
    assert read_structure(tmp_path / name).get_chemical_formula() == "C2"


@pytest.mark.parametrize("name", ["a.cif", "a.vasp", "a.xyz", "a.json", "a.traj", "a.unknown", "POSCAR"])
def test_damaged_structures_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("this is\nno structure\n")
    with pytest.raises(StructureFileError) as caught:
        read_structure(tmp_path / name)
    assert name in str(caught.value)
