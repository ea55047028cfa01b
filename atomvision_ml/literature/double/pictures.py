"""Pictures of the authored corpus: simulated micrographs, patterns, plots and sketches.

Belongs here: what one panel shows. All micrographs are simulated, and none shows a measured sample: STEM images of the
embedded prototypes in the convolution approximation, sums of Gaussians with steps for STM, crossed lattice waves for
HRTEM, discs and spots for the rest. Letters, scale bars and the arrangement of panels are in
:mod:`atomvision_ml.literature.double.plates`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from atomvision_ml.images.stem import render
from atomvision_ml.structures.prototypes import prototype

Picture = Callable[..., np.ndarray]


def draw(kind: str, edge_px: int, seed: int, parameters: dict[str, Any]) -> np.ndarray:
    """One panel.

    Args:
        kind: name of a picture in :data:`PICTURES`.
        edge_px: edge of the square panel in px.
        seed: seed of all that is random in it.
        parameters: keyword arguments of the picture; ``field_nm`` is the edge of its field of view.

    Returns:
        (edge_px, edge_px, 3) uint8 array [y, x, colour].

    Raises:
        KeyError: no such picture.
    """
    return PICTURES[kind](edge_px, np.random.default_rng(seed), **parameters)


def stem(
    edge_px: int,
    rng: np.random.Generator,
    of: str,
    field_nm: float = 4.0,
    vacancies: int = 0,
    dose: float = 3000.0,
    haze: float = 0.0,
    inverted: bool = False,
    colours: str = "gray",
) -> np.ndarray:
    """STEM image of an embedded prototype; ``haze`` adds smooth contamination, ``inverted`` a bright-field contrast."""
    pixel_angstrom = 10 * field_nm / edge_px
    atoms = prototype(of)
    turn = float(rng.uniform(0, 360))
    if vacancies:
        repeats = [math.ceil(15 * field_nm / length) + 1 for length in atoms.cell.lengths()[:2]]
        atoms = atoms.repeat((*repeats, 1))
        centre = atoms.positions[:, :2].mean(axis=0)
        near = np.flatnonzero(np.hypot(*(atoms.positions[:, :2] - centre).T) < 4.5 * field_nm)
        gone = rng.choice(near, size=min(vacancies, len(near)), replace=False)
        atoms.positions[:, :2] -= centre
        atoms.pbc = (False, False, False)
        del atoms[gone.tolist()]
    shift = (5 * field_nm, 5 * field_nm)
    image = render(
        atoms,
        pixel_size_angstrom=pixel_angstrom,
        size=edge_px,
        sigma_angstrom=max(0.5, 0.9 * pixel_angstrom),
        rotation_deg=turn,
        shift_angstrom=shift,
        mean_detected_e_per_a2=dose,
        seed=int(rng.integers(2**31)),
    ).astype(float)
    image = image / np.quantile(image, 0.999) + haze * _clouds(edge_px, rng, 0.3)
    return _coloured(-image if inverted else image, colours)


def stm(
    edge_px: int,
    rng: np.random.Generator,
    field_nm: float = 8.0,
    a_nm: float = 0.3,
    b_nm: float | None = None,
    gamma_deg: float = 60.0,
    steps: int = 0,
    adatoms: int = 0,
    pits: int = 0,
    waves: float = 0.0,
    modulation_nm: float = 0.0,
    noise: float = 0.06,
    colours: str = "afmhot",
) -> np.ndarray:
    """STM topograph: a lattice of Gaussian corrugation, steps, adatoms and pits, standing waves, streaks."""
    x, y = _grid_nm(edge_px, field_nm)
    turn = float(rng.uniform(0, math.pi))
    height = _lattice(x, y, a_nm, b_nm or a_nm, math.radians(gamma_deg), turn)
    if modulation_nm:
        height += 0.6 * _lattice(x, y, modulation_nm, modulation_nm, math.radians(gamma_deg), turn + 0.3)
    if steps:
        across = (
            x * math.cos(turn + 0.4) + y * math.sin(turn + 0.4) + 0.05 * field_nm * (_clouds(edge_px, rng, 0.2) - 0.5)
        )
        edges = np.sort(rng.uniform(across.min(), across.max(), steps))
        height += 1.2 * (across[..., None] > edges).sum(axis=-1)
    places = rng.uniform(0.08, 0.92, (adatoms + pits, 2)) * field_nm
    for number, (px, py) in enumerate(places):
        distance = np.hypot(x - px, y - py)
        sign = 1.0 if number < adatoms else -1.0
        height += sign * 3.0 * np.exp(-((distance / (0.8 * a_nm)) ** 2))
        if waves:
            decay = np.exp(-distance / (0.35 * field_nm))
            height += 1.3 * np.cos(2 * math.pi * distance / waves) * decay / (1 + distance / waves)
    streaks = 0.15 * rng.normal(size=(edge_px, 1))
    return _coloured(height + streaks + noise * 4 * rng.normal(size=height.shape), colours)


def molecules(
    edge_px: int,
    rng: np.random.Generator,
    field_nm: float = 15.0,
    period_nm: float = 1.4,
    lobes: int = 4,
    coverage: float = 0.8,
    colours: str = "copper",
) -> np.ndarray:
    """STM topograph of lobed molecules on a lattice, of which a part is empty."""
    x, y = _grid_nm(edge_px, field_nm)
    height = np.zeros_like(x)
    turn = float(rng.uniform(0, math.pi / 2))
    count = int(field_nm / period_nm) + 2
    for i in range(-count, count):
        for j in range(-count, count):
            if rng.random() > coverage:
                continue
            cx = field_nm / 2 + period_nm * (i * math.cos(turn) - j * math.sin(turn))
            cy = field_nm / 2 + period_nm * (i * math.sin(turn) + j * math.cos(turn))
            for lobe in range(lobes):
                angle = turn + 0.4 + 2 * math.pi * lobe / lobes
                lx, ly = cx + 0.25 * period_nm * math.cos(angle), cy + 0.25 * period_nm * math.sin(angle)
                height += np.exp(-(((x - lx) ** 2 + (y - ly) ** 2) / (0.16 * period_nm) ** 2))
    return _coloured(height + 0.05 * rng.normal(size=height.shape), colours)


def vortices(edge_px: int, rng: np.random.Generator, field_nm: float = 300.0, period_nm: float = 50.0) -> np.ndarray:
    """Map of the zero-bias conductance: a slightly disordered hexagonal lattice of vortices."""
    x, y = _grid_nm(edge_px, field_nm)
    image = np.zeros_like(x)
    count = int(field_nm / period_nm) + 2
    for i in range(-count, 2 * count):
        for j in range(-1, 2 * count):
            place = np.array([i + j / 2, j * math.sqrt(3) / 2]) * period_nm + rng.normal(scale=0.05 * period_nm, size=2)
            image += np.exp(-np.hypot(x - place[0], y - place[1]) / (0.17 * period_nm))
    return _coloured(image + 0.06 * rng.normal(size=image.shape), "viridis")


def hrtem(
    edge_px: int,
    rng: np.random.Generator,
    field_nm: float = 8.0,
    spacing_nm: float = 0.235,
    second_nm: float | None = None,
    angle_deg: float = 70.5,
    shape: str = "particle",
) -> np.ndarray:
    """Lattice fringes of one grain (``full``), a particle on an amorphous film, or two grains that share a plane."""
    x, y = _grid_nm(edge_px, field_nm)
    turn = float(rng.uniform(0, math.pi))
    fringes = _fringes(x, y, spacing_nm, second_nm or spacing_nm, turn, math.radians(angle_deg))
    amorphous = _speckle(edge_px, rng, 0.16 / field_nm * 2)
    if shape == "twin":
        mirrored = _fringes(x, y, spacing_nm, second_nm or spacing_nm, -turn, -math.radians(angle_deg))
        fringes = np.where(y > field_nm / 2, fringes, mirrored)
    mask = np.ones_like(x)
    if shape == "particle":
        radius = 0.36 * field_nm * (1 + 0.12 * np.cos(6 * np.arctan2(y - field_nm / 2, x - field_nm / 2)))
        mask = _inside(np.hypot(x - field_nm / 2, y - field_nm / 2) - radius, 50 / field_nm)
    image = mask * (fringes - 0.9) + 0.55 * amorphous
    return _coloured(image + 0.25 * rng.normal(size=image.shape), "gray")


def particles(
    edge_px: int,
    rng: np.random.Generator,
    count: int = 30,
    radius: float = 0.05,
    aspect: float = 1.0,
    shell: bool = False,
    bright: bool = False,
    spread: float = 0.15,
) -> np.ndarray:
    """Bright-field image of particles on a film; radii are fractions of the field. ``bright`` gives a dark field."""
    x, y = _grid_nm(edge_px, 1.0)
    image = 0.08 * _clouds(edge_px, rng, 0.25)
    for _ in range(count):
        cx, cy = rng.uniform(0.02, 0.98, 2)
        size, turn = radius * rng.lognormal(0, spread), rng.uniform(0, math.pi)
        u = ((x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)) / aspect
        v = -(x - cx) * math.sin(turn) + (y - cy) * math.cos(turn)
        distance = np.hypot(u, v) / size
        disc = _inside(distance - 1, 14)
        image -= float(rng.uniform(0.35, 0.7)) * disc
        if shell:
            image -= 0.35 * _inside(distance - 0.6, 14)
    return _coloured((-image if bright else image) + 0.07 * rng.normal(size=image.shape), "gray")


def lines(edge_px: int, rng: np.random.Generator, count: int = 14, bright: bool = False, bands: int = 0) -> np.ndarray:
    """Diffraction contrast of dislocations: dark wavy lines, and bend contours or stacking-fault bands."""
    x, y = _grid_nm(edge_px, 1.0)
    image = 0.3 * _clouds(edge_px, rng, 0.5)
    for _ in range(count):
        cx, cy, turn, length = *rng.uniform(0.05, 0.95, 2), rng.uniform(0, math.pi), rng.uniform(0.05, 0.22)
        u = (x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)
        v = -(x - cx) * math.sin(turn) + (y - cy) * math.cos(turn) + 0.02 * np.sin(u * 30 + rng.uniform(0, 6))
        image -= np.exp(-((v / 0.006) ** 2)) * _inside(np.abs(u) - length, 80)
    for _ in range(bands):
        cx, turn = rng.uniform(0.2, 0.8), rng.uniform(0, math.pi)
        across = (x - cx) * math.cos(turn) + (y - 0.5) * math.sin(turn)
        image += 0.5 * np.cos(across * 120) * np.exp(-((across / 0.06) ** 2))
    return _coloured((-image if bright else image) + 0.08 * rng.normal(size=image.shape), "gray")


def stripes(edge_px: int, rng: np.random.Generator, period: float = 0.1, skyrmions: bool = False) -> np.ndarray:
    """Lorentz contrast: a maze of stripes, or a lattice of bright rings."""
    x, y = _grid_nm(edge_px, 1.0)
    if skyrmions:
        image = _lattice(x, y, period, period, math.pi / 3, float(rng.uniform(0, 1)))
    else:
        image = np.sin(2 * math.pi * (x + 0.35 * _clouds(edge_px, rng, 0.35)) / period)
    return _coloured(image + 0.35 * rng.normal(size=image.shape), "gray")


def layers(edge_px: int, rng: np.random.Generator, levels: tuple[float, ...] = (0.2, 0.9, 0.5)) -> np.ndarray:
    """Cross-section at low magnification: stacked layers of given brightness with rough interfaces."""
    x, y = _grid_nm(edge_px, 1.0)
    image = np.full_like(x, levels[0])
    for number, level in enumerate(levels[1:], 1):
        rough = 0.015 * (_clouds(edge_px, rng, 0.08)[:1] - 0.5)
        image = np.where(y > number / len(levels) + rough, level, image)
    return _coloured(image + 0.05 * rng.normal(size=image.shape), "gray", limits=(0.0, 1.0))


def sem(edge_px: int, rng: np.random.Generator, wires: int = 0, grain: float = 0.06) -> np.ndarray:
    """Secondary-electron image: bright edges of a rough surface, or of wires that lie across each other."""
    if not wires:
        rough = _clouds(edge_px, rng, grain)
        image = np.hypot(*np.gradient(rough)) * edge_px * 0.06 + 0.4 * rough
        return _coloured(image + 0.04 * rng.normal(size=image.shape), "gray")
    x, y = _grid_nm(edge_px, 1.0)
    image = 0.15 * _clouds(edge_px, rng, 0.2)
    for _ in range(wires):
        cx, cy, turn, width = *rng.uniform(0, 1, 2), rng.uniform(0, math.pi), rng.uniform(0.012, 0.03)
        across = np.abs(-(x - cx) * math.sin(turn) + (y - cy) * math.cos(turn)) / width
        image = np.where(across < 1, 0.45 + 0.5 * across**3, image)
    return _coloured(image + 0.05 * rng.normal(size=image.shape), "gray")


def afm(
    edge_px: int, rng: np.random.Generator, terraces: int = 0, grain: float = 0.08, colours: str = "copper"
) -> np.ndarray:
    """Height or signal of a scanned probe: terraces, or grains."""
    x, y = _grid_nm(edge_px, 1.0)
    rough = _clouds(edge_px, rng, grain)
    image = rough
    if terraces:
        slope = x + 0.4 * y + 0.08 * _clouds(edge_px, rng, 0.2)
        image = np.floor(slope * terraces / 1.4) + 0.12 * rough
    return _coloured(image + 0.03 * rng.normal(size=image.shape), colours)


def spots(
    edge_px: int,
    rng: np.random.Generator,
    gamma_deg: float = 60.0,
    ratio: float = 1.0,
    rings: int = 0,
    satellites: float = 0.0,
    colours: str = "gray",
) -> np.ndarray:
    """Pattern in reciprocal space: spots of a net, with satellites, or powder rings."""
    x, y = _grid_nm(edge_px, 2.0)
    x, y = x - 1, y - 1
    radius = np.hypot(x, y)
    image = 0.8 * np.exp(-radius / 0.25)
    if rings:
        for ring in np.sqrt([3, 4, 8, 11, 12, 16, 19][:rings]) * 0.19:
            image += 0.5 * np.exp(-(((radius - ring) / 0.012) ** 2)) * (0.7 + 0.3 * rng.random(x.shape))
    else:
        turn = float(rng.uniform(0, math.pi))
        gamma = math.radians(gamma_deg)
        first = 0.3 * np.array([math.cos(turn), math.sin(turn)])
        second = 0.3 * ratio * np.array([math.cos(turn + gamma), math.sin(turn + gamma)])
        for i in range(-4, 5):
            for j in range(-4, 5):
                place = i * first + j * second
                fall = math.exp(-float(place @ place) / 0.6)
                image += fall * np.exp(-(((x - place[0]) ** 2 + (y - place[1]) ** 2) / 0.016**2))
                for side in (-1, 1) if satellites else ():
                    near = place + side * satellites * first
                    image += 0.35 * fall * np.exp(-(((x - near[0]) ** 2 + (y - near[1]) ** 2) / 0.012**2))
    return _coloured(np.log1p(6 * image) + 0.04 * rng.random(x.shape), colours)


def element_map(
    edge_px: int, rng: np.random.Generator, colour: tuple[float, float, float] = (1, 0.2, 0.2), blobs: int = 3
) -> np.ndarray:
    """Sparse coloured counts, as of an element map, denser inside a few discs."""
    x, y = _grid_nm(edge_px, 1.0)
    rate = np.full_like(x, 0.05)
    for _ in range(blobs):
        cx, cy = rng.uniform(0.2, 0.8, 2)
        rate = np.maximum(rate, 0.9 * (np.hypot(x - cx, y - cy) < rng.uniform(0.08, 0.2)))
    counts = np.clip(rng.poisson(rate * 1.5) / 4, 0, 1)
    return np.rint(255 * counts[..., None] * np.asarray(colour)).astype(np.uint8)


def flakes(edge_px: int, rng: np.random.Generator, count: int = 9) -> np.ndarray:
    """Optical micrograph: translucent triangles on a purple wafer."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (edge_px, edge_px), (150, 108, 158))
    pen = ImageDraw.Draw(image, "RGBA")
    for _ in range(count):
        cx, cy, size, turn = *rng.uniform(0.1, 0.9, 2), rng.uniform(0.06, 0.2), rng.uniform(0, 2)
        corners = [
            (edge_px * (cx + size * math.cos(turn + k * 2.0944)), edge_px * (cy + size * math.sin(turn + k * 2.0944)))
            for k in range(3)
        ]
        pen.polygon(corners, fill=(96, 110, 190, 170))
    noisy = np.asarray(image, float) + rng.normal(scale=4, size=(edge_px, edge_px, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def plot(
    edge_px: int,
    rng: np.random.Generator,
    form: str = "peaks",
    x: str = "Energy (eV)",
    y: str = "Intensity (arb. units)",
    curves: int = 1,
    legend: tuple[str, ...] = (),
) -> np.ndarray:
    """Curves with axes: ``peaks``, ``gap``, ``decay``, ``rise``, ``scatter``, ``histogram`` or ``bars``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(edge_px / 72, edge_px / 72), dpi=72, layout="constrained")
    axes = figure.add_subplot()
    for number in range(curves):
        _CURVES[form](axes, rng, number, legend[number] if number < len(legend) else None)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)
    if legend:
        axes.legend(fontsize=6, frameon=False)
    return _rasterised(figure)


def sketch(edge_px: int, rng: np.random.Generator, form: str = "lattice", words: tuple[str, ...] = ()) -> np.ndarray:
    """Drawings: a ball model (``lattice``), a stack of layers (``device``), levels (``bands``) or boxes (``flow``)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(edge_px / 72, edge_px / 72), dpi=72)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.axis("off")
    _SKETCHES[form](axes, rng, words)
    return _rasterised(figure)


PICTURES: dict[str, Picture] = {
    picture.__name__: picture
    for picture in (
        stem, stm, molecules, vortices, hrtem, particles, lines, stripes, layers, sem, afm, spots, element_map, flakes,
        plot, sketch,
    )
}  # fmt: skip


def _curve_peaks(axes: Any, rng: np.random.Generator, number: int, name: str | None) -> None:
    place = np.linspace(0, 10, 400)
    centres, widths = rng.uniform(1, 9, 4), rng.uniform(0.08, 0.5, 4)
    value = sum(rng.uniform(0.3, 1) / (1 + ((place - c) / w) ** 2) for c, w in zip(centres, widths, strict=True))
    axes.plot(place, value + number + 0.02 * rng.normal(size=400), lw=0.9, label=name)


def _curve_gap(axes: Any, rng: np.random.Generator, number: int, name: str | None) -> None:
    bias = np.linspace(-5, 5, 301)
    gap = rng.uniform(0.8, 1.8)
    value = np.real(np.abs(bias + 0.15j) / np.sqrt((bias + 0.15j) ** 2 - gap**2))
    axes.plot(bias, value + number, lw=0.9, label=name)


def _curve_decay(axes: Any, rng: np.random.Generator, number: int, name: str | None) -> None:
    time = np.linspace(0, 5, 200)
    axes.plot(time, np.exp(-time / rng.uniform(0.5, 2)) + 0.01 * rng.normal(size=200), lw=0.9, label=name)


def _curve_rise(axes: Any, rng: np.random.Generator, number: int, name: str | None) -> None:
    place = np.linspace(0, 1, 200)
    value = _inside(rng.uniform(0.3, 0.7) - place, rng.uniform(8, 25))
    axes.plot(place, value, lw=0.9, label=name)


def _curve_scatter(axes: Any, rng: np.random.Generator, number: int, name: str | None) -> None:
    place = np.sort(rng.uniform(0, 10, 14))
    value = rng.uniform(0.2, 0.8) * place + rng.normal(scale=0.4, size=14) + number
    axes.errorbar(place, value, yerr=0.4, fmt="os^D"[number % 4], ms=3, lw=0.7, label=name)


def _curve_histogram(axes: Any, rng: np.random.Generator, number: int, name: str | None) -> None:
    axes.hist(rng.normal(5 + 2 * number, 1, 240), bins=16, edgecolor="black", lw=0.4, alpha=0.8, label=name)


def _curve_bars(axes: Any, rng: np.random.Generator, number: int, name: str | None) -> None:
    values = rng.uniform(1, 5, 5)
    axes.bar(np.arange(5) + 0.28 * number, values, 0.26, yerr=0.25, error_kw={"lw": 0.7}, label=name)


_CURVES: dict[str, Callable[[Any, np.random.Generator, int, str | None], None]] = {
    "peaks": _curve_peaks,
    "gap": _curve_gap,
    "decay": _curve_decay,
    "rise": _curve_rise,
    "scatter": _curve_scatter,
    "histogram": _curve_histogram,
    "bars": _curve_bars,
}


def _sketch_lattice(axes: Any, rng: np.random.Generator, words: tuple[str, ...]) -> None:
    from matplotlib.patches import Circle

    for i in range(9):
        for j in range(9):
            place = ((i + 0.5 * (j % 2) + 0.4) / 9.5, (j + 0.6) / 9)
            axes.add_patch(
                Circle(place, 0.04, facecolor="#3b76b0" if (i + j) % 2 else "#e0a030", edgecolor="black", lw=0.5)
            )
    for number, word in enumerate(words):
        axes.text(0.5, 0.95 - 0.9 * number, word, ha="center", va="center", fontsize=8)


def _sketch_device(axes: Any, rng: np.random.Generator, words: tuple[str, ...]) -> None:
    from matplotlib.patches import Rectangle

    names = words or ("contact", "film", "substrate")
    for number, name in enumerate(reversed(names)):
        corner = (0.1, 0.08 + 0.82 * number / len(names))
        shade = f"C{number % 10}"
        axes.add_patch(Rectangle(corner, 0.8, 0.8 / len(names), facecolor=shade, alpha=0.55, edgecolor="black"))
        axes.text(0.5, corner[1] + 0.4 / len(names), name, ha="center", va="center", fontsize=8)


def _sketch_bands(axes: Any, rng: np.random.Generator, words: tuple[str, ...]) -> None:
    for number, level in enumerate(np.sort(rng.uniform(0.1, 0.9, 5))):
        axes.plot([0.15, 0.55], [level, level], color="black", lw=1.2)
        axes.text(0.6, level, words[number] if number < len(words) else f"$E_{number}$", fontsize=8, va="center")
    axes.annotate("", (0.3, 0.85), (0.3, 0.15), arrowprops={"arrowstyle": "->", "color": "C3"})


def _sketch_flow(axes: Any, rng: np.random.Generator, words: tuple[str, ...]) -> None:
    names = words or ("sample", "measurement", "model")
    for number, name in enumerate(names):
        height = 0.88 - 0.76 * number / max(1, len(names) - 1)
        axes.text(0.5, height, name, ha="center", va="center", fontsize=8, bbox={"boxstyle": "round", "fc": "#dde8f4"})
        if number:
            above = 0.88 - 0.76 * (number - 1) / max(1, len(names) - 1)
            axes.annotate("", (0.5, height + 0.06), (0.5, above - 0.06), arrowprops={"arrowstyle": "->"})


_SKETCHES: dict[str, Callable[[Any, np.random.Generator, tuple[str, ...]], None]] = {
    "lattice": _sketch_lattice,
    "device": _sketch_device,
    "bands": _sketch_bands,
    "flow": _sketch_flow,
}


def _grid_nm(edge_px: int, field_nm: float) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixels' centres, (edge_px, edge_px) each."""
    place = (np.arange(edge_px) + 0.5) * field_nm / edge_px
    y, x = np.meshgrid(place, place, indexing="ij")
    return x, y


def _lattice(x: np.ndarray, y: np.ndarray, a: float, b: float, gamma: float, turn: float) -> np.ndarray:
    """Corrugation of a net with periods a and b: peaked at its points, between 0 and 1."""
    area = a * b * math.sin(gamma)
    first = np.array([b * math.sin(turn + gamma), -b * math.cos(turn + gamma)]) / area
    second = np.array([-a * math.sin(turn), a * math.cos(turn)]) / area
    phases = [2 * math.pi * (g[0] * x + g[1] * y) for g in (first, second)]
    third = phases[0] + phases[1] if gamma > math.radians(75) else phases[0] - phases[1]
    waves = np.cos(phases[0]) + np.cos(phases[1]) + 0.5 * np.cos(third)
    return np.exp(0.9 * (waves - 2.5))


def _fringes(x: np.ndarray, y: np.ndarray, first: float, second: float, turn: float, angle: float) -> np.ndarray:
    along = x * math.cos(turn) + y * math.sin(turn)
    across = x * math.cos(turn + angle) + y * math.sin(turn + angle)
    return np.cos(2 * math.pi * along / first) + 0.8 * np.cos(2 * math.pi * across / second)


def _inside(distance: np.ndarray, steepness: float) -> np.ndarray:
    """1 where the distance from an edge is negative, 0 where it is positive, smooth between."""
    return 0.5 * (1 - np.tanh(0.5 * steepness * distance))


def _clouds(edge_px: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Smooth noise between 0 and 1; ``scale`` is its correlation length over the field."""
    spectrum = np.fft.rfft2(rng.normal(size=(edge_px, edge_px)))
    fy, fx = np.fft.fftfreq(edge_px)[:, None], np.fft.rfftfreq(edge_px)[None, :]
    smooth = np.fft.irfft2(spectrum * np.exp(-((scale * edge_px) ** 2) * 3 * (fx**2 + fy**2)), (edge_px, edge_px))
    return (smooth - smooth.min()) / np.ptp(smooth)


def _speckle(edge_px: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    clouds = _clouds(edge_px, rng, scale)
    return (clouds - clouds.mean()) / clouds.std()


def _coloured(image: np.ndarray, colours: str, limits: tuple[float, float] | None = None) -> np.ndarray:
    """(n, n, 3) uint8 by a colour map, between quantiles of the image or fixed limits."""
    from matplotlib import colormaps

    low, high = limits or (float(np.quantile(image, 0.005)), float(np.quantile(image, 0.995)))
    scaled = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
    return np.rint(255 * colormaps[colours](scaled)[..., :3]).astype(np.uint8)


def _rasterised(figure: Any) -> np.ndarray:
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return np.asarray(Image.open(buffer).convert("RGB"))
