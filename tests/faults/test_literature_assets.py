"""The literature assets in bad weather: tables are the same bit for bit, nothing is lost, nothing private gets out.

arXiv is the offline double on loopback, with a few papers of its corpus. Killed runs are real processes that end by
SIGKILL.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor

from atomvision_assets.declare import asset_key_of
from atomvision_assets.literature.arxiv import Arxiv
from atomvision_assets.store import Store
from atomvision_ml.evaluation.gallery.literature import build_literature_gallery
from atomvision_ml.literature.double.corpus_reader import Corpus, read_corpus
from atomvision_ml.literature.double.faults import STORM, Faults, Rule
from atomvision_ml.literature.double.server import Double, Request, most_in_flight, serve
from atomvision_ml.settings import Settings
from atomvision_ml.storage.keys import (
    LITERATURE_FIGURES,
    LITERATURE_HARVEST,
    LITERATURE_IMAGES,
    LITERATURE_LINKS,
    LITERATURE_MENTIONS,
    LITERATURE_PANELS,
    LITERATURE_PAPERS,
    LITERATURE_TEXTS,
)
from atomvision_ml.storage.lake import Lake
from dagster_project.definitions import build_definitions

CONTACT = "curator@example.org"
NAMES = ("cond-mat/0701123", "cond-mat/0701338", "cond-mat/0701455", "1803.04417")
"""Private: a TeX source, an HTML page, a PDF without source. Not private: one with two versions."""
MONTHS = ["2007-01", "2018-03"]
MONTHLY = (
    LITERATURE_PAPERS,
    LITERATURE_TEXTS,
    LITERATURE_FIGURES,
    LITERATURE_IMAGES,
    LITERATURE_PANELS,
    LITERATURE_MENTIONS,
)
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Archive:
    """A lake, an instance, and the double that they ask."""

    def __init__(self, folder: Path, double: Double, instance: dg.DagsterInstance) -> None:
        self.double = double
        self.instance = instance
        self._cursor: AssetDaemonCursor | None = None
        store = Store(root=str(folder / "root"))
        arxiv = Arxiv(
            contact=CONTACT, oai_url=double.oai_url, api_url=double.api_url, url=double.url, interval_s=0.0,
            backoff_s=0.0, read_timeout_s=5.0,
        )  # fmt: skip
        self.lake: Lake = store.lake
        self.definitions = build_definitions(Settings(root="unused"), store, arxiv)

    def run(self, job: str, month: str | None = None) -> bool:
        """Run a job to its end; whether it succeeded."""
        done = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=month, raise_on_error=False
        )
        return done.success

    def run_all(self) -> None:
        """Harvest, every month, export."""
        assert self.run("harvest_literature")
        for month in self.lake.partitions(LITERATURE_PAPERS):
            assert self.run("refresh_literature", month), month
        assert self.run("export_literature")

    def contents(self) -> dict[str, str]:
        """Hash of the content of every published table but the harvest's own, which tells whom it asked."""
        lake = self.lake
        return {
            f"{key}[{month}]": lake.verify(key, month).content_sha256
            for key in MONTHLY
            for month in lake.partitions(key)
        } | {key: lake.verify(key).content_sha256 for key in (LITERATURE_LINKS,) if lake.exists(key)}

    def papers(self) -> dict[str, str]:
        """Hash of each month of papers."""
        lake = self.lake
        return {
            month: lake.verify(LITERATURE_PAPERS, month).content_sha256 for month in lake.partitions(LITERATURE_PAPERS)
        }

    def asked(self) -> list[str]:
        """Paths that were asked for so far."""
        return [request.path for request in self.double.log.requests]

    def watermark(self) -> date:
        """Of the published harvest."""
        found: date = self.lake.scan(LITERATURE_HARVEST).collect()["watermark"].item()
        return found

    def requested(self) -> set[tuple[str, str]]:
        """What the automation asks for among the literature's months, from this tick on."""
        result = dg.evaluate_automation_conditions(self.definitions, self.instance, cursor=self._cursor)
        self._cursor = result.cursor
        keys = [asset_key_of(key) for key in MONTHLY if key != LITERATURE_PAPERS]
        return {(key.to_user_string(), month) for key in keys for month in result.get_requested_partitions(key)}

    def rows(self, key: str) -> pl.DataFrame:
        """The published rows of a table, all months."""
        return self.lake.scan(key).collect()


@contextmanager
def opened(folder: Path, corpus: Corpus, home: Path | None = None) -> Iterator[Archive]:
    """With a new instance, in memory where no home is given."""
    instance = dg.DagsterInstance.local_temp(str(home)) if home else dg.DagsterInstance.ephemeral()
    with serve(corpus, clock=lambda: NOW, page_records=1) as double, instance:
        yield Archive(folder, double, instance)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """No letters are read in images, and failing steps do not wait between their attempts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atomvision_ml.literature.text_reading.open_text_reader", lambda: None)
        patch.setattr("atomvision_assets.failures.FIRST_DELAY_S", 0.0)
        yield


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    whole = read_corpus()
    return replace(whole, papers=tuple(whole.by_id[name] for name in NAMES))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Iterator[Archive]:
    """Everything made without any fault; no test changes it."""
    with opened(tmp_path_factory.mktemp("calm"), corpus) as archive:
        archive.run_all()
        yield archive


@pytest.fixture
def archive(tmp_path: Path, corpus: Corpus) -> Iterator[Archive]:
    with opened(tmp_path, corpus) as archive:
        yield archive


def assert_polite(log: Sequence[Request]) -> None:
    """One request in flight, a person's address in each, no PDF."""
    assert most_in_flight(log) == 1
    assert all(CONTACT in request.user_agent for request in log)
    assert not any("/pdf" in request.path for request in log)


def test_in_calm_weather_there_are_papers_texts_by_both_routes_figures_and_pictures(calm: Archive) -> None:
    assert calm.lake.partitions(LITERATURE_PAPERS) == MONTHS
    assert sorted(calm.rows(LITERATURE_PAPERS)["arxiv_id"]) == sorted(NAMES)
    assert set(calm.rows(LITERATURE_TEXTS)["route"].drop_nulls()) == {"html", "tex"}
    assert calm.rows(LITERATURE_IMAGES).filter(status="accepted").height >= 3
    assert calm.rows(LITERATURE_PANELS).filter(image_status="matched").height >= 3
    assert calm.rows(LITERATURE_LINKS).height >= 3
    assert calm.watermark() == date(2018, 9, 4)
    assert_polite(calm.double.log.requests)


def test_with_three_faults_in_ten_replies_all_tables_are_the_same_bit_for_bit(calm: Archive, archive: Archive) -> None:
    storm = Rule(
        kinds=(*STORM, "damaged_image", "empty_image"), probability=0.3, at_most_in_a_row=4, silence_s=0.02,
        retry_after_s=0,
    )  # fmt: skip
    archive.double.faults = Faults([storm], seed=3)
    archive.run_all()
    log = archive.double.log.requests
    assert sum(request.fault is not None for request in log) > 0.2 * len(log)
    assert_polite(log)
    assert archive.contents() == calm.contents()
    assert archive.watermark() == calm.watermark()


def test_a_second_run_asks_for_no_text_again_and_changes_nothing(calm: Archive) -> None:
    before, n_asked = calm.contents(), len(calm.asked())
    harvest = calm.lake.verify(LITERATURE_HARVEST).content_sha256
    assert calm.run("harvest_literature")
    assert calm.run("refresh_literature", "2007-01")
    assert calm.contents() == before
    assert calm.lake.verify(LITERATURE_HARVEST).content_sha256 == harvest
    again = calm.asked()[n_asked:]
    assert again
    assert all(path.startswith("/oai?") for path in again)


def test_in_an_outage_runs_fail_the_watermark_stays_and_nothing_is_lost(calm: Archive, archive: Archive) -> None:
    outage = Rule(kinds=("unavailable",), probability=1)
    archive.double.corpus = calm.double.corpus.until(date(2018, 5, 1))
    assert archive.run("harvest_literature")
    watermark, papers = archive.watermark(), archive.papers()
    archive.double.corpus, archive.double.faults = calm.double.corpus, Faults([outage])
    assert not archive.run("harvest_literature")
    assert (archive.watermark(), archive.papers()) == (watermark, papers)

    archive.double.faults = Faults([outage.model_copy(update={"path": "0701455"})])
    assert not archive.run("refresh_literature", "2007-01")
    assert not archive.lake.exists(LITERATURE_TEXTS, "2007-01")

    archive.double.faults = None
    n_asked = len(archive.asked())
    assert archive.run("harvest_literature")
    assert archive.run("refresh_literature", "2007-01")
    texts = {path for path in archive.asked()[n_asked:] if re.fullmatch(r"/(html|src)/.+v\d", path)}
    assert texts == {"/html/cond-mat/0701455v1", "/src/cond-mat/0701455v1"}  # the others are kept
    assert archive.watermark() == calm.watermark()
    assert archive.papers() == calm.papers()
    of_month = {name: content for name, content in calm.contents().items() if name.endswith("[2007-01]")}
    assert of_month.items() <= archive.contents().items()


def test_only_months_that_a_harvest_touched_are_made_anew_and_versions_supersede(archive: Archive) -> None:
    whole = archive.double.corpus
    archive.double.corpus = whole.until(date(2018, 5, 1))
    assert not archive.run("refresh_literature", "2018-03")
    assert archive.run("harvest_literature")
    assert archive.run("refresh_literature", "2018-03")
    assert archive.run("refresh_literature", "2012-01")  # a month without papers, as a range of months may have
    assert archive.lake.scan(LITERATURE_PANELS, "2012-01").collect().height == 0
    archive.requested()
    n_asked = len(archive.asked())

    archive.double.corpus = whole
    assert archive.run("harvest_literature")
    assert archive.rows(LITERATURE_HARVEST)["touched_months"].to_list() == [["2018-03"]]
    requested = archive.requested()
    assert (LITERATURE_TEXTS, "2018-03") in requested
    assert {month for _, month in requested} == {"2018-03"}
    assert archive.run("refresh_literature", "2018-03")
    assert "/html/1803.04417v2" in archive.asked()[n_asked:]
    assert "/html/1803.04417v1" not in archive.asked()[n_asked:]
    figures = archive.rows(LITERATURE_FIGURES).filter(arxiv_id="1803.04417")
    assert dict(figures.group_by("version").agg(pl.col("is_current").unique().item()).iter_rows()) == {
        1: False,
        2: True,
    }

    withdrawn = whole.by_id["1803.04417"].model_copy(
        update={"comments": "This paper has been withdrawn by the authors", "datestamp": date(2019, 1, 8)}
    )
    archive.double.corpus = whole.with_paper(withdrawn)
    assert archive.run("harvest_literature")
    assert archive.run("refresh_literature", "2018-03")
    assert archive.run("export_literature")
    (paper,) = archive.rows(LITERATURE_PAPERS).filter(arxiv_id="1803.04417").to_dicts()
    assert paper["is_withdrawn"]
    assert not archive.rows(LITERATURE_FIGURES).filter(arxiv_id="1803.04417")["is_current"].any()
    assert archive.rows(LITERATURE_LINKS).filter(arxiv_id="1803.04417").height == 0


@pytest.fixture(scope="module")
def free(corpus: Corpus) -> set[str]:
    """Papers that may be passed on."""
    return {name for name in NAMES if "creativecommons" in (corpus.by_id[name].newest.license or "")}


def test_the_export_has_no_words_of_those_who_do_not_allow_it(calm: Archive, free: set[str]) -> None:
    links = calm.rows(LITERATURE_LINKS)
    private = links.filter(~pl.col("arxiv_id").is_in(free))
    assert private.height > 0
    assert private["caption"].null_count() == private.height
    assert links.filter(pl.col("arxiv_id").is_in(free))["caption"].null_count() == 0
    assert all(dtype in (pl.String, pl.Int32, pl.List(pl.String)) for dtype in links.dtypes)
    _assert_no_word_of_others("\n".join(str(row) for row in links.iter_rows()), calm, free)


def test_the_page_of_figures_has_no_bytes_of_those_who_do_not_allow_it(
    calm: Archive, free: set[str], tmp_path: Path
) -> None:
    keys = (LITERATURE_PAPERS, LITERATURE_FIGURES, LITERATURE_IMAGES, LITERATURE_PANELS, LITERATURE_MENTIONS)
    tables = {key.rpartition("/")[2]: calm.lake.scan(key) for key in keys}
    build_literature_gallery(tmp_path / "page", **tables, open_blob=calm.lake.blob)
    shown = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "page").rglob("*") if path.is_file()}
    owners = calm.rows(LITERATURE_FIGURES).select("figure_id", "arxiv_id")
    images = calm.rows(LITERATURE_IMAGES).filter(status="accepted").join(owners, on="figure_id")
    is_free = pl.col("arxiv_id").is_in(free)
    assert shown >= set(images.filter(is_free & pl.col("file").str.starts_with("image"))["sha256"])
    private = images.filter(~is_free)
    assert private.height > 0
    for image in private.iter_rows(named=True):
        assert image["sha256"] not in shown
        assert hashlib.sha256((calm.lake.blob(image["blob"]) / image["file"]).read_bytes()).hexdigest() not in shown
    page = (tmp_path / "page" / "index.html").read_text()
    assert "data:image" not in page
    _assert_no_word_of_others(page, calm, free)


def _assert_no_word_of_others(published: str, calm: Archive, free: set[str]) -> None:
    captions = calm.rows(LITERATURE_FIGURES).filter(~pl.col("arxiv_id").is_in(free))["caption"].drop_nulls()
    assert captions.len() > 0
    assert not any(caption[:60] in html.unescape(published) for caption in captions)


KILLED = """
import os, signal, sys
import dagster as dg
from atomvision_assets.literature.arxiv import Arxiv
from atomvision_assets.store import Store
from atomvision_ml.settings import Settings
from atomvision_ml.storage.lake import Lake
from dagster_project.definitions import build_definitions

root, home, url, n_published, moment = sys.argv[1:]
publish, count = Lake.publish, 0


def publish_and_die(lake, *arguments, **options):
    global count
    count += 1
    if count == int(n_published) and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    facts = publish(lake, *arguments, **options)
    if count == int(n_published):
        os.kill(os.getpid(), signal.SIGKILL)
    return facts


Lake.publish = publish_and_die
arxiv = Arxiv(contact="curator@example.org", oai_url=url, interval_s=0.0, backoff_s=0.0)
definitions = build_definitions(Settings(root="unused"), Store(root=root), arxiv)
with dg.DagsterInstance.local_temp(home) as instance:
    definitions.resolve_job_def("harvest_literature").execute_in_process(instance=instance)
"""


@pytest.mark.parametrize(
    ("n_published", "moment"),
    [
        (1, "after"),
        pytest.param(1, "before", marks=pytest.mark.slow),
        pytest.param(2, "before", marks=pytest.mark.slow),
        pytest.param(3, "before", marks=pytest.mark.slow),
        pytest.param(3, "after", marks=pytest.mark.slow),
    ],
)
def test_a_harvest_killed_between_its_publications_goes_on_and_reports_every_month(
    calm: Archive, corpus: Corpus, tmp_path: Path, n_published: int, moment: str
) -> None:
    """Two months are published, then the watermark."""
    home = tmp_path / "home"
    home.mkdir()
    with opened(tmp_path, corpus, home) as archive:
        command = [
            sys.executable, "-c", KILLED, archive.lake.root, str(home), archive.double.oai_url, str(n_published),
            moment,
        ]  # fmt: skip
        done = subprocess.run(command, env=os.environ | {"PYTHONWARNINGS": "ignore"}, capture_output=True, timeout=300)
        assert done.returncode == -signal.SIGKILL, done.stderr
        n_done = n_published - (moment == "before")
        assert len(archive.papers()) == min(n_done, 2)
        assert archive.lake.exists(LITERATURE_HARVEST) == (n_done == 3)
        n_asked = len(archive.asked())
        assert archive.run("harvest_literature")
        assert n_done == 3 or archive.asked()[n_asked:] == []  # its pages are kept
        assert archive.papers() == calm.papers()
        assert archive.watermark() == calm.watermark()
        reported = archive.instance.get_materialized_partitions(asset_key_of(LITERATURE_PAPERS))
    assert reported == set(MONTHS)
