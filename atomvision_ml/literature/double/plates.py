"""Plates of the authored corpus: panels side by side with letters, gutters and scale bars, and where each one lies.

Belongs here: the arrangement and the file formats. The boxes and bar lengths that it returns are the truth of the
picture, because it drew them.
"""

from __future__ import annotations

import base64
import io
import math
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.literature.double.pictures import draw

if TYPE_CHECKING:
    from PIL import ImageFont
    from PIL.Image import Image


class PanelDrawing(BaseModel):
    """One panel of a plate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    letter: str = Field(description="Drawn in its corner; empty for none.")
    picture: str = Field(description="Name in `pictures.PICTURES`.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="Arguments of the picture.")
    field_nm: float | None = Field(default=None, gt=0, description="Edge of the field of view; needed for a bar.")
    bar: float | None = Field(default=None, gt=0, description="Length of the scale bar, in `bar_unit`.")
    bar_unit: str = Field(default="nm", description="nm, um, mm, angstrom or 1/nm.")
    is_bar_labelled: bool = Field(default=True, description="Whether the length stands beside the bar.")


class PlateStyle(BaseModel):
    """How the panels of a plate are arranged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edge_px: int = Field(default=192, ge=64, le=1024, description="Edge of a panel.")
    columns: int = Field(default=0, ge=0, description="Panels in a row; 0: all.")
    gutter_px: int = Field(default=8, ge=0, description="Between panels.")
    background: str = Field(default="white", description="Colour of the gutters.")
    letters: str = Field(default="({})", description="Form of the letters; `{}` stands for it.")
    bar_corner: str = Field(default="left", description="Lower corner that holds the bar: left or right.")
    quality: int = Field(default=80, ge=1, le=95, description="Of JPEG files.")


@dataclass(frozen=True)
class DrawnPanel:
    """What was drawn: its box (left, top, right, bottom, exclusive) and the length of its bar in px."""

    box_px: tuple[int, int, int, int]
    bar_px: int | None


NM = {"nm": 1.0, "um": 1000.0, "mm": 1e6, "angstrom": 0.1}
_SIGNS = {"nm": "nm", "um": "µm", "mm": "mm", "angstrom": "Å", "1/nm": "1/nm"}


def plate(panels: list[PanelDrawing], style: PlateStyle, name: str) -> tuple[np.ndarray, list[DrawnPanel]]:
    """Draw a plate.

    Args:
        panels: in reading order.
        style: their arrangement.
        name: seeds all that is random.

    Returns:
        (height, width, 3) uint8 image, and where its panels are.

    Raises:
        ValueError: a bar without a field of view.
    """
    from PIL import Image

    columns = style.columns or len(panels)
    rows = math.ceil(len(panels) / columns)
    step, edge = style.edge_px + style.gutter_px, style.edge_px
    sheet = Image.new("RGB", (columns * step - style.gutter_px, rows * step - style.gutter_px), style.background)
    drawn = []
    for number, panel in enumerate(panels):
        left, top = number % columns * step, number // columns * step
        image, bar_px = _panel(panel, style, zlib.crc32(f"{name}/{number}".encode()))
        sheet.paste(image, (left, top))
        drawn.append(DrawnPanel((left, top, left + edge, top + edge), bar_px))
    return np.asarray(sheet), drawn


def write(image: np.ndarray, path: Path, quality: int = 80) -> None:
    """Write a plate in the format of its suffix: png, jpg, eps or pdf. The same image gives the same bytes.

    Raises:
        KeyError: another suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_FORMATS[path.suffix](image, quality))


def _panel(panel: PanelDrawing, style: PlateStyle, seed: int) -> tuple[Image, int | None]:
    from PIL import Image

    parameters = dict(panel.parameters)
    if panel.field_nm is not None and panel.picture in ("stem", "stm", "molecules", "vortices", "hrtem"):
        parameters["field_nm"] = panel.field_nm
    image = Image.fromarray(draw(panel.picture, style.edge_px, seed, parameters))
    bar_px = None
    if panel.bar is not None:
        if panel.field_nm is None:
            raise ValueError(f"panel {panel.letter!r} has a scale bar and no field_nm")
        bar_px = round(panel.bar * NM.get(panel.bar_unit, 1.0) / panel.field_nm * style.edge_px)
        _draw_bar(image, panel, style, bar_px)
    if panel.letter and style.letters:
        _write_letter(image, style.letters.format(panel.letter))
    return image, bar_px


def _draw_bar(image: Image, panel: PanelDrawing, style: PlateStyle, length_px: int) -> None:
    from PIL import ImageDraw

    pen, edge = ImageDraw.Draw(image), image.width
    font = _font(max(11, edge // 14))
    height, margin = max(3, edge // 48), edge // 20
    left = margin if style.bar_corner == "left" else edge - margin - length_px
    top = edge - margin - height
    words = f"{panel.bar:g} {_SIGNS[panel.bar_unit]}" if panel.is_bar_labelled else ""
    width = max(length_px, round(pen.textlength(words, font=font)))
    corner = edge // 14 + 6 if words else 0
    under = np.asarray(image)[top - corner : top + height, left : left + width].mean()
    colour, edge_colour = ((255, 255, 255), (0, 0, 0)) if under < 150 else ((0, 0, 0), (255, 255, 255))
    pen.rectangle((left, top, left + length_px - 1, top + height - 1), fill=colour)
    if words:
        pen.text((left, top - 3), words, fill=colour, font=font, anchor="ls", stroke_width=1, stroke_fill=edge_colour)


def _write_letter(image: Image, words: str) -> None:
    from PIL import ImageDraw

    pen = ImageDraw.Draw(image)
    font = _font(max(13, image.width // 12))
    box = pen.textbbox((4, 3), words, font=font)
    pen.rectangle((0, 0, box[2] + 4, box[3] + 3), fill=(255, 255, 255))
    pen.text((4, 3), words, fill=(0, 0, 0), font=font)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


def _as_image(image: np.ndarray) -> Image:
    from PIL import Image

    picture = Image.fromarray(image)
    is_grey = bool((image == image[..., :1]).all())
    return picture.convert("L") if is_grey else picture


def _png(image: np.ndarray, quality: int) -> bytes:
    picture, buffer = _as_image(image), io.BytesIO()
    if picture.mode == "RGB":
        picture = picture.quantize(64)
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    _as_image(image).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _eps(image: np.ndarray, quality: int) -> bytes:
    """Encapsulated PostScript around a JPEG stream, as graphics programs of the time wrote it."""
    height, width = image.shape[:2]
    picture = _as_image(image)
    space, parts = ("/DeviceGray", "0 1") if picture.mode == "L" else ("/DeviceRGB", "0 1 0 1 0 1")
    stream = base64.a85encode(_jpeg(image, quality), wrapcol=96, adobe=True).removeprefix(b"<~")
    head = f"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 {width} {height}
%%LanguageLevel: 2
%%EndComments
gsave {width} {height} scale {space} setcolorspace
<< /ImageType 1 /Width {width} /Height {height} /BitsPerComponent 8 /Decode [{parts}]
/ImageMatrix [{width} 0 0 -{height} 0 {height}]
/DataSource currentfile /ASCII85Decode filter /DCTDecode filter >> image
"""
    return head.encode() + stream + b"\ngrestore showpage\n%%EOF\n"


def _pdf(image: np.ndarray, quality: int) -> bytes:
    import time

    buffer, moment = io.BytesIO(), time.gmtime(0)
    _as_image(image).save(buffer, "PDF", quality=quality, creationDate=moment, modDate=moment)
    return buffer.getvalue()


_FORMATS = {".png": _png, ".jpg": _jpeg, ".eps": _eps, ".pdf": _pdf}
