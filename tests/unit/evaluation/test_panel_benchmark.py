import numpy as np
import pytest

from atomvision_ml.evaluation.panel_benchmark import intersection_over_union, panel_metric_rows
from atomvision_ml.evaluation.panel_composites import CompositeParameters, draw_composite, draw_micrograph
from atomvision_ml.literature.text_reading import open_text_reader


@pytest.mark.parametrize("seed", range(3))
def test_equal_seeds_draw_equal_figures_whose_panels_are_apart(seed: int) -> None:
    parameters = CompositeParameters(most_panels=3)
    figure, again = (draw_composite(np.random.default_rng(seed), parameters) for _ in range(2))
    assert (figure.image == again.image).all()
    assert figure.panels == again.panels
    height, width = figure.image.shape[:2]
    for number, panel in enumerate(figure.panels):
        left, top, right, bottom = panel.box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert all(intersection_over_union(panel.box, each.box) < 0.01 for each in figure.panels[:number])


def test_micrographs_have_bars_as_wanted() -> None:
    none, always = CompositeParameters(bar_share=0), CompositeParameters(bar_share=1)
    assert draw_micrograph(np.random.default_rng(0), none)[1] is None
    bars = [draw_micrograph(np.random.default_rng(seed), always)[1] for seed in range(5)]
    assert sum(bar is not None for bar in bars) >= 4


def test_intersection_over_union() -> None:
    assert intersection_over_union((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert intersection_over_union((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert intersection_over_union((0, 0, 10, 10), (20, 20, 30, 30)) == 0


def test_every_figure_stands_beside_baselines() -> None:
    rows = panel_metric_rows("demo", n_figures=2, n_micrographs=4)
    values = {(row["task"], row["role"], row["metric"]): row["value"] for row in rows}
    metrics = {(task, metric) for task, role, metric in values if role == "model"}
    assert {("panels", "box_iou_0.9"), ("scale_bars", "px_within_2_percent")} <= metrics
    assert (("scale_bars", "nm_within_2_percent") in metrics) == (open_text_reader() is not None)
    for task, metric in metrics:
        assert (task, "classical", metric) in values
        assert (task, "trivial", metric) in values
    assert values["panels", "model", "box_iou_0.9"] > values["panels", "classical", "box_iou_0.9"]
    assert values["scale_bars", "model", "px_within_2_percent"] > values["scale_bars", "trivial", "px_within_2_percent"]
