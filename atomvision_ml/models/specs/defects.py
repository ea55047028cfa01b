"""The registered models of defects."""

from __future__ import annotations

from atomvision_ml.models.specs.spec import ModelSpec

SPECS = (
    ModelSpec(
        name="defect_finder",
        task="defects",
        kind="classical",
        parameters_path="atomvision_ml.models.defect_finder:DefectFinderParameters",
        build_path="atomvision_ml.models.defect_finder:find_defects",
        predict_path="atomvision_ml.models.defect_finder:find_defects",
        pixel_sizes_path="atomvision_ml.models.domain:ATOMIC_PIXELS_ANGSTROM",
        description="Each column against the equivalent ones of the same crystal: intensity, distances; no training.",
        intended_use="Vacancies, substitutions and strained regions in images of one crystal along a zone axis.",
        limits=(
            "One crystal in the field, at least some five periods along each axis, few of its columns damaged.",
            "A foreign atom that halves a column's intensity cannot be told from a missing one of two; one that leaves "
            "next to nothing not from a vacancy.",
            "Of two different atoms in one column, a missing one changes the intensity by no simple share.",
            "Atoms between the columns and on top of them (adatoms) are not looked for.",
            "A probe much sharper or blunter than σ = 0.5 Å must be stated (`probe_sigma_angstrom`).",
        ),
    ),
)
