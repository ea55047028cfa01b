"""``atomvision sql`` and ``atomvision tables`` as a user runs them: real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from atomvision_ml.cli.sql import sql
from atomvision_ml.schemas.tables import table
from atomvision_ml.settings import Settings
from atomvision_ml.storage.lake import Lake, Version

START = "import sys, typer; from atomvision_ml.cli.{0} import {0}; sys.argv[0] = '{0}'; typer.run({0})"


def atomvision(root: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", START.format(command), *arguments],
        capture_output=True,
        env={**os.environ, "ATOMVISION_ROOT": str(root)},
        timeout=60,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    row = {"model": "m", "model_id": "m", "role": "model", "size": "demo", "slice": "s", "metric": "iou"}
    rows = [{**row, "task": "lattice", "seed": seed, "value": seed / 10, "n_items": 1} for seed in range(3)]
    Lake(folder).publish(
        "evaluation/metrics", table("evaluation/metrics").from_rows(rows), version=Version(code_version="1")
    )
    return folder


def test_a_table_for_the_terminal(root: Path) -> None:
    done = atomvision(root, "sql", "SELECT seed, value FROM evaluation.metrics ORDER BY seed")
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.decode().splitlines() if line.strip()][2:5] == [
        ["0", "0"],
        ["1", "0.1"],
        ["2", "0.2"],
    ]
    assert done.stderr == b""


def test_other_formats(root: Path, tmp_path: Path) -> None:
    query = "SELECT seed FROM evaluation.metrics ORDER BY seed"
    assert atomvision(root, "sql", query, "--format", "csv").stdout == b"seed\n0\n1\n2\n"
    assert json.loads(atomvision(root, "sql", query, "--format", "json").stdout) == [{"seed": i} for i in range(3)]
    redirected = atomvision(root, "sql", query, "--format", "parquet").stdout
    assert pq.read_table(pa.BufferReader(redirected)).column("seed").to_pylist() == [0, 1, 2]
    file = tmp_path / "out.parquet"
    assert atomvision(root, "sql", query, "--format", "parquet", "--out", str(file)).stdout == b""
    assert pq.read_table(file).num_rows == 3
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM structures.slab", "slab"),
        ("SELECT nothing FROM evaluation.metrics", "nothing"),
        ("SELECT * FROM read_text('/etc/passwd')", "disabled by configuration"),
        ("COPY (SELECT 1) TO '/tmp/x.csv'", "read only"),
        ("SELECT error('boom')", "boom"),
    ],
)
def test_an_error_is_one_line(root: Path, query: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atomvision_ml.settings.settings", lambda: Settings(root=str(root)))
    app = typer.Typer()
    app.command()(sql)
    done = CliRunner().invoke(app, [query])
    assert done.exit_code == 1
    assert done.stdout == ""
    message = done.stderr
    assert message.startswith("Error: ")
    assert message.count("\n") == 1
    assert says in message


def test_a_failing_query_leaves_the_old_file(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    file.write_text("old")
    query = "SELECT CASE WHEN i = 9999 THEN error('boom') END FROM range(10000) t(i)"
    assert atomvision(root, "sql", query, "--format", "csv", "--out", str(file)).returncode == 1
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    assert b"there is no folder" in atomvision(root, "sql", "SELECT 1", "--out", str(tmp_path / "no" / "x")).stderr


def test_parquet_is_not_thrown_at_a_terminal(root: Path) -> None:
    import pty

    master, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", START.format("sql"), "SELECT 1", "--format", "parquet"],
        stdout=terminal,
        stderr=subprocess.PIPE,
        env={**os.environ, "ATOMVISION_ROOT": str(root)},
        timeout=60,
    )
    os.close(terminal)
    os.close(master)
    assert done.returncode == 1
    assert b"--out" in done.stderr


def test_a_closed_pipe_is_no_error(root: Path) -> None:
    command = [sys.executable, "-c", START.format("sql"), "SELECT * FROM range(300000)", "--format", "csv"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "ATOMVISION_ROOT": str(root)}
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"range\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_tables_lists_all_views(root: Path) -> None:
    rows = {row["view"]: row for row in json.loads(atomvision(root, "tables", "--json").stdout)}
    assert (rows["evaluation.metrics"]["n_rows"], rows["evaluation.metrics"]["is_materialised"]) == (3, True)
    assert not rows["structures.slabs"]["is_materialised"]
    text = atomvision(root, "tables").stdout.decode()
    assert all(view in text for view in rows)
    built = atomvision(root, "tables", "--build")
    assert built.returncode == 0
    assert (root / "catalog" / "atomvision.duckdb").is_file()


def test_an_empty_root_is_no_error(tmp_path: Path) -> None:
    assert atomvision(tmp_path / "none", "tables").returncode == 0
    done = atomvision(tmp_path / "none", "sql", "SELECT count(*) AS n FROM structures.slabs", "--format", "csv")
    assert done.stdout == b"n\n0\n"
    assert not (tmp_path / "none").exists()


def test_the_commands_need_neither_torch_nor_dagster_nor_pandas(root: Path) -> None:
    look = START.replace("typer.run({0})", "typer.Typer") + (
        "; {0}(*sys.argv[1:]); print([m for m in ('torch', 'dagster', 'pandas', 'boto3') if m in sys.modules])"
    )
    for command, arguments in (("sql", ["SELECT count(*) FROM evaluation.metrics"]), ("tables", [])):
        done = subprocess.run(
            [sys.executable, "-c", look.format(command), *arguments],
            capture_output=True,
            env={**os.environ, "ATOMVISION_ROOT": str(root)},
            timeout=60,
        )
        assert done.stdout.decode().splitlines()[-1] == "[]", done.stderr
