"""Audits of STEM images made by others, whose intensity scale, offset, probe and pose are unknown.

Belongs here: finding images and their structures, fitting what is unknown, and putting the questions of
:mod:`atomvision_ml.images.audits` to the result. Images are taken to be free of noise, as simulations are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from atomvision_ml.images.audits import (
    AuditResult,
    Specimen,
    coincident_atoms_add,
    images_agree_with_direct_sum,
    images_have_the_plane_group_symmetry,
    intensity_sum_is_conserved,
    symmetry_deviation,
    windowed_mean,
)
from atomvision_ml.images.files import (
    SUFFIXES,
    ImageFileError,
    StructureFileError,
    read_image,
    read_pixel_size,
    read_structure,
)
from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.images.stem_set import StemSet
from atomvision_ml.structures.lattice import reduce_cell

PROBE_WIDTHS = (1.0, 1.8, 3.2)
"""Widths, in units of the fitted σ, of the three Gaussians that stand for a probe with tails."""

MINIMUM_CORRELATION = 0.8
_GOOD = 0.99
_HOPELESS = 0.3
"""Correlation at the best shift in whole pixels below which no refinement helps."""

_DECISIVE = 0.75
"""Ratio of the residuals of two hypotheses below which the better one is taken as shown."""

SUM_TOLERANCE = 0.02
SYMMETRY_TOLERANCE = 0.06
EDGE_ANGSTROM = 2.5
"""Width of the border that is left out: convolution codes that drop atoms outside the field are wrong there."""


class ForeignAuditError(ValueError):
    """The audit cannot begin; the message says what is missing."""


@dataclass(frozen=True)
class Claim:
    """An image and the structure that it is said to show; the pose is known for sets of this platform only."""

    image: np.ndarray
    specimen: Specimen
    has_pose: bool
    is_eight_bit: bool


@dataclass(frozen=True)
class Fit:
    """Pose and probe found for an image.

    Attributes:
        specimen: with the pose and σ that were found.
        image: [y, x]; transposed if the image was made with x along rows.
        correlation: of the image with the best model.
        residuals: standard deviation of what the model leaves, relative to the image's: (all atoms, coincident atoms
            of one element counted once).
        site_intensities: mean fitted intensity of each kind of site, by its atoms, relative to the largest.
    """

    specimen: Specimen
    image: np.ndarray
    correlation: float
    residuals: tuple[float, float]
    site_intensities: dict[str, float]


def audit_images(
    images: str | Path,
    structures: str | Path,
    *,
    pixel_size_angstrom: float | None = None,
    sigma_angstrom: float = 0.5,
    z_exponent: float = 1.7,
    rotation_deg: float | None = None,
) -> list[AuditResult]:
    """Tell whether a simulated STEM set lost coincident atoms, its intensity sum or its symmetry.

    Args:
        images: an image file, a folder of them, or a Zarr group (of this platform, or with an array ``images``
            (n, y, x) and an attribute ``image_ids``).
        structures: a structure file, a folder of them, or a Parquet table ``structures/slabs``; an image belongs to
            the structure with the same file name stem (or slab id).
        pixel_size_angstrom: edge of a pixel; sets of this platform know theirs.
        sigma_angstrom: standard deviation of the probe, about; it is fitted.
        z_exponent: p in Z^p.
        rotation_deg: rotation of the structure in the image if known; otherwise it is looked for.

    Returns:
        One result for each audit over all images.

    Raises:
        ForeignAuditError: nothing to audit, or the pixel size is missing.
    """
    problems: dict[str, str] = {}
    source = _Structures(Path(structures), z_exponent)
    claims = list(_claims(Path(images), source, pixel_size_angstrom, sigma_angstrom, z_exponent, problems))
    if not claims and not problems:
        raise ForeignAuditError(f"{images}: no image found")
    known = [claim for claim in claims if claim.has_pose]
    fits: list[tuple[Claim, Fit]] = []
    for claim in (claim for claim in claims if not claim.has_pose):
        fit = fit_image(claim.specimen, claim.image, rotation_deg)
        if fit.correlation < MINIMUM_CORRELATION:
            problems[claim.specimen.image_id] = (
                f"does not look like its structure (correlation {fit.correlation:.2f}); check the pixel size"
            )
        else:
            fits.append((claim, fit))
    results = [_all_can_be_judged(len(claims), problems)]
    if known:
        pairs = [(claim.specimen, claim.image) for claim in known]
        audits = (
            images_agree_with_direct_sum,
            coincident_atoms_add,
            intensity_sum_is_conserved,
            images_have_the_plane_group_symmetry,
        )
        results += [audit(pairs) for audit in audits]
    if fits:
        results += [_coincident_atoms_add(fits), _intensity_sum_is_conserved(fits), _symmetry(fits)]
    return results


def _all_can_be_judged(count: int, problems: dict[str, str]) -> AuditResult:
    text = f"{count} images"
    if problems:
        text = "; ".join(f"{name}: {reason}" for name, reason in [*problems.items()][:5])
    return AuditResult("images_show_their_structures", not problems, text, {"problems": problems})


def _coincident_atoms_add(fits: list[tuple[Claim, Fit]]) -> AuditResult:
    """Compare the fit with all atoms to the fit with coincident atoms of one element counted once."""
    lost: list[str] = []
    kept: list[str] = []
    details: dict[str, dict[str, Any]] = {}
    for claim, fit in fits:
        full, once = fit.residuals
        name = claim.specimen.image_id
        details[name] = {"residual_all": full, "residual_once": once, "site_intensities": fit.site_intensities}
        if _counts_once(fit):
            lost.append(name)
        elif full < _DECISIVE * once:
            kept.append(name)
    text = f"{len(kept)} images have the intensity of all coincident atoms, {len(fits) - len(kept)} cannot tell"
    if lost:
        example = details[lost[0]]["site_intensities"]
        shown = ", ".join(f"{site} {value:.3f}" for site, value in example.items())
        text = (
            f"{len(lost)} of {len(lost) + len(kept)} images count coincident atoms of one element once: "
            f"{lost[0]} has site intensities {shown}"
        )
    return AuditResult("coincident_atoms_add", (not lost) if lost or kept else None, text, {"images": details})


def _counts_once(fit: Fit) -> bool:
    full, once = fit.residuals
    return once < _DECISIVE * full


def _intensity_sum_is_conserved(fits: list[tuple[Claim, Fit]]) -> AuditResult:
    """Mean density over ΣZ^p per area must be one number for all images: the intensity scale.

    The scale is the median over images that did not lose coincident atoms, if there are any.
    """
    name = "intensity_sum_is_conserved"
    judged = {
        claim.specimen.image_id: windowed_mean(claim.image)
        * claim.specimen.area_angstrom2
        / float(claim.specimen.weights.sum())
        for claim, _ in fits
        if not claim.is_eight_bit
    }
    lost = {claim.specimen.image_id for claim, fit in fits if _counts_once(fit)}
    trusted = [value for key, value in judged.items() if key not in lost] or [*judged.values()]
    scale = float(np.median(trusted)) if trusted else 0.0
    if len(judged) < 3 and abs(scale - 1) > SUM_TOLERANCE:
        text = "needs three images in numbers (not 8-bit), or unscaled ones: the intensity scale is unknown"
        return AuditResult(name, None, text, {"scales": judged})
    failed = [key for key, value in judged.items() if not abs(value - scale) <= SUM_TOLERANCE * abs(scale)]
    text = f"{len(judged)} images share the scale {scale:.4g} within {SUM_TOLERANCE:.0%}"
    if failed:
        lines = ", ".join(f"{key} has {judged[key] / scale:.3f} of it" for key in failed[:5])
        text = f"{len(failed)} of {len(judged)} images miss the common scale {scale:.4g}: {lines}"
    return AuditResult(name, not failed, text, {"scales": judged, "failed": failed})


def _symmetry(fits: list[tuple[Claim, Fit]]) -> AuditResult:
    found = {}
    for claim, fit in fits:
        margin = max(10, int(np.ceil(EDGE_ANGSTROM / fit.specimen.view.pixel_size_angstrom)))
        value = symmetry_deviation(fit.specimen, fit.image - fit.image.min(), margin_px=margin, symprec_angstrom=1e-3)
        if value is not None:
            found[claim.specimen.image_id] = value
    failed = {key: value for key, value in found.items() if value > SYMMETRY_TOLERANCE}
    largest = max(found.values(), default=0.0)
    text = f"{len(found)} images, largest deviation {largest:.1%} of the range, allowed {SYMMETRY_TOLERANCE:.0%}"
    if failed:
        text = f"{len(failed)} of {len(found)} images: " + ", ".join(f"{k} {v:.1%}" for k, v in [*failed.items()][:5])
    return AuditResult(
        "images_have_the_plane_group_symmetry", not failed if found else None, text, {"deviations": found}
    )


def fit_image(specimen: Specimen, image: np.ndarray, rotation_deg: float | None = None) -> Fit:
    """Find pose and probe of an image, then its site intensities.

    The model is offset + Σ_k s_k · (structure ∗ Gaussian of width k·σ); shift, rotation and σ are found by correlation
    (FFT) and refined by the simplex method; both axis orders are tried.
    """
    given = [0.0] if rotation_deg is None else [rotation_deg]
    best = _refined(specimen, image, given)
    if best.correlation < _GOOD:
        best = max(best, _refined(specimen, image.T, given), key=lambda fit: fit.correlation)
    if best.correlation < _GOOD and rotation_deg is None:
        searched = [_refined(specimen, picture, _likely_angles(specimen, picture)) for picture in (image, image.T)]
        best = max(best, *searched, key=lambda fit: fit.correlation)
    return best


def _refined(specimen: Specimen, image: np.ndarray, angles: list[float]) -> Fit:
    from scipy.optimize import minimize

    starts = [_aligned(specimen, image, angle) for angle in angles]
    start = max(starts, key=lambda posed: _correlation(posed, image))
    view = start.view
    if _correlation(start, image) < _HOPELESS:
        return _fit(start, image)

    def posed(values: np.ndarray) -> Specimen:
        turned = replace(view, rotation_deg=float(values[2]), shift_angstrom=(float(values[0]), float(values[1])))
        return replace(start, view=turned, sigma_angstrom=start.sigma_angstrom * float(np.exp(values[3])))

    first = np.array([*view.shift_angstrom, view.rotation_deg, 0.0])
    steps = np.vstack([np.zeros(4), np.diag([view.pixel_size_angstrom, view.pixel_size_angstrom, 0.3, 0.15])])
    options: dict[str, Any] = {"maxfev": 150, "xatol": 1e-4, "fatol": 1e-7}
    for shrink in (1.0, 0.1):
        options["initial_simplex"] = first + shrink * steps
        first = minimize(lambda v: -_correlation(posed(v), image), first, method="Nelder-Mead", options=options).x
    return _fit(posed(first), image)


def _templates(specimen: Specimen, weights: np.ndarray, widths: tuple[float, ...] = (1.0,)) -> np.ndarray:
    """Images (len(widths), y, x) of the structure with these weights."""
    projection = Projection(specimen.positions_angstrom, weights, reduce_cell(specimen.cell_angstrom))
    return np.concatenate(
        [
            render_batch([projection], [specimen.view], sigma_angstrom=width * specimen.sigma_angstrom)
            for width in widths
        ]
    ).astype(float)


def _inner(image: np.ndarray, specimen: Specimen) -> np.ndarray:
    """The image without its border, flattened over the last two axes."""
    edge = min(int(np.ceil(EDGE_ANGSTROM / specimen.view.pixel_size_angstrom)), image.shape[-1] // 4)
    inside = slice(edge, image.shape[-1] - edge)
    return image[..., inside, inside].reshape(*image.shape[:-2], -1)


def _correlation(specimen: Specimen, image: np.ndarray) -> float:
    """Correlation of the image with the structure, all atoms or coincident ones once, whichever is higher."""
    target = _inner(image, specimen)
    return max(_coefficient(target, _inner(_templates(specimen, w)[0], specimen)) for w in _hypotheses(specimen))


def _hypotheses(specimen: Specimen) -> list[np.ndarray]:
    """Weights of all atoms, and, where that is something else, with coincident atoms of one element once."""
    full, once = specimen.weights, specimen.once_weights()
    return [full] if np.array_equal(full, once) else [full, once]


def _coefficient(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0


def _aligned(specimen: Specimen, image: np.ndarray, angle: float) -> Specimen:
    """The specimen at that rotation, shifted to where its cross-correlation with the image is highest."""
    view = replace(specimen.view, rotation_deg=angle, shift_angstrom=(0.0, 0.0))
    template = _templates(replace(specimen, view=view), specimen.weights)[0]
    window = np.outer(np.hanning(image.shape[0]), np.hanning(image.shape[1]))
    spectra = [np.fft.rfft2(window * (picture - picture.mean())) for picture in (image, template)]
    correlation = np.fft.irfft2(spectra[0] * spectra[1].conj(), image.shape)
    rows, columns = np.unravel_index(np.argmax(correlation), image.shape)
    size = view.size_px
    shift = [float((n + size // 2) % size - size // 2) * view.pixel_size_angstrom for n in (columns, rows)]
    return replace(specimen, view=replace(view, shift_angstrom=(shift[0], shift[1])))


def _likely_angles(specimen: Specimen, image: np.ndarray, count: int = 3) -> list[float]:
    """Rotations at which the structure's reflections lie on maxima of the image's spectrum; both signs of g."""
    from scipy.ndimage import map_coordinates

    from atomvision_ml.images.stem import fourier_terms

    px, size = specimen.view.pixel_size_angstrom, image.shape[0]
    window = np.outer(np.hanning(size), np.hanning(size))
    padded = 2 * size
    spectrum = np.abs(np.fft.fftshift(np.fft.fft2(window * (image - image.mean()), (padded, padded))))
    projection = Projection(specimen.positions_angstrom, specimen.weights, reduce_cell(specimen.cell_angstrom))
    terms = fourier_terms(projection, specimen.sigma_angstrom, 1e-4)
    if terms is None:
        return [0.0]
    weight = np.abs(terms.amplitudes) * (np.linalg.norm(terms.g_per_angstrom, axis=1) > 0)
    angles = np.arange(0.0, 180.0, 0.25)
    radians = np.deg2rad(angles)
    gx, gy = terms.g_per_angstrom.T
    x = np.cos(radians)[:, None] * gx - np.sin(radians)[:, None] * gy
    y = np.sin(radians)[:, None] * gx + np.cos(radians)[:, None] * gy
    at = np.stack([y, x]) * px * padded + padded // 2
    scores = map_coordinates(spectrum, at.reshape(2, -1), order=1, mode="constant").reshape(x.shape) @ weight
    peaks = np.flatnonzero((scores >= np.roll(scores, 1)) & (scores > np.roll(scores, -1)))
    chosen = angles[peaks[np.argsort(-scores[peaks])[:count]]] if len(peaks) else angles[[int(np.argmax(scores))]]
    return [float(angle + turn) for angle in chosen for turn in (0.0, 180.0)]


def _fit(specimen: Specimen, image: np.ndarray) -> Fit:
    """Linear fit of offset and probe under both hypotheses, then of the intensity of each kind of site."""
    target = _inner(image, specimen)
    spread = float(target.std()) or 1.0
    residuals, probes = [], []
    for weights in _hypotheses(specimen):
        model = _inner(_templates(specimen, weights, PROBE_WIDTHS), specimen)
        design = np.vstack([np.ones(model.shape[1]), model]).T
        solution = np.linalg.lstsq(design, target, rcond=None)[0]
        residuals.append(float((target - design @ solution).std()) / spread)
        probes.append(solution[1:])
    probe = probes[int(np.argmin(residuals))]
    correlation = float(np.sqrt(max(0.0, 1 - min(residuals) ** 2)))
    return Fit(specimen, image, correlation, (residuals[0], residuals[-1]), _site_intensities(specimen, target, probe))


def _site_intensities(specimen: Specimen, target: np.ndarray, probe: np.ndarray) -> dict[str, float]:
    """Least-squares intensity of each kind of site, relative to the largest."""
    from ase.formula import Formula

    kinds: dict[str, list[int]] = {}
    for group in specimen.sites():
        name = Formula.from_list(_symbols(specimen.numbers[group])).format("hill")
        kinds.setdefault(name, []).append(int(group[0]))
    models = []
    for atoms in kinds.values():
        weights = np.zeros(len(specimen.numbers))
        weights[atoms] = 1.0
        models.append(probe @ _inner(_templates(specimen, weights, PROBE_WIDTHS), specimen))
    design = np.vstack([np.ones(len(target)), *models]).T
    fitted = np.linalg.lstsq(design, target, rcond=None)[0][1:]
    largest = float(np.abs(fitted).max()) or 1.0
    return {name: float(value) / largest for name, value in zip(kinds, fitted, strict=True)}


def _symbols(numbers: np.ndarray) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[number] for number in numbers]


class _Structures:
    """Structures by name: one file for every image, a folder of files by stem, or a table of slabs by id."""

    def __init__(self, path: Path, z_exponent: float) -> None:
        self._single = path if path.is_file() and path.suffix != ".parquet" else None
        self._files: dict[str, Path] = {}
        self._slabs: dict[str, dict] = {}
        if path.is_dir():
            self._files = {file.stem: file for file in sorted(path.iterdir()) if file.is_file()}
        elif path.suffix == ".parquet" and path.is_file():
            columns = ["slab_id", "status", "numbers", "positions_angstrom", "cell_angstrom"]
            slabs = pl.read_parquet(path, columns=columns).filter(pl.col("status") == "accepted")
            self._slabs = {slab["slab_id"]: slab for slab in slabs.iter_rows(named=True)}
        elif self._single is None:
            raise ForeignAuditError(f"{path}: no such file or folder of structures")

    def find(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers (n,), in-plane positions (n, 2) and cell (2, 2); raises StructureFileError."""
        names = [name, name.split("#")[0], name.split("#")[0].split(":")[-1]]
        for slab in (self._slabs[key] for key in names if key in self._slabs):
            positions = np.reshape(slab["positions_angstrom"], (-1, 3))
            return np.asarray(slab["numbers"]), positions[:, :2], np.reshape(slab["cell_angstrom"], (3, 3))[:2, :2]
        path = self._single or next((self._files[key] for key in names if key in self._files), None)
        if path is None:
            raise StructureFileError(f"there is no structure named {names[-1]}")
        atoms = read_structure(path)
        cell = atoms.cell.array[:2, :2]
        if not atoms.pbc[:2].all() or abs(np.linalg.det(cell)) < 1e-3:
            raise StructureFileError(f"{path}: not a layer that is periodic in (x, y)")
        return atoms.numbers, atoms.positions[:, :2], cell


@dataclass(frozen=True)
class _Picture:
    """An image as found; pose and probe are known for sets of this platform."""

    image: np.ndarray
    is_eight_bit: bool
    pixel_size_angstrom: float | None = None
    view: View | None = None
    probe: tuple[float, float] | None = None


def _claims(
    images: Path,
    structures: _Structures,
    pixel_size: float | None,
    sigma: float,
    z_exponent: float,
    problems: dict[str, str],
) -> Iterator[Claim]:
    """Every readable image with its structure; what cannot be read goes to ``problems`` by name."""
    for name, load in _pictures(images):
        try:
            picture = load()
            numbers, positions, cell = structures.find(name)
        except (ImageFileError, StructureFileError) as error:
            problems[name] = str(error)
            continue
        known = pixel_size or picture.pixel_size_angstrom
        if picture.view is None and known is None:
            raise ForeignAuditError(f"{name}: give --pixel-size-angstrom; this image does not tell its pixel size")
        edge = min(picture.image.shape)
        view = picture.view or View(float(known or 0.0), edge)
        width, exponent = picture.probe or (sigma, z_exponent)
        specimen = Specimen(name, np.asarray(numbers), positions, cell, view, width, exponent)
        yield Claim(picture.image[:edge, :edge], specimen, picture.view is not None, picture.is_eight_bit)


def _pictures(path: Path) -> Iterator[tuple[str, Callable[[], _Picture]]]:
    """Name and loader of every image."""
    if path.is_file():
        yield path.stem, lambda: _picture(path)
    elif (path / "zarr.json").is_file() or (path / ".zgroup").is_file():
        yield from _zarr_pictures(path)
    elif path.is_dir():
        for file in sorted(path.iterdir()):
            if file.suffix.lower() in SUFFIXES:
                yield file.stem, partial(_picture, file)
    else:
        raise ForeignAuditError(f"{path}: no such file or folder of images")


def _picture(path: Path) -> _Picture:
    image = read_image(path)
    if min(image.shape) < 32:
        raise ImageFileError(f"{path}: {image.shape[0]} × {image.shape[1]} px are too few to find a structure in")
    return _Picture(image, path.suffix.lower() == ".png", read_pixel_size(path))


def _zarr_pictures(path: Path) -> Iterator[tuple[str, Callable[[], _Picture]]]:
    import zarr

    try:
        own = StemSet.open(path)
    except ValueError:
        group = zarr.open_group(str(path), mode="r")
        images = group.get("images")
        if not isinstance(images, zarr.Array) or images.ndim != 3:
            raise ForeignAuditError(f"{path}: this Zarr group has no array `images` (n, y, x)") from None
        names = group.attrs.get("image_ids")
        for n in range(images.shape[0]):
            name = str(names[n]) if isinstance(names, list) and n < len(names) else str(n)
            yield name, partial(lambda n: _Picture(np.asarray(images[n], float), False), n)
        return
    probe = (own.parameters.sigma_angstrom, own.parameters.z_exponent)
    for n, name in enumerate(own.image_ids):
        yield name, partial(lambda n: _Picture(own.image(n).astype(float), False, None, own.view(n), probe), n)
