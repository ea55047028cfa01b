"""What subcommands share: where they write, and how they say what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import typer

from atomvision_ml.storage.files import replacing


@contextmanager
def output_stream(out: Path | None) -> Iterator[BinaryIO]:
    """A binary stream to standard output, or to a file that replaces ``out`` when the block ends without error.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if out is None:
        yield sys.stdout.buffer
        return
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out}: there is no folder {out.parent}")
    with replacing(out) as aside, aside.open("wb") as stream:
        yield stream


def failed(message: str, code: int = 1) -> typer.Exit:
    """Say on standard error why the command fails; what to raise then."""
    typer.echo(f"Error: {message}", err=True)
    return typer.Exit(code)


def check_positive(value: float, option: str) -> None:
    """Raises typer.BadParameter unless the option's value is positive and finite."""
    if not 0 < value < float("inf"):
        raise typer.BadParameter(f"{value} is not positive", param_hint=option)
