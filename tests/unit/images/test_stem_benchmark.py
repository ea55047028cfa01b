"""The benchmark's rows, and audits on real structures."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from atomvision_ml.images.audits import audit_stem_set
from atomvision_ml.images.benchmark import benchmark_rows, benchmark_slabs
from atomvision_ml.images.stem import StemParameters
from atomvision_ml.images.stem_set import write_stem_set
from atomvision_ml.settings import settings


def test_rows_name_structures_peer_and_ratio() -> None:
    pytest.importorskip("jarvis.analysis.stem.convolution_apprx", reason="the bench extra is absent")
    rows = list(benchmark_rows(None, n_structures=2, has_whole_set=False))
    assert [(row["benchmark"], row["structures"], row["pixel_size_angstrom"]) for row in rows] == [
        (benchmark, name, pixel)
        for name in ("2 random", "graphene", "MoS2")
        for pixel in (0.1, 0.2)
        for benchmark in ("stem_single", "stem_single_float64", "stem_batched", "stem_mixed_batch")
        if benchmark != "stem_mixed_batch" or name == "2 random"
    ]
    for row in rows:
        assert row["ratio"] > 1
        assert row["peer_ms"] > row["ours_ms"] > 0
    assert {row.get("aim") for row in rows if row["structures"] == "graphene"} == {None, 50.0}


@pytest.mark.slow
def test_the_whole_set_of_prototypes_is_written_and_its_memory_measured() -> None:
    pytest.importorskip("psutil")
    pytest.importorskip("jarvis.analysis.stem.convolution_apprx", reason="the bench extra is absent")
    last = list(benchmark_rows(None, n_structures=1))[-1]
    assert last["benchmark"] == "stem_whole_set"
    assert last["images"] >= 150
    assert 0.05 < last["peak_memory_gb"] < 2.0


@pytest.mark.real_data
def test_a_set_of_real_structures_passes_every_audit(tmp_path: Path) -> None:
    sources = settings().sources
    if sources is None:
        pytest.skip("ATOMVISION_SOURCES is not set")
    slabs = benchmark_slabs(sources).sample(120, seed=3)
    assert isinstance(slabs, pl.DataFrame)
    rows = write_stem_set(slabs, tmp_path / "stem", StemParameters(), source="jarvis_dft_2d")
    for result in audit_stem_set(tmp_path / "stem", rows, slabs):
        assert result.passed, result.line()
