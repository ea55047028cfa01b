"""Lattices whose centring a single atom breaks: the fused model against the lattice finder where the finder errs.

Belongs here: the sample and the paired difference. Real structures of the test split are put into new lattices and
made superlattices of two to four cells that one atom breaks; on the frozen hold-out the finder errs too rarely to be
told from any other model. Run as a module::

    ATOMVISION_ROOT=… python -m atomvision_ml.evaluation.pseudo_centred --scenes 600
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from atomvision_ml.evaluation.metrics import paired_difference

if TYPE_CHECKING:
    from atomvision_ml.evaluation.holdout import OpenBlob

_CHUNK = 20


def pseudo_centred_features(
    rows: list[dict[str, Any]], open_blob: OpenBlob, *, checkpoint: str | Path = "lattice_fusion", scenes: int = 600
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:
    """Broken superlattices at 100 to 1000 e/Å², all five classes equally often.

    Args:
        rows: items of ``models/training_sets`` of the task ``lattice`` whose structures are used.
        open_blob: local folder of a blob.
        checkpoint: folder or name of the fused model.
        scenes: how many.

    Returns:
        The finder's evidence (n, 33), logits of the fused model (n, 5) and class numbers (n,).
    """
    from atomvision_ml.images.scenes import SceneLibrary
    from atomvision_ml.models.checkpoint import find_checkpoint
    from atomvision_ml.models.lattice_cnn_training import balanced_classes, class_numbers
    from atomvision_ml.models.lattice_fusion import (
        LatticeFusionParameters,
        evidence_features,
        examined,
        load_lattice_fusion,
    )
    from atomvision_ml.models.lattice_inputs import field_of_view
    from atomvision_ml.models.lattice_scenes import LatticeLibrary, draw_lattice_scenes
    from atomvision_ml.models.training import stable_seed

    fused = load_lattice_fusion(find_checkpoint(checkpoint))
    folders = {blob: open_blob(blob) for blob in sorted({row["blob"] for row in rows})}
    library = LatticeLibrary(SceneLibrary(rows, folders.__getitem__))
    parameters = LatticeFusionParameters(
        natural_fraction=0, pseudo_centred_fraction=1, clean_fraction=0, minimum_e_per_a2=100, maximum_e_per_a2=1000
    )
    parts = []
    for start in range(0, scenes, _CHUNK):
        random = np.random.default_rng(stable_seed("pseudo-centred", start))
        lattices = balanced_classes(min(_CHUNK, scenes - start), random)
        drawn, _ = draw_lattice_scenes(library, lattices, parameters, random)
        images = [(scene.seen[0], scene.pixel_size_angstrom) for scene in drawn]
        evidence = np.stack([evidence_features(examined(*image)) for image in images])
        logits = fused.logits([field_of_view(*image) for image in images], evidence)
        parts.append((evidence, logits, class_numbers(lattices)))
    evidence, logits, truth = (np.concatenate(each) for each in zip(*parts, strict=True))
    return evidence, logits, truth


def head_room(evidence: NDArray[np.float32], truth: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a logistic regression on the evidence, cross-validated on this sample itself, reads each scene right.

    It says what the evidence holds, and is no model: it knows that every scene here is a broken superlattice.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=2000))
    return np.asarray(cross_val_predict(model, evidence, truth, cv=10) == truth)


def paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, float]:
    """Accuracies, how often only one is right, and the difference with its bootstrap interval over scenes."""
    difference, low, high = paired_difference(first.tolist(), second.tolist(), [str(n) for n in range(len(first))])
    return {
        "n": len(first),
        "accuracy": round(float(first.mean()), 4),
        "rival": round(float(second.mean()), 4),
        "only_this": int((first & ~second).sum()),
        "only_rival": int((second & ~first).sum()),
        "difference": round(difference, 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def main(
    scenes: Annotated[int, typer.Option(min=20, help="Scenes.")] = 600,
    model: Annotated[str, typer.Option(help="Name or checkpoint folder of the fused model.")] = "lattice_fusion",
) -> None:
    """Print accuracy of finder and fused model, and what a reader of the same evidence could reach."""
    import polars as pl

    from atomvision_ml.storage.keys import MODELS_TRAINING_SETS
    from atomvision_ml.storage.lake import Lake

    lake = Lake.from_settings()
    rows = lake.scan(MODELS_TRAINING_SETS, "lattice").filter(pl.col("split") == "test").collect().to_dicts()
    evidence, logits, truth = pseudo_centred_features(rows, lake.blob, checkpoint=model, scenes=scenes)
    finder = evidence[:, :5].any(axis=1) & (evidence[:, :5].argmax(axis=1) == truth)
    for name, right in (("fused", logits.argmax(axis=1) == truth), ("head room", head_room(evidence, truth))):
        typer.echo(f"{name} against the finder: {paired(right, finder)}")


if __name__ == "__main__":
    typer.run(main)
