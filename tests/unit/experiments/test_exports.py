"""What is exported reads back as it was: pixels exactly, calibration within 1e-6, columns row by row."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr
from experiment_files import WRITERS, micrograph

from atomvision_ml.experiments.analysis import Analysis, analyse
from atomvision_ml.experiments.capture import Capture, capture
from atomvision_ml.experiments.exports import (
    IMAGE_SUFFIXES,
    ExportError,
    column_table,
    export_columns,
    export_image,
    shared_record,
)
from atomvision_ml.experiments.micrograph_store import read_pixels
from atomvision_ml.experiments.record import checked_values, fields_filled_by
from atomvision_ml.experiments.worker import FileReader
from atomvision_ml.images.stem import Projection, View, render_batch

RECORD = {"record_id": "0123456789abcdef-0", "pixel_size_y_nm": 0.0123, "pixel_size_x_nm": 0.0121, "sample_id": "S1"}


@pytest.fixture(scope="module")
def reader():
    with FileReader() as one:
        yield one


def captured(path: Path, reader: FileReader, sidecar: dict[str, Any] | None = None) -> Capture:
    folder = path.with_name(f"{path.name}-pixels")
    folder.mkdir()
    return capture(path, folder, reader, sidecar=sidecar)


@pytest.mark.parametrize("suffix", [".tif", ".hspy"])
@pytest.mark.parametrize(("kind", "shape"), [("u2", (40, 50)), ("f4", (3, 32, 24))], ids=["image", "stack"])
def test_images_read_back(suffix: str, kind: str, shape: tuple[int, ...], reader: FileReader, tmp_path: Path) -> None:
    pixels = (1000 * np.random.default_rng(1).random(shape)).astype(kind)
    path = tmp_path / f"out{suffix}"
    export_image(path, pixels, RECORD)
    folder = tmp_path / "read"
    folder.mkdir()
    found = capture(path, folder, reader)
    assert np.array_equal(found.pixels[0], pixels)
    assert found.pixels[0].dtype == pixels.dtype
    for name in ("pixel_size_y_nm", "pixel_size_x_nm"):
        assert getattr(found.records[0], name) == pytest.approx(RECORD[name], rel=1e-6)


def test_ome_zarr_and_images_without_calibration(reader: FileReader, tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 99, (32, 48)).astype(np.int16)
    export_image(tmp_path / "out.ome.zarr", pixels, RECORD)
    assert np.array_equal(read_pixels(tmp_path / "out.ome.zarr"), pixels)
    with pytest.raises(ExportError, match="exists"):
        export_image(tmp_path / "out.ome.zarr", pixels, RECORD)
    export_image(tmp_path / "bare.hspy", pixels, {})
    folder = tmp_path / "read"
    folder.mkdir()
    assert not capture(tmp_path / "bare.hspy", folder, reader).records[0].is_calibrated


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_no_export_names_a_person(suffix: str, tmp_path: Path) -> None:
    """Neither where the name is a field, nor in a warning or in the file's own header."""
    names = {"operator": "Jane Q. Doe", "annotator": "Otto Normal"}
    record = RECORD | names
    record |= {"warnings": ["operator: header says Jane Q. Doe, sidecar says Mary; the file's header is kept", "dim"]}
    record |= {"original_metadata": {"Session Info": {"Operator": "Jane Q. Doe"}}}
    path = tmp_path / f"out{suffix}"
    export_image(path, np.random.default_rng(3).integers(0, 99, (32, 32)).astype(np.uint16), record)
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    written = b"".join(each.read_bytes() for each in files)
    assert len(written) > 1000
    for name in (*names.values(), "Mary"):
        assert name.encode() not in written
    shared = shared_record(record)
    assert shared["warnings"] == ("dim",)
    if suffix == ".hspy":
        assert shared["operator"].encode() in written


SAID = {
    "sample_id": "S-1", "material_formula": "La0.67Ca0.33MnO3", "zone_axis_uvw": (0, 0, 1), "licence": "CC0-1.0",
    "labels": {"lattice": "square"}, "notes": "thin", "annotator": "O. Normal", "temperature_k": 80.5, "project": "P",
    "acquired_at": "2020-01-02T03:04:05.25+02:00", "instrument_name": "M-1", "beam_current_pa": 31.0, "exposure_s": 0.1,
}  # fmt: skip


@pytest.mark.parametrize("name", ["dm3", "emd_velox", "sxm", "png"])
def test_hyperspy_files_hold_the_whole_record(name: str, reader: FileReader, tmp_path: Path) -> None:
    """What was read from a microscope's file, and said of it, is read from the export; persons aside."""
    suffix, write = WRITERS[name]
    path = tmp_path / f"image{suffix}"
    write(path, micrograph("f4" if name == "sxm" else "u2"))
    technique = {} if name != "png" else {"technique": "HRTEM", "acceleration_voltage_kv": 80.0, "imaging_mode": "BF"}
    first = captured(path, reader, checked_values(SAID | technique, "test"))
    export_image(tmp_path / "out.hspy", first.pixels[0], first.records[0].model_dump())
    again = captured(tmp_path / "out.hspy", reader).records[0]
    told, wanted = again.model_dump(), shared_record(first.records[0].model_dump())
    assert told["missing_fields"] == wanted["missing_fields"]
    assert told["is_time_zone_assumed"] == wanted["is_time_zone_assumed"]
    for field in fields_filled_by("header", "sidecar"):
        value = wanted[field]
        assert told[field] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), field
    assert sum(told[field] is not None for field in fields_filled_by("header", "sidecar")) > 15


def test_hyperspy_shows_the_metadata(tmp_path: Path) -> None:
    """The tree that HyperSpy makes of the file, in its own units."""
    hspy = pytest.importorskip("rsciio.hspy", reason="rosettasciio is not installed: pip install 'atomvision[vendors]'")
    record = RECORD | {"technique": "STEM", "acceleration_voltage_kv": 300.0, "dwell_time_us": 2.0}
    record |= {
        "material_formula": "SrTiO3",
        "beam_current_pa": 50.0,
        "tilt_alpha_deg": 1.5,
        "original_filename": "a.dm3",
    }
    export_image(tmp_path / "out.hspy", np.ones((3, 20, 24), np.float32), record)
    read = hspy.file_reader(str(tmp_path / "out.hspy"))[0]
    assert read["metadata"]["General"]["title"] == "a.dm3"
    assert read["metadata"]["Sample"] == {"description": "S1", "elements": ["O", "Sr", "Ti"]}
    tem = read["metadata"]["Acquisition_instrument"]["TEM"]
    assert (tem["beam_energy"], tem["acquisition_mode"], tem["Stage"]["tilt_alpha"]) == (300.0, "STEM", 1.5)
    assert (tem["beam_current"], tem["dwell_time"]) == pytest.approx((0.05, 2e-6))
    assert [(axis["name"], axis["units"], axis["navigate"]) for axis in read["axes"]] == [
        ("frame", "", True), ("y", "nm", False), ("x", "nm", False)
    ]  # fmt: skip


def test_pseudonyms_are_stable() -> None:
    one, other, third = ({"operator": name} for name in ("Jane Q. Doe", " jane q. doe", "J. Doe"))
    assert shared_record(one) == shared_record(other) == shared_record(shared_record(one))
    assert shared_record(one) != shared_record(third)
    assert shared_record({"operator": None, "sample_id": "S1"}) == {"operator": None, "sample_id": "S1"}


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ({"exposure_s": 0.4}, 0.4),
        ({"dwell_time_us": 2.0, "shape_y": 32, "shape_x": 48, "exposure_s": 9.0}, 2e-6 * 32 * 48),
        ({}, None),
    ],
    ids=["camera", "scan", "unknown"],
)
def test_frames_of_ome_zarr_have_their_time(told: dict[str, Any], seconds: float | None, tmp_path: Path) -> None:
    export_image(tmp_path / "out.zarr", np.random.default_rng(4).random((3, 32, 48)), RECORD | told)
    ome: Any = zarr.open_group(tmp_path / "out.zarr", mode="r").attrs["ome"]
    multiscale = ome["multiscales"][0]
    assert multiscale["axes"][0] == {"name": "t", "type": "time"} | ({"unit": "second"} if seconds else {})
    (transformation,) = multiscale["datasets"][0]["coordinateTransformations"]
    assert transformation["scale"] == pytest.approx([seconds or 1.0, 0.0123, 0.0121])


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"\.tif, \.tiff, \.hspy, \.zarr"):
        export_image(tmp_path / "out.dm3", np.zeros((20, 20)), {})
    with pytest.raises(ExportError, match="real numbers"):
        export_image(tmp_path / "out.tif", np.zeros((20, 20), complex), {})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def analysed() -> Analysis:
    crystal = Projection(np.array([[0.0, 0.0]]), np.array([100.0]), 3.9 * np.eye(2))
    return analyse(render_batch([crystal], [View(0.2, 160)])[0], 0.2)


def test_columns_in_every_format(analysed: Analysis, tmp_path: Path) -> None:
    from ase.io import read

    table = column_table(analysed)
    assert table.height > 40
    for suffix in (".csv", ".parquet", ".xyz"):
        export_columns(tmp_path / f"out{suffix}", analysed)
    assert np.allclose(pl.read_csv(tmp_path / "out.csv").to_numpy(), table.to_numpy())
    assert pl.read_parquet(tmp_path / "out.parquet").equals(table)
    atoms = read(tmp_path / "out.xyz")
    assert np.allclose(atoms.positions[:, :2], table.select("x_angstrom", "y_angstrom").to_numpy(), atol=1e-7)
    assert np.allclose(atoms.arrays["intensity"], table["intensity"].to_numpy(), rtol=1e-6)


def test_columns_without_calibration_are_in_pixels(tmp_path: Path) -> None:
    crystal = Projection(np.array([[0.0, 0.0]]), np.array([100.0]), 3.9 * np.eye(2))
    found = analyse(render_batch([crystal], [View(0.2, 160)])[0])
    assert "x_px" in column_table(found).columns
    with pytest.raises(ExportError, match="not calibrated"):
        export_columns(tmp_path / "out.xyz", found)
