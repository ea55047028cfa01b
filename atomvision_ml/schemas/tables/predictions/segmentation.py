"""Predictions of the task ``segmentation``; one table for each of its models, all of one form."""

import pyarrow as pa

from atomvision_ml.schemas.core import Column, Table
from atomvision_ml.schemas.tables.predictions.common import F64, FOUND_ATOM, ITEM, MODEL_ID, ROLE
from atomvision_ml.schemas.vocabulary import MODELS


def _table(name: str) -> Table:
    return Table(
        key=f"predictions/{name}",
        description=f"Atom/background segmentation of each hold-out image, by {name} and its baselines.",
        columns=(
            ITEM,
            MODEL_ID,
            ROLE,
            Column(name="n_true_positive", type=pa.int64(), unit="px", description="Atom pixels called atom."),
            Column(name="n_false_positive", type=pa.int64(), unit="px", description="Background pixels called atom."),
            Column(name="n_false_negative", type=pa.int64(), unit="px", description="Atom pixels called background."),
            Column(
                name="n_true_negative",
                type=pa.int64(),
                unit="px",
                description="Background pixels called background.",
            ),
            Column(
                name="n_published_right",
                type=pa.int64(),
                minimum=0,
                unit="px",
                description="Pixels right by the published measure: disks of half the element's covalent radius.",
            ),
            Column(
                name="iou",
                type=F64,
                minimum=0,
                maximum=1,
                description="Intersection over union of the atom class; 1 where both are empty.",
            ),
            Column(
                name="n_columns",
                type=pa.int32(),
                minimum=0,
                description="True columns that count: at least 5 % of the brightest, at least 1 Å inside the border.",
            ),
            Column(
                name="n_found",
                type=pa.int32(),
                minimum=0,
                description="Found atoms that count: all but those without a counting column that lie at a column that "
                "does not count, or outside that border.",
            ),
            Column(
                name="n_matched",
                type=pa.int32(),
                minimum=0,
                description="Pairs of a counting column and a found atom at most 0.5 Å apart (Hungarian).",
            ),
            Column(
                name="squared_error_angstrom2",
                type=F64,
                minimum=0,
                unit="Å²",
                description="Sum over the matched pairs of the squared distance.",
            ),
            Column(
                name="atoms",
                type=pa.list_(FOUND_ATOM),
                description="Atoms found: x, y in Å from the centre of pixel [0, 0], intensity.",
            ),
        ),
    )


ALL = tuple(_table(name) for name, task in MODELS.items() if task == "segmentation")
