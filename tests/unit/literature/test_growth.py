"""Papers that come, change and go from harvest to harvest end in the tables of one harvest of all."""

from datetime import date
from pathlib import Path

import polars as pl

from atomvision_ml.literature.double.corpus_reader import read_corpus
from atomvision_ml.literature.double.server import serve
from atomvision_ml.literature.harvest import HarvestParameters, harvest
from atomvision_ml.literature.papers import update_papers
from atomvision_ml.literature.transport import Transport, TransportParameters
from atomvision_ml.storage.lake import Lake

DAYS = [date(2008, 5, 20), date(2015, 7, 1), date(2018, 3, 20), date(2018, 5, 1), date(2021, 5, 1), date(2024, 12, 1)]


def harvested(url: str, lake: Lake, folder: Path, watermark: date | None) -> tuple[date, list[str]]:
    """Watermark and changed months of one harvest."""
    parameters = HarvestParameters(base_url=url, watermark=watermark)
    patience = TransportParameters(contact="curator@example.org", interval_s=0)
    with Transport(patience, folder / "limit", "0.1") as transport:
        found = harvest(transport, parameters, folder / f"pages-{watermark}")
    return found.watermark, update_papers(lake, found.records(), folder / f"months-{watermark}")


def papers(lake: Lake) -> pl.DataFrame:
    return lake.scan("literature/papers").collect().sort("arxiv_id")


def test_a_corpus_that_grows_ends_in_the_same_papers(tmp_path: Path) -> None:
    corpus = read_corpus()
    grown, whole = Lake(tmp_path / "grown"), Lake(tmp_path / "whole")
    watermark, months, seen = None, [], []
    with serve(corpus) as double:
        for day in DAYS:
            double.corpus = corpus.until(day)
            watermark, months = harvested(double.oai_url, grown, tmp_path / "g", watermark)
            seen.append((papers(grown).height, papers(grown)["is_withdrawn"].sum(), months))
        again = harvested(double.oai_url, grown, tmp_path / "again", watermark)
        harvested(double.oai_url, whole, tmp_path / "w", None)
    assert papers(grown).equals(papers(whole))
    assert again == (watermark, [])
    heights, withdrawn, touched = zip(*seen, strict=True)
    assert list(heights) == sorted(set(heights))
    assert list(withdrawn) == sorted(withdrawn)
    assert withdrawn[-1] == 3
    assert touched[3] == ["2018-03"]
