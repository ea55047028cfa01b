"""How the error of found positions falls with the dose, beside the joint Cramér-Rao bound.

Belongs here: the curves and their picture. ``python -m atomvision_ml.evaluation.localisation --out FOLDER`` draws
graphene and MoS2 and prints the figures.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atomvision_ml.evaluation.atom_bounds import position_bounds
from atomvision_ml.evaluation.atom_matching import columns_that_count, pair_atoms
from atomvision_ml.images.atoms import laplacian_of_gaussian_atoms
from atomvision_ml.images.columns import columns_in_view, columns_of
from atomvision_ml.images.detector import poisson_counts
from atomvision_ml.images.stem import Projection, View, render_batch

Floats = NDArray[np.float64]

DOSES_E_PER_A2 = (100.0, 300.0, 1000.0, 3000.0, 10000.0)
METHODS = ("joint fit", "centres of mass", "Laplacian of Gaussian")
_COLOURS = ("#d55e00", "#0072b2", "#777777")


@dataclass(frozen=True)
class Curve:
    """Errors at each dose.

    Attributes:
        doses_e_per_a2: (d,).
        bounds_angstrom: (d,), root of the mean bound per axis.
        rmse_angstrom: method → (d,), per axis, of the columns found within 0.5 Å.
        bias_angstrom: method → (d,), the larger of the two axes' mean errors.
    """

    doses_e_per_a2: Floats
    bounds_angstrom: Floats
    rmse_angstrom: dict[str, Floats]
    bias_angstrom: dict[str, Floats]


def localisation_curve(
    projection: Projection,
    view: View,
    *,
    doses_e_per_a2: Sequence[float] = DOSES_E_PER_A2,
    repeats: int = 1,
    segmenter: str | Path | None = None,
    seed: int = 0,
) -> Curve:
    """Errors of the atom finder, of its start and of the Laplacian of Gaussian on one structure.

    Args:
        projection: the structure.
        view: its pose and field.
        doses_e_per_a2: detected doses.
        repeats: exposures at each dose.
        segmenter: checkpoint; by default the released one.
        seed: of the noise.
    """
    from atomvision_ml.models.atom_finder import AtomFinderParameters, find_atoms

    # The bound is that of columns that are known by their own counts alone.
    alone = AtomFinderParameters(has_repetition=False)
    pixel, field = view.pixel_size_angstrom, ((view.size_px - 1) * view.pixel_size_angstrom,) * 2
    clean = render_batch([projection], [view], precision="float64")[0]
    columns = columns_in_view(columns_of(projection), projection.periods_angstrom, view)
    counts = columns_that_count(columns, field)
    true = columns.positions_angstrom
    bounds: list[float] = []
    errors: dict[str, list[Floats]] = {name: [] for name in METHODS}
    for dose in doses_e_per_a2:
        bound = position_bounds(clean, projection, view, true[counts], mean_detected_e_per_a2=dose)
        bounds.append(float(np.sqrt((bound**2).mean())))
        parts: dict[str, list[Floats]] = {name: [] for name in METHODS}
        for repeat in range(repeats):
            image = poisson_counts(clean, pixel, dose, seed + repeat)
            fitted = find_atoms(image, pixel, alone, segmenter=segmenter)
            started = find_atoms(image, pixel, AtomFinderParameters(is_fitted=False), segmenter=segmenter)
            found = (
                _positions(fitted.columns),
                _positions(started.columns),
                laplacian_of_gaussian_atoms(image, pixel)[:, :2],
            )
            for name, positions in zip(METHODS, found, strict=True):
                pairs = pair_atoms(positions, true, counts)
                parts[name].append(positions[pairs[:, 0]] - true[pairs[:, 1]])
        for name in METHODS:
            errors[name].append(np.concatenate(parts[name]))
    return Curve(
        np.asarray(doses_e_per_a2, float),
        np.array(bounds),
        {name: np.array([np.sqrt((part**2).mean()) for part in parts]) for name, parts in errors.items()},
        {name: np.array([np.abs(part.mean(axis=0)).max() for part in parts]) for name, parts in errors.items()},
    )


def curve_picture(curves: dict[str, Curve]) -> bytes:
    """Error against dose, both logarithmic, one panel for each structure, with the bound as a line; PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.8 + 3.4 * len(curves), 3.6), dpi=110, layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(curves), sharey=True))
    for axis, (title, curve) in zip(axes, curves.items(), strict=True):
        axis.loglog(curve.doses_e_per_a2, 100 * curve.bounds_angstrom, color="black", label="Cramér-Rao bound")
        for name, colour in zip(METHODS, _COLOURS, strict=True):
            axis.loglog(curve.doses_e_per_a2, 100 * curve.rmse_angstrom[name], "o", color=colour, label=name)
        axis.set(title=title, xlabel="detected dose, e/Å²")
        axis.grid(visible=True, which="both", color="#dddddd", lw=0.5)
    axes[0].set_ylabel("position error per axis, pm")
    axes[0].legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def known_sheets() -> dict[str, Projection]:
    """Graphene and MoS2 (2H), seen along their normals."""
    from ase.build import graphene, mx2

    from atomvision_ml.images.stem import project_atoms

    return {"graphene": project_atoms(graphene(vacuum=5)), "MoS2": project_atoms(mx2("MoS2", vacuum=5))}


def _positions(atoms: Sequence[dict[str, float]]) -> Floats:
    return np.array([(atom["x_angstrom"], atom["y_angstrom"]) for atom in atoms]).reshape(-1, 2)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder for atoms-dose.png")
    parser.add_argument("--repeats", type=int, default=3, help="exposures at each dose")
    arguments = parser.parse_args()
    view = View(0.125, 192, 17.0, (0.3, 0.7))
    curves = {
        name: localisation_curve(sheet, view, repeats=arguments.repeats) for name, sheet in known_sheets().items()
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "atoms-dose.png").write_bytes(curve_picture(curves))
    for title, curve in curves.items():
        for number, dose in enumerate(curve.doses_e_per_a2):
            said = "  ".join(
                f"{name} {100 * rmse[number]:.2f} (bias {100 * curve.bias_angstrom[name][number]:.2f})"
                for name, rmse in curve.rmse_angstrom.items()
            )
            print(f"{title} {dose:g} e/Å²: bound {100 * curve.bounds_angstrom[number]:.2f} pm  {said}")


if __name__ == "__main__":
    _main()
