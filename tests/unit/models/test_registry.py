import subprocess
import sys

import pytest

from atomvision_ml.models.registry import UnknownModelError, create_model, model_names, model_spec


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(UnknownModelError, match="registered are lattice_finder, "):
        create_model("densenet999")


def test_every_entry_resolves():
    for name in model_names():
        spec = model_spec(name)
        assert spec.parameters_class().model_config["frozen"]
        assert callable(spec.predictor())
        assert spec.limits


def test_names_by_task():
    assert "segmenter" in model_names("segmentation")
    assert {"lattice_finder", "lattice_cnn"} <= set(model_names("lattice"))


def test_parameters_are_validated():
    with pytest.raises(ValueError, match="epochs"):
        create_model("segmenter", epochs=0)


def test_network_and_function():
    network = create_model("segmenter", encoder_depth=2, decoder_width=4)
    assert sum(parameter.numel() for parameter in network.parameters()) < 300_000
    assert callable(create_model("lattice_finder"))


def test_import_is_cheap():
    code = (
        "import sys, atomvision_ml.models.registry, atomvision_ml.models.checkpoint, atomvision_ml.models.segmenter,"
        "atomvision_ml.evaluation.gallery.build, atomvision_ml.evaluation.tasks, atomvision_ml.evaluation.promotion;"
        "heavy = ('torch', 'skimage', 'sklearn', 'matplotlib', 'segmentation_models_pytorch');"
        "print([name for name in heavy if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
