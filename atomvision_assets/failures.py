"""Failures by type: what another attempt can mend, and what it cannot.

No asset has Dagster's ``RetryPolicy``: that also repeats a step which a person has interrupted (Ctrl-C, *Terminate*)
and one with a programming error. Instead errors are told apart here, where an asset reads and where it publishes.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from typing import Any

import dagster as dg

from atomvision_ml.literature.replies import LiteratureError, RefusedError

MAXIMUM_RETRIES = 2
FIRST_DELAY_S = 5.0

PERMANENT = (ValueError, LookupError, TypeError, ArithmeticError, NotImplementedError, RefusedError)
"""The same input raises them again, or a server asks to stop. `ContractError` is a ValueError, `NotPublishedError` a
LookupError."""

PERMANENT_ERRNO = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT,
}  # fmt: skip
"""Files that are not there, not ours, or do not fit: a person must act first."""


TRANSIENT = (OSError, BrokenExecutor, LiteratureError)
"""A reset connection (requests' errors are OSErrors), a busy file, a worker process that the kernel killed, an outage
of arXiv."""


class PermanentFailure(dg.Failure):
    """A failure that no retry mends. The message says what to do."""

    def __init__(self, description: str, metadata: dict[str, Any] | None = None):
        super().__init__(description=description, metadata=metadata, allow_retries=False)


@contextmanager
def told_apart(what: str, attempt: int) -> Iterator[None]:
    """Raise errors about bad input as PermanentFailure, and ask Dagster for another attempt after a transient one.

    Args:
        what: names the work that was tried.
        attempt: how often it was tried before; the delay doubles each time.
    """
    try:
        yield
    except PERMANENT as error:
        raise PermanentFailure(f"{what}: {type(error).__name__}: {error}") from error
    except TRANSIENT as error:
        if isinstance(error, OSError) and error.errno in PERMANENT_ERRNO:
            raise PermanentFailure(f"{what}: {error}") from error
        delay_s = FIRST_DELAY_S * 2**attempt * random.uniform(0.8, 1.2)
        raise dg.RetryRequested(max_retries=MAXIMUM_RETRIES, seconds_to_wait=delay_s) from error
