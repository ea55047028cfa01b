"""The partitions definitions, one for each partition dimension.

Belongs here: the definitions and the mappings between them. The keys themselves are words of
:mod:`atomvision_ml.schemas.vocabulary`.
"""

from __future__ import annotations

import dagster as dg

from atomvision_ml.schemas.vocabulary import FIRST_DAY, FIRST_MONTH, SOURCES, TASKS

BY_DIMENSION: dict[str, dg.PartitionsDefinition] = {
    "source": dg.StaticPartitionsDefinition(SOURCES),
    "task": dg.StaticPartitionsDefinition(TASKS),
    # The current month and day are partitions from their beginning on.
    "month": dg.MonthlyPartitionsDefinition(FIRST_MONTH, fmt="%Y-%m", end_offset=1),
    "day": dg.DailyPartitionsDefinition(FIRST_DAY, end_offset=1),
}
"""A table's `dimension` in the dictionary names its partitions definition here."""


def partitions_of(dimension: str | None) -> dg.PartitionsDefinition | None:
    """The partitions definition of a dimension; None for an unpartitioned table; KeyError for an unknown one."""
    return None if dimension is None else BY_DIMENSION[dimension]


def mapping_between(upstream: str | None, downstream: str | None) -> dg.PartitionMapping | None:
    """How a table of one dimension depends on a table of another: the same partition, or all that are published."""
    if upstream is None:
        return None
    return dg.IdentityPartitionMapping() if upstream == downstream else dg.AllPartitionMapping()
