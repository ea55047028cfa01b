"""Genuine files of microscopes: each as ``genuine_files.json`` has it, which was compared with other programs."""

import importlib.util
import json
import math
import os
from pathlib import Path

import pytest
from genuine_files import GOLDEN, LIMITS, entry

from atomvision_ml.experiments.coverage import outcomes, table

# Read here in another way on purpose: see docs/experiments.md. The value is what the other program has.
OTHERWISE_ON_PURPOSE = {
    "Acquisition_18.emd": "axes in another order",
    "example_image.emd": "axes in another order",
    "example_metadata.emd": "axes in another order",
    "Si100_": "one of its stack",
    "STM_nanonis_generic_5e.sxm": "columns in reverse",  # lines that were taken backwards
    "test-23.dm": "one of its colours",
    "test-8.dm": "one of its colours",
    "Test SI 16x16 215 kx.emd": "not found",  # two frames here, one there
    "test-MonarcCL_mono-image.dm4": "there alone: 18325.3",  # pixels of 18 µm
    "20241021_00405_": "there alone",  # a camera's −1, and 1 where the unit is that of diffraction
    "Custom_movie.mrc": "there alone: -1",
    "ROI_Random_Scan_": "there alone: -1",
    "128x128x5-diffraction_preview_1.ser": "e+16 nm there",  # 1/m there taken for m
    "16x16-line_profile_horizontal_5x128x128_EDS_2.ser": "e+17 nm there",
    "64x64_diffraction_acquire_1.ser": "e+17 nm there",
    "olympus_SIS.tif": "there alone: 0.0239",  # its own tag is not read here
}


@pytest.fixture(scope="module")
def folder() -> Path:
    found = next(Path(os.environ.get("ATOMVISION_SOURCES", "/nowhere")).glob("**/micrographs"), None)
    if found is None:
        pytest.skip("ATOMVISION_SOURCES names no folder with micrographs")
    return found


@pytest.fixture(scope="module")
def results(folder):
    return {outcome.name: outcome for outcome in outcomes(folder, LIMITS)}


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


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
def test_each_yields_what_was_compared_with_other_programs(results, golden):
    assert results.keys() == golden.keys()
    compared = 0
    for name, result in results.items():
        if "'atomvision[codecs]'" in result.reason:
            assert importlib.util.find_spec("imagecodecs") is None
            continue
        compared += 1
        got, wanted = entry(result), golden[name]
        assert got.get("refused") == wanted.get("refused"), name
        assert got.get("format") == wanted.get("format"), name
        for image, expected in zip(got.get("images", ()), wanted.get("images", ()), strict=True):
            assert image["pixel_sha256"] == expected["pixel_sha256"], name
            assert image["fields"].keys() == expected["fields"].keys(), name
            for field, value in image["fields"].items():
                assert _agree(value, expected["fields"][field]), (name, field, value)
    assert compared >= len(golden) - 1


def test_other_programs_have_the_same_but_where_it_is_said(golden):
    for name, told in golden.items():
        for image in told.get("images", ()):
            pixels, calibration = image["peer"]["pixels"], image["peer"].get("calibration", "same")
            if pixels != "same" or calibration not in ("same", "none in both"):
                words = [words for part, words in OTHERWISE_ON_PURPOSE.items() if part in name]
                assert words, (name, image["peer"])
                assert words[0] in f"{pixels} {calibration}", name


def _agree(one, other):
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    return one == other
