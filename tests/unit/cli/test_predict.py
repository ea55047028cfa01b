"""`atomvision predict` as a person types it: the console script's own app, real files, real models."""

import json

import numpy as np
import pytest
from ase.build import mx2
from typer.testing import CliRunner

from atomvision_ml.cli.app import app
from atomvision_ml.images.files import write_image
from atomvision_ml.images.stem import render


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    clean = render(mx2("MoS2", vacuum=8.0), pixel_size_angstrom=0.2, size=128, rotation_deg=11.0)
    for name in ("one.png", "two.npy", "three.tif"):
        write_image(folder / name, clean, 0.2)
    (folder / "broken.png").write_bytes(b"not a picture")
    write_image(folder / "flat.npy", np.ones((64, 64)), 0.2)
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_lattice_one_line_an_image_in_order(folder):
    names = ["one.png", "broken.png", "two.npy", "flat.npy", "three.tif"]
    code, out, _ = run("lattice", *(folder / name for name in names), "--pixel-size-angstrom", 0.2, "--json")
    said = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [line["image"] for line in said] == [str(folder / name) for name in names]
    assert ["error" in line for line in said] == [False, True, False, True, False]
    for line in (said[0], said[2], said[4]):
        assert line["lattice"] == "hexagonal" == max(line["probabilities"], key=line["probabilities"].get)
        assert sum(line["probabilities"].values()) == pytest.approx(1)
        a, b = np.array(line["lattice_vectors_angstrom"])
        assert np.linalg.norm(a) <= np.linalg.norm(b)
        assert np.linalg.det([a, b]) > 0
        np.testing.assert_allclose([np.linalg.norm(a), np.linalg.norm(b)], 3.18, atol=2e-3)
        assert np.shape(line["lattice_vector_uncertainties_angstrom"]) == (2, 2)
        assert line["model"] == "lattice_finder"


def test_all_good_exits_zero_and_draws(folder, tmp_path):
    code, out, _ = run("lattice", folder / "one.png", "--pixel-size-angstrom", 0.2, "--overlay", tmp_path / "o")
    assert code == 0
    assert "hexagonal" in out
    assert (tmp_path / "o" / "one.png").read_bytes().startswith(b"\x89PNG")


def test_segment_finds_the_columns(folder, tmp_path):
    code, out, _ = run(
        "segment", folder / "three.tif", "--pixel-size-angstrom", 0.2, "--json", "--overlay", tmp_path / "o"
    )
    atoms = json.loads(out)["atoms"]
    assert code == 0
    assert set(atoms[0]) == {"x_angstrom", "y_angstrom", "intensity"}
    expected = 2 * (127 * 0.2) ** 2 / (3.18**2 * np.sqrt(3) / 2)
    assert len(atoms) == pytest.approx(expected, rel=0.15)
    assert (tmp_path / "o" / "three.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("task", ["lattice", "segment"])
def test_unknown_model_lists_the_valid_ones(folder, task):
    code, _, err = run(task, folder / "one.png", "--pixel-size-angstrom", 0.2, "--model", "nonsense", "--json")
    assert code == 2
    assert {"lattice": "lattice_finder", "segment": "segmenter"}[task] in err


def test_pixel_size_must_be_positive(folder):
    code, _, err = run("lattice", folder / "one.png", "--pixel-size-angstrom", -1)
    assert code == 2
    assert "not positive" in err
