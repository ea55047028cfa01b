"""How often the number of missing atoms is exact: graphene and MoS2 with 1 to 20 of them.

Belongs here: the sheets and the figures. ``python -m atomvision_ml.evaluation.vacancies`` prints them. Atoms are
removed at random or beside one already removed; the image has background, jitter of the scan lines, drift and Poisson
counts. Sites less than 1 Å inside the border do not count.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.evaluation.localisation import known_sheets
from atomvision_ml.images.columns import atoms_in_view
from atomvision_ml.images.detector import DetectorParameters, detect
from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.models.training import stable_seed
from atomvision_ml.models.vacancy_counter import count_vacancies

Floats = NDArray[np.float64]

CASES = (("graphene", 300.0), ("graphene", 100.0), ("MoS2", 300.0), ("MoS2", 100.0))


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


def errors_of_count(
    name: str, mean_detected_e_per_a2: float, n_images: int, parameters: VacancyParameters | None = None
) -> Iterator[int]:
    """Counted minus true number of missing atoms, image by image.

    Args:
        name: ``graphene`` or ``MoS2``.
        mean_detected_e_per_a2: dose.
        n_images: as many.
        parameters: of damage and exposure.
    """
    crystal, chosen = known_sheets()[name], parameters or VacancyParameters()
    for number in range(n_images):
        random = np.random.default_rng(stable_seed("vacancies", name, mean_detected_e_per_a2, number))
        sheet = damaged_sheet(crystal, mean_detected_e_per_a2, random, chosen)
        count = count_vacancies(
            sheet.image, chosen.pixel_size_angstrom, crystal, border_angstrom=chosen.border_angstrom
        )
        yield count.total - sheet.n_missing


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
        for name, dose in CASES:
            errors = np.array(list(errors_of_count(name, dose, arguments.images)))
            share, worst = np.mean(errors == 0), np.abs(errors).max()
            print(f"{name} {dose:g} e/Å²: exact in {share:.1%} of {len(errors)} images, worst error {worst}")


if __name__ == "__main__":
    _main()
