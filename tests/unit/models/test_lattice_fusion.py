import numpy as np
import polars as pl
import pytest

from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.models import lattice_fusion_training as training
from atomvision_ml.models.checkpoint import CheckpointError
from atomvision_ml.models.lattice_cnn import LatticeCnnParameters
from atomvision_ml.models.lattice_cnn_training import class_numbers, train_lattice_cnn
from atomvision_ml.models.lattice_finder import examine_lattice, find_lattice
from atomvision_ml.models.lattice_fusion import (
    N_EVIDENCE,
    LatticeFusionParameters,
    build_fusion,
    evidence_features,
    examined,
    fuse_lattice,
)
from atomvision_ml.models.lattice_fusion_training import train_lattice_fusion

TINY_CNN = {"epochs": 1, "width": 4, "embedding_size": 8, "scenes_per_epoch": 10, "batch_size": 10}
TINY = {"epochs": 3, "hidden": 4, "scenes": 20, "batch_size": 10, "validation_images": 6}


def image(weights=(300.0, 90.0), size=128):
    structure = Projection(np.array([[0.0, 0.0], [1.55, 2.2]]), np.array(weights), np.diag([3.1, 4.4]))
    return render_batch([structure], [View(0.2, size, 20.0)])[0]


@pytest.fixture(scope="module")
def cnn(small_set, tmp_path_factory):
    return train_lattice_cnn(
        small_set.training_set("lattice"),
        small_set.open_blob,
        LatticeCnnParameters(**TINY_CNN, validation_images=4),
        scratch=tmp_path_factory.mktemp("cnn"),
        device="cpu",
    ).folder


@pytest.fixture(scope="module")
def fused(cnn, small_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fusion")
    checkpoint = train_lattice_fusion(
        small_set.training_set("lattice"),
        small_set.open_blob,
        LatticeFusionParameters(**TINY),
        cnn=cnn,
        scratch=folder,
        device="cpu",
    )
    return checkpoint, folder


def test_the_parent_of_a_pseudo_centred_cell_is_named_with_its_contrast():
    evidence = examine_lattice(image((300.0, 240.0)), 0.2)
    centred = min((each for each in evidence.parents if each.lattice == "rhombic"), key=lambda each: each.weight)
    others = [each.weight for each in evidence.parents if each is not centred]
    assert evidence.result.lattice == "rectangular"
    assert centred.weight < 0.2 < 0.5 < min(others)
    assert centred.snr > 100
    assert evidence.strains["rectangular"] < 1e-3 < evidence.strains["rhombic"]


def test_examining_does_not_change_the_answer():
    found, evidence = find_lattice(image(), 0.2), examine_lattice(image(), 0.2)
    assert found.probabilities == evidence.result.probabilities
    assert np.array_equal(found.lattice_vectors_angstrom, evidence.result.lattice_vectors_angstrom)


def test_features_are_finite_and_do_not_know_the_orientation():
    features = evidence_features(examined(image(), 0.2))
    turned = evidence_features(examined(np.rot90(image()), 0.2))
    assert features.shape == (N_EVIDENCE,)
    assert np.isfinite(features).all()
    assert np.allclose(features[:17], turned[:17], atol=0.3)
    noise = np.random.default_rng(0).normal(size=(64, 64))
    assert not evidence_features(examined(noise, 0.2)).any()


def test_before_training_the_finder_decides():
    import torch

    network = build_fusion(LatticeFusionParameters(width=4, embedding_size=8)).eval()
    features = np.zeros((1, N_EVIDENCE + 5 + 8), np.float32)
    features[0, :N_EVIDENCE] = evidence_features(examined(image(), 0.2))
    with torch.inference_mode():
        assert network(torch.from_numpy(features)).argmax().item() == 2


def test_training_gives_a_checkpoint_that_carries_the_network(fused):
    checkpoint, _ = fused
    result = fuse_lattice(image(), 0.2, checkpoint.folder)
    found = find_lattice(image(), 0.2)
    assert sum(result.probabilities.values()) == pytest.approx(1)
    assert np.allclose(result.lattice_vectors_angstrom, found.lattice_vectors_angstrom)
    assert result.model.startswith("lattice_fusion@")
    assert checkpoint.parameters["width"] == TINY_CNN["width"]
    assert 0 <= checkpoint.card.training["validation"]["val_finder_accuracy"] <= 1


def test_without_a_lattice_the_network_answers_alone(fused):
    result = fuse_lattice(np.random.default_rng(0).normal(size=(64, 64)), 0.2, fused[0].folder)
    assert result.lattice_vectors_angstrom is None
    assert sum(result.probabilities.values()) == pytest.approx(1)


def test_examined_scenes_are_kept(fused, cnn, small_set, monkeypatch):
    _, folder = fused
    monkeypatch.setattr(training, "_mapped", lambda *_: pytest.fail("examined again"))
    again = train_lattice_fusion(
        small_set.training_set("lattice"),
        small_set.open_blob,
        LatticeFusionParameters(**TINY),
        cnn=cnn,
        scratch=folder,
        device="cpu",
    )
    assert again.name == "lattice_fusion"


def test_scenes_of_a_chunk_depend_on_its_number_alone(small_set):
    rows = training.TrainingData(small_set.training_set("lattice"), small_set.open_blob, {}).rows("train")
    chosen = LatticeFusionParameters(**TINY)

    def drawn(chunk):
        return training._train_chunk(chosen, rows, {"small": small_set.folder}, 24, chunk)

    (fields, evidence, truth), (again, _, _), (other, _, rest) = drawn(1), drawn(1), drawn(0)
    assert len(truth) == 4
    assert len(rest) == 20
    assert np.array_equal(fields, again)
    assert evidence.shape == (4, N_EVIDENCE)
    assert not np.array_equal(fields, other[:4])


def test_a_wrong_checkpoint_is_refused(cnn):
    with pytest.raises(CheckpointError, match="not a lattice_fusion"):
        fuse_lattice(image(), 0.2, cnn)


def with_micrographs(small_set, folder, lattices, splits):
    """The training set with square images of a rectangular crystal, as microscopes would have taken them."""
    random = np.random.default_rng(3)
    for number in range(len(lattices)):
        (folder / f"m{number}").mkdir(parents=True)
        np.save(folder / f"m{number}" / "image.npy", random.poisson(image()[:96, : 100 + number]))
    items = small_set.training_set("lattice")
    taken = [
        {
            "item_id": f"lattice:m{number}", "task": "lattice", "image_id": f"m{number}", "source": "experiments",
            "split": split, "split_group": f"sample:{number}", "blob": f"m{number}", "index": 0,
            "pixel_size_angstrom": 0.2, "bravais_lattice": lattice, "is_ambiguous": False,
            "original_filename": f"{number}.dm3",
        }
        for number, (lattice, split) in enumerate(zip(lattices, splits, strict=True))
    ]  # fmt: skip
    return pl.concat([items, pl.DataFrame(taken, schema=items.schema)])


def load(folder):
    return np.load(folder / "image.npy").astype(np.float32)


def test_experimental_images_are_examined_beside_the_scenes_which_stay_as_they_are(cnn, fused, small_set, tmp_path):
    items = with_micrographs(small_set, tmp_path, ["rectangular", "square", "rhombic"], ["train", "val", "test"])
    checkpoint = train_lattice_fusion(
        items,
        lambda blob: tmp_path / blob if blob.startswith("m") else small_set.open_blob(blob),
        LatticeFusionParameters(**TINY),
        cnn=cnn,
        scratch=tmp_path,
        device="cpu",
        load_image=load,
    )
    former, folder = fused
    old, new = (np.load(place / training.CACHE_FILE) for place in (folder, tmp_path))
    for split, more in (("train", training.CROPS), ("val", 1)):
        assert np.array_equal(old[split], new[split][: len(old[split])])
        assert len(new[split]) == len(old[split]) + more
    assert new["train_truth"][-1] == class_numbers(["rectangular"])[0]
    assert new["val_truth"][-1] == class_numbers(["square"])[0]
    head = "head.0.weight"
    assert not np.array_equal(checkpoint.weights()[head].numpy(), former.weights()[head].numpy())
    told = checkpoint.card.training["experimental_images"]
    assert [(each["record_id"], each["split"]) for each in told] == [("m0", "train"), ("m1", "val")]
    assert "experimental_images" not in former.card.training
    assert "2 experimental images" in checkpoint.card.trained_on


def test_experimental_images_need_a_reader(cnn, small_set, tmp_path):
    items = with_micrographs(small_set, tmp_path, ["square"], ["train"])
    with pytest.raises(ValueError, match="nothing to read them with"):
        train_lattice_fusion(
            items, small_set.open_blob, LatticeFusionParameters(**TINY), cnn=cnn, scratch=tmp_path, device="cpu"
        )


def test_crops_are_parts_of_the_image():
    random = np.random.default_rng(0)
    values = np.arange(120 * 200, dtype=float).reshape(120, 200)
    edges = set()
    for _ in range(40):
        crop = training.random_crop(values, 0.5, random)
        edges.add(len(crop))
        assert crop.shape == (len(crop), len(crop))
        steps = {abs(crop[0, 1] - crop[0, 0]), abs(crop[1, 0] - crop[0, 0])}
        assert steps == {1.0, 200.0}, "turned and mirrored, not interpolated"
    assert 72 <= min(edges) < max(edges) <= 120
    assert max(training.random_crop(values, 1.5, random).shape) <= 60, "the field of the network is 90 Å"
    assert training.random_crop(values[:50, :50], 5.0, random).shape == (48, 48)
