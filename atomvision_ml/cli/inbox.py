"""``atomvision inbox``: files for the platform, and what became of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomvision_ml.cli.output import failed
from atomvision_ml.cli.record import parsed
from atomvision_ml.experiments.ledger import State

if TYPE_CHECKING:
    from atomvision_ml.experiments.ledger_store import LedgerStore

app = typer.Typer(no_args_is_help=True, help="Files of microscopes for the platform, and what became of them.")


@app.command()
def add(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Files, with their sidecars.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of every file's sidecar; YAML, may be repeated."),
    ] = None,
    folder: Annotated[str, typer.Option(help="Folder within the inbox.")] = "",
) -> None:
    """Copy files into the inbox, whole or not at all, each with its sidecar, `FILE.meta.yaml`.

    A file that is there already is left alone unless its bytes are the same; then only its sidecar is replaced.
    """
    from atomvision_ml.experiments.record import SidecarError, checked_values, read_sidecar, sidecar_path, write_sidecar
    from atomvision_ml.storage.files import replacing

    target = _target(folder)
    sidecars = {sidecar_path(file) for file in files}
    files = [file for file in files if file not in sidecars]
    try:
        given = checked_values(parsed(set_ or []), "--set")
        told = [read_sidecar(sidecar_path(file)) | given for file in files]
        _refuse_replacing(files, target)
        target.mkdir(parents=True, exist_ok=True)
        for file, values in zip(files, told, strict=True):
            if values:
                write_sidecar(sidecar_path(target / file.name), values, {})
            if not (target / file.name).exists():
                with replacing(target / file.name) as aside:
                    shutil.copyfile(file, aside)
            typer.echo(target / file.name)
    except (SidecarError, OSError) as error:
        raise failed(str(error)) from error


def _refuse_replacing(files: list[Path], target: Path) -> None:
    from collections import Counter

    from atomvision_ml.storage.blobs import file_sha256

    if repeated := [name for name, count in Counter(file.name for file in files).items() if count > 1]:
        raise failed(f"several files of the name {repeated[0]}: add them one by one, each with a --folder of its own")
    for file in files:
        there = target / file.name
        if there.exists() and file_sha256(there) != file_sha256(file):
            raise failed(f"{there} is another file of this name: rename yours, or choose another --folder")


@app.command()
def status(
    state: Annotated[State | None, typer.Option(help="Only files in this state, each on a line.")] = None,
) -> None:
    """How many files are in which state, why files were rejected, and which labels train nothing."""
    from collections import Counter

    from rich.console import Console
    from rich.table import Table

    with _opened_ledger() as store:
        ledger = store.entries()
    counts = Counter(entry.state for entry in ledger.values())
    if state is None:
        typer.echo(", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no file was seen yet")
    elif state not in counts:
        typer.echo(f"no file is {state}")
    table = Table(box=None, header_style="bold")
    for name in ("file", "state", "reason"):
        table.add_column(name, overflow="fold")
    for place, entry in sorted(ledger.items()):
        if entry.state == (state or "rejected"):
            table.add_row(place, entry.state, entry.reason or entry.duplicate_of or "")
    if table.row_count:
        Console().print(table, markup=False)
    for reason, count in _not_trained_on().items():
        typer.echo(f"labelled, but not trained on: {count} of the accepted images, {reason}")


@app.command()
def reconsider(
    places: Annotated[
        list[str] | None, typer.Argument(help="Files as `status` names them; all rejected ones if none is given.")
    ] = None,
) -> None:
    """Offer rejected files again: after a new version of a reader."""
    with _opened_ledger() as store:
        rejected = {place for place, entry in store.entries().items() if entry.state == "rejected"}
        if unknown := sorted(set(places or []) - rejected):
            raise failed(f"not among the rejected files: {', '.join(unknown)}")
        store.reconsider(places or rejected)
    typer.echo(f"{len(places or rejected)} files are offered again")


def _not_trained_on() -> dict[str, int]:
    """Labelled micrographs that cannot be trained on, by reason."""
    from atomvision_ml.evaluation.adoption import not_trained_on
    from atomvision_ml.storage.keys import EXPERIMENTS_MICROGRAPHS
    from atomvision_ml.storage.lake import Lake

    try:
        lake = Lake.from_settings()
        published = lake.exists(EXPERIMENTS_MICROGRAPHS)
        return not_trained_on(lake.scan(EXPERIMENTS_MICROGRAPHS).collect()) if published else {}
    except OSError as error:
        raise failed(str(error)) from None


def _target(folder: str) -> Path:
    """A folder within the inbox."""
    inbox = _folder()
    target = (inbox / folder).resolve()
    if not target.is_relative_to(inbox):
        raise typer.BadParameter(f"{folder} is not within the inbox, {inbox}", param_hint="--folder")
    return target


def _folder() -> Path:
    from atomvision_ml.settings import settings

    url = settings().inbox_url()
    if url.startswith("s3://"):
        raise failed(f"the inbox is {url}: upload to it with a client of S3")
    return Path(url)


@contextmanager
def _opened_ledger() -> Iterator[LedgerStore]:
    """The inbox's book; if it cannot be used, the command ends and says why."""
    from atomvision_ml.experiments.ledger_store import LedgerError, LedgerStore
    from atomvision_ml.settings import settings

    try:
        yield LedgerStore(settings().inbox_ledger_path())
    except (LedgerError, OSError) as error:
        raise failed(str(error)) from error
