"""Assets of the structures domain: records, slabs, materials."""

import shutil

import dagster as dg

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import table_asset
from atomvision_assets.failures import PermanentFailure
from atomvision_assets.store import Product, Store
from atomvision_assets.structures import checks
from atomvision_ml.settings import settings
from atomvision_ml.storage.keys import STRUCTURES_MATERIALS, STRUCTURES_RECORDS, STRUCTURES_SLABS


@table_asset(
    STRUCTURES_RECORDS,
    code_version="1",
    kinds={"python", "parquet"},
    checks=checks.RECORDS,
    description=(
        "Read from the folder that ATOMVISION_SOURCES names, else downloaded; `prototypes` is generated and needs "
        "neither. The original bytes are kept as a blob."
    ),
)
def records(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """The root of the graph: one structure database."""
    from atomvision_ml.structures.sources import SourceUnavailableError, read_source

    work = store.begin(context)

    def make() -> Product:
        scratch = work.scratch()
        try:
            dump = read_source(
                context.partition_key, folder=settings().sources, scratch=scratch / "download", progress=work.progress
            )
        except SourceUnavailableError as error:
            raise PermanentFailure(f"{work.name}: {error}") from error
        blob = None
        if dump.original is not None:
            original = scratch / "original"
            original.mkdir(exist_ok=True)
            shutil.copyfile(dump.original, original / dump.original.name)
            blob = work.lake.put_blob(original)
        rows = [{**row, "origin_blob": blob} for row in dump.rows]
        return Product(rows, audits=checks.audit_acceptance(rows, "records_are_accepted"))

    return work.publish(make)


@table_asset(
    STRUCTURES_SLABS,
    code_version="1",
    kinds={"python", "spglib", "parquet"},
    deps=[STRUCTURES_RECORDS],
    checks=checks.SLABS,
    automation_condition=when_inputs_change(),
)
def slabs(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Normalise and label every accepted record of one database."""
    from atomvision_ml.structures.slabs import slab_rows

    work = store.begin(context)
    delivered = work.scan(STRUCTURES_RECORDS, context.partition_key)

    def make() -> Product:
        rows = slab_rows(delivered.collect(), progress=work.progress)
        return Product(rows, audits=checks.audit_acceptance(rows, "slabs_are_accepted"))

    return work.publish(make)


@table_asset(
    STRUCTURES_MATERIALS,
    code_version="1",
    kinds={"python", "polars", "parquet"},
    deps=[STRUCTURES_RECORDS, STRUCTURES_SLABS],
    checks=checks.MATERIALS,
    automation_condition=when_inputs_change("each"),
)
def materials(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Find the same crystal in all published databases."""
    from atomvision_ml.structures.matching import material_rows

    work = store.begin(context)
    all_slabs, all_records = work.scan(STRUCTURES_SLABS), work.scan(STRUCTURES_RECORDS)

    def make() -> Product:
        rows = material_rows(all_slabs.collect(), all_records.collect())
        return Product(rows, audits=checks.audit_materials(rows))

    return work.publish(make)
