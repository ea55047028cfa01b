"""Each fault of the double is the one that its name says, seen through the library's transport."""

import io
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import requests
from PIL import Image

from atomvision_ml.literature import atom, latexml, oai
from atomvision_ml.literature.double.corpus_reader import Corpus
from atomvision_ml.literature.double.faults import STORM, Faults, Kind, Rule, storm
from atomvision_ml.literature.double.server import serve
from atomvision_ml.literature.replies import DamagedReplyError, OutageError, RefusedError, Reply
from atomvision_ml.literature.transport import Transport, TransportParameters, found_or_missing

NOW = datetime(2018, 10, 1, tzinfo=UTC)
OAI = "/oai?verb=ListRecords&metadataPrefix=arXivRaw&set=physics:cond-mat"
ATOM = "/api/query?search_query=abs:STEM"
PAGE = "/html/1803.04417v1"
IMAGE = "/html/1803.04417v1/x1.png"

READ: dict[str, Callable[[Reply], Any]] = {
    OAI: oai.parse_page,
    ATOM: lambda reply: atom.parse_page(reply, start=0, page_size=10),
    PAGE: latexml.parse_figures,
    IMAGE: found_or_missing,
}
"""How each address is read."""
PASSING: list[tuple[Kind, str]] = [
    *((kind, OAI) for kind in STORM if kind not in ("short_page", "expired_token", "clock_skew")),
    *((kind, ATOM) for kind in STORM if kind not in ("expired_token", "clock_skew")),
    *((kind, PAGE) for kind in STORM if kind not in ("empty_page", "short_page", "expired_token", "clock_skew")),
    ("gzip_bomb", PAGE),
]
"""What passes if one asks again."""


def transport(folder: Path, **changes: Any) -> Transport:
    quick = {"contact": "curator@example.org", "interval_s": 0.0, "backoff_s": 0.0, "read_timeout_s": 5.0, **changes}
    return Transport(TransportParameters(**quick), folder, "0.1")


@pytest.mark.parametrize(("kind", "address"), PASSING)
def test_what_passes_is_recognised_and_asked_for_again(
    small_corpus: Corpus, tmp_path: Path, kind: Kind, address: str
) -> None:
    rule = Rule(kinds=(kind,), nth=(1,), silence_s=0.1, retry_after_s=0)
    with serve(small_corpus, faults=Faults([rule])) as double, transport(tmp_path) as client:
        assert client.get(double.url + address, READ[address])
    seen = [request for request in double.log.requests if request.path != "/redirected"]
    assert [request.fault for request in seen] == [kind, None]


@pytest.mark.parametrize("kind", ["silence", "cut_off", "reset"])
def test_a_lasting_fault_is_an_outage(small_corpus: Corpus, tmp_path: Path, kind: Kind) -> None:
    with (
        serve(small_corpus, faults=Faults([Rule(kinds=(kind,), probability=1)])) as double,
        transport(tmp_path, attempts=2, read_timeout_s=0.3) as client,
        pytest.raises(OutageError),
    ):
        client.get(double.url + OAI, oai.parse_page)
    first, second = double.log.requests
    assert second.began_s >= first.ended_s


@pytest.mark.parametrize(("kind", "address"), [("forbidden", PAGE), ("error_feed", ATOM)])
def test_what_is_refused_is_not_asked_for_again(small_corpus: Corpus, tmp_path: Path, kind: Kind, address: str) -> None:
    with (
        serve(small_corpus, faults=Faults([Rule(kinds=(kind,), nth=(1,))])) as double,
        transport(tmp_path) as client,
        pytest.raises(RefusedError),
    ):
        client.get(double.url + address, READ[address])
    assert len(double.log.requests) == 1


def test_no_results_look_like_a_good_reply(small_corpus: Corpus, tmp_path: Path) -> None:
    """That is the danger of it: only who knows that there must be hits can tell."""
    with (
        serve(small_corpus, faults=Faults([Rule(kinds=("no_results",), nth=(1,))])) as double,
        transport(tmp_path) as client,
    ):
        assert client.get(double.url + ATOM, READ[ATOM]).total == 0
        assert client.get(double.url + ATOM, READ[ATOM]).total == 2


@pytest.mark.parametrize("kind", ["damaged_image", "empty_image", "huge_image"])
def test_bad_images_come_with_status_200_and_cannot_be_decoded(
    small_corpus: Corpus, tmp_path: Path, kind: Kind
) -> None:
    with serve(small_corpus, faults=Faults([Rule(kinds=(kind,), probability=1)])) as double, transport(tmp_path) as one:
        reply = one.get(double.url + IMAGE, found_or_missing)
        page = one.get(double.url + PAGE, latexml.parse_figures)
    assert reply is not None
    assert len(reply.body) < 2**17
    assert len(page) == 1
    with pytest.raises((OSError, SyntaxError, Image.DecompressionBombError)):
        Image.open(io.BytesIO(reply.body)).load()


def test_a_token_can_be_forgotten_early(small_corpus: Corpus, tmp_path: Path) -> None:
    faults = Faults([Rule(kinds=("expired_token",), nth=(1,))])
    with serve(small_corpus, page_records=2, faults=faults) as double, transport(tmp_path) as client:
        page = client.get(double.url + OAI, oai.parse_page)
        with pytest.raises(oai.ExpiredTokenError):
            client.get(oai.next_url(double.oai_url, page.token), oai.parse_page)


def test_a_wrong_clock_shows_in_the_reply(small_corpus: Corpus, tmp_path: Path) -> None:
    faults = Faults([Rule(kinds=("clock_skew",), nth=(1,))])
    with serve(small_corpus, faults=faults, clock=lambda: NOW) as double, transport(tmp_path) as client:
        wrong, right = (client.get(double.url + OAI, oai.parse_page).responded_at for _ in range(2))
    assert (right, (wrong - right).days) == (NOW, 3)


def test_a_changed_record_moves_to_the_end_of_the_list(small_corpus: Corpus, tmp_path: Path) -> None:
    faults = Faults([Rule(kinds=("changed_record",), nth=(2,))])
    with serve(small_corpus, faults=faults, clock=lambda: NOW) as double, transport(tmp_path) as client:
        before, after = (client.get(double.url + OAI, oai.parse_page).records for _ in range(2))
        assert double.corpus != small_corpus
    moved = before[0].model_copy(update={"datestamp": NOW.date()})
    assert after == (*before[1:], moved)
    assert before[0].datestamp < date(2018, 10, 1)


def drawn(faults: Faults, addresses: list[str]) -> dict[str, list[Kind | None]]:
    found: dict[str, list[Kind | None]] = {address: [] for address in addresses}
    for address in addresses:
        fault = faults.draw(address)
        found[address].append(None if fault is None else fault[0])
    return found


def test_a_storm_depends_on_seed_and_address_only() -> None:
    addresses = [f"/html/1803.{number:05d}v1" for number in range(50)] * 6
    shuffled = random.Random(1).sample(addresses, len(addresses))
    assert drawn(Faults([storm()], 7), addresses) == drawn(Faults([storm()], 7), shuffled)
    assert drawn(Faults([storm()], 7), addresses) != drawn(Faults([storm()], 8), addresses)


def test_a_storm_has_its_share_and_never_lasts() -> None:
    addresses = [f"/oai?from=2018-03-{number:02d}&resumptionToken=x" for number in range(40)] * 50
    rows = drawn(Faults([storm(0.3)], 3), addresses).values()
    kinds = Counter(kind for row in rows for kind in row)
    assert 0.27 < 1 - kinds[None] / kinds.total() < 0.33
    assert set(kinds) == {*STORM, None} - {"short_page"}
    worst = drawn(Faults([storm(1.0)], 3), addresses).values()
    assert all([kind is None for kind in row] == ([False] * 4 + [True]) * 10 for row in worst)


def test_the_day_of_a_token_does_not_change_the_storm() -> None:
    days = [f"/oai?resumptionToken=skip%253D2%2526issued%253D2026-11-{day:02d}" for day in (1, 2)]
    first, second = (drawn(Faults([storm(0.5)], 3), [day] * 40)[day] for day in days)
    assert first == second


def test_nth_counts_the_matching_requests() -> None:
    faults = Faults([Rule(kinds=("reset",), path=r"^/html/", nth=(2, 3))])
    addresses = ["/html/a", "/src/a", "/html/b", "/oai", "/html/a", "/html/b"]
    assert [faults.draw(address) is not None for address in addresses] == [False, False, True, False, True, False]


@pytest.mark.parametrize("wrong", [{}, {"nth": (1,), "path": "("}, {"probability": 2.0}])
def test_wrong_rules_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Rule(kinds=("reset",), **wrong)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_can_be_served(small_corpus: Corpus, kind: Kind) -> None:
    addresses = [OAI, ATOM, PAGE, IMAGE, "/oai?verb=ListRecords&resumptionToken=x"]
    rule = Rule(kinds=(kind,), probability=1, silence_s=0)
    with serve(small_corpus, faults=Faults([rule])) as double:
        for address in addresses:
            try:
                requests.get(double.url + address, timeout=5, stream=True, allow_redirects=False).close()
            except requests.ConnectionError:
                assert kind in ("silence", "reset")
    faults = {request.fault for request in double.log.requests}
    assert len(double.log.requests) == len(addresses)
    assert kind in faults
    assert faults <= {kind, None}


def test_a_damaged_reply_is_never_read(small_corpus: Corpus) -> None:
    with serve(small_corpus, faults=Faults([Rule(kinds=("truncated",), probability=1)])) as double:
        replies = [requests.get(double.url + address, timeout=5) for address in (OAI, ATOM, PAGE)]
    for response, address in zip(replies, (OAI, ATOM, PAGE), strict=True):
        with pytest.raises(DamagedReplyError):
            READ[address](Reply(address, response.status_code, {}, response.content))
