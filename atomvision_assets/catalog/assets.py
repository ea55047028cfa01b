"""Assets of the catalog domain: what people query and read."""

import dagster as dg

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import table_asset
from atomvision_assets.store import Product, Store
from atomvision_ml.schemas.tables import TABLES
from atomvision_ml.storage.keys import CATALOG_DICTIONARY, CATALOG_WAREHOUSE


@table_asset(
    CATALOG_WAREHOUSE,
    code_version="1",
    kinds={"duckdb"},
    deps=sorted(set(TABLES) - {CATALOG_WAREHOUSE}),
    automation_condition=when_inputs_change("any"),
    description="A small DuckDB file, built aside and swapped; readers open it read-only.",
)
def warehouse(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Build the views anew."""
    from atomvision_ml.catalog.warehouse import build_warehouse

    work = store.begin(context)
    work.scan_published()
    result = work.publish(lambda: Product(build_warehouse(work.lake)))
    build_warehouse(work.lake)  # the view of this table itself can be bound only now
    return result


@table_asset(
    CATALOG_DICTIONARY,
    code_version="1",
    kinds={"html", "parquet"},
    description="A root: it is made from the code's table dictionary, not from data.",
)
def dictionary(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Write the documentation pages."""
    from atomvision_ml.catalog.dictionary import build_dictionary

    work = store.begin(context)

    def make() -> Product:
        pages = work.scratch() / "pages"
        pages.mkdir(exist_ok=True)
        rows = build_dictionary(pages)
        blob = work.lake.put_blob(pages)
        return Product([{**row, "blob": blob} for row in rows])

    return work.publish(make)
