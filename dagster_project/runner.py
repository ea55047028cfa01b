"""Runs steps in this process, each as a run of its own that Dagster's UI shows afterwards."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import dagster as dg

from atomvision_assets.declare import asset_key_of
from atomvision_assets.processes import PROCESS_TAG, this_process
from atomvision_assets.store import SKIP_UNCHANGED_TAG
from atomvision_ml.storage.keys import CATALOG_WAREHOUSE
from dagster_project.steps import Outcome, Size, State, Step

TAKES_WHAT_THERE_IS = asset_key_of(CATALOG_WAREHOUSE)
"""Its views are of what is published, whatever failed."""
MESSAGE_LIMIT = 500


class Runner:
    """Runs the plan and keeps what became of each step."""

    def __init__(
        self,
        definitions: dg.Definitions,
        instance: dg.DagsterInstance,
        size: Size,
        *,
        is_forced: bool = False,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        left_out: Mapping[str, str] | None = None,
    ):
        """Nothing runs yet.

        Args:
            definitions: the code location.
            instance: keeps the runs.
            size: reaches the assets that take one.
            is_forced: compute also what is unchanged.
            config: parameters by asset key that differ from the defaults.
            left_out: jobs that are not asked for, with the reason.
        """
        self.definitions = definitions
        self.instance = instance
        self.size = size
        self.config = config or {}
        self.left_out = dict(left_out or {})
        self.outcomes: dict[Step, Outcome] = {}
        self._tags = {PROCESS_TAG: this_process()} | ({} if is_forced else {SKIP_UNCHANGED_TAG: "true"})

    def run(self, step: Step) -> Outcome:
        """Run one step, unless something that it needs has failed before."""
        outcome = self.verdict(step) or self.execute(step)
        self.outcomes[step] = outcome
        return outcome

    def verdict(self, step: Step) -> Outcome | None:
        """Why a step is not run: it is left out, or something that it needs has failed. None if it can be run."""
        if step.job in self.left_out:
            return Outcome(State.LEFT_OUT, message=self.left_out[step.job])
        if (blocker := self._blocker(step)) is not None:
            return Outcome(State.BLOCKED, message=f"needs {blocker}")
        return None

    def _blocker(self, step: Step) -> str | None:
        """A step upstream that failed. A fan-in over partitions goes on while one of them is well."""
        if step.key == TAKES_WHAT_THERE_IS:
            return None
        for key in self.definitions.resolve_asset_graph().get(step.key).parent_keys:
            tried = {other: outcome for other, outcome in self.outcomes.items() if other.key == key}
            same = {other: outcome for other, outcome in tried.items() if other.partition == step.partition}
            relevant = same or tried
            if relevant and all(outcome.state in (State.FAILED, State.BLOCKED) for outcome in relevant.values()):
                return next(iter(relevant)).name
        return None

    def execute(self, step: Step) -> Outcome:
        """Run one step, whatever happened before; KeyboardInterrupt if a person stopped it."""
        job = self.definitions.resolve_job_def(step.job)
        started = time.monotonic()
        result = job.execute_in_process(
            partition_key=step.partition,
            asset_selection=[step.key],
            instance=self.instance,
            raise_on_error=False,
            tags=self._tags,
            run_config=self._run_config(job, step),
        )
        seconds = time.monotonic() - started
        if not result.success:
            if _was_interrupted(result):
                raise KeyboardInterrupt
            return Outcome(State.FAILED, seconds, message=_failure(result))
        (event,) = result.asset_materializations_for_node("__".join(step.key.path))
        state = State.UNCHANGED if "is_unchanged" in event.metadata else State.DONE
        return Outcome(state, seconds, n_rows=int(str(event.metadata["dagster/row_count"].value)))

    def _run_config(self, job: dg.JobDefinition, step: Step) -> dict[str, Any]:
        node = "__".join(step.key.path)
        chosen = dict(self.config.get(step.key.to_user_string(), {}))
        if "size" in _config_fields(job, node):
            chosen["size"] = self.size.value
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        return {**quiet, "ops": {node: {"config": chosen}}} if chosen else quiet


def _config_fields(job: dg.JobDefinition, node: str) -> set[str]:
    """Names of the parameters that an asset takes."""
    schema = job.get_node_named(node).definition.config_field
    return set(getattr(schema.config_type, "fields", {})) if schema is not None else set()


def _failure(result: dg.ExecuteInProcessResult) -> str:
    """Why it failed, in the words of the failure; the whole of it is in the UI."""
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data is not None and data.user_failure_data.description:
                return _shortened(data.user_failure_data.description)
            if data.error is not None:
                cause = data.error.cause or data.error
                return _shortened(cause.message)
    return "the run did not start; see the Dagster UI"


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a person stopped it: Dagster takes Ctrl-C for a failure of the step."""
    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    return any(failure.error_source is not None and failure.error_source.value == "INTERRUPT" for failure in failures)


def _shortened(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= MESSAGE_LIMIT else f"{words[:MESSAGE_LIMIT]} …"
