import polars as pl
import pytest

from atomvision_ml.evaluation.lattice_comparison import as_markdown, comparison

N = 60
HOLDOUT = pl.DataFrame(
    {
        "item_id": [f"i{n}" for n in range(N)],
        "split_group": [f"g{n // 2}" for n in range(N)],
        "mean_detected_e_per_a2": [None if n % 2 else 100.0 for n in range(N)],
        "is_ambiguous": [n < 10 for n in range(N)],
        "superlattice_contrast": [0.01 if n % 3 == 0 else None for n in range(N)],
        "next_class_strain_percent": [1.0 if n % 4 == 0 else 9.0 for n in range(N)],
        "periods_in_view": [8.0] * N,
    }
)


def answers(name, is_correct, seeds=1):
    frames = [
        pl.DataFrame(
            {"item_id": HOLDOUT["item_id"], "model_id": f"{name}@{seed}", "role": "model", "is_correct": right}
        )
        for seed, right in enumerate([is_correct, [False] * N][:seeds])
    ]
    return pl.concat(frames)


def test_differences_are_paired_and_judged_by_their_interval():
    finder = [n % 3 != 0 for n in range(N)]
    rows = comparison(
        {
            "lattice_finder": answers("lattice_finder", finder),
            "better": answers("better", [True] * N, seeds=2),
            "same": answers("same", finder),
            "worse": answers("worse", [False] * N),
        },
        HOLDOUT,
    )
    found = {(row["model"], row["slice"], row["dose"]): row for row in rows}
    assert found["better", "all", "every"]["verdict"] == "above"
    assert found["better", "all", "every"]["difference"] == pytest.approx(1 / 3)
    assert found["same", "all", "every"]["verdict"] == "level"
    assert found["worse", "unambiguous", "100"]["verdict"] == "below"
    assert found["better", "pseudo-centred", "clean"]["reference"] == 0
    assert found["better", "all", "clean"]["n"] == N // 2
    assert ("better", "few periods", "every") not in found
    assert len(as_markdown(rows).splitlines()) == len(rows) + 2


def test_the_reference_is_needed():
    with pytest.raises(ValueError, match="lattice_finder"):
        comparison({"same": answers("same", [True] * N)}, HOLDOUT)
