"""``atomvision audit``: physics checks of a simulated STEM set, whoever made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from atomvision_ml.cli.output import failed


def audit(
    images: Annotated[
        Path, typer.Argument(help="An image (.png, .tif, .npy), a folder of them, or a Zarr group of this platform.")
    ],
    structures: Annotated[
        Path,
        typer.Option(
            help="Structure file, or a folder of them; an image belongs to the structure with the same file name stem."
        ),
    ],
    pixel_size_angstrom: Annotated[
        float | None, typer.Option(help="Edge of a pixel in Å; a Zarr group and TIFF files of this platform know it.")
    ] = None,
    sigma_angstrom: Annotated[float, typer.Option(help="Standard deviation of the probe in Å, about.")] = 0.5,
    z_exponent: Annotated[float, typer.Option(help="Exponent p of Z.")] = 1.7,
    rotation_deg: Annotated[
        float | None, typer.Option(help="Rotation of the structure in the image, if known; else it is found.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Tell whether a simulated STEM set lost coincident atoms, its intensity sum or its symmetry.

    Intensity scale and offset, shift and (unless given) rotation are fitted. Exit code 1 if an audit fails or an
    image cannot be judged because it or its structure cannot be read.
    """
    from atomvision_ml.images.foreign import ForeignAuditError, audit_images

    try:
        report = audit_images(
            images,
            structures,
            pixel_size_angstrom=pixel_size_angstrom,
            sigma_angstrom=sigma_angstrom,
            z_exponent=z_exponent,
            rotation_deg=rotation_deg,
        )
    except ForeignAuditError as error:
        raise failed(str(error), code=2) from error
    for result in report:
        typer.echo(json.dumps(result.as_dict()) if as_json else result.line())
    if any(result.passed is False for result in report):
        raise typer.Exit(1)
