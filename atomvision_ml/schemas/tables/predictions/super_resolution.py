"""Predictions of the task ``super_resolution``; one table for each of its models, all of one form."""

from atomvision_ml.schemas.core import Column, Table
from atomvision_ml.schemas.tables.predictions.common import F64, I32, ITEM, MODEL_ID, ROLE, S
from atomvision_ml.schemas.vocabulary import MODELS


def _table(name: str) -> Table:
    return Table(
        key=f"predictions/{name}",
        description=f"Scores of each hold-out image on a grid four times as fine, by {name}; one row for each part.",
        columns=(
            ITEM,
            MODEL_ID,
            ROLE,
            Column(
                name="part",
                type=S,
                description="`<reduction or vacancies>_<fine pixel>`: how the coarse image was made.",
            ),
            Column(name="fine_pixel_angstrom", type=F64, unit="Å", description="Pixel size of the fine grid."),
            Column(
                name="reduction",
                type=S,
                one_of=("physical", "bicubic"),
                description="Coarse pixels that integrate, or bicubic reduction as in the paper.",
            ),
            Column(
                name="psnr_db",
                type=F64,
                unit="dB",
                description="Peak signal-to-noise ratio: range of the true image, without 16 fine pixels of border.",
            ),
            Column(name="ssim", type=F64, maximum=1, description="Structural similarity, same range and border."),
            Column(
                name="frc_mean",
                type=F64,
                minimum=-1,
                maximum=1,
                description="Fourier ring correlation with the true image, mean over the rings up to 1/Å "
                "that hold at least 1e-4 of the strongest ring's power.",
            ),
            Column(
                name="frc_limit_per_angstrom",
                type=F64,
                unit="1/Å",
                description="Frequency of the first of these rings with a correlation below 1/7; 1 if there is none.",
            ),
            Column(
                name="n_columns",
                type=I32,
                minimum=0,
                description="Atoms that the detector (Laplacian of Gaussian, 10 %) sees in the true image, 1 Å inside "
                "its border.",
            ),
            Column(
                name="n_invented",
                type=I32,
                minimum=0,
                description="Atoms in the upscaled image without a true column, and without an atom that the detector "
                "sees in the true image even at 5 %, within 0.5 Å.",
            ),
            Column(
                name="n_lost",
                type=I32,
                minimum=0,
                description="Of `n_columns`, those without an atom in the upscaled image, at 5 %, within 0.5 Å.",
            ),
            Column(
                name="n_matched",
                type=I32,
                minimum=0,
                description="True columns of at least 5 % with a detected atom within 0.5 Å.",
            ),
            Column(
                name="squared_error_angstrom2",
                type=F64,
                minimum=0,
                unit="Å²",
                description="Sum over these of the squared distance.",
            ),
            Column(
                name="n_matched_true_image",
                type=I32,
                minimum=0,
                description="`n_matched` of the true image: what the detector does by itself.",
            ),
            Column(
                name="squared_error_true_image_angstrom2",
                type=F64,
                minimum=0,
                unit="Å²",
                description="`squared_error_angstrom2` of the true image.",
            ),
        ),
    )


ALL = tuple(_table(name) for name, task in MODELS.items() if task == "super_resolution")
