"""Files that are damaged or mean harm, made from genuine ones with fixed seeds."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import tifffile
from experiment_files import WRITERS, micrograph, write_hspy, write_nexus

CUTS = (0, 1, 4, 16, 100, 0.02, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.6, 0.65, 0.75, 0.9, 0.98, -1)
"""Bytes that are left; fractions of the size, or bytes less than the whole."""
HARMLESS_CUTS = {"ser": (-1,), "ome_tiff": (0.9, 0.98, -1), "png": (-1,)}
"""Cuts behind the last pixel, in what no reader needs."""
FLIPS = (1, 1, 1, 2, 4, 8, 16, 64, 256)
"""Numbers of flipped bytes, each with its own seed."""


@dataclass(frozen=True)
class Case:
    """A hostile file.

    Attributes:
        name: of the case.
        make: writes it into a folder and returns its path.
        pixels: the image that a reader may still find; None if the file is to be refused.
        n_flipped: flipped bytes.
    """

    name: str
    make: Callable[[Path], Path]
    pixels: np.ndarray | None = None
    n_flipped: int = 0

    @property
    def is_untouched(self) -> bool:
        """Whether it has a strange name and no other fault: it is to be read."""
        return self.name.endswith("_renamed") or self.name.startswith("name_")

    @property
    def is_singular(self) -> bool:
        """Whether it is the only one of its kind: no cut, no flip, no noise."""
        return not any(word in self.name for word in ("_cut_", "_flipped_", "_noise_", "_renamed", "_appended"))


class Harm:
    """What a pickle would do if anything opened it."""

    def __reduce__(self):
        return (os.mkdir, ("opened_by_a_pickle",))


def genuine(folder: Path) -> dict[str, tuple[bytes, np.ndarray]]:
    """Content and pixels of one file of each format."""
    files = {}
    for name, (suffix, write) in WRITERS.items():
        if name == "emi":
            continue
        pixels = micrograph("f4" if name in ("sxm", "hspy") else "u2")
        path = folder / f"{name}{suffix}"
        write(path, pixels)
        files[name] = (path.read_bytes(), pixels)
    return files


def cases(files: dict[str, tuple[bytes, np.ndarray]]) -> Iterator[Case]:
    """Every hostile file."""
    for name, (content, pixels) in files.items():
        suffix = WRITERS[name][0]
        for cut in CUTS:
            left = int(cut * len(content)) if isinstance(cut, float) else cut if cut >= 0 else len(content) + cut
            kept = pixels if cut in HARMLESS_CUTS.get(name, ()) else None
            yield Case(f"{name}_cut_{cut}", _bytes(f"a{suffix}", content[:left]), kept)
        for seed, n_flipped in enumerate(FLIPS):
            flipped = _flipped(content, n_flipped, seed)
            yield Case(f"{name}_flipped_{n_flipped}_{seed}", _bytes(f"a{suffix}", flipped), pixels, n_flipped)
        yield Case(f"{name}_renamed", _bytes("a.xyz", content), pixels)
        yield Case(f"{name}_appended", _bytes(f"a{suffix}", content + bytes(1000)), pixels)
        yield Case(f"{name}_noise_within", _bytes(f"a{suffix}", _noise_within(content)), None)
    yield from _claims(files)
    yield from _bombs()
    yield from _pickles()
    yield from _tricks(files)


def _bytes(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return make


def _flipped(content: bytes, number: int, seed: int) -> bytes:
    rng = np.random.default_rng([seed, number])
    changed = bytearray(content)
    for place in rng.choice(len(changed), min(number, len(changed)), replace=False):
        changed[place] ^= int(rng.integers(1, 256))
    return bytes(changed)


def _noise_within(content: bytes) -> bytes:
    """The first 64 bytes as they were, then noise."""
    rng = np.random.default_rng(len(content))
    return content[:64] + rng.integers(0, 256, len(content) - 64, np.uint8).tobytes()


def _claims(files: dict[str, tuple[bytes, np.ndarray]]) -> Iterator[Case]:
    """Headers that claim more than there is."""
    huge = struct.pack("<i", 2**30)
    mrc = files["mrc"][0]
    for place in (0, 4, 8, 92):
        yield Case(f"mrc_claims_{place}", _bytes("a.mrc", mrc[:place] + huge + mrc[place + 4 :]))
    ser, pixels = files["ser"]
    for place in (14, 18, 22):
        kept = pixels if place == 14 else None  # room for many elements, of which one is valid
        yield Case(f"ser_claims_{place}", _bytes("a_1.ser", ser[:place] + huge + ser[place + 4 :]), kept)
    edges = struct.pack("<ii", 48, 40)
    yield Case("ser_claims_edges", _bytes("a_1.ser", ser.replace(edges, struct.pack("<ii", 60000, 60000), 1)))
    sxm = files["sxm"][0]
    yield Case("sxm_claims_edges", _bytes("a.sxm", sxm.replace(b"       48       40", b"   900000   900000", 1)))
    yield Case("sxm_without_end", _bytes("a.sxm", sxm.replace(b":SCANIT_END:", b":SCANIT_ENX:")))
    dm3 = files["dm3"][0]
    for count in (2**31, 2**32 - 1):
        yield Case(f"dm3_claims_{count}_tags", _bytes("a.dm3", dm3[:14] + struct.pack(">L", count) + dm3[18:]))
    yield Case("png_claims_edges", _bytes("a.png", _png(60000, 60000, b"")))
    yield Case("tiff_claims_edges", _tiff_claim)
    yield Case("hspy_claims_edges", _hspy_claim)


def _png(columns: int, rows: int, content: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def _tiff_claim(folder: Path) -> Path:
    path = folder / "a.tif"
    tifffile.imwrite(path, micrograph(), metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name in ("ImageWidth", "ImageLength"):
            file.pages.first.tags[name].overwrite(60000)
    return path


def _hspy_claim(folder: Path) -> Path:
    """Chunks that were never written cost no bytes in the file."""
    path = folder / "a.hspy"
    write_hspy(path, micrograph("f4"))
    with h5py.File(path, "a") as file:
        group = file["Experiments/image"]
        del group["data"]
        group.create_dataset("data", (60000, 60000), "f8", chunks=(1000, 1000))
    return path


def _bombs() -> Iterator[Case]:
    zeros = io.BytesIO()
    np.save(zeros, np.zeros((4000, 4000), np.uint8))
    metadata = json.dumps({"title": "x"})
    for method, name in ((zipfile.ZIP_DEFLATED, "deflated"), (zipfile.ZIP_BZIP2, "bzip2")):
        yield Case(f"zip_bomb_{name}", _zip({"data.npy": zeros.getvalue() * 6, "metadata.json": metadata}, method))
    yield Case("zip_bomb_header", _zip({"data.npy": zeros.getvalue()[:500], "metadata.json": " " * 2**22}))
    yield Case("zip_many", _zip({f"{number}.npy": b"x" for number in range(500)}))
    yield Case("png_bomb", _bytes("a.png", _png(9000, 9000, zlib.compress(bytes(9001 * 9000), 9))))
    yield Case("tiff_bomb", _tiff_bomb)
    yield Case("emi_entities", _bytes("a.emi", b"JK\0\x02" + _ENTITIES))


_ENTITIES = b"<ObjectInfo><!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>]>&a;&a;</ObjectInfo>"


def _zip(members: dict[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "a.ndata1"
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path

    return make


def _tiff_bomb(folder: Path) -> Path:
    path = folder / "a.tif"
    tifffile.imwrite(path, np.zeros((6000, 6000), np.uint8), compression="deflate", metadata=None)
    return path


def _pickles() -> Iterator[Case]:
    harm = pickle.dumps(Harm())
    objects = io.BytesIO()
    np.save(objects, np.array([Harm()], dtype=object), allow_pickle=True)
    archive = io.BytesIO()
    np.savez(archive, data=np.array([Harm()], dtype=object))
    for suffix in (".dm3", ".tif", ".ndata1", ".hspy", ".pkl"):
        yield Case(f"pickle_as{suffix}", _bytes(f"a{suffix}", harm))
    yield Case("npy_of_objects", _bytes("a.npy", objects.getvalue()))
    yield Case("npz_of_objects", _bytes("a.npz", archive.getvalue()))
    yield Case("ndata_of_objects", _zip({"data.npy": objects.getvalue(), "metadata.json": "{}"}))
    yield Case("hspy_of_objects", _hspy_objects)


def _hspy_objects(folder: Path) -> Path:
    path = folder / "a.hspy"
    write_hspy(path, micrograph("f4"))
    with h5py.File(path, "a") as file:
        group = file["Experiments/image"]
        del group["data"]
        group.create_dataset("data", (40, 48), h5py.vlen_dtype(np.uint8))
    return path


def _tricks(files: dict[str, tuple[bytes, np.ndarray]]) -> Iterator[Case]:
    yield Case("link", _linked)
    yield Case("link_to_nothing", _dangling)
    yield Case("folder", _folder)
    yield Case("pipe", _pipe)
    yield Case("missing", lambda folder: folder / "missing.dm3")
    yield Case("hdf5_link_out", _link_out)
    yield Case("hdf5_data_elsewhere", _data_elsewhere)
    yield Case("hdf5_virtual", _virtual)
    yield Case("zip_path_out", _zip({"../data.npy": b"x", "/metadata.json": "{}"}))
    yield Case("emi_alone", _bytes("a.emi", b"JK\0\x02<ObjectInfo></ObjectInfo>"))
    yield Case("emi_link_beside", _emi_with_link)
    dm3, pixels = files["dm3"]
    for number, name in enumerate(("-rf.dm3", "a\nb.dm3", "'; drop table.dm3", "ä" * 100 + ".dm3", "%2e%2e.dm3")):
        yield Case(f"name_{number}", _bytes(name, dm3), pixels)


def _linked(folder: Path) -> Path:
    (folder / "real.dm3").write_bytes(b"x")
    (folder / "link.dm3").symlink_to(folder / "real.dm3")
    return folder / "link.dm3"


def _dangling(folder: Path) -> Path:
    (folder / "link.dm3").symlink_to("/nowhere")
    return folder / "link.dm3"


def _folder(folder: Path) -> Path:
    (folder / "a.dm3").mkdir()
    return folder / "a.dm3"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.dm3")
    return folder / "a.dm3"


def _link_out(folder: Path) -> Path:
    write_nexus(folder / "secret.nxs", micrograph())
    path = folder / "a.nxs"
    write_nexus(path, micrograph())
    with h5py.File(path, "a") as file:
        del file["entry/image/intensity"]
        file["entry/image/intensity"] = h5py.ExternalLink("secret.nxs", "/entry/image/intensity")
    return path


def _data_elsewhere(folder: Path) -> Path:
    path = folder / "a.hspy"
    write_hspy(path, micrograph("f4"))
    with h5py.File(path, "a") as file:
        group = file["Experiments/image"]
        del group["data"]
        group.create_dataset("data", (4, 4), "u1", external=[("/etc/hostname", 0, 16)])
    return path


def _virtual(folder: Path) -> Path:
    write_hspy(folder / "secret.hspy", micrograph("f4"))
    path = folder / "a.hspy"
    write_hspy(path, micrograph("f4"))
    with h5py.File(path, "a") as file:
        group = file["Experiments/image"]
        del group["data"]
        layout = h5py.VirtualLayout((40, 48), "f4")
        layout[:] = h5py.VirtualSource("secret.hspy", "Experiments/image/data", (40, 48))
        group.create_virtual_dataset("data", layout)
    return path


def _emi_with_link(folder: Path) -> Path:
    WRITERS["emi"][1](folder / "real.emi", micrograph())
    (folder / "a.emi").write_bytes((folder / "real.emi").read_bytes())
    (folder / "a_1.ser").symlink_to(folder / "real_1.ser")
    return folder / "a.emi"
