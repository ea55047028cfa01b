"""Publishers racing each other, and readers that read without a pause while heads are replaced.

All parties are real processes. A table is one generation: every row carries its number and the number of rows.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

COMMON = """
import itertools, json, sys

import numpy as np
import pyarrow as pa

from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.lake import Lake, PublicationRefusedError, Version

KEY = "evaluation/metrics"
lake = Lake(sys.argv[1])
STOP = lake.local / "stop"


def generation(number):
    n_rows = 3000 + 700 * (number % 5)
    words = {"task": "lattice", "model": "m", "model_id": "m", "role": "model", "size": "demo", "slice": "s"}
    noise = number + np.random.default_rng(number).random(n_rows) / 2
    columns = {name: [word] * n_rows for name, word in words.items()}
    columns |= {"metric": ["x"] * n_rows, "value": noise, "low": noise, "high": noise}
    columns |= {"seed": np.full(n_rows, number), "n_items": np.full(n_rows, n_rows)}
    return pa.table(columns)


def publish(number):
    return lake.publish(KEY, generation(number), version=Version(code_version=str(number)))


def say(**facts):
    print(json.dumps(facts), flush=True)


def mark(name):  # the test waits for these, however slow the machine is
    (lake.local / name).touch()
"""

PUBLISHER = (
    COMMON
    + """
mine, step, n_done, n_refused = int(sys.argv[2]), int(sys.argv[3]), 0, 0
say(ready=True)
sys.stdin.readline()
for number in itertools.count(mine, step):
    if n_done + n_refused >= 12 and STOP.exists():
        break
    try:
        publish(number)
        n_done += 1
    except PublicationRefusedError as error:
        assert "another publisher" in str(error), error
        n_refused += 1
say(done=n_done, refused=n_refused)
"""
)

LAKE_READER = (
    COMMON
    + """
import polars as pl

n_reads, seen = 0, set()
say(ready=True)
while not STOP.exists():
    frame = lake.scan(KEY)
    row = frame.select(
        low=pl.col("seed").min(), high=pl.col("seed").max(), n=pl.len(), said=pl.col("n_items").max(),
        mean=pl.col("value").floor().mean(),
    ).collect().row(0, named=True)
    assert row["low"] == row["high"] == row["mean"], row
    assert row["n"] == row["said"], row
    n_reads += 1
    seen.add(row["low"])
    if len(seen) == 2:
        mark("lake-reader")
say(reads=n_reads, generations=len(seen))
"""
)

WAREHOUSE_READER = (
    COMMON
    + """
import duckdb
from atomvision_ml.catalog.warehouse import open_warehouse

# One connection for the whole time; DuckDB opens a file anew between planning and reading, so that a query may
# fail in the very moment of a replacement. It must never give a mixture, and never meet a lock.
connection = open_warehouse(lake)
n_reads, n_failed, seen = 0, 0, set()
say(ready=True)
while not STOP.exists():
    try:
        low, high, n, said, mean = connection.execute(
            "SELECT min(seed), max(seed), count(value), max(n_items), avg(floor(value)) FROM evaluation.metrics"
        ).fetchone()
    except duckdb.Error as error:
        assert "lock" not in str(error).lower(), error
        n_failed += 1
        continue
    assert low == high == mean and n == said, (low, high, n, said, mean)
    n_reads += 1
    seen.add(low)
    if len(seen) == 2:
        mark("warehouse-reader")
say(reads=n_reads, failed=n_failed, generations=len(seen))
"""
)

BUILDER = (
    COMMON
    + """
from atomvision_ml.catalog.warehouse import build_warehouse, open_warehouse

n_built = 0
say(ready=True)
while not STOP.exists():
    build_warehouse(lake)
    with open_warehouse(lake) as fresh:
        assert fresh.execute("SELECT count(*) FROM evaluation.metrics").fetchone()[0] > 0
    n_built += 1
    if n_built == 2:
        mark("builder")
say(built=n_built)
"""
)

SNAPSHOT_READER = (
    COMMON
    + """
from atomvision_ml.catalog.warehouse import ask

n_reads = 0
say(ready=True)
while not STOP.exists():
    with ask(lake, "SELECT min(seed), max(seed), count(value), max(n_items) FROM evaluation.metrics") as result:
        low, high, n, said = result.read_all().to_pylist()[0].values()
    assert low == high and n == said, (low, high, n, said)
    n_reads += 1
    if n_reads == 2:
        mark("snapshot-reader")
say(reads=n_reads)
"""
)


class Party:
    """One process, which says when it is ready and at the end what it did."""

    def __init__(self, code: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        out, err = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, err
        return json.loads(out)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    first = COMMON + "\nfrom atomvision_ml.catalog.warehouse import build_warehouse\npublish(0); build_warehouse(lake)"
    subprocess.run([sys.executable, "-c", first, str(tmp_path)], check=True)
    return tmp_path


def stop_when_marked(root: Path, *names: str, parties: Sequence[Party]) -> None:
    """Let all go on until each has seen enough; a party that ended by itself has failed."""
    deadline = time.monotonic() + 120
    while not all((root / name).exists() for name in names):
        ended = [party.process.communicate()[1] for party in parties if party.process.poll() is not None]
        assert not ended, ended
        assert time.monotonic() < deadline, [name for name in names if not (root / name).exists()]
        time.sleep(0.05)
    (root / "stop").touch()


def test_readers_see_one_generation_while_two_publishers_race(root: Path) -> None:
    readers = [Party(code, root) for code in (LAKE_READER, WAREHOUSE_READER)]
    publishers = [Party(PUBLISHER, root, number, 2) for number in (1, 2)]
    for party in (*readers, *publishers):
        party.wait_until_ready()
    for publisher in publishers:
        publisher.begin()
    stop_when_marked(root, "lake-reader", "warehouse-reader", parties=(*readers, *publishers))
    published = [publisher.result() for publisher in publishers]
    by_lake, by_duckdb = (reader.result() for reader in readers)
    assert all(result["done"] + result["refused"] >= 12 for result in published)
    assert sum(result["done"] for result in published) >= 12
    assert by_lake["generations"] > 1
    assert by_duckdb["generations"] > 1
    assert by_duckdb["failed"] <= 0.1 * by_duckdb["reads"]


def test_the_warehouse_is_swapped_under_open_readers(root: Path) -> None:
    parties = [Party(code, root) for code in (WAREHOUSE_READER, BUILDER, SNAPSHOT_READER)]
    publisher = Party(PUBLISHER, root, 1, 1)
    for party in (*parties, publisher):
        party.wait_until_ready()
    publisher.begin()
    stop_when_marked(root, "warehouse-reader", "builder", "snapshot-reader", parties=(*parties, publisher))
    published = publisher.result()
    assert published["done"] >= 12
    assert published["refused"] == 0
    old_reader, builder, snapshots = (party.result() for party in parties)
    assert old_reader["generations"] > 1
    assert builder["built"] > 1
    assert snapshots["reads"] > 1
