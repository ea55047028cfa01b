"""The labels of a slab: every column of ``structures/slabs`` that says what the lattice is.

Belongs here: thresholds, the rule of ambiguity and the published rule. ``docs/labels.md`` defines each column in words.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from atomvision_ml.structures.lattice import CLASS_TOLERANCE, CellClass, classify_cell
from atomvision_ml.structures.projection import Superlattice, nearest_superlattice, primitive_projection
from atomvision_ml.structures.slabs import Slab
from atomvision_ml.structures.symmetry import crystal_family, layer_group, plane_group, space_group

STRAIN_MARGIN = 0.001
"""Cells whose strain (fraction) lies within this of the class tolerance are ambiguous, on either side of it."""

VISIBLE_AT_SIGMA = 5.0
"""A reflection is visible where |F_g|/F_0·√(detected electrons) exceeds this."""

LOW_DOSE_E_PER_A2 = 1e2
SMALL_FIELD_ANGSTROM = 25.6
"""The weakest exposure at which an unambiguous lattice must show itself: dose per area, and side of the field."""


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


def is_visible(contrast: float, dose_e_per_a2: float, area_angstrom2: float) -> bool:
    """Whether a reflection of |F_g|/F_0 = ``contrast`` stands out of the shot noise of such an image."""
    return contrast * math.sqrt(dose_e_per_a2 * area_angstrom2) > VISIBLE_AT_SIGMA


def is_ambiguous(cell_class: CellClass, superlattice: Superlattice | None) -> bool:
    """Whether a fair reader of an image may name another class.

    True if the strain to the own class or to the next lies within the margin of the class tolerance, or if the
    reflections that tell the lattice from a pseudo-symmetric parent are invisible at the low dose in the small field.
    """
    is_near_its_limit = cell_class.strain > CLASS_TOLERANCE - STRAIN_MARGIN
    is_near_next = cell_class.next_strain is not None and cell_class.next_strain < CLASS_TOLERANCE + STRAIN_MARGIN
    is_hidden = superlattice is not None and not is_visible(
        superlattice.contrast, LOW_DOSE_E_PER_A2, SMALL_FIELD_ANGSTROM**2
    )
    return is_near_its_limit or is_near_next or is_hidden


def published_lattice(raw_cell_angstrom: ArrayLike) -> str:
    """The published rule (AtomVision): a, b and γ of the delivered cell, each rounded to 0.01 (Å, degrees), compared.

    Before that the published workflow rounds, as JARVIS-Tools does, vectors to 1e-5 Å, lengths to 1e-6 Å and angles to
    1e-4°; a few labels on a rounding edge depend on it.

    Args:
        raw_cell_angstrom: (3, 3) vectors as rows, Å.
    """
    vectors = np.around(np.asarray(raw_cell_angstrom, np.float64).reshape(3, 3)[:2], 5)
    length_a, length_b = (round(float(length), 6) for length in np.sqrt((vectors**2).sum(axis=1)))
    cosine = float(np.clip(vectors[0] @ vectors[1] / (length_a * length_b), -1, 1))
    angle_deg = round(round(math.degrees(math.acos(cosine)), 4), 2)
    has_equal_lengths = round(length_a, 2) == round(length_b, 2)
    if angle_deg == 90:
        return "square" if has_equal_lengths else "rectangular"
    if not has_equal_lengths:
        return "oblique"
    return "hexagonal" if angle_deg in (60, 120) else "rhombic"
