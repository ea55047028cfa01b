import numpy as np
import polars as pl
import pytest

from atomvision_ml.images.scenes import SceneLibrary, at_dose
from atomvision_ml.models.autoencoder import (
    AutoencoderParameters,
    ConvAutoencoderParameters,
    build_network,
    levels,
    load_autoencoder,
    reconstruct,
)
from atomvision_ml.models.autoencoder_training import (
    AutoencoderLearner,
    components_of,
    draw_fields,
    item_fields,
    psnr,
    train_autoencoder,
)
from atomvision_ml.models.checkpoint import CheckpointError
from atomvision_ml.models.components import fit_components
from atomvision_ml.models.training_run import TrainingData

TINY = {"latent_size": 40, "size_px": 32, "component_images": 200, "epochs": 1, "batch_size": 8, "validation_images": 4}
CONV = ConvAutoencoderParameters(**TINY, images_per_epoch=16, width=8)
DENSE = AutoencoderParameters(**TINY, images_per_epoch=16, width=16)


def data_of(small_set):
    return TrainingData(small_set.training_set("reconstruction"), small_set.open_blob, {})


def library_of(small_set):
    return SceneLibrary(data_of(small_set).rows("train"), small_set.open_blob)


@pytest.fixture(scope="module")
def trained(small_set, tmp_path_factory):
    return train_autoencoder(
        small_set.training_set("reconstruction"),
        small_set.open_blob,
        CONV,
        scratch=tmp_path_factory.mktemp("training"),
        device="cpu",
    )


def test_components_are_the_best_linear_code(small_set):
    library, random = library_of(small_set), np.random.default_rng(0)
    fields, others = (draw_fields(library, CONV, count, random, at_dose(None)).clean for count in (200, 300))
    fitted = fit_components(fields, others, 40)
    assert np.allclose(fitted.components @ fitted.components.T, np.eye(40), atol=1e-4)
    _, singular, _ = np.linalg.svd(fields.reshape(len(fields), -1) - fitted.middle, full_matrices=False)
    left = ((fitted.decode(fitted.encode(fields, 40)) - fields) ** 2).sum()
    assert left == pytest.approx((singular[40:] ** 2).sum(), rel=0.05)
    lost = ((fitted.decode(fitted.encode(others, 40)) - others) ** 2).mean()
    assert fitted.left_over == pytest.approx(lost, rel=1e-3)
    whole = ((others.reshape(300, -1) - fitted.middle) ** 2).mean()
    assert fitted.variances.sum() / 32**2 + fitted.left_over == pytest.approx(whole, rel=1e-3)


def test_shrinking_by_the_noise_lowers_the_error(small_set):
    library = library_of(small_set)
    fitted = components_of(library, CONV)
    noisy = draw_fields(library, CONV, 64, np.random.default_rng(1), at_dose(30.0))
    latent = fitted.encode(noisy.seen, 40)
    shrunk, plain = fitted.decode(latent, noisy.noise), fitted.decode(latent)
    assert psnr(shrunk, noisy.clean).mean() > psnr(plain, noisy.clean).mean()


def test_noise_is_the_variance_of_seen_minus_clean(small_set):
    fields = draw_fields(library_of(small_set), CONV, 64, np.random.default_rng(2), at_dose(300.0))
    measured = ((fields.seen - fields.clean) ** 2).mean(axis=(1, 2))
    assert np.mean(measured / fields.noise) == pytest.approx(1, abs=0.05)
    assert not draw_fields(library_of(small_set), CONV, 4, np.random.default_rng(2), at_dose(None)).noise.any()


@pytest.mark.parametrize("parameters", [CONV, DENSE], ids=["conv", "dense"])
def test_before_training_a_network_is_the_components(small_set, parameters):
    import torch

    learner = AutoencoderLearner(data_of(small_set), parameters)
    fitted = components_of(library_of(small_set), parameters)
    fields = item_fields([library_of(small_set).projection(0)], ["one"], parameters, None)
    for size in (40, 5):
        with torch.inference_mode():
            found = learner.network(torch.from_numpy(fields.seen)[:, None], size)[:, 0].numpy()
        assert np.allclose(found, fitted.decode(fitted.encode(fields.seen, size)), atol=1e-3)


def test_a_correction_that_only_spoils_is_not_believed(small_set):
    import torch

    learner = AutoencoderLearner(data_of(small_set), CONV)
    network = learner.network.eval()
    torch.manual_seed(0)
    with torch.inference_mode():
        plain = learner.validate(torch.device("cpu"))["val_psnr_clean_db"]
        torch.nn.init.normal_(network.after.out.weight, std=0.1)
        network.gains.fill_(1.0)
        fields = torch.from_numpy(learner._validation[None].seen)[:, None]
        spoilt = psnr(network(fields)[:, 0].numpy(), learner._validation[None].clean).mean()
        believed = learner.validate(torch.device("cpu"))["val_psnr_clean_db"]
    assert spoilt < plain - 0.1
    assert believed > plain - 0.3 * (plain - spoilt)
    assert ((network.gains >= 0) & (network.gains <= 1)).all()


@pytest.mark.parametrize("parameters", [CONV, DENSE], ids=["conv", "dense"])
def test_training_lowers_the_loss_on_unseen_fields(small_set, parameters):
    import torch

    chosen = parameters.model_copy(update={"learning_rate": 3e-3})
    learner = AutoencoderLearner(data_of(small_set), chosen)
    device = torch.device("cpu")
    batches = [batch for epoch in range(6) for batch in learner.batches(epoch)]
    unseen = next(learner.batches(99))
    before = float(learner.loss(unseen, device).detach())
    optimiser = torch.optim.AdamW(learner.network.parameters(), lr=chosen.learning_rate)
    for batch in batches:
        optimiser.zero_grad()
        learner.loss(batch, device).backward()
        optimiser.step()
    assert float(learner.loss(unseen, device).detach()) < before


def test_batches_and_items_repeat(small_set):
    learner = AutoencoderLearner(data_of(small_set), CONV)
    first, again, other = (next(learner.batches(epoch)) for epoch in (0, 0, 1))
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    projection = library_of(small_set).projection(0)
    clean, noisy = (item_fields([projection], ["one"], CONV, dose) for dose in (None, 1000.0))
    assert np.corrcoef(clean.clean.ravel(), noisy.clean.ravel())[0, 1] == pytest.approx(1, abs=1e-6)


def test_a_checkpoint_reconstructs_images_of_any_scale(small_set, trained):
    row = small_set.holdout.filter(pl.col("mean_detected_e_per_a2").is_null()).row(0, named=True)
    from atomvision_ml.evaluation.holdout import load_item

    image, pixel = load_item(row, small_set.open_blob), row["pixel_size_angstrom"]
    answer = reconstruct(image, pixel, trained.folder)
    assert answer.reconstruction.shape == image.shape
    assert answer.latent.shape == (len(answer.tiles_px), 40)
    assert answer.model.startswith("conv_autoencoder@")
    assert np.corrcoef(answer.reconstruction.ravel(), image.ravel())[0, 1] > 0.8
    other = reconstruct(1000 - 3 * 7.0 + 3 * image.astype(float), pixel, trained.folder)
    assert np.allclose(other.reconstruction, 1000 - 21 + 3 * answer.reconstruction, atol=1e-2 * np.ptp(image))
    assert "fewer than ten" in trained.card.description


@pytest.mark.parametrize(
    ("image", "pixel", "words"),
    [
        (np.zeros(5), 0.1, "y, x"),
        (np.zeros((20, 20)), 0.1, "smaller"),
        (np.full((90, 90), np.nan), 0.1, "finite"),
        (np.zeros((90, 90)), -1.0, "positive"),
    ],
)
def test_bad_images_are_refused(trained, image, pixel, words):
    with pytest.raises(ValueError, match=words):
        reconstruct(image, pixel, trained.folder)


def test_a_constant_image_comes_back_finite(trained):
    assert np.isfinite(reconstruct(np.full((90, 90), 5.0), 0.1, trained.folder).reconstruction).all()


def test_another_model_is_no_autoencoder():
    with pytest.raises(CheckpointError, match="not an autoencoder"):
        load_autoencoder(_segmenter())


def _segmenter():
    from atomvision_ml.models.checkpoint import released_checkpoint

    return released_checkpoint("segmenter")


def test_levels_do_not_follow_brightness_and_contrast():
    images = np.random.default_rng(0).random((2, 32, 32))
    middle, spread = levels(images, 0.2)
    other = levels(5 + 3 * images, 0.2)
    assert np.allclose(other[0], 5 + 3 * middle)
    assert np.allclose(other[1], 3 * spread)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="multiple of 8"):
        AutoencoderParameters(size_px=60)
    with pytest.raises(ValueError, match="components need"):
        AutoencoderParameters(latent_size=500, component_images=400)
    assert build_network(CONV).latent_size == 40
