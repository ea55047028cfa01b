"""``atomvision record``: what a microscope's file says, and the sidecar file for what it does not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomvision_ml.cli.output import failed

if TYPE_CHECKING:
    from atomvision_ml.experiments.record import Record
    from atomvision_ml.experiments.worker import FileReader


def record(
    file: Annotated[
        Path | None, typer.Argument(help="File of a microscope: dm3, dm4, ser, emi, emd, mrc, tif, ndata, sxm…")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of the sidecar file; YAML, may be repeated."),
    ] = None,
    profiles: Annotated[
        Path | None, typer.Option(help="Folder of own instrument profiles (YAML); by default ATOMVISION_PROFILES.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of the sidecar file.")] = False,
    record_schema: Annotated[
        bool, typer.Option("--record-schema", help="Print the JSON schema of the whole record.")
    ] = False,
) -> None:
    """Show what is known of a file's images, and write what is missing into FILE.meta.yaml beside it.

    Without --set, on a terminal, the missing fields are asked for one by one, then the optional ones. Enter leaves a
    field empty, a full stop ends the questions.
    """
    from atomvision_ml.experiments.profiles import ProfileError
    from atomvision_ml.experiments.record import (
        SidecarError,
        checked_values,
        read_sidecar,
        sidecar_path,
        write_sidecar,
    )
    from atomvision_ml.experiments.worker import FileReader, RejectedError
    from atomvision_ml.settings import settings

    profiles = profiles or settings().profiles_folder()
    if schema or record_schema:
        _print_schema(profiles, is_whole=record_schema)
        return
    if file is None:
        raise typer.BadParameter("a file is wanted", param_hint="FILE")
    try:
        before = read_sidecar(sidecar_path(file))
        given = checked_values(parsed(set_ or []), "--set")
        with FileReader() as reader:
            records = _records(file, reader, profiles, before | given)
            if not set_ and sys.stdin.isatty():
                given |= _asked(records[0])
                records = _records(file, reader, profiles, before | given)
        if given:
            write_sidecar(sidecar_path(file), before | given, records[0].model_dump())
    except RejectedError as error:
        raise failed(f"{file}: {error.reason}") from error
    except (SidecarError, ProfileError, OSError) as error:
        raise failed(str(error)) from error
    _show(records)
    if given:
        typer.echo(f"{sidecar_path(file)}: {len(before | given)} fields")


def _records(file: Path, reader: FileReader, profiles: Path | None, sidecar: dict[str, Any]) -> Sequence[Record]:
    import tempfile

    from atomvision_ml.experiments.capture import capture
    from atomvision_ml.experiments.profiles import load_profiles

    with tempfile.TemporaryDirectory() as folder:
        captured = capture(file, folder, reader, load_profiles(profiles), sidecar=sidecar)
    for reason in captured.rejected:
        typer.echo(f"left out: {reason}", err=True)
    return captured.records


def parsed(settings: Sequence[str]) -> dict[str, Any]:
    """Values by field of ``field=value`` arguments, each value YAML; raises typer.BadParameter."""
    import yaml

    values = {}
    for setting in settings:
        name, sign, text = setting.partition("=")
        if not sign:
            raise typer.BadParameter(f"{setting!r} is not of the form field=value", param_hint="--set")
        try:
            values[name.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"{setting!r}: the value is no YAML", param_hint="--set") from error
    return values


_END = "."


def _asked(record: Record) -> dict[str, Any]:
    """Answers for what is missing, which depends on the answers before; then for the optional fields."""
    from atomvision_ml.experiments.record import fields_filled_by, required_of

    optional = (*fields_filled_by("sidecar"), *fields_filled_by("header"))
    known = {name: value for name, value in record.model_dump().items() if value is not None}
    answers: dict[str, Any] = {}
    asked: set[str] = set()
    typer.echo(f"Enter leaves a field empty, {_END} ends the questions.", err=True)
    while True:
        said = known | answers
        wanted = (*required_of(said.get("technique")), *optional)
        name = next((each for each in wanted if each not in said and each not in asked), None)
        if name is None or (answer := _answer(name)) is None:
            return answers
        asked.add(name)
        answers |= answer


def _answer(name: str) -> dict[str, Any] | None:
    """What is answered, nothing, or None at the end; a wrong answer is asked again."""
    from atomvision_ml.experiments.record import Record, SidecarError, checked_values, unit_of, vocabulary_of

    hint = f"{Record.model_fields[name].description} [{unit_of(name) or ', '.join(vocabulary_of(name)) or name}]"
    while answer := typer.prompt(f"{name}: {hint}", default="", show_default=False).strip():
        if answer == _END:
            return None
        try:
            return checked_values(parsed([f"{name}={answer}"]), "answer")
        except (SidecarError, typer.BadParameter) as error:
            typer.echo(str(error), err=True)
    return {}


def _show(records: Sequence[Record]) -> None:
    from rich.console import Console
    from rich.table import Table

    from atomvision_ml.experiments.record import fields_filled_by, unit_of

    first = records[0]
    table = Table(title=f"{first.original_filename}: {first.source_format}, {len(records)} images", show_header=False)
    for name in ("signal_name", "shape_y", "shape_x", "n_frames", "dtype", "field_of_view_y_nm", "field_of_view_x_nm"):
        table.add_row(name, _told(getattr(first, name), unit_of(name)))
    for name in fields_filled_by("header", "sidecar"):
        value = getattr(first, name)
        if value is not None:
            table.add_row(name, _told(value, unit_of(name)))
        elif name in first.missing_fields:
            table.add_row(name, "missing", style="red")
    console = Console(markup=False)
    console.print(table)
    for warning in first.warnings:
        console.print(f"warning: {warning}")


def _told(value: Any, unit: str) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f"{text} {unit}".strip()


def _print_schema(folder: Path | None, *, is_whole: bool) -> None:
    import json

    from atomvision_ml.experiments.profiles import ProfileError, load_profiles, record_schema, sidecar_schema

    try:
        told = (record_schema if is_whole else sidecar_schema)(load_profiles(folder))
    except ProfileError as error:
        raise failed(str(error)) from error
    typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
