"""Every column of a crystal measured at once: where it should be, how bright it is, how far it has moved.

Belongs here: from an image to its sites. The lattice finder gives the periods, the periodic part of the image the
columns of one cell; their repetition over the field is the graph of expected sites. One sparse weighted least squares
(Fisher scoring, as in :mod:`atomvision_ml.images.atom_fit`) gives intensity and displacement of all sites together, so
that neighbours that overlap do not disturb each other, and a missing column is a site of intensity zero.

Positions are Å from the centre of pixel [0, 0], x along columns; arrays are [y, x].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.images.atom_fit import looks_like_counts, normal_matrix
from atomvision_ml.images.atoms import local_maxima
from atomvision_ml.images.columns import merge_columns
from atomvision_ml.images.preprocess import gain_against, smooth_part
from atomvision_ml.images.resampling import area_average_matrix
from atomvision_ml.images.stem import images_of_atoms
from atomvision_ml.models.lattice_finder import LatticeFinderParameters, NoLatticeError, find_lattice
from atomvision_ml.models.lattice_harmonics import HarmonicFit, fit_harmonics, harmonic_indices
from atomvision_ml.structures.lattice import reduce_cell

Floats = NDArray[np.float64]

WORKING_PIXEL_ANGSTROM = 0.2
_COARSE_ENOUGH = 0.75  # of the working pixel; images with pixels above that are not binned
_LARGEST_FREQUENCY_PER_ANGSTROM = 1.1
_MOST_HARMONICS = 400
_BLOB_ANGSTROM = 0.4
_BLOB_DISTANCE_ANGSTROM = 0.8
_BLOB_SHARE = 0.02
_BLOB_SIGMAS = 4.0
_HIDDEN_SHARE = 0.02
_LEAST_DISTANCE_ANGSTROM = 0.9
_MOST_COMPLETIONS = 4
_SAME_PLACE_ANGSTROM = 0.25
_SAME_HEIGHT = 0.2
_MARGIN_ANGSTROM = 1.5
_DISPLACEMENT_ANGSTROM = 0.1  # prior spread of displacements
_SMOOTHING_ANGSTROM = 1.5
_ITERATIONS = 3
_SYMMETRIC: dict[str, Any] = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
_UNEVEN_GAIN = 0.05
_LEAST_NOISE = 3e-3  # of the range: columns are not Gaussians to more than that


@dataclass(frozen=True)
class Sites:
    """Expected columns of the field, and what the image shows there.

    Attributes:
        positions_angstrom: (n, 2) where the perfect crystal has them.
        kinds: (n,) which column of the cell each is.
        intensities: (n,) integrals in units of the image times Å².
        typical_intensities: (kinds,) medians of the intensities of each kind.
        displacements_angstrom: (n, 2) from the expected positions.
        displacement_information: (n,) 1/Å², inverse variance along an axis as the noise gives it.
        field_angstrom: largest x and y of the field.
        lattice_vectors_angstrom: (2, 2) rows.
    """

    positions_angstrom: Floats
    kinds: NDArray[np.int64]
    intensities: Floats
    typical_intensities: Floats
    displacements_angstrom: Floats
    displacement_information: Floats
    field_angstrom: tuple[float, float]
    lattice_vectors_angstrom: Floats

    def depth_angstrom(self) -> Floats:
        """(n,) distance of each site from the nearest edge of the field; negative outside."""
        far = np.asarray(self.field_angstrom) - self.positions_angstrom
        return np.minimum(self.positions_angstrom, far).min(axis=1)


def measure_sites(
    image: ArrayLike,
    pixel_size_angstrom: float,
    *,
    probe_sigma_angstrom: float = 0.5,
    superlattice_evidence: float = 150.0,
) -> Sites:
    """Find the crystal and measure all of its columns.

    Args:
        image: [y, x], finite, any unit; whole numbers count as electrons.
        pixel_size_angstrom: edge of a pixel in Å.
        probe_sigma_angstrom: standard deviation of a column's image.
        superlattice_evidence: log Bayes factor that a larger cell needs; a few defects look like a weak superlattice.

    Returns:
        The sites in the field and up to 1.5 Å outside.

    Raises:
        NoLatticeError: no lattice, or no columns stand out of the noise.
        ValueError: as :func:`find_lattice`.
    """
    values = np.asarray(image, np.float64)
    finder = LatticeFinderParameters(minimum_evidence=superlattice_evidence)
    found = find_lattice(values, pixel_size_angstrom, finder)
    small, pixel = _working(values, pixel_size_angstrom)
    offset = (pixel - pixel_size_angstrom) / 2
    sigma = float(np.hypot(probe_sigma_angstrom, pixel / 12**0.5 if pixel != pixel_size_angstrom else 0.0))
    fit, vectors, motif = _crystal(small, pixel, found.lattice_vectors_angstrom)
    motif = _completed(motif, fit, pixel, sigma, vectors)
    flat = _evened(small, fit)
    weights = _weights(flat, fit, looks_like_counts(values))
    problem = _Problem.of(flat, weights, pixel, sigma, motif, vectors)
    height, width = values.shape
    return problem.solved().sites(offset, ((width - 1) * pixel_size_angstrom, (height - 1) * pixel_size_angstrom))


def _working(values: Floats, pixel: float) -> tuple[Floats, float]:
    """The image on pixels of about 0.2 Å, and their size; counts stay sums of counts."""
    if pixel >= _COARSE_ENOUGH * WORKING_PIXEL_ANGSTROM:
        return values, pixel
    down = [area_average_matrix(edge, pixel, WORKING_PIXEL_ANGSTROM) for edge in values.shape]
    return (WORKING_PIXEL_ANGSTROM / pixel) ** 2 * (down[0] @ values @ down[1].T), WORKING_PIXEL_ANGSTROM


def _crystal(values: Floats, pixel: float, vectors: Floats) -> tuple[HarmonicFit, Floats, Floats]:
    """Periodic part, vectors and columns of the smallest cell; defects make the finder see a larger one."""
    fit = _periodic_part(values, pixel, vectors)
    motif, heights = _motif(fit, pixel, vectors)
    smaller = smaller_cell(motif, heights, vectors)
    if smaller is None:
        return fit, vectors, motif
    fit = _periodic_part(values, pixel, smaller)
    return fit, smaller, _motif(fit, pixel, smaller)[0]


def smaller_cell(motif_angstrom: Floats, heights: Floats, vectors_angstrom: Floats) -> Floats | None:
    """The smallest cell under whose translations the columns of a cell go over into like ones.

    Args:
        motif_angstrom: (k, 2) columns.
        heights: (k,) how bright they are; 20 % of difference are taken for equal.
        vectors_angstrom: (2, 2) rows.

    Returns:
        (2, 2) reduced vectors, or None if the cell is the smallest.
    """
    inverse, result = np.linalg.inv(vectors_angstrom), None
    fractions = motif_angstrom @ inverse
    found = [np.zeros(2)]
    for other in range(1, len(motif_angstrom)):
        step = fractions[other] - fractions[0]
        order = next((n for n in range(2, len(fractions) + 1) if _is_whole(n * step, vectors_angstrom / n)), None)
        if order is None:
            continue
        exact = np.rint(order * step) / order
        if _is_translation(exact, fractions, heights, vectors_angstrom):
            found.append(exact)
    if len(found) > 1:
        result = _generated(np.array(found), vectors_angstrom)
    return result


def _is_whole(steps: Floats, vectors: Floats) -> bool:
    return bool(np.hypot(*((steps - np.rint(steps)) @ vectors)) < _SAME_PLACE_ANGSTROM)


def _is_translation(step: Floats, fractions: Floats, heights: Floats, vectors: Floats) -> bool:
    """Whether each column moved by the step (in fractions) comes to lie on one that is as bright."""
    apart = fractions[:, None, :] + step - fractions[None, :, :]
    distance = np.linalg.norm((apart - np.rint(apart)) @ vectors, axis=2)
    mate = distance.argmin(axis=1)
    is_near = distance.min(axis=1) < 2 * _SAME_PLACE_ANGSTROM
    is_like = np.abs(heights - heights[mate]) < _SAME_HEIGHT * np.maximum(heights, heights[mate])
    return bool((is_near & is_like).all())


def _generated(steps: Floats, vectors: Floats) -> Floats:
    """Reduced vectors of the lattice that the cell and the steps (n, 2), in fractions, generate."""
    around = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 2)
    points = (steps[:, None] + around).reshape(-1, 2) @ vectors
    points = points[np.argsort(np.hypot(*points.T), kind="stable")]
    points = points[np.hypot(*points.T) > 2 * _SAME_PLACE_ANGSTROM]
    first = points[0]
    across = np.abs(first[0] * points[:, 1] - first[1] * points[:, 0]) / np.hypot(*first)
    return reduce_cell(np.stack([first, points[np.argmax(across > 2 * _SAME_PLACE_ANGSTROM)]]))


def _periodic_part(values: Floats, pixel: float, vectors: Floats) -> HarmonicFit:
    basis = np.asarray(np.linalg.inv(vectors / pixel).T, np.float64)
    reach = min(0.45, _LARGEST_FREQUENCY_PER_ANGSTROM * pixel)
    indices = harmonic_indices(basis, reach)[:_MOST_HARMONICS]
    try:
        return fit_harmonics(values, basis, indices)
    except np.linalg.LinAlgError as error:
        raise NoLatticeError(f"the reflections cannot be told apart; give a larger field ({error})") from error


def _evened(values: Floats, fit: HarmonicFit) -> Floats:
    """The image without smooth background, and without vignetting where there is much of it."""
    flat = values - smooth_part(fit.residual)
    level = float(fit.model.mean())
    gain = gain_against(flat - level, fit.model - level)
    return level + (flat - level) / gain if float(gain.std()) > _UNEVEN_GAIN else flat


def _motif(fit: HarmonicFit, pixel: float, vectors: Floats) -> tuple[Floats, Floats]:
    """Columns (k, 2) of one cell and their heights (k,): blobs of the periodic part that stand out of its noise."""
    response, threshold = _blobs(fit.model, fit, pixel)
    threshold = max(threshold, _BLOB_SHARE * float(response.max()))
    peaks = local_maxima(response, _BLOB_DISTANCE_ANGSTROM / pixel, threshold)
    places, heights = peaks[:, ::-1] * pixel, response[peaks[:, 0], peaks[:, 1]]
    middle = np.array(fit.model.shape)[::-1] * pixel / 2
    fractions = (places - middle) @ np.linalg.inv(vectors)
    in_cell = (np.abs(fractions) <= 0.55).all(axis=1)
    if not in_cell.any():
        raise NoLatticeError("no columns stand out of the noise")
    x, y = places[in_cell].T
    merged = merge_columns(x, y, heights[in_cell], _BLOB_DISTANCE_ANGSTROM, vectors)
    return merged.positions_angstrom, merged.weights / merged.n_atoms


def _blobs(values: Floats, fit: HarmonicFit, pixel: float) -> tuple[Floats, float]:
    """−σ²∇²(G_σ * values) [y, x], and what the noise of the harmonics alone seldom exceeds."""
    from scipy.ndimage import gaussian_laplace

    sigma = _BLOB_ANGSTROM / pixel
    g2 = (2 * np.pi * sigma) ** 2 * (fit.frequencies**2).sum(axis=1)
    transfer = g2 * np.exp(-g2 / 2)
    noise = np.sqrt(2 * (transfer**2 * fit.variances).sum() * fit.pixel_variance)
    return -(sigma**2) * gaussian_laplace(values, sigma, mode="nearest"), _BLOB_SIGMAS * float(noise)


def _completed(motif: Floats, fit: HarmonicFit, pixel: float, sigma: float, vectors: Floats) -> Floats:
    """The columns, and those that only show once their bright neighbours are taken away from the periodic part.

    The middle of the periodic part, one cell and what reaches into it, is fitted by the columns known; what is left
    over and stands out is another column, until nothing does.
    """
    low, high = _middle_window(fit.model.shape, pixel, vectors)
    part = fit.model[low[1] : high[1], low[0] : high[0]]
    top = float(_blobs(part, fit, pixel)[0].max())
    weights = np.full(part.shape, 1 / (_LEAST_NOISE * float(np.ptp(part))) ** 2)
    for _ in range(_MOST_COMPLETIONS):
        problem = _Problem.of(part, weights, pixel, sigma, motif - low * pixel, vectors).solved(2)
        motif = problem.motif() + low * pixel
        response, threshold = _blobs(problem.residual(), fit, pixel)
        peaks = local_maxima(response, _BLOB_DISTANCE_ANGSTROM / pixel, max(threshold, _HIDDEN_SHARE * top))
        places = peaks[:, ::-1] * pixel
        depth = np.minimum(places, (np.array(part.shape)[::-1] - 1) * pixel - places).min(axis=1)
        distance = np.linalg.norm(places[:, None] - problem.ideal, axis=2).min(axis=1)
        new = places[(depth >= 1.0) & (distance >= _LEAST_DISTANCE_ANGSTROM)]
        if not len(new):
            break
        motif = np.concatenate([motif, new[:1] + low * pixel])
    return motif


def _middle_window(
    shape: tuple[int, ...], pixel: float, vectors: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lower and upper corner (x, y) in pixels of a window that holds a cell and 2 Å around it."""
    half = np.ceil((np.abs(vectors).sum(axis=0) / 2 + 2.0) / pixel).astype(np.int64)
    middle = np.array(shape)[::-1] // 2
    return np.maximum(middle - half, 0), np.minimum(middle + half + 1, np.array(shape)[::-1])


def _weights(values: Floats, fit: HarmonicFit, is_counts: bool) -> Floats:
    """Inverse variances [y, x]: of counts those of their expectation, else one for all pixels, from the residual."""
    if is_counts:
        return 1 / np.maximum(fit.model, 0.02 * float(values.mean()))
    deviation = 1.4826 * float(np.median(np.abs(fit.residual)))
    least = _LEAST_NOISE * float(np.ptp(fit.model))
    return np.full(values.shape, 1 / max(deviation, least) ** 2)


@dataclass(frozen=True)
class _Problem:
    """An image and its sites, some iterations into the fit."""

    image: Floats
    weights: Floats
    pixel: float
    sigma: float
    ideal: Floats
    vectors: Floats
    kinds: NDArray[np.int64]
    positions: Floats
    typical: Floats
    intensities: Floats
    displacements: Floats
    information: Floats

    @classmethod
    def of(cls, image: Floats, weights: Floats, pixel: float, sigma: float, motif: Floats, vectors: Floats) -> _Problem:
        high = (np.array(image.shape)[::-1] - 1) * pixel
        sites, kinds = images_of_atoms(motif, vectors, np.full(2, -_MARGIN_ANGSTROM), high + _MARGIN_ANGSTROM)
        n = len(sites)
        nothing = np.zeros((n, 2))
        return cls(
            image, weights, pixel, sigma, sites, vectors, kinds, sites, np.zeros(len(motif)), np.zeros(n), nothing,
            np.zeros(n),
        )  # fmt: skip

    def solved(self, iterations: int = _ITERATIONS) -> _Problem:
        """Intensities first, then intensities and displacements in turns with the smoothed displacements applied."""
        now = self._with_intensities()
        for _ in range(iterations):
            now = now._step()
        return now

    def motif(self) -> Floats:
        """Refined positions (k, 2) of the columns of one cell: the site of each kind that is deepest in the field."""
        edge = (np.array(self.image.shape)[::-1] - 1) * self.pixel
        depth = np.minimum(self.ideal, edge - self.ideal).min(axis=1)
        order = np.argsort(-depth, kind="stable")
        return self.ideal[order[np.unique(self.kinds[order], return_index=True)[1]]]

    def residual(self) -> Floats:
        """The image less its typical columns, [y, x]."""
        y, x = self._tables()[0]
        rest = self.image - y.T @ (self.typical[self.kinds][:, None] * x)
        return rest - float(rest.mean())

    def sites(self, offset: float, field_angstrom: tuple[float, float]) -> Sites:
        """The result in the coordinates of the given image."""
        return Sites(
            self.ideal + offset,
            self.kinds,
            self.intensities,
            self.typical,
            self.displacements,
            self.information,
            field_angstrom,
            self.vectors,
        )

    def _with_intensities(self) -> _Problem:
        n = len(self.ideal)
        matrix = normal_matrix(self.positions, np.ones(n), self.sigma, self.weights, self.pixel)[::3, ::3]
        intensities = self._solve(matrix.tocsc(), np.full(n, 1e-6 * float(matrix.diagonal().max())), np.zeros(n), [0])
        typical = self._typical(intensities)
        if not typical.max() > 0:
            raise NoLatticeError("the sites of the lattice are not brighter than what lies between them")
        return replace(self, intensities=intensities, typical=typical)

    def _step(self) -> _Problem:
        """One solution for all intensities and displacements about the typical intensities."""
        typical = np.maximum(self.typical, 1e-3 * float(self.typical.max()))[self.kinds]
        matrix = normal_matrix(self.positions, typical, self.sigma, self.weights, self.pixel)
        prior = np.tile(1 / _DISPLACEMENT_ANGSTROM**2, (len(typical), 3))
        prior[:, 0] = 1 / (2 * typical + 0.1 * typical.max()) ** 2
        change = self._solve(matrix, prior.ravel(), typical, [0, 1, 2]).reshape(-1, 3)
        intensities = typical + change[:, 0]
        information = matrix.diagonal().reshape(-1, 3)[:, 1:].mean(axis=1)
        displacements = self.positions - self.ideal + change[:, 1:]
        known = information * (np.abs(change[:, 0]) < 0.3 * typical)
        ideal = self.ideal + self._common(displacements, known)
        displacements = displacements + self.ideal - ideal
        return replace(
            self,
            ideal=ideal,
            positions=ideal + smoothed(ideal, displacements, known, _SMOOTHING_ANGSTROM),
            intensities=intensities,
            typical=self._typical(intensities),
            displacements=displacements,
            information=information,
        )

    def _common(self, displacements: Floats, known: Floats) -> Floats:
        """What all sites of a kind have in common, and the affine misfit of the lattice; robust against regions."""
        shift = np.zeros_like(displacements)
        for kind in range(len(self.typical)):
            mine = (self.kinds == kind) & self._is_inside() & (known > 0)
            if mine.any():
                shift[self.kinds == kind] = np.median(displacements[mine], axis=0)
        rest, weight = displacements - shift, known * self._is_inside()
        design = np.column_stack([np.ones(len(rest)), self.ideal - self.ideal.mean(axis=0)])
        for _ in range(4):
            root = np.sqrt(weight)[:, None]
            affine = design @ np.linalg.lstsq(root * design, root * rest, rcond=None)[0]
            away = np.hypot(*(rest - affine).T)
            scale = 1.5 * float(np.median(away[weight > 0])) if (weight > 0).any() else 1.0
            weight = known * self._is_inside() / (1 + (away / max(scale, 1e-6)) ** 2) ** 2
        return shift + affine

    def _typical(self, intensities: Floats) -> Floats:
        inside = self._is_inside()
        medians = [intensities[(self.kinds == kind) & inside] for kind in range(len(self.typical))]
        return np.array([max(float(np.median(part)), 0.0) if len(part) else 0.0 for part in medians])

    def _is_inside(self) -> NDArray[np.bool_]:
        edge = (np.array(self.image.shape)[::-1] - 1) * self.pixel
        return np.asarray((np.minimum(self.ideal, edge - self.ideal) >= 0).all(axis=1))

    def _solve(self, matrix: Any, prior: Floats, typical: Floats, parts: list[int]) -> Floats:
        """Parameters of all sites, a constant background eliminated; ``prior`` is added to the diagonal."""
        from scipy.sparse import diags_array
        from scipy.sparse.linalg import splu

        tables = self._tables()
        y, x = tables[0]
        residual = self.image - y.T @ (typical[:, None] * x)
        right = self._projected(tables, self.weights * residual, typical)[:, parts].ravel()
        shared = self._projected(tables, self.weights, typical)[:, parts].ravel()
        solve = splu((matrix + diags_array(prior)).tocsc(), permc_spec="MMD_AT_PLUS_A", **_SYMMETRIC).solve
        first, second = solve(np.column_stack([right, shared])).T
        level = (float((self.weights * residual).sum()) - shared @ first) / (
            float(self.weights.sum()) - shared @ second
        )
        return first - level * second

    def _tables(self) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
        """Gaussians (n, y), (n, x) of unit integral along each axis, and their derivatives by the position."""
        values, slopes = [], []
        for axis, edge in ((1, self.image.shape[0]), (0, self.image.shape[1])):
            away = (np.arange(edge) * self.pixel - self.positions[:, axis, None]) / self.sigma
            values.append(np.exp(-0.5 * away**2) / ((2 * np.pi) ** 0.5 * self.sigma))
            slopes.append(values[-1] * away / self.sigma)
        return (values[0], values[1]), (slopes[0], slopes[1])

    def _projected(self, tables: Any, values: Floats, typical: Floats) -> Floats:
        """(n, 3): sums of values [y, x] times the derivatives of the model by intensity, x and y of each site."""
        (y, x), (slope_y, slope_x) = tables
        along = y @ values
        total = np.stack(
            [(along * x).sum(axis=1), (along * slope_x).sum(axis=1), ((slope_y @ values) * x).sum(axis=1)], axis=1
        )
        total[:, 1:] *= typical[:, None]
        return total


def smoothed(positions_angstrom: Floats, values: Floats, weights: Floats, length_angstrom: float) -> Floats:
    """Gaussian-weighted mean (n, m) of values (n, m) over each site's surroundings; 0 where nothing is known."""
    from scipy.sparse import csr_array
    from scipy.spatial import cKDTree

    tree = cKDTree(positions_angstrom)
    near = tree.sparse_distance_matrix(tree, 3 * length_angstrom, output_type="coo_matrix")
    n = len(positions_angstrom)
    rows, columns = np.concatenate([near.row, np.arange(n)]), np.concatenate([near.col, np.arange(n)])
    apart = np.concatenate([near.data, np.zeros(n)])
    is_new = (rows != columns) | (np.arange(len(rows)) >= len(near.data))
    share = np.exp(-0.5 * (apart / length_angstrom) ** 2) * weights[columns] * is_new
    matrix = csr_array((share, (rows, columns)), shape=(n, n))
    total = np.asarray(matrix.sum(axis=1)).ravel()
    return (matrix @ values) / np.where(total > 0, total, 1.0)[:, None]
