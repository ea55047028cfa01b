import numpy as np
import pytest
import torch

from atomvision_ml.images.reduction import FACTOR, box_reduced
from atomvision_ml.images.scenes import SceneLibrary
from atomvision_ml.images.stem import View, render_batch
from atomvision_ml.models.checkpoint import CheckpointError, released_checkpoint
from atomvision_ml.models.registry import create_model
from atomvision_ml.models.super_resolution.networks import INPUT_CHANNELS, build_discriminator
from atomvision_ml.models.super_resolution.resolver import (
    SuperResolverParameters,
    estimated_noise,
    load_resolver,
    prepare,
    upscale,
)
from atomvision_ml.models.super_resolution.srgan import SrganLearner, SrganParameters, train_srgan
from atomvision_ml.models.super_resolution.training import (
    ResolverLearner,
    coarse_image,
    content_loss,
    psnr_db,
    train_super_resolver,
)
from atomvision_ml.models.training import RESUME_FILE
from atomvision_ml.models.training_run import TrainingData

TINY = {
    "epochs": 2,
    "batch_size": 4,
    "crops_per_epoch": 8,
    "width": 8,
    "blocks": 1,
    "crop_px": 16,
    "validation_images": 2,
}


@pytest.fixture(scope="module")
def items(small_set):
    return small_set.training_set("super_resolution")


@pytest.fixture(scope="module")
def data(small_set, items):
    return TrainingData(items, small_set.open_blob, {})


@pytest.fixture(scope="module")
def crystal(small_set, items):
    """A fine image [256, 256] at 0.2 Å."""
    library = SceneLibrary(items.to_dicts()[:1], small_set.open_blob)
    return render_batch([library.projection(0)], [View(0.2, 256, 20.0)])[0].astype(float)


@pytest.fixture(scope="module")
def trained(small_set, items, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("resolver")
    parameters = SuperResolverParameters(**TINY)
    return train_super_resolver(items, small_set.open_blob, parameters, scratch=scratch, device="cpu")


def test_untrained_network_is_the_linear_estimate(crystal):
    network = create_model("super_resolver", width=8, blocks=2).eval()
    seen = prepare(box_reduced(crystal), 0.8, 0.0)
    with torch.inference_mode():
        answer = network(torch.from_numpy(seen.channels)[None])[0, 0].numpy()
    assert seen.channels.shape == (INPUT_CHANNELS, 64, 64)
    assert answer.shape == (256, 256)
    assert not answer.any()
    assert np.allclose(seen.image(answer), np.clip(seen.mean + seen.scale * seen.linear, 0, None), atol=1e-5)


def test_units_do_not_matter(crystal):
    """What the network sees of an image is the same in counts and in 1/Å²."""
    coarse, noise = coarse_image(crystal, 0.2, 1000.0, "physical", np.random.default_rng(0))
    one, other = prepare(coarse, 0.8, noise), prepare(coarse * 37, 0.8, noise * 37**2)
    assert np.allclose(one.channels, other.channels, atol=1e-4)
    assert np.allclose(other.image(np.zeros((256, 256))), 37 * one.image(np.zeros((256, 256))), rtol=1e-4, atol=1e-3)


def test_offsets_do_not_matter(crystal, trained):
    coarse = box_reduced(crystal) / crystal.std()
    plain, shifted = (upscale(coarse + by, 0.8, trained.folder, noise_variance=0.0).image for by in (5.0, -50.0))
    assert shifted.min() < 0
    assert np.abs(shifted + 55 - plain).mean() < 0.2


def test_scale_is_that_of_the_fine_image(crystal):
    for dose in (None, 1000.0):
        coarse, noise = coarse_image(crystal, 0.2, dose, "physical", np.random.default_rng(0))
        assert prepare(coarse, 0.8, noise).scale == pytest.approx(crystal.std(), rel=0.35)


def test_dose_falls_on_the_coarse_grid(crystal):
    coarse, noise = coarse_image(crystal, 0.2, 1000.0, "physical", np.random.default_rng(0))
    electrons = 1000 * 0.8**2 / box_reduced(crystal).mean()
    counts = coarse * electrons
    assert np.allclose(counts, np.rint(counts), atol=1e-6)
    assert counts.mean() == pytest.approx(640, rel=0.01)
    assert np.var(coarse - box_reduced(crystal)) == pytest.approx(noise, rel=0.1)
    assert estimated_noise(np.rint(counts)) == pytest.approx(640, rel=0.01)


def test_empty_image_has_no_noise():
    assert coarse_image(np.zeros((16, 16)), 0.2, 1000.0, "bicubic", np.random.default_rng(0))[1] == 0


def test_psnr_of_a_known_error():
    truth = np.zeros((64, 64))
    truth[20:40, 20:40] = 2.0
    assert psnr_db(truth + 0.02, truth) == pytest.approx(40)
    assert psnr_db(np.pad(truth[1:-1, 1:-1], 1, constant_values=9), truth) > 150  # the border does not count


def test_content_loss_is_least_for_the_truth(data):
    learner = ResolverLearner(data, SuperResolverParameters(**TINY))
    batch = next(iter(learner.batches(0)))
    device = torch.device("cpu")
    perfect = torch.from_numpy((batch.truth - batch.linear) / batch.units)
    assert content_loss(perfect, batch, device) < content_loss(0.5 * perfect, batch, device)
    assert content_loss(0.5 * perfect, batch, device) < content_loss(0 * perfect, batch, device)


def test_batches_depend_on_nothing_but_the_epoch(data):
    first, second = (ResolverLearner(data, SuperResolverParameters(**TINY)) for _ in range(2))
    list(first.batches(0))
    for one, other in zip(first.batches(1), second.batches(1), strict=True):
        assert one.channels.shape == (4, INPUT_CHANNELS, 16, 16)
        assert one.truth.shape == (4, 1, 64, 64)
        assert np.array_equal(one.channels, other.channels)
        assert np.array_equal(one.truth, other.truth)
    assert not np.array_equal(next(first.batches(0)).truth, next(first.batches(1)).truth)


def test_the_test_split_is_never_read(items, data):
    learner = ResolverLearner(data, SuperResolverParameters(**TINY))
    splits = dict(items.select("item_id", "split").iter_rows())
    assert {splits[row["item_id"]] for row in learner._train.rows} == {"train"}


def test_small_training_is_kept_and_used(trained, crystal):
    assert (trained.folder.parent / RESUME_FILE).exists()
    assert len(trained.curves()) == 2
    result = upscale(box_reduced(crystal), 0.8, trained.folder, noise_variance=0.0)
    assert result.image.shape == (256, 256)
    assert result.pixel_size_angstrom == pytest.approx(0.2)
    assert result.model == load_resolver(trained.folder).label
    assert result.model.startswith("super_resolver@")


def test_views_are_turned_back(trained, crystal):
    resolver = load_resolver(trained.folder)
    coarse = box_reduced(crystal)[:, :48]
    plain = resolver._view(coarse, 0, 0.8, 0.0)
    for number in range(1, 8):
        turned = resolver._view(coarse, number, 0.8, 0.0)
        assert turned.shape == plain.shape
        assert np.corrcoef(turned.ravel(), plain.ravel())[0, 1] > 0.98


def test_gan_starts_from_the_resolver_and_trains_both(small_set, items, data, trained, tmp_path):
    parameters = SrganParameters(**TINY, discriminator_width=4)
    learner = SrganLearner(data, parameters)
    assert learner.start_from(trained.folder)
    weights = trained.weights()
    assert all(torch.equal(value, weights[key]) for key, value in learner.network.state_dict().items())
    other = SrganLearner(data, parameters.model_copy(update={"width": 4}))
    assert not other.start_from(trained.folder)
    checkpoint = train_srgan(
        items, small_set.open_blob, parameters, scratch=tmp_path, start=trained.folder, device="cpu"
    )
    assert "segmenter's encoder" in checkpoint.card.description
    assert all(np.isfinite(row["discriminator_loss"]) for row in checkpoint.curves())
    assert load_resolver(checkpoint.folder).label.startswith("srgan@")


def test_perceptual_distance_is_zero_for_the_truth(data):
    learner = SrganLearner(data, SrganParameters(**TINY))
    batch = next(iter(learner.batches(0)))
    truth = torch.from_numpy(batch.truth)
    assert learner._distance(truth, truth, batch.fine_pixel_angstrom) == 0
    assert learner._distance(torch.from_numpy(batch.linear), truth, batch.fine_pixel_angstrom) > 0


def test_missing_weights_of_vgg_are_named(data):
    with pytest.raises(FileNotFoundError, match="leave vgg19_weights empty"):
        SrganLearner(data, SrganParameters(**TINY, vgg19_weights="nowhere.pth"))


def test_discriminator_answers_per_patch():
    assert build_discriminator(4)(torch.zeros(2, 1, 64, 64)).shape == (2, 1, 4, 4)


@pytest.mark.parametrize(
    ("image", "pixel", "message"),
    [
        (np.zeros(9), 0.8, r"\[y, x\]"),
        (np.zeros((8, 40)), 0.8, "too few"),
        (np.full((40, 40), np.nan), 0.8, "1600 of 1600 pixels are not finite"),
        (np.ones((40, 40)), 0.0, "must be positive"),
    ],
)
def test_bad_images_are_named(image, pixel, message, trained):
    with pytest.raises(ValueError, match=message):
        upscale(image, pixel, trained.folder)


def test_constant_image_stays_constant(trained):
    assert np.all(upscale(np.full((20, 24), 7.0), 0.8, trained.folder).image == 7.0)


def test_other_checkpoints_are_refused(crystal):
    with pytest.raises(CheckpointError, match="holds a segmenter"):
        upscale(box_reduced(crystal), 0.8, released_checkpoint("segmenter"))


def test_estimated_noise_of_other_images(crystal):
    smooth = crystal / crystal.std()
    for sigma in (0.1, 1.0):
        noisy = smooth + np.random.default_rng(0).normal(0, sigma, smooth.shape)
        assert estimated_noise(noisy) == pytest.approx(sigma**2, rel=0.1)


def test_fine_grid_is_four_times_as_fine(trained, crystal):
    coarse = box_reduced(crystal)
    fine = upscale(coarse, 0.8, trained.folder, noise_variance=0.0).image
    assert fine.shape == tuple(FACTOR * edge for edge in coarse.shape)
    assert np.abs(box_reduced(fine) - coarse)[4:-4, 4:-4].mean() < 0.1 * coarse.std()


def test_released_network_beats_the_wiener_estimate(crystal):
    """At 1000 e/Å²; the aim is 3 dB."""
    coarse, noise = coarse_image(crystal, 0.2, 1000.0, "physical", np.random.default_rng(0))
    linear = prepare(coarse, 0.8, noise).image(np.zeros(crystal.shape))
    found = upscale(coarse, 0.8, noise_variance=noise)
    assert found.model.startswith("super_resolver@")
    assert psnr_db(found.image, crystal) > psnr_db(linear, crystal) + 3
