"""Readers of the structure databases, each in its own public dump format.

Belongs here: finding or downloading a dump (:mod:`.locate`, :mod:`.download`), opening it (:mod:`.files`), and one
module for each database that turns its records into rows of ``structures/records``.
"""

from atomvision_ml.structures.sources.files import SourceUnavailableError
from atomvision_ml.structures.sources.read import SourceDump, read_source

__all__ = ["SourceDump", "SourceUnavailableError", "read_source"]
