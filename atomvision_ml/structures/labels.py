"""The labels of a slab: every column of ``structures/slabs`` that says what the lattice is.

Belongs here: thresholds, the rule of ambiguity and the published rule. ``docs/labels.md`` defines each column in words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES
from atomvision_ml.structures.lattice import CellClass, classify_cell
from atomvision_ml.structures.projection import Superlattice, nearest_superlattice, primitive_projection
from atomvision_ml.structures.slabs import Slab
from atomvision_ml.structures.symmetry import crystal_family, layer_group, plane_group, space_group

AMBIGUOUS_STRAIN = 0.005
AMBIGUOUS_CONTRAST = 0.003


def label_slab(slab: Slab, raw_cell_angstrom: ArrayLike) -> dict[str, Any]:
    """Label and symmetry columns of ``structures/slabs`` for one slab.

    Args:
        slab: the normalised slab.
        raw_cell_angstrom: (3, 3) the cell as delivered, vectors as rows, Å; only the published rule looks at it.

    Raises:
        SymmetryError: spglib finds no group at any tolerance.
        ValueError: degenerate cell or positions.
    """
    projection = primitive_projection(slab.numbers, slab.positions_angstrom[:, :2], slab.cell_angstrom[:2, :2])
    cell_class = classify_cell(projection.cell_angstrom)
    superlattice = nearest_superlattice(projection, cell_class.name)
    space = space_group(slab.numbers, slab.positions_angstrom, slab.cell_angstrom)
    layer = layer_group(slab.numbers, slab.positions_angstrom, slab.cell_angstrom)
    plane = plane_group(projection)
    return {
        "space_group_number": space.number,
        "space_group_symbol": space.symbol,
        "layer_group_number": layer.number,
        "layer_group_symbol": layer.symbol,
        "plane_group": plane,
        "crystal_family_2d": crystal_family(plane),
        "bravais_lattice": cell_class.name,
        "class_strain_percent": 100 * cell_class.strain,
        "next_class": cell_class.next_class,
        "next_class_strain_percent": None if cell_class.next_strain is None else 100 * cell_class.next_strain,
        "superlattice_contrast": None if superlattice is None else superlattice.contrast,
        "superlattice_parent": None if superlattice is None else superlattice.parent,
        "is_ambiguous": is_ambiguous(cell_class, superlattice),
        "bravais_lattice_published": published_lattice(raw_cell_angstrom),
        "primitive_cell_angstrom": projection.cell_angstrom.ravel().tolist(),
    }


def is_ambiguous(cell_class: CellClass, superlattice: Superlattice | None) -> bool:
    """Whether a fair reader of an image may name another class; see ``docs/labels.md`` for the rule and its counts."""
    is_close = cell_class.next_strain is not None and cell_class.next_strain < AMBIGUOUS_STRAIN
    return is_close or (superlattice is not None and superlattice.contrast < AMBIGUOUS_CONTRAST)


def published_lattice(raw_cell_angstrom: ArrayLike) -> str:
    """The published rule (AtomVision): a, b and γ of the delivered cell, each rounded to 0.01 (Å, degrees), compared.

    Args:
        raw_cell_angstrom: (3, 3) vectors as rows, Å.
    """
    cell = np.asarray(raw_cell_angstrom, np.float64).reshape(3, 3)
    length_a, length_b = (float(np.linalg.norm(vector)) for vector in cell[:2])
    gamma = float(np.degrees(np.arccos(np.clip(cell[0] @ cell[1] / (length_a * length_b), -1, 1))))
    has_equal_lengths = round(length_a, 2) == round(length_b, 2)
    angle_deg = round(gamma, 2)
    hexagonal, square, rectangular, rhombic, oblique = BRAVAIS_LATTICES
    if angle_deg == 90:
        return square if has_equal_lengths else rectangular
    if not has_equal_lengths:
        return oblique
    return hexagonal if angle_deg in (60, 120) else rhombic
