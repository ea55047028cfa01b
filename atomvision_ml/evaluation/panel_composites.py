"""Composite figures drawn with known panels and scale bars, to measure how they are read back.

Belongs here: what is random of a figure (layout, gutters, letters, pictures, scale bars, compression), drawn from one
generator, so that equal seeds give equal figures. They are stand-ins: real figures are less regular.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.images.stem import Projection, View, render_batch

Box = tuple[int, int, int, int]
Gutter = Literal["white", "black", "hairline", "none"]

_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "STIXGeneralBol")
_VALUES = (0.5, 1, 2, 3, 4, 5, 10, 20, 25, 50, 100, 200, 500)
_UNITS = {"nm": 1.0, "Å": 0.1, "µm": 1e3, "mm": 1e6}
_UNIT_SHARES = (0.62, 0.15, 0.18, 0.05)
_LETTERS = ("{}", "({})", "{})", "{}.")
_MAPS = ("gray", "afmhot", "inferno", "viridis", "copper", "hot")


class CompositeParameters(BaseModel):
    """Ranges from which figures are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    most_panels: int = Field(default=9, ge=1, le=26, description="Most panels of a figure.")
    least_edge_px: int = Field(default=110, ge=64, description="Shortest edge of a panel in px.")
    drawing_share: float = Field(default=0.3, ge=0, le=1, description="Share of plots and schemes among the panels.")
    bar_share: float = Field(default=0.7, ge=0, le=1, description="Share of micrographs with a scale bar.")
    jpeg_share: float = Field(default=0.5, ge=0, le=1, description="Share of figures that went through JPEG.")
    fonts: tuple[str, ...] = Field(default=(), description="Font files; those of matplotlib by default.")


@dataclass(frozen=True)
class TrueBar:
    """A scale bar as drawn: its length in px, its text, what that means in nm (None for reciprocal lengths)."""

    length_px: float
    text: str
    length_nm: float | None


@dataclass(frozen=True)
class TruePanel:
    """A panel as drawn: letter, box in px (right and bottom exclusive), kind of picture, scale bar."""

    label: str
    box: Box
    kind: Literal["micrograph", "drawing"]
    bar: TrueBar | None


@dataclass(frozen=True)
class Composite:
    """A figure uint8 [y, x, 3] with its truth; ``gutter`` says what divides its panels."""

    image: np.ndarray
    panels: tuple[TruePanel, ...]
    gutter: Gutter


def draw_composite(random: np.random.Generator, parameters: CompositeParameters = CompositeParameters()) -> Composite:
    """A composite figure of one to some panels."""
    count = int(random.integers(1, parameters.most_panels + 1))
    gutter: Gutter = str(random.choice(["white", "black", "hairline", "none"], p=[0.62, 0.12, 0.13, 0.13]))  # type: ignore[assignment]
    gap = {
        "white": int(random.integers(4, 30)),
        "black": int(random.integers(3, 14)),
        "hairline": int(random.integers(1, 3)),
    }.get(gutter, 0)
    style = _Style.drawn(random, parameters, gap if gutter == "white" else 0)
    page = 0 if gutter == "black" else 255
    cells = _cells(count, random, parameters.least_edge_px)
    boxes, size = _laid_out(cells, gap, style.margin_px, style.headroom_px)
    canvas = Image.new("RGB", size, (page,) * 3)
    panels = []
    for number, box in enumerate(boxes):
        may_be_drawing = gutter == "white"
        label = "" if count == 1 else chr(ord("a") + number)
        panels.append(_drawn_panel(canvas, box, label, style, may_be_drawing, random, parameters))
    image = np.asarray(canvas)
    if random.random() < 0.3:
        image, panels = _resized(image, panels, float(random.uniform(0.75, 1.4)))
    if random.random() < parameters.jpeg_share:
        image = _compressed(image, int(random.integers(70, 96)))
    return Composite(image, tuple(panels), gutter)


def draw_micrograph(
    random: np.random.Generator, parameters: CompositeParameters = CompositeParameters()
) -> tuple[np.ndarray, TrueBar | None]:
    """One micrograph uint8 [y, x, 3], with or without a scale bar."""
    width, height = (int(each) for each in random.integers(160, 640, 2))
    picture = Image.fromarray(_micrograph(random, height, width))
    bar = _bar(picture, random, parameters) if random.random() < parameters.bar_share else None
    image = np.asarray(picture)
    if random.random() < parameters.jpeg_share:
        image = _compressed(image, int(random.integers(70, 96)))
    return image, bar


@dataclass(frozen=True)
class _Style:
    """What the panels of a figure share."""

    letters: Literal["inside", "outside", "none"]
    pattern: str
    is_upper: bool
    font: ImageFont.FreeTypeFont
    margin_px: int
    headroom_px: int

    @staticmethod
    def drawn(random: np.random.Generator, parameters: CompositeParameters, gap: int) -> _Style:
        letters: Any = "inside" if random.random() < 0.7 or gap < 4 else "outside"
        if random.random() < 0.05:
            letters = "none"
        size = int(random.integers(12, 27))
        headroom = size + int(random.integers(4, 10)) if letters == "outside" else 0
        margin = int(random.integers(0, 20)) if gap else 0
        pattern = str(random.choice(_LETTERS, p=[0.4, 0.45, 0.1, 0.05]))
        return _Style(letters, pattern, bool(random.random() < 0.2), _font(random, parameters, size), margin, headroom)


def _cells(count: int, random: np.random.Generator, least: int) -> list[tuple[float, float, float, float]]:
    """Cells (left, top, right, bottom; one unit is the least edge) in reading order: a grid, or rows of several."""
    if count == 1:
        return [(0, 0, float(random.uniform(2, 5)), float(random.uniform(2, 4)))]
    if count >= 3 and random.random() < 0.2:
        return _beside(count, random)
    divisors = [n for n in range(1, count + 1) if count % n == 0 and n <= 4 and count // n <= 5]
    if divisors and random.random() < 0.6:
        number = int(random.choice(divisors))
        rows = [count // number] * number
    else:
        rows = []
        while sum(rows) < count:
            rows.append(min(int(random.integers(1, 5)), count - sum(rows)))
    width = max(rows) * float(random.uniform(1.2, 2.2))
    is_even = random.random() < 0.5
    cells, top = [], 0.0
    for n in rows:
        shares = np.ones(n) if is_even else random.uniform(1.0, 1.6, n)
        edges = np.concatenate(([0.0], np.cumsum(shares / shares.sum()))) * width
        height = float(random.uniform(1.1, 2.2))
        cells += [(float(a), top, float(b), top + height) for a, b in itertools.pairwise(edges)]
        top += height
    return cells


def _beside(count: int, random: np.random.Generator) -> list[tuple[float, float, float, float]]:
    """A large panel on the left, the others below each other on its right."""
    height = (count - 1) * float(random.uniform(1.05, 1.5))
    width = height * float(random.uniform(0.7, 1.1))
    edges = np.linspace(0, height, count)
    right = width + float(random.uniform(1.2, 2.0))
    return [
        (0, 0, width, height),
        *((width, float(a), right, float(b)) for a, b in itertools.pairwise(edges)),
    ]


def _laid_out(
    cells: Sequence[tuple[float, float, float, float]], gap: int, margin: int, headroom: int
) -> tuple[list[Box], tuple[int, int]]:
    """Boxes in px of the cells, with gaps between them, and the size of the figure (width, height)."""
    unit = min(135.0, 1500 / max(cell[2] for cell in cells), 1800 / max(cell[3] for cell in cells))
    boxes = []
    for left, top, right, bottom in cells:
        x0, y0 = round(left * unit) + (gap if left > 0 else 0), round(top * unit) + (gap if top > 0 else 0) + headroom
        boxes.append((x0 + margin, y0 + margin, round(right * unit) + margin, round(bottom * unit) + margin))
    return boxes, (max(box[2] for box in boxes) + margin, max(box[3] for box in boxes) + margin)


def _drawn_panel(
    canvas: Image.Image,
    box: Box,
    label: str,
    style: _Style,
    may_be_drawing: bool,
    random: np.random.Generator,
    parameters: CompositeParameters,
) -> TruePanel:
    width, height = box[2] - box[0], box[3] - box[1]
    is_drawing = may_be_drawing and random.random() < parameters.drawing_share and min(width, height) >= 130
    bar = None
    if is_drawing:
        picture = Image.fromarray(_drawing(random, height, width))
    else:
        picture = Image.fromarray(_micrograph(random, height, width))
        if label and style.letters == "inside":
            _write_letter(picture, style, label, random)
        if random.random() < parameters.bar_share:
            bar = _bar(picture, random, parameters)
    canvas.paste(picture, box[:2])
    if label and (style.letters == "outside" or (style.letters == "inside" and is_drawing)):
        text = style.pattern.format(label.upper() if style.is_upper else label)
        down = style.headroom_px - 1 if style.headroom_px else -2
        ImageDraw.Draw(canvas).text((box[0] + 1, box[1] - down), text, font=style.font, fill="black")
    if is_drawing:
        box = _inked(canvas, box)
    return TruePanel(label, box, "drawing" if is_drawing else "micrograph", bar)


def _inked(canvas: Image.Image, box: Box) -> Box:
    """A drawing's box without its white margins."""
    ink = np.asarray(canvas.crop(box)).min(axis=-1) < 230
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return (
        box[0] + int(columns[0]), box[1] + int(rows[0]), box[0] + int(columns[-1]) + 1, box[1] + int(rows[-1]) + 1,
    )  # fmt: skip


def _write_letter(picture: Image.Image, style: _Style, label: str, random: np.random.Generator) -> None:
    pen = ImageDraw.Draw(picture)
    text = style.pattern.format(label.upper() if style.is_upper else label)
    place = (int(random.integers(3, 10)), int(random.integers(2, 8)))
    kind = random.random()
    if kind < 0.3:
        left, top, right, bottom = pen.textbbox(place, text, font=style.font)
        pen.rectangle((left - 3, top - 3, right + 3, bottom + 3), fill="white")
        pen.text(place, text, font=style.font, fill="black")
    else:
        pen.text(place, text, font=style.font, fill="white", stroke_width=int(kind < 0.6), stroke_fill="black")


def _bar(picture: Image.Image, random: np.random.Generator, parameters: CompositeParameters) -> TrueBar | None:
    """A scale bar drawn into a micrograph; None where none has room."""
    width, height = picture.size
    value, unit = float(random.choice(_VALUES)), str(random.choice(list(_UNITS), p=_UNIT_SHARES))
    is_reciprocal = random.random() < 0.04
    text = f"{value:g}{' ' if random.random() < 0.8 else ''}{'1/nm' if is_reciprocal else unit}"
    font = _font(random, parameters, int(random.integers(11, max(13, min(34, height // 7)))))
    length, thickness = round(float(random.uniform(0.12, 0.4)) * width), int(random.integers(2, max(4, height // 40)))
    place = str(random.choice(["above", "below", "beside"], p=[0.6, 0.25, 0.15]))
    pen = ImageDraw.Draw(picture)
    x0, y0, x1, y1 = (round(each) for each in pen.textbbox((0, 0), text, font=font))
    wide, tall, space = x1 - x0, y1 - y0, int(random.integers(3, 8))
    block_width = length + wide + space if place == "beside" else max(length, wide)
    block_height = max(thickness, tall) if place == "beside" else thickness + tall + space
    margin = int(random.integers(5, 16))
    if block_width + 2 * margin > width or block_height + 2 * margin > 0.5 * height or length < 16:
        return None
    left = margin if random.random() < 0.5 else width - margin - block_width
    top = height - margin - block_height if random.random() < 0.9 else margin
    bar_left = left if place == "beside" else left + (block_width - length) // 2
    bar_top = {"above": top + tall + space, "below": top, "beside": top + (block_height - thickness) // 2}[place]
    text_left = left + length + space if place == "beside" else left + (block_width - wide) // 2
    text_top = {"above": top, "below": top + thickness + space, "beside": top + (block_height - tall) // 2}[place]
    around = np.asarray(picture)[top : top + block_height, left : left + block_width].mean()
    fill, outline = _pen_colours(random, float(around))
    if outline == "box":
        pen.rectangle(
            (left - 4, top - 4, left + block_width + 3, top + block_height + 3),
            fill="black" if fill == "white" else "white",
        )
    elif outline:
        pen.rectangle((bar_left - 1, bar_top - 1, bar_left + length, bar_top + thickness), fill=outline)
    pen.rectangle((bar_left, bar_top, bar_left + length - 1, bar_top + thickness - 1), fill=fill)
    stroke = {"stroke_width": 1, "stroke_fill": outline} if outline and outline != "box" else {}
    pen.text((text_left - x0, text_top - y0), text, font=font, fill=fill, **stroke)  # type: ignore[arg-type]
    return TrueBar(length, text, None if is_reciprocal else value * _UNITS[unit])


def _pen_colours(random: np.random.Generator, around: float) -> tuple[str, str | None]:
    """Colours of bar and text, and of their outline or the word "box": one that can be seen on the picture."""
    kind = random.random()
    if kind < 0.15:
        return ("white", "box") if random.random() < 0.5 else ("black", "box")
    if kind < 0.35:
        return ("white", "black") if random.random() < 0.7 else ("black", "white")
    if kind < 0.42 and around < 150:
        return "yellow", None
    return ("white", None) if around < 140 else ("black", None)


def _font(random: np.random.Generator, parameters: CompositeParameters, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = parameters.fonts or tuple(str(folder / f"{name}.ttf") for name in _FONTS)
    return ImageFont.truetype(files[int(random.integers(len(files)))], size)


def _resized(image: np.ndarray, panels: list[TruePanel], factor: float) -> tuple[np.ndarray, list[TruePanel]]:
    height, width = image.shape[:2]
    size = (round(width * factor), round(height * factor))
    across, down = size[0] / width, size[1] / height
    pixels = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    moved = []
    for panel in panels:
        left, top, right, bottom = panel.box
        box = (round(left * across), round(top * down), round(right * across), round(bottom * down))
        bar = replace(panel.bar, length_px=panel.bar.length_px * across) if panel.bar else None
        moved.append(replace(panel, box=box, bar=bar))
    return pixels, moved


def _compressed(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def _micrograph(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A picture like a micrograph: uint8 [y, x, 3], in grey or in false colours."""
    kinds: tuple[Callable[..., np.ndarray], ...] = (_lattice, _terraces, _particles, _fringes, _surface, _interface)
    kind = kinds[int(random.choice(len(kinds), p=[0.35, 0.2, 0.15, 0.12, 0.1, 0.08]))]
    picture = kind(random, height, width)
    picture = (picture - picture.min()) / max(float(np.ptp(picture)), 1e-9)
    picture = picture + random.normal(0, float(random.choice([0.0, 0.02, 0.06, 0.12])), picture.shape)
    low, high = random.uniform(0, 0.25), random.uniform(0.65, 1.0)
    grey = np.clip(low + (high - low) * picture, 0, 1)
    if random.random() < 0.25:
        from matplotlib import colormaps

        return np.rint(255 * colormaps[str(random.choice(_MAPS))](grey)[..., :3]).astype(np.uint8)
    return np.repeat(np.rint(255 * grey).astype(np.uint8)[..., None], 3, axis=-1)


def _lattice(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Columns of atoms, as in a STEM image of a layer."""
    a, angle = float(random.uniform(2.5, 5)), float(random.choice([60, 90, 75]))
    vectors = np.array([[a, 0.0], [a * math.cos(math.radians(angle)), a * math.sin(math.radians(angle))]])
    if random.random() < 0.4:
        vectors[0] *= float(random.uniform(1.1, 1.8))
    sites = random.uniform(0, 1, (int(random.integers(1, 4)), 2)) @ vectors
    cell = Projection(sites, random.uniform(0.1, 1, len(sites)), vectors)
    size = max(height, width)
    field = float(random.uniform(15, 60))
    view = View(field / size, size, float(random.uniform(0, 360)))
    return render_batch([cell], [view], sigma_angstrom=float(random.uniform(0.4, 0.8)))[0][:height, :width].astype(
        float
    )


def _terraces(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Steps, corrugation and scan lines, as in an STM image."""
    y, x = np.mgrid[:height, :width]
    angle = random.uniform(0, math.pi)
    along = x * math.cos(angle) + y * math.sin(angle) + 6 * _smooth(random, height, width, 25)
    terrace = np.floor(along / random.uniform(60, 200))
    period = random.uniform(6, 25)
    waves = sum(
        np.cos(2 * math.pi * (x * math.cos(t) + y * math.sin(t)) / period) for t in angle + np.array([0, 2.094, 4.189])
    )
    return terrace + random.uniform(0, 0.15) * waves + random.normal(0, 0.03, (height, 1))


def _particles(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Dark particles on an amorphous support, as in a TEM image."""
    picture = 0.08 * _smooth(random, height, width, 1.5)
    y, x = np.mgrid[:height, :width]
    for _ in range(int(random.integers(3, 25))):
        radius = random.uniform(0.02, 0.1) * min(height, width)
        distance = np.hypot(x - random.uniform(0, width), y - random.uniform(0, height))
        picture = picture - random.uniform(0.3, 0.8) / (1 + np.exp(np.minimum(distance - radius, 100) / 1.5))
    return picture


def _fringes(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Lattice fringes with changing contrast, as in an HRTEM image."""
    y, x = np.mgrid[:height, :width]
    picture = np.zeros((height, width))
    for angle in random.uniform(0, math.pi, int(random.integers(1, 4))):
        phase = 2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / random.uniform(6, 20)
        picture += np.cos(phase) * (1 + 0.5 * _smooth(random, height, width, 40))
    return picture


def _surface(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Grains with bright edges, as in an SEM image."""
    relief = _smooth(random, height, width, float(random.uniform(4, 15)))
    return np.hypot(*np.gradient(relief)) * 4 + 0.3 * relief


def _interface(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A layer between two others, with straight borders."""
    rows = np.arange(height)[:, None] / height
    low, high = sorted(random.uniform(0.2, 0.8, 2))
    picture = np.where(
        rows < low, random.uniform(0, 0.4), np.where(rows < high, random.uniform(0.5, 1), random.uniform(0, 0.4))
    )
    return picture + 0.1 * _lattice_like(random, height, width)


def _lattice_like(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    picture = _lattice(random, height, width)
    return picture / picture.max()


def _smooth(random: np.random.Generator, height: int, width: int, sigma: float) -> np.ndarray:
    """Noise smoothed over some px, with unit variance."""
    from scipy import ndimage

    step = max(1, int(sigma / 4))
    small = ndimage.gaussian_filter(random.normal(size=(height // step + 2, width // step + 2)), sigma / step)
    noise = ndimage.zoom(small, step, order=1)[:height, :width]
    return noise / max(float(noise.std()), 1e-9)


def _drawing(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A plot with axes, or a scheme: uint8 [y, x, 3] on white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.2, 0.22, 0.75, 0.7))
    kind = str(random.choice(["lines", "points", "bars", "map", "scheme"], p=[0.4, 0.2, 0.12, 0.1, 0.18]))
    x = np.linspace(0, 10, 60)
    if kind == "lines":
        for _ in range(int(random.integers(1, 5))):
            axes.plot(x, np.exp(-(((x - random.uniform(1, 9)) / random.uniform(0.3, 2)) ** 2)) + random.uniform(0, 0.5))
    elif kind == "points":
        axes.plot(random.normal(size=40), random.normal(size=40), "o", ms=3)
    elif kind == "bars":
        axes.bar(range(6), random.uniform(0.2, 1, 6))
    elif kind == "map":
        axes.imshow(_smooth(random, 50, 60, 6), aspect="auto")
    else:
        axes.axis("off")
        for _ in range(int(random.integers(4, 12))):
            axes.add_artist(_circle(random))
        axes.annotate("", (0.9, 0.5), (0.1, 0.5), arrowprops={"arrowstyle": "->"})
    if kind != "scheme":
        axes.tick_params(labelsize=7)
        axes.set_xlabel("Energy (eV)", fontsize=8)
        axes.set_ylabel("Counts", fontsize=8)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:height, :width, :3].copy()


def _circle(random: np.random.Generator) -> Any:
    from matplotlib.patches import Circle

    return Circle(
        tuple(random.uniform(0.15, 0.85, 2)), float(random.uniform(0.04, 0.12)), color=tuple(random.uniform(0, 1, 3))
    )
