"""``atomvision look``: everything a micrograph tells, as one page, and exports of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomvision_ml.cli.micrograph import captured, pixel_size_xy
from atomvision_ml.cli.output import check_positive, failed

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from atomvision_ml.experiments.analysis import Analysis
    from atomvision_ml.experiments.record import Record
    from atomvision_ml.experiments.reference_phases import ReferencePhase


def look(
    file: Annotated[Path, typer.Argument(help="File of a microscope: dm3, dm4, ser, emi, emd, mrc, tif, sxm…")],
    out: Annotated[
        Path | None, typer.Option(help="The page, or a folder for it; by default FILE.html in the working folder.")
    ] = None,
    phase: Annotated[
        list[str] | None,
        typer.Option(help="What the crystal may be: reference phases by name, or `all`; by default what FILE says."),
    ] = None,
    pixel_size_angstrom: Annotated[
        float | None, typer.Option(help="Edge of a pixel in Å, where the file has none or a wrong one.")
    ] = None,
    image: Annotated[int, typer.Option(min=0, help="Which image of the file, from 0.")] = 0,
    materials: Annotated[
        bool, typer.Option(help="Also look for crystals of this lattice in structures/slabs of the data root.")
    ] = True,
    export: Annotated[
        list[Path] | None,
        typer.Option(help="Write the image (.tif, .hspy, .zarr) or its columns (.csv, .parquet, .xyz); repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Image, diffractogram, lattice, distortion, columns, strain and quality of a micrograph, on one page."""
    from atomvision_ml.experiments.analysis import analyse, of_technique
    from atomvision_ml.experiments.exports import ExportError
    from atomvision_ml.experiments.micrograph_store import measured_image
    from atomvision_ml.experiments.record import SidecarError
    from atomvision_ml.experiments.worker import FileReader, RejectedError

    _check_options(phase or [], export or [], pixel_size_angstrom)
    try:
        with FileReader() as reader:
            record, pixels = captured(file, image, reader)
        size = pixel_size_xy(record, pixel_size_angstrom)
        phases = _phases(phase, record.model_dump())
        values = measured_image(pixels, record.model_dump())
        found = analyse(values, size, phases, frames=pixels if pixels.ndim == 3 else None)
        found = of_technique(found, record.technique)
        page = _page_path(out, file, image)
        _write(page, values, found, record, phases, materials)
        _export(export or [], pixels, record, found)
    except RejectedError as error:
        raise failed(f"{file}: {error.reason}") from error
    except (SidecarError, ExportError, OSError, ValueError) as error:
        raise failed(f"{file}: {error}") from error
    if as_json:
        typer.echo(json.dumps({"image": str(file), "page": str(page), **found.summary()}))
    else:
        _print(page, found)


def _check_options(phases: Sequence[str], exports: Sequence[Path], pixel_size_angstrom: float | None) -> None:
    from atomvision_ml.experiments.exports import COLUMN_SUFFIXES, IMAGE_SUFFIXES
    from atomvision_ml.experiments.reference_phases import reference_phases

    if pixel_size_angstrom is not None:
        check_positive(pixel_size_angstrom, "--pixel-size-angstrom")
    known, suffixes = [*reference_phases(), "all"], (*IMAGE_SUFFIXES, *COLUMN_SUFFIXES)
    unknown = sorted(set(phases) - set(known))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: known are {', '.join(known)}", param_hint="--phase")
    for path in exports:
        if path.suffix.lower() not in suffixes:
            raise typer.BadParameter(
                f"{path.name}: the suffix must be one of {', '.join(suffixes)}", param_hint="--export"
            )


def _phases(names: Sequence[str] | None, record: Mapping[str, Any]) -> tuple[ReferencePhase, ...]:
    from atomvision_ml.experiments.reference_phases import named_phases, reference_phases

    known = reference_phases()
    if not names:
        return named_phases(record, known)
    if "all" in names:
        return tuple(known.values())
    return tuple(known[name] for name in names)


def _page_path(out: Path | None, file: Path, number: int) -> Path:
    name = f"{file.name}.html" if number == 0 else f"{file.name}-{number}.html"
    if out is None:
        return Path(name)
    if out.suffix.lower() in (".html", ".htm"):
        return out
    out.mkdir(parents=True, exist_ok=True)
    return out / name


def _write(
    page: Path,
    values: np.ndarray,
    found: Analysis,
    record: Record,
    phases: Sequence[ReferencePhase],
    is_asking_slabs: bool,
) -> None:
    from atomvision_ml.evaluation.gallery.micrograph import write_micrograph_page
    from atomvision_ml.evaluation.matched_pairs import matching_materials

    slabs = _slabs() if is_asking_slabs else None
    matches = matching_materials(values, found, phases, slabs, record.material_formula)
    asked = ", ".join(phase.name for phase in phases)
    page.parent.mkdir(parents=True, exist_ok=True)
    title = record.original_filename + (f", {record.signal_name}" if record.signal_name else "")
    write_micrograph_page(
        page, values, found, title=title, record=record.model_dump(), matches=matches, materials_asked=asked
    )


def _slabs() -> pl.LazyFrame | None:
    """The published slabs; None where the data root has none."""
    from atomvision_ml.storage.keys import STRUCTURES_SLABS
    from atomvision_ml.storage.lake import Lake

    try:
        return Lake.from_settings().scan(STRUCTURES_SLABS)
    except LookupError:
        return None


def _export(paths: Sequence[Path], pixels: np.ndarray, record: Record, found: Analysis) -> None:
    from atomvision_ml.experiments.exports import COLUMN_SUFFIXES, export_columns, export_image

    said = record.model_dump()
    if found.pixel_size_xy_angstrom:
        x, y = found.pixel_size_xy_angstrom
        said |= {"pixel_size_x_nm": x / 10, "pixel_size_y_nm": y / 10}
    for path in paths:
        if path.suffix.lower() in COLUMN_SUFFIXES:
            export_columns(path, found)
        else:
            export_image(path, pixels, said)
        typer.echo(str(path), err=True)


def _print(page: Path, found: Analysis) -> None:
    said = found.summary()
    if found.lattice is not None:
        (a, b, angle), (da, db, dangle) = found.lattice.parameters
        unit = found.unit
        name = said["zone_axis"] or f"{found.lattice.lattice} lattice"
        typer.echo(
            f"{name}: a = {a:.4f} ± {da:.4f} {unit}, b = {b:.4f} ± {db:.4f} {unit}, γ = {angle:.2f} ± {dangle:.2f}°"
        )
    if found.distortion is not None:
        one = found.distortion
        typer.echo(
            f"against {found.distortion_reference}: x {one.scale_x - 1:+.2%}, y {one.scale_y - 1:+.2%}, "
            f"slow axis leans {one.shear_deg:+.2f}°"
        )
    typer.echo(f"signal over noise {found.quality.snr:.2f}, line jitter {found.line_jitter_px:.2f} px")
    if found.columns is not None:
        typer.echo(f"{len(found.columns)} columns in groups of {said['column_groups']}")
    for note in found.notes:
        typer.echo(f"note: {note}")
    typer.echo(str(page))
