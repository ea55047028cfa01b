"""The inbox sensor and the runs that it asks for, in this process: real ledger, real readers, real tables."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import dagster as dg
import numpy as np
import polars as pl
import pytest
import tifffile
from hostile_files import cases, genuine
from moto.server import ThreadedMotoServer

from atomvision_assets.experiments.inbox import BATCH_TAG, Inbox
from atomvision_assets.store import Store
from atomvision_ml.experiments.ledger import is_beside, is_candidate
from atomvision_ml.experiments.places import place_of
from atomvision_ml.settings import Settings
from atomvision_ml.storage.keys import EXPERIMENTS_MICROGRAPHS, EXPERIMENTS_RECORDS
from atomvision_ml.storage.lake import Lake
from dagster_project.definitions import build_definitions
from dagster_project.sensors import CHANGE_TAG

SIDECAR = "material_formula: MoS2\nlicence: CC-BY-4.0\nlabels: {lattice: hexagonal}\n"


@dataclass
class Bench:
    """Definitions over a fresh root, and an instance that keeps the runs."""

    root: Path
    inbox: Inbox
    instance: dg.DagsterInstance

    def __post_init__(self) -> None:
        self.definitions = build_definitions(Settings(root="unused"), Store(root=str(self.root)), inbox=self.inbox)
        self.repository = self.definitions.get_repository_def()

    @property
    def drop(self) -> Path:
        return Path(self.inbox.url)

    @property
    def lake(self) -> Lake:
        return Lake(self.root)

    def tick(self) -> list[dg.RunRequest]:
        """What the sensor asks for; run keys that were started are not told, as the daemon does it."""
        context = dg.build_sensor_context(
            instance=self.instance, repository_def=self.repository, resources={"inbox": self.inbox}
        )
        asked = self.repository.get_sensor_def("inbox").evaluate_tick(context).run_requests
        started = {run.tags.get("dagster/run_key") for run in self.instance.get_runs()}
        return [request for request in asked if request.run_key not in started]

    def run(self, request: dg.RunRequest, **tags: str) -> dg.ExecuteInProcessResult:
        job = self.repository.get_job("ingest_experiments")
        told = {**request.tags, "dagster/run_key": request.run_key, **tags}
        return job.execute_in_process(
            instance=self.instance, partition_key=request.partition_key, tags=told, raise_on_error=False
        )

    def rest(self) -> list[dg.ExecuteInProcessResult]:
        """Ticks and runs until two ticks in a row ask for nothing."""
        results, n_idle = [], 0
        while n_idle < 2:
            asked = self.tick()
            results += [self.run(request) for request in asked]
            n_idle = 0 if asked else n_idle + 1
            time.sleep(0.002)  # a file rests between two listings of different times
        assert all(result.success for result in results)
        return results

    def records(self) -> pl.DataFrame:
        return self.lake.scan(EXPERIMENTS_RECORDS).collect()

    def states(self) -> dict[str, str]:
        return dict(self.records().select("place", "state").iter_rows())


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def bench_of(root: Path, instance: dg.DagsterInstance, **waits: float) -> Bench:
    """A bench with an empty inbox whose files need not rest."""
    inbox = Inbox(url=str(root / "inbox" / "files"), ledger=str(root / "inbox" / "ledger.sqlite"), rest_s=0.0, **waits)
    Path(inbox.url).mkdir(parents=True)
    return Bench(root, inbox, instance)


@pytest.fixture
def bench(tmp_path: Path, instance: dg.DagsterInstance) -> Bench:
    return bench_of(tmp_path / "root", instance)


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.random.default_rng(seed).integers(0, 2**16, (32, 40), dtype=np.uint16))


def test_a_drop_becomes_one_run_and_a_row_for_each_file(bench: Bench) -> None:
    for seed in range(3):
        write_image(bench.drop / "day 1" / f"{seed}.tif", seed)
    (bench.drop / "day 1" / "notes.txt").write_text("seen today")
    (bench.drop / "upload.tif.part").write_bytes(b"half")
    write_image(bench.drop / "copy.tif", 0)
    assert len(bench.rest()) == 1
    assert bench.states() == {
        "copy.tif": "accepted", "day 1/0.tif": "duplicate", "day 1/1.tif": "accepted", "day 1/2.tif": "accepted",
        "day 1/notes.txt": "rejected",
    }  # fmt: skip
    reasons = dict(bench.records().filter(pl.col("state") != "accepted").select("place", "reason").iter_rows())
    assert "plain text" in reasons["day 1/notes.txt"]
    assert "the same" in reasons["day 1/0.tif"]
    assert bench.lake.scan(EXPERIMENTS_MICROGRAPHS).collect().height == 3


def test_links_and_pipes_become_rejected_rows_once(bench: Bench, tmp_path: Path) -> None:
    """Nothing is read for them: a run that publishes the day is all they ask for."""
    write_image(tmp_path / "secret.tif", 0)
    (bench.drop / "link.tif").symlink_to(tmp_path / "secret.tif")
    (bench.drop / "folder").symlink_to(tmp_path)
    (bench.drop / ".hidden").symlink_to(tmp_path)
    os.mkfifo(bench.drop / "pipe.tif")
    assert len(bench.rest()) == 1
    rows = bench.records().sort("place")
    assert rows.select("place", "state", "reason").rows() == [
        ("folder", "rejected", "not a plain file: a symbolic link"),
        ("link.tif", "rejected", "not a plain file: a symbolic link"),
        ("pipe.tif", "rejected", "not a plain file: a named pipe"),
    ]
    bench.inbox.store.reconsider(["link.tif", "pipe.tif"])
    assert bench.rest() == []
    write_image(bench.drop / "a.tif", 1)
    bench.rest()
    assert bench.records().filter(pl.col("state") == "rejected").sort("place").equals(rows)


def test_identical_uploads_ask_for_runs_that_change_nothing(bench: Bench) -> None:
    write_image(bench.drop / "a.tif", 1)
    bench.rest()
    (day,) = bench.lake.partitions(EXPERIMENTS_RECORDS)
    before = [bench.lake.facts(key, day) for key in (EXPERIMENTS_RECORDS, EXPERIMENTS_MICROGRAPHS)]
    for _ in range(3):
        (bench.drop / "a.tif").unlink()
        write_image(bench.drop / "a.tif", 1)
        bench.rest()
    assert [bench.lake.facts(key, day) for key in (EXPERIMENTS_RECORDS, EXPERIMENTS_MICROGRAPHS)] == before


def test_a_label_that_comes_later_is_taken(bench: Bench) -> None:
    write_image(bench.drop / "a.tif", 1)
    bench.rest()
    (bench.drop / "a.tif.meta.yaml").write_text(SIDECAR)
    bench.rest()
    rows = bench.records().filter(pl.col("state") == "accepted")
    assert rows["label_lattice"].to_list() == ["hexagonal"]
    micrographs = bench.lake.scan(EXPERIMENTS_MICROGRAPHS).collect()
    assert micrographs["label_lattice"].to_list() == ["hexagonal"]


def test_a_run_that_was_killed_before_it_published_is_repaired(bench: Bench) -> None:
    """Its files are settled, its day is not published."""
    write_image(bench.drop / "a.tif", 1)
    bench.tick()
    time.sleep(0.002)
    (request,) = bench.tick()
    batch = bench.inbox.store.batch(request.tags[BATCH_TAG])
    dead = dg.DagsterRun(
        job_name="ingest_experiments", status=dg.DagsterRunStatus.FAILURE,
        tags={**request.tags, "dagster/run_key": request.run_key},
    )  # fmt: skip
    bench.instance.add_run(dead)
    from atomvision_ml.experiments.ingest import Intake
    from atomvision_ml.experiments.worker import FileReader

    with FileReader() as reader:
        Intake(bench.inbox.store, bench.inbox.places, reader, bench.lake.put_blob, bench.root / "scratch").take(batch)
    assert not bench.lake.partitions(EXPERIMENTS_RECORDS)
    (repair,) = bench.tick()
    assert repair.tags[CHANGE_TAG] == f"{batch.day}:1"
    assert BATCH_TAG not in repair.tags
    assert bench.run(repair).success
    assert bench.states() == {"a.tif": "accepted"}
    assert bench.tick() == []


def test_files_of_a_run_that_failed_are_offered_again(bench: Bench) -> None:
    write_image(bench.drop / "a.tif", 1)
    bench.tick()
    time.sleep(0.002)
    (request,) = bench.tick()
    failed = dg.DagsterRun(
        job_name="ingest_experiments", status=dg.DagsterRunStatus.FAILURE,
        tags={**request.tags, "dagster/run_key": request.run_key},
    )  # fmt: skip
    bench.instance.add_run(failed)
    assert bench.tick() == []
    (entry,) = bench.inbox.store.entries().values()
    assert entry.claimed_until_s - time.time() < bench.inbox.store.rules.pause_s
    told = bench.inbox.store.tick(bench.inbox.places.listing(), time.time() + 61, owner="sensor")
    assert [batch.files for batch in told.batches] == [(("a.tif", entry.stamp),)]


def test_an_inbox_in_a_bucket(tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="microscope")
        write_image(tmp_path / "a.tif", 1)
        for key in ("drop/a.tif", "drop/again/a.tif", "elsewhere/a.tif"):
            client.upload_file(str(tmp_path / "a.tif"), "microscope", key)
        client.put_object(Bucket="microscope", Key="drop/a.tif.meta.yaml", Body=SIDECAR.encode())
        client.put_object(Bucket="microscope", Key="drop/bad.tif", Body=b"no image")
        ledger = str(tmp_path / "ledger.sqlite")
        inbox = Inbox(url="s3://microscope/drop", ledger=ledger, s3_endpoint_url=endpoint, rest_s=0.0)
        bench = Bench(tmp_path / "root", inbox, instance)
        bench.rest()
        assert bench.states() == {"a.tif": "accepted", "again/a.tif": "duplicate", "bad.tif": "rejected"}
        assert bench.records().filter(pl.col("state") == "accepted")["label_lattice"].to_list() == ["hexagonal"]
    finally:
        server.stop()


def tree(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every name below a folder with type, time of change, and content of plain files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        is_plain = path.is_file() and not path.is_symlink()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if is_plain else ""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
    return found


@pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.slow)], ids=["a part", "the whole corpus"])
def test_hostile_files_become_rejected_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance, every: int
) -> None:
    """Each case in a folder of its own: what nobody can read is rejected, what has a strange name alone is taken."""
    monkeypatch.chdir(tmp_path)
    bench = bench_of(tmp_path / "root", instance, partner_wait_s=0.0)
    (tmp_path / "genuine").mkdir()
    files = genuine(tmp_path / "genuine")
    chosen = [case for number, case in enumerate(cases(files)) if every == 1 or number % every == 3]
    made = {}
    for number, case in enumerate(chosen):
        folder = bench.drop / f"{number:03d}"
        folder.mkdir()
        made[place_of(str(case.make(folder).relative_to(bench.drop)))] = case
    before = tree(bench.drop)
    listing = bench.inbox.places.listing()
    bench.rest()
    assert tree(bench.drop) == before
    assert not (tmp_path / "opened_by_a_pickle").exists()
    records = bench.records()
    candidates = {place for place in listing if is_candidate(place)}
    assert set(records["place"]) <= candidates
    taken = [place for place, entry in bench.inbox.store.entries().items() if entry.state == "accepted"]
    for place in candidates - set(records["place"]):
        assert any(is_beside(place, one) for one in taken), place  # the series of an .emi that was read
    assert records.filter((pl.col("state") == "rejected") & (pl.col("reason").fill_null("") == "")).is_empty()
    assert records.filter(pl.col("reason").str.contains(str(tmp_path), literal=True)).is_empty()
    states = dict(records.select("place", "state").iter_rows())
    for place, case in made.items():
        if case.is_untouched:
            assert states[place] in ("accepted", "duplicate"), case.name
        elif case.pixels is None and case.name not in ("folder", "missing"):
            assert states[place] == "rejected", case.name
