"""Micrographs beside simulated images of crystals that have their lattice: which crystals, and how alike they look.

Belongs here: the choice of crystals, from reference phases and from ``structures/slabs``. The comparison itself is in
:mod:`atomvision_ml.experiments.matching`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.experiments.analysis import Analysis
from atomvision_ml.experiments.matching import SimulatedMatch, matching_cells, simulate_match
from atomvision_ml.experiments.reference_phases import ReferencePhase
from atomvision_ml.experiments.zone_axes import projected_phase
from atomvision_ml.images.stem import Projection

SLAB_COLUMNS = (
    "slab_id",
    "source",
    "reduced_formula",
    "numbers",
    "positions_angstrom",
    "cell_angstrom",
    "primitive_cell_angstrom",
)

_MOST_AXES, _MOST_SLABS = 2, 6

_SQUARE = 1e-3
"""Pixels whose edges differ relatively by less are square."""


@dataclass(frozen=True)
class MaterialMatch:
    """A crystal with the lattice of the micrograph.

    Attributes:
        name: identifier, or a phase with its axis.
        formula: chemical formula.
        source: where the crystal comes from.
        scale: picture over crystal.
        anisotropy: of what takes one to the other.
        simulated: comparison with the pixels; None if the lattices cannot be laid on one another.
    """

    name: str
    formula: str
    source: str
    scale: float
    anisotropy: float
    simulated: SimulatedMatch | None

    @property
    def similarity(self) -> float:
        """Of the pixels; −1 where there is no simulation."""
        return -1.0 if self.simulated is None else self.simulated.similarity


def matching_materials(
    image: ArrayLike,
    found: Analysis,
    phases: Iterable[ReferencePhase],
    slabs: pl.LazyFrame | None = None,
    formula: str | None = None,
) -> list[MaterialMatch]:
    """Crystals whose lattice is that of a micrograph, the most alike first.

    Args:
        image: [y, x], as analysed.
        found: its analysis; without lattice or calibration there are no matches.
        phases: those asked for; their axes of the measured lattice are drawn.
        slabs: rows of ``structures/slabs``; those of the measured cell are drawn.
        formula: chemical formula that slabs must have, in any order; None for any.
    """
    if found.lattice is None or found.pixel_size_xy_angstrom is None:
        return []
    by_name = {phase.name: phase for phase in phases}
    axes = [axis for axis in found.zone_axes if axis.phase in by_name][:_MOST_AXES]
    matches = [
        MaterialMatch(
            axis.name,
            axis.phase,
            "reference phases",
            axis.distortion.scale,
            axis.distortion.anisotropy,
            _simulated(image, found, projected_phase(by_name[axis.phase], axis.uvw)),
        )
        for axis in axes
    ]
    if slabs is not None:
        cells = slabs.filter(pl.col("primitive_cell_angstrom").is_not_null()).select(*SLAB_COLUMNS)
        cells = cells if formula is None else cells.filter(pl.col("reduced_formula") == _reduced(formula))
        rows = cells.collect().iter_rows(named=True)
        matches += [
            MaterialMatch(
                each.row["slab_id"],
                each.row["reduced_formula"],
                each.row["source"],
                each.scale,
                each.anisotropy,
                _simulated(image, found, projected_slab(each.row)),
            )
            for each in matching_cells(found.lattice.cell, rows, most=_MOST_SLABS)
        ]
    return sorted(matches, key=lambda match: -match.similarity)


def _reduced(formula: str) -> str:
    """A formula as ``structures/slabs`` has it; empty for one with fractions, which no slab has."""
    from ase.data import atomic_numbers
    from ase.formula import Formula

    from atomvision_ml.structures.record import reduced_formula

    try:
        counts = Formula(formula).count()
    except ValueError:
        return ""
    return reduced_formula([atomic_numbers[name] for name, count in counts.items() for _ in range(count)])


def projected_slab(row: Mapping[str, Any]) -> Projection:
    """A slab seen along z in the primitive cell of its projection, weights Z^1.7."""
    from atomvision_ml.images.stem import project
    from atomvision_ml.structures.projection import primitive_projection

    positions, cell = np.reshape(row["positions_angstrom"], (-1, 3)), np.reshape(row["cell_angstrom"], (3, 3))
    primitive = primitive_projection(row["numbers"], positions[:, :2], cell[:2, :2])
    return project(primitive.numbers, primitive.positions_angstrom, primitive.cell_angstrom)


def _simulated(image: ArrayLike, found: Analysis, crystal: Projection) -> SimulatedMatch | None:
    assert found.lattice is not None
    assert found.pixel_size_xy_angstrom is not None
    x, y = found.pixel_size_xy_angstrom
    width = 0.5 if found.columns is None else found.columns.sigma * x
    return simulate_match(_on_squares(image, y / x), x, found.lattice.cell, crystal, sigma=width, is_dark=found.is_dark)


def _on_squares(image: ArrayLike, stretch: float) -> NDArray[np.float64]:
    """The image on square pixels, whose edge is that along x; rows are interpolated linearly."""
    from scipy.ndimage import zoom

    pixels = np.asarray(image, np.float64)
    return pixels if abs(stretch - 1) < _SQUARE else np.asarray(zoom(pixels, (stretch, 1.0), order=1), np.float64)
