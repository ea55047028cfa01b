"""Weights that a user has: taken where they fit, refused where they do not, in no identity where there are none."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from atomvision_ml.models import lattice_cnn, segmenter
from atomvision_ml.models._torchvision import ensure_torchvision
from atomvision_ml.models.backbones import sentence, start_from
from atomvision_ml.models.checkpoint import ModelCard, save_checkpoint
from atomvision_ml.models.lattice_cnn import LatticeCnnParameters
from atomvision_ml.models.segmenter import GaussianSegmenterParameters, SegmenterParameters, load_segmenter
from atomvision_ml.models.segmenter_training import SegmenterLearner
from atomvision_ml.models.training_run import TrainingData
from atomvision_ml.storage.blobs import file_sha256

TINY = {"decoder_width": 4, "crop_px": 32, "validation_images": 1}


@pytest.fixture(scope="module")
def colour_weights(tmp_path_factory):
    """An encoder for colours, with further layers, as torch hub keeps it."""
    ensure_torchvision()
    import segmentation_models_pytorch as smp

    with torch.random.fork_rng():
        torch.manual_seed(5)
        weights = smp.encoders.get_encoder("resnet18", in_channels=3, weights=None).state_dict()
    path = tmp_path_factory.mktemp("hub") / "resnet18-12345678.pth"
    torch.save({**weights, "fc.weight": torch.zeros(1000, 512)}, path)
    return path, weights


@pytest.mark.parametrize("kind", [SegmenterParameters, GaussianSegmenterParameters, LatticeCnnParameters])
def test_what_is_not_used_is_in_no_identity(kind):
    assert "backbone_weights" not in kind().model_dump()
    assert "backbone_weights" not in kind(backbone_weights=None).model_dump_json()
    assert kind(**kind().model_dump()) == kind()


def test_the_encoder_starts_from_the_file(small_set, colour_weights, tmp_path):
    path, weights = colour_weights
    parameters = SegmenterParameters(**TINY, backbone_weights=str(path))
    assert parameters.model_dump()["backbone_weights"] == f"{path}#sha256={file_sha256(path)}"
    data = TrainingData(small_set.training_set("segmentation"), small_set.open_blob, {})
    encoder = SegmenterLearner(data, parameters).network.unet.encoder.state_dict()
    assert torch.equal(encoder["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])
    grey = encoder["conv1.weight"].sum(dim=1)
    torch.testing.assert_close(grey, weights["conv1.weight"].sum(dim=1))
    assert file_sha256(path) in sentence(parameters.backbone_weights)

    network = segmenter.build_network(parameters)
    card = ModelCard(name="segmenter", task="segmentation", description="", intended_use="", limits=[], trained_on="")
    save_checkpoint(tmp_path / "made", parameters=parameters, card=card, weights=network.state_dict())
    gone = parameters.model_copy(update={"backbone_weights": f"/nowhere#sha256={'0' * 64}"})
    save_checkpoint(tmp_path / "moved", parameters=gone, card=card, weights=network.state_dict())
    for name in ("made", "moved"):
        load_segmenter(tmp_path / name)


def test_densenet_starts_from_old_names(tmp_path):
    ensure_torchvision()
    from torchvision.models import densenet121

    weights = densenet121(weights=None).state_dict()
    old = {name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value for name, value in weights.items()}
    assert set(old) != set(weights)
    save_file(old, tmp_path / "old.safetensors")
    parameters = LatticeCnnParameters(architecture="densenet121", backbone_weights=str(tmp_path / "old.safetensors"))
    network = lattice_cnn.build_network(parameters)
    start_from(network.body, parameters.backbone_weights)
    for name in ("denseblock1.denselayer1.conv2.weight", "denseblock4.denselayer16.norm1.weight"):
        assert torch.equal(network.body.state_dict()[f"features.{name}"], weights[f"features.{name}"])
    first = network.body.features.conv0.weight
    assert first.shape[1] == 16
    torch.testing.assert_close(first.sum(dim=1), weights["features.conv0.weight"].sum(dim=1))


def test_files_that_do_not_fit_are_refused(colour_weights, tmp_path):
    path, weights = colour_weights
    for given, message in (("/nowhere/a.pth", "no such file"), ("cached", "no weights of nonesuch are cached")):
        with pytest.raises(ValueError, match=message):
            SegmenterParameters(encoder="nonesuch", backbone_weights=given)
    with pytest.raises(ValueError, match="no backbone"):
        LatticeCnnParameters(backbone_weights=str(path))
    encoder = segmenter.build_network(SegmenterParameters(**TINY)).unet.encoder
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    other, text, objects = (tmp_path / name for name in ("other.safetensors", "text.pth", "objects.pth"))
    save_file({"conv1.weight": weights["conv1.weight"][:, :, :3, :3].contiguous()}, other)
    text.write_text("no weights")
    torch.save([1, 2], objects)
    for file, message in ((other, "not of this architecture"), (text, "not a file"), (objects, "tensors by name")):
        with pytest.raises(ValueError, match=message):
            start_from(encoder, SegmenterParameters(backbone_weights=str(file)).backbone_weights)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    stated = SegmenterParameters(backbone_weights=str(text)).backbone_weights
    text.write_text("changed")
    with pytest.raises(ValueError, match="no longer there"):
        start_from(encoder, stated)


def test_a_file_that_torch_hub_keeps_is_found(colour_weights, monkeypatch, tmp_path):
    path, _ = colour_weights
    kept = tmp_path / "checkpoints" / path.name
    kept.parent.mkdir()
    kept.write_bytes(path.read_bytes())
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    assert SegmenterParameters(backbone_weights="cached").backbone_weights == f"{kept}#sha256={file_sha256(path)}"
