"""A published set of STEM images: a sharded Zarr v3 group with images and masks, and the rows that describe them.

Belongs here: writing a set, resumably, and reading it. The group has

* ``images`` float32 and ``masks`` bool, each (n, y, x), one chunk an image, 64 images a shard;
* ``pixel_size_angstrom`` (n,), ``rotation_deg`` (n,), ``shift_angstrom`` (n, 2): the pose of each image;
* ``periods_angstrom`` (n, 2, 2) and, for image i, atoms ``atom_offsets[i]`` to ``atom_offsets[i + 1]`` of
  ``atom_numbers`` (k,) and ``atom_positions_angstrom`` (k, 2): the projected cell, so that every image can be checked,
  or drawn anew in another pose, from the set alone;
* attributes: ``image_ids`` in the order of the arrays, conventions, units and parameters.

Floats of a smooth image are nearly incompressible: measured on 64 images, LZ4 with byte shuffle saves 14 % at the
writing speed of no compression; Zstandard saves 20 % in a third more time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from atomvision_ml.images.columns import Columns, atoms_in_view, column_mask, columns_in_view, columns_of, field_corners
from atomvision_ml.images.stem import Projection, StemParameters, View, project, render_batch, torch_pool, torch_threads
from atomvision_ml.schemas.tables.images import ATOM, COLUMN, STEM
from atomvision_ml.storage.blobs import file_sha256
from atomvision_ml.storage.files import replacing, write_whole

if TYPE_CHECKING:
    import zarr

CODE_VERSION = "2"
"""Changes whenever the same slabs and parameters would give other pixels or rows."""

SHARD_IMAGES = 64

Progress = Callable[[int, int | None], None]

_INPUTS = ("slab_id", "numbers", "positions_angstrom", "cell_angstrom", "primitive_cell_angstrom")
_LABELS = (
    "bravais_lattice",
    "class_strain_percent",
    "next_class_strain_percent",
    "superlattice_contrast",
    "is_ambiguous",
)
_CONVENTIONS = {
    "format": "atomvision/stem",
    "axes": ["image", "y", "x"],
    "origin": "centre of pixel [0, 0]; x along columns, y along rows",
    "pose": "positions are rotated counter-clockwise in (x, y) about the origin, then shifted",
    "intensity": "sum of Z^p times a normalised 2D Gaussian, in 1/angstrom^2",
    "mask": "pixel centre within mask_radius_angstrom of a column",
}


@dataclass(frozen=True)
class Subject:
    """One image to make: a slab and how it lies under the field."""

    image_id: str
    slab: dict[str, Any]
    projection: Projection
    view: View

    @property
    def lattice_vectors_angstrom(self) -> np.ndarray:
        """Primitive vectors of the projection as imaged, rows (2, 2) in Å."""
        return np.reshape(self.slab["primitive_cell_angstrom"], (2, 2)) @ self.view.rotation.T


def subjects(slabs: pl.DataFrame, parameters: StemParameters) -> list[Subject]:
    """Every image of a set, in the order of the arrays: accepted slabs by id, then image number.

    The pose is random but depends on nothing else than the seed and the image's id, so that neither other slabs nor
    their order change it.

    Raises:
        ValueError: a slab cannot be projected; the message names it.
    """
    accepted = slabs.filter(pl.col("status") == "accepted").select(*_INPUTS, *_LABELS).sort("slab_id")
    return [
        _subject(slab, number, parameters)
        for slab in accepted.iter_rows(named=True)
        for number in range(parameters.images_per_slab)
    ]


def _subject(slab: dict[str, Any], number: int, parameters: StemParameters) -> Subject:
    try:
        projection = project(
            np.asarray(slab["numbers"]),
            np.reshape(slab["positions_angstrom"], (-1, 3)),
            np.reshape(slab["cell_angstrom"], (3, 3)),
            z_exponent=parameters.z_exponent,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"slab {slab['slab_id']}: {error}") from error
    image_id = f"{slab['slab_id']}#{number}"
    longer = np.linalg.norm(np.reshape(slab["primitive_cell_angstrom"], (2, 2)), axis=1).max()
    pixel_size = parameters.pixel_size_angstrom(float(longer))
    return Subject(image_id, slab, projection, _pose(image_id, projection, pixel_size, parameters))


def _pose(image_id: str, projection: Projection, pixel_size: float, parameters: StemParameters) -> View:
    if not parameters.is_randomly_posed:
        return View(pixel_size, parameters.size_px)
    digest = hashlib.sha256(f"{parameters.seed}:{image_id}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(digest[:16], "little"))
    rotation = float(random.uniform(0, 360))
    view = View(pixel_size, parameters.size_px, rotation)
    x, y = random.uniform(0, 1, 2) @ projection.periods_angstrom @ view.rotation.T
    return View(pixel_size, parameters.size_px, rotation, (float(x), float(y)))


def write_stem_set(
    slabs: pl.DataFrame,
    folder: Path,
    parameters: StemParameters,
    *,
    source: str,
    progress: Progress | None = None,
) -> pa.Table:
    """Render every accepted slab into a Zarr group.

    Finished shards are kept beside ``folder``, in ``<folder>.unfinished``, with their rows and hashes; a later call
    with the same slabs, parameters and code verifies and keeps them. ``folder`` appears, complete, at the end.

    Args:
        slabs: rows of ``structures/slabs``; only accepted ones are imaged.
        folder: the group to make; its parent is made if missing.
        parameters: what to render.
        source: structure database, for the rows.
        progress: called with (images done, images in all).

    Returns:
        Rows of ``images/stem`` without ``blob`` (see :func:`with_blob`), ordered by ``index``.

    Raises:
        ValueError: an accepted slab cannot be projected.
    """
    todo = subjects(slabs, parameters)
    shards = [range(start, min(start + SHARD_IMAGES, len(todo))) for start in range(0, len(todo), SHARD_IMAGES)]
    work = _Work(Path(folder))
    work.begin(_identity(slabs, parameters, source))
    missing = work.keep_verified(shards)
    group = _create_group(work.zarr, todo, parameters, source)
    done = len(todo) - sum(len(shard) for shard in missing)
    with torch_threads(1), torch_pool() as pool:
        tasks = {pool.submit(_make_shard, work, group, shard, todo, parameters, source): shard for shard in missing}
        try:
            for task in as_completed(tasks):
                task.result()
                done += len(tasks[task])
                if progress is not None:
                    progress(done, len(todo))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return work.finish(shards)


def with_blob(rows: pa.Table, blob: str) -> pa.Table:
    """The rows with the name of the blob that holds their pixels: the table ``images/stem``."""
    column = pa.array([blob]).take(pa.array(np.zeros(len(rows), np.int64)))
    return rows.append_column("blob", column).select([column.name for column in STEM.columns])


def _identity(slabs: pl.DataFrame, parameters: StemParameters, source: str) -> str:
    """Hash of all that decides the pixels and rows."""
    digest = hashlib.sha256(json.dumps([CODE_VERSION, SHARD_IMAGES, source, parameters.model_dump()]).encode())
    for slab in slabs.filter(pl.col("status") == "accepted").select(*_INPUTS, *_LABELS).sort("slab_id").iter_rows():
        digest.update(json.dumps(slab).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Work:
    """Work on a set beside its target folder: a growing group, rows and hashes of each finished shard, a manifest."""

    target: Path

    @property
    def folder(self) -> Path:
        """Where all unfinished work lies."""
        return self.target.with_name(self.target.name + ".unfinished")

    @property
    def zarr(self) -> Path:
        """The growing group."""
        return self.folder / "zarr"

    def begin(self, identity: str) -> None:
        """Take up unfinished or finished work of this identity, or start anew."""
        manifest = self.folder / "manifest.json"
        if not manifest.is_file() or json.loads(manifest.read_text()) != {"identity": identity}:
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.rmtree(self.target, ignore_errors=True)
            (self.folder / "shards").mkdir(parents=True)
            write_whole(manifest, json.dumps({"identity": identity}).encode())
        if self.target.is_dir():
            shutil.rmtree(self.zarr, ignore_errors=True)
            os.rename(self.target, self.zarr)

    def keep_verified(self, shards: Sequence[range]) -> list[range]:
        """Delete all but the files of shards whose hashes still hold; the shards that remain to be made."""
        missing = [shard for shard in shards if not self._is_done(shard)]
        kept = {path for shard in shards if shard not in missing for path in self._files(shard)}
        for path in [*self.zarr.rglob("*"), *(self.folder / "shards").glob("*.part")]:
            if path.is_file() and path not in kept:
                path.unlink()
        return missing

    def _is_done(self, shard: range) -> bool:
        note = self._note(shard)
        return note.is_file() and json.loads(note.read_text()) == self._hashes(shard)

    def _note(self, shard: range) -> Path:
        return self.folder / "shards" / f"{shard.start:08d}.json"

    def _rows(self, shard: range) -> Path:
        return self.folder / "shards" / f"{shard.start:08d}.parquet"

    def _files(self, shard: range) -> list[Path]:
        number = shard.start // SHARD_IMAGES
        return [self.zarr / name / "c" / str(number) / "0" / "0" for name in ("images", "masks")] + [self._rows(shard)]

    def _hashes(self, shard: range) -> list[str | None]:
        """SHA-256 of each file; None where there is none (a shard of empty images has no file)."""
        return [file_sha256(path) if path.is_file() else None for path in self._files(shard)]

    def note_done(self, shard: range, rows: pa.Table) -> None:
        """The pixels of the shard are written: add its rows, then, as the last act, the hashes."""
        with replacing(self._rows(shard)) as aside:
            pq.write_table(rows, aside, compression="zstd")
        write_whole(self._note(shard), json.dumps(self._hashes(shard)).encode())

    def finish(self, shards: Sequence[range]) -> pa.Table:
        """All shards are done: the group moves to its place; returns all rows."""
        os.rename(self.zarr, self.target)
        rows = [pq.read_table(self._rows(shard)) for shard in shards]
        return pa.concat_tables(rows).combine_chunks() if rows else _ROW_SCHEMA.empty_table()


def _create_group(folder: Path, todo: Sequence[Subject], parameters: StemParameters, source: str) -> zarr.Group:
    """The group with its metadata and poses; shards that are there already stay."""
    import zarr
    from zarr.codecs import BloscCodec

    attributes = {
        **_CONVENTIONS,
        "source": source,
        "code_version": CODE_VERSION,
        "parameters": parameters.model_dump(mode="json"),
        "image_ids": [subject.image_id for subject in todo],
    }
    group = zarr.create_group(folder, zarr_format=3, attributes=attributes)
    size = parameters.size_px
    for name, dtype in (("images", "float32"), ("masks", "bool")):
        group.create_array(
            name,
            shape=(len(todo), size, size),
            dtype=dtype,
            chunks=(1, size, size),
            shards=(SHARD_IMAGES, size, size),
            compressors=BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"),
            dimension_names=("image", "y", "x"),
            attributes={"unit": "1/angstrom^2"} if name == "images" else {},
        )
    for name, unit, values in (
        ("pixel_size_angstrom", "angstrom", [s.view.pixel_size_angstrom for s in todo]),
        ("rotation_deg", "degree", [s.view.rotation_deg for s in todo]),
        ("shift_angstrom", "angstrom", [s.view.shift_angstrom for s in todo]),
    ):
        shape = (len(todo), 2) if name == "shift_angstrom" else (len(todo),)
        data = np.asarray(values, float).reshape(shape)
        group.create_array(name, data=data, chunks=(max(1, len(todo)), *shape[1:]), attributes={"unit": unit})
    for name, data in _cells(todo).items():
        group.create_array(name, data=data, chunks=tuple(max(1, edge) for edge in data.shape))
    return group


def _cells(todo: Sequence[Subject]) -> dict[str, np.ndarray]:
    """The projected cells as flat arrays."""
    positions = [subject.projection.positions_angstrom for subject in todo]
    numbers = [np.asarray(subject.slab["numbers"], np.int16) for subject in todo]
    return {
        "periods_angstrom": np.array([subject.projection.periods_angstrom for subject in todo]).reshape(-1, 2, 2),
        "atom_offsets": np.concatenate([[0], np.cumsum([len(part) for part in numbers])]).astype(np.int64),
        "atom_numbers": np.concatenate([*numbers, np.zeros(0, np.int16)]),
        "atom_positions_angstrom": np.concatenate([*positions, np.zeros((0, 2))]),
    }


def _make_shard(
    work: _Work, group: zarr.Group, shard: range, todo: Sequence[Subject], parameters: StemParameters, source: str
) -> None:
    """Render, mask, tabulate and write one shard."""
    chosen = [todo[n] for n in shard]
    images = render_batch(
        [s.projection for s in chosen], [s.view for s in chosen], sigma_angstrom=parameters.sigma_angstrom
    )
    masks = np.zeros(images.shape, bool)
    contents = []
    for n, subject in enumerate(chosen):
        content = _content(subject, parameters)
        masks[n] = column_mask(
            content.mask_xy, parameters.size_px, subject.view.pixel_size_angstrom, parameters.mask_radius_angstrom
        )
        contents.append(content)
    for name, values in (("images", images), ("masks", masks)):
        _array(group, name)[shard.start : shard.stop] = values
    work.note_done(shard, _rows(shard, chosen, contents, images, masks, parameters, source))


@dataclass(frozen=True)
class _Content:
    """What one field shows: atoms (m, 2) with their Z, columns inside, and all columns whose disk may reach inside."""

    atoms_xy: np.ndarray
    atomic_numbers: np.ndarray
    columns: Columns
    mask_xy: np.ndarray


def _content(subject: Subject, parameters: StemParameters) -> _Content:
    projection, view = subject.projection, subject.view
    atoms_xy, index = atoms_in_view(projection.positions_angstrom, projection.periods_angstrom, view)
    cell_columns = columns_of(projection, parameters.column_distance_angstrom)
    near = columns_in_view(cell_columns, projection.periods_angstrom, view, parameters.mask_radius_angstrom)
    low, high = field_corners(view)
    xy = near.positions_angstrom
    inside = np.flatnonzero(np.all((xy >= low) & (xy <= high), axis=1))
    return _Content(atoms_xy, np.asarray(subject.slab["numbers"])[index], near.take(inside, xy[inside]), xy)


_ROW_SCHEMA = pa.schema([(column.name, column.type) for column in STEM.columns if column.name != "blob"])


def _rows(
    shard: range,
    chosen: Sequence[Subject],
    contents: Sequence[_Content],
    images: np.ndarray,
    masks: np.ndarray,
    parameters: StemParameters,
    source: str,
) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for n, (subject, content) in enumerate(zip(chosen, contents, strict=True)):
        vectors = subject.lattice_vectors_angstrom
        rows.append(
            {
                "image_id": subject.image_id,
                "slab_id": subject.slab["slab_id"],
                "source": source,
                "index": shard.start + n,
                "size_px": parameters.size_px,
                "pixel_size_angstrom": subject.view.pixel_size_angstrom,
                "field_angstrom": subject.view.field_angstrom,
                "sigma_angstrom": parameters.sigma_angstrom,
                "z_exponent": parameters.z_exponent,
                "rotation_deg": subject.view.rotation_deg,
                "shift_x_angstrom": subject.view.shift_angstrom[0],
                "shift_y_angstrom": subject.view.shift_angstrom[1],
                "lattice_vectors_angstrom": vectors.ravel().tolist(),
                "periods_in_view": subject.view.field_angstrom / float(np.linalg.norm(vectors, axis=1).max()),
                **{name: subject.slab[name] for name in _LABELS},
                "mean_intensity": float(images[n].mean(dtype=float)),
                "n_atoms_in_view": len(content.atoms_xy),
                "n_columns_in_view": len(content.columns.weights),
                "mask_fraction": float(masks[n].mean()),
            }
        )
    nested = {"atoms": _atom_lists(contents), "columns": _column_lists(contents)}
    return pa.table(
        {
            field.name: nested[field.name]
            if field.name in nested
            else pa.array([row[field.name] for row in rows], field.type)
            for field in _ROW_SCHEMA
        },
        schema=_ROW_SCHEMA,
    )


def _atom_lists(contents: Sequence[_Content]) -> pa.Array:
    xy = np.concatenate([content.atoms_xy for content in contents])
    numbers = np.concatenate([content.atomic_numbers for content in contents]).astype(np.int16)
    return _lists(ATOM, [xy[:, 0], xy[:, 1], numbers], [len(content.atoms_xy) for content in contents])


def _column_lists(contents: Sequence[_Content]) -> pa.Array:
    columns = [content.columns for content in contents]
    xy = np.concatenate([column.positions_angstrom for column in columns])
    atoms = np.concatenate([column.n_atoms for column in columns]).astype(np.int16)
    relative = np.concatenate([column.relative_intensities for column in columns])
    return _lists(COLUMN, [xy[:, 0], xy[:, 1], atoms, relative], [len(column.weights) for column in columns])


def _lists(struct: pa.StructType, values: Sequence[np.ndarray], lengths: Sequence[int]) -> pa.Array:
    """A list<struct> array from flat columns."""
    arrays = [pa.array(value, field.type) for value, field in zip(values, struct, strict=True)]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.StructArray.from_arrays(arrays, fields=list(struct)))


def _array(group: zarr.Group, name: str) -> zarr.Array:
    return cast("zarr.Array", group[name])


class StemSet:
    """Lazy access to a written set."""

    POSE = ("pixel_size_angstrom", "rotation_deg", "shift_x_angstrom", "shift_y_angstrom")

    def __init__(self, group: zarr.Group) -> None:
        self._group = group

    @classmethod
    def open(cls, folder: str | Path) -> StemSet:
        """Open a group.

        Raises:
            ValueError: the folder is no such group.
        """
        import zarr
        from zarr.errors import NodeNotFoundError

        try:
            group = zarr.open_group(str(folder), mode="r")
        except (NodeNotFoundError, FileNotFoundError, ValueError) as error:
            raise ValueError(f"{folder}: no Zarr group") from error
        if group.attrs.get("format") != _CONVENTIONS["format"]:
            raise ValueError(f"{folder}: not a STEM set of this platform (attribute format is not atomvision/stem)")
        return cls(group)

    def __len__(self) -> int:
        return int(self._images.shape[0])

    @cached_property
    def _images(self) -> zarr.Array:
        return _array(self._group, "images")

    @cached_property
    def _masks(self) -> zarr.Array:
        return _array(self._group, "masks")

    @cached_property
    def image_ids(self) -> tuple[str, ...]:
        """Identifiers in the order of the arrays."""
        return tuple(cast("list[str]", self._group.attrs["image_ids"]))

    @cached_property
    def parameters(self) -> StemParameters:
        """What the set was made with."""
        return StemParameters.model_validate(self._group.attrs["parameters"])

    @cached_property
    def poses(self) -> np.ndarray:
        """(n, 4) float64, columns as in ``POSE``."""
        parts = [
            np.asarray(_array(self._group, name)[:])
            for name in ("pixel_size_angstrom", "rotation_deg", "shift_angstrom")
        ]
        return np.column_stack(parts).reshape(-1, 4)

    @cached_property
    def _cells(self) -> dict[str, np.ndarray]:
        names = ("periods_angstrom", "atom_offsets", "atom_numbers", "atom_positions_angstrom")
        return {name: np.asarray(_array(self._group, name)[:]) for name in names}

    def numbers(self, index: int) -> np.ndarray:
        """Atomic numbers (k,) of the projected cell; raises IndexError."""
        return self._cells["atom_numbers"][self._atoms(index)].astype(np.int64)

    def projection(self, index: int) -> Projection:
        """The projected cell that the image shows; raises IndexError."""
        weights = self.numbers(index).astype(float) ** self.parameters.z_exponent
        positions = self._cells["atom_positions_angstrom"][self._atoms(index)]
        return Projection(positions, weights, self._cells["periods_angstrom"][index])

    def columns(self, index: int, margin_angstrom: float = 0.0) -> Columns:
        """Columns in view, in image coordinates, exact; with a margin also those so far outside. Raises IndexError."""
        projection = self.projection(index)
        cell = columns_of(projection, self.parameters.column_distance_angstrom)
        return columns_in_view(cell, projection.periods_angstrom, self.view(index), margin_angstrom)

    def _atoms(self, index: int) -> slice:
        offsets = self._cells["atom_offsets"]
        return slice(*offsets[self._checked(index) : index + 2].tolist())

    def view(self, index: int) -> View:
        """Pose of an image; raises IndexError."""
        pixel_size, rotation, x, y = (float(value) for value in self.poses[self._checked(index)])
        return View(pixel_size, int(self._images.shape[1]), rotation, (x, y))

    def image(self, index: int) -> np.ndarray:
        """float32 [y, x] in 1/Å²; raises IndexError."""
        return np.asarray(self._images[self._checked(index)])

    def mask(self, index: int) -> np.ndarray:
        """bool [y, x]; raises IndexError."""
        return np.asarray(self._masks[self._checked(index)])

    def batch(self, indices: Sequence[int]) -> np.ndarray:
        """Images float32 (len(indices), y, x), in the order asked for; raises IndexError."""
        chosen = np.array([self._checked(index) for index in indices], np.int64)
        return np.asarray(self._images.oindex[chosen])

    def batches(self, size: int = SHARD_IMAGES) -> Iterator[tuple[range, np.ndarray, np.ndarray]]:
        """All images and masks in order: (indices, images, masks), at most ``size`` at a time."""
        for start in range(0, len(self), size):
            indices = range(start, min(start + size, len(self)))
            chosen = slice(indices.start, indices.stop)
            yield indices, np.asarray(self._images[chosen]), np.asarray(self._masks[chosen])

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of a set of {len(self)}")
        return int(index)
