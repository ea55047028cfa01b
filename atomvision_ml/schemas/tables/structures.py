"""Tables of the structures domain."""

import pyarrow as pa

from atomvision_ml.schemas.core import FLOATS, INTEGERS, STRINGS, Column, Table
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES, SOURCES

S, I32, F64, B = pa.string(), pa.int32(), pa.float64(), pa.bool_()

STATUS = Column(
    name="status", type=S, one_of=("accepted", "rejected"), description="Whether the row goes on downstream."
)
REASON = Column(name="reason", type=S, nullable=True, description="Why a rejected row was rejected; null if accepted.")
SOURCE = Column(name="source", type=S, one_of=SOURCES, description="Structure database.")

RECORDS = Table(
    key="structures/records",
    dimension="source",
    description="Every record of a structure database as delivered, accepted or rejected with a reason.",
    columns=(
        Column(name="record_id", type=S, unique=True, description="`<source>:<native id>`."),
        SOURCE,
        Column(name="native_id", type=S, description="The database's own identifier."),
        STATUS,
        REASON,
        Column(name="formula", type=S, nullable=True, description="Chemical formula of the cell, Hill order."),
        Column(name="n_atoms", type=I32, nullable=True, minimum=1, description="Atoms in the delivered cell."),
        Column(
            name="numbers",
            type=INTEGERS,
            nullable=True,
            description="Atomic number Z of each atom, shape (n_atoms,).",
        ),
        Column(
            name="positions_angstrom",
            type=FLOATS,
            nullable=True,
            unit="Å",
            description="Cartesian positions, row-major (n_atoms, 3) flattened.",
        ),
        Column(
            name="cell_angstrom",
            type=FLOATS,
            nullable=True,
            unit="Å",
            description="Cell vectors as rows, (3, 3) flattened, as delivered.",
        ),
        Column(
            name="provenance",
            type=S,
            one_of=("database", "cited", "rule"),
            description="`database`: from a public dump; `cited`: from a source that was read; `rule`: made by a rule.",
        ),
        Column(name="reference", type=S, description="The citation, or the rule in words."),
        Column(name="is_hypothetical", type=B, description="True where the crystal is not claimed to exist."),
        Column(
            name="parent_id",
            type=S,
            nullable=True,
            description="Record that a rule-made variant was derived from; both stay in one split group.",
        ),
        Column(
            name="properties_json",
            type=S,
            nullable=True,
            description="All other fields of the delivered record, as JSON.",
        ),
        Column(name="licence", type=S, description="Licence of the source as its publisher states it."),
        Column(name="origin", type=S, description="File name or public address that the record was read from."),
        Column(
            name="origin_blob",
            type=S,
            nullable=True,
            description="Blob that holds the original bytes of the dump; null for the generated set.",
        ),
        Column(name="sha256", type=S, description="SHA-256 of the record's original bytes or canonical JSON."),
    ),
)

SLABS = Table(
    key="structures/slabs",
    dimension="source",
    description=(
        "Records normalised to a slab: layer in the (x, y) plane, a along +x, right-handed, vacuum along z; with "
        "symmetry and the lattice labels of the projection. Rejected rows keep their reason and have null values."
    ),
    columns=(
        Column(name="slab_id", type=S, unique=True, description="Equal to the record's `record_id`."),
        SOURCE,
        STATUS,
        REASON,
        Column(name="formula", type=S, nullable=True, description="Formula of the cell, Hill order."),
        Column(
            name="reduced_formula",
            type=S,
            nullable=True,
            description="Formula divided by the greatest common divisor, elements in alphabetical order.",
        ),
        Column(name="n_atoms", type=I32, nullable=True, minimum=1, description="Atoms in the slab cell."),
        Column(name="numbers", type=INTEGERS, nullable=True, description="Atomic numbers Z, shape (n_atoms,)."),
        Column(
            name="positions_angstrom",
            type=FLOATS,
            nullable=True,
            unit="Å",
            description="Cartesian positions, (n_atoms, 3) flattened; the layer is centred in z.",
        ),
        Column(
            name="cell_angstrom",
            type=FLOATS,
            nullable=True,
            unit="Å",
            description="Cell vectors, (3, 3) flattened.",
        ),
        Column(
            name="thickness_angstrom",
            type=F64,
            nullable=True,
            minimum=0,
            unit="Å",
            description="z extent of the nuclei.",
        ),
        Column(
            name="vacuum_axis",
            type=S,
            nullable=True,
            one_of=("a", "b", "c"),
            description="Cell axis of the delivered record along which the vacuum lay.",
        ),
        Column(
            name="space_group_number",
            type=I32,
            nullable=True,
            minimum=1,
            maximum=230,
            description="Space group of the periodic slab (spglib).",
        ),
        Column(name="space_group_symbol", type=S, nullable=True, description="Its international symbol."),
        Column(
            name="layer_group_number",
            type=I32,
            nullable=True,
            minimum=1,
            maximum=80,
            description="Layer group of the slab (spglib).",
        ),
        Column(name="layer_group_symbol", type=S, nullable=True, description="Its international symbol."),
        Column(
            name="plane_group",
            type=S,
            nullable=True,
            description="Plane group (of 17) of the projected, Z-weighted density.",
        ),
        Column(
            name="crystal_family_2d",
            type=S,
            nullable=True,
            one_of=("hexagonal", "tetragonal", "orthorhombic", "monoclinic"),
            description="Crystal family of the plane group of the projection.",
        ),
        Column(
            name="bravais_lattice",
            type=S,
            nullable=True,
            one_of=BRAVAIS_LATTICES,
            description=(
                "Metric class of the reduced primitive cell of the projected, Z-weighted density: the highest class "
                "that a symmetrising strain of at most 0.3 % reaches."
            ),
        ),
        Column(
            name="class_strain_percent",
            type=F64,
            nullable=True,
            minimum=0,
            unit="%",
            description="Largest principal strain that makes the cell exactly its own class.",
        ),
        Column(
            name="next_class",
            type=S,
            nullable=True,
            one_of=BRAVAIS_LATTICES,
            description="Nearest class of higher symmetry; null for hexagonal and square.",
        ),
        Column(
            name="next_class_strain_percent",
            type=F64,
            nullable=True,
            minimum=0,
            unit="%",
            description="Largest principal strain to that class; null for hexagonal and square.",
        ),
        Column(
            name="superlattice_contrast",
            type=F64,
            nullable=True,
            minimum=0,
            description=(
                "max |F_g|/F_0, probe included, over the reflections (index ≤ 3) that are absent in the nearest "
                "pseudo-symmetric parent of another lattice class; null where no such parent exists."
            ),
        ),
        Column(
            name="superlattice_parent",
            type=S,
            nullable=True,
            one_of=BRAVAIS_LATTICES,
            description="Lattice class of that parent.",
        ),
        Column(
            name="is_ambiguous",
            type=B,
            nullable=True,
            description="Strain and contrast leave the class open to a fair reader, by the rule in docs/labels.md.",
        ),
        Column(
            name="bravais_lattice_published",
            type=S,
            nullable=True,
            one_of=BRAVAIS_LATTICES,
            description="The published rule (AtomVision): delivered cell, a, b and γ rounded to 0.01.",
        ),
        Column(
            name="primitive_cell_angstrom",
            type=FLOATS,
            nullable=True,
            unit="Å",
            description="Reduced, right-handed primitive vectors of the projection, rows, (2, 2) flattened, |a| ≤ |b|.",
        ),
    ),
)

MATERIALS = Table(
    key="structures/materials",
    description="One row per distinct crystal over all databases (formula, space group and a structure match).",
    columns=(
        Column(
            name="material_id",
            type=S,
            unique=True,
            description="Stable identifier: the smallest `slab_id` of its members.",
        ),
        Column(name="reduced_formula", type=S, description="Reduced formula."),
        Column(
            name="space_group_number",
            type=I32,
            minimum=1,
            maximum=230,
            description="Space group of the representative.",
        ),
        Column(
            name="representative_slab_id",
            type=S,
            unique=True,
            description="The slab that stands for the material.",
        ),
        Column(name="slab_ids", type=STRINGS, description="All member slabs."),
        Column(name="sources", type=STRINGS, description="Databases that hold the material, sorted."),
        Column(name="n_slabs", type=I32, minimum=1, description="Number of member slabs."),
        Column(
            name="published_key",
            type=S,
            description="The paper's own key, `<reduced formula>|<space-group number>`.",
        ),
        Column(name="bravais_lattice", type=S, one_of=BRAVAIS_LATTICES, description="Of the representative."),
        Column(name="is_ambiguous", type=B, description="Of the representative."),
        Column(name="is_hypothetical", type=B, description="True if every member is hypothetical."),
        Column(
            name="split_group",
            type=S,
            description="Materials that share a reduced composition or a parent; never divided between splits.",
        ),
    ),
)

ALL = (RECORDS, SLABS, MATERIALS)
