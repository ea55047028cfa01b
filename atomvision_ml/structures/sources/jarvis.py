"""JARVIS-DFT 2D: a zip (or any compression) of one JSON list of ``{"jid": …, "atoms": {…}, …}``."""

from __future__ import annotations

from typing import Any

from atomvision_ml.structures.record import BadRecordError, Crystal, make_crystal, native_id_of
from atomvision_ml.structures.sources.fields import mapping_of, sequence_of


def native_id(record: dict[str, Any]) -> str:
    """The ``jid``; raises BadRecordError without one."""
    return native_id_of(record, "jid")


def crystal(record: dict[str, Any]) -> Crystal:
    """The structure under ``atoms``: ``lattice_mat`` (Å), ``elements``, ``coords`` (fractional unless ``cartesian``).

    Raises:
        BadRecordError: a key is missing, or the structure is damaged.
    """
    atoms = mapping_of(record, "atoms")
    elements = sequence_of(atoms, "elements", "atoms")
    is_cartesian = str(atoms.get("cartesian", False)).strip().lower() in ("true", "1")
    for key in ("coords", "lattice_mat"):
        if atoms.get(key) is None:
            raise BadRecordError(f"atoms: no {key!r}")
    return make_crystal(elements, atoms["coords"], atoms["lattice_mat"], are_fractional=not is_cartesian)


def properties(record: dict[str, Any]) -> dict[str, Any]:
    """Everything else that the record holds."""
    return {key: value for key, value in record.items() if key not in ("atoms", "jid")}
