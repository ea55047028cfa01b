"""Files of strangers: every damaged or hostile one ends as a rejection with its reason, or is read as it is."""

import contextlib
import importlib.util
import io
import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
from experiment_files import WRITERS, micrograph
from hostile_files import cases, genuine

from atomvision_ml.experiments.capture import capture
from atomvision_ml.experiments.readers.registry import read
from atomvision_ml.experiments.reading import ReadLimits
from atomvision_ml.experiments.worker import FileReader, RejectedError, check_unchanged, identity

LIMITS = ReadLimits(
    memory_bytes=2**30, time_s=30.0, maximum_pixel_bytes=2**26, maximum_total_bytes=2**27, maximum_ratio=50.0
)
N_UNREADABLE, N_READABLE = 321, 176
"""Files of the corpus that nobody can read, and those that have their image all the same, or most of it."""


@pytest.mark.slow
def test_the_corpus(tmp_path, monkeypatch):
    """All of it. What the other files come to depends on where a flipped byte falls, and on the libraries."""
    counts = _judged(tmp_path, monkeypatch, every=1)
    print(counts)
    assert counts["unreadable"] == N_UNREADABLE
    assert counts["read"] + counts["rejected all the same"] == N_READABLE
    assert counts["read"] >= N_READABLE / 2


def test_a_part_of_the_corpus(tmp_path, monkeypatch):
    """Every claim, bomb, pickle and trick, and every eleventh of the damaged files."""
    counts = _judged(tmp_path, monkeypatch, every=11)
    assert counts["unreadable"] >= 60
    assert counts["read"] >= 10


def _judged(tmp_path, monkeypatch, every):
    """Judge the corpus: the unreadable are rejected, the others read as they are, or rejected as well; counts them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "genuine").mkdir()
    files = genuine(tmp_path / "genuine")
    chosen = [case for number, case in enumerate(cases(files)) if case.is_singular or number % every == every // 2]
    counts, wrong, reasons, peak_kib = Counter(), [], {}, 0
    with FileReader(LIMITS) as reader:
        for case in chosen:
            with tempfile.TemporaryDirectory() as inbox, tempfile.TemporaryDirectory() as pixels:
                path = case.make(Path(inbox))
                before = sorted(os.listdir(inbox))
                try:
                    found = capture(path, pixels, reader).pixels[0]
                except RejectedError as error:
                    counts["unreadable" if case.pixels is None else "rejected all the same"] += 1
                    reasons[case.name] = error.reason
                    if not error.reason or inbox in error.reason:
                        wrong.append((case.name, error.reason))
                else:
                    counts["read"] += 1
                    if not _is_faithful(case, found):
                        wrong.append((case.name, "read, but not as it was"))
                    if case.is_untouched:
                        reasons[case.name] = "read"
                assert sorted(os.listdir(inbox)) == before, f"{case.name}: the inbox was changed"
            peak_kib = max(peak_kib, _peak_kib(reader.worker.process_id))
    assert wrong == []
    assert all(reasons[case.name] == "read" for case in chosen if case.is_untouched)
    assert 0 < peak_kib * 1024 < LIMITS.memory_bytes
    assert reader.worker.process_id is None
    assert not (tmp_path / "opened_by_a_pickle").exists()
    assert "never opened" in reasons["pickle_as.dm3"]
    assert "link to another file" in reasons["hdf5_link_out"]
    assert "another file" in reasons["hdf5_data_elsewhere"]
    assert "another file" in reasons["hdf5_virtual"]
    assert "not a plain file" in reasons["pipe"]
    return counts


def _is_faithful(case, found):
    """A renamed file gives the image to the byte; flipped bytes change no more pixels than there were flips."""
    if case.pixels is None:
        return False
    return found.shape == case.pixels.shape and np.count_nonzero(found != case.pixels) <= case.n_flipped


def _peak_kib(process_id):
    if process_id is None:
        return 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


@pytest.mark.parametrize("name", ["dm3", "dm4", "ser", "mrc", "sxm", "emd_velox", "hspy", "tiff"])
def test_flipped_pixels_are_read_as_the_file_has_them(tmp_path, name):
    """Uncompressed formats have no checksum: a flipped byte within the pixels changes that pixel and no other."""
    suffix, write = WRITERS[name]
    path = tmp_path / f"a{suffix}"
    pixels = micrograph("f4" if name in ("sxm", "hspy") else "u2")
    write(path, pixels)
    stored = pixels.astype(">f4") if name == "sxm" else pixels[::-1] if name == "ser" else pixels
    content, place = bytearray(path.read_bytes()), path.read_bytes().find(stored.tobytes())
    assert place > 0
    changed = stored.copy()
    changed.reshape(-1).view(np.uint8)[5 * stored.itemsize] ^= 1
    content[place + 5 * stored.itemsize] ^= 1
    path.write_bytes(content)
    expected = changed[::-1] if name == "ser" else changed
    np.testing.assert_array_equal(read(path, ReadLimits())[1].pictures[0].pixels, expected)


def _dm3(tmp_path):
    path = tmp_path / "a.dm3"
    WRITERS["dm3"][1](path, micrograph())
    return path


def test_a_killed_worker_is_a_rejection_and_the_next_file_is_read(tmp_path):
    path = _dm3(tmp_path)
    with FileReader() as reader, tempfile.TemporaryDirectory() as folder:
        reader.read(path, folder)
        first = reader.worker.process_id
        os.kill(first, signal.SIGSEGV)
        with pytest.raises(RejectedError, match="SIGSEGV") as caught:
            reader.read(path, folder)
        assert caught.value.code == "crashed"
        np.testing.assert_array_equal(reader.read(path, folder).pictures[0].pixels, micrograph())
        assert reader.worker.process_id != first
    assert reader.worker.process_id is None


def test_a_worker_that_somebody_killed_is_replaced_and_the_file_read_once_more(tmp_path):
    """By the kernel for want of memory, or by a person: the file is not to blame."""
    with FileReader() as reader, tempfile.TemporaryDirectory() as folder:
        reader.worker.start()
        os.kill(reader.worker.process_id, signal.SIGKILL)
        assert reader.read(_dm3(tmp_path), folder).format == "dm3"


def test_a_worker_does_not_outlive_its_parent(tmp_path):
    """Which is killed while the worker is busy."""
    script = (
        "import sys, time; from atomvision_ml.experiments.worker import FileReader\n"
        "reader = FileReader(); reader.worker.start(); print(reader.worker.process_id, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    worker.wait(30)


def test_a_worker_that_hangs_is_killed(tmp_path):
    path = _dm3(tmp_path)
    with FileReader(ReadLimits(time_s=0.5)) as reader, tempfile.TemporaryDirectory() as folder:
        reader.worker.start()
        hanging = reader.worker.process_id
        os.kill(hanging, signal.SIGSTOP)
        with pytest.raises(RejectedError, match=r"took longer than 0\.5 s") as caught:
            reader.read(path, folder)
        assert caught.value.code == "too_slow"
        assert reader.worker.process_id is None
        assert not psutil.pid_exists(hanging)


def test_a_file_that_needs_too_much_memory_is_rejected(tmp_path):
    """Within every claim's limit, but not within the worker's memory."""
    zeros = io.BytesIO()
    np.save(zeros, np.zeros((17000, 17000), np.uint8))
    with zipfile.ZipFile(tmp_path / "a.ndata1", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("data.npy", zeros.getvalue())
        archive.writestr("metadata.json", "{}")
    limits = ReadLimits(memory_bytes=2**28, maximum_ratio=1e6)
    with FileReader(limits) as reader, tempfile.TemporaryDirectory() as folder:
        with pytest.raises(RejectedError) as caught:
            reader.read(tmp_path / "a.ndata1", folder)
        assert caught.value.code == "too_much_memory"
        assert reader.read(_dm3(tmp_path), folder).format == "dm3"


def test_a_worker_is_used_for_many_files(tmp_path):
    path = _dm3(tmp_path)
    with FileReader() as reader:
        workers = set()
        for _ in range(5):
            with tempfile.TemporaryDirectory() as folder:
                reader.read(path, folder)
                workers.add(reader.worker.process_id)
    assert len(workers) == 1


def test_a_file_that_changes_meanwhile_is_refused(tmp_path):
    path = _dm3(tmp_path)
    before = identity(path)
    check_unchanged(path, before)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(RejectedError, match="changed while it was read"):
        check_unchanged(path, before)


def test_a_format_of_an_absent_library_names_the_extra(tmp_path):
    if importlib.util.find_spec("rsciio") is not None:
        pytest.skip("rosettasciio is installed")
    path = tmp_path / "a.bcf"
    path.write_bytes(b"AAMVHFSS" + bytes(1000))
    with FileReader() as reader, pytest.raises(RejectedError, match=r"pip install 'atomvision\[vendors\]'"):
        reader.read(path, tmp_path)
