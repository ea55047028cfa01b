import numpy as np
import pytest
from ase.build import graphene, mx2

from atomvision_ml.images.columns import columns_of
from atomvision_ml.images.scenes import SceneLibrary, SceneParameters, at_dose, draw_scenes, recast
from atomvision_ml.images.stem import project_atoms, render_batch
from atomvision_ml.images.stem_set import StemSet


def structures():
    return [project_atoms(atoms) for atoms in (graphene(vacuum=5), mx2("MoS2", vacuum=5))]


def test_equal_seeds_give_equal_scenes():
    drawn = [draw_scenes(structures(), SceneParameters(size_px=48), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0].seen, drawn[1].seen)
    assert not np.array_equal(drawn[0].seen, drawn[2].seen)


def test_a_scene_is_the_render_of_its_projection_and_view():
    ranges = SceneParameters(size_px=48, recast_fraction=1.0, minimum_sigma_angstrom=0.3, clean_fraction=1.0)
    scenes = draw_scenes(structures(), ranges, np.random.default_rng(0))
    assert 0.3 <= scenes.sigma_angstrom <= 0.5
    again = render_batch(scenes.projections, scenes.views, sigma_angstrom=scenes.sigma_angstrom)
    assert np.array_equal(scenes.clean, again)
    assert np.allclose(scenes.seen, scenes.clean, rtol=1e-4)
    assert np.isnan(scenes.doses_e_per_a2).all()


def test_columns_lie_on_maxima():
    scenes = draw_scenes(
        structures(),
        SceneParameters(size_px=64, minimum_pixel_size_angstrom=0.1, maximum_pixel_size_angstrom=0.1),
        np.random.default_rng(0),
    )
    for number, image in enumerate(scenes.clean):
        columns = scenes.columns(number)
        inner = ((columns.positions_angstrom > 1) & (columns.positions_angstrom < 5.3)).all(axis=1)
        x, y = np.rint(columns.positions_angstrom[inner] / 0.1).astype(int).T
        for row, column in zip(y, x, strict=True):
            near = image[row - 3 : row + 4, column - 3 : column + 4]
            assert image[row, column] >= 0.97 * near.max()


def test_noise_has_the_dose_and_keeps_the_mean():
    ranges = SceneParameters(size_px=256, **at_dose(1000.0))
    scenes = draw_scenes(structures(), ranges, np.random.default_rng(0))
    for clean, seen, dose in zip(scenes.clean, scenes.seen, scenes.doses_e_per_a2, strict=True):
        assert dose == pytest.approx(1000)
        assert seen.mean() == pytest.approx(clean.mean(), rel=0.02)
        counts = clean * dose * 0.04 / clean.mean()
        assert np.var((seen - clean) * dose * 0.04 / clean.mean()) == pytest.approx(counts.mean(), rel=0.05)


def test_recast_keeps_the_kinds_apart_and_the_places_in_proportion():
    projection = structures()[1]
    random = np.random.default_rng(0)
    for _ in range(8):
        other = recast(projection, random)
        scale = other.periods_angstrom[0, 0] / projection.periods_angstrom[0, 0]
        assert 0.92 <= scale <= 1.1
        assert np.allclose(other.positions_angstrom, scale * projection.positions_angstrom)
        assert (other.weights > 0).all()
        assert len(columns_of(other).weights) == len(columns_of(projection).weights)


def test_the_library_draws_what_the_set_stores(small_set):
    rows = small_set.training_set("lattice").head(5).to_dicts()
    library = SceneLibrary(rows, small_set.open_blob)
    stored = StemSet.open(small_set.folder)
    for number, row in enumerate(rows):
        (image,) = render_batch([library.projection(number)], [library.view(number)])
        truth = stored.image(row["index"])
        assert np.abs(image - truth).max() <= 2e-5 * truth.max()
        assert library.projection(number) is library.projection(number)


def test_bad_ranges_and_no_structures_are_refused():
    with pytest.raises(ValueError, match="given as the least"):
        SceneParameters(minimum_e_per_a2=100, maximum_e_per_a2=10)
    with pytest.raises(ValueError, match="no structures"):
        draw_scenes([], SceneParameters(), np.random.default_rng(0))


def test_the_set_describes_its_cells(small_set):
    stored = StemSet.open(small_set.folder)
    table = small_set.images.sort("index")
    for index in (0, len(stored) - 1):
        columns = table["columns"].to_list()[index]
        found = stored.columns(index)
        assert np.allclose(found.positions_angstrom, [(c["x_angstrom"], c["y_angstrom"]) for c in columns])
        assert len(stored.numbers(index)) == len(stored.projection(index).weights)
