import numpy as np
import pytest
from scipy.spatial import cKDTree

import atomvision_ml as av
from atomvision_ml.images.detector import DetectorParameters, detect, poisson_counts
from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.models.atom_finder import AtomFinderParameters, complete_fit, find_atoms, region_statistics
from atomvision_ml.models.registry import create_model

PIXEL, SIZE = 0.15, 112
VIEW = View(PIXEL, SIZE, 20.0, (0.3, 0.1))


def sheet(weak=1.0, step=(0.0, 1.42)):
    """A honeycomb of graphene's size whose second atom has another intensity, perhaps at another place."""
    a = 2.46
    periods = np.array([[a, 0], [a / 2, a * np.sqrt(0.75)]]) * (1 if weak == 1 else 1.5)
    return Projection(np.array([[0.0, 0.0], step]), np.array([20.0, 20.0 * weak]), periods)


def positions(atoms):
    return np.array([(atom["x_angstrom"], atom["y_angstrom"]) for atom in atoms])


def finder(background_degree):
    return AtomFinderParameters(background_degree=background_degree)


def true_columns(projection, distance=1.0):
    from atomvision_ml.images.columns import columns_in_view, columns_of

    return columns_in_view(columns_of(projection, distance), projection.periods_angstrom, VIEW).positions_angstrom


def inner(places):
    return places[((places > 1) & (places < (SIZE - 1) * PIXEL - 1)).all(axis=1)]


def farthest(found, projection):
    """Largest distance of a true inner column from the nearest found one."""
    return cKDTree(positions(found)).query(inner(true_columns(projection)))[0].max()


def test_noiseless_columns_lie_where_they_are():
    image = render_batch([sheet()], [VIEW], precision="float64")[0]
    result = av.find_atoms(image, PIXEL)
    assert farthest(result.columns, sheet()) < 0.005
    assert len(inner(positions(result.columns))) == len(inner(true_columns(sheet())))
    without = find_atoms(image, PIXEL, AtomFinderParameters(is_fitted=False))
    assert without.fit is None
    assert farthest(without.columns, sheet()) > farthest(result.columns, sheet())


def test_counts_with_background_are_found_within_their_uncertainty():
    image = render_batch([sheet()], [VIEW], precision="float64")[0]
    parameters = DetectorParameters(mean_detected_e_per_a2=1000, background_fraction=0.1)
    result = find_atoms(detect(image, PIXEL, parameters, 3), PIXEL)
    true = inner(true_columns(sheet()))
    distance, index = cKDTree(positions(result.columns)).query(true)
    assert np.sqrt((distance**2).mean() / 2) < 0.03  # 2.0 pm without background
    assert result.fit.background.mean() * 10 == pytest.approx(1000 * PIXEL**2, rel=0.3)
    intensities = np.array([result.columns[number]["intensity"] for number in index])
    assert intensities.std() / intensities.mean() < 0.08


def test_a_lattice_of_weak_atoms_is_no_background():
    """Every 1.4 Å an atom of 2 % of the heavy ones' intensity, which lie 5.6 Å apart."""
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2) * 1.4
    weights = np.where(np.arange(16) == 0, 20.0, 0.4)
    dense = Projection(grid, weights, np.eye(2) * 5.6)
    image = render_batch([dense], [VIEW], precision="float64")[0]
    counts, true = poisson_counts(image, PIXEL, 1000, 2).astype(float), true_columns(dense)
    by_degree = {degree: complete_fit(counts, PIXEL, true, finder(degree)) for degree in (None, 0)}
    assert by_degree[None].background.mean() == 0
    found = {degree: cKDTree(fit.positions_angstrom).query(true)[0] for degree, fit in by_degree.items()}
    assert np.mean(found[None] < 0.3) > 0.8
    assert np.mean(found[0] < 0.3) < 0.2


def test_weak_neighbour_of_a_heavy_atom_is_seen():
    """6 % of the heavy one's intensity at 1.25 Å, where its own maximum is drowned."""
    pair = sheet(0.06, (0.0, 1.25))
    image = render_batch([pair], [VIEW], precision="float64")[0]
    assert farthest(find_atoms(poisson_counts(image, PIXEL, 3000, 1), PIXEL).columns, pair) < 0.35


def test_close_atoms_are_one_column_at_their_centre():
    pair = sheet(0.4, (0.0, 0.8))
    image = render_batch([pair], [VIEW], precision="float64")[0]
    result = find_atoms(image, PIXEL)
    assert farthest(result.columns, pair) < 0.02
    assert len(result.atoms) > 1.5 * len(result.columns)


def test_regions_say_what_the_image_shows():
    image = render_batch([sheet()], [VIEW], precision="float64")[0]
    result = find_atoms(image, PIXEL)
    rows = region_statistics(positions(result.columns), result.probability, image, PIXEL)
    assert len(rows) == len(result.columns)
    for atom, row in zip(result.columns, rows, strict=True):
        assert row["minimum"] <= row["mean"] <= row["maximum"]
        x, y = atom["x_angstrom"] / PIXEL, atom["y_angstrom"] / PIXEL
        if min(x, y) > 7 and max(x, y) < SIZE - 8:
            assert row["area_angstrom2"] == pytest.approx(np.pi / 4, rel=0.2)
            assert row["maximum"] == pytest.approx(image[round(y), round(x)], rel=0.05)
    lonely = region_statistics([[0.3, 0.3]], np.zeros((9, 9)), np.arange(81.0).reshape(9, 9), PIXEL)
    assert lonely == [{"maximum": 20.0, "minimum": 20.0, "mean": 20.0, "area_angstrom2": pytest.approx(PIXEL**2)}]


def test_nothing_is_found_in_nothing():
    assert find_atoms(np.full((40, 50), 2.0), PIXEL).columns == []
    with pytest.raises(ValueError, match="must be positive"):
        create_model("atom_finder")(np.ones((40, 40)), 0.0)
