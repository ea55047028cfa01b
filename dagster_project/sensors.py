"""Sensors: thin shells.

What the automation decides is in :mod:`atomvision_assets.automation`, what the inbox decides in
:mod:`atomvision_ml.experiments.ledger`.
"""

from __future__ import annotations

import time
from typing import Literal

import dagster as dg
from dagster._core.storage.tags import PARTITION_NAME_TAG

from atomvision_assets.declare import asset_key_of
from atomvision_assets.experiments.inbox import BATCH_TAG, Inbox
from atomvision_assets.processes import end_killed_runs
from atomvision_assets.store import SKIP_UNCHANGED_TAG, Store
from atomvision_ml.storage.keys import MODELS_DECISIONS
from dagster_project.jobs import INGEST_EXPERIMENTS

INBOX_OWNER = "sensor"
CHANGE_TAG = "atomvision/change"
"""On a run: up to which change of its day the ledger is to be published."""
REPAIRS = 3
"""Runs for the same change of a day; whoever wants more starts them by hand."""


Status = Literal["RUNNING", "STOPPED"]


def automation(status: Status, interval_s: int) -> dg.AutomationConditionSensorDefinition:
    """The one sensor that evaluates the automation conditions; ``status`` is its initial state."""
    return dg.AutomationConditionSensorDefinition(
        "automation",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus[status],
        minimum_interval_seconds=interval_s,
        run_tags={SKIP_UNCHANGED_TAG: "true"},
        description="Materialises what its inputs, its code or its absence make due. Roots are left alone.",
    )


def decisions(status: Status, interval_s: int) -> dg.SensorDefinition:
    """Tells Dagster what people decided about models at the command line; ``status`` is its initial state."""

    @dg.sensor(
        name="decisions",
        minimum_interval_seconds=interval_s,
        default_status=dg.DefaultSensorStatus[status],
        description="Reports each change of models/decisions, so that the automation makes the verdicts anew.",
    )
    def decisions(context: dg.SensorEvaluationContext, store: Store) -> dg.SensorResult | dg.SkipReason:
        if not store.lake.exists(MODELS_DECISIONS):
            return dg.SkipReason("nobody has decided anything yet")
        facts = store.lake.facts(MODELS_DECISIONS)
        if facts.data_version == context.cursor:
            return dg.SkipReason("no new decision")
        event = dg.AssetMaterialization(
            asset_key_of(MODELS_DECISIONS),
            metadata={"dagster/row_count": facts.n_rows},
            tags={"dagster/data_version": facts.data_version},
        )
        return dg.SensorResult(asset_events=[event], cursor=facts.data_version)

    return decisions


def inbox(status: Status, interval_s: int) -> dg.SensorDefinition:
    """Lists the inbox and starts a run for each batch of complete files; ``status`` is its initial state."""

    @dg.sensor(
        name="inbox",
        job=INGEST_EXPERIMENTS,
        minimum_interval_seconds=interval_s,
        default_status=dg.DefaultSensorStatus[status],
        description="Lists the inbox; one run for each batch of complete files, and for a day whose run was killed.",
    )
    def inbox(context: dg.SensorEvaluationContext, inbox: Inbox) -> dg.SensorResult:
        instance = context.instance
        end_killed_runs(instance)
        ended = [key for key in inbox.store.open_batches(INBOX_OWNER) if _has_ended(instance, key)]
        tick = inbox.store.tick(inbox.places.listing(), time.time(), owner=INBOX_OWNER, ended=ended)
        # A batch that was told before is told again: its run key starts it once, and a daemon may have died between.
        batches = [_request(batch.key, batch.day, {BATCH_TAG: batch.key}) for batch in (*tick.batches, *tick.open)]
        repairs = [_repair(instance, day, number) for day, number in tick.stale_days]
        return dg.SensorResult(run_requests=[*batches, *(repair for repair in repairs if repair is not None)])

    return inbox


def _request(key: str, day: str, tags: dict[str, str]) -> dg.RunRequest:
    return dg.RunRequest(run_key=key, partition_key=day, tags={SKIP_UNCHANGED_TAG: "true", **tags})


def _has_ended(instance: dg.DagsterInstance, batch: str) -> bool:
    """Whether there were runs of a batch, and none goes on."""
    runs = instance.get_runs(dg.RunsFilter(tags={BATCH_TAG: batch}))
    return bool(runs) and all(run.is_finished for run in runs)


def _repair(instance: dg.DagsterInstance, day: str, number: int) -> dg.RunRequest | None:
    """A run that publishes a day again, unless one of the day goes on, or it was tried often enough."""
    runs = instance.get_runs(dg.RunsFilter(job_name=INGEST_EXPERIMENTS.name, tags={PARTITION_NAME_TAG: day}), limit=50)
    change = f"{day}:{number}"
    n_repairs = sum(run.tags.get(CHANGE_TAG) == change for run in runs)
    if n_repairs >= REPAIRS or not all(run.is_finished for run in runs):
        return None
    return _request(f"{change}:{n_repairs}", day, {CHANGE_TAG: change})


ALL = (automation, inbox, decisions)
"""Each makes its sensor of the initial state and of the seconds between two ticks."""
