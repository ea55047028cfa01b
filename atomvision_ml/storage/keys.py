"""One name, four places: asset key, storage path, DuckDB view and documentation page."""

from __future__ import annotations

import re

STRUCTURES_RECORDS = "structures/records"
STRUCTURES_SLABS = "structures/slabs"
STRUCTURES_MATERIALS = "structures/materials"
IMAGES_STEM = "images/stem"
IMAGES_ATOM_GRAPHS = "images/atom_graphs"
MODELS_TRAINING_SETS = "models/training_sets"
MODELS_CHAMPIONS = "models/champions"
MODELS_VERDICTS = "models/verdicts"
MODELS_DECISIONS = "models/decisions"
EVALUATION_HOLDOUT = "evaluation/holdout"
EVALUATION_EXPERIMENTAL_HOLDOUT = "evaluation/experimental_holdout"
EVALUATION_EXPERIMENTAL_ANSWERS = "evaluation/experimental_answers"
EVALUATION_METRICS = "evaluation/metrics"
EVALUATION_COMPARISONS = "evaluation/comparisons"
EVALUATION_EMBEDDINGS = "evaluation/embeddings"
EVALUATION_GALLERY = "evaluation/gallery"
LITERATURE_HARVEST = "literature/harvest"
LITERATURE_PAPERS = "literature/papers"
LITERATURE_TEXTS = "literature/texts"
LITERATURE_FIGURES = "literature/figures"
LITERATURE_IMAGES = "literature/images"
LITERATURE_PANELS = "literature/panels"
LITERATURE_MENTIONS = "literature/mentions"
LITERATURE_LINKS = "literature/links"
LITERATURE_GALLERY = "literature/gallery"
EXPERIMENTS_INBOX = "experiments/inbox"
EXPERIMENTS_RECORDS = "experiments/records"
EXPERIMENTS_MICROGRAPHS = "experiments/micrographs"
EXPERIMENTS_FACETS = "experiments/facets"
EXPERIMENTS_PARTICLES = "experiments/particles"
EXPERIMENTS_FINDINGS = "experiments/findings"
EVALUATION_MATCHED_PAIRS = "evaluation/matched_pairs"
CATALOG_WAREHOUSE = "catalog/warehouse"
CATALOG_DICTIONARY = "catalog/dictionary"

_PARTITION = re.compile(r"^[a-z0-9][a-z0-9_-]{0,63}$")


def check_partition(partition: str) -> str:
    """The partition key if it is safe as a folder name; raises ValueError otherwise."""
    if not _PARTITION.match(partition):
        raise ValueError(f"partition key {partition!r} must match {_PARTITION.pattern}")
    return partition


def head_path(key: str, dimension: str | None = None, partition: str | None = None) -> str:
    """Path of the published head relative to the root, with forward slashes."""
    if (dimension is None) != (partition is None):
        raise ValueError(f"{key}: dimension {dimension!r} and partition {partition!r} must be given together")
    if partition is None:
        return f"published/{key}/data.parquet"
    return f"published/{key}/{dimension}={check_partition(partition)}/data.parquet"


def view_name(key: str) -> str:
    """DuckDB view of an asset key: ``structures/slabs`` is ``structures.slabs``."""
    return key.replace("/", ".")


def page_name(key: str) -> str:
    """Documentation page of an asset key."""
    return key.replace("/", ".") + ".html"
