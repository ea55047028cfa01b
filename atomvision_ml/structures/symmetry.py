"""Space, layer and plane groups, all through spglib.

Belongs here: tolerances, conventions and failures of the symmetry search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray

from atomvision_ml.structures.projection import PrimitiveProjection, columns

SYMPREC_ANGSTROM = (0.01, 0.005, 0.02, 0.001)
"""Distance tolerance, and those that are tried in turn where spglib finds nothing at the one before."""

PLANE_GROUPS = {
    6: "p1",
    10: "p2",
    25: "pm",
    26: "pg",
    38: "cm",
    47: "pmm",
    51: "pmg",
    55: "pgg",
    65: "cmm",
    83: "p4",
    123: "p4m",
    127: "p4g",
    174: "p3",
    187: "p3m1",
    189: "p31m",
    175: "p6",
    191: "p6m",
}
"""Space group of columns that lie in one mirror plane: its number tells the plane group, whatever the setting."""


class SymmetryError(ValueError):
    """No symmetry was found; the message says of what, and at which tolerances it was tried."""


@dataclass(frozen=True)
class Group:
    """Number and international symbol of a space or layer group."""

    number: int
    symbol: str


def space_group(
    numbers: NDArray[np.int32], positions_angstrom: NDArray[np.float64], cell_angstrom: NDArray[np.float64]
) -> Group:
    """Space group of the periodic slab: numbers (n,), positions (n, 3) Å, cell (3, 3) Å. Raises SymmetryError."""
    cell = _fractional(numbers, positions_angstrom, cell_angstrom)
    dataset = _search("space group", lambda symprec: spglib.get_symmetry_dataset(cell, symprec=symprec))
    return Group(int(dataset.number), str(dataset.international))


def layer_group(
    numbers: NDArray[np.int32], positions_angstrom: NDArray[np.float64], cell_angstrom: NDArray[np.float64]
) -> Group:
    """Layer group of the slab, aperiodic along the third vector; shapes as for a space group. Raises SymmetryError."""
    cell = _fractional(numbers, positions_angstrom, cell_angstrom)
    dataset = _search(
        "layer group", lambda symprec: spglib.get_symmetry_layerdataset(cell, aperiodic_dir=2, symprec=symprec)
    )
    return Group(int(dataset.number), str(dataset.international))


def plane_group(projection: PrimitiveProjection) -> str:
    """Plane group of the projection, in short symbols from p1 to p6m, one species for each composition of a column.

    The columns are put into the plane z = 0 of a cell with a long third vector. The space group of that is the plane
    group times the mirror z = 0, and no two plane groups give the same.

    Raises:
        SymmetryError: spglib finds no such group.
    """
    centres, types = columns(projection)
    cell = np.zeros((3, 3))
    cell[:2, :2] = projection.cell_angstrom
    cell[2, 2] = 10.0 + 2 * np.abs(projection.cell_angstrom).sum()
    layer: Any = (cell, np.column_stack([centres, np.zeros(len(centres))]), types + 1)
    number = int(_search("plane group", lambda symprec: spglib.get_symmetry_dataset(layer, symprec=symprec)).number)
    if number not in PLANE_GROUPS:
        raise SymmetryError(f"space group {number} of the projected columns is that of no plane group")
    return PLANE_GROUPS[number]


def crystal_family(group: str) -> str:
    """Two-dimensional crystal family of a plane group: hexagonal, tetragonal, orthorhombic or monoclinic."""
    if group.startswith(("p3", "p6")):
        return "hexagonal"
    if group.startswith("p4"):
        return "tetragonal"
    return "monoclinic" if group in ("p1", "p2") else "orthorhombic"


def _fractional(numbers: NDArray[np.int32], positions: NDArray[np.float64], cell: NDArray[np.float64]) -> Any:
    """The cell as spglib takes it; its annotations ask for sequences, its code for arrays."""
    return cell, positions @ np.linalg.inv(cell), numbers


def _search(what: str, search: Callable[[float], Any]) -> Any:
    """The first answer over the tolerances; spglib reports failure as None or as an exception, by its version."""
    for symprec in SYMPREC_ANGSTROM:
        try:
            dataset = search(symprec)
        except spglib.SpglibError:
            continue
        if dataset is not None:
            return dataset
    raise SymmetryError(f"spglib found no {what} at any tolerance of {SYMPREC_ANGSTROM} Å")
