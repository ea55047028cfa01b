"""How long a call takes, as the benchmarks measure it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def best_s(call: Callable[[], Any], repeats: int) -> float:
    """Shortest processor time (s) of some calls: what other programs add to it is never negative.

    One more call comes before several, and does not count.
    """
    if repeats > 1:
        call()
    return min(_time_s(call) for _ in range(repeats))


def _time_s(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start
