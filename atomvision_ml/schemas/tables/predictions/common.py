"""Columns that every predictions table has."""

import pyarrow as pa

from atomvision_ml.schemas.core import Column

S, I32, I64, F64, B = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()

FOUND_ATOM = pa.struct([("x_angstrom", F64), ("y_angstrom", F64), ("intensity", F64)])

ITEM = Column(name="item_id", type=S, description="Item of evaluation.holdout.")
MODEL_ID = Column(name="model_id", type=S, description="`<name>@<version>`, or the baseline's name.")
ROLE = Column(
    name="role",
    type=S,
    one_of=("model", "classical", "trivial"),
    description="Whether the row is the model's or a baseline's.",
)
