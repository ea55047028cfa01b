"""The inbox as a resource: where files are dropped, and the ledger of them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from atomvision_ml.experiments.ledger_store import LedgerStore
    from atomvision_ml.experiments.places import Places
    from atomvision_ml.experiments.profiles import Profile
    from atomvision_ml.settings import Settings

BATCH_TAG = "atomvision/batch"
"""On a run: key of the batch of files that it reads."""


class Inbox(dg.ConfigurableResource):
    """A watched folder, or a prefix of an S3 bucket."""

    url: str
    ledger: str
    s3_endpoint_url: str | None = None
    rest_s: float = 60.0
    claim_s: float = 3600.0
    partner_wait_s: float = 600.0
    profiles_folder: str | None = None

    @classmethod
    def of(cls, chosen: Settings) -> Inbox:
        """The one that the settings name; each has its own ledger."""
        return cls(
            url=chosen.inbox_url(),
            ledger=str(chosen.inbox_ledger_path()),
            s3_endpoint_url=chosen.s3_endpoint_url,
            rest_s=chosen.inbox_rest_s,
            claim_s=chosen.inbox_claim_s,
            profiles_folder=None if chosen.profiles_folder() is None else str(chosen.profiles_folder()),
        )

    def profiles(self) -> tuple[Profile, ...]:
        """Translations of headers, as the folder has them now; raises ProfileError."""
        from atomvision_ml.experiments.profiles import load_profiles

        return load_profiles(self.profiles_folder)

    def parameters(self) -> dict[str, str]:
        """What of the inbox makes other records of the same files: the digest of own profiles; raises ProfileError."""
        from atomvision_ml.experiments.profiles import digest

        return {} if self.profiles_folder is None else {"profiles_sha256": digest(self.profiles())}

    @cached_property
    def places(self) -> Places:
        """The files."""
        from atomvision_ml.experiments.places import BucketPlaces, FolderPlaces

        if not self.url.startswith("s3://"):
            return FolderPlaces(Path(self.url).expanduser())
        from dagster_aws.s3 import S3Resource

        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        return BucketPlaces(S3Resource(endpoint_url=self.s3_endpoint_url).get_client(), bucket, prefix)

    @cached_property
    def store(self) -> LedgerStore:
        """The ledger."""
        from atomvision_ml.experiments.ledger import InboxRules
        from atomvision_ml.experiments.ledger_store import LedgerStore

        rules = InboxRules(minimum_age_s=self.rest_s, claim_s=self.claim_s, partner_wait_s=self.partner_wait_s)
        return LedgerStore(self.ledger, rules)
