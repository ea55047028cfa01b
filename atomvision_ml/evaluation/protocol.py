"""What each task is judged by: doses, deciding figure, what is shown. Data only; the code is in ``tasks``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.schemas.vocabulary import TASKS


class PromotionRule(BaseModel):
    """What decides; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str = Field(description="Metric of evaluation/metrics; higher is better.")
    slice: str = Field(description="Slice that decides.")
    margin: float = Field(default=0.0, ge=0, description="By how much the best baseline must be beaten.")
    tolerance: float = Field(default=0.005, ge=0, description="How far behind the incumbent still counts as equal.")


class Protocol(BaseModel):
    """How one task is judged; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    doses_e_per_a2: tuple[float | None, ...] = Field(description="Detected dose of the items; None is noiseless.")
    rule: PromotionRule = Field(description="What decides over promotion.")
    score: str = Field(description="Column of the predictions whose lowest value marks the worst item.")
    shown_metrics: tuple[str, ...] = Field(description="Metrics of the gallery's tables.")
    shown_slices: tuple[str, ...] = Field(default=("all",), description="Slices of the gallery's tables.")


PROTOCOLS: dict[str, Protocol] = {
    "lattice": Protocol(
        title="Bravais lattice",
        doses_e_per_a2=(None, 1000.0, 300.0, 100.0),
        rule=PromotionRule(metric="macro_f1", slice="unambiguous|1000"),
        score="is_correct",
        shown_metrics=("macro_f1", "accuracy", "balanced_accuracy", "ece"),
        shown_slices=("all", "unambiguous", "clear"),
    ),
    "segmentation": Protocol(
        title="Segmentation and atom finding",
        doses_e_per_a2=(None, 1000.0, 100.0),
        rule=PromotionRule(metric="iou", slice="all|1000", margin=0.05),
        score="iou",
        shown_metrics=("iou", "dice", "detection_f1", "localisation_rmse_angstrom"),
    ),
}
assert set(PROTOCOLS) == set(TASKS)
