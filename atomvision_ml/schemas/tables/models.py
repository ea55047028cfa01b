"""Tables of the models domain."""

import pyarrow as pa

from atomvision_ml.schemas.core import Column, Table
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES, MODELS, SIZES, SOURCES, SPLITS, TASKS

S, I32, F64, B = pa.string(), pa.int32(), pa.float64(), pa.bool_()

TRAINING_SETS = Table(
    key="models/training_sets",
    dimension="task",
    description="Frozen manifest per task: which image of which pinned blob belongs to which split.",
    columns=(
        Column(name="item_id", type=S, unique=True, description="`<task>:<image_id>`."),
        Column(name="task", type=S, one_of=TASKS, description="Learning task."),
        Column(name="image_id", type=S, description="Image of images.stem."),
        Column(name="slab_id", type=S, description="Its slab."),
        Column(name="source", type=S, one_of=SOURCES, description="Its database."),
        Column(name="split", type=S, one_of=SPLITS, description="A split group is never divided."),
        Column(
            name="split_group",
            type=S,
            description="Composition group, see structures.materials; or prototype, `<stoichiometry>|<space group>`.",
        ),
        Column(name="blob", type=S, description="Pinned Zarr blob."),
        Column(name="index", type=I32, minimum=0, description="Index into the blob."),
        Column(name="pixel_size_angstrom", type=F64, unit="Å", description="Pixel size."),
        Column(name="bravais_lattice", type=S, one_of=BRAVAIS_LATTICES, description="Label."),
        Column(name="is_ambiguous", type=B, description="See structures.slabs."),
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


CHAMPIONS = Table(
    key="models/champions",
    description="The released model of each task and why it was or was not promoted.",
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
        Column(name="candidate_id", type=S, description="The candidate that was judged."),
        Column(name="is_promoted", type=B, description="Whether the candidate became (or stayed) the champion."),
        Column(name="reason", type=S, description="The rule's verdict in words, with the figures."),
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

ALL = (TRAINING_SETS, *(_model_table(name, task) for name, task in MODELS.items()), CHAMPIONS)
