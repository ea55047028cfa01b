"""AtomVision: structures, images, models and numbers of atomic-resolution microscopy. Knows no Dagster.

>>> import atomvision_ml as av
>>> image = av.render(atoms)  # doctest: +SKIP
>>> av.find_lattice(image, pixel_size_angstrom=0.1).lattice  # doctest: +SKIP
'hexagonal'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomvision_ml.images.stem import render
    from atomvision_ml.models.atom_finder import find_atoms
    from atomvision_ml.models.autoencoder import reconstruct
    from atomvision_ml.models.chosen import load_model
    from atomvision_ml.models.defect_finder import find_defects
    from atomvision_ml.models.domain import check_domain
    from atomvision_ml.models.lattice_finder import find_lattice
    from atomvision_ml.models.segmenter import segment
    from atomvision_ml.models.super_resolution.resolver import upscale

_WHERE = {
    "check_domain": "atomvision_ml.models.domain",
    "find_defects": "atomvision_ml.models.defect_finder",
    "reconstruct": "atomvision_ml.models.autoencoder",
    "upscale": "atomvision_ml.models.super_resolution.resolver",
    "find_atoms": "atomvision_ml.models.atom_finder",
    "render": "atomvision_ml.images.stem",
    "find_lattice": "atomvision_ml.models.lattice_finder",
    "load_model": "atomvision_ml.models.chosen",
    "segment": "atomvision_ml.models.segmenter",
}

__all__ = [
    "check_domain",
    "find_atoms",
    "find_defects",
    "find_lattice",
    "load_model",
    "reconstruct",
    "render",
    "segment",
    "upscale",
]


def __getattr__(name: str) -> Any:
    """The public functions, imported on first use so that ``import atomvision_ml`` stays light."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public are {__all__}")
    return getattr(import_module(_WHERE[name]), name)
