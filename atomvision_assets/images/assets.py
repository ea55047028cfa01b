"""Assets of the images domain: simulated STEM images."""

import dagster as dg

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import table_asset
from atomvision_assets.images import checks
from atomvision_assets.store import Product, Store
from atomvision_ml.images.stem import StemParameters
from atomvision_ml.storage.keys import IMAGES_STEM, STRUCTURES_SLABS


class StemConfig(dg.Config, StemParameters):
    """What makes another set of images."""


@table_asset(
    IMAGES_STEM,
    code_version="2",
    kinds={"pytorch", "zarr", "parquet"},
    deps=[STRUCTURES_SLABS],
    checks=checks.STEM,
    automation_condition=when_inputs_change(),
)
def stem(context: dg.AssetExecutionContext, store: Store, config: StemConfig) -> dg.MaterializeResult:
    """Render every accepted slab of one database; an interrupted run resumes."""
    from atomvision_ml.images.stem_set import with_blob, write_stem_set

    work = store.begin(context)
    slabs = work.scan(STRUCTURES_SLABS, context.partition_key)
    parameters = StemParameters(**config.model_dump())

    def make() -> Product:
        accepted = slabs.collect()
        folder = work.scratch() / "stem"
        rows = write_stem_set(accepted, folder, parameters, source=context.partition_key, progress=work.progress)
        audits, preview = checks.audit_stem(folder, rows, accepted), checks.contact_sheet(folder)
        return Product(with_blob(rows, work.lake.put_blob(folder)), audits, preview)

    return work.publish(make, parameters=parameters.model_dump())
