"""The task ``super_resolution``: images on a grid four times as fine, against the true ones.

Belongs here: parts, scores and pictures. Each item is judged in up to four parts: fine pixels of 0.2 and of 0.1 Å with
coarse pixels that integrate (the latter for every second image), and for every third image bicubic reduction as in the
paper, and a twentieth of the columns missing, which a method must not fill in. All fine images have 256 × 256 pixels in
the pose of the item's image; the dose falls on the coarse grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from atomvision_ml.evaluation.atom_matching import MATCH_ANGSTROM, columns_that_count, inside_field
from atomvision_ml.evaluation.gallery import pictures
from atomvision_ml.evaluation.gallery.entries import GalleryContext, add_picture, entry_head, method_name
from atomvision_ml.evaluation.holdout import ItemReader, OpenBlob
from atomvision_ml.evaluation.judging import Progress, Row, items_of, judge_items
from atomvision_ml.evaluation.resolution_baselines import (
    RadialSpectrum,
    fourier_ring_correlation,
    train_spectrum,
    upscaled_by_all,
)
from atomvision_ml.evaluation.sums import Evaluate, Figures, ratio
from atomvision_ml.images.atoms import laplacian_of_gaussian_atoms
from atomvision_ml.images.columns import Columns, atoms_in_view, columns_in_view, columns_of
from atomvision_ml.images.reduction import FACTOR, cubic_upsampled
from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.models.super_resolution.training import coarse_image, psnr_db
from atomvision_ml.models.training import stable_seed
from atomvision_ml.schemas.tables import table

Floats = NDArray[np.float64]

FINE_PX = 256
BORDER_PX = 16
"""Fine pixels at the border that do not count for PSNR, SSIM and ring correlation."""
FRC_LIMIT_PER_ANGSTROM = 1.0
"""Highest frequency of the ring correlation; the probe lets 0.7 % of it through."""
FRC_THRESHOLD = 1 / 7
_THRESHOLD, _DOUBT = 0.1, 0.05
"""Shares of the strongest response at which the detector sees an atom, and at which it may see one."""
_SHOWN_PART = "physical_0.2"
_CUT_ANGSTROM = 16.0


@dataclass(frozen=True)
class Part:
    """One way to make a coarse image of an item.

    Attributes:
        name: of the slice.
        fine_pixel_angstrom: pixel size of the fine grid.
        reduction: a name of :data:`atomvision_ml.images.reduction.REDUCTIONS`.
        every: it is done for every n-th image.
        missing_share: share of the columns that are taken out.
    """

    name: str
    fine_pixel_angstrom: float
    reduction: str
    every: int
    missing_share: float = 0.0


PARTS = (
    Part("physical_0.2", 0.2, "physical", every=1),
    Part("physical_0.1", 0.1, "physical", every=2),
    Part("bicubic_0.2", 0.2, "bicubic", every=3),
    Part("vacancies_0.2", 0.2, "physical", every=3, missing_share=0.05),
)
SLICES = {part.name: pl.col("part") == part.name for part in PARTS}


@dataclass(frozen=True)
class Problem:
    """A coarse image, the noise it holds, and the true fine image with its columns.

    Attributes:
        coarse: [64, 64] in 1/Å².
        noise_variance: of a coarse pixel, on average.
        truth: [256, 256] in 1/Å².
        columns_angstrom: (n, 2) true columns, merged within 1 Å.
        counts: (n,) which of them are to be found.
    """

    coarse: Floats
    noise_variance: float
    truth: Floats
    columns_angstrom: Floats
    counts: NDArray[np.bool_]


def predict_super_resolution(
    holdout: pl.DataFrame,
    training_set: pl.DataFrame,
    open_blob: OpenBlob,
    *,
    checkpoint: Path,
    model_id: str = "super_resolver",
    has_baselines: bool = True,
    processes: int = 1,
    progress: Progress | None = None,
) -> pa.Table:
    """A super-resolver, and the classical methods, on every part of every item.

    Baselines: ``bicubic`` (trivial: what a viewer does), ``fourier``, ``wiener`` (knows the coarse pixel's box, the
    spectrum of the train split and the noise level) and ``lattice_harmonics``.

    Args and errors as :func:`predict_segmentation`, and
        has_baselines: whether the classical methods are judged too; once per task is enough.

    Returns:
        ``predictions/<model>``: for each item and part one row, or five.
    """
    rows = items_of(holdout, "super_resolution")
    spectra = {
        pixel: train_spectrum(training_set, open_blob, pixel)
        for pixel in {part.fine_pixel_angstrom for part in PARTS}
        if has_baselines
    }
    judge = partial(_judge, spectra=spectra, model_id=model_id, checkpoint=checkpoint)
    return judge_items(table(f"predictions/{model_id.partition('@')[0]}"), judge, rows, open_blob, processes, progress)


def parts_of(row: Row) -> list[Part]:
    """The parts in which an item is judged; by a hash of its image, so that all doses have the same."""
    return [part for part in PARTS if stable_seed(part.name, row["image_id"]) % part.every == 0]


def problem_of(row: Row, reader: ItemReader, part: Part) -> Problem:
    """The coarse and the fine image of one part of an item; the counts depend on item and part alone."""
    pose, projection = reader.view(row), reader.projection(row)
    view = View(part.fine_pixel_angstrom, FINE_PX, pose.rotation_deg, pose.shift_angstrom)
    truth = render_batch([projection], [view])[0].astype(np.float64)
    random = np.random.default_rng(stable_seed(row["item_id"], part.name))
    dose = row["mean_detected_e_per_a2"]
    columns = columns_in_view(columns_of(projection), projection.periods_angstrom, view)
    if part.missing_share > 0 and columns_that_count(columns, _field(view)).any():
        truth, columns = _without(truth, projection, view, columns, part.missing_share, random)
    coarse, noise = coarse_image(truth, part.fine_pixel_angstrom, dose, part.reduction, random)
    return Problem(coarse, noise, truth, columns.positions_angstrom, columns_that_count(columns, _field(view)))


def _without(
    truth: Floats, projection: Projection, view: View, columns: Columns, share: float, random: np.random.Generator
) -> tuple[Floats, Columns]:
    """The image and its columns, with a share of those that count taken out, atom by atom."""
    from scipy.spatial import cKDTree

    counting = np.flatnonzero(columns_that_count(columns, _field(view)))
    taken = random.choice(counting, max(1, round(share * len(counting))), replace=False)
    atoms, index = atoms_in_view(projection.positions_angstrom, projection.periods_angstrom, view)
    is_taken = np.isin(cKDTree(columns.positions_angstrom).query(atoms)[1], taken)
    holes = Projection(atoms[is_taken], -projection.weights[index[is_taken]], np.zeros((0, 2)))
    flat = View(view.pixel_size_angstrom, view.size_px)
    left = np.setdiff1d(np.arange(len(columns.weights)), taken)
    image = np.clip(truth + render_batch([holes], [flat])[0], 0, None)
    return image, columns.take(left, columns.positions_angstrom[left])


def _judge(
    row: Row, reader: ItemReader, spectra: dict[float, RadialSpectrum], model_id: str, checkpoint: Path
) -> list[Row]:
    from atomvision_ml.models.super_resolution.resolver import upscale

    answers = []
    for part in parts_of(row):
        problem = problem_of(row, reader, part)
        pixel = part.fine_pixel_angstrom
        judged = _Judged(row, part, problem)
        fine = upscale(problem.coarse, FACTOR * pixel, checkpoint, noise_variance=problem.noise_variance).image
        answers.append(judged.row(model_id, "model", fine.astype(np.float64)))
        if spectra:
            classical = upscaled_by_all(problem.coarse, pixel, problem.noise_variance, spectra[pixel])
            answers += [
                judged.row(name, "trivial" if name == "bicubic" else "classical", image)
                for name, image in classical.items()
            ]
    return answers


class _Judged:
    """Scores of one part of an item; what concerns the true image is computed once."""

    def __init__(self, row: Row, part: Part, problem: Problem) -> None:
        self.item, self.part, self.problem = row["item_id"], part, problem
        self.field = _field(View(part.fine_pixel_angstrom, FINE_PX))
        self.true_atoms = self._atoms(problem.truth)
        self.control = self._squared_error(self._certain(self.true_atoms))

    def row(self, name: str, role: str, image: Floats) -> Row:
        from skimage.metrics import structural_similarity

        truth, pixel = self.problem.truth, self.part.fine_pixel_angstrom
        inside = (slice(BORDER_PX, -BORDER_PX),) * 2
        span = float(truth[inside].max() - truth[inside].min())
        similarity = structural_similarity(truth[inside], image[inside], data_range=span)
        frequency, correlation = fourier_ring_correlation(image[inside], truth[inside], pixel)
        known = frequency <= FRC_LIMIT_PER_ANGSTROM
        below = frequency[known & (correlation < FRC_THRESHOLD)]
        atoms = self._atoms(image)
        return {
            "item_id": self.item,
            "model_id": name,
            "role": role,
            "part": self.part.name,
            "fine_pixel_angstrom": pixel,
            "reduction": self.part.reduction,
            "psnr_db": psnr_db(image, truth, BORDER_PX),
            "ssim": float(similarity),
            "frc_mean": float(correlation[known].mean()) if known.any() else 0.0,
            "frc_limit_per_angstrom": float(below[0]) if len(below) else FRC_LIMIT_PER_ANGSTROM,
            **self._columns(atoms),
        }

    def _atoms(self, image: Floats) -> Floats:
        """x, y and share of the strongest response, of all that may be an atom."""
        found = laplacian_of_gaussian_atoms(image, self.part.fine_pixel_angstrom, relative_threshold=_DOUBT)
        return np.column_stack([found[:, :2], found[:, 2] / found[:, 2].max(initial=1e-300)])

    def _certain(self, atoms: Floats) -> Floats:
        return atoms[(atoms[:, 2] >= _THRESHOLD) & inside_field(atoms[:, :2], self.field)]

    def _columns(self, atoms: Floats) -> dict[str, float | int]:
        certain, true_certain = self._certain(atoms), self._certain(self.true_atoms)
        known = np.vstack([self.true_atoms[:, :2], self.problem.columns_angstrom])
        n_matched, squared = self._squared_error(certain)
        return {
            "n_columns": len(true_certain),
            "n_invented": int((_distances(certain[:, :2], known) > MATCH_ANGSTROM).sum()),
            "n_lost": int((_distances(true_certain[:, :2], atoms[:, :2]) > MATCH_ANGSTROM).sum()),
            "n_matched": n_matched,
            "squared_error_angstrom2": squared,
            "n_matched_true_image": self.control[0],
            "squared_error_true_image_angstrom2": self.control[1],
        }

    def _squared_error(self, atoms: Floats) -> tuple[int, float]:
        """True columns that count with an atom within 0.5 Å, and the sum of their squared distances to it."""
        wanted = self.problem.columns_angstrom[self.problem.counts]
        distance = _distances(wanted, atoms[:, :2])
        near = distance[distance <= MATCH_ANGSTROM]
        return len(near), float((near**2).sum())


def _distances(places: Floats, others: Floats) -> Floats:
    """Distance of each place to the nearest other one; atoms lie at least 0.6 Å apart, so that pairs are unique."""
    from scipy.spatial import cKDTree

    if not len(others):
        return np.full(len(places), np.inf)
    return cKDTree(others).query(places)[0] if len(places) else np.zeros(0)


def _field(view: View) -> tuple[float, float]:
    edge = (view.size_px - 1) * view.pixel_size_angstrom
    return edge, edge


def sums(answers: pl.DataFrame) -> tuple[Figures, Evaluate]:
    """What the figures are made of; see :class:`atomvision_ml.evaluation.tasks.Task`."""
    names = (
        "psnr_db",
        "ssim",
        "frc_mean",
        "frc_limit_per_angstrom",
        "n_columns",
        "n_invented",
        "n_lost",
        "n_matched",
        "squared_error_angstrom2",
        "n_matched_true_image",
        "squared_error_true_image_angstrom2",
    )
    sums = {name: answers[name].to_numpy().astype(float) for name in names}
    sums["n_images"] = np.ones(answers.height)
    return sums, _figures


def _figures(sums: Figures) -> Figures:
    images, columns = sums["n_images"], sums["n_columns"]
    true_error = ratio(sums["squared_error_true_image_angstrom2"], 2 * sums["n_matched_true_image"])
    return {
        "psnr_db": ratio(sums["psnr_db"], images),
        "ssim": ratio(sums["ssim"], images),
        "frc_mean": ratio(sums["frc_mean"], images),
        "frc_limit_per_angstrom": ratio(sums["frc_limit_per_angstrom"], images),
        "position_rmse_angstrom": np.sqrt(ratio(sums["squared_error_angstrom2"], 2 * sums["n_matched"])),
        "position_rmse_true_image_angstrom": np.sqrt(true_error),
        "invented_rate": ratio(sums["n_invented"], columns),
        "lost_rate": ratio(sums["n_lost"], columns),
    }


def draw(row: Row, context: GalleryContext) -> Row:
    """The entry of one item in the gallery: the part with fine pixels of 0.2 Å and integrating coarse ones."""
    part = next(part for part in PARTS if part.name == _SHOWN_PART)
    problem = problem_of(row, context.reader, part)
    pixel = part.fine_pixel_angstrom
    cut = round(_CUT_ANGSTROM / (FACTOR * pixel))
    shown: dict[str, tuple[NDArray[np.floating], float]] = {
        "low resolution": (problem.coarse[:cut, :cut], FACTOR * pixel)
    }
    corner = (slice(FACTOR * cut), slice(FACTOR * cut))
    shown["bicubic"] = (cubic_upsampled(problem.coarse)[corner], pixel)
    for name in ("super_resolver", "srgan"):
        if context.checkpoints.get(name) is not None:
            fine = _upscaled(problem, pixel, context.checkpoints[name])
            shown[name.replace("_", " ")] = (fine[corner], pixel)
    shown["true image"] = (problem.truth[corner], pixel)
    answers = [answer for answer in context.answers[row["item_id"]] if answer["part"] == _SHOWN_PART]
    return {
        **entry_head(row),
        "pixel": f"from {FACTOR * pixel:g} to {pixel:g} Å per pixel, corner of {_CUT_ANGSTROM:g} Å",
        "is_right": None,
        "pictures": [
            add_picture(context, row, name, name, pictures.image_picture(image, size))
            for name, (image, size) in shown.items()
        ],
        "facts": [
            (f"PSNR of {method_name(answer)}", f"{answer['psnr_db']:.1f} dB, {answer['n_invented']} columns invented")
            for answer in answers
        ],
        "bars": [],
    }


def _upscaled(problem: Problem, fine_pixel_angstrom: float, checkpoint: Path) -> NDArray[np.float32]:
    from atomvision_ml.models.super_resolution.resolver import upscale

    pixel = FACTOR * fine_pixel_angstrom
    return upscale(problem.coarse, pixel, checkpoint, noise_variance=problem.noise_variance).image
