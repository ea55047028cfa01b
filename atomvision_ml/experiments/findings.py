"""What the models say of a micrograph, and whether it is like anything that they were trained on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomvision_ml.models.chosen import ChosenModel
from atomvision_ml.models.domain import ATOMIC_PIXELS_ANGSTROM, Domain, check_domain, pixel_size_warning
from atomvision_ml.models.lattice_classes import SCAN_DISTORTION_PERCENT, strains_percent

Row = dict[str, Any]

TASKS_ASKED = ("lattice", "segmentation", "atoms", "defects")
"""Tasks whose answers say something of an experimental image; the others make images of it."""

_LARGEST_PX = 256
_BACKGROUND_DEGREE = 0
"""Detectors have an offset and samples a support. Asking the image whether there is one takes four times as long."""

_UNEVEN = 0.05
_MOST_ATOMS = 4000


def finding_rows(
    micrograph: Mapping[str, Any], image: NDArray[Any], champions: Mapping[str, tuple[str, ChosenModel]]
) -> list[Row]:
    """One row per task: what its champion says of the image's middle, or why it says nothing.

    Args:
        micrograph: a row of ``experiments/micrographs``.
        image: [y, x], finite.
        champions: by task, identifier and model; a task without one gets a row that says so.
    """
    told = {"day": micrograph["day"], "record_id": micrograph["record_id"]}
    unfit = _unfit(micrograph, image)
    if unfit is not None:
        return [{**told, **_silent(task, champions, unfit)} for task in TASKS_ASKED]
    pixel = 10 * float(np.sqrt(micrograph["pixel_size_x_nm"] * micrograph["pixel_size_y_nm"]))
    part = np.asarray(_middle(image), np.float64)
    domain = check_domain(part, pixel)
    return [
        {**told, **_answer(task, champions, part, pixel), **_strange(task, champions, domain, pixel)}
        for task in TASKS_ASKED
    ]


def finding_words(row: Mapping[str, Any]) -> str:
    """A row's answer in words."""
    if row["prediction_json"] is None:
        return str(row["reason"])
    said, doubt = json.loads(row["prediction_json"]), ", unlike the training images" * row["is_out_of_distribution"]
    if row["task"] == "lattice":
        return f"{said['lattice']} ({said['probabilities'][said['lattice']]:.0%}){doubt}"
    if row["task"] == "defects":
        return f"{_counted(said['defects'])} among {said['n_sites']} columns in the middle of the image{doubt}"
    return f"{said['n_atoms']} atoms in the middle of the image{doubt}"


def _counted(defects: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(one["kind"] for one in defects)
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "no defects"


def _unfit(micrograph: Mapping[str, Any], image: NDArray[Any]) -> str | None:
    x, y = micrograph["pixel_size_x_nm"], micrograph["pixel_size_y_nm"]
    if x is None or y is None:
        return "the image is not calibrated"
    if abs(y / x - 1) > _UNEVEN:
        return "its pixels are not square"
    low, high = ATOMIC_PIXELS_ANGSTROM
    if not low <= 10 * x <= high:
        return f"pixels of {10 * x:.3g} Å: models of atoms take {low} to {high} Å"
    return "the image is constant" if np.ptp(image) == 0 else None


def _silent(task: str, champions: Mapping[str, tuple[str, ChosenModel]], reason: str) -> Row:
    model_id, model = champions.get(task, (None, None))
    named = {"task": task, "name": model.name if model else None, "model_id": model_id}
    nothing: Row = {"prediction_json": None, "is_out_of_distribution": None, "typicality": None, "warnings": []}
    return {**named, **nothing, "reason": reason}


def _strange(task: str, champions: Mapping[str, tuple[str, ChosenModel]], domain: Domain, pixel: float) -> Row:
    """What is unusual about the image, and about its pixels to the model that is asked."""
    about_pixels = pixel_size_warning(champions[task][1].name, pixel) if task in champions else None
    warnings = [*domain.warnings, *([] if about_pixels is None else [about_pixels])]
    return {"is_out_of_distribution": bool(warnings), "typicality": domain.typicality, "warnings": warnings}


def _answer(task: str, champions: Mapping[str, tuple[str, ChosenModel]], part: NDArray[Any], pixel: float) -> Row:
    if task not in champions:
        return _silent(task, champions, "no model is in office")
    model_id, model = champions[task]
    try:
        found = model(
            part, pixel, scan_distortion_percent=SCAN_DISTORTION_PERCENT, background_degree=_BACKGROUND_DEGREE
        )
    except ValueError as error:
        return _silent(task, champions, str(error))
    said = json.dumps(_said(task, found), allow_nan=False)
    return {"task": task, "name": model.name, "model_id": model_id, "prediction_json": said, "reason": None}


def _said(task: str, found: Any) -> dict[str, Any]:
    if task == "lattice":
        vectors, errors = (getattr(found, f"{name}_angstrom", None) for name in ("lattice_vectors", "uncertainties"))
        return {
            "lattice": found.lattice,
            "probabilities": {name: float(value) for name, value in found.probabilities.items()},
            "lattice_vectors_angstrom": None if vectors is None else np.asarray(vectors).tolist(),
            "uncertainties_angstrom": None if errors is None else np.asarray(errors).tolist(),
            "strain_percent": strains_percent(vectors),
        }
    if task == "defects":
        return {
            "defects": [asdict(one) for one in found.defects],
            "n_sites": found.n_sites,
            "smallest_change": found.smallest_change,
        }
    every = found.columns if task == "atoms" else found.atoms
    atoms = [{key: round(float(value), 5) for key, value in atom.items()} for atom in every[:_MOST_ATOMS]]
    return {"n_atoms": len(every), "atoms": atoms}


def _middle(image: NDArray[Any]) -> NDArray[Any]:
    top, left = (max(0, (edge - _LARGEST_PX) // 2) for edge in image.shape)
    return image[top : top + _LARGEST_PX, left : left + _LARGEST_PX]
