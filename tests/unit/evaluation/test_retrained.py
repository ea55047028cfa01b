"""A drop on which the model in office errs: trained on it, the new one is right and comes into office."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from atomvision_ml.evaluation.adoption import TASK, AdoptionParameters, adopt, holdout_rows, split_of
from atomvision_ml.evaluation.answers import by_task
from atomvision_ml.evaluation.promotion import Court, champion_rows, verdict_rows
from atomvision_ml.evaluation.tasks.lattice import experimental_answers, predict_by_network, predict_lattice
from atomvision_ml.experiments.micrograph_store import read_image, write_micrograph
from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.models.checkpoint import classical_checkpoint, load_checkpoint, model_row, released_checkpoint
from atomvision_ml.models.lattice_finder import LatticeFinderParameters
from atomvision_ml.models.lattice_fusion import LatticeFusionParameters
from atomvision_ml.models.lattice_fusion_training import train_lattice_fusion

SHEAR = np.array([[1.0, 0.06], [0.0, 1.0]])
"""The scan's axes are not at a right angle: to whoever believes the image, squares and rectangles are oblique."""
CELLS = {"square": np.diag([3.2, 3.2]), "rectangular": np.diag([3.1, 4.6])}
SAMPLES = {split: [f"s{n}" for n in range(40) if split_of(f"s{n}") == split] for split in ("train", "val", "test")}
PARAMETERS = LatticeFusionParameters(
    scenes=10, batch_size=8, epochs=60, patience=60, validation_images=3, learning_rate=1e-2
)


def micrograph(folder: Path, number: int, label: str, sample: str) -> dict[str, Any]:
    """A row of ``experiments/micrographs``; its pixels are in ``folder``."""
    angle = np.deg2rad(13.0 * number)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    crystal = Projection(np.array([[0.0, 0.0]]), np.array([300.0]), CELLS[label] @ turn.T @ SHEAR.T)
    clean = render_batch([crystal], [View(0.15, 128, 0.0)])[0]
    sizes = {"pixel_size_y_nm": 0.015, "pixel_size_x_nm": 0.015}
    pixels = np.random.default_rng(number).poisson(clean * 20 + 3).astype(np.uint16)
    write_micrograph(folder / f"r{number}", pixels, {**sizes, "record_id": f"r{number}"})
    return {
        "day": "2026-11-20", "record_id": f"r{number}", "blob": f"r{number}", "shape_y": 128, "shape_x": 128,
        "is_calibrated": True, **sizes, "sample_id": sample, "label_lattice": label, "original_filename": f"{number}",
    }  # fmt: skip


def test_a_drop_on_which_the_model_in_office_errs_ends_in_a_promotion(small_set: Any, tmp_path: Path) -> None:
    samples = [*SAMPLES["train"][:2], *SAMPLES["val"][:1], *SAMPLES["test"][:2]]
    received = [(label, sample) for sample in samples for label in CELLS]
    drop = [micrograph(tmp_path, number, *each) for number, each in enumerate(received)]
    adoption, taken = adopt(None, pl.DataFrame(drop), date(2026, 11, 21), AdoptionParameters(new_images=len(drop)))
    assert adoption.is_due
    simulated = small_set.training_sets.filter(pl.col("task") == TASK)
    manifest = pl.concat([simulated, pl.DataFrame(taken)], how="diagonal_relaxed")
    rendered = small_set.holdout.filter((pl.col("task") == TASK) & (pl.col("mean_detected_e_per_a2") == 1000))
    received_later = pl.DataFrame(holdout_rows(manifest))

    def open_blob(name: str) -> Path:
        return small_set.folder if name == "small" else tmp_path / name

    checkpoints = {
        "simulated": load_checkpoint(released_checkpoint("lattice_fusion")),
        "retrained": train_lattice_fusion(
            manifest, open_blob, PARAMETERS, cnn=released_checkpoint("lattice_cnn"), scratch=tmp_path / "scratch",
            device="cpu", load_image=read_image,
        ),
        "plain": classical_checkpoint("lattice_finder", LatticeFinderParameters(), tmp_path / "finder"),
    }  # fmt: skip
    former, retrained, finder = (
        model_row(made, version=version, size="demo", blob=str(made.folder)) for version, made in checkpoints.items()
    )
    of_rendered = {
        "lattice_finder": pl.DataFrame(predict_lattice(rendered, simulated, open_blob, model_id=finder["model_id"])),
        "lattice_fusion": pl.concat(
            pl.DataFrame(
                predict_by_network(rendered, open_blob, checkpoint=Path(model["blob"]), model_id=model["model_id"])
            )
            for model in (former, retrained)
        ),
    }
    of_received = experimental_answers([former, retrained, finder], received_later, manifest, open_blob)

    book = verdict_rows([former], [], [], court(of_rendered, rendered))
    assert [row["verdict"] for row in book] == ["promoted"]
    both = pl.concat([rendered, received_later], how="diagonal_relaxed")
    book += verdict_rows(
        [retrained], book, [], court(of_rendered | {"evaluation/experimental_answers": of_received}, both)
    )
    verdict = book[-1]
    assert (verdict["verdict"], verdict["incumbent_id"]) == ("promoted", former["model_id"]), verdict["reason"]
    assert len(verdict["trained_on"]) == 6
    gains = {gain["slice"]: gain["gain"] for gain in verdict["gains"]}
    assert gains.pop("experiment|as_taken") > 0.5
    assert set(gains) == {"unambiguous|1000", "all|1000", "resolvable|1000"}
    assert min(gains.values()) >= 0
    shares = dict(of_received.group_by("model_id").agg(pl.col("is_correct").mean()).iter_rows())
    assert shares[former["model_id"]] < 0.5
    assert shares[retrained["model_id"]] == 1
    (champion,) = champion_rows(book)
    assert (champion["model_id"], champion["is_promoted"]) == (retrained["model_id"], True)


def court(answers: dict[str, pl.DataFrame], holdout: pl.DataFrame) -> Court:
    """What a verdict is reached with; every model has answered every item, so that none is asked again."""
    return Court(
        answers=by_task(answers),
        holdout=holdout,
        at=datetime(2026, 11, 21, tzinfo=UTC),
        incumbent_answers=lambda seat: pl.DataFrame(),
        keep_answers=lambda task, own: f"{own.height} answers",
    )
