"""Tables of the images domain."""

import pyarrow as pa

from atomvision_ml.schemas.core import FLOATS, Column, Table
from atomvision_ml.schemas.tables.structures import SOURCE
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES

S, I32, F64, B = pa.string(), pa.int32(), pa.float64(), pa.bool_()

ATOM = pa.struct([("x_angstrom", pa.float64()), ("y_angstrom", pa.float64()), ("atomic_number", pa.int16())])
COLUMN = pa.struct(
    [
        ("x_angstrom", pa.float64()),
        ("y_angstrom", pa.float64()),
        ("n_atoms", pa.int16()),
        ("relative_intensity", pa.float64()),
    ]
)

STEM = Table(
    key="images/stem",
    dimension="source",
    description=(
        "Simulated HAADF-STEM images in the convolution approximation, I(r) = Σ Z^p · normalised Gaussian: one row "
        "per image, pixels and masks in the Zarr blob. Arrays are [y, x]; x runs along columns, the origin is the "
        "centre of pixel [0, 0]."
    ),
    columns=(
        Column(name="image_id", type=S, unique=True, description="`<slab_id>#<n>`."),
        Column(name="slab_id", type=S, description="The slab that was imaged."),
        SOURCE,
        Column(
            name="blob",
            type=S,
            description="Zarr v3 group with the arrays `images` float32 and `masks` bool, each (n, y, x).",
        ),
        Column(name="index", type=I32, minimum=0, description="First index into the arrays of the blob."),
        Column(name="size_px", type=I32, minimum=1, unit="px", description="Edge of the square image."),
        Column(name="pixel_size_angstrom", type=F64, minimum=1e-6, unit="Å", description="Edge of a pixel."),
        Column(name="field_angstrom", type=F64, minimum=0, unit="Å", description="Edge of the field of view."),
        Column(
            name="sigma_angstrom",
            type=F64,
            minimum=0,
            unit="Å",
            description="Standard deviation σ of the Gaussian probe.",
        ),
        Column(name="z_exponent", type=F64, minimum=0, description="Exponent p of Z."),
        Column(
            name="rotation_deg",
            type=F64,
            unit="°",
            description="Counter-clockwise rotation in (x, y) about the origin.",
        ),
        Column(name="shift_x_angstrom", type=F64, unit="Å", description="Shift along x after the rotation."),
        Column(name="shift_y_angstrom", type=F64, unit="Å", description="Shift along y after the rotation."),
        Column(
            name="lattice_vectors_angstrom",
            type=FLOATS,
            unit="Å",
            description="Reduced primitive vectors as imaged (rotated), rows (x, y), (2, 2) flattened.",
        ),
        Column(
            name="periods_in_view",
            type=F64,
            minimum=0,
            description="Field divided by the longer primitive vector.",
        ),
        Column(name="bravais_lattice", type=S, one_of=BRAVAIS_LATTICES, description="See structures.slabs."),
        Column(
            name="class_strain_percent",
            type=F64,
            nullable=True,
            unit="%",
            description="See structures.slabs.",
        ),
        Column(
            name="next_class_strain_percent",
            type=F64,
            nullable=True,
            unit="%",
            description="See structures.slabs.",
        ),
        Column(name="superlattice_contrast", type=F64, nullable=True, description="See structures.slabs."),
        Column(name="is_ambiguous", type=B, description="See structures.slabs."),
        Column(
            name="mean_intensity",
            type=F64,
            minimum=0,
            unit="1/Å²",
            description="Mean of the stored image, Z^p per area.",
        ),
        Column(name="n_atoms_in_view", type=I32, minimum=0, description="Atoms inside the field of view."),
        Column(name="n_columns_in_view", type=I32, minimum=0, description="Columns inside the field of view."),
        Column(
            name="mask_fraction",
            type=F64,
            minimum=0,
            maximum=1,
            description="Share of pixels with centre within 0.5 Å of a column.",
        ),
        Column(
            name="atoms",
            type=pa.list_(ATOM),
            description="Every atom in view: x, y in Å from the centre of pixel [0, 0], Z.",
        ),
        Column(
            name="columns",
            type=pa.list_(COLUMN),
            description="Columns in view (atoms merged within 1 Å): x, y in Å, atoms, intensity over the brightest.",
        ),
    ),
)

ATOM_GRAPHS = Table(
    key="images/atom_graphs",
    dimension="source",
    description=(
        "Graphs of the noiseless STEM images: atoms by the Laplacian of Gaussian with the intensities of their blobs, "
        "bonds up to 4 Å, and repeats of each atom's surroundings. One row per image, the graphs as flat arrays in the "
        "Zarr blob."
    ),
    columns=(
        Column(name="image_id", type=S, unique=True, description="Image of images.stem."),
        SOURCE,
        Column(
            name="blob",
            type=S,
            description="Zarr v3 group: atom_offsets, positions_angstrom, intensities, is_inside, bond_offsets, bonds, "
            "repeat_offsets, repeats, differences.",
        ),
        Column(name="index", type=I32, minimum=0, description="Number of the graph in the blob's offsets."),
        Column(name="n_atoms", type=I32, minimum=0, description="Atoms found."),
        Column(name="n_inside", type=I32, minimum=0, description="Atoms at least 4 Å inside the field."),
        Column(name="n_bonds", type=I32, minimum=0, description="Bonds, each in both directions."),
        Column(name="n_repeats", type=I32, minimum=0, description="Pairs of atoms with the same surroundings."),
        Column(
            name="nearest_columns_angstrom",
            type=F64,
            minimum=0,
            unit="Å",
            description="Smallest distance of two columns of the crystal (atoms within 0.1 Å are one).",
        ),
        Column(
            name="column_recall",
            type=F64,
            nullable=True,
            minimum=0,
            maximum=1,
            description="Share of the columns (5 % of the brightest, 1 Å inside the border) with an atom within 0.5 Å.",
        ),
        Column(
            name="atom_precision",
            type=F64,
            nullable=True,
            minimum=0,
            maximum=1,
            description="Share of the atoms (1 Å inside the border) with a column within 0.5 Å.",
        ),
    ),
)

ALL = (STEM, ATOM_GRAPHS)
