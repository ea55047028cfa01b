"""Schedules: only roots have them, the rest follows by the automation condition. All are stopped until switched on."""

from collections.abc import Iterator

import dagster as dg

from atomvision_assets.store import SKIP_UNCHANGED_TAG
from atomvision_ml.schemas.vocabulary import SOURCES
from dagster_project.jobs import REFRESH_STRUCTURES


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


ALL = [refresh_structures_weekly]
