"""Order, blocking and resumption of the runner behind `make demo` and `make full`."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import typer
from rich.console import Console

from atomvision_assets.declare import asset_key_of
from atomvision_assets.processes import PROCESS_TAG, end_killed_runs
from atomvision_assets.store import Store
from atomvision_ml.catalog.warehouse import snapshot
from atomvision_ml.evaluation.protocol import PROTOCOLS
from atomvision_ml.models.registry import model_names
from atomvision_ml.schemas.tables import TABLES, table
from atomvision_ml.schemas.vocabulary import MODELS, SOURCES, TASKS
from atomvision_ml.settings import Settings
from atomvision_ml.storage.lake import Version
from dagster_project.definitions import build_definitions
from dagster_project.page import Page, _headlines, _leaderboard
from dagster_project.run import read_config
from dagster_project.runner import Runner, _config_fields
from dagster_project.steps import Outcome, Size, State, Step, plan

ROOT_FOLDER = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    return build_definitions(Settings(root="unused"), Store(root=str(tmp_path_factory.mktemp("root"))))


@pytest.fixture
def runner(definitions: dg.Definitions) -> Iterator[Runner]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Runner(definitions, instance, Size.demo)


def step(key: str, partition: str | None = None, job: str = "refresh_structures") -> Step:
    return Step(job, asset_key_of(key), partition)


@pytest.mark.parametrize("sources", [SOURCES, ("prototypes",)])
def test_plan_has_every_asset_after_its_inputs(definitions: dg.Definitions, sources: tuple[str, ...]) -> None:
    external = {"literature/papers", "experiments/inbox", "models/decisions"}
    steps = list(plan(definitions, sources, lambda: ["2007-01", "2018-03"], ["2026-01-02"]))
    assert {s.key.to_user_string() for s in steps} == set(TABLES) - external
    assert {s.partition for s in steps if s.job == "refresh_literature"} == {"2007-01", "2018-03"}
    assert {s.partition for s in steps if s.job == "ingest_experiments"} == {"2026-01-02"}
    assert {s.partition for s in steps if s.job == "refresh_structures"} == set(sources)
    assert {s.partition for s in steps if s.job == "refresh_training_sets"} == set(TASKS)
    later = {"experiments/micrographs"}  # training sets are made without them first, and then once more
    graph, seen = definitions.resolve_asset_graph(), {asset_key_of(key) for key in external | later}
    for s in steps:
        assert graph.get(s.key).parent_keys <= seen | {s.key}, s.name
        seen.add(s.key)


def test_months_are_asked_for_when_the_harvest_has_run(definitions: dg.Definitions) -> None:
    seen: list[str] = []
    for s in plan(definitions, SOURCES, lambda: ["2018-03"] if "literature/harvest" in seen else []):
        seen.append(s.name)
    assert "literature/links" in seen
    assert seen.index("literature/panels[2018-03]") < seen.index("literature/links")


def test_job_that_is_left_out_says_why_and_is_no_failure(definitions: dg.Definitions) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        runner = Runner(definitions, instance, Size.full, left_out={"harvest_literature": "no contact"})
        outcome = runner.run(step("literature/harvest", job="harvest_literature"))
        assert (outcome.state, outcome.message) == (State.LEFT_OUT, "no contact")
        assert instance.get_runs() == []


def test_harvest_without_contact_fails_and_says_what_to_do(runner: Runner) -> None:
    outcome = runner.run(step("literature/harvest", job="harvest_literature"))
    assert outcome.state is State.FAILED
    assert "ATOMVISION_CONTACT" in outcome.message


def test_step_without_inputs_fails_and_says_what_to_do(runner: Runner) -> None:
    outcome = runner.run(step("structures/slabs", "c2db"))
    assert outcome.state is State.FAILED
    assert "structures/records[c2db] is not published" in outcome.message
    assert "materialise" in outcome.message


def test_failed_partition_blocks_only_itself(runner: Runner) -> None:
    runner.outcomes = {
        step("structures/slabs", "c2db"): Outcome(State.FAILED),
        step("structures/slabs", "prototypes"): Outcome(State.DONE),
    }
    blocked = runner.run(step("images/stem", "c2db"))
    assert (blocked.state, blocked.message) == (State.BLOCKED, "needs structures/slabs[c2db]")
    assert runner._blocker(step("images/stem", "prototypes")) is None
    assert runner._blocker(step("structures/materials", job="refresh_materials")) is None


def test_fan_in_is_blocked_when_every_partition_failed(runner: Runner) -> None:
    runner.outcomes = {step("structures/slabs", source): Outcome(State.BLOCKED) for source in SOURCES}
    assert runner._blocker(step("structures/materials", job="refresh_materials")) is not None


def test_warehouse_is_built_whatever_failed(runner: Runner) -> None:
    runner.outcomes = {step("structures/slabs", "prototypes"): Outcome(State.FAILED)}
    assert runner.run(step("catalog/warehouse", job="refresh_catalog")).state is State.DONE


def test_size_reaches_models_and_what_is_smaller_in_a_demo(definitions: dg.Definitions, runner: Runner) -> None:
    runner.size = Size.full
    sized = set()
    for s in plan(definitions, ("prototypes",)):
        config = runner._run_config(definitions.resolve_job_def(s.job), s)
        if "ops" in config:
            assert list(config["ops"].values()) == [{"config": {"size": "full"}}]
            sized.add(s.key.to_user_string())
    others = {"models/training_sets", "evaluation/holdout", "evaluation/matched_pairs"}
    assert sized == {*others, *(f"models/{name}" for name in MODELS)}


def test_full_size_trains_longer_unless_told_otherwise() -> None:
    from atomvision_assets.models.factory import ModelAssets
    from atomvision_assets.models.segmentation import SegmenterConfig
    from atomvision_ml.models.segmenter import SegmenterParameters

    spec = ModelAssets(
        name="segmenter", config=SegmenterConfig, train=None, predict=None,
        code_version="1", prediction_code_version="1", kinds=set(), full={"epochs": 24},
    )  # fmt: skip
    default = SegmenterParameters().epochs
    for config, epochs in (
        (SegmenterConfig(size="demo"), default),
        (SegmenterConfig(size="full"), 24),
        (SegmenterConfig(size="full", epochs=3), 3),
    ):
        size, chosen = spec.parameters(config)
        assert (size, SegmenterParameters(**chosen).epochs) == (config.size, epochs)


def test_killed_terminal_is_recognised_and_a_living_one_left_alone() -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with dg.DagsterInstance.ephemeral() as instance:
        runs = {}
        for name, process in (("dead", dead.pid), ("alive", os.getpid())):
            tags = {PROCESS_TAG: f"{socket.gethostname()}:{process}"}
            run = dg.DagsterRun(job_name="job", tags=tags, status=dg.DagsterRunStatus.STARTED)
            runs[name] = instance.add_run(run).run_id
        other = dg.DagsterRun(job_name="job", status=dg.DagsterRunStatus.STARTED)
        runs["of the daemon"] = instance.add_run(other).run_id
        tags = {PROCESS_TAG: f"{socket.gethostname()}:{dead.pid}"}
        retry = dg.DagsterRun(
            job_name="job", tags=tags, status=dg.DagsterRunStatus.STARTING, parent_run_id=runs["dead"],
            root_run_id=runs["dead"],
        )  # fmt: skip
        runs["retry of the dead"] = instance.add_run(retry).run_id
        assert end_killed_runs(instance) == 1
        status = {name: instance.get_run_by_id(run_id).status for name, run_id in runs.items()}
    assert status == {
        "dead": dg.DagsterRunStatus.FAILURE,
        "alive": dg.DagsterRunStatus.STARTED,
        "of the daemon": dg.DagsterRunStatus.STARTED,
        "retry of the dead": dg.DagsterRunStatus.STARTING,
    }


def test_page_shows_each_outcome_on_one_line() -> None:
    out = io.StringIO()
    page = Page(Console(file=out, width=60))
    page.outcome(step("images/stem", "prototypes"), Outcome(State.DONE, 1.25, 189))
    page.outcome(step("images/stem", "c2db"), Outcome(State.FAILED, 1.0, message="no such file: " + "x" * 80))
    page.outcome(step("images/stem", "c2db"), Outcome(State.UNCHANGED, 0.1, 3))
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert "images/stem[prototypes]" in lines[0]
    assert "1.2 s" in lines[0]
    assert "189 rows" in lines[0]
    assert "x" * 80 in lines[1]
    assert "unchanged" in lines[2]


def test_names_and_messages_with_brackets_are_shown_as_they_are() -> None:
    out = io.StringIO()
    page = Page(Console(file=out, width=200, force_terminal=True))
    begun = step("images/stem", "c2db")
    with page.running([begun]) as say:
        say(begun, "images/stem[c2db] in [/notes]")
    assert "images/stem[c2db] in [/notes]" in out.getvalue()


def test_table_of_results_fits_a_terminal_of_80_columns() -> None:
    out = io.StringIO()
    rows = [
        ("gaussian_segmenter", "vacancies_0.2|1000", "detection_f1", 29.5305, 28.015, 31.046, 27.5),
        ("lattice_finder", "unambiguous|1000", "macro_f1", 0.98765, 0.912, 0.998, 0.9),
    ]
    Console(file=out, width=80).print(_leaderboard(rows))
    assert "0.988" in out.getvalue()
    assert "detection_f1 (vacancies_0.2|1000)" in out.getvalue()
    assert "gaussian_segmenter" in next(line for line in out.getvalue().splitlines() if "29.530 28.015–31.046" in line)
    assert "…" not in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_one_figure_of_each_model_is_shown(tmp_path: Path) -> None:
    lake = Store(root=str(tmp_path / "root")).lake
    rows = []
    for task, protocol in PROTOCOLS.items():
        metric, where = protocol.headline
        methods = [(name, "model") for name in model_names(task)] or [("map", "model")]
        for number, (name, role) in enumerate([*methods, ("peaks", "classical"), ("majority", "trivial")]):
            for slice_ in (where, "elsewhere|1000"):
                rows.append(
                    {
                        "task": task, "model": name, "model_id": name, "role": role, "size": "demo", "seed": 0,
                        "slice": slice_, "metric": metric, "value": 0.1 * number, "low": 0.0, "high": 1.0, "n_items": 9,
                    }
                )  # fmt: skip
    lake.publish("evaluation/metrics", table("evaluation/metrics").from_rows(rows), version=Version(code_version="1"))
    with snapshot(lake) as connection:
        shown = connection.execute(_headlines()).fetchall()
    assert {model for model, *_ in shown} >= set(MODELS)
    assert not {"peaks", "majority"} & {model for model, *_ in shown}
    assert len(shown) == len(MODELS) + sum(not model_names(task) for task in PROTOCOLS)


def test_home_that_is_not_set_is_explained(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    command = [sys.executable, "-m", "dagster_project.run", "demo"]
    done = subprocess.run(
        command, env=env | {"ATOMVISION_ROOT": str(tmp_path)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "DAGSTER_HOME" in done.stdout
    assert "Traceback" not in done.stderr


PATIENT = """
import signal, sys, time
from pathlib import Path
import dagster as dg
from rich.console import Console
from atomvision_assets.declare import table_asset
from atomvision_assets.experiments.inbox import Inbox
from atomvision_assets.literature.arxiv import Arxiv
from atomvision_assets.store import Product, Store
from dagster_project import run
from dagster_project.steps import Size, Step

@table_asset("structures/records", code_version="1", kinds={"python"})
def records(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
    work = store.begin(context)

    def make():
        Path(f"{sys.argv[1]}-{context.partition_key}").touch()
        for _ in range(3000):
            time.sleep(0.02)
        return Product([])

    return work.publish(make)

job = dg.define_asset_job("refresh_structures", selection=[records])
resources = {"store": Store(root=sys.argv[1]), "inbox": Inbox(url=sys.argv[1], ledger=sys.argv[1] + "/ledger.sqlite")}
definitions = dg.Definitions([records], jobs=[job], resources=resources)
run.build_definitions = lambda settings, arxiv: definitions
run.days_of_inbox = lambda inbox, size: []
partitions = ["prototypes", "c2db", "jarvis_dft_2d"]
run.plan = lambda *given: [Step("refresh_structures", records.key, partition) for partition in partitions]
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    sys.exit(run.run(run.Options(Size.demo, Arxiv().model_dump()), int(sys.argv[2]), Console()))
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_interrupted_demo_stops_at_once_and_leaves_no_run_behind(processes: int, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (tmp_path / "patient.py").write_text(PATIENT)
    env = os.environ | {"DAGSTER_HOME": str(home), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(tmp_path / "patient.py"), str(tmp_path / "root"), str(processes)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        while len(list(tmp_path.glob("root-*"))) < processes and process.poll() is None:
            time.sleep(0.1)
        interrupted_at = time.monotonic()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 130, said
        assert time.monotonic() - interrupted_at < 20, "the work alone takes a minute"
        assert "goes on from here" in said
        assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.FAILURE}


@pytest.mark.parametrize(
    "path", sorted((ROOT_FOLDER / "dagster_project/deploy").glob("full_*.yaml")), ids=lambda path: path.stem
)
def test_configurations_that_travel_with_the_package_are_taken_by_their_assets(
    path: Path, definitions: dg.Definitions
) -> None:
    job = definitions.resolve_job_def("refresh_models")
    for key, values in read_config(path).items():
        assert set(values) <= _config_fields(job, "__".join(asset_key_of(key).path)), key


@pytest.mark.parametrize(
    ("text", "words"),
    [("- 1", "must hold"), ("models/none: {epochs: 1}", "models/none"), ("a: [", "no YAML")],
    ids=["list", "unknown", "broken"],
)
def test_a_bad_configuration_is_refused_with_the_reason(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(typer.BadParameter, match=words):
        read_config(path)
