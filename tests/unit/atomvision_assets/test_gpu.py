"""Whether trainings wait for each other."""

from collections.abc import Iterator

import dagster as dg
import pytest

from atomvision_assets.gpu import POOL, trainings_at_once


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    settings = {"concurrency": {"pools": {"default_limit": 1, "granularity": "op"}}}
    with dg.instance_for_test(settings) as instance:
        instance.event_log_storage.initialize_concurrency_limit_to_default(POOL)
        yield instance


def verdicts(instance: dg.DagsterInstance, count: int) -> list[str]:
    """What so many runs hear that ask for a place in the pool."""
    storage = instance.event_log_storage
    runs = [dg.DagsterRun(job_name="any").run_id for _ in range(count)]
    heard = [storage.claim_concurrency_slot(POOL, run, "train").slot_status.value for run in runs]
    for run in runs:
        storage.free_concurrency_slots_for_run(run)
    return heard


@pytest.mark.parametrize("has_gpu", [False, True])
def test_on_a_cpu_trainings_run_side_by_side_meanwhile(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, has_gpu: bool
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    with trainings_at_once(instance, "auto", 2):
        assert verdicts(instance, 3) == ["CLAIMED", "BLOCKED" if has_gpu else "CLAIMED", "BLOCKED"]
    instance.event_log_storage.initialize_concurrency_limit_to_default(POOL)
    assert verdicts(instance, 2) == ["CLAIMED", "BLOCKED"]


def interrupt(instance: dg.DagsterInstance) -> None:
    assert verdicts(instance, 3)[-1] == "BLOCKED"
    raise KeyboardInterrupt


def test_a_limit_that_somebody_has_set_comes_back_whatever_happens(instance: dg.DagsterInstance) -> None:
    instance.event_log_storage.set_concurrency_slots(POOL, 3)
    with pytest.raises(KeyboardInterrupt), trainings_at_once(instance, "cpu", 2):
        interrupt(instance)
    assert verdicts(instance, 4) == ["CLAIMED"] * 3 + ["BLOCKED"]
