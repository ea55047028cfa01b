"""The console script ``atomvision``: one file per subcommand, imported only when it is called."""

from __future__ import annotations

import importlib

import typer
from click import Command, Context
from typer.core import TyperGroup
from typer.main import get_command

_HELP = {
    "render": "Render a STEM image of a structure.",
    "predict": "Find the lattice or the atoms of images.",
    "audit": "Check a simulated STEM set for lost atoms, wrong intensity or broken symmetry.",
    "sql": "Query the warehouse.",
    "tables": "List the tables of the warehouse.",
    "doctor": "Tell what is installed, reachable and missing, and how to mend it.",
    "bench": "Measure speed as ratios against named peers.",
}


class _LazyGroup(TyperGroup):
    """Commands are known by name and loaded on use, so that ``atomvision`` starts without torch."""

    def list_commands(self, ctx: Context) -> list[str]:
        """All command names."""
        return list(_HELP)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """Import ``atomvision_ml.cli.<name>`` and wrap its function, or its ``app`` if it has subcommands."""
        if cmd_name not in _HELP:
            return None
        module = importlib.import_module(f"atomvision_ml.cli.{cmd_name}")
        if hasattr(module, "app"):
            app = module.app
        else:
            app = typer.Typer(add_completion=False)
            app.command(cmd_name)(getattr(module, cmd_name))
        command = get_command(app)
        command.name = cmd_name
        command.short_help = _HELP[cmd_name]
        return command


app = typer.Typer(cls=_LazyGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _root() -> None:
    """AtomVision: structures, images, models and numbers of atomic-resolution microscopy."""


def main() -> None:
    """Entry point of the console script."""
    app()
