"""Assets of the images domain: simulated STEM images, and graphs of their atoms."""

import dagster as dg

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import table_asset
from atomvision_assets.images import checks
from atomvision_assets.store import Audit, Product, Store
from atomvision_ml.images.atom_graphs import GraphParameters
from atomvision_ml.images.stem import StemParameters
from atomvision_ml.storage.keys import IMAGES_ATOM_GRAPHS, IMAGES_STEM, STRUCTURES_SLABS


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


class AtomGraphsConfig(dg.Config, GraphParameters):
    """What makes other graphs of the same images."""


@table_asset(
    IMAGES_ATOM_GRAPHS,
    code_version="1",
    kinds={"scipy", "zarr", "parquet"},
    deps=[IMAGES_STEM],
    checks=checks.ATOM_GRAPHS,
    automation_condition=when_inputs_change(),
)
def atom_graphs(context: dg.AssetExecutionContext, store: Store, config: AtomGraphsConfig) -> dg.MaterializeResult:
    """Find and join the atoms of every image of one database; an interrupted run resumes."""
    from atomvision_ml.images.graph_set import write_graph_set
    from atomvision_ml.images.stem_set import StemSet

    work = store.begin(context)
    stem = work.scan(IMAGES_STEM, context.partition_key).select("image_id", "blob", "index", "field_angstrom")
    parameters = GraphParameters(**config.model_dump())

    def make() -> Product:
        images = stem.sort("index").collect()
        if images.is_empty():
            return Product([], [Audit(name, True, {"finding": "there is no image"}) for name in checks.ATOM_GRAPHS])
        blob = images["blob"][0]
        folder = work.scratch() / "atom_graphs"
        stored = StemSet.open(work.lake.blob(blob))
        rows = write_graph_set(stored, folder, parameters, identity=blob, progress=work.progress)
        audits = checks.audit_graphs(folder, rows, images["field_angstrom"].to_list())
        place = {"source": context.partition_key, "blob": work.lake.put_blob(folder)}
        return Product([{**row, **place} for row in rows], audits)

    return work.publish(make, parameters=parameters.model_dump())
