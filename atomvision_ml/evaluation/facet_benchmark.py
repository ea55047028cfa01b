"""Lattice planes on fringes whose planes are known: ``python -m atomvision_ml.evaluation.facet_benchmark``.

Belongs here: the measurement behind ``docs/results/facets.md``: from noisy positions of two spots, from a single spot,
from rendered images, and from images without a crystal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomvision_ml.experiments.crystal_views import plane_coordinates, visible_zones, zone_projection
from atomvision_ml.experiments.diffraction_spots import Region, Spots, find_crystalline_region, find_spots
from atomvision_ml.experiments.facet_figure import draw_facets
from atomvision_ml.experiments.facet_hypotheses import FacetParameters
from atomvision_ml.experiments.facets import FacetAssignment, assign_facets
from atomvision_ml.experiments.reference_phases import (
    ReferencePhase,
    Reflections,
    reference_phases,
    reflections,
)
from atomvision_ml.images.detector import DetectorParameters, detect
from atomvision_ml.images.stem import View, render_batch
from atomvision_ml.literature.scoring import wilson

Row = dict[str, Any]
Array = NDArray[np.float64]

PHASES = ("Au", "Rh", "Fe3O4", "SnS")
PIXEL_SIZE_ANGSTROM = 0.2
SCALE_LIMIT_PERCENT = 4.0
RATIO_NOISE_PERCENT = 0.4
ANGLE_NOISE_DEG = 0.4
_LEAST_ANGLE_DEG = 9.0
_SIZE_PX = 256
_PROBE_ANGSTROM = 0.35
_LARGEST_ZONE_INDEX = 2
_SMALLEST_SEEN_D_ANGSTROM = 1.5
"""Zones of the images hold two independent planes at least as wide."""


def two_spots(name: str, trials: int, *, is_declared: bool = True, exponent: float = 0.5, seed: int = 0) -> Row:
    """Two spots of a phase, their positions disturbed; both families must be decided, and right.

    Planes are drawn in proportion to |F|^(2 · exponent), the second one at least 9° off the first.

    Args:
        name: the true phase.
        trials: number of pairs.
        is_declared: only the true phase is a candidate; else all phases.
        exponent: by which planes are drawn; 0.5 is what the method believes, 0 draws all planes alike.
        seed: of the draws.

    Returns:
        ``decided`` and ``right`` (of the decided) as Wilson intervals.
    """
    parameters = FacetParameters()
    known = reference_phases()
    planes = reflections(known[name], parameters.smallest_d_angstrom, parameters.least_intensity)
    candidates = [known[name]] if is_declared else list(known.values())
    weights = planes.relative_intensities**exponent
    random = np.random.default_rng(seed)
    decided = right = 0
    for _ in range(trials):
        pair = _draw_pair(planes, weights / weights.sum(), random)
        found = assign_facets(disturbed_spots(planes.vectors[pair], random), PIXEL_SIZE_ANGSTROM, candidates)
        if all(plane.state == "decided" for plane in found.planes):
            decided += 1
            right += [(plane.phase, plane.family) for plane in found.planes] == [
                (name, planes.families[planes.family_of[index]]) for index in pair
            ]
    about = {"phase": name, "is_declared": is_declared, "drawn_by": exponent}
    return {**about, "decided": wilson(decided, trials), "right": wilson(right, decided)}


def most_decidable(name: str, trials: int, *, least_right: float = 0.98, seed: int = 0) -> Row:
    """What the method, and a reader who knows how :func:`two_spots` draws and disturbs, can decide of the same pairs.

    That reader's probabilities are Bayes's rule with that very model: planes by |F|, at least 9° apart, normal errors
    of ratio and angle, the scale uniform within ±4 %, no strangers. No method decides more. Both decide the pairs that
    they hold for most probable.

    Args:
        name: the phase, declared.
        trials: number of pairs.
        least_right: share of the decided pairs that must be right.
        seed: of the draws.

    Returns:
        ``decided`` of the method and ``most``, of that reader: the largest share of pairs of which ``least_right`` are
        right; ``from_probability`` and ``most_from_probability`` of the last.
    """
    parameters = FacetParameters()
    phase = reference_phases()[name]
    planes = reflections(phase, parameters.smallest_d_angstrom, parameters.least_intensity)
    weights = planes.relative_intensities**parameters.intensity_exponent
    weights /= weights.sum()
    random = np.random.default_rng(seed)
    ours, theirs = [], []
    for _ in range(trials):
        pair = _draw_pair(planes, weights, random)
        spots = disturbed_spots(planes.vectors[pair], random)
        probabilities = _exact_probabilities(planes, weights, spots)
        best = np.unravel_index(probabilities.argmax(), probabilities.shape)
        theirs.append((float(probabilities[best]), bool(np.all(best == planes.family_of[pair]))))
        found = assign_facets(spots, PIXEL_SIZE_ANGSTROM, [phase]).planes
        truth = [planes.families[planes.family_of[index]] for index in pair]
        ours.append((min(plane.probability for plane in found), [plane.family for plane in found] == truth))
    (decided, least), (most, least_of_most) = _surest(ours, least_right), _surest(theirs, least_right)
    return {
        "phase": name,
        "decided": wilson(decided, trials),
        "from_probability": least,
        "most": wilson(most, trials),
        "most_from_probability": least_of_most,
    }


def _surest(answers: list[tuple[float, bool]], least_right: float) -> tuple[int, str]:
    """How many of the most probable answers (probability, right) can be given, and the probability of the last."""
    answers = sorted(answers, reverse=True)
    running = np.cumsum([is_right for _, is_right in answers]) / np.arange(1, len(answers) + 1)
    decided = int(np.flatnonzero(running >= least_right).max(initial=-1)) + 1
    return decided, f"{answers[decided - 1][0]:.3f}" if decided else "–"


def _exact_probabilities(planes: Reflections, weights: Array, spots: Spots) -> Array:
    """(families, families) probabilities of the families of two disturbed spots."""
    from scipy.special import ndtr

    one, two = spots.frequencies / PIXEL_SIZE_ANGSTROM
    length_1, length_2 = np.linalg.norm(one), np.linalg.norm(two)
    angle = np.arccos(np.clip(one @ two / (length_1 * length_2), -1, 1))
    ratio_sigma, angle_sigma = RATIO_NOISE_PERCENT / 100, math.radians(ANGLE_NOISE_DEG)
    # Equivalent planes have the same neighbours: the first spot needs one of each family.
    first = np.unique(planes.family_of, return_index=True)[1]
    units = planes.vectors / planes.lengths[:, None]
    angles = np.arccos(np.clip(units[first] @ units.T, -1, 1))
    excess_1 = np.log(length_1 / planes.lengths[first])[:, None]
    excess_2 = np.log(length_2 / planes.lengths)[None, :]
    middle = (excess_1 + excess_2) / 2 + ratio_sigma**2 / 4
    low, high = np.log1p(np.array([-1, 1]) * SCALE_LIMIT_PERCENT / 100)
    scale = ndtr((high - middle) / (ratio_sigma / 2)) - ndtr((low - middle) / (ratio_sigma / 2))
    misses = ((excess_1 - excess_2) / ratio_sigma) ** 2 + ((angles - angle) / angle_sigma) ** 2
    is_apart = np.sin(angles) > math.sin(math.radians(_LEAST_ANGLE_DEG))
    share = np.bincount(planes.family_of, weights)
    density = is_apart * share[:, None] * weights * np.exp(middle - misses / 2) * scale
    pooled = density @ np.eye(len(first))[planes.family_of]
    return np.asarray(pooled / pooled.sum())


def disturbed_spots(vectors: Array, random: np.random.Generator) -> Spots:
    """Coplanar planes' vectors (n, 3) in 1/Å as spots of an image: turned, scaled, ratio and angle off."""
    flat = plane_coordinates(vectors)
    lengths = np.linalg.norm(flat, axis=1) * (1 + random.uniform(-1, 1) * SCALE_LIMIT_PERCENT / 100)
    lengths = lengths * np.exp(random.normal(0, RATIO_NOISE_PERCENT / 100 / math.sqrt(2), len(flat)))
    angles = np.arctan2(flat[:, 1], flat[:, 0]) + random.uniform(0, 2 * np.pi)
    angles = angles + np.radians(random.normal(0, ANGLE_NOISE_DEG / math.sqrt(2), len(flat)))
    frequencies = PIXEL_SIZE_ANGSTROM * lengths[:, None] * np.column_stack((np.cos(angles), np.sin(angles)))
    frequencies = np.where(frequencies[:, :1] < 0, -frequencies, frequencies)
    count = len(flat)
    return Spots(frequencies, np.zeros((count, 2, 2)), np.full(count, 100.0), Region(0, 0, _SIZE_PX, _SIZE_PX))


def _draw_pair(planes: Reflections, weights: Array, random: np.random.Generator) -> list[int]:
    while True:
        pair = random.choice(len(planes), 2, p=weights)
        a, b = planes.vectors[pair] / planes.lengths[pair][:, None]
        if np.linalg.norm(np.cross(a, b)) > math.sin(math.radians(_LEAST_ANGLE_DEG)):
            return [int(index) for index in pair]


def one_spot(name: str, trials: int, *, is_declared: bool, is_calibrated: bool, seed: int = 0) -> Row:
    """As :func:`two_spots` with one spot."""
    parameters = FacetParameters()
    known = reference_phases()
    planes = reflections(known[name], parameters.smallest_d_angstrom, parameters.least_intensity)
    candidates = [known[name]] if is_declared else list(known.values())
    weights = planes.relative_intensities**parameters.intensity_exponent
    random = np.random.default_rng(seed)
    decided = right = 0
    for _ in range(trials):
        index = int(random.choice(len(planes), p=weights / weights.sum()))
        other = int(np.argmin(np.abs(planes.vectors @ planes.vectors[index])))
        spots = _first(disturbed_spots(planes.vectors[[index, other]], random))
        (found,) = assign_facets(spots, PIXEL_SIZE_ANGSTROM if is_calibrated else None, candidates).planes
        if found.state == "decided":
            decided += 1
            right += (found.phase, found.family) == (name, planes.families[planes.family_of[index]])
    about = {"phase": name, "is_declared": is_declared, "is_calibrated": is_calibrated}
    return {**about, "decided": wilson(decided, trials), "right": wilson(right, decided)}


def _first(spots: Spots) -> Spots:
    return Spots(spots.frequencies[:1], spots.covariances[:1], spots.snr[:1], spots.region)


def rendered_image(
    phase: ReferencePhase, zone: Sequence[int], random: np.random.Generator, *, is_grain: bool, dose_e_per_a2: float
) -> tuple[Array, float, View]:
    """An image of a crystal along a zone axis, with the pixel size that it claims, and its true view.

    Rendered by :mod:`atomvision_ml.images.stem` and detected by :mod:`atomvision_ml.images.detector`: background,
    Poisson noise, jitter of 0.05 Å and drift of up to 0.2 Å. A grain fills a disc of a third of the edge; the rest is
    amorphous.
    """
    pixel = PIXEL_SIZE_ANGSTROM * (1 + random.uniform(-1, 1) * SCALE_LIMIT_PERCENT / 100)
    shift = random.uniform(0, 10, 2)
    view = View(pixel, _SIZE_PX, float(random.uniform(0, 360)), (float(shift[0]), float(shift[1])))
    ideal = render_batch([zone_projection(phase, zone)], [view], sigma_angstrom=_PROBE_ANGSTROM)[0].astype(float)
    ideal = ideal / ideal.mean()
    if is_grain:
        ideal = _as_grain(ideal, random)
    drift = random.uniform(-0.2, 0.2, 2)
    detector = DetectorParameters(
        mean_detected_e_per_a2=dose_e_per_a2,
        background_fraction=0.3,
        line_jitter_angstrom=0.05,
        drift_x_angstrom=float(drift[0]),
        drift_y_angstrom=float(drift[1]),
    )
    return detect(ideal, pixel, detector, seed=int(random.integers(2**31))).astype(float), PIXEL_SIZE_ANGSTROM, view


def _as_grain(ideal: Array, random: np.random.Generator) -> Array:
    from scipy.ndimage import gaussian_filter

    y, x = np.mgrid[:_SIZE_PX, :_SIZE_PX]
    centre, radius = random.uniform(0.4, 0.6, 2) * _SIZE_PX, _SIZE_PX / 3
    inside = 1 / (1 + np.exp((np.hypot(y - centre[0], x - centre[1]) - radius) / 3))
    amorphous = gaussian_filter(random.normal(0, 1, ideal.shape), 1.5)
    return np.asarray(inside * ideal + np.clip(1 + 0.2 * amorphous / amorphous.std(), 0, None) * (1 - inside))


def images(name: str, trials: int, *, is_grain: bool, is_declared: bool = True, seed: int = 0) -> Row:
    """From rendered images along random low-index zone axes to planes.

    A spot's truth is the plane of the zone within 1.5 % of the field's widest frequency; ``right`` counts the decided
    spots, ``decided_images`` images of which two spots on different rows are decided, ``zone_right`` those zone axes
    that are decided (probability 0.9).
    """
    known = reference_phases()
    phase = known[name]
    candidates = [phase] if is_declared else list(known.values())
    wide = reflections(phase, _SMALLEST_SEEN_D_ANGSTROM, FacetParameters().least_intensity)
    zones = visible_zones(wide, _LARGEST_ZONE_INDEX)
    random = np.random.default_rng(seed)
    counts = dict.fromkeys(("spots", "decided", "right", "images", "zones", "zones_right"), 0)
    for number in range(trials):
        zone = zones[number % len(zones)]
        image, pixel, view = rendered_image(phase, zone, random, is_grain=is_grain, dose_e_per_a2=2000.0)
        spots = find_spots(image)
        found = assign_facets(spots, pixel, candidates)
        truth = _true_families(spots, phase, zone, view)
        decided = [index for index, plane in enumerate(found.planes) if plane.state == "decided"]
        counts["spots"] += len(spots)
        counts["decided"] += len(decided)
        counts["right"] += sum((found.planes[i].phase, found.planes[i].family) == (name, truth[i]) for i in decided)
        counts["images"] += _has_two_rows(found, decided)
        is_zone_decided = found.zone_family is not None and found.zone_probability > 0.9
        counts["zones"] += is_zone_decided
        counts["zones_right"] += is_zone_decided and (found.phase, found.zone_family) == (name, zone)
    return {
        "phase": name,
        "is_grain": is_grain,
        "is_declared": is_declared,
        "zones": len(zones),
        "decided_images": wilson(counts["images"], trials),
        "spots_per_image": counts["spots"] / trials,
        "right": wilson(counts["right"], counts["decided"]),
        "decided_zones": wilson(counts["zones"], trials),
        "right_zones": wilson(counts["zones_right"], counts["zones"]),
    }


def _true_families(
    spots: Spots, phase: ReferencePhase, zone: Sequence[int], view: View
) -> list[tuple[int, int, int] | None]:
    """Family of the plane nearest to each spot; None where none is near."""
    from atomvision_ml.experiments.crystal_views import zone_basis

    planes = reflections(phase, 0.7, 1e-6)
    basis = zone_basis(zone)
    hkl = planes.hkl[planes.hkl @ np.asarray(zone) == 0]
    flat = plane_coordinates(basis @ planes.crystal.reciprocal)
    whole = np.rint(hkl @ np.linalg.pinv(basis)).astype(int)
    expected = (whole @ flat) @ view.rotation.T * view.pixel_size_angstrom
    names: list[tuple[int, int, int] | None] = []
    for frequency in spots.frequencies:
        distances = np.linalg.norm(expected - frequency, axis=1)
        nearest = int(distances.argmin())
        is_near = distances[nearest] < 0.015 * 0.5
        names.append(planes.crystal.family(hkl[nearest]) if is_near else None)
    return names


def _has_two_rows(found: FacetAssignment, decided: Sequence[int]) -> bool:
    planes = [plane.hkl for index in decided if (plane := found.planes[index]).hkl is not None]
    return len(planes) > 1 and bool(np.any(np.cross(np.array(planes[:1]), np.array(planes[1:]))))


def without_crystal(trials: int, seed: int = 0) -> Row:
    """Images of noise, white and of amorphous matter: how many have a decided plane (all phases, calibrated)."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(seed)
    known = list(reference_phases().values())
    decided = 0
    for number in range(trials):
        noise = random.normal(0, 1, (_SIZE_PX, _SIZE_PX))
        image = gaussian_filter(noise, 1.5) + 0.05 * random.normal(0, 1, noise.shape) if number % 2 else noise
        decided += assign_facets(find_spots(image), PIXEL_SIZE_ANGSTROM, known).is_decided
    return {"decided": wilson(decided, trials)}


def draw_figure(path: Path, seed: int = 5) -> None:
    """Three rendered grains with the paper's phases: image, magnified region, diffractogram with planes (Fig. 11)."""
    from matplotlib.figure import Figure

    random = np.random.default_rng(seed)
    known = reference_phases()
    figure = Figure(figsize=(10.5, 13.0), dpi=75, layout="constrained")
    zones = {"Fe3O4": (1, 1, 0), "Rh": (1, 1, 0), "SnS": (0, 1, 0)}
    parts = np.asarray(figure.subfigures(len(zones), 1), dtype=object).ravel()
    for part, (name, zone) in zip(parts, zones.items(), strict=True):
        image, pixel, _ = rendered_image(known[name], zone, random, is_grain=True, dose_e_per_a2=500.0)
        spots = find_crystalline_region(image)
        draw_facets(part, image, spots, assign_facets(spots, pixel, [known[name]]), pixel)
    figure.savefig(path)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        if not value["n_items"]:
            return "–"
        return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f}, n = {value['n_items']})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _main() -> None:
    import typer

    def benchmark(
        trials: int = 400, rendered: int = 20, seed: int = 0, phase: str | None = None, figure: Path | None = None
    ) -> None:
        """Print the tables of docs/results/facets.md, row by row; with --figure draw its picture instead."""
        if figure is not None:
            draw_figure(figure)
            return
        names = PHASES if phase is None else (phase,)
        few = max(1, trials // 8)
        tables: dict[str, Iterator[Row]] = {
            "Two spots, phase declared": (two_spots(name, trials, seed=seed) for name in names),
            "Most that can be decided with 0.98 right": (most_decidable(name, trials, seed=seed) for name in names),
            "Rendered images": (
                images(name, rendered, is_grain=is_grain, seed=seed) for is_grain in (False, True) for name in names
            ),
            "One spot": (
                one_spot(name, few, is_declared=declared, is_calibrated=calibrated, seed=seed)
                for declared, calibrated in ((True, True), (False, True), (False, False))
                for name in names
            ),
            "No crystal": (without_crystal(number, seed) for number in (few,)),
            "Two spots, all planes alike": (two_spots(name, trials // 2, exponent=0.0, seed=seed) for name in names),
            "Two spots, phase not declared": (two_spots(name, few, is_declared=False, seed=seed) for name in names),
        }
        for title, rows in tables.items():
            typer.echo(f"\n{title}\n")
            for number, row in enumerate(rows):
                if not number:
                    typer.echo("| " + " | ".join(row) + " |\n" + "|---" * len(row) + "|")
                typer.echo("| " + " | ".join(map(_cell, row.values())) + " |")

    typer.run(benchmark)


if __name__ == "__main__":
    _main()
