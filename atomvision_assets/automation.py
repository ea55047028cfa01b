"""When an asset is materialised without anybody asking.

One condition for all derived assets. Roots have none: a condition on a root would request every database at the first
tick; they have schedules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import dagster as dg

LABEL = "when_inputs_change"


def when_inputs_change(
    ready_with: Literal["all", "each", "any"] = "all", *, not_needed: Sequence[str] = ()
) -> dg.AutomationCondition:
    """Materialise once for each change of the inputs' data, of the own code, or while the asset is missing.

    The trigger stays pending until the asset is requested, so that a change that arrives during a long run is not
    lost; a request in the same tick as a new trigger does not clear it. A failed run is not a trigger: it would be
    repeated at every tick.

    Args:
        ready_with: which inputs must be there: ``all`` (every partition that is depended on), ``each`` (at least one
            partition of every input, for a fan-in over what is published), ``any`` (one input is enough).
        not_needed: keys of inputs that trigger when they change, but may be missing.
    """
    condition = dg.AutomationCondition
    trigger = (
        condition.any_deps_match(condition.data_version_changed())
        | condition.code_version_changed()
        | condition.newly_missing()
    )
    pending = trigger.since((condition.newly_requested() | condition.initial_evaluation()) & ~trigger)
    spared = dg.AssetSelection.assets(*(key.split("/") for key in not_needed))
    missing, there = condition.any_deps_match(condition.missing()), condition.all_deps_match(~condition.missing())
    inputs = {
        "all": ~(missing.ignore(spared) if not_needed else missing),
        "each": there.ignore(spared) if not_needed else there,
        "any": condition.any_deps_match(~condition.missing()),
    }[ready_with]
    ready = ~condition.in_progress() & ~condition.any_deps_in_progress() & inputs
    return (pending & ready).with_label(LABEL)
