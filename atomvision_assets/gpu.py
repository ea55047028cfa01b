"""What an asset says when it wants a GPU: one pool, one Kubernetes request, one tag.

The training functions take a ``device`` and run on a CPU just as well; nothing here is needed for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg

POOL = "gpu"
"""Runs that share it wait for each other, also across runs; its limit is `concurrency.pools` in dagster.yaml."""

TAGS = {"compute": "gpu"}

OP_TAGS: dict[str, Any] = {
    "dagster-k8s/config": {
        "container_config": {
            "resources": {
                "requests": {"cpu": "4", "memory": "16Gi"},
                "limits": {"nvidia.com/gpu": 1, "memory": "32Gi"},
            },
            "volume_mounts": [{"name": "shm", "mount_path": "/dev/shm"}],
        },
        "pod_spec_config": {
            "node_selector": {"nvidia.com/gpu.present": "true"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "volumes": [{"name": "shm", "empty_dir": {"medium": "Memory", "size_limit": "8Gi"}}],
        },
        "job_spec_config": {"ttl_seconds_after_finished": 86_400},
    }
}
"""On the asset, not on a job: job tags are lost when an asset is materialised directly or by a backfill."""


@contextmanager
def trainings_at_once(instance: dg.DagsterInstance, device: str, most: int) -> Iterator[None]:
    """On a CPU let some steps of the pool run side by side meanwhile; a GPU stays with one at a time.

    Args:
        instance: has the pool; its limit is afterwards what it was.
        device: as the settings name it.
        most: steps of the pool at once.
    """
    import torch

    if device != "cpu" and torch.cuda.is_available():
        yield
        return
    storage = instance.event_log_storage
    own = [pool.limit for pool in storage.get_pool_limits() if pool.name == POOL and not pool.from_default]
    storage.set_concurrency_slots(POOL, most)
    try:
        yield
    finally:
        if own:
            storage.set_concurrency_slots(POOL, own[0])
        else:
            storage.delete_concurrency_limit(POOL)
