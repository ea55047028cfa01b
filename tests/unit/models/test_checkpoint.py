import json

import pytest

from atomvision_ml.models.checkpoint import (
    CheckpointError,
    ModelCard,
    classical_checkpoint,
    find_checkpoint,
    load_checkpoint,
    model_row,
    released_checkpoint,
    save_checkpoint,
    update_card,
)
from atomvision_ml.models.lattice_finder import LatticeFinderParameters
from atomvision_ml.models.segmenter import SegmenterParameters
from atomvision_ml.schemas.tables import table

CARD = ModelCard(
    name="segmenter", task="segmentation", description="d", intended_use="u", limits=["l"], trained_on="nothing"
)


def save(folder, **changes):
    import torch

    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.running_mean": torch.zeros(5)}
    values = {"parameters": SegmenterParameters(epochs=3), "card": CARD, "weights": weights, **changes}
    return save_checkpoint(folder, **values)


def test_round_trip(tmp_path):
    import torch

    made = save(tmp_path / "c", curves=[{"epoch": 0, "train_loss": 1.0}], curves_picture=b"png")
    read = load_checkpoint(tmp_path / "c")
    assert read == made
    assert read.parameters["epochs"] == 3
    assert read.n_parameters == 6
    assert torch.equal(read.weights()["a.weight"], torch.arange(6.0).reshape(2, 3))
    assert read.curves() == [{"epoch": 0, "train_loss": 1.0}]


def test_row_fulfils_the_contract(tmp_path):
    row = model_row(save(tmp_path), version="0123456789ab", size="demo", blob="b")
    assert table("models/segmenter").from_rows([row]).num_rows == 1
    assert row["model_id"] == "segmenter@0123456789ab"


def test_classical_has_no_weights(tmp_path):
    made = classical_checkpoint("lattice_finder", LatticeFinderParameters(), tmp_path)
    assert made.n_parameters == 0
    with pytest.raises(CheckpointError, match="no weights"):
        made.weights()
    assert table("models/lattice_finder").from_rows([model_row(made, version="v", size="demo", blob="b")]).num_rows


def test_card_can_be_completed(tmp_path):
    made = update_card(save(tmp_path), metrics=[{"metric": "iou", "value": 0.9}])
    assert load_checkpoint(tmp_path).card.metrics == made.card.metrics == [{"metric": "iou", "value": 0.9}]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("parameters.json", None, "parameters.json"),
        ("parameters.json", "{", "parameters.json"),
        ("parameters.json", json.dumps({"model": "nobody", "parameters": {}}), "unknown model"),
        ("parameters.json", json.dumps({"model": "segmenter", "parameters": {"bogus": 1}}), "bogus"),
        ("parameters.json", json.dumps({"model": "lattice_finder", "parameters": {}}), "card.json"),
        ("card.json", "{}", "intended_use"),
        ("weights.safetensors", "not weights", "weights.safetensors"),
        ("weights.safetensors", None, "weights.safetensors"),
    ],
)
def test_damage_is_named(tmp_path, file, content, message):
    save(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


def test_old_files_do_not_survive(tmp_path):
    save(tmp_path, curves_picture=b"png")
    save(tmp_path)
    assert not (tmp_path / "curves.png").exists()


def test_find_by_folder_and_name(tmp_path):
    save(tmp_path / "c")
    assert find_checkpoint(tmp_path / "c") == tmp_path / "c"
    assert find_checkpoint("segmenter") == released_checkpoint("segmenter")
    with pytest.raises(CheckpointError, match="neither a checkpoint folder"):
        find_checkpoint("nowhere")


def test_released_segmenter_is_small_and_says_how_good_it_is():
    folder = released_checkpoint("segmenter")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
    checkpoint = load_checkpoint(folder)
    models = {figure["model"] for figure in checkpoint.card.metrics}
    assert {"segmenter", "otsu", "laplacian_of_gaussian", "all_background"} <= models
    assert checkpoint.card.how_to_make
