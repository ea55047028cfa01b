"""Assets of the experiments domain: what people drop into the inbox, described and stored."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.storage.tags import SENSOR_NAME_TAG
from pydantic import Field

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import external_table, table_asset
from atomvision_assets.experiments import checks
from atomvision_assets.experiments.inbox import BATCH_TAG, Inbox
from atomvision_assets.failures import told_apart
from atomvision_assets.store import Product, Store, Work
from atomvision_ml.storage.keys import EXPERIMENTS_INBOX, EXPERIMENTS_MICROGRAPHS, EXPERIMENTS_RECORDS

PREVIEW_IMAGES = 30

inbox_files = external_table(
    EXPERIMENTS_INBOX,
    kinds={"sqlite"},
    deps=[],
    description=(
        "The files are people's, and nothing here changes them. The sensor `inbox` watches; the runs that it starts "
        "publish what the ledger says, and report it."
    ),
)


class RecordsConfig(dg.Config):
    """How a run that a person has started takes files."""

    rest_s: float = Field(default=2.0, ge=0, description="Time in s for which a file must rest; it is waited for once.")


@table_asset(
    EXPERIMENTS_RECORDS,
    code_version="1",
    kinds={"python", "parquet"},
    deps=[EXPERIMENTS_INBOX],
    checks=checks.RECORDS,
    description=(
        "A root that the sensor `inbox` starts with a batch of files. Started by hand, the present day takes what is "
        "complete; any other day is published again from the ledger. Each file is settled with its rows in one "
        "transaction, and a day is always published whole, so that concurrent and killed runs lose nothing."
    ),
)
def records(
    context: dg.AssetExecutionContext, store: Store, inbox: Inbox, config: RecordsConfig
) -> dg.MaterializeResult:
    """Read the files of a batch, then publish the day."""
    from atomvision_ml.experiments.ingest import record_rows

    work = store.begin(context)
    day = context.partition_key
    with told_apart(f"{work.name} cannot take the files", context.retry_number):
        parameters = inbox.parameters()
        _take(work, inbox, config)
    with work.alone():
        newest = inbox.store.newest(day)

        def make() -> Product:
            rows = list(record_rows(inbox.store.rows(day)))
            known = _published_receipts(work)
            states = Counter(row["state"] for row in rows)
            return Product(rows, audits=checks.audit_records(rows, known), metadata=states)

        result = work.publish(make, parameters=parameters)
        inbox.store.note_published(day, newest)
    _publish_inbox(work, inbox)
    return result


def _published_receipts(work: Work) -> list[str]:
    """Rows of the day that were published before."""
    if not work.lake.exists(work.key, work.partition):
        return []
    return work.lake.scan(work.key, work.partition).select("receipt_id").collect()["receipt_id"].to_list()


def _take(work: Work, inbox: Inbox, config: RecordsConfig) -> None:
    """Read the files of the run's batch; if a person started it for the present day, whatever is complete."""
    from atomvision_ml.experiments.ingest import Intake
    from atomvision_ml.experiments.worker import FileReader

    tags = work.context.run.tags
    batch = tags.get(BATCH_TAG)
    if batch is None and (SENSOR_NAME_TAG in tags or work.partition != f"{datetime.now(UTC):%Y-%m-%d}"):
        return
    scratch = work.lake.scratch(f"inbox-{work.context.run.run_id}")
    with FileReader() as reader:
        intake = Intake(inbox.store, inbox.places, reader, work.lake.put_blob, scratch, profiles=inbox.profiles())
        if batch is not None:
            intake.take(inbox.store.batch(batch), work.progress)
        else:
            with work.alone("inbox"):
                intake.take_all(inbox.store.rules.model_copy(update={"minimum_age_s": config.rest_s}), work.progress)


def _publish_inbox(work: Work, inbox: Inbox) -> None:
    """Publish what the ledger says now; a run that was quicker has said it already."""
    from atomvision_ml.experiments.ingest import inbox_rows
    from atomvision_ml.schemas.tables.experiments import INBOX
    from atomvision_ml.storage.lake import PublicationRefusedError, Version

    rows = INBOX.from_rows(inbox_rows(inbox.store.entries()))
    try:
        work.lake.publish(EXPERIMENTS_INBOX, rows, version=Version(code_version="1"), may_publish=work.may_publish)
    except PublicationRefusedError as error:
        work.context.log.info(f"{EXPERIMENTS_INBOX} is left as it is: {error}")
    work.report_published(EXPERIMENTS_INBOX)


@table_asset(
    EXPERIMENTS_MICROGRAPHS,
    code_version="1",
    kinds={"zarr", "parquet"},
    deps=[EXPERIMENTS_RECORDS],
    checks=checks.MICROGRAPHS,
    automation_condition=when_inputs_change(),
    description="Images that are stored already are left as they are.",
)
def micrographs(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Store the pixels of the day's accepted images."""
    from atomvision_ml.experiments.micrographs import MicrographWriter
    from atomvision_ml.experiments.worker import FileReader

    work = store.begin(context)
    with work.alone():
        received = work.scan(EXPERIMENTS_RECORDS, context.partition_key)

        def make() -> Product:
            described = received.drop("original_metadata").collect().to_dicts()
            former = work.reusable()
            with FileReader() as reader:
                writer = MicrographWriter(reader, work.lake.blob, work.lake.put_blob, work.scratch())
                stored = writer.write(described, [] if former is None else former.to_dicts(), work.progress)
            audits = checks.audit_micrographs(stored.rows, described, stored.not_stored)
            return Product(stored.rows, audits=audits, preview_png=_thumbnails(work, stored.rows))

        return work.publish(make)


def _thumbnails(work: Work, rows: list[dict[str, Any]]) -> bytes | None:
    """The day's newest images, or None if there is none."""
    from atomvision_ml.evaluation.gallery.pictures import preview_grid
    from atomvision_ml.experiments.micrograph_store import read_image

    shown = rows[-PREVIEW_IMAGES:]
    return preview_grid([read_image(work.lake.blob(row["blob"])) for row in shown]) if shown else None
