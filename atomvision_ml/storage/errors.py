"""What can go wrong between a table in memory and a published head."""

from __future__ import annotations


class NotPublishedError(LookupError):
    """Nothing is published under that key and partition yet."""


class PublicationRefusedError(RuntimeError):
    """The head was left as it was: the run may not publish, or another publisher was faster."""


class BlobMissingError(LookupError):
    """A blob that is asked for, or that a table names, is not in the store."""


class DamagedDataError(OSError):
    """What was read back differs from what its hash promises."""
