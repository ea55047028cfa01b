"""The asset of the micrographs' pages, and of the simulated images beside them."""

from typing import Any

import dagster as dg
from pydantic import Field

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import table_asset
from atomvision_assets.models.factory import Size
from atomvision_assets.store import Audit, Product, Store, Work
from atomvision_ml.settings import settings
from atomvision_ml.storage.keys import (
    EVALUATION_MATCHED_PAIRS,
    EXPERIMENTS_FINDINGS,
    EXPERIMENTS_MICROGRAPHS,
    EXPERIMENTS_RECORDS,
    STRUCTURES_SLABS,
)

RECEIVED = (EXPERIMENTS_MICROGRAPHS, EXPERIMENTS_RECORDS, EXPERIMENTS_FINDINGS)
MOST_PAGES = {"demo": 4, "full": 500}
"""Pages made in one run where the run config does not say otherwise."""

CHECKS = {"every_micrograph_has_a_row": "Each micrograph has a row, and nothing else has one."}


class PagesConfig(dg.Config):
    """How many pages are made."""

    size: Size = Field(default=settings().size, description="Size of the graph; says how many pages are made at once.")
    most_pages: int | None = Field(default=None, ge=0, description="Most pages made in one run; None: by the size.")


@table_asset(
    EVALUATION_MATCHED_PAIRS,
    code_version="3",
    kinds={"python", "html"},
    deps=[*RECEIVED, STRUCTURES_SLABS],
    checks=CHECKS,
    automation_condition=when_inputs_change("each", not_needed=RECEIVED),
    description="Each micrograph's page is `index.html` in its blob. Pages are kept while the same models answer.",
)
def matched_pairs(context: dg.AssetExecutionContext, store: Store, config: PagesConfig) -> dg.MaterializeResult:
    """Write the page of each micrograph, beside simulations of crystals of its lattice."""
    from atomvision_ml.evaluation.matched_pairs import SLAB_COLUMNS
    from atomvision_ml.evaluation.micrograph_pages import PageParameters, pair_rows

    work = store.begin(context)
    slabs = work.scan(STRUCTURES_SLABS).select(*SLAB_COLUMNS)
    received = {key: work.scan(key) for key in RECEIVED if work.is_published(key)}
    most = MOST_PAGES[config.size] if config.most_pages is None else config.most_pages

    def make() -> Product:
        tables = {key: table.collect().to_dicts() for key, table in received.items()}
        micrographs = tables.get(EXPERIMENTS_MICROGRAPHS, [])
        if not micrographs:
            return Product([], audits=[Audit("every_micrograph_has_a_row", True)])
        former = work.reusable()
        rows = pair_rows(
            micrographs,
            {row["receipt_id"]: row for row in tables.get(EXPERIMENTS_RECORDS, [])},
            tables.get(EXPERIMENTS_FINDINGS, []),
            slabs.collect(),
            open_blob=work.lake.blob,
            keep=work.lake.put_blob,
            scratch=work.scratch(),
            former=[] if former is None else former.to_dicts(),
            parameters=PageParameters(most_pages=most),
            progress=work.progress,
        )
        wanted, there = {row["record_id"] for row in micrographs}, {row["record_id"] for row in rows}
        audit = Audit("every_micrograph_has_a_row", wanted == there, {"n_micrographs": len(wanted)})
        return Product(rows, audits=[audit], metadata=_metadata(work, rows))

    return work.publish(make, parameters={"most_pages": most})


def _metadata(work: Work, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The newest page, how many there are, and how many micrographs still wait for theirs."""
    from atomvision_ml.evaluation.micrograph_pages import n_waiting

    pages = [row["blob"] for row in rows if row["blob"] is not None]
    pairs = [row["similarity"] for row in rows if row["rank"] == 1]
    told: dict[str, Any] = {
        "n_pages": len(set(pages)),
        "n_waiting_for_a_page": n_waiting(rows),
        "n_micrographs_with_a_pair": len(pairs),
    }
    return told | ({"newest_page": work.lake.blob(pages[0]) / "index.html"} if pages else {})
