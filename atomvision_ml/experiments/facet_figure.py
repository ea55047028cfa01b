"""Pictures of assigned planes, like Fig. 11 of the AtomVision paper: image, magnified part, diffractogram with indices.

Belongs here: drawing. ``draw_indexed_spots`` draws into any axes; ``draw_facets`` the whole picture.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.experiments.diffraction_spots import Spots
from atomvision_ml.experiments.facet_hypotheses import Plane
from atomvision_ml.experiments.facets import FacetAssignment, SpotPlane
from atomvision_ml.images.preprocess import detrend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

COLOURS = {"decided": "#7dff7d", "undecided": "#ffb14d", "unexplained": "#b0b0b0"}
_MOST_LABELS = 8
_SIZE_INCH = (10.5, 4.4)
_BAR_SHARE = 0.3


def plane_name(plane: Plane, brackets: str = "()") -> str:
    """Indices as crystallographers write them: ``(1̄11)``, a bar above a negative index."""
    return brackets[0] + "".join(f"{abs(index)}" + ("̄" if index < 0 else "") for index in plane) + brackets[1]


def diffractogram(image: ArrayLike) -> NDArray[np.float64]:
    """Logarithm of the power spectrum [ky, kx] with zero frequency in the middle, under a Hann window."""
    flat = detrend(image)
    window = np.outer(np.hanning(flat.shape[0] + 2)[1:-1], np.hanning(flat.shape[1] + 2)[1:-1])
    power = np.abs(np.fft.fftshift(np.fft.fft2(flat * window))) ** 2
    return np.asarray(np.log10(power + 1e-12 * power.max() + np.finfo(float).tiny))


def draw_indexed_spots(
    axes: Axes, image: ArrayLike, spots: Spots, found: FacetAssignment | None, pixel_size_angstrom: float | None
) -> None:
    """Diffractogram with circled spots; those of known plane carry indices and spacing.

    Args:
        axes: where to draw; its axes become 1/Å (or 1/px).
        image: [y, x], the whole image; the spots know their region.
        spots: as found in it.
        found: their planes; None to circle the spots only.
        pixel_size_angstrom: edge of a pixel in Å; None if not calibrated.
    """
    picture = diffractogram(spots.region.of(np.asarray(image)))
    unit = 1.0 / (pixel_size_angstrom or 1.0)
    low, high = np.percentile(picture, (30, 99.9))
    half_x, half_y = 0.5 / picture.shape[1], 0.5 / picture.shape[0]
    extent = (unit * (-0.5 - half_x), unit * (0.5 - half_x), unit * (0.5 - half_y), unit * (-0.5 - half_y))
    axes.imshow(picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-9), extent=extent, interpolation="nearest")
    planes = found.planes if found else (None,) * len(spots)
    for number, (frequency, plane) in enumerate(zip(spots.frequencies * unit, planes, strict=True)):
        _draw_spot(axes, frequency, plane, is_labelled=number < _MOST_LABELS)
    reach = 1.25 * float(np.linalg.norm(spots.frequencies, axis=1).max(initial=0.2)) * unit
    axes.set(xlim=(-reach, reach), ylim=(reach, -reach), xlabel="1/Å" if pixel_size_angstrom else "1/px")


def _draw_spot(axes: Axes, frequency: NDArray[np.float64], plane: SpotPlane | None, *, is_labelled: bool) -> None:
    colour = COLOURS[plane.state] if plane else "#8fd3ff"
    for x, y in (frequency, -frequency):
        axes.plot(x, y, "o", mfc="none", mec=colour, ms=9, mew=1.2)
    if plane is None or plane.hkl is None or not is_labelled:
        return
    from matplotlib.patheffects import withStroke

    text = plane_name(plane.hkl) + ("" if plane.state == "decided" else "?")
    x, y = frequency.tolist()
    step = 13 / math.hypot(x, y)
    axes.annotate(
        text,
        (x, y),
        (step * x, -step * y),
        textcoords="offset points",
        color=colour,
        fontsize=8,
        weight="bold",
        ha="left",
        va="center",
        path_effects=[withStroke(linewidth=2, foreground="black")],
    )


def draw_facets(
    figure: Figure | SubFigure,
    image: ArrayLike,
    spots: Spots,
    found: FacetAssignment,
    pixel_size_angstrom: float | None,
    title: str = "",
) -> None:
    """Three panels: image with the region dashed, the region magnified, its diffractogram; below the planes in words.

    Args:
        figure: where to draw.
        image: [y, x].
        spots: of the image or of a region.
        found: their planes.
        pixel_size_angstrom: edge of a pixel in Å; None if not calibrated.
        title: above all; phase and zone axis if empty.
    """
    from matplotlib.patches import Rectangle

    values = np.asarray(image, dtype=float)
    whole, part, spectrum = figure.subplots(1, 3)
    region = spots.region
    for axes, shown in ((whole, values), (part, region.of(values))):
        axes.imshow(shown, cmap="gray", vmin=np.percentile(shown, 0.5), vmax=np.percentile(shown, 99.5))
        axes.set_axis_off()
        if pixel_size_angstrom:
            _draw_bar(axes, shown.shape, pixel_size_angstrom)
    corner = (region.x_px - 0.5, region.y_px - 0.5)
    whole.add_patch(Rectangle(corner, region.width_px, region.height_px, fill=False, ec="white", ls="--", lw=1.5))
    draw_indexed_spots(spectrum, values, spots, found, pixel_size_angstrom)
    figure.suptitle(title or _headline(found), fontsize=11)
    figure.supxlabel("   ".join(_sentences(found, pixel_size_angstrom is not None)), fontsize=8)


def facet_png(
    image: ArrayLike, spots: Spots, found: FacetAssignment, pixel_size_angstrom: float | None, title: str = ""
) -> bytes:
    """:func:`draw_facets` as a PNG of its own."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCH, dpi=90, layout="constrained")
    draw_facets(figure, image, spots, found, pixel_size_angstrom, title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _headline(found: FacetAssignment) -> str:
    if found.phase is None:
        return "no reference phase explains the spots" if found.planes else "no spots"
    zone = "" if found.zone_axis is None else f" along {plane_name(found.zone_axis, '[]')}"
    return f"{found.phase}{zone} ({found.phase_probability:.2f})"


def _sentences(found: FacetAssignment, is_calibrated: bool) -> list[str]:
    """Spacing and plane of each spot that has one, equal families once."""
    unit = "Å" if is_calibrated else "px"
    seen: dict[tuple[str | None, Plane | None], str] = {}
    for plane in found.planes:
        if plane.hkl is not None and plane.family is not None:
            verdict = "" if plane.state == "decided" else f", undecided {plane.probability:.2f}"
            text = f"{plane_name(plane.family, '{}')} {plane.d_angstrom:.3f}({plane.d_uncertainty:.3f}) {unit}{verdict}"
            seen.setdefault((plane.phase, plane.family), text)
    return list(seen.values())[:6]


def _draw_bar(axes: Axes, shape: tuple[int, ...], pixel_size_angstrom: float) -> None:
    """A scale bar of 1, 2 or 5 times a power of ten, at most 30 % of the width."""
    longest_nm = _BAR_SHARE * shape[1] * pixel_size_angstrom / 10
    power = 10 ** math.floor(math.log10(longest_nm))
    length_nm = max(step * power for step in (1, 2, 5) if step * power <= longest_nm)
    x, y = 0.05 * shape[1], 0.94 * shape[0]
    axes.plot([x, x + 10 * length_nm / pixel_size_angstrom], [y, y], color="white", lw=4, solid_capstyle="butt")
    axes.text(x, y - 0.02 * shape[0], f"{length_nm:g} nm", color="white", fontsize=9, va="bottom")
