"""One structure record: the validated crystal and the row of ``structures/records`` that holds it.

Belongs here: what every source shares when it turns a delivered structure into a row, accepted or rejected. Reading
the files of a database belongs to :mod:`atomvision_ml.structures.sources`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

Row = dict[str, Any]
Progress = Callable[[int, int | None], None]
"""Called with the number of items done and the total (None while it is unknown)."""

COINCIDENCE_ANGSTROM = 0.5
"""Nuclei closer than this are one atom written twice: the shortest bond there is, H2, measures 0.74 Å."""

SHORTEST_PERIOD_ANGSTROM = 1.0
MAXIMUM_ATOMS = 20_000
FARTHEST_ANGSTROM = 1e6
"""Beyond this distance from the origin, positions lose the digits that matter."""

_ISOTOPES = {"D": 1, "T": 1}
_LABEL = re.compile(r"^\s*([A-Za-z]{1,3})\s*(?:\d*\.?\d*\s*[+-]|[+-]\d*\.?\d*|\d+)?\s*$")


class BadRecordError(ValueError):
    """One record is damaged; the message is the reason that its rejected row shows."""


@dataclass(frozen=True)
class Crystal:
    """A checked crystal: Z of shape (n,), Cartesian positions (n, 3) in Å, cell vectors as rows (3, 3) in Å."""

    numbers: NDArray[np.int32]
    positions_angstrom: NDArray[np.float64]
    cell_angstrom: NDArray[np.float64]


@dataclass(frozen=True)
class Delivery:
    """What all records of one dump have in common."""

    source: str
    reference: str
    licence: str
    origin: str


@dataclass(frozen=True)
class Draft:
    """One record on its way to a row: either a crystal or the reason why there is none."""

    native_id: str
    sha256: str
    crystal: Crystal | None = None
    reason: str | None = None
    properties: dict[str, Any] | None = None


def atomic_number(label: object) -> int:
    """Z of ``26``, ``"Fe"``, ``"fe"``, ``"Fe2+"``, ``"O2-"``, ``"Fe1"`` or ``"D"``; raises BadRecordError."""
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool):
        if 1 <= label < len(chemical_symbols):
            return int(label)
        raise BadRecordError(f"unknown element: atomic number {label}")
    match = _LABEL.match(label) if isinstance(label, str) else None
    symbol = match.group(1).capitalize() if match else ""
    number = _ISOTOPES.get(symbol) or atomic_numbers.get(symbol, 0)
    if number == 0:
        raise BadRecordError(f"unknown element: {label!r}")
    return number


def make_crystal(elements: Sequence[object], coordinates: object, cell: object, *, are_fractional: bool) -> Crystal:
    """Check what a database delivered and return it as a crystal.

    Args:
        elements: one label (see :func:`atomic_number`) for each atom.
        coordinates: (n, 3), fractional or Cartesian in Å; fractional ones may lie outside [0, 1).
        cell: (3, 3) in Å, vectors as rows, of either handedness.
        are_fractional: what the coordinates are.

    Raises:
        BadRecordError: no atoms, wrong lengths, numbers that are not finite, an unknown element, a cell without
            volume, or two atoms closer than :data:`COINCIDENCE_ANGSTROM`.
    """
    numbers = np.array([atomic_number(label) for label in elements], np.int32)
    if len(numbers) == 0:
        raise BadRecordError("no atoms")
    if len(numbers) > MAXIMUM_ATOMS:
        raise BadRecordError(f"{len(numbers)} atoms; the limit is {MAXIMUM_ATOMS}")
    cell_angstrom = _floats(cell, (3, 3), "cell")
    values = _floats(coordinates, (len(numbers), 3), "coordinates")
    check_cell(cell_angstrom)
    with np.errstate(over="ignore", invalid="ignore"):
        positions = values @ cell_angstrom if are_fractional else values
    if not np.abs(positions).max() < FARTHEST_ANGSTROM:  # also where the product overflowed to NaN
        raise BadRecordError(f"coordinates: {np.abs(positions).max():.3g} Å from the origin")
    crystal = Crystal(numbers, positions, cell_angstrom)
    _check_distances(crystal)
    return crystal


def _floats(values: object, shape: tuple[int, int], name: str) -> NDArray[np.float64]:
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRecordError(f"{name}: not a table of numbers ({error})") from error
    if array.shape != shape:
        raise BadRecordError(f"{name}: shape {array.shape} where {shape} was expected")
    if not np.isfinite(array).all():
        raise BadRecordError(f"{name}: NaN or infinite values")
    return array


def check_cell(cell_angstrom: NDArray[np.float64]) -> None:
    """Raise BadRecordError unless the three vectors (rows, Å) span a volume with periods of at least 1 Å."""
    lengths = np.linalg.norm(cell_angstrom, axis=1)
    if lengths.min() < SHORTEST_PERIOD_ANGSTROM:
        raise BadRecordError(f"cell: a vector of length {lengths.min():.3g} Å")
    if lengths.max() > 1e4:
        raise BadRecordError(f"cell: a vector of length {lengths.max():.3g} Å")
    if abs(np.linalg.det(cell_angstrom / lengths[:, None])) < 1e-4:
        raise BadRecordError("cell: the vectors span no volume")


def closest_pair(crystal: Crystal, within_angstrom: float) -> tuple[int, int, float] | None:
    """Indices and distance (Å) of the closest pair of atoms, images included, or None if none is that close.

    Exact for distances below half the smallest plane spacing of the compact cell: such neighbours differ by less
    than half a period in each fractional coordinate.
    """
    from scipy.spatial import cKDTree

    reduced = _compact_cell(crystal.cell_angstrom)
    inverse = np.linalg.inv(reduced)
    fractional = crystal.positions_angstrom @ inverse % 1.0 % 1.0
    reach = min(0.499, within_angstrom * float(np.linalg.norm(inverse, axis=0).max()))
    pairs = cKDTree(fractional, boxsize=1.0).query_pairs(reach, p=np.inf, output_type="ndarray")
    if len(pairs) == 0:
        return None
    difference = fractional[pairs[:, 0]] - fractional[pairs[:, 1]]
    distances = np.linalg.norm((difference - np.round(difference)) @ reduced, axis=1)
    best = int(distances.argmin())
    if distances[best] > within_angstrom:
        return None
    return int(pairs[best, 0]), int(pairs[best, 1]), float(distances[best])


def _compact_cell(cell_angstrom: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cell itself if its planes lie far apart, else the Minkowski-reduced one, which takes longer to find."""
    spacings = 1.0 / np.linalg.norm(np.linalg.inv(cell_angstrom), axis=0)
    if spacings.min() > 2.0 * SHORTEST_PERIOD_ANGSTROM:
        return cell_angstrom
    return minkowski_reduce(cell_angstrom)[0]


def _check_distances(crystal: Crystal) -> None:
    shortest = float(np.linalg.norm(_compact_cell(crystal.cell_angstrom), axis=1).min())
    if shortest < SHORTEST_PERIOD_ANGSTROM:
        raise BadRecordError(f"cell: a lattice period of {shortest:.3g} Å")
    pair = closest_pair(crystal, COINCIDENCE_ANGSTROM)
    if pair is not None:
        first, second, distance = pair
        raise BadRecordError(f"atoms {first} and {second} coincide ({distance:.3f} Å apart)")


def hill_formula(numbers: Iterable[int]) -> str:
    """Chemical formula in Hill order: carbon, hydrogen, then alphabetical; without carbon all alphabetical."""
    counts = Counter(chemical_symbols[number] for number in numbers)
    first = [symbol for symbol in ("C", "H") if symbol in counts] if "C" in counts else []
    order = first + sorted(set(counts) - set(first))
    return _join(order, counts)


def reduced_formula(numbers: Iterable[int]) -> str:
    """Formula divided by the greatest common divisor of its counts, elements in alphabetical order."""
    counts = Counter(chemical_symbols[number] for number in numbers)
    divisor = math.gcd(*counts.values()) if counts else 1
    return _join(sorted(counts), {symbol: count // divisor for symbol, count in counts.items()})


def _join(order: Iterable[str], counts: dict[str, int]) -> str:
    return "".join(symbol + (str(counts[symbol]) if counts[symbol] > 1 else "") for symbol in order)


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces; arrays become lists, anything else unknown its text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def strict_json(value: object) -> str:
    """Canonical JSON that any reader takes: null for NaN and infinity, no lone surrogates."""
    text = canonical_json(_finite(json.loads(canonical_json(value))))
    return text.encode("utf-8", "replace").decode("utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: object) -> object:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return str(value)


def sha256_of(value: object) -> str:
    """SHA-256, in hexadecimal, of bytes, or of the canonical JSON of anything else."""
    content = value if isinstance(value, bytes) else canonical_json(value).encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()


def native_id_of(record: dict[str, Any], *keys: str) -> str:
    """The first of the keys that holds an identifier, as text; raises BadRecordError if none does."""
    for key in keys:
        value = record.get(key)
        is_id = isinstance(value, (str, int)) and not isinstance(value, bool)
        if is_id and str(value).strip():
            return str(value).strip().encode("utf-8", "backslashreplace").decode("utf-8")
    raise BadRecordError(f"no identifier: none of {list(keys)} is given")


def crystal_columns(crystal: Crystal) -> Row:
    """The columns of ``structures/records`` that describe the crystal."""
    return {
        "formula": hill_formula(crystal.numbers.tolist()),
        "n_atoms": len(crystal.numbers),
        "numbers": crystal.numbers.tolist(),
        "positions_angstrom": crystal.positions_angstrom.ravel().tolist(),
        "cell_angstrom": crystal.cell_angstrom.ravel().tolist(),
    }


def rows_of(drafts: Iterable[Draft], delivery: Delivery) -> Iterator[Row]:
    """Rows of ``structures/records``; a second record of the same native id becomes a rejected row.

    The identifier of such a duplicate gets the suffix ``#2``, ``#3`` and so on, so that ids stay unique.
    """
    seen: dict[str, tuple[int, str]] = {}
    taken: set[str] = set()
    for draft in drafts:
        count, first_sha = seen.get(draft.native_id, (0, draft.sha256))
        seen[draft.native_id] = (count + 1, first_sha)
        reason, record_id = draft.reason, draft.native_id
        if count:
            what = "the same content" if draft.sha256 == first_sha else "other content"
            reason = f"duplicate identifier {draft.native_id!r}, with {what} as its first occurrence"
        while record_id in taken:
            count += 1
            record_id = f"{draft.native_id}#{count}"
        taken.add(record_id)
        yield _row(draft, delivery, record_id, reason)


def _row(draft: Draft, delivery: Delivery, record_id: str, reason: str | None) -> Row:
    row: Row = {
        "record_id": f"{delivery.source}:{record_id}",
        "source": delivery.source,
        "native_id": draft.native_id,
        "status": "accepted" if reason is None else "rejected",
        "reason": reason,
        "provenance": "database",
        "reference": delivery.reference,
        "is_hypothetical": False,
        "parent_id": None,
        "properties_json": strict_json(draft.properties) if draft.properties is not None else None,
        "licence": delivery.licence,
        "origin": delivery.origin,
        "sha256": draft.sha256,
    }
    if draft.crystal is not None:
        row |= crystal_columns(draft.crystal)
    return row
