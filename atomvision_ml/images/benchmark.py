"""Speed of the STEM images as ratios: against jarvis-tools' ``STEMConv`` in the same run, and of a whole set.

Belongs here: measurements whose results are rows. The peer (Choudhary et al., jarvis-tools,
``jarvis.analysis.stem.convolution_apprx``) is an optional extra, imported inside the function that measures it.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from atomvision_ml.images.stem import (
    Precision,
    StemParameters,
    View,
    project_atoms,
    render,
    render_batch,
    torch_threads,
)
from atomvision_ml.structures.lattice import reduce_cell
from atomvision_ml.structures.prototypes import prototype_rows
from atomvision_ml.structures.slabs import NotASlabError, normalise_slab
from atomvision_ml.structures.sources.read import read_source
from atomvision_ml.timing import best_s

if TYPE_CHECKING:
    import ase

Row = dict[str, Any]

PIXEL_SIZES_ANGSTROM = (0.1, 0.2)
SIZE_PX = 256
PRECISIONS: tuple[Precision, Precision] = ("float32", "float64")
"""That of stored images, within 1e-5 of the maximum; and that of ``render``, within 1e-6."""
BATCH = 64
_DATABASES = ("jarvis_dft_2d", "c2db", "twodmatpedia")
_REPEATS = 7
_BATCH_REPEATS = 2


def benchmark_rows(
    sources: Path | None, *, n_structures: int = 60, has_whole_set: bool = True, seed: int = 0
) -> Iterator[Row]:
    """Measure, one row at a time.

    Args:
        sources: folder with the structure databases; None: the embedded prototypes.
        n_structures: random structures to take the median over.
        has_whole_set: also render and write the whole set, with the peak memory of the process tree.
        seed: of the choice of structures and poses.

    Yields:
        Rows with ``benchmark``, ``structures``, ``pixel_size_angstrom``, ``peer_ms``, ``ours_ms`` (medians for one
        image), ``ratio``, ``aim``; of the whole set ``seconds``, ``images``, ``peak_memory_gb``. The ratio is the
        median over structures, each alone or in a batch of 64 poses; in the mixed batch, one pose of every structure,
        it is that of the total times. Images are float32, as stored, but for ``stem_single_float64``. Times of
        single images are processor time, torch on one thread, so that other programs do not count; the whole set is
        wall time.
    """
    slabs = benchmark_slabs(sources)
    chosen = slabs.sample(min(n_structures, len(slabs)), seed=seed, shuffle=True)
    structures = [_atoms(row) for row in chosen.iter_rows(named=True)]
    with torch_threads(1):
        for pixel_size in PIXEL_SIZES_ANGSTROM:
            yield from _against_peer(f"{len(structures)} random", structures, pixel_size, seed, aims=(20.0, 25.0))
        for name, structure in _known_structures().items():
            for pixel_size in PIXEL_SIZES_ANGSTROM:
                yield from _against_peer(name, [structure] * BATCH, pixel_size, seed, aims=(None, 50.0))
    if has_whole_set:
        yield _whole_set(slabs)


def benchmark_slabs(sources: Path | None) -> pl.DataFrame:
    """Columns of ``structures/slabs`` that images need, of all databases in the folder, or of the prototypes.

    Labels are not computed here; they do not change an image.
    """
    records = prototype_rows() if sources is None else []
    with tempfile.TemporaryDirectory() as scratch:
        for source in _DATABASES if sources is not None else ():
            records += read_source(source, folder=sources, scratch=Path(scratch)).rows
    rows = [row for record in records if record["status"] == "accepted" for row in _slab_row(record)]
    return pl.DataFrame(rows, schema_overrides={"next_class_strain_percent": pl.Float64}, infer_schema_length=None)


def _slab_row(record: Row) -> Iterator[Row]:
    positions = np.reshape(record["positions_angstrom"], (-1, 3))
    try:
        slab = normalise_slab(record["numbers"], positions, np.reshape(record["cell_angstrom"], (3, 3)))
    except NotASlabError:
        return
    yield {
        "slab_id": record["record_id"],
        "status": "accepted",
        "numbers": slab.numbers.tolist(),
        "positions_angstrom": slab.positions_angstrom.ravel().tolist(),
        "cell_angstrom": slab.cell_angstrom.ravel().tolist(),
        "primitive_cell_angstrom": reduce_cell(slab.cell_angstrom[:2, :2]).ravel().tolist(),
        "bravais_lattice": "oblique",
        "class_strain_percent": 0.0,
        "next_class_strain_percent": None,
        "superlattice_contrast": 0.0,
        "is_ambiguous": False,
    }


def _atoms(row: Row) -> ase.Atoms:
    from ase import Atoms

    positions = np.reshape(row["positions_angstrom"], (-1, 3))
    return Atoms(row["numbers"], positions, cell=np.reshape(row["cell_angstrom"], (3, 3)), pbc=(True, True, False))


def _known_structures() -> dict[str, ase.Atoms]:
    from ase.build import graphene, mx2

    known = {"graphene": graphene(vacuum=8.0), "MoS2": mx2("MoS2", kind="2H", a=3.18, thickness=3.19, vacuum=8.0)}
    for atoms in known.values():
        atoms.pbc = (True, True, False)
    return known


def _against_peer(
    name: str, structures: Sequence[ase.Atoms], pixel_size: float, seed: int, aims: tuple[float | None, float | None]
) -> Iterator[Row]:
    peer = _peer(pixel_size)
    ours, exact = (
        np.array([best_s(partial(_single, a, pixel_size, precision), _REPEATS) for a in _distinct(structures)])
        for precision in PRECISIONS
    )
    theirs = np.array([best_s(peer(a), _REPEATS) for a in _distinct(structures)])
    random = np.random.default_rng(seed)
    poses = [View(pixel_size, SIZE_PX, random.uniform(0, 360), tuple(random.uniform(0, 5, 2))) for _ in range(BATCH)]
    batches = [best_s(partial(_batch, [a] * BATCH, poses), _BATCH_REPEATS) for a in _distinct(structures)]
    batched = np.array(batches) / BATCH
    common = {"structures": name, "pixel_size_angstrom": pixel_size, "peer_ms": 1e3 * float(np.median(theirs))}
    is_aimed_at = pixel_size == PIXEL_SIZES_ANGSTROM[0]
    yield {
        "benchmark": "stem_single",
        **common,
        "ours_ms": 1e3 * float(np.median(ours)),
        "ratio": float(np.median(theirs / ours)),
        "aim": aims[0] if is_aimed_at else None,
    }
    yield {
        "benchmark": "stem_single_float64",
        **common,
        "ours_ms": 1e3 * float(np.median(exact)),
        "ratio": float(np.median(theirs / exact)),
    }
    yield {
        "benchmark": "stem_batched",
        **common,
        "ours_ms": 1e3 * float(np.median(batched)),
        "ratio": float(np.median(theirs / batched)),
        "aim": aims[1] if is_aimed_at else None,
    }
    if len(batched) > 1:
        distinct = _distinct(structures)
        mixed = best_s(partial(_batch, distinct, [poses[n % BATCH] for n in range(len(distinct))]), _REPEATS)
        yield {
            "benchmark": "stem_mixed_batch",
            **common,
            "ours_ms": 1e3 * mixed / len(distinct),
            "ratio": float(theirs.sum()) / mixed,
        }


def _distinct(structures: Sequence[ase.Atoms]) -> list[ase.Atoms]:
    return list({id(atoms): atoms for atoms in structures}.values())


def _single(atoms: ase.Atoms, pixel_size: float, precision: Precision) -> np.ndarray:
    return render(atoms, pixel_size_angstrom=pixel_size, size=SIZE_PX, rotation_deg=10.0, precision=precision)


def _batch(structures: Sequence[ase.Atoms], poses: Sequence[View]) -> np.ndarray:
    projections = {id(atoms): project_atoms(atoms) for atoms in _distinct(structures)}
    return render_batch([projections[id(atoms)] for atoms in structures], poses)


def _peer(pixel_size: float) -> Callable[[ase.Atoms], Callable[[], Any]]:
    """For a structure, the call that renders it with jarvis-tools, conversion of the structure not included."""
    try:
        from jarvis.analysis.stem.convolution_apprx import STEMConv
        from jarvis.core.atoms import ase_to_atoms
    except ImportError as error:
        raise RuntimeError("jarvis-tools is not installed; install it with: pip install 'atomvision[bench]'") from error

    def call(atoms: ase.Atoms) -> Callable[[], Any]:
        converted = ase_to_atoms(atoms)
        simulation = STEMConv(output_size=[SIZE_PX, SIZE_PX])
        return lambda: simulation.simulate_surface(converted, px_scale=pixel_size, rot=10.0)

    return call


def _whole_set(slabs: pl.DataFrame) -> Row:
    """Write all images, masks and tables in a fresh process; wall time and peak memory of its process tree."""
    import psutil

    with tempfile.TemporaryDirectory() as scratch:
        table, report = Path(scratch) / "slabs.parquet", Path(scratch) / "report"
        slabs.write_parquet(table)
        process = multiprocessing.get_context("spawn").Process(target=_write_whole_set, args=(table, report))
        process.start()
        peak = 0
        while process.is_alive():
            peak = max(peak, _tree_memory(psutil.Process(process.pid)))
            process.join(0.05)
        if process.exitcode != 0:
            raise RuntimeError(f"writing the whole set failed with exit code {process.exitcode}")
        seconds = float(report.read_text())
    return {
        "benchmark": "stem_whole_set",
        "structures": f"{len(slabs)} slabs",
        "images": len(slabs),
        "seconds": seconds,
        "peak_memory_gb": peak / 1e9,
        "aim": 90.0,
    }


def _tree_memory(process: Any) -> int:
    import psutil

    total = 0
    try:
        for member in [process, *process.children(recursive=True)]:
            total += member.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def _write_whole_set(table: Path, report: Path) -> None:
    from atomvision_ml.images.stem_set import with_blob, write_stem_set
    from atomvision_ml.schemas.tables.images import STEM
    from atomvision_ml.storage.lake import Lake, Version

    start = time.perf_counter()
    lake = Lake(str(table.parent / "lake"))
    folder = lake.scratch("bench") / "stem"
    rows = write_stem_set(pl.read_parquet(table), folder, StemParameters(), source="jarvis_dft_2d")
    published = with_blob(rows, lake.put_blob(folder))
    lake.publish(STEM.key, published, version=Version(code_version="bench"), partition="jarvis_dft_2d")
    report.write_text(str(time.perf_counter() - start))
