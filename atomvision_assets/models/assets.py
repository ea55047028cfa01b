"""The asset of the training sets."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import table_asset
from atomvision_assets.models import checks
from atomvision_assets.models.factory import Size
from atomvision_assets.store import Product, Store, Work
from atomvision_ml.evaluation.adoption import TASK, AdoptionParameters, adopt, not_trained_on
from atomvision_ml.evaluation.splits import SplitParameters
from atomvision_ml.settings import settings
from atomvision_ml.storage.keys import (
    EXPERIMENTS_MICROGRAPHS,
    IMAGES_STEM,
    MODELS_TRAINING_SETS,
    STRUCTURES_MATERIALS,
)

ENOUGH_NEW_IMAGES = {"demo": 8, "full": 50}
"""New labelled micrographs that make a training set change, where the run config does not say otherwise."""


class TrainingSetConfig(dg.Config, SplitParameters):
    """What makes another training set, and when labelled micrographs enter it."""

    size: Size = Field(default=settings().size, description="Size of the graph; says how many new images are enough.")
    new_images: int | None = Field(
        default=None, ge=1, description="So many new labelled micrographs are adopted at once; by default by size."
    )
    waiting_days: int = Field(default=7, ge=0, description="Fewer are adopted when one has waited for so many days.")

    def rule(self) -> AdoptionParameters:
        """When new micrographs are adopted; no part of the data version, as it only says when."""
        enough = ENOUGH_NEW_IMAGES[self.size] if self.new_images is None else self.new_images
        return AdoptionParameters(new_images=enough, waiting_days=self.waiting_days)

    def splits(self) -> SplitParameters:
        """How simulated images are split."""
        return SplitParameters(**self.model_dump(include=set(SplitParameters.model_fields)))


@table_asset(
    MODELS_TRAINING_SETS,
    code_version="1",
    kinds={"polars", "parquet"},
    deps=[IMAGES_STEM, STRUCTURES_MATERIALS, EXPERIMENTS_MICROGRAPHS],
    checks=checks.TRAINING_SETS,
    automation_condition=when_inputs_change("each", not_needed=[EXPERIMENTS_MICROGRAPHS]),
    description="Labelled micrographs enter that of the lattice by a written rule (docs/retraining.md).",
)
def training_sets(context: dg.AssetExecutionContext, store: Store, config: TrainingSetConfig) -> dg.MaterializeResult:
    """Freeze which image belongs to which split."""
    from atomvision_ml.evaluation.splits import split_counts, training_set_rows

    work = store.begin(context)
    images = work.scan(IMAGES_STEM).drop("atoms", "columns")
    materials = work.scan(STRUCTURES_MATERIALS)
    parameters = config.splits()
    taken = _micrographs(work, config.rule()) if context.partition_key == TASK else []

    def make() -> Product:
        rows = training_set_rows(context.partition_key, images.collect(), materials.collect(), parameters)
        metadata = {"splits": split_counts(rows), **({"experimental_splits": split_counts(taken)} if taken else {})}
        return Product([*rows, *taken], audits=checks.audit_training_set([*rows, *taken]), metadata=metadata)

    return work.publish(make, parameters=parameters.model_dump())


def _micrographs(work: Work, rule: AdoptionParameters) -> list[dict[str, Any]]:
    """The experimental rows: the former ones if it is not time for others; what the rule says becomes metadata.

    If it is not time, the micrographs count with the version of which the former rows were made, so that a training set
    that stays the same keeps its data version.
    """
    if not work.is_published(EXPERIMENTS_MICROGRAPHS):
        return []
    micrographs = work.scan(EXPERIMENTS_MICROGRAPHS).collect()
    adoption, rows = adopt(work.former(), micrographs, datetime.now(UTC).date(), rule)
    if not adoption.is_due:
        work.count_as_before(EXPERIMENTS_MICROGRAPHS)
    said = {"micrographs": adoption.reason, "labelled_but_not_trained_on": not_trained_on(micrographs)}
    work.context.add_asset_metadata(said)
    work.context.log.info(f"{work.name}: {said}")
    return rows
