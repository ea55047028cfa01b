"""Files as microscopes write them, each by a library of its format or, where there is none, byte by byte."""

import json
import struct
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import tifffile
from PIL import Image

Y_NM, X_NM = 0.0213, 0.0207
"""Edges of a pixel; they differ, so that a swap would show."""

Writer = Callable[[Path, np.ndarray], None]


def micrograph(dtype: str = "u2", rows: int = 40, columns: int = 48) -> np.ndarray:
    """A lattice with noise; no row equals another, so that a turn would show."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:rows, :columns]
    image = 400 + 300 * np.cos(2 * np.pi * x / 7.3) * np.cos(2 * np.pi * y / 6.1) + rng.normal(0, 20, (rows, columns))
    kind = np.dtype(dtype)
    return (np.clip(image / 4, 0, 255) if kind.itemsize == 1 else np.clip(image, 0, None)).astype(kind)


def write_dm(path: Path, pixels: np.ndarray, version: int) -> None:
    from nion.data import Calibration, DataAndMetadata
    from nionswift_plugin.DM_IO import dm3_image_utils

    tags = {
        "Microscope Info": {
            "Name": "FEI Titan",
            "Voltage": 300000.0,
            "Illumination Mode": "STEM NANOPROBE",
            "Indicated Magnification": 910000.0,
            "STEM Camera Length": 77.0,
            "Stage Position": {"Stage Alpha": 1.25, "Stage Beta": -0.5},
        },
        "DigiScan": {"Sample Time": 12.5, "Rotation": 30.0},
        "Session Info": {"Operator": "A. Person", "Specimen": "STO-7"},
        "DataBar": {"Acquisition Date": "12/10/2019", "Acquisition Time": "3:32:41 PM", "Device Name": "DigiScan"},
    }
    data = DataAndMetadata.new_data_and_metadata(
        pixels,
        dimensional_calibrations=[Calibration.Calibration(0, Y_NM, "nm"), Calibration.Calibration(0, X_NM, "nm")],
        metadata=tags,
        timestamp=datetime(2019, 12, 10, 15, 32, 41),
    )
    with path.open("w+b") as file:
        dm3_image_utils.save_image(data, file, version)


def write_dm3(path: Path, pixels: np.ndarray) -> None:
    write_dm(path, pixels, 3)


def write_dm4(path: Path, pixels: np.ndarray) -> None:
    write_dm(path, pixels, 4)


_TIA_CODES = {"u1": 1, "u2": 2, "u4": 3, "i1": 4, "i2": 5, "i4": 6, "f4": 7, "f8": 8}


def write_ser(path: Path, pixels: np.ndarray, y_m: float = Y_NM * 1e-9, x_m: float = X_NM * 1e-9) -> None:
    """TIA, version 0x0210: one image, rows from the bottom up."""
    rows, columns = pixels.shape
    dimension = struct.pack("<IddI", 1, 0.0, 1.0, 0) + struct.pack("<I", 6) + b"Number" + struct.pack("<I", 0)
    table = 30 + len(dimension)
    head = struct.pack("<HHHIIIIII", 0x4949, 0x0197, 0x0210, 0x4122, 0x4152, 1, 1, table, 1) + dimension
    code = _TIA_CODES[pixels.dtype.str[1:]]
    element = struct.pack("<ddiddihii", 0.0, x_m, 0, 0.0, y_m, 0, code, columns, rows) + pixels[::-1].tobytes()
    path.write_bytes(head + struct.pack("<II", table + 8, table + 8 + len(element)) + element + bytes(6))


def write_emi(path: Path, pixels: np.ndarray) -> None:
    """The header's file, and its ``_1.ser`` beside it."""
    write_ser(path.with_name(f"{path.stem}_1.ser"), pixels)
    conditions = {
        "Microscope": ("Tecnai 200 kV", ""),
        "User": ("ERIC", ""),
        "Mode": ("STEM nP SA Zoom Diffraction", ""),
        "Defocus": ("-0.002", "um"),
        "Magnification": ("10000", "x"),
        "Camera length": ("0.040", "m"),
        "Stage A": ("1.50", "deg"),
    }
    data = "".join(
        f"<Data><Label>{label}</Label><Value>{value}</Value><Unit>{unit}</Unit></Data>"
        for label, (value, unit) in conditions.items()
    )
    voltage = "<MicroscopeConditions><AcceleratingVoltage>200000</AcceleratingVoltage></MicroscopeConditions>"
    info = (
        f"<ObjectInfo><ExperimentalConditions>{voltage}</ExperimentalConditions>"
        f"<ExperimentalDescription><Root>{data}</Root></ExperimentalDescription>"
        "<AcquireDate>Tue Oct 18 18:18:46 2011</AcquireDate></ObjectInfo>"
    )
    path.write_bytes(b"JK\0\x02" + bytes(60) + info.encode() + bytes(40))


def write_velox(path: Path, pixels: np.ndarray) -> None:
    header = {
        "Instrument": {"InstrumentModel": "Titan", "Manufacturer": "FEI Company", "InstrumentId": "3580"},
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1596041374"}},
        "Optics": {
            "AccelerationVoltage": "300000",
            "BeamConvergence": "0.0247",
            "ScreenCurrent": "5e-11",
            "Defocus": "-1.5e-8",
            "CameraLength": "0.115",
        },
        "Scan": {"DwellTime": "2e-6", "ScanRotation": "1.5707963267948966"},
        "Stage": {"AlphaTilt": "0.017453292519943295", "BetaTilt": "0"},
        "Detectors": {
            "Detector-0": {
                "DetectorName": "HAADF",
                "DetectorType": "ScanningDetector",
                "CollectionAngleRange": {"begin": "0.049", "end": "0.2"},
            }
        },
        "BinaryResult": {
            "Detector": "HAADF",
            "PixelSize": {"width": str(X_NM * 1e-9), "height": str(Y_NM * 1e-9)},
            "PixelUnitX": "m",
            "PixelUnitY": "m",
        },
    }
    text = np.frombuffer(json.dumps(header).encode() + b"\n\0", np.uint8)
    with h5py.File(path, "w") as file:
        group = file.create_group("Data/Image/0123456789abcdef0123456789abcdef")
        group["Data"] = pixels[:, :, None]
        stored = np.zeros((4000, 1), np.uint8)
        stored[: len(text), 0] = text
        group["Metadata"] = stored


def write_berkeley(path: Path, pixels: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update(version_major=0, version_minor=2)
        group = file.create_group("data/image")
        group.attrs["emd_group_type"] = 1
        group["data"] = pixels
        for place, (name, step) in enumerate((("y", Y_NM), ("x", X_NM)), start=1):
            group[f"dim{place}"] = np.arange(pixels.shape[place - 1]) * step
            group[f"dim{place}"].attrs.update(name=name, units="[n_m]")
        file.create_group("microscope").attrs.update({"name": "TEAM 0.5", "high tension": 300000.0})
        file.create_group("sample").attrs["name"] = "STO-7"


def write_mrc(path: Path, pixels: np.ndarray) -> None:
    with mrcfile.new(path) as file:
        file.set_data(pixels)
        file.voxel_size = (X_NM * 10, Y_NM * 10, 0)


def write_tiff(path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(path, pixels, resolution=(1e7 / X_NM, 1e7 / Y_NM), resolutionunit="CENTIMETER", metadata=None)


def write_imagej(path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(path, pixels, imagej=True, resolution=(1 / X_NM, 1 / Y_NM), metadata={"unit": "nm"})


def write_ome(path: Path, pixels: np.ndarray) -> None:
    sizes = {"PhysicalSizeX": X_NM, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": Y_NM, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(path, pixels, ome=True, metadata={"axes": "YX", **sizes})


def write_ndata(path: Path, pixels: np.ndarray) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("data.npy", "w") as member:
            np.save(member, pixels, allow_pickle=False)
        archive.writestr("metadata.json", json.dumps(_nion_properties()))


def write_nion_h5(path: Path, pixels: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["data"] = pixels
        file["data"].attrs["properties"] = json.dumps(_nion_properties())


def _nion_properties() -> dict:
    return {
        "title": "HAADF",
        "created": "2021-03-04T05:06:07.123456",
        "dimensional_calibrations": [
            {"offset": 0.0, "scale": Y_NM, "units": "nm"},
            {"offset": 0.0, "scale": X_NM, "units": "nm"},
        ],
        "intensity_calibration": {"offset": 1.0, "scale": 0.5, "units": "e"},
        "metadata": {
            "instrument": {"high_tension": 60000.0, "defocus": 1e-9},
            "scan": {"pixel_time_us": 8.0, "channel_name": "HAADF", "rotation_deg": 12.0},
        },
    }


def write_sxm(path: Path, pixels: np.ndarray, direction: str = "down") -> None:
    """One channel in both directions; backward lines are stored from right to left."""
    rows, columns = pixels.shape
    header = f""":NANONIS_VERSION:
2
:SCANIT_TYPE:
              FLOAT            MSBFIRST
:REC_DATE:
 18.03.2023
:REC_TIME:
20:26:34
:REC_TEMP:
      290.0000000000
:ACQ_TIME:
       498.2
:SCAN_PIXELS:
       {columns}       {rows}
:SCAN_FILE:
C:\\scan.sxm
:SCAN_TIME:
             4.864E-1             4.864E-1
:SCAN_RANGE:
           {columns * X_NM * 1e-9:.12E}           {rows * Y_NM * 1e-9:.12E}
:SCAN_OFFSET:
             0.0E+0         0.0E+0
:SCAN_ANGLE:
            1.500E+1
:SCAN_DIR:
{direction}
:BIAS:
            -5.000E-2
:Z-CONTROLLER:
\tName\ton\tSetpoint\tP-gain\tI-gain\tT-const
\tlog Current\t1\t2.500E-11 A\t2.000E-12 m\t2.497E-8 m/s\t8.010E-5 s
:COMMENT:
test
:DATA_INFO:
\tChannel\tName\tUnit\tDirection\tCalibration\tOffset
\t14\tZ\tm\tboth\t1.000E+0\t0.000E+0

:SCANIT_END:


"""
    top_down = pixels if direction == "down" else pixels[::-1]
    values = np.stack([top_down, top_down[:, ::-1]]).astype(">f4")
    path.write_bytes(header.encode() + b"\x1a\x04" + values.tobytes())


def write_hspy(path: Path, pixels: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update(file_format="HyperSpy", file_format_version="3.3")
        group = file.create_group("Experiments/image")
        group["data"] = pixels
        for place, (name, step) in enumerate((("y", Y_NM), ("x", X_NM))):
            axis = group.create_group(f"axis-{place}")
            axis.attrs.update(name=name, scale=step, offset=0.0, units="nm", size=pixels.shape[place], navigate=False)
        tem = group.create_group("metadata/Acquisition_instrument/TEM")
        tem.attrs.update(beam_energy=200.0, acquisition_mode="STEM", microscope="Titan", dwell_time=2e-6)
        group.create_group("metadata/General").attrs.update(date="2020-02-03", time="04:05:06")


def write_nexus(path: Path, pixels: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        entry["definition"] = "NXem"
        entry["start_time"] = "2021-05-06T07:08:09+02:00"
        source = entry.create_group("instrument/ebeam_column/electron_source")
        source["voltage"] = 200.0
        source["voltage"].attrs["units"] = "kV"
        data = entry.create_group("image")
        data.attrs.update(NX_class="NXdata", signal="intensity", axes=["y", "x"])
        data["intensity"] = pixels
        for place, (name, step) in enumerate((("y", Y_NM), ("x", X_NM))):
            data[name] = np.arange(pixels.shape[place]) * step
            data[name].attrs["units"] = "nm"


def write_png(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path, format="PNG")


WRITERS: dict[str, tuple[str, Writer]] = {
    "dm3": (".dm3", write_dm3),
    "dm4": (".dm4", write_dm4),
    "ser": ("_1.ser", write_ser),
    "emi": (".emi", write_emi),
    "emd_velox": (".emd", write_velox),
    "emd_berkeley": (".emd", write_berkeley),
    "mrc": (".mrc", write_mrc),
    "tiff": (".tif", write_tiff),
    "imagej": (".tif", write_imagej),
    "ome_tiff": (".ome.tif", write_ome),
    "ndata": (".ndata1", write_ndata),
    "nion_h5": (".h5", write_nion_h5),
    "sxm": (".sxm", write_sxm),
    "hspy": (".hspy", write_hspy),
    "nexus": (".nxs", write_nexus),
    "png": (".png", write_png),
}
"""Suffix and writer by format."""

CALIBRATED = tuple(name for name in WRITERS if name != "png")
DTYPES = {
    "dm3": ("i2", "u2", "i4", "u4", "f4", "f8"),
    "dm4": ("i2", "u2", "i4", "u4", "f4", "f8"),
    "ser": ("u1", "u2", "i4", "f4", "f8"),
    "emi": ("u2",),
    "emd_velox": ("i2", "u2", "f4"),
    "emd_berkeley": ("u1", "u2", "f4", "f8"),
    "mrc": ("i1", "i2", "u2", "f4"),
    "tiff": ("u1", "u2", "i4", "f4"),
    "imagej": ("u1", "u2", "f4"),
    "ome_tiff": ("u1", "u2", "f4"),
    "ndata": ("u2", "f4", "f8"),
    "nion_h5": ("u2", "f4"),
    "sxm": ("f4",),
    "hspy": ("u1", "u2", "i8", "f4", "f8"),
    "nexus": ("u2", "f4", "f8"),
    "png": ("u1", "u2"),
}
