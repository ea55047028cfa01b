"""Decisions of people about models: kept with name, time and reason, and never lost."""

from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from atomvision_ml.cli.app import app
from atomvision_ml.evaluation.decisions import DecisionError, record_decision
from atomvision_ml.evaluation.gallery.story import reigns, write_story
from atomvision_ml.evaluation.promotion import champion_rows
from atomvision_ml.schemas.tables import table
from atomvision_ml.settings import settings
from atomvision_ml.storage.lake import Lake, Version

CHAMPIONS = ("a", "a", "b", "a", None, "c")
"""Who is in office after each row of the book."""


def book(champions: tuple[str | None, ...] = CHAMPIONS) -> list[dict[str, Any]]:
    words = ("promoted", "refused", "promoted", "rejected", "rejected", "promoted")
    judged = ("a", "x", "b", "b", "a", "c")
    return [
        {
            "number": number + 1, "judged_at": datetime(2026, 11, number + 1, tzinfo=UTC), "task": "lattice",
            "model_id": f"lattice_fusion@{model}", "name": "lattice_fusion", "size": "demo", "blob": BLOB,
            "verdict": word, "reason": f"reason {number}", "decided_by": "Ada" if word == "rejected" else "rule",
            "decision_id": None, "champion_id": seat and f"lattice_fusion@{seat}", "metric": "macro_f1",
            "slices": ["unambiguous|1000"], "value": 0.9, "baseline": 0.8, "incumbent_id": None, "incumbent": None,
            "gains": [{"slice": "all|100", "gain": -0.1, "low": -0.2, "high": 0.1, "n_items": 9}],
            "trained_on": [
                {"record_id": "r1", "original_filename": "<b>1</b>.dm4", "sample_id": "S", "lattice": "square",
                 "split": "train"}
            ],
            "inputs": [{"key": "models/training_sets/lattice", "data_version": "v"}], "answers_blob": BLOB,
        }
        for number, (model, word, seat) in enumerate(zip(judged, words, champions, strict=True))
    ]  # fmt: skip


BLOB = ""


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setenv("ATOMVISION_ROOT", str(tmp_path / "lake"))
    settings.cache_clear()
    lake = Lake(tmp_path / "lake")
    (tmp_path / "blob").mkdir()
    (tmp_path / "blob" / "file").write_text("a checkpoint")
    blob = lake.put_blob(tmp_path / "blob")
    rows = [{**row, "blob": blob, "answers_blob": blob} for row in book()]
    lake.publish("models/verdicts", table("models/verdicts").from_rows(rows), version=Version(code_version="1"))
    champions = table("models/champions").from_rows(champion_rows(rows))
    lake.publish("models/champions", champions, version=Version(code_version="1"))
    yield lake
    settings.cache_clear()


def test_a_decision_keeps_who_when_and_why(lake: Lake) -> None:
    told = CliRunner().invoke(
        app,
        ["champion", "reject", "lattice", "--model-id", "lattice_fusion@c", "--reason", " tilted ", "--by", "Ada"],
    )
    assert told.exit_code == 0, told.output
    (row,) = lake.scan("models/decisions").collect().to_dicts()
    assert (row["decided_by"], row["decision"], row["reason"]) == ("Ada", "reject", "tilted")
    assert (datetime.now(UTC) - row["decided_at"]).total_seconds() < 600
    listed = CliRunner().invoke(app, ["champion", "list"])
    assert "lattice: lattice_fusion@c since 2026-11-06 00:00 UTC" in listed.output


@pytest.mark.parametrize(
    ("task", "model_id", "reason", "what"),
    [
        ("lattice", "lattice_fusion@z", "why", "judged are lattice_fusion@a, lattice_fusion@x"),
        ("cooking", "lattice_fusion@a", "why", "judged are none"),
        ("lattice", "lattice_fusion@a", "  ", "needs a reason"),
    ],
    ids=["unknown model", "unknown task", "no reason"],
)
def test_what_cannot_be_decided_is_said_and_nothing_is_kept(
    lake: Lake, task: str, model_id: str, reason: str, what: str
) -> None:
    told = CliRunner().invoke(app, ["champion", "approve", task, "--model-id", model_id, "--reason", reason])
    assert told.exit_code == 1
    assert what in told.output
    assert not lake.exists("models/decisions")


def _decide_often(root: str, who: str, count: int) -> None:
    for number in range(count):
        record_decision(Lake(root), "approve", "lattice", "lattice_fusion@a", reason=f"{who} {number}", decided_by=who)


def test_people_who_decide_at_once_lose_nothing(lake: Lake) -> None:
    context = multiprocessing.get_context("spawn")
    people = [context.Process(target=_decide_often, args=(lake.root, who, 4)) for who in ("Ada", "Bo")]
    for person in people:
        person.start()
    for person in people:
        person.join(120)
    reasons = sorted(lake.scan("models/decisions").collect()["reason"])
    assert reasons == [f"{who} {number}" for who in ("Ada", "Bo") for number in range(4)]


def test_who_was_in_office_when_is_the_same_in_sql_and_on_the_page(lake: Lake, tmp_path: Path) -> None:
    from atomvision_ml.catalog.warehouse import ask

    with ask(lake, "SELECT * FROM models.reigns ORDER BY number") as result:
        asked = result.read_all().to_pylist()
    told = reigns(book())
    assert [reign["model_id"][-1] for reign in told] == ["a", "b", "a", "c"]
    assert [(row["model_id"], f"{row['since']:%Y-%m-%d %H:%M}") for row in asked] == [
        (reign["model_id"], reign["since"]) for reign in told
    ]
    assert [row["until"] and f"{row['until']:%Y-%m-%d %H:%M}" for row in asked] == [reign["until"] for reign in told]
    assert told[-1]["until"] is None
    with ask(lake, "SELECT number, in_office_since, n_files, files FROM models.story ORDER BY number") as result:
        story = result.read_all().to_pylist()
    assert [row["number"] for row in story if row["in_office_since"]] == [1, 3, 6]
    assert {row["n_files"] for row in story} == {1}
    row = write_story(tmp_path, book())
    page = (tmp_path / row["page"]).read_text()
    assert "&lt;b&gt;1&lt;/b&gt;.dm4" in page
    assert page.count("reason ") == len(CHAMPIONS)


def test_a_name_is_wanted(lake: Lake) -> None:
    with pytest.raises(DecisionError, match="a name"):
        record_decision(lake, "approve", "lattice", "lattice_fusion@a", reason="why", decided_by=" ")
