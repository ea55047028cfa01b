"""Publishing to and reading from a folder."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atomvision_ml.schemas.core import ContractError
from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.lake import (
    BlobMissingError,
    DamagedDataError,
    Lake,
    NotPublishedError,
    PublicationRefusedError,
    Version,
)

RECORDS = "structures/records"
METRICS = "evaluation/metrics"
FIRST = Version(code_version="1")


def records(n_rows: int, source: str = "prototypes", blob: str | None = None, formula: str = "C2") -> pa.Table:
    row = {
        "source": source,
        "status": "accepted",
        "formula": formula,
        "n_atoms": 2,
        "numbers": [6, 6],
        "positions_angstrom": [0.0] * 6,
        "cell_angstrom": [1.0] * 9,
        "provenance": "rule",
        "reference": "a rule",
        "is_hypothetical": True,
        "licence": "MIT",
        "origin": "generated",
        "origin_blob": blob,
        "sha256": "0",
    }
    return table(RECORDS).from_rows(
        [{**row, "record_id": f"{source}:{number}", "native_id": str(number)} for number in range(n_rows)]
    )


def blob_folder(lake: Lake, text: str = "hello") -> Path:
    folder = lake.scratch("blob-work")
    (folder / "c").mkdir()
    (folder / "c" / "0").write_text(text)
    (folder / "zarr.json").write_text("{}")
    return folder


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "root")


def test_published_rows_come_back(lake: Lake) -> None:
    facts = lake.publish(RECORDS, records(3), version=FIRST, partition="prototypes")
    assert (facts.n_rows, facts.partition, facts.code_version, facts.blobs) == (3, "prototypes", "1", ())
    assert facts.data_version == facts.content_sha256
    assert lake.facts(RECORDS, "prototypes") == facts == lake.verify(RECORDS, "prototypes")
    back = lake.scan(RECORDS, "prototypes").collect()
    assert back["record_id"].to_list() == ["prototypes:0", "prototypes:1", "prototypes:2"]
    assert back.columns == [column.name for column in table(RECORDS).columns]
    head = Path(lake.root) / "published/structures/records/source=prototypes/data.parquet"
    assert pq.read_metadata(head).row_group(0).column(0).compression == "ZSTD"
    assert pq.read_schema(head).field("cell_angstrom").metadata[b"unit"] == "Å".encode()
    assert list(lake.scratch("publish").iterdir()) == []


def test_unordered_columns_conform_and_the_same_rows_have_the_same_hash(lake: Lake) -> None:
    rows = records(3)
    first = lake.publish(RECORDS, rows, version=FIRST, partition="prototypes")
    shuffled = rows.select(rows.column_names[::-1])
    again = lake.publish(RECORDS, shuffled, version=Version(code_version="2"), partition="prototypes")
    assert again.content_sha256 == first.content_sha256 == again.data_version
    assert lake.facts(RECORDS, "prototypes").code_version == "2"


def test_all_partitions_are_scanned_together(lake: Lake) -> None:
    for source, n_rows in (("prototypes", 2), ("c2db", 3)):
        lake.publish(RECORDS, records(n_rows, source), version=FIRST, partition=source)
    assert lake.partitions(RECORDS) == ["c2db", "prototypes"]
    assert lake.scan(RECORDS).collect()["source"].to_list() == ["c2db"] * 3 + ["prototypes"] * 2
    assert lake.exists(RECORDS)
    assert lake.exists(RECORDS, "c2db")
    assert not lake.exists(RECORDS, "jarvis_dft_2d")


def test_nothing_published_is_said_plainly(lake: Lake) -> None:
    assert not lake.exists(RECORDS)
    assert not lake.exists(METRICS)
    assert lake.partitions(RECORDS) == []
    with pytest.raises(NotPublishedError, match=r"structures/records is not published in .*materialise"):
        lake.scan(RECORDS)
    with pytest.raises(NotPublishedError, match=r"structures/records\[c2db\]"):
        lake.facts(RECORDS, "c2db")
    with pytest.raises(NotPublishedError):
        lake.scan(METRICS)
    assert not Path(lake.root).exists()


@pytest.mark.parametrize(("key", "partition"), [(RECORDS, None), (METRICS, "c2db"), (RECORDS, "../etc")])
def test_wrong_partition_is_refused(lake: Lake, key: str, partition: str | None) -> None:
    with pytest.raises(ValueError, match="partition"):
        lake.publish(key, records(1), version=FIRST, partition=partition)
    with pytest.raises(ValueError, match="partition"):
        lake.facts(key, partition)


def test_unknown_key_lists_the_known_ones(lake: Lake) -> None:
    with pytest.raises(KeyError, match="structures/records"):
        lake.scan("structures/recrods")


def test_broken_contract_leaves_the_former_value(lake: Lake) -> None:
    former = lake.publish(RECORDS, records(2), version=FIRST, partition="prototypes")
    twice = pa.concat_tables([records(2), records(1)])
    with pytest.raises(ContractError, match="unique"):
        lake.publish(RECORDS, twice, version=FIRST, partition="prototypes")
    with pytest.raises(ContractError, match="missing"):
        lake.publish(RECORDS, records(2).drop_columns(["formula"]), version=FIRST, partition="prototypes")
    with pytest.raises(ContractError, match="partition 'c2db' holds rows of \\['prototypes'\\]"):
        lake.publish(RECORDS, records(2), version=FIRST, partition="c2db")
    assert lake.verify(RECORDS, "prototypes") == former
    assert lake.partitions(RECORDS) == ["prototypes"]


def test_may_publish_is_asked_last_and_obeyed(lake: Lake) -> None:
    former = lake.publish(RECORDS, records(2), version=FIRST, partition="prototypes")
    scratch_files: list[int] = []

    def refuse() -> bool:
        scratch_files.append(len(list(lake.scratch("publish").iterdir())))
        return False

    with pytest.raises(PublicationRefusedError, match="former value stays"):
        lake.publish(RECORDS, records(3), version=FIRST, partition="prototypes", may_publish=refuse)
    assert scratch_files == [1]
    assert lake.verify(RECORDS, "prototypes") == former
    assert list(lake.scratch("publish").iterdir()) == []


def test_who_was_overtaken_is_refused(lake: Lake) -> None:
    lake.publish(RECORDS, records(1), version=FIRST, partition="prototypes")

    def overtaken() -> bool:
        fast = Lake(lake.root)
        fast.objects.replace = _without_lock(fast)  # type: ignore[method-assign]
        fast.publish(RECORDS, records(2), version=FIRST, partition="prototypes")
        return True

    with pytest.raises(PublicationRefusedError, match="another publisher"):
        lake.publish(RECORDS, records(3), version=FIRST, partition="prototypes", may_publish=overtaken)
    assert lake.verify(RECORDS, "prototypes").n_rows == 2


def _without_lock(lake: Lake):
    """The last act of a publisher on another machine that does not see this machine's locks."""
    return lambda path, file, **_: file.replace(lake.local / path)


def test_named_blob_must_exist(lake: Lake) -> None:
    with pytest.raises(BlobMissingError, match="a" * 64):
        lake.publish(RECORDS, records(1, blob="a" * 64), version=FIRST, partition="prototypes")
    assert not lake.exists(RECORDS)
    sha = lake.put_blob(blob_folder(lake))
    facts = lake.publish(RECORDS, records(1, blob=sha), version=FIRST, partition="prototypes")
    assert facts.blobs == (sha,)


def test_blob_is_moved_named_by_content_and_kept_once(lake: Lake) -> None:
    folder = blob_folder(lake)
    sha = lake.put_blob(folder)
    assert not folder.exists()
    assert (lake.blob(sha) / "c" / "0").read_text() == "hello"
    assert lake.put_blob(blob_folder(lake)) == sha
    assert lake.put_blob(blob_folder(lake, "other")) != sha
    assert len(lake.objects.trees()) == 2


def test_blob_name_depends_on_paths_and_bytes(lake: Lake) -> None:
    names = set()
    for path, text in (("a", "1"), ("b", "1"), ("a", "2"), ("d/a", "1")):
        file = lake.scratch("work") / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        names.add(lake.put_blob(lake.scratch("work")))
    assert len(names) == 4


def test_only_plain_folders_become_blobs(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file"):
        lake.put_blob(lake.scratch("empty"))
    with pytest.raises(ValueError, match="not a folder"):
        lake.put_blob(tmp_path / "nothing")
    folder = lake.scratch("link")
    (folder / "file").write_text("x")
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="plain files"):
        lake.put_blob(folder)


@pytest.mark.parametrize("name", ["a" * 64, "../published", "", "A" * 64])
def test_missing_blob_is_said_plainly(lake: Lake, name: str) -> None:
    with pytest.raises(BlobMissingError):
        lake.blob(name)


def test_scratch_is_found_again_and_stays_inside(lake: Lake) -> None:
    (lake.scratch("work-1") / "half").write_text("x")
    assert (lake.scratch("work-1") / "half").read_text() == "x"
    for name in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(ValueError, match="must match"):
            lake.scratch(name)


def test_a_scan_keeps_what_it_opened(lake: Lake) -> None:
    lake.publish(RECORDS, records(5000), version=FIRST, partition="prototypes")
    before = lake.scan(RECORDS)
    assert before.collect_schema()["n_atoms"] == pl.Int32
    lake.publish(RECORDS, records(10), version=FIRST, partition="prototypes")
    assert before.select(pl.len()).collect().item() == 5000
    assert before.select("record_id").collect().height == 5000
    assert lake.scan(RECORDS).select(pl.len()).collect().item() == 10


def test_a_moved_root_still_reads(lake: Lake, tmp_path: Path) -> None:
    facts = lake.publish(RECORDS, records(2), version=FIRST, partition="prototypes")
    Path(lake.root).rename(tmp_path / "moved")
    assert Lake(tmp_path / "moved").verify(RECORDS, "prototypes") == facts


def test_damage_is_found(lake: Lake) -> None:
    facts = lake.publish(RECORDS, records(50), version=FIRST, partition="prototypes")
    head = lake.heads(RECORDS, "prototypes")[0]
    pq.write_table(facts.stamp(records(50, formula="C3")), head)
    with pytest.raises(DamagedDataError, match="content hash"):
        lake.verify(RECORDS, "prototypes")
    pq.write_table(records(2), head)
    with pytest.raises(DamagedDataError, match="no facts"):
        lake.facts(RECORDS, "prototypes")


def test_a_table_of_an_earlier_version_is_known_and_stays_readable(lake: Lake) -> None:
    facts = lake.publish(RECORDS, records(2), version=FIRST, partition="prototypes")
    lake.publish(RECORDS, records(1, source="c2db"), version=FIRST, partition="c2db")
    assert not lake.is_outdated(RECORDS, "prototypes")
    head = lake.heads(RECORDS, "prototypes")[0]
    older = records(2).drop_columns(["licence", "origin"]).append_column("retired", [[1, 2]])
    pq.write_table(facts.stamp(older), head)
    assert lake.is_outdated(RECORDS, "prototypes")
    rows = lake.scan(RECORDS).sort("record_id").collect()
    assert rows.columns == table(RECORDS).arrow_schema.names
    assert rows["licence"].to_list() == ["MIT", None, None]


def test_root_comes_from_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from atomvision_ml.settings import settings

    monkeypatch.setenv("ATOMVISION_ROOT", str(tmp_path / "elsewhere"))
    settings.cache_clear()
    try:
        assert Lake.from_settings().root == str(tmp_path / "elsewhere")
    finally:
        settings.cache_clear()
