"""The registered models of segmentation."""

from __future__ import annotations

from atomvision_ml.models.specs.spec import ModelSpec

_LIMITS = (
    "Trained on simulated images in the convolution approximation only: no channelling, no aberrations.",
    "Probe of σ = 0.5 Å; a much sharper or blunter one, or a wrong pixel size, shifts the edges of the atoms.",
    "Columns much weaker than a neighbour within about 1.3 Å (hydrogen beside a metal) are missed.",
    "No defects, edges, tilt, contamination or scan distortion in the training images.",
)

SPECS = (
    ModelSpec(
        name="refined_segmenter",
        task="segmentation",
        kind="composed",
        parameters_path="atomvision_ml.models.refined_segmenter:RefinedSegmenterParameters",
        build_path="atomvision_ml.models.refined_segmenter:segment_refined",
        predict_path="atomvision_ml.models.refined_segmenter:segment_refined",
        pixel_sizes_path="atomvision_ml.models.segmenter_training:PIXEL_SIZES_ANGSTROM",
        takes=("background_degree",),
        description="The segmenter's atoms, fitted together and drawn as disks of 0.5 Å.",
        intended_use="Masks and positions of atoms in HAADF-STEM images, best as electron counts.",
        limits=(
            "Atoms are Gaussians of one width, by default σ = 0.5 Å: no tails of the probe, no channelling, no tilt.",
            "Columns below 1.2 % of the brightest one are not drawn.",
            "Some seconds for each thousand of atoms; the plain segmenter needs a fraction of that.",
        ),
    ),
    ModelSpec(
        name="segmenter",
        task="segmentation",
        kind="network",
        parameters_path="atomvision_ml.models.segmenter:SegmenterParameters",
        build_path="atomvision_ml.models.segmenter:build_network",
        predict_path="atomvision_ml.models.segmenter:segment",
        pixel_sizes_path="atomvision_ml.models.segmenter_training:PIXEL_SIZES_ANGSTROM",
        description="U-Net that tells atom from background (segmentation-models-pytorch).",
        intended_use="Atoms in HAADF-STEM images of crystalline monolayers, seen along their normal, from 100 e/Å² up.",
        limits=_LIMITS,
    ),
    ModelSpec(
        name="gaussian_segmenter",
        task="segmentation",
        kind="network",
        parameters_path="atomvision_ml.models.segmenter:GaussianSegmenterParameters",
        build_path="atomvision_ml.models.segmenter:build_network",
        predict_path="atomvision_ml.models.segmenter:segment_by_gaussians",
        pixel_sizes_path="atomvision_ml.models.segmenter_training:PIXEL_SIZES_ANGSTROM",
        description="The same U-Net, which learns a Gaussian around each atom (Madsen et al., 2018).",
        intended_use="Comparison with the segmenter: the same images, another target.",
        limits=_LIMITS,
    ),
)
