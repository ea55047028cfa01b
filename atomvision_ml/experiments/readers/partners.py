"""Files that belong to another: found beside it, never elsewhere."""

from __future__ import annotations

import stat
from pathlib import Path


def partner(path: Path, name: str) -> Path | None:
    """The plain file of a name in the same folder; None if there is none, or if it is a link or a device."""
    if "/" in name or "\0" in name or name in ("", ".", ".."):
        return None
    candidate = path.parent / name
    try:
        mode = candidate.lstat().st_mode
    except OSError:
        return None
    return candidate if stat.S_ISREG(mode) else None
