"""The check of the papers by the Atom API, run by Dagster against the double."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from atomvision_assets.literature.arxiv import POOL, Arxiv
from atomvision_assets.literature.assets import papers
from atomvision_assets.literature.second_finder import MONTHS, second_finder
from atomvision_assets.store import Store
from atomvision_ml.literature.double.corpus_reader import Corpus, read_corpus
from atomvision_ml.literature.double.faults import Faults, Rule
from atomvision_ml.literature.double.server import Double, serve
from atomvision_ml.literature.harvest import HarvestParameters, harvest
from atomvision_ml.literature.papers import update_papers
from atomvision_ml.literature.transport import Transport, TransportParameters
from atomvision_ml.settings import Settings
from atomvision_ml.storage.lake import Lake
from dagster_project import jobs
from dagster_project.definitions import build_definitions

CONTACT = "curator@example.org"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_corpus()


@pytest.fixture(scope="module")
def root(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Papers as a harvest publishes them."""
    folder = tmp_path_factory.mktemp("root")
    patience = TransportParameters(contact=CONTACT, interval_s=0)
    with serve(corpus) as double, Transport(patience, folder / "limit", "0.1") as transport:
        found = harvest(transport, HarvestParameters(base_url=double.oai_url), folder / "pages")
    update_papers(Lake(folder), found.records(), folder / "update")
    return folder


def checked(root: Path, double: Double, **chosen: Any) -> dg.ExecuteInProcessResult:
    quick = {"contact": CONTACT, "interval_s": 0.0, "backoff_s": 0.0, "attempts": 2, **chosen}
    arxiv = Arxiv(oai_url=double.oai_url, api_url=double.api_url, url=double.url, **quick)
    definitions = dg.Definitions(
        assets=[papers],
        asset_checks=[second_finder],
        jobs=[dg.define_asset_job("check", selection=dg.AssetSelection.checks(second_finder))],
        resources={"store": Store(root=str(root)), "arxiv": arxiv},
    )
    with dg.DagsterInstance.ephemeral() as instance:
        return definitions.resolve_job_def("check").execute_in_process(instance=instance, raise_on_error=False)


def test_it_agrees_with_a_whole_harvest(root: Path, corpus: Corpus) -> None:
    with serve(corpus) as double:
        (evaluation,) = checked(root, double).get_asset_check_evaluations()
    assert evaluation.passed
    assert len(double.log.requests) == len(evaluation.metadata["months"].value) <= MONTHS
    assert evaluation.metadata["n_found"].value > 20


def test_it_names_what_the_harvest_lacks(root: Path, corpus: Corpus) -> None:
    model = corpus.by_id["1803.04417"]
    with serve(corpus.with_paper(model.model_copy(update={"id": "1803.99999"}))) as double:
        (evaluation,) = checked(root, double).get_asset_check_evaluations()
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert evaluation.metadata["missing"].value == ["1803.99999"]


def test_an_outage_is_no_agreement(root: Path, corpus: Corpus) -> None:
    with serve(corpus, faults=Faults([Rule(kinds=("forbidden",), probability=1)])) as double:
        done = checked(root, double)
    assert not done.success
    assert done.get_asset_check_evaluations() == []
    assert len(double.log.requests) == 1
    failures = [event for event in done.all_events if event.is_step_failure]
    assert "403" in json.dumps([str(event.event_specific_data) for event in failures])


def test_without_a_contact_nothing_is_asked(root: Path, corpus: Corpus) -> None:
    with serve(corpus) as double:
        assert not checked(root, double, contact=None).success
    assert double.log.requests == ()


def test_the_code_location_has_it_in_a_job_of_its_own() -> None:
    definitions = build_definitions(Settings())
    layer = definitions.resolve_job_def("compare_finders").asset_layer
    assert layer.executable_asset_keys == set()
    (key,) = second_finder.check_keys
    for job in jobs.ALL:
        assert key not in definitions.resolve_job_def(job.name).asset_layer.asset_graph.asset_check_keys
    assert second_finder.op.pool == POOL
