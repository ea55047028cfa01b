"""The registered models of the Bravais lattice."""

from __future__ import annotations

from atomvision_ml.models.specs.spec import ModelSpec

SPECS = (
    ModelSpec(
        name="lattice_finder",
        task="lattice",
        kind="classical",
        parameters_path="atomvision_ml.models.lattice_finder:LatticeFinderParameters",
        build_path="atomvision_ml.models.lattice_finder:find_lattice",
        predict_path="atomvision_ml.models.lattice_finder:find_lattice",
        description="Autocorrelation peaks, lattice reduction and least squares; no training.",
        intended_use="Bravais lattice and lattice vectors of images of one crystal, seen along a zone axis.",
        limits=(
            "One lattice in the field: no grain boundaries, moirés or precipitates.",
            "At least some three periods along each axis; the fewer, the larger the stated uncertainty.",
            "A centring that is broken only by weak scatterers cannot be seen at a low dose.",
        ),
    ),
)
