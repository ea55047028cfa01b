"""What a network sees of an atom graph: patches of its bonds and of its repeats, joined to batches.

Belongs here: the choice of nodes and edges, in numpy. In training a random patch is enough, because a crystal is the
same everywhere; in use a larger one is taken from the middle of the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atomvision_ml.images.atom_graphs import AtomGraphs

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """A small graph.

    Attributes:
        features: (n, 3) float32 of the nodes.
        source, target: (e,) int64.
        steps_angstrom: (e, 2) float32 from source to target.
        differences: (e,) float32; zero for bonds.
        is_pooled: (n,) bool, whether the node's surroundings are whole.
    """

    features: Floats
    source: Integers
    target: Integers
    steps_angstrom: Floats
    differences: Floats
    is_pooled: NDArray[np.bool_]

    @staticmethod
    def join(parts: Sequence[Part]) -> tuple[Part, Integers]:
        """All parts as one, and for each node the number of its part."""
        counts = [len(part.features) for part in parts]
        start = np.concatenate([[0], np.cumsum(counts)])
        joined = Part(
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.source + at for part, at in zip(parts, start, strict=False)]),
            np.concatenate([part.target + at for part, at in zip(parts, start, strict=False)]),
            np.concatenate([part.steps_angstrom for part in parts]),
            np.concatenate([part.differences for part in parts]),
            np.concatenate([part.is_pooled for part in parts]),
        )
        return joined, np.repeat(np.arange(len(parts)), counts)


def bond_part(graph: AtomGraphs, n_atoms: int, random: np.random.Generator | None = None) -> Part:
    """The bonds between the ``n_atoms`` atoms nearest to an atom, all of whose own bonds are kept that are pooled.

    Args:
        graph: of one image.
        n_atoms: most atoms.
        random: which atom; None: the one in the middle of the field.
    """
    kept = _nearest(graph, graph.is_inside, n_atoms, random)
    edges, chosen = _induced(graph.bonds, kept, len(graph.positions_angstrom))
    all_bonds = np.bincount(graph.bonds[:, 0], minlength=len(graph.positions_angstrom))[kept]
    is_whole = np.bincount(edges[:, 0], minlength=len(kept)) == all_bonds
    steps = graph.positions_angstrom[graph.bonds[chosen, 1]] - graph.positions_angstrom[graph.bonds[chosen, 0]]
    return Part(
        graph.intensities[kept],
        edges[:, 0],
        edges[:, 1],
        steps,
        np.zeros(len(edges), np.float32),
        graph.is_inside[kept] & is_whole,
    )


def repeat_part(graph: AtomGraphs, n_atoms: int, random: np.random.Generator | None = None) -> Part:
    """The repeats from and to ``n_atoms`` atoms.

    Args:
        graph: of one image.
        n_atoms: most atoms whose repeats are all kept.
        random: which atoms; None: those nearest to the middle of the field.
    """
    total = len(graph.positions_angstrom)
    has_any = np.bincount(graph.repeats[:, 0], minlength=total) > 0
    if random is None:
        seeds = _nearest(graph, has_any, n_atoms, None) if has_any.any() else np.zeros(0, np.int64)
        seeds = seeds[has_any[seeds]]
    else:
        able = np.flatnonzero(has_any)
        seeds = random.choice(able, min(n_atoms, len(able)), replace=False) if len(able) else able
    is_seed = np.zeros(total, bool)
    is_seed[seeds] = True
    kept = np.union1d(seeds, graph.repeats[is_seed[graph.repeats[:, 0]], 1]).astype(np.int64)
    edges, chosen = _induced(graph.repeats, kept, total)
    at_seed = is_seed[graph.repeats[chosen]].any(axis=1)
    edges, chosen = edges[at_seed], chosen[at_seed]
    steps = graph.positions_angstrom[graph.repeats[chosen, 1]] - graph.positions_angstrom[graph.repeats[chosen, 0]]
    return Part(graph.intensities[kept], edges[:, 0], edges[:, 1], steps, graph.differences[chosen], is_seed[kept])


def _nearest(graph: AtomGraphs, able: NDArray[np.bool_], n_atoms: int, random: np.random.Generator | None) -> Integers:
    """The atoms nearest to one of those that are able, or to the middle of the field."""
    where = graph.positions_angstrom
    if len(where) <= n_atoms:
        return np.arange(len(where))
    if random is not None and able.any():
        centre = where[random.choice(np.flatnonzero(able))]
    else:
        centre = (where.min(axis=0) + where.max(axis=0)) / 2
    away = ((where - centre) ** 2).sum(axis=1)
    return np.sort(np.argpartition(away, n_atoms - 1)[:n_atoms])


def _induced(edges: NDArray[np.int32], kept: Integers, total: int) -> tuple[Integers, Integers]:
    """The edges between kept nodes, renumbered, and which they are."""
    number = np.full(total, -1, np.int64)
    number[kept] = np.arange(len(kept))
    renumbered = number[edges]
    chosen = np.flatnonzero((renumbered >= 0).all(axis=1))
    return renumbered[chosen], chosen
