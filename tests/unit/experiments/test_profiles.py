"""A lab's own instrument profiles reach what is ingested, what is looked at, and the version of the records."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from experiment_files import micrograph, write_dm3
from typer.testing import CliRunner

from atomvision_assets.experiments.assets import records
from atomvision_assets.experiments.inbox import Inbox
from atomvision_assets.store import Store
from atomvision_ml.cli.app import app
from atomvision_ml.settings import Settings, settings
from atomvision_ml.storage.keys import EXPERIMENTS_RECORDS
from atomvision_ml.storage.lake import Lake

PROFILE = """
name: our Titan
formats: [dm3]
instrument: Titan
constants: {instrument_id: %s}
"""
RUN_CONFIG = {"ops": {"experiments__records": {"config": {"rest_s": 0.0}}}}


def test_a_new_profile_changes_what_is_ingested(tmp_path: Path) -> None:
    day, root, folder = f"{datetime.now(UTC):%Y-%m-%d}", tmp_path / "root", tmp_path / "profiles"
    inbox, lake = Inbox.of(Settings(root=str(root), profiles=folder)), Lake(root)
    folder.mkdir()
    Path(inbox.url).mkdir(parents=True)

    def ingest(number: int, profile: str) -> bool:
        write_dm3(Path(inbox.url) / f"{number}.dm3", micrograph(rows=40 + number))
        (folder / "titan.yaml").write_text(profile)
        resources = {"store": Store(root=str(root)), "inbox": inbox}
        run = dg.materialize(
            [records], resources=resources, partition_key=day, run_config=RUN_CONFIG, raise_on_error=False
        )
        return run.success

    versions = []
    for number, identifiers in enumerate((["T-1"], ["T-1", "T-2"])):
        assert ingest(number, PROFILE % identifiers[-1])
        rows = lake.scan(EXPERIMENTS_RECORDS, day).collect()
        assert rows.sort("place")["instrument_id"].to_list() == identifiers
        versions.append(lake.facts(EXPERIMENTS_RECORDS, day).parameters["profiles_sha256"])
    assert len(set(versions)) == 2
    assert Inbox.of(Settings(root=str(root))).parameters() == {}

    assert not ingest(2, "name: x\nformats: [dm3]\nfields: {colour: [{path: a}]}")
    assert lake.scan(EXPERIMENTS_RECORDS, day).collect().height == 2
    assert "2.dm3" not in inbox.store.entries(), "a wrong profile is no fault of the file"


def test_the_commands_use_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, wrong = tmp_path / "a.dm3", tmp_path / "wrong"
    write_dm3(path, micrograph())
    (tmp_path / "titan.yaml").write_text(PROFILE % "T-1")
    wrong.mkdir()
    (wrong / "wrong.yaml").write_text("name: [")
    monkeypatch.setenv("ATOMVISION_PROFILES", str(tmp_path))
    settings.cache_clear()
    assert "T-1" in CliRunner().invoke(app, ["record", str(path)]).output
    monkeypatch.setenv("ATOMVISION_PROFILES", str(wrong))
    settings.cache_clear()
    assert "T-1" in CliRunner().invoke(app, ["record", str(path), "--profiles", str(tmp_path)]).output
    refused = CliRunner().invoke(app, ["look", str(path)])
    monkeypatch.undo()
    settings.cache_clear()
    assert refused.exit_code == 1
    assert "wrong.yaml" in refused.output
