"""A code location with the retraining loop alone; what it is made of has been published and reported before."""

from __future__ import annotations

import dagster as dg

from atomvision_assets.evaluation import assets as evaluation
from atomvision_assets.experiments import assets as experiments
from atomvision_assets.experiments.inbox import Inbox
from atomvision_assets.models import assets as models
from atomvision_assets.models import champions, lattice
from atomvision_assets.store import Store
from atomvision_ml.settings import settings
from dagster_project import jobs, sensors

defs = dg.Definitions(
    assets=[
        *dg.load_assets_from_modules([experiments, models, champions], include_specs=True),
        lattice.lattice_fusion,
        lattice.predictions_lattice_fusion,
        evaluation.experimental_holdout,
        evaluation.experimental_answers,
    ],
    jobs=[jobs.INGEST_EXPERIMENTS],
    sensors=[make(settings().automation, settings().sensor_interval_s) for make in sensors.ALL],
    resources={"store": Store(root=str(settings().local_root())), "inbox": Inbox.of(settings())},
    executor=dg.in_process_executor,
)
