"""Reading fields of delivered records with clear reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atomvision_ml.structures.record import BadRecordError


def mapping_of(record: dict[str, Any], key: str) -> dict[str, Any]:
    """The JSON object under the key; raises BadRecordError if there is none."""
    value = record.get(key)
    if not isinstance(value, dict):
        raise BadRecordError(f"no {key!r}" if value is None else f"{key!r} is no JSON object")
    return value


def sequence_of(record: dict[str, Any], key: str, where: str) -> Sequence[Any]:
    """The JSON list under the key; raises BadRecordError if there is none."""
    value = record.get(key)
    if not isinstance(value, list):
        raise BadRecordError(f"{where}: no {key!r}" if value is None else f"{where}: {key!r} is no list")
    return value
