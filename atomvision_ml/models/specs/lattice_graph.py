"""The graph network of the Bravais lattice."""

from __future__ import annotations

from atomvision_ml.models.specs.spec import ModelSpec

SPECS = (
    ModelSpec(
        name="lattice_graph",
        task="lattice",
        kind="network",
        parameters_path="atomvision_ml.models.lattice_graph:LatticeGraphParameters",
        build_path="atomvision_ml.models.lattice_graph:build_network",
        predict_path="atomvision_ml.models.lattice_graph:classify_graph",
        pixel_sizes_path="atomvision_ml.models.domain:STEM_PIXELS_ANGSTROM",
        description="ALIGNN on the graph of an image's atoms: bonds, bond angles, and repeats of the surroundings.",
        intended_use="Bravais lattice of images of one crystal, seen along a zone axis, whose columns are resolved.",
        limits=(
            "Trained on simulated images in the convolution approximation; a wrong pixel size shifts all lengths.",
            "Columns closer than about 1 Å are found as one; a lattice that only they tell apart is not seen.",
            "At least some three periods along each axis, of at most 24 Å.",
            "It names the class; for the lattice vectors use the lattice finder.",
        ),
    ),
)
