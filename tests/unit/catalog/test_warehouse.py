"""The DuckDB file, the sealed snapshot and the views over views."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atomvision_ml.catalog.views import VIEWS
from atomvision_ml.catalog.warehouse import (
    QueryRefusedError,
    WarehouseMissingError,
    ask,
    build_warehouse,
    open_warehouse,
    snapshot,
    table_rows,
    warehouse_path,
)
from atomvision_ml.schemas.tables import TABLES, table
from atomvision_ml.storage.lake import Lake, Version

FIRST = Version(code_version="1")
STEM_ROW = {
    "source": "c2db",
    "blob": "b",
    "index": 0,
    "size_px": 256,
    "pixel_size_angstrom": 0.1,
    "field_angstrom": 25.6,
    "sigma_angstrom": 0.5,
    "z_exponent": 1.7,
    "rotation_deg": 0.0,
    "shift_x_angstrom": 0.0,
    "shift_y_angstrom": 0.0,
    "lattice_vectors_angstrom": [2.0, 0.0, 0.0, 2.0],
    "periods_in_view": 12.8,
    "bravais_lattice": "square",
    "is_ambiguous": False,
    "mean_intensity": 1.0,
    "n_atoms_in_view": 2,
    "n_columns_in_view": 1,
    "mask_fraction": 0.1,
    "atoms": [
        {"x_angstrom": 1.0, "y_angstrom": 2.0, "atomic_number": 16},
        {"x_angstrom": 1.0, "y_angstrom": 2.0, "atomic_number": 42},
    ],
    "columns": [{"x_angstrom": 1.0, "y_angstrom": 2.0, "n_atoms": 2, "relative_intensity": 1.0}],
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "root")


def publish_metrics(lake: Lake, *rows: tuple[str, str, str, str, float], seed: int = 0) -> None:
    """Rows of (model, role, slice, metric, value) for the task `lattice` at the demo size."""
    fixed = {"task": "lattice", "size": "demo", "n_items": 10}
    lake.publish(
        "evaluation/metrics",
        table("evaluation/metrics").from_rows(
            [
                {
                    **fixed,
                    "model": model,
                    "model_id": model,
                    "role": role,
                    "seed": seed + number,
                    "slice": where,
                    "metric": metric,
                    "value": value,
                    "low": value - 0.1,
                    "high": value + 0.1,
                }
                for number, (model, role, where, metric, value) in enumerate(rows)
            ]
        ),
        version=FIRST,
    )


def publish_stem(lake: Lake, *images: str, source: str = "c2db") -> None:
    rows = [{**STEM_ROW, "image_id": image, "slab_id": f"slab of {image}", "source": source} for image in images]
    folder = lake.scratch("zarr")
    (folder / "zarr.json").write_text("{}")
    sha = lake.put_blob(folder)
    rows = [{**row, "blob": sha} for row in rows]
    lake.publish("images/stem", table("images/stem").from_rows(rows), version=FIRST, partition=source)


def leaderboard(lake: Lake) -> dict[tuple[str, str, str], dict[str, Any]]:
    with ask(lake, "SELECT * FROM evaluation.leaderboard") as result:
        rows = result.read_all().to_pylist()
    return {(row["model"], row["slice"], row["metric"]): row for row in rows}


def test_every_table_and_view_is_there_typed_and_commented_with_nothing_published(lake: Lake) -> None:
    rows = build_warehouse(lake)
    assert table("catalog/warehouse").from_rows(rows).num_rows == len(TABLES) + len(VIEWS)
    assert {row["view"] for row in rows if row["is_materialised"]} == {"catalog.warehouse"}
    with open_warehouse(lake) as connection, snapshot(lake) as sealed:
        for row in rows:
            assert connection.execute(f"SELECT * FROM {row['view']}").fetchall() == []
        columns = """
            SELECT schema_name, table_name, column_name, data_type, comment FROM duckdb_columns()
            WHERE NOT internal AND schema_name <> 'main' ORDER BY ALL"""
        in_file = connection.execute(columns).fetchall()
        views = "SELECT schema_name || '.' || view_name, comment FROM duckdb_views() WHERE NOT internal"
        comments = dict(connection.execute(views).fetchall())
        assert in_file == sealed.execute(columns).fetchall()
    assert comments == {row["view"]: row["description"] for row in rows}
    described = {(schema, view, column): (kind, comment) for schema, view, column, kind, comment in in_file}
    assert described["images", "stem", "pixel_size_angstrom"] == ("DOUBLE", "Edge of a pixel. [Å]")
    assert described["images", "stem", "index"][0] == "INTEGER"
    assert described["structures", "slabs", "positions_angstrom"][0] == "DOUBLE[]"
    assert described["images", "stem_atoms", "atomic_number"][0] == "SMALLINT"
    assert all(comment for _, comment in described.values())


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_views_over_views_have_the_columns_that_they_describe(lake: Lake, view) -> None:
    with snapshot(lake) as connection:
        found = connection.execute(f"DESCRIBE {view.name}").fetchall()
        promised = pa.schema([(column.name, column.type) for column in view.columns])
        assert [name for name, *_ in found] == promised.names
        types = duckdb.from_arrow(promised.empty_table()).types
        assert [kind for _, kind, *_ in found] == [str(kind) for kind in types]


def test_missing_warehouse_names_the_command(lake: Lake) -> None:
    with pytest.raises(WarehouseMissingError, match="atomvision tables --build"):
        open_warehouse(lake)


def test_an_open_reader_sees_new_heads_and_new_partitions(lake: Lake) -> None:
    publish_stem(lake, "a#0")
    build_warehouse(lake)
    with open_warehouse(lake) as connection:
        count = "SELECT count(*), min(source), max(source) FROM images.stem"
        assert connection.execute(count).fetchone() == (1, "c2db", "c2db")
        publish_stem(lake, "a#0", "b#0")
        publish_stem(lake, "p#0", source="prototypes")
        assert connection.execute(count).fetchone() == (3, "c2db", "prototypes")


def test_old_reader_keeps_working_and_new_reader_sees_new_after_the_swap(lake: Lake) -> None:
    build_warehouse(lake)
    inode = warehouse_path(lake).stat().st_ino
    with open_warehouse(lake) as old:
        publish_metrics(lake, ("a", "model", "all", "iou", 0.5))
        build_warehouse(lake)
        assert warehouse_path(lake).stat().st_ino != inode
        assert old.execute("SELECT count(*) FROM evaluation.metrics").fetchone() == (0,)
        with open_warehouse(lake) as new:
            assert new.execute("SELECT count(*) FROM evaluation.metrics").fetchone() == (1,)
    assert list(lake.scratch("warehouse").iterdir()) == []


def test_opening_mends_a_file_that_is_out_of_date(lake: Lake, tmp_path: Path) -> None:
    build_warehouse(lake)
    publish_metrics(lake, ("a", "model", "all", "iou", 0.5))
    with open_warehouse(lake) as connection:
        assert connection.execute("SELECT count(*) FROM evaluation.metrics").fetchone() == (1,)
    inode = warehouse_path(lake).stat().st_ino
    open_warehouse(lake).close()
    assert warehouse_path(lake).stat().st_ino == inode
    Path(lake.root).rename(tmp_path / "moved")
    with open_warehouse(Lake(tmp_path / "moved")) as connection:
        assert connection.execute("SELECT count(*) FROM evaluation.metrics").fetchone() == (1,)


def test_the_file_works_from_anywhere_with_odd_characters_in_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path / "it's [a] *root")
    publish_metrics(lake, ("a", "model", "all", "iou", 0.5))
    publish_stem(lake, "a#0")
    build_warehouse(lake)
    monkeypatch.chdir("/")
    with duckdb.connect(str(warehouse_path(lake)), read_only=True) as plain_client:
        assert plain_client.execute("SELECT count(*) FROM evaluation.metrics").fetchone() == (1,)
        assert plain_client.execute("SELECT count(*) FROM images.stem").fetchone() == (1,)


def test_the_reader_cannot_write_the_file(lake: Lake) -> None:
    build_warehouse(lake)
    with open_warehouse(lake) as connection, pytest.raises(duckdb.Error, match="read-only"):
        connection.execute("CREATE TABLE main.x (i INT)")


def test_heads_of_an_older_dictionary_stay_readable(lake: Lake) -> None:
    """A column that the head lacks is null; one that the dictionary lost is not shown."""
    publish_stem(lake, "a#0")
    publish_stem(lake, "p#0", source="prototypes")
    head = lake.heads("images/stem", "c2db")[0]
    rows = pq.read_table(head, partitioning=None)
    older = rows.drop_columns(["mean_intensity"]).append_column("retired", [[1]])
    pq.write_table(lake.facts("images/stem", "c2db").stamp(older), head)
    query = "SELECT * FROM images.stem ORDER BY source"
    build_warehouse(lake)
    with open_warehouse(lake) as connection, ask(lake, query) as result:
        in_file = connection.sql(query).to_arrow_table().to_pylist()
        sealed = result.read_all().to_pylist()
    assert in_file == sealed
    assert [row["mean_intensity"] for row in sealed] == [None, 1.0]
    assert list(sealed[0]) == [column.name for column in table("images/stem").columns]
    pq.write_table(lake.facts("images/stem", "c2db").stamp(older), lake.heads("images/stem", "prototypes")[0])
    with open_warehouse(lake) as connection:
        assert connection.sql("SELECT mean_intensity FROM images.stem").fetchall() == [(None,), (None,)]


def test_atoms_and_columns_are_unnested(lake: Lake) -> None:
    publish_stem(lake, "a#0", "b#0")
    with ask(lake, "SELECT * FROM images.stem_atoms WHERE image_id = 'a#0' ORDER BY atomic_number") as result:
        assert result.read_all().to_pylist() == [
            {"image_id": "a#0", "slab_id": "slab of a#0", "x_angstrom": 1.0, "y_angstrom": 2.0, "atomic_number": number}
            for number in (16, 42)
        ]
    with ask(lake, "SELECT count(*) AS n, sum(n_atoms) AS atoms FROM images.stem_columns") as result:
        assert result.read_all().to_pylist() == [{"n": 2, "atoms": 4}]


def test_leaderboard_takes_the_best_baseline_in_the_right_direction(lake: Lake) -> None:
    publish_metrics(
        lake,
        ("unet", "model", "all|clean", "iou", 0.9),
        ("otsu", "classical", "all|clean", "iou", 0.7),
        ("background", "trivial", "all|clean", "iou", 0.1),
        ("unet", "model", "all|clean", "calibration_error", 0.02),
        ("otsu", "classical", "all|clean", "calibration_error", 0.3),
        ("background", "trivial", "all|clean", "calibration_error", 0.2),
        ("unet", "model", "all|100", "iou", 0.8),
    )
    board = leaderboard(lake)
    assert board["unet", "all|clean", "iou"]["baseline"] == 0.7
    assert board["unet", "all|clean", "calibration_error"]["baseline"] == 0.2
    assert board["otsu", "all|clean", "iou"]["baseline"] == 0.1
    assert ("background", "all|clean", "iou") not in board
    assert ("unet", "all|100", "iou") not in board
    assert all(row["baseline"] is not None for row in board.values())
    assert (board["unet", "all|clean", "iou"]["low"], board["unet", "all|clean", "iou"]["high"]) == (0.8, 1.0)


@pytest.mark.parametrize(
    ("metric", "best"),
    [
        ("ece", 0.1),
        ("lost_columns_percent", 0.1),
        ("localisation_rmse_angstrom", 0.1),
        ("vector_error_median_angstrom", 0.1),
        ("recall_rectangular", 0.9),
        ("confusion_square_as_oblique", 0.1),
        ("precedence", 0.9),
        ("detection_f1", 0.9),
    ],
)
def test_direction_follows_the_words_of_the_name(lake: Lake, metric: str, best: float) -> None:
    publish_metrics(
        lake,
        ("m", "model", "all", metric, 0.5),
        ("a", "classical", "all", metric, 0.1),
        ("b", "trivial", "all", metric, 0.9),
    )
    assert leaderboard(lake)["m", "all", metric]["baseline"] == best


def test_leaderboard_averages_seeds_and_quotes_the_paper(lake: Lake) -> None:
    publish_metrics(
        lake,
        ("densenet", "model", "all|clean", "accuracy", 0.8),
        ("densenet", "model", "all|clean", "accuracy", 0.9),
        ("majority", "trivial", "all|clean", "accuracy", 0.4),
        ("densenet", "model", "all|1000", "accuracy", 0.7),
        ("majority", "trivial", "all|1000", "accuracy", 0.4),
        ("lattice_graph", "model", "all|clean", "accuracy", 0.9),
        ("lattice_graph", "model", "all|clean", "macro_f1", 0.9),
        ("majority", "trivial", "all|clean", "macro_f1", 0.1),
    )
    board = leaderboard(lake)
    assert board["densenet", "all|clean", "accuracy"]["value"] == pytest.approx(0.85)
    assert board["densenet", "all|clean", "accuracy"]["published"] == 0.83
    assert board["densenet", "all|1000", "accuracy"]["published"] is None
    assert board["lattice_graph", "all|clean", "accuracy"]["published"] == 0.78
    assert board["lattice_graph", "all|clean", "macro_f1"]["published"] is None


def test_confusion_matrices_have_their_diagonal(lake: Lake) -> None:
    publish_metrics(
        lake,
        ("finder", "model", "all|clean", "recall_square", 0.8),
        ("finder", "model", "all|clean", "confusion_square_as_oblique", 0.1),
        ("finder", "model", "all|clean", "confusion_square_as_none", 0.1),
        ("finder", "model", "all|clean", "accuracy", 0.8),
    )
    with ask(lake, 'SELECT "true", "found", share FROM evaluation.confusion') as result:
        cells = {(row["true"], row["found"]): row["share"] for row in result.read_all().to_pylist()}
    assert cells == {("square", "square"): 0.8, ("square", "oblique"): 0.1, ("square", "none"): 0.1}


def test_counts_by_source_class_and_overlap(lake: Lake) -> None:
    base = {"source": "c2db", "status": "accepted", "bravais_lattice": "square", "is_ambiguous": False}
    slabs = [
        {**base, "slab_id": "c2db:1", "bravais_lattice_published": "square"},
        {**base, "slab_id": "c2db:2", "bravais_lattice_published": "rectangular", "is_ambiguous": True},
        {"source": "c2db", "slab_id": "c2db:3", "status": "rejected", "reason": "no vacuum"},
    ]
    lake.publish("structures/slabs", table("structures/slabs").from_rows(slabs), version=FIRST, partition="c2db")
    with ask(lake, "SELECT * FROM structures.source_summary") as result:
        (summary,) = result.read_all().to_pylist()
    assert (summary["n_records"], summary["n_accepted"], summary["n_rejected"]) == (3, 2, 1)
    assert summary["rejected_percent"] == pytest.approx(100 / 3)
    assert summary["most_frequent_reason"] == "no vacuum"
    changed = (
        "SELECT sum(n_slabs) AS n FROM structures.lattice_counts WHERE bravais_lattice <> bravais_lattice_published"
    )
    with ask(lake, changed) as result:
        assert result.read_all().to_pylist() == [{"n": 1}]


REFUSED = [
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM '{root}/published/evaluation/metrics/data.parquet'",
    "SELECT * FROM read_parquet('{root}/published/evaluation/metrics/data.parquet')",
    "SELECT * FROM glob('/*')",
    "WITH q AS (COPY (SELECT 1) TO '{root}/published/evil.parquet') SELECT * FROM q",
    "SELECT * FROM read_csv('http://127.0.0.1:1/x.csv')",
]
NOT_READING = [
    "COPY (SELECT 1) TO '{root}/evil.csv'",
    "COPY evaluation.metrics TO '{root}/published/evaluation/metrics/data.parquet'",
    "ATTACH '{root}/evil.duckdb' AS evil",
    "EXPORT DATABASE '{root}/evil'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "RESET enable_external_access",
    "PRAGMA profiling_output = '{root}/evil'",
    "INSERT INTO evaluation.metrics VALUES (1)",
]
WITHOUT_EFFECT = ["CREATE TABLE x (i INT)", "DROP VIEW evaluation.metrics", "USE memory", "BEGIN"]
"""Refused for clarity only: in a snapshot they would do nothing to the data."""


@pytest.mark.parametrize("query", REFUSED)
def test_a_snapshot_has_no_files(lake: Lake, query: str) -> None:
    publish_metrics(lake, ("a", "model", "all", "iou", 0.5))
    before = sorted(lake.local.rglob("*"))
    with pytest.raises(duckdb.Error), ask(lake, query.format(root=lake.root)) as result:
        result.read_all()
    assert sorted(lake.local.rglob("*")) == before


@pytest.mark.parametrize("query", [*NOT_READING, *WITHOUT_EFFECT, "SELECT 1; SELECT 2", "", "-- nothing"])
def test_only_one_reading_statement_is_taken(lake: Lake, query: str) -> None:
    with pytest.raises(QueryRefusedError), ask(lake, query.format(root=lake.root)):
        pass


def test_duckdb_itself_refuses_even_without_our_look_at_the_statement(lake: Lake) -> None:
    publish_metrics(lake, ("a", "model", "all", "iou", 0.5))
    facts = lake.facts("evaluation/metrics")
    with snapshot(lake) as connection:
        for query in [*REFUSED, *NOT_READING]:
            with pytest.raises(duckdb.Error):
                connection.execute(query.format(root=lake.root))
    assert lake.verify("evaluation/metrics") == facts
    assert not list(lake.local.rglob("evil*"))


@pytest.mark.parametrize(
    "query",
    ["FROM evaluation.metrics", "DESCRIBE evaluation.metrics", "SHOW ALL TABLES", "EXPLAIN SELECT 1", "VALUES (1)",
     "SUMMARIZE evaluation.metrics", "PIVOT evaluation.metrics ON metric USING avg(value) GROUP BY model"],
)  # fmt: skip
def test_all_forms_of_reading_are_taken(lake: Lake, query: str) -> None:
    publish_metrics(lake, ("a", "model", "all", "iou", 0.5))
    with ask(lake, query) as result:
        assert result.read_all().num_rows >= 1


def test_variables_of_the_program_are_no_tables(lake: Lake) -> None:
    secret = table("catalog/warehouse").empty()
    assert secret is not None
    with pytest.raises(duckdb.Error, match="secret"), ask(lake, "SELECT * FROM secret") as result:
        result.read_all()


def test_table_rows_count_what_is_there(lake: Lake) -> None:
    publish_stem(lake, "a#0", "b#0")
    rows = {row["view"]: row for row in table_rows(lake)}
    assert len(rows) == len(TABLES) + len(VIEWS)
    assert (rows["images.stem"]["n_rows"], rows["images.stem"]["is_materialised"]) == (2, True)
    assert (rows["images.stem_atoms"]["n_rows"], rows["images.stem_atoms"]["is_materialised"]) == (4, True)
    assert (rows["structures.slabs"]["n_rows"], rows["structures.slabs"]["is_materialised"]) == (0, False)


def test_papers_of_simulated_materials(lake: Lake, literature_tables: dict[str, Any]) -> None:
    for key, rows in literature_tables.items():
        lake.publish(key, table(key).conform(rows.to_arrow()), version=FIRST, partition="2020-05")
    folder = lake.scratch("test") / "images"
    folder.mkdir(parents=True)
    (folder / "any").write_text("content")
    blob = lake.put_blob(folder)
    images = [{**STEM_ROW, "image_id": f"image-{name}", "slab_id": f"c2db:{name}", "blob": blob} for name in ("M", "X")]
    lake.publish("images/stem", table("images/stem").from_rows(images), version=FIRST, partition="c2db")
    materials = [
        {
            "material_id": f"c2db:{name}", "reduced_formula": formula, "space_group_number": 187,
            "representative_slab_id": f"c2db:{name}", "slab_ids": [f"c2db:{name}"], "sources": ["c2db"], "n_slabs": 1,
            "published_key": f"{formula}|187", "bravais_lattice": "hexagonal", "is_ambiguous": False,
            "is_hypothetical": False, "split_group": formula,
        }
        for name, formula in (("M", "MoS2"), ("W", "WSe2"))
    ]  # fmt: skip
    lake.publish("structures/materials", table("structures/materials").from_rows(materials), version=FIRST)
    query = "FROM literature.simulated_materials SELECT arxiv_id, label, modality, formula, material_id, n_images"
    with ask(lake, query) as result:
        found = [tuple(row.values()) for row in result.read_all().to_pylist()]
    assert found == [
        ("2005.00001", "a", "STEM", "MoS2", "c2db:M", 1),
        ("2005.00001", "c", "plot", "MoS2", "c2db:M", 1),
        ("2005.00004", "", "plot", "MoS2", "c2db:M", 1),
    ], "neither the withdrawn paper, nor the old version, nor WSe2, of which there is no image"
