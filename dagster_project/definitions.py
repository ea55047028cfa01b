"""The code location: everything that Dagster knows, assembled.

No asset, job or sensor is implemented here. Importing this module loads neither torch nor scikit-image.
"""

from __future__ import annotations

import warnings

import dagster as dg

from atomvision_assets.experiments.inbox import Inbox
from atomvision_assets.literature.arxiv import Arxiv
from atomvision_assets.literature.second_finder import second_finder
from atomvision_assets.store import Store
from atomvision_ml.settings import Settings, settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.PreviewWarning)  # partitions of asset checks are a preview in Dagster 1.13
    warnings.simplefilter("ignore", dg.BetaWarning)  # backfill policies are beta
    from atomvision_assets.catalog import assets as catalog
    from atomvision_assets.evaluation import assets as evaluation
    from atomvision_assets.evaluation import embeddings
    from atomvision_assets.evaluation import micrographs as micrograph_pages
    from atomvision_assets.experiments import assets as experiments
    from atomvision_assets.experiments import findings, measurements
    from atomvision_assets.images import assets as images
    from atomvision_assets.literature import assets as literature
    from atomvision_assets.models import assets as models
    from atomvision_assets.models import (
        atoms,
        champions,
        defects,
        graphs,
        lattice,
        reconstruction,
        segmentation,
        super_resolution,
    )
    from atomvision_assets.structures import assets as structures

from dagster_project import jobs, schedules, sensors

ROOMS = (
    structures,
    images,
    literature,
    experiments,
    measurements,
    findings,
    models,
    lattice,
    graphs,
    segmentation,
    atoms,
    super_resolution,
    reconstruction,
    defects,
    champions,
    embeddings,
    micrograph_pages,
    evaluation,
    catalog,
)


def build_definitions(
    chosen: Settings, store: Store | None = None, arxiv: Arxiv | None = None, inbox: Inbox | None = None
) -> dg.Definitions:
    """All definitions under these settings; ``store``, ``arxiv`` and ``inbox`` replace those that the settings name."""
    return dg.Definitions(
        assets=dg.load_assets_from_modules(ROOMS, include_specs=True),
        asset_checks=[second_finder],
        jobs=[*jobs.ALL, jobs.COMPARE_FINDERS],
        schedules=schedules.schedules(chosen.automation),
        sensors=[make(chosen.automation, chosen.sensor_interval_s) for make in sensors.ALL],
        resources={
            "store": store or _store(chosen),
            "arxiv": arxiv or Arxiv.of(chosen),
            "inbox": inbox or Inbox.of(chosen),
        },
        executor=dg.in_process_executor,
    )


def _store(chosen: Settings) -> Store:
    root = chosen.root if chosen.root.startswith("s3://") else str(chosen.local_root())
    return Store(root=root, s3_endpoint_url=chosen.s3_endpoint_url)


@dg.definitions
def defs() -> dg.Definitions:
    """The entry point of `workspace.yaml` and `dg`."""
    return build_definitions(settings())
