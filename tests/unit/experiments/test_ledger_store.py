"""The ledger on disk: whatever moves, is replaced, dies, repeats or runs twice, each content is received once."""

import json
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inbox_runs import RULES, InboxRuns

from atomvision_ml.experiments.ledger import InboxRules, Outcome, Stamp, with_companions
from atomvision_ml.experiments.ledger_store import LedgerError, LedgerStore

NOON = 1_780_000_000.0 - 1_780_000_000.0 % 86_400 + 43_200
DAY_S = 86_400.0


def outcome(place, stamp, content, sidecar=""):
    """What a run finds in a file whose text is its content: images are separated by '+', 'flat' ones are left out."""
    sha256 = f"file of {content}"
    if content.startswith("bad"):
        return Outcome(place, stamp, sha256, "damaged", ({"original_filename": place},))
    images = list(enumerate(content.removeprefix("other container of ").split("+")))
    rows = tuple(
        {"record_id": f"{pixels}-{index}", "pixel_sha256": pixels, "signal_index": index, "label": sidecar}
        for index, pixels in images
        if pixels != "flat"
    )
    left_out = tuple({"signal_index": index, "reason": "flat"} for index, pixels in images if pixels == "flat")
    return Outcome(place, stamp, sha256, "", rows, left_out)


class Inbox(InboxRuns):
    """With its ledger on disk."""

    def __init__(self, folder):
        super().__init__(now=NOON)
        self.store = LedgerStore(folder / "ledger.sqlite", RULES)

    def tick(self, seconds=60.0):
        self.now += seconds
        found = self.store.tick(self.listing(), self.now, ended=[batch.key for batch in self.ended])
        self.runs += found.batches
        return found

    def run(self, batch, n_files=None):
        """A run of a batch, which is killed after so many files: within the next one."""
        for number, (place, stamp) in enumerate(self.store.batch(batch.key).files):
            if not self.store.begin(batch.key, place, stamp) or number == n_files:
                continue
            if with_companions(self.listing()).get(place) == stamp:
                sidecar = self.files.get(f"{place}.meta.yaml", (None, ""))[1]
                self.store.settle(batch.key, outcome(place, stamp, self.files[place][1], sidecar))

    def kill(self, number):
        if self.runs:
            self.ended.append(self.runs.pop(number % len(self.runs)))
            self.run(self.ended[-1], number)

    def rest(self):
        for _ in range(40):
            self.tick(400.0)
            is_idle = not self.runs
            while self.runs:
                self.end(0)
            states = {entry.state for entry in self.store.entries().values() if entry.is_present}
            if is_idle and states <= {"accepted", "duplicate", "rejected"}:
                return

    def receipts(self):
        return [receipt for day in self.store.days() for receipt in self.store.rows(day)]

    def states(self):
        return {(receipt.place, receipt.signal_index): receipt.state for receipt in self.receipts()}


@pytest.fixture
def inbox(tmp_path):
    return Inbox(tmp_path)


PLACES = st.sampled_from(["a.dm3", "b.dm3", "sub/c.tif", "d.emd"])
CONTENTS = st.sampled_from(["one", "two", "one+two", "flat+one", "other container of one", "bad one"])
STEPS = st.one_of(
    st.tuples(st.just("put"), PLACES, CONTENTS),
    st.tuples(st.just("put"), PLACES.map("{}.meta.yaml".format), st.sampled_from(["square", "oblique"])),
    st.tuples(st.just("move"), PLACES, PLACES),
    st.tuples(st.just("remove"), PLACES),
    st.tuples(st.just("tick"), st.sampled_from([1.0, 90.0, 700.0, DAY_S])),
    st.tuples(st.just("end"), st.integers(0, 5)),
    st.tuples(st.just("repeat"), st.integers(0, 5)),
    st.tuples(st.just("kill"), st.integers(0, 5)),
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(STEPS, max_size=25))
def test_every_image_is_received_exactly_once(tmp_path_factory, steps):
    inbox = Inbox(tmp_path_factory.mktemp("inbox"))
    for name, *arguments in steps:
        getattr(inbox, name)(*arguments)
    inbox.rest()
    receipts, ledger = inbox.receipts(), inbox.store.entries()
    accepted = Counter(receipt.row["pixel_sha256"] for receipt in receipts if receipt.state == "accepted")
    assert not accepted or set(accepted.values()) == {1}
    current = Counter((one.place, one.sha256, one.signal_index, one.state == "rejected") for one in receipts
                      if one.state != "superseded" and one.sha256 is not None)  # fmt: skip
    assert not current or set(current.values()) == {1}
    for place, (_, content) in inbox.files.items():
        if place.endswith(".meta.yaml"):
            continue
        assert ledger[place].state in ("accepted", "duplicate", "rejected")
        told = [one for one in receipts if one.place == place and one.state != "superseded"]
        assert told
        if ledger[place].attempts < RULES.maximum_attempts and not content.startswith("bad"):
            here = [one for one in told if one.sha256 == f"file of {content}"]
            assert here
            for one in here:
                if one.state == "rejected":
                    assert content.split("+")[one.signal_index] == one.reason == "flat"
                else:
                    assert one.state == "accepted" or one.duplicate_of.split("-")[0] in accepted
    inbox.tick()
    before = [inbox.store.newest(day) for day in inbox.store.days()]
    inbox.rest()
    assert [inbox.store.newest(day) for day in inbox.store.days()] == before


def test_ten_identical_uploads_change_nothing(inbox):
    inbox.put("a.dm3", "one")
    inbox.rest()
    (before,) = inbox.receipts()
    for _ in range(10):
        inbox.put("a.dm3", "one")
        inbox.rest()
    assert inbox.receipts() == [before]
    assert inbox.store.newest(before.day) == before.number


def test_copies_and_exports_are_duplicates_of_the_image_that_came_first(inbox):
    inbox.put("a.dm3", "one+two")
    inbox.rest()
    inbox.put("copy.dm3", "one+two")
    inbox.put("export.tif", "other container of two")
    inbox.rest()
    told = {(one.place, one.signal_index): (one.state, one.duplicate_of) for one in inbox.receipts()}
    assert told == {
        ("a.dm3", 0): ("accepted", None),
        ("a.dm3", 1): ("accepted", None),
        ("copy.dm3", 0): ("duplicate", "one-0"),
        ("export.tif", 0): ("duplicate", "two-1"),
    }
    assert inbox.store.is_known("file of one+two", "copy.dm3")
    assert not inbox.store.is_known("file of one+two", "a.dm3")


def test_images_that_are_left_out_are_rejected_beside_the_others_once(inbox):
    told = {("a.dm3", 0): "rejected", ("a.dm3", 1): "accepted", ("a.dm3", 2): "rejected"}
    for _ in range(3):
        inbox.put("a.dm3", "flat+one+flat")
        inbox.rest()
        assert inbox.states() == told
        assert len(inbox.receipts()) == 3
    before = {receipt.number for receipt in inbox.receipts()}
    inbox.put("a.dm3.meta.yaml", "?")
    inbox.tick()
    (batch,) = inbox.tick(61.0).batches
    ((place, stamp),) = batch.files
    inbox.store.settle(batch.key, Outcome(place, stamp, "file of flat+one+flat", "its sidecar cannot be used"))
    assert inbox.states() == told | {("a.dm3", None): "rejected"}
    inbox.put("a.dm3.meta.yaml", "square")
    inbox.rest()
    current = {(one.signal_index, one.state) for one in inbox.receipts() if one.state != "superseded"}
    assert current == {(0, "rejected"), (1, "accepted"), (2, "rejected")}
    assert before < {receipt.number for receipt in inbox.receipts()}
    inbox.put("copy.dm3", "flat+one+flat")
    inbox.rest()
    assert [one.duplicate_of for one in inbox.receipts() if one.place == "copy.dm3"] == ["one-1"]


def test_a_label_that_comes_later_supersedes_the_image_under_its_new_day(inbox):
    inbox.put("a.dm3", "one")
    inbox.rest()
    (former,) = inbox.receipts()
    inbox.store.note_published(former.day, former.number)
    inbox.now += DAY_S
    inbox.put("a.dm3.meta.yaml", "square")
    inbox.rest()
    old, new = inbox.receipts()
    assert (old.state, old.day) == ("superseded", former.day)
    assert (new.state, new.row["label"]) == ("accepted", "square")
    assert new.day > old.day
    assert [day for day, _ in inbox.tick().stale_days] == [old.day, new.day]


def test_a_spoilt_sidecar_does_not_take_an_image_away(inbox):
    inbox.put("a.dm3", "one")
    inbox.rest()
    inbox.put("a.dm3.meta.yaml", "?")
    inbox.tick()
    (batch,) = inbox.tick(61.0).batches
    ((place, stamp),) = batch.files
    inbox.store.settle(batch.key, Outcome(place, stamp, "file of one", "its sidecar cannot be used"))
    assert sorted(one.state for one in inbox.receipts()) == ["accepted", "rejected"]
    inbox.put("a.dm3.meta.yaml", "square")
    inbox.rest()
    assert sorted(one.state for one in inbox.receipts()) == ["accepted", "superseded", "superseded"]


def test_a_file_that_kills_its_runs_is_rejected_with_a_receipt(inbox):
    inbox.put("a.dm3", "one")
    inbox.put("b.dm3", "two")
    for _ in range(12):
        inbox.tick(400.0)
        while inbox.runs:
            inbox.kill(0)
    assert inbox.states() == {("a.dm3", None): "rejected", ("b.dm3", 0): "accepted"}
    (rejected,) = [one for one in inbox.receipts() if one.state == "rejected"]
    assert (rejected.reason, rejected.sha256) == ("3 runs ended while reading it", None)
    inbox.store.reconsider(["a.dm3"])
    inbox.rest()
    assert ("a.dm3", 0) in inbox.states()


def test_an_open_batch_is_told_again_to_its_owner_alone(inbox):
    inbox.put("a.dm3", "one")
    listing = inbox.listing()
    inbox.store.tick(listing, NOON, owner="sensor")
    (batch,) = inbox.store.tick(listing, NOON + 61, owner="sensor").batches
    assert inbox.store.tick(listing, NOON + 90, owner="sensor").open == (batch,)
    assert inbox.store.tick(listing, NOON + 90, owner="a run").open == ()
    assert inbox.store.open_batches("sensor") == (batch.key,)
    inbox.store.settle(batch.key, outcome("a.dm3", batch.files[0][1], "one"))
    assert inbox.store.open_batches("sensor") == ()
    assert inbox.store.batch(batch.key).files == ()


def test_a_day_is_stale_until_its_newest_change_is_published(inbox):
    inbox.put("a.dm3", "one")
    inbox.tick()
    inbox.tick()
    assert inbox.tick().stale_days == ()
    inbox.end(0)
    ((day, number),) = inbox.tick().stale_days
    assert number == inbox.store.newest(day) == 1
    inbox.store.note_published(day, number)
    assert inbox.tick().stale_days == ()


def test_what_may_not_be_settled(inbox):
    inbox.put("a.dm3", "one")
    inbox.tick()
    (batch,) = inbox.tick().batches
    ((place, stamp),) = batch.files
    with pytest.raises(KeyError, match="no batch"):
        inbox.store.settle("another", outcome(place, stamp, "one"))
    with pytest.raises(ValueError, match="none of its images"):
        inbox.store.settle(batch.key, Outcome(place, stamp, "sha"))
    with pytest.raises(ValueError, match="without pixel_sha256"):
        inbox.store.settle(batch.key, Outcome(place, stamp, "sha", "", ({"record_id": "r", "signal_index": 0},)))
    assert inbox.receipts() == []
    assert inbox.store.entries()["a.dm3"].state == "claimed"


def test_a_damaged_or_unknown_ledger_says_what_to_do(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(LedgerError, match="restore it from a backup"):
        LedgerStore(path).entries()
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="version 99"):
        LedgerStore(path).tick({}, 0.0)


N_FILES = 40
QUICK = InboxRules(minimum_age_s=0.001, claim_s=0.4, pause_s=0.01, batch_size=4, maximum_attempts=100)


def work(path, number, until_s):
    """A sensor and its runs in one process: claims and reads until all is settled; every file has a twin."""
    store = LedgerStore(path, QUICK)
    listing = {f"{place:03d}.dm3": Stamp(1, str(place)) for place in range(N_FILES)}
    while time.time() < until_s:
        tick = store.tick(listing, time.time(), owner=str(number))
        for batch in (*tick.batches, *tick.open):
            for place, stamp in batch.files:
                if store.begin(batch.key, place, stamp):
                    store.settle(batch.key, outcome(place, stamp, f"content {int(stamp.mark) // 2}"))
        entries = store.entries()
        if len(entries) == N_FILES and all(entry.state in ("accepted", "duplicate") for entry in entries.values()):
            return


def test_sensors_and_runs_at_once_that_are_killed_receive_every_content_once(tmp_path: Path) -> None:
    path, dice = tmp_path / "ledger.sqlite", random.Random(7)
    spawn = multiprocessing.get_context("fork")
    until_s = time.time() + 60

    def start(number: int) -> multiprocessing.Process:
        process = spawn.Process(target=work, args=(path, number, until_s))
        process.start()
        return process

    workers = [start(number) for number in range(3)]
    for kill in range(8):
        workers[kill % 3].join(dice.uniform(0.02, 0.2))
        if workers[kill % 3].is_alive():
            os.kill(workers[kill % 3].pid, signal.SIGKILL)
            workers[kill % 3].join()
            workers[kill % 3] = start(10 + kill)
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    store = LedgerStore(path)
    receipts = [receipt for day in store.days() for receipt in store.rows(day)]
    assert Counter(receipt.place for receipt in receipts) == {f"{place:03d}.dm3": 1 for place in range(N_FILES)}
    states = Counter((receipt.state, json.dumps(receipt.row.get("pixel_sha256"))) for receipt in receipts)
    assert states == {(state, json.dumps(f"content {place}")): 1 for place in range(N_FILES // 2)
                      for state in ("accepted", "duplicate")}  # fmt: skip
