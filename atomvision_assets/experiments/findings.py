"""The asset of what the champions say of micrographs."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from atomvision_assets.automation import when_inputs_change
from atomvision_assets.declare import table_asset
from atomvision_assets.store import Audit, Product, Store, Work
from atomvision_ml.storage.keys import EXPERIMENTS_FINDINGS, EXPERIMENTS_MICROGRAPHS, MODELS_CHAMPIONS

if TYPE_CHECKING:
    from atomvision_ml.models.chosen import ChosenModel

CHECKS = {"every_micrograph_is_asked": "Each micrograph of the day has one row for each task that is asked."}


@table_asset(
    EXPERIMENTS_FINDINGS,
    code_version="4",
    kinds={"pytorch", "parquet"},
    deps=[EXPERIMENTS_MICROGRAPHS, MODELS_CHAMPIONS],
    checks=CHECKS,
    automation_condition=when_inputs_change(),
    description="Answers of champions that are still in office are kept.",
)
def findings(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    """Ask the champions about the day's micrographs."""
    from atomvision_ml.experiments.findings import TASKS_ASKED, finding_rows
    from atomvision_ml.experiments.micrograph_store import read_image

    work = store.begin(context)
    with work.alone():
        micrographs = work.scan(EXPERIMENTS_MICROGRAPHS, context.partition_key)
        office = work.scan(MODELS_CHAMPIONS)

        def make() -> Product:
            described = micrographs.collect().to_dicts()
            champions = _champions(work, office.collect().to_dicts(), TASKS_ASKED)
            former = work.reusable()
            known = _still_valid([] if former is None else former.to_dicts(), champions)
            rows: list[dict[str, Any]] = []
            for done, micrograph in enumerate(described):
                kept = known.get(micrograph["record_id"], [])
                image = None if kept else read_image(work.lake.blob(micrograph["blob"]))
                rows += kept if image is None else finding_rows(micrograph, image, champions)
                work.progress(done + 1, len(described))
            asked = sorted((row["record_id"], row["task"]) for row in rows)
            wanted = sorted((row["record_id"], task) for row in described for task in TASKS_ASKED)
            unlike = len({row["record_id"] for row in rows if row["is_out_of_distribution"]})
            figures = {"n_micrographs": len(described), "n_unlike_training": unlike}
            return Product(rows, audits=[Audit("every_micrograph_is_asked", asked == wanted, figures)])

        return work.publish(make)


def _champions(
    work: Work, office: list[dict[str, Any]], tasks: tuple[str, ...]
) -> "dict[str, tuple[str, ChosenModel]]":
    """Champion's identifier and model by task."""
    from atomvision_ml.models.chosen import ChosenModel
    from atomvision_ml.models.registry import model_spec

    return {
        row["task"]: (row["model_id"], ChosenModel(model_spec(row["name"]), work.lake.blob(row["blob"])))
        for row in office
        if row["task"] in tasks and row["model_id"] is not None
    }


def _still_valid(
    former: list[dict[str, Any]], champions: "dict[str, tuple[str, ChosenModel]]"
) -> dict[str, list[dict[str, Any]]]:
    """Former rows by micrograph, of those whose every row is of a champion still in office."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in former:
        rows.setdefault(row["record_id"], []).append(row)
    in_office = {task: model_id for task, (model_id, _) in champions.items()}
    return {
        name: own for name, own in rows.items() if all(in_office.get(row["task"]) == row["model_id"] for row in own)
    }
