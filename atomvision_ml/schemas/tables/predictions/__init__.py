"""Tables of the predictions domain: what each model says of each hold-out item, one module for each task."""

from atomvision_ml.schemas.tables.predictions import (
    atoms,
    defects,
    lattice,
    reconstruction,
    segmentation,
    super_resolution,
)

ALL = (*lattice.ALL, *segmentation.ALL, *atoms.ALL, *super_resolution.ALL, *reconstruction.ALL, *defects.ALL)
