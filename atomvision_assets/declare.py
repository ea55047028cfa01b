"""The one way to declare an asset, so that every asset has all that a reader of the catalogue may expect.

Key, description, column schema, group, partitions and checks come from the table dictionary; what is left to say is
what the table depends on, the version of the code and the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from atomvision_assets import gpu
from atomvision_assets.partitions import mapping_between, partitions_of
from atomvision_assets.store import CONTRACT_CHECK
from atomvision_ml.schemas.core import Column, Table
from atomvision_ml.schemas.tables import table as dictionary_table
from atomvision_ml.storage.keys import page_name, view_name

OWNERS = ("team:atomvision",)


def table_asset(
    key: str,
    *,
    code_version: str,
    kinds: set[str],
    deps: Sequence[str | dg.AssetDep] = (),
    checks: Mapping[str, str] | None = None,
    automation_condition: dg.AutomationCondition | None = None,
    is_gpu: bool = False,
    pool: str | None = None,
    freshness_policy: dg.FreshnessPolicy | None = None,
    description: str | None = None,
) -> Callable[[Callable[..., dg.MaterializeResult]], dg.AssetsDefinition]:
    """Declare the asset that publishes the table ``key``.

    Args:
        key: key of the table dictionary.
        code_version: version of the algorithm, written by hand; a new one makes everything downstream stale.
        kinds: badges in the UI, at most three.
        deps: keys that the asset scans. One of the same dimension is read partition by partition, one of another
            dimension as far as it is published; an ``AssetDep`` says it otherwise.
        checks: name (a true statement) and description of each check, besides the contract.
        automation_condition: None for roots.
        is_gpu: ask for a GPU where the deployment has one; its pool is that of the GPU.
        pool: steps of one pool run one after another, in all runs together.
        freshness_policy: how old the value may become.
        description: what the dictionary does not say.
    """
    table = dictionary_table(key)
    partitions_def = partitions_of(table.dimension)
    asset_key = asset_key_of(key)
    all_checks = {CONTRACT_CHECK: "Columns, types, units and ranges are those of the dictionary.", **(checks or {})}
    return dg.asset(
        key=asset_key,
        group_name=key.split("/")[0],
        description="\n\n".join(filter(None, [table.description, description])),
        owners=list(OWNERS),
        kinds=kinds,
        code_version=code_version,
        deps=[dep if isinstance(dep, dg.AssetDep) else dependency(dep, table) for dep in deps],
        partitions_def=partitions_def,
        check_specs=[
            dg.AssetCheckSpec(name, asset=asset_key, description=text, partitions_def=partitions_def)
            for name, text in all_checks.items()
        ],
        automation_condition=automation_condition,
        pool=gpu.POOL if is_gpu else pool,
        backfill_policy=None if partitions_def is None else dg.BackfillPolicy.multi_run(1),
        freshness_policy=freshness_policy,
        op_tags=gpu.OP_TAGS if is_gpu else None,
        tags=gpu.TAGS if is_gpu else None,
        metadata=_metadata(table),
    )


def external_table(key: str, *, kinds: set[str], deps: Sequence[str], description: str) -> dg.AssetSpec:
    """Declare a table that no run of its own publishes: another asset does, and reports each partition.

    Args:
        key: key of the table dictionary.
        kinds: badges in the UI, at most three.
        deps: the assets that publish it.
        description: what the dictionary does not say.
    """
    table = dictionary_table(key)
    return dg.AssetSpec(
        asset_key_of(key),
        group_name=key.split("/")[0],
        description=f"{table.description}\n\n{description}",
        owners=list(OWNERS),
        kinds=kinds,
        deps=[asset_key_of(dep) for dep in deps],
        partitions_def=partitions_of(table.dimension),
        metadata=_metadata(table),
    )


def _metadata(table: Table) -> dict[str, Any]:
    return {
        "dagster/column_schema": table_schema(table),
        "dagster/relation_identifier": view_name(table.key),
        "documentation": page_name(table.key),
    }


def asset_key_of(key: str) -> dg.AssetKey:
    """Dagster's form of a key of :mod:`atomvision_ml.storage.keys`."""
    return dg.AssetKey(key.split("/"))


def dependency(key: str, downstream: Table) -> dg.AssetDep:
    """The dependency of a table on a key, with the mapping that their dimensions imply."""
    mapping = mapping_between(dictionary_table(key).dimension, downstream.dimension)
    return dg.AssetDep(asset_key_of(key), partition_mapping=mapping)


def on_partition(key: str, partition: str) -> dg.AssetDep:
    """The dependency of an unpartitioned table on one partition of a key."""
    return dg.AssetDep(asset_key_of(key), partition_mapping=dg.SpecificPartitionsPartitionMapping([partition]))


def table_schema(table: Table) -> dg.TableSchema:
    """Dagster's column schema of a table of the dictionary."""
    return dg.TableSchema(columns=[_column(column) for column in table.columns])


def _column(column: Column) -> dg.TableColumn:
    rules: list[str] = []
    if column.minimum is not None or column.maximum is not None:
        rules.append(f"{column.minimum} ≤ value ≤ {column.maximum}".replace("None ≤ ", "").replace(" ≤ None", ""))
    if column.one_of is not None:
        rules.append("one of " + ", ".join(column.one_of))
    constraints: dict[str, Any] = {"nullable": column.nullable, "unique": column.unique, "other": rules}
    return dg.TableColumn(
        name=column.name,
        type=str(column.type),
        description=column.description + (f" [{column.unit}]" if column.unit else ""),
        constraints=dg.TableColumnConstraints(**constraints),
    )
