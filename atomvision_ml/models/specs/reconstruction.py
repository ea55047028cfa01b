"""The registered models of reconstruction."""

from __future__ import annotations

from atomvision_ml.models.specs.spec import ModelSpec

_LIMITS = (
    "Fields of 64 px at 0.2 Å; finer images are averaged to that pixel size, smaller fields refused.",
    "Trained on simulated images in the convolution approximation, probe of σ = 0.5 Å, whole crystals only.",
    "What is strange to it (defects, edges) may be replaced by what it knows: no proof that something is there.",
)

SPECS = (
    ModelSpec(
        name="autoencoder",
        task="reconstruction",
        kind="network",
        parameters_path="atomvision_ml.models.autoencoder:AutoencoderParameters",
        build_path="atomvision_ml.models.autoencoder:build_network",
        predict_path="atomvision_ml.models.autoencoder:reconstruct",
        pixel_sizes_path="atomvision_ml.models.domain:STEM_PIXELS_ANGSTROM",
        description="Dense autoencoder that begins as principal components (torch, scikit-learn).",
        intended_use="Short descriptions of fields of 12.8 Å; the dense network of the literature, for comparison.",
        limits=_LIMITS,
    ),
    ModelSpec(
        name="conv_autoencoder",
        task="reconstruction",
        kind="network",
        parameters_path="atomvision_ml.models.autoencoder:ConvAutoencoderParameters",
        build_path="atomvision_ml.models.autoencoder:build_network",
        predict_path="atomvision_ml.models.autoencoder:reconstruct",
        pixel_sizes_path="atomvision_ml.models.domain:STEM_PIXELS_ANGSTROM",
        description="Convolutional correction of a principal component code (torch, scikit-learn).",
        intended_use="Short descriptions of fields of 12.8 Å, from which the image comes back with less noise.",
        limits=_LIMITS,
    ),
)
