"""The worker processes of a killed run end with it, instead of holding its memory for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import sys, time, os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from atomvision_ml.evaluation.judging import _compute_alone
from atomvision_ml.workers import end_with_parent

if __name__ == "__main__":
    initializer = {"slabs": end_with_parent, "scores": _compute_alone}[sys.argv[1]]
    pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=initializer)
    workers = [pool.submit(os.getpid) for _ in range(8)]
    print(*{worker.result() for worker in workers}, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("pool", ["slabs", "scores"])
def test_workers_of_a_killed_process_end(tmp_path: Path, pool: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), pool], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(process) for process in parent.stdout.readline().split()]
    assert workers
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 30
    while any(_is_alive(process) for process in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)


def _is_alive(process: int) -> bool:
    """Whether it runs; a zombie that nobody has collected does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
