"""The STEM kernels against a direct sum, and the physics as properties."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene, mx2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from atomvision_ml.images.stem import (
    Projection,
    StemParameters,
    View,
    fourier_terms,
    images_of_atoms,
    project,
    project_atoms,
    render,
    render_batch,
    with_patches,
)

FEW = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
TOLERANCE = {"float64": 1e-6, "float32": 1e-5}


def direct(projection: Projection, view: View, sigma: float) -> np.ndarray:
    """Σ w G(r − r_j), each atom on its own, over translations that are chosen generously."""
    x = np.arange(view.size_px) * view.pixel_size_angstrom
    reach = 9 * sigma
    angle = np.deg2rad(view.rotation_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    periods = projection.periods_angstrom
    numbers = [0]
    if len(periods):
        height = np.linalg.svd(periods, compute_uv=False)[-1] * 0.5
        extent = 2**0.5 * view.field_angstrom + reach + np.abs(view.shift_angstrom).sum() + 60
        numbers = list(range(-int(extent / height) - 1, int(extent / height) + 2))
    grids = np.meshgrid(*[numbers] * len(periods)) if len(periods) else []
    cells = np.stack([g.ravel() for g in grids], 1) @ periods if len(periods) else np.zeros((1, 2))
    image = np.zeros((view.size_px, view.size_px))
    for position, weight in zip(projection.positions_angstrom, projection.weights, strict=True):
        xy = (cells + position) @ turn.T + view.shift_angstrom
        near = np.all((xy > -reach) & (xy < x[-1] + reach), axis=1)
        gx = np.exp(-((x[None] - xy[near, :1]) ** 2) / (2 * sigma**2))
        gy = np.exp(-((x[None] - xy[near, 1:]) ** 2) / (2 * sigma**2))
        image += weight / (2 * np.pi * sigma**2) * gy.T @ gx
    return image


@st.composite
def layers(draw: st.DrawFn, largest_area: float = 200.0) -> Projection:
    a = draw(st.floats(2.3, 7.0))
    gamma = np.deg2rad(draw(st.floats(60.0, 120.0)))
    b = draw(st.floats(a, max(a, min(3 * a, largest_area / (a * float(np.sin(gamma)))))))
    count = draw(st.integers(1, 8))
    fractional = draw(arrays(float, (count, 2), elements=st.floats(-1.5, 1.5)))
    numbers = draw(st.lists(st.integers(1, 92), min_size=count, max_size=count))
    cell = np.array([[a, 0.0], [b * np.cos(gamma), b * np.sin(gamma)]])
    return project(np.array(numbers), fractional @ cell, cell)


@st.composite
def views(draw: st.DrawFn, largest_field: float = 50.0) -> View:
    size = draw(st.integers(24, 160))
    pixel = draw(st.floats(0.05, largest_field / size))
    shift = draw(st.tuples(st.floats(-20, 20), st.floats(-20, 20)))
    return View(pixel, size, draw(st.floats(0, 360)), shift)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@FEW
@given(projection=layers(), view=views(), sigma=st.floats(0.3, 0.8))
def test_images_agree_with_the_direct_sum(precision: str, projection: Projection, view: View, sigma: float) -> None:
    expected = direct(projection, view, sigma)
    # A small field may lie between the atoms, where nothing is to be seen.
    scale = max(expected.max(), 1e-3 * projection.weights.min() / (2 * np.pi * sigma**2))
    image = render_batch([projection], [view], sigma_angstrom=sigma, precision=precision)[0]
    assert image.dtype == precision
    assert np.abs(image - expected).max() <= TOLERANCE[precision] * scale


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("size", [255, 256])
def test_the_largest_field_and_cell_agree_with_the_direct_sum(precision: str, size: int) -> None:
    random = np.random.default_rng(4)
    cell = np.array([[12.0, 0.0], [-3.0, 16.6]])
    projection = project(random.integers(1, 93, 40), random.uniform(0, 1, (40, 2)) @ cell, cell)
    view = View(50.0 / size, size, 211.0, (3.0, -40.0))
    expected = direct(projection, view, 0.5)
    image = render_batch([projection], [view], precision=precision)[0]
    assert np.abs(image - expected).max() <= TOLERANCE[precision] * expected.max()


@FEW
@given(projection=layers(60.0), view=views(20.0))
def test_fourier_and_atom_sums_are_one_function(projection: Projection, view: View) -> None:
    """A finite patch that covers the field is summed over atoms, the infinite layer over reflections."""
    reach = 5.0
    low, high = np.full(2, -reach), np.full(2, view.field_angstrom + reach)
    xy, index = images_of_atoms(
        view.place(projection.positions_angstrom), projection.periods_angstrom @ view.rotation.T, low, high
    )
    patch = Projection(xy, projection.weights[index], np.zeros((0, 2)))
    flat = View(view.pixel_size_angstrom, view.size_px)
    assert fourier_terms(projection, 0.5) is not None
    layer, cluster = render_batch([projection, patch], [view, flat], precision="float64")
    assert np.abs(layer - cluster).max() <= 1e-6 * cluster.max()


@FEW
@given(one=layers(60.0), view=views(20.0), factor=st.floats(0.1, 5.0), split=st.integers(0, 8))
def test_images_are_linear(one: Projection, view: View, factor: float, split: int) -> None:
    part = [slice(None, split), slice(split, None)]
    parts = [Projection(one.positions_angstrom[p], one.weights[p], one.periods_angstrom) for p in part]
    scaled = Projection(one.positions_angstrom, factor * one.weights, one.periods_angstrom)
    whole, first, second, times = render_batch([one, *parts, scaled], [view] * 4, precision="float64")
    assert np.allclose(first + second, whole, rtol=0, atol=1e-6 * whole.max())
    assert np.allclose(times, factor * whole, rtol=0, atol=1e-6 * times.max())


@FEW
@given(projection=layers(60.0), turn=st.floats(0, 360), rows=st.integers(0, 9), columns=st.integers(0, 9))
def test_a_shift_by_whole_pixels_shifts_the_array(projection: Projection, turn: float, rows: int, columns: int) -> None:
    size, px = 60, 0.2
    views_ = [View(px, size, turn), View(px, size, turn, (columns * px, rows * px))]
    still, moved = render_batch([projection] * 2, views_, precision="float64")
    assert np.allclose(moved[rows:, columns:], still[: size - rows, : size - columns], rtol=0, atol=1e-6 * still.max())


@FEW
@given(projection=layers(60.0), angle=st.floats(0, 360), shift=st.tuples(st.floats(-9, 9), st.floats(-9, 9)))
def test_a_quarter_turn_more_turns_the_array(projection: Projection, angle: float, shift: tuple[float, float]) -> None:
    """(x, y) → (−y, x) + (edge, 0) maps the pixel grid onto itself."""
    size, px = 50, 0.2
    edge = (size - 1) * px
    turned = View(px, size, angle + 90, (edge - shift[1], shift[0]))
    first, second = render_batch([projection] * 2, [View(px, size, angle, shift), turned], precision="float64")
    assert np.allclose(second, first.T[:, ::-1], rtol=0, atol=1e-6 * first.max())


@FEW
@given(projection=layers(60.0), angle=st.floats(0, 360))
def test_rotating_the_crystal_is_rotating_the_view(projection: Projection, angle: float) -> None:
    view = View(0.2, 50, angle, (1.0, 2.0))
    turned = Projection(
        projection.positions_angstrom @ view.rotation.T,
        projection.weights,
        projection.periods_angstrom @ view.rotation.T,
    )
    by_view, by_crystal = render_batch(
        [projection, turned], [view, View(0.2, 50, 0.0, (1.0, 2.0))], precision="float64"
    )
    assert np.allclose(by_view, by_crystal, rtol=0, atol=1e-6 * by_view.max())


@FEW
@given(projection=layers(60.0), sigma=st.floats(0.3, 0.8), h=st.integers(2, 4), k=st.integers(2, 4))
def test_intensity_over_one_cell_is_the_sum_of_the_weights(
    projection: Projection, sigma: float, h: int, k: int
) -> None:
    """A grid that divides the cell integrates a periodic band-limited function exactly; here it is a square cell."""
    edge = 6.0
    square = Projection(projection.positions_angstrom % edge, projection.weights, np.array([[edge, 0.0], [0.0, edge]]))
    size = 60
    image = render_batch(
        [square], [View(edge / size, size, 0.0, (h / 7, k / 7))], sigma_angstrom=sigma, precision="float64"
    )
    assert image.sum() * (edge / size) ** 2 == pytest.approx(square.weights.sum(), rel=1e-6)


@pytest.mark.parametrize(("sigma", "ratio"), [(0.15, 0.388), (0.3, None), (0.5, None), (0.7, None)])
def test_sulphur_over_molybdenum_at_column_centres_is_the_exact_sum(sigma: float, ratio: float | None) -> None:
    atoms = mx2("MoS2", a=3.18, thickness=3.19, vacuum=8)
    atoms.pbc = True
    projection = project_atoms(atoms)
    values = {}
    for number in (42, 16):
        x, y, _ = atoms.positions[atoms.numbers == number][0]
        view = View(0.1, 21, 0.0, (1.0 - x, 1.0 - y))
        image = render_batch([projection], [view], sigma_angstrom=sigma, precision="float64")[0]
        values[number] = image[10, 10]
        assert image[10, 10] == pytest.approx(direct(projection, view, sigma)[10, 10], rel=1e-6)
    if ratio is not None:
        assert values[16] / values[42] == pytest.approx(2 * 16**1.7 / 42**1.7, rel=1e-3)
        assert values[16] / values[42] == pytest.approx(ratio, abs=1e-3)


def test_coincident_atoms_add() -> None:
    one = Projection(np.array([[1.0, 2.0]]), np.array([16**1.7]), np.eye(2) * 4)
    two = Projection(np.array([[1.0, 2.0], [1.0, 2.0]]), np.array([16**1.7] * 2), np.eye(2) * 4)
    first, second = render_batch([one, two], [View(0.1, 64)] * 2, precision="float64")
    assert np.allclose(second, 2 * first, rtol=0, atol=1e-6 * second.max())


def test_three_atoms_lie_where_the_conventions_say() -> None:
    """Golden example: H at the origin, C along x, Si along y; rotation is counter-clockwise in (x, y), then a shift."""
    atoms = Atoms("HCSi", positions=[[0, 0, 0], [3, 0, 0], [0, 2, 5]])
    image = render(atoms, pixel_size_angstrom=0.5, size=11, sigma_angstrom=0.25)
    peak = 1 / (2 * np.pi * 0.25**2)
    assert image.shape == (11, 11)
    assert image[0, 0] == pytest.approx(peak * 1.0, rel=1e-6)
    assert image[0, 6] == pytest.approx(peak * 6**1.7, rel=1e-6)
    assert image[4, 0] == pytest.approx(peak * 14**1.7, rel=1e-6)
    # A quarter turn brings C from +x to +y and Si from +y to −x; the shift brings Si back to x = 1 Å.
    turned = render(
        atoms, pixel_size_angstrom=0.5, size=11, sigma_angstrom=0.25, rotation_deg=90, shift_angstrom=(3.0, 1.0)
    )
    assert turned[2, 6] == pytest.approx(peak * 1.0, rel=1e-6)
    assert turned[8, 6] == pytest.approx(peak * 6**1.7, rel=1e-6)
    assert turned[2, 2] == pytest.approx(peak * 14**1.7, rel=1e-6)


def test_atoms_outside_the_field_contribute() -> None:
    image = render(Atoms("Au", positions=[[-0.3, 1.0, 0]]), size=32)
    assert image[10, 0] == pytest.approx(79**1.7 / (2 * np.pi * 0.25) * np.exp(-(0.3**2) / 0.5), rel=1e-6)


def test_periodicity_follows_each_axis() -> None:
    atoms = Atoms("C", positions=[[1, 1, 1]], cell=[3, 3, 10])
    counts = {}
    for pbc in [(False, False), (True, False), (False, True), (True, True)]:
        atoms.pbc = (*pbc, False)
        counts[pbc] = round(render(atoms, pixel_size_angstrom=0.125, size=120).sum() * 0.125**2 / 6**1.7)
    assert counts == {(False, False): 1, (True, False): 5, (False, True): 5, (True, True): 25}


def test_a_supercell_with_a_vacancy_is_the_layer_less_one_patch() -> None:
    atoms = graphene(vacuum=5).repeat((4, 4, 1))
    atoms.pbc = (True, True, False)
    removed = atoms[5]
    layer = project_atoms(atoms)
    patched = with_patches(layer, removed.position[:2], [-(6**1.7)])
    del atoms[5]
    by_patch, by_ase = render_batch([patched, project_atoms(atoms)], [View(0.1, 128)] * 2, precision="float64")
    assert np.abs(by_patch - by_ase).max() <= 1e-6 * by_ase.max()
    assert not np.allclose(by_ase, render_batch([layer], [View(0.1, 128)], precision="float64")[0], atol=1.0)


def test_an_empty_and_a_constant_field_are_images() -> None:
    assert not render(Atoms(), size=16).any()
    assert not render(Atoms("C", positions=[[500, 500, 0]]), size=16).any()
    assert not render(Atoms(cell=[3, 3, 9], pbc=True), size=16).any()
    blurred = render(graphene(vacuum=5), size=16, sigma_angstrom=5.0)
    assert np.ptp(blurred) < 1e-6 * blurred.max()
    assert render_batch([], []).shape == (0, 0, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pixel_size_angstrom": 0.0}, "pixel_size_angstrom must be positive"),
        ({"pixel_size_angstrom": float("nan")}, "pixel_size_angstrom must be positive"),
        ({"sigma_angstrom": -1.0}, "sigma_angstrom must be positive"),
        ({"size": 0}, "size must be at least 1"),
        ({"rotation_deg": float("inf")}, "must be finite"),
    ],
)
def test_parameters_out_of_range_are_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        render(graphene(vacuum=5), **options)


def test_a_layer_that_stands_upright_is_refused_with_a_way_out() -> None:
    atoms = Atoms("C", positions=[[0, 0, 0]], cell=[[0, 0, 3], [0, 3, 0], [9, 0, 0]], pbc=True)
    with pytest.raises(ValueError, match=r"span no area .* turn the structure"):
        render(atoms)


def test_a_dose_gives_counts_that_average_to_it() -> None:
    atoms = graphene(vacuum=5)
    counts = render(atoms, mean_detected_e_per_a2=500, seed=3)
    assert counts.dtype == np.float32
    assert np.array_equal(counts, np.rint(counts))
    assert counts.mean() == pytest.approx(500 * 0.01, rel=0.01)
    assert np.array_equal(counts, render(atoms, mean_detected_e_per_a2=500, seed=3))
    assert not np.array_equal(counts, render(atoms, mean_detected_e_per_a2=500, seed=4))


@FEW
@given(longer=st.floats(2.0, 60.0))
def test_the_pixel_gives_field_and_periods_where_its_limits_allow(longer: float) -> None:
    parameters = StemParameters()
    pixel = parameters.pixel_size_angstrom(longer)
    field = pixel * parameters.size_px
    assert 0.1 <= pixel <= 0.25
    assert field >= 25.0
    if pixel < 0.25:
        assert field >= 6 * longer - 1e-6
        assert pixel == 0.1 or (pixel - 0.025) * parameters.size_px < max(25.0, 6 * longer)
