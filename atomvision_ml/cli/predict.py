"""``atomvision predict``: what a model says of images, one JSON object a line and image.

Belongs here: one command a task, and what all of them share: the choice of the model, the comparison of each image with
the training images, pictures, and what becomes of a bad image.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from atomvision_ml.cli.micrograph import image_and_pixel_size
from atomvision_ml.cli.output import check_positive

if TYPE_CHECKING:
    import numpy as np

    from atomvision_ml.experiments.worker import FileReader
    from atomvision_ml.models.chosen import ChosenModel

app = typer.Typer(no_args_is_help=True, help="What a model says of images.")

Images = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGE...", help="Image files: png, tif, npy, or of a microscope: dm3, dm4, ser, emi, emd…"),
]
PixelSize = Annotated[
    float | None, typer.Option(help="Edge of a pixel in Å, the same for all images; by default what each file says.")
]
Number = Annotated[int, typer.Option("--image", min=0, help="Which image of files that hold several, from 0.")]
Normalised = Annotated[
    bool,
    typer.Option(
        "--local-normalisation",
        help="Even out brightness and contrast over 12 Å (Madsen et al., equations 2 and 3) before anything else; "
        "intensities and images made are then in units of the local contrast.",
    ),
]
Model = Annotated[
    str | None, typer.Option(help="Name of a released model, NAME@VERSION of the data root, or a checkpoint folder.")
]
Overlay = Annotated[Path | None, typer.Option(help="Folder for a picture per image with the result drawn in.")]
ScanDistortion = Annotated[
    float,
    typer.Option(
        min=0,
        max=10,
        help="Strain in percent (standard deviation) that the scan may add to the crystal: 0 for a simulated image, "
        "about 1 for a micrograph, whose lattice would be oblique otherwise.",
    ),
]
Output = Annotated[Path, typer.Option(help="Folder for an image (tif) per image.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line and image, in the order given.")]

Said = tuple[dict[str, Any], Callable[[], bytes]]
"""What is said of an image, and how to draw that."""

Predict = Callable[["np.ndarray", float, str], Said]
"""From an image, the edge of its pixels in Å and the stem of its files' names to what is said of it."""


@dataclass(frozen=True)
class Request:
    """What is asked of all models alike."""

    images: list[Path]
    pixel_size_angstrom: float | None
    number: int
    is_normalised: bool
    overlay: Path | None
    as_json: bool


@app.command()
def lattice(
    images: Images,
    pixel_size_angstrom: PixelSize = None,
    image: Number = 0,
    local_normalisation: Normalised = False,
    model: Model = None,
    scan_distortion_percent: ScanDistortion = 0.0,
    overlay: Overlay = None,
    as_json: AsJson = False,
) -> None:
    """Bravais class, probabilities and, where the model gives them, reduced primitive lattice vectors."""
    chosen = _chosen(model, "lattice")
    if scan_distortion_percent and "scan_distortion_percent" not in chosen.spec.takes:
        _refuse(f"{chosen.name} does not allow for it", "--scan-distortion-percent")

    def predict(pixels: np.ndarray, size: float, stem: str) -> Said:
        from atomvision_ml.evaluation.gallery.pictures import image_picture
        from atomvision_ml.models.lattice_classes import strains_percent

        found = chosen(pixels, size, scan_distortion_percent=scan_distortion_percent)
        vectors, errors = (getattr(found, f"{name}_angstrom", None) for name in ("lattice_vectors", "uncertainties"))
        said = {
            "lattice": found.lattice,
            "probabilities": found.probabilities,
            "lattice_vectors_angstrom": None if vectors is None else vectors.tolist(),
            "lattice_vector_uncertainties_angstrom": None if errors is None else errors.tolist(),
            "strain_percent": strains_percent(vectors),
            "scan_distortion_percent": scan_distortion_percent,
            "model": found.model,
        }
        return said, partial(image_picture, pixels, size, vectors)

    _run(
        chosen,
        Request(images, pixel_size_angstrom, image, local_normalisation, overlay, as_json),
        predict,
        _lattice_line,
    )


@app.command()
def segment(
    images: Images,
    pixel_size_angstrom: PixelSize = None,
    image: Number = 0,
    local_normalisation: Normalised = False,
    model: Model = None,
    overlay: Overlay = None,
    as_json: AsJson = False,
) -> None:
    """Atoms: x, y in Å from the centre of pixel [0, 0], the mean intensity of each, and what the image shows there."""
    chosen = _chosen(model, "segmentation")

    def predict(pixels: np.ndarray, size: float, stem: str) -> Said:
        from atomvision_ml.evaluation.gallery.pictures import overlay_picture

        found = chosen(pixels, size)
        sure = float(found.probability[found.mask].mean()) if found.mask.any() else None
        draw = partial(overlay_picture, pixels, found.mask, found.mask & False, found.atoms, size)
        rows = _with_regions(found.atoms, found.probability, pixels, size)
        return {"atoms": rows, "mean_probability": sure, "model": found.model}, draw

    _run(
        chosen, Request(images, pixel_size_angstrom, image, local_normalisation, overlay, as_json), predict, _atoms_line
    )


@app.command()
def atoms(
    images: Images,
    pixel_size_angstrom: PixelSize = None,
    image: Number = 0,
    local_normalisation: Normalised = False,
    model: Model = None,
    overlay: Overlay = None,
    as_json: AsJson = False,
) -> None:
    """Atomic columns by a joint fit: x, y in Å from the centre of pixel [0, 0], integrated intensity, and regions."""
    chosen = _chosen(model, "atoms")

    def predict(pixels: np.ndarray, size: float, stem: str) -> Said:
        from atomvision_ml.evaluation.gallery.pictures import overlay_picture

        found = chosen(pixels, size)
        mask = found.probability >= 0.5
        draw = partial(overlay_picture, pixels, mask, mask & False, found.columns, size)
        said = {
            "atoms": _with_regions(found.columns, found.probability, pixels, size),
            "position_uncertainty_angstrom": _position_uncertainty(found.fit),
            "model": f"{chosen.name} on {found.model}",
        }
        return said, draw

    _run(
        chosen, Request(images, pixel_size_angstrom, image, local_normalisation, overlay, as_json), predict, _atoms_line
    )


@app.command()
def defects(
    images: Images,
    pixel_size_angstrom: PixelSize = None,
    image: Number = 0,
    local_normalisation: Normalised = False,
    model: Model = None,
    overlay: Overlay = None,
    as_json: AsJson = False,
) -> None:
    """Vacancies, substitutions and strained regions of one crystal, each with its significance."""
    chosen = _chosen(model, "defects")

    def predict(pixels: np.ndarray, size: float, stem: str) -> Said:
        from atomvision_ml.evaluation.gallery.pictures import defects_picture

        found = chosen(pixels, size)
        said = {
            "defects": [asdict(one) for one in found.defects],
            "n_sites": found.n_sites,
            "smallest_change": found.smallest_change,
            "lattice_vectors_angstrom": found.lattice_vectors_angstrom.tolist(),
            "model": found.model,
        }
        return said, partial(defects_picture, pixels, size, said["defects"])

    _run(
        chosen,
        Request(images, pixel_size_angstrom, image, local_normalisation, overlay, as_json),
        predict,
        _defects_line,
    )


@app.command()
def upscale(
    images: Images,
    output: Output,
    pixel_size_angstrom: PixelSize = None,
    image: Number = 0,
    local_normalisation: Normalised = False,
    model: Model = None,
    overlay: Overlay = None,
    as_json: AsJson = False,
) -> None:
    """The image on pixels a quarter as large, written as tif with its pixel size."""
    chosen = _chosen(model, "super_resolution")

    def predict(pixels: np.ndarray, size: float, stem: str) -> Said:
        from atomvision_ml.evaluation.gallery.pictures import image_picture

        found = chosen(pixels, size)
        path = _written(output, stem, found.image, found.pixel_size_angstrom)
        said = {
            "output": path,
            "pixel_size_angstrom": found.pixel_size_angstrom,
            "reproduced_share": found.reproduced_share,
            "model": found.model,
        }
        return said, partial(image_picture, found.image, found.pixel_size_angstrom)

    _run(
        chosen,
        Request(images, pixel_size_angstrom, image, local_normalisation, overlay, as_json),
        predict,
        _output_line,
    )


@app.command()
def reconstruct(
    images: Images,
    output: Output,
    pixel_size_angstrom: PixelSize = None,
    image: Number = 0,
    local_normalisation: Normalised = False,
    model: Model = None,
    overlay: Overlay = None,
    as_json: AsJson = False,
) -> None:
    """The image through the latent of an autoencoder, written as tif; the latents beside it as npy."""
    chosen = _chosen(model, "reconstruction")

    def predict(pixels: np.ndarray, size: float, stem: str) -> Said:
        import numpy as np

        from atomvision_ml.evaluation.gallery.pictures import image_picture

        found = chosen(pixels, size)
        path = _written(output, stem, found.reconstruction, size)
        latent = output / f"{stem}-latent.npy"
        np.save(latent, found.latent)
        left = pixels - found.reconstruction
        said = {
            "output": path,
            "latent": str(latent),
            "latent_shape": list(found.latent.shape),
            "explained_share": float(1 - left.var() / pixels.var()) if pixels.var() > 0 else None,
            "model": found.model,
        }
        return said, partial(image_picture, found.reconstruction, size)

    _run(
        chosen,
        Request(images, pixel_size_angstrom, image, local_normalisation, overlay, as_json),
        predict,
        _output_line,
    )


def _chosen(model: str | None, task: str) -> ChosenModel:
    """The model of that name, version or folder; by default the first of its task that can be used."""
    from atomvision_ml.models.checkpoint import CheckpointError
    from atomvision_ml.models.chosen import load_model
    from atomvision_ml.models.registry import model_names

    usable = _usable(task)
    valid = f"registered are {', '.join(model_names(task))}; usable without training {', '.join(usable) or 'none'}"
    if model is None:
        if not usable:
            _refuse(f"this installation has no released model for {task}; {valid}", "--model")
        model = usable[0]
    try:
        chosen = load_model(model)
    except CheckpointError as error:
        _refuse(f"unknown model {model!r} for {task}: {error}; {valid}", "--model")
    if chosen.spec.task != task:
        _refuse(f"{model} is a model for {chosen.spec.task}, not for {task}; {valid}", "--model")
    return chosen


def _usable(task: str) -> list[str]:
    """Registered models of a task that need no training or have a released checkpoint."""
    from atomvision_ml.models.checkpoint import released_names
    from atomvision_ml.models.registry import model_names, model_spec

    released = released_names()
    return [name for name in model_names(task) if model_spec(name).kind != "network" or name in released]


def _run(chosen: ChosenModel, asked: Request, predict: Predict, line: Callable[[dict[str, Any]], str]) -> None:
    """One line an image, in order; an unreadable or unsuited one gets its error, and the exit code is then 1."""
    from atomvision_ml.experiments.worker import FileReader

    if asked.pixel_size_angstrom is not None:
        check_positive(asked.pixel_size_angstrom, "--pixel-size-angstrom")
    if asked.overlay is not None:
        try:
            asked.overlay.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            _refuse(f"{asked.overlay} cannot be made: {error.strerror}", "--overlay")
    has_failed = False
    with FileReader() as reader:
        for path, stem in zip(asked.images, _stems(asked.images), strict=True):
            said = _said(chosen, asked, path, stem, predict, reader)
            has_failed |= "error" in said
            if asked.as_json:
                typer.echo(json.dumps(said, allow_nan=False))
            else:
                _print(path, said, line)
    raise typer.Exit(int(has_failed))


def _said(
    chosen: ChosenModel, asked: Request, path: Path, stem: str, predict: Predict, reader: FileReader
) -> dict[str, Any]:
    from atomvision_ml.images.preprocess import local_normalisation
    from atomvision_ml.models.domain import check_domain

    compared: dict[str, Any] = {}
    try:
        pixels, size = image_and_pixel_size(path, asked.pixel_size_angstrom, asked.number, reader)
        if asked.is_normalised:
            pixels = local_normalisation(pixels, size)
        domain = check_domain(pixels, size, model=chosen.name)
        compared = {"typicality": domain.typicality, "warnings": list(domain.warnings)}
        said, draw = predict(pixels, size, stem)
        if asked.overlay is not None:
            (asked.overlay / f"{stem}.png").write_bytes(draw())
    except (ValueError, OSError) as error:
        return {"image": str(path), "error": str(error), **compared}
    return {"image": str(path), **said, **compared}


def _print(path: Path, said: dict[str, Any], line: Callable[[dict[str, Any]], str]) -> None:
    typer.echo(f"{path}: {said['error'] if 'error' in said else line(said)}", err="error" in said)
    for warning in said.get("warnings", ()):
        typer.echo(f"{path}: warning: {warning}", err=True)
    if said.get("warnings"):
        typer.echo(
            f"{path}: warning: unlike the training images (typicality {said['typicality']:.2f}); "
            "stated probabilities and uncertainties are not known to hold",
            err=True,
        )


def _written(folder: Path, stem: str, image: np.ndarray, pixel_size_angstrom: float) -> str:
    from atomvision_ml.images.files import write_image

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.tif"
    write_image(path, image, pixel_size_angstrom)
    return str(path)


def _with_regions(
    atoms: list[dict[str, float]], probability: np.ndarray, pixels: np.ndarray, size: float
) -> list[dict[str, Any]]:
    """Each atom with maximum, minimum and mean of the image over its region, and the region's area in Å²."""
    from atomvision_ml.models.atom_finder import region_statistics

    places = [(atom["x_angstrom"], atom["y_angstrom"]) for atom in atoms]
    regions = region_statistics(places, probability, pixels, size)
    return [{**atom, "region": region} for atom, region in zip(atoms, regions, strict=True)]


def _position_uncertainty(fit: Any) -> float | None:
    """Median standard deviation of the fitted positions along an axis, from some fifty of the atoms."""
    import numpy as np

    if fit is None or not len(fit.intensities):
        return None
    some = np.arange(0, len(fit.intensities), max(1, len(fit.intensities) // 50))
    deviation = float(np.median(fit.deviations(some)[:, 1:] * fit.noise_left[some, None]))
    return deviation if np.isfinite(deviation) else None


def _stems(images: list[Path]) -> list[str]:
    """One stem an image for the files made of it; equal ones are numbered so that none overwrites another."""
    stems = [path.stem for path in images]
    return [stem if stems.count(stem) == 1 else f"{stem}-{n + 1}" for n, stem in enumerate(stems)]


def _lattice_line(said: dict[str, Any]) -> str:
    import numpy as np

    start = f"{said['lattice']} ({said['probabilities'][said['lattice']]:.0%})"
    if said["lattice_vectors_angstrom"] is None:
        return f"{start}  [{said['model']}]"
    a, b = (float(np.hypot(*vector)) for vector in said["lattice_vectors_angstrom"])
    (ax, ay), (bx, by) = said["lattice_vectors_angstrom"]
    angle = float(np.degrees(np.arccos(np.clip((ax * bx + ay * by) / (a * b), -1, 1))))
    cell = f"{start}, a = {a:.4f} Å, b = {b:.4f} Å, γ = {angle:.2f}°{_within_reach(said)}"
    return f"{cell}  [{said['model']}]"


def _within_reach(said: dict[str, Any]) -> str:
    """A word on a more symmetric class that an ordinary scan's distortion would hide, if none was allowed for."""
    from atomvision_ml.models.lattice_classes import SCAN_DISTORTION_PERCENT
    from atomvision_ml.structures.lattice import SYMMETRY_ORDER

    strains = said["strain_percent"]
    higher = [name for name in strains if SYMMETRY_ORDER[name] > SYMMETRY_ORDER[said["lattice"]]]
    near = [name for name in higher if strains[name] < 2 * SCAN_DISTORTION_PERCENT]
    if said["scan_distortion_percent"] or not near:
        return ""
    name = max(near, key=SYMMETRY_ORDER.__getitem__)
    return f" ({name} but for {strains[name]:.1f} % of strain: see --scan-distortion-percent)"


def _atoms_line(said: dict[str, Any]) -> str:
    return f"{len(said['atoms'])} atoms  [{said['model']}]"


def _defects_line(said: dict[str, Any]) -> str:
    kinds = [one["kind"] for one in said["defects"]]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "none"
    least = said["smallest_change"]
    reach = "" if least is None else f", changes from {least:.0%} up can be seen"
    return f"{counts} among {said['n_sites']} columns{reach}  [{said['model']}]"


def _output_line(said: dict[str, Any]) -> str:
    share = said.get("reproduced_share")
    return f"{said['output']}{'' if share is None else f', reproduces {share:.0%} of the variance'}  [{said['model']}]"


def _refuse(message: str, option: str) -> NoReturn:
    raise typer.BadParameter(message, param_hint=option)
