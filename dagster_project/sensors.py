"""Sensors: thin shells. What they decide is in :mod:`atomvision_assets.automation`."""

from __future__ import annotations

from typing import Literal

import dagster as dg

from atomvision_assets.store import SKIP_UNCHANGED_TAG


def automation(status: Literal["RUNNING", "STOPPED"]) -> dg.AutomationConditionSensorDefinition:
    """The one sensor that evaluates the automation conditions; ``status`` is its initial state."""
    return dg.AutomationConditionSensorDefinition(
        "automation",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus[status],
        minimum_interval_seconds=30,
        run_tags={SKIP_UNCHANGED_TAG: "true"},
        description="Materialises what its inputs, its code or its absence make due. Roots are left alone.",
    )
