"""What the methods say of a genuine scan of a known crystal: ``python -m atomvision_ml.evaluation.scan_study FILE…``.

Belongs here: one table in Markdown, for docs. The lattice is measured four ways: by the spots of the diffractogram, by
the lattice finder, by the columns of a quick look, and by the segmenter's atoms.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.experiments.analysis import Analysis, analyse
from atomvision_ml.experiments.distortion import affine_distortion
from atomvision_ml.experiments.micrograph_store import measured_image
from atomvision_ml.experiments.reference_phases import reference_phases

Array = NDArray[np.float64]

_SAME_SITE = 0.25
_FEWEST = 12


def lattice_of_positions(positions: ArrayLike, start: ArrayLike) -> tuple[Array, Array] | None:
    """The lattice of one site of a crystal, by least squares over its positions, and its (4, 4) covariance.

    The site is that of the position nearest to the middle; other sites lie too far from its lattice. Indices are given
    outwards from there, because a bent scan is no single lattice from afar.

    Args:
        positions: (n, 2).
        start: (2, 2) rows, a lattice that is good over some periods.

    Returns:
        Rows (2, 2) and covariance; None for fewer than 12 positions of the site.
    """
    places, cell = np.asarray(positions, np.float64), np.asarray(start, np.float64)
    if len(places) < _FEWEST:
        return None
    middle = places[np.argmin(np.linalg.norm(places - np.median(places, axis=0), axis=1))]
    away = np.linalg.norm(places - middle, axis=1)
    origin: Array = middle
    covariance: Array = np.zeros((4, 4))
    for reach in np.geomspace(4 * np.linalg.norm(cell, axis=1).max(), away.max() + 1e-9, 8):
        near = places[away <= reach]
        steps = (near - origin) @ np.linalg.inv(cell)
        own = np.abs(steps - np.rint(steps)).max(axis=1) < _SAME_SITE
        if own.sum() < _FEWEST:
            continue
        design = np.column_stack([np.rint(steps[own]), np.ones(int(own.sum()))])
        solved: Array = np.asarray(np.linalg.lstsq(design, near[own], rcond=None)[0], np.float64)
        cell, origin = solved[:2], solved[2]
        variance = float(((near[own] - design @ solved) ** 2).sum()) / (2 * int(own.sum()) - 6)
        covariance = np.asarray(variance * np.kron(np.linalg.inv(design.T @ design)[:2, :2], np.eye(2)), np.float64)
    return (cell, covariance) if covariance.any() else None


def lattices(image: NDArray[Any], found: Analysis, *, with_networks: bool = True) -> dict[str, tuple[Array, Array]]:
    """Cell (2, 2) in Å and covariance (4, 4) by each method that finds one.

    Args:
        image: [y, x], as analysed.
        found: its analysis, calibrated.
        with_networks: ask the released segmenter too.
    """
    from atomvision_ml.models.lattice_classes import SCAN_DISTORTION_PERCENT
    from atomvision_ml.models.lattice_finder import LatticeFinderParameters, NoLatticeError, find_lattice

    assert found.pixel_size_xy_angstrom is not None
    if found.lattice is None:
        return {}
    pixel, cell = found.pixel_size_xy_angstrom[0], found.lattice.cell
    told = {"spots": (cell, found.lattice.covariance)}
    try:
        other = find_lattice(image, pixel, LatticeFinderParameters(scan_distortion_percent=SCAN_DISTORTION_PERCENT))
        told["lattice finder"] = (
            other.lattice_vectors_angstrom,
            np.diag(other.uncertainties_angstrom.ravel() ** 2),
        )
    except NoLatticeError:
        pass
    by_columns = lattice_of_positions(found.column_positions, cell)
    if by_columns is not None:
        told["columns"] = by_columns
    if with_networks:
        from atomvision_ml.models.segmenter import segment

        atoms = segment(image, pixel).atoms
        by_atoms = lattice_of_positions([(atom["x_angstrom"], atom["y_angstrom"]) for atom in atoms], cell)
        if by_atoms is not None:
            told["segmenter"] = by_atoms
    return told


def main(
    files: Annotated[list[Path], typer.Argument(help="Scans of a known crystal.")],
    phase: Annotated[str, typer.Option(help="Reference phase that they show.")] = "SrTiO3",
    networks: Annotated[bool, typer.Option(help="Ask the released segmenter too.")] = True,
) -> None:
    """Print what is measured in each file, as Markdown."""
    from atomvision_ml.experiments.capture import capture
    from atomvision_ml.experiments.worker import FileReader

    known = reference_phases()[phase]
    typer.echo("| file | method | a (Å) | b (Å) | γ (°) | x scale | y scale | lean | largest error when scaled |")
    typer.echo("|---|---|---|---|---|---|---|---|---|")
    with FileReader() as reader:
        for path in files:
            with tempfile.TemporaryDirectory() as folder:
                captured = capture(path, folder, reader)
                record, pixels = captured.records[0], np.array(captured.pixels[0])
            assert record.pixel_size_x_nm is not None
            image = measured_image(pixels, record.model_dump())
            found = analyse(image, 10 * record.pixel_size_x_nm, [known])
            for line in _lines(path.name, image, found, with_networks=networks):
                typer.echo(line)


def _lines(name: str, image: NDArray[Any], found: Analysis, *, with_networks: bool) -> list[str]:
    if found.zone_axis is None:
        return [f"| {name} | no zone axis stands out | | | | | | | |"]
    lines = []
    for method, (cell, covariance) in lattices(image, found, with_networks=with_networks).items():
        one = affine_distortion(cell, found.zone_axis.reference, covariance)
        a, b = np.linalg.norm(cell, axis=1)
        angle = np.degrees(np.arccos(cell[0] @ cell[1] / (a * b)))
        left = max(abs(each / one.scale / known - 1) for each, known in _paired(cell, found.zone_axis.reference))
        lines.append(
            f"| {name}, {found.zone_axis.name} | {method} | {a:.3f} | {b:.3f} | {angle:.2f} | {one.scale_x - 1:+.2%} "
            f"| {one.scale_y - 1:+.2%} | {one.shear_deg:+.2f}° | {left:.2%} |"
        )
    return lines


def _paired(cell: Array, reference: Array) -> list[tuple[float, float]]:
    lengths, known = (np.sort(np.linalg.norm(each, axis=1)) for each in (cell, reference))
    return [(float(one), float(other)) for one, other in zip(lengths, known, strict=True)]


if __name__ == "__main__":
    typer.run(main)
