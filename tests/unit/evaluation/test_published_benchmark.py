import gzip
import json
import zipfile

import numpy as np
import polars as pl
import pytest

from atomvision_ml.evaluation import published_benchmark as module
from atomvision_ml.evaluation.published_benchmark import (
    PublishedBenchmarkParameters,
    PublishedLabelsError,
    blind_answers,
    comparison_rows,
    find_labels,
    finder_figures,
    images,
    lattice_features,
    published_items,
    read_labels,
    reader_figures,
    train_published,
)
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES

LABELS = {"train": {"a-1.jpg": 0, "a-2.jpg": 4}, "test": {"b-7.jpg": 2}}


@pytest.fixture(scope="module")
def items():
    """Slabs of the embedded prototypes under the published rule, as if they were the published ids."""
    from atomvision_ml.schemas.tables import table
    from atomvision_ml.structures.prototypes import prototype_rows
    from atomvision_ml.structures.slabs import slab_rows

    records = pl.DataFrame(pl.from_arrow(table("structures/records").from_rows(prototype_rows()[::4])))
    slabs = pl.DataFrame(pl.from_arrow(table("structures/slabs").from_rows(slab_rows(records))))
    accepted = slabs.filter(pl.col("status") == "accepted").sort("slab_id")
    labels = accepted.select(
        native_id=pl.col("slab_id").str.splitn(":", 2).struct.field("field_1"),
        split=pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("test")).otherwise(pl.lit("train")),
        label=pl.col("bravais_lattice_published"),
    )
    return published_items(labels, slabs)


@pytest.mark.parametrize("form", ["json", "json.zip", "json.gz"])
def test_labels_are_found_at_any_depth_and_read(tmp_path, form):
    path = tmp_path / "some" / "where" / f"stem_2d_image_bravais_class.{form}"
    path.parent.mkdir(parents=True)
    text = json.dumps(LABELS).encode()
    if form.endswith("zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("stem_2d_image_bravais_class.json", text)
    else:
        path.write_bytes(gzip.compress(text) if form.endswith("gz") else text)
    assert find_labels(tmp_path) == path
    rows = read_labels(path).rows()
    assert rows == [("a-1", "train", "hexagonal"), ("a-2", "train", "oblique"), ("b-7", "test", "rectangular")]


def test_missing_or_damaged_labels_say_what_to_do(tmp_path):
    for folder in (None, tmp_path, tmp_path / "absent"):
        with pytest.raises(PublishedLabelsError, match="ATOMVISION_SOURCES"):
            find_labels(folder)
    damaged = tmp_path / "stem_2d_image_bravais_class.json"
    for text in ("{", '{"train": {}}', '{"train": {"a.jpg": 9}, "test": {}}'):
        damaged.write_text(text)
        with pytest.raises(PublishedLabelsError, match="does not hold"):
            read_labels(damaged)


def test_items_are_those_with_a_label(items):
    assert items.height > 20
    assert set(items["split"]) == {"train", "test"}
    with pytest.raises(ValueError, match="none of the slabs"):
        published_items(items.select("native_id", "split", "label").head(0), items.drop("native_id", "split", "label"))


def test_features_know_the_vector_along_x_but_not_the_basis():
    primitive = np.array([[2.0, 1.5], [-2.0, 1.5]])
    other = np.array([[1, 1], [0, 1]]) @ primitive
    assert np.allclose(lattice_features(primitive), lattice_features(other))
    length, spacing, offset, first, second, _ = lattice_features(primitive)[:6]
    assert (length, spacing, offset) == pytest.approx((4.0, 1.5, 0.5))
    assert first == pytest.approx(2.5 - 4.0) == second
    turned = primitive @ np.array([[0.8, 0.6], [-0.6, 0.8]])
    assert lattice_features(turned)[0] != pytest.approx(4.0)


def test_the_blind_reader_maps_to_the_most_frequent_label():
    labels = ["oblique", "oblique", "rhombic", "square", "square"]
    train = pl.DataFrame({"bravais_lattice": ["rhombic"] * 3 + ["square"] * 2, "label": labels})
    assert [BRAVAIS_LATTICES[i] for i in blind_answers(train, ["rhombic", "square"])] == ["oblique", "square"]


def test_readers_reach_more_than_the_majority(items):
    figures = reader_figures(items)
    assert figures["majority_class"] < figures["blind_reader"] <= 1


def test_images_have_their_first_vector_along_x(items):
    row = items.filter(pl.col("bravais_lattice") == "rectangular").head(1)
    (image,) = images(row)
    length = float(np.reshape(row["cell_angstrom"][0], (3, 3))[0, 0])
    assert image.shape == (256, 256)
    spectrum = np.abs(np.fft.rfft(image[:, : round(10 * length / 0.2)].mean(axis=0)))
    strong = np.flatnonzero(spectrum > 0.2 * spectrum[1:].max())
    assert all(abs(number / 10 - round(number / 10)) <= 0.11 for number in strong)


def test_the_finder_reads_images_without_noise(items):
    figures = finder_figures(items, most=8)
    assert figures["n"] == 8
    assert figures["finder_sound"] >= 0.75


@pytest.mark.parametrize("network", ["compact", "densenet121"])
def test_training_on_the_published_labels(items, tmp_path, network):
    few = pl.concat(
        [items.filter(pl.col("split") == "train").head(12), items.filter(pl.col("split") == "test").head(4)]
    )
    chosen = PublishedBenchmarkParameters(network=network, epochs=1, edge_px=32, batch_size=4)
    figures = train_published(few, chosen, scratch=tmp_path, device="cpu")
    assert figures["n_test"] == 4
    assert 0 < figures["n_train"] < 12
    assert 0 <= figures["accuracy"] <= 1
    assert figures["epochs"] == 1


def test_validation_is_part_of_the_train_ids_only(items):
    parts = module._three_parts(items, PublishedBenchmarkParameters(train_most=20))
    assert parts["train"].height + parts["val"].height == 20
    assert set(pl.concat([parts["train"], parts["val"]])["split"]) == {"train"}
    assert set(parts["test"]["split"]) == {"test"}


def test_rows_hold_the_published_figure_and_intervals():
    published, own = comparison_rows({"reader": 0.8}, 1252)
    assert published["accuracy"] == 0.8304
    assert own["low"] == pytest.approx(0.777, abs=2e-3)
    assert own["high"] == pytest.approx(0.821, abs=2e-3)
