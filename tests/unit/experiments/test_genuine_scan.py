"""A genuine scan of SrTiO3 [001]: zone axis, lattice and distortion by each method (docs/results/experiments.md)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from atomvision_ml.evaluation.scan_study import lattices
from atomvision_ml.experiments.analysis import analyse
from atomvision_ml.experiments.capture import capture
from atomvision_ml.experiments.distortion import affine_distortion
from atomvision_ml.experiments.micrograph_store import measured_image
from atomvision_ml.experiments.reference_phases import reference_phases
from atomvision_ml.experiments.worker import FileReader

A_ANGSTROM = 3.905
METHODS = ("spots", "lattice finder", "columns", "segmenter")


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    path = next(Path(os.environ.get("ATOMVISION_SOURCES", "/nowhere")).glob("**/16_STOimage.emi"), None)
    if path is None:
        pytest.skip("ATOMVISION_SOURCES names no folder with 16_STOimage.emi")
    with FileReader() as reader:
        captured = capture(path, tmp_path_factory.mktemp("scan"), reader)
    (record,) = captured.records
    image = measured_image(np.array(captured.pixels[0]), record.model_dump())
    found = analyse(image, 10 * record.pixel_size_x_nm, [reference_phases()["SrTiO3"]])
    return found, lattices(image, found)


@pytest.mark.real_data
def test_zone_axis_is_named_and_its_lattice_is_square(scan):
    found, _ = scan
    assert found.zone_axis is not None
    assert found.zone_axis.name == "SrTiO3 [001]"
    assert found.zone_axis.probability > 0.95
    np.testing.assert_allclose(np.linalg.norm(found.zone_axis.reference, axis=1), A_ANGSTROM, rtol=1e-3)
    assert found.zone_axis.reference[0] @ found.zone_axis.reference[1] == pytest.approx(0, abs=1e-6)


@pytest.mark.real_data
@pytest.mark.parametrize("method", METHODS)
def test_lattice_and_distortion(scan, method):
    found, measured = scan
    cell, covariance = measured[method]
    lengths = np.linalg.norm(cell, axis=1)
    distortion = affine_distortion(cell, found.zone_axis.reference, covariance)
    assert lengths / A_ANGSTROM - 1 == pytest.approx([0.03, 0.042], abs=0.005)  # by the header's pixel size
    assert lengths / distortion.scale / A_ANGSTROM == pytest.approx([1.0, 1.0], abs=0.01)  # put right by its one number
    assert np.degrees(np.arccos(cell[0] @ cell[1] / lengths.prod())) == pytest.approx(91.15, abs=0.15)
    assert distortion.scale_y / distortion.scale_x - 1 == pytest.approx(0.0125, abs=0.003)
    assert distortion.shear_deg == pytest.approx(-1.15, abs=0.15)


@pytest.mark.real_data
def test_methods_agree_with_each_other(scan):
    _, measured = scan
    assert measured.keys() == set(METHODS)
    lengths = np.array([np.linalg.norm(cell, axis=1) for cell, _ in measured.values()])
    assert np.ptp(lengths, axis=0).max() < 0.002 * A_ANGSTROM
