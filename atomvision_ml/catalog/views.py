"""Views over views: questions that people ask often, each written once in SQL.

A view here is to the warehouse what a table is to the dictionary: a name, a description, columns with meaning
and unit, and the tables that it reads.
"""

from __future__ import annotations

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.schemas.core import Column, Table
from atomvision_ml.schemas.tables.experiments import MICROGRAPHS, RECORDS
from atomvision_ml.schemas.tables.models import GAIN, INPUT

S, I32, I64, F64 = pa.string(), pa.int32(), pa.int64(), pa.float64()
AT = pa.timestamp("us", tz="UTC")
STORY_FILE = pa.struct(
    [(name, S) for name in ("original_filename", "file_sha256", "place", "record_id", "sample_id", "lattice", "split")]
)

LOWER_IS_BETTER = (
    "(^|_)(error|loss|rmse|mae|ece|brier|nll|distance|deviation|false|invented|lost|missed|bias|confusion)(_|$)"
)
"""Metrics with one of these words in their name are better when smaller; all others are better when larger."""

PUBLISHED_FIGURES = (
    ("lattice", None, "accuracy", 0.830, "section 3.4: DenseNet, noiseless, random split"),
    ("lattice", "lattice_graph", "accuracy", 0.78, "section 3.5: ALIGNN on graphs of the images; not reproducible"),
    ("segmentation", None, "paper_pixel_accuracy", 0.930, "section 3.3: U-Net, noiseless, random split"),
)
"""Task, model (None: every model without a figure of its own), metric, value and origin of the figures in the paper
that this platform answers to: K. Choudhary et al., *AtomVision: A machine vision library for atomistic images*. They
stand beside the slice ``all|clean``, the nearest to how they were measured."""


class View(BaseModel):
    """One SQL view over the views of published tables."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$", description="`schema.view`.")
    description: str
    columns: tuple[Column, ...]
    bases: tuple[str, ...] = Field(description="Asset keys of the tables that it reads.")
    sql: str


def _columns_of(table: Table, *names: str) -> tuple[Column, ...]:
    return tuple(table.column(name) for name in names)


def _published_rows() -> str:
    rows = ((task, "NULL" if model is None else f"'{model}'", *rest) for task, model, *rest in PUBLISHED_FIGURES)
    return ", ".join(f"('{task}', {model}, '{metric}', {value})" for task, model, metric, value, _ in rows)


LEADERBOARD = View(
    name="evaluation.leaderboard",
    description=(
        "Every figure of a model beside the best trivial or classical value for the same task, size, slice and "
        "metric, and beside the published figure where there is one. A figure without a baseline is not shown."
    ),
    bases=("evaluation/metrics",),
    columns=(
        Column(name="task", type=S, description="Learning task."),
        Column(name="model", type=S, description="Registered name."),
        Column(name="size", type=S, description="Size of the graph."),
        Column(name="slice", type=S, description="Which items; see evaluation.metrics."),
        Column(name="metric", type=S, description="Name of the metric."),
        Column(name="value", type=F64, description="Mean over the training seeds."),
        Column(name="low", type=F64, nullable=True, description="Lowest lower end of the intervals of the seeds."),
        Column(name="high", type=F64, nullable=True, description="Highest upper end of the intervals of the seeds."),
        Column(
            name="baseline",
            type=F64,
            description=(
                "Best value of another method whose role is trivial or classical: the smallest for errors, losses "
                "and distances, the largest for all other metrics."
            ),
        ),
        Column(name="published", type=F64, nullable=True, description="Figure of the AtomVision paper."),
    ),
    sql=f"""
WITH figures AS (
    SELECT task, model, size, slice, metric, any_value(role) AS role,
           avg(value) AS value, min(low) AS low, max(high) AS high
    FROM evaluation.metrics GROUP BY task, model, size, slice, metric
), ranked AS (
    SELECT figures.*, CASE WHEN regexp_matches(metric, '{LOWER_IS_BETTER}') THEN -value ELSE value END AS merit
    FROM figures
), paired AS (
    SELECT shown.task, shown.model, shown.size, shown.slice, shown.metric, shown.value, shown.low, shown.high,
           arg_max(rival.value, rival.merit) AS baseline
    FROM ranked AS shown JOIN ranked AS rival USING (task, size, slice, metric)
    WHERE shown.role <> 'trivial' AND rival.role <> 'model' AND rival.model <> shown.model
    GROUP BY ALL
), figure(task, model, metric, published) AS (VALUES {_published_rows()})
SELECT paired.*, CAST(coalesce(own.published, common.published) AS DOUBLE) AS published
FROM paired
LEFT JOIN figure AS own ON own.task = paired.task AND own.model = paired.model AND own.metric = paired.metric
    AND paired.slice = 'all|clean'
LEFT JOIN figure AS common ON common.task = paired.task AND common.model IS NULL AND common.metric = paired.metric
    AND paired.slice = 'all|clean'
ORDER BY task, size, slice, metric, model
""",
)

CONFUSION = View(
    name="evaluation.confusion",
    description="Confusion matrices of the lattice classes: of each class the share that a model takes for each class.",
    bases=("evaluation/metrics",),
    columns=(
        Column(name="model", type=S, description="Registered name."),
        Column(name="size", type=S, description="Size of the graph."),
        Column(name="slice", type=S, description="Which items; see evaluation.metrics."),
        Column(name="true", type=S, description="The class."),
        Column(name="found", type=S, description="What it is taken for; `none`: no answer."),
        Column(name="share", type=F64, description="Of the items of the class; mean over the training seeds."),
        Column(name="low", type=F64, nullable=True, description="Lowest lower end of the intervals of the seeds."),
        Column(name="high", type=F64, nullable=True, description="Highest upper end of the intervals of the seeds."),
    ),
    sql="""
WITH cells AS (
    SELECT *, regexp_extract(metric, '^confusion_(.+)_as_(.+)$', ['true', 'found']) AS apart,
           regexp_extract(metric, '^recall_(.+)$', 1) AS own
    FROM evaluation.metrics WHERE task = 'lattice' AND regexp_matches(metric, '^(confusion|recall)_')
)
SELECT model, size, slice, coalesce(nullif(own, ''), apart['true']) AS "true",
       coalesce(nullif(own, ''), apart['found']) AS "found",
       avg(value) AS share, min(low) AS low, max(high) AS high
FROM cells GROUP BY ALL ORDER BY size, slice, model, "true", "found"
""",
)

STEM_ATOMS = View(
    name="images.stem_atoms",
    description="Every atom in view of every STEM image, one row each.",
    bases=("images/stem",),
    columns=(
        Column(name="image_id", type=S, description="Image of images.stem."),
        Column(name="slab_id", type=S, description="The slab that was imaged."),
        Column(name="x_angstrom", type=F64, unit="Å", description="From the centre of pixel [0, 0] along columns."),
        Column(name="y_angstrom", type=F64, unit="Å", description="From the centre of pixel [0, 0] along rows."),
        Column(name="atomic_number", type=pa.int16(), description="Atomic number Z."),
    ),
    sql="""
SELECT image_id, slab_id, atom.x_angstrom, atom.y_angstrom, atom.atomic_number
FROM (SELECT image_id, slab_id, unnest(atoms) AS atom FROM images.stem)
""",
)

STEM_COLUMNS = View(
    name="images.stem_columns",
    description="Every atomic column in view of every STEM image, one row each.",
    bases=("images/stem",),
    columns=(
        Column(name="image_id", type=S, description="Image of images.stem."),
        Column(name="slab_id", type=S, description="The slab that was imaged."),
        Column(name="x_angstrom", type=F64, unit="Å", description="From the centre of pixel [0, 0] along columns."),
        Column(name="y_angstrom", type=F64, unit="Å", description="From the centre of pixel [0, 0] along rows."),
        Column(name="n_atoms", type=pa.int16(), description="Atoms in the column."),
        Column(name="relative_intensity", type=F64, description="Intensity relative to the brightest column."),
    ),
    sql="""
SELECT image_id, slab_id, col.x_angstrom, col.y_angstrom, col.n_atoms, col.relative_intensity
FROM (SELECT image_id, slab_id, unnest(columns) AS col FROM images.stem)
""",
)

SOURCE_SUMMARY = View(
    name="structures.source_summary",
    description="Records, accepted and rejected, of each structure database, with the most frequent reason.",
    bases=("structures/slabs",),
    columns=(
        Column(name="source", type=S, description="Structure database."),
        Column(name="n_records", type=I64, description="Records."),
        Column(name="n_accepted", type=I64, description="Accepted as slabs."),
        Column(name="n_rejected", type=I64, description="Rejected with a reason."),
        Column(name="rejected_percent", type=F64, unit="%", description="Share of rejected records."),
        Column(name="most_frequent_reason", type=S, nullable=True, description="Of the rejected ones."),
    ),
    sql="""
SELECT source, count(*) AS n_records,
       count(*) FILTER (status = 'accepted') AS n_accepted,
       count(*) FILTER (status = 'rejected') AS n_rejected,
       100.0 * count(*) FILTER (status = 'rejected') / count(*) AS rejected_percent,
       mode(reason) FILTER (status = 'rejected') AS most_frequent_reason
FROM structures.slabs GROUP BY source
""",
)

LATTICE_COUNTS = View(
    name="structures.lattice_counts",
    description=(
        "Accepted slabs of each database by Bravais lattice of the projection and by the published rule; where the "
        "two differ, the published label changes under the sound definition."
    ),
    bases=("structures/slabs",),
    columns=(
        Column(name="source", type=S, description="Structure database."),
        Column(name="bravais_lattice", type=S, description="Of the projection; see structures.slabs."),
        Column(name="bravais_lattice_published", type=S, nullable=True, description="By the published rule."),
        Column(name="n_slabs", type=I64, description="Slabs with this pair of labels."),
        Column(name="n_ambiguous", type=I64, description="Of these, ambiguous by the rule fixed in advance."),
    ),
    sql="""
SELECT source, bravais_lattice, bravais_lattice_published, count(*) AS n_slabs,
       count(*) FILTER (is_ambiguous) AS n_ambiguous
FROM structures.slabs WHERE status = 'accepted' GROUP BY ALL
""",
)

OVERLAPS = View(
    name="structures.overlaps",
    description="How many materials each combination of databases shares.",
    bases=("structures/materials",),
    columns=(
        Column(name="sources", type=S, description="Databases that hold the material, joined by ` + `."),
        Column(name="n_materials", type=I64, description="Materials in exactly these databases."),
    ),
    sql="""
SELECT array_to_string(sources, ' + ') AS sources, count(*) AS n_materials
FROM structures.materials GROUP BY ALL
""",
)

SIMULATED_MATERIALS = View(
    name="literature.simulated_materials",
    description=(
        "Panels of papers, and the materials of equal composition of which there are simulated images; one row for "
        "each pair. Only newest versions, nothing of withdrawn papers. A composition does not tell the structure: a "
        "bulk crystal and a sheet of it have the same."
    ),
    bases=(
        "literature/papers",
        "literature/figures",
        "literature/panels",
        "literature/mentions",
        "structures/materials",
        "images/stem",
    ),
    columns=(
        Column(name="arxiv_id", type=S, description="Paper."),
        Column(name="title", type=S, description="Its title."),
        Column(name="paper_url", type=S, description="Its page."),
        Column(name="figure_id", type=S, description="Figure of literature.figures."),
        Column(name="number", type=S, nullable=True, description="Number of the figure as printed."),
        Column(name="label", type=S, description="Letter of the panel; empty in a figure of one panel."),
        Column(name="modality", type=S, description="What the panel shows, e.g. `STEM`; see literature.panels."),
        Column(name="formula", type=S, description="Material as the caption has it, normalised."),
        Column(name="role", type=S, description="Its part in the panel; see literature.mentions."),
        Column(name="reduced_formula", type=S, description="Composition by which the two are matched."),
        Column(name="material_id", type=S, description="Material of structures.materials."),
        Column(name="n_images", type=I64, description="Its simulated images."),
    ),
    sql="""
WITH simulated AS (
    SELECT material.material_id, material.reduced_formula, count(*) AS n_images
    FROM (SELECT material_id, reduced_formula, unnest(slab_ids) AS slab_id FROM structures.materials) AS material
    JOIN images.stem USING (slab_id) GROUP BY ALL
)
SELECT paper.arxiv_id, paper.title, figure.paper_url, figure.figure_id, figure.number, panel.label, panel.modality,
       mention.formula, mention.role, simulated.reduced_formula, simulated.material_id, simulated.n_images
FROM literature.mentions AS mention
JOIN simulated USING (reduced_formula)
JOIN literature.panels AS panel USING (panel_id)
JOIN literature.figures AS figure ON figure.figure_id = panel.figure_id
JOIN literature.papers AS paper ON paper.arxiv_id = figure.arxiv_id
WHERE figure.is_current AND NOT paper.is_withdrawn
ORDER BY paper.arxiv_id, figure.place, panel.label, mention.formula, simulated.material_id
""",
)

REIGNS = View(
    name="models.reigns",
    description="Who was champion of which task when, and what brought it into office.",
    bases=("models/verdicts",),
    columns=(
        Column(name="task", type=S, description="Learning task."),
        Column(name="model_id", type=S, description="The champion."),
        Column(name="since", type=AT, description="When it came into office."),
        Column(name="until", type=AT, nullable=True, description="When it left; null: it is in office."),
        Column(name="number", type=I64, description="Row of models.verdicts that brought it."),
        Column(name="decided_by", type=S, description="`rule`, or a person."),
        Column(name="reason", type=S, description="Why; of a model that returns, why the other one left."),
    ),
    sql="""
WITH changes AS (
    SELECT * FROM models.verdicts
    QUALIFY champion_id IS DISTINCT FROM lag(champion_id) OVER (PARTITION BY task ORDER BY number)
), reigns AS (
    SELECT task, champion_id AS model_id, judged_at AS since,
           lead(judged_at) OVER (PARTITION BY task ORDER BY number) AS until, number, decided_by, reason
    FROM changes
)
SELECT * FROM reigns WHERE model_id IS NOT NULL ORDER BY task, number
""",
)

STORY = View(
    name="models.story",
    description=(
        "The whole story of every model, one row for each verdict: which experimental files it was trained on, which "
        "data versions it was made of, its figures beside those of baselines and incumbent, why it was promoted or "
        "refused, and when it was in office."
    ),
    bases=("models/verdicts", "experiments/records"),
    columns=(
        Column(name="number", type=I64, description="Place in models.verdicts."),
        Column(name="judged_at", type=AT, description="When the verdict was reached."),
        Column(name="task", type=S, description="Learning task."),
        Column(name="model_id", type=S, description="The model."),
        Column(
            name="verdict", type=S, description="promoted or refused by the rule, approved or rejected by a person."
        ),
        Column(name="decided_by", type=S, description="`rule`, or a person."),
        Column(name="reason", type=S, description="Why, in words."),
        Column(name="metric", type=S, description="Metric that decides."),
        Column(name="value", type=F64, description="The model's deciding figure."),
        Column(name="baseline", type=F64, description="Best baseline's."),
        Column(name="incumbent_id", type=S, nullable=True, description="The champion of before."),
        Column(name="incumbent", type=F64, nullable=True, description="Its deciding figure on the same items."),
        Column(name="gains", type=pa.list_(GAIN), description="Gain over the incumbent on each guarded slice."),
        Column(name="in_office_since", type=AT, nullable=True, description="When this row brought it into office."),
        Column(
            name="in_office_until", type=AT, nullable=True, description="When it left; null: still there, or never."
        ),
        Column(name="n_files", type=I64, description="Experimental images that it was trained on."),
        Column(name="files", type=pa.list_(STORY_FILE), description="These images, with the files they came in."),
        Column(name="inputs", type=pa.list_(INPUT), description="Data versions that it was made of and judged on."),
        Column(name="blob", type=S, description="Its checkpoint."),
    ),
    sql="""
WITH origin AS (
    SELECT record_id, any_value(file_sha256) AS file_sha256, any_value(place) AS place
    FROM experiments.records WHERE state = 'accepted' GROUP BY record_id
), seen AS (
    SELECT number, unnest(trained_on) AS image FROM models.verdicts
), files AS (
    SELECT number, count(*) AS n_files,
           list({'original_filename': image.original_filename, 'file_sha256': origin.file_sha256,
                 'place': origin.place, 'record_id': image.record_id, 'sample_id': image.sample_id,
                 'lattice': image.lattice, 'split': image.split} ORDER BY image.record_id) AS files
    FROM seen LEFT JOIN origin ON origin.record_id = image.record_id GROUP BY number
)
SELECT book.number, book.judged_at, book.task, book.model_id, book.verdict, book.decided_by, book.reason,
       book.metric, book.value, book.baseline, book.incumbent_id, book.incumbent, book.gains,
       reign.since AS in_office_since, reign.until AS in_office_until,
       coalesce(files.n_files, 0) AS n_files, coalesce(files.files, []) AS files, book.inputs, book.blob
FROM models.verdicts AS book
LEFT JOIN files ON files.number = book.number
LEFT JOIN models.reigns AS reign ON reign.number = book.number AND reign.model_id = book.model_id
ORDER BY book.number
""",
)

_OF_RECORD = (
    "day", "record_id", "place", "received_at", "acquired_at", "operator", "instrument_name", "technique",
    "imaging_mode", "acceleration_voltage_kv", "sample_id", "material_formula", "label_lattice", "field_of_view_y_nm",
    "field_of_view_x_nm", "calibration_source", "missing_fields", "warnings", "licence",
)  # fmt: skip
_OF_MICROGRAPH = (
    "is_calibrated", "pixel_size_y_nm", "pixel_size_x_nm", "shape_y", "shape_x", "n_frames", "noise", "snr", "focus",
    "astigmatism", "clipped_share", "blob",
)  # fmt: skip

EXPERIMENTS_IMAGES = View(
    name="experiments.images",
    description="Every accepted micrograph: its origin, what it shows, how it is calibrated and how good it is.",
    bases=("experiments/records", "experiments/micrographs"),
    columns=(*_columns_of(RECORDS, *_OF_RECORD), *_columns_of(MICROGRAPHS, *_OF_MICROGRAPH)),
    sql=f"""
SELECT {", ".join(f"record.{name}" for name in _OF_RECORD)}, {", ".join(f"image.{name}" for name in _OF_MICROGRAPH)}
FROM experiments.records AS record
JOIN experiments.micrographs AS image ON image.receipt_id = record.receipt_id
WHERE record.state = 'accepted'
ORDER BY record.received_at, record.place, record.record_id
""",
)

VIEWS = (
    LEADERBOARD,
    CONFUSION,
    STEM_ATOMS,
    STEM_COLUMNS,
    SOURCE_SUMMARY,
    LATTICE_COUNTS,
    OVERLAPS,
    EXPERIMENTS_IMAGES,
    SIMULATED_MATERIALS,
    REIGNS,
    STORY,
)
