"""``atomvision render`` as its users call it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from typer.testing import CliRunner, Result

from atomvision_ml.cli.app import app
from atomvision_ml.images.files import read_image, read_pixel_size
from atomvision_ml.images.stem import render


@pytest.fixture
def structure(tmp_path: Path) -> Path:
    """Golden example: H at the origin, C along x, Si along y, in a non-periodic file."""
    path = tmp_path / "three.xyz"
    write(path, Atoms("HCSi", positions=[[0, 0, 0], [3, 0, 0], [0, 2, 5]]))
    return path


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["render", *map(str, arguments)])


def test_three_atoms_lie_where_the_conventions_say(structure: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.npy"
    options = ["--pixel-size-angstrom", "0.5", "--size", "11", "--sigma-angstrom", "0.1", "--z-exponent", "2"]
    assert call(structure, *options, "--out", out).exit_code == 0
    image = np.load(out)
    peak = 1 / (2 * np.pi * 0.1**2)
    assert image.dtype == np.float64
    expected = np.zeros((11, 11))
    expected[0, 0], expected[0, 6], expected[4, 0] = 1, 36, 196
    assert np.abs(image / peak - expected).max() < 1e-3


def test_rotation_is_counter_clockwise_and_comes_before_the_shift(structure: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.npy"
    options = ["--pixel-size-angstrom", "0.5", "--size", "11", "--sigma-angstrom", "0.25"]
    assert call(structure, *options, "--rotation-deg", "90", "--shift-angstrom", "3", "1", "--out", out).exit_code == 0
    image = np.load(out)
    assert np.unravel_index(image.argmax(), image.shape) == (2, 2)
    assert image[8, 6] == pytest.approx(6**1.7 / (2 * np.pi * 0.25**2), rel=1e-6)


def test_negative_shifts_are_numbers_not_options(structure: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.npy"
    assert call(structure, "--shift-angstrom", "-1.5", "-2", "--out", out).exit_code == 0
    assert np.load(out)[0, 15] == pytest.approx(6**1.7 / (2 * np.pi * 0.25) * np.exp(-4 / 0.5), rel=1e-3)


def test_the_formats_hold_the_same_image(structure: Path, tmp_path: Path) -> None:
    for name in ("a.npy", "a.tif", "a.png"):
        assert call(structure, "--out", tmp_path / name, "--pixel-size-angstrom", "0.05").exit_code == 0
    image = read_image(tmp_path / "a.npy")
    assert np.abs(read_image(tmp_path / "a.tif") - image).max() < 1e-6 * image.max()
    assert np.abs(read_image(tmp_path / "a.png") - 255 * image / image.max()).max() <= 0.51
    assert read_pixel_size(tmp_path / "a.tif") == 0.05


def test_a_dose_gives_counts(structure: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.npy"
    assert call(structure, "--mean-detected-e-per-a2", "200", "--seed", "5", "--out", out).exit_code == 0
    counts = np.load(out)
    atoms = Atoms("HCSi", positions=[[0, 0, 0], [3, 0, 0], [0, 2, 5]])
    assert np.array_equal(counts, render(atoms, mean_detected_e_per_a2=200, seed=5))
    assert counts.mean() == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--out", "a.jpg"], 2, ".png, .tif, .tiff, .npy"),
        (["--out", "a.npy", "--size", "0"], 2, "not between 1 and"),
        (["--out", "a.npy", "--pixel-size-angstrom", "-1"], 2, "not positive"),
        (["--out", "a.npy", "--sigma-angstrom", "nan"], 2, "not positive"),
        (["--out", "a.npy", "--shift-angstrom", "1"], 2, "--shift-angstrom"),
        (["--out", "a.npy", "--rotation-deg", "inf"], 1, "finite"),
        (["--out", "a.npy", "--mean-detected-e-per-a2", "-4"], 1, "mean_detected_e_per_a2"),
        (["--out", "nowhere/a.npy"], 1, "cannot be written"),
        ([], 2, "--out"),
    ],
)
def test_wrong_options_are_told_without_a_traceback(
    structure: Path, tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    placed = [str(tmp_path / o) if o.endswith((".jpg", ".npy")) else o for o in options]
    result = call(structure, *placed)
    assert result.exit_code == code
    assert words in " ".join(result.output.replace("│", " ").split())
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_files_that_are_no_structure_are_told_in_a_real_process(tmp_path: Path) -> None:
    (tmp_path / "bad.cif").write_text("rubbish")
    (tmp_path / "upright.xyz").write_text('1\nLattice="0 0 3 0 3 0 9 0 0" pbc="T T T"\nC 0 0 0\n')
    for name, words in {"bad.cif": "bad.cif", "upright.xyz": "turn the structure", "none.cif": "no such file"}.items():
        command = [sys.executable, "-c", "from atomvision_ml.cli.app import main; main()", "render"]
        done = subprocess.run(
            [*command, str(tmp_path / name), "--out", str(tmp_path / "a.npy")],
            capture_output=True,
            text=True,
            env=os.environ,
        )
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "a.npy").exists()
