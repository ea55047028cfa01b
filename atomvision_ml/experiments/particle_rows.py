"""Rows of ``experiments/particles``: the particles of each micrograph and the classes of their shapes.

Belongs here: which images show particles, and their measures with units.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atomvision_ml.experiments.particle_shapes import MEASURES, shape_classes
from atomvision_ml.experiments.particles import Particle, ParticleField, ParticleParameters, find_particles

Row = dict[str, Any]

TECHNIQUES = ("TEM", "HRTEM", "STEM", "SEM", None)
_SMALLEST_SIDE_PX = 16


def particle_rows(
    micrograph: Mapping[str, Any], image: np.ndarray, parameters: ParticleParameters | None = None
) -> tuple[list[Row], ParticleField | None]:
    """Rows of one micrograph without classes; a single row without a particle where there is none, with the reason.

    Args:
        micrograph: row of ``experiments/micrographs``.
        image: [y, x], finite.
        parameters: what is a particle; None for the defaults.

    Returns:
        The rows, and the field for a picture; None where particles were not looked for.
    """
    about = {"day": micrograph["day"], "record_id": micrograph["record_id"]}
    if micrograph["technique"] not in TECHNIQUES:
        return [{**about, "reason": f"{micrograph['technique']} images are not searched for particles"}], None
    if min(image.shape) < _SMALLEST_SIDE_PX:
        return [{**about, "reason": f"a side has less than {_SMALLEST_SIDE_PX} pixels"}], None
    field = find_particles(image, parameters)
    if not field.particles:
        return [{**about, "reason": f"no particles: contrast {field.contrast:.1f}"}], field
    along_y, along_x = micrograph["pixel_size_y_nm"], micrograph["pixel_size_x_nm"]
    pixel_nm2 = along_y * along_x if along_y and along_x else None
    return [{**about, **_of_particle(particle, pixel_nm2)} for particle in field.particles], field


def _of_particle(particle: Particle, pixel_nm2: float | None) -> Row:
    row: Row = {
        "particle": particle.number,
        "y_px": max(0.0, particle.centre_px[0]),
        "x_px": max(0.0, particle.centre_px[1]),
        "aspect_ratio": particle.aspect_ratio,
    }
    named = ("area_px", "major_px", "minor_px", "orientation_deg", "circularity", "solidity", "extent")
    flags = ("touches_border", "is_overlapped", "is_completed")
    row |= {name: getattr(particle, name) for name in (*named, *flags)}
    if pixel_nm2 is not None:
        row["area_nm2"] = particle.area_px * pixel_nm2
        row["equivalent_diameter_nm"] = particle.equivalent_diameter_px * pixel_nm2**0.5
    return row


def with_classes(rows: Sequence[Row]) -> list[Row]:
    """The rows with ``shape_class``, over all whole particles together; those that the image cuts have none."""
    whole = [number for number, row in enumerate(rows) if row.get("particle") and not row["touches_border"]]
    classes = shape_classes(np.reshape([[rows[number][name] for name in MEASURES] for number in whole], (-1, 4)))
    named = dict(zip(whole, classes.tolist(), strict=True))
    return [{**row, "shape_class": named.get(number)} for number, row in enumerate(rows)]


def particles_png(image: np.ndarray, field: ParticleField, title: str = "") -> bytes:
    """The image with the outlines of its particles: green, orange if completed, grey if cut by the image."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Ellipse
    from skimage.measure import find_contours

    figure = Figure(figsize=(5, 5), dpi=80, layout="constrained")
    axes = figure.subplots()
    axes.imshow(image, cmap="gray", vmin=np.percentile(image, 0.5), vmax=np.percentile(image, 99.5))
    for particle in field.particles:
        if particle.is_completed:
            shape = Ellipse(
                particle.centre_px[::-1], particle.major_px, particle.minor_px, angle=-particle.orientation_deg
            )
            shape.set(fill=False, edgecolor="#ffb14d", linewidth=1.2)
            axes.add_patch(shape)
            continue
        colour = "#b0b0b0" if particle.touches_border else "#7dff7d"
        for contour in find_contours(np.pad(field.labels == particle.number, 1).astype(float), 0.5):
            y, x = ((contour - 1) * field.binning + (field.binning - 1) / 2).T
            axes.plot(x, y, color=colour, linewidth=1.2)
    axes.set_axis_off()
    axes.set_title(title or f"{len(field.particles)} particles", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
