"""The plain way to find defects: atoms by the Laplacian of Gaussian, thresholds on their brightness and on gaps.

Belongs here: the rule and its tuning on the train split, for each dose by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atomvision_ml.images.atoms import laplacian_of_gaussian_atoms
from atomvision_ml.models.defect_finder import FoundDefect
from atomvision_ml.models.training import stable_seed

Floats = NDArray[np.float64]
Setting = tuple[float, float, float]

SHARES = (0.03, 0.1, 0.2)
"""Least response of an atom as a share of the largest."""

RULES = tuple(product((0.2, 0.3, 0.45, 0.6), (1.2, 1.4, 1.7)))
"""Deviation of an atom's response from its level, as a share of it; and radius of a gap over the usual one."""

_LEAST_LEVEL_SHARE = 0.12
_BORDER_ANGSTROM = 1.5
_LEAST_ATOMS = 8


@dataclass(frozen=True)
class Evidence:
    """What the rules look at: atoms (n, 3) x, y, response; changes (n,); gap centres (m, 2) and their sizes (m,)."""

    atoms: Floats
    changes: Floats
    gaps: Floats
    sizes: Floats

    @classmethod
    def of(cls, atoms: Floats) -> Evidence:
        """Changes against the nearest level; gaps in units of the usual one."""
        if len(atoms) < _LEAST_ATOMS:
            return cls(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 2)), np.zeros(0))
        levels = _levels(atoms[:, 2])
        level = levels[np.abs(atoms[:, 2, None] / levels - 1).argmin(axis=1)]
        return cls(atoms, atoms[:, 2] / level - 1, *_gaps(atoms[:, :2]))


def plain_defects(evidence: Evidence, field_angstrom: float, deviation: float, gap: float) -> list[FoundDefect]:
    """Defects by thresholds alone.

    Levels are the maxima of the density of responses that hold at least 12 % of the atoms; an atom that deviates from
    the nearest level is a vacancy if it is dimmer, a substitution if it is brighter. A circle through three atoms with
    none inside that is larger than usual (the 90 % quantile) is a missing atom. Strain is not looked for.

    Args:
        evidence: of Laplacian-of-Gaussian atoms.
        field_angstrom: largest x and y of the field.
        deviation: from its level, as a share of it.
        gap: radius of a gap over the usual radius.
    """
    damaged = np.abs(evidence.changes) > deviation
    found = [
        FoundDefect("vacancy" if share < 0 else "substitution", float(x), float(y), float(share), 0.0, float("nan"))
        for (x, y, _), share in zip(evidence.atoms[damaged], evidence.changes[damaged], strict=True)
    ]
    kept: list[Floats] = []
    for centre in evidence.gaps[evidence.sizes > gap]:
        if all(np.hypot(*(centre - other)) >= 1.0 for other in kept):
            kept.append(centre)
    found += [FoundDefect("vacancy", float(x), float(y), -1.0, 0.0, float("nan")) for x, y in kept]
    far = field_angstrom - _BORDER_ANGSTROM
    return [
        defect for defect in found if all(_BORDER_ANGSTROM <= v <= far for v in (defect.x_angstrom, defect.y_angstrom))
    ]


def tune_defects(
    training_set: pl.DataFrame,
    expose: Callable[[Mapping[str, Any], float | None], tuple[NDArray[np.float32], float]],
    score: Callable[[Mapping[str, Any], Sequence[FoundDefect]], float],
    doses: Sequence[float | None],
    *,
    maximum_images: int = 8,
) -> dict[float | None, Setting]:
    """The setting (share, deviation, gap) with the best mean score at each dose.

    Args:
        training_set: rows of ``models/training_sets``; only the train split is used.
        expose: from a row and a dose to the damaged image [y, x] and its pixel size in Å.
        score: from a row and found defects to a score.
        doses: of the images.
        maximum_images: so many rows are used, chosen by a hash of the image.

    Raises:
        ValueError: the train split is empty.
    """
    rows = training_set.filter(pl.col("split") == "train").to_dicts()
    if not rows:
        raise ValueError("the train split is empty; baselines are tuned on it")
    rows = sorted(rows, key=lambda row: stable_seed("tune defects", row["image_id"]))[:maximum_images]
    chosen: dict[float | None, Setting] = {}
    for dose in doses:
        total: dict[Setting, float] = {}
        for row in rows:
            image, pixel = expose(row, dose)
            for share in SHARES:
                evidence = Evidence.of(laplacian_of_gaussian_atoms(image, pixel, relative_threshold=share))
                for rule in RULES:
                    found = plain_defects(evidence, (image.shape[0] - 1) * pixel, *rule)
                    total[share, *rule] = total.get((share, *rule), 0.0) + score(row, found)
        chosen[dose] = max(total, key=lambda setting: total[setting])
    return chosen


def _levels(responses: Floats) -> Floats:
    """Maxima of a Gaussian density of log responses (width 8 %) that hold a fair share of the atoms."""
    logs = np.log(np.maximum(responses, 1e-12 * responses.max()))
    grid = np.arange(logs.min() - 0.1, logs.max() + 0.1, 0.02)
    density = np.exp(-0.5 * ((grid[:, None] - logs) / 0.08) ** 2).sum(axis=1)
    inner = density[1:-1]
    peaks = grid[1:-1][(inner >= density[:-2]) & (inner > density[2:])]
    held = np.array([(np.abs(logs - peak) < 0.15).mean() for peak in peaks])
    kept = peaks[held >= _LEAST_LEVEL_SHARE]
    return np.exp(kept if len(kept) else np.array([np.median(logs)]))


def _gaps(positions: Floats) -> tuple[Floats, Floats]:
    """Circles through three atoms with none inside: centres (m, 2), radii (m,) over the usual one, largest first."""
    from scipy.spatial import Delaunay, QhullError

    nothing = np.zeros((0, 2)), np.zeros(0)
    try:
        corners = positions[Delaunay(positions).simplices]
    except QhullError:
        return nothing
    a, b, c = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    double = 2 * (b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0])
    sane = np.abs(double) > 1e-6
    a, b, c, double = a[sane], b[sane], c[sane], double[sane]
    b2, c2 = (b**2).sum(axis=1), (c**2).sum(axis=1)
    offset = np.stack([c[:, 1] * b2 - b[:, 1] * c2, b[:, 0] * c2 - c[:, 0] * b2], axis=1) / double[:, None]
    radius, centres = np.hypot(*offset.T), a + offset
    inside = ((centres >= positions.min(axis=0)) & (centres <= positions.max(axis=0))).all(axis=1)
    if not inside.any():
        return nothing
    centres, radius = centres[inside], radius[inside]
    order = np.argsort(-radius)
    return centres[order], radius[order] / np.quantile(radius, 0.9)
