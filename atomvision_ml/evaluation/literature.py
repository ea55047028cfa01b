"""Figures of the literature's methods beside their baselines, for the long table ``evaluation/metrics``.

Belongs here: which methods are scored on which truth. Captions are the open ones of the package
(``docs/literature_labels.md``), never the sealed ones; panels and scale bars those of composites of known truth.
"""

from __future__ import annotations

from typing import Any

from atomvision_ml.evaluation.caption_baselines import caption_baselines
from atomvision_ml.literature.scoring import RULES, read_labelled, score_rows

Row = dict[str, Any]

HEADLINES = {
    "captions": ("modality_recall", "all"),
    "panels": ("box_iou_0.9", "all"),
    "scale_bars": ("px_within_2_percent", "all"),
}
"""Metric and slice that stand for a task where there is room for one figure only."""

_DRAWN = {"demo": (3, 8), "full": (60, 200)}
"""Composite figures and micrographs that are drawn at each size: a demo shows that they are judged, not how well."""


def literature_metric_rows(size: str) -> list[Row]:
    """All figures of the literature's tasks, models and baselines alike, with 95 % Wilson intervals.

    Args:
        size: ``demo`` or ``full``, which has more drawn images; captions are the same at both.

    Returns:
        Rows of ``evaluation/metrics``. There is none where nothing was to count.
    """
    from atomvision_ml.evaluation.panel_benchmark import panel_metric_rows

    rows = caption_metric_rows(size) + panel_metric_rows(size, *_DRAWN[size])
    return [row for row in rows if row["value"] is not None]


def caption_metric_rows(size: str) -> list[Row]:
    """The figures of captions alone; ``value`` is None where nothing was to count."""
    labelled = read_labelled()
    return [row for reader in (RULES, *caption_baselines(labelled)) for row in score_rows(labelled, size, reader)]
