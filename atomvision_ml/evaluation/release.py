"""From a model in the lake to the checkpoint that travels with the package.

Belongs here: the card with its figures and the data behind them, and the limit of size. What trains and judges the
model is the asset graph; ``python -m dagster_project.release`` does both.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from atomvision_ml.evaluation.answers import CLASSICAL_MODELS, by_task
from atomvision_ml.evaluation.metrics import metric_rows
from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.evaluation.tasks import TASKS
from atomvision_ml.models.checkpoint import Checkpoint, load_checkpoint, update_card
from atomvision_ml.models.registry import model_names, model_spec
from atomvision_ml.storage.keys import EVALUATION_HOLDOUT

if TYPE_CHECKING:
    from atomvision_ml.storage.lake import Lake

MAXIMUM_BYTES = 8_000_000
"""What a checkpoint that travels with the package may weigh."""


class ReleaseError(ValueError):
    """A model cannot be released; the message says why."""


def released_folder() -> Path:
    """Folder of the released checkpoints, one subfolder for each model."""
    return Path(__file__).parents[1] / "models" / "released"


def release_checkpoint(lake: Lake, name: str, target: Path, *, how_to_make: str = "") -> Checkpoint:
    """Copy the checkpoint of a published model, its card completed.

    Args:
        lake: where ``models/<name>``, ``predictions/<name>`` and what they were made of are published.
        name: registered name.
        target: folder that is replaced once the new one is whole.
        how_to_make: command for the card.

    Returns:
        The released checkpoint. Its card has the figures of the model and its baselines on the hold-out, and the
        content hash (SHA-256) of every table behind the model.

    Raises:
        NotPublishedError: something that is needed is not published.
        ReleaseError: the checkpoint is too large, or what it was made of has been published anew since.
    """
    model = lake.scan(f"models/{name}").filter("is_checkpoint").collect().row(0, named=True)
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(lake.blob(model["blob"]), draft)
    try:
        update_card(
            load_checkpoint(draft),
            metrics=card_metrics(lake, name, model["model_id"], model["size"]),
            data_versions=content_hashes(lake, f"models/{name}"),
            how_to_make=how_to_make,
        )
        size = sum(path.stat().st_size for path in draft.iterdir())
        if size > MAXIMUM_BYTES:
            raise ReleaseError(f"{name} has {size / 1e6:.1f} MB; a released checkpoint has at most 8 MB")
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return load_checkpoint(target)


def card_metrics(lake: Lake, name: str, model_id: str, size: str) -> list[dict[str, Any]]:
    """What a card says of a model: shown figures on all items at each dose, with those of its baselines."""
    task = model_spec(name).task
    rivals = [other for other in model_names(task) if other in CLASSICAL_MODELS and lake.exists(f"predictions/{other}")]
    tables = {other: lake.scan(f"predictions/{other}").collect() for other in dict.fromkeys([name, *rivals])}
    others = [other for other in rivals if other != name]
    is_wanted = (pl.col("model_id") == model_id) | (pl.col("role") != "model")
    is_rival = pl.col("model_id").str.split("@").list.first().is_in(others)
    answers = by_task(tables)[task].filter(is_wanted | is_rival)
    rows = metric_rows(answers, lake.scan(EVALUATION_HOLDOUT).collect(), size=size)
    slices = {"all", *TASKS[task].slices}
    shown = PROTOCOLS[task].shown_metrics
    kept = [row for row in rows if row["slice"].partition("|")[0] in slices and row["metric"] in shown]
    return [_rounded(row) for row in kept]


def content_hashes(lake: Lake, key: str) -> dict[str, str]:
    """SHA-256 of the content of everything that a table was made of, directly or not, by key.

    Raises:
        ReleaseError: something was published anew since.
    """
    found: dict[str, str] = {}
    todo = [(name, version) for name, version in lake.facts(key).inputs.items()]
    while todo:
        name, version = todo.pop()
        if name in found:
            continue
        *words, last = name.split("/")
        facts = lake.facts(name) if len(words) == 1 else lake.facts("/".join(words), last)
        if facts.data_version != version:
            raise ReleaseError(f"{name} was published anew since {key} was made of it; materialise {key} again")
        found[name] = facts.content_sha256
        todo += list(facts.inputs.items())
    return dict(sorted(found.items()))


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    kept = ("model", "role", "slice", "metric", "n_items", "value", "low", "high")
    return {key: round(row[key], 4) if isinstance(row[key], float) else row[key] for key in kept}
