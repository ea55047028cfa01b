"""Jobs: the graph cut where its partitions change.

An unpartitioned asset in a partitioned job would be materialised once per partition, and two partition dimensions do
not fit in one job. So the jobs are run in turn: each source, the materials; each task, the models; each day of the
inbox; the harvest, each month, the export; figures and pages; the catalogue.
"""

from __future__ import annotations

import dagster as dg

from atomvision_assets.declare import asset_key_of
from atomvision_assets.literature.second_finder import second_finder
from atomvision_ml.schemas.tables import TABLES
from atomvision_ml.storage.keys import (
    CATALOG_DICTIONARY,
    CATALOG_WAREHOUSE,
    EVALUATION_EXPERIMENTAL_ANSWERS,
    EVALUATION_EXPERIMENTAL_HOLDOUT,
    EVALUATION_HOLDOUT,
    EXPERIMENTS_INBOX,
    EXPERIMENTS_MICROGRAPHS,
    EXPERIMENTS_RECORDS,
    LITERATURE_GALLERY,
    LITERATURE_HARVEST,
    LITERATURE_LINKS,
    LITERATURE_PAPERS,
    MODELS_DECISIONS,
    STRUCTURES_MATERIALS,
)

_ALONE = (
    STRUCTURES_MATERIALS,
    LITERATURE_HARVEST,
    LITERATURE_LINKS,
    LITERATURE_GALLERY,
    EXPERIMENTS_RECORDS,
    EXPERIMENTS_MICROGRAPHS,
    CATALOG_WAREHOUSE,
    CATALOG_DICTIONARY,
)
_NEEDED_FOR_CHAMPIONS = (EVALUATION_HOLDOUT, EVALUATION_EXPERIMENTAL_HOLDOUT, EVALUATION_EXPERIMENTAL_ANSWERS)
_EXTERNAL = (LITERATURE_PAPERS, EXPERIMENTS_INBOX, MODELS_DECISIONS)


def _with_dimension(dimension: str | None) -> list[dg.AssetKey]:
    chosen = [key for key, table in TABLES.items() if table.dimension == dimension]
    return [asset_key_of(key) for key in chosen if key not in (*_ALONE, *_EXTERNAL)]


def _is_evaluation(key: dg.AssetKey) -> bool:
    """Whether it is made after the champions are chosen."""
    return key.path[0] == "evaluation" and key.to_user_string() not in _NEEDED_FOR_CHAMPIONS


def _job(name: str, keys: list[dg.AssetKey], description: str) -> dg.UnresolvedAssetJobDefinition:
    return dg.define_asset_job(name, selection=dg.AssetSelection.assets(*keys), description=description)


REFRESH_STRUCTURES = _job(
    "refresh_structures",
    _with_dimension("source"),
    "One structure database: read it, make slabs of it, render its images.",
)
REFRESH_MATERIALS = _job(
    "refresh_materials", [asset_key_of(STRUCTURES_MATERIALS)], "Find the same crystal in all databases."
)
REFRESH_TRAINING_SETS = _job("refresh_training_sets", _with_dimension("task"), "Freeze the training set of one task.")
REFRESH_MODELS = _job(
    "refresh_models",
    [key for key in _with_dimension(None) if not _is_evaluation(key)],
    "Train, predict, judge, promote.",
)
REFRESH_EVALUATION = _job(
    "refresh_evaluation",
    [key for key in _with_dimension(None) if _is_evaluation(key)],
    "Figures with intervals, comparisons, pictures.",
)
INGEST_EXPERIMENTS = _job(
    "ingest_experiments",
    [asset_key_of(EXPERIMENTS_RECORDS), asset_key_of(EXPERIMENTS_MICROGRAPHS)],
    "Files of the inbox: read, describe and store them. The sensor `inbox` starts it.",
)
ANALYSE_EXPERIMENTS = _job(
    "analyse_experiments", _with_dimension("day"), "One day of micrographs: what is measured in them."
)
REFRESH_CATALOG = _job(
    "refresh_catalog",
    [asset_key_of(CATALOG_WAREHOUSE), asset_key_of(CATALOG_DICTIONARY)],
    "The views for SQL and the pages of the dictionary.",
)
HARVEST_LITERATURE = _job(
    "harvest_literature",
    [asset_key_of(LITERATURE_HARVEST)],
    "Ask arXiv what changed since the last harvest; publish the months that it changes.",
)
REFRESH_LITERATURE = _job(
    "refresh_literature", _with_dimension("month"), "One month of papers: texts, figures, images, panels, materials."
)
EXPORT_LITERATURE = _job(
    "export_literature",
    [asset_key_of(LITERATURE_LINKS), asset_key_of(LITERATURE_GALLERY)],
    "The public list of links to figures and papers, and the page of mined figures.",
)
COMPARE_FINDERS = dg.define_asset_job(
    "compare_finders",
    selection=dg.AssetSelection.checks(second_finder),
    description="Ask arXiv's Atom interface whether the harvest lacks a paper of the newest months.",
)

LITERATURE = [HARVEST_LITERATURE, REFRESH_LITERATURE, EXPORT_LITERATURE]
EXPERIMENTS = [INGEST_EXPERIMENTS, ANALYSE_EXPERIMENTS]
ALL = [
    REFRESH_STRUCTURES,
    REFRESH_MATERIALS,
    REFRESH_TRAINING_SETS,
    REFRESH_MODELS,
    *EXPERIMENTS,
    *LITERATURE,
    REFRESH_EVALUATION,
    REFRESH_CATALOG,
]
"""In the order in which they build on each other."""
