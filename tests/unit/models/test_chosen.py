"""Models by name, version and folder in the Python API."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.build import mx2

import atomvision_ml as av
from atomvision_ml.models.checkpoint import (
    CheckpointError,
    classical_checkpoint,
    load_checkpoint,
    model_row,
    released_checkpoint,
)
from atomvision_ml.models.defect_finder import DefectFinderParameters
from atomvision_ml.schemas.tables import table
from atomvision_ml.settings import settings
from atomvision_ml.storage.lake import Lake, Version

IMAGE = av.render(mx2("MoS2", vacuum=8.0), pixel_size_angstrom=0.2, size=128, rotation_deg=11.0)


@pytest.mark.parametrize("name", ["lattice_finder", "lattice_cnn", "lattice_fusion", "lattice_graph"])
def test_all_lattice_models_by_name(name):
    model = av.load_model(name)
    assert model.name == name
    assert model(IMAGE, 0.2).lattice == "hexagonal"


def test_by_folder(tmp_path):
    classical_checkpoint("defect_finder", DefectFinderParameters(border_angstrom=6.0), tmp_path / "made")
    model = av.load_model(tmp_path / "made")
    assert model.spec.task == "defects"
    assert model(IMAGE, 0.2).n_sites < av.load_model("defect_finder")(IMAGE, 0.2).n_sites


@pytest.fixture
def lake(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOMVISION_ROOT", str(tmp_path / "root"))
    settings.cache_clear()
    yield Lake(tmp_path / "root")
    settings.cache_clear()


def test_by_version_of_the_data_root(lake, tmp_path):
    folder = Path(shutil.copytree(released_checkpoint("segmenter"), tmp_path / "copy"))
    row = model_row(load_checkpoint(folder), version="abc", size="demo", blob=lake.put_blob(folder))
    lake.publish("models/segmenter", table("models/segmenter").from_rows([row]), version=Version(code_version="1"))
    found = av.load_model("segmenter@abc")(IMAGE, 0.2)
    np.testing.assert_array_equal(found.mask, av.segment(IMAGE, 0.2).mask)
    with pytest.raises(CheckpointError, match="the data root has segmenter@abc"):
        av.load_model("segmenter@other")


def test_anything_else_is_refused(lake):
    for model, message in (("nowhere", "neither"), ("nowhere@1", "not registered"), ("segmenter@1", "no models/")):
        with pytest.raises(CheckpointError, match=message):
            av.load_model(model)
