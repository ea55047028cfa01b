"""Runs whose process was killed: they cannot say that they ended, so somebody else must."""

from __future__ import annotations

import os
import socket

import dagster as dg

PROCESS_TAG = "atomvision/process"
"""Host and process id of the process that a run lives in: how a killed one is recognised afterwards."""


def this_process() -> str:
    """What stands in the tag."""
    return f"{socket.gethostname()}:{os.getpid()}"


def tell_process(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Write into a run, from its own process, where it lives."""
    if run.tags.get(PROCESS_TAG) != this_process():
        instance.add_run_tags(run.run_id, {PROCESS_TAG: this_process()})


def end_killed_runs(instance: dg.DagsterInstance) -> int:
    """Mark the runs of processes of this machine that are gone as failed; how many.

    Otherwise such a run would stay started for ever, and keep its place in the queue and in a pool.
    """
    ended = 0
    unfinished = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
    for run in instance.get_runs(filters=unfinished):
        host, _, process = run.tags.get(PROCESS_TAG, "").rpartition(":")
        is_gone = host == socket.gethostname() and not _is_alive(int(process))
        if is_gone and not _is_inherited(instance, run):
            instance.report_run_failed(run, message="The process that this run lived in was killed.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            ended += 1
    return ended


def _is_inherited(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the tag is that of the run which this one repeats: a retry takes over all tags."""
    parent = instance.get_run_by_id(run.parent_run_id) if run.parent_run_id is not None else None
    return parent is not None and parent.tags.get(PROCESS_TAG) == run.tags[PROCESS_TAG]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
