"""Tables of the predictions domain: what each model says of each hold-out item."""

import pyarrow as pa

from atomvision_ml.schemas.core import FLOATS, Column, Table
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES

S, I32, F64, B = pa.string(), pa.int32(), pa.float64(), pa.bool_()

FOUND_ATOM = pa.struct([("x_angstrom", F64), ("y_angstrom", F64), ("intensity", F64)])

ITEM = Column(name="item_id", type=S, description="Item of evaluation.holdout.")
MODEL_ID = Column(name="model_id", type=S, description="`<name>@<version>`, or the baseline's name.")
ROLE = Column(
    name="role",
    type=S,
    one_of=("model", "classical", "trivial"),
    description="Whether the row is the model's or a baseline's.",
)

LATTICE_FINDER = Table(
    key="predictions/lattice_finder",
    description="Bravais lattice and lattice vectors found in each hold-out image.",
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
            description="Largest distance of a found vector to the true lattice's nearest vector; null for baselines.",
        ),
    ),
)

SEGMENTER = Table(
    key="predictions/segmenter",
    description="Atom/background segmentation of each hold-out image by the U-Net and its baselines.",
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

ALL = (LATTICE_FINDER, SEGMENTER)
