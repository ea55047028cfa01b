"""``atomvision arxiv``: the double for a person, a few requests to arXiv itself, and the public list of figures.

Belongs here: options and messages; what is done lies in :mod:`atomvision_ml.literature`.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomvision_ml.catalog.export import Format
from atomvision_ml.cli.output import failed, output_stream

if TYPE_CHECKING:
    from atomvision_ml.literature.double.corpus_reader import Corpus
    from atomvision_ml.literature.smoke import SmokeParameters
    from atomvision_ml.literature.transport import Transport, TransportParameters
    from atomvision_ml.storage.lake import Lake

app = typer.Typer(no_args_is_help=True, help="The literature: an offline arXiv, a look at the real one, the links.")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command()
def serve_double(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on loopback; 0 takes a free one.")] = 8377,
    storm: Annotated[float, typer.Option(min=0, max=1, help="Share of the replies that are faulty.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the faults.")] = 0,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Serve the papers as they were on this day.")
    ] = None,
    page_records: Annotated[int, typer.Option(min=1, help="Records of a page of OAI-PMH.")] = 7,
    log: Annotated[Path | None, typer.Option(help="File for the log, a line of JSON for each request.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Folder of other papers than those of this package.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The addresses as one JSON object.")] = False,
) -> None:
    """Serve the offline double of arXiv until it is interrupted."""
    from atomvision_ml.literature.double.faults import Faults
    from atomvision_ml.literature.double.faults import storm as storm_rule
    from atomvision_ml.literature.double.server import serve

    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before any thread starts: all of them leave the signals to sigwait
    faults = Faults([storm_rule(storm)], seed) if storm else None
    try:
        held = _corpus(corpus, until)
        with serve(held, port=port, faults=faults, page_records=page_records, log=log) as double:
            addresses = {
                "ATOMVISION_ARXIV_OAI_URL": double.oai_url,
                "ATOMVISION_ARXIV_API_URL": double.api_url,
                "ATOMVISION_ARXIV_URL": double.url,
                "ATOMVISION_ARXIV_INTERVAL_S": "0.1",
            }
            lines = [json.dumps(addresses)] if as_json else [f"export {name}={url}" for name, url in addresses.items()]
            typer.echo("\n".join(lines))
            typer.echo(f"{len(held.papers)} papers are served; Ctrl-C ends it", err=True)
            sys.stdout.flush()
            signal.sigwait(ends)
    except (OSError, ValueError) as error:
        raise failed(str(error)) from None
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)


@app.command()
def smoke(
    is_live: Annotated[bool, typer.Option("--live", help="Yes, ask the servers; without it nothing is asked.")] = False,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day that is asked for; else three days ago.")
    ] = None,
    paper: Annotated[str, typer.Option(help="A version whose full text and source are asked for.")] = "0708.2306v1",
    as_json: AsJson = False,
) -> None:
    """Ask arXiv ten times, three seconds apart, and tell whether its answers are understood.

    Asks the servers that the settings name. Exit code 1 if an answer is not understood.
    """
    from atomvision_ml.literature.smoke import MAXIMUM_REQUESTS
    from atomvision_ml.literature.smoke import smoke as ask_all

    day = since.date() if since else datetime.now(UTC).date() - timedelta(days=3)
    try:
        parameters, patience = _smoke_parameters(day, paper)
        if not is_live:
            raise ValueError(
                f"this sends up to {MAXIMUM_REQUESTS} requests to {parameters.oai_url} and others in the name of "
                f"{patience.contact}; say --live if that is meant"
            )
        with _transport(patience) as transport:
            passed = True
            for probe in ask_all(transport, parameters):
                passed &= probe.passed
                line = f"{'ok  ' if probe.passed else 'FAIL'} {probe.duration_s:6.1f} s  {probe.name}: {probe.said}"
                typer.echo(json.dumps(asdict(probe)) if as_json else line)
    except (OSError, ValueError) as error:
        raise failed(str(error), code=2) from None
    if not passed:
        raise typer.Exit(1)


@app.command()
def compare(
    months: Annotated[list[str], typer.Argument(metavar="MONTH...", help="Months of first versions, e.g. 2018-03.")],
    as_json: AsJson = False,
) -> None:
    """Ask the Atom API whether it knows papers of a month that the harvest did not bring.

    Asks the servers that the settings name. Exit code 1 if a paper is missing.
    """
    from atomvision_ml.literature.finder import FinderParameters, categories_of, compare_month
    from atomvision_ml.literature.replies import LiteratureError
    from atomvision_ml.literature.transport import TransportParameters
    from atomvision_ml.settings import settings
    from atomvision_ml.storage.lake import Lake

    chosen = settings()
    try:
        lake = Lake.from_settings()
        patience = TransportParameters(contact=_contact(chosen.contact), interval_s=chosen.arxiv_interval_s)
        parameters = FinderParameters(base_url=chosen.arxiv_api_url, categories=categories_of(chosen.arxiv_set))
        known = {month: _abstracts(lake, month) for month in months}
        n_missing = 0
        with _transport(patience) as transport:
            for month in months:
                found = compare_month(transport, parameters, month, known[month])
                n_missing += len(found.missing)
                said = f"{len(found.found)} of {found.n_hits} hits name a microscopy, {len(found.missing)} are missing"
                line = f"{month}: {said}{''.join(f' {name}' for name in found.missing)}"
                typer.echo(json.dumps(asdict(found)) if as_json else line)
    except (OSError, ValueError, LiteratureError) as error:
        raise failed(str(error), code=2) from None
    if n_missing:
        raise typer.Exit(1)


@app.command()
def export(
    form: Annotated[Format, typer.Option("--format", help="Form of the list.")] = "csv",
    out: Annotated[Path | None, typer.Option(help="File to write instead of standard output.")] = None,
) -> None:
    """Write the public list of figures: links to images and papers, captions where the licence allows them."""
    from atomvision_ml.literature.export import write_links
    from atomvision_ml.storage.errors import NotPublishedError
    from atomvision_ml.storage.lake import Lake

    if form == "parquet" and out is None and sys.stdout.isatty():
        raise failed("Parquet is binary: redirect the output to a file, or use --out FILE")
    try:
        with output_stream(out) as stream:
            write_links(Lake.from_settings(), form, stream)
    except NotPublishedError as error:
        raise failed(f"{error}, by the job export_literature") from None
    except OSError as error:
        raise failed(str(error)) from None


def _corpus(folder: Path | None, until: datetime | None) -> Corpus:
    from atomvision_ml.literature.double.corpus_reader import read_corpus

    held = read_corpus(folder)
    return held if until is None else held.until(until.date())


def _smoke_parameters(since: date, paper: str) -> tuple[SmokeParameters, TransportParameters]:
    from atomvision_ml.literature.smoke import SmokeParameters
    from atomvision_ml.literature.transport import TransportParameters
    from atomvision_ml.settings import settings

    chosen = settings()
    contact = _contact(chosen.contact)
    asked = SmokeParameters(
        oai_url=chosen.arxiv_oai_url,
        api_url=chosen.arxiv_api_url,
        url=chosen.arxiv_url,
        set_name=chosen.arxiv_set,
        since=since,
        paper=paper,
    )
    return asked, TransportParameters(contact=contact, interval_s=chosen.arxiv_interval_s, attempts=1)


def _contact(contact: str | None) -> str:
    if contact is None:
        raise ValueError("arXiv wants to know whom to write to: set ATOMVISION_CONTACT to a mail address")
    return contact


def _abstracts(lake: Lake, month: str) -> dict[str, str]:
    """Abstracts of a month's harvested papers by identifier."""
    from atomvision_ml.storage.keys import LITERATURE_PAPERS

    published = lake.partitions(LITERATURE_PAPERS)
    if not published:
        raise ValueError(f"no papers in {lake.root}: run the job harvest_literature first")
    if month not in published:
        return {}
    papers = lake.scan(LITERATURE_PAPERS, month).select("arxiv_id", "abstract").collect()
    return dict(papers.iter_rows())


def _transport(patience: TransportParameters) -> Transport:
    """The way to arXiv with the rate limit of all that this user runs on the machine."""
    import importlib.metadata

    from atomvision_ml.literature.transport import Transport
    from atomvision_ml.settings import settings

    return Transport(patience, settings().requests_folder(), importlib.metadata.version("atomvision"))
