"""Formats that only rosettasciio reads (Bruker bcf).

rosettasciio is GPL-3: it belongs to the optional extra ``vendors``, and is imported here alone, within the worker.
"""

from __future__ import annotations

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
    collected,
    picture_kind,
    plain,
)


def read(path: Path, limits: ReadLimits) -> Reading:
    """Images of a Bruker bcf file; its spectra are left out.

    Raises:
        UnreadableError: rosettasciio is not installed, or the file holds no image.
    """
    try:
        from rsciio.bruker import file_reader
    except ImportError as error:
        raise UnreadableError("Bruker bcf needs rosettasciio (GPL-3): pip install 'atomvision[vendors]'") from error
    return collected(_pictures(file_reader(str(path), select_type="images")), limits)


def _pictures(signals: list[dict[str, Any]]) -> Iterator[Picture | str]:
    for signal in signals:
        pixels = np.asarray(signal["data"])
        name = str(signal.get("metadata", {}).get("General", {}).get("title", ""))
        unfit = picture_kind(pixels)
        if unfit is not None:
            yield f"{name}: {unfit}"
            continue
        y, x = (_axis(axis) for axis in signal["axes"][-2:])
        header = {"metadata": signal.get("metadata", {}), "original_metadata": signal.get("original_metadata", {})}
        yield Picture(pixels=pixels, y=y, x=x, name=name, header=plain(header))


def _axis(told: dict[str, Any]) -> Axis:
    return Axis(float(told["scale"]), str(told["units"])) if told.get("units") else Axis()
