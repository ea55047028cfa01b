"""Objects in an S3 bucket, through obstore, with a cache of downloaded heads and blobs on this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from atomvision_ml.storage.blobs import check_sha256, manifest, settle_tree, tree_sha256, verify_tree
from atomvision_ml.storage.errors import BlobMissingError, NotPublishedError, PublicationRefusedError
from atomvision_ml.storage.files import replacing

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import S3Store


def open_bucket(root: str, endpoint_url: str | None) -> S3Store:
    """The store of ``s3://bucket/prefix``.

    Credentials and region come from the standard AWS chain (environment, profile, container, instance) and are
    asked for when a request is made; nothing keeps them.

    Raises:
        PermissionError: the chain has no credentials.
    """
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    session = boto3.Session()
    if session.get_credentials() is None:
        raise PermissionError(f"{root}: no AWS credentials found; set AWS_PROFILE or AWS_ACCESS_KEY_ID and its secret")
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    return S3Store(
        bucket,
        prefix=prefix.strip("/") or None,
        endpoint=endpoint_url,
        region=session.region_name or "us-east-1",
        client_options={"allow_http": bool(endpoint_url and endpoint_url.startswith("http://"))},
        credential_provider=Boto3CredentialProvider(session),
    )


class BucketObjects:
    """Heads are replaced by one conditional PUT; a blob counts once its manifest, written last, is there."""

    is_live = False

    def __init__(self, root: str, *, endpoint_url: str | None, cache: Path | None) -> None:
        self._store = open_bucket(root, endpoint_url)
        place = hashlib.sha256(f"{endpoint_url}|{root}".encode()).hexdigest()[:16]
        self.local = (cache or Path.home() / ".cache" / "atomvision").expanduser().resolve() / place

    def etag(self, path: str) -> str | None:
        """The bucket's own tag."""
        import obstore

        try:
            return obstore.head(self._store, path)["e_tag"]
        except FileNotFoundError:
            return None

    def fetch(self, path: str) -> Path:
        """A cached file named by the tag, so that a reader keeps what it opened."""
        import obstore

        tag = self.etag(path)
        if tag is None:
            raise NotPublishedError(f"{path} is not in the bucket")
        file = self.local / "heads" / path / f"{hashlib.sha256(tag.encode()).hexdigest()[:32]}.parquet"
        if not file.is_file():
            result = obstore.get(self._store, path)
            if result.meta["e_tag"] != tag:
                return self.fetch(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as aside:
                aside.write_bytes(result.bytes())
        return file

    def names(self, folder: str) -> list[str]:
        """Names directly below a prefix."""
        import obstore

        found = obstore.list_with_delimiter(self._store, folder)
        paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in paths)

    def replace(self, path: str, file: Path, *, expected: str | None, may_publish: Callable[[], bool]) -> None:
        """One PUT with If-Match (or If-None-Match where there was no head)."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        if not may_publish():
            raise PublicationRefusedError(f"{path}: this run may no longer publish; the former value stays")
        mode: PutMode = "create" if expected is None else {"e_tag": expected}
        try:
            obstore.put(self._store, path, file, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
            raise PublicationRefusedError(
                f"{path}: another publisher replaced it meanwhile; its value stays. Run again if needed"
            ) from error

    def heads(self) -> list[str]:
        """Every ``data.parquet``."""
        import obstore

        found = [item["path"] for page in obstore.list(self._store, "published") for item in page]
        return sorted(path for path in found if path.endswith("/data.parquet"))

    def write_small(self, path: str, text: str) -> None:
        """One PUT."""
        import obstore

        obstore.put(self._store, path, text.encode())

    def read_small(self, path: str) -> str:
        """One GET; raises FileNotFoundError."""
        import obstore

        return bytes(obstore.get(self._store, path).bytes()).decode()

    def remove_small(self, path: str) -> None:
        """DELETE, which S3 accepts for what is not there."""
        import obstore

        obstore.delete(self._store, path)

    def put_tree(self, folder: Path) -> str:
        """Upload every file, then the manifest; keep the folder in the cache."""
        import obstore

        files = manifest(folder)
        sha = tree_sha256(files)
        if self.etag(_manifest_path(sha)) is None:
            for name in files:
                obstore.put(self._store, f"blobs/{sha}/{name}", folder / name)
        self.write_small(_manifest_path(sha), json.dumps(files))
        self._keep(folder, sha)
        return sha

    def fetch_tree(self, sha: str) -> Path:
        """The cached folder, downloaded and verified on first use."""
        import obstore

        target = self.local / "blobs" / check_sha256(sha)
        if target.is_dir():
            return target
        folder = self.local / "scratch" / f"fetch-{uuid4().hex}"
        try:
            for name in self._manifest(sha):
                file = folder / name
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("wb") as stream:
                    for chunk in obstore.get(self._store, f"blobs/{sha}/{name}").stream():
                        stream.write(chunk)
            verify_tree(folder, sha)
            self._keep(folder, sha)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return target

    def touch_tree(self, sha: str) -> None:
        """Write the manifest again."""
        self.write_small(_manifest_path(sha), json.dumps(self._manifest(sha)))

    def trees(self) -> dict[str, float]:
        """Age by the time of the manifest, or of the newest file where there is none."""
        import obstore

        newest: dict[str, datetime] = {}
        for page in obstore.list(self._store, "blobs"):
            for item in page:
                sha = item["path"].split("/")[1].removesuffix(".json")
                newest[sha] = max(newest.get(sha, item["last_modified"]), item["last_modified"])
        now = datetime.now(UTC)
        return {sha: (now - moment).total_seconds() for sha, moment in newest.items()}

    def remove_tree(self, sha: str, older_than_s: float) -> bool:
        """Look at the age once more, then delete the manifest first, so that the blob ends in one act."""
        import obstore

        if self.trees().get(sha, 0.0) < older_than_s:
            return False
        obstore.delete(self._store, _manifest_path(sha))
        for page in obstore.list(self._store, f"blobs/{sha}"):
            obstore.delete(self._store, [item["path"] for item in page])
        return True

    def _manifest(self, sha: str) -> dict[str, Any]:
        try:
            return json.loads(self.read_small(_manifest_path(check_sha256(sha))))
        except FileNotFoundError as error:
            raise BlobMissingError(f"blob {sha} is not in the bucket") from error

    def _keep(self, folder: Path, sha: str) -> None:
        target = self.local / "blobs" / sha
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = self.local / "scratch" / f"blob-{uuid4().hex}"
        staging.parent.mkdir(parents=True, exist_ok=True)
        settle_tree(folder, target, staging)


def _manifest_path(sha: str) -> str:
    return f"blobs/{sha}.json"
