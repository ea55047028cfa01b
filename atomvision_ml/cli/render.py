"""``atomvision render``: a STEM image of any structure file that ASE reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atomvision_ml.cli.output import check_positive, failed


def render(
    structure: Annotated[Path, typer.Argument(help="Structure file, of any format that ASE reads.")],
    out: Annotated[Path, typer.Option(help="Image file: .png (8-bit, scaled), .npy or .tif (float).")],
    pixel_size_angstrom: Annotated[float, typer.Option(help="Edge of a pixel in Å.")] = 0.1,
    size: Annotated[int, typer.Option(help="Edge of the square image in px.")] = 256,
    sigma_angstrom: Annotated[float, typer.Option(help="Standard deviation of the Gaussian probe in Å.")] = 0.5,
    z_exponent: Annotated[float, typer.Option(help="Exponent p of Z.")] = 1.7,
    rotation_deg: Annotated[
        float, typer.Option(help="Counter-clockwise rotation in (x, y) about the origin, in degrees.")
    ] = 0.0,
    shift_angstrom: Annotated[
        tuple[float, float], typer.Option(metavar="X Y", help="Shift after the rotation, in Å.")
    ] = (0.0, 0.0),
    mean_detected_e_per_a2: Annotated[
        float | None,
        typer.Option(help="Detected electrons per Å², averaged over the field; the image is then Poisson counts."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the counts.")] = 0,
) -> None:
    """Render a STEM image: Σ Z^p · normalised Gaussian, in 1/Å².

    In-plane coordinates are the file's. The cell origin lies at the centre of pixel [0, 0]; x runs along columns, y
    along rows. Positions are rotated counter-clockwise in (x, y) about the origin, then shifted.
    """
    from pydantic import ValidationError

    from atomvision_ml.images.files import ImageFileError, StructureFileError, read_structure, write_image
    from atomvision_ml.images.stem import render as render_image

    _check_options(out, size=size, pixel_size_angstrom=pixel_size_angstrom, sigma_angstrom=sigma_angstrom)
    try:
        atoms = read_structure(structure)
        image = render_image(
            atoms,
            pixel_size_angstrom=pixel_size_angstrom,
            size=size,
            sigma_angstrom=sigma_angstrom,
            z_exponent=z_exponent,
            rotation_deg=rotation_deg,
            shift_angstrom=shift_angstrom,
            mean_detected_e_per_a2=mean_detected_e_per_a2,
            seed=seed,
        )
        write_image(out, image, pixel_size_angstrom)
    except (ImageFileError, StructureFileError) as error:
        raise failed(str(error)) from error
    except ValidationError as error:
        raise failed("; ".join(f"{one['loc'][0]}: {one['msg']}" for one in error.errors())) from error
    except ValueError as error:
        raise failed(f"{structure}: {error}") from error
    typer.echo(f"{out}: {size} × {size} px, {size * pixel_size_angstrom:.6g} Å, {atoms.get_chemical_formula()}")


def _check_options(out: Path, *, size: int, pixel_size_angstrom: float, sigma_angstrom: float) -> None:
    from atomvision_ml.images.files import SUFFIXES

    if out.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"{out}: the suffix must be one of {', '.join(SUFFIXES)}", param_hint="--out")
    if not 1 <= size <= 16384:
        raise typer.BadParameter(f"{size} is not between 1 and 16384", param_hint="--size")
    check_positive(pixel_size_angstrom, "--pixel-size-angstrom")
    check_positive(sigma_angstrom, "--sigma-angstrom")
