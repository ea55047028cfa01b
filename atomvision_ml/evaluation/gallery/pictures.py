"""Pictures of the gallery and of asset metadata, as PNG bytes.

Belongs here: drawing. All pictures of an image show it as stored: x to the right, y downwards, the origin in the upper
left corner. Figures are made without pyplot, so nothing global is touched.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PREVIEW_BYTES = 150_000
_EDGE_INCH, _DPI = 3.0, 110
_FOUND, _TRUE = "#ff9f1c", "#2ec4b6"


def preview_grid(images: Sequence[ArrayLike], *, columns: int = 6, edge_px: int = 96) -> bytes:
    """A contact sheet of images, each scaled to its own range; PNG of less than 150 kB.

    Args:
        images: [y, x] arrays of any sizes, at most 60 are shown.
        columns: images in a row.
        edge_px: edge of each in pixels; smaller where the file would become too large.

    Raises:
        ValueError: there is no image.
    """
    from PIL import Image

    if not images:
        raise ValueError("no image to show")
    shown = [np.asarray(image, float) for image in images[:60]]
    columns = min(columns, len(shown))
    while True:
        step = edge_px + 2
        rows = -(-len(shown) // columns)
        sheet = Image.new("L", (columns * step + 2, rows * step + 2), 255)
        for number, values in enumerate(shown):
            tile = Image.fromarray(_to_bytes(values)).resize((edge_px, edge_px), Image.Resampling.BILINEAR)
            sheet.paste(tile, (2 + number % columns * step, 2 + number // columns * step))
        buffer = io.BytesIO()
        sheet.save(buffer, format="PNG", optimize=True)
        if buffer.tell() < PREVIEW_BYTES or edge_px <= 16:
            return buffer.getvalue()
        edge_px = int(edge_px * 0.8)


def structure_picture(atoms: Sequence[Mapping[str, Any]], field_angstrom: float, vectors_angstrom: ArrayLike) -> bytes:
    """Atoms seen from above as circles of covalent radius in the usual colours, in the pose of the image.

    Args:
        atoms: x_angstrom, y_angstrom, atomic_number, as in ``images/stem``.
        field_angstrom: edge of the field.
        vectors_angstrom: primitive vectors (2, 2) rows; one cell is drawn from an atom near the middle.
    """
    from ase.data import chemical_symbols, covalent_radii
    from ase.data.colors import jmol_colors
    from matplotlib.collections import EllipseCollection
    from matplotlib.lines import Line2D

    figure, axis = _canvas(field_angstrom)
    axis.set_facecolor("white")
    numbers = np.array([atom["atomic_number"] for atom in atoms], int)
    xy = np.array([(atom["x_angstrom"], atom["y_angstrom"]) for atom in atoms], float).reshape(-1, 2)
    order = np.argsort(-covalent_radii[numbers], kind="stable")
    widths = 1.1 * covalent_radii[numbers[order]]
    axis.add_collection(
        EllipseCollection(
            widths,
            widths,
            np.zeros(len(order)),
            units="xy",
            offsets=xy[order],
            offset_transform=axis.transData,
            facecolors=jmol_colors[numbers[order]],
            edgecolors="#333333",
            linewidths=0.4,
        )
    )
    if len(xy):
        middle = xy[np.argmin(np.linalg.norm(xy - field_angstrom / 2, axis=1))]
        _draw_cell(axis, middle, np.reshape(vectors_angstrom, (2, 2)), "#d62828")
    handles = [
        Line2D([], [], marker="o", ls="", mfc=jmol_colors[z], mec="#333333", ms=6, label=chemical_symbols[z])
        for z in sorted(set(numbers.tolist()))
    ]
    axis.legend(handles=handles, loc="upper right", fontsize=7, framealpha=0.85, handletextpad=0.1, borderpad=0.3)
    return _png(figure)


def image_picture(image: ArrayLike, pixel_size_angstrom: float, vectors_angstrom: ArrayLike | None = None) -> bytes:
    """The image in grey with a scale bar; with lattice vectors, one cell of them about the middle."""
    values = np.asarray(image, float)
    figure, axis = _canvas(values.shape[1] * pixel_size_angstrom)
    _show(axis, values, pixel_size_angstrom)
    if vectors_angstrom is not None:
        y, x = np.unravel_index(_brightest_near_middle(values, pixel_size_angstrom), values.shape)
        origin = np.array([x, y]) * pixel_size_angstrom
        _draw_cell(axis, origin, np.reshape(vectors_angstrom, (2, 2)), _FOUND)
    _scale_bar(axis, values.shape, pixel_size_angstrom)
    return _png(figure)


def diffractogram_picture(
    image: ArrayLike, pixel_size_angstrom: float, vectors_angstrom: ArrayLike | None = None, limit: float = 1.0
) -> bytes:
    """Modulus of the Fourier transform (Hann window, logarithmic) with axes in 1/Å.

    With lattice vectors, the reflections of that lattice are circled.
    """
    values = np.asarray(image, float)
    window = np.hanning(values.shape[0])[:, None] * np.hanning(values.shape[1])
    padded = [2 * edge for edge in values.shape]
    spectrum = np.abs(np.fft.fftshift(np.fft.fft2((values - values.mean()) * window, padded)))
    frequency = [np.fft.fftshift(np.fft.fftfreq(edge, pixel_size_angstrom)) for edge in padded]
    inside = [np.abs(axis) <= limit for axis in frequency]
    shown = np.log10(1e-9 * spectrum.max() + spectrum[np.ix_(*inside)] + 1e-300)
    figure, axis = _canvas(None)
    low = max(float(np.median(shown)), float(shown.max()) - 3.0)
    extent = (-limit, limit, limit, -limit)
    axis.imshow(shown, cmap="magma", extent=extent, vmin=low, vmax=max(float(shown.max()), low + 1e-6))
    if vectors_angstrom is not None:
        reflections = _reflections(np.reshape(vectors_angstrom, (2, 2)), limit)
        axis.plot(*reflections.T, ls="", marker="o", mfc="none", mec="#7bdff2", ms=8, mew=0.6)
    ticks = np.linspace(-limit, limit, 5)
    axis.set(xlim=(-limit, limit), ylim=(limit, -limit), xticks=ticks, yticks=ticks)
    axis.set_xlabel("1/Å", fontsize=8)
    axis.set_ylabel("1/Å", fontsize=8)
    axis.tick_params(labelsize=7)
    return _png(figure)


def map_picture(values: ArrayLike, pixel_size_angstrom: float, cut_angstrom: float | None = None) -> bytes:
    """A mask or a probability between 0 and 1, in grey, with a scale bar."""
    shown = _cut(np.asarray(values, float), pixel_size_angstrom, cut_angstrom)
    figure, axis = _canvas(shown.shape[1] * pixel_size_angstrom)
    _show(axis, shown, pixel_size_angstrom, 0.0, 1.0)
    _scale_bar(axis, shown.shape, pixel_size_angstrom)
    return _png(figure)


def overlay_picture(
    image: ArrayLike,
    mask: ArrayLike,
    truth: ArrayLike,
    atoms: Sequence[Mapping[str, float]],
    pixel_size_angstrom: float,
    cut_angstrom: float | None = None,
) -> bytes:
    """The image with the edge of the found mask (orange), of the true one (green) and the found atoms (dots)."""
    values = _cut(np.asarray(image, float), pixel_size_angstrom, cut_angstrom)
    figure, axis = _canvas(values.shape[1] * pixel_size_angstrom)
    _show(axis, values, pixel_size_angstrom)
    place = [np.arange(edge) * pixel_size_angstrom for edge in values.shape]
    for edges, color, style in ((truth, _TRUE, "solid"), (mask, _FOUND, "dashed")):
        shown = _cut(np.asarray(edges, float), pixel_size_angstrom, cut_angstrom)
        if 0 < shown.mean() < 1:
            axis.contour(place[1], place[0], shown, levels=[0.5], colors=color, linewidths=1.2, linestyles=style)
    axis.plot(
        [atom["x_angstrom"] for atom in atoms],
        [atom["y_angstrom"] for atom in atoms],
        ls="",
        marker=".",
        ms=4,
        color=_FOUND,
    )
    _scale_bar(axis, values.shape, pixel_size_angstrom)
    return _png(figure)


def defects_picture(
    image: ArrayLike,
    pixel_size_angstrom: float,
    found: Sequence[Mapping[str, Any]],
    truth: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """The image with found defects (orange) in true ones (green, larger): ○ vacancy, □ substitution, dashed: strain.

    Args:
        image: [y, x].
        pixel_size_angstrom: edge of a pixel in Å.
        found, truth: kind, x_angstrom, y_angstrom; a true strained region has its radius_angstrom too.
    """
    from matplotlib.patches import Circle

    values = np.asarray(image, float)
    figure, axis = _canvas(values.shape[1] * pixel_size_angstrom)
    _show(axis, values, pixel_size_angstrom)
    for defects, color, size in ((truth, _TRUE, 13), (found, _FOUND, 8)):
        for defect in defects:
            place = (defect["x_angstrom"], defect["y_angstrom"])
            if defect["kind"] == "strain":
                radius = defect.get("radius_angstrom") or 3.0
                axis.add_patch(Circle(place, radius, fill=False, ec=color, ls="--", lw=1.4))
            else:
                marker = "o" if defect["kind"] == "vacancy" else "s"
                axis.plot(*place, ls="", marker=marker, mfc="none", mec=color, ms=size, mew=1.5)
    _scale_bar(axis, values.shape, pixel_size_angstrom)
    return _png(figure)


def atoms_picture(
    image: ArrayLike,
    found: Sequence[Mapping[str, float]],
    columns_angstrom: ArrayLike,
    pixel_size_angstrom: float,
    cut_angstrom: float | None = None,
) -> bytes:
    """The image with true columns (n, 2) as green rings of 0.3 Å and found ones as orange dots."""
    from matplotlib.collections import EllipseCollection

    values = _cut(np.asarray(image, float), pixel_size_angstrom, cut_angstrom)
    figure, axis = _canvas(values.shape[1] * pixel_size_angstrom)
    _show(axis, values, pixel_size_angstrom)
    true = np.asarray(columns_angstrom, float).reshape(-1, 2)
    widths = np.full(len(true), 0.6)
    rings = EllipseCollection(
        widths,
        widths,
        np.zeros(len(true)),
        units="xy",
        offsets=true,
        offset_transform=axis.transData,
        facecolors="none",
        edgecolors=_TRUE,
    )
    axis.add_collection(rings)
    place = [[atom[name] for atom in found] for name in ("x_angstrom", "y_angstrom")]
    axis.plot(*place, ls="", marker=".", ms=4, color=_FOUND)
    _scale_bar(axis, values.shape, pixel_size_angstrom)
    return _png(figure)


def _canvas(field_angstrom: float | None) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_EDGE_INCH, _EDGE_INCH), dpi=_DPI)
    axis = figure.add_axes((0.0, 0.0, 1.0, 1.0) if field_angstrom is not None else (0.19, 0.14, 0.77, 0.83))
    if field_angstrom is not None:
        axis.set(xlim=(0, field_angstrom), ylim=(field_angstrom, 0), aspect="equal", xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_edgecolor("#999999")
    return figure, axis


def _show(axis: Axes, values: NDArray[Any], pixel: float, low: float | None = None, high: float | None = None) -> None:
    height, width = values.shape
    extent = (-pixel / 2, (width - 0.5) * pixel, (height - 0.5) * pixel, -pixel / 2)
    high = float(np.quantile(values, 0.998)) if high is None else high
    axis.imshow(values, cmap="gray", extent=extent, vmin=low, vmax=high, interpolation="nearest")
    axis.set(xlim=extent[:2], ylim=extent[2:])


def _scale_bar(axis: Axes, shape: tuple[int, ...], pixel: float) -> None:
    """A bar of about a quarter of the field, with its length."""
    from matplotlib.patches import Rectangle

    width, height = shape[1] * pixel, shape[0] * pixel
    length = max((step for step in (1, 2, 5, 10, 20, 50, 100, 200) if step <= width / 3), default=width / 4)
    x, y = 0.05 * width, 0.93 * height
    axis.add_patch(
        Rectangle(
            (x - 0.02 * width, y - 0.075 * height), length + 0.04 * width, 0.12 * height, color="#000000", alpha=0.6
        )
    )
    axis.add_patch(Rectangle((x, y), length, 0.018 * height, color="white"))
    label = f"{length / 10:g} nm" if length >= 10 else f"{length:g} Å"
    axis.text(x + length / 2, y - 0.008 * height, label, color="white", ha="center", va="bottom", fontsize=8)


def _draw_cell(axis: Axes, origin: NDArray[Any], vectors: NDArray[Any], color: str) -> None:
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) @ vectors + origin
    axis.plot(*corners.T, color=color, lw=1.1)
    for vector in vectors:
        axis.annotate(
            "",
            xy=tuple(origin + vector),
            xytext=tuple(origin),
            arrowprops={"arrowstyle": "->", "color": color, "lw": 1.6},
        )


def _brightest_near_middle(values: NDArray[Any], pixel: float) -> int:
    """Flat index of the brightest smoothed pixel within 3 Å of the middle."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(values, 0.4 / pixel)
    y, x = np.indices(values.shape)
    away = np.hypot(y - values.shape[0] / 2, x - values.shape[1] / 2) * pixel > 3
    return int(np.argmax(np.where(away, -np.inf, smooth)))


def _reflections(vectors: NDArray[Any], limit: float) -> NDArray[np.float64]:
    reciprocal = np.linalg.inv(vectors).T
    reach = int(np.ceil(limit * np.linalg.norm(vectors, axis=1).max()))
    index = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2), axis=-1).reshape(-1, 2)
    places = index[(index != 0).any(axis=1)] @ reciprocal
    return places[(np.abs(places) < limit).all(axis=1)]


def _cut(values: NDArray[Any], pixel: float, cut_angstrom: float | None) -> NDArray[Any]:
    edge = min(values.shape) if cut_angstrom is None else min(*values.shape, round(cut_angstrom / pixel))
    return values[:edge, :edge] if cut_angstrom is not None else values


def _to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    return np.round((values - low) / ((high - low) or 1.0) * 255).astype(np.uint8)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
