"""The interactive page of the maps: one HTML file with everything in it, and a picture of it.

Belongs here: drawing. The page needs no network; pointing at an item shows its image and label.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from atomvision_ml.evaluation.embeddings import TITLES
from atomvision_ml.evaluation.gallery.entries import dose_words
from atomvision_ml.evaluation.holdout import ItemReader, OpenBlob
from atomvision_ml.evaluation.judging import Row
from atomvision_ml.images.detector import dose_name
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES

PAGE = "index.html"
COLOURS = dict(zip(BRAVAIS_LATTICES, ("#1b6ca8", "#d1495b", "#edae49", "#3c9d6b", "#7d5ba6"), strict=True))
_THUMBNAIL_PX = 96


def write_page(folder: Path, rows: Sequence[Row], holdout: pl.DataFrame, open_blob: OpenBlob) -> Path:
    """Write ``index.html``.

    Args:
        folder: where to; made if missing.
        rows: of ``evaluation/embeddings``; ``blob`` is not needed.
        holdout: rows of ``evaluation/holdout``.
        open_blob: local folder of a blob.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    items = _items(rows, holdout)
    reader = ItemReader(open_blob)
    data = {
        "items": {
            name: {
                "title": row["slab_id"].partition(":")[2] or row["slab_id"],
                "source": row["source"],
                "lattice": row["bravais_lattice"],
                "picture": _thumbnail(reader.image(row)),
            }
            for name, row in items.items()
        },
        "maps": _maps(rows, items),
        "colours": COLOURS,
    }
    loader = FileSystemLoader(Path(__file__).parent / "gallery" / "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / PAGE
    page.write_text(
        environment.get_template("embeddings.html.j2").render(title="Maps of the test images", data=data),
        encoding="utf-8",
    )
    return page


def preview(rows: Sequence[Row], holdout: pl.DataFrame) -> bytes:
    """All maps side by side, a row for each dose, coloured by lattice; PNG."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    items = _items(rows, holdout)
    maps = _maps(rows, items)
    doses = list(dict.fromkeys(each["dose"] for each in maps))
    names = list(dict.fromkeys(each["name"] for each in maps))
    figure = Figure(figsize=(2.1 * len(names), 2.2 * len(doses) + 0.4), dpi=80, layout="constrained")
    axes = figure.subplots(len(doses), len(names), squeeze=False)
    for each in maps:
        axis = axes[doses.index(each["dose"])][names.index(each["name"])]
        colours = [COLOURS[items[point["item"]]["bravais_lattice"]] for point in each["points"]]
        axis.scatter(*np.array([(point["x"], point["y"]) for point in each["points"]]).T, s=9, c=colours, linewidths=0)
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{each['name'].replace('_', ' ')}\npurity {each['scores']['purity']:.2f}", fontsize=8)
        if each["name"] == names[0]:
            axis.set_ylabel(each["dose"], fontsize=8)
    handles = [Line2D([], [], ls="", marker="o", ms=4, color=colour, label=name) for name, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _items(rows: Sequence[Row], holdout: pl.DataFrame) -> dict[str, Row]:
    wanted = sorted({row["item_id"] for row in rows})
    return {row["item_id"]: row for row in holdout.filter(pl.col("item_id").is_in(wanted)).iter_rows(named=True)}


def _maps(rows: Sequence[Row], items: Mapping[str, Row]) -> list[dict[str, Any]]:
    """Maps in the order of :data:`TITLES`, the noiseless ones first; positions scaled to 0 … 1."""
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        key = dose_name(items[row["item_id"]]["mean_detected_e_per_a2"]), row["model_id"].partition("@")[0]
        parts.setdefault(key, []).append(row)
    order = sorted(parts, key=lambda key: (key[0] != "clean", key[0], list(TITLES).index(key[1])))
    return [
        {
            "name": name,
            "title": TITLES[name],
            "dose": dose_words(dose),
            "scores": {
                score: float(np.mean([row[score] for row in parts[dose, name]]))
                for score in ("trustworthiness", "silhouette", "purity", "purity_shuffled", "purity_source")
            },
            "points": _points(parts[dose, name]),
        }
        for dose, name in order
    ]


def _points(rows: Sequence[Row]) -> list[dict[str, Any]]:
    places = np.array([(row["x"], row["y"]) for row in rows])
    low, span = places.min(axis=0), np.maximum(np.ptp(places, axis=0), 1e-12)
    return [
        {"item": row["item_id"], "x": round(float(x), 4), "y": round(float(y), 4)}
        for row, (x, y) in zip(rows, (places - low) / span, strict=True)
    ]


def _thumbnail(image: ArrayLike) -> str:
    """The image as a small grey PNG, in base64."""
    from PIL import Image

    values = np.asarray(image, float)
    low, high = np.quantile(values, [0.0, 0.998])
    grey = np.clip((values - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
    small = Image.fromarray(grey).resize((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
