"""``atomvision predict lattice|segment``: what a model says of images, one JSON object a line and image."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    import numpy as np

app = typer.Typer(no_args_is_help=True, help="Find the lattice or the atoms of images.")

Images = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files: png, tif, npy.")]
PixelSize = Annotated[float, typer.Option(help="Edge of a pixel in Å, the same for all images.")]
Model = Annotated[str | None, typer.Option(help="Name of a released model, or a checkpoint folder.")]
Overlay = Annotated[Path | None, typer.Option(help="Folder for a picture per image with the result drawn in.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line and image, in the order given.")]

Predict = Callable[["np.ndarray"], tuple[dict[str, Any], Callable[[], bytes]]]
"""For an image, what is said of it and how to draw that."""


@app.command()
def lattice(
    images: Images,
    pixel_size_angstrom: PixelSize,
    model: Model = None,
    overlay: Overlay = None,
    as_json: AsJson = False,
) -> None:
    """Bravais class, probabilities and reduced primitive lattice vectors with standard uncertainties."""
    from atomvision_ml.models.lattice_finder import find_lattice

    _check_name(model, "lattice")
    _check_pixel_size(pixel_size_angstrom)

    def predict(image: np.ndarray) -> tuple[dict[str, Any], Callable[[], bytes]]:
        from atomvision_ml.evaluation.gallery.pictures import image_picture

        found = find_lattice(image, pixel_size_angstrom)
        said = {
            "lattice": found.lattice,
            "probabilities": found.probabilities,
            "lattice_vectors_angstrom": found.lattice_vectors_angstrom.tolist(),
            "lattice_vector_uncertainties_angstrom": found.uncertainties_angstrom.tolist(),
            "model": found.model,
        }
        return said, partial(image_picture, image, pixel_size_angstrom, found.lattice_vectors_angstrom)

    _run(images, predict, overlay, _lattice_line, as_json=as_json)


@app.command()
def segment(
    images: Images,
    pixel_size_angstrom: PixelSize,
    model: Model = None,
    overlay: Overlay = None,
    as_json: AsJson = False,
) -> None:
    """Atoms: x, y in Å from the centre of pixel [0, 0], and the mean intensity of each."""
    from atomvision_ml.models.checkpoint import CheckpointError, find_checkpoint
    from atomvision_ml.models.registry import UnknownModelError
    from atomvision_ml.models.segmenter import segment as find_atoms

    _check_pixel_size(pixel_size_angstrom)
    if model is not None:
        try:
            find_checkpoint(model)
        except (CheckpointError, UnknownModelError) as error:
            _refuse(str(error), "--model")

    def predict(image: np.ndarray) -> tuple[dict[str, Any], Callable[[], bytes]]:
        from atomvision_ml.evaluation.gallery.pictures import overlay_picture

        found = find_atoms(image, pixel_size_angstrom, model)
        no_truth = found.mask & False
        draw = partial(overlay_picture, image, found.mask, no_truth, found.atoms, pixel_size_angstrom)
        return {"atoms": found.atoms, "model": found.model}, draw

    _run(images, predict, overlay, _segment_line, as_json=as_json)


def _run(
    images: list[Path],
    predict: Predict,
    overlay: Path | None,
    line: Callable[[dict[str, Any]], str],
    *,
    as_json: bool,
) -> None:
    """One line an image, in order; an unreadable or unsuited one gets its error, and the exit code is then 1."""
    if overlay is not None:
        overlay.mkdir(parents=True, exist_ok=True)
    names = _overlay_names(images)
    has_failed = False
    for path, name in zip(images, names, strict=True):
        said = _said(path, predict, None if overlay is None else overlay / name)
        has_failed |= "error" in said
        if as_json:
            typer.echo(json.dumps(said))
        else:
            typer.echo(f"{path}: {said['error'] if 'error' in said else line(said)}", err="error" in said)
    raise typer.Exit(int(has_failed))


def _said(path: Path, predict: Predict, picture: Path | None) -> dict[str, Any]:
    from atomvision_ml.images.files import read_image

    try:
        image = read_image(path)
        said, draw = predict(image)
    except ValueError as error:
        return {"image": str(path), "error": str(error)}
    if picture is not None:
        picture.write_bytes(draw())
    return {"image": str(path), **said}


def _overlay_names(images: list[Path]) -> list[str]:
    """One picture name an image; equal stems are numbered so that none overwrites another."""
    stems = [path.stem for path in images]
    return [f"{stem}.png" if stems.count(stem) == 1 else f"{stem}-{n + 1}.png" for n, stem in enumerate(stems)]


def _lattice_line(said: dict[str, Any]) -> str:
    import numpy as np

    a, b = (float(np.hypot(*vector)) for vector in said["lattice_vectors_angstrom"])
    (ax, ay), (bx, by) = said["lattice_vectors_angstrom"]
    angle = float(np.degrees(np.arccos(np.clip((ax * bx + ay * by) / (a * b), -1, 1))))
    share = said["probabilities"][said["lattice"]]
    return f"{said['lattice']} ({share:.0%}), a = {a:.4f} Å, b = {b:.4f} Å, γ = {angle:.2f}°  [{said['model']}]"


def _segment_line(said: dict[str, Any]) -> str:
    return f"{len(said['atoms'])} atoms  [{said['model']}]"


def _check_name(model: str | None, task: str) -> None:
    from atomvision_ml.models.registry import model_names

    if model is not None and model not in model_names(task):
        _refuse(f"unknown model {model!r} for {task}; registered are {', '.join(model_names(task))}", "--model")


def _check_pixel_size(pixel_size_angstrom: float) -> None:
    if not 0 < pixel_size_angstrom < float("inf"):
        _refuse(f"{pixel_size_angstrom} is not positive", "--pixel-size-angstrom")


def _refuse(message: str, option: str) -> NoReturn:
    raise typer.BadParameter(message, param_hint=option)
