"""Worker processes that end with the process that started them.

A pool's workers wait for work on a pipe that they hold open themselves: if their parent is killed (`kill -9`, out of
memory), they would wait for ever.
"""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Initializer of a pool of processes: end this worker as soon as its parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_end, args=(parent,), daemon=True).start()


def _wait_and_end(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
