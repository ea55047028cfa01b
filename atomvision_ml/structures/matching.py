"""Which slabs are the same crystal: ``structures/slabs`` to ``structures/materials``.

Belongs here: the comparison of two slabs, the grouping over all databases and the groups that no split may divide.

Two slabs of one composition and space group are the same crystal if a basis of one lattice can be strained slightly
onto the reduced basis of the other such that, up to an origin shift, a rotation or a mirror, every atom comes to lie
near one of its element. The comparator of ASE takes all three directions alike and wants the lattice constants of two
databases closer than their functionals are: its tolerances scale with the volume per atom, vacuum included.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.cluster.hierarchy import DisjointSet
from scipy.optimize import linear_sum_assignment

from atomvision_ml.structures.projection import primitive_slab

Row = dict[str, Any]


class MatchParameters(BaseModel):
    """How far two slabs may differ and still be one crystal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strain: float = Field(default=0.08, gt=0, lt=0.3, description="Largest in-plane principal strain (fraction).")
    displacement_angstrom: float = Field(
        default=0.4, gt=0, description="Largest displacement of an atom after strain, shift and mirror, Å."
    )
    folding_angstrom: float = Field(
        default=0.05, gt=0, description="Misfit of a translation that makes a supercell of a smaller cell, Å."
    )


@dataclass(frozen=True)
class Layer:
    """A slab in its primitive cell: cell (2, 2), fractional (n, 2), heights (n,) about their mean, numbers (n,)."""

    cell: NDArray[np.float64]
    fractional: NDArray[np.float64]
    heights: NDArray[np.float64]
    numbers: NDArray[np.int32]

    @cached_property
    def composition(self) -> Counter[int]:
        """Number of atoms of each element in the primitive cell."""
        return Counter(self.numbers.tolist())


def layer_of(row: Row, parameters: MatchParameters) -> Layer:
    """The layer of an accepted row of ``structures/slabs``."""
    slab = primitive_slab(
        row["numbers"],
        np.reshape(row["positions_angstrom"], (-1, 3)),
        np.reshape(row["cell_angstrom"], (3, 3)),
        parameters.folding_angstrom,
    )
    order = np.argsort(slab.numbers, kind="stable")
    cell = slab.cell_angstrom[:2, :2]
    positions, numbers = slab.positions_angstrom[order], slab.numbers[order]
    return Layer(cell, positions[:, :2] @ np.linalg.inv(cell), positions[:, 2] - positions[:, 2].mean(), numbers)


def largest_displacement(first: Layer, second: Layer, parameters: MatchParameters) -> float:
    """Largest displacement (Å) of an atom in the best overlay of two layers; infinity if none is within reach.

    Overlays are all bases of the second lattice within the strain, seen from above and from below; the origin is put
    on each atom of the rarest element in turn, then moved to the mean displacement.
    """
    if first.composition != second.composition:
        return float("inf")
    best = float("inf")
    for basis in _similar_bases(first.cell, second.cell, parameters.strain):
        fractional = second.fractional @ np.linalg.inv(basis)
        metric = _mean_cell(first.cell, basis @ second.cell)
        for side in (1.0, -1.0):
            best = min(best, _overlay(first, fractional, side * second.heights, metric, parameters))
            if best < _GOOD_ENOUGH * parameters.displacement_angstrom:
                return best
    return best


_GOOD_ENOUGH = 0.25
"""Share of the allowed displacement below which no better overlay is looked for."""

_STEPS = np.array([step for step in product(range(-2, 3), repeat=2) if step != (0, 0)])
"""Combinations of two reduced vectors that can be as long as one of the reduced vectors of a similar lattice."""


def _similar_bases(
    first: NDArray[np.float64], second: NDArray[np.float64], strain: float
) -> Iterator[NDArray[np.float64]]:
    """Integer bases M, of either handedness, for which the cell M·second is within the strain of the first cell."""
    vectors = _STEPS @ second
    lengths = np.hypot(vectors[:, 0], vectors[:, 1])
    choices = [_STEPS[np.abs(lengths / np.hypot(*vector) - 1) <= strain + 1e-9] for vector in first]
    for a, b in product(*choices):
        if abs(a[0] * b[1] - a[1] * b[0]) != 1:
            continue
        basis = np.array([a, b])
        stretches = np.linalg.svd(np.linalg.solve(first, basis @ second), compute_uv=False)
        if np.abs(stretches - 1).max() <= strain + 1e-9:
            yield basis


def _mean_cell(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """A cell with the mean metric of the two, in which displacements are measured."""
    return np.asarray(np.linalg.cholesky((first @ first.T + second @ second.T) / 2))


def _overlay(
    first: Layer,
    fractional: NDArray[np.float64],
    heights: NDArray[np.float64],
    metric: NDArray[np.float64],
    parameters: MatchParameters,
) -> float:
    """Least largest displacement (Å) over the origin shifts."""
    reach = 2 * parameters.displacement_angstrom
    is_other_element = first.numbers[:, None] != first.numbers
    rise = first.heights[:, None] - heights
    rare = np.flatnonzero(first.numbers == min(first.composition, key=lambda number: first.composition[number]))
    best = float("inf")
    for partner in rare:
        shift = first.fractional[rare[0]] - fractional[partner]
        miss = first.fractional[:, None] - fractional - shift
        miss -= np.round(miss)
        offsets = np.concatenate([miss @ metric, rise[:, :, None]], axis=2)
        distances = np.linalg.norm(offsets, axis=2)
        distances[is_other_element] = np.inf
        if distances.min(axis=1).max() > reach or distances.min(axis=0).max() > reach:
            continue
        source, target = linear_sum_assignment(np.where(distances <= reach, distances**2, 1e6))
        displacements = offsets[source, target]
        if distances[source, target].max() <= reach:
            displacements = displacements - displacements.mean(axis=0)
            best = min(best, float(np.linalg.norm(displacements, axis=1).max()))
    return best


def is_same_crystal(first: Row, second: Row, parameters: MatchParameters | None = None) -> bool:
    """Whether two accepted rows of ``structures/slabs`` hold the same crystal; the space groups are not compared."""
    limits = parameters or MatchParameters()
    found = largest_displacement(layer_of(first, limits), layer_of(second, limits), limits)
    return found <= limits.displacement_angstrom


def material_rows(slabs: pl.DataFrame, records: pl.DataFrame, parameters: MatchParameters | None = None) -> list[Row]:
    """Rows of ``structures/materials``: each distinct crystal once, over all databases, ordered by ``material_id``.

    Accepted slabs of one reduced formula and space group are taken in a fixed order (those claimed to exist first,
    smaller cells first, then by name). Each joins the first material whose representative it matches, or begins a
    new one, so that the result does not depend on the order of the rows.

    Args:
        slabs: rows of ``structures/slabs``, any number of sources.
        records: the rows of ``structures/records`` of the same sources; gives ``is_hypothetical`` and ``parent_id``.
        parameters: how far two slabs may differ.
    """
    limits = parameters or MatchParameters()
    is_hypothetical = dict(records.select("record_id", "is_hypothetical").iter_rows())
    accepted = slabs.filter(pl.col("status") == "accepted")
    split_groups = _split_groups(accepted, records)
    groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in accepted.iter_rows(named=True):
        row["is_hypothetical"] = bool(is_hypothetical.get(row["slab_id"], False))
        groups[row["reduced_formula"], row["space_group_number"]].append(row)
    materials = [
        _material(members, split_groups[formula])
        for (formula, _), group in groups.items()
        for members in _crystals(group, limits)
    ]
    return sorted(materials, key=lambda material: material["material_id"])


def _crystals(group: list[Row], limits: MatchParameters) -> list[list[Row]]:
    """Members of each distinct crystal, the representative first."""
    ordered = sorted(group, key=lambda row: (row["is_hypothetical"], row["n_atoms"], row["slab_id"]))
    if len(ordered) == 1:
        return [ordered]
    crystals: list[tuple[Layer, list[Row]]] = []
    for row in ordered:
        layer = layer_of(row, limits)
        for representative, members in crystals:
            if largest_displacement(representative, layer, limits) <= limits.displacement_angstrom:
                members.append(row)
                break
        else:
            crystals.append((layer, [row]))
    return [members for _, members in crystals]


def _material(members: list[Row], split_group: str) -> Row:
    """One row of ``structures/materials``."""
    representative = members[0]
    slab_ids = sorted(member["slab_id"] for member in members)
    return {
        "material_id": slab_ids[0],
        "reduced_formula": representative["reduced_formula"],
        "space_group_number": representative["space_group_number"],
        "representative_slab_id": representative["slab_id"],
        "slab_ids": slab_ids,
        "sources": sorted({member["source"] for member in members}),
        "n_slabs": len(members),
        "published_key": f"{representative['reduced_formula']}|{representative['space_group_number']}",
        "bravais_lattice": representative["bravais_lattice"],
        "is_ambiguous": representative["is_ambiguous"],
        "is_hypothetical": all(member["is_hypothetical"] for member in members),
        "split_group": split_group,
    }


def _split_groups(accepted: pl.DataFrame, records: pl.DataFrame) -> dict[str, str]:
    """Reduced formula to the smallest formula that equal compositions and parents link it to."""
    formulas = dict(accepted.select("slab_id", "reduced_formula").iter_rows())
    parents = records.filter(pl.col("parent_id").is_not_null()).select("record_id", "parent_id")
    links = [(("record", slab_id), ("formula", formula)) for slab_id, formula in formulas.items()]
    links += [(("record", child), ("record", parent)) for child, parent in parents.iter_rows()]
    nodes = DisjointSet({node for link in links for node in link})
    for one, other in links:
        nodes.merge(one, other)
    return {
        formula: min(name for kind, name in nodes.subset(("formula", formula)) if kind == "formula")
        for formula in set(formulas.values())
    }
