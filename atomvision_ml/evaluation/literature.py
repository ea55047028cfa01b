"""Figures of the literature's methods beside their baselines, for the long table ``evaluation/metrics``.

Belongs here: which methods are scored on which truth. Captions are the open ones of the package
(``docs/literature_labels.md``), never the sealed ones.
"""

from __future__ import annotations

from typing import Any

from atomvision_ml.evaluation.caption_baselines import caption_baselines
from atomvision_ml.literature.scoring import RULES, read_labelled, score_rows

Row = dict[str, Any]

HEADLINES = {"captions": ("modality_recall", "all")}
"""Metric and slice that stand for a task where there is room for one figure only."""


def literature_metric_rows(size: str) -> list[Row]:
    """All figures of the literature's tasks, models and baselines alike, with 95 % Wilson intervals.

    Args:
        size: ``demo`` or ``full``; the truth is the same at both.

    Returns:
        Rows of ``evaluation/metrics``. There is none where nothing was to count.
    """
    labelled = read_labelled()
    rows = [row for reader in (RULES, *caption_baselines(labelled)) for row in score_rows(labelled, size, reader)]
    return [row for row in rows if row["value"] is not None]
