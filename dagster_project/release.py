"""Making the released checkpoints again: ``python -m dagster_project.release [MODEL ...]``.

Belongs here: which part of the graph a release needs. It is materialised in a lake of its own, structures, images,
splits, training and answers; what is unchanged there is not made again. The result replaces
``atomvision_ml/models/released/<model>``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
import typer
from rich.console import Console

from atomvision_assets.declare import asset_key_of
from atomvision_assets.store import Store
from atomvision_ml.evaluation.answers import CLASSICAL_MODELS
from atomvision_ml.evaluation.release import ReleaseError, release_checkpoint, released_folder
from atomvision_ml.models.registry import UnknownModelError, model_names, model_spec
from atomvision_ml.schemas.vocabulary import MODELS, SOURCES
from atomvision_ml.settings import settings
from atomvision_ml.storage.keys import MODELS_TRAINING_SETS
from dagster_project.definitions import build_definitions
from dagster_project.page import Page
from dagster_project.runner import Runner
from dagster_project.steps import Size, State, Step, plan

PROTOTYPES = ("prototypes",)


def release_plan(definitions: dg.Definitions, names: Iterable[str], sources: Iterable[str]) -> list[Step]:
    """The steps that make the predictions of these models and of the classical models that are their baselines."""
    chosen = {model_spec(name).name for name in names}
    tasks = {model_spec(name).task for name in chosen}
    chosen |= {name for name in CLASSICAL_MODELS if model_spec(name).task in tasks}
    graph = definitions.resolve_asset_graph()
    wanted: set[dg.AssetKey] = set()
    todo = [asset_key_of(f"predictions/{name}") for name in chosen]
    while todo:
        key = todo.pop()
        if key not in wanted:
            wanted.add(key)
            todo += list(graph.get(key).parent_keys)
    read = {MODELS[key.path[1]] for key in wanted if key.path[1] in MODELS}
    training_sets = asset_key_of(MODELS_TRAINING_SETS)
    return [
        step
        for step in plan(definitions, sources)
        if step.key in wanted and (step.key != training_sets or step.partition in read)
    ]


def networks() -> tuple[str, ...]:
    """The models that have weights to be released."""
    return tuple(name for name in model_names() if model_spec(name).kind == "network")


def release(
    root: Path,
    names: Iterable[str],
    target: Path,
    *,
    size: Size = Size.full,
    sources: tuple[str, ...] = PROTOTYPES,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    console: Console | None = None,
) -> int:
    """Train, judge and release models.

    Args:
        root: working folder, with a lake and the history of its runs.
        names: registered networks.
        target: folder of the released checkpoints.
        size: of the training.
        sources: structure databases.
        config: parameters by asset key that differ from those of the size.
        console: where progress is shown.

    Returns:
        The exit code: 1 if a step failed.

    Raises:
        UnknownModelError: a name is not registered.
        ReleaseError: a checkpoint is too large.
    """
    console = console or Console()
    store = Store(root=str(root / "lake"))
    definitions = build_definitions(settings(), store)
    page = Page(console)
    home = root / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    chosen: dict[str, dict[str, Any]] = {f"models/{name}": {"seeds": 1} for name in networks()}
    for key, values in (config or {}).items():
        chosen[key] = {**chosen.get(key, {}), **values}
    with dg.DagsterInstance.local_temp(str(home.resolve()), {"telemetry": {"enabled": False}}) as instance:
        runner = Runner(definitions, instance, size, config=chosen)
        for step in release_plan(definitions, names, sources):
            with page.running([step]):
                outcome = runner.run(step)
            page.outcome(step, outcome)
            if outcome.state in (State.FAILED, State.BLOCKED):
                return 1
    options = [] if size is Size.full else ["--size", size.value]
    if sources != PROTOTYPES:
        options += [word for source in sources for word in ("--source", source)]
    for key, values in (config or {}).items():
        options += [word for name, value in values.items() for word in ("--change", f"{key}.{name}={value}")]
    for name in names:
        command = " ".join(["python -m dagster_project.release", *options, name])
        made = release_checkpoint(store.lake, name, target / name, how_to_make=command)
        weight = sum(path.stat().st_size for path in made.folder.iterdir()) / 1e6
        console.print(f"released {name}: {made.n_parameters:,} weights, {weight:.2f} MB", highlight=False)
    return 0


def changes(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Parameters by asset key, of texts such as ``models/srgan.epochs=3``; values are JSON, anything else is a text.

    Raises:
        ValueError: a text is not of that form.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        where, is_given, value = text.partition("=")
        key, _, name = where.rpartition(".")
        if not (is_given and key and name):
            raise ValueError(f"{text!r} is not of the form models/NAME.PARAMETER=VALUE")
        try:
            found.setdefault(key, {})[name] = json.loads(value)
        except json.JSONDecodeError:
            found[key][name] = value
    return found


def main(
    models: Annotated[list[str] | None, typer.Argument(help="Registered networks; by default all of them.")] = None,
    root: Annotated[Path, typer.Option(help="Working folder with a lake of its own, resumable.")] = Path(
        "build/release"
    ),
    size: Annotated[Size, typer.Option(help="Parameters of the training.")] = Size.full,
    source: Annotated[list[str] | None, typer.Option(help="Structure databases; by default the prototypes.")] = None,
    target: Annotated[Path | None, typer.Option(help="Folder of the result; by default the package's.")] = None,
    change: Annotated[
        list[str] | None, typer.Option(help="A parameter of an asset, e.g. models/srgan.epochs=3; may be repeated.")
    ] = None,
) -> None:
    """Train and judge networks, one seed each, and put their checkpoints where `predict` finds them."""
    console = Console()
    names = models or list(networks())
    sources = tuple(source or PROTOTYPES)
    if unknown := sorted(set(sources) - set(SOURCES)):
        raise typer.BadParameter(f"unknown sources {', '.join(unknown)}; known are {', '.join(SOURCES)}")
    try:
        config = changes(change or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        code = release(
            root, names, target or released_folder(), size=size, sources=sources, config=config, console=console
        )
    except (ReleaseError, UnknownModelError) as error:
        console.print(str(error), style="red", markup=False)
        code = 1
    raise typer.Exit(code)


if __name__ == "__main__":
    typer.run(main)
