"""What lattice models say of the demo's inbox drop, with and without its scans' distortion allowed for:
``python -m atomvision_ml.evaluation.drop_study``.

Belongs here: one table in Markdown, for docs. The files are read as the inbox reads them; held out are the samples that
the retraining loop holds out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import polars as pl
import typer

from atomvision_ml.evaluation.adoption import split_of
from atomvision_ml.evaluation.tasks.lattice import sums
from atomvision_ml.models.lattice_classes import SCAN_DISTORTION_PERCENT

if TYPE_CHECKING:
    from atomvision_ml.models.chosen import ChosenModel

Row = dict[str, Any]


def labelled_images(seed: int) -> list[Row]:
    """The drop's labelled images as the readers give them: ``image``, ``pixel_size_angstrom``, ``truth``, ``split``."""
    from atomvision_ml.experiments.capture import capture
    from atomvision_ml.experiments.double import DropParameters, drop
    from atomvision_ml.experiments.worker import FileReader

    rows = []
    with tempfile.TemporaryDirectory() as folder, FileReader() as reader:
        for truth in drop(Path(folder) / "inbox", DropParameters(seed=seed)):
            if not truth.lattice:
                continue
            captured = capture(Path(folder) / "inbox" / truth.name, folder, reader)
            size_nm = captured.records[0].pixel_size_x_nm
            assert size_nm is not None
            known = {"truth": truth.lattice, "split": split_of(truth.sample)}
            rows.append({**known, "image": np.array(captured.pixels[0]), "pixel_size_angstrom": 10 * size_nm})
    return rows


def answers(rows: Iterable[Mapping[str, Any]], model: ChosenModel, scan_distortion_percent: float) -> list[str | None]:
    """The class that a model names in each image; None where it sees no lattice."""
    from atomvision_ml.models.lattice_finder import NoLatticeError

    found: list[str | None] = []
    for row in rows:
        try:
            given = row["image"], row["pixel_size_angstrom"]
            found.append(model(*given, scan_distortion_percent=scan_distortion_percent).lattice)
        except NoLatticeError:
            found.append(None)
    return found


def figures(truth: list[str], said: list[str | None]) -> Mapping[str, float]:
    """Accuracy and macro-F1, as ``evaluation/metrics`` has them."""
    nothing = pl.Series("probabilities", [None] * len(truth), dtype=pl.List(pl.Float64))
    parts, evaluate = sums(pl.DataFrame({"bravais_lattice": truth, "lattice": said}).with_columns(nothing))
    whole = evaluate({name: part.sum(axis=0, keepdims=True) for name, part in parts.items()})
    return {name: float(whole[name][0]) for name in ("accuracy", "macro_f1")}


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Drops, from seed 0, which is the demo's.")] = 1,
    networks: Annotated[bool, typer.Option(help="Ask the released networks too.")] = True,
) -> None:
    """Print how often each model is right, as Markdown."""
    from atomvision_ml.models.checkpoint import find_checkpoint
    from atomvision_ml.models.chosen import ChosenModel
    from atomvision_ml.models.registry import model_spec

    names = ["lattice_finder", *(["lattice_cnn", "lattice_fusion"] if networks else [])]
    folders = {name: None if name == "lattice_finder" else find_checkpoint(name) for name in names}
    typer.echo("| seed | model | allowed for | images | accuracy | macro-F1 | held out | accuracy | macro-F1 |")
    typer.echo("|---|---|---|---|---|---|---|---|---|")
    for seed in range(seeds):
        rows = labelled_images(seed)
        for name in names:
            model = ChosenModel(model_spec(name), folders[name])
            for percent in (0.0, SCAN_DISTORTION_PERCENT) if "scan_distortion_percent" in model.spec.takes else (0.0,):
                said = answers(rows, model, percent)
                typer.echo(f"| {seed} | `{name}` | {percent:g} % {_cells(rows, said)}")


def _cells(rows: list[Row], said: list[str | None]) -> str:
    cells = ""
    for splits in (("train", "val", "test"), ("test",)):
        own = [(row["truth"], answer) for row, answer in zip(rows, said, strict=True) if row["split"] in splits]
        found = figures([truth for truth, _ in own], [answer for _, answer in own])
        cells += f"| {len(own)} | {found['accuracy']:.3f} | {found['macro_f1']:.3f} "
    return cells + "|"


if __name__ == "__main__":
    typer.run(main)
