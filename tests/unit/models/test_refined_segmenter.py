import numpy as np
import pytest

from atomvision_ml.images.columns import column_mask, columns_in_view, columns_of
from atomvision_ml.images.detector import DetectorParameters, detect
from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.models.refined_segmenter import RefinedSegmenterParameters, refine, segment_refined
from atomvision_ml.models.registry import create_model
from atomvision_ml.models.segmenter import segment

PIXEL, SIZE = 0.15, 112
VIEW = View(PIXEL, SIZE, 20.0, (0.3, 0.1))
SHEET = Projection(np.array([[0.0, 0.0], [0.0, 1.84]]), np.array([20.0, 8.0]), np.array([[3.19, 0], [1.595, 2.763]]))
TRUE = columns_in_view(columns_of(SHEET), SHEET.periods_angstrom, VIEW, 1.0).positions_angstrom


def sheet(dose=None, seed=5):
    clean = render_batch([SHEET], [VIEW], precision="float64")[0]
    return clean if dose is None else detect(clean, PIXEL, DetectorParameters(mean_detected_e_per_a2=dose), seed)


def iou(mask, border=0):
    truth = column_mask(TRUE, SIZE, PIXEL)
    given, true = (each[border : SIZE - border, border : SIZE - border] for each in (mask, truth))
    return np.count_nonzero(given & true) / np.count_nonzero(given | true)


def test_a_noiseless_mask_is_the_true_one():
    result = segment_refined(sheet(), PIXEL)
    assert iou(result.mask) > 0.99
    assert np.array_equal(result.mask, result.probability >= 0.5)


def test_with_noise_the_fit_places_the_edges_better_than_the_map():
    refined, plain = ([apply(sheet(1000, seed), PIXEL) for seed in range(3)] for apply in (segment_refined, segment))
    better, worse = (np.mean([iou(one.mask, 7) for one in results]) for results in (refined, plain))
    assert better > max(0.95, worse + 0.002)
    assert refined[0].model == f"refined_segmenter on {plain[0].model}"
    assert segment_refined(sheet(), PIXEL, RefinedSegmenterParameters(is_fitted=False)).model == plain[0].model


def test_fewer_electrons_make_wider_edges():
    unsure = [((p := segment_refined(sheet(dose), PIXEL).probability) * (1 - p)).sum() for dose in (3000, 300)]
    assert unsure[1] > 2 * unsure[0]


def test_a_probability_is_the_share_of_pixels_that_are_atom():
    start = TRUE[((TRUE > 0) & (TRUE < (SIZE - 1) * PIXEL)).all(axis=1)]
    alone = RefinedSegmenterParameters(has_repetition=False)  # else all columns of a kind err together, in four images
    maps = [refine(sheet(300, seed).astype(float), PIXEL, start, alone) for seed in range(4)]
    said = np.stack([one.probability[10:-10, 10:-10] for one in maps])
    truth = np.broadcast_to(column_mask(TRUE, SIZE, PIXEL)[10:-10, 10:-10], said.shape)
    for low, high in ((0.1, 0.4), (0.4, 0.6), (0.6, 0.9)):
        chosen = (said > low) & (said < high)
        assert truth[chosen].mean() == pytest.approx(said[chosen].mean(), abs=0.1)


def test_nothing_in_nothing_out():
    for image in (np.ones((40, 40)), np.zeros((40, 50))):
        result = segment_refined(image, PIXEL)
        assert not result.mask.any()
        assert result.atoms == []
        assert result.probability.shape == image.shape


def test_bad_images_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        segment_refined(np.full((40, 40), np.nan), PIXEL)


def test_registered_as_a_method_on_top_of_a_network():
    result = create_model("refined_segmenter", radius_angstrom=0.3)(sheet(), PIXEL)
    assert result.mask.sum() == pytest.approx(segment_refined(sheet(), PIXEL).mask.sum() * 0.36, rel=0.1)
