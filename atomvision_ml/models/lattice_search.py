"""The search for the one lattice that the whole image supports.

Belongs here: fitting candidate lattices, adding superlattices that weak reflections demand, dropping those that none
demands.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from atomvision_ml.images.preprocess import gain_against, smooth_part
from atomvision_ml.models.lattice_evidence import ResidualTest, finer_lattices, off_lattice, sublattice_matrices
from atomvision_ml.models.lattice_harmonics import HarmonicFit, RefinedBasis, harmonic_indices, refine_basis
from atomvision_ml.structures.lattice import reduce_cell

Array = NDArray[np.float64]

_SMALLEST_CELL_BINS2 = 4.0
"""Reciprocal cells of fewer resolution elements than this cannot be told from a continuum."""

_INDEX_PENALTY = 1.5
"""Prior: the log odds of a superlattice fall with this power of its index."""

_MOST_SUPERLATTICES = 6
_MOST_STEPS = 6
_AT_REST_BINS = 0.003
"""Steps of the basis end below this many resolution elements; the error left is quadratically smaller."""

_EVEN_GAIN = 0.03
"""Spread of the gain over the field below which the image counts as evenly lit."""


class LatticeSearch:
    """One image and the lattices tried on it.

    Attributes:
        values: [y, x] image of unit variance; each fit takes its remaining smooth background out.
        reach: Largest frequency in use, cycles per pixel.
        alternatives: After :meth:`run`, reciprocal bases that could not be excluded and their odds against the found
        one.
    """

    def __init__(
        self,
        values: Array,
        reach: float,
        *,
        relative_floor: float,
        minimum_evidence: float,
        largest_index: int,
        most_harmonics: int,
    ) -> None:
        self.values = values
        self.reach = reach
        self.alternatives: list[tuple[float, Array]] = []
        self._relative_floor = relative_floor
        self._minimum_evidence = minimum_evidence
        self._largest_index = largest_index
        self._most_harmonics = most_harmonics

    def run(self, bases: list[Array]) -> RefinedBasis:
        """Best lattice, starting from candidate reciprocal bases (2, 2) in cycles per pixel.

        Raises:
            numpy.linalg.LinAlgError: the reflections cannot be told apart on this field.
        """
        refined = self._refined_further(self._best([self._refined(basis) for basis in bases]))
        gain = gain_against(self.values, refined.fit.model)
        if float(np.std(gain)) > _EVEN_GAIN:
            self.values = self.values / gain
            refined = self._refined_further(self._refined(refined.fit.basis))
        for _ in range(3):
            coarser = self._coarser(refined.fit)
            if coarser is None:
                break
            refined = coarser
        return refined

    def _refined(self, basis: Array) -> RefinedBasis:
        """Gauss-Newton steps until the basis rests, with the polynomial background fitted in between."""
        indices = harmonic_indices(basis, self._reach_of(basis))
        for _ in range(_MOST_STEPS):
            refined = refine_basis(self.values, basis, indices, steps=1)
            self.values = self.values - smooth_part(refined.fit.residual)
            moved = float(np.abs(refined.fit.basis - basis).max()) * max(self.values.shape)
            basis = refined.fit.basis
            if moved < _AT_REST_BINS:
                break
        return refined

    def _refined_further(self, refined: RefinedBasis) -> RefinedBasis:
        """The fit with as many superlattices as the residual demands."""
        self.alternatives.clear()
        for _ in range(_MOST_SUPERLATTICES):
            finer = self._finer(refined.fit)
            if finer is None:
                break
            refined = finer
        return refined

    def _reach_of(self, basis: Array) -> float:
        """The reach, or less where the cell is so large that it would take too many harmonics."""
        return min(self.reach, math.sqrt(2 * self._most_harmonics * abs(np.linalg.det(basis)) / math.pi))

    def _best(self, options: list[RefinedBasis]) -> RefinedBasis:
        """The option with the least Bayesian information criterion (white noise, two numbers a harmonic)."""
        n = self.values.size

        def cost(option: RefinedBasis) -> float:
            return n * math.log(option.fit.pixel_variance) + 2 * len(option.fit.indices) * math.log(n)

        return min(options, key=cost)

    def _test(self, fit: HarmonicFit) -> ResidualTest:
        return ResidualTest.of(fit, self._reach_of(fit.basis), self._relative_floor)

    def _finer(self, fit: HarmonicFit) -> RefinedBasis | None:
        """The finer reciprocal lattice that the residual demands, if it does; else the alternatives are noted.

        Strong new reflections leak to the places of others, so the candidates with evidence are fitted before one is
        chosen.
        """
        test = self._test(fit)
        scored = [
            (test.log_bayes_factor(basis) - _INDEX_PENALTY * math.log(index), basis)
            for index, basis in finer_lattices(fit.basis, self._largest_index)
            if abs(np.linalg.det(basis)) * self.values.size > _SMALLEST_CELL_BINS2
        ]
        scored.sort(key=lambda each: -each[0])
        wanted = [(score, basis) for score, basis in scored[:4] if score > self._minimum_evidence]
        options = [self._refined(basis) for _, basis in wanted]
        options = [option for option in options if option.fit.pixel_variance <= fit.pixel_variance]
        if options:
            self.alternatives.append((math.exp(max(self._minimum_evidence - wanted[0][0], -50.0)), fit.basis))
            return self._best(options)
        self.alternatives += [(math.exp(min(score - self._minimum_evidence, 0.0)), basis) for score, basis in scored]
        return None

    def _coarser(self, fit: HarmonicFit) -> RefinedBasis | None:
        """A coarser reciprocal lattice whose fit leaves no evidence for the present one."""
        floor = fit.residual.size * (self._relative_floor * float(np.abs(fit.amplitudes).max())) ** 2
        snr = np.abs(fit.amplitudes) ** 2 / ((fit.pixel_variance + floor) * fit.variances)
        for index in range(self._largest_index, 1, -1):
            for matrix in sublattice_matrices(index):
                off = off_lattice(fit.indices, matrix)
                is_weak = np.any(off) and snr[off].max() < 60 and snr[off].mean() < 4
                if not is_weak or not _spans_plane(fit.indices[~off & (snr > 60)]):
                    continue
                refined = self._refined(reduce_cell(np.array(matrix) @ fit.basis))
                score = self._test(refined.fit).log_bayes_factor(fit.basis) - _INDEX_PENALTY * math.log(index)
                if score < self._minimum_evidence:
                    return refined
        return None


def _spans_plane(indices: NDArray[np.int64]) -> bool:
    return len(indices) >= 2 and int(np.linalg.matrix_rank(indices)) == 2
