"""How good a mask of atoms can be at all: that of an ideal estimator of positions, at the Cramér-Rao bound.

Belongs here: masks drawn at the bound. ``python -m atomvision_ml.evaluation.mask_bounds --root ROOT`` holds the
published segmenters against them.

A pixel is *atom* if its centre lies within 0.5 Å of a column, so a mask is as good as the positions behind it. The
``ideal`` estimator knows probe, background, how many columns there are and which atoms each is made of; its positions
scatter about the true ones with the joint bound as covariance (:mod:`atomvision_ml.evaluation.atom_bounds`).
``ideal_5`` is not told of the columns: it draws those alone whose intensity stands out by five standard deviations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.evaluation.answers import name_of
from atomvision_ml.evaluation.atom_bounds import column_information
from atomvision_ml.evaluation.baselines import mask_iou
from atomvision_ml.evaluation.holdout import ItemReader
from atomvision_ml.evaluation.metrics import paired_difference
from atomvision_ml.evaluation.slices import is_resolvable
from atomvision_ml.images.columns import column_mask
from atomvision_ml.images.stem import Projection, View
from atomvision_ml.models.training import stable_seed
from atomvision_ml.storage.keys import EVALUATION_HOLDOUT

Floats = NDArray[np.float64]

RADIUS_ANGSTROM = 0.5
MODELS = ("refined_segmenter", "segmenter", "gaussian_segmenter")
_RIDGE = 1e-6
_SIGNIFICANCE = 5.0  # as the refined segmenter demands it


@dataclass(frozen=True)
class Scatter:
    """An ideal estimator's errors at 1 detected e/Å²; at another dose they are smaller by its square root.

    Attributes:
        positions_angstrom: (n, 2), true columns.
        errors_angstrom: (draws, n, 2).
        position_deviations_angstrom: (n,), standard deviations, the larger of both axes.
        intensity_deviations: (n,), standard deviations as shares of each column's intensity.
    """

    positions_angstrom: Floats
    errors_angstrom: Floats
    position_deviations_angstrom: Floats
    intensity_deviations: Floats


def position_scatter(image: ArrayLike, projection: Projection, view: View, draws: int, seed: int) -> Scatter:
    """Errors drawn from the joint bound of all columns that reach into an image.

    A ridge of 1e-6 of the median column's information stands for what is known of columns that the image hardly shows,
    so that the covariance is never singular.

    Args:
        image: [y, x], noiseless.
        projection: the structure.
        view: its pose.
        draws: number of draws.
        seed: of the draws.
    """
    from scipy.linalg import cholesky, solve_triangular

    columns, information = column_information(image, projection, view, mean_detected_e_per_a2=1.0, has_tails=True)
    matrix = information.toarray()
    known = matrix.diagonal().reshape(-1, 3)
    matrix[np.diag_indices_from(matrix)] += (_RIDGE * np.median(known, axis=0) * np.ones_like(known)).ravel()
    scale = 1 / np.sqrt(matrix.diagonal())
    factor = cholesky(scale[:, None] * matrix * scale, overwrite_a=True)
    root = scale[:, None] * solve_triangular(factor, np.eye(len(scale)))
    deviations = np.sqrt((root**2).sum(axis=1)).reshape(-1, 3)
    errors = root @ np.random.default_rng(seed).standard_normal((len(scale), draws))
    return Scatter(
        columns.positions_angstrom,
        errors.T.reshape(draws, -1, 3)[:, :, 1:],
        deviations[:, 1:].max(axis=1),
        deviations[:, 0],
    )


def ideal_ious(
    truth: NDArray[np.bool_],
    scatter: Scatter,
    pixel_size_angstrom: float,
    mean_detected_e_per_a2: float,
    *,
    least_significance: float = 0.0,
) -> Floats:
    """IoU (draws,) of the disks that an ideal estimator draws; columns known worse than their radius are left out.

    Args:
        truth: [y, x], the true mask.
        scatter: of the image.
        pixel_size_angstrom: edge of a pixel in Å.
        mean_detected_e_per_a2: dose; infinite for no noise.
        least_significance: standard deviations by which a column's intensity must exceed zero to be drawn.
    """
    noise = 1 / np.sqrt(mean_detected_e_per_a2)
    is_drawn = scatter.position_deviations_angstrom * noise <= RADIUS_ANGSTROM
    is_drawn &= scatter.intensity_deviations * noise * least_significance <= 1
    places = (scatter.positions_angstrom + noise * scatter.errors_angstrom)[:, is_drawn]
    return np.array([mask_iou(column_mask(each, len(truth), pixel_size_angstrom), truth) for each in places])


def ideal_rows(items: Sequence[Mapping[str, Any]], reader: ItemReader, *, draws: int = 8) -> Iterator[dict[str, Any]]:
    """The ideal IoU of each image at each dose.

    Args:
        items: rows of ``evaluation/holdout``, each with a dose.
        reader: of their images.
        draws: whose mean the IoU is; their seed is made of the image's name, the same for all doses.

    Yields:
        ``item_id``, ``ideal``, and ``ideal_5`` where only columns of five standard deviations are drawn.
    """
    by_image: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        by_image.setdefault(item["image_id"], []).append(item)
    for image_id, exposures in by_image.items():
        first = exposures[0]
        seed = stable_seed("mask bound", image_id) % 2**32
        scatter = position_scatter(reader.clean(first), reader.projection(first), reader.view(first), draws, seed)
        for item in exposures:
            judge = partial(
                ideal_ious, reader.mask(item), scatter, item["pixel_size_angstrom"], item["mean_detected_e_per_a2"]
            )
            yield {
                "item_id": item["item_id"],
                "ideal": float(judge().mean()),
                "ideal_5": float(judge(least_significance=_SIGNIFICANCE).mean()),
            }


def main(
    root: Annotated[Path, typer.Option(help="Data root with the hold-out and the segmenters' answers.")],
    draws: Annotated[int, typer.Option(help="Draws for each image.")] = 8,
    worst: Annotated[int, typer.Option(help="Images to list, those furthest below the bound.")] = 10,
) -> None:
    """Print the mean IoU of each published segmenter and of the ideal one, as Markdown."""
    from atomvision_ml.storage.lake import Lake

    lake = Lake(root)
    items = lake.scan(EVALUATION_HOLDOUT).filter(
        (pl.col("task") == "segmentation") & pl.col("mean_detected_e_per_a2").is_not_null()
    )
    held = items.collect()
    rows = pl.DataFrame(list(ideal_rows(held.rows(named=True), ItemReader(lake.blob), draws=draws)))
    joined = held.join(rows, on="item_id")
    names = [name for name in MODELS if lake.heads(f"predictions/{name}")]
    for name in names:
        joined = joined.join(_ious(lake.scan(f"predictions/{name}").collect(), name), on="item_id", how="left")
    typer.echo("| images | dose, e/Å² | method | IoU | below the ideal |\n|---|---|---|---|---|")
    for line in _lines(joined, [*names, "ideal_5", "ideal"]):
        typer.echo(line)
    if worst and names:
        gap = joined.with_columns((pl.col("ideal") - pl.col(names[0])).alias("gap")).sort("gap", descending=True)
        shown = gap.select("item_id", "nearest_columns_angstrom", "ideal", "ideal_5", names[0]).head(worst)
        for item, apart, ideal, strong, own in shown.iter_rows():
            typer.echo(f"{item}: columns {apart:.2f} Å apart, ideal {ideal:.3f}, {strong:.3f}, {names[0]} {own:.3f}")


def _ious(answers: pl.DataFrame, name: str) -> pl.DataFrame:
    """Mean IoU over the seeds of a model."""
    own = answers.filter(pl.col("model_id").map_elements(name_of, return_dtype=pl.String) == name)
    return own.group_by("item_id").agg(pl.col("iou").mean().alias(name))


def _lines(joined: pl.DataFrame, names: Sequence[str]) -> Iterator[str]:
    for (dose,), at_dose in sorted(joined.group_by(["mean_detected_e_per_a2"]), key=lambda pair: -pair[0][0]):
        resolvable = at_dose.filter(is_resolvable())
        for which, part in (("all", at_dose), ("resolvable", resolvable)):
            groups, ideal = part["split_group"].to_list(), part["ideal"].to_list()
            for name in names:
                own = part[name].to_list()
                value, low, high = paired_difference(own, [0.0] * len(own), groups)
                gap = "{:.3f} ({:.3f} to {:.3f})".format(*paired_difference(ideal, own, groups))
                yield (
                    f"| {which} ({len(own)}) | {dose:g} | {name} | {value:.3f} ({low:.3f} to {high:.3f}) "
                    f"| {'–' if name == 'ideal' else gap} |"
                )


if __name__ == "__main__":
    typer.run(main)
