"""``atomvision doctor``: what is installed, reachable and missing, and how to mend it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import BaseModel, ConfigDict

REQUIRED = (
    "dagster", "dagster-webserver", "dagster-aws", "duckdb", "pyarrow", "polars", "torch",
    "segmentation-models-pytorch", "scikit-image", "ase", "requests", "beautifulsoup4", "zarr", "spglib",
)  # fmt: skip
PROGRAMS = (
    ("gs", "figures of papers in EPS, PS and PDF", "ghostscript"),
    ("chromium", "browser tests", "chromium"),
)
"""Programs that are no Python packages: name, who needs it, Debian's package."""
GRAPHQL_SENSORS = """
{repositoriesOrError {... on RepositoryConnection {nodes {sensors {name sensorType sensorState {status}}}}}}
"""


class Finding(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(frozen=True)

    subject: str
    state: Literal["ok", "note", "missing"]
    detail: str
    remedy: str = ""


def _packages() -> Iterator[Finding]:
    for name in REQUIRED:
        try:
            yield Finding(subject=name, state="ok", detail=version(name))
        except PackageNotFoundError:
            yield Finding(
                subject=name, state="missing", detail="not installed", remedy="make demo, or pip install -e ."
            )
    try:
        yield Finding(subject="dgl", state="ok", detail=version("dgl"))
    except PackageNotFoundError:
        yield Finding(
            subject="dgl", state="note", detail="not installed", remedy="dgl 1.1 has no build for this Python; use 3.11"
        )


def _torch() -> Iterator[Finding]:
    import torch

    from atomvision_ml.models._torchvision import ensure_torchvision

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU only"
    yield Finding(subject="torch device", state="ok", detail=f"{device}, {torch.get_num_threads()} threads")
    how = ensure_torchvision()
    detail = "matches torch" if how == "native" else "detection operators stubbed (built for another torch)"
    yield Finding(subject="torchvision", state="ok", detail=detail)


def _sources() -> Iterator[Finding]:
    from atomvision_ml.settings import settings
    from atomvision_ml.structures.sources.locate import DATABASES, find

    folder = settings().sources
    if folder is None:
        yield Finding(
            subject="ATOMVISION_SOURCES", state="note", detail="not set: dumps are downloaded from their publishers",
            remedy="export ATOMVISION_SOURCES=<folder with dft_2d.json.zip, c2db.db, db.json.gz>",
        )  # fmt: skip
        return
    if not folder.is_dir():
        yield Finding(
            subject="ATOMVISION_SOURCES", state="missing", detail=f"{folder} is not a folder", remedy="correct the path"
        )
        return
    for name, database in DATABASES.items():
        path = find(database, folder)
        yield Finding(
            subject=name,
            state="ok" if path else "note",
            detail=str(path.relative_to(folder)) if path else f"no dump below {folder}",
            remedy="" if path else "put the dump there, or let it be downloaded",
        )


def _store() -> Iterator[Finding]:
    from atomvision_ml.catalog.warehouse import warehouse_path
    from atomvision_ml.schemas.tables import TABLES
    from atomvision_ml.settings import settings
    from atomvision_ml.storage.lake import Lake

    root = settings().root
    if not root.startswith("s3://"):
        folder = settings().local_root()
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not os.access(existing, os.W_OK):
            yield Finding(
                subject="ATOMVISION_ROOT", state="missing", detail=f"{folder} cannot be written",
                remedy="choose another folder with ATOMVISION_ROOT",
            )  # fmt: skip
            return
        free_gb = shutil.disk_usage(existing).free / 1e9
        yield Finding(subject="ATOMVISION_ROOT", state="ok", detail=f"{folder}, {free_gb:.0f} GB free")
    try:
        lake = Lake.from_settings()
    except OSError as error:
        yield Finding(subject="ATOMVISION_ROOT", state="missing", detail=str(error))
        return
    published = [table.key for table in TABLES.values() if lake.partitions(table.key) or lake.exists(table.key)]
    state: Literal["ok", "note"] = "ok" if published else "note"
    yield Finding(
        subject="published tables", state=state, detail=f"{len(published)} of {len(TABLES)}",
        remedy="" if published else "make demo",
    )  # fmt: skip
    built = Path(warehouse_path(lake)).exists()
    yield Finding(
        subject="warehouse", state="ok" if built else "note", detail="built" if built else "not built",
        remedy="" if built else "make demo, or materialise catalog/warehouse",
    )  # fmt: skip


def _ui(port: int) -> Iterator[Finding]:
    import requests

    url = f"http://127.0.0.1:{port}/graphql"
    try:
        answer = requests.post(url, json={"query": GRAPHQL_SENSORS}, timeout=5).json()
    except (requests.RequestException, json.JSONDecodeError):
        yield Finding(subject="Dagster UI", state="note", detail=f"nothing answers on port {port}", remedy="make ui")
        return
    nodes = answer["data"]["repositoriesOrError"].get("nodes", [])
    yield Finding(subject="Dagster UI", state="ok", detail=url.removesuffix("/graphql"))
    for sensor in (sensor for node in nodes for sensor in node["sensors"]):
        status = sensor["sensorState"]["status"]
        yield Finding(
            subject=f"sensor {sensor['name']}", state="ok" if status == "RUNNING" else "note", detail=status,
            remedy="" if status == "RUNNING" else "switch it on under Automation in the UI",
        )  # fmt: skip


def _scratch() -> Iterator[Finding]:
    free_gb = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    yield Finding(subject="temporary folder", state="ok" if free_gb > 1 else "note", detail=f"{free_gb:.0f} GB free")
    for program, use, package in PROGRAMS:
        found = shutil.which(program)
        yield Finding(
            subject=program, state="ok" if found else "note", detail=found or "not found",
            remedy="" if found else f"only {use} need it: apt-get install {package}",
        )  # fmt: skip


def doctor(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Tell what is installed, reachable and missing, and how to mend it. Exit code 1 if something needed is missing."""
    findings = [*_packages()]
    if not any(finding.state == "missing" for finding in findings):
        findings += [*_torch(), *_sources(), *_store()]
    findings += [*_scratch(), *_ui(port)]
    if as_json:
        for finding in findings:
            typer.echo(finding.model_dump_json())
    else:
        _print_table(findings)
    raise typer.Exit(int(any(finding.state == "missing" for finding in findings)))


def _print_table(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "note": "yellow", "missing": "red"}
    table = Table(box=None)
    for heading in ("", "what", "state", "to mend it"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        state = Text(finding.state, style=colours[finding.state])
        table.add_row(state, finding.subject, finding.detail, finding.remedy)
    Console(markup=False).print(table)
