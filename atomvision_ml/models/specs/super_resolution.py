"""The registered models of super-resolution."""

from __future__ import annotations

from atomvision_ml.models.specs.spec import ModelSpec

_LIMITS = (
    "Pixels of 0.4 and 0.8 Å and a probe of σ = 0.5 Å, as in training; with others it may invent or lose columns.",
    "Trained on simulated images of perfect layers only: no channelling, no aberrations, no scan distortion.",
    "With pixels of 0.8 Å neighbouring columns alias; what is shown between pixels is likely, not measured.",
    "For a perfect crystal the lattice-harmonic fit is far better.",
)

SPECS = (
    ModelSpec(
        name="super_resolver",
        task="super_resolution",
        kind="network",
        parameters_path="atomvision_ml.models.super_resolution.resolver:SuperResolverParameters",
        build_path="atomvision_ml.models.super_resolution.resolver:build_network",
        predict_path="atomvision_ml.models.super_resolution.resolver:upscale",
        pixel_sizes_path="atomvision_ml.models.super_resolution.training:COARSE_PIXELS_ANGSTROM",
        description="Residual network on top of the Wiener estimate, four times finer; content loss only.",
        intended_use="HAADF-STEM images of crystalline monolayers taken with pixels too large for their atoms.",
        limits=_LIMITS,
    ),
    ModelSpec(
        name="srgan",
        task="super_resolution",
        kind="network",
        parameters_path="atomvision_ml.models.super_resolution.srgan:SrganParameters",
        build_path="atomvision_ml.models.super_resolution.resolver:build_network",
        predict_path="atomvision_ml.models.super_resolution.resolver:upscale",
        pixel_sizes_path="atomvision_ml.models.super_resolution.training:COARSE_PIXELS_ANGSTROM",
        description="The same network trained with perceptual and adversarial loss too (SRGAN).",
        intended_use="Comparison with the content loss alone; its images look sharper and measure worse.",
        limits=_LIMITS,
    ),
)
