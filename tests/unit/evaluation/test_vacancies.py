import numpy as np
import pytest

from atomvision_ml.evaluation.localisation import known_sheets
from atomvision_ml.evaluation.vacancies import (
    COUNTERS,
    VacancyParameters,
    brightness_of_sites,
    columns_short,
    damaged_sheet,
    errors_of_count,
    vacancy_metric_rows,
)
from atomvision_ml.images.stem import Projection, View, render_batch
from atomvision_ml.models.vacancy_counter import count_vacancies
from atomvision_ml.schemas.tables import table


@pytest.mark.parametrize(("name", "dose"), [("graphene", 300.0), ("graphene", 100.0), ("MoS2", 300.0)])
def test_number_of_missing_atoms_is_exact(name, dose):
    assert list(errors_of_count(name, dose, 2, VacancyParameters(size_px=112, maximum_missing=8))) == [0, 0]


def test_each_missing_atom_is_where_it_was_taken_out():
    crystal = known_sheets()["MoS2"]
    still = VacancyParameters(maximum_drift_angstrom=0.0, maximum_line_jitter_angstrom=0.0)
    sheet = damaged_sheet(crystal, 1000.0, np.random.default_rng(5), still)
    count = count_vacancies(sheet.image, still.pixel_size_angstrom, crystal)
    holes = np.repeat(count.positions_angstrom, count.n_missing, axis=0)
    assert len(holes) == sheet.n_missing > 3
    away = np.hypot(*(holes[:, None] - sheet.missing_angstrom[None]).transpose(2, 0, 1))
    assert away.min(axis=1).max() < 0.15
    assert away.min(axis=0).max() < 0.15


def test_perfect_sheet_lacks_nothing():
    crystal = known_sheets()["graphene"]
    image = render_batch([crystal], [View(0.15, 140, 33.0, (0.4, 0.2))])[0]
    count = count_vacancies(image, 0.15, crystal)
    assert count.total == 0
    assert count.shares == pytest.approx(np.ones(len(count.shares)), abs=0.02)


def test_damage_depends_on_its_generator_alone():
    crystal = known_sheets()["graphene"]
    first, second = (damaged_sheet(crystal, 100.0, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert 1 <= first.n_missing <= 20


def test_other_crystal_is_refused():
    image = render_batch([known_sheets()["MoS2"]], [View(0.15, 140)])[0]
    square = Projection(np.zeros((1, 2)), np.ones(1), 2.5 * np.eye(2))
    with pytest.raises(ValueError, match="not that of the crystal"):
        count_vacancies(image, 0.15, square)


def test_simple_counts_know_nothing_missing_from_a_clear_sheet():
    crystal, chosen = known_sheets()["graphene"], VacancyParameters(size_px=140)
    image = render_batch([crystal], [View(0.15, 140, 33.0, (0.4, 0.2))])[0]
    assert brightness_of_sites(image, crystal, chosen) == 0
    assert abs(columns_short(image, crystal, chosen)) <= 3, "a border of one Ångström holds no whole number of columns"


def test_every_way_to_count_is_a_row_of_every_case():
    rows = vacancy_metric_rows("demo", VacancyParameters(size_px=112, maximum_missing=4))
    assert table("evaluation/metrics").from_rows(rows).num_rows == 4 * len(COUNTERS)
    assert {row["slice"] for row in rows} >= {"vacancies_graphene|100", "vacancies_MoS2|300"}
    by_name = {row["model"]: row["value"] for row in rows if row["slice"] == "vacancies_graphene|300"}
    assert by_name["vacancy_counter"] == 1.0
    assert {row["role"] for row in rows} == {"classical", "trivial"}
