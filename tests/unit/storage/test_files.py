"""Files that are whole or not there, whatever happens to the writer."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from atomvision_ml.storage.files import replacing, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 60 + ".json")
    for content in (b"first", b"", b"third"):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert names(tmp_path) == [path.name]


def break_off(path: Path) -> None:
    with replacing(path) as aside:
        aside.write_bytes(b"half")
        raise ValueError("broken off")


def test_an_error_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "page"
    write_whole(path, b"former")
    with pytest.raises(ValueError, match="broken off"):
        break_off(path)
    assert path.read_bytes() == b"former"
    assert names(tmp_path) == ["page"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "page"):
        pass
    assert names(tmp_path) == []


def die_half_way(path: Path) -> None:
    with replacing(path) as aside:
        aside.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_writer_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "page"
    write_whole(path, b"former")
    process = multiprocessing.get_context("spawn").Process(target=die_half_way, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert path.read_bytes() == b"former"
    left = [name for name in names(tmp_path) if name != "page"]
    assert len(left) == 1
    assert left[0].startswith(".")
    assert left[0].endswith(".part")
