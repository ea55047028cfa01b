import numpy as np
import pytest

from atomvision_ml.evaluation.mask_bounds import ideal_ious, position_scatter
from atomvision_ml.images.columns import column_mask, columns_in_view, columns_of
from atomvision_ml.images.stem import Projection, View, render_batch

PIXEL = 0.15


@pytest.fixture(scope="module")
def graphene():
    a = 2.46
    periods = np.array([[a, 0], [a / 2, a * np.sqrt(0.75)]])
    sheet = Projection(np.array([[0, 0], [a / 2, a / np.sqrt(12)]]), np.full(2, 6**1.7), periods)
    view = View(PIXEL, 80, 20.0, (0.3, 0.1))
    image = render_batch([sheet], [view], precision="float64")[0]
    scatter = position_scatter(image, sheet, view, 16, seed=0)
    columns = columns_in_view(columns_of(sheet), periods, view, 0.5).positions_angstrom
    return column_mask(columns, view.size_px, PIXEL), scatter


def test_errors_have_the_joint_bound_as_covariance(graphene):
    _, scatter = graphene
    middle = np.all(np.abs(scatter.positions_angstrom - 6) < 3, axis=1)
    assert scatter.position_deviations_angstrom[middle] / np.sqrt(1000) == pytest.approx(0.020, rel=0.02)
    assert scatter.errors_angstrom[:, middle].std() / np.sqrt(1000) == pytest.approx(0.020, rel=0.1)


def test_without_noise_the_mask_is_the_true_one_and_more_electrons_bring_it_nearer(graphene):
    assert (ideal_ious(*graphene, PIXEL, np.inf) == 1).all()
    few, some, many = (ideal_ious(*graphene, PIXEL, dose) for dose in (1e2, 1e3, 1e4))
    assert (few < some).all()
    assert (some < many).all()


def test_columns_that_do_not_stand_out_are_not_drawn(graphene):
    _, scatter = graphene
    middle = np.sort(scatter.intensity_deviations)[len(scatter.intensity_deviations) // 4] / np.sqrt(300)
    told, half, none = (
        ideal_ious(*graphene, PIXEL, 300.0, least_significance=least).mean() for least in (0, 1 / middle, 100)
    )
    assert told > half > none == 0
