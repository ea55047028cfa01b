"""How often the number of missing atoms is exact: graphene and MoS2 with 1 to 20 of them.

Belongs here: the sheets, simple ways to count, and the figures. ``python -m atomvision_ml.evaluation.vacancies`` prints
them, ``evaluation/metrics`` has them in the task ``atoms``. Atoms are removed at random or beside one already removed;
the image has background, jitter of the scan lines, drift and Poisson counts. Sites less than 1 Å inside the border do
not count.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.evaluation.localisation import known_sheets
from atomvision_ml.images.atoms import laplacian_of_gaussian_atoms
from atomvision_ml.images.columns import atoms_in_view, columns_of
from atomvision_ml.images.detector import DetectorParameters, detect
from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.literature.scoring import wilson
from atomvision_ml.models.lattice_finder import NoLatticeError
from atomvision_ml.models.training import stable_seed
from atomvision_ml.models.vacancy_counter import count_vacancies, counted_within, expected_sites

Floats = NDArray[np.float64]
Row = dict[str, Any]

CASES = (("graphene", 300.0), ("graphene", 100.0), ("MoS2", 300.0), ("MoS2", 100.0))

_IMAGES = {"demo": 2, "full": 200}
"""Images of each case at each size of the graph; a count takes up to a second."""


class VacancyParameters(BaseModel):
    """How sheets are damaged and exposed; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pixel_size_angstrom: float = Field(default=0.15, gt=0, description="Edge of a pixel in Å.")
    size_px: int = Field(default=168, ge=32, description="Edge of the image in px.")
    maximum_missing: int = Field(default=20, ge=1, description="Most missing atoms.")
    touching_share: float = Field(default=0.5, ge=0, le=1, description="Chance that the next one is a neighbour.")
    border_angstrom: float = Field(default=1.0, ge=0, description="No site is counted nearer to the edge, Å.")
    maximum_background_fraction: float = Field(default=0.2, ge=0, lt=1, description="Highest share of background.")
    maximum_line_jitter_angstrom: float = Field(default=0.05, ge=0, description="Strongest jitter of the lines, Å.")
    maximum_drift_angstrom: float = Field(default=0.5, ge=0, description="Farthest drift along either axis, Å.")


@dataclass(frozen=True)
class DamagedSheet:
    """An image with missing atoms: counts [y, x], their number, and the removed atoms' positions (n, 2) in Å."""

    image: NDArray[np.float32]
    missing_angstrom: Floats

    @property
    def n_missing(self) -> int:
        """Number of missing atoms."""
        return len(self.missing_angstrom)


def damaged_sheet(
    crystal: Projection,
    mean_detected_e_per_a2: float,
    random: np.random.Generator,
    parameters: VacancyParameters | None = None,
) -> DamagedSheet:
    """A sheet in a random pose with 1 to 20 atoms missing.

    Args:
        crystal: the perfect layer.
        mean_detected_e_per_a2: dose.
        random: the only source of randomness.
        parameters: of damage and exposure.
    """
    chosen = parameters or VacancyParameters()
    turned = View(chosen.pixel_size_angstrom, chosen.size_px, float(random.uniform(0, 360)))
    x, y = random.uniform(0, 1, 2) @ crystal.periods_angstrom @ turned.rotation.T
    view = View(chosen.pixel_size_angstrom, chosen.size_px, turned.rotation_deg, (float(x), float(y)))
    # Drift moves sites by up to its length; none may cross the border.
    margin = chosen.border_angstrom + chosen.maximum_drift_angstrom + 0.2
    atoms, index = atoms_in_view(crystal.positions_angstrom, crystal.periods_angstrom, view, -margin)
    gone = _removed(atoms, int(random.integers(1, chosen.maximum_missing + 1)), chosen.touching_share, random)
    flat = View(view.pixel_size_angstrom, view.size_px)
    holes = Projection(atoms[gone], crystal.weights[index[gone]], np.zeros((0, 2)))
    image = np.clip(render_batch([crystal], [view])[0] - render_batch([holes], [flat])[0], 0, None)
    detector = DetectorParameters(
        mean_detected_e_per_a2=mean_detected_e_per_a2,
        background_fraction=float(random.uniform(0, chosen.maximum_background_fraction)),
        line_jitter_angstrom=float(random.uniform(0, chosen.maximum_line_jitter_angstrom)),
        drift_x_angstrom=float(random.uniform(-1, 1) * chosen.maximum_drift_angstrom),
        drift_y_angstrom=float(random.uniform(-1, 1) * chosen.maximum_drift_angstrom),
    )
    counts = detect(image, view.pixel_size_angstrom, detector, seed=int(random.integers(2**62)))
    return DamagedSheet(counts, atoms[gone])


@dataclass(frozen=True)
class Counter:
    """A way to count missing atoms: its name, its role beside others, and the count of an image of a crystal."""

    name: str
    role: str
    count: Callable[[NDArray[np.float32], Projection, VacancyParameters], int]


def _joint_fit(image: NDArray[np.float32], crystal: Projection, chosen: VacancyParameters) -> int:
    return count_vacancies(image, chosen.pixel_size_angstrom, crystal, border_angstrom=chosen.border_angstrom).total


def brightness_of_sites(image: NDArray[np.float32], crystal: Projection, chosen: VacancyParameters) -> int:
    """Baseline: the same expected sites, each weighed by how bright the smoothed image is there, without any fit.

    From the darkest part of the image (0) to the median of the sites of its kind (1).
    """
    from scipy.ndimage import gaussian_filter

    pixel, columns = chosen.pixel_size_angstrom, columns_of(crystal)
    sites, kind = expected_sites(image, pixel, crystal)
    smooth = gaussian_filter(image.astype(float), _SMOOTHING_ANGSTROM / pixel)
    x, y = np.clip(np.rint(sites / pixel).astype(int), 0, np.array(image.shape)[::-1] - 1).T
    heights = smooth[y, x] - float(np.quantile(smooth, _DARKEST))
    typical = np.array([np.median(heights[kind == number]) for number in range(len(columns.weights))])
    shares = heights / typical[kind]
    return counted_within(image.shape, pixel, chosen.border_angstrom, sites, shares, columns.n_atoms[kind]).total


def columns_short(image: NDArray[np.float32], crystal: Projection, chosen: VacancyParameters) -> int:
    """Baseline: as many columns as the crystal has on such an area, less the maxima of the Laplacian of Gaussian."""
    pixel, border = chosen.pixel_size_angstrom, chosen.border_angstrom
    found = laplacian_of_gaussian_atoms(image, pixel, relative_threshold=_LEAST_RESPONSE)[:, :2]
    edge = (np.array(image.shape)[::-1] - 1) * pixel
    seen = int(np.all((found >= border) & (found <= edge - border), axis=1).sum())
    cells = float(np.prod(edge - 2 * border)) / abs(float(np.linalg.det(crystal.periods_angstrom)))
    return round(cells * len(columns_of(crystal).weights)) - seen


def middle_number(image: NDArray[np.float32], crystal: Projection, chosen: VacancyParameters) -> int:
    """Baseline: as many as there are on average, whatever the image."""
    return (1 + chosen.maximum_missing) // 2


COUNTERS = (
    Counter("vacancy_counter", "classical", _joint_fit),
    Counter("brightness_of_sites", "classical", brightness_of_sites),
    Counter("laplacian_of_gaussian", "classical", columns_short),
    Counter("middle_number", "trivial", middle_number),
)
_SMOOTHING_ANGSTROM = 0.25
_DARKEST = 0.02
_LEAST_RESPONSE = 0.1


def vacancy_metric_rows(size: str, parameters: VacancyParameters | None = None) -> list[Row]:
    """Shares of images whose number of missing atoms is exact, with 95 % Wilson intervals.

    Args:
        size: ``demo``, or ``full`` with 200 images of each case.
        parameters: of damage and exposure.

    Returns:
        Rows of ``evaluation/metrics`` of the task ``atoms``, slices ``vacancies_<crystal>|<dose>``.
    """
    rows = []
    for name, dose in CASES:
        right = {counter.name: 0 for counter in COUNTERS}
        for sheet, crystal, chosen in sheets_of(name, dose, _IMAGES[size], parameters):
            for counter in COUNTERS:
                right[counter.name] += _is_exact(counter, sheet, crystal, chosen)
        where = {"size": size, "seed": 0, "slice": f"vacancies_{name}|{dose:g}", "metric": "number_exact"}
        for counter in COUNTERS:
            about = {"task": "atoms", "model": counter.name, "model_id": counter.name, "role": counter.role}
            rows.append({**about, **where, **wilson(right[counter.name], _IMAGES[size])})
    return rows


def _is_exact(counter: Counter, sheet: DamagedSheet, crystal: Projection, chosen: VacancyParameters) -> bool:
    """An image in which no lattice is found, or that of another crystal, is counted wrong."""
    try:
        return counter.count(sheet.image, crystal, chosen) == sheet.n_missing
    except (NoLatticeError, ValueError):
        return False


def errors_of_count(
    name: str,
    mean_detected_e_per_a2: float,
    n_images: int,
    parameters: VacancyParameters | None = None,
    counter: Counter = COUNTERS[0],
) -> Iterator[int]:
    """Counted minus true number of missing atoms, image by image.

    Args:
        name: ``graphene`` or ``MoS2``.
        mean_detected_e_per_a2: dose.
        n_images: as many.
        parameters: of damage and exposure.
        counter: how to count.
    """
    for sheet, crystal, chosen in sheets_of(name, mean_detected_e_per_a2, n_images, parameters):
        yield counter.count(sheet.image, crystal, chosen) - sheet.n_missing


def sheets_of(
    name: str, mean_detected_e_per_a2: float, n_images: int, parameters: VacancyParameters | None = None
) -> Iterator[tuple[DamagedSheet, Projection, VacancyParameters]]:
    """The damaged sheets of a case, with their crystal and parameters; each depends on its number alone."""
    crystal, chosen = known_sheets()[name], parameters or VacancyParameters()
    for number in range(n_images):
        random = np.random.default_rng(stable_seed("vacancies", name, mean_detected_e_per_a2, number))
        yield damaged_sheet(crystal, mean_detected_e_per_a2, random, chosen), crystal, chosen


def _removed(atoms: Floats, count: int, touching_share: float, random: np.random.Generator) -> list[int]:
    """Indices of removed atoms; with some chance each is the nearest one to one already removed."""
    gone = [int(random.integers(len(atoms)))]
    while len(gone) < min(count, len(atoms)):
        left = np.setdiff1d(np.arange(len(atoms)), gone)
        if random.random() < touching_share:
            beside = atoms[gone[int(random.integers(len(gone)))]]
            gone.append(int(left[np.argmin(((atoms[left] - beside) ** 2).sum(axis=1))]))
        else:
            gone.append(int(random.choice(left)))
    return gone


def _main() -> None:
    from atomvision_ml.images.stem import torch_threads

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="images of each case")
    arguments = parser.parse_args()
    with torch_threads(1):
        for (name, dose), counter in product(CASES, COUNTERS):
            errors = np.array(list(errors_of_count(name, dose, arguments.images, counter=counter)))
            share, worst = np.mean(errors == 0), np.abs(errors).max()
            case = f"{name} {dose:g} e/Å², {counter.name}"
            print(f"{case}: exact in {share:.1%} of {len(errors)} images, worst error {worst}", flush=True)


if __name__ == "__main__":
    _main()
