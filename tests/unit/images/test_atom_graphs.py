from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from atomvision_ml.images.atom_graphs import (
    AtomGraphs,
    GraphParameters,
    angle_cosines,
    angle_histogram,
    build_graphs,
    line_graph,
)
from atomvision_ml.images.columns import nearest_columns_angstrom
from atomvision_ml.images.detector import poisson_counts
from atomvision_ml.images.graph_set import GraphSet, audit_graph_set, write_graph_set
from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.images.stem_set import StemSet

HONEYCOMB = Projection(
    np.array([[0.0, 0.0], [0.0, 1.84]]),
    np.array([42.0, 2 * 16.0]) ** 1.7,
    3.18 * np.array([[1, 0], [-0.5, 3**0.5 / 2]]),
)


def picture(projection=HONEYCOMB, size=128, pixel=0.2, rotation=11.0, shift=(0.3, 0.7)):
    return render_batch([projection], [View(pixel, size, rotation, shift)])[0]


def test_repeats_are_the_lattice_translations():
    view = View(0.2, 128, 23.0, (0.4, 0.9))
    image = render_batch([HONEYCOMB], [view])[0]
    periods = HONEYCOMB.periods_angstrom @ view.rotation.T
    for exposed in (image, poisson_counts(image, 0.2, 1000, 3)):
        graph = build_graphs(exposed, 0.2)[0]
        fractions = graph.repeat_steps_angstrom() @ np.linalg.inv(periods)
        off = np.linalg.norm((fractions - np.rint(fractions)) @ periods, axis=1)
        assert (off < 0.35).mean() > 0.97
        assert len(graph.repeats) > 4 * graph.is_inside.sum()


@pytest.mark.parametrize("pixel", [0.1, 0.15, 0.25])
def test_atoms_lie_where_the_columns_are(pixel):
    size = round(24 / pixel)
    view = View(pixel, size, 31.0, (0.5, 0.2))
    graph = build_graphs(render_batch([HONEYCOMB], [view])[0], pixel)[0]
    assert len(graph.positions_angstrom) > 80
    fractions = (
        (graph.positions_angstrom - view.shift_angstrom) @ view.rotation @ np.linalg.inv(HONEYCOMB.periods_angstrom)
    )
    sites = HONEYCOMB.positions_angstrom @ np.linalg.inv(HONEYCOMB.periods_angstrom)
    steps = fractions[:, None] - sites
    apart = np.linalg.norm((steps - np.rint(steps)) @ HONEYCOMB.periods_angstrom, axis=2).min(axis=1)
    assert np.median(apart[graph.is_inside]) < 0.02


def test_a_batch_is_its_images_one_by_one():
    images = np.stack([picture(rotation=r) for r in (0.0, 20.0, 77.0)] + [np.zeros((128, 128), np.float32)])
    together = build_graphs(images, 0.2)
    assert len(together) == 4
    for number, image in enumerate(images):
        alone, part = build_graphs(image, 0.2)[0], together[number]
        for name in ("positions_angstrom", "bonds", "repeats", "is_inside"):
            assert np.allclose(getattr(alone, name), getattr(part, name), atol=1e-4), name
    assert len(together[3].positions_angstrom) == 0
    joined = AtomGraphs.join([together[n] for n in range(4)])
    assert np.array_equal(joined.bonds, together.bonds)
    assert np.array_equal(joined.repeat_offsets, together.repeat_offsets)


@given(rotation=st.floats(0, 360), x=st.floats(0, 3), y=st.floats(0, 3))
@settings(max_examples=12, deadline=None)
def test_features_do_not_know_the_pose(rotation, x, y):
    """Numbers of neighbours, bond lengths, angles and intensities of whole surroundings are those of the crystal."""

    def facts(graph):
        inner = graph.is_inside[graph.bonds[:, 0]]
        lengths = np.linalg.norm(graph.steps_angstrom()[inner], axis=1)
        histogram = angle_histogram(graph, 20)
        bright = np.sort(graph.intensities[graph.is_inside, 2])
        n = graph.is_inside.sum()
        return (
            inner.sum() / n,
            np.quantile(lengths, (0.1, 0.5, 0.9)),
            histogram / histogram.sum(),
            np.quantile(bright, (0.2, 0.8)),
        )

    first, second = (
        facts(build_graphs(picture(size=192, **pose), 0.2)[0]) for pose in ({}, {"rotation": rotation, "shift": (x, y)})
    )
    assert first[0] == pytest.approx(second[0], rel=0.05)
    assert np.allclose(first[1], second[1], atol=0.03)
    assert np.abs(first[2] - second[2]).max() < 0.05
    assert np.allclose(first[3], second[3], atol=0.05)


def test_brightness_and_contrast_do_not_matter():
    image = picture().astype(float)
    one, other = build_graphs(image, 0.2), build_graphs(5e4 * image - 300, 0.2)
    assert np.allclose(one.positions_angstrom, other.positions_angstrom, atol=1e-3)
    assert np.allclose(one.intensities, other.intensities, atol=1e-3)


def test_line_graph_and_angles_of_a_square():
    edges = np.array([[0, 1], [1, 0], [1, 2], [2, 1]], np.int32)
    first, second = line_graph(edges, 3)
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 2), (3, 1)]
    cosines = angle_cosines(np.array([[1, 0], [-1, 0], [0, 2], [0, -2]]), first, second)
    assert np.allclose(cosines, 0)
    straight = angle_cosines(np.array([[1, 0], [-1, 0], [3, 0], [-3, 0]]), first, second)
    assert np.allclose(straight, -1)


@pytest.mark.parametrize(
    ("image", "pixel", "message"),
    [
        (np.zeros(9), 0.1, r"\(n, y, x\)"),
        (np.zeros((4, 40)), 0.1, "at least 8 pixels"),
        (np.full((40, 40), np.nan), 0.1, "1600 pixels are not finite"),
        (np.ones((40, 40)), -0.1, "must be positive"),
    ],
)
def test_bad_images_are_named(image, pixel, message):
    with pytest.raises(ValueError, match=message):
        build_graphs(image, pixel)


def test_nearest_columns():
    assert nearest_columns_angstrom(HONEYCOMB) == pytest.approx(1.836, abs=0.01)
    one = Projection(np.zeros((1, 2)), np.ones(1), np.array([[2.5, 0], [0.5, 4]]))
    assert nearest_columns_angstrom(one) == pytest.approx(2.5)
    pair = Projection(np.array([[0, 0], [0.05, 0], [2.0, 0]]), np.ones(3), np.array([[2.5, 0], [0, 4]]))
    assert nearest_columns_angstrom(pair) == pytest.approx(0.525)
    assert cKDTree(pair.positions_angstrom).query(pair.positions_angstrom, k=2)[0][:, 1].min() == pytest.approx(0.05)


@pytest.fixture(scope="module")
def graph_set(small_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs") / "set"
    images = StemSet.open(small_set.folder)
    calls = []
    rows = write_graph_set(images, folder, identity="small", progress=lambda *done: calls.append(done))
    assert calls[-1] == (len(images), len(images))
    assert not folder.with_name("set.unfinished").exists()
    stored = GraphSet.open(folder)
    fields = small_set.images.sort("index")["field_angstrom"].to_list()
    return stored.graphs, rows, fields, stored.parameters


def test_a_set_passes_its_audits(graph_set, small_set):
    results = audit_graph_set(*graph_set)
    assert len(results) == 7
    assert all(result.passed for result in results), [result.line() for result in results]
    assert [row["image_id"] for row in graph_set[1]] == small_set.images.sort("index")["image_id"].to_list()


@pytest.mark.parametrize(
    ("fault", "caught"),
    [
        (
            lambda g: replace(g, bonds=np.where(np.arange(len(g.bonds))[:, None] == 5, 0, g.bonds)),
            "bonds_are_symmetric",
        ),
        (lambda g: replace(g, positions_angstrom=g.positions_angstrom * np.float32(1.02)), "bonds_are_short"),
        (lambda g: replace(g, positions_angstrom=g.positions_angstrom * np.float32(0.9)), "bonds_are_complete"),
        (lambda g: replace(g, is_inside=np.ones_like(g.is_inside)), "masked_atoms_are_at_the_edge"),
        (lambda g: replace(g, intensities=g.intensities[:, ::-1]), "intensities_are_ordered"),
        (lambda g: replace(g, repeats=g.repeats[1:]), "counts_agree"),
    ],
)
def test_planted_faults_are_found(graph_set, fault, caught):
    graphs, rows, fields, parameters = graph_set
    failed = {result.name for result in audit_graph_set(fault(graphs), rows, fields, parameters) if not result.passed}
    assert caught in failed


def test_missing_columns_are_found(graph_set):
    graphs, rows, fields, parameters = graph_set
    blind = [{**row, "column_recall": 0.1} for row in rows]
    failed = {result.name for result in audit_graph_set(graphs, blind, fields, parameters) if not result.passed}
    assert failed == {"atoms_agree_with_columns"}


def test_an_interrupted_set_goes_on(small_set, tmp_path, monkeypatch):
    from atomvision_ml.images import graph_set as module

    images = StemSet.open(small_set.folder)
    monkeypatch.setattr(module, "SHARD_IMAGES", 8)
    whole = write_graph_set(images, tmp_path / "whole", identity="x")
    made = []
    original = module._graphs_of

    def counted(images, shard, parameters):
        made.append(shard.start)
        if len(made) == 3 and shard.start >= 8:
            raise KeyboardInterrupt
        return original(images, shard, parameters)

    monkeypatch.setattr(module, "_graphs_of", counted)
    with pytest.raises(KeyboardInterrupt):
        write_graph_set(images, tmp_path / "set", identity="x")
    before = len(list((tmp_path / "set.unfinished").glob("*.npz")))
    assert before > 0
    made.clear()
    monkeypatch.setattr(module, "_graphs_of", lambda *args: made.append(args[1].start) or original(*args))
    assert write_graph_set(images, tmp_path / "set", identity="x") == whole
    assert len(made) == -(-len(images) // 8) - before
    first, second = (GraphSet.open(tmp_path / name).graphs for name in ("whole", "set"))
    assert np.array_equal(first.positions_angstrom, second.positions_angstrom)
    with pytest.raises(ValueError, match="no Zarr group"):
        GraphSet.open(tmp_path / "nothing")


def test_no_repeats_are_made_if_none_are_wanted():
    graph = build_graphs(picture(), 0.2, GraphParameters(n_repeats=0))
    assert len(graph.repeats) == 0
    assert len(graph.bonds) > 0
