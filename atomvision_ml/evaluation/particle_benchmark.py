"""Nanoparticles on drawn fields whose outlines are known: ``python -m atomvision_ml.evaluation.particle_benchmark``.

Belongs here: the measurement behind ``docs/results/particles.md``, beside scikit-image's plain watershed (Otsu,
distance map, a particle at every maximum), as its gallery has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomvision_ml.experiments.particle_fields import KnownParticle, ParticleFieldParameters, draw_field
from atomvision_ml.experiments.particle_shapes import MEASURES, shape_classes
from atomvision_ml.experiments.particles import find_particles

Row = dict[str, Any]
Array = NDArray[np.float64]
Found = tuple[Array, Array]
"""Centres (n, 2) as (y, x) in px, and areas (n,) in px²."""

FIELDS: dict[str, ParticleFieldParameters] = {
    "discs apart": ParticleFieldParameters(shapes=("disc",), overlapping_fraction=0.0),
    "discs, overlapping": ParticleFieldParameters(shapes=("disc",)),
    "discs and ellipses, overlapping": ParticleFieldParameters(),
    "the same, a tenth of the electrons": ParticleFieldParameters(electrons_per_px=20.0),
    "the same, hiding each other": ParticleFieldParameters(is_hiding=True),
    "five shapes, overlapping": ParticleFieldParameters(
        shapes=("disc", "ellipse", "rod", "square", "triangle"), count=30
    ),
}
_NEAR = 0.35
"""A particle is found if a centre lies within this share of its equivalent diameter."""


def ours(image: Array) -> Found:
    """This package's particles."""
    particles = find_particles(image).particles
    return np.reshape([each.centre_px for each in particles], (-1, 2)), np.array([each.area_px for each in particles])


def plain_watershed(image: Array) -> Found:
    """Otsu's threshold, distance map, a marker at every maximum of a 20 px neighbourhood, watershed."""
    from scipy.ndimage import distance_transform_edt
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import label, regionprops
    from skimage.segmentation import watershed

    smooth = gaussian(image, 1.5)
    mask = smooth < threshold_otsu(smooth)
    distance = distance_transform_edt(mask)
    peaks = peak_local_max(distance, min_distance=10, labels=label(mask))
    markers = np.zeros(mask.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    regions = [region for region in regionprops(watershed(-distance, markers, mask=mask)) if region.area >= 50]
    return np.reshape([region.centroid for region in regions], (-1, 2)), np.array([region.area for region in regions])


METHODS: dict[str, Callable[[Array], Found]] = {"AtomVision": ours, "plain watershed": plain_watershed}


def measure(name: str, fields: int, seed: int = 0) -> list[Row]:
    """Count, mean area and matched centres of every method on the same fields.

    Args:
        name: of `FIELDS`.
        fields: number of images.
        seed: of the first.

    Returns:
        One row a method: particles drawn, errors of count and mean area over all fields in percent, the mean absolute
        error of the count of a field in percent, and shares of particles found and of findings that are particles.
    """
    drawn = [draw_field(FIELDS[name], seed + number) for number in range(fields)]
    n_true = sum(len(known) for _, known in drawn)
    area = float(np.mean([each.area_px for _, known in drawn for each in known]))
    rows = []
    for method, find in METHODS.items():
        found = [find(image) for image, _ in drawn]
        n_found = sum(len(areas) for _, areas in found)
        each = [abs(len(areas) / len(known) - 1) for (_, areas), (_, known) in zip(found, drawn, strict=True)]
        matched = sum(_matched(centres, known) for (centres, _), (_, known) in zip(found, drawn, strict=True))
        rows.append(
            {
                "field": name,
                "method": method,
                "particles": n_true,
                "count_error_percent": 100 * (n_found / n_true - 1),
                "count_error_of_a_field_percent": 100 * float(np.mean(each)),
                "mean_area_error_percent": 100 * (float(np.concatenate([a for _, a in found]).mean()) / area - 1),
                "recall": matched / n_true,
                "precision": matched / max(n_found, 1),
            }
        )
    return rows


def _matched(centres: Array, known: Sequence[KnownParticle]) -> int:
    """Pairs of a centre found and a particle drawn, each used once, nearest together."""
    from scipy.optimize import linear_sum_assignment

    if not len(centres) or not known:
        return 0
    reach = _NEAR * np.sqrt(4 * np.array([each.area_px for each in known]) / np.pi)
    truth = np.array([each.centre_px for each in known])
    distance = np.linalg.norm(centres[:, None] - truth[None], axis=2) / reach
    pairs = linear_sum_assignment(np.minimum(distance, 10.0))
    return int((distance[pairs] < 1).sum())


def shape_agreement(fields: int, seed: int = 0) -> Row:
    """Adjusted Rand index of unsupervised classes and drawn shapes, of particles apart from each other."""
    from sklearn.metrics import adjusted_rand_score

    measures, shapes = [], []
    chosen = FIELDS["five shapes, overlapping"].model_copy(update={"overlapping_fraction": 0.0, "spread": 0.05})
    for number in range(fields):
        image, known = draw_field(chosen, seed + number)
        centres = np.array([each.centre_px for each in known])
        for particle in find_particles(image).particles:
            distance = np.linalg.norm(centres - particle.centre_px, axis=1)
            if distance.min() < 5:
                measures.append([getattr(particle, measure) for measure in MEASURES])
                shapes.append(known[int(distance.argmin())].shape)
    classes = shape_classes(measures)
    return {
        "particles": len(shapes),
        "shapes": len(set(shapes)),
        "classes": len(set(classes.tolist())),
        "adjusted_rand_index": float(adjusted_rand_score(shapes, classes)),
    }


def _main() -> None:
    import typer

    def benchmark(fields: int = 4, seed: int = 0) -> None:
        """Print the tables of docs/results/particles.md, row by row."""
        rows = (row for name in FIELDS for row in measure(name, fields, seed))
        for number, row in enumerate(rows):
            if not number:
                typer.echo("| " + " | ".join(row) + " |\n" + "|---" * len(row) + "|")
            typer.echo("| " + " | ".join(_cell(value) for value in row.values()) + " |")
        typer.echo(str(shape_agreement(fields, seed)))

    typer.run(benchmark)


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    _main()
