"""What an asset says when it wants a GPU: one pool, one Kubernetes request, one tag.

The training functions take a ``device`` and run on a CPU just as well; nothing here is needed for that.
"""

from __future__ import annotations

from typing import Any

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
