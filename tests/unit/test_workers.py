"""A worker for files of strangers: what it answers, and what becomes of one that cannot."""

import os
import struct

import pytest

from atomvision_ml.workers import Worker, WorkerError, WorkerLimits

LIMITS = WorkerLimits(memory_bytes=2**28, file_bytes=2**16, time_s=20, uses=2)


def answer(request):
    """In the worker."""
    match request["what"]:
        case "process":
            return {"process": os.getpid()}
        case "unpack":
            return {"value": struct.unpack("<i", b"x")}
        case "fill":
            return {"size": len(bytearray(2**30))}
        case "write":
            with open(request["path"], "wb") as file:
                file.write(bytes(2**17))
        case "exit":
            os._exit(3)
    return {}


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    with Worker("test_workers:answer", LIMITS) as made:
        yield made


def test_a_worker_is_used_so_often_and_replaced(worker):
    processes = [worker.ask({"what": "process"})["process"] for _ in range(4)]
    assert processes[0] == processes[1] != processes[2] == processes[3]
    assert worker.process_id == processes[3] != os.getpid()


@pytest.mark.parametrize(
    ("what", "code", "reason"),
    [
        ("unpack", "damaged", "unpack requires a buffer of 4 bytes"),
        ("fill", "too_much_memory", "more than 268435456 bytes"),
        ("write", "damaged", "File too large"),
        ("exit", "crashed", "ended with status 3"),
    ],
)
def test_a_request_that_fails_says_why_and_the_next_one_is_answered(worker, tmp_path, what, code, reason):
    with pytest.raises(WorkerError, match=reason) as caught:
        worker.ask({"what": what, "path": str(tmp_path / "large")})
    assert caught.value.code == code
    assert worker.ask({"what": "nothing"}) == {}


def test_a_worker_that_does_not_start_says_why():
    with Worker("no_such_module:answer", LIMITS) as worker, pytest.raises(RuntimeError, match="no_such_module"):
        worker.ask({})
