"""Pictures of one micrograph's analysis, as PNG bytes.

Belongs here: drawing. As everywhere, x to the right and y downwards; lengths in Å or, uncalibrated, in pixels.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.experiments.analysis import Analysis
from atomvision_ml.experiments.facet_figure import diffractogram, plane_name
from atomvision_ml.experiments.matching import SimulatedMatch
from atomvision_ml.experiments.strain import bend_of_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUPS = ("#ff9f1c", "#2ec4b6", "#e71d73", "#7d5ba6")
_INK, _SOFT, _ACCENT = "#1d2733", "#5c6b7a", "#12747c"
_DPI = 130
_LARGEST_SHOWN_PX = 1024
_MOST_LABELS = 10
_LENGTHS_NM = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


def micrograph_picture(image: ArrayLike, found: Analysis) -> bytes:
    """The image in grey with a scale bar and, about the middle, some cells of the lattice."""
    figure, axis = _image_axis(image, found)
    if found.lattice is not None:
        _draw_lattice(axis, found)
    return _png(figure)


def columns_picture(image: ArrayLike, found: Analysis) -> bytes:
    """The columns over the image, coloured by group of intensity."""
    figure, axis = _image_axis(image, found)
    if found.columns is not None:
        places = found.column_positions
        size = float(np.clip(60 / np.sqrt(max(len(places), 1)), 0.8, 4))
        for group in range(len(found.columns.class_intensities)):
            own = found.columns.classes == group
            axis.plot(*places[own].T, ls="", marker="o", ms=size, mew=0, color=GROUPS[group])
    return _png(figure)


def spots_picture(image: ArrayLike, found: Analysis) -> bytes:
    """The diffractogram with its spots: planes of the phase where they are decided, else indices h k of the lattice."""
    figure, axis = _square()
    picture = diffractogram(found.region.of(np.asarray(image)))
    x, y = _sizes(found)
    low, high = np.percentile(picture, (30, 99.95))
    extent = (-0.5 / x, 0.5 / x, 0.5 / y, -0.5 / y)
    axis.imshow(picture, cmap="magma", vmin=low, vmax=max(high, low + 1e-9), extent=extent, interpolation="nearest")
    frequencies = found.spots.frequencies / (x, y)
    for number, frequency in enumerate(frequencies):
        name, is_known = _spot_name(found, number)
        for sign in (1, -1):
            axis.plot(*(sign * frequency), "o", mfc="none", mec="#7bdff2" if is_known else "#999999", ms=9, mew=1.0)
        if is_known and number < _MOST_LABELS:
            away = 12 * frequency / np.linalg.norm(frequency)
            _label(axis, name, frequency, (float(away[0]), float(-away[1])))
    reach = 1.3 * float(np.linalg.norm(frequencies, axis=1).max(initial=0.0)) or 0.5 / max(x, y)
    axis.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal")
    _named(axis, f"1/{found.unit}", f"1/{found.unit}")
    return _png(figure)


def profile_picture(found: Analysis) -> bytes:
    """Radial mean of the diffractogram; the strongest spots are marked with their spacing."""
    figure, axis = _wide()
    profile = found.profile
    axis.semilogy(profile.frequencies, profile.power_over_noise, color=_ACCENT, lw=1.1)
    axis.axhline(1, color=_SOFT, lw=0.7, ls=":")
    lengths = np.linalg.norm(found.spots.frequencies / _sizes(found), axis=1)
    marked: list[float] = []
    for length in lengths[:12]:
        if all(abs(length / other - 1) > 0.04 for other in marked) and len(marked) < 6:
            marked.append(float(length))
            axis.axvline(length, color="#ff9f1c", lw=0.8)
            axis.annotate(
                f"{1 / length:.2f}",
                (length, 0.97),
                xycoords=("data", "axes fraction"),
                rotation=90,
                va="top",
                ha="right",
                fontsize=7,
                color=_SOFT,
            )
    axis.set_xlim(0, min(float(profile.frequencies[-1]), 1.6 * float(lengths.max(initial=0.0)) or np.inf))
    _named(axis, f"frequency (1/{found.unit}); marks: spacing in {found.unit}", "power over noise")
    return _png(figure)


def intensities_picture(found: Analysis) -> bytes:
    """Histogram of the columns' intensities, by group."""
    figure, axis = _wide()
    columns = found.columns
    if columns is not None and len(columns):
        middle = float(np.median(columns.intensities)) or 1.0
        low, high = np.percentile(columns.intensities, (0.5, 99.5)) / middle
        edges = np.linspace(low, max(high, low + 1e-3), 50)
        parts = [
            columns.intensities[columns.classes == group] / middle for group in range(len(columns.class_intensities))
        ]
        axis.hist(parts, bins=edges.tolist(), stacked=True, color=GROUPS[: len(parts)])
    _named(axis, "integrated intensity over its median", "columns")
    return _png(figure)


def strain_picture(found: Analysis) -> bytes:
    """ε_xx, ε_yy, ε_xy and rotation about the mean lattice, in maps of one scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.15), dpi=_DPI, layout="constrained")
    strain = found.strain
    assert strain is not None
    x, y = _sizes(found)
    extent = (strain.x[0] * x, strain.x[-1] * x, strain.y[-1] * y, strain.y[0] * y)
    known = strain.strain[np.isfinite(strain.strain)]
    limit = float(np.clip(np.quantile(np.abs(known), 0.98) if known.size else 0.01, 1e-3, 0.2))
    maps = (*(100 * strain.strain), strain.rotation_deg)
    limits = (*[100 * limit] * 3, float(np.degrees(limit)))
    for axis, values, name, end in zip(
        figure.subplots(1, 4),
        maps,
        ("ε$_{xx}$ (%)", "ε$_{yy}$ (%)", "ε$_{xy}$ (%)", "rotation (°)"),
        limits,
        strict=True,
    ):
        shown = axis.imshow(values, cmap="RdBu_r", vmin=-end, vmax=end, extent=extent, interpolation="nearest")
        axis.set(xticks=[], yticks=[], facecolor="#e8edf1")
        axis.set_title(name, fontsize=8, color=_INK)
        bar = figure.colorbar(shown, ax=axis, shrink=0.8, pad=0.03)
        bar.ax.tick_params(labelsize=6.5, colors=_SOFT)
    return _png(figure)


def rows_picture(found: Analysis) -> bytes:
    """Mean displacement of each row of the strain map, without its straight part: uneven drift, or a bent crystal."""
    figure, axis = _wide()
    assert found.strain is not None
    x, y = _sizes(found)
    bend = bend_of_rows(found.strain.row_displacement) * np.array([[x], [y]])
    for line, name, colour in zip(bend, ("along x", "along y"), ("#ff9f1c", _ACCENT), strict=True):
        axis.plot(found.strain.y * y, line, color=colour, lw=1.3, label=name)
    axis.axhline(0, color=_SOFT, lw=0.6)
    axis.legend(fontsize=7, frameon=False)
    _named(axis, f"row ({found.unit})", f"displacement ({found.unit})")
    return _png(figure)


def pair_picture(match: SimulatedMatch) -> bytes:
    """A part of the micrograph, the simulation in the same pose, and their difference."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.6), dpi=_DPI)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.91, wspace=0.03)
    parts = (match.measured, match.simulated, match.measured - match.similarity * match.simulated)
    for axis, values, name in zip(figure.subplots(1, 3), parts, ("measured", "simulated", "difference"), strict=True):
        axis.imshow(values, cmap="gray", vmin=-2, vmax=3.5, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_title(name, fontsize=8, color=_INK)
    return _png(figure)


def _spot_name(found: Analysis, number: int) -> tuple[str, bool]:
    """What to write beside a spot, and whether it is explained at all."""
    plane = found.planes.planes[number] if found.planes else None
    if plane is not None and plane.state == "decided" and plane.hkl is not None:
        return plane_name(plane.hkl), True
    if found.lattice is not None and found.lattice.indices[number].any():
        h, k = (int(index) for index in found.lattice.indices[number])
        return f"{h} {k}".replace("-", "−"), True
    return "", False


def _draw_lattice(axis: Axes, found: Analysis) -> None:
    from matplotlib.collections import LineCollection

    assert found.lattice is not None
    x, y = _sizes(found)
    middle = np.array([found.shape[1] * x, found.shape[0] * y]) / 2
    if found.columns is not None and len(found.columns):
        brightest = found.columns.classes == 0
        places = found.column_positions[brightest]
        middle = places[np.argmin(np.linalg.norm(places - middle, axis=1))]
    a, b = found.lattice.cell
    cells = range(-1, 3)
    lines = [[middle + n * a - b, middle + n * a + 2 * b] for n in cells] + [
        [middle + n * b - a, middle + n * b + 2 * a] for n in cells
    ]
    axis.add_collection(LineCollection([np.asarray(line) for line in lines], colors="#ff9f1c", linewidths=0.9))
    for vector in (a, b):
        axis.annotate(
            "",
            xy=tuple(middle + vector),
            xytext=tuple(middle),
            arrowprops={"arrowstyle": "->", "color": "#ff9f1c", "lw": 1.8},
        )


def _image_axis(image: ArrayLike, found: Analysis) -> tuple[Figure, Axes]:
    """The image, thinned to what the picture can show, with a scale bar; axes in Å or px."""
    from matplotlib.figure import Figure

    values = np.asarray(image)
    step = max(1, -(-max(values.shape) // _LARGEST_SHOWN_PX))
    shown = _thinned(values, step)
    x, y = _sizes(found)
    height, width = values.shape
    ratio = float(np.clip(height * y / (width * x), 0.3, 3.0))
    figure = Figure(figsize=(4.2, 4.2 * ratio), dpi=_DPI)
    axis = figure.add_axes((0, 0, 1, 1))
    extent = (-x / 2, (width - 0.5) * x, (height - 0.5) * y, -y / 2)
    low, high = np.quantile(shown, (0.002, 0.998))
    axis.imshow(
        shown, cmap="gray", extent=extent, vmin=low, vmax=max(high, low + 1e-12), interpolation="nearest", aspect="auto"
    )
    axis.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[])
    _scale_bar(axis, extent, found.unit)
    return figure, axis


def _thinned(values: NDArray[Any], step: int) -> NDArray[Any]:
    if step == 1:
        return values
    height, width = (edge // step for edge in values.shape)
    return values[: height * step, : width * step].reshape(height, step, width, step).mean(axis=(1, 3))


def _scale_bar(axis: Axes, extent: tuple[float, float, float, float], unit: str) -> None:
    """A bar of a fifth to a third of the field in a round length."""
    from matplotlib.patches import Rectangle

    width, height = extent[1] - extent[0], extent[2] - extent[3]
    per_unit = 10.0 if unit == "Å" else 1.0
    steps = [length * per_unit for length in _LENGTHS_NM] if unit == "Å" else [float(2**n) for n in range(1, 13)]
    length = max((step for step in steps if step <= width / 3.2), default=width / 4)
    label = _length_name(length) if unit == "Å" else f"{length:g} px"
    left, low = extent[0] + 0.045 * width, extent[2] - 0.045 * height
    box = Rectangle(
        (left - 0.02 * width, low - 0.085 * height),
        length + 0.04 * width,
        0.108 * height,
        color="#000",
        alpha=0.6,
        lw=0,
    )
    axis.add_patch(box)
    axis.add_patch(Rectangle((left, low - 0.012 * height), length, 0.014 * height, color="white", lw=0))
    axis.text(left + length / 2, low - 0.022 * height, label, color="white", ha="center", va="bottom", fontsize=9)


def _length_name(length_angstrom: float) -> str:
    nanometres = length_angstrom / 10
    if nanometres < 1:
        return f"{length_angstrom:g} Å"
    return f"{nanometres:g} nm" if nanometres < 1000 else f"{nanometres / 1000:g} µm"


def _sizes(found: Analysis) -> tuple[float, float]:
    return found.pixel_size_xy_angstrom or (1.0, 1.0)


def _label(axis: Axes, text: str, at: NDArray[Any], offset: tuple[float, float]) -> None:
    from matplotlib.patheffects import withStroke

    axis.annotate(
        text, (float(at[0]), float(at[1])), offset, textcoords="offset points", color="white", fontsize=7.5,
        ha="center", va="center", path_effects=[withStroke(linewidth=2, foreground="black")],
    )  # fmt: skip


def _square() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.2), dpi=_DPI)
    return figure, figure.add_axes((0.13, 0.11, 0.85, 0.87))


def _wide() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.5), dpi=_DPI)
    axis = figure.add_axes((0.14, 0.19, 0.84, 0.77))
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#b8c2cc")
    return figure, axis


def _named(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=8, color=_SOFT)
    axis.set_ylabel(y, fontsize=8, color=_SOFT)
    axis.tick_params(labelsize=7, colors=_SOFT)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
