"""The dictionary: every published table, by key."""

from atomvision_ml.schemas.core import Table
from atomvision_ml.schemas.tables import (
    catalog,
    evaluation,
    experiments,
    images,
    literature,
    models,
    predictions,
    structures,
)

_ROOMS = (structures, images, literature, experiments, models, predictions, evaluation, catalog)
TABLES: dict[str, Table] = {table.key: table for room in _ROOMS for table in room.ALL}


def table(key: str) -> Table:
    """The table of that key; raises KeyError with the known keys."""
    try:
        return TABLES[key]
    except KeyError:
        raise KeyError(f"unknown table {key!r}; known are {sorted(TABLES)}") from None
