import numpy as np
import polars as pl
import pytest

from atomvision_ml.evaluation.gallery.entries import GalleryContext
from atomvision_ml.evaluation.holdout import ItemReader
from atomvision_ml.evaluation.metrics import metric_rows
from atomvision_ml.evaluation.resolution_baselines import (
    fourier_ring_correlation,
    lattice_harmonics,
    train_spectrum,
    upscaled_by_all,
)
from atomvision_ml.evaluation.resolution_benchmark import as_markdown, benchmark_items, differences
from atomvision_ml.evaluation.tasks.super_resolution import PARTS, draw, parts_of, predict_super_resolution, problem_of
from atomvision_ml.images.reduction import box_reduced
from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.models.checkpoint import released_checkpoint
from atomvision_ml.models.lattice_finder import NoLatticeError
from atomvision_ml.models.super_resolution.resolver import SuperResolverParameters
from atomvision_ml.models.super_resolution.training import psnr_db, train_super_resolver
from atomvision_ml.schemas.tables import table


@pytest.fixture(scope="module")
def few(small_set):
    """The image with most parts, and the next one with a part that it lacks."""
    items = small_set.holdout.filter(pl.col("task") == "super_resolution")
    parts = {row["image_id"]: {part.name for part in parts_of(row)} for row in items.to_dicts()}
    most = max(sorted(parts), key=lambda image: len(parts[image]))
    other = max(sorted(parts), key=lambda image: len(parts[image] - parts[most]))
    return items.filter(pl.col("image_id").is_in(sorted({most, other})))


@pytest.fixture(scope="module")
def judged(small_set, few, tmp_path_factory):
    training_set = small_set.training_set("super_resolution")
    parameters = SuperResolverParameters(
        epochs=1, batch_size=4, crops_per_epoch=4, width=4, blocks=1, crop_px=16, validation_images=1
    )
    scratch = tmp_path_factory.mktemp("resolver")
    checkpoint = train_super_resolver(training_set, small_set.open_blob, parameters, scratch=scratch, device="cpu")
    answers = predict_super_resolution(
        few, training_set, small_set.open_blob, checkpoint=checkpoint.folder, model_id="super_resolver@abc"
    )
    return pl.DataFrame(pl.from_arrow(answers))


def test_every_part_is_answered_by_all_methods(few, judged):
    expected = [(row["item_id"], part.name) for row in few.to_dicts() for part in parts_of(row)]
    assert judged.height == len(expected) * 5
    assert {part for _, part in expected} >= {"physical_0.2", "vacancies_0.2"}
    assert judged.group_by("item_id", "part").agg(pl.len())["len"].unique().to_list() == [5]
    rows = metric_rows(judged, few, size="demo")
    table("evaluation/metrics").from_rows(rows)
    assert {row["slice"] for row in rows} == {f"{part}|{dose}" for _, part in expected for dose in ("clean", "1000")}


def test_classical_methods_stand_in_their_order(judged):
    clean = judged.filter(pl.col("item_id").str.ends_with("@clean") & (pl.col("part") == "physical_0.2"))
    psnr = dict(clean.select("model_id", "psnr_db").iter_rows())
    assert psnr["lattice_harmonics"] > psnr["wiener"] + 10
    assert psnr["wiener"] > psnr["fourier"] > psnr["bicubic"]


def test_true_image_has_no_errors(small_set, few):
    from atomvision_ml.evaluation.tasks.super_resolution import _Judged

    row, part = few.row(0, named=True), PARTS[0]
    problem = problem_of(row, ItemReader(small_set.open_blob), part)
    perfect = _Judged(row, part, problem).row("truth", "classical", problem.truth)
    assert (perfect["n_invented"], perfect["n_lost"]) == (0, 0)
    assert perfect["ssim"] == pytest.approx(1)
    assert perfect["frc_mean"] == pytest.approx(1)
    assert perfect["squared_error_angstrom2"] == perfect["squared_error_true_image_angstrom2"]
    assert perfect["n_columns"] > 20


def test_invented_and_lost_columns_are_counted(small_set, few):
    from atomvision_ml.evaluation.tasks.super_resolution import _Judged

    row, part = few.row(0, named=True), PARTS[0]
    problem = problem_of(row, ItemReader(small_set.open_blob), part)
    judged = _Judged(row, part, problem)
    atoms = judged._certain(judged.true_atoms)
    middle = atoms[np.argmin(np.abs(atoms[:, :2] - 25).sum(axis=1)), :2] / 0.2
    y, x = np.indices(problem.truth.shape)
    blob = np.exp(-((x - middle[0]) ** 2 + (y - middle[1]) ** 2) / (2 * 2.5**2))
    without = judged.row("without", "classical", problem.truth * (1 - blob))
    assert without["n_lost"] >= 1
    hole = problem.truth.copy()
    hole[96:160, 96:160] = 0
    spot = np.exp(-((x - 128) ** 2 + (y - 128) ** 2) / (2 * 2.5**2)) * problem.truth.max()
    near = np.abs(problem.columns_angstrom - 128 * 0.2).max(axis=1).min()
    assert (judged.row("with", "classical", hole + spot)["n_invented"] >= 1) == (near > 0.5)


def test_missing_columns_are_missing(small_set, few):
    reader = ItemReader(small_set.open_blob)
    row = few.filter(pl.col("mean_detected_e_per_a2").is_null()).row(0, named=True)
    whole, holes = (problem_of(row, reader, part) for part in (PARTS[0], PARTS[3]))
    gone = [
        column
        for column, counts in zip(whole.columns_angstrom, whole.counts, strict=True)
        if counts and np.abs(holes.columns_angstrom - column).max(axis=1).min() > 1e-6
    ]
    assert len(gone) == max(1, round(0.05 * whole.counts.sum()))
    assert holes.truth.min() >= 0
    for x, y in gone:
        at = round(y / 0.2), round(x / 0.2)
        assert holes.truth[at] < 0.6 * whole.truth[at]
    changed = np.abs(holes.truth - whole.truth) > 0.01 * whole.truth.max()
    assert changed.any()
    assert not changed.all()


def test_counts_are_the_same_each_time(small_set, few):
    reader, row = (
        ItemReader(small_set.open_blob),
        few.filter(pl.col("mean_detected_e_per_a2") == 1000).row(0, named=True),
    )
    one, other = (problem_of(row, reader, PARTS[0]) for _ in range(2))
    assert np.array_equal(one.coarse, other.coarse)
    assert one.noise_variance > 0


def test_lattice_fit_sees_beyond_the_coarse_pixels():
    """Reflections above half a cycle per coarse pixel are recovered from their aliases."""
    cell = Projection(np.array([[0.0, 0.0], [1.3, 0.9]]), np.array([1.0, 0.6]), np.array([[3.1, 0.2], [0.7, 3.6]]))
    for angle in (0, 17, 31):
        truth = render_batch([cell], [View(0.2, 256, angle)], precision="float64")[0]
        fitted = lattice_harmonics(box_reduced(truth), 0.2, 0.0)
        assert psnr_db(fitted, truth) > 50
        power = np.abs(np.fft.fft2((truth - truth.mean()) * np.outer(np.hanning(256), np.hanning(256)))) ** 2
        frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(256, 0.2)] * 2))
        assert power[frequency > 0.65].sum() > 0.01 * power.sum()


def test_without_lattice_the_wiener_estimate_stands(small_set):
    noise = np.random.default_rng(0).random((64, 64))
    spectrum = train_spectrum(small_set.training_set("super_resolution"), small_set.open_blob, 0.2, maximum_images=2)
    with pytest.raises((NoLatticeError, np.linalg.LinAlgError)):
        lattice_harmonics(noise, 0.2, 0.0)
    images = upscaled_by_all(noise, 0.2, 0.0, spectrum)
    assert np.array_equal(images["lattice_harmonics"], images["wiener"])


def test_spectrum_needs_a_train_split(small_set):
    items = small_set.training_set("super_resolution").filter(pl.col("split") == "test")
    with pytest.raises(ValueError, match="train split is empty"):
        train_spectrum(items, small_set.open_blob, 0.2)


def test_ring_correlation_of_known_images():
    random = np.random.default_rng(0)
    truth = random.normal(size=(128, 128))
    frequency, same = fourier_ring_correlation(3 * truth + 1, truth, 0.2)
    assert np.allclose(same, 1)
    assert frequency[0] == pytest.approx(1 / (128 * 0.2))
    _, none = fourier_ring_correlation(random.normal(size=(128, 128)), truth, 0.2)
    assert abs(none.mean()) < 0.1
    _, half = fourier_ring_correlation(truth + random.normal(size=(128, 128)), truth, 0.2)
    assert half.mean() == pytest.approx(np.sqrt(0.5), abs=0.05)


def test_benchmark_leaves_out_known_compositions(small_set):
    training_sets = small_set.training_set("segmentation")
    groups = training_sets.filter(pl.col("split") == "test")["split_group"].unique().sort()
    items = benchmark_items(training_sets, {groups[0]}, 100)
    assert set(items["split_group"]) == set(groups[1:])
    assert set(items["task"]) == {"super_resolution"}
    assert benchmark_items(training_sets, set(), 2).height == 2


def test_benchmark_compares_in_pairs(few, judged):
    rows = {(row["slice"], row["other"]): row for row in differences(judged, few, "super_resolver")}
    psnr = judged.filter((pl.col("part") == "physical_0.2") & pl.col("item_id").str.ends_with("@clean"))
    mean = dict(psnr.group_by(pl.col("model_id").str.split("@").list.first()).agg(pl.col("psnr_db").mean()).iter_rows())
    row = rows["physical_0.2|clean", "bicubic"]
    assert row["difference"] == pytest.approx(mean["super_resolver"] - mean["bicubic"])
    assert row["low"] <= row["difference"] <= row["high"]
    figures = pl.DataFrame(metric_rows(judged, few, size="demo"))
    text = as_markdown(figures, {"psnr_db": ".1f", "lost_rate": ".2%"})
    assert f"| {mean['wiener']:.1f} |" in text
    assert text.count("\n") == 1 + figures.select("slice", "model").n_unique()


def test_entry_of_the_gallery_shows_what_was_made(small_set, few, judged, tmp_path):
    row = {**few.row(0, named=True), "is_worst": False}
    answers = judged.filter(pl.col("item_id") == row["item_id"]).to_dicts()
    (tmp_path / "pictures").mkdir()
    checkpoints = {"super_resolver": released_checkpoint("super_resolver")}
    reader = ItemReader(small_set.open_blob)
    context = GalleryContext(tmp_path, reader, images={}, answers={row["item_id"]: answers}, checkpoints=checkpoints)
    entry = draw(row, context)
    captions = [picture["caption"] for picture in entry["pictures"]]
    assert captions == ["low resolution", "bicubic", "super resolver", "true image"]
    assert all((tmp_path / picture["file"]).read_bytes().startswith(b"\x89PNG") for picture in entry["pictures"])
    assert len(entry["facts"]) == 5
