"""2DMatPedia: ``db.json``, JSON lines of ``{"material_id": …, "structure": <pymatgen dictionary>, …}``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ase.geometry import cellpar_to_cell

from atomvision_ml.structures.record import BadRecordError, Crystal, make_crystal, native_id_of
from atomvision_ml.structures.sources.fields import mapping_of, sequence_of

_CELL_PARAMETERS = ("a", "b", "c", "alpha", "beta", "gamma")


def native_id(record: dict[str, Any]) -> str:
    """The ``material_id``; raises BadRecordError without one."""
    return native_id_of(record, "material_id")


def crystal(record: dict[str, Any]) -> Crystal:
    """The structure of a pymatgen dictionary, whose fractional ``abc`` count, or its ``xyz`` (Å) without them.

    Raises:
        BadRecordError: a key is missing, a site is not occupied by exactly one atom, or the structure is damaged.
    """
    structure = mapping_of(record, "structure")
    sites = sequence_of(structure, "sites", "structure")
    elements = [_element(site, index) for index, site in enumerate(sites)]
    are_fractional = all(site.get("abc") is not None for site in sites)
    key = "abc" if are_fractional else "xyz"
    coordinates = [_coordinates(site, key, index) for index, site in enumerate(sites)]
    return make_crystal(elements, coordinates, _cell(structure), are_fractional=are_fractional)


def properties(record: dict[str, Any]) -> dict[str, Any]:
    """Everything else that the record holds."""
    return {key: value for key, value in record.items() if key not in ("structure", "material_id")}


def _cell(structure: dict[str, Any]) -> Any:
    lattice = mapping_of(structure, "lattice")
    if lattice.get("matrix") is not None:
        return lattice["matrix"]
    try:
        return cellpar_to_cell([float(lattice[key]) for key in _CELL_PARAMETERS])
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise BadRecordError(f"lattice: neither a matrix nor cell parameters ({error!r})") from error


def _element(site: Any, index: int) -> object:
    species = site.get("species") if isinstance(site, dict) else None
    if not isinstance(species, list) or not species:
        raise BadRecordError(f"site {index}: no 'species'")
    if len(species) > 1:
        raise BadRecordError(f"site {index}: {len(species)} species share it")
    only = species[0]
    if not isinstance(only, dict) or only.get("element") is None:
        raise BadRecordError(f"site {index}: no element")
    occupancy = only.get("occu", 1)
    is_number = isinstance(occupancy, (int, float)) and not isinstance(occupancy, bool)
    if not is_number or not math.isclose(occupancy, 1.0, abs_tol=1e-3):
        raise BadRecordError(f"site {index}: occupancy {occupancy!r}")
    return only["element"]


def _coordinates(site: dict[str, Any], key: str, index: int) -> Sequence[Any]:
    value = site.get(key)
    if not isinstance(value, list) or len(value) != 3:
        raise BadRecordError(f"site {index}: no three coordinates under 'abc' or 'xyz'")
    return value
