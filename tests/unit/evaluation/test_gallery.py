import io
import re

import numpy as np
import polars as pl
import pytest
from PIL import Image

from atomvision_ml.evaluation.gallery import pictures
from atomvision_ml.evaluation.gallery.build import GalleryParameters, build_gallery, result_tables
from atomvision_ml.evaluation.gallery.pictures import preview_grid
from atomvision_ml.evaluation.metrics import metric_rows
from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.evaluation.tasks.lattice import predict_lattice
from atomvision_ml.schemas.tables import table


@pytest.fixture(scope="module")
def built(small_set, tmp_path_factory):
    chosen = small_set.holdout["image_id"].unique().sort().head(2)
    few = small_set.holdout.filter(pl.col("image_id").is_in(chosen.implode()))
    training_set = small_set.training_set("lattice")
    answers = {"lattice": pl.DataFrame(predict_lattice(few, training_set, small_set.open_blob))}
    metrics = pl.DataFrame(metric_rows(answers["lattice"], few, size="demo"), infer_schema_length=None)
    folder = tmp_path_factory.mktemp("gallery")
    calls = []
    rows = build_gallery(
        folder,
        holdout=few,
        images=small_set.images,
        predictions=answers,
        metrics=metrics,
        open_blob=small_set.open_blob,
        parameters=GalleryParameters(maximum_items=3),
        progress=lambda *args: calls.append(args),
    )
    assert calls[-1][0] == calls[-1][1]
    return folder, rows


def test_rows_name_the_pages(built):
    folder, rows = built
    table("evaluation/gallery").from_rows([{**row, "blob": "b"} for row in rows])
    assert rows[0]["page"] == "index.html"
    assert all((folder / row["page"]).is_file() for row in rows)
    assert rows[1]["n_items"] <= 3


def test_pages_need_nothing_from_elsewhere(built):
    folder, rows = built
    for row in rows:
        text = (folder / row["page"]).read_text(encoding="utf-8")
        assert "http" not in text
        assert "<script" not in text
        for target in re.findall(r'(?:src|href)="([^"]+)"', text):
            assert (folder / target).is_file(), target


def test_pages_tell_label_answer_and_baselines(built):
    folder, _ = built
    text = (folder / "lattice.html").read_text(encoding="utf-8")
    for word in ("label", "lattice finder", "autocorrelation", "majority class", "macro-F1", "noiseless"):
        assert word in text, word


def test_every_picture_shows_something(built):
    folder, _ = built
    files = list((folder / "pictures").iterdir())
    assert files
    for file in files:
        assert np.asarray(Image.open(file).convert("L"), float).std() > 3, file
    assert sum(file.stat().st_size for file in files) < 10e6 / 24 * len(files)


def test_tables_take_a_task_whose_figures_are_not_those_of_images():
    """No rule, no score, a slice of its own, a figure without interval, and methods that lack a figure."""
    metric, where = PROTOCOLS["embedding"].headline
    about = {"task": "embedding", "size": "demo", "seed": 0, "slice": where, "metric": metric, "n_items": 4}
    rows = [
        {**about, "model": "network", "model_id": "network@1", "role": "model", "value": 0.7, "low": 0.6, "high": 0.8},
        {
            **about,
            "model": "pixels",
            "model_id": "pixels",
            "role": "classical",
            "value": 0.5,
            "low": None,
            "high": None,
        },
    ]
    (made,) = result_tables(pl.DataFrame(rows), "embedding")
    first, second = made["rows"]
    assert (first["model"], first["cells"][0]) == ("network", {"value": "0.700", "interval": "0.600 to 0.800"})
    assert second["cells"][0]["interval"] == ""
    assert made["metrics"] == [PROTOCOLS["embedding"].label("purity")], "a figure that no method has is no column"


def test_diffractogram_shows_the_reflections_where_they_belong():
    x = np.indices((200, 200))[1] * 0.1
    image = np.cos(2 * np.pi * x * 0.5)
    png = pictures.diffractogram_picture(image, 0.1)
    grey = np.asarray(Image.open(io.BytesIO(png)).convert("L"), float)
    height, width = grey.shape
    left, bottom, wide, high = 0.19, 0.14, 0.77, 0.83

    def around(frequency_x, frequency_y):
        column = round((left + wide * (frequency_x + 1) / 2) * width)
        row = round((1 - bottom - high * (1 - frequency_y) / 2) * height)
        return grey[row - 3 : row + 4, column - 3 : column + 4].max()

    assert around(0.5, 0) > around(0, 0.5) + 50
    assert around(-0.5, 0) > around(0, -0.5) + 50


def test_preview_is_small():
    random = np.random.default_rng(0)
    png = preview_grid([random.random((256, 256)) for _ in range(40)])
    assert len(png) < 150_000
    assert Image.open(io.BytesIO(png)).size[0] > 100
    assert preview_grid([np.zeros((8, 8))])
    with pytest.raises(ValueError, match="no image"):
        preview_grid([])


def test_nothing_to_show_is_an_error(small_set, tmp_path):
    with pytest.raises(ValueError, match="no task has both"):
        build_gallery(
            tmp_path,
            holdout=small_set.holdout,
            images=small_set.images,
            predictions={},
            metrics=pl.DataFrame(),
            open_blob=small_set.open_blob,
        )
