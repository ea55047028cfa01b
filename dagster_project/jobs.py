"""Jobs: the graph cut where its partitions change.

An unpartitioned asset in a partitioned job would be materialised once per partition, and two partition dimensions do
not fit in one job. So the four jobs are run in turn: each source, the materials, each task, the rest.
"""

from __future__ import annotations

import dagster as dg

from atomvision_assets.declare import asset_key_of
from atomvision_ml.schemas.tables import TABLES
from atomvision_ml.storage.keys import STRUCTURES_MATERIALS


def _with_dimension(dimension: str | None) -> list[dg.AssetKey]:
    return [asset_key_of(key) for key, table in TABLES.items() if table.dimension == dimension]


def _job(name: str, keys: list[dg.AssetKey], description: str) -> dg.UnresolvedAssetJobDefinition:
    return dg.define_asset_job(name, selection=dg.AssetSelection.assets(*keys), description=description)


REFRESH_STRUCTURES = _job(
    "refresh_structures",
    _with_dimension("source"),
    "One structure database: read it, make slabs of it, render its images.",
)
REFRESH_MATERIALS = _job(
    "refresh_materials", [asset_key_of(STRUCTURES_MATERIALS)], "Find the same crystal in all databases."
)
REFRESH_TRAINING_SETS = _job("refresh_training_sets", _with_dimension("task"), "Freeze the training set of one task.")
REFRESH_MODELS = _job(
    "refresh_models",
    [key for key in _with_dimension(None) if key != asset_key_of(STRUCTURES_MATERIALS)],
    "Train, predict, score, promote; then the gallery and the catalogue.",
)

ALL = [REFRESH_STRUCTURES, REFRESH_MATERIALS, REFRESH_TRAINING_SETS, REFRESH_MODELS]
"""In the order in which they build on each other."""
