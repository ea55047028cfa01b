"""Identity of published data: content hashes, data versions, and the facts kept in every Parquet file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from atomvision_ml.storage.errors import DamagedDataError

FACTS_KEY = b"atomvision.facts"
"""Key in the Parquet key-value metadata under which the facts stand, as JSON."""

BLOCK_ROWS = 1024
"""Rows that are hashed, and written as one row group, at a time; part of what a content hash is."""


class Version(BaseModel):
    """What a table was made from.

    ``inputs`` maps ``"key"`` or ``"key/partition"`` to the data version that was read; empty for a root.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    code_version: str
    parameters: dict[str, Any] = {}
    inputs: dict[str, str] = {}

    def data_version(self, content_sha256: str) -> str:
        """The content hash for a root, otherwise the hash of inputs, parameters and code version.

        So the float noise of another machine gives derived data no new version and retrains nothing.

        Raises:
            TypeError: a parameter is not plain JSON (numbers, strings, booleans, lists, dictionaries, null).
            ValueError: a parameter is NaN or infinite.
        """
        identity = json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(identity.encode()).hexdigest() if self.inputs else content_sha256


class Facts(BaseModel):
    """What is known of one published head; kept in its Parquet metadata."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    partition: str | None
    data_version: str
    content_sha256: str
    code_version: str
    parameters: dict[str, Any]
    inputs: dict[str, str]
    n_rows: int
    blobs: tuple[str, ...]

    @classmethod
    def read(cls, schema: pa.Schema, origin: object) -> Facts:
        """The facts in a Parquet file's schema metadata; raises DamagedDataError naming ``origin`` if absent."""
        text = (schema.metadata or {}).get(FACTS_KEY)
        if text is None:
            raise DamagedDataError(f"{origin} has no facts in its metadata: it was not written by AtomVision")
        return cls.model_validate_json(text)

    def version_apart_from(self, key: str) -> str:
        """The data version that it would have if it had been made without the input ``key``."""
        inputs = {name: version for name, version in self.inputs.items() if key_of(name) != key}
        made = Version(code_version=self.code_version, parameters=self.parameters, inputs=inputs)
        return made.data_version(self.content_sha256)

    def stamp(self, table: pa.Table) -> pa.Table:
        """The table with these facts in its schema metadata."""
        return table.replace_schema_metadata({FACTS_KEY: self.model_dump_json()})


def key_of(name: str) -> str:
    """The key in the name of an input, ``"key"`` or ``"key/partition"``."""
    return "/".join(name.split("/")[:2])


def content_sha256(table: pa.Table) -> str:
    """SHA-256 of names, types and values, in hexadecimal.

    It depends on neither chunking, compression, file layout nor whatever bytes lie behind nulls.
    """
    blocks = (table.slice(start, BLOCK_ROWS) for start in range(0, table.num_rows, BLOCK_ROWS))
    return blocks_sha256(table.schema, blocks)


def blocks_sha256(schema: pa.Schema, blocks: Iterable[pa.Table]) -> str:
    """:func:`content_sha256` of a table that comes in blocks of ``BLOCK_ROWS`` rows, the last one shorter."""
    digest = hashlib.sha256(repr([(field.name, _type_name(field.type)) for field in schema]).encode())
    for block in blocks:
        for column in block.combine_chunks().columns:
            _digest_array(digest, column.chunk(0))
    return digest.hexdigest()


def _type_name(kind: pa.DataType) -> str:
    """The type without the name of list items, which Parquet changes on the way."""
    if pa.types.is_list(kind):
        return f"list<{_type_name(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return "struct<" + ",".join(f"{field.name}:{_type_name(field.type)}" for field in kind) + ">"
    return str(kind)


def _digest_array(digest: hashlib._Hash, array: pa.Array) -> None:
    digest.update(len(array).to_bytes(8, "little"))
    digest.update(np.packbits(pc.is_valid(array).to_numpy(zero_copy_only=False)).tobytes())
    kind = array.type
    if pa.types.is_struct(kind):
        for child in array.flatten():
            _digest_array(digest, child)
    elif pa.types.is_list(kind):
        _digest_array(digest, pc.fill_null(pc.list_value_length(array), 0))
        _digest_array(digest, array.flatten())
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        _digest_array(digest, pc.fill_null(pc.binary_length(array), 0))
        digest.update(b"".join(array.cast(pa.binary()).drop_null().to_pylist()))
    else:
        zero = False if pa.types.is_boolean(kind) else 0
        digest.update(np.ascontiguousarray(pc.fill_null(array, zero).to_numpy(zero_copy_only=False)).tobytes())


def blob_names(table: pa.Table) -> tuple[str, ...]:
    """The distinct blobs named by the columns ``blob`` and ``…_blob``, sorted."""
    named: set[str] = set()
    for column in table.column_names:
        if column == "blob" or column.endswith("_blob"):
            named.update(pc.unique(table.column(column).drop_null()).to_pylist())
    return tuple(sorted(named))
