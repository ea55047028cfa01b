"""A check of the papers by arXiv's second interface. It runs by itself, for a person or a job, never in a harvest."""

import dagster as dg

from atomvision_assets.declare import asset_key_of
from atomvision_assets.failures import told_apart
from atomvision_assets.literature.arxiv import POOL, Arxiv
from atomvision_assets.store import Store
from atomvision_ml.storage.keys import LITERATURE_PAPERS

MONTHS = 12
"""The newest ones that are published; each is a request, or more where it has many hits."""


@dg.asset_check(
    asset=asset_key_of(LITERATURE_PAPERS),
    name="the_second_finder_agrees",
    description=f"The Atom API knows no microscopy paper of the newest {MONTHS} months that the harvest did not bring.",
    pool=POOL,
)
def second_finder(context: dg.AssetCheckExecutionContext, store: Store, arxiv: Arxiv) -> dg.AssetCheckResult:
    """Ask the Atom API for the newest months and compare."""
    from atomvision_ml.literature.finder import FinderParameters, categories_of, compare_month

    lake = store.lake
    with told_apart("the second finder", context.op_execution_context.retry_number):
        parameters = FinderParameters(base_url=arxiv.api_url, categories=categories_of(arxiv.set_name))
        found = []
        with arxiv.transport(lake) as transport:
            for month in sorted(lake.partitions(LITERATURE_PAPERS))[-MONTHS:]:
                abstracts = lake.scan(LITERATURE_PAPERS, month).select("arxiv_id", "abstract").collect()
                found.append(compare_month(transport, parameters, month, dict(abstracts.iter_rows())))
    missing = [name for month in found for name in month.missing]
    return dg.AssetCheckResult(
        passed=not missing,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "months": [month.month for month in found],
            "n_found": sum(len(month.found) for month in found),
            "missing": missing[:100],
        },
    )
