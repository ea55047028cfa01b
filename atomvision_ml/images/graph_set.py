"""A published set of atom graphs: flat arrays in a Zarr v3 group, one row per image, and what must be true of them.

Belongs here: writing a set from a STEM set, resumably and shard by shard, reading it, and its audits. The group holds
the fields of :class:`AtomGraphs` as arrays of that name; attributes: ``image_ids`` and the parameters. No graph library
is needed to read it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from atomvision_ml.images.atom_graphs import AtomGraphs, GraphParameters, build_graphs
from atomvision_ml.images.audits import AuditResult
from atomvision_ml.images.columns import nearest_columns_angstrom
from atomvision_ml.images.stem import torch_pool
from atomvision_ml.images.stem_set import StemSet
from atomvision_ml.storage.files import replacing

if TYPE_CHECKING:
    import zarr

CODE_VERSION = "1"
"""Changes whenever the same images and parameters would give other graphs."""

SHARD_IMAGES = 64

Progress = Callable[[int, "int | None"], None]

_FORMAT = "atomvision/atom_graphs"
_CHUNK = 1 << 20
_MATCH_ANGSTROM, _BORDER_ANGSTROM, _LEAST_INTENSITY = 0.5, 1.0, 0.05
_LEAST_RECALL = 0.8


def write_graph_set(
    images: StemSet,
    folder: Path,
    parameters: GraphParameters | None = None,
    *,
    identity: str = "",
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Graphs of all noiseless images of a set.

    Finished shards lie in ``<folder>.unfinished``; a later call with the same identity and parameters keeps them.
    ``folder`` appears, complete, at the end.

    Args:
        images: the STEM set.
        folder: the Zarr group to make.
        parameters: how graphs are made.
        identity: names the images, e.g. the blob.
        progress: called with (images done, images in all).

    Returns:
        One row per image in the order of the set: the columns of ``images/atom_graphs`` without ``blob``, ``source``
        and ``slab_id``.
    """
    chosen = parameters or GraphParameters()
    work = folder.with_name(folder.name + ".unfinished")
    _begin(work, _identity(identity, images, chosen))
    shards = [range(start, min(start + SHARD_IMAGES, len(images))) for start in range(0, len(images), SHARD_IMAGES)]
    rows: list[dict[str, Any]] = []
    with torch_pool() as pool:
        tasks = [pool.submit(_make_shard, work, images, shard, chosen) for shard in shards]
        try:
            for task in tasks:
                rows += task.result()
                if progress is not None:
                    progress(len(rows), len(images))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    shutil.rmtree(work / "zarr", ignore_errors=True)
    _write_group(work, shards, images, chosen)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(work / "zarr", folder)
    shutil.rmtree(work)
    return rows


class GraphSet:
    """Access to a written set; its arrays are read when first asked for."""

    def __init__(self, group: zarr.Group) -> None:
        self._group = group

    @classmethod
    def open(cls, folder: str | Path) -> GraphSet:
        """Open a group; raises ValueError if the folder is no such group."""
        import zarr
        from zarr.errors import NodeNotFoundError

        try:
            group = zarr.open_group(str(folder), mode="r")
        except (NodeNotFoundError, FileNotFoundError, ValueError) as error:
            raise ValueError(f"{folder}: no Zarr group") from error
        if group.attrs.get("format") != _FORMAT:
            raise ValueError(f"{folder}: not a set of atom graphs (attribute format is not {_FORMAT})")
        return cls(group)

    @cached_property
    def image_ids(self) -> tuple[str, ...]:
        """Identifiers in the order of the graphs."""
        return tuple(cast("list[str]", self._group.attrs["image_ids"]))

    @cached_property
    def parameters(self) -> GraphParameters:
        """What the set was made with."""
        return GraphParameters.model_validate(self._group.attrs["parameters"])

    @cached_property
    def graphs(self) -> AtomGraphs:
        """All graphs."""
        arrays = {field.name: np.asarray(cast("zarr.Array", self._group[field.name])[:]) for field in _FIELDS}
        return AtomGraphs(**arrays)

    def __len__(self) -> int:
        return len(self.image_ids)


def audit_graph_set(
    graphs: AtomGraphs, rows: Sequence[dict[str, Any]], fields_angstrom: Sequence[float], parameters: GraphParameters
) -> list[AuditResult]:
    """What must hold of a set.

    Args:
        graphs: as stored.
        rows: of ``images/atom_graphs``, in the order of the graphs.
        fields_angstrom: edge of each image's field.
        parameters: the set was made with.
    """
    found = [
        _counts(graphs, rows),
        _symmetric(graphs),
        _short(graphs, parameters),
        _complete(graphs, parameters),
        _inside(graphs, fields_angstrom, parameters),
        _ordered(graphs),
    ]
    recall = np.array([row["column_recall"] for row in rows if row["column_recall"] is not None])
    is_seen = len(recall) == 0 or float(np.mean(recall)) >= _LEAST_RECALL
    said = f"{float(np.mean(recall)) if len(recall) else 1:.3f} of the columns are found, averaged over images"
    return [*found, AuditResult("atoms_agree_with_columns", bool(is_seen), said)]


_FIELDS = fields(AtomGraphs)


def _identity(identity: str, images: StemSet, parameters: GraphParameters) -> str:
    text = json.dumps([CODE_VERSION, SHARD_IMAGES, identity, images.image_ids, parameters.model_dump()])
    return hashlib.sha256(text.encode()).hexdigest()


def _begin(work: Path, identity: str) -> None:
    manifest = work / "manifest.json"
    if manifest.is_file() and json.loads(manifest.read_text()) == {"identity": identity}:
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    manifest.write_text(json.dumps({"identity": identity}))


def _make_shard(work: Path, images: StemSet, shard: range, parameters: GraphParameters) -> list[dict[str, Any]]:
    """The rows of one shard; its arrays are put beside as one file, unless they lie there already."""
    path = work / f"{shard.start:08d}.npz"
    if path.is_file():
        with np.load(path) as stored:
            graphs = AtomGraphs(**{field.name: stored[field.name] for field in _FIELDS})
    else:
        graphs = _graphs_of(images, shard, parameters)
        with replacing(path) as aside, aside.open("wb") as file:
            np.savez(file, **{field.name: getattr(graphs, field.name) for field in _FIELDS})
    return [_row(images, index, graphs[n]) for n, index in enumerate(shard)]


def _graphs_of(images: StemSet, shard: range, parameters: GraphParameters) -> AtomGraphs:
    """Graphs of consecutive images; those of one pixel size are made together."""
    sizes = images.poses[shard.start : shard.stop, 0]
    pixels = images.batch(shard)
    graphs: dict[int, AtomGraphs] = {}
    for size in np.unique(sizes):
        chosen = np.flatnonzero(sizes == size)
        found = build_graphs(pixels[chosen], float(size), parameters)
        graphs |= {int(n): found[k] for k, n in enumerate(chosen)}
    return AtomGraphs.join([graphs[n] for n in range(len(shard))])


def _row(images: StemSet, index: int, graph: AtomGraphs) -> dict[str, Any]:
    recall, precision = _agreement(images, index, graph)
    return {
        "image_id": images.image_ids[index],
        "index": index,
        "n_atoms": len(graph.positions_angstrom),
        "n_inside": int(graph.is_inside.sum()),
        "n_bonds": len(graph.bonds),
        "n_repeats": len(graph.repeats),
        "nearest_columns_angstrom": nearest_columns_angstrom(images.projection(index)),
        "column_recall": recall,
        "atom_precision": precision,
    }


def _agreement(images: StemSet, index: int, graph: AtomGraphs) -> tuple[float | None, float | None]:
    """Share of the columns (≥ 5 % of the brightest) with an atom, and of the atoms with a column, within 0.5 Å.

    Columns and atoms nearer than 1 Å to the border do not count; None where there are none.
    """
    from scipy.spatial import cKDTree

    columns = images.columns(index)
    high = images.view(index).field_angstrom - images.view(index).pixel_size_angstrom - _BORDER_ANGSTROM
    truth, atoms = columns.positions_angstrom, graph.positions_angstrom.astype(float)
    inner = [((xy >= _BORDER_ANGSTROM) & (xy <= high)).all(axis=1) for xy in (truth, atoms)]
    wanted = truth[inner[0] & (columns.relative_intensities >= _LEAST_INTENSITY)]
    counted = atoms[inner[1]]
    recall = float((cKDTree(atoms).query(wanted)[0] <= _MATCH_ANGSTROM).mean()) if len(wanted) and len(atoms) else None
    precision = float((cKDTree(truth).query(counted)[0] <= _MATCH_ANGSTROM).mean()) if len(counted) else None
    return (0.0 if recall is None and len(wanted) else recall), precision


def _write_group(work: Path, shards: Sequence[range], images: StemSet, parameters: GraphParameters) -> None:
    """The shards' arrays one after the other, one field at a time: memory holds one shard."""
    import zarr
    from zarr.codecs import BloscCodec

    attributes = {
        "format": _FORMAT,
        "code_version": CODE_VERSION,
        "parameters": parameters.model_dump(mode="json"),
        "image_ids": list(images.image_ids),
        "units": {"positions_angstrom": "angstrom"},
    }
    group = zarr.create_group(work / "zarr", zarr_format=3, attributes=attributes)
    for field in _FIELDS:
        like = build_graphs(np.zeros((1, 8, 8)), 1.0, parameters)
        shape = getattr(like, field.name).shape[1:]
        is_offsets = field.name.endswith("_offsets")
        parts = list(_stored(work, shards, field.name))
        total = sum(len(part) - is_offsets for part in parts) + is_offsets
        array = group.create_array(
            field.name,
            shape=(total, *shape),
            dtype=getattr(like, field.name).dtype,
            chunks=(max(1, min(total, _CHUNK)), *shape),
            compressors=BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"),
        )
        array[:] = _joined_offsets(parts) if is_offsets else np.concatenate([getattr(like, field.name)[:0], *parts])


def _joined_offsets(parts: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    counts = np.concatenate([np.zeros(0, np.int64), *(np.diff(part) for part in parts)])
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _stored(work: Path, shards: Sequence[range], name: str) -> Iterator[NDArray[Any]]:
    for shard in shards:
        with np.load(work / f"{shard.start:08d}.npz") as stored:
            yield stored[name]


def _counts(graphs: AtomGraphs, rows: Sequence[dict[str, Any]]) -> AuditResult:
    atoms = np.diff(graphs.atom_offsets)
    total = np.concatenate([[0], np.cumsum(graphs.is_inside)])[np.minimum(graphs.atom_offsets, len(graphs.is_inside))]
    told = {
        "n_atoms": atoms,
        "n_inside": np.diff(total),
        "n_bonds": np.diff(graphs.bond_offsets),
        "n_repeats": np.diff(graphs.repeat_offsets),
    }
    ends = {
        "positions_angstrom": graphs.atom_offsets,
        "intensities": graphs.atom_offsets,
        "is_inside": graphs.atom_offsets,
        "bonds": graphs.bond_offsets,
        "repeats": graphs.repeat_offsets,
        "differences": graphs.repeat_offsets,
    }
    wrong = [name for name, counts in told.items() if [row[name] for row in rows] != list(counts)]
    wrong += [name for name, offsets in ends.items() if len(getattr(graphs, name)) != offsets[-1]]
    return AuditResult("counts_agree", not wrong, f"do not agree: {', '.join(wrong) or 'none'}")


def _absolute(graphs: AtomGraphs) -> NDArray[np.int64]:
    """Bonds (b, 2) counted from the first atom of the set."""
    start = np.repeat(graphs.atom_offsets[:-1], np.diff(graphs.bond_offsets))
    return graphs.bonds + start[:, None]


def _symmetric(graphs: AtomGraphs) -> AuditResult:
    bonds, many = _absolute(graphs), len(graphs.positions_angstrom)
    there, back = np.sort(bonds[:, 0] * many + bonds[:, 1]), np.sort(bonds[:, 1] * many + bonds[:, 0])
    twice = int((np.diff(there) == 0).sum())
    lonely = twice + (0 if np.array_equal(there, back) else len(np.setdiff1d(there, back)))
    return AuditResult("bonds_are_symmetric", lonely == 0, f"{lonely} bonds without their reverse, or twice")


def _short(graphs: AtomGraphs, parameters: GraphParameters) -> AuditResult:
    steps = graphs.steps_angstrom()
    longest = float(np.linalg.norm(steps, axis=1).max(initial=0.0))
    is_short = longest <= parameters.cutoff_angstrom + 1e-4
    return AuditResult("bonds_are_short", is_short, f"the longest bond has {longest:.4f} Å")


def _complete(graphs: AtomGraphs, parameters: GraphParameters, n_images: int = 20) -> AuditResult:
    """All pairs of some images, compared one by one."""
    missing = 0
    for index in np.unique(np.linspace(0, len(graphs) - 1, n_images).astype(int)) if len(graphs) else ():
        graph = graphs[int(index)]
        where = graph.positions_angstrom.astype(float)
        apart = np.linalg.norm(where[:, None] - where[None], axis=2)
        near = int((apart < parameters.cutoff_angstrom - 1e-4).sum()) - len(where)
        far = int((apart < parameters.cutoff_angstrom + 1e-4).sum()) - len(where)
        missing += not near <= len(graph.bonds) <= far
    return AuditResult("bonds_are_complete", missing == 0, f"{missing} images with a pair too few or too many")


def _inside(graphs: AtomGraphs, fields_angstrom: Sequence[float], parameters: GraphParameters) -> AuditResult:
    edge = np.repeat(np.asarray(fields_angstrom, float), np.diff(graphs.atom_offsets))[:, None]
    where = graphs.positions_angstrom
    outside = int(((where < -1) | (where > edge + 1)).any(axis=1).sum())
    margin = parameters.cutoff_angstrom - 1e-3
    cut = int((graphs.is_inside & ((where < margin) | (where > edge - margin)).any(axis=1)).sum())
    return AuditResult(
        "masked_atoms_are_at_the_edge", outside + cut == 0, f"{outside} atoms outside the field, {cut} not masked"
    )


def _ordered(graphs: AtomGraphs) -> AuditResult:
    high, low, mean = graphs.intensities.T
    wrong = int((~((low <= mean + 1e-5) & (mean <= high + 1e-5))).sum())
    return AuditResult("intensities_are_ordered", wrong == 0, f"{wrong} atoms without minimum ≤ mean ≤ maximum")
