"""What each task is judged by: doses, deciding figure, what is shown. Data only; the code is in ``tasks``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.images.detector import dose_name
from atomvision_ml.schemas.vocabulary import TASKS

AS_TAKEN = "experiment|as_taken"
"""The slice of the experimental items, at whatever dose they were taken."""


class PromotionRule(BaseModel):
    """What decides; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str = Field(description="Metric of evaluation/metrics; higher is better.")
    slice: str = Field(description="Slice that decides; together with the experimental items where there are any.")
    margin: float = Field(default=0.0, ge=0, description="By how much the best baseline must be beaten.")
    guarded: tuple[str, ...] = Field(
        default=(), description="Slices, beside the deciding ones, on which no model follows that is worse."
    )
    tolerance: float = Field(
        default=0.005, ge=0, description="Loss on a slice, in units of the metric, that does not count as worse."
    )

    @property
    def deciding(self) -> tuple[str, str]:
        """The slices over which the deciding figure is the mean, as far as there are such items."""
        return self.slice, AS_TAKEN


class Protocol(BaseModel):
    """How one task is judged; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    doses_e_per_a2: tuple[float | None, ...] = Field(description="Detected dose of the items; None is noiseless.")
    rule: PromotionRule | None = Field(default=None, description="What decides over promotion; None: no champion.")
    score: str | None = Field(
        default=None, description="Column of the answers whose lowest value marks the worst item; None: none is marked."
    )
    shown_metrics: tuple[str, ...] = Field(
        min_length=1, description="Metrics of the gallery's tables, of the bins and of the comparisons."
    )
    shown_slices: tuple[str, ...] = Field(default=("all",), description="Slices of the gallery's tables.")
    labels: dict[str, str] = Field(default={}, description="Names of metrics for people, where they need another one.")
    answers: tuple[str, ...] = Field(
        default=(), description="Tables of answers besides the predictions of its models; of the form of predictions."
    )

    @property
    def headline(self) -> tuple[str, str]:
        """Metric and slice that stand for the task where there is room for one figure only."""
        if self.rule is not None:
            return self.rule.metric, self.rule.slice
        return self.shown_metrics[0], f"{self.shown_slices[0]}|{dose_name(self.doses_e_per_a2[0])}"

    def label(self, metric: str) -> str:
        """A metric's name for people."""
        return self.labels.get(metric) or _LABELS.get(metric) or metric.replace("_", " ")


_LABELS = {
    "macro_f1": "macro-F1",
    "ece": "calibration error",
    "iou": "IoU",
    "dice": "Dice",
    "detection_f1": "detection F1 at 0.5 Å",
    "localisation_rmse_angstrom": "localisation RMSE per axis, Å",
}


PROTOCOLS: dict[str, Protocol] = {
    "lattice": Protocol(
        title="Bravais lattice",
        doses_e_per_a2=(None, 1000.0, 300.0, 100.0),
        rule=PromotionRule(
            metric="macro_f1",
            slice="unambiguous|1000",
            guarded=("all|clean", "all|1000", "all|300", "all|100", "resolvable|1000"),
        ),
        score="is_correct",
        shown_metrics=("macro_f1", "accuracy", "balanced_accuracy", "ece"),
        shown_slices=("all", "unambiguous", "clear", "resolvable", "experiment"),
        answers=("evaluation/experimental_answers",),
    ),
    "segmentation": Protocol(
        title="Segmentation",
        doses_e_per_a2=(None, 1000.0, 100.0),
        rule=PromotionRule(metric="iou", slice="all|1000", margin=0.05, guarded=("all|clean", "all|100")),
        score="iou",
        shown_metrics=("iou", "dice", "paper_pixel_accuracy", "detection_f1", "localisation_rmse_angstrom"),
        labels={"paper_pixel_accuracy": "pixel accuracy as in the paper"},
    ),
    "atoms": Protocol(
        title="Atom finding",
        doses_e_per_a2=(None, 1000.0, 100.0),
        rule=PromotionRule(metric="detection_f1", slice="all|100", guarded=("all|clean", "all|1000")),
        score="f1",
        shown_metrics=(
            "detection_f1",
            "unmerged_detection_f1",
            "localisation_rmse_angstrom",
            "localisation_bound_angstrom",
            "rmse_over_bound",
            "number_exact",
        ),
        shown_slices=("all", "vacancies_graphene", "vacancies_MoS2"),
        labels={
            "unmerged_detection_f1": "detection F1, atoms not put together",
            "localisation_bound_angstrom": "joint Cramér-Rao bound, Å",
            "rmse_over_bound": "RMSE over bound",
            "number_exact": "number of missing atoms exact",
        },
    ),
    "super_resolution": Protocol(
        title="Super-resolution, four times finer",
        doses_e_per_a2=(None, 1000.0),
        rule=PromotionRule(
            metric="psnr_db",
            slice="vacancies_0.2|1000",
            tolerance=0.05,
            margin=3.0,
            guarded=("physical_0.2|1000", "physical_0.1|1000", "vacancies_0.2|clean"),
        ),
        score="psnr_db",
        shown_metrics=("psnr_db", "ssim", "frc_mean", "position_rmse_angstrom", "invented_rate", "lost_rate"),
        shown_slices=("physical_0.2", "physical_0.1", "bicubic_0.2", "vacancies_0.2"),
        labels={
            "psnr_db": "PSNR, dB",
            "ssim": "SSIM",
            "frc_mean": "mean ring correlation",
            "position_rmse_angstrom": "position RMSE per axis, Å",
            "invented_rate": "invented columns",
            "lost_rate": "lost columns",
        },
    ),
    "reconstruction": Protocol(
        title="Autoencoders",
        doses_e_per_a2=(None, 1000.0),
        rule=PromotionRule(metric="psnr_db", slice="all|1000", guarded=("all|clean",), tolerance=0.05),
        score="psnr_db",
        shown_metrics=("psnr_db", "ssim", "psnr_short_db", "ssim_short", "probe_accuracy", "probe_accuracy_short"),
        labels={
            "psnr_db": "PSNR, dB",
            "ssim": "SSIM",
            "psnr_short_db": "PSNR of an eighth of the latent, dB",
            "ssim_short": "SSIM of an eighth of the latent",
            "probe_accuracy": "lattice class read from the latent",
            "probe_accuracy_short": "lattice class read from an eighth of the latent",
        },
    ),
    "embedding": Protocol(
        title="Maps of the images",
        doses_e_per_a2=(None, 1000.0),
        score="purity",
        shown_metrics=("purity", "trustworthiness", "silhouette", "purity_shuffled", "purity_source"),
        labels={
            "purity": "neighbours of the same lattice",
            "purity_shuffled": "the same, labels shuffled",
            "purity_source": "neighbours of the same source",
        },
        answers=("evaluation/embeddings",),
    ),
    "defects": Protocol(
        title="Defects of damaged sheets",
        doses_e_per_a2=(None, 1000.0, 300.0, 100.0),
        rule=PromotionRule(metric="f1", slice="all|1000", margin=0.05, guarded=("all|clean", "all|300", "all|100")),
        score="f1",
        shown_metrics=(
            "f1",
            "precision_vacancy",
            "recall_vacancy",
            "precision_substitution",
            "recall_substitution",
            "precision_strain",
            "recall_strain",
            "f1_located",
        ),
        labels={"f1": "F1 of all defects", "f1_located": "F1 of points, kind left open"},
    ),
}
assert set(PROTOCOLS) == set(TASKS)
