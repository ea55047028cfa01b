"""Many files at once under the real daemon, while daemon, runs and workers are killed: each is registered once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import tifffile
from inbox_daemon import Platform, children_of, watching

from atomvision_ml.storage.keys import EXPERIMENTS_MICROGRAPHS, EXPERIMENTS_RECORDS

N_PIXELS = 16


def drop_files(folder: Path, n_files: int) -> None:
    """Small images, each with other pixels, renamed into place or written where they lie."""
    dice = np.random.default_rng(0)
    for number in range(n_files):
        path = folder / f"{number % 7}" / f"image_{number:05d}.tif"
        path.parent.mkdir(exist_ok=True)
        aside = path.with_suffix(".part")
        tifffile.imwrite(aside if number % 2 else path, dice.integers(0, 2**16, (N_PIXELS, N_PIXELS), dtype=np.uint16))
        if number % 2:
            aside.rename(path)


def n_settled(platform: Platform) -> int:
    """Files that were read."""
    return sum(entry.state in ("accepted", "rejected") for entry in platform.store.entries().values())


def is_settled(platform: Platform, n_files: int) -> bool:
    """Every file is read, every day published, and every run ended."""
    days = platform.store.days()
    if n_settled(platform) < n_files or not all(platform.lake.exists(EXPERIMENTS_MICROGRAPHS, day) for day in days):
        return False
    tables = [platform.lake.scan(key).collect() for key in (EXPERIMENTS_RECORDS, EXPERIMENTS_MICROGRAPHS)]
    return [table.height for table in tables] == [n_files, n_files]


def has_killed(platform: Platform, what: str, dice: random.Random) -> bool:
    """Kill the daemon (a new one is started), a run, or a run's worker; False if there is none."""
    if what == "daemon":
        platform.kill_daemon()
        platform.start()
        return True
    runs = platform.run_processes()
    targets = runs if what == "run" else [child for run in runs for child in children_of(run)]
    try:
        os.kill(dice.choice(targets), signal.SIGKILL)
    except (IndexError, ProcessLookupError):
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_files", "kills", "limit_s", "tick_limit_s"),
    [
        pytest.param(60, ("worker", "run"), 500.0, 60.0, marks=pytest.mark.timeout(600)),  # beside other tests
        pytest.param(5000, ("run", "worker", "daemon") * 4, 1800.0, 10.0, marks=pytest.mark.timeout(2100)),
    ],
    ids=["60 files", "5000 files"],
)
def test_every_file_is_registered_once(
    tmp_path: Path, n_files: int, kills: Sequence[str], limit_s: float, tick_limit_s: float
) -> None:
    dice = random.Random(5)
    to_kill = dice.sample(kills, len(kills))
    settings = {"ATOMVISION_SENSOR_INTERVAL_S": "5" if n_files < 1000 else "15"}
    with watching(tmp_path / "platform", **settings) as platform:
        drop_files(platform.drop, n_files)
        began, killed = time.monotonic(), Counter[str]()
        n_done = 0
        while n_done < n_files and time.monotonic() - began < limit_s:
            assert platform.process is not None
            assert platform.process.poll() is None, platform.said()
            n_done = n_settled(platform)
            is_time = bool(to_kill) and n_done >= n_files * killed.total() / len(kills)
            if is_time and has_killed(platform, to_kill[-1], dice):
                killed[to_kill.pop()] += 1
            time.sleep(dice.uniform(1.0, 3.0))
        platform.wait_until(lambda: is_settled(platform, n_files), limit_s, "settled")
        took_s = time.monotonic() - began

        names = {f"{number % 7}/image_{number:05d}.tif" for number in range(n_files)}
        records = platform.lake.scan(EXPERIMENTS_RECORDS).collect()
        assert dict(Counter(records["place"])) == dict.fromkeys(names, 1)
        assert set(records["state"]) == {"accepted"}
        assert platform.lake.scan(EXPERIMENTS_MICROGRAPHS).collect()["record_id"].n_unique() == n_files
        assert {path.relative_to(platform.drop).as_posix() for path in platform.drop.rglob("*.tif")} == names
        assert platform.lake.verify(EXPERIMENTS_RECORDS, records["day"][0])
        ticks = platform.tick_seconds("inbox")
        assert to_kill == []
        n_runs = Counter(run.status.value for run in platform.runs("ingest_experiments"))
        print(f"{n_files} files in {took_s:.0f} s; killed {dict(killed)}; longest tick {max(ticks):.1f} s; {n_runs}")
        assert n_runs[dg.DagsterRunStatus.SUCCESS.value] > 0
        assert max(ticks) < tick_limit_s
        assert took_s < limit_s
