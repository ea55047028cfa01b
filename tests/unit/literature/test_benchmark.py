"""The measurements measure something."""

from atomvision_ml.literature.benchmark import PAGE_BYTES, benchmark_pages, literature_benchmark_rows, soup_captions
from atomvision_ml.literature.latexml import parse_figures


def test_pages_have_their_size_and_all_their_captions() -> None:
    for page in benchmark_pages(2):
        assert 0.9 * PAGE_BYTES < len(page.body) <= PAGE_BYTES
        assert 0 < len(parse_figures(page)) <= len(soup_captions(page))


def test_every_row_has_its_figures() -> None:
    rows = {row["benchmark"]: row for row in literature_benchmark_rows(n_pages=2, n_records=(500,))}
    assert set(rows) == {"captions_understood", "captions_from_nodes", "html_pages", "harvest"}
    assert rows["html_pages"]["ratio"] > 3
    assert rows["captions_understood"]["items_per_s"] > 100
    assert rows["harvest"]["peak_memory_gb"] < 1
