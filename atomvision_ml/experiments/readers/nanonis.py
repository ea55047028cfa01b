"""Nanonis ``.sxm``: scanning-probe images, all channels, read by nanonispy2."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from atomvision_ml.experiments.reading import (
    Axis,
    Picture,
    Reading,
    ReadLimits,
    UnreadableError,
    check_claim,
    collected,
    plain,
)


def read(path: Path, limits: ReadLimits) -> Reading:
    """Every channel and direction of a scan.

    Rows run from the top of the field down, columns from left to right: scans that were taken upwards and lines that
    were taken backwards are turned.

    Raises:
        UnreadableError: damaged, cut, or with channels of one direction only, which the library does not read.
    """
    from nanonispy2.read import Scan

    _check_end(path)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        named = Path(folder) / "scan.sxm"  # the library chooses its reader by the suffix
        named.symlink_to(path.resolve())
        scan = Scan(str(named))
    columns, rows = (int(edge) for edge in scan.header["scan_pixels"])
    check_claim((rows, columns), 4, path.stat().st_size, limits)
    return collected(_pictures(scan, (rows, columns)), limits)


def _check_end(path: Path) -> None:
    """The header's end must be there before the library looks for it line by line."""
    with path.open("rb") as file:
        head = file.read(2**20)
    if b":SCANIT_END:" not in head:
        raise UnreadableError("the header of the .sxm file has no end within its first MiB")


def _pictures(scan: Any, shape: tuple[int, int]) -> Iterator[Picture | str]:
    width_m, height_m = (float(edge) for edge in scan.header["scan_range"])
    units = dict(zip(scan.header["data_info"]["Name"], scan.header["data_info"].get("Unit", ()), strict=False))
    header = plain(_header(scan.header))
    for channel, directions in scan.signals.items():
        for direction in ("forward", "backward"):
            pixels = np.asarray(directions[direction])
            if pixels.shape != shape:
                raise UnreadableError(f"channel {channel}: {pixels.shape} values, not {shape}")
            pixels = pixels[:, ::-1] if direction == "backward" else pixels
            pixels = pixels[::-1] if str(scan.header.get("scan_dir", "")).strip() == "up" else pixels
            yield Picture(
                pixels=np.ascontiguousarray(pixels),
                y=Axis(height_m / shape[0], "m"),
                x=Axis(width_m / shape[1], "m"),
                name=f"{channel} {direction}",
                quantity=channel,
                intensity=(1.0, 0.0, units.get(channel, "")),
                header=header,
            )


def _header(told: Any) -> dict[str, Any]:
    """The header as it is; one-valued columns of its tables lose their tuple."""
    return {
        key: {name: item[0] if isinstance(item, tuple) and len(item) == 1 else item for name, item in value.items()}
        if isinstance(value, dict)
        else value
        for key, value in told.items()
    }
