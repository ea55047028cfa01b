"""Schedules of roots, stopped until switched on, and of what waits for a day, which runs where the automation does."""

from collections.abc import Iterator

import dagster as dg

from atomvision_assets.store import SKIP_UNCHANGED_TAG
from atomvision_ml.evaluation.adoption import TASK as ADOPTING_TASK
from atomvision_ml.schemas.vocabulary import SOURCES
from dagster_project.jobs import HARVEST_LITERATURE, REFRESH_STRUCTURES, REFRESH_TRAINING_SETS
from dagster_project.sensors import Status


@dg.schedule(
    name="refresh_structures_weekly",
    job=REFRESH_STRUCTURES,
    cron_schedule="0 3 * * 1",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Every database anew, one run each; what is delivered unchanged is not computed again.",
)
def refresh_structures_weekly(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """One run request for each source; the run key makes a repeated tick harmless."""
    for source in SOURCES:
        yield dg.RunRequest(
            run_key=f"{source}:{context.scheduled_execution_time:%Y-%m-%d}",
            partition_key=source,
            tags={SKIP_UNCHANGED_TAG: "true"},
        )


@dg.schedule(
    name="harvest_literature_nightly",
    job=HARVEST_LITERATURE,
    cron_schedule="0 6 * * 1-6",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="After arXiv's nightly announcement, Sunday to Thursday evening in New York, and once more.",
)
def harvest_literature_nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """One harvest; the months that it changes are made anew by the automation."""
    return dg.RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%d}")


def adopt_micrographs_daily(status: Status) -> dg.ScheduleDefinition:
    """Looks each day whether an image has waited long enough; ``status`` is its initial state."""

    @dg.schedule(
        name="adopt_micrographs_daily",
        job=REFRESH_TRAINING_SETS,
        cron_schedule="0 4 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus[status],
        description="Labelled micrographs that have waited long enough enter the training set; else it stays the same.",
    )
    def adopt_micrographs_daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        """The automation sees new micrographs; that days have passed only a clock sees."""
        day = f"{context.scheduled_execution_time:%Y-%m-%d}"
        return dg.RunRequest(run_key=day, partition_key=ADOPTING_TASK, tags={SKIP_UNCHANGED_TAG: "true"})

    return adopt_micrographs_daily


def schedules(status: Status) -> list[dg.ScheduleDefinition]:
    """All schedules; ``status`` is the initial state of the one that asks nothing of others."""
    return [refresh_structures_weekly, harvest_literature_nightly, adopt_micrographs_daily(status)]
