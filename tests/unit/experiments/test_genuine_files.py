"""Genuine files of microscopes; compared with rosettasciio (GPL, extra ``vendors``) where it is installed."""

import importlib
import math
import os
from pathlib import Path

import numpy as np
import pytest

from atomvision_ml.experiments.coverage import outcomes, table
from atomvision_ml.experiments.reading import ReadLimits
from atomvision_ml.experiments.units import UnitError, convert

PEERS = {
    "dm3": "digitalmicrograph",
    "dm4": "digitalmicrograph",
    "ser": "tia",
    "emi": "tia",
    "emd_velox": "emd",
    "emd_berkeley": "emd",
    "mrc": "mrc",
    "tiff": "tiff",
}
# Read here in another way on purpose: see docs/experiments.md.
DIFFERENT_ON_PURPOSE = (
    "Acquisition_18.emd",
    "example_image.emd",
    "example_metadata.emd",
    "Si100_1x1x3",
    "Si100_2D_3D",
    "test-23.dm",
    "test-8.dm",
)


@pytest.fixture(scope="module")
def folder() -> Path:
    found = next(Path(os.environ.get("ATOMVISION_SOURCES", "/nowhere")).glob("**/micrographs"), None)
    if found is None:
        pytest.skip("ATOMVISION_SOURCES names no folder with micrographs")
    return found


@pytest.fixture(scope="module")
def results(folder):
    return {outcome.name: outcome for outcome in outcomes(folder, ReadLimits(time_s=120.0))}


@pytest.mark.real_data
def test_each_is_read_or_refused_with_its_reason(results):
    assert len(results) >= 140
    assert all(bool(result.records) != bool(result.reason) for result in results.values())
    by_name = {name.rsplit("/", 1)[-1]: result for name, result in results.items()}
    assert "its partner 01_Si110_5images_1.ser" in by_name["01_Si110_5images.emi"].reason
    assert "link to another file" in by_name["au_145mm_68kx_microprobe_01_master.h5"].reason
    assert "spectrum" in by_name["08_carbon.dm3"].reason
    titanate = by_name["16_STOimage.emi"].records[0]
    assert (titanate.technique, titanate.acceleration_voltage_kv) == ("STEM", 80.0)
    assert math.isclose(titanate.pixel_size_y_nm, 0.01001270424, rel_tol=1e-6)
    scan = by_name["STM_nanonis_generic_5e.sxm"].records[0]
    assert (scan.bias_voltage_v, scan.setpoint_current_a, scan.field_of_view_x_nm) == (0.5, 1e-10, pytest.approx(5.0))
    assert "| acceleration_voltage_kv |" in table(list(results.values()))


@pytest.mark.real_data
def test_tia_header_and_series_give_the_same_image(results):
    pairs = 0
    for name, result in results.items():
        if name.endswith("_1.ser") and result.records:
            header = results.get(name.replace("_1.ser", ".emi"))
            if header is not None and header.records:
                pairs += 1
                assert header.records[0].pixel_sha256 == result.records[0].pixel_sha256
    assert pairs >= 8


@pytest.mark.real_data
def test_pixels_and_calibration_are_those_of_rosettasciio(folder, results):
    pytest.importorskip("rsciio", reason="rosettasciio is not installed: pip install 'atomvision[vendors]'")
    compared = 0
    for name, result in results.items():
        if not result.records or "!" in name or any(part in name for part in DIFFERENT_ON_PURPOSE):
            continue
        module = PEERS.get(result.records[0].source_format)
        if module is None:
            continue
        peers = importlib.import_module(f"rsciio.{module}").file_reader(str(folder / name))
        for record, pixels in zip(result.records, result.pixels, strict=True):
            same = [peer for peer in peers if _is_same(np.asarray(peer["data"]), pixels)]
            assert same, (name, record.signal_name)
            assert any(_has_same_edges(peer, record) for peer in same), (name, record.signal_name)
            compared += 1
    assert compared >= 60


def _is_same(one, other):
    return one.size == other.size and one.dtype == other.dtype and np.array_equal(one.reshape(other.shape), other)


def _has_same_edges(peer, record):
    """Within 1e-6, where the record is calibrated in lengths; what is no length here need not be compared."""
    if record.pixel_size_y_nm is None:
        return True
    try:
        y, x = (convert(float(axis["scale"]), str(axis["units"]), "nm") for axis in peer["axes"][-2:])
    except UnitError:
        return False
    return math.isclose(y, record.pixel_size_y_nm, rel_tol=1e-6) and math.isclose(
        x, record.pixel_size_x_nm, rel_tol=1e-6
    )
