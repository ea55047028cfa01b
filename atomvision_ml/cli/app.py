"""The console script ``atomvision``: one file per subcommand.

A subcommand's module imports what it needs inside its function, so that ``atomvision`` starts at once.
"""

from __future__ import annotations

import typer

from atomvision_ml.cli.arxiv import app as arxiv
from atomvision_ml.cli.audit import audit
from atomvision_ml.cli.bench import bench
from atomvision_ml.cli.champion import app as champion
from atomvision_ml.cli.doctor import doctor
from atomvision_ml.cli.inbox import app as inbox
from atomvision_ml.cli.look import look
from atomvision_ml.cli.output import failed
from atomvision_ml.cli.predict import app as predict
from atomvision_ml.cli.record import record
from atomvision_ml.cli.render import render
from atomvision_ml.cli.sql import sql
from atomvision_ml.cli.tables import tables

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (render, record, look, audit, sql, tables, doctor, bench):
    app.command()(command)
app.add_typer(predict, name="predict")
app.add_typer(arxiv, name="arxiv")
app.add_typer(champion, name="champion")
app.add_typer(inbox, name="inbox")


@app.callback()
def _root() -> None:
    """AtomVision: structures, images, models and numbers of atomic-resolution microscopy."""
    from pydantic import ValidationError

    from atomvision_ml.settings import settings

    try:
        settings()
    except ValidationError as error:
        wrong = [f"ATOMVISION_{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors()]
        raise failed("; ".join(wrong), code=2) from None


def main() -> None:
    """Entry point of the console script."""
    app()
