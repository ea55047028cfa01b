"""The instance files of a laptop and of a deployment are understood by this Dagster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

import dagster_project

DEPLOY = Path(dagster_project.__file__).parent / "deploy"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    return tmp_path


def test_local_instance_has_monitoring_pools_and_no_telemetry(home: Path) -> None:
    shutil.copy(DEPLOY / "dagster.yaml", home / "dagster.yaml")
    with dg.DagsterInstance.get() as instance:
        assert instance.telemetry_enabled is False
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_settings["max_runtime_seconds"] == 86_400
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] == 60
        assert instance.global_op_concurrency_default_limit == 1
        assert instance.run_retries_enabled
        assert instance.run_retries_max_retries == 2
        assert instance.get_settings("run_retries")["retry_on_asset_or_op_failure"] is False
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 2
        assert set(instance.managed_python_loggers) == {"atomvision_ml", "atomvision_assets"}
        assert not instance.nux_enabled
    assert (home / "history").exists(), "runs lie in the home, wherever that is"


@pytest.fixture
def s3_endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_production_logs_of_a_run_reach_the_bucket(
    home: Path, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The production file, with SQLite in the place of Postgres."""
    import boto3

    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket="logs")
    monkeypatch.setenv("ATOMVISION_LOGS_BUCKET", "logs")
    monkeypatch.setenv("ATOMVISION_S3_ENDPOINT_URL", s3_endpoint)
    production = yaml.safe_load((DEPLOY / "dagster-production.yaml").read_text())
    del production["storage"]
    (home / "dagster.yaml").write_text(yaml.safe_dump(production))

    @dg.asset
    def spoken() -> None:
        print("a line for the log")

    with dg.DagsterInstance.get() as instance:
        assert instance.run_monitoring_settings["max_runtime_seconds"] == 172_800
        assert dg.materialize([spoken], instance=instance).success
    listed = boto3.client("s3", endpoint_url=s3_endpoint).list_objects_v2(Bucket="logs", Prefix="dagster-logs/")
    assert any(entry["Key"].endswith(".out") for entry in listed["Contents"])


def test_production_storage_is_valid_postgres_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    postgres = pytest.importorskip("dagster_postgres", reason="pip install -e '.[postgres]'")
    for name in ("HOST", "USER", "PASSWORD", "DB"):
        monkeypatch.setenv(f"DAGSTER_POSTGRES_{name}", "x")
    storage = yaml.safe_load((DEPLOY / "dagster-production.yaml").read_text())["storage"]["postgres"]
    processed = dg._config.process_config(postgres.DagsterPostgresStorage.config_type(), storage)
    assert processed.success, processed.errors


def test_compose_names_one_daemon_and_publishes_on_loopback_only() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    daemons = [name for name, service in services.items() if "dagster-daemon" in str(service.get("command"))]
    assert daemons == ["daemon"]
    assert services["daemon"].get("deploy", {}).get("replicas", 1) == 1
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert not any("docker.sock" in str(service) for service in services.values())
    assert os.path.exists(DEPLOY / "Dockerfile")
