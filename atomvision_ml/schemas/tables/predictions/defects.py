"""Predictions of the task ``defects``; one table for each of its models, all of one form."""

import pyarrow as pa

from atomvision_ml.schemas.core import Column, Table
from atomvision_ml.schemas.tables.predictions.common import F64, I32, ITEM, MODEL_ID, ROLE, S
from atomvision_ml.schemas.vocabulary import MODELS

DEFECT = pa.struct(
    [
        ("kind", S),
        ("x_angstrom", F64),
        ("y_angstrom", F64),
        ("change", F64),
        ("strain", F64),
        ("significance", F64),
    ]
)

TRUE_DEFECT = pa.struct(
    [
        ("kind", S),
        ("x_angstrom", F64),
        ("y_angstrom", F64),
        ("n_atoms", I32),
        ("change", F64),
        ("strain", F64),
        ("radius_angstrom", F64),
        ("detectability", F64),
    ]
)

_WORDS = {"vacancy": "missing atoms", "substitution": "foreign atoms", "strain": "strained regions"}
_COUNTS = {
    "true": "True {words} in the sheet.",
    "found": "Found {words}.",
    "matched": "Pairs of true and found {words}: within 0.5 Å, regions within their radius (at least 3 Å); Hungarian.",
    "visible": "True {words} whose change is at least 5 of its least possible standard errors at the dose.",
    "matched_visible": "Pairs with such a true one.",
}


def _counts(kind: str) -> tuple[Column, ...]:
    return tuple(
        Column(name=f"n_{name}_{kind}", type=I32, minimum=0, description=text.format(words=_WORDS[kind]))
        for name, text in _COUNTS.items()
    )


def _table(name: str) -> Table:
    return Table(
        key=f"predictions/{name}",
        description=f"Defects of a damaged sheet made of each hold-out image's structure, by {name} and its baselines.",
        columns=(
            ITEM,
            MODEL_ID,
            ROLE,
            *(column for kind in _WORDS for column in _counts(kind)),
            Column(
                name="n_located",
                type=I32,
                minimum=0,
                description="Pairs of true and found point defects within 0.5 Å, whatever their kind (Hungarian).",
            ),
            Column(
                name="f1",
                type=F64,
                minimum=0,
                maximum=1,
                description="2 · pairs over the number of true and found defects of all kinds; 1 where there are none.",
            ),
            Column(
                name="defects",
                type=pa.list_(DEFECT),
                description="Found: x, y in Å from the centre of pixel [0, 0]; change of the column's intensity as a "
                "share of it, or strain; either over its standard error (null where the method gives none).",
            ),
            Column(
                name="truth",
                type=pa.list_(TRUE_DEFECT),
                description="True defects; detectability is the change over its least possible standard error, null "
                "where that is infinite.",
            ),
        ),
    )


ALL = tuple(_table(name) for name, task in MODELS.items() if task == "defects")
