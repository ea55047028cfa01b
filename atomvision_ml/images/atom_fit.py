"""All atoms of an image at once: positions and intensities by a joint fit of overlapping Gaussians.

Belongs here: the fit and its normal equations. The image is B(r) + Σ_j a_j · G_σ(r − r_j), with G_σ a normalised 2D
Gaussian and B a polynomial of low degree. Neighbours 1.4 Å apart overlap under a probe of σ = 0.5 Å, so a fit of one
atom at a time is biased; here all a_j, x_j, y_j (and σ, if asked for) are free together.

Counts are weighted by the inverse of their expectation under the model, anew in each step. Gauss-Newton is then Fisher
scoring of the Poisson likelihood, which reaches the Cramér-Rao bound where there are enough counts (den Dekker et al.,
Ultramicroscopy 104, 83, 2005; van Aert et al., Ultramicroscopy 109, 1236, 2009).

A pixel that integrates the image instead of sampling it only widens the Gaussian, σ² → σ² + p²/12 for a pixel p: 0.3 %
at 0.1 Å, 2 % at 0.25 Å, nothing in the positions. Give that σ, or let it be fitted.

Sums over pixels use that a Gaussian is separable: two small matrix products for each pair of neighbours, one for each
strip of rows. Arrays are [y, x]; positions are Å from the centre of pixel [0, 0].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from scipy.sparse import csc_array

Floats = NDArray[np.float64]

_PAIR_SIGMAS = 5.5  # two Gaussians so far apart overlap by 5e-4
_WINDOW_SIGMAS = 3.2  # product of two Gaussians: its own width is σ/√2
_WITH_TAILS_SIGMAS = (9.0, 5.0)
_REACH_SIGMAS = 6.0
_TABLE_SIGMAS = 9.0  # beyond it a Gaussian is below the rounding of its maximum
_STRIP_PX = 64
_LEAST_EXPECTATION = 0.02  # of the mean, so that a pixel without electrons has a finite weight
_MOST_STEP_SIGMAS = 0.5
_MOST_DAMPING = 1e6
_SMALL_STEP_ANGSTROM = 0.02  # below it the normal matrix is taken from the step before
_LEAST_GAIN = 1e-3  # for each atom, in units of the noise: a few hundredths of a standard deviation
_RIDGE = 1e-4  # of what is known of the median atom, so that atoms of which nothing is known stay where they are


class AtomFitParameters(BaseModel):
    """How atoms are fitted; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sigma_angstrom: float | None = Field(
        default=0.5, gt=0, description="Standard deviation of an atom's image in Å; null: fitted, the same for all."
    )
    background_degree: int = Field(default=0, ge=-1, le=4, description="Degree of the background; -1: there is none.")
    is_counts: bool | None = Field(
        default=None, description="Whether pixels are counted electrons; null: if all are whole and not negative."
    )
    iterations: int = Field(default=25, ge=1, description="Most steps.")
    tolerance_angstrom: float = Field(default=3e-4, gt=0, description="Step at which the fit ends, Å.")


@dataclass(frozen=True)
class AtomFit:
    """Fitted atoms.

    Attributes:
        positions_angstrom: (n, 2) x and y, in the order of the starting positions.
        intensities: (n,), integral of each atom in units of the image times Å².
        sigma_angstrom: of the Gaussian.
        background: [y, x].
        model: [y, x], background and atoms.
        weights: [y, x], inverse variances of the pixels by which it was fitted.
        pixel_size_angstrom: edge of a pixel.
        is_converged: whether the last step was below the tolerance, or gained nothing that exceeds the noise.
        deviance: -2 ln(likelihood), up to a constant of the image: of counts for Poisson noise, of other images for
            Gaussian noise of unknown width.
        free_numbers: how many were fitted.
        noise_left: (n,), share of the standard deviation of each position that is left; below 1 where more than this
            atom's own counts told of it.
    """

    positions_angstrom: Floats
    intensities: Floats
    sigma_angstrom: float
    background: Floats
    model: Floats
    weights: Floats
    pixel_size_angstrom: float
    is_converged: bool
    deviance: float
    free_numbers: int
    noise_left: Floats

    @property
    def information_criterion(self) -> float:
        """Akaike's: of two fits of an image, the lower one will be nearer to another image of the same atoms."""
        return self.deviance + 2 * self.free_numbers

    def deviations(self, index: ArrayLike | None = None) -> Floats:
        """Standard deviations (m, 3) of intensity, x and y of atoms, all others being free too.

        Args:
            index: (m,) which atoms; by default all.
        """
        matrix = normal_matrix(
            self.positions_angstrom, self.intensities, self.sigma_angstrom, self.weights, self.pixel_size_angstrom
        )
        chosen = np.arange(len(self.intensities)) if index is None else np.asarray(index, int)
        variances = inverse_diagonal(matrix, (3 * chosen[:, None] + np.arange(3)).ravel())
        return np.sqrt(variances).reshape(-1, 3)


def fit_atoms(
    image: ArrayLike,
    pixel_size_angstrom: float,
    positions_angstrom: ArrayLike,
    parameters: AtomFitParameters | None = None,
) -> AtomFit:
    """Positions and intensities of all atoms together, by weighted least squares (Levenberg-Marquardt).

    Args:
        image: [y, x], finite, any unit; counts are weighted as counts.
        pixel_size_angstrom: edge of a pixel in Å.
        positions_angstrom: (n, 2) x and y to start from, right to some 0.3 Å; also of atoms a little outside the
            field, whose tails reach into it.
        parameters: of the fit.

    Returns:
        The fit. Intensities may become negative where there is no atom.

    Raises:
        ValueError: the image is not two-dimensional or not finite, or positions are not (n, 2).
    """
    chosen = parameters or AtomFitParameters()
    problem = _Problem.of(image, pixel_size_angstrom, chosen)
    state = problem.start(_checked_positions(positions_angstrom))
    cost, damping, is_converged = problem.cost(state), 1e-6, len(state.intensities) == 0
    equations, step = None, np.inf
    for _ in range(chosen.iterations):
        if is_converged:
            break
        equations = problem.equations(state, equations if step < _SMALL_STEP_ANGSTROM else None)
        while damping < _MOST_DAMPING:
            trial, step = problem.moved(state, equations, damping)
            trial_cost = problem.cost(trial)
            if trial_cost <= cost * (1 + 1e-12) + 1e-300 or step < chosen.tolerance_angstrom:
                break
            damping = max(damping, 1e-4) * 8
        else:
            break
        gain = problem.gain(cost, trial_cost) / len(state.intensities)
        if trial_cost < cost:
            state, cost = trial, trial_cost
        damping = max(damping / 10, 1e-9)
        is_converged = step < chosen.tolerance_angstrom or (problem.is_counts and gain < _LEAST_GAIN)
    return problem.result(state, is_converged)


def fit_intensities(
    image: ArrayLike,
    pixel_size_angstrom: float,
    positions_angstrom: ArrayLike,
    parameters: AtomFitParameters | None = None,
) -> AtomFit:
    """Intensities and background alone, for known positions: a linear fit, weighted anew once.

    Arguments and errors as :func:`fit_atoms`; a ``sigma_angstrom`` must be given.
    """
    chosen = parameters or AtomFitParameters()
    if chosen.sigma_angstrom is None:
        raise ValueError("known positions need a known sigma_angstrom")
    problem = _Problem.of(image, pixel_size_angstrom, chosen)
    state = problem.start(_checked_positions(positions_angstrom))
    return problem.result(problem.linear(state, problem.weights(problem.model(state))), True)


def normal_matrix(
    positions_angstrom: Floats,
    intensities: Floats,
    sigma_angstrom: float,
    weights: Floats,
    pixel_size_angstrom: float,
    *,
    has_tails: bool = False,
) -> csc_array:
    """Jᵀ W J of the parameters (a_1, x_1, y_1, a_2, …), sparse (3n, 3n): the Fisher information if W is.

    Args:
        positions_angstrom: (n, 2).
        intensities: (n,).
        sigma_angstrom: of the Gaussian.
        weights: [y, x], inverse variances of the pixels.
        pixel_size_angstrom: edge of a pixel.
        has_tails: whether pairs and pixels count from further away, at some ten times the memory; needed where weights
            rise as Gaussians fall, and a matrix of many close atoms has to stay positive definite.
    """
    tables = _Tables.of(positions_angstrom, sigma_angstrom, weights.shape, pixel_size_angstrom)
    reach = _WITH_TAILS_SIGMAS if has_tails else (_PAIR_SIGMAS, _WINDOW_SIGMAS)
    return _matrix_of(tables, positions_angstrom, intensities, sigma_angstrom, weights, pixel_size_angstrom, reach)


def _matrix_of(
    tables: _Tables,
    positions: Floats,
    intensities: Floats,
    sigma: float,
    weights: Floats,
    pixel: float,
    reach_sigmas: tuple[float, float] = (_PAIR_SIGMAS, _WINDOW_SIGMAS),
) -> csc_array:
    from scipy.sparse import coo_array

    i, j = _pairs(positions, reach_sigmas[0] * sigma)
    half = int(np.ceil(reach_sigmas[1] * sigma / pixel))
    blocks = _blocks(i, j, positions, intensities, tables, weights, half, pixel)
    other = i != j
    rows = np.concatenate([i, j[other]])[:, None, None] * 3 + np.arange(3)[:, None]
    columns = np.concatenate([j, i[other]])[:, None, None] * 3 + np.arange(3)
    values = np.concatenate([blocks, blocks[other].transpose(0, 2, 1)])
    rows, columns = np.broadcast_to(rows, values.shape), np.broadcast_to(columns, values.shape)
    size = 3 * len(intensities)
    return coo_array((values.ravel(), (rows.ravel(), columns.ravel())), shape=(size, size)).tocsc()


def inverse_diagonal(matrix: csc_array, index: NDArray[np.int64]) -> Floats:
    """Elements ``index`` (m,) of the diagonal of the inverse of a :func:`normal_matrix`; infinite where it is singular.

    A ridge of 1e-6 of the median atom's information stands for what is known of atoms far outside the field.
    """
    unit = np.zeros((matrix.shape[0], len(index)))
    unit[index, np.arange(len(index))] = 1
    solved = _factorised(matrix, 1e-12, 1e-6 * _typical(matrix))(unit)
    diagonal = solved[index, np.arange(len(index))]
    return np.where(np.isfinite(diagonal) & (diagonal > 0), diagonal, np.inf)


@dataclass(frozen=True)
class _Tables:
    """Normalised Gaussians of n atoms along each axis, (n, y) and (n, x), and their derivatives by the position."""

    y: Floats
    x: Floats
    dy: Floats
    dx: Floats

    @classmethod
    def of(cls, positions: Floats, sigma: float, shape: tuple[int, ...], pixel: float) -> _Tables:
        tables = []
        for axis, edge in ((1, shape[0]), (0, shape[1])):
            away = (np.arange(edge) * pixel - positions[:, axis, None]) / sigma
            values = np.zeros(away.shape)
            np.exp(-0.5 * away**2, where=np.abs(away) < _TABLE_SIGMAS, out=values)
            values /= np.sqrt(2 * np.pi) * sigma
            tables.append((values, values * away / sigma))
        return cls(tables[0][0], tables[1][0], tables[0][1], tables[1][1])


@dataclass(frozen=True)
class _State:
    positions: Floats
    intensities: Floats
    sigma: float
    background: Floats  # coefficients of the problem's polynomials
    shape: tuple[int, ...]
    pixel: float

    @cached_property
    def tables(self) -> _Tables:
        return _Tables.of(self.positions, self.sigma, self.shape, self.pixel)

    @cached_property
    def atoms_image(self) -> Floats:
        """Sum of all atoms, [y, x]."""
        image = np.zeros(self.shape)
        strength = self.intensities[:, None] * self.tables.x
        for rows, near in self.strips():
            image[rows] += self.tables.y[near, rows].T @ strength[near]
        return image

    @cached_property
    def is_inside(self) -> NDArray[np.bool_]:
        """Which atoms lie in the field."""
        edge = (np.array(self.shape)[::-1] - 0.5) * self.pixel
        return np.all((self.positions >= -0.5 * self.pixel) & (self.positions <= edge), axis=1)

    def strips(self) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """Strips of rows and the atoms that reach into each."""
        reach, y = _REACH_SIGMAS * self.sigma, self.positions[:, 1]
        for start in range(0, self.shape[0], _STRIP_PX):
            rows = slice(start, min(start + _STRIP_PX, self.shape[0]))
            is_near = (y > start * self.pixel - reach) & (y < (rows.stop - 1) * self.pixel + reach)
            yield rows, np.flatnonzero(is_near)


@dataclass(frozen=True)
class _Equations:
    """Normal equations: sparse part of the atoms, (3n, k) and (k, k) of what all pixels share, right sides."""

    atoms: csc_array
    mixed: Floats
    shared: Floats
    atoms_right: Floats
    shared_right: Floats
    ridge: Floats | None


@dataclass(frozen=True)
class _Problem:
    """An image and everything that stays the same during its fit."""

    image: Floats
    pixel: float
    parameters: AtomFitParameters
    is_counts: bool
    polynomials: Floats  # (k, y, x)

    @classmethod
    def of(cls, image: ArrayLike, pixel: float, parameters: AtomFitParameters) -> _Problem:
        values = np.asarray(image, np.float64)
        if values.ndim != 2 or not np.isfinite(values).all():
            raise ValueError(f"an image is [y, x] of finite numbers, not of shape {values.shape} or with gaps")
        is_counts = parameters.is_counts if parameters.is_counts is not None else looks_like_counts(values)
        return cls(values, pixel, parameters, is_counts, _polynomials(values.shape, parameters.background_degree))

    def start(self, positions: Floats) -> _State:
        """The linear fit at the starting positions, weighted by the smoothed image."""
        from scipy.ndimage import gaussian_filter

        sigma = self.parameters.sigma_angstrom or 0.5
        bare, none = np.zeros(len(positions)), np.zeros(len(self.polynomials))
        state = _State(positions, bare, sigma, none, self.image.shape, self.pixel)
        return self.linear(state, self.weights(gaussian_filter(self.image, sigma / self.pixel, mode="nearest")))

    def linear(self, state: _State, weights: Floats) -> _State:
        """Intensities and background for these positions and weights."""
        bare = replace(state, intensities=np.zeros(len(state.intensities)), background=0 * state.background)
        equations = self._equations(bare, weights, self.polynomials, self.image, self._matrix(bare, weights))
        atoms = _Equations(
            equations.atoms[::3, ::3].tocsc(),
            equations.mixed[::3],
            equations.shared,
            equations.atoms_right[::3],
            equations.shared_right,
            None,
        )
        intensities, background = _solved(atoms, 1e-9)
        return replace(state, intensities=intensities, background=background)

    def weights(self, model: Floats) -> Floats:
        """Inverse variances: of counts that of their expectation, else the same for all pixels."""
        if not self.is_counts:
            return np.ones_like(self.image)
        return 1 / np.maximum(model, self._least())

    def model(self, state: _State) -> Floats:
        return np.tensordot(state.background, self.polynomials, axes=1) + state.atoms_image

    def cost(self, state: _State) -> float:
        """Half the negative log-likelihood's part that varies; for other images the sum of squares."""
        model = self.model(state)
        if not self.is_counts:
            return float(((self.image - model) ** 2).sum())
        expected = np.maximum(model, self._least())
        # As deviance, so that it is positive; what the floor hides is punished, or negative models would be free.
        logarithm = np.log(np.where(self.image > 0, self.image, 1.0) / expected)
        deviance = expected - self.image + np.where(self.image > 0, self.image * logarithm, 0.0)
        hidden = (expected - model) ** 2 / (2 * self._least())
        return float((deviance + hidden).sum())

    def gain(self, before: float, after: float) -> float:
        """How much the cost fell, in units of what one pixel's noise contributes."""
        return (before - after) / (1.0 if self.is_counts else max(after / self.image.size, 1e-300))

    def equations(self, state: _State, former: _Equations | None) -> _Equations:
        """Normal equations at a state; the part of the atoms is the former one's, if given."""
        model = self.model(state)
        shared = self.polynomials
        if self.parameters.sigma_angstrom is None:
            shared = np.concatenate([shared, self._by_sigma(state)[None]])
        weights = self.weights(model)
        matrix = self._matrix(state, weights) if former is None else former.atoms
        return self._equations(state, weights, shared, self.image - model, matrix)

    def moved(self, state: _State, equations: _Equations, damping: float) -> tuple[_State, float]:
        """The state after one damped step, and the largest movement in Å."""
        atoms, shared = _solved(equations, damping)
        change = atoms.reshape(-1, 3)
        most = _MOST_STEP_SIGMAS * state.sigma
        length = np.hypot(change[:, 1], change[:, 2])
        step = change[:, 1:] * np.minimum(1, most / np.maximum(length, 1e-30))[:, None]
        k = len(self.polynomials)
        sigma = state.sigma
        if len(shared) > k:
            sigma = float(np.clip(sigma + shared[k], 0.7 * sigma, 1.4 * sigma))
        moved = replace(
            state,
            positions=state.positions + step,
            intensities=state.intensities + change[:, 0],
            sigma=sigma,
            background=state.background + shared[:k],
        )
        return moved, max(float(np.abs(step[state.is_inside]).max(initial=0.0)), abs(sigma - state.sigma))

    def result(self, state: _State, is_converged: bool) -> AtomFit:
        model = self.model(state)
        weights = self.weights(model)
        if not self.is_counts:
            weights = weights / max(float(np.mean((self.image - model) ** 2)), 1e-300)
        return AtomFit(
            state.positions,
            state.intensities,
            state.sigma,
            np.tensordot(state.background, self.polynomials, axes=1),
            model,
            weights,
            self.pixel,
            is_converged,
            self._deviance(state),
            3 * len(state.intensities) + len(self.polynomials) + (self.parameters.sigma_angstrom is None),
            np.ones(len(state.intensities)),
        )

    def _deviance(self, state: _State) -> float:
        pixels, cost = self.image.size, self.cost(state)
        return 2 * cost if self.is_counts else float(pixels * np.log(max(cost / pixels, 1e-300)))

    def _equations(
        self, state: _State, weights: Floats, shared: Floats, residual: Floats, matrix: csc_array
    ) -> _Equations:
        weighted = shared * weights
        mixed = [self._projected(state, one).ravel() for one in weighted]
        flat = weighted.reshape(len(shared), residual.size)
        return _Equations(
            matrix,
            np.stack(mixed, axis=1) if mixed else np.zeros((3 * len(state.intensities), 0)),
            flat @ shared.reshape(len(shared), residual.size).T,
            self._projected(state, weights * residual).ravel(),
            flat @ residual.ravel(),
            _RIDGE * _typical(matrix, state.intensities),
        )

    def _matrix(self, state: _State, weights: Floats) -> csc_array:
        return _matrix_of(state.tables, state.positions, state.intensities, state.sigma, weights, self.pixel)

    def _projected(self, state: _State, values: Floats) -> Floats:
        """(n, 3): sums of values [y, x] times the derivatives of the model by a, x and y of each atom."""
        tables = state.tables
        total = np.zeros((len(state.intensities), 3))
        for rows, near in state.strips():
            along = tables.y[near, rows] @ values[rows]
            across = tables.dy[near, rows] @ values[rows]
            total[near, 0] += (along * tables.x[near]).sum(axis=1)
            total[near, 1] += (along * tables.dx[near]).sum(axis=1)
            total[near, 2] += (across * tables.x[near]).sum(axis=1)
        total[:, 1:] *= state.intensities[:, None]
        return total

    def _by_sigma(self, state: _State) -> Floats:
        """Derivative of the model by σ, [y, x]: σ times the Laplacian of the atoms."""
        tables = state.tables
        along = [np.arange(edge) * self.pixel for edge in self.image.shape]
        y2, x2 = (
            ((axis - state.positions[:, number, None]) / state.sigma) ** 2 - 1
            for axis, number in zip(along, (1, 0), strict=True)
        )
        image = np.zeros_like(self.image)
        strength = state.intensities[:, None] / state.sigma
        for rows, near in state.strips():
            image[rows] += (tables.y * y2)[near, rows].T @ (tables.x * strength)[near]
            image[rows] += tables.y[near, rows].T @ (tables.x * x2 * strength)[near]
        return image

    def _least(self) -> float:
        return max(_LEAST_EXPECTATION * float(self.image.mean()), 1e-12)


def looks_like_counts(image: NDArray[Any]) -> bool:
    """Whether all pixels are whole and not negative, and not all the same."""
    return bool(image.size and image.min() >= 0 and image.max() > image.min() and (image == np.rint(image)).all())


def _checked_positions(positions: ArrayLike) -> Floats:
    values = np.array(positions, np.float64)
    if values.size == 0:
        return np.zeros((0, 2))
    if values.ndim != 2 or values.shape[1] != 2 or not np.isfinite(values).all():
        raise ValueError(f"positions are (n, 2) finite numbers, not of shape {values.shape} or with gaps")
    return values


def _polynomials(shape: tuple[int, ...], degree: int) -> Floats:
    """Products of Legendre polynomials up to a total degree, (k, y, x)."""
    from numpy.polynomial.legendre import legvander

    if degree < 0:
        return np.zeros((0, *shape))
    y, x = (legvander(np.linspace(-1, 1, edge), degree) for edge in shape)
    kinds = [(m, n) for m in range(degree + 1) for n in range(degree + 1 - m)]
    return np.stack([np.outer(y[:, m], x[:, n]) for m, n in kinds])


def _pairs(positions: Floats, distance: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Atoms i ≤ j closer than the distance, each with itself too."""
    from scipy.spatial import cKDTree

    each = np.arange(len(positions))
    if len(positions) < 2:
        return each, each
    near = cKDTree(positions).query_pairs(distance, output_type="ndarray")
    return np.concatenate([each, near[:, 0]]), np.concatenate([each, near[:, 1]])


def _blocks(
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    positions: Floats,
    intensities: Floats,
    tables: _Tables,
    weights: Floats,
    half: int,
    pixel: float,
) -> Floats:
    """(pairs, 3, 3): sums over pixels of the weight times the derivatives by (a, x, y) of i and of j.

    Of each pair the window of ``half`` pixels around its middle counts.
    """
    pad = [(half, half)] * 2
    middle = np.rint((positions[i] + positions[j]) / (2 * pixel)).astype(np.int64)
    middle = np.clip(middle, 0, np.array(weights.shape)[::-1] - 1)
    window = np.arange(2 * half + 1)
    x, y = middle[:, 0, None] + window, middle[:, 1, None] + window

    def products(values: Floats, slopes: Floats, at: NDArray[np.int64]) -> Floats:
        value, slope = (np.pad(table, [(0, 0), (half, half)]) for table in (values, slopes))
        vi, vj, si, sj = value[i[:, None], at], value[j[:, None], at], slope[i[:, None], at], slope[j[:, None], at]
        return np.stack([vi * vj, si * vj, vi * sj, si * sj], axis=1)

    seen = np.pad(weights, pad)[y[:, :, None], x[:, None, :]]
    sums = products(tables.y, tables.dy, y) @ seen @ products(tables.x, tables.dx, x).transpose(0, 2, 1)
    ai, aj = intensities[i], intensities[j]
    blocks = np.empty((len(i), 3, 3))
    blocks[:, 0, 0], blocks[:, 0, 1], blocks[:, 0, 2] = sums[:, 0, 0], aj * sums[:, 0, 2], aj * sums[:, 2, 0]
    blocks[:, 1, 0], blocks[:, 2, 0] = ai * sums[:, 0, 1], ai * sums[:, 1, 0]
    blocks[:, 1, 1], blocks[:, 1, 2] = ai * aj * sums[:, 0, 3], ai * aj * sums[:, 2, 1]
    blocks[:, 2, 1], blocks[:, 2, 2] = ai * aj * sums[:, 1, 2], ai * aj * sums[:, 3, 0]
    return blocks


def _solved(equations: _Equations, damping: float) -> tuple[Floats, Floats]:
    """Changes of the atoms' and of the shared parameters; the atoms are eliminated first."""
    solve = _factorised(equations.atoms, damping, equations.ridge)
    right = np.column_stack([equations.atoms_right, equations.mixed])
    solved = solve(right)
    schur = equations.shared - equations.mixed.T @ solved[:, 1:]
    if not len(schur):
        return solved[:, 0], np.zeros(0)
    schur[np.diag_indices(len(schur))] += damping * np.diagonal(equations.shared)
    shared = np.linalg.lstsq(schur, equations.shared_right - equations.mixed.T @ solved[:, 0], rcond=None)[0]
    return solved[:, 0] - solved[:, 1:] @ shared, shared


def _typical(matrix: csc_array, intensities: Floats | None = None) -> Floats:
    """The median atom's information on a, x and y, (3n,); with intensities, for atoms as bright as each."""
    diagonal = matrix.diagonal().reshape(-1, 3)
    if not len(diagonal):
        return np.zeros(0)
    scale = np.ones_like(diagonal)
    if intensities is not None:
        squares = intensities**2
        scale[:, 1:] = np.maximum(squares, 1e-4 * np.median(squares) + 1e-300)[:, None]
    return (np.median(diagonal / scale, axis=0) * scale).ravel()


def _factorised(matrix: csc_array, damping: float, ridge: Floats | None = None) -> Any:
    """A function that solves with the matrix, its diagonal raised by this share and by the ridge (n,)."""
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import splu

    if not matrix.shape[0]:
        return lambda right: right
    diagonal = matrix.diagonal() if ridge is None else matrix.diagonal() + ridge
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = diags_array(scale) @ (matrix if ridge is None else matrix + diags_array(ridge)) @ diags_array(scale)
    raised = (scaled + diags_array(np.full(len(scale), damping + 1e-12))).tocsc()
    factors = splu(raised, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return lambda right: scale[:, None] * factors.solve(scale[:, None] * right)
