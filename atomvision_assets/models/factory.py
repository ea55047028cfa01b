"""Two assets for each registered model: ``models/<name>``, its checkpoint, and ``predictions/<name>``.

Belongs here: what these assets have in common. What is special of one model is its :class:`ModelAssets` in
:mod:`atomvision_assets.models.assets`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from pydantic import Field, create_model

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import on_partition, table_asset
from atomvision_assets.store import Audit, Product, Store, Work
from atomvision_ml.models.registry import model_spec
from atomvision_ml.storage.keys import EVALUATION_HOLDOUT, EXPERIMENTS_MICROGRAPHS, MODELS_TRAINING_SETS

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
        predict_further: judges the trainings with further seeds, without baselines; None: as ``predict`` does.
        code_version: of training, written by hand.
        prediction_code_version: of predictions and baselines, written by hand.
        kinds: badges of the model asset.
        is_gpu: whether training asks for a GPU where there is one.
        full: parameters of the size ``full``, where the run config leaves the defaults.
        uses_experiments: whether it is trained on the labelled micrographs of its training set, too. Of all others the
            data version is the one that they would have without micrographs, so that these retrain nothing else.
        full_seeds: trainings of a network at the size ``full``; at ``demo`` there is one.
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
    uses_experiments: bool = False
    full: Mapping[str, Any] = field(default_factory=dict)
    full_seeds: int = 3
    predict_further: Predict | None = None
    train_deps: Sequence[str] = ()
    predict_deps: Sequence[str] = ()

    def parameters(self, config: dg.Config) -> tuple[str, dict[str, Any]]:
        """The size of the graph, and the model's parameters at that size."""
        chosen = config.model_dump()
        size = chosen.pop("size")
        chosen.pop("seeds", None)
        defaults = {name: info.default for name, info in type(config).model_fields.items()}
        if size == "full":
            chosen |= {name: value for name, value in self.full.items() if chosen[name] == defaults[name]}
        return size, chosen

    def seeds(self, config: dg.Config) -> int:
        """Number of trainings; a method without training is made once."""
        given = getattr(config, "seeds", 1)
        return int(given) or (self.full_seeds if getattr(config, "size", "demo") == "full" else 1)


def model_assets(spec: ModelAssets) -> list[dg.AssetsDefinition]:
    """The assets ``models/<name>`` and ``predictions/<name>``."""
    return [_model(spec), _predictions(spec)]


def _model(spec: ModelAssets) -> dg.AssetsDefinition:
    registered = model_spec(spec.name)
    run_config = _with_seeds(spec.config) if registered.kind == "network" else spec.config

    def model(context: dg.AssetExecutionContext, store: Store, config: run_config) -> dg.MaterializeResult:  # type: ignore[valid-type]
        from atomvision_ml.models.checkpoint import model_row
        from atomvision_ml.models.training_run import simulated_items

        work = store.begin(context)
        apart_from = None if spec.uses_experiments else EXPERIMENTS_MICROGRAPHS
        training_set = work.scan(MODELS_TRAINING_SETS, registered.task, apart_from=apart_from)
        for key in spec.train_deps:
            work.scan(key)
        size, chosen = spec.parameters(config)

        seeds = spec.seeds(config)

        def make() -> Product:
            items, first = training_set.collect(), int(chosen.get("seed", 0))
            if not spec.uses_experiments:
                items = simulated_items(items)
            made = [spec.train(work, items, chosen)]
            for seed in range(first + 1, first + seeds):
                made.append(spec.train(work.within(f"seed-{seed}"), items, {**chosen, "seed": seed}))
            checkpoint = made[0]
            curves = checkpoint.folder / "curves.png"
            preview = curves.read_bytes() if curves.exists() else None
            card = {"card": checkpoint.card.model_dump(mode="json"), "n_parameters": checkpoint.n_parameters}
            rows = [
                model_row(
                    one,
                    version=work.data_version[:12],
                    size=size,
                    blob=work.lake.put_blob(one.folder),
                    is_checkpoint=one is checkpoint,
                )
                for one in made
            ]
            return Product(rows, preview_png=preview, metadata=card)

        return work.publish(make, parameters={**chosen, "size": size, "seeds": seeds})

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
        for key in spec.predict_deps:
            work.scan(key)
        training_set = work.scan(MODELS_TRAINING_SETS, registered.task, apart_from=EXPERIMENTS_MICROGRAPHS)

        def make() -> Product:
            import pyarrow as pa
            import pyarrow.compute as pc

            from atomvision_ml.models.training_run import simulated_items

            items, training = holdout.collect(), simulated_items(training_set.collect())
            parts = []
            for model in models.sort("is_checkpoint", "seed", descending=[True, False]).collect().to_dicts():
                is_first = model["is_checkpoint"]
                predict = spec.predict if is_first else spec.predict_further or spec.predict
                answers = predict(work, items, training, model["model_id"], work.lake.blob(model["blob"]))
                parts.append(answers if is_first else answers.filter(pc.field("role") == "model"))
            rows = pa.concat_tables(parts)
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


def _with_seeds(config: type[dg.Config]) -> type[dg.Config]:
    """The run config of a network: its parameters, and how often it is trained."""
    seeds = Field(default=0, ge=0, description="Trainings with different seeds; 0 = 1 at size demo, 3 at size full.")
    return create_model(config.__name__, __base__=config, __doc__=config.__doc__, seeds=(int, seeds))


def _every_item(rows: "pa.Table", holdout: "pl.DataFrame", task: str) -> Audit:
    import polars as pl

    answers = pl.DataFrame(rows).filter(pl.col("role") == "model")
    items = set(holdout.filter(pl.col("task") == task)["item_id"])
    given = {str(model): set(part["item_id"]) for (model,), part in answers.group_by("model_id")}
    missing = sorted(items - set.intersection(*given.values())) if given else sorted(items)
    strange = sorted(set(answers["item_id"]) - items)
    details = {"n_items": len(items), "missing": missing[:20], "strange": strange[:20]}
    return Audit("every_item_is_predicted", not missing and not strange, details)
