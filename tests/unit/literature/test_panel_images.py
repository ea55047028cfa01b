import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.literature.panel_cuts import divide, reading_order
from atomvision_ml.literature.panel_images import read_panels
from atomvision_ml.literature.pixel_kind import pixel_kind
from atomvision_ml.literature.scale_bars import find_bars, length_nm, parse_length, read_scale_bar, unit_stems
from atomvision_ml.literature.text_reading import line_image, open_text_reader, text_lines

EDGE = 150


def picture(seed: int = 0, edge: int = EDGE) -> np.ndarray:
    """Smooth noise, uint8 [y, x, 3], from 60 to 180."""
    from scipy import ndimage

    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(edge, edge)), 3)
    grey = 60 + 120 * (noise - noise.min()) / np.ptp(noise)
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=-1)


def with_bar(image: np.ndarray, left: int, length: int, value: int = 255, thickness: int = 4) -> np.ndarray:
    image = image.copy()
    top = len(image) - 16
    image[top : top + thickness, left : left + length] = value
    return image


def grid(gap: int, page: int = 255, factor: int = 1) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """Four pictures in two rows and their boxes."""
    size = 2 * EDGE + 3 * gap
    image = np.full((size, size, 3), page, np.uint8)
    boxes = []
    for number in range(4):
        top, left = (gap + (EDGE + gap) * each for each in divmod(number, 2))
        image[top : top + EDGE, left : left + EDGE] = with_bar(picture(number), 80, 50)
        boxes.append((factor * left, factor * top, factor * (left + EDGE), factor * (top + EDGE)))
    return image.repeat(factor, axis=0).repeat(factor, axis=1), boxes


@pytest.mark.parametrize("page", [255, 0], ids=["white", "black"])
@pytest.mark.parametrize("gap", [3, 12])
def test_panels_of_a_grid_are_found_and_measured(gap: int, page: int) -> None:
    image, boxes = grid(gap, page)
    readings = read_panels(image, ["a", "b", "c", "d"], {"a": 5.0, "b": None})
    assert [each.box_px for each in readings] == boxes
    assert {each.image_status for each in readings} == {"matched"}
    assert {each.image_kind for each in readings} == {"micrograph"}
    assert [each.scale_bar_px for each in readings] == pytest.approx([50] * 4, abs=0.5)
    assert readings[0].pixel_size_nm == pytest.approx(0.1, rel=0.02)
    assert readings[0].scale_bar_source == "caption"
    assert readings[1].scale_bar_nm is None
    assert readings[1].pixel_size_nm is None


def test_large_images_are_read_in_their_own_pixels() -> None:
    image, boxes = grid(10, factor=8)
    readings = read_panels(image, list("abcd"), {})
    assert np.abs(np.array([each.box_px for each in readings]) - np.array(boxes)).max() <= 8
    assert readings[0].scale_bar_px == pytest.approx(400, rel=0.03)


def test_another_number_of_panels_is_ambiguous() -> None:
    readings = read_panels(picture(edge=200), list("abc"), {"b": 2.0})
    assert {each.image_status for each in readings} == {"ambiguous"}
    assert readings[0].box_px == (0, 0, 200, 200)
    assert (readings[1].scale_bar_nm, readings[1].scale_bar_source) == (2.0, "caption")


def test_a_figure_of_one_panel_loses_its_margin_only() -> None:
    image = np.full((200, 220, 3), 255, np.uint8)
    image[20:170, 30:180] = picture()
    assert read_panels(image, [""], {})[0].box_px == (30, 20, 180, 170)


def test_tiny_images_are_unreadable() -> None:
    assert read_panels(np.zeros((4, 90, 3), np.uint8), ["a"], {})[0].image_status == "unreadable"


@pytest.mark.parametrize(
    ("image", "labels", "message"),
    [
        (np.zeros((50, 50, 3), np.uint8), [], "labels"),
        (np.zeros((50, 50), np.uint8), ["a"], "shape"),
        (np.zeros((50, 50, 3), float), ["a"], "uint8"),
    ],
    ids=["no labels", "grey", "floats"],
)
def test_bad_input_is_refused(image: np.ndarray, labels: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_panels(image, labels, {})


def test_letters_beside_a_picture_are_no_part_of_it() -> None:
    image = np.full((200, 400, 3), 255, np.uint8)
    image[40:190, 20:170] = picture(1)
    image[40:190, 220:370] = picture(2)
    image[15:30, 20:30] = 0
    division = divide(image, 2)
    assert division is not None
    assert division.boxes == ((20, 40, 170, 190), (220, 40, 370, 190))


def test_boxes_are_read_row_by_row_and_else_column_by_column() -> None:
    rows = [(0, 0, 10, 10), (20, 1, 30, 11), (0, 20, 10, 30), (20, 20, 30, 30)]
    assert reading_order(rows[::-1]) == rows
    beside = [(0, 0, 10, 30), (20, 0, 30, 12), (20, 15, 30, 30)]
    assert reading_order(beside[::-1]) == beside


def test_strokes_on_paper_are_a_drawing() -> None:
    drawing = np.full((150, 200, 3), 255, np.uint8)
    drawing[20:130, 30] = 0
    drawing[130, 30:190] = 0
    assert pixel_kind(drawing)[0] == "drawing"
    assert pixel_kind(picture())[0] == "micrograph"


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(15, 110), st.integers(2, 6), st.sampled_from([0, 255]), st.integers(0, 5))
def test_bars_are_measured_to_a_pixel(length: int, thickness: int, value: int, seed: int) -> None:
    if length < 3 * thickness:
        return
    bars = find_bars(with_bar(picture(seed), 12, length, value, thickness))
    assert bars
    assert bars[0].length_px == pytest.approx(length, abs=1)


def test_the_outline_of_a_bar_is_not_the_bar() -> None:
    image = picture()
    image[130:136, 30:92] = 0
    image[131:135, 31:91] = 255
    bars = find_bars(image)
    assert [bar.length_px for bar in bars] == pytest.approx([60], abs=0.5)


def test_no_bar_is_found_where_there_is_none() -> None:
    assert read_scale_bar(picture()) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5 nm", (5.0, False)),
        ("0.5nm", (0.5, False)),
        ("200.nm", (200.0, False)),
        ("10 Å", (1.0, False)),
        ("10A", (1.0, False)),
        ("2 μm", (2000.0, False)),
        ("2 um", (2000.0, False)),
        ("1 mm", (1e6, False)),
        ("l nm", (1.0, False)),
        ("i nm", (1.0, False)),
        ("L nm", (1.0, False)),
        ("5 1/nm", (None, True)),
        ("10 nm-1", (None, True)),
        ("200-nm", (200.0, False)),
        ("10l nm", (10.0, False)),
        (".5 nm", (0.5, False)),
        ("500gm", (5e5, False)),
        ("500 μm", (5e5, False)),
        ("1 jum", (1e3, False)),
        ("21/nm", (None, True)),
        ("3/nm", (3.0, False)),
        ("3001nm", None),
        ("0 nm", None),
        ("(a)", None),
        ("200 keV", None),
    ],
)
def test_lengths_are_parsed(text: str, expected: tuple[float | None, bool] | None) -> None:
    parsed = parse_length(text)
    assert (parsed is None) == (expected is None)
    if parsed is not None and expected is not None:
        assert parsed[1] == expected[1]
        assert parsed[0] == (pytest.approx(expected[0]) if expected[0] else None)


def test_stated_lengths_in_nm() -> None:
    assert length_nm(5, "angstrom") == pytest.approx(0.5)
    assert length_nm(5, "1/nm") is None


def test_points_and_broken_glyphs_join_their_line() -> None:
    mask = np.zeros((40, 120), bool)
    mask[10:20, 10:16] = mask[10:20, 24:30] = mask[10:20, 44:52] = True
    mask[18:20, 19:21] = True
    mask[30:34, 90:92] = True
    assert text_lines(mask, (6, 20)) == [(10, 10, 52, 20)]


def test_text_beside_a_bar_is_read() -> None:
    pytest.importorskip("rapidocr_onnxruntime", reason="needs the extra ocr: pip install 'atomvision[ocr]'")
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 22)
    drawn = Image.fromarray(picture(edge=240))
    pen = ImageDraw.Draw(drawn)
    pen.rectangle((120, 220, 199, 225), fill="white")
    pen.text((130, 190), "20 nm", font=font, fill="white")
    (reading,) = read_panels(np.asarray(drawn), [""], {"": 3.0}, open_text_reader())
    assert (reading.scale_bar_nm, reading.scale_bar_source) == (20.0, "image")
    assert reading.pixel_size_nm == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize(("text", "stems"), [("20 nm", 5), ("1nm", 5), ("5 mm", 6), ("100mm", 6)])
@pytest.mark.parametrize("name", ["DejaVuSans", "DejaVuSansMono", "STIXGeneral"])
def test_nm_and_mm_are_told_by_their_strokes(name: str, text: str, stems: int) -> None:
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf", 26)
    drawn = Image.new("L", (160, 60), "white")
    ImageDraw.Draw(drawn).text((10, 10), text, font=font, fill="black")
    grey = np.asarray(drawn)
    (line,) = text_lines(grey < 128, (5, 40))
    assert unit_stems(line_image(grey, line)) == stems


@pytest.mark.parametrize("by_column", [False, True], ids=["row by row", "column by column"])
def test_letters_in_the_image_decide_of_the_order(by_column: bool) -> None:
    pytest.importorskip("rapidocr_onnxruntime", reason="needs the extra ocr: pip install 'atomvision[ocr]'")
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf", 24)
    figure = Image.new("RGB", (420, 420), "white")
    for place, label in enumerate("abcd"):
        row, column = divmod(place, 2)[::-1] if by_column else divmod(place, 2)
        panel = Image.fromarray(picture(place, 200) // 2)
        ImageDraw.Draw(panel).text((8, 6), f"({label})", font=font, fill="white")
        figure.paste(panel, (220 * column, 220 * row))
    readings = {each.label: each for each in read_panels(np.asarray(figure), list("abcd"), {}, open_text_reader())}
    box = readings["b"].box_px
    assert box is not None
    assert (box[0] > 200, box[1] > 200) == (not by_column, by_column)


@pytest.mark.parametrize(
    ("text", "stated", "expected"),
    [("20 nm", 3.0, (20.0, "image")), ("20 mm", 20.0, (20.0, "caption")), ("20 um", 20.0, (20.0, "caption"))],
    ids=["another length", "mm", "another unit"],
)
def test_a_unit_taken_for_another_is_corrected_by_the_caption(
    text: str, stated: float, expected: tuple[float, str]
) -> None:
    image = with_bar(picture(), 40, 60)
    image[110:122, 50:56] = image[110:122, 60:66] = image[110:122, 70:76] = 255
    (reading,) = read_panels(image, [""], {"": stated}, lambda line: (text, 0.99))
    assert (reading.scale_bar_nm, reading.scale_bar_source) == expected
