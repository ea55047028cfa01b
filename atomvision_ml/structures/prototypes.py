"""The embedded structures: monolayers generated from two small tables, so that the project runs without a database.

``prototypes.csv`` has one line for each monolayer: how it is built, from which numbers, and where they come from.
``prototype_sites.csv`` has the atoms of layers that no builder makes. A line is ``cited`` (its numbers stand in the
source that it names) or ``rule`` (made from a parent by the rule in its reference, and hypothetical).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files

import numpy as np
from ase import Atoms, build
from ase.data import atomic_numbers, covalent_radii
from ase.formula import Formula

from atomvision_ml.structures.record import Crystal, Row, canonical_json, crystal_columns, sha256_of

SOURCE = "prototypes"
VACUUM_ANGSTROM = 20.0
LICENCE = "MIT, as the table of this package; the values are facts from the sources named in `reference`"

Line = dict[str, str]
Parameters = dict[str, str]
Library = dict[str, Atoms]


def prototype_rows() -> list[Row]:
    """Rows of ``structures/records`` for all embedded monolayers, in the order of the table.

    Raises:
        ValueError: the table is inconsistent (an unknown builder, parent or element).
    """
    library: Library = {}
    rows = []
    for line in _table("prototypes.csv"):
        library[line["id"]] = _built(line, library)
        rows.append(_row(line, library[line["id"]]))
    return rows


def prototype(native_id: str) -> Atoms:
    """One embedded monolayer as ASE atoms; raises KeyError with its name if there is none."""
    library: Library = {}
    for line in _table("prototypes.csv"):
        library[line["id"]] = _built(line, library)
    return library[native_id]


def _table(name: str) -> Iterator[Line]:
    text = files("atomvision_ml.structures").joinpath(name).read_text(encoding="utf-8")
    return csv.DictReader(text.splitlines())


@cache
def _sites() -> dict[str, list[Line]]:
    sites: dict[str, list[Line]] = {}
    for line in _table("prototype_sites.csv"):
        sites.setdefault(line["layer"], []).append(line)
    return sites


@cache
def _ionic_radii() -> dict[tuple[str, int], float]:
    return {
        (line["element"], int(line["charge"])): float(line["radius_angstrom"]) for line in _table("ionic_radii.csv")
    }


def _built(line: Line, library: Library) -> Atoms:
    parameters = dict(pair.split("=", 1) for pair in line["parameters"].split())
    try:
        atoms = _BUILDERS[line["builder"]](line, parameters, library)
    except KeyError as error:
        raise ValueError(f"prototypes.csv, {line['id']}: {error} is unknown") from error
    atoms.pbc = True
    atoms.center(vacuum=VACUUM_ANGSTROM / 2, axis=2)
    # Nine decimals: no rounding noise of a processor may change the content hash.
    atoms.set_cell(np.round(atoms.cell.array, 9) + 0.0)
    atoms.positions = np.round(atoms.positions, 9) + 0.0
    return atoms


def _row(line: Line, atoms: Atoms) -> Row:
    crystal = Crystal(atoms.numbers.astype(np.int32), atoms.positions, atoms.cell.array)
    columns = crystal_columns(crystal)
    properties = {"builder": line["builder"], "parameters": line["parameters"], "prototype": line["prototype"]}
    return {
        "record_id": f"{SOURCE}:{line['id']}",
        "source": SOURCE,
        "native_id": line["id"],
        "status": "accepted",
        "reason": None,
        **columns,
        "provenance": line["provenance"],
        "reference": line["reference"],
        "is_hypothetical": line["is_hypothetical"] == "true",
        "parent_id": f"{SOURCE}:{line['parent']}" if line["parent"] else None,
        "properties_json": canonical_json(properties),
        "licence": LICENCE,
        "origin": "atomvision_ml/structures/prototypes.csv",
        "sha256": sha256_of({**columns, **properties, "reference": line["reference"]}),
    }


def _cell(a: float, b: float, gamma_deg: float) -> np.ndarray:
    gamma = np.radians(gamma_deg)
    return np.array([[a, 0.0, 0.0], [b * np.cos(gamma), b * np.sin(gamma), 0.0], [0.0, 0.0, 1.0]])


def _elements(formula: str) -> list[str]:
    return list(Formula(formula))


def _covalent_bond(first: str, second: str) -> float:
    return float(covalent_radii[atomic_numbers[first]] + covalent_radii[atomic_numbers[second]])


def _ionic_bond(formula: str, charges: str) -> float:
    """Sum of the radii of the first two elements of the formula, with the charges in that order."""
    metal, anion = _elements(formula)[:2]
    cation_charge, anion_charge = (int(charge) for charge in charges.split(","))
    return _ionic_radii()[metal, cation_charge] + _ionic_radii()[anion, anion_charge]


# Builders. Each takes the line, its parameters and what is built so far; lengths in Å, angles in degrees.


def _honeycomb(line: Line, parameters: Parameters, library: Library) -> Atoms:
    """Two atoms on a honeycomb; without ``a`` it is √3 bonds, the bond being the sum of the covalent radii."""
    bond = _covalent_bond(*_elements(line["formula"]))
    a = float(parameters.get("a", np.sqrt(3.0) * bond))
    return build.graphene(formula=line["formula"], a=a, thickness=float(parameters.get("buckling", 0.0)))


def _mx2(line: Line, parameters: Parameters, library: Library) -> Atoms:
    """A metal between two chalcogens or halogens, ``kind`` 2H or 1T.

    From ``charges`` (metal, anion): the bond d is the sum of the ionic radii, in a regular octahedron (1T: a = √2 d,
    thickness 2 d/√3) or in a trigonal prism with square sides (2H: a = thickness = d √(12/7)).
    """
    if "charges" in parameters:
        bond = _ionic_bond(line["formula"], parameters["charges"])
        regular = {"1T": (np.sqrt(2.0) * bond, 2.0 / np.sqrt(3.0) * bond), "2H": (bond * np.sqrt(12.0 / 7.0),) * 2}
        a, thickness = regular[parameters["kind"]]
    else:
        a = float(parameters["a"])
        thickness = float(parameters.get("thickness", a))
    return build.mx2(formula=line["formula"], kind=parameters["kind"], a=a, thickness=thickness)


def _facet(line: Line, parameters: Parameters, library: Library) -> Atoms:
    """The primitive cell of one atomic layer of an elemental crystal, ``face`` naming a builder of ASE."""
    constants = {key: float(parameters[key]) for key in ("a", "c") if key in parameters}
    cut: Callable[..., Atoms] = getattr(build, parameters["face"])
    rows = 2 if parameters["face"] == "hcp10m10" else 1  # ASE makes this cell of two rows only
    atoms = cut(line["formula"], size=(1, rows, 2), vacuum=5.0, **constants)
    lowest = atoms.positions[:, 2].min()
    return atoms[atoms.positions[:, 2] < lowest + 0.1]


def _layer(line: Line, parameters: Parameters, library: Library) -> Atoms:
    """A layer whose atoms are listed in ``prototype_sites.csv``."""
    sites = _sites()[line["id"]]
    cell = _cell(float(parameters["a"]), float(parameters["b"]), float(parameters["gamma"]))
    fractional = np.array([[float(site["x"]), float(site["y"]), 0.0] for site in sites])
    positions = fractional @ cell
    positions[:, 2] = [float(site["z_angstrom"]) for site in sites]
    return Atoms([site["element"] for site in sites], positions=positions, cell=cell)


def _rocksalt(line: Line, parameters: Parameters, library: Library) -> Atoms:
    """One (100) layer of rock salt on its primitive square; ``a`` of the cube, or two bonds of ionic radii."""
    side = float(parameters["a"]) if "a" in parameters else 2.0 * _ionic_bond(line["formula"], parameters["charges"])
    period = side / np.sqrt(2.0)
    cell = _cell(period, period, 90.0)
    return Atoms(_elements(line["formula"]), positions=[[0, 0, 0], [period / 2, period / 2, 0]], cell=cell)


def _tetrahedral(line: Line, parameters: Parameters, library: Library) -> Atoms:
    """Edge-sharing regular tetrahedra (anti-PbO): bond d of covalent radii, a = d √(8/3), anions a/√8 off the plane."""
    metal, anion = _elements(line["formula"])
    a = _covalent_bond(metal, anion) * np.sqrt(8.0 / 3.0)
    height = a / np.sqrt(8.0)
    positions = [[0, 0, 0], [a / 2, a / 2, 0], [0, a / 2, height], [a / 2, 0, -height]]
    return Atoms([metal, metal, anion, anion], positions=positions, cell=_cell(a, a, 90.0))


def _puckered(line: Line, parameters: Parameters, library: Library) -> Atoms:
    """Phosphorene from its periods, its one bond length and the angle between the bonds within a half-layer."""
    a, b, bond, theta = (float(parameters[key]) for key in ("a", "b", "bond", "theta"))
    along = a / 2 - bond * np.cos(np.radians(theta) / 2)
    height = np.sqrt(bond**2 - along**2)
    positions = [[0, 0, height], [along, 0, 0], [a / 2, b / 2, 0], [a / 2 + along, b / 2, height]]
    return Atoms([line["formula"]] * 4, positions=positions, cell=_cell(a, b, 90.0))


def _substituted(line: Line, parameters: Parameters, library: Library) -> Atoms:
    """The parent with other elements, all lengths scaled by the ratio of the summed covalent radii of its atoms."""
    parent = library[line["parent"]]
    swap = dict(pair.split(">") for pair in parameters["swap"].split(","))
    atoms = parent.copy()
    atoms.symbols = [swap.get(symbol, symbol) for symbol in parent.symbols]
    ratio = covalent_radii[atoms.numbers].sum() / covalent_radii[parent.numbers].sum()
    atoms.set_cell(parent.cell.array * [[ratio], [ratio], [1.0]])
    atoms.positions = parent.positions * ratio
    return atoms


def _strained(line: Line, parameters: Parameters, library: Library) -> Atoms:
    """The parent under the symmetric in-plane strain ``xx``, ``yy``, ``xy`` (fractions)."""
    atoms = library[line["parent"]].copy()
    xx, yy, xy = (float(parameters.get(key, 0.0)) for key in ("xx", "yy", "xy"))
    deformation = np.array([[1 + xx, xy, 0], [xy, 1 + yy, 0], [0, 0, 1]])
    atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    return atoms


def _zigzag(line: Line, parameters: Parameters, library: Library) -> Atoms:
    """1T' from the parent's a and thickness: 1T on a x ``ratio`` a, the metals moved together by ``shift`` of b."""
    parent = library[line["parent"]]
    a, thickness = float(parent.cell.lengths()[0]), float(np.ptp(parent.positions[:, 2]))
    flat = build.mx2(formula=line["formula"], kind="1T", a=a, thickness=thickness)
    atoms = build.make_supercell(flat, [[1, 0, 0], [1, 2, 0], [0, 0, 1]])
    atoms.set_cell(_cell(a, a * float(parameters["ratio"]), 90.0) * [[1], [1], [0]], scale_atoms=True)
    metals = np.flatnonzero(atoms.numbers == flat.numbers[0])
    upper, lower = sorted(metals, key=lambda index: atoms.get_scaled_positions(wrap=False)[index, 1])[::-1]
    shift = float(parameters["shift"]) * float(atoms.cell.lengths()[1])
    atoms.positions[upper, 1] -= shift
    atoms.positions[lower, 1] += shift
    return atoms


def _diamond_chains(line: Line, parameters: Parameters, library: Library) -> Atoms:
    """ReS2-like: 2 x 2 of regular 1T, its four metals drawn into a rhomb by ``shift`` of a, then strained."""
    bond = _ionic_bond(line["formula"], parameters["charges"])
    a = np.sqrt(2.0) * bond
    atoms = build.mx2(line["formula"], kind="1T", a=a, thickness=2.0 / np.sqrt(3.0) * bond, size=(2, 2, 1))
    metals = np.flatnonzero(atoms.numbers == atoms.numbers[0])
    centre = atoms.positions[metals].mean(axis=0)
    atoms.positions[metals] += float(parameters["shift"]) * (centre - atoms.positions[metals])
    xx, yy, xy = (float(parameters[key]) for key in ("xx", "yy", "xy"))
    deformation = np.array([[1 + xx, xy, 0], [xy, 1 + yy, 0], [0, 0, 1]])
    atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    return atoms


_BUILDERS: dict[str, Callable[[Line, Parameters, Library], Atoms]] = {
    "honeycomb": _honeycomb,
    "mx2": _mx2,
    "facet": _facet,
    "layer": _layer,
    "rocksalt": _rocksalt,
    "tetrahedral": _tetrahedral,
    "puckered": _puckered,
    "substituted": _substituted,
    "strained": _strained,
    "zigzag": _zigzag,
    "diamond_chains": _diamond_chains,
}
