"""Where a subcommand writes: standard output, or a file that is there only when it is whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from atomvision_ml.storage.files import replacing


@contextmanager
def output_stream(out: Path | None) -> Iterator[BinaryIO]:
    """A binary stream to standard output, or to a file that replaces ``out`` when the block ends without error."""
    if out is None:
        yield sys.stdout.buffer
        return
    with replacing(out) as aside, aside.open("wb") as stream:
        yield stream
