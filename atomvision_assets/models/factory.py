"""Two assets for each registered model: ``models/<name>``, its checkpoint, and ``predictions/<name>``.

Belongs here: what these assets have in common. What is special of one model is its :class:`ModelAssets` in
:mod:`atomvision_assets.models.assets`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import on_partition, table_asset
from atomvision_assets.store import Audit, Product, Store, Work
from atomvision_ml.models.registry import model_spec
from atomvision_ml.settings import settings
from atomvision_ml.storage.keys import EVALUATION_HOLDOUT, MODELS_TRAINING_SETS

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from atomvision_ml.models.checkpoint import Checkpoint

Train = Callable[[Work, "pl.DataFrame", dict[str, Any]], "Checkpoint"]
"""From the training set and the parameters to a checkpoint in the work's scratch."""

Predict = Callable[[Work, "pl.DataFrame", "pl.DataFrame", str, Path], "pa.Table"]
"""From hold-out, training set, model id and checkpoint folder to the rows of ``predictions/<name>``."""

Size = Literal["demo", "full"]

PREDICTION_CHECKS = {"every_item_is_predicted": "The model answered every item of its task in the hold-out."}


@dataclass(frozen=True)
class ModelAssets:
    """What the assets of one registered model need.

    Attributes:
        name: registered name.
        config: the model's parameters as run config, with its ``size``.
        train: makes the checkpoint.
        predict: judges it on the hold-out, together with its baselines.
        code_version: of training, written by hand.
        prediction_code_version: of predictions and baselines, written by hand.
        kinds: badges of the model asset.
        is_gpu: whether training asks for a GPU where there is one.
        full: parameters of the size ``full``, where the run config leaves the defaults.
        train_deps, predict_deps: further keys that ``train`` and ``predict`` scan.
    """

    name: str
    config: type[dg.Config]
    train: Train
    predict: Predict
    code_version: str
    prediction_code_version: str
    kinds: set[str]
    is_gpu: bool = False
    full: Mapping[str, Any] = field(default_factory=dict)
    train_deps: Sequence[str] = ()
    predict_deps: Sequence[str] = ()

    def parameters(self, config: dg.Config) -> tuple[str, dict[str, Any]]:
        """The size of the graph, and the model's parameters at that size."""
        chosen = config.model_dump()
        size = chosen.pop("size")
        defaults = {name: info.default for name, info in type(config).model_fields.items()}
        if size == "full":
            chosen |= {name: value for name, value in self.full.items() if chosen[name] == defaults[name]}
        return size, chosen


def processes() -> int:
    """Processes among which hold-out items are divided."""
    return settings().threads or os.cpu_count() or 1


def model_assets(spec: ModelAssets) -> list[dg.AssetsDefinition]:
    """The assets ``models/<name>`` and ``predictions/<name>``."""
    return [_model(spec), _predictions(spec)]


def _model(spec: ModelAssets) -> dg.AssetsDefinition:
    registered = model_spec(spec.name)

    def model(context: dg.AssetExecutionContext, store: Store, config: spec.config) -> dg.MaterializeResult:  # type: ignore[name-defined]
        from atomvision_ml.models.checkpoint import model_row

        work = store.begin(context)
        training_set = work.scan(MODELS_TRAINING_SETS, registered.task)
        size, chosen = spec.parameters(config)

        def make() -> Product:
            checkpoint = spec.train(work, training_set.collect(), chosen)
            curves = checkpoint.folder / "curves.png"
            preview = curves.read_bytes() if curves.exists() else None
            card = {"card": checkpoint.card.model_dump(mode="json"), "n_parameters": checkpoint.n_parameters}
            blob = work.lake.put_blob(checkpoint.folder)
            row = model_row(checkpoint, version=work.data_version[:12], size=size, blob=blob)
            return Product([row], preview_png=preview, metadata=card)

        return work.publish(make, parameters={**chosen, "size": size})

    return table_asset(
        f"models/{spec.name}",
        code_version=spec.code_version,
        kinds=spec.kinds,
        deps=[on_partition(MODELS_TRAINING_SETS, registered.task), *spec.train_deps],
        automation_condition=when_inputs_change(),
        is_gpu=spec.is_gpu,
        description=registered.description,
    )(model)


def _predictions(spec: ModelAssets) -> dg.AssetsDefinition:
    model_key, registered = f"models/{spec.name}", model_spec(spec.name)

    def predictions(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
        work = store.begin(context)
        models = work.scan(model_key)
        holdout = work.scan(EVALUATION_HOLDOUT)
        training_set = work.scan(MODELS_TRAINING_SETS, registered.task)

        def make() -> Product:
            (model,) = models.collect().to_dicts()
            items = holdout.collect()
            folder = work.lake.blob(model["blob"])
            rows = spec.predict(work, items, training_set.collect(), model["model_id"], folder)
            return Product(rows, audits=[_every_item(rows, items, registered.task)])

        return work.publish(make)

    return table_asset(
        f"predictions/{spec.name}",
        code_version=spec.prediction_code_version,
        kinds={"python", "parquet"},
        deps=[model_key, EVALUATION_HOLDOUT, on_partition(MODELS_TRAINING_SETS, registered.task), *spec.predict_deps],
        checks=PREDICTION_CHECKS,
        automation_condition=when_inputs_change(),
    )(predictions)


def _every_item(rows: "pa.Table", holdout: "pl.DataFrame", task: str) -> Audit:
    import polars as pl

    answers = pl.DataFrame(rows).filter(pl.col("role") == "model")["item_id"]
    items = holdout.filter(pl.col("task") == task)["item_id"]
    missing = sorted(set(items) - set(answers))
    is_complete = not missing and len(answers) == len(items)
    return Audit("every_item_is_predicted", is_complete, {"n_items": len(items), "missing": missing[:20]})
