"""Tables of the models domain."""

import pyarrow as pa

from atomvision_ml.schemas.core import STRINGS, Column, Table
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES, EXPERIMENTS, MODELS, SIZES, SOURCES, SPLITS, TASKS

S, I32, I64, F64, B = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()
AT = pa.timestamp("us", tz="UTC")
GAIN = pa.struct([("slice", S), ("gain", F64), ("low", F64), ("high", F64), ("n_items", I64)])
TRAINED_ON = pa.struct([("record_id", S), ("original_filename", S), ("sample_id", S), ("lattice", S), ("split", S)])
INPUT = pa.struct([("key", S), ("data_version", S)])

TRAINING_SETS = Table(
    key="models/training_sets",
    dimension="task",
    description=(
        "Frozen manifest per task: which image of which pinned blob belongs to which split; of the lattice the "
        "labelled experimental images too."
    ),
    columns=(
        Column(name="item_id", type=S, unique=True, description="`<task>:<image_id>`."),
        Column(name="task", type=S, one_of=TASKS, description="Learning task."),
        Column(name="image_id", type=S, description="Image of images.stem, or record of experiments.micrographs."),
        Column(name="slab_id", type=S, nullable=True, description="Its slab; null of an experimental image."),
        Column(name="source", type=S, one_of=(*SOURCES, EXPERIMENTS), description="Its database, or `experiments`."),
        Column(name="split", type=S, one_of=SPLITS, description="A split group is never divided."),
        Column(
            name="split_group",
            type=S,
            description=(
                "Composition group, see structures.materials; or prototype, `<stoichiometry>|<space group>`; of an "
                "experimental image `sample:<sample_id>`."
            ),
        ),
        Column(name="blob", type=S, description="Pinned Zarr blob."),
        Column(name="index", type=I32, minimum=0, description="Index into the blob."),
        Column(name="pixel_size_angstrom", type=F64, unit="Å", description="Pixel size."),
        Column(name="bravais_lattice", type=S, one_of=BRAVAIS_LATTICES, description="Label."),
        Column(name="is_ambiguous", type=B, description="See structures.slabs; false of an experimental image."),
        Column(name="original_filename", type=S, nullable=True, description="File of an experimental image."),
    ),
)


def _model_table(name: str, task: str) -> Table:
    return Table(
        key=f"models/{name}",
        description=(
            f"The model {name!r} of the task {task!r}: its newest checkpoint and card, and where it was trained with "
            "several seeds, one row for each of them."
        ),
        columns=(
            Column(name="model_id", type=S, unique=True, description="`<name>@<version>`; further seeds `….s<seed>`."),
            Column(name="name", type=S, one_of=(name,), description="Registered name."),
            Column(
                name="version",
                type=S,
                description="First 12 digits of the data version: inputs, parameters, code.",
            ),
            Column(name="task", type=S, one_of=TASKS, description="What it is for."),
            Column(name="size", type=S, one_of=SIZES, description="Size of the graph that it was made with."),
            Column(name="seed", type=I32, description="Training seed; 0 for a classical method."),
            Column(
                name="is_checkpoint",
                type=B,
                description="Whether it is the model; the other seeds only tell how much chance there is in it.",
            ),
            Column(
                name="blob",
                type=S,
                description="Checkpoint folder: parameters, card, weights (safetensors), curves.",
            ),
            Column(
                name="n_parameters",
                type=pa.int64(),
                minimum=0,
                description="Trainable weights; 0 for a classical method.",
            ),
            Column(name="parameters_json", type=S, description="Parameters, as JSON."),
            Column(
                name="card_json",
                type=S,
                description="Model card: data versions, splits, metrics with baselines, intended use, limits.",
            ),
        ),
    )


VERDICTS = Table(
    key="models/verdicts",
    description=(
        "The book of all models that ever applied: the verdict of the rule on each, the decisions of people, and who "
        "was in office afterwards. Rows are only added."
    ),
    columns=(
        Column(name="number", type=I64, unique=True, minimum=1, description="Place in the book."),
        Column(name="judged_at", type=AT, description="When the verdict was reached."),
        Column(name="task", type=S, one_of=TASKS, description="Learning task."),
        Column(name="model_id", type=S, description="The model that was judged."),
        Column(name="name", type=S, one_of=tuple(MODELS), description="Its registered name."),
        Column(name="size", type=S, one_of=SIZES, description="Size of the graph that it was made with."),
        Column(name="blob", type=S, description="Its checkpoint; kept for good."),
        Column(
            name="verdict",
            type=S,
            one_of=("promoted", "refused", "approved", "rejected"),
            description="The rule's word, or that of a person (`approved`, `rejected`).",
        ),
        Column(name="reason", type=S, description="The verdict in words, with the figures; or the person's reason."),
        Column(name="decided_by", type=S, description="`rule`, or the person's name."),
        Column(name="decision_id", type=S, nullable=True, description="Row of models.decisions; null of the rule's."),
        Column(name="champion_id", type=S, nullable=True, description="Who is in office afterwards; null: nobody."),
        Column(name="metric", type=S, description="Metric that decides."),
        Column(name="slices", type=STRINGS, description="Slices over which the deciding figure is the mean."),
        Column(name="value", type=F64, description="The model's deciding figure."),
        Column(name="baseline", type=F64, description="That of the best baseline on the same items."),
        Column(name="incumbent_id", type=S, nullable=True, description="The champion of before, judged on them too."),
        Column(name="incumbent", type=F64, nullable=True, description="Its deciding figure."),
        Column(
            name="gains",
            type=pa.list_(GAIN),
            description="Gain over the incumbent on each guarded slice, with its paired 95 % bootstrap interval.",
        ),
        Column(name="trained_on", type=pa.list_(TRAINED_ON), description="Experimental images that it was trained on."),
        Column(name="inputs", type=pa.list_(INPUT), description="Data versions that it was made of and judged on."),
        Column(name="answers_blob", type=S, description="What it said of the hold-out's items when it was judged."),
    ),
)

DECISIONS = Table(
    key="models/decisions",
    description="Models that a person approved or rejected, with `atomvision champion`. Rows are only added.",
    columns=(
        Column(name="decision_id", type=S, unique=True, description="Random name of the decision."),
        Column(name="decided_at", type=AT, description="When."),
        Column(name="decided_by", type=S, description="Who."),
        Column(name="task", type=S, one_of=TASKS, description="Learning task."),
        Column(name="model_id", type=S, description="Model of models.verdicts."),
        Column(name="decision", type=S, one_of=("approve", "reject"), description="What was decided."),
        Column(name="reason", type=S, description="Why."),
    ),
)

CHAMPIONS = Table(
    key="models/champions",
    description="The model in office of each task, and the newest verdict; all verdicts are in models.verdicts.",
    columns=(
        Column(name="task", type=S, unique=True, one_of=TASKS, description="Learning task."),
        Column(
            name="model_id",
            type=S,
            nullable=True,
            description="Released model; null while none passed the rule.",
        ),
        Column(name="name", type=S, nullable=True, description="Its registered name."),
        Column(name="blob", type=S, nullable=True, description="Its checkpoint."),
        Column(name="since", type=AT, nullable=True, description="When it came into office; null: nobody is."),
        Column(name="candidate_id", type=S, description="The model that was judged last."),
        Column(name="is_promoted", type=B, description="Whether it became the champion."),
        Column(name="reason", type=S, description="The verdict on it in words, with the figures."),
        Column(name="metric", type=S, description="Metric that decides."),
        Column(name="value", type=F64, description="The candidate's value."),
        Column(name="baseline", type=F64, description="Best baseline on the same frozen hold-out."),
        Column(
            name="incumbent",
            type=F64,
            nullable=True,
            description="The former champion's value; null if there was none.",
        ),
    ),
)

ALL = (TRAINING_SETS, *(_model_table(name, task) for name, task in MODELS.items()), VERDICTS, DECISIONS, CHAMPIONS)
