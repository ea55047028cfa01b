"""Predictions of the task ``lattice``; one table for each of its models, all of one form."""

from atomvision_ml.schemas.core import FLOATS, Column, Table
from atomvision_ml.schemas.tables.predictions.common import F64, ITEM, MODEL_ID, ROLE, B, S
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES, MODELS


def _table(key: str, description: str) -> Table:
    return Table(
        key=key,
        description=description,
        columns=(
            ITEM,
            MODEL_ID,
            ROLE,
            Column(
                name="lattice",
                type=S,
                nullable=True,
                one_of=BRAVAIS_LATTICES,
                description="Predicted class; null if no lattice was found.",
            ),
            Column(
                name="probabilities",
                type=FLOATS,
                nullable=True,
                description="In the order hexagonal, square, rectangular, rhombic, oblique.",
            ),
            Column(
                name="lattice_vectors_angstrom",
                type=FLOATS,
                nullable=True,
                unit="Å",
                description="Reduced primitive vectors, (2, 2) flattened.",
            ),
            Column(
                name="uncertainties_angstrom",
                type=FLOATS,
                nullable=True,
                unit="Å",
                description="Standard uncertainties of the four components.",
            ),
            Column(name="is_correct", type=B, description="Whether the class equals the label."),
            Column(
                name="vector_error_angstrom",
                type=F64,
                nullable=True,
                unit="Å",
                description="Largest distance of a found vector to the true lattice's nearest vector.",
            ),
        ),
    )


EXPERIMENTAL_ANSWERS = _table(
    "evaluation/experimental_answers",
    "Bravais lattice of each experimental test image, by every model of the task and by baselines.",
)

ALL = tuple(
    _table(
        f"predictions/{name}",
        f"Bravais lattice of each hold-out image, and its vectors where the model gives them, by {name}.",
    )
    for name, task in MODELS.items()
    if task == "lattice"
)
