"""The page of one micrograph: everything that was measured, in one HTML file that needs nothing beside it.

Belongs here: what is said and in which words. Pictures are in :mod:`.micrograph_pictures`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from atomvision_ml.evaluation.gallery import micrograph_pictures as pictures
from atomvision_ml.evaluation.gallery.build import write_page
from atomvision_ml.evaluation.matched_pairs import MaterialMatch
from atomvision_ml.experiments.analysis import Analysis
from atomvision_ml.experiments.record import Record, filler_of, unit_of
from atomvision_ml.structures.lattice import class_strains

Row = dict[str, Any]
Facts = list[tuple[str, str]]

_OF_RECORD = (
    "technique",
    "imaging_mode",
    "instrument_name",
    "acceleration_voltage_kv",
    "detector",
    "magnification",
    "convergence_semi_angle_mrad",
    "collection_inner_mrad",
    "collection_outer_mrad",
    "defocus_nm",
    "beam_current_pa",
    "dwell_time_us",
    "exposure_s",
    "dose_e_per_a2",
    "bias_voltage_v",
    "setpoint_current_a",
    "scan_angle_deg",
    "acquired_at",
    "sample_id",
    "material_formula",
    "phase",
    "licence",
)


def write_micrograph_page(
    path: Path,
    image: ArrayLike,
    found: Analysis,
    *,
    title: str,
    record: Mapping[str, Any] | None = None,
    matches: Sequence[MaterialMatch] = (),
    findings: Sequence[Mapping[str, str]] = (),
    materials_asked: str = "",
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        image: [y, x], as analysed.
        found: what was measured.
        title: name of the image.
        record: values of its record by field, as far as known.
        matches: crystals of its lattice, best first.
        findings: answers of models: ``model``, ``answer``.
        materials_asked: which crystals were asked for, in words.
    """
    write_page(
        path,
        "micrograph.html.j2",
        title=title,
        headline=_headline(found),
        notes=found.notes,
        figures=_figures(image, found),
        metadata=_metadata(found, record or {}),
        warnings=list((record or {}).get("warnings") or ()),
        tables=[
            ("Lattice", _lattice(found)),
            ("Distortion of the scan", _distortion(found)),
            ("Quality", _quality(found)),
        ],
        axes=[_axis(found, number) for number in range(min(len(found.zone_axes), 5))],
        matches=[_match(each) for each in matches],
        findings=findings,
        materials_asked=materials_asked,
    )


def _figures(image: ArrayLike, found: Analysis) -> list[Row]:
    cell = "one lattice cell in nine about the middle" if found.lattice else "no lattice"
    shown = [
        ("Image", f"Image with {cell}.", lambda: pictures.micrograph_picture(image, found)),
        (
            "Diffractogram",
            "Power spectrum (logarithmic, Hann window). Blue: spots with planes (hkl), one choice of equivalent "
            "indices, or with lattice indices h k; grey: spots off the lattice.",
            lambda: pictures.spots_picture(image, found),
        ),
    ]
    if found.columns is not None and len(found.columns):
        kind = "dark" if found.is_dark else "bright"
        text = f"{len(found.columns)} {kind} columns, coloured by intensity."
        shown.append(("Columns", text, lambda: pictures.columns_picture(image, found)))
    shown.append(("Radial profile", "Mean of the diffractogram over rings.", lambda: pictures.profile_picture(found)))
    if found.columns is not None and len(found.columns):
        count = len(found.columns.class_intensities)
        groups = f"{count} groups stand apart" if count > 1 else "one group"
        text = f"Integrated intensities of the columns: {groups}."
        shown.append(("Column intensities", text, lambda: pictures.intensities_picture(found)))
    if found.strain is not None:
        text = "Displacement of rows from a straight line: uneven drift, or a bent crystal."
        shown.append(("Drift within the frame", text, lambda: pictures.rows_picture(found)))
        size = found.strain.resolution_px * (found.pixel_size_xy_angstrom or (1.0,))[0]
        text = (
            f"Strain and rotation against the mean lattice, by geometric phase analysis; resolution {size:.3g} "
            f"{found.unit} (σ), noise of a point {100 * found.strain.strain_sigma:.2g} %. Horizontal bands: lines "
            "of the scan slipped."
        )
        shown.append(("Strain", text, lambda: pictures.strain_picture(found)))
    return [_figure(*each) for each in shown]


def _figure(name: str, caption: str, draw: Callable[[], bytes]) -> Row:
    return {"name": name, "caption": caption, "source": _inline(draw()), "is_wide": name == "Strain"}


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _headline(found: Analysis) -> str:
    if found.lattice is None:
        return "No lattice was found."
    (a, b, angle), _ = found.lattice.parameters
    seen = found.zone_axis.name if found.zone_axis else f"{found.lattice.lattice} lattice"
    return f"{seen}: a = {a:.3f} {found.unit}, b = {b:.3f} {found.unit}, γ = {angle:.2f}°"


def _metadata(found: Analysis, record: Mapping[str, Any]) -> Facts:
    height, width = found.shape
    facts: Facts = [("size", f"{width} × {height} px")]
    if found.pixel_size_xy_angstrom:
        x, y = found.pixel_size_xy_angstrom
        facts.append(("pixel", f"{x:.5g} Å" if abs(x / y - 1) < 1e-6 else f"{x:.5g} × {y:.5g} Å"))
        facts.append(("field", f"{width * x / 10:.4g} × {height * y / 10:.4g} nm"))
    else:
        facts.append(("pixel", "not calibrated"))
    for name in _OF_RECORD:
        value = record.get(name)
        if value is not None:
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            facts.append((_words(name), f"{text} {unit_of(name)}".strip()))
    missing = [name for name in record.get("missing_fields") or () if filler_of(name) != "derived"]
    if missing:
        facts.append(("missing", ", ".join(_words(name) for name in missing)))
    return facts


def _words(name: str) -> str:
    """A field's name without its unit."""
    unit = {"kv": "kV", "mrad": "mrad", "nm": "nm", "pa": "pA", "us": "us", "s": "s", "v": "V", "a": "A", "deg": "deg"}
    stem = name.removesuffix("_e_per_a2")
    head, _, tail = stem.rpartition("_")
    return (head if head and tail in unit and name in Record.model_fields else stem).replace("_", " ")


def _lattice(found: Analysis) -> Facts:
    if found.lattice is None:
        return []
    values, sigmas = found.lattice.parameters
    unit, lattice = found.unit, found.lattice
    facts = [
        (name, f"{value:.{_decimals(sigma)}f} ± {sigma:.{_decimals(sigma)}f} {kind}")
        for name, value, sigma, kind in zip("abγ", values, sigmas, (unit, unit, "°"), strict=True)
    ]
    strain = class_strains(lattice.cell)[lattice.lattice]
    facts.append(("class", f"{lattice.lattice} ({lattice.probabilities[lattice.lattice]:.0%}), {strain:.1%} of strain"))
    n_own = int(lattice.indices.any(axis=1).sum())
    facts.append(("spots", f"{n_own} of {len(found.spots)} on the lattice"))
    facts.append(("their scatter", f"{lattice.scatter_bins:.2g} of 1/field"))
    return facts


def _decimals(sigma: float) -> int:
    return int(np.clip(1 - np.floor(np.log10(max(sigma, 1e-6))), 0, 5))


def _distortion(found: Analysis) -> Facts:
    facts: Facts = []
    if found.distortion is not None:
        one, sigmas = found.distortion, found.distortion.sigmas
        facts.append(("against", found.distortion_reference))
        if found.zone_axis and found.pixel_size_xy_angstrom:
            facts.append(("scale along x", f"{100 * (one.scale_x - 1):+.2f} ± {100 * sigmas[0]:.2f} %"))
            facts.append(("scale along y", f"{100 * (one.scale_y - 1):+.2f} ± {100 * sigmas[1]:.2f} %"))
            true = np.sqrt(np.prod(found.pixel_size_xy_angstrom)) / one.scale
            facts.append(("pixel by the lattice", f"{true:.5g} Å"))
        facts.append(("y scale over x scale", f"{100 * (one.scale_y / one.scale_x - 1):+.2f} %"))
        facts.append(("lean of the slow axis", f"{one.shear_deg:+.2f} ± {sigmas[2]:.2f}°"))
        facts.append(("rotation", f"{one.rotation_deg:.2f}°"))
    facts.append(("jitter of lines", f"{found.line_jitter_px:.2f} px"))
    if found.bend_px is not None:
        facts.append(("largest bend of rows", f"{found.bend_px:.2f} px"))
    if found.frame_drift_px is not None and len(found.frame_drift_px) > 1:
        x, y = found.frame_drift_px[-1]
        facts.append((f"drift over {len(found.frame_drift_px)} frames", f"{x:+.1f}, {y:+.1f} px (x, y)"))
    if found.strain is not None:
        text = ", ".join(f"{100 * value:.2f}" for value in found.strain.spread())
        facts.append(("strain within, xx yy xy", f"{text} %"))
    return facts


def _quality(found: Analysis) -> Facts:
    quality = found.quality
    facts = [
        ("signal over noise", f"{quality.snr:.3g}"),
        ("noise", f"{quality.noise:.3g} (values of the image)"),
        ("focus, rms frequency", f"{quality.focus:.4f} cycles/px"),
        ("anisotropy of the spectrum", f"{quality.astigmatism:.2f}, sharper at {quality.astigmatism_angle_deg:.0f}°"),
        ("saturated pixels", f"{quality.clipped_share:.2%}"),
    ]
    if found.columns is not None and len(found.columns):
        columns, size = found.columns, (found.pixel_size_xy_angstrom or (1.0,))[0]
        facts.append(("width of columns (σ)", f"{columns.sigma * size:.3g} {found.unit}"))
        facts.append(("their elongation", f"{columns.elongation:.0%} at {columns.elongation_deg:.0f}°"))
        middle = float(np.median(columns.position_sigmas)) * size
        facts.append(("uncertainty of a position", f"{middle:.2g} {found.unit}"))
    if found.domain is not None:
        facts.append(("like training images", f"{found.domain.typicality:.2f} (0: unlike all, 1: typical)"))
    return facts


def _axis(found: Analysis, number: int) -> Row:
    axis = found.zone_axes[number]
    return {
        "name": axis.name,
        "probability": axis.probability,
        "cell": " × ".join(f"{length:.3f}" for length in np.linalg.norm(axis.reference, axis=1)),
        "scale": f"{100 * (axis.distortion.scale - 1):+.1f} %",
        "anisotropy": f"{100 * axis.distortion.anisotropy:.1f} %",
    }


def _match(match: MaterialMatch) -> Row:
    simulated = match.simulated
    return {
        "name": match.name,
        "formula": match.formula,
        "source": match.source,
        "scale": f"{100 * (match.scale - 1):+.1f} %",
        "anisotropy": f"{100 * match.anisotropy:.1f} %",
        "similarity": "–" if simulated is None else f"{simulated.similarity:.2f}",
        "picture": None if simulated is None else _inline(pictures.pair_picture(simulated)),
    }
