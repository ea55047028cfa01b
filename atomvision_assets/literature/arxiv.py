"""The way to arXiv, as a resource: whom to ask, how fast, and who asks."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from atomvision_assets.failures import PermanentFailure

if TYPE_CHECKING:
    from atomvision_ml.literature.transport import Transport
    from atomvision_ml.settings import Settings
    from atomvision_ml.storage.lake import Lake

POOL = "arxiv_http"
"""Steps that ask arXiv's servers: one at a time, over all runs."""

NO_CONTACT = (
    "arXiv is not asked without a contact: set ATOMVISION_CONTACT to the mail address of a person who answers for the "
    "requests"
)


class Arxiv(dg.ConfigurableResource):
    """arXiv, or a double of it."""

    contact: str | None = None
    oai_url: str = "https://oaipmh.arxiv.org/oai"
    api_url: str = "https://export.arxiv.org/api/query"
    url: str = "https://arxiv.org"
    set_name: str = "physics:cond-mat"
    interval_s: float = 3.0
    attempts: int = 6
    backoff_s: float = 30.0
    read_timeout_s: float = 150.0
    requests_folder: str | None = None

    @classmethod
    def of(cls, chosen: Settings) -> Arxiv:
        """The one that the settings name."""
        return cls(
            contact=chosen.contact,
            oai_url=chosen.arxiv_oai_url,
            api_url=chosen.arxiv_api_url,
            url=chosen.arxiv_url,
            set_name=chosen.arxiv_set,
            interval_s=chosen.arxiv_interval_s,
            requests_folder=str(chosen.requests_folder()),
        )

    def transport(self, lake: Lake) -> Transport:
        """The connection; a context manager. All processes with the same ``requests_folder`` share its rate limit.

        Raises:
            PermanentFailure: there is no contact, or none that is a mail address.
        """
        from pydantic import ValidationError

        from atomvision_ml.literature.transport import Transport, TransportParameters

        if self.contact is None:
            raise PermanentFailure(NO_CONTACT)
        try:
            parameters = TransportParameters(
                contact=self.contact,
                interval_s=self.interval_s,
                attempts=self.attempts,
                backoff_s=self.backoff_s,
                read_timeout_s=self.read_timeout_s,
            )
        except ValidationError as error:
            raise PermanentFailure(f"the parameters of the way to arXiv are wrong: {error}") from error
        shared = Path(self.requests_folder) if self.requests_folder else lake.local / "locks" / "arxiv"
        return Transport(parameters, shared, importlib.metadata.version("atomvision"))
