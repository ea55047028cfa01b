"""``atomvision champion``: who is in office, and what people decide about it."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from atomvision_ml.cli.output import failed

if TYPE_CHECKING:
    from atomvision_ml.evaluation.decisions import Decision

app = typer.Typer(no_args_is_help=True, help="Who is in office, and decisions of people about models.")

Task = Annotated[str, typer.Argument(help="Learning task, e.g. lattice.")]
ModelId = Annotated[str, typer.Option("--model-id", help="A model of models.verdicts, NAME@VERSION.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with your name and the time.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides; by default the name of your account.")]


@app.command("list")
def list_() -> None:
    """The champion of each task, since when, and the newest verdict; the whole story is the view models.story."""
    from atomvision_ml.storage.errors import NotPublishedError
    from atomvision_ml.storage.keys import MODELS_CHAMPIONS
    from atomvision_ml.storage.lake import Lake

    try:
        rows = Lake.from_settings().scan(MODELS_CHAMPIONS).collect().to_dicts()
    except (NotPublishedError, OSError) as error:
        raise failed(str(error)) from None
    for row in rows:
        since = f" since {row['since']:%Y-%m-%d %H:%M} UTC" if row["since"] else ""
        typer.echo(f"{row['task']}: {row['model_id'] or 'nobody'}{since}\n  {row['reason']}")


@app.command()
def approve(task: Task, model_id: ModelId, reason: Reason, by: By = None) -> None:
    """Bring a model into office that the rule refused, or one of earlier times."""
    _decide("approve", task, model_id, reason, by)


@app.command()
def reject(task: Task, model_id: ModelId, reason: Reason, by: By = None) -> None:
    """Take a model out of office; who was there before returns. The rule never brings it back."""
    _decide("reject", task, model_id, reason, by)


def _decide(decision: Decision, task: str, model_id: str, reason: str, by: str | None) -> None:
    from atomvision_ml.evaluation.decisions import DecisionError, record_decision
    from atomvision_ml.storage.errors import PublicationRefusedError
    from atomvision_ml.storage.lake import Lake

    try:
        lake = Lake.from_settings()
        row = record_decision(lake, decision, task, model_id, reason=reason, decided_by=by or getpass.getuser())
    except (DecisionError, PublicationRefusedError, OSError) as error:
        raise failed(str(error)) from None
    typer.echo(f"{row['decided_by']}: {decision} {model_id}, kept in models.decisions")
    typer.echo("It takes effect when models/verdicts and models/champions are made next: by the automation, or now by")
    typer.echo("dagster asset materialize -w workspace.yaml --select models/verdicts,models/champions")
