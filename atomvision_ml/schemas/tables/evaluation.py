"""Tables of the evaluation domain."""

import pyarrow as pa

from atomvision_ml.schemas.core import FLOATS, Column, Table
from atomvision_ml.schemas.tables.predictions.lattice import EXPERIMENTAL_ANSWERS
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES, EXPERIMENTS, LITERATURE_TASKS, SIZES, SOURCES, TASKS

S, I32, I64, F64, B = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()

HOLDOUT = Table(
    key="evaluation/holdout",
    description="Frozen test items: the test split of each task at each dose, with the seed of its noise.",
    columns=(
        Column(name="item_id", type=S, unique=True, description="`<task>:<image_id>@<dose|clean>`."),
        Column(name="task", type=S, one_of=TASKS, description="Learning task."),
        Column(name="image_id", type=S, description="Image of images.stem."),
        Column(name="slab_id", type=S, description="Its slab."),
        Column(name="source", type=S, one_of=SOURCES, description="Its database."),
        Column(name="split_group", type=S, description="See models.training_sets."),
        Column(name="blob", type=S, description="Pinned Zarr blob."),
        Column(name="index", type=I32, minimum=0, description="Index into the blob."),
        Column(name="pixel_size_angstrom", type=F64, unit="Å", description="Pixel size."),
        Column(name="field_angstrom", type=F64, unit="Å", description="Edge of the field of view."),
        Column(
            name="lattice_vectors_angstrom",
            type=FLOATS,
            unit="Å",
            description="True primitive vectors of the projection as imaged, (2, 2) flattened rows (x, y).",
        ),
        Column(
            name="mean_detected_e_per_a2",
            type=F64,
            nullable=True,
            unit="e/Å²",
            description="Mean detected electrons per area; null = noiseless.",
        ),
        Column(
            name="noise_seed",
            type=I64,
            nullable=True,
            description="Seed of the Poisson noise; null = noiseless.",
        ),
        Column(name="bravais_lattice", type=S, one_of=BRAVAIS_LATTICES, description="Label."),
        Column(
            name="class_strain_percent",
            type=F64,
            nullable=True,
            unit="%",
            description="See structures.slabs.",
        ),
        Column(
            name="next_class_strain_percent",
            type=F64,
            nullable=True,
            unit="%",
            description="See structures.slabs.",
        ),
        Column(name="superlattice_contrast", type=F64, nullable=True, description="See structures.slabs."),
        Column(name="is_ambiguous", type=B, description="See structures.slabs."),
        Column(name="periods_in_view", type=F64, description="Field divided by the longer primitive vector."),
        Column(
            name="nearest_columns_angstrom",
            type=F64,
            minimum=0,
            unit="Å",
            description="Smallest distance of two columns of the crystal; atoms within 0.1 Å are one column.",
        ),
    ),
)

EXPERIMENTAL_HOLDOUT = Table(
    key="evaluation/experimental_holdout",
    description=(
        "Frozen experimental test items: every labelled image of a sample whose name's hash falls into the test "
        "split, as the microscope took it."
    ),
    columns=(
        Column(name="item_id", type=S, unique=True, description="`<task>:<record_id>`."),
        Column(name="task", type=S, one_of=TASKS, description="Learning task."),
        Column(name="image_id", type=S, description="Record of experiments.micrographs."),
        Column(name="source", type=S, one_of=(EXPERIMENTS,), description="Tells them from simulated items."),
        Column(name="split_group", type=S, description="`sample:<sample_id>`."),
        Column(name="blob", type=S, description="OME-Zarr group."),
        Column(name="index", type=I32, minimum=0, description="Always 0: one image a blob."),
        Column(name="pixel_size_angstrom", type=F64, unit="Å", description="Pixel size."),
        Column(name="bravais_lattice", type=S, one_of=BRAVAIS_LATTICES, description="The person's label."),
        Column(name="is_ambiguous", type=B, description="Always false."),
        Column(name="original_filename", type=S, nullable=True, description="Name of the file as received."),
    ),
)

METRICS = Table(
    key="evaluation/metrics",
    description="One long table of every figure, models and their baselines alike, with intervals.",
    columns=(
        Column(name="task", type=S, one_of=(*TASKS, *LITERATURE_TASKS), description="Task of learning or literature."),
        Column(name="model", type=S, description="Registered name of the model or baseline."),
        Column(name="model_id", type=S, description="Name and version."),
        Column(
            name="role",
            type=S,
            one_of=("model", "classical", "trivial"),
            description="Model or kind of baseline.",
        ),
        Column(name="size", type=S, one_of=SIZES, description="Size of the graph."),
        Column(name="seed", type=I32, description="Training seed; 0 for classical methods."),
        Column(name="slice", type=S, description="Which items, e.g. `all|clean`, `experiment|as_taken`."),
        Column(
            name="metric",
            type=S,
            description="Name of the metric, e.g. `macro_f1`, `recall_square`, `confusion_square_as_oblique`, `iou`.",
        ),
        Column(name="value", type=F64, description="Its value."),
        Column(
            name="low",
            type=F64,
            nullable=True,
            description="Lower end of the 95 % bootstrap interval over split groups; of literature's tasks Wilson's.",
        ),
        Column(name="high", type=F64, nullable=True, description="Upper end."),
        Column(name="n_items", type=I32, minimum=0, description="Items in the slice; of a share of answers these."),
    ),
)

COMPARISONS = Table(
    key="evaluation/comparisons",
    description=(
        "Every registered model against every other method of its task on the same items: paired differences with "
        "intervals, so that `above` and `not below` are queries."
    ),
    columns=(
        Column(name="task", type=S, one_of=TASKS, description="Learning task."),
        Column(name="model", type=S, description="Registered name of the model; its first seed is compared."),
        Column(name="rival", type=S, description="Name of the other method."),
        Column(
            name="rival_role", type=S, one_of=("model", "classical", "trivial"), description="What the other method is."
        ),
        Column(name="is_best_baseline", type=B, description="Whether no other baseline has a better value here."),
        Column(name="size", type=S, one_of=SIZES, description="Size of the graph."),
        Column(name="slice", type=S, description="See evaluation.metrics."),
        Column(name="metric", type=S, description="See evaluation.metrics."),
        Column(name="value", type=F64, description="The model's value."),
        Column(name="rival_value", type=F64, description="The other method's value."),
        Column(
            name="gain",
            type=F64,
            description="Difference of the two, sign turned where lower is better: positive is in the model's favour.",
        ),
        Column(
            name="low",
            type=F64,
            description="Lower end of the gain's paired 95 % bootstrap interval over split groups.",
        ),
        Column(name="high", type=F64, description="Upper end."),
        Column(
            name="verdict",
            type=S,
            one_of=("above", "level", "below"),
            description="`above`: low > 0; `below`: high < 0; not below is everything else.",
        ),
        Column(name="n_items", type=I32, minimum=0, description="Items in the slice."),
    ),
)

GALLERY = Table(
    key="evaluation/gallery",
    description="HTML pages with pictures for people: structure, image, diffractogram, mask, prediction.",
    columns=(
        Column(
            name="page",
            type=S,
            unique=True,
            description="File name of the page in the blob; start at index.html.",
        ),
        Column(name="title", type=S, description="Title of the page."),
        Column(name="blob", type=S, description="Folder of pages and pictures."),
        Column(name="n_items", type=I32, minimum=0, description="Images shown on the page."),
    ),
)

EMBEDDINGS = Table(
    key="evaluation/embeddings",
    description="Maps of the test images in two dimensions, made of pixels, bond angles and network features.",
    columns=(
        Column(name="item_id", type=S, description="Item of evaluation.holdout, task `embedding`."),
        Column(name="model_id", type=S, description="Name of the map, and the version of its network."),
        Column(
            name="role",
            type=S,
            one_of=("model", "classical", "trivial"),
            description="Map of network features, of simple features, or random positions.",
        ),
        Column(name="x", type=F64, description="Position on the map; without meaning beyond nearness."),
        Column(name="y", type=F64, description="Position on the map."),
        Column(name="n_neighbours", type=I32, minimum=1, description="Neighbours that the scores look at."),
        Column(
            name="trustworthiness",
            type=F64,
            maximum=1,
            description="The item's share: 1 if its neighbours on the map are its neighbours in the features.",
        ),
        Column(
            name="silhouette",
            type=F64,
            minimum=-1,
            maximum=1,
            description="Of the item on the map, clusters being the Bravais lattices.",
        ),
        Column(
            name="purity",
            type=F64,
            minimum=0,
            maximum=1,
            description="Share of its nearest neighbours of other split groups with its Bravais lattice.",
        ),
        Column(
            name="purity_shuffled", type=F64, minimum=0, maximum=1, description="The same with shuffled labels: chance."
        ),
        Column(name="purity_source", type=F64, minimum=0, maximum=1, description="The same of the source: a control."),
        Column(name="blob", type=S, description="Folder of the interactive page index.html."),
    ),
)

ALL = (EMBEDDINGS, HOLDOUT, EXPERIMENTAL_HOLDOUT, EXPERIMENTAL_ANSWERS, METRICS, COMPARISONS, GALLERY)
