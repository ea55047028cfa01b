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
        pixel_sizes_path="atomvision_ml.models.domain:ATOMIC_PIXELS_ANGSTROM",
        description="Autocorrelation peaks, lattice reduction and least squares; no training.",
        intended_use="Bravais lattice and lattice vectors of images of one crystal, seen along a zone axis.",
        takes=("scan_distortion_percent",),
        limits=(
            "One lattice in the field: no grain boundaries, moirés or precipitates.",
            "At least some three periods along each axis; the fewer, the larger the stated uncertainty.",
            "A centring that is broken only by weak scatterers cannot be seen at a low dose.",
        ),
    ),
    ModelSpec(
        name="lattice_cnn",
        task="lattice",
        kind="network",
        parameters_path="atomvision_ml.models.lattice_cnn:LatticeCnnParameters",
        build_path="atomvision_ml.models.lattice_cnn:build_network",
        predict_path="atomvision_ml.models.lattice_cnn:classify_lattice",
        pixel_sizes_path="atomvision_ml.models.lattice_scenes:PIXEL_SIZES_ANGSTROM",
        description="Convolutional network on the power spectrum and autocorrelation in polar form, or on pixels.",
        intended_use="Bravais lattice of HAADF-STEM images of one crystalline monolayer, from 100 e/Å² up.",
        limits=(
            "Below the lattice finder: small strains and weak superlattices are missed more often; no vectors.",
            "Trained on simulated images in the convolution approximation only, with a probe of about σ = 0.5 Å.",
            "Five to twenty periods in the field; it knows no answer for images without a lattice.",
        ),
    ),
    ModelSpec(
        name="lattice_fusion",
        task="lattice",
        kind="network",
        parameters_path="atomvision_ml.models.lattice_fusion:LatticeFusionParameters",
        build_path="atomvision_ml.models.lattice_fusion:build_fusion",
        predict_path="atomvision_ml.models.lattice_fusion:fuse_lattice",
        pixel_sizes_path="atomvision_ml.models.lattice_scenes:PIXEL_SIZES_ANGSTROM",
        description="Evidence of the lattice finder and features of the lattice network under one small head.",
        intended_use="Bravais lattice and vectors in HAADF-STEM images of one crystalline monolayer, from 100 e/Å² up.",
        takes=("scan_distortion_percent",),
        limits=(
            "Vectors are the lattice finder's and may belong to another class than the one answered.",
            "Trained on simulated images in the convolution approximation only, with a probe of about σ = 0.5 Å.",
            "One lattice in the field; some five to twenty periods.",
        ),
    ),
)
