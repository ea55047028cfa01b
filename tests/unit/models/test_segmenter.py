import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from atomvision_ml.evaluation.tasks.segmentation import predict_segmentation
from atomvision_ml.images.atoms import find_atoms, laplacian_of_gaussian_atoms
from atomvision_ml.images.columns import column_mask
from atomvision_ml.images.detector import poisson_counts
from atomvision_ml.images.resampling import area_average_matrix, cubic_matrix
from atomvision_ml.images.scenes import SceneLibrary, SceneParameters, draw_scenes
from atomvision_ml.models import segmenter as module
from atomvision_ml.models.checkpoint import CheckpointError, released_checkpoint
from atomvision_ml.models.segmenter import (
    GaussianSegmenterParameters,
    SegmenterParameters,
    load_segmenter,
    segment,
)
from atomvision_ml.models.segmenter_training import (
    SegmenterLearner,
    on_working_grid,
    signed_distance,
    train_segmenter,
)
from atomvision_ml.models.training import RESUME_FILE
from atomvision_ml.models.training_run import TrainingData

TINY = {"epochs": 2, "crops_per_epoch": 16, "decoder_width": 4, "validation_images": 2, "crop_px": 32, "views": 1}


def honeycomb(size=200, pixel=0.1, bond=1.6, sigma=0.5):
    """Columns of a honeycomb and its image, equal atoms."""
    a = bond * np.sqrt(3)
    base = np.array([[0, 0], [a / 2, bond / 2]])
    steps = np.array([[a, 0], [a / 2, 1.5 * bond]])
    n = np.stack(np.meshgrid(np.arange(-30, 30), np.arange(-30, 30)), -1).reshape(-1, 2)
    columns = (base[:, None] + n @ steps).reshape(-1, 2) + 0.033
    inside = ((columns > -2) & (columns < size * pixel + 2)).all(axis=1)
    columns = columns[inside]
    along = np.arange(size) * pixel
    x, y = (np.exp(-0.5 * ((along - columns[:, axis, None]) / sigma) ** 2) for axis in (0, 1))
    return columns, y.T @ x


@given(
    n=st.integers(8, 80),
    pixel=st.floats(0.05, 0.2),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_area_average_keeps_the_total(n, pixel, seed):
    values = np.random.default_rng(seed).random(n)
    matrix = area_average_matrix(n, pixel, 0.2)
    widths = np.full(len(matrix), 0.2)
    widths[-1] = n * pixel - 0.2 * (len(matrix) - 1)
    assert np.allclose(matrix.sum(axis=1), 1)
    assert (matrix @ values * widths).sum() == pytest.approx((values * pixel).sum())


def test_area_average_is_binning_for_integer_ratios():
    values = np.random.default_rng(0).random(10)
    assert np.allclose(area_average_matrix(10, 0.1, 0.2) @ values, values.reshape(5, 2).mean(axis=1))


def test_cubic_interpolation_is_exact_for_parabolas():
    place = np.linspace(2, 17, 40)
    assert np.allclose(cubic_matrix(20, place) @ np.arange(20.0) ** 2, place**2)


def test_signed_distance_is_the_distance_to_the_edge():
    target = signed_distance(np.array([[6.03, 5.0], [-0.3, 9.0]]), 60, 0.05, SegmenterParameters())
    along = (np.arange(60) + 0.5) * 0.2 - 0.05
    near = [np.hypot(along[None, :] - x, along[:, None] - y) for x, y in ((6.03, 5.0), (-0.3, 9.0))]
    assert np.abs(target - np.clip(0.5 - np.minimum(*near), -0.5, 0.5)).max() < 1e-6


def test_the_target_lies_where_the_atoms_are(small_set):
    """A network in use sees images on the same grid, from the same pixels."""
    row = small_set.training_set("segmentation").row(0, named=True)
    library = SceneLibrary([row], small_set.open_blob)
    for pixel in (0.1, 0.175, 0.25):
        ranges = SceneParameters(
            size_px=int(np.ceil(12.8 / pixel)),
            minimum_pixel_size_angstrom=pixel,
            maximum_pixel_size_angstrom=pixel,
            clean_fraction=1.0,
        )
        scenes = draw_scenes([library.projection(0)], ranges, np.random.default_rng(0))
        image, target = on_working_grid(scenes, SegmenterParameters(), 64)
        assert image.shape == target.shape == (1, 64, 64)
        y, x = np.indices((64, 64))
        centres = [[(mass * axis).sum() / mass.sum() for axis in (x, y)] for mass in brightest(image[0], target[0])]
        assert np.abs(np.subtract(*centres)).max() < 0.35


def brightest(image, target):
    """Image and target inside the disk at the brightest inner pixel."""
    from scipy.ndimage import label

    regions, _ = label(target > 0)
    inner = image[8:-8, 8:-8]
    y, x = np.unravel_index(inner.argmax(), inner.shape)
    inside = regions == regions[y + 8, x + 8]
    assert inside.sum() > 8
    return np.where(inside, image, 0), np.where(inside, target, 0)


def test_atoms_of_a_perfect_map_are_found_to_a_picometre():
    columns, image = honeycomb()
    along = np.arange(200) * 0.1
    grid = np.stack(np.meshgrid(along, along), -1)
    away, _ = cKDTree(columns).query(grid)
    atoms = find_atoms(1 / (1 + np.exp(-(0.5 - away) / 0.1)), image, 0.1)
    found = np.array([(atom["x_angstrom"], atom["y_angstrom"]) for atom in atoms])
    inner = ((columns > 1) & (columns < 19)).all(axis=1)
    distance, _ = cKDTree(found).query(columns[inner])
    assert distance.max() < 0.02
    assert all(atom["intensity"] > 0.5 * image.max() for atom in atoms if 1 < atom["x_angstrom"] < 19)


def test_laplacian_of_gaussian_is_sub_pixel():
    columns, image = honeycomb(bond=2.5)
    found = laplacian_of_gaussian_atoms(image, 0.1)
    inner = ((columns > 1) & (columns < 19)).all(axis=1)
    distance, _ = cKDTree(found[:, :2]).query(columns[inner])
    assert distance.max() < 0.02


@pytest.mark.parametrize(
    ("image", "pixel", "message"),
    [
        (np.zeros(9), 0.1, r"\[y, x\]"),
        (np.zeros((4, 40)), 0.1, "too small"),
        (np.zeros((16, 16)), 0.1, "too small"),
        (np.full((40, 40), np.nan), 0.1, "1600 of 1600 pixels are not finite"),
        (np.ones((40, 40)), 0.0, "must be positive"),
        (np.ones((40, 40)), float("nan"), "must be positive"),
    ],
)
def test_bad_images_are_named(image, pixel, message):
    with pytest.raises(ValueError, match=message):
        segment(image, pixel)


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_constant_image_has_no_atoms(value):
    result = segment(np.full((64, 48), value), 0.1)
    assert not result.atoms
    assert not result.mask.any()
    assert result.probability.shape == (64, 48)


def test_unknown_model_is_named():
    with pytest.raises(CheckpointError, match="neither a checkpoint folder"):
        segment(np.eye(64), 0.1, "nobody")


@pytest.mark.parametrize("pixel", [0.1, 0.15, 0.25])
def test_released_model_finds_every_atom_of_a_honeycomb(pixel):
    size = round(20 / pixel)
    columns, image = honeycomb(size, pixel)
    truth = column_mask(columns, size, pixel)
    for exposed in (image, poisson_counts(image, pixel, 1000, 1), -3 + 250 * image):
        result = segment(exposed, pixel)
        iou = (result.mask & truth).sum() / (result.mask | truth).sum()
        found = np.array([(atom["x_angstrom"], atom["y_angstrom"]) for atom in result.atoms])
        inner = ((columns > 1) & (columns < 19)).all(axis=1)
        distance, _ = cKDTree(found).query(columns[inner])
        assert distance.max() < 0.2
        assert iou > 0.8
    assert result.model.startswith("segmenter@")


def test_brightness_and_contrast_do_not_matter():
    _, image = honeycomb(128)
    assert np.allclose(segment(image, 0.1).probability, segment(40 - 10 + 3e4 * image, 0.1).probability, atol=1e-3)


def test_tiles_agree_with_the_whole(monkeypatch):
    _, image = honeycomb(480)
    whole = segment(image, 0.1).probability
    monkeypatch.setattr(module, "_TILE_PX", 192)
    tiled = segment(image, 0.1).probability
    assert tiled.shape == whole.shape
    assert np.abs(tiled - whole).max() < 0.05


def test_small_training_is_resumed_and_says_what_it_did(small_set, tmp_path):
    items = small_set.training_set("segmentation")
    parameters = SegmenterParameters(**TINY)
    calls = []
    checkpoint = train_segmenter(
        items,
        small_set.open_blob,
        parameters,
        scratch=tmp_path,
        device="cpu",
        progress=lambda *args: calls.append(args),
        data_versions={"models/training_sets/segmentation": "v1"},
    )
    assert calls[-1] == (4, 4)
    assert (tmp_path / RESUME_FILE).exists()
    assert checkpoint.card.splits["test"] == (items["split"] == "test").sum()
    assert checkpoint.card.data_versions == {"models/training_sets/segmentation": "v1"}
    assert len(checkpoint.curves()) == 2
    assert (checkpoint.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    loaded = load_segmenter(checkpoint.folder)
    image = np.random.default_rng(0).random((64, 64))
    assert loaded.probability(image, 0.1).shape == (64, 64)
    assert (
        segment(image, 0.1, checkpoint.folder).model
        == loaded.label
        != load_segmenter(released_checkpoint("segmenter")).label
    )


def test_the_test_split_is_never_read(small_set):
    items = small_set.training_set("segmentation")
    data = TrainingData(items, small_set.open_blob, {})
    learner = SegmenterLearner(data, SegmenterParameters(**TINY))
    splits = dict(items.select("item_id", "split").iter_rows())
    assert {splits[row["item_id"]] for row in learner._train.rows} == {"train"}
    with pytest.raises(ValueError, match="not 'test'"):
        data.rows("test")


def test_batches_depend_on_nothing_but_the_epoch(small_set):
    items = small_set.training_set("segmentation")
    parameters = SegmenterParameters(**TINY)
    first, second = (SegmenterLearner(TrainingData(items, small_set.open_blob, {}), parameters) for _ in range(2))
    list(first.batches(0))
    for (a, b), (c, d) in zip(first.batches(1), second.batches(1), strict=True):
        assert a.shape == (8, 1, 32, 32)
        assert np.array_equal(a, c)
        assert np.array_equal(b, d)
    assert not np.array_equal(next(first.batches(0))[0], next(first.batches(1))[0])


def test_empty_split_is_named(small_set):
    items = small_set.training_set("segmentation").filter(pl.col("split") != "val")
    with pytest.raises(ValueError, match="val split is empty"):
        SegmenterLearner(TrainingData(items, small_set.open_blob, {}), SegmenterParameters(**TINY))


def test_gaussian_target_says_the_same_where_the_network_is_right():
    """From the Gaussian of a distance back to that distance."""
    parameters = GaussianSegmenterParameters()
    distance = np.linspace(0.05, 0.95, 30)
    chance = np.exp(-0.5 * (distance / parameters.label_width_angstrom) ** 2)
    odds = parameters.log_odds(np.log(chance / (1 - chance)).astype(np.float32))
    assert odds == pytest.approx((0.5 - distance) / parameters.edge_width_angstrom, abs=1e-3)


def test_gaussian_segmenter_is_trained_and_used_like_the_other(small_set, tmp_path):
    parameters = GaussianSegmenterParameters(**{**TINY, "epochs": 1})
    items = small_set.training_set("segmentation")
    checkpoint = train_segmenter(items, small_set.open_blob, parameters, scratch=tmp_path, device="cpu")
    assert checkpoint.name == "gaussian_segmenter"
    result = segment(np.random.default_rng(0).random((64, 64)), 0.1, checkpoint.folder)
    assert result.model.startswith("gaussian_segmenter@")
    assert result.probability.shape == (64, 64)
    few = small_set.holdout.filter(pl.col("task") == "segmentation").head(1)
    answers = predict_segmentation(
        few, items, small_set.open_blob, checkpoint=checkpoint.folder, model_id=checkpoint.name, has_baselines=False
    )
    assert answers.num_rows == 1
