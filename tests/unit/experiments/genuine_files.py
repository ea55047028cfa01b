"""What each genuine file yields, kept in ``genuine_files.json``; written by

    pip install rosettasciio sparse pySPM imagecodecs  # GPL and Apache: in an environment of its own
    python -m tests.unit.experiments.genuine_files MICROGRAPHS

Belongs here: an entry a file (members of archives are files), and what other programs say of the same file:
rosettasciio, and pySPM of Nanonis scans. Pixels are known by `atomvision_ml.experiments.capture.pixel_sha256`: SHA-256
of number type and shape (``<u2(64, 64)``) and of the little-endian pixels, row by row.
"""

import importlib
import json
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np

from atomvision_ml.experiments.coverage import Outcome, _unpacked, outcomes
from atomvision_ml.experiments.reading import ReadLimits
from atomvision_ml.experiments.record import Record, fields_filled_by
from atomvision_ml.experiments.units import UnitError, convert

GOLDEN = Path(__file__).with_name("genuine_files.json")
LIMITS = ReadLimits(time_s=120.0)
Entry = dict[str, Any]
Signal = Mapping[str, Any]
"""``data`` and ``axes`` (``scale`` and ``units`` of each), as rosettasciio has them."""

_PEERS = {
    "dm3": "digitalmicrograph", "dm4": "digitalmicrograph", "ser": "tia", "emi": "tia", "emd": "emd", "h5": "emd",
    "mrc": "mrc", "tif": "tiff", "sxm": "pySPM",
}  # fmt: skip
_PEER_FAULTS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
_PIXEL_FACTS = ("signal_name", "dtype", "n_frames", "shape_y", "shape_x", "intensity_scale", "intensity_offset")
_EDGES = {
    "nm": ("pixel_size_y_nm", "pixel_size_x_nm"),
    "1/nm": ("reciprocal_pixel_size_y_per_nm", "reciprocal_pixel_size_x_per_nm"),
}


def entry(outcome: Outcome) -> Entry:
    """What is expected of a file: its images with all fields that are filled, or why it is refused."""
    if outcome.reason:
        return {"refused": outcome.reason}
    return {"format": outcome.records[0].source_format, "images": [_image(record) for record in outcome.records]}


def _image(record: Record) -> Entry:
    names = (*_PIXEL_FACTS, "calibration_source", *fields_filled_by("header", "sidecar"))
    told = record.model_dump(mode="json", include=set(names), exclude_none=True)
    return {"pixel_sha256": record.pixel_sha256, "fields": {name: told[name] for name in names if name in told}}


def with_peers(outcome: Outcome, folder: Path) -> Entry:
    """The entry of a file, and what another program says of each image."""
    told = entry(outcome)
    module = _PEERS.get(outcome.name.rsplit(".", 1)[-1].lower())
    if module is None:
        return told | {"compared_with": None}
    program = "pySPM" if module == "pySPM" else "rosettasciio"
    told["compared_with"] = f"{program} {version(program)}"
    archive, _, member = outcome.name.partition("!")
    with _unpacked(folder / archive) as paths:
        try:
            peers = _peer_signals(
                module, next(path for path in paths if not member or path.name == member), outcome.records
            )
        except _PEER_FAULTS as error:
            return told | {"peer_refuses": f"{type(error).__name__}: {error}"[:200].replace(str(paths[0].parent), "…")}
    if outcome.reason:
        return told | {"peer_reads": [f"{np.shape(peer['data'])} {peer['data'].dtype}" for peer in peers]}
    for image, record, pixels in zip(told["images"], outcome.records, outcome.pixels, strict=True):
        image["peer"] = _verdict(record, pixels, peers)
    return told


def _peer_signals(module: str, path: Path, records: Sequence[Record]) -> list[Signal]:
    if module == "pySPM":
        return _scan_signals(path, records)
    signals = importlib.import_module(f"rsciio.{module}").file_reader(str(path))
    return [signal | {"data": np.asarray(signal["data"])} for signal in signals]


def _scan_signals(path: Path, records: Sequence[Record]) -> list[Signal]:
    from pySPM.SXM import SXM

    scan = SXM(str(path))
    images = [scan.get_channel(*record.signal_name.rsplit(" ", 1)) for record in records]
    edges = [[image.size["real"][axis] / image.size["pixels"][axis] for axis in "yx"] for image in images]
    return [
        {
            "data": image.pixels.astype("f4"),
            "axes": [{"scale": edge, "units": image.size["real"]["unit"]} for edge in two],
        }
        for image, two in zip(images, edges, strict=True)
    ]


def _verdict(record: Record, pixels: np.ndarray, peers: Sequence[Signal]) -> Entry:
    """The best that a signal of the other program says of an image: same pixels first, then same calibration."""
    verdicts = [
        {"pixels": words, "calibration": _calibration(record, axes)}
        for peer in peers
        for words, data, axes in _views(peer)
        if _are_same(data, pixels)
    ]
    return min(verdicts, key=_rank, default={"pixels": "not found"})


def _rank(verdict: Entry) -> tuple[bool, ...]:
    return verdict["pixels"] != "same", verdict["calibration"] not in ("same", "none in both")


def _views(peer: Signal) -> Iterator[tuple[str, np.ndarray, Sequence[Mapping[str, Any]]]]:
    """A signal as it is, and in the ways that say the same otherwise, with the axes that are rows and columns then."""
    data, axes = peer["data"], list(peer["axes"])
    if data.dtype.names:
        for name in data.dtype.names:
            yield "one of its colours", data[name], axes[-2:]
        return
    yield "same", data, axes[-2:]
    for order in list(permutations(range(data.ndim)))[1:] if data.ndim == len(axes) else ():
        yield "same, axes in another order", data.transpose(order), [axes[place] for place in order][-2:]
    for place in range(data.ndim) if data.ndim in (3, 4) and data.ndim == len(axes) else ():
        kept = [other for other in range(data.ndim) if other != place]
        for index, order in product(range(data.shape[place]), permutations(range(len(kept)))):
            words = "one of its stack" if list(order) == sorted(order) else "one of its stack, axes in another order"
            yield words, data.take(index, place).transpose(order), [axes[kept[each]] for each in order][-2:]
    for words, turned in (("rows", data[..., ::-1, :]), ("columns", data[..., ::-1])) if data.ndim > 1 else ():
        yield f"same, {words} in reverse", turned, axes[-2:]


def _are_same(one: np.ndarray, other: np.ndarray) -> bool:
    if one.size != other.size or one.dtype.newbyteorder("=") != other.dtype.newbyteorder("="):
        return False
    return np.array_equal(one.reshape(other.shape), other, equal_nan=one.dtype.kind == "f")


def _calibration(record: Record, axes: Sequence[Mapping[str, Any]]) -> str:
    theirs = next((edges for unit in _EDGES if (edges := _peer_edges(axes, unit)) is not None), None)
    ours = next((found for unit in _EDGES if (found := _own_edges(record, unit)) is not None), None)
    if ours is None or theirs is None:
        if ours == theirs:
            return "none in both"
        return "here alone" if theirs is None else f"there alone: {_told(theirs)}"
    is_same = ours[1] == theirs[1] and np.allclose(ours[0], theirs[0], rtol=1e-6, atol=0)
    return "same" if is_same else f"{_told(theirs)} there"


def _own_edges(record: Record, unit: str) -> tuple[tuple[float, ...], str] | None:
    edges = tuple(getattr(record, name) for name in _EDGES[unit])
    return None if None in edges else (edges, unit)


def _peer_edges(axes: Sequence[Mapping[str, Any]], unit: str) -> tuple[tuple[float, ...], str] | None:
    try:
        return tuple(convert(float(axis["scale"]), str(axis["units"]), unit) for axis in axes), unit
    except (KeyError, UnitError):
        return None


def _told(edges: tuple[tuple[float, ...], str]) -> str:
    return f"{' × '.join(f'{edge:.6g}' for edge in edges[0])} {edges[1]}"


def main(folder: Path) -> None:
    """Write the file anew, an entry a line, and print how many entries agree."""
    told = {outcome.name: with_peers(outcome, folder) for outcome in outcomes(folder, LIMITS)}
    lines = [f"{json.dumps(name)}: {json.dumps(each, ensure_ascii=False)}" for name, each in told.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(summary(told))


def summary(told: Mapping[str, Entry]) -> str:
    """How many images other programs have with the same pixels and the same calibration, for the docs."""
    images = [image for each in told.values() for image in each.get("images", ())]
    peers = [image["peer"] for image in images if "peer" in image]
    same = [peer for peer in peers if peer["pixels"] != "not found"]
    agreeing = [peer for peer in same if peer["calibration"] in ("same", "none in both")]
    return (
        f"{len(told)} files, {sum('images' in each for each in told.values())} read: {len(images)} images, "
        f"{len(peers)} compared, {len(same)} with the same pixels, {len(agreeing)} of these with the same calibration"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
