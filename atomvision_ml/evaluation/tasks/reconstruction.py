"""The task ``reconstruction``: an image from a latent of fixed size, and what the latent tells of the lattice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from atomvision_ml.evaluation.gallery import pictures
from atomvision_ml.evaluation.gallery.entries import GalleryContext, add_picture, entry_head, method_name
from atomvision_ml.evaluation.holdout import ItemReader, OpenBlob
from atomvision_ml.evaluation.judging import Progress, Row, items_of
from atomvision_ml.evaluation.sums import Evaluate, Figures, ratio
from atomvision_ml.images.detector import dose_name
from atomvision_ml.images.scenes import SceneLibrary, at_dose
from atomvision_ml.models.autoencoder import AutoencoderParameters, LoadedAutoencoder, load_autoencoder
from atomvision_ml.models.autoencoder_training import Fields, components_of, draw_fields, item_fields, psnr
from atomvision_ml.models.components import Components, Floats
from atomvision_ml.models.training import stable_seed
from atomvision_ml.schemas.tables import table

PROBE_FIELDS = 1200
_PROBE_STEPS = 300
_MEANS = {
    "psnr_db": "psnr_db",
    "ssim": "ssim",
    "psnr_short_db": "psnr_short_db",
    "ssim_short": "ssim_short",
    "probe_accuracy": "is_probe_correct",
    "probe_accuracy_short": "is_probe_short_correct",
}
"""Figures that are means over the items, and their columns."""


@dataclass(frozen=True)
class Method:
    """Something that encodes and decodes normalised fields.

    Attributes:
        model_id, role: as in the predictions.
        encode: fields (n, y, x) and a size to latents (n, size).
        decode: latents (n, size), and the variance of the noise (n,) for a method that is told it, to fields (n, y, x).
    """

    model_id: str
    role: str
    encode: Callable[[Floats, int], Floats]
    decode: Callable[[Floats, NDArray[np.float64]], Floats]


def predict_reconstruction(
    holdout: pl.DataFrame,
    training_set: pl.DataFrame,
    open_blob: OpenBlob,
    *,
    checkpoint: Path,
    model_id: str = "conv_autoencoder",
    baselines: bool = True,
    probe_fields: int = PROBE_FIELDS,
    progress: Progress | None = None,
) -> pa.Table:
    """An autoencoder and its baselines on one field of each reconstruction item.

    The field is drawn anew from the item's structure, 64 px of 0.2 Å at a rotation and shift that depend on the image
    alone; all methods get the same field, less its mean and in units of its spread, and are to give the noiseless one.
    Baselines: ``mean_image`` (trivial), ``pca`` (as many principal components as the latent has numbers, fitted to
    noiseless fields of the train split) and ``pca_wiener``, the same with each coefficient shrunk by the variance of
    the noise, which it is told: the best linear reconstruction of that size.

    Args:
        holdout: rows of ``evaluation/holdout``; other tasks are ignored.
        training_set: rows of ``models/training_sets`` of the task ``reconstruction``.
        open_blob: local folder of a blob.
        checkpoint: folder of the autoencoder to judge; CheckpointError if it is damaged.
        model_id: name and version for the model's rows.
        baselines: whether to judge the baselines too (one model of the task does).
        probe_fields: fields of the train split to which the probes are fitted, at each dose.
        progress: called with (parts done, parts in all).

    Returns:
        ``predictions/<name>``: one row per item and method.

    Raises:
        ValueError: no such items, or an empty train split.
    """
    rows = items_of(holdout, "reconstruction")
    loaded = load_autoencoder(checkpoint)
    train = SceneLibrary(training_set.filter(pl.col("split") == "train").sort("item_id").to_dicts(), open_blob)
    if not len(train):
        raise ValueError("the train split is empty; probes and components are fitted to it")
    chosen = loaded.parameters
    fitted = components_of(train, chosen) if baselines else None
    methods = _methods(loaded, model_id, fitted)
    doses = list(dict.fromkeys(row["mean_detected_e_per_a2"] for row in rows))
    answers = []
    for number, dose in enumerate(doses):
        some = [row for row in rows if row["mean_detected_e_per_a2"] == dose]
        random = np.random.default_rng(stable_seed(chosen.seed, "probe", dose_name(dose)))
        taught = draw_fields(train, chosen, probe_fields, random, at_dose(dose))
        labels = np.array([train.rows[structure]["bravais_lattice"] for structure in taught.rows])
        answers += _judged(some, methods, chosen, ItemReader(open_blob), taught, labels)
        if progress is not None:
            progress(number + 1, len(doses))
    return table(f"predictions/{model_id.partition('@')[0]}").from_rows(answers)


def _methods(loaded: LoadedAutoencoder, model_id: str, fitted: Components | None) -> list[Method]:
    network = Method(model_id, "model", loaded.encode, lambda latent, noise: loaded.decode(latent))
    if fitted is None:
        return [network]
    return [
        network,
        Method("pca", "classical", fitted.encode, lambda latent, noise: fitted.decode(latent)),
        Method("pca_wiener", "classical", fitted.encode, fitted.decode),
        Method(
            "mean_image",
            "trivial",
            lambda fields, size: np.zeros((len(fields), 1), np.float32),
            lambda latent, noise: fitted.decode(latent),
        ),
    ]


def _judged(
    rows: Sequence[Row],
    methods: Sequence[Method],
    parameters: AutoencoderParameters,
    reader: ItemReader,
    taught: Fields,
    labels: NDArray[Any],
) -> list[Row]:
    """The answers of all methods to the items of one dose; the probes are fitted to ``taught`` and its labels."""
    asked = _fields(rows, reader, parameters)
    answers = []
    read: dict[tuple[Any, int], list[str]] = {}
    for method in methods:
        given: dict[str, Sequence[Any]] = {}
        for suffix, size in (("", parameters.latent_size), ("_short", parameters.short_latent_size)):
            latent = method.encode(asked.seen, size)
            found = method.decode(latent, asked.noise)
            given[f"psnr{suffix}_db"] = psnr(found, asked.clean).tolist()
            given[f"ssim{suffix}"] = [ssim(*pair) for pair in zip(found, asked.clean, strict=True)]
            if (method.encode, size) not in read:  # two methods may differ in their decoder alone
                read[method.encode, size] = probed(method.encode(taught.seen, size), labels, latent).tolist()
            given[f"probed_lattice{suffix}"] = read[method.encode, size]
        answers += [
            {
                "item_id": row["item_id"],
                "model_id": method.model_id,
                "role": method.role,
                "latent_size": parameters.latent_size,
                **{name: values[number] for name, values in given.items()},
                "is_probe_correct": given["probed_lattice"][number] == row["bravais_lattice"],
                "is_probe_short_correct": given["probed_lattice_short"][number] == row["bravais_lattice"],
            }
            for number, row in enumerate(rows)
        ]
    return answers


def _fields(rows: Sequence[Row], reader: ItemReader, parameters: AutoencoderParameters) -> Fields:
    """The fields of items of one dose."""
    projections, names = [reader.projection(row) for row in rows], [row["image_id"] for row in rows]
    return item_fields(projections, names, parameters, rows[0]["mean_detected_e_per_a2"])


def ssim(found: Floats, truth: Floats) -> float:
    """Structural similarity (scikit-image, Gaussian window of σ = 1.5 px); the range is max − min of the truth.

    Wang, Bovik, Sheikh, Simoncelli, IEEE Trans. Image Process. 13, 600, 2004.
    """
    from skimage.metrics import structural_similarity

    span = max(float(truth.max() - truth.min()), 1e-12)
    return float(
        structural_similarity(
            truth, found, data_range=span, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def probed(taught: Floats, labels: NDArray[Any], asked: Floats) -> NDArray[Any]:
    """Labels (n,) of the latents ``asked`` by a logistic regression fitted to ``taught``, (m, size), and its labels.

    Latents are standardised; the penalty is scikit-learn's default.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_PROBE_STEPS, tol=1e-3))
    return probe.fit(taught, labels).predict(asked)


def sums(answers: pl.DataFrame) -> tuple[Figures, Evaluate]:
    """What the figures are made of; see :class:`atomvision_ml.evaluation.tasks.Task`."""
    sums = {name: answers[column].to_numpy().astype(float) for name, column in _MEANS.items()}
    sums["n_items"] = np.ones(answers.height)
    return sums, _reconstruction_figures


def _reconstruction_figures(sums: Figures) -> Figures:
    return {name: ratio(sums[name], sums["n_items"]) for name in _MEANS}


def draw(row: Row, context: GalleryContext) -> Row:
    """The entry of one item in the gallery."""
    answers = sorted(context.answers[row["item_id"]], key=lambda answer: -answer["psnr_short_db"])
    return {
        **entry_head(row),
        "is_right": None,
        "pictures": _pictures(row, context) if context.checkpoints.get("conv_autoencoder") is not None else [],
        "facts": [
            (
                f"PSNR of {method_name(answer)}",
                f"{answer['psnr_db']:.1f} dB from {answer['latent_size']} numbers, "
                f"{answer['psnr_short_db']:.1f} dB from an eighth",
            )
            for answer in answers
        ],
        "bars": [],
    }


def _pictures(row: Row, context: GalleryContext) -> list[Row]:
    """Field, reconstructions from the short latent, and the error of that from the whole one."""
    loaded = load_autoencoder(context.checkpoints["conv_autoencoder"])
    chosen, network = loaded.parameters, loaded.network
    fields = _fields([row], context.reader, chosen)
    linear = Components(
        shape=(chosen.size_px, chosen.size_px),
        middle=network.middle.numpy(),
        components=network.components.numpy(),
        variances=network.variances.numpy(),
        left_over=float(network.left_over),
        n_fields=chosen.component_images,
    )
    short, whole = chosen.short_latent_size, chosen.latent_size
    found = loaded.decode(loaded.encode(fields.seen, whole))[0]
    by_components = linear.decode(linear.encode(fields.seen, whole))[0]
    reach = max(float(np.abs(by_components - fields.clean[0]).max()), 1e-6)
    shown = (
        ("seen", "field", fields.seen[0]),
        ("short", f"network, {short} numbers", loaded.decode(loaded.encode(fields.seen, short))[0]),
        ("short_pca", f"PCA, {short} numbers", linear.decode(linear.encode(fields.seen, short))[0]),
        ("error", f"error of the network, {whole} numbers", np.abs(found - fields.clean[0]) / reach),
        ("error_pca", f"error of PCA, {whole} numbers, same scale", np.abs(by_components - fields.clean[0]) / reach),
    )
    pixel = chosen.working_pixel_size_angstrom
    return [
        add_picture(
            context,
            row,
            kind,
            caption,
            pictures.map_picture(values, pixel) if kind.startswith("error") else pictures.image_picture(values, pixel),
        )
        for kind, caption, values in shown
    ]
