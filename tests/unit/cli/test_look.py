"""``atomvision look``: the page, the numbers and the exports of a file; bad files and options say what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from atomvision_ml.cli.app import app
from atomvision_ml.experiments.exports import export_image
from atomvision_ml.images.stem import Projection, View, render_batch

PIXEL = 0.2


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    crystal = Projection(np.array([[0, 0], [1.9526, 1.9526]]), np.array([400.0, 200.0]), 3.9053 * np.eye(2))
    image = render_batch([crystal], [View(PIXEL, 160, 9.0)])[0]
    path = tmp_path / "scan.hspy"
    counts = np.random.default_rng(0).poisson(200 * image / image.mean()).astype(np.uint16)
    export_image(path, counts, {"pixel_size_y_nm": PIXEL / 10, "pixel_size_x_nm": PIXEL / 10})
    return path


def look(*options: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["look", *map(str, options), "--no-materials"])
    return result.exit_code, result.stdout, result.stderr


def test_a_page_numbers_and_exports(scan: Path, tmp_path: Path) -> None:
    exports = [tmp_path / name for name in ("image.ome.tif", "columns.csv")]
    options = [part for path in exports for part in ("--export", path)]
    code, out, _ = look(scan, "--phase", "SrTiO3", "--out", tmp_path / "pages", "--json", *options)
    assert code == 0
    said = json.loads(out)
    assert said["zone_axis"] == "SrTiO3 [001]"
    assert said["lattice"]["a"] == pytest.approx(3.905, abs=0.01)
    page = Path(said["page"])
    assert page == tmp_path / "pages" / "scan.hspy.html"
    assert page.read_text().startswith("<!doctype html>")
    assert all(path.stat().st_size > 0 for path in exports)


def test_another_pixel_size_and_no_such_thing(scan: Path, tmp_path: Path) -> None:
    code, out, _ = look(scan, "--out", tmp_path / "a.html", "--pixel-size-angstrom", "0.4")
    assert code == 0
    assert "a = 7.8" in out
    for options, message in (
        (["--phase", "Unobtainium"], "known are"),
        (["--image", "3"], "no image 3"),
        (["--export", tmp_path / "a.doc"], "the suffix must be one of"),
        (["--pixel-size-angstrom", "-1"], "positive"),
    ):
        code, _, error = look(scan, "--out", tmp_path / "a.html", *options)
        assert code != 0
        assert message in " ".join(error.replace("│", " ").split())
    (tmp_path / "text.dm3").write_text("no image")
    code, _, error = look(tmp_path / "text.dm3")
    assert code == 1
    assert "Error: " in error
