"""Tables of the catalog domain."""

import pyarrow as pa

from atomvision_ml.schemas.core import Column, Table

S, B = pa.string(), pa.bool_()

WAREHOUSE = Table(
    key="catalog/warehouse",
    description="The views of the DuckDB warehouse and whether their table is materialised.",
    columns=(
        Column(name="view", type=S, unique=True, description="`schema.view`."),
        Column(
            name="asset_key",
            type=S,
            nullable=True,
            description="The asset behind it; null for a view over views.",
        ),
        Column(name="is_materialised", type=B, description="False where the view is a typed, empty one."),
        Column(name="description", type=S, description="The view's comment."),
        Column(name="sql", type=S, description="The view's definition."),
    ),
)

DICTIONARY = Table(
    key="catalog/dictionary",
    description="Every column of every published table, from the table dictionary.",
    columns=(
        Column(name="asset_key", type=S, description="Asset key."),
        Column(name="view", type=S, description="DuckDB view."),
        Column(name="column_name", type=S, description="Column."),
        Column(name="type", type=S, description="Arrow type."),
        Column(name="unit", type=S, nullable=True, description="Unit; null for pure numbers and labels."),
        Column(name="is_nullable", type=B, description="Whether nulls are allowed."),
        Column(name="constraints", type=S, nullable=True, description="Unique, range, vocabulary."),
        Column(name="description", type=S, description="Meaning."),
        Column(name="page", type=S, description="Documentation page in the pages blob."),
        Column(name="blob", type=S, description="Folder of the documentation pages."),
    ),
)

ALL = (WAREHOUSE, DICTIONARY)
