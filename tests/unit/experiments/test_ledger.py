"""The inbox's book: nothing lost, nothing taken twice, whatever comes and whatever dies."""

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st
from inbox_runs import RULES, InboxRuns

from atomvision_ml.experiments.ledger import (
    NOT_PLAIN,
    InboxRules,
    Outcome,
    Stamp,
    begin,
    is_candidate,
    observe,
    plan,
    reconsider,
    release,
    renamed,
    settle,
    with_companions,
)


def sha(content):
    return hashlib.sha256(content.encode()).hexdigest()


def outcome(place, stamp, content):
    return Outcome(place, stamp, sha(content), "damaged" if content.startswith("bad") else "")


class Inbox(InboxRuns):
    """With a ledger in memory; time goes by in minutes."""

    def __init__(self):
        super().__init__(now=0.0)
        self.ledger = {}

    def kill(self, number):
        """A run dies of one of its files."""
        if self.runs:
            batch = self.runs.pop(number % len(self.runs))
            self.ledger, _ = begin(self.ledger, batch.key, *batch.files[number % len(batch.files)], RULES)
            self.ledger = release(self.ledger, batch.key, self.now, RULES)

    def tick(self, seconds=60.0):
        self.now += seconds
        self.ledger = observe(self.ledger, self.listing(), self.now, RULES)
        self.ledger, batches = plan(self.ledger, self.now, RULES)
        self.runs += batches

    def run(self, batch):
        """What a run of this batch finds in the folder now."""
        present = with_companions(self.listing())
        found = []
        for place, stamp in batch.files:
            self.ledger, is_wanted = begin(self.ledger, batch.key, place, stamp, RULES)
            if is_wanted and present.get(place) == stamp:
                found.append(outcome(place, stamp, self.files[place][1]))
        self.ledger = settle(self.ledger, found)
        return found

    def rest(self):
        """Until nothing is left to do."""
        for _ in range(40):
            self.tick(120.0)
            while self.runs:
                self.run(self.runs.pop())

    def states(self):
        return {place: entry.state for place, entry in self.ledger.items()}


PLACES = st.sampled_from(["a.dm3", "b.dm3", "sub/c.tif", "d.emd", "e.mrc"])
CONTENTS = st.sampled_from(["one", "two", "three", "bad one", "bad two"])
STEPS = st.one_of(
    st.tuples(st.just("put"), PLACES, CONTENTS),
    st.tuples(st.just("move"), PLACES, PLACES),
    st.tuples(st.just("remove"), PLACES),
    st.tuples(st.just("tick"), st.sampled_from([1.0, 30.0, 90.0, 700.0])),
    st.tuples(st.just("end"), st.integers(0, 5)),
    st.tuples(st.just("repeat"), st.integers(0, 5)),
    st.tuples(st.just("kill"), st.integers(0, 5)),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(STEPS, max_size=30))
def test_every_content_is_taken_exactly_once(steps):
    inbox = Inbox()
    for name, *arguments in steps:
        getattr(inbox, name)(*arguments)
    inbox.rest()
    accepted = [entry.sha256 for entry in inbox.ledger.values() if entry.state == "accepted"]
    once = accepted + [content for entry in inbox.ledger.values() for content in entry.earlier]
    assert len(once) == len(set(once))
    for place, (_, content) in inbox.files.items():
        entry = inbox.ledger[place]
        if entry.reason.endswith("ended while reading it"):
            assert entry.attempts >= RULES.maximum_attempts
        elif content.startswith("bad"):
            assert (entry.state, entry.sha256, entry.reason) == ("rejected", sha(content), "damaged")
        else:
            assert entry.state in ("accepted", "duplicate")
            assert entry.sha256 == sha(content)
            assert sha(content) in once


def test_a_file_that_grows_waits():
    inbox = Inbox()
    for size in range(1, 6):
        inbox.put("a.dm3", "x" * size)
        inbox.tick(59.0)
        assert inbox.states() == {"a.dm3": "new"}
    inbox.tick(61.0)
    assert inbox.states() == {"a.dm3": "claimed"}


def test_a_rename_is_the_same_file():
    inbox = Inbox()
    inbox.put("a.dm3", "one")
    inbox.rest()
    inbox.files["b.dm3"] = inbox.files.pop("a.dm3")
    inbox.rest()
    assert inbox.states() == {"a.dm3": "accepted", "b.dm3": "duplicate"}
    assert renamed(inbox.ledger) == {"a.dm3": "b.dm3"}


def test_ten_identical_uploads_change_nothing():
    inbox = Inbox()
    inbox.put("a.dm3", "one")
    inbox.rest()
    for number in range(10):
        inbox.put(f"copy_{number}.dm3", "one")
        inbox.put("a.dm3", "one")
    inbox.rest()
    states = list(inbox.states().values())
    assert (states.count("accepted"), states.count("duplicate")) == (1, 10)
    assert inbox.ledger["a.dm3"].earlier == ()


def test_content_of_a_replaced_file_is_not_taken_again():
    inbox = Inbox()
    inbox.put("a.dm3", "one")
    inbox.rest()
    inbox.put("a.dm3", "two")
    inbox.rest()
    inbox.put("b.dm3", "one")
    inbox.rest()
    assert inbox.ledger["a.dm3"].earlier == (sha("one"),)
    assert (inbox.ledger["b.dm3"].state, inbox.ledger["b.dm3"].duplicate_of) == ("duplicate", "a.dm3")


def test_a_file_that_kills_its_runs_is_rejected_at_last():
    inbox = Inbox()
    inbox.put("a.dm3", "one")
    keys = set()
    for _ in range(6):
        inbox.tick(700.0)
        keys |= {batch.key for batch in inbox.runs}
        inbox.kill(0)
    assert len(keys) == RULES.maximum_attempts
    assert inbox.ledger["a.dm3"].reason == "3 runs ended while reading it"
    inbox.ledger = reconsider(inbox.ledger, ["a.dm3"])
    inbox.rest()
    assert inbox.states() == {"a.dm3": "accepted"}


def test_runs_that_die_before_a_file_do_not_count_against_it():
    inbox = Inbox()
    inbox.put("a.dm3", "one")
    for _ in range(9):
        inbox.tick(700.0)
        inbox.runs.clear()
    inbox.rest()
    assert inbox.states() == {"a.dm3": "accepted"}


def test_files_of_an_ended_run_are_offered_again_after_a_pause_that_grows():
    inbox = Inbox()
    inbox.put("a.dm3", "one")
    inbox.tick()
    inbox.tick()
    pauses = []
    for _ in range(2):
        (batch,) = inbox.runs
        inbox.runs.clear()
        began = inbox.now
        inbox.ledger = release(inbox.ledger, batch.key, inbox.now, RULES)
        while not inbox.runs:
            inbox.tick(10.0)
            inbox.ledger = release(inbox.ledger, batch.key, inbox.now, RULES)
        pauses.append(inbox.now - began)
    assert pauses == [60.0, 240.0]


def test_so_many_runs_are_open_at_a_time():
    rules = InboxRules(minimum_age_s=0, batch_size=1, maximum_batches=2, maximum_open=3)
    listing = {f"{number}.dm3": Stamp(1, str(number)) for number in range(9)}
    ledger = observe(observe({}, listing, 0.0, rules), listing, 1.0, rules)
    counts = []
    for now in (2.0, 3.0, 4.0, 3700.0):
        ledger, batches = plan(ledger, now, rules)
        counts.append(len(batches))
    assert counts == [2, 1, 0, 2]


def test_a_sidecar_that_comes_later_has_its_file_read_again():
    inbox = Inbox()
    inbox.put("a.dm3", "one")
    inbox.rest()
    inbox.put("a.dm3.meta.yaml", "labels")
    inbox.tick()
    assert inbox.states() == {"a.dm3": "new"}
    inbox.rest()
    assert inbox.states() == {"a.dm3": "accepted"}
    assert inbox.ledger["a.dm3"].earlier == ()


def test_ticks_are_bounded():
    inbox = Inbox()
    for number in range(50):
        inbox.put(f"{number:02d}.dm3", str(number))
    inbox.tick()
    assert len(inbox.ledger) == RULES.maximum_new
    for _ in range(20):
        before = len(inbox.runs)
        inbox.tick()
        assert len(inbox.runs) - before <= RULES.maximum_batches
        assert all(len(batch.files) <= RULES.batch_size for batch in inbox.runs)
    inbox.rest()
    assert list(inbox.states().values()) == ["accepted"] * 50


def test_a_series_goes_with_its_header():
    inbox = Inbox()
    inbox.put("scan.emi", "header")
    inbox.tick(100.0)
    inbox.tick(100.0)
    assert inbox.states() == {"scan.emi": "new"}
    inbox.put("scan_1.ser", "pixels")
    inbox.rest()
    assert inbox.states() == {"scan.emi": "accepted", "scan_1.ser": "new"}
    inbox.put("alone_1.ser", "others")
    inbox.rest()
    assert inbox.states()["alone_1.ser"] == "accepted"


def test_a_series_is_a_file_of_its_own_once_its_header_is_refused_or_gone():
    inbox = Inbox()
    for place, content in (("scan.emi", "bad header"), ("scan_1.ser", "pixels"), ("scan_22.ser", "others")):
        inbox.put(place, content)
    inbox.tick(100.0)
    inbox.tick(100.0)
    assert inbox.states() == {"scan.emi": "claimed", "scan_1.ser": "new", "scan_22.ser": "new"}
    inbox.rest()
    assert inbox.states() == {"scan.emi": "rejected", "scan_1.ser": "accepted", "scan_22.ser": "accepted"}
    inbox.put("late.EMI", "header")
    inbox.put("late_1.ser", "more")
    inbox.rest()
    assert inbox.states()["late_1.ser"] == "new"
    inbox.remove("late.EMI")
    inbox.rest()
    assert inbox.states()["late_1.ser"] == "accepted"


def test_a_series_waits_for_a_header_that_is_being_replaced_or_whose_sidecar_is_wrong():
    inbox = Inbox()
    inbox.put("scan.emi", "bad header")
    inbox.put("scan_1.ser", "pixels")
    inbox.tick(100.0)
    inbox.tick(100.0)
    (batch,) = inbox.runs
    ((place, stamp),) = batch.files
    spoilt = settle(inbox.ledger, [Outcome(place, stamp, sha("header"), "sidecar: colour is no field")])
    for _ in range(3):
        spoilt = observe(spoilt, inbox.listing(), inbox.now + 1e4, RULES)
        assert spoilt["scan_1.ser"].state == "new"
    inbox.end(0)
    inbox.put("scan.emi", "header")
    inbox.tick(0.0)
    assert inbox.states() == {"scan.emi": "new", "scan_1.ser": "new"}
    inbox.rest()
    assert inbox.states() == {"scan.emi": "accepted", "scan_1.ser": "new"}


def test_what_is_no_plain_file_is_rejected_once_it_rests_and_never_claimed():
    link = Stamp(0, f"{NOT_PLAIN}a symbolic link,17")
    listing = dict.fromkeys(("a.dm3", "a.dm3.meta.yaml", "scan.emi", "x_1.ser", ".hidden", "b.tif.part", "c~"), link)
    listing |= {"x.emi": Stamp(1, "18"), "scan_1.ser": Stamp(1, "19")}
    ledger, rules = {}, RULES.model_copy(update={"maximum_new": 100})
    for now_s, n_rejected in ((0.0, 0), (59.0, 0), (61.0, 4), (99.0, 4)):
        ledger = observe(ledger, listing, now_s, rules)
        assert sum(entry.state == "rejected" for entry in ledger.values()) == n_rejected
    assert set(ledger) == {"a.dm3", "a.dm3.meta.yaml", "scan.emi", "x_1.ser", "x.emi", "scan_1.ser"}
    assert {entry.reason for entry in ledger.values()} == {"", "not a plain file: a symbolic link"}
    assert (ledger["x.emi"].state, ledger["scan_1.ser"].state) == ("new", "ready")
    assert reconsider(ledger, list(ledger)) == ledger
    _, batches = plan(ledger, 99.0, rules)
    assert [place for batch in batches for place, _ in batch.files] == ["scan_1.ser"]
    assert observe(observe(ledger, {}, 150.0, rules), listing, 200.0, rules) == ledger


def test_what_is_no_file_to_read():
    for place in ("a.dm3.part", "a.tmp", "~$a.tif", ".nfs0001", "sub/.hidden.dm3", "a.dm3.meta.yaml", "a.tif~", "b/"):
        assert not is_candidate(place)
    assert is_candidate("sub/partial results.dm3")
