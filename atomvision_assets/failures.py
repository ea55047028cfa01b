"""Failures by type: what a retry can mend, and what it cannot.

Every asset has :data:`RETRY_POLICY`. It repeats whatever is raised, except :class:`PermanentFailure`; so the library's
errors about bad input are turned into that one here, and the transient kinds (a reset connection, a busy disk, a killed
worker) are left as they are.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

RETRY_POLICY = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)

PERMANENT = (ValueError, LookupError, TypeError, ArithmeticError, NotImplementedError)
"""The same input raises them again. `ContractError` is a ValueError, `NotPublishedError` a LookupError."""

PERMANENT_ERRNO = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT,
}  # fmt: skip
"""Files that are not there, not ours, or do not fit: a person must act first."""


class PermanentFailure(dg.Failure):
    """A failure that no retry mends. The message says what to do."""

    def __init__(self, description: str, metadata: dict[str, Any] | None = None):
        super().__init__(description=description, metadata=metadata, allow_retries=False)


@contextmanager
def permanent_failures(what: str) -> Iterator[None]:
    """Raise the library's errors about bad input as PermanentFailure; ``what`` names the work that was tried."""
    try:
        yield
    except PERMANENT as error:
        raise PermanentFailure(f"{what}: {type(error).__name__}: {error}") from error
    except OSError as error:
        if error.errno not in PERMANENT_ERRNO:
            raise
        raise PermanentFailure(f"{what}: {error}") from error
