"""Maps of the hold-out's images in two dimensions, and scores that say what such a map is worth.

Belongs here: features of images, their maps, and scores that are means over the items. Maps are made of each dose by
itself. t-SNE: van der Maaten, Hinton, JMLR 9, 2579 (2008); implementation: scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.evaluation.holdout import ItemReader, OpenBlob
from atomvision_ml.evaluation.judging import Progress, Row, items_of
from atomvision_ml.images.atoms import laplacian_of_gaussian_atoms
from atomvision_ml.images.detector import dose_name
from atomvision_ml.models.autoencoder import AutoencoderParameters, load_autoencoder
from atomvision_ml.models.autoencoder_training import item_fields
from atomvision_ml.models.lattice_cnn import load_lattice_cnn
from atomvision_ml.models.lattice_inputs import field_of_view, network_input
from atomvision_ml.models.training import stable_seed

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]

TITLES = {
    "tsne_latent": "t-SNE of the autoencoder's latent",
    "tsne_autoencoder": "t-SNE of the autoencoder's inner features",
    "tsne_segmenter": "t-SNE of the segmenter's inner features",
    "tsne_lattice_cnn": "t-SNE of the lattice network's features",
    "tsne_maps": "t-SNE of maps without position and orientation",
    "tsne_angles": "t-SNE of the bond angles",
    "tsne_pixels": "t-SNE of the pixels",
    "pca_pixels": "first two principal components of the pixels",
    "random_positions": "random positions",
}
"""The maps, by the name in ``model_id``."""
_FIRST_COMPONENTS = 50  # pixels and features are reduced to so many before t-SNE, as scikit-learn advises
_OBVIOUS_BLOB = 0.1


class EmbeddingParameters(BaseModel):
    """How maps are made and judged; flat and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    perplexity: float = Field(default=15.0, gt=1, description="t-SNE's number of neighbours; less for few images.")
    neighbours: int = Field(default=5, ge=1, description="Neighbours that are looked at; less for few images.")
    angle_bins: int = Field(default=200, ge=2, description="Bins of the cosine of the bond angle, −1 to 1.")
    bond_angstrom: float = Field(default=4.0, gt=0, description="Atoms closer than this are neighbours, Å.")
    seed: int = Field(default=0, ge=0, description="Seed of t-SNE and of random positions and labels.")


@dataclass(frozen=True)
class Map:
    """Features and positions of n images.

    Attributes:
        model_id, role: as in the predictions.
        features: (n, d), what should be neighbours.
        positions: (n, 2), what is.
    """

    model_id: str
    role: str
    features: Floats
    positions: Floats


def embedding_rows(
    holdout: pl.DataFrame,
    open_blob: OpenBlob,
    networks: Mapping[str, tuple[str, Path]],
    parameters: EmbeddingParameters | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Maps of the items of the task ``embedding``, with their scores.

    Of each dose: t-SNE of the pixels (one field of 12.8 Å of each image, as the autoencoders see it), of the histogram
    of bond angles, of the polar maps that the lattice network sees, and of network features; for comparison the first
    two principal components of the pixels (classical) and random positions (trivial).

    Args:
        holdout: rows of ``evaluation/holdout``; other tasks are ignored.
        open_blob: local folder of a blob.
        networks: model id and checkpoint folder of ``conv_autoencoder``, ``segmenter`` and ``lattice_cnn``; any may be
            missing.
        parameters: of maps and scores.
        progress: called with (parts done, parts in all).

    Returns:
        Rows of ``evaluation/embeddings`` without ``blob``.

    Raises:
        ValueError: no such items, or fewer than four of one dose.
    """
    chosen = parameters or EmbeddingParameters()
    rows = items_of(holdout, "embedding")
    doses = list(dict.fromkeys(row["mean_detected_e_per_a2"] for row in rows))
    answers = []
    for number, dose in enumerate(doses):
        some = [row for row in rows if row["mean_detected_e_per_a2"] == dose]
        if len(some) < 4:
            raise ValueError(f"a map needs at least 4 images, the dose {dose_name(dose)} has {len(some)}")
        for found in _maps(some, ItemReader(open_blob), networks, chosen):
            answers += _scored(found, some, chosen)
        if progress is not None:
            progress(number + 1, len(doses))
    return answers


def _maps(
    rows: Sequence[Row], reader: ItemReader, networks: Mapping[str, tuple[str, Path]], parameters: EmbeddingParameters
) -> Iterator[Map]:
    loaded = load_autoencoder(networks["conv_autoencoder"][1]) if "conv_autoencoder" in networks else None
    seen = AutoencoderParameters() if loaded is None else loaded.parameters
    projections, names = [reader.projection(row) for row in rows], [row["image_id"] for row in rows]
    fields = item_fields(projections, names, seen, rows[0]["mean_detected_e_per_a2"]).seen
    pixels = _reduced(fields.reshape(len(fields), -1))
    angles = np.stack([_angles_of(row, reader, parameters) for row in rows])
    random = np.random.default_rng(stable_seed("positions", parameters.seed))
    yield Map("random_positions", "trivial", pixels, random.normal(size=(len(rows), 2)))
    yield Map("pca_pixels", "classical", pixels, pixels[:, :2])
    yield Map("tsne_pixels", "classical", pixels, tsne(pixels, parameters))
    yield Map("tsne_angles", "classical", angles, tsne(angles, parameters))
    views = [field_of_view(reader.image(row), row["pixel_size_angstrom"]) for row in rows]
    maps = _reduced(network_input(views, "polar").reshape(len(views), -1))
    yield Map("tsne_maps", "classical", maps, tsne(maps, parameters))
    if loaded is not None:
        version = networks["conv_autoencoder"][0].partition("@")[2]
        latent = _reduced(loaded.encode(fields))
        yield Map(f"tsne_latent@{version}", "model", latent, tsne(latent, parameters))
        with captured(loaded.network.after) as outputs:
            loaded.decode(loaded.encode(fields))
        inner = _reduced(np.concatenate(outputs))
        yield Map(f"tsne_autoencoder@{version}", "model", inner, tsne(inner, parameters))
    if "segmenter" in networks:
        version = networks["segmenter"][0].partition("@")[2]
        inner = _reduced(_segmenter_features(rows, reader, networks["segmenter"][1]))
        yield Map(f"tsne_segmenter@{version}", "model", inner, tsne(inner, parameters))
    if "lattice_cnn" in networks:
        version = networks["lattice_cnn"][0].partition("@")[2]
        inner = _reduced(load_lattice_cnn(networks["lattice_cnn"][1]).features(views))
        yield Map(f"tsne_lattice_cnn@{version}", "model", inner, tsne(inner, parameters))


def tsne(features: ArrayLike, parameters: EmbeddingParameters) -> Floats:
    """Positions (n, 2) of features (n, d); the perplexity is at most a third of the other images."""
    from sklearn.manifold import TSNE

    values = np.asarray(features, np.float32)
    perplexity = min(parameters.perplexity, (len(values) - 1) / 3)
    made = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=parameters.seed, n_jobs=1)
    return made.fit_transform(values).astype(float)


def bond_angle_histogram(
    positions_angstrom: ArrayLike, field_angstrom: tuple[float, float], parameters: EmbeddingParameters | None = None
) -> Floats:
    """Shares (bins,) of the cosines of all angles between two neighbours of an atom; zero where there are none.

    Args:
        positions_angstrom: (n, 2) x and y of the atoms found.
        field_angstrom: width and height; atoms nearer to the border than a bond's length are no vertex, because some of
            their neighbours are out of sight.
        parameters: bins and length of a bond.
    """
    from scipy.spatial import cKDTree

    chosen = parameters or EmbeddingParameters()
    places = np.asarray(positions_angstrom, float).reshape(-1, 2)
    reach = chosen.bond_angstrom
    inside = ((places >= reach) & (places <= np.asarray(field_angstrom) - reach)).all(axis=1)
    counts = np.zeros(chosen.angle_bins)
    tree = cKDTree(places)
    for vertex in np.flatnonzero(inside):
        near = [other for other in tree.query_ball_point(places[vertex], reach) if other != vertex]
        bonds = places[near] - places[vertex]
        unit = bonds / np.linalg.norm(bonds, axis=1, keepdims=True)
        cosines = np.clip((unit @ unit.T)[np.triu_indices(len(near), 1)], -1, 1)
        counts += np.histogram(cosines, chosen.angle_bins, (-1, 1))[0]
    return counts / max(1.0, counts.sum())


def trustworthiness_of(features: Floats, positions: Floats, neighbours: int) -> Floats:
    """Each item's share (n,) of the trustworthiness, so that their mean is scikit-learn's.

    Venna, Kaski, Proc. ICANN 2001, 485: neighbours on the map that are none in the features cost their rank.
    """
    from scipy.spatial.distance import cdist

    n, k = len(features), neighbours
    apart = cdist(features, features)
    np.fill_diagonal(apart, np.inf)
    ranks = np.empty((n, n))
    np.put_along_axis(ranks, np.argsort(apart, axis=1, kind="stable"), np.arange(1.0, n + 1)[None], axis=1)
    near = _nearest(positions, k)
    excess = np.clip(np.take_along_axis(ranks, near, axis=1) - k, 0, None)
    return 1 - excess.sum(axis=1) * 2 / (k * (2 * n - 3 * k - 1))


def purity_of(positions: Floats, labels: Sequence[Any], groups: Sequence[str], neighbours: int) -> Floats:
    """Share (n,) of each item's nearest neighbours on the map that have its label.

    Items of its own group do not count as neighbours: that images of one composition lie near says little.
    """
    from scipy.spatial.distance import cdist

    given, own = np.asarray(labels), np.asarray(groups)
    apart = cdist(positions, positions)
    apart[own[:, None] == own] = np.inf
    order = np.argsort(apart, axis=1, kind="stable")[:, :neighbours]
    known = np.isfinite(np.take_along_axis(apart, order, axis=1))
    same = (given[order] == given[:, None]) & known
    return same.sum(axis=1) / np.maximum(known.sum(axis=1), 1)


def _scored(found: Map, rows: Sequence[Row], parameters: EmbeddingParameters) -> list[Row]:
    from sklearn.metrics import silhouette_samples

    count = min(parameters.neighbours, (len(rows) - 1) // 3)
    classes, groups = [row["bravais_lattice"] for row in rows], [row["split_group"] for row in rows]
    shuffled = np.random.default_rng(stable_seed("labels", parameters.seed)).permutation(classes)
    is_divided = 1 < len(set(classes)) < len(rows)
    scores = {
        "trustworthiness": trustworthiness_of(found.features, found.positions, count),
        "silhouette": silhouette_samples(found.positions, classes) if is_divided else np.zeros(len(rows)),
        "purity": purity_of(found.positions, classes, groups, count),
        "purity_shuffled": purity_of(found.positions, shuffled.tolist(), groups, count),
        "purity_source": purity_of(found.positions, [row["source"] for row in rows], groups, count),
    }
    return [
        {
            "item_id": row["item_id"],
            "model_id": found.model_id,
            "role": found.role,
            "x": float(found.positions[number, 0]),
            "y": float(found.positions[number, 1]),
            "n_neighbours": count,
            **{name: float(values[number]) for name, values in scores.items()},
        }
        for number, row in enumerate(rows)
    ]


def _nearest(positions: Floats, count: int) -> NDArray[np.int64]:
    from scipy.spatial.distance import cdist

    apart = cdist(positions, positions)
    np.fill_diagonal(apart, np.inf)
    return np.argsort(apart, axis=1, kind="stable")[:, :count]


def _angles_of(row: Row, reader: ItemReader, parameters: EmbeddingParameters) -> Floats:
    image, pixel = reader.image(row), row["pixel_size_angstrom"]
    atoms = laplacian_of_gaussian_atoms(image, pixel, relative_threshold=_OBVIOUS_BLOB)[:, :2]
    return bond_angle_histogram(atoms, ((image.shape[1] - 1) * pixel, (image.shape[0] - 1) * pixel), parameters)


def _segmenter_features(rows: Sequence[Row], reader: ItemReader, folder: Path) -> Floats:
    """Means and spreads of the encoder's deepest features over each whole image, seen in one view."""
    from atomvision_ml.models.segmenter import load_segmenter

    loaded = load_segmenter(folder)
    loaded = replace(loaded, parameters=loaded.parameters.model_copy(update={"views": 1}))
    encoder = loaded.network.get_submodule("unet.encoder")
    features = []
    for row in rows:
        with captured(encoder) as outputs:
            loaded.probability(reader.image(row), row["pixel_size_angstrom"])
        features.append(np.concatenate(outputs).mean(axis=0))
    return np.stack(features)


@contextmanager
def captured(module: torch.nn.Module) -> Iterator[list[Floats]]:
    """Inside the block: means and spreads (n, 2 · channels) over the pixels of what the module gives, call by call.

    Of a module that gives several maps, the last; of a correction of the autoencoder, what its last layer is given.
    """
    outputs: list[Floats] = []

    def pooled(maps: torch.Tensor) -> None:
        flat = maps.detach().float().flatten(2)
        outputs.append(np.concatenate([flat.mean(dim=2).cpu().numpy(), flat.std(dim=2).cpu().numpy()], axis=1))

    last = getattr(module, "out", None)
    if last is not None:
        handle = last.register_forward_pre_hook(lambda _, given: pooled(given[0]))
    else:
        handle = module.register_forward_hook(lambda _, __, maps: pooled(maps[-1]))
    try:
        yield outputs
    finally:
        handle.remove()


def _reduced(features: ArrayLike) -> Floats:
    """The first 50 principal components (n, ≤ 50)."""
    from sklearn.decomposition import PCA

    values = np.asarray(features, float)
    return PCA(min(_FIRST_COMPONENTS, *values.shape), svd_solver="full").fit_transform(values)
