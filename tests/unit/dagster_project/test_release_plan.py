"""Which part of the graph a release needs."""

from __future__ import annotations

import dagster as dg
import pytest

from atomvision_assets.store import Store
from atomvision_ml.models.registry import UnknownModelError
from atomvision_ml.settings import Settings
from dagster_project.definitions import build_definitions
from dagster_project.release import changes, networks, release_plan


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    return build_definitions(Settings(root="unused"), Store(root=str(tmp_path_factory.mktemp("root"))))


def test_only_what_the_model_needs_is_made_and_in_order(definitions: dg.Definitions) -> None:
    names = [step.name for step in release_plan(definitions, ["segmenter"], ("prototypes",))]
    assert names[0] == "structures/records[prototypes]"
    assert names[-1] == "predictions/segmenter"
    assert "models/training_sets[segmentation]" in names
    assert "models/training_sets[lattice]" not in names
    assert not {"models/lattice_finder", "evaluation/gallery", "evaluation/metrics"} & set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", networks())
def test_every_network_can_be_released_beside_its_classical_models(definitions: dg.Definitions, name: str) -> None:
    names = [step.name for step in release_plan(definitions, [name], ("prototypes",))]
    assert {f"models/{name}", f"predictions/{name}", "evaluation/holdout"} <= set(names)
    assert names.index(f"models/{name}") < names.index(f"predictions/{name}")


def test_unknown_model_is_refused(definitions: dg.Definitions) -> None:
    with pytest.raises(UnknownModelError, match="segmenter"):
        release_plan(definitions, ["nobody"], ("prototypes",))


def test_changes_are_parameters_by_asset() -> None:
    found = changes(
        ["models/srgan.epochs=3", "models/srgan.vgg19_weights=a/file", "models/segmenter.learning_rate=1e-3"]
    )
    assert found == {
        "models/srgan": {"epochs": 3, "vgg19_weights": "a/file"},
        "models/segmenter": {"learning_rate": 1e-3},
    }


@pytest.mark.parametrize("text", ["models/srgan.epochs", "epochs=3", "models/srgan=3"])
def test_a_change_without_asset_parameter_or_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        changes([text])
