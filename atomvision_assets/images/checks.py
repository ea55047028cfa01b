"""What must be true of image sets beyond their contract: the physics audits, run before anything is published."""

from __future__ import annotations

STEM: dict[str, str] = {}
