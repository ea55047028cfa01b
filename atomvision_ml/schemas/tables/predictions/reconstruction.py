"""Predictions of the task ``reconstruction``; one table for each of its models, all of one form."""

import pyarrow as pa

from atomvision_ml.schemas.core import Column, Table
from atomvision_ml.schemas.tables.predictions.common import F64, ITEM, MODEL_ID, ROLE, B, S
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES, MODELS

_RANGE = "the noiseless field is the truth, its max − min the range; at most 100 dB"


def _table(name: str) -> Table:
    return Table(
        key=f"predictions/{name}",
        description=f"How well a field of each hold-out image comes back from a latent of fixed size, by {name}.",
        columns=(
            ITEM,
            MODEL_ID,
            ROLE,
            Column(name="latent_size", type=pa.int32(), minimum=0, description="Numbers in the whole latent."),
            Column(name="psnr_db", type=F64, unit="dB", description=f"From the whole latent; {_RANGE}."),
            Column(name="ssim", type=F64, maximum=1, description="Structural similarity, from the whole latent."),
            Column(name="psnr_short_db", type=F64, unit="dB", description="From a latent of one eighth of the size."),
            Column(name="ssim_short", type=F64, maximum=1, description="From a latent of one eighth of the size."),
            Column(
                name="probed_lattice",
                type=S,
                one_of=BRAVAIS_LATTICES,
                description="Class read from the latent by a logistic regression fitted to the train split.",
            ),
            Column(name="is_probe_correct", type=B, description="Whether that class equals the label."),
            Column(name="probed_lattice_short", type=S, one_of=BRAVAIS_LATTICES, description="From the short latent."),
            Column(name="is_probe_short_correct", type=B, description="Whether that class equals the label."),
        ),
    )


ALL = tuple(_table(name) for name, task in MODELS.items() if task == "reconstruction")
