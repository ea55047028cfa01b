"""The registered models of atom finding."""

from __future__ import annotations

from atomvision_ml.models.specs.spec import ModelSpec

SPECS = (
    ModelSpec(
        name="atom_finder",
        task="atoms",
        kind="classical",
        parameters_path="atomvision_ml.models.atom_finder:AtomFinderParameters",
        build_path="atomvision_ml.models.atom_finder:find_atoms",
        predict_path="atomvision_ml.models.atom_finder:find_atoms",
        pixel_sizes_path="atomvision_ml.models.segmenter_training:PIXEL_SIZES_ANGSTROM",
        takes=("background_degree",),
        description="The segmenter's map, watershed and centre of mass, then one joint fit of all atoms.",
        intended_use="Positions and intensities of atomic columns in HAADF-STEM images, best as electron counts.",
        limits=(
            "Atoms are Gaussians of one width: no tails of the probe, no channelling, no tilt.",
            "The probe is taken as σ = 0.5 Å unless another one is given or it is fitted; a wrong one splits atoms.",
            "Two atoms less than about 0.5 Å apart are seen as one column.",
            "The background is one number, or a polynomial of low degree; a support with edges is no background.",
        ),
    ),
)
