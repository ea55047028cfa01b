"""The one reader of the environment (prefix ``ATOMVISION_``)."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where things are and how much of the machine to use.

    Nothing here changes what a data set is, but the instrument profiles, and these are among its parameters.
    """

    model_config = SettingsConfigDict(env_prefix="ATOMVISION_", frozen=True, extra="ignore")

    root: str = Field(default=".atomvision", description="Root of all published data: a folder, or s3://bucket/prefix.")
    sources: Path | None = Field(
        default=None,
        description="Folder that holds the structure databases, at any depth, plain or compressed.",
    )
    size: Literal["demo", "full"] = Field(default="demo", description="Default size of trainings and evaluations.")
    device: str = Field(default="auto", description="torch device for training: auto, cpu, cuda, cuda:1.")
    threads: int = Field(default=0, ge=0, description="Threads for numerical work; 0 = all cores.")
    automation: Literal["RUNNING", "STOPPED"] = Field(
        default="STOPPED",
        description="Initial state of the sensors, and of the schedule that adopts waiting micrographs.",
    )
    sensor_interval_s: int = Field(default=30, ge=1, description="Time between two ticks of a sensor.")
    s3_endpoint_url: str | None = Field(default=None, description="S3 endpoint other than AWS's own.")
    state: Path = Field(
        default=Path("~/.cache/atomvision"),
        description="Folder that all data roots of this user share: when arXiv was asked last.",
    )

    inbox: str | None = Field(
        default=None,
        description="Where people drop files: a folder, or s3://bucket/prefix; `inbox/files` of the root if None.",
    )
    inbox_ledger: Path | None = Field(
        default=None,
        description="The inbox's book, a SQLite file of this machine; `inbox/ledger.sqlite` of the root if None.",
    )
    inbox_rest_s: float = Field(default=60.0, ge=0, description="Time for which a file must rest before it is read.")
    inbox_claim_s: float = Field(
        default=3600.0, gt=0, description="Time after which a dead run's files are offered again."
    )
    profiles: Path | None = Field(
        default=None,
        description="Folder of instrument profiles (YAML) that come before the built-in ones, for all that read files.",
    )

    contact: str | None = Field(default=None, description="Mail address that arXiv's operators may write to.")
    arxiv_oai_url: str = Field(default="https://oaipmh.arxiv.org/oai", description="arXiv's OAI-PMH interface.")
    arxiv_api_url: str = Field(default="https://export.arxiv.org/api/query", description="arXiv's Atom interface.")
    arxiv_url: str = Field(default="https://arxiv.org", description="Where full texts and sources are.")
    arxiv_set: str = Field(default="physics:cond-mat", description="Set of papers that is harvested.")
    arxiv_interval_s: float = Field(
        default=3.0, ge=0, description="Time between two requests; less than 3 s is refused for arXiv's own hosts."
    )

    def requests_folder(self) -> Path:
        """Where the times of requests to other people's servers are kept, for their rate limits."""
        return self.state.expanduser().resolve() / "requests"

    def inbox_url(self) -> str:
        """Where people drop files: an absolute folder, or s3://bucket/prefix."""
        if self.inbox is not None and self.inbox.startswith("s3://"):
            return self.inbox
        return str(Path(self.inbox or self._inbox_folder() / "files").expanduser().resolve())

    def inbox_ledger_path(self) -> Path:
        """The inbox's book on this machine."""
        return (self.inbox_ledger or self._inbox_folder() / "ledger.sqlite").expanduser().resolve()

    def profiles_folder(self) -> Path | None:
        """The folder of own instrument profiles, absolute; None if there is none."""
        return None if self.profiles is None else self.profiles.expanduser().resolve()

    def _inbox_folder(self) -> Path:
        if not self.root.startswith("s3://"):
            return self.local_root() / "inbox"
        return self.state.expanduser() / "inboxes" / hashlib.sha256(self.root.encode()).hexdigest()[:16] / "inbox"

    def local_root(self) -> Path:
        """The root as an absolute folder; raises ValueError for an S3 root."""
        if self.root.startswith("s3://"):
            raise ValueError(f"ATOMVISION_ROOT={self.root} is not a folder of this machine")
        return Path(self.root).expanduser().resolve()


@cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()


def cores() -> int:
    """Cores for numerical work of this process: those that the settings allow, or all."""
    return settings().threads or os.cpu_count() or 1
