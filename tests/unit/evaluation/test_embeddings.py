import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomvision_ml.evaluation.embedding_page import preview, write_page
from atomvision_ml.evaluation.embeddings import (
    EmbeddingParameters,
    bond_angle_histogram,
    embedding_rows,
    purity_of,
    trustworthiness_of,
)
from atomvision_ml.evaluation.metrics import MetricParameters, metric_rows
from atomvision_ml.models.checkpoint import released_checkpoint
from atomvision_ml.schemas.tables import table


@pytest.fixture(scope="module")
def rows(small_set):
    networks = {name: (f"{name}@released", released_checkpoint(name)) for name in ("segmenter", "lattice_cnn")}
    return embedding_rows(small_set.holdout, small_set.open_blob, networks, EmbeddingParameters(neighbours=2))


@given(st.integers(0, 2**31), st.integers(12, 40), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_shares_of_trustworthiness_add_up_to_scikit_learns(seed, count, neighbours):
    from sklearn.manifold import trustworthiness

    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 5))
    positions = features[:, :2] + 0.5 * random.normal(size=(count, 2))
    shares = trustworthiness_of(features, positions, neighbours)
    assert shares.mean() == pytest.approx(trustworthiness(features, positions, n_neighbors=neighbours))


def test_purity_looks_at_other_groups_only():
    positions = np.array([[0, 0], [0.1, 0], [1, 0], [10, 0], [10.1, 0], [11, 0]], float)
    labels, alone = list("aabccd"), list("uvwxyz")
    assert purity_of(positions, labels, alone, 1).tolist() == [1, 1, 0, 1, 1, 0]
    assert purity_of(positions, labels, list("uuwxxz"), 1).tolist() == [0, 0, 0, 0, 0, 0]
    assert purity_of(positions, ["a"] * 6, ["one"] * 6, 2).tolist() == [0] * 6


def lattice(vectors, field=30.0):
    steps = np.stack(np.meshgrid(np.arange(-40, 40), np.arange(-40, 40)), -1).reshape(-1, 2)
    places = steps @ np.asarray(vectors) + 0.2
    return places[((places > 0) & (places < field)).all(axis=1)]


def test_angles_of_a_square_lattice_are_right_and_straight():
    histogram = bond_angle_histogram(lattice([[3, 0], [0, 3]]), (30, 30), EmbeddingParameters(bond_angstrom=3.5))
    assert histogram.sum() == pytest.approx(1)
    assert histogram[99] + histogram[100] == pytest.approx(4 / 6)
    assert histogram[0] == pytest.approx(2 / 6)


@given(st.floats(0, 360))
@settings(max_examples=10, deadline=None)
def test_angles_do_not_follow_a_rotation(angle):
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    chosen = EmbeddingParameters(angle_bins=16, bond_angstrom=3.3)
    vectors = np.array([[3, 0], [-0.7, 2.9]])
    first, second = (bond_angle_histogram(lattice(each), (30, 30), chosen) for each in (vectors, vectors @ turn))
    assert np.allclose(first, second, atol=0.02)


def test_few_atoms_have_no_angles():
    assert not bond_angle_histogram(np.zeros((0, 2)), (10, 10)).any()
    assert not bond_angle_histogram([[5, 5], [6, 5]], (10, 10)).any()


def test_every_item_is_on_every_map(small_set, rows):
    made = table("evaluation/embeddings").from_rows([{**row, "blob": "page"} for row in rows])
    items = set(small_set.holdout.filter(pl.col("task") == "embedding")["item_id"])
    names = {row["model_id"] for row in rows}
    assert names >= {"tsne_pixels", "tsne_angles", "tsne_maps", "pca_pixels", "random_positions"}
    assert names >= {"tsne_segmenter@released", "tsne_lattice_cnn@released"}
    assert made.num_rows == len(items) * len(names)
    assert {row["item_id"] for row in rows} == items


def test_metrics_are_the_means_of_the_scores(small_set, rows):
    answers = pl.DataFrame(rows)
    figures = metric_rows(answers, small_set.holdout, size="demo", parameters=MetricParameters(resamples=0))
    (value,) = [
        row["value"]
        for row in figures
        if (row["model"], row["slice"], row["metric"]) == ("tsne_angles", "all|clean", "trustworthiness")
    ]
    clean = answers.filter((pl.col("model_id") == "tsne_angles") & pl.col("item_id").str.ends_with("@clean"))
    assert value == pytest.approx(clean["trustworthiness"].mean())


def test_page_needs_nothing_from_elsewhere(small_set, rows, tmp_path):
    page = write_page(tmp_path / "page", rows, small_set.holdout, small_set.open_blob)
    text = page.read_text(encoding="utf-8")

    class Links(HTMLParser):
        found: list = []

        def handle_starttag(self, tag, attrs):
            self.found += [value for name, value in attrs if name in ("src", "href")]

    Links().feed(text)
    assert not Links.found
    assert not [url for url in re.findall(r"https?://[^\"']+", text) if "w3.org/2000/svg" not in url]
    assert text.count('"picture":') == len({row["item_id"] for row in rows})
    assert preview(rows, small_set.holdout).startswith(b"\x89PNG")


def test_too_few_images_are_refused(small_set):
    few = small_set.holdout.filter(pl.col("task") == "embedding").head(2)
    with pytest.raises(ValueError, match="at least 4 images"):
        embedding_rows(few, small_set.open_blob, {})
