"""What must be true of image sets beyond their contract: the physics audits, run before anything is published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomvision_assets.store import Audit

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

STEM = {
    "rows_match_the_arrays": "Rows and arrays tell of the same images, in the same pose.",
    "images_agree_with_direct_sum": "Pixels agree with a direct float64 sum over the atoms.",
    "coincident_atoms_add": "Atoms on one projected site add up; none is lost.",
    "intensity_sum_is_conserved": "The intensity over a primitive cell is the sum of Z^p of its atoms.",
    "images_have_the_plane_group_symmetry": "Images have the symmetry of the projected structure.",
    "masks_match_columns": "Masks are the disks around the columns of the rows.",
    "atoms_match_the_slab": "The atoms of the rows are those of the slab in its pose.",
}

ATOM_GRAPHS = {
    "counts_agree": "Rows and arrays tell of the same numbers of atoms, bonds and repeats.",
    "bonds_are_symmetric": "Every bond has its reverse, once.",
    "bonds_are_short": "No bond is longer than the cutoff.",
    "bonds_are_complete": "Every pair of atoms within the cutoff is a bond (on some images, pair by pair).",
    "masked_atoms_are_at_the_edge": "Atoms lie in the field, and those whose surroundings are cut are masked.",
    "intensities_are_ordered": "Minimum, mean and maximum of every blob are in this order.",
    "atoms_agree_with_columns": "Most columns of the structures are found.",
}

PREVIEW_IMAGES = 30


def audit_stem(folder: Path, rows: pa.Table, slabs: pl.DataFrame) -> list[Audit]:
    """The library's audits of a set on scratch. What the images do not allow to judge is said and does not fail."""
    from atomvision_ml.images.audits import audit_stem_set

    found = {result.name: result for result in audit_stem_set(folder, rows, slabs)}
    audits = [
        Audit(result.name, result.passed is not False, {"finding": result.description, **result.details})
        for result in found.values()
    ]
    if all(audit.passed for audit in audits):
        not_judged = [name for name in STEM if name not in found]
        audits += [Audit(name, True, {"finding": "there is no image to judge"}) for name in not_judged]
    return audits


def audit_graphs(folder: Path, rows: list[dict[str, Any]], fields_angstrom: Sequence[float]) -> list[Audit]:
    """The library's audits of a set of graphs on scratch."""
    from atomvision_ml.images.graph_set import GraphSet, audit_graph_set

    stored = GraphSet.open(folder)
    found = audit_graph_set(stored.graphs, rows, fields_angstrom, stored.parameters)
    return [Audit(result.name, bool(result.passed), {"finding": result.description}) for result in found]


def contact_sheet(folder: Path) -> bytes | None:
    """PNG of images spread evenly over a set; None if it is empty."""
    import numpy as np

    from atomvision_ml.evaluation.gallery.pictures import preview_grid
    from atomvision_ml.images.stem_set import StemSet

    images = StemSet.open(folder)
    if not len(images):
        return None
    indices = np.unique(np.linspace(0, len(images) - 1, PREVIEW_IMAGES).astype(int))
    return preview_grid([images.image(int(index)) for index in indices])
