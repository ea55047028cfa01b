"""Physics audits of simulated STEM images: each is a pure function of images and structures, named as a true statement.

Belongs here: what must hold of any image I(r) = Σ Z^p · G(r − r_j), checked without the code that made it: the
reference sum below walks over lattice translations in crystal coordinates, one exponential for each pixel and atom.
A set is audited on scratch, before it is published. Images of others, whose scale and pose are unknown, are brought
into the same form by :mod:`atomvision_ml.images.foreign`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from atomvision_ml.images.columns import column_mask
from atomvision_ml.images.stem import View
from atomvision_ml.images.stem_set import StemSet

DIRECT_TOLERANCE = 2e-5
"""Largest deviation from the direct sum, relative to the image's maximum; float32 images keep within 1e-5."""

SUM_TOLERANCE = 2e-3
SYMMETRY_TOLERANCE = 5e-3
COINCIDENCE_ANGSTROM = 0.05
"""Atoms nearer than this in projection are one site: with any probe in use they cannot be told apart."""

_REACH_SIGMAS = 8.0
_BLACKMAN_HARRIS = np.array([0.35875, -0.48829, 0.14128, -0.01168])
"""Coefficients of the four-term window (F. J. Harris, Proc. IEEE 66, 51 (1978))."""


@dataclass(frozen=True)
class AuditResult:
    """Outcome of an audit.

    Attributes:
        name: the statement that holds if the audit passes.
        passed: None if the images do not allow a judgement.
        description: one sentence on what was found.
        details: numbers behind it, JSON values.
    """

    name: str
    passed: bool | None
    description: str
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {"name": self.name, "passed": self.passed, "description": self.description, "details": self.details}

    def line(self) -> str:
        """The result as a line of text."""
        word = {True: "pass", False: "FAIL", None: "open"}[self.passed]
        return f"{word}  {self.name}: {self.description}"


@dataclass(frozen=True)
class Specimen:
    """What an image claims to show, in the terms of the reference sum.

    Attributes:
        image_id: name for messages.
        numbers: Z of the atoms of one cell, (n,).
        positions_angstrom: (n, 2), in the plane.
        cell_angstrom: (2, 2) lattice vectors as rows, any basis.
        view: pixel size, size and pose.
        sigma_angstrom: standard deviation of the probe.
        z_exponent: p in Z^p.
    """

    image_id: str
    numbers: np.ndarray
    positions_angstrom: np.ndarray
    cell_angstrom: np.ndarray
    view: View
    sigma_angstrom: float = 0.5
    z_exponent: float = 1.7

    @property
    def weights(self) -> np.ndarray:
        """Z^p of each atom."""
        return np.asarray(self.numbers, float) ** self.z_exponent

    @property
    def area_angstrom2(self) -> float:
        """Area of the cell."""
        return abs(float(np.linalg.det(self.cell_angstrom)))

    def crystal_coordinates(self, xy_angstrom: np.ndarray) -> np.ndarray:
        """Image coordinates (k, 2) in Å to fractional coordinates (k, 2) of the cell."""
        cartesian = (xy_angstrom - np.asarray(self.view.shift_angstrom)) @ self.view.rotation
        return cartesian @ np.linalg.inv(self.cell_angstrom)

    def image_coordinates(self, fractional: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`crystal_coordinates`."""
        return fractional @ self.cell_angstrom @ self.view.rotation.T + np.asarray(self.view.shift_angstrom)

    def sites(self, within_angstrom: float = COINCIDENCE_ANGSTROM) -> list[np.ndarray]:
        """Index arrays of the atoms that share one site in projection."""
        fractional = self.positions_angstrom @ np.linalg.inv(self.cell_angstrom)
        step = fractional[None] - fractional[:, None]
        apart = np.linalg.norm((step - np.round(step)) @ self.cell_angstrom, axis=-1)
        free, groups = np.ones(len(fractional), bool), []
        for n in range(len(fractional)):
            group = np.flatnonzero(free & (apart[n] < within_angstrom))
            if free[n] and len(group):
                groups.append(group)
                free[group] = False
        return groups

    def once_weights(self) -> np.ndarray:
        """Z^p with atoms of one element on one site counted once, as ``array[rows, columns] += w`` does."""
        weights = self.weights
        for group in self.sites():
            _, first = np.unique(self.numbers[group], return_index=True)
            weights[np.delete(group, first)] = 0.0
        return weights


def direct_sum(specimen: Specimen, xy_angstrom: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Σ_j w_j exp(−|r − r_j|²/2σ²)/(2πσ²) in float64, over all lattice translations within 8σ.

    Args:
        specimen: the structure and its pose.
        xy_angstrom: (k, 2) image coordinates in Å.
        weights: (n,) instead of Z^p.

    Returns:
        (k,) intensities in 1/Å².
    """
    sigma, cell = specimen.sigma_angstrom, specimen.cell_angstrom
    spacings = specimen.area_angstrom2 / np.linalg.norm(cell, axis=1)[::-1]
    reach = np.ceil(_REACH_SIGMAS * sigma / spacings + 0.5).astype(int)
    translations = [(h, k) for h in range(-reach[0], reach[0] + 1) for k in range(-reach[1], reach[1] + 1)]
    points = specimen.crystal_coordinates(np.asarray(xy_angstrom, float))
    atoms = specimen.positions_angstrom @ np.linalg.inv(cell)
    intensity = np.zeros(len(points))
    for atom, weight in zip(atoms, specimen.weights if weights is None else weights, strict=True):
        step = points - atom
        step -= np.round(step)
        for translation in translations:
            apart = (step - translation) @ cell
            intensity += weight * np.exp(-(apart**2).sum(axis=1) / (2 * sigma**2))
    return intensity / (2 * np.pi * sigma**2)


def direct_sum_deviation(specimen: Specimen, image: np.ndarray, n_pixels: int = 512, seed: int = 0) -> float:
    """Largest deviation of an image from the direct sum at random pixels, relative to the sum's maximum there."""
    rows, columns = np.random.default_rng(seed).integers(0, image.shape, (n_pixels, 2)).T
    expected = direct_sum(specimen, np.stack([columns, rows], axis=1) * specimen.view.pixel_size_angstrom)
    return _relative(np.abs(image[rows, columns] - expected).max(), expected.max())


def coincidence_deviation(specimen: Specimen, image: np.ndarray) -> tuple[float, float] | None:
    """Deviation of an image from the direct sum, at sites where atoms of one element coincide.

    Returns:
        Largest deviation from the sum of all atoms, and from the sum with coincident atoms of one element counted
        once, both relative to the image's maximum; None if there is no such site in view.
    """
    once = specimen.once_weights()
    doubled = [group for group in specimen.sites() if once[group].sum() < specimen.weights[group].sum()]
    pixels = _site_pixels(specimen, image.shape, doubled)
    if not len(pixels):
        return None
    xy = pixels[:, ::-1] * specimen.view.pixel_size_angstrom
    values, full = image[pixels[:, 0], pixels[:, 1]], direct_sum(specimen, xy)
    scale = max(full.max(), image.max())
    return (
        _relative(np.abs(values - full).max(), scale),
        _relative(np.abs(values - direct_sum(specimen, xy, once)).max(), scale),
    )


def _site_pixels(specimen: Specimen, shape: tuple[int, ...], groups: Sequence[np.ndarray], most: int = 3) -> np.ndarray:
    """Pixels [y, x] (k, 2) nearest to sites, at most ``most`` of each, the nearest to the centre of the field."""
    centre = (np.array(shape[::-1]) - 1) / 2
    around = np.stack(np.meshgrid(np.arange(-2, 3), np.arange(-2, 3)), -1).reshape(-1, 2)
    home = np.round(specimen.crystal_coordinates(centre[None] * specimen.view.pixel_size_angstrom))
    pixels = []
    for group in groups:
        site = specimen.positions_angstrom[group[0]] @ np.linalg.inv(specimen.cell_angstrom) % 1.0
        xy = np.rint(specimen.image_coordinates(site + home + around) / specimen.view.pixel_size_angstrom)
        inside = xy[np.all((xy >= 0) & (xy < np.array(shape[::-1])), axis=1)]
        order = np.argsort(((inside - centre) ** 2).sum(axis=1), kind="stable")
        pixels.append(inside[order[:most], ::-1])
    return np.concatenate(pixels).astype(int) if pixels else np.zeros((0, 2), int)


def intensity_sum_deviation(specimen: Specimen, image: np.ndarray) -> float | None:
    """Relative deviation of ∫I over one primitive cell from ΣZ^p.

    The mean density comes from a Blackman-Harris window, whose side lobes (−92 dB beyond four bins) hide the lattice
    periods.

    Returns:
        The deviation, or None if a lattice plane spacing is longer than a sixth of the field.
    """
    spacings = specimen.area_angstrom2 / np.linalg.norm(specimen.cell_angstrom, axis=1)
    if spacings.max() * 6 > image.shape[0] * specimen.view.pixel_size_angstrom * (1 + 1e-9):
        return None
    expected = float(specimen.weights.sum())
    return _relative(windowed_mean(image) * specimen.area_angstrom2 - expected, expected)


def windowed_mean(image: np.ndarray) -> float:
    """Mean of an image under a Blackman-Harris window."""
    wy, wx = (_BLACKMAN_HARRIS @ np.cos(2 * np.pi * np.outer(range(4), np.arange(n) / n)) for n in image.shape)
    return float(wy @ np.asarray(image, float) @ wx / (wy.sum() * wx.sum()))


def plane_operations(specimen: Specimen, symprec_angstrom: float = 1e-4) -> list[tuple[np.ndarray, np.ndarray]]:
    """Operations (W, w) of the projection's plane group on fractional coordinates: f → W f + w (spglib).

    The tolerance is strict, because an operation that holds for one cell within it is off by ten times as much at the
    other end of the field.
    """
    import spglib

    groups = specimen.sites(symprec_angstrom)
    kinds = {kind: n for n, kind in enumerate(sorted({tuple(sorted(specimen.numbers[g].tolist())) for g in groups}))}
    fractional = specimen.positions_angstrom @ np.linalg.inv(specimen.cell_angstrom)
    sites = np.array([[*fractional[group[0]], 0.5] for group in groups])
    species = [kinds[tuple(sorted(specimen.numbers[group].tolist()))] + 1 for group in groups]
    cell = np.zeros((3, 3))
    cell[:2, :2], cell[2, 2] = specimen.cell_angstrom, 20.0
    try:
        found = spglib.get_symmetry((cell.tolist(), sites.tolist(), species), symprec=symprec_angstrom)
    except spglib.SpglibError:
        return []
    if found is None:
        return []
    operations: dict[tuple[float, ...], tuple[np.ndarray, np.ndarray]] = {}
    for rotation, translation in zip(found["rotations"], found["translations"], strict=True):
        linear, shift = rotation[:2, :2], translation[:2] % 1.0
        operations.setdefault((*linear.ravel().tolist(), *np.round(shift, 3).tolist()), (linear, shift))
    return list(operations.values())


def symmetry_deviation(
    specimen: Specimen,
    image: np.ndarray,
    n_points: int = 256,
    seed: int = 0,
    margin_px: int = 10,
    symprec_angstrom: float = 1e-4,
) -> float | None:
    """Largest deviation between an image's values at points that the plane group makes equal.

    Lattice translations count as operations too. Values between pixels come from a quintic spline;
    a margin is left out.

    Returns:
        The deviation relative to the image's maximum, or None if no operation maps enough points into the field.
    """
    from scipy.ndimage import map_coordinates, spline_filter

    px, random = specimen.view.pixel_size_angstrom, np.random.default_rng(seed)
    margin = margin_px
    if min(image.shape) <= 2 * margin + 2:
        return None
    spline = spline_filter(np.asarray(image, float), order=5)
    low, high = np.full(2, float(margin)), np.array(image.shape[::-1]) - 1.0 - margin
    points = random.integers(margin, np.array(image.shape[::-1]) - margin, (n_points, 2))
    values = image[points[:, 1], points[:, 0]]
    worst, compared = 0.0, 0
    for linear, shift in plane_operations(specimen, symprec_angstrom):
        moved = specimen.crystal_coordinates(points * px) @ linear.T + shift
        centre = specimen.crystal_coordinates((low + random.random((n_points, 2)) * (high - low)) * px)
        xy = specimen.image_coordinates(moved + np.round(centre - moved)) / px
        inside = np.all((xy >= low) & (xy <= high), axis=1)
        if not inside.any():
            continue
        seen = map_coordinates(spline, xy[inside, ::-1].T, order=5, prefilter=False, mode="nearest")
        worst, compared = max(worst, float(np.abs(seen - values[inside]).max())), compared + int(inside.sum())
    return _relative(worst, float(image.max())) if compared else None


def mask_deviation(row: dict[str, Any], mask: np.ndarray, radius_angstrom: float) -> int:
    """Pixels, farther than the radius from the edge, where a mask differs from the disks around the row's columns."""
    xy = np.array([[column["x_angstrom"], column["y_angstrom"]] for column in row["columns"]]).reshape(-1, 2)
    expected = column_mask(xy, row["size_px"], row["pixel_size_angstrom"], radius_angstrom)
    edge = int(np.ceil(radius_angstrom / row["pixel_size_angstrom"])) + 1
    inner = slice(edge, -edge)
    return int((mask != expected)[inner, inner].sum())


def atoms_deviation(specimen: Specimen, row: dict[str, Any]) -> int:
    """Atoms of a row that are not in the slab, and atoms of the slab in view that are not in the row."""
    listed = np.array([[a["x_angstrom"], a["y_angstrom"], a["atomic_number"]] for a in row["atoms"]]).reshape(-1, 3)
    px, size = specimen.view.pixel_size_angstrom, specimen.view.size_px
    low, high = -px / 2, (size - 0.5) * px
    corners = specimen.crystal_coordinates(np.array([[x, y] for x in (low, high) for y in (low, high)]))
    first, last = np.floor(corners.min(axis=0)) - 1, np.ceil(corners.max(axis=0)) + 1
    cells = np.stack(np.meshgrid(*[np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]), -1).reshape(-1, 2)
    fractional = specimen.positions_angstrom @ np.linalg.inv(specimen.cell_angstrom) % 1.0
    wrong = 0
    for number in np.unique([*specimen.numbers, *listed[:, 2].astype(int)]):
        sites = fractional[np.asarray(specimen.numbers) == number]
        everywhere = specimen.image_coordinates((cells[:, None] + sites[None]).reshape(-1, 2))
        # A hair inside: an atom on the very edge may fall on either side.
        surely, maybe = (
            everywhere[np.all((everywhere > low + gap) & (everywhere < high - gap), axis=1)] for gap in (1e-6, -1e-6)
        )
        wrong += _unmatched(surely, listed[listed[:, 2] == number, :2], maybe)
    return wrong


def _unmatched(needed: np.ndarray, listed: np.ndarray, allowed: np.ndarray) -> int:
    """Points needed but not listed, and listed but not allowed, with multiplicity; 1e-3 Å apart is the same place."""
    from scipy.spatial import cKDTree

    def count(points: np.ndarray, around: np.ndarray) -> np.ndarray:
        return cKDTree(points).query_ball_point(around, 1e-3, return_length=True) if len(points) else np.zeros(1)

    missing = (count(listed, needed) < count(needed, needed)).sum() if len(needed) else 0
    surplus = (count(allowed, listed) < count(listed, listed)).sum() if len(listed) else 0
    return int(missing + surplus)


def _relative(deviation: float, scale: float) -> float:
    return float(deviation / scale) if scale > 0 else float(deviation)


def audit_stem_set(
    folder: str | Path, rows: pa.Table | pl.DataFrame, slabs: pl.DataFrame, *, max_images: int = 64, seed: int = 0
) -> list[AuditResult]:
    """All audits of a set that is about to be published.

    Args:
        folder: the Zarr group.
        rows: rows of ``images/stem``, with or without ``blob``.
        slabs: rows of ``structures/slabs`` that were imaged.
        max_images: images looked at, drawn at random from the set; the rows are all checked.
        seed: of the draw.

    Raises:
        ValueError: the folder holds no set, or a row names a slab that is not among ``slabs``.
    """
    stem_set = StemSet.open(folder)
    # The join cannot be fooled by the order of either table.
    table = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(pl.from_arrow(rows))
    results = [rows_match_the_arrays(stem_set, table)]
    if not results[0].passed or table.is_empty():
        return results
    chosen = table.sample(min(max_images, len(table)), seed=seed, shuffle=True).sort("index")
    structures = {row["slab_id"]: row for row in slabs.join(chosen, on="slab_id", how="semi").iter_rows(named=True)}
    unknown = sorted(set(chosen["slab_id"]) - set(structures))
    if unknown:
        raise ValueError(f"images of slabs that are not given: {unknown[:5]}")
    looked_at = [
        (row, specimen_of(row, structures[row["slab_id"]]), stem_set.image(row["index"]), stem_set.mask(row["index"]))
        for row in chosen.iter_rows(named=True)
    ]
    radius = stem_set.parameters.mask_radius_angstrom
    pairs = [(specimen, image) for _, specimen, image, _ in looked_at]
    return [
        *results,
        images_agree_with_direct_sum(pairs),
        coincident_atoms_add(pairs),
        intensity_sum_is_conserved(pairs),
        images_have_the_plane_group_symmetry(pairs),
        masks_match_columns([(row, mask) for row, _, _, mask in looked_at], radius),
        atoms_match_the_slab([(specimen, row) for row, specimen, _, _ in looked_at]),
    ]


def specimen_of(row: dict[str, Any], slab: dict[str, Any]) -> Specimen:
    """What a row of ``images/stem`` claims to show, from its slab."""
    return Specimen(
        row["image_id"],
        np.asarray(slab["numbers"]),
        np.reshape(slab["positions_angstrom"], (-1, 3))[:, :2],
        np.reshape(slab["cell_angstrom"], (3, 3))[:2, :2],
        View(
            row["pixel_size_angstrom"],
            row["size_px"],
            row["rotation_deg"],
            (row["shift_x_angstrom"], row["shift_y_angstrom"]),
        ),
        row["sigma_angstrom"],
        row["z_exponent"],
    )


def rows_match_the_arrays(stem_set: StemSet, rows: pl.DataFrame) -> AuditResult:
    """Every image has one row, in order, and the same pose in both places."""
    ids, index = rows["image_id"].to_list(), rows["index"].to_list()
    problem = None
    if index != list(range(len(stem_set))):
        problem = f"the rows' indices are not 0 … {len(stem_set) - 1} in order"
    elif ids != list(stem_set.image_ids):
        problem = "the rows' image ids are not those of the arrays"
    elif not np.array_equal(stem_set.poses, rows.select(stem_set.POSE).to_numpy()):
        problem = "poses in rows and arrays differ"
    return AuditResult("rows_match_the_arrays", problem is None, problem or f"{len(ids)} rows", {"rows": len(ids)})


def images_agree_with_direct_sum(pairs: Iterable[tuple[Specimen, np.ndarray]]) -> AuditResult:
    """Images equal an independent float64 sum; catches swapped axes, a missing atom, a wrong pose or exponent."""
    return _worst("images_agree_with_direct_sum", pairs, direct_sum_deviation, DIRECT_TOLERANCE)


def intensity_sum_is_conserved(pairs: Iterable[tuple[Specimen, np.ndarray]]) -> AuditResult:
    """∫I over one primitive cell is ΣZ^p."""
    return _worst("intensity_sum_is_conserved", pairs, intensity_sum_deviation, SUM_TOLERANCE)


def images_have_the_plane_group_symmetry(pairs: Iterable[tuple[Specimen, np.ndarray]]) -> AuditResult:
    """Images are mapped onto themselves by the plane group of the projection."""
    return _worst("images_have_the_plane_group_symmetry", pairs, symmetry_deviation, SYMMETRY_TOLERANCE)


def coincident_atoms_add(pairs: Iterable[tuple[Specimen, np.ndarray]]) -> AuditResult:
    """At sites where atoms of one element coincide, the image has the intensity of all of them."""
    name, lost, judged, worst = "coincident_atoms_add", [], 0, 0.0
    for specimen, image in pairs:
        deviations = coincidence_deviation(specimen, image)
        if deviations is None:
            continue
        judged, worst = judged + 1, max(worst, deviations[0])
        if deviations[0] > DIRECT_TOLERANCE:
            lost.append(specimen.image_id + (" (counted once)" if deviations[1] <= DIRECT_TOLERANCE else ""))
    text = f"{judged} images with coincident atoms of one element, largest deviation {worst:.1e} of the maximum"
    if lost:
        text = f"{len(lost)} of {judged} images lost coincident atoms: {', '.join(lost[:5])}"
    return AuditResult(name, not lost, text, {"judged": judged, "failed": lost[:100], "largest_deviation": worst})


def masks_match_columns(pairs: Iterable[tuple[dict[str, Any], np.ndarray]], radius_angstrom: float) -> AuditResult:
    """A mask is the union of disks around the columns of its row."""
    return _count(
        "masks_match_columns",
        ((row["image_id"], mask_deviation(row, mask, radius_angstrom)) for row, mask in pairs),
        "pixels differ",
    )


def atoms_match_the_slab(pairs: Iterable[tuple[Specimen, dict[str, Any]]]) -> AuditResult:
    """A row lists exactly the slab's atoms in view."""
    return _count(
        "atoms_match_the_slab",
        ((specimen.image_id, atoms_deviation(specimen, row)) for specimen, row in pairs),
        "atoms missing or surplus",
    )


def _count(name: str, counts: Iterator[tuple[str, int]], what: str) -> AuditResult:
    found = dict(counts)
    wrong = {key: count for key, count in found.items() if count}
    text = f"{len(found)} images"
    if wrong:
        text = f"{len(wrong)} of {len(found)} images: " + ", ".join(f"{k}: {n} {what}" for k, n in [*wrong.items()][:5])
    return AuditResult(name, not wrong, text, {"judged": len(found), "failed": [*wrong][:100]})


def _worst(
    name: str,
    pairs: Iterable[tuple[Specimen, np.ndarray]],
    deviation: Callable[[Specimen, np.ndarray], float | None],
    tolerance: float,
) -> AuditResult:
    """Judge the largest deviation; images for which it is None are not judged."""
    found = {specimen.image_id: value for specimen, image in pairs if (value := deviation(specimen, image)) is not None}
    failed = [key for key, value in found.items() if not abs(value) <= tolerance]
    largest = max((abs(value) for value in found.values()), default=0.0)
    text = f"{len(found)} images, largest deviation {largest:.1e}, allowed {tolerance:.0e}"
    if failed:
        text = f"{len(failed)} of {len(found)} images deviate by more than {tolerance:.0e}: {', '.join(failed[:5])}"
    details = {"judged": len(found), "failed": failed[:100], "largest_deviation": largest, "tolerance": tolerance}
    return AuditResult(name, not failed, text, details)
