"""`atomvision predict` as a person types it: the console script's own app, real files, real models."""

import json

import numpy as np
import pytest
from ase.build import mx2
from typer.testing import CliRunner

from atomvision_ml.cli.app import app
from atomvision_ml.experiments.exports import export_image
from atomvision_ml.images.files import read_image, write_image
from atomvision_ml.images.preprocess import local_normalisation
from atomvision_ml.images.stem import Projection, View, render, render_batch


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


def test_the_distortion_of_a_scan_is_told_and_can_be_allowed_for(folder, tmp_path):
    sheared = Projection(np.zeros((1, 2)), np.array([300.0]), 3.2 * np.array([[1.01, 0.0], [0.015, 0.995]]))
    write_image(tmp_path / "scan.npy", render_batch([sheared], [View(0.2, 128)])[0], 0.2)
    given = ["lattice", tmp_path / "scan.npy", "--pixel-size-angstrom", 0.2]
    _, out, _ = run(*given)
    assert "(square but for 1.1 % of strain: see --scan-distortion-percent)" in out
    for percent, lattice in ((0, "oblique"), (1, "square")):
        _, out, _ = run(*given, "--json", "--scan-distortion-percent", percent)
        said = json.loads(out)
        assert said["lattice"] == lattice
        assert said["strain_percent"]["square"] == pytest.approx(1.06, abs=0.05)
        assert said["strain_percent"]["oblique"] == 0
    code, _, err = run(*given, "--scan-distortion-percent", 1, "--model", "lattice_cnn")
    assert code == 2
    assert "lattice_cnn does not allow for it" in " ".join(err.replace("│", " ").split())


def test_all_good_exits_zero_and_draws(folder, tmp_path):
    code, out, _ = run("lattice", folder / "one.png", "--pixel-size-angstrom", 0.2, "--overlay", tmp_path / "o")
    assert code == 0
    assert "hexagonal" in out
    assert (tmp_path / "o" / "one.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_made_is_named(folder, tmp_path):
    (tmp_path / "o").touch()
    given = [folder / "one.png", "--pixel-size-angstrom", 0.2]
    code, _, error = run("lattice", *given, "--overlay", tmp_path / "o")
    assert code == 2
    assert "--overlay" in error
    code, out, _ = run("upscale", *given, "--output", tmp_path / "o", "--json")
    assert code == 1
    assert "File exists" in json.loads(out)["error"]


def test_segment_finds_the_columns(folder, tmp_path):
    code, out, _ = run(
        "segment", folder / "three.tif", "--pixel-size-angstrom", 0.2, "--json", "--overlay", tmp_path / "o"
    )
    atoms = json.loads(out)["atoms"]
    assert code == 0
    assert set(atoms[0]) == {"x_angstrom", "y_angstrom", "intensity", "region"}
    for region in (atom["region"] for atom in atoms):
        assert region["minimum"] <= region["mean"] <= region["maximum"]
        assert 0 < region["area_angstrom2"] < 3
    expected = 2 * (127 * 0.2) ** 2 / (3.18**2 * np.sqrt(3) / 2)
    assert len(atoms) == pytest.approx(expected, rel=0.15)
    assert (tmp_path / "o" / "three.png").read_bytes().startswith(b"\x89PNG")


NAMES = {
    "lattice": "lattice_finder",
    "segment": "refined_segmenter",
    "atoms": "atom_finder",
    "defects": "defect_finder",
    "upscale": "super_resolver",
    "reconstruct": "conv_autoencoder",
}


def options(task, folder):
    return ["--output", folder] if task in ("upscale", "reconstruct") else []


@pytest.mark.parametrize("task", NAMES)
def test_unknown_model_lists_the_valid_ones(folder, task, tmp_path):
    for model in ("nonsense", "nonsense@1", "segmenter" if task != "segment" else "lattice_finder"):
        code, _, err = run(
            task, folder / "one.png", "--pixel-size-angstrom", 0.2, "--model", model, *options(task, tmp_path)
        )
        assert code == 2
        assert NAMES[task] in err.replace("│", " ").replace("\n", " ")


def test_a_checkpoint_folder_serves_its_own_task_only(folder, tmp_path):
    from atomvision_ml.models.checkpoint import classical_checkpoint
    from atomvision_ml.models.defect_finder import DefectFinderParameters

    classical_checkpoint("defect_finder", DefectFinderParameters(border_angstrom=6.0), tmp_path / "made")
    given = ["--pixel-size-angstrom", 0.2, "--json", "--model", tmp_path / "made"]
    code, out, _ = run("defects", folder / "two.npy", *given)
    _, default, _ = run("defects", folder / "two.npy", "--pixel-size-angstrom", 0.2, "--json")
    assert code == 0
    assert json.loads(out)["n_sites"] < json.loads(default)["n_sites"]
    code, _, err = run("lattice", folder / "two.npy", *given)
    assert code == 2
    assert "defects" in err


def test_defects_of_a_sheet_with_a_missing_column(folder, tmp_path):
    atoms = mx2("MoS2", vacuum=8.0).repeat((8, 8, 1))
    atoms.center(vacuum=0.0)
    atoms.pbc = False
    middle = atoms.positions[atoms.numbers == 42].mean(axis=0)
    gone = int(np.argmin(np.where(atoms.numbers == 42, np.linalg.norm(atoms.positions - middle, axis=1), np.inf)))
    x, y = atoms.positions[gone, :2]
    shift = (12.8 - x, 12.8 - y)
    del atoms[gone]
    image = render(atoms, pixel_size_angstrom=0.15, size=171, shift_angstrom=shift)
    inner = image[40:131, 40:131]
    write_image(tmp_path / "sheet.npy", inner, 0.15)
    given = [tmp_path / "sheet.npy", "--pixel-size-angstrom", 0.15, "--overlay", tmp_path / "o"]
    code, out, _ = run("defects", *given, "--json")
    said = json.loads(out)
    assert code == 0
    (one,) = said["defects"]
    assert one["kind"] == "vacancy"
    assert np.hypot(one["x_angstrom"] - 6.8, one["y_angstrom"] - 6.8) < 0.1
    assert one["change"] == pytest.approx(-1, abs=0.05)
    assert (tmp_path / "o" / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert "1 vacancy" in run("defects", *given)[1]


def test_atoms_with_their_uncertainty(folder):
    code, out, _ = run("atoms", folder / "two.npy", "--pixel-size-angstrom", 0.2, "--json")
    said = json.loads(out)
    assert code == 0
    assert set(said["atoms"][0]) == {"x_angstrom", "y_angstrom", "intensity", "region"}
    assert 0 < said["position_uncertainty_angstrom"] < 0.05


def test_images_unlike_the_training_images_are_named(folder, tmp_path):
    noise = np.random.default_rng(0).normal(size=(96, 96))
    write_image(tmp_path / "noise.npy", noise, 0.2)
    given = ["--pixel-size-angstrom", 0.2]
    code, out, _ = run("segment", folder / "two.npy", tmp_path / "noise.npy", *given, "--json")
    usual, unusual = (json.loads(line) for line in out.splitlines())
    assert usual["warnings"] == []
    assert usual["typicality"] > 0.05 > unusual["typicality"]
    assert any("signal_to_noise" in warning for warning in unusual["warnings"])
    code, out, err = run("lattice", tmp_path / "noise.npy", *given)
    assert code == 1
    assert "unlike the training images" in err
    assert "unlike" not in run("lattice", folder / "two.npy", *given)[2]


def test_uneven_light_can_be_evened_out_before(folder, tmp_path):
    clean = read_image(folder / "three.tif")
    y, x = np.mgrid[:128, :128] / 127
    lit = clean * (1 + 2 * x * y) + clean.max() * np.sin(3 * x) * y
    write_image(tmp_path / "lit.npy", lit, 0.2)
    write_image(tmp_path / "evened.npy", local_normalisation(lit, 0.2), 0.2)
    given = ["--model", "segmenter", "--pixel-size-angstrom", 0.2, "--json"]
    plain, evened, before = (
        json.loads(run("segment", tmp_path / name, *given, *more)[1])
        for name, more in (("lit.npy", []), ("lit.npy", ["--local-normalisation"]), ("evened.npy", []))
    )
    spread = {}
    for name, said in (("plain", plain), ("evened", evened)):
        brightest = [atom["region"]["maximum"] - atom["region"]["minimum"] for atom in said["atoms"]]
        spread[name] = np.std(brightest) / np.mean(brightest)
    assert spread["evened"] < spread["plain"]
    assert evened["atoms"] == before["atoms"]
    assert evened["atoms"] != plain["atoms"]


def test_a_fine_image_says_how_much_of_the_given_one_it_reproduces(tmp_path):
    clean = render(mx2("MoS2", vacuum=8.0), pixel_size_angstrom=0.4, size=64, rotation_deg=11.0)
    noise = np.random.default_rng(0).normal(size=clean.shape)
    images = {"clean": clean, "noisy": clean + clean.std() * noise, "noise": noise, "flat": np.ones((32, 32))}
    for name, image in images.items():
        write_image(tmp_path / f"{name}.npy", image, 0.4)
    files = [tmp_path / f"{name}.npy" for name in images]
    given = ["--pixel-size-angstrom", 0.4, "--output", tmp_path / "o"]
    _, out, _ = run("upscale", *files, *given, "--json")
    clean_share, noisy, noise_only, flat = (json.loads(line)["reproduced_share"] for line in out.splitlines())
    assert clean_share > 0.98
    assert noise_only < noisy < 0.9
    assert flat is None
    fine = read_image(tmp_path / "o" / "noisy.tif").reshape(64, 4, 64, 4).mean(axis=(1, 3))
    assert noisy == pytest.approx(1 - (images["noisy"] - fine).var() / images["noisy"].var(), abs=1e-4)
    assert "of the variance" in run("upscale", files[0], *given)[1]


def test_pixels_that_the_model_does_not_know_are_named(tmp_path):
    clean = render(mx2("MoS2", vacuum=8.0), pixel_size_angstrom=0.8, size=64, rotation_deg=11.0)
    write_image(tmp_path / "coarse.npy", clean, 0.8)
    given = [tmp_path / "coarse.npy", "--json", "--pixel-size-angstrom"]
    for task, pixel, model in (("segment", 0.8, "segmenter"), ("upscale", 0.2, "super_resolver")):
        code, out, _ = run(task, *given, pixel, "--model", model, *options(task, tmp_path))
        assert code == 0
        assert f"that {model} was trained" in json.loads(out)["warnings"][-1]
    _, out, _ = run("upscale", *given, 0.8, *options("upscale", tmp_path))
    assert not any("was trained" in warning for warning in json.loads(out)["warnings"])


def test_files_of_microscopes_tell_their_pixel_size(folder, tmp_path):
    clean = render(mx2("MoS2", vacuum=8.0), pixel_size_angstrom=0.2, size=128, rotation_deg=11.0)
    counts = np.random.default_rng(0).poisson(400 * clean / clean.mean()).astype(np.uint16)
    told = {"pixel_size_y_nm": 0.02, "pixel_size_x_nm": 0.02}
    export_image(tmp_path / "known.hspy", counts, told)
    export_image(tmp_path / "uneven.hspy", counts, told | {"pixel_size_x_nm": 0.03})
    (tmp_path / "text.dm3").write_text("no image")
    files = [tmp_path / "known.hspy", folder / "three.tif", tmp_path / "uneven.hspy", tmp_path / "text.dm3"]
    without = [folder / "one.png", folder / "two.npy"]
    code, out, _ = run("lattice", *files, *without, "--json", "--overlay", tmp_path / "o")
    known, tif, uneven, text, *unknown = (json.loads(line) for line in out.splitlines())
    assert code == 1
    for said in (known, tif):
        assert said["lattice"] == "hexagonal"
        np.testing.assert_allclose(np.linalg.norm(said["lattice_vectors_angstrom"], axis=1), 3.18, atol=0.01)
    assert (tmp_path / "o" / "known.png").read_bytes().startswith(b"\x89PNG")
    assert "not square" in uneven["error"]
    assert "text.dm3: not of a format" in text["error"]
    assert all("give --pixel-size-angstrom" in said["error"] for said in unknown)
    _, out, _ = run("lattice", files[0], "--json", "--pixel-size-angstrom", 0.1)
    np.testing.assert_allclose(np.linalg.norm(json.loads(out)["lattice_vectors_angstrom"], axis=1), 1.59, atol=0.01)
    assert "no image 1" in json.loads(run("lattice", files[0], "--json", "--image", 1)[1])["error"]


def test_pixel_size_must_be_positive(folder):
    code, _, err = run("lattice", folder / "one.png", "--pixel-size-angstrom", -1)
    assert code == 2
    assert "not positive" in err
