"""The asset of the maps of the test images."""

import dagster as dg

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import table_asset
from atomvision_assets.store import Product, Store
from atomvision_ml.evaluation.embeddings import EmbeddingParameters
from atomvision_ml.storage.keys import EVALUATION_EMBEDDINGS, EVALUATION_HOLDOUT

NETWORKS = ("conv_autoencoder", "segmenter", "lattice_cnn")


class EmbeddingConfig(dg.Config, EmbeddingParameters):
    """How maps are made and judged."""


@table_asset(
    EVALUATION_EMBEDDINGS,
    code_version="2",
    kinds={"scikitlearn", "html"},
    deps=[EVALUATION_HOLDOUT, *(f"models/{name}" for name in NETWORKS)],
    automation_condition=when_inputs_change(),
    description="Open index.html in the blob: an interactive page.",
)
def embeddings(context: dg.AssetExecutionContext, store: Store, config: EmbeddingConfig) -> dg.MaterializeResult:
    """Map the test images by pixels, bond angles and network features."""
    from atomvision_ml.evaluation.embedding_page import preview, write_page
    from atomvision_ml.evaluation.embeddings import embedding_rows

    work = store.begin(context)
    items = work.scan(EVALUATION_HOLDOUT)
    models = {name: work.scan(f"models/{name}") for name in NETWORKS}
    parameters = EmbeddingParameters(**config.model_dump())

    def make() -> Product:
        judged = items.collect()
        chosen = {name: model.filter("is_checkpoint").collect().row(0, named=True) for name, model in models.items()}
        networks = {name: (row["model_id"], work.lake.blob(row["blob"])) for name, row in chosen.items()}
        rows = embedding_rows(judged, work.lake.blob, networks, parameters, work.progress)
        folder = work.scratch() / "page"
        write_page(folder, rows, judged, work.lake.blob)
        blob = work.lake.put_blob(folder)
        return Product(
            [{**row, "blob": blob} for row in rows],
            preview_png=preview(rows, judged),
            metadata={"page": work.lake.blob(blob) / "index.html"},
        )

    return work.publish(make, parameters=parameters.model_dump())
