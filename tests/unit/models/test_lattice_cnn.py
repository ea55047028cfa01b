import numpy as np
import polars as pl
import pytest

from atomvision_ml.images.scenes import SceneLibrary
from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.models.checkpoint import CheckpointError
from atomvision_ml.models.lattice_cnn import (
    LatticeCnnParameters,
    build_network,
    classify_lattice,
    load_lattice_cnn,
)
from atomvision_ml.models.lattice_cnn_training import (
    LatticeCnnLearner,
    balanced_classes,
    best_temperature,
    train_lattice_cnn,
)
from atomvision_ml.models.lattice_inputs import field_of_view, network_input
from atomvision_ml.models.lattice_scenes import (
    LatticeLibrary,
    LatticeSceneParameters,
    LatticeStructure,
    draw_lattice_scenes,
    in_lattice,
    pseudo_centred,
    random_cell,
)
from atomvision_ml.models.training_run import TrainingData
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES
from atomvision_ml.structures.lattice import class_strains, classify_cell
from atomvision_ml.structures.projection import primitive_projection

TINY = {"epochs": 1, "width": 4, "embedding_size": 8, "scenes_per_epoch": 20, "batch_size": 10, "validation_images": 4}


def rectangular_image(rotation=0.0, shift=(0.0, 0.0), size=128, pixel=0.2):
    structure = Projection(np.array([[0.0, 0.0], [1.1, 2.0]]), np.array([300.0, 90.0]), np.diag([3.1, 4.4]))
    return render_batch([structure], [View(pixel, size, rotation, shift)])[0]


@pytest.mark.parametrize("lattice", BRAVAIS_LATTICES)
def test_random_cells_are_of_their_class_and_clear(lattice):
    random = np.random.default_rng(1)
    for _ in range(40):
        cell = random_cell(lattice, random)
        own = classify_cell(cell)
        assert own.name == lattice
        assert class_strains(cell)[lattice] < 1e-6
        assert own.next_strain is None or own.next_strain > 0.005


def test_a_motif_keeps_its_fractions_in_a_new_lattice():
    random = np.random.default_rng(0)
    old = Projection(np.array([[0.0, 0.0], [1.0, 1.5]]), np.array([3.0, 2.0]), np.diag([3.0, 4.0]))
    new = in_lattice(LatticeStructure(old, np.array([1, 2]), "rectangular"), "hexagonal", random).projection
    assert np.allclose(new.positions_angstrom @ np.linalg.inv(new.periods_angstrom), [[0, 0], [1 / 3, 0.375]])
    assert new.area_angstrom2 == pytest.approx(old.area_angstrom2, rel=0.2)


def test_a_pseudo_centred_motif_is_primitive_in_its_supercell():
    random = np.random.default_rng(0)
    old = Projection(np.array([[0.2, 0.1], [1.0, 1.5]]), np.array([30.0, 20.0]), np.diag([3.0, 4.0]))
    for _ in range(20):
        new = pseudo_centred(LatticeStructure(old, np.array([1, 2]), "rectangular"), random).projection
        copies = len(new.weights) // 2
        assert new.area_angstrom2 == pytest.approx(copies * old.area_angstrom2)
        kinds = np.unique(new.weights, return_inverse=True)[1]
        assert len(set(kinds)) == 3
        smallest = primitive_projection(kinds + 1, new.positions_angstrom, new.periods_angstrom)
        assert len(smallest.numbers) == len(new.weights)


def test_scenes_are_balanced_reproducible_and_rightly_labelled(small_set):
    rows = small_set.training_set("lattice").filter(pl.col("split") == "train").sort("item_id").to_dicts()
    library = LatticeLibrary(SceneLibrary(rows, small_set.open_blob))

    def drawn():
        return draw_lattice_scenes(
            library, balanced_classes(15, np.random.default_rng(3)), LatticeSceneParameters(), np.random.default_rng(3)
        )

    (scenes, structures), (again, _) = drawn(), drawn()
    assert all(np.array_equal(one.seen, other.seen) for one, other in zip(scenes, again, strict=True))
    assert sorted(structure.lattice for structure in structures) == sorted(BRAVAIS_LATTICES * 3)
    for structure in structures:
        assert classify_cell(structure.projection.periods_angstrom).name == structure.lattice


@pytest.mark.parametrize(("kind", "change"), [("centred", {"shift": (1.3, 0.4)}), ("polar", {"rotation": 37.0})])
def test_maps_do_not_know_where_or_how_the_crystal_lies(kind, change):
    inputs = network_input([field_of_view(rectangular_image(**each), 0.2) for each in ({}, change)], kind)
    strong, turned = inputs[:, 0], inputs[1:, 0]
    candidates = [turned, np.roll(turned, 48, axis=-1), np.roll(turned[..., ::-1], 1, axis=-1)]
    candidates.append(np.roll(candidates[2], 48, axis=-1))
    likeness = max(np.corrcoef(strong[0].ravel(), each.ravel())[0, 1] for each in candidates)
    other = np.corrcoef(strong[0].ravel(), network_input([field_of_view(np.eye(128), 0.2)], kind)[0, 0].ravel())[0, 1]
    assert likeness > 0.95 > 0.5 > other


def test_autocorrelation_channel_peaks_at_the_periods():
    maps = network_input([field_of_view(rectangular_image(), 0.2)], "centred")[0, 2]
    assert maps[32, 32 + round(3.1 / 0.2)] > 0.9
    assert maps[32 + 22, 32] > 0.95
    assert maps[32, 32 + 8] < 0.6


def test_large_fields_of_small_cells_are_cut():
    one_atom = Projection(np.zeros((1, 2)), np.ones(1), np.diag([3.1, 4.4]))
    wide = render_batch([one_atom], [View(0.25, 512)])[0]
    assert np.allclose(field_of_view(wide, 0.25).std(), 1, atol=1e-3)
    peaks = network_input([field_of_view(wide, 0.25)], "centred")[0, 2]
    assert 6 <= 34 + np.argmax(peaks[32, 34:44]) - 32 <= 8


@pytest.mark.parametrize("inputs", ["polar", "centred", "pixels"])
@pytest.mark.parametrize("architecture", ["compact", "densenet121"])
def test_architectures_and_inputs(architecture, inputs):
    import torch

    network = build_network(LatticeCnnParameters(architecture=architecture, inputs=inputs, width=4)).eval()
    seen = torch.from_numpy(network_input([field_of_view(rectangular_image(), 0.2)] * 2, inputs))
    with torch.inference_mode():
        assert network(seen).shape == (2, 5)
        assert network.features(seen).shape == (2, 64)


def test_temperature_makes_overconfident_logits_honest():
    random = np.random.default_rng(0)
    true = random.normal(size=(4000, 5))
    chances = np.exp(true) / np.exp(true).sum(axis=1, keepdims=True)
    truth = np.array([random.choice(5, p=row) for row in chances])
    temperature, score = best_temperature(3 * true, truth)
    assert temperature == pytest.approx(3, rel=0.15)
    assert score == pytest.approx(float(np.mean(np.log(chances[np.arange(4000), truth]))), abs=0.01)


@pytest.fixture(scope="module")
def trained(small_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lattice_cnn")
    return train_lattice_cnn(
        small_set.training_set("lattice"),
        small_set.open_blob,
        LatticeCnnParameters(**TINY),
        scratch=folder,
        device="cpu",
    )


def test_training_gives_a_calibrated_checkpoint_that_predicts(trained, small_set):
    assert trained.card.task == "lattice"
    assert load_lattice_cnn(trained.folder).network.temperature.item() == pytest.approx(
        trained.card.training["validation"]["val_temperature"], abs=1e-3
    )
    result = classify_lattice(rectangular_image(), 0.2, trained.folder)
    assert sum(result.probabilities.values()) == pytest.approx(1)
    assert result.lattice == max(result.probabilities, key=result.probabilities.get)
    assert result.model.startswith("lattice_cnn@")
    brighter = classify_lattice(7 * rectangular_image() + 3, 0.2, trained.folder)
    assert brighter.probabilities == pytest.approx(result.probabilities, abs=1e-3)


def test_the_network_learns(small_set):
    import torch

    parameters = LatticeCnnParameters(**{**TINY, "width": 8, "inputs": "centred", "dropout": 0})
    learner = LatticeCnnLearner(TrainingData(small_set.training_set("lattice"), small_set.open_blob, {}), parameters)
    batch = next(learner.batches(0))
    optimiser = torch.optim.AdamW(learner.network.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = learner.loss(batch, torch.device("cpu"))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_an_epoch_is_reproducible_and_repeats_its_scenes(small_set):
    parameters = LatticeCnnParameters(**{**TINY, "repeats": 2})
    data = TrainingData(small_set.training_set("lattice"), small_set.open_blob, {})
    first, second = (list(LatticeCnnLearner(data, parameters).batches(1)) for _ in range(2))
    assert len(first) == 4
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    assert sorted(np.concatenate([batch[1] for batch in first[:2]])) == sorted(
        np.concatenate([batch[1] for batch in first[2:]])
    )


def test_bad_images_and_folders_are_refused(trained, tmp_path):
    with pytest.raises(ValueError, match="too small"):
        classify_lattice(np.ones((10, 10)), 0.2, trained.folder)
    with pytest.raises(ValueError, match="positive"):
        classify_lattice(rectangular_image(), 0.0, trained.folder)
    with pytest.raises(CheckpointError):
        classify_lattice(rectangular_image(), 0.2, tmp_path)


def test_a_constant_image_gets_probabilities(trained):
    result = classify_lattice(np.full((64, 64), 3.0), 0.2, trained.folder)
    assert sum(result.probabilities.values()) == pytest.approx(1)


def test_every_item_gets_one_answer_with_probabilities(trained, small_set):
    from atomvision_ml.evaluation.tasks.lattice import predict_by_network

    items = small_set.holdout.filter(pl.col("task") == "lattice").head(6)
    answers = predict_by_network(items, small_set.open_blob, checkpoint=trained.folder, model_id="lattice_cnn@1")
    table = pl.DataFrame(answers)
    assert sorted(table["item_id"]) == sorted(items["item_id"])
    assert set(table["model_id"]) == {"lattice_cnn@1"}
    assert all(sum(values) == pytest.approx(1) for values in table["probabilities"])
    truth = dict(items.select("item_id", "bravais_lattice").iter_rows())
    assert all(row["is_correct"] == (row["lattice"] == truth[row["item_id"]]) for row in table.iter_rows(named=True))
