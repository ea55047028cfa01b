"""The one way from an asset to the published data.

An asset is three lines: begin a :class:`Work`, scan its inputs, publish what a library function makes of them. Belongs
here: what Dagster must know of a publication (versions, checks, metadata, the fence). How a table becomes visible in
one atomic act is in :mod:`atomvision_ml.storage`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from atomvision_assets.failures import PermanentFailure, told_apart
from atomvision_assets.processes import tell_process
from atomvision_ml.schemas.tables import table as dictionary_table

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from atomvision_ml.storage.lake import Facts, Lake

CONTRACT_CHECK = "contract_is_kept"
SKIP_UNCHANGED_TAG = "atomvision/skip_unchanged"
"""Runs with this tag leave a value that would get the same data version as it is. A click in the UI recomputes."""
PREVIEW_LIMIT_BYTES = 150_000
"""A preview lies in the event log as text, so it must stay small."""
PROGRESS_EVERY_S = 5.0
ALONE_LIMIT_S = 1800.0
"""How long a run waits for another one that makes the same value."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Audit:
    """The verdict on one true statement about what is about to be published.

    ``name`` is that of a check declared on the asset. A failed audit publishes nothing, unless ``is_warning``.
    """

    name: str
    passed: bool
    details: Mapping[str, Any] = field(default_factory=dict)
    is_warning: bool = False

    @property
    def severity(self) -> dg.AssetCheckSeverity:
        """Dagster's word for it."""
        return dg.AssetCheckSeverity.WARN if self.is_warning else dg.AssetCheckSeverity.ERROR

    @property
    def metadata(self) -> dict[str, Any]:
        """The details as Dagster metadata."""
        return {name: _metadata_value(value) for name, value in self.details.items()}


@dataclass(frozen=True)
class Product:
    """What an asset made: its rows, what was found when they were audited, and a picture of them."""

    rows: list[dict[str, Any]] | pa.Table | pl.DataFrame
    audits: Sequence[Audit] = ()
    preview_png: bytes | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Store(dg.ConfigurableResource):
    """Where the published data are."""

    root: str
    s3_endpoint_url: str | None = None

    @cached_property
    def lake(self) -> Lake:
        """The storage behind it."""
        from atomvision_ml.storage.lake import Lake

        return Lake(self.root, s3_endpoint_url=self.s3_endpoint_url)

    def begin(self, context: dg.AssetExecutionContext) -> Work:
        """Begin one materialisation: of this asset, this partition, in this run."""
        tell_process(context.instance, context.run)
        return Work(context, self.lake)


class Work:
    """One materialisation: it knows what it has read, and publishes at most once.

    One object for each materialisation, because an in-process run shares its resources between all its steps.
    """

    def __init__(self, context: dg.AssetExecutionContext, lake: Lake):
        self.context = context
        self.lake = lake
        self.key = context.asset_key.to_user_string()
        # The automation asks for several partitions by a backfill, whose runs have ranges of one partition each.
        is_partitioned = context.has_partition_key or context.has_partition_key_range
        self.partition: str | None = context.partition_key if is_partitioned else None
        self.inputs: dict[str, str] = {}
        self.declared = {dep.to_user_string() for dep in context.assets_def.asset_deps[context.asset_key]}
        self._code_version = context.assets_def.code_versions_by_key[context.asset_key] or ""
        self._parameters: dict[str, Any] = {}
        self._scratch: Path | None = None
        self._locks = ExitStack()
        self._progress_at = time.monotonic()

    @property
    def name(self) -> str:
        """The key with its partition, for messages."""
        return self.key if self.partition is None else f"{self.key}[{self.partition}]"

    def scan(self, key: str, partition: str | None = None, *, apart_from: str | None = None) -> pl.LazyFrame:
        """The published rows of an input, lazily; its data version becomes part of this work's version.

        Without a partition, a partitioned table is read as far as it is published.

        Args:
            key: of the input.
            partition: of the input.
            apart_from: an input of the input whose rows the caller leaves out: what counts is the version that the
                input would have without it.

        Raises:
            PermanentFailure: the key is not among the asset's deps, or nothing is published under it yet.
        """
        if key not in self.declared:
            raise PermanentFailure(f"{self.name} reads {key}, which is not among its deps: declare it")
        with told_apart(f"{self.name} cannot read its input", self.context.retry_number):
            for name in self._published_partitions(key, partition):
                facts = self.lake.facts(key, name)
                version = facts.data_version if apart_from is None else facts.version_apart_from(apart_from)
                self.inputs[key if name is None else f"{key}/{name}"] = version
            return self.lake.scan(key, partition)

    def is_published(self, key: str) -> bool:
        """Whether anything of a declared input is there."""
        return bool(self._published_partitions(key, None, is_needed=False))

    def count_as_before(self, key: str) -> None:
        """Let an input count with the versions that the present value was made of, as its rows of it are kept."""
        from atomvision_ml.storage.versions import key_of

        exists = self.lake.exists(self.key, self.partition)
        former = self.lake.facts(self.key, self.partition).inputs if exists else {}
        kept = {name: version for name, version in self.inputs.items() if key_of(name) != key}
        self.inputs = kept | {name: version for name, version in former.items() if key_of(name) == key}

    def report_published(self, key: str) -> None:
        """Report every published partition of an external table whose version this instance does not know.

        Also those of a run that was killed between publishing and reporting.
        """
        for partition in self._published_partitions(key, None, is_needed=False):
            facts = self.lake.facts(key, partition)
            if _reported_version(self.context.instance, key, partition) == facts.data_version:
                continue
            self.context.instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    dg.AssetKey(key.split("/")),
                    partition=partition,
                    metadata={"dagster/row_count": facts.n_rows, "content_sha256": facts.content_sha256},
                    tags={"dagster/data_version": facts.data_version, "dagster/code_version": facts.code_version},
                )
            )

    def scan_published(self) -> set[str]:
        """Record every input that is published, for an asset that works on all of them; the published keys."""
        published = {key for key in self.declared if self.is_published(key)}
        for key in sorted(published):
            self.scan(key)
        return published

    @property
    def data_version(self) -> str:
        """The data version that this work's product will have; only of a work with inputs, while it is made."""
        from atomvision_ml.storage.lake import Version

        if not self.inputs:
            raise LookupError(f"{self.name} is a root: its data version is the hash of a content not made yet")
        return Version(code_version=self._code_version, parameters=self._parameters, inputs=self.inputs).data_version(
            ""
        )

    def former(self) -> pl.DataFrame | None:
        """This asset's own present value, or None."""
        exists = self.lake.exists(self.key, self.partition)
        return self.lake.scan(self.key, self.partition).collect() if exists else None

    def reusable(self) -> pl.DataFrame | None:
        """This asset's own present value if this code and these parameters made it: rows may be carried over.

        Only while the product is made: the parameters are not known before.
        """
        former = self.former()
        if former is None:
            return None
        facts = self.lake.facts(self.key, self.partition)
        is_same = facts.code_version == self._code_version and facts.parameters == _as_json(self._parameters)
        return former if is_same else None

    @contextmanager
    def alone(self, what: str | None = None) -> Iterator[None]:
        """Other runs of this machine that make the same value wait; whoever is last has seen what all have read.

        Args:
            what: name of something else that one run at a time does.

        Raises:
            RetryRequested: another run holds it for longer than `ALONE_LIMIT_S`.
        """
        from filelock import FileLock

        locks = self.lake.local / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        name = "-".join([*self.key.split("/"), *([self.partition] if self.partition else [])])
        lock = FileLock(locks / f"alone-{what or name}.lock")
        with told_apart(f"{self.name} waits for another run", self.context.retry_number):
            lock.acquire(timeout=ALONE_LIMIT_S)
        try:
            yield
        finally:
            lock.release()

    def scratch(self) -> Path:
        """A folder for unfinished work, the same again for the same inputs: an interrupted run resumes in it.

        A second run on the same work gets a folder of its own.
        """
        from filelock import FileLock, Timeout

        if self._scratch is not None:
            return self._scratch
        identity = json.dumps([self._code_version, self.inputs, self._parameters], sort_keys=True, default=str)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        name = "-".join([*self.key.split("/"), *([self.partition] if self.partition else []), digest])
        locks = self.lake.local / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        try:
            self._locks.enter_context(FileLock(locks / f"scratch-{name}.lock").acquire(timeout=0))
        except Timeout:
            name = f"{name}-{self.context.run.run_id}"
        self._scratch = self.lake.scratch(name)
        return self._scratch

    def within(self, name: str) -> Work:
        """The same work with a folder of that name in its scratch as its scratch: for a part of it that resumes."""
        part = copy(self)
        part._scratch = self.scratch() / name
        part._scratch.mkdir(parents=True, exist_ok=True)
        return part

    def progress(self, done: int, total: int | None = None) -> None:
        """Report progress, at most every few seconds; goes to the run's log and to the terminal of `make demo`."""
        if time.monotonic() - self._progress_at < PROGRESS_EVERY_S:
            return
        self._progress_at = time.monotonic()
        _log.info("%s: %s", self.name, f"{done:,}" if total is None else f"{done:,} of {total:,}")

    def publish(
        self, make: Callable[[], Product], *, parameters: Mapping[str, Any] | None = None
    ) -> dg.MaterializeResult:
        """Make the product, audit it and publish it, all or nothing.

        Args:
            make: called only if something would change, see :data:`SKIP_UNCHANGED_TAG`.
            parameters: what makes another data set of the same inputs (JSON values).

        Raises:
            PermanentFailure: bad input, a broken contract, a failed audit, or this run is no longer the one that may
                publish. The former value stays as it was.
        """
        self._parameters = dict(parameters or {})
        if (unchanged := self._unchanged()) is not None:
            return unchanged
        with self._locks, told_apart(self.name, self.context.retry_number):
            result = self._publish(make())
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)
            return result

    def _publish(self, product: Product) -> dg.MaterializeResult:
        from atomvision_ml.schemas.core import ContractError
        from atomvision_ml.storage.lake import PublicationRefusedError, Version

        try:
            audits = [*product.audits, Audit(CONTRACT_CHECK, True)]
            arrow = self._conform(product.rows)
        except ContractError as error:
            arrow, audits = None, [*product.audits, Audit(CONTRACT_CHECK, False, {"problem": str(error)})]
        self._refuse_failed(audits)
        version = Version(code_version=self._code_version, parameters=self._parameters, inputs=self.inputs)
        try:
            facts = self.lake.publish(
                self.key, arrow, version=version, partition=self.partition, may_publish=self.may_publish
            )
        except PublicationRefusedError as error:
            raise PermanentFailure(f"{self.name} is not published: {error}") from error
        return self._result(facts, product, audits)

    def may_publish(self) -> bool:
        """Whether this run is still started; an orphan of a failed or cancelled run must not publish."""
        run = self.context.instance.get_run_by_id(self.context.run.run_id)
        return run is not None and run.status == dg.DagsterRunStatus.STARTED

    def _conform(self, rows: list[dict[str, Any]] | pa.Table | pl.DataFrame) -> pa.Table:
        table = dictionary_table(self.key)
        if isinstance(rows, list):
            return table.from_rows(rows)
        return table.conform(rows.to_arrow() if hasattr(rows, "to_arrow") else rows)

    def _published_partitions(self, key: str, partition: str | None, *, is_needed: bool = True) -> Sequence[str | None]:
        if dictionary_table(key).dimension is None or partition is not None:
            return [partition] if is_needed or self.lake.exists(key, partition) else []
        return list(self.lake.partitions(key))

    def _refuse_failed(self, audits: Sequence[Audit]) -> None:
        failed = [audit for audit in audits if not audit.passed and not audit.is_warning]
        if not failed:
            return
        for audit in audits:
            self.context.log_event(
                dg.AssetCheckEvaluation(
                    asset_key=self.context.asset_key,
                    check_name=audit.name,
                    passed=audit.passed,
                    severity=audit.severity,
                    metadata=audit.metadata,
                    partition=self.partition,
                )
            )
        said = "; ".join(f"{audit.name}: {dict(audit.details)}" for audit in failed)
        raise PermanentFailure(f"{self.name} is not published, the former value stays. Not true: {said}")

    def _result(self, facts: Facts, product: Product, audits: Sequence[Audit]) -> dg.MaterializeResult:
        verdicts = {audit.name: [audit.passed, audit.is_warning] for audit in audits}
        metadata: dict[str, Any] = {
            "dagster/row_count": facts.n_rows,
            "dagster/uri": f"{self.lake.root}/{self._head_path()}",
            "content_sha256": facts.content_sha256,
            "audits": dg.MetadataValue.json(verdicts),
            **{name: _metadata_value(value) for name, value in product.metadata.items()},
        }
        if product.preview_png is not None:
            metadata["preview"] = _preview(product.preview_png)
        return self._materialize_result(facts, metadata, audits)

    def _materialize_result(
        self, facts: Facts, metadata: Mapping[str, Any], audits: Sequence[Audit]
    ) -> dg.MaterializeResult:
        return dg.MaterializeResult(
            metadata=metadata,
            data_version=dg.DataVersion(facts.data_version),
            check_results=[
                dg.AssetCheckResult(
                    check_name=audit.name, passed=audit.passed, severity=audit.severity, metadata=audit.metadata
                )
                for audit in audits
            ],
        )

    def _head_path(self) -> str:
        from atomvision_ml.storage.keys import head_path

        dimension = dictionary_table(self.key).dimension
        return head_path(self.key, dimension, self.partition)

    def _unchanged(self) -> dg.MaterializeResult | None:
        """The result that repeats the present value, if the run asks for that and nothing would change."""
        is_asked = self.context.run.tags.get(SKIP_UNCHANGED_TAG) == "true"
        if not is_asked or not self.inputs or not self.lake.exists(self.key, self.partition):
            return None
        facts = self.lake.facts(self.key, self.partition)
        present = (facts.code_version, facts.parameters, facts.inputs)
        if present != (self._code_version, _as_json(self._parameters), self.inputs):
            return None
        if self.lake.is_outdated(self.key, self.partition):
            return None
        metadata = self._last_metadata(facts)
        if metadata is None:
            return None
        self.context.log.info(f"{self.name} is unchanged: same inputs, parameters and code as when it was published")
        verdicts = metadata["audits"].value
        audits = [Audit(name, passed, is_warning=is_warning) for name, (passed, is_warning) in verdicts.items()]
        return self._materialize_result(facts, {**metadata, "is_unchanged": True}, audits)

    def _last_metadata(self, facts: Facts) -> dict[str, Any] | None:
        """What this instance recorded when the present value was published; None if it does not know it."""
        records = self.context.instance.fetch_materializations(
            dg.AssetRecordsFilter(
                asset_key=self.context.asset_key,
                asset_partitions=None if self.partition is None else [self.partition],
            ),
            limit=1,
        ).records
        event = records[0].asset_materialization if records else None
        if event is None or (event.tags or {}).get("dagster/data_version") != facts.data_version:
            return None
        declared = {spec.name for spec in self.context.assets_def.check_specs}
        audits = event.metadata.get("audits")
        if audits is None or set(audits.value) != declared:
            return None
        return dict(event.metadata)


def _reported_version(instance: dg.DagsterInstance, key: str, partition: str | None) -> str | None:
    asked = dg.AssetRecordsFilter(
        dg.AssetKey(key.split("/")), asset_partitions=None if partition is None else [partition]
    )
    records = instance.fetch_materializations(asked, limit=1).records
    event = records[0].asset_materialization if records else None
    return None if event is None else (event.tags or {}).get("dagster/data_version")


def _preview(png: bytes) -> dg.MetadataValue:
    if len(png) > PREVIEW_LIMIT_BYTES:
        return dg.MetadataValue.text(f"left out: {len(png)} bytes, more than {PREVIEW_LIMIT_BYTES}")
    return dg.MetadataValue.md(f"![preview](data:image/png;base64,{base64.b64encode(png).decode()})")


def _metadata_value(value: Any) -> Any:
    """A value as Dagster takes it: numbers and texts as they are, NumPy scalars and containers as JSON."""
    if isinstance(value, dg.MetadataValue | bool | int | float | str) or value is None:
        return value
    if isinstance(value, Path):
        return dg.MetadataValue.path(value)
    return dg.MetadataValue.json(json.loads(json.dumps(value, default=_plain)))


def _as_json(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as the facts of a published value keep them."""
    return dict(json.loads(json.dumps(parameters)))


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else str(value)
