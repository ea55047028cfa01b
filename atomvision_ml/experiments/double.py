"""An inbox drop whose truth is known: images of an imagined microscope, for the demo and for tests.

Belongs here: which samples there are, how the microscope sees them, and in which formats it writes. Structures are
prototypes of the platform, labels come from their lattices; drift, jitter, background and dose are those of an ordinary
instrument. The same seed gives the same bytes. Beside the labelled images lie an unlabelled one, a copy, the pixels of
one image in another format, and a file that is no image.
"""

from __future__ import annotations

import pickle
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.experiments.record import sidecar_path, write_sidecar
from atomvision_ml.storage.files import replacing

FOLDER = "demo"
"""Folder of the inbox that the demo drops into."""


class DropParameters(BaseModel):
    """How many images the drop has and how good they are; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images_per_sample: int = Field(default=2, ge=1, description="Labelled images of each sample.")
    size_px: int = Field(default=256, ge=64, description="Edge of an image.")
    mean_detected_e_per_a2: float = Field(default=400.0, gt=0, description="Detected electrons per Å².")
    drift_angstrom: float = Field(default=0.8, ge=0, description="Drift from the first to the last row.")
    line_jitter_angstrom: float = Field(default=0.05, ge=0, description="Standard deviation of a row's shift.")
    background_fraction: float = Field(default=0.3, ge=0, lt=1, description="Share of electrons that carry no image.")
    source_size_angstrom: float = Field(default=0.25, ge=0, description="Standard deviation of the source's image.")
    seed: int = Field(default=0, ge=0, description="The same seed gives the same bytes.")


SAMPLES: Mapping[str, str] = {
    "MS-14": "MoS2-2H",
    "WS-03": "WSe2-2H",
    "BN-22": "BN-hexagonal",
    "FS-07": "FeSe",
    "SO-05": "SnO",
    "PT-11": "Pt-fcc100",
    "MT-05": "MoTe2-1T'",
    "AU-22": "Au-fcc110",
    "SS-09": "SnS",
    "CT-07": "CuTe-vulcanite",
    "RS-12": "ReS2-diamond-chains",
    "TS-08": "TcS2-diamond-chains",
}
"""Sample and the prototype that it is."""

UNLABELLED = ("GS-01", "GeS")

_PIXEL_SIZES_NM = (0.010, 0.0125, 0.015)


@dataclass(frozen=True)
class Truth:
    """What is true of a file of the drop.

    Attributes:
        name: of the file.
        sample: its sample; empty if it is no image.
        lattice: Bravais lattice of the sample; empty if the file does not tell it.
        verdict: what ought to become of it: accepted, duplicate or rejected.
    """

    name: str
    sample: str
    lattice: str
    verdict: str


def drop(folder: Path, parameters: DropParameters | None = None) -> list[Truth]:
    """Put the drop into a folder: each file after its sidecar, whole or not at all; files that are there stay.

    Args:
        folder: of the inbox; made if missing.
        parameters: how many images and how good.

    Returns:
        What is true of each file, in the order of their names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="atomvision-drop-") as temporary:
        truths = _write(Path(temporary), parameters or DropParameters())
        for truth in truths:
            for source in (sidecar_path(Path(temporary) / truth.name), Path(temporary) / truth.name):
                if source.is_file() and not (folder / source.name).exists():
                    with replacing(folder / source.name) as aside:
                        shutil.copyfile(source, aside)
    return sorted(truths, key=lambda truth: truth.name)


def _write(folder: Path, parameters: DropParameters) -> list[Truth]:
    microscope = _Microscope(parameters)
    truths = []
    for number, (sample, prototype) in enumerate(SAMPLES.items()):
        specimen = microscope.specimen(prototype)
        for image in range(parameters.images_per_sample):
            suffix, write = _FORMATS[(number + image) % len(_FORMATS)]
            name = f"{sample}_{image + 1:03d}{suffix}"
            pixels, pixel_nm = microscope.image(specimen, number * parameters.images_per_sample + image)
            write(folder / name, pixels, pixel_nm)
            write_sidecar(sidecar_path(folder / name), _told(sample, specimen, number, with_label=True), {})
            truths.append(Truth(name, sample, specimen["bravais_lattice"], "accepted"))
    return [*truths, *_others(folder, microscope, truths)]


def _others(folder: Path, microscope: _Microscope, labelled: list[Truth]) -> list[Truth]:
    """The unlabelled image, the copy, the export of the first TIFF, and what is no image."""
    sample, prototype = UNLABELLED
    specimen = microscope.specimen(prototype)
    pixels, pixel_nm = microscope.image(specimen, len(labelled))
    _write_hspy(folder / f"{sample}_001.hspy", pixels, pixel_nm)
    write_sidecar(sidecar_path(folder / f"{sample}_001.hspy"), _told(sample, specimen, 0, with_label=False), {})
    first, second = labelled[0], labelled[1]
    shutil.copyfile(folder / first.name, folder / f"copy_of_{first.name}")
    exported = f"{Path(second.name).stem}_exported.hspy"
    _export(folder / second.name, folder / exported)
    (folder / "results.tif").write_bytes(pickle.dumps({"not": "an image"}))
    return [
        Truth(f"{sample}_001.hspy", sample, "", "accepted"),
        Truth(f"copy_of_{first.name}", first.sample, "", "duplicate"),
        Truth(exported, second.sample, "", "duplicate"),
        Truth("results.tif", "", "", "rejected"),
    ]


class _Microscope:
    def __init__(self, parameters: DropParameters) -> None:
        from atomvision_ml.structures.prototypes import prototype_rows

        self.parameters = parameters
        self._records = {row["native_id"]: row for row in prototype_rows()}

    def specimen(self, prototype: str) -> dict[str, Any]:
        """The row of ``structures/slabs`` of a prototype."""
        from atomvision_ml.structures.slabs import slab_row

        return slab_row(self._records[prototype])

    def image(self, specimen: dict[str, Any], number: int) -> tuple[np.ndarray, float]:
        """Counts [y, x] as uint16 and the edge of a pixel in nm, of the image of that number."""
        from atomvision_ml.images.detector import DetectorParameters, detect
        from atomvision_ml.images.stem import render
        from atomvision_ml.structures.slabs import atoms_from_row

        chosen = self.parameters
        random = np.random.default_rng([chosen.seed, number])
        pixel_nm = _PIXEL_SIZES_NM[number % len(_PIXEL_SIZES_NM)]
        ideal = render(
            atoms_from_row(specimen),
            pixel_size_angstrom=10 * pixel_nm,
            size=chosen.size_px,
            sigma_angstrom=0.4,
            rotation_deg=float(random.uniform(0, 360)),
            shift_angstrom=(float(random.uniform(0, 5)), float(random.uniform(0, 5))),
        )
        direction = random.uniform(0, 2 * np.pi)
        scan = DetectorParameters(
            mean_detected_e_per_a2=chosen.mean_detected_e_per_a2,
            source_size_angstrom=chosen.source_size_angstrom,
            background_fraction=chosen.background_fraction,
            line_jitter_angstrom=chosen.line_jitter_angstrom,
            drift_x_angstrom=float(chosen.drift_angstrom * np.cos(direction)),
            drift_y_angstrom=float(chosen.drift_angstrom * np.sin(direction)),
        )
        counts = detect(ideal, 10 * pixel_nm, scan, seed=int(random.integers(2**31)))
        return np.clip(counts, 0, 65535).astype(np.uint16), pixel_nm


def _told(sample: str, specimen: Mapping[str, Any], number: int, *, with_label: bool) -> dict[str, Any]:
    """What the person writes beside an image."""
    told = {
        "technique": "STEM",
        "imaging_mode": "HAADF",
        "instrument_name": "AtomVision demo microscope",
        "acceleration_voltage_kv": 200.0,
        "acquired_at": f"2024-05-{number + 1:02d}T10:00:00+00:00",
        "sample_id": sample,
        "material_formula": specimen["reduced_formula"],
        "licence": "CC0-1.0",
        "project": "demo",
        "notes": "Made by a simulated microscope.",
    }
    label = {"labels": {"lattice": specimen["bravais_lattice"]}, "annotator": "demo"} if with_label else {}
    return told | label


def _write_tiff(path: Path, pixels: np.ndarray, pixel_nm: float) -> None:
    import tifffile

    per_nm = 1 / pixel_nm
    tifffile.imwrite(path, pixels, imagej=True, resolution=(per_nm, per_nm), metadata={"unit": "nm", "axes": "YX"})


def _write_mrc(path: Path, pixels: np.ndarray, pixel_nm: float) -> None:
    import mrcfile

    with mrcfile.new(path) as file:
        file.set_data(pixels)
        file.voxel_size = 10 * pixel_nm
        file.header.nlabl = 1
        file.header.label[0] = b"AtomVision demo microscope"  # the library's own label holds the time


def _write_hspy(path: Path, pixels: np.ndarray, pixel_nm: float) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs.update(file_format="HyperSpy", file_format_version="3.3")
        group = file.create_group("Experiments/image")
        group["data"] = pixels
        for place, (name, size) in enumerate(zip("yx", pixels.shape, strict=True)):
            axis = group.create_group(f"axis-{place}")
            axis.attrs.update(name=name, scale=pixel_nm, offset=0.0, units="nm", size=size, navigate=False)


def _write_emd(path: Path, pixels: np.ndarray, pixel_nm: float) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs.update(version_major=0, version_minor=2)
        group = file.create_group("data/image")
        group.attrs["emd_group_type"] = 1
        group["data"] = pixels
        for place, (name, size) in enumerate(zip("yx", pixels.shape, strict=True), start=1):
            group[f"dim{place}"] = np.arange(size) * pixel_nm
            group[f"dim{place}"].attrs.update(name=name, units="[n_m]")


_FORMATS: tuple[tuple[str, Callable[[Path, np.ndarray, float], None]], ...] = (
    (".tif", _write_tiff),
    (".mrc", _write_mrc),
    (".hspy", _write_hspy),
    (".emd", _write_emd),
)


def _export(source: Path, target: Path) -> None:
    """The pixels of an MRC file as another program would export them."""
    import mrcfile

    with mrcfile.open(source) as file:
        _write_hspy(target, np.asarray(file.data), float(file.voxel_size.x) / 10)
