"""Records: headers translated, sidecars merged, what is missing and what disagrees."""

import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from experiment_files import WRITERS, X_NM, Y_NM, micrograph
from typer.testing import CliRunner

from atomvision_ml.cli.app import app
from atomvision_ml.experiments.capture import CaptureRules, capture, pixel_sha256, unfit_because
from atomvision_ml.experiments.profiles import (
    ProfileError,
    fields_page,
    load_profiles,
    record_schema,
    sidecar_schema,
    translate,
)
from atomvision_ml.experiments.record import (
    Record,
    SidecarError,
    checked_values,
    fields_filled_by,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)
from atomvision_ml.experiments.worker import FileReader, RejectedError

# What the writers put into each header, in the record's units.
TOLD = {
    "dm3": {
        "technique": "STEM",
        "instrument_name": "FEI Titan",
        "acceleration_voltage_kv": 300.0,
        "magnification": 910000.0,
        "camera_length_mm": 77.0,
        "dwell_time_us": 12.5,
        "scan_angle_deg": 30.0,
        "tilt_alpha_deg": 1.25,
        "tilt_beta_deg": -0.5,
        "operator": "A. Person",
        "sample_id": "STO-7",
        "acquired_at": datetime(2019, 12, 10, 15, 32, 41, tzinfo=UTC),
        "is_time_zone_assumed": True,
    },
    "emi": {
        "technique": "STEM",
        "acceleration_voltage_kv": 200.0,
        "instrument_name": "Tecnai 200 kV",
        "operator": "ERIC",
        "magnification": 10000.0,
        "camera_length_mm": 40.0,
        "defocus_nm": -2.0,
        "tilt_alpha_deg": 1.5,
        "acquired_at": datetime(2011, 10, 18, 18, 18, 46, tzinfo=UTC),
    },
    "emd_velox": {
        "technique": "STEM",
        "imaging_mode": "HAADF",
        "detector": "HAADF",
        "acceleration_voltage_kv": 300.0,
        "convergence_semi_angle_mrad": 24.7,
        "collection_inner_mrad": 49.0,
        "collection_outer_mrad": 200.0,
        "beam_current_pa": 50.0,
        "dwell_time_us": 2.0,
        "defocus_nm": -15.0,
        "camera_length_mm": 115.0,
        "scan_angle_deg": 90.0,
        "tilt_alpha_deg": 1.0,
        # 50 pA for 2 µs are 624.151 electrons.
        "dose_e_per_a2": 50e-12 * 2e-6 / 1.602176634e-19 / (100 * Y_NM * X_NM),
        "acquired_at": datetime(2020, 7, 29, 16, 49, 34, tzinfo=UTC),
        "is_time_zone_assumed": False,
    },
    "emd_berkeley": {"instrument_name": "TEAM 0.5", "acceleration_voltage_kv": 300.0, "sample_id": "STO-7"},
    "ndata": {
        "technique": "STEM",
        "imaging_mode": "HAADF",
        "acceleration_voltage_kv": 60.0,
        "dwell_time_us": 8.0,
        "defocus_nm": 1.0,
        "scan_angle_deg": 12.0,
        "intensity_scale": 0.5,
        "intensity_offset": 1.0,
        "intensity_unit": "e",
    },
    "sxm": {
        "technique": "STM",
        "imaging_mode": "constant_current",
        "bias_voltage_v": -0.05,
        "setpoint_current_a": 2.5e-11,
        "scan_angle_deg": 15.0,
        "temperature_k": 290.0,
        "quantity": "Z",
        "intensity_unit": "m",
        "acquired_at": datetime(2023, 3, 18, 20, 26, 34, tzinfo=UTC),
    },
    "hspy": {"technique": "STEM", "acceleration_voltage_kv": 200.0, "instrument_name": "Titan", "dwell_time_us": 2.0},
    "nexus": {
        "acceleration_voltage_kv": 200.0,
        "acquired_at": datetime(2021, 5, 6, 5, 8, 9, tzinfo=UTC),
        "is_time_zone_assumed": False,
    },
}


@pytest.fixture(scope="module")
def reader():
    with FileReader() as worker:
        yield worker


def captured(tmp_path, reader, name="dm3", sidecar=None, pixels=None, **options):
    suffix, write = WRITERS[name]
    path, folder = tmp_path / f"image{suffix}", tmp_path / "pixels"
    folder.mkdir(exist_ok=True)
    write(path, micrograph("f4" if name in ("sxm", "hspy") else "u2") if pixels is None else pixels)
    return capture(path, folder, reader, sidecar=sidecar, **options)


@pytest.mark.parametrize("name", sorted(TOLD))
def test_headers_in_the_records_words(tmp_path, reader, name):
    record = captured(tmp_path, reader, name).records[0]
    for field, value in TOLD[name].items():
        found = getattr(record, field)
        assert found == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), field
    assert record.pixel_size_y_nm == pytest.approx(Y_NM, rel=1e-6)
    assert record.pixel_size_x_nm == pytest.approx(X_NM, rel=1e-6)
    assert record.field_of_view_x_nm == pytest.approx(48 * X_NM, rel=1e-6)
    assert record.calibration_source == "header"
    assert record.is_calibrated
    assert Record.model_validate_json(record.model_dump_json()) == record


def test_every_told_field_has_a_unit_or_a_vocabulary_and_a_filler():
    properties = record_schema()["properties"]
    assert all(properties[name]["filled_by"] in ("header", "sidecar", "derived") for name in Record.model_fields)
    for ending, unit in (("_nm", "nm"), ("_kv", "kV"), ("_mrad", "mrad"), ("_deg", "deg"), ("_pa", "pA")):
        named = [name for name in Record.model_fields if name.endswith(ending) and not name.endswith("_per_nm")]
        assert named
        assert {properties[name]["unit"] for name in named} == {unit}
    assert set(sidecar_schema()["properties"]) == set(fields_filled_by("header", "sidecar"))


def test_the_schema_names_the_header_fields():
    voltage = record_schema()["properties"]["acceleration_voltage_kv"]
    assert voltage["header_fields"]["Gatan DigitalMicrograph"] == ["Microscope Info/Voltage"]
    page = Path("docs/experiments_fields.md")
    assert fields_page(load_profiles()) in (Path(__file__).parents[3] / page).read_text(encoding="utf-8"), (
        f"{page} is old: python -m atomvision_ml.experiments.profiles"
    )


def test_the_header_wins_in_instrument_facts_and_the_sidecar_in_sample_facts(tmp_path, reader):
    told = {
        "acceleration_voltage_kv": 80.0,
        "dwell_time_us": 12.6,
        "sample_id": "STO-8",
        "material_formula": "SrTiO3",
        "licence": "CC-BY-4.0",
        "beam_current_pa": 30.0,
    }
    record = captured(tmp_path, reader, sidecar=told).records[0]
    assert record.acceleration_voltage_kv == 300.0
    assert record.dwell_time_us == 12.5
    assert record.sample_id == "STO-8"
    assert record.beam_current_pa == 30.0
    assert record.missing_fields == ()
    conflicts = [warning.partition(":")[0] for warning in record.warnings if "sidecar says" in warning]
    assert sorted(conflicts) == ["acceleration_voltage_kv", "sample_id"]


def test_a_picture_gets_its_calibration_from_the_sidecar(tmp_path, reader):
    bare = captured(tmp_path, reader, "png").records[0]
    assert not bare.is_calibrated
    assert bare.calibration_source == "none"
    sizes = ("pixel_size_y_nm", "pixel_size_x_nm")
    assert bare.missing_fields == ("technique", "acquired_at", "sample_id", "material_formula", "licence", *sizes)
    told = {"pixel_size_y_nm": 0.02, "pixel_size_x_nm": 0.02, "technique": "STEM"}
    record = captured(tmp_path, reader, "png", sidecar=told).records[0]
    assert record.calibration_source == "sidecar"
    assert record.field_of_view_y_nm == pytest.approx(0.8)
    assert "acceleration_voltage_kv" in record.missing_fields
    assert not set(sizes) & set(record.missing_fields)
    pattern = captured(tmp_path, reader, "png", sidecar={"technique": "DIFFRACTION"}).records[0]
    assert "reciprocal_pixel_size_y_per_nm" in pattern.missing_fields


def test_the_same_pixels_have_one_digest_in_any_container(tmp_path, reader):
    digests = {
        captured(tmp_path, reader, name).records[0].pixel_sha256 for name in ("dm3", "dm4", "tiff", "mrc", "png")
    }
    assert digests == {pixel_sha256(micrograph("u2").astype(">u2"))}


def test_values_beyond_belief_become_warnings(tmp_path, reader):
    suffix, write = WRITERS["emi"]
    write(tmp_path / f"image{suffix}", micrograph())
    emi = tmp_path / "image.emi"
    emi.write_bytes(emi.read_bytes().replace(b"<Value>1.50</Value>", b"<Value>9999</Value>"))
    (tmp_path / "pixels").mkdir()
    record = capture(emi, tmp_path / "pixels", reader).records[0]
    assert record.tilt_alpha_deg is None
    assert any(warning.startswith("tilt_alpha_deg") for warning in record.warnings)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda image: image[:10], "10 × 48 px"),
        (lambda image: image * 0 + 5, "all pixels have the value 5"),
        (lambda image: image * float("nan"), "not finite"),
    ],
    ids=["small", "constant", "not_finite"],
)
def test_what_is_no_image_is_refused(tmp_path, reader, edit, reason):
    with pytest.raises(RejectedError, match=reason):
        captured(tmp_path, reader, "hspy", pixels=edit(micrograph("f4")))


def test_few_bad_pixels_are_borne():
    image = micrograph("f4")
    image[3, 4] = float("inf")
    assert unfit_because(image, CaptureRules()) is None


def test_sidecars_come_back_as_written(tmp_path):
    path = sidecar_path(tmp_path / "image.dm3")
    told = checked_values(
        {
            "material_formula": "La0.67Ca0.33MnO3",
            "zone_axis_uvw": [0, 0, 1],
            "labels": {"lattice": "square"},
            "acquired_at": "2020-01-02T03:04:05+00:00",
            "notes": "two\nlines: # yes",
        },
        "test",
    )
    write_sidecar(path, told, {"notes": "x\ny"})
    assert read_sidecar(path) == told
    assert path.name == "image.dm3.meta.yaml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("material_formula: Xx2", "material_formula: .*no chemical formula"),
        ("colour: red", "colour: Extra inputs"),
        ("acceleration_voltage_kv: -3", "acceleration_voltage_kv: .*greater"),
        ("facet_hkl: [0, 0, 0]", "facet_hkl: .*not all zero"),
        ("technique: XRD", "technique: "),
        ("record_id: mine", "record_id: Extra inputs"),
        ("[1, 2]", "fields with values are wanted"),
        ("a: [", "no YAML"),
        ("!!python/object/apply:os.system ['true']", "no YAML"),
    ],
    ids=["formula", "unknown", "bounds", "facet", "word", "derived", "list", "damaged", "object"],
)
def test_wrong_sidecars_are_refused(tmp_path, text, message):
    path = tmp_path / "image.dm3.meta.yaml"
    path.write_text(text)
    with pytest.raises(SidecarError, match=message):
        read_sidecar(path)


def test_an_instruments_profile_comes_before_its_formats(tmp_path, reader):
    folder = tmp_path / "profiles"
    folder.mkdir()
    profile = {
        "name": "our Titan",
        "formats": ["dm3"],
        "instrument": "Titan",
        "constants": {"instrument_id": "T-1"},
        "fields": {
            "dwell_time_us": [{"path": "DigiScan/Sample Time", "unit": "ms"}],
            "x_titan.device": [{"path": "DataBar/Device Name"}],
        },
    }
    (folder / "titan.yaml").write_text(yaml.safe_dump(profile))
    record = captured(tmp_path, reader, profiles=load_profiles(folder)).records[0]
    assert record.profiles == ("our Titan", "Gatan DigitalMicrograph")
    assert (record.instrument_id, record.dwell_time_us) == ("T-1", pytest.approx(12500.0))
    assert record.extensions == {"x_titan.device": "DigiScan"}
    assert translate("emi", {}, load_profiles(folder)).profiles == ("FEI TIA",)


def test_a_wrong_profile_is_named(tmp_path):
    (tmp_path / "wrong.yaml").write_text("name: x\nformats: [dm3]\nfields: {colour: [{path: a}]}")
    with pytest.raises(ProfileError, match=r"wrong.yaml.*unknown fields: colour"):
        load_profiles(tmp_path)


def test_the_command_writes_the_sidecar(tmp_path):
    suffix, write = WRITERS["png"]
    path = tmp_path / f"image{suffix}"
    write(path, micrograph())
    run = CliRunner().invoke(
        app, ["record", str(path), "--set", "material_formula=Fe3O4", "--set", "facet_hkl=[3,1,1]"]
    )
    assert run.exit_code == 0, run.output
    assert read_sidecar(sidecar_path(path)) == {"material_formula": "Fe3O4", "facet_hkl": (3, 1, 1)}
    again = CliRunner().invoke(app, ["record", str(path), "--set", "licence=CC0-1.0"])
    assert again.exit_code == 0
    assert read_sidecar(sidecar_path(path))["facet_hkl"] == (3, 1, 1)
    assert "missing" in again.output


def test_the_command_refuses_wrong_values_and_files(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(b"\x80\x04K\x01.")
    run = CliRunner().invoke(app, ["record", str(path)])
    assert run.exit_code == 1
    assert "a Python pickle, which is never opened" in run.output
    run = CliRunner().invoke(app, ["record", str(path), "--set", "colour=red"])
    assert run.exit_code == 1
    assert not sidecar_path(path).exists()
    schema = CliRunner().invoke(app, ["record", "--schema"])
    assert json.loads(schema.output)["properties"]["defocus_nm"]["unit"] == "nm"
    assert "pixel_sha256" not in json.loads(schema.output)["properties"]


def test_the_command_prints_the_schema_of_the_whole_record_with_own_profiles(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "name: ours\nformats: [dm3]\nfields: {defocus_nm: [{path: Our/Defocus, unit: nm}]}"
    )
    run = CliRunner().invoke(app, ["record", "--record-schema", "--profiles", str(tmp_path)])
    assert json.loads(run.output) == record_schema(load_profiles(tmp_path))
    properties = json.loads(run.output)["properties"]
    assert set(properties) == set(Record.model_fields)
    assert properties["defocus_nm"]["header_fields"]["ours"] == ["Our/Defocus"]
    (tmp_path / "own.yaml").write_text("name: [")
    assert CliRunner().invoke(app, ["record", "--schema", "--profiles", str(tmp_path)]).exit_code == 1


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (
            ["SEM", "", "S-1", "Xx2", "Fe3O4", "CC0-1.0", "[", "-5", "15", "2", "2", "", "", "[0, 0, 1]", "."],
            {
                **{"technique": "SEM", "sample_id": "S-1", "material_formula": "Fe3O4", "licence": "CC0-1.0"},
                **{"acceleration_voltage_kv": 15.0, "pixel_size_y_nm": 2.0, "pixel_size_x_nm": 2.0},
                "zone_axis_uvw": (0, 0, 1),
            },
        ),
        (
            ["STM", "", "", "", "", "-0.05", "2.5e-11", "0.01", "."],
            {"technique": "STM", "bias_voltage_v": -0.05, "setpoint_current_a": 2.5e-11, "pixel_size_y_nm": 0.01},
        ),
    ],
    ids=["SEM", "STM"],
)
def test_on_a_terminal_the_missing_fields_are_asked_for(tmp_path, answers, told):
    """A wrong answer is asked again, an empty one leaves the field empty; then the optional ones, until a full stop."""
    path = tmp_path / "image.png"
    WRITERS["png"][1](path, micrograph())
    terminal, child = pty.openpty()
    os.write(terminal, ("\n".join(answers) + "\n").encode())
    command = [sys.executable, "-c", "from atomvision_ml.cli.app import main; main()", "record", str(path)]
    run = subprocess.run(command, stdin=child, capture_output=True, text=True, timeout=120, check=False)
    os.close(terminal)
    os.close(child)
    assert run.returncode == 0, run.stderr
    assert ("no chemical formula" in run.stderr) == ("Xx2" in answers)
    assert read_sidecar(sidecar_path(path)) == told
