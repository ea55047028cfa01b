"""``atomvision audit`` on images that somebody else made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr
from ase import Atoms
from ase.build import graphene, mx2
from ase.io import write
from typer.testing import CliRunner, Result

from atomvision_ml.cli.app import app
from atomvision_ml.images.audits import Specimen
from atomvision_ml.images.files import write_image
from atomvision_ml.images.foreign import fit_image
from atomvision_ml.images.stem import StemParameters, View, render
from atomvision_ml.images.stem_set import write_stem_set


def layers() -> dict[str, Atoms]:
    made = {
        "MoS2": mx2("MoS2", a=3.18, thickness=3.19, vacuum=8),
        "WSe2": mx2("WSe2", a=3.29, thickness=3.34, vacuum=8),
        "C2": graphene(vacuum=8),
    }
    for atoms in made.values():
        atoms.pbc = True
    return made


def one_atom_a_pixel(atoms: Atoms, pixel: float = 0.1, size: int = 128, sigma: float = 0.5) -> np.ndarray:
    """The convolution that keeps one atom of an element in each pixel, with x along rows and no atoms outside.

    Bilinear weights are assigned, not added, where indices repeat.
    """
    layer = atoms.repeat((12, 14, 1))
    xy = layer.positions[:, :2] - layer.positions[:, :2].mean(axis=0) + size * pixel / 2
    image = np.zeros((size, size))
    x = np.fft.fftfreq(size) * size * pixel
    probe = np.exp(-(x[:, None] ** 2 + x[None, :] ** 2) / (2 * sigma**2))
    for number in np.unique(layer.numbers):
        at = xy[layer.numbers == number] / pixel
        at = at[np.all((at >= 0) & (at < size - 1), axis=1)]
        whole, part = np.floor(at).astype(int), at % 1
        splat = np.zeros((size, size))
        for i in (0, 1):
            for j in (0, 1):
                weight = np.abs(1 - i - part[:, 0]) * np.abs(1 - j - part[:, 1])
                splat[whole[:, 0] + i, whole[:, 1] + j] += weight
        image += number**1.7 * splat
    return np.fft.ifft2(np.fft.fft2(image) * np.fft.fft2(probe)).real


@pytest.fixture
def structures(tmp_path: Path) -> Path:
    (tmp_path / "structures").mkdir()
    for name, atoms in layers().items():
        write(tmp_path / "structures" / f"{name}.vasp", atoms)
    return tmp_path / "structures"


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def results(result: Result) -> dict[str, dict]:
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return {line["name"]: line for line in map(json.loads, result.stdout.splitlines())}


def test_sound_images_in_any_pose_and_scale_pass(structures: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name, atoms in layers().items():
        image = render(atoms, size=128, rotation_deg=-31.7, shift_angstrom=(0.7, 2.2))
        write_image(tmp_path / "images" / f"{name}.npy", 40 * image, 0.1)
    done = call(tmp_path / "images", "--structures", structures, "--pixel-size-angstrom", "0.1", "--json")
    assert done.exit_code == 0
    assert {name: line["passed"] for name, line in results(done).items()} == {
        "images_show_their_structures": True,
        "coincident_atoms_add": True,
        "intensity_sum_is_conserved": True,
        "images_have_the_plane_group_symmetry": True,
    }


def test_one_atom_a_pixel_is_reported_as_loss_of_coincident_atoms(structures: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name, atoms in layers().items():
        write_image(tmp_path / "images" / f"{name}.npy", one_atom_a_pixel(atoms), 0.1)
    done = call(tmp_path / "images", "--structures", structures, "--pixel-size-angstrom", "0.1", "--json")
    assert done.exit_code == 1
    found = results(done)
    assert found["images_show_their_structures"]["passed"]
    assert found["coincident_atoms_add"]["passed"] is False
    sites = found["coincident_atoms_add"]["details"]["images"]["MoS2"]["site_intensities"]
    assert sites["S2"] == pytest.approx(16**1.7 / 42**1.7, abs=0.01)
    assert found["intensity_sum_is_conserved"]["passed"] is False
    assert set(found["intensity_sum_is_conserved"]["details"]["failed"]) == {"MoS2", "WSe2"}


def test_the_peer_that_keeps_one_atom_a_pixel_is_caught(structures: Path, tmp_path: Path) -> None:
    convolution = pytest.importorskip("jarvis.analysis.stem.convolution_apprx", reason="the bench extra is absent")
    from jarvis.core.atoms import ase_to_atoms

    simulation = convolution.STEMConv(output_size=[256, 256])
    image = simulation.simulate_surface(ase_to_atoms(layers()["MoS2"]), px_scale=0.1)[0]
    write_image(tmp_path / "MoS2.png", image, 0.1)
    done = call(tmp_path / "MoS2.png", "--structures", structures, "--pixel-size-angstrom", "0.1", "--json")
    found = results(done)["coincident_atoms_add"]
    assert found["passed"] is False
    assert found["details"]["images"]["MoS2"]["site_intensities"]["S2"] == pytest.approx(0.194, abs=0.01)


def test_a_broken_symmetry_is_reported(structures: Path, tmp_path: Path) -> None:
    supercell = layers()["C2"].repeat((3, 3, 1))
    supercell.positions[4, 0] += 0.35
    write_image(tmp_path / "C2.npy", render(supercell, size=128), 0.1)
    done = call(tmp_path / "C2.npy", "--structures", structures, "--pixel-size-angstrom", "0.1", "--json")
    assert results(done)["images_have_the_plane_group_symmetry"]["passed"] is False


def test_one_bad_image_never_stops_the_good_ones(structures: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    write_image(images / "MoS2.tif", render(layers()["MoS2"], size=128), 0.1)
    write_image(images / "unknown.tif", render(layers()["MoS2"], size=128), 0.1)
    write_image(images / "WSe2.tif", np.random.default_rng(0).random((128, 128)), 0.1)
    (images / "C2.png").write_bytes(b"rubbish")
    done = call(images, "--structures", structures, "--json")
    assert done.exit_code == 1
    found = results(done)
    problems = found["images_show_their_structures"]["details"]["problems"]
    assert set(problems) == {"unknown", "WSe2", "C2"}
    assert "no structure named unknown" in problems["unknown"]
    assert "does not look like its structure" in problems["WSe2"]
    assert found["coincident_atoms_add"]["passed"] is True


def test_a_set_of_this_platform_knows_its_poses(tmp_path: Path, slab_row: Callable[..., dict]) -> None:
    rows = [slab_row(name, atoms) for name, atoms in layers().items()]
    slabs = pl.DataFrame(rows, infer_schema_length=None)
    slabs.write_parquet(tmp_path / "slabs.parquet")
    parameters = StemParameters(size_px=128, minimum_pixel_size_angstrom=0.2)
    write_stem_set(slabs, tmp_path / "stem", parameters, source="prototypes")
    done = call(tmp_path / "stem", "--structures", tmp_path / "slabs.parquet", "--json")
    assert done.exit_code == 0
    assert results(done)["images_agree_with_direct_sum"]["passed"]
    images = zarr.open_group(str(tmp_path / "stem"), mode="r+")["images"]
    images[1] = np.asarray(images[1]).T
    done = call(tmp_path / "stem", "--structures", tmp_path / "slabs.parquet")
    assert done.exit_code == 1
    assert "FAIL  images_agree_with_direct_sum" in done.stdout


@pytest.mark.parametrize(
    ("images", "structure", "words"),
    [
        ("nowhere", "structures", "no such file or folder of images"),
        ("empty", "structures", "no image found"),
        ("MoS2.npy", "nowhere", "no such file or folder of structures"),
        ("MoS2.npy", "structures", "give --pixel-size-angstrom"),
    ],
)
def test_what_is_missing_is_told(structures: Path, tmp_path: Path, images: str, structure: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    write_image(tmp_path / "MoS2.npy", np.ones((40, 40)), 0.1)
    done = call(tmp_path / images, "--structures", tmp_path / structure)
    assert done.exit_code == 2
    assert words in done.output
    assert structures.is_dir()


def test_pose_and_probe_are_found() -> None:
    atoms = layers()["MoS2"]
    image = render(atoms, size=128, sigma_angstrom=0.6, rotation_deg=12.3, shift_angstrom=(1.0, -0.4))
    cell = atoms.cell.array[:2, :2]
    fit = fit_image(Specimen("x", atoms.numbers, atoms.positions[:, :2], cell, View(0.1, 128)), 3 * image + 7)
    assert fit.correlation > 0.9999
    assert max(fit.residuals[0], 1 - fit.correlation) < 0.01 < fit.residuals[1]
    is_turned_over = not np.array_equal(fit.image, 3 * image + 7)
    angle = 30 - 12.3 if is_turned_over else 12.3
    # Three-fold symmetry: the rotation is known up to 120°; turned over, x and y change places.
    assert (fit.specimen.view.rotation_deg - angle + 60) % 120 - 60 == pytest.approx(0, abs=0.05)
    assert fit.site_intensities["S2"] == pytest.approx(0.388, abs=2e-3)
