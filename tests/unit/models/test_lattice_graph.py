import os
import subprocess
import sys

import numpy as np
import pytest

from atomvision_ml.images.atom_graphs import build_graphs
from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.models.checkpoint import CheckpointError
from atomvision_ml.models.lattice_graph import (
    LatticeGraphParameters,
    NoAtomsError,
    build_network,
    classify_graph,
    load_lattice_graph,
    network_input,
)
from atomvision_ml.models.lattice_graph_training import LatticeGraphLearner, recoloured, train_lattice_graph
from atomvision_ml.models.registry import create_model
from atomvision_ml.models.training import RESUME_FILE
from atomvision_ml.models.training_run import TrainingData
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES

TINY = {
    "epochs": 2,
    "batch_size": 4,
    "scenes_per_epoch": 8,
    "patches": 1,
    "width": 8,
    "training_atoms": 12,
    "use_atoms": 20,
    "use_repeats": 8,
    "validation_images": 2,
    "backend": "torch",
}
SQUARE = Projection(np.array([[0.0, 0.0], [2.0, 2.0]]), np.array([900.0, 200.0]), 4.0 * np.eye(2))


@pytest.fixture
def backends():
    pytest.importorskip("dgl")
    from atomvision_ml.models.graphs.ops import graph_ops

    return graph_ops("torch"), graph_ops("dgl")


def random_graph(seed, n_nodes=7, n_edges=24):
    import torch

    random = np.random.default_rng(seed)
    pairs = np.unique(random.integers(0, n_nodes, (n_edges, 2)), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return torch.from_numpy(pairs[:, 0].copy()), torch.from_numpy(pairs[:, 1].copy()), n_nodes


def test_backends_make_the_same_line_graph(backends):
    found = []
    for ops in backends:
        graph = ops.batch([ops.build(*random_graph(seed)) for seed in range(3)])
        first, second = ops.ends(ops.line_graph(graph))
        found.append(sorted(zip(first.tolist(), second.tolist(), strict=True)))
        source, target = (end.numpy() for end in ops.ends(graph))
        for a, b in found[-1]:
            assert target[a] == source[b]
            assert source[a] != target[b]
    assert found[0] == found[1]
    assert len(found[0]) > 50


def test_backends_agree_in_outputs_and_gradients():
    """The whole network in float64 on one batch: the same log-odds, the same gradients of every weight."""
    pytest.importorskip("dgl")
    import torch

    graphs = [
        build_graphs(render_batch([SQUARE], [View(0.2, 128, angle, (0.3, 0.8))])[0], 0.2)[0] for angle in (0.0, 33.0)
    ]
    answers = []
    for backend in ("torch", "dgl"):
        parameters = LatticeGraphParameters(**{**TINY, "backend": backend})
        network = build_network(parameters).double().eval()
        assert (network.bonds.ops.name, network.repeats.ops.name) == (backend, backend)
        odds = network(network_input(graphs, parameters))
        torch.nn.functional.cross_entropy(odds, torch.tensor([1, 3])).backward()
        answers.append((odds.detach(), {name: weight.grad for name, weight in network.named_parameters()}))
    (odds, gradients), (others, other_gradients) = answers
    assert odds.dtype == torch.float64
    assert torch.allclose(odds, others, atol=1e-10)
    used = {name for name, gradient in gradients.items() if gradient is not None}
    assert used == {name for name, gradient in other_gradients.items() if gradient is not None}
    assert len(used) > 0.8 * len(gradients)
    assert all(torch.allclose(gradients[name], other_gradients[name], atol=1e-10) for name in used)
    assert sum(float(gradients[name].abs().sum()) for name in used) > 1e-3


def test_a_gated_mean_is_weighted_by_its_gates(backends):
    import torch

    for ops in backends:
        graph = ops.build(torch.tensor([0, 1]), torch.tensor([2, 2]), 4)
        gates = torch.tensor([[0.25], [0.75]], dtype=torch.float64)
        values = torch.tensor([[4.0], [8.0], [1.0], [1.0]], dtype=torch.float64)
        assert torch.allclose(
            ops.gated_mean(graph, gates, values)[:, 0], torch.tensor([0, 0, 7.0, 0]).double(), atol=1e-4
        )


def test_an_unknown_backend_is_named():
    from atomvision_ml.models.graphs.ops import graph_ops

    with pytest.raises(ValueError, match="known are auto, dgl, torch"):
        graph_ops("networkx")


def test_dgl_needs_no_environment(tmp_path):
    """Imported without DGLBACKEND it neither asks nor writes into the home folder."""
    pytest.importorskip("dgl")
    environment = {key: value for key, value in os.environ.items() if key != "DGLBACKEND"} | {"HOME": str(tmp_path)}
    code = "from atomvision_ml.models.graphs.ops import graph_ops; print(graph_ops('dgl').name)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "dgl\n"
    assert not (tmp_path / ".dgl").exists()


def test_the_network_does_not_know_pose_or_order():
    """Turned, shifted and renumbered graphs get the same log-odds; what is said of a graph is its own affair."""
    import torch

    parameters = LatticeGraphParameters(**{**TINY, "use_atoms": 500, "use_repeats": 500})
    network = build_network(parameters).double().eval()
    graph = build_graphs(render_batch([SQUARE], [View(0.2, 128, 12.0, (0.3, 0.8))])[0], 0.2)[0]
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    order = np.random.default_rng(0).permutation(len(graph.positions_angstrom))
    back = np.argsort(order).astype(np.int32)
    turned = type(graph)(
        graph.atom_offsets,
        (graph.positions_angstrom @ turn.T + np.float32(5))[order],
        graph.intensities[order],
        graph.is_inside[order],
        graph.bond_offsets,
        back[graph.bonds],
        graph.repeat_offsets,
        back[graph.repeats],
        graph.differences,
    )
    with torch.inference_mode():
        alone = network(network_input([graph], parameters))
        both = network(network_input([graph, turned], parameters))
    assert torch.allclose(both[:1], alone, atol=1e-9)
    assert torch.allclose(both[1:], alone, atol=1e-4)
    other = type(graph)(*[getattr(graph, name) for name in graph.__dataclass_fields__])
    other.intensities[:] = 1 - other.intensities
    with torch.inference_mode():
        assert not torch.allclose(network(network_input([other], parameters)), alone, atol=1e-4)


def test_small_training_is_resumed_and_answers(small_set, tmp_path):
    checkpoint = train_lattice_graph(
        small_set.training_set("lattice"),
        small_set.open_blob,
        LatticeGraphParameters(**TINY),
        scratch=tmp_path,
        device="cpu",
    )
    assert (tmp_path / RESUME_FILE).exists()
    assert {"val_accuracy_clean", "val_log_likelihood"} <= set(checkpoint.curves()[0])
    image = render_batch([SQUARE], [View(0.2, 128, 12.0)])[0]
    result = classify_graph(image, 0.2, checkpoint.folder)
    assert result.lattice in BRAVAIS_LATTICES
    assert sum(result.probabilities.values()) == pytest.approx(1)
    assert result.model == load_lattice_graph(checkpoint.folder).label
    assert len(result.graph.positions_angstrom) > 20
    with pytest.raises(NoAtomsError, match="0 atoms are found"):
        classify_graph(np.ones((64, 64)), 0.2, checkpoint.folder)
    with pytest.raises(ValueError, match=r"\[y, x\]"):
        classify_graph(np.ones((2, 64, 64)), 0.2, checkpoint.folder)
    with pytest.raises(CheckpointError):
        classify_graph(image, 0.2, "nobody")


def test_batches_depend_on_nothing_but_the_epoch(small_set):
    data = TrainingData(small_set.training_set("lattice"), small_set.open_blob, {})
    first, second = (LatticeGraphLearner(data, LatticeGraphParameters(**TINY)) for _ in range(2))
    list(first.batches(0))
    for (a, labels), (b, other) in zip(first.batches(1), second.batches(1), strict=True):
        assert np.array_equal(labels, other)
        for part, same in zip([*a.bonds, *a.repeats], [*b.bonds, *b.repeats], strict=True):
            assert np.array_equal(part.steps_angstrom, same.steps_angstrom)
    known = {row["item_id"] for row in data.rows("train")}
    assert {row["item_id"] for row in first._train.rows} <= known


def test_recolouring_keeps_what_is_equal():
    projection = Projection(np.zeros((4, 2)), np.array([1.0, 2.0, 1.0, 3.0]), np.eye(2) * 3)
    drawn = recoloured(projection, np.random.default_rng(1))
    assert drawn.weights[0] == drawn.weights[2]
    assert len(np.unique(drawn.weights)) == 3
    assert not np.allclose(drawn.periods_angstrom, projection.periods_angstrom)


def test_the_published_features_alone_make_a_network():
    network = create_model("lattice_graph", repeat_layers=0, width=8, backend="torch")
    assert network.repeats is None
    with pytest.raises(ValueError, match="needs bond_layers or repeat_layers"):
        create_model("lattice_graph", repeat_layers=0, bond_layers=0)


def test_the_published_route_and_both_backends_are_measured():
    pytest.importorskip("networkx")
    from atomvision_ml.models.graphs.benchmark import graph_benchmark_rows, published_graph

    rows = list(graph_benchmark_rows(None, n_structures=3))
    assert [row["benchmark"] for row in rows[:2]] == ["atom_graphs", "atom_graphs_bonds_only"]
    assert all(row["ratio"] > 3 for row in rows[:2])
    assert {row["backend"] for row in rows[2:]} >= {"torch"}
    assert all(row["graphs_per_s"] > 1 for row in rows[2:])
    graph = published_graph(render_batch([SQUARE], [View(0.1, 128, 12.0)])[0])
    assert graph.number_of_nodes() > 4
    assert graph.number_of_edges() > 4


def test_the_study_trains_once_and_judges(small_set, tmp_path):
    from atomvision_ml.evaluation.lattice_graph_study import study

    arguments = (
        small_set.training_set("lattice"),
        small_set.images,
        small_set.open_blob,
        LatticeGraphParameters(**TINY),
    )
    rows = list(study(*arguments, scratch=tmp_path, maximum_images=3))
    assert {row["metric"] for row in rows} == {"macro_f1", "accuracy"}
    assert {"all|clean", "all|100"} <= {row["slice"] for row in rows}
    assert all(0 <= row["value"] <= 1 for row in rows)
    weights = (tmp_path / "checkpoint" / "weights.safetensors").stat().st_mtime_ns
    assert list(study(*arguments, scratch=tmp_path, maximum_images=3)) == rows
    assert (tmp_path / "checkpoint" / "weights.safetensors").stat().st_mtime_ns == weights
