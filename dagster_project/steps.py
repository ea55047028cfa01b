"""What `make demo` and `make full` do, step by step: one asset of one job, for one partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum

import dagster as dg

from atomvision_assets.declare import asset_key_of
from atomvision_ml.storage.keys import (
    EVALUATION_EXPERIMENTAL_ANSWERS,
    EVALUATION_EXPERIMENTAL_HOLDOUT,
    MODELS_CHAMPIONS,
    MODELS_TRAINING_SETS,
    MODELS_VERDICTS,
)
from dagster_project import jobs


class Size(StrEnum):
    """How much to do."""

    demo = "demo"
    full = "full"


class State(Enum):
    """What became of a step; the value is its mark and colour."""

    DONE = ("✓", "green")
    UNCHANGED = ("=", "cyan")
    FAILED = ("✗", "red")
    BLOCKED = ("-", "yellow")
    LEFT_OUT = ("·", "dim")


@dataclass(frozen=True)
class Step:
    """One asset of one job, for one partition."""

    job: str
    key: dg.AssetKey
    partition: str | None = None

    @property
    def name(self) -> str:
        """The key with its partition."""
        key = self.key.to_user_string()
        return key if self.partition is None else f"{key}[{self.partition}]"


@dataclass(frozen=True)
class Outcome:
    """What became of a step."""

    state: State
    seconds: float = 0.0
    n_rows: int | None = None
    message: str = ""


RETRAINING = (
    Step(jobs.REFRESH_TRAINING_SETS.name, asset_key_of(MODELS_TRAINING_SETS), "lattice"),
    *(
        Step(jobs.REFRESH_MODELS.name, asset_key_of(key))
        for key in (
            "models/lattice_fusion",
            "predictions/lattice_fusion",
            EVALUATION_EXPERIMENTAL_HOLDOUT,
            EVALUATION_EXPERIMENTAL_ANSWERS,
            MODELS_VERDICTS,
            MODELS_CHAMPIONS,
        )
    ),
)
"""What labelled micrographs change: the one model that is trained on them, and whether it is promoted."""


def plan(
    definitions: dg.Definitions,
    sources: Iterable[str],
    months: Callable[[], Iterable[str]] = lambda: (),
    days: Iterable[str] = (),
) -> Iterator[Step]:
    """Every step, in an order in which each finds its inputs: job by job, partition by partition, along the graph.

    After the days of the inbox the steps of :data:`RETRAINING` come a second time: they have had their first champion,
    and now judge what the new micrographs make of it.

    Args:
        definitions: the code location.
        sources: the structure databases.
        months: asked, once the harvest has run, for the months of papers that there are.
        days: of the inbox.
    """
    ordered = definitions.resolve_asset_graph().toposorted_asset_keys
    received = list(days)
    for job in jobs.ALL:
        definition = definitions.resolve_job_def(job.name)
        keys = [key for key in ordered if key in definition.asset_layer.executable_asset_keys]
        for partition in _partitions(job, definition, sources, months, received):
            yield from (Step(job.name, key, partition) for key in keys)
        if job is jobs.INGEST_EXPERIMENTS and received:
            yield from RETRAINING


def _partitions(
    job: dg.UnresolvedAssetJobDefinition,
    definition: dg.JobDefinition,
    sources: Iterable[str],
    months: Callable[[], Iterable[str]],
    days: Iterable[str],
) -> Iterable[str | None]:
    if definition.partitions_def is None:
        return [None]
    if job is jobs.REFRESH_STRUCTURES:
        return sources
    if job in jobs.EXPERIMENTS:
        return days
    return months() if job is jobs.REFRESH_LITERATURE else definition.partitions_def.get_partition_keys()
