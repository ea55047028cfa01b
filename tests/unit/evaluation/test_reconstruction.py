import numpy as np
import polars as pl
import pytest

from atomvision_ml.evaluation.gallery.entries import GalleryContext
from atomvision_ml.evaluation.holdout import ItemReader
from atomvision_ml.evaluation.metrics import MetricParameters, metric_rows
from atomvision_ml.evaluation.tasks.reconstruction import draw, predict_reconstruction, probed, ssim
from atomvision_ml.models.autoencoder import ConvAutoencoderParameters
from atomvision_ml.models.autoencoder_training import train_autoencoder

TINY = ConvAutoencoderParameters(
    latent_size=40,
    size_px=32,
    component_images=200,
    epochs=1,
    batch_size=8,
    validation_images=2,
    images_per_epoch=8,
    width=4,
)


@pytest.fixture(scope="module")
def checkpoint(small_set, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("training")
    items = small_set.training_set("reconstruction")
    return train_autoencoder(items, small_set.open_blob, TINY, scratch=scratch, device="cpu").folder


@pytest.fixture(scope="module")
def answers(small_set, checkpoint):
    rows = predict_reconstruction(
        small_set.holdout,
        small_set.training_set("reconstruction"),
        small_set.open_blob,
        checkpoint=checkpoint,
        model_id="conv_autoencoder@tiny",
        probe_fields=60,
    )
    return pl.DataFrame(rows)


def test_every_method_answers_every_item(small_set, answers):
    items = set(small_set.holdout.filter(pl.col("task") == "reconstruction")["item_id"])
    methods = answers.group_by("model_id").agg(pl.col("item_id").n_unique(), pl.len(), pl.col("role").first())
    assert {row[0]: row[3] for row in methods.iter_rows()} == {
        "conv_autoencoder@tiny": "model",
        "pca": "classical",
        "pca_wiener": "classical",
        "mean_image": "trivial",
    }
    assert all(row[1] == row[2] == len(items) for row in methods.iter_rows())


def test_more_numbers_say_more_and_the_mean_image_says_least(answers):
    means = answers.group_by("model_id").agg(pl.col("psnr_db", "psnr_short_db").mean())
    mean = {row["model_id"]: row for row in means.iter_rows(named=True)}
    for name in ("conv_autoencoder@tiny", "pca", "pca_wiener"):
        assert mean[name]["psnr_db"] > mean[name]["psnr_short_db"] > mean["mean_image"]["psnr_db"]
    assert mean["mean_image"]["psnr_db"] == pytest.approx(mean["mean_image"]["psnr_short_db"])


def test_without_noise_nothing_is_shrunk(answers):
    clean = answers.filter(pl.col("item_id").str.ends_with("@clean")).sort("item_id")
    pca, wiener = (clean.filter(pl.col("model_id") == name)["psnr_db"].to_numpy() for name in ("pca", "pca_wiener"))
    assert np.allclose(pca, wiener)


def test_another_seed_brings_no_second_baseline(small_set, checkpoint):
    rows = predict_reconstruction(
        small_set.holdout,
        small_set.training_set("reconstruction"),
        small_set.open_blob,
        checkpoint=checkpoint,
        model_id="autoencoder@tiny",
        baselines=False,
        probe_fields=60,
    )
    assert set(rows["role"].to_pylist()) == {"model"}


def test_metrics_are_means_over_items(small_set, answers):
    figures = metric_rows(answers, small_set.holdout, size="demo", parameters=MetricParameters(resamples=0))
    found = {(row["model"], row["slice"], row["metric"]): row["value"] for row in figures}
    clean = answers.filter(pl.col("item_id").str.ends_with("@clean") & (pl.col("model_id") == "pca"))
    assert found["pca", "all|clean", "psnr_db"] == pytest.approx(clean["psnr_db"].mean())
    assert found["pca", "all|clean", "probe_accuracy"] == pytest.approx(clean["is_probe_correct"].cast(float).mean())


def test_probe_reads_what_is_there():
    random = np.random.default_rng(0)
    labels = np.array(["a", "b"] * 40)
    latent = random.normal(size=(80, 3)) + np.where(labels == "a", 3, -3)[:, None]
    assert (probed(latent[:60], labels[:60], latent[60:]) == labels[60:]).all()
    blank = np.zeros((80, 1))
    assert set(probed(blank[:59], labels[:59], blank[59:])) == {"a"}


def test_ssim_of_the_truth_is_one():
    image = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    assert ssim(image, image) == pytest.approx(1)
    assert ssim(image[::-1], image) < 0.5


def test_an_entry_shows_network_and_components(small_set, checkpoint, answers, tmp_path):
    (tmp_path / "pictures").mkdir()
    row = small_set.holdout.filter(pl.col("task") == "reconstruction").row(0, named=True)
    context = GalleryContext(
        folder=tmp_path,
        reader=ItemReader(small_set.open_blob),
        images={},
        answers={row["item_id"]: answers.filter(pl.col("item_id") == row["item_id"]).to_dicts()},
        checkpoints={"conv_autoencoder": checkpoint},
    )
    entry = draw({**row, "is_worst": False}, context)
    assert len(entry["pictures"]) == 5
    assert len(entry["facts"]) == 4
    assert all((tmp_path / picture["file"]).read_bytes().startswith(b"\x89PNG") for picture in entry["pictures"])
