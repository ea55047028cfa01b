"""Tables of the experiments domain."""

import pyarrow as pa

from atomvision_ml.schemas.core import STRINGS, Column, Table
from atomvision_ml.schemas.vocabulary import BRAVAIS_LATTICES, MODELS, TASKS

S, I32, I64, F64, B = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()
AT = pa.timestamp("us", tz="UTC")
INDICES = pa.list_(I32)

DAY = Column(name="day", type=S, description="Day on which the file was claimed from the inbox, `YYYY-MM-DD` (UTC).")
RECORD_ID = Column(name="record_id", type=S, description="Image of experiments.records and experiments.micrographs.")
LABEL_LATTICE = Column(
    name="label_lattice",
    type=S,
    nullable=True,
    one_of=BRAVAIS_LATTICES,
    description="The person's label `lattice`, where it is one of the five.",
)


def _known(name: str, type_: pa.DataType, description: str, unit: str | None = None) -> Column:
    """A column that may be empty: the field of that name of the record."""
    return Column(name=name, type=type_, nullable=True, unit=unit, description=description)


def _amount(name: str, type_: pa.DataType, description: str, unit: str | None = None) -> Column:
    """A quantity that is not negative and may be unknown."""
    return Column(name=name, type=type_, nullable=True, minimum=0, unit=unit, description=description)


def _share(name: str, description: str) -> Column:
    """A number from 0 to 1 that may be unknown."""
    return Column(name=name, type=F64, nullable=True, minimum=0, maximum=1, description=description)


PIXEL_SIZES = (
    _amount("pixel_size_y_nm", F64, "Edge of a pixel along y; null if not calibrated.", "nm"),
    _amount("pixel_size_x_nm", F64, "Edge of a pixel along x; null if not calibrated.", "nm"),
    _amount("reciprocal_pixel_size_y_per_nm", F64, "Edge of a pixel of a diffraction pattern along y.", "1/nm"),
    _amount("reciprocal_pixel_size_x_per_nm", F64, "Edge of a pixel of a diffraction pattern along x.", "1/nm"),
)

INBOX = Table(
    key="experiments/inbox",
    description="The inbox's book: every file that was ever seen in the watched folder or bucket, and its state.",
    columns=(
        Column(name="place", type=S, unique=True, description="Path within the inbox, with forward slashes."),
        Column(name="size_bytes", type=I64, minimum=0, unit="B", description="Size in the newest listing."),
        Column(
            name="state",
            type=S,
            one_of=("new", "ready", "claimed", "accepted", "duplicate", "rejected"),
            description="`new` until it rests, `ready` to be read, `claimed` by a run; the others are final.",
        ),
        Column(name="is_present", type=B, description="Whether the newest listing holds it."),
        Column(name="since", type=AT, description="Time from which it is unchanged."),
        Column(name="attempts", type=I32, minimum=0, description="Runs that claimed this content."),
        Column(name="reason", type=S, nullable=True, description="Why it was rejected."),
        Column(name="duplicate_of", type=S, nullable=True, description="Place that brought this content first."),
    ),
)

RECORDS = Table(
    key="experiments/records",
    dimension="day",
    description=(
        "One row for each image ever received, taken or not, and one for each file that was rejected: what its header "
        "and its sidecar say, where it came from, and what became of it."
    ),
    columns=(
        DAY,
        Column(
            name="receipt_id",
            type=S,
            unique=True,
            description="First 16 hex digits of SHA-256 of place, time of receipt and image.",
        ),
        Column(name="place", type=S, description="Path of the file within the inbox."),
        Column(name="received_at", type=AT, description="When it was read."),
        Column(
            name="state",
            type=S,
            one_of=("accepted", "duplicate", "rejected", "superseded"),
            description=(
                "`duplicate`: the same bytes, or the same pixels in another file, came before; `superseded`: read "
                "again since, with a new sidecar."
            ),
        ),
        Column(name="reason", type=S, nullable=True, description="Why it is rejected or a duplicate."),
        Column(name="duplicate_of", type=S, nullable=True, description="receipt_id of the image that came first."),
        Column(
            name="blob",
            type=S,
            nullable=True,
            description="Folder with the original bytes and their sidecar; null of rejected and repeated files.",
        ),
        Column(name="file", type=S, nullable=True, description="Name of the file there."),
        LABEL_LATTICE,
        _known("record_id", S, "16 digits of the pixels' SHA-256, and the image's number in its file."),
        _known("file_sha256", S, "SHA-256 of the file; null if it could not be read."),
        _known("pixel_sha256", S, "SHA-256 of number type, shape and little-endian pixels."),
        Column(name="original_filename", type=S, description="Name of the file as received."),
        Column(name="size_bytes", type=I64, minimum=0, unit="B", description="Size of the file."),
        _known("source_format", S, "Format by content."),
        _known("reader", S, "Reader of the format."),
        _known("reader_version", S, "Its version, with that of its library."),
        _known("profiles", STRINGS, "Profiles that translated the header."),
        _known("signal_index", I32, "Number of the image within its file, from 0; null: the row is of the whole file."),
        _known("signal_name", S, "The file's name for the image."),
        _amount("shape_y", I32, "Rows.", "px"),
        _amount("shape_x", I32, "Columns.", "px"),
        _known("n_frames", I32, "Frames of the same field."),
        _known("dtype", S, "Number type of the pixels as in the file."),
        _known("quantity", S, "What the pixels measure, e.g. Z or Current."),
        _known("intensity_scale", F64, "Value = scale · pixel + offset."),
        _known("intensity_offset", F64, "Value = scale · pixel + offset."),
        _known("intensity_unit", S, "Unit of the value."),
        _known("technique", S, "Kind of microscopy, e.g. STEM."),
        _known("imaging_mode", S, "Contrast or feedback, e.g. HAADF."),
        _known("instrument_name", S, "Name of the microscope."),
        _known("instrument_vendor", S, "Its maker."),
        _known("instrument_id", S, "Its serial or inventory number."),
        _known("acceleration_voltage_kv", F64, "Acceleration voltage.", "kV"),
        _known("detector", S, "Detector or camera."),
        *PIXEL_SIZES,
        _known("calibration_source", S, "Where the pixel size comes from: header, sidecar, scale_bar, lattice, none."),
        _amount("field_of_view_y_nm", F64, "Rows × pixel size.", "nm"),
        _amount("field_of_view_x_nm", F64, "Columns × pixel size.", "nm"),
        _known("magnification", F64, "Indicated magnification.", "x"),
        _known("camera_length_mm", F64, "Camera length.", "mm"),
        _known("convergence_semi_angle_mrad", F64, "Convergence semi-angle.", "mrad"),
        _known("collection_inner_mrad", F64, "Inner collection semi-angle.", "mrad"),
        _known("collection_outer_mrad", F64, "Outer collection semi-angle.", "mrad"),
        _known("defocus_nm", F64, "Defocus, signed as the instrument's software does.", "nm"),
        _known("beam_current_pa", F64, "Current in the beam.", "pA"),
        _known("dwell_time_us", F64, "Time per pixel of a scan.", "us"),
        _known("exposure_s", F64, "Exposure of a camera frame.", "s"),
        _known("dose_e_per_a2", F64, "Electrons per Å² of one frame.", "e/A2"),
        _known("bias_voltage_v", F64, "Sample bias.", "V"),
        _known("setpoint_current_a", F64, "Set-point of the tunnelling current.", "A"),
        _known("temperature_k", F64, "Temperature of the sample.", "K"),
        _known("scan_angle_deg", F64, "Rotation of the scan.", "deg"),
        _known("tilt_alpha_deg", F64, "Tilt α of the stage.", "deg"),
        _known("tilt_beta_deg", F64, "Tilt β of the stage.", "deg"),
        _known("acquired_at", AT, "When the image was taken."),
        _known("is_time_zone_assumed", B, "Whether UTC was assumed for it."),
        _known("operator", S, "Who took it."),
        _known("sample_id", S, "Sample: all its images go to the same split."),
        _known("material_formula", S, "Chemical formula, e.g. Fe3O4."),
        _known("phase", S, "Phase, with the space group and its setting."),
        _known("phase_source", S, "Where the phase comes from, e.g. XRD."),
        _known("zone_axis_uvw", INDICES, "Zone axis [u, v, w]."),
        _known("facet_hkl", INDICES, "Facet (h, k, l) as measured."),
        _known("facet_source", S, "Who assigned the facet."),
        _known("facet_confidence", F64, "Confidence of the facet."),
        _known("morphology", S, "Shape of the particles."),
        _known("synthesis_method", S, "Synthesis, e.g. thermal decomposition."),
        _known("synthesis_parameters", S, "Its parameters, as JSON."),
        _known("preparation", S, "Preparation of the sample."),
        _known("support", S, "Grid or substrate."),
        _known("labels", S, "Labels for training, as JSON."),
        _known("annotator", S, "Who labelled."),
        _known("licence", S, "SPDX name of the licence."),
        _known("project", S, "Project."),
        _known("notes", S, "Anything else."),
        _known("extensions", S, "Further fields of an instrument, as JSON."),
        _known("missing_fields", STRINGS, "Required fields that are empty."),
        _known("warnings", STRINGS, "What a user should know."),
        _known("original_metadata", S, "The file's header, as JSON."),
        _known("schema_version", S, "Version of the record model."),
    ),
)

MICROGRAPHS = Table(
    key="experiments/micrographs",
    dimension="day",
    description=(
        "The accepted images: pixels without loss and calibrated axes as OME-Zarr 0.5, one blob an image, with what "
        "was measured of their quality."
    ),
    columns=(
        DAY,
        Column(name="record_id", type=S, unique=True, description="Image of experiments.records."),
        Column(name="receipt_id", type=S, unique=True, description="Its row of experiments.records."),
        Column(name="original_filename", type=S, description="Name of the file as received."),
        Column(name="blob", type=S, description="OME-Zarr group: array `s0` [y, x] or [frame, y, x], the file's type."),
        Column(name="shape_y", type=I32, minimum=1, unit="px", description="Rows."),
        Column(name="shape_x", type=I32, minimum=1, unit="px", description="Columns."),
        Column(name="n_frames", type=I32, minimum=1, description="Frames of the same field."),
        Column(name="dtype", type=S, description="Number type of the pixels."),
        Column(name="is_calibrated", type=B, description="Whether lengths can be measured in the image."),
        *PIXEL_SIZES,
        _known("technique", S, "Kind of microscopy."),
        _known("imaging_mode", S, "Contrast or feedback."),
        _known("sample_id", S, "Sample: all its images go to the same split."),
        _known("material_formula", S, "Chemical formula."),
        _known("phase", S, "Phase."),
        LABEL_LATTICE,
        Column(name="noise", type=F64, minimum=0, description="Standard deviation of the noise, in measured values."),
        Column(name="snr", type=F64, minimum=0, description="Standard deviation of the signal over that of the noise."),
        Column(
            name="focus",
            type=F64,
            minimum=0,
            unit="1/px",
            description="Root mean square frequency of the signal; higher is sharper.",
        ),
        Column(
            name="astigmatism",
            type=F64,
            minimum=0,
            maximum=1,
            description="Anisotropy of the signal's power spectrum, also from drift and crystals of low symmetry.",
        ),
        Column(
            name="astigmatism_angle_deg",
            type=F64,
            unit="deg",
            description="Direction of the sharper axis, from x towards y (downwards).",
        ),
        Column(
            name="clipped_share",
            type=F64,
            minimum=0,
            maximum=1,
            description="Share of pixels that pile up at the lowest or the highest value.",
        ),
    ),
)

FACETS = Table(
    key="experiments/facets",
    dimension="day",
    description=(
        "Lattice planes: the spots of each micrograph's diffractogram and the planes of reference phases that they "
        "are. One row for a spot; a single row without spot for a micrograph that shows none."
    ),
    columns=(
        DAY,
        RECORD_ID,
        _amount("spot", I32, "Number of the spot, the strongest is 1; null if there is none."),
        Column(
            name="state",
            type=S,
            one_of=("decided", "undecided", "unexplained"),
            description="Whether one family of planes stands out; `unexplained`: surely no plane of the phases.",
        ),
        _known("reason", S, "Why it is not decided."),
        _known("phase", S, "Reference phase of the most probable plane."),
        _known("hkl", INDICES, "Its indices (h, k, l), consistent with those of the image's other spots."),
        _known("family", INDICES, "Name of its family {h, k, l}."),
        _share("probability", "Of that family, or of being no plane of the phases."),
        _known("candidates_json", S, "Families by probability, at most five, as JSON."),
        _amount("d_nm", F64, "Measured spacing by the image's calibration.", "nm"),
        _amount("d_uncertainty_nm", F64, "Its standard uncertainty from noise alone.", "nm"),
        _known("frequency_x", F64, "Place of the spot along x; pixels count as square, of the edge along x.", "1/px"),
        _known("frequency_y", F64, "Place of the spot along y.", "1/px"),
        _amount("snr", F64, "Power over noise."),
        _known("zone_axis_uvw", INDICES, "Direction [u, v, w] along which the crystal is seen."),
        _share("zone_probability", "Of that direction's family."),
        _amount("scale", F64, "True pixel size over the given one; in Å where none is given."),
        _known("is_calibrated", B, "Whether the image has a pixel size."),
        _known("is_phase_declared", B, "Whether the record names a single reference phase."),
        _amount("region_y_px", I32, "First row of the part of the image that was transformed.", "px"),
        _amount("region_x_px", I32, "Its first column.", "px"),
        _amount("region_height_px", I32, "Its height.", "px"),
        _amount("region_width_px", I32, "Its width.", "px"),
    ),
)

PARTICLES = Table(
    key="experiments/particles",
    dimension="day",
    description=(
        "Nanoparticles of each micrograph, with size and shape, overlapping ones told apart. One row for a particle; a "
        "single row without particle for a micrograph that shows none."
    ),
    columns=(
        DAY,
        RECORD_ID,
        _amount("particle", I32, "Number within the image, from 1; null if there is none."),
        _known("reason", S, "Why there is none."),
        _amount("y_px", F64, "Row of its centre.", "px"),
        _amount("x_px", F64, "Column of its centre.", "px"),
        _amount("area_px", F64, "Projected area of the whole particle.", "px2"),
        _amount("area_nm2", F64, "Projected area; null if not calibrated.", "nm2"),
        _amount("equivalent_diameter_nm", F64, "Diameter of the disc of equal area.", "nm"),
        _amount("major_px", F64, "Major axis of the ellipse of equal second moments.", "px"),
        _amount("minor_px", F64, "Its minor axis.", "px"),
        _known("orientation_deg", F64, "Direction of the major axis, counter-clockwise from x.", "deg"),
        _amount("aspect_ratio", F64, "Major over minor axis."),
        _amount("circularity", F64, "4π·area/perimeter²; 1 for a disc."),
        _amount("solidity", F64, "Area over that of the convex hull."),
        _amount("extent", F64, "Area over that of the smallest rectangle around it."),
        _known("touches_border", B, "Whether the image cuts it."),
        _known("is_overlapped", B, "Whether it was cut from others."),
        _known("is_completed", B, "Whether an ellipse stands for what others cover of it."),
        _known("shape_class", S, "Class of its shape among the day's particles, A the most frequent; unsupervised."),
    ),
)

FINDINGS = Table(
    key="experiments/findings",
    dimension="day",
    description=(
        "What the present champions say of each micrograph: of its middle 256 × 256 pixels, one row for a task. Where "
        "nothing is said there is the reason."
    ),
    columns=(
        DAY,
        RECORD_ID,
        Column(name="task", type=S, one_of=TASKS, description="Learning task."),
        Column(
            name="name", type=S, nullable=True, one_of=tuple(MODELS), description="Model; null if none is in office."
        ),
        _known("model_id", S, "Its checkpoint."),
        _known("prediction_json", S, "What it says, as JSON; lengths in Å from the first pixel of the middle."),
        _known("reason", S, "Why it says nothing."),
        Column(
            name="is_out_of_distribution",
            type=B,
            nullable=True,
            description="Whether a statistic of the image is outside the range of the training images.",
        ),
        _share("typicality", "Share of the training images that are at least as unusual."),
        Column(name="warnings", type=STRINGS, description="Which statistics are outside."),
    ),
)

MATCHED_PAIRS = Table(
    key="evaluation/matched_pairs",
    description=(
        "Micrographs beside simulated images of crystals that have their lattice, at their calibration, aligned; and "
        "the page of each micrograph. A micrograph without a pair has one row that says why."
    ),
    columns=(
        RECORD_ID,
        Column(name="day", type=S, description="Day on which the micrograph was received."),
        _amount("rank", I32, "1 is the most alike."),
        _known("crystal", S, "Slab of structures.slabs, or a reference phase with its zone axis."),
        _known("formula", S, "Its formula."),
        _known("source", S, "Where the crystal comes from."),
        Column(
            name="similarity",
            type=F64,
            nullable=True,
            minimum=-1,
            maximum=1.000001,
            description="Correlation coefficient of the pixels, simulated against measured, in the best pose.",
        ),
        _amount("scale", F64, "Picture over crystal: a wrong pixel size, or drift."),
        _amount("anisotropy", F64, "Largest over smallest principal stretch, less 1, of picture against crystal."),
        _known("zone_axis", S, "Zone axis of the declared phase, where one stands out."),
        _known("summary_json", S, "What was measured in the micrograph, as JSON."),
        _known("reason", S, "Why there is no pair."),
        Column(name="models", type=STRINGS, description="Checkpoints whose answers the page shows."),
        _known("blob", S, "Folder of the page `index.html`; null until its turn."),
    ),
)

ALL = (INBOX, RECORDS, MICROGRAPHS, FACETS, PARTICLES, FINDINGS, MATCHED_PAIRS)
