"""What every asset must tell a reader of the catalogue, and what the code location must not load."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from atomvision_assets import gpu
from atomvision_assets.automation import LABEL
from atomvision_assets.declare import asset_key_of
from atomvision_assets.literature import arxiv
from atomvision_assets.partitions import BY_DIMENSION
from atomvision_assets.store import CONTRACT_CHECK, SKIP_UNCHANGED_TAG, Store
from atomvision_ml.models.registry import model_spec
from atomvision_ml.schemas.tables import TABLES
from atomvision_ml.schemas.vocabulary import FIRST_MONTH, MODELS, SOURCES, TASKS
from atomvision_ml.settings import Settings
from dagster_project.definitions import build_definitions
from dagster_project.schedules import harvest_literature_nightly, refresh_structures_weekly

ROOTS = {"structures/records", "literature/harvest", "catalog/dictionary"}
EXTERNAL = {"literature/papers", "experiments/inbox", "models/decisions"}
"""Published and reported by another asset, or by a person's command."""
SENSED = {"experiments/records"}
"""Started by a sensor of its own."""
HTTP_ASSETS = {"literature/harvest", "literature/texts", "literature/images"}
GPU_ASSETS = {f"models/{name}" for name in MODELS if model_spec(name).kind == "network"}
MODEL_ASSETS = {f"{room}/{name}" for room in ("models", "predictions") for name in MODELS}
ROOT_FOLDER = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    return build_definitions(Settings(root="unused"), Store(root=str(tmp_path_factory.mktemp("root"))))


@pytest.fixture(scope="module")
def specs(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def test_assets_are_the_tables_of_the_dictionary(specs: dict[str, dg.AssetSpec]) -> None:
    assert set(specs) == set(TABLES)


def test_definitions_are_loadable(definitions: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)


@pytest.mark.parametrize("key", sorted(TABLES))
def test_asset_says_all_that_a_reader_may_expect(specs: dict[str, dg.AssetSpec], key: str) -> None:
    spec, table = specs[key], TABLES[key]
    assert spec.owners, "owner"
    assert spec.group_name == key.split("/")[0]
    assert spec.kinds, "kinds"
    assert spec.description is not None
    assert spec.description.startswith(table.description)
    assert key in EXTERNAL or spec.code_version, "code version"
    assert len(spec.code_version or "") < 8, "written by hand, not a hash"
    assert spec.partitions_def == (BY_DIMENSION[table.dimension] if table.dimension else None)
    columns = spec.metadata["dagster/column_schema"].columns
    assert [column.name for column in columns] == [column.name for column in table.columns]
    for shown, column in zip(columns, table.columns, strict=True):
        assert shown.description.startswith(column.description)
        assert column.unit is None or column.unit in shown.description
        assert (shown.constraints.nullable, shown.constraints.unique) == (column.nullable, column.unique)


def test_checks_of_partitioned_assets_are_partitioned_alike(definitions: dg.Definitions) -> None:
    checked = set()
    for asset in definitions.resolve_asset_graph().assets_defs:
        for check in asset.check_specs:
            checked.add(check.asset_key.to_user_string())
            assert check.partitions_def == asset.partitions_def, check.key
            assert check.description, check.key
            assert "_" in check.name, "a check's name is a true statement"
    assert checked == set(TABLES) - (EXTERNAL - {"literature/papers"})  # that one by the second finder


def test_every_asset_checks_its_contract(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for key in set(TABLES) - EXTERNAL:
        assert dg.AssetCheckKey(asset_key_of(key), CONTRACT_CHECK) in graph.asset_check_keys


def test_automation_is_on_derived_assets_and_not_on_roots(specs: dict[str, dg.AssetSpec]) -> None:
    assert {key for key, spec in specs.items() if not spec.deps} == ROOTS | {"experiments/inbox", "models/decisions"}
    for key, spec in specs.items():
        label = spec.automation_condition.get_label() if spec.automation_condition else None
        assert label == (None if key in ROOTS | EXTERNAL | SENSED else LABEL), key


@pytest.mark.parametrize("status", ["RUNNING", "STOPPED"])
def test_the_settings_choose_the_state_of_the_sensors(status: str) -> None:
    sensors = build_definitions(Settings(root="unused", automation=status)).sensors
    states = {sensor.name: sensor.default_status for sensor in sensors}
    assert states == dict.fromkeys(("automation", "inbox", "decisions"), dg.DefaultSensorStatus[status])


def test_first_tick_on_an_empty_platform_requests_nothing(definitions: dg.Definitions) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.evaluate_automation_conditions(definitions, instance=instance).total_requested == 0


def _tick(definitions: dg.Definitions, instance: dg.DagsterInstance, cursor: object) -> tuple[set[str], object]:
    result = dg.evaluate_automation_conditions(definitions, instance=instance, cursor=cursor)
    requested = set()
    for evaluation in result.results:
        for partition in result.get_requested_partitions(evaluation.key):
            requested.add(evaluation.key.to_user_string() + (f"[{partition}]" if partition else ""))
    return requested, result.cursor


def _report(instance: dg.DagsterInstance, key: str, partition: str | None, version: str) -> None:
    tags = {"dagster/data_version": version, "dagster/code_version": "1"}
    instance.report_runless_asset_event(dg.AssetMaterialization(asset_key_of(key), partition=partition, tags=tags))


@pytest.mark.parametrize(
    ("changed", "partition", "requested"),
    [
        # Dagster forgets which partition an unpartitioned asset depends on: all models are requested, and
        # those whose own partition is as before find themselves unchanged (see test_store).
        ("models/training_sets", "segmentation", {
            *MODEL_ASSETS, "evaluation/holdout", "evaluation/experimental_holdout", "evaluation/experimental_answers",
            "catalog/warehouse",
        }),
        ("structures/records", "prototypes", {
            "structures/slabs[prototypes]", "structures/materials", "catalog/warehouse",
        }),
        ("structures/records", "c2db", {"structures/slabs[c2db]", "structures/materials", "catalog/warehouse"}),
        ("evaluation/gallery", None, {"catalog/warehouse"}),
        ("literature/papers", "2018-03", {
            "literature/texts[2018-03]", "literature/figures[2018-03]", "literature/links", "literature/gallery",
            "catalog/warehouse",
        }),
        ("literature/figures", "2018-03", {
            "literature/images[2018-03]", "literature/panels[2018-03]", "literature/mentions[2018-03]",
            "literature/links", "literature/gallery", "catalog/warehouse",
        }),
        ("experiments/records", "2026-01-02", {
            "experiments/micrographs[2026-01-02]", "evaluation/matched_pairs", "catalog/warehouse",
        }),
    ],
)  # fmt: skip
def test_change_of_one_input_requests_what_is_made_of_it(
    definitions: dg.Definitions, changed: str, partition: str | None, requested: set[str]
) -> None:
    """On the real graph, as `make demo` leaves it."""
    partitions = {
        "source": ["prototypes"], "task": list(TASKS), "month": ["2018-03", "2007-01"],
        "day": ["2026-01-02", "2026-01-03"], None: [None],
    }  # fmt: skip
    with dg.DagsterInstance.ephemeral() as instance:
        for key, table in TABLES.items():
            for name in partitions[table.dimension]:
                _report(instance, key, name, "before")
        asked, cursor = _tick(definitions, instance, None)
        assert asked == set()
        _report(instance, changed, partition, "after")
        asked, cursor = _tick(definitions, instance, cursor)
        assert asked == requested


def test_gpu_assets_share_a_pool_and_ask_kubernetes_for_a_gpu(definitions: dg.Definitions) -> None:
    for key in set(TABLES) - EXTERNAL:
        asset = definitions.resolve_assets_def(asset_key_of(key))
        is_gpu = asset.op.pool == gpu.POOL
        assert is_gpu == (key in GPU_ASSETS), key
        assert is_gpu == (asset.tags_by_key[asset.key].get("compute") == "gpu"), key
        assert is_gpu == ("dagster-k8s/config" in asset.op.tags), key


def test_assets_that_ask_arxiv_share_a_pool(definitions: dg.Definitions) -> None:
    pools = {key: definitions.resolve_assets_def(asset_key_of(key)).op.pool for key in set(TABLES) - EXTERNAL}
    assert {key for key, pool in pools.items() if pool == arxiv.POOL} == HTTP_ASSETS


def test_kubernetes_request_is_one_that_kubernetes_understands() -> None:
    from dagster_k8s.job import UserDefinedDagsterK8sConfig
    from dagster_k8s.models import k8s_model_from_dict
    from kubernetes.client import V1Container, V1JobSpec, V1PodSpec

    config = UserDefinedDagsterK8sConfig.from_dict(gpu.OP_TAGS["dagster-k8s/config"])
    container = k8s_model_from_dict(V1Container, {"name": "step", **config.container_config})
    assert container.resources.limits["nvidia.com/gpu"] == "1"
    pod = k8s_model_from_dict(V1PodSpec, {"containers": [], **config.pod_spec_config})
    assert {volume.name for volume in pod.volumes} == {mount.name for mount in container.volume_mounts}
    assert k8s_model_from_dict(V1JobSpec, {"template": {}, **config.job_spec_config}).ttl_seconds_after_finished


def test_jobs_cover_every_asset_once(definitions: dg.Definitions) -> None:
    from dagster_project import jobs

    selected = [
        key.to_user_string()
        for job in jobs.ALL
        for key in definitions.resolve_job_def(job.name).asset_layer.executable_asset_keys
    ]
    assert sorted(selected) == sorted(set(TABLES) - EXTERNAL)


def test_no_unpartitioned_asset_is_in_a_partitioned_job(definitions: dg.Definitions) -> None:
    from dagster_project import jobs

    for job in jobs.ALL:
        definition = definitions.resolve_job_def(job.name)
        for key in definition.asset_layer.executable_asset_keys:
            assert definitions.resolve_assets_def(key).partitions_def == definition.partitions_def


def test_weekly_schedule_is_stopped_and_asks_for_every_source(definitions: dg.Definitions) -> None:
    assert refresh_structures_weekly.default_status == dg.DefaultScheduleStatus.STOPPED
    monday = datetime.datetime(2026, 1, 5, 3, tzinfo=datetime.UTC)
    with dg.build_schedule_context(scheduled_execution_time=monday) as context:
        requests = list(refresh_structures_weekly(context))
    assert [request.partition_key for request in requests] == list(SOURCES)
    assert len({request.run_key for request in requests}) == len(SOURCES)


def test_nightly_schedule_is_stopped_and_asks_for_one_harvest(definitions: dg.Definitions) -> None:
    assert harvest_literature_nightly.default_status == dg.DefaultScheduleStatus.STOPPED
    nights = [datetime.datetime(2026, 1, day, 6, tzinfo=datetime.UTC) for day in (5, 6)]
    keys = set()
    for night in nights:
        with dg.build_schedule_context(scheduled_execution_time=night) as context:
            keys.add(harvest_literature_nightly(context).run_key)
    assert keys == {"2026-01-05", "2026-01-06"}
    assert definitions.resolve_schedule_def("harvest_literature_nightly").cron_schedule == "0 6 * * 1-6"


@pytest.mark.parametrize("status", ["RUNNING", "STOPPED"])
def test_waiting_micrographs_are_looked_at_daily_where_the_automation_runs(tmp_path: Path, status: str) -> None:
    chosen = Settings(root=str(tmp_path), automation=status)
    repository = build_definitions(chosen).get_repository_def()
    schedule = repository.get_schedule_def("adopt_micrographs_daily")
    assert schedule.default_status == dg.DefaultScheduleStatus[status]
    assert (schedule.cron_schedule, schedule.job_name) == ("0 4 * * *", "refresh_training_sets")
    keys = []
    for day in (5, 6):
        at = datetime.datetime(2026, 1, day, 4, tzinfo=datetime.UTC)
        with dg.build_schedule_context(repository_def=repository, scheduled_execution_time=at) as context:
            (request,) = schedule.evaluate_tick(context).run_requests
        assert request.partition_key == "lattice"
        assert request.tags[SKIP_UNCHANGED_TAG] == "true"
        keys.append(request.run_key)
    assert keys == ["2026-01-05", "2026-01-06"]


def test_freshness_is_expected_of_the_harvest(specs: dict[str, dg.AssetSpec]) -> None:
    assert {key for key, spec in specs.items() if spec.freshness_policy is not None} == {"literature/harvest"}


def test_months_begin_with_arxiv_and_end_with_the_present_one() -> None:
    months = BY_DIMENSION["month"].get_partition_keys()
    assert months[0] == FIRST_MONTH
    assert months[-1] == f"{datetime.datetime.now(datetime.UTC):%Y-%m}"


def test_workspace_file_names_a_loadable_location(tmp_path: Path) -> None:
    from dagster._core.workspace.load import location_origins_from_yaml_paths

    origins = location_origins_from_yaml_paths([str(ROOT_FOLDER / "workspace.yaml")])
    (origin,) = origins.values() if isinstance(origins, dict) else origins
    assert origin.loadable_target_origin.module_name == "dagster_project.definitions"


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("dagster_project.definitions", ("torch", "dgl", "skimage", "boto3", "matplotlib", "duckdb", "zarr")),
        ("atomvision_ml", ("dagster", "torch", "dgl", "skimage", "boto3")),
        ("atomvision_ml.cli.app", ("dagster", "torch", "dgl", "skimage", "boto3")),
    ],
)
def test_import_stays_light(module: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sorted(set({forbidden!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
