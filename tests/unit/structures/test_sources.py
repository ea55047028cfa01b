"""Readers of the structure databases: every record accepted or rejected with a reason, no file half read."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import sqlite3
import zipfile
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
import pytest
from ase.build import graphene, mx2

from atomvision_ml.schemas.tables.structures import RECORDS
from atomvision_ml.settings import settings
from atomvision_ml.structures.record import (
    BadRecordError,
    atomic_number,
    closest_pair,
    hill_formula,
    make_crystal,
    reduced_formula,
)
from atomvision_ml.structures.sources import SourceUnavailableError, files, read_source
from atomvision_ml.structures.sources.download import DownloadError
from atomvision_ml.structures.sources.files import json_items
from atomvision_ml.structures.sources.locate import DATABASES, find

Record = dict[str, Any]

JARVIS: Record = {
    "jid": "JVASP-1",
    "formula": "BN",
    "spg_number": 187,
    "atoms": {
        "lattice_mat": [[2.51, 0, 0], [-1.255, 2.1737, 0], [0, 0, 20.0]],
        "coords": [[0, 0, 0.5], [0.33333, 0.66667, 0.5]],
        "elements": ["B", "N"],
        "cartesian": False,
        "props": ["", ""],
    },
}
MATPEDIA: Record = {
    "material_id": "2dm-1",
    "bandgap": 0.0,
    "structure": {
        "@class": "Structure",
        "lattice": {"matrix": [[3.7, 0, 0], [0, 3.7, 0], [0, 0, 25.0]], "a": 3.7, "pbc": [True, True, True]},
        "sites": [
            {"species": [{"element": "Fe", "occu": 1}], "abc": [0, 0, 0.5], "xyz": [0, 0, 12.5], "label": "Fe"},
            {"species": [{"element": "Fe", "occu": 1}], "abc": [0.5, 0.5, 0.5], "xyz": [1.85, 1.85, 12.5]},
            {"species": [{"element": "Se", "occu": 1}], "abc": [0, 0.5, 0.56], "xyz": [0, 1.85, 14.0]},
            {"species": [{"element": "Se", "occu": 1}], "abc": [0.5, 0, 0.44], "xyz": [1.85, 0, 11.0]},
        ],
    },
}


def changed(record: Record, *path: str | int, to: Any = ...) -> Record:
    """A copy with one value replaced, or removed if no value is given."""
    copy: Any = deepcopy(record)
    place = copy
    for key in path[:-1]:
        place = place[key]
    if to is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return copy


def jarvis_rows(folder: Path, records: list[Any]) -> list[Record]:
    folder.mkdir(exist_ok=True)
    (folder / "dft_2d.json").write_text(json.dumps(records))
    return read(folder, "jarvis_dft_2d")


def matpedia_rows(folder: Path, records: list[Any]) -> list[Record]:
    folder.mkdir(exist_ok=True)
    (folder / "db.json").write_text("".join(json.dumps(record) + "\n" for record in records))
    return read(folder, "twodmatpedia")


def read(folder: Path, source: str) -> list[Record]:
    dump = read_source(source, folder=folder, scratch=folder / "scratch")
    RECORDS.from_rows(dump.rows)
    return dump.rows


# Records


ELEMENTS = {"Fe": 26, "fe": 26, "Fe2+": 26, "O2-": 8, "Fe1": 26, "Cl-": 17, "S": 16, " W ": 74, "D": 1, "Cu0+": 29}


@pytest.mark.parametrize(
    ("label", "number"), [*ELEMENTS.items(), (6, 6), (np.int64(92), 92), ("V3.5+", 23), ("Ti+4", 22)]
)
def test_elements_are_understood(label: object, number: int) -> None:
    assert atomic_number(label) == number


@pytest.mark.parametrize("label", ["Xx", "", "X", None, 0, -3, 200, 6.0, True, "Fe,Co", ["Fe"], "M1"])
def test_unknown_elements_are_named(label: object) -> None:
    with pytest.raises(BadRecordError, match="unknown element"):
        atomic_number(label)


@pytest.mark.parametrize("shift", [0.0, 0.499, 0.9999, -3.0])
def test_coincident_atoms_are_seen_over_the_boundary(shift: float) -> None:
    skewed = [[3, 0, 0], [8.8, 1.6, 0], [2, 1, 20]]
    fractional = np.array([[0.001 + shift, 0.0, 0.3], [0.999 + shift, 1.0, 0.3], [0.5, 0.5, 0.4]])
    with pytest.raises(BadRecordError, match="coincide"):
        make_crystal(["C", "C", "C"], fractional, skewed, are_fractional=True)
    fractional[1] = fractional[0] + [0.4, 0, 0]
    crystal = make_crystal(["C", "C", "C"], fractional, skewed, are_fractional=True)
    assert closest_pair(crystal, 0.5) is None


def test_formulas() -> None:
    assert hill_formula([1, 6, 8, 6]) == "C2HO"
    assert hill_formula([17, 11, 17, 11]) == "Cl2Na2"
    assert reduced_formula([16, 42, 16, 16, 16, 42]) == "MoS2"
    assert reduced_formula([6, 6]) == "C"


# JARVIS and 2DMatPedia, record by record


def test_jarvis_record(tmp_path: Path) -> None:
    (row,) = jarvis_rows(tmp_path, [JARVIS])
    assert (row["record_id"], row["native_id"], row["status"]) == ("jarvis_dft_2d:JVASP-1", "JVASP-1", "accepted")
    assert (row["formula"], row["numbers"], row["n_atoms"]) == ("BN", [5, 7], 2)
    assert json.loads(row["properties_json"]) == {"formula": "BN", "spg_number": 187}
    assert np.allclose(row["positions_angstrom"][2::3], 10.0)


def test_jarvis_cartesian_is_the_same_crystal(tmp_path: Path) -> None:
    cartesian = np.array(JARVIS["atoms"]["coords"]) @ np.array(JARVIS["atoms"]["lattice_mat"])
    other = changed(changed(JARVIS, "atoms", "coords", to=cartesian.tolist()), "atoms", "cartesian", to=True)
    first, second = jarvis_rows(tmp_path, [JARVIS, changed(other, "jid", to=2)])
    assert np.allclose(first["positions_angstrom"], second["positions_angstrom"])
    assert second["native_id"] == "2"


def test_odd_values_do_not_spoil_the_table(tmp_path: Path) -> None:
    odd = {**changed(JARVIS, "jid", to="\ud800"), "gap": float("nan"), "note": "\udfff", "deep": [{"x": float("inf")}]}
    rows = jarvis_rows(tmp_path, [odd, JARVIS])
    assert rows[0]["native_id"] == "\\ud800"
    expected = {"deep": [{"x": None}], "formula": "BN", "gap": None, "note": "?", "spg_number": 187}
    assert json.loads(rows[0]["properties_json"], parse_constant=pytest.fail) == expected


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (changed(JARVIS, "jid"), "no identifier"),
        (changed(JARVIS, "jid", to=""), "no identifier"),
        (changed(JARVIS, "jid", to=[1]), "no identifier"),
        (changed(JARVIS, "atoms"), "no 'atoms'"),
        (changed(JARVIS, "atoms", to=[1]), "no JSON object"),
        (changed(JARVIS, "atoms", "elements"), "no 'elements'"),
        (changed(JARVIS, "atoms", "elements", to="BN"), "no list"),
        (changed(JARVIS, "atoms", "elements", to=["B", "Xx"]), "unknown element: 'Xx'"),
        (changed(JARVIS, "atoms", "elements", to=["B"]), r"shape \(2, 3\) where \(1, 3\)"),
        (changed(JARVIS, "atoms", "elements", to=[]), "no atoms"),
        (changed(JARVIS, "atoms", "coords", to=[]), "shape"),
        (changed(JARVIS, "atoms", "coords"), "no 'coords'"),
        (changed(JARVIS, "atoms", "coords", to=[[0, 0], [1, 2, 3]]), "not a table of numbers"),
        (changed(JARVIS, "atoms", "coords", to=[[0, 0, None], [1, 2, 3]]), "NaN"),
        (changed(JARVIS, "atoms", "coords", 0, 1, to=float("nan")), "NaN"),
        (changed(JARVIS, "atoms", "coords", 0, 1, to="east"), "not a table of numbers"),
        (changed(JARVIS, "atoms", "coords", 0, 1, to=1e17), "from the origin"),
        (changed(JARVIS, "atoms", "coords", 0, 1, to=1e308), "from the origin"),
        (changed(JARVIS, "atoms", "coords", 0, to=[0.33333, 0.66667, 1.5]), "coincide"),
        (changed(JARVIS, "atoms", "lattice_mat"), "no 'lattice_mat'"),
        (changed(JARVIS, "atoms", "lattice_mat", 2, to=[0, 0, 0]), "length 0"),
        (changed(JARVIS, "atoms", "lattice_mat", 2, to=[2.51, 0, 0]), "no volume"),
        (changed(JARVIS, "atoms", "lattice_mat", 2, to=[0, 0, float("inf")]), "infinite"),
        ("text", "not a JSON object"),
        ([JARVIS], "not a JSON object"),
    ],
)
def test_a_damaged_jarvis_record_is_rejected_and_the_others_stay(tmp_path: Path, record: Any, reason: str) -> None:
    before, bad, after = jarvis_rows(tmp_path, [changed(JARVIS, "jid", to="A"), record, changed(JARVIS, "jid", to="B")])
    assert (before["status"], after["status"], bad["status"]) == ("accepted", "accepted", "rejected")
    assert re.search(reason, bad["reason"])
    assert bad.get("numbers") is None


def test_matpedia_record(tmp_path: Path) -> None:
    (row,) = matpedia_rows(tmp_path, [MATPEDIA])
    assert (row["record_id"], row["formula"], row["status"]) == ("twodmatpedia:2dm-1", "Fe2Se2", "accepted")
    assert json.loads(row["properties_json"]) == {"bandgap": 0.0}


def test_matpedia_variants_of_one_crystal(tmp_path: Path) -> None:
    charged = deepcopy(MATPEDIA)
    for site in charged["structure"]["sites"]:
        site["species"][0] |= {"element": site["species"][0]["element"] + "2+", "oxidation_state": 2}
    by_xyz = deepcopy(MATPEDIA)
    for site in by_xyz["structure"]["sites"]:
        del site["abc"]
    by_parameters = deepcopy(MATPEDIA)
    lattice = {"a": 3.7, "b": 3.7, "c": 25.0, "alpha": 90.0, "beta": 90.0, "gamma": 90.0}
    by_parameters["structure"]["lattice"] = lattice
    outside = deepcopy(MATPEDIA)
    for site in outside["structure"]["sites"]:
        site["abc"] = [site["abc"][0] + 2, site["abc"][1] - 1, site["abc"][2]]
    variants = [MATPEDIA, charged, by_xyz, by_parameters, outside]
    rows = matpedia_rows(tmp_path, [changed(record, "material_id", to=k) for k, record in enumerate(variants)])
    assert [row["status"] for row in rows] == ["accepted"] * 5
    for row in rows[1:]:
        difference = np.subtract(row["positions_angstrom"], rows[0]["positions_angstrom"]).reshape(-1, 3) / [
            3.7,
            3.7,
            25,
        ]
        assert np.allclose(difference, np.round(difference), atol=1e-9)
        assert row["numbers"] == rows[0]["numbers"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (changed(MATPEDIA, "material_id"), "no identifier"),
        (changed(MATPEDIA, "structure"), "no 'structure'"),
        (changed(MATPEDIA, "structure", "lattice"), "no 'lattice'"),
        (changed(MATPEDIA, "structure", "lattice", "matrix"), "neither a matrix nor cell parameters"),
        (changed(MATPEDIA, "structure", "sites"), "no 'sites'"),
        (changed(MATPEDIA, "structure", "sites", to=[]), "no atoms"),
        (changed(MATPEDIA, "structure", "sites", 1, to=3), "site 1: no 'species'"),
        (changed(MATPEDIA, "structure", "sites", 1, "abc", to=[0.5, 0.5]), "site 1"),
        (changed(MATPEDIA, "structure", "sites", 0, "species", 0, "occu", to=0.5), "site 0: occupancy 0.5"),
        (changed(MATPEDIA, "structure", "sites", 0, "species", 0, "occu", to="half"), "occupancy 'half'"),
        (changed(MATPEDIA, "structure", "sites", 0, "species", 0, "element"), "site 0: no element"),
        (changed(MATPEDIA, "structure", "sites", 0, "species", 0, "element", to="Qq"), "unknown element: 'Qq'"),
        (
            changed(
                *(MATPEDIA, "structure", "sites", 2, "species"),
                to=[{"element": "Se", "occu": 0.5}, {"element": "Te", "occu": 0.5}],
            ),
            "site 2: 2 species share it",
        ),
    ],
)
def test_a_damaged_matpedia_record_is_rejected(tmp_path: Path, record: Record, reason: str) -> None:
    bad, good = matpedia_rows(tmp_path, [record, changed(MATPEDIA, "material_id", to="2dm-2")])
    assert good["status"] == "accepted"
    assert bad["status"] == "rejected"
    assert reason in bad["reason"]


def test_a_line_that_is_no_json_is_one_rejected_row(tmp_path: Path) -> None:
    lines = [
        json.dumps(MATPEDIA),
        '{"material_id": "2dm-2", broken}',
        "",
        json.dumps([1]),
        b"\xff\xfe".decode("latin1"),
    ]
    lines.append(json.dumps(changed(MATPEDIA, "material_id", to="2dm-3")))
    (tmp_path / "db.json").write_text("\n".join(lines), encoding="latin1")
    rows = read(tmp_path, "twodmatpedia")
    assert [row["status"] for row in rows] == ["accepted", "rejected", "rejected", "rejected", "accepted"]
    assert "line 2 is not JSON" in rows[1]["reason"]
    assert "line 4 is not a JSON object" in rows[2]["reason"]


def test_duplicate_identifiers_are_rejected_and_unique(tmp_path: Path) -> None:
    other = changed(JARVIS, "spg_number", to=1)
    rows = jarvis_rows(tmp_path, [JARVIS, JARVIS, other, changed(JARVIS, "jid", to="JVASP-1#2")])
    assert [row["status"] for row in rows] == ["accepted", "rejected", "rejected", "accepted"]
    assert "the same content" in rows[1]["reason"]
    assert "other content" in rows[2]["reason"]
    assert len({row["record_id"] for row in rows}) == 4
    assert {row["native_id"] for row in rows[:3]} == {"JVASP-1"}


# Files: where, how packed, how damaged


def packed(content: bytes, name: str, kind: str) -> tuple[str, bytes]:
    if kind == "zip":
        import io

        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content)
            archive.writestr("__MACOSX/._" + name, b"junk")
            archive.writestr("README.txt", b"about" * 1000)
        return f"{name}.zip", buffer.getvalue()
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "": bytes}[kind]
    return f"{name}.{kind}".rstrip("."), pack(content)


@pytest.mark.parametrize("kind", ["", "zip", "gz", "bz2", "xz"])
@pytest.mark.parametrize("form", ["list", "lines", "indented list"])
@pytest.mark.parametrize("source", ["jarvis_dft_2d", "twodmatpedia"])
def test_any_packing_of_list_or_lines(tmp_path: Path, source: str, form: str, kind: str) -> None:
    template, key, name = {
        "jarvis_dft_2d": (JARVIS, "jid", "dft_2d.json"),
        "twodmatpedia": (MATPEDIA, "material_id", "db.json"),
    }[source]
    records = [changed(template, key, to=f"id-{k}") for k in range(4)]
    text = {
        "list": json.dumps(records),
        "lines": "\ufeff" + "\n".join(map(json.dumps, records)),
        "indented list": json.dumps(records, indent=2) + "\n",
    }[form]
    file_name, content = packed(text.encode(), name, kind)
    deep = tmp_path / "some" / "where"
    deep.mkdir(parents=True)
    (deep / file_name).write_bytes(content)
    dump = read_source(source, folder=tmp_path, scratch=tmp_path / "scratch")
    assert [(row["native_id"], row["status"]) for row in dump.rows] == [(f"id-{k}", "accepted") for k in range(4)]
    assert dump.original == deep / file_name
    assert dump.rows[0]["origin"] == file_name


def test_packing_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    (tmp_path / "db.json").write_bytes(gzip.compress(json.dumps(MATPEDIA).encode()))
    assert read(tmp_path, "twodmatpedia")[0]["status"] == "accepted"


@pytest.mark.parametrize("cut", [0.3, 0.97])
@pytest.mark.parametrize("kind", ["", "zip", "gz", "bz2", "xz"])
@pytest.mark.parametrize("form", ["list", "lines"])
def test_a_truncated_file_gives_nothing(tmp_path: Path, form: str, kind: str, cut: float) -> None:
    records = [changed(MATPEDIA, "material_id", to=f"{k}-{os.urandom(40).hex()}") for k in range(50)]
    text = json.dumps(records) if form == "list" else "\n".join(map(json.dumps, records))
    file_name, content = packed(text.encode(), "db.json", kind)
    (tmp_path / file_name).write_bytes(content[: int(cut * len(content))])
    with pytest.raises(SourceUnavailableError, match=r"db\.json.* (damaged|holds no)"):
        read_source("twodmatpedia", folder=tmp_path, scratch=tmp_path / "scratch")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"  \n ", "empty"),
        (b"<html>moved</html>", "HTML"),
        (b"version 3\n", "no JSON"),
        (b"[]", "no record"),
        (b"[{} {}]", "comma was expected"),
        (b"[" * 200_000 + b"]" * 200_000, "recursion"),
        (b"[{}] and more", "after the end"),
        (b'[{"a": 1}, {"a": oops}]', "item 2"),
        (b'[{"a": "\xff"}]', "not UTF-8"),
        (b"{broken}\n{also broken}\n", "no line is a JSON object"),
    ],
)
def test_what_is_no_dump_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "dft_2d.json").write_bytes(content)
    with pytest.raises(SourceUnavailableError, match=message):
        read_source("jarvis_dft_2d", folder=tmp_path, scratch=tmp_path / "scratch")


def test_decompression_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FREE_BYTES", 2**20)
    bomb = b"[" + b" " * (40 * 2**20) + b"]"
    (tmp_path / "dft_2d.json.gz").write_bytes(gzip.compress(bomb))
    with pytest.raises(SourceUnavailableError, match="decompresses to more than"):
        read_source("jarvis_dft_2d", folder=tmp_path, scratch=tmp_path / "scratch")


def test_records_longer_than_the_read_buffer(tmp_path: Path) -> None:
    long = [changed(JARVIS, "spg_number", to="é" * 700_000), changed(JARVIS, "jid", to="JVASP-2")] * 2
    (tmp_path / "a.json").write_text(json.dumps(long, ensure_ascii=False))
    assert [item.value for item in json_items(tmp_path / "a.json")] == long


def test_files_are_found_by_name_and_folder(tmp_path: Path) -> None:
    names = ["x/db.json", "jarvis/d2-12-12-2022.json", "z/C2DB.db", "2DMatPedia/db.json.gz", "dft_2d_notes.txt"]
    names += ["c2db_atoms.json.zip", "jarvis/dft_2d.json.part", "other.db", "mydb.json"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {source: find(database, tmp_path) for source, database in DATABASES.items()}
    assert {source: str(path.relative_to(tmp_path)) for source, path in found.items() if path} == {
        "jarvis_dft_2d": "jarvis/d2-12-12-2022.json",
        "c2db": "z/C2DB.db",
        "twodmatpedia": "2DMatPedia/db.json.gz",
    }


@pytest.mark.parametrize("source", sorted(DATABASES))
def test_what_is_nowhere_says_what_to_do(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str, target: Path) -> None:
        raise DownloadError("Name or service not known")

    monkeypatch.setattr("atomvision_ml.structures.sources.download.download", unreachable)
    with pytest.raises(SourceUnavailableError, match=r"ATOMVISION_SOURCES") as caught:
        read_source(source, folder=None, scratch=tmp_path)
    assert DATABASES[source].file_name in str(caught.value)
    assert DATABASES[source].address in str(caught.value)
    with pytest.raises(SourceUnavailableError, match="is not a folder"):
        read_source(source, folder=tmp_path / "absent", scratch=tmp_path)


def test_unknown_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown source 'oqmd'"):
        read_source("oqmd", folder=None, scratch=tmp_path)


def test_progress_ends_with_the_total(tmp_path: Path) -> None:
    (tmp_path / "db.json").write_text("\n".join(json.dumps(changed(MATPEDIA, "material_id", to=k)) for k in range(250)))
    seen: list[tuple[int, int | None]] = []
    read_source(
        "twodmatpedia", folder=tmp_path, scratch=tmp_path, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(100, None), (200, None), (250, 250)]


# C2DB


def c2db_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with ase.db.connect(str(path), type="db", use_lock_file=False) as database:
        for number, a in enumerate((3.16, 3.18, 3.3)):
            atoms = mx2("MoS2", a=a, vacuum=8)
            database.write(atoms, key_value_pairs={"uid": f"MoS2-{number}", "gap": 1.6}, data={"big": [1, 2]})
        database.write(graphene(vacuum=7.5), key_value_pairs={"gap": 0.0})
        database.write(graphene(vacuum=0.0), key_value_pairs={"uid": "flat"})
    return path


@pytest.mark.parametrize("kind", ["", "zip", "gz", "xz"])
def test_c2db(tmp_path: Path, kind: str) -> None:
    content = c2db_file(tmp_path / "made.db").read_bytes()
    name, data = packed(content, "c2db.db", kind)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / name).write_bytes(data)
    rows = read(tmp_path, "c2db")
    assert [row["status"] for row in rows] == ["accepted"] * 4 + ["rejected"]
    assert [row["native_id"] for row in rows[:3]] == ["MoS2-0", "MoS2-1", "MoS2-2"]
    assert len(rows[3]["native_id"]) == 32
    assert rows[4]["reason"].startswith("cell:")
    assert json.loads(rows[0]["properties_json"])["gap"] == 1.6
    assert (tmp_path / "sub" / name).read_bytes() == data
    assert not list(tmp_path.glob("scratch/*decompressed*"))


def test_c2db_damaged_rows_are_rejected(tmp_path: Path) -> None:
    path = c2db_file(tmp_path / "c2db.db")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE systems SET positions = X'0102' WHERE id = 1")
        connection.execute("UPDATE systems SET key_value_pairs = '{oops' WHERE id = 2")
        connection.execute("UPDATE systems SET numbers = NULL WHERE id = 3")
    connection.close()
    rows = read(tmp_path, "c2db")
    assert [row["status"] for row in rows] == ["rejected"] * 3 + ["accepted", "rejected"]
    assert "row 1 cannot be decoded" in rows[0]["reason"]


def test_c2db_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "c2db.db").write_bytes(b"")
    with pytest.raises(SourceUnavailableError, match="no SQLite database"):
        read_source("c2db", folder=tmp_path, scratch=tmp_path / "scratch")
    assert (tmp_path / "c2db.db").read_bytes() == b""
    sqlite3.connect(tmp_path / "c2db.db").execute("CREATE TABLE other (x)").connection.close()
    before = (tmp_path / "c2db.db").read_bytes()
    with pytest.raises(SourceUnavailableError, match="no readable ASE database"):
        read_source("c2db", folder=tmp_path, scratch=tmp_path / "scratch")
    assert (tmp_path / "c2db.db").read_bytes() == before


@pytest.mark.parametrize("cut", [0.2, 0.9])
def test_c2db_truncated(tmp_path: Path, cut: float) -> None:
    path = c2db_file(tmp_path / "c2db.db")
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(SourceUnavailableError, match="damaged"):
        read_source("c2db", folder=tmp_path, scratch=tmp_path / "scratch")


# The databases themselves


@pytest.mark.real_data
@pytest.mark.parametrize("source", sorted(DATABASES))
def test_real_databases(tmp_path: Path, source: str) -> None:
    folder = settings().sources
    if folder is None or find(DATABASES[source], folder) is None:
        pytest.skip(f"{source} is not below ATOMVISION_SOURCES")
    rows = read_source(source, folder=folder, scratch=tmp_path).rows
    RECORDS.from_rows(rows)
    counts = Counter(row["status"] for row in rows)
    assert counts["rejected"] <= 0.01 * len(rows)
    assert all(row["reason"] for row in rows if row["status"] == "rejected")
