"""Profiles: which header field of a format or an instrument fills which field of the record.

Belongs here: the YAML form and its interpreter, and the schemas that name the header fields. A new instrument is a new
file in a folder of profiles, no code. A field lists places in the header, the first that says something wins; numbers
are converted to the record's unit, words to its vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from atomvision_ml.experiments.reading import Format
from atomvision_ml.experiments.record import (
    Record,
    SidecarError,
    checked_values,
    fields_filled_by,
    sidecar_model,
    unit_of,
    vocabulary_of,
)
from atomvision_ml.experiments.units import UnitError, convert, quantity

_FOLDER = Path(__file__).parent / "instruments"


class ProfileError(ValueError):
    """A profile cannot be used; the message names the file and the fault."""


class Place(BaseModel):
    """One place in the header, and how its value becomes a field's value; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = Field(default=None, description="Keys from the top, split by `/`; `*` is any key.")
    paths: tuple[str, ...] = Field(default=(), description="Several texts, joined by a space (date and time).")
    unit: str = Field(default="", description="Unit of the number; if empty, it stands behind it, as in `80 kV`.")
    factor: float = Field(default=1.0, description="Factor before the conversion, e.g. -1 or 0.5.")
    words: tuple[tuple[str, str], ...] = Field(
        default=(),
        description="Pairs of pattern and word; the first found anywhere in the text wins. Empty: the text itself.",
    )
    time: str = Field(default="", description="`unix`, `iso`, `ole` (days since 1899-12-30), or patterns of strptime.")
    where: tuple[str, str] | None = Field(default=None, description="Place in the header and a pattern it must hold.")
    is_zero_missing: bool = Field(default=False, description="Whether 0 means that the value is not known.")

    def all_paths(self) -> tuple[str, ...]:
        """The places in the header, for documentation."""
        return self.paths or ((self.path,) if self.path else ())


class Profile(BaseModel):
    """A translation of headers; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name of the profile, e.g. of the instrument.")
    formats: tuple[Format, ...] = Field(description="Formats whose header it reads.")
    instrument: str = Field(default="", description="Pattern that the instrument's name must hold; empty: any.")
    where: tuple[str, str] | None = Field(default=None, description="Place in the header and a pattern it must hold.")
    constants: dict[str, Any] = Field(default={}, description="Fields that are always the same.")
    fields: dict[str, tuple[Place, ...]] = Field(default={}, description="Places by field of the record, or `x_…`.")

    @field_validator("fields", "constants")
    @classmethod
    def _are_known(cls, value: dict[str, Any]) -> dict[str, Any]:
        unknown = [name for name in value if name not in fields_filled_by("header", "sidecar") and name[:2] != "x_"]
        if unknown:
            raise ValueError(f"unknown fields: {', '.join(unknown)}")
        return value


class Translation(BaseModel):
    """What a header says in the record's words; frozen.

    Attributes:
        values: by field.
        extensions: by `x_…` name.
        profiles: names of the profiles used.
        warnings: values that no field takes.
    """

    model_config = ConfigDict(frozen=True)

    values: dict[str, Any]
    extensions: dict[str, Any]
    profiles: tuple[str, ...]
    warnings: tuple[str, ...]


def load_profiles(folder: str | Path | None = None) -> tuple[Profile, ...]:
    """The built-in profiles, and those of a folder, which come first.

    Raises:
        ProfileError: a file is no profile.
    """
    own = _from_folder(Path(folder)) if folder is not None else ()
    return (*own, *_built_in())


def digest(profiles: Sequence[Profile]) -> str:
    """SHA-256 of what the profiles say, whatever their files look like."""
    told = json.dumps([profile.model_dump(mode="json") for profile in profiles], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


@cache
def _built_in() -> tuple[Profile, ...]:
    return _from_folder(_FOLDER)


def _from_folder(folder: Path) -> tuple[Profile, ...]:
    if not folder.is_dir():
        raise ProfileError(f"{folder}: no such folder of profiles")
    return tuple(_from_file(path) for path in sorted(folder.glob("*.yaml")))


def _from_file(path: Path) -> Profile:
    try:
        return Profile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:5])
        raise ProfileError(f"{path.name}: {faults}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path.name}: no YAML: {' '.join(str(error).split())[:200]}") from error


def header_fields(profiles: Sequence[Profile]) -> dict[str, dict[str, list[str]]]:
    """Where each field of the record comes from: places in the header by field and profile."""
    told: dict[str, dict[str, list[str]]] = {}
    for profile in profiles:
        for field, places in profile.fields.items():
            paths = [" + ".join(place.all_paths()) for place in places]
            told.setdefault(field, {})[profile.name] = list(dict.fromkeys(paths))
        for field, value in profile.constants.items():
            told.setdefault(field, {}).setdefault(profile.name, []).append(f"always {value}")
    return told


def record_schema(profiles: Sequence[Profile] | None = None) -> dict[str, Any]:
    """JSON schema of a record: units, vocabularies, who fills each field, and from which header field."""
    return _with_header_fields(Record.model_json_schema(), profiles)


def sidecar_schema(profiles: Sequence[Profile] | None = None) -> dict[str, Any]:
    """JSON schema of a sidecar file, with the header fields that would make an entry unnecessary."""
    return _with_header_fields(sidecar_model().model_json_schema(), profiles)


def _with_header_fields(schema: dict[str, Any], profiles: Sequence[Profile] | None) -> dict[str, Any]:
    for field, places in header_fields(profiles or load_profiles()).items():
        if field in schema["properties"]:
            schema["properties"][field]["header_fields"] = places
    return schema


def fields_page(profiles: Sequence[Profile]) -> str:
    """Markdown: every field that a header or a person fills, with unit, words and header fields."""
    places = header_fields(profiles)
    lines = ["| field | meaning | unit or words | header fields |", "|---|---|---|---|"]
    for name in fields_filled_by("header", "sidecar"):
        words = " ".join(vocabulary_of(name)) or unit_of(name)
        told = "<br>".join(
            f"{profile}: {', '.join(f'`{path}`' for path in paths)}" for profile, paths in places.get(name, {}).items()
        )
        lines.append(f"| `{name}` | {Record.model_fields[name].description} | {words} | {told or 'sidecar'} |")
    return "\n".join(lines)


def translate(kind: Format, header: Mapping[str, Any], profiles: Sequence[Profile]) -> Translation:
    """A header in the record's words.

    Profiles for one instrument come before those for all, and each field is filled once.

    Args:
        kind: format of the file.
        header: of the image.
        profiles: in order of precedence.
    """
    general = [profile for profile in profiles if not profile.instrument and _fits(profile, kind, header)]
    name = str(_first(general, "instrument_name", header)[0] or "")
    special = [
        profile
        for profile in profiles
        if profile.instrument and _fits(profile, kind, header) and re.search(profile.instrument, name)
    ]
    used = [*special, *general]
    values: dict[str, Any] = {}
    extensions: dict[str, Any] = {}
    warnings: list[str] = []
    for field in dict.fromkeys(field for profile in used for field in (*profile.fields, *profile.constants)):
        value, faults = _first(used, field, header)
        warnings += faults
        if value is not None:
            (extensions if field.startswith("x_") else values)[field] = value
    return Translation(
        values=values,
        extensions=extensions,
        profiles=tuple(profile.name for profile in used),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _fits(profile: Profile, kind: Format, header: Mapping[str, Any]) -> bool:
    return kind in profile.formats and _holds(profile.where, header)


def _holds(where: tuple[str, str] | None, header: Mapping[str, Any]) -> bool:
    if where is None:
        return True
    path, pattern = where
    return any(re.search(pattern, str(value)) for value in _at(header, path.split("/")))


def _first(profiles: Sequence[Profile], field: str, header: Mapping[str, Any]) -> tuple[Any, list[str]]:
    faults: list[str] = []
    for profile in profiles:
        for place in profile.fields.get(field, ()):
            value, fault = _value(field, place, header)
            if value is not None:
                return value, faults
            faults += [fault] if fault else []
        if field in profile.constants:
            return profile.constants[field], faults
    return None, faults


def _value(field: str, place: Place, header: Mapping[str, Any]) -> tuple[Any, str]:
    """The field's value from one place; or None and why the place's value cannot be used."""
    found = [next(iter(_at(header, path.split("/"))), None) for path in place.all_paths()]
    if not found or not _holds(place.where, header) or any(value is None or value == "" for value in found):
        return None, ""
    raw = " ".join(str(value) for value in found) if len(found) > 1 else found[0]
    try:
        value = _converted(field, place, raw)
    except (UnitError, ValueError, OverflowError, RecursionError) as error:
        return None, f"{field}: {_short(raw)} at {place.all_paths()[0]} cannot be used: {error}"
    if value is None:
        return None, ""
    if not field.startswith("x_") and not _is_accepted(field, value):
        return None, f"{field}: {_short(raw)} at {place.all_paths()[0]} is not a value of this field"
    return value, ""


def _converted(field: str, place: Place, raw: Any) -> Any:
    if place.time:
        return _time(place.time, raw)
    if place.words:
        return _word(place.words, str(raw))
    if _has_parts(field):
        return json.loads(str(raw))
    if not _is_number_field(field) and not place.unit:
        text = str(raw).strip()
        return text or None
    return _number(field, place, raw)


def _has_parts(field: str) -> bool:
    return not field.startswith("x_") and any(
        kind in str(Record.model_fields[field].annotation) for kind in ("tuple", "dict")
    )


def _is_number_field(field: str) -> bool:
    return not field.startswith("x_") and "float" in str(Record.model_fields[field].annotation)


def _number(field: str, place: Place, raw: Any) -> float | None:
    if isinstance(raw, list) and len(raw) == 1:
        raw = raw[0]
    number, unit = (float(raw), "") if isinstance(raw, int | float) else quantity(str(raw)) or (math.nan, "")
    if not math.isfinite(number) or (place.is_zero_missing and number == 0):
        return None
    wanted = "" if field.startswith("x_") else unit_of(field)
    told = place.unit or unit
    scaled = number * place.factor
    return convert(scaled, told, wanted) if wanted and told else scaled


def _word(words: Sequence[tuple[str, str]], text: str) -> str | None:
    return next((word for pattern, word in words if re.search(pattern, text)), None)


def _time(form: str, raw: Any) -> datetime | None:
    if form in ("unix", "ole"):
        number = float(raw)
        seconds = number if form == "unix" else (number - 25569) * 86400
        return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None
    text = str(raw).strip().strip("\u2028")
    if form == "iso":
        # Fractions of a second may have more digits than Python reads.
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    for pattern in form.split("|"):
        try:
            return datetime.strptime(text, pattern)
        except ValueError:
            continue
    raise ValueError(f"not a time of the form {form}")


def _is_accepted(field: str, value: Any) -> bool:
    try:
        checked_values({field: value}, "")
    except SidecarError:
        return False
    return True


def _at(value: Any, keys: Sequence[str]) -> Iterator[Any]:
    """Values at a path; ``*`` stands for any key."""
    if not keys:
        if not isinstance(value, Mapping):
            yield value
        return
    if not isinstance(value, Mapping):
        if isinstance(value, list) and keys[0].isdigit() and int(keys[0]) < len(value):
            yield from _at(value[int(keys[0])], keys[1:])
        return
    for key in value if keys[0] == "*" else (keys[0],):
        if key in value:
            yield from _at(value[key], keys[1:])


def _short(raw: Any) -> str:
    text = repr(raw)
    return text if len(text) <= 40 else text[:39] + "…"


if __name__ == "__main__":
    print(fields_page(load_profiles()))
