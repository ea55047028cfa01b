"""SIGKILL at every line of the publication protocol, and at random moments between lines.

The killed process is a real one: a fork of a small helper interpreter, which counts the lines that it executes in
``atomvision_ml.storage`` and kills itself with SIGKILL at a given one.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HELPER = '''
import json, os, random, shutil, signal, sys, time
from pathlib import Path

import numpy as np
import pyarrow as pa

import atomvision_ml.storage
from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.lake import BlobMissingError, Lake, Version

ROOM = str(Path(atomvision_ml.storage.__file__).parent)
KEY = "evaluation/gallery"
lake = Lake(sys.argv[1])


def rows(generation, n_rows=5):
    sha = make_blob(generation)
    return table(KEY).from_rows(
        [{"page": f"{i}.html", "title": f"generation {generation}", "blob": sha, "n_items": i} for i in range(n_rows)]
    )


def make_folder(generation):
    folder = lake.scratch(f"work-{generation}")
    (folder / "c").mkdir(exist_ok=True)
    (folder / "c" / "0").write_text(f"blob {generation}")
    (folder / "zarr.json").write_text("{}")
    return folder


def make_blob(generation):
    return lake.put_blob(make_folder(generation))


def publish(generation, table):
    return lake.publish(KEY, table, version=Version(code_version=generation))


def die_at(line, act):
    """Fork; the child does ``act`` and kills itself at its n-th line in the storage room."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def trace(frame, event, _):
            nonlocal count
            if not frame.f_code.co_filename.startswith(ROOM):
                return None
            if event == "line":
                count += 1
                if count == line:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        act()
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def every_line_of_publish():
    old, new = rows("old"), rows("new")
    publish("old", old)
    seen, line = [], 0
    while True:
        line += 1
        status = die_at(line, lambda: publish("new", new))
        facts = lake.verify(KEY)  # raises if the head is damaged
        seen.append(facts.code_version)
        if facts.code_version == "new":
            publish("old", old)  # also shows that the dead publisher's lock does not hold
        if status == 0:
            return {"seen": seen}
        assert os.WTERMSIG(status) == signal.SIGKILL, status


def every_line_of_put_blob():
    from atomvision_ml.storage.blobs import verify_tree

    line, outcomes = 0, []
    while True:
        line += 1
        generation = f"blob-{line}"
        folder = make_folder(generation)
        copy = folder.with_name("copy-" + generation)
        shutil.copytree(folder, copy)
        status = die_at(line, lambda: lake.put_blob(folder))
        sha = lake.put_blob(copy)  # the work is repeated and always ends well
        verify_tree(lake.blob(sha), sha)
        for name in lake.objects.trees():
            verify_tree(lake.blob(name), name)
        if status == 0:
            return {"lines": line}


def random_moments():
    """A child publishes generation after generation; it is killed a random while after some of them are out."""
    random.seed(2)
    tables = {str(i): rows(str(i), n_rows=2000 + 500 * i) for i in range(4)}
    publish("0", tables["0"])
    start = time.monotonic()
    publish("1", tables["1"])
    usual_s = time.monotonic() - start
    versions = []
    for number in range(25):
        out, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            while True:
                number += 1
                publish(str(number % 4), tables[str(number % 4)])
                os.write(told, b".")
        os.close(told)
        for _ in range(random.randrange(3)):
            assert os.read(out, 1) == b"."
        time.sleep(random.uniform(0.0, usual_s))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(out)
        facts = lake.verify(KEY)
        assert facts.n_rows == 2000 + 500 * int(facts.code_version)
        versions.append(facts.code_version)
    return {"versions": versions}


print(json.dumps(globals()[sys.argv[2]]()))
'''


def run(tmp_path: Path, act: str) -> dict:
    helper = tmp_path / "helper.py"
    helper.write_text(HELPER)
    done = subprocess.run(
        [sys.executable, str(helper), str(tmp_path / "root"), act], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_any_line_the_head_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    seen = run(tmp_path, "every_line_of_publish")["seen"]
    assert len(seen) > 100
    assert seen[0] == "old"
    assert seen[-1] == "new"
    first_new = seen.index("new")
    assert set(seen[:first_new]) == {"old"}
    assert set(seen[first_new:]) == {"new"}


def test_killed_at_any_line_a_blob_is_whole_or_absent(tmp_path: Path) -> None:
    assert run(tmp_path, "every_line_of_put_blob")["lines"] > 30


def test_killed_at_random_moments_the_head_is_one_generation(tmp_path: Path) -> None:
    assert len(set(run(tmp_path, "random_moments")["versions"])) > 1


@pytest.mark.parametrize("kind", ["limit", "tmpfs"])
def test_full_disk_leaves_the_former_value(tmp_path: Path, kind: str) -> None:
    """With a file-size limit (EFBIG), and on a file system of 1 MiB where it can be mounted (ENOSPC)."""
    root = tmp_path / "root"
    root.mkdir()
    if kind == "tmpfs":
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root)], capture_output=True)
        if mounted.returncode:
            pytest.skip("this user may not mount a tmpfs")
    try:
        done = subprocess.run(
            [sys.executable, "-c", FULL_DISK, str(root), kind], capture_output=True, text=True, timeout=120
        )
    finally:
        if kind == "tmpfs":
            subprocess.run(["umount", "-l", str(root)], check=True)
    assert done.returncode == 0, done.stderr
    expected = {"limit": "File too large", "tmpfs": "No space left on device"}[kind]
    assert expected in done.stdout


FULL_DISK = """
import resource, sys
import numpy as np
from atomvision_ml.schemas.tables import table
from atomvision_ml.storage.lake import Lake, Version

key = "evaluation/gallery"
lake = Lake(sys.argv[1])

def rows(n_rows):
    words = np.random.default_rng(1).bytes(40 * n_rows).hex()
    sha = lake_blob
    return table(key).from_rows(
        [{"page": f"{i}", "title": words[80 * i : 80 * i + 80], "blob": sha, "n_items": 1} for i in range(n_rows)]
    )

(lake.scratch("b") / "file").write_text("x")
lake_blob = lake.put_blob(lake.scratch("b"))
former = lake.publish(key, rows(1000), version=Version(code_version="1"))
if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
try:
    lake.publish(key, rows(40_000), version=Version(code_version="2"))
except OSError as error:
    print(error)
else:
    raise SystemExit("published on a full disk")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert lake.verify(key) == former
assert list(lake.scratch("publish").iterdir()) == []
assert lake.publish(key, rows(500), version=Version(code_version="3")).n_rows == 500
"""
