"""Rows of ``experiments/facets``: the spots of each micrograph and the planes that they are.

Belongs here: which phases an image is asked for, and which images can show lattice planes at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from atomvision_ml.experiments.diffraction_spots import SpotParameters, Spots, find_crystalline_region
from atomvision_ml.experiments.facet_hypotheses import FacetParameters
from atomvision_ml.experiments.facets import FacetAssignment, SpotPlane, assign_facets
from atomvision_ml.experiments.reference_phases import ReferencePhase, named_phases, reference_phases

Row = dict[str, Any]

TECHNIQUES = ("TEM", "HRTEM", "STEM", None)
"""What can show fringes of lattice planes: the others show surfaces, or the diffraction itself."""

_SMALLEST_SIDE_PX = 32
_SURE = 0.99


class FacetRowParameters(FacetParameters):
    """How spots are found and planes decided; flat."""

    threshold: float = Field(default=25.0, gt=1, description="Least power over noise of a spot.")
    most_spots: int = Field(default=24, ge=1, le=256, description="Most spots of an image, the strongest.")


def declared_phases(micrograph: Mapping[str, Any], known: Mapping[str, ReferencePhase]) -> list[ReferencePhase] | None:
    """The references that a record's phase or formula names; all if it names none, None if it names another substance.

    The references that it names are those of :func:`named_phases`.
    """
    if named := named_phases(micrograph, known):
        return list(named)
    return None if micrograph.get("phase") or micrograph.get("material_formula") else list(known.values())


def facet_rows(
    micrograph: Mapping[str, Any], image: np.ndarray, parameters: FacetRowParameters | None = None
) -> tuple[list[Row], Spots | None, FacetAssignment | None]:
    """Rows of one micrograph, one for each spot; a single row without a spot where there is none, with the reason.

    Args:
        micrograph: row of ``experiments/micrographs``.
        image: [y, x], finite.
        parameters: how to decide; None for the defaults.

    Returns:
        The rows; spots and planes for a picture, None where they were not looked for.
    """
    chosen = parameters or FacetRowParameters()
    about = {"day": micrograph["day"], "record_id": micrograph["record_id"]}
    if micrograph["technique"] not in TECHNIQUES:
        return (
            [{**about, "state": "undecided", "reason": f"{micrograph['technique']} shows no lattice fringes"}],
            None,
            None,
        )
    if min(image.shape) < _SMALLEST_SIDE_PX:
        return (
            [{**about, "state": "undecided", "reason": f"a side has less than {_SMALLEST_SIDE_PX} pixels"}],
            None,
            None,
        )
    spots = find_crystalline_region(image, SpotParameters(threshold=chosen.threshold, most_spots=chosen.most_spots))
    if not len(spots):
        return [{**about, "state": "undecided", "reason": "no spots above the noise"}], spots, None
    spots, pixel_size = _calibrated(spots, micrograph)
    known = reference_phases()
    candidates = declared_phases(micrograph, known)
    about |= {
        "is_calibrated": pixel_size is not None,
        "is_phase_declared": candidates is not None and len(candidates) == 1,
    }
    about |= {f"region_{name}": value for name, value in vars(spots.region).items()}
    found = None if candidates is None else assign_facets(spots, pixel_size, candidates, chosen)
    reason = (
        f"no reference phase for {micrograph['phase'] or micrograph['material_formula']}" if found is None else None
    )
    rows = []
    for number in range(len(spots)):
        row = {**about, **_of_spot(spots, number, pixel_size)}
        if found is None:
            row |= {"state": "undecided", "reason": reason}
        else:
            row |= _of_plane(found.planes[number], found)
        rows.append(row)
    return rows, spots, found


def _calibrated(spots: Spots, micrograph: Mapping[str, Any]) -> tuple[Spots, float | None]:
    """Spots as of square pixels, and the edge of these in Å; None if the image is not calibrated."""
    along_y, along_x = micrograph["pixel_size_y_nm"], micrograph["pixel_size_x_nm"]
    if along_x is None or along_y is None:
        return spots, None
    stretch = np.array([1.0, along_x / along_y])
    covariances = spots.covariances * np.outer(stretch, stretch)
    return replace(spots, frequencies=spots.frequencies * stretch, covariances=covariances), 10 * along_x


def _of_spot(spots: Spots, number: int, pixel_size_angstrom: float | None) -> Row:
    x, y = spots.frequencies[number]
    row = {"spot": number + 1, "frequency_x": float(x), "frequency_y": float(y), "snr": float(spots.snr[number])}
    if pixel_size_angstrom is not None:
        spacings, sigmas = spots.d_spacings(pixel_size_angstrom / 10)
        row |= {"d_nm": float(spacings[number]), "d_uncertainty_nm": float(sigmas[number])}
    return row


def _of_plane(plane: SpotPlane, found: FacetAssignment) -> Row:
    named = [{"phase": phase, "family": family, "probability": share} for phase, family, share in plane.candidates]
    return {
        "state": plane.state,
        "reason": None if plane.state == "decided" else _why(plane, found.scale),
        "phase": plane.phase,
        "hkl": None if plane.hkl is None else list(plane.hkl),
        "family": None if plane.family is None else list(plane.family),
        "probability": plane.probability,
        "candidates_json": json.dumps(named),
        "zone_axis_uvw": None if found.zone_axis is None else list(found.zone_axis),
        "zone_probability": None if found.zone_axis is None else found.zone_probability,
        "scale": found.scale if plane.phase else None,
    }


def _why(plane: SpotPlane, scale: float | None) -> str:
    if plane.family and plane.probability > _SURE and scale:
        return f"fits only at a scale of {scale:.3f}, which the calibration excludes"
    if plane.state == "unexplained":
        return "no plane of the phases is near"
    if not plane.candidates:
        return "near no plane of the phases, but not surely none"
    names = (f"{phase} {''.join(map(str, family))} ({share:.2f})" for phase, family, share in plane.candidates[:3])
    return f"between {', '.join(names)}"
