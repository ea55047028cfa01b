"""Tables of the literature domain."""

import pyarrow as pa

from atomvision_ml.schemas.core import STRINGS, Column, Table
from atomvision_ml.schemas.tables.structures import REASON, STATUS
from atomvision_ml.schemas.vocabulary import MODALITIES

S, I32, I64, F64, B = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()
AT = pa.timestamp("us", tz="UTC")

MONTH = Column(name="month", type=S, description="Month of the paper's first version, `YYYY-MM` (UTC).")
ARXIV_ID = Column(name="arxiv_id", type=S, description="arXiv identifier without version.")
VERSION = Column(name="version", type=I32, minimum=1, description="Version of the paper.")
FIGURE_ID = Column(name="figure_id", type=S, description="Figure of literature.figures.")
PANEL_ID = Column(name="panel_id", type=S, description="Panel of literature.panels.")
IS_CURRENT = Column(
    name="is_current",
    type=B,
    description="Whether this is the newest version of a paper that is neither withdrawn nor deleted.",
)
IS_REDISTRIBUTABLE = Column(
    name="is_redistributable",
    type=B,
    description="Whether the licence lets captions and images be passed on. An unknown licence does not.",
)

VERSIONS = pa.list_(
    pa.struct([("version", I32), ("submitted_at", AT), ("size", S), ("source_type", S)]),
)

HARVEST = Table(
    key="literature/harvest",
    description=(
        "The newest harvest of each set that changed something: its watermark, the months that it touched, and its raw "
        "pages. The watermark moves only after every month of the harvest is published."
    ),
    columns=(
        Column(name="set_name", type=S, unique=True, description="Set of the OAI-PMH interface."),
        Column(name="base_url", type=S, description="Address that was asked."),
        Column(
            name="watermark",
            type=pa.date32(),
            description="Newest datestamp of a record; the next harvest asks from the day before.",
        ),
        Column(name="n_records", type=I64, minimum=0, description="Records of this harvest."),
        Column(name="n_papers", type=I64, minimum=0, description="Papers known after it."),
        Column(name="touched_months", type=STRINGS, description="Months whose papers changed by it."),
        Column(name="blob", type=S, description="Folder of the raw pages, compressed as they came."),
    ),
)

PAPERS = Table(
    key="literature/papers",
    dimension="month",
    description="Every paper of the harvested sets by the month of its first version, as of its newest record.",
    columns=(
        MONTH,
        Column(name="arxiv_id", type=S, unique=True, description="arXiv identifier without version."),
        Column(name="datestamp", type=pa.date32(), description="Day of the record's last change."),
        Column(name="first_version_at", type=AT, description="When the first version was submitted."),
        Column(name="latest_version", type=I32, minimum=1, description="Newest version."),
        Column(name="latest_version_at", type=AT, description="When it was submitted."),
        Column(name="versions", type=VERSIONS, description="All versions, with date, size and kind of source."),
        Column(name="title", type=S, description="Title."),
        Column(name="authors", type=S, description="Authors as arXiv writes them, one string."),
        Column(name="abstract", type=S, description="Abstract."),
        Column(name="categories", type=STRINGS, description="arXiv categories, the primary one first."),
        Column(name="comments", type=S, nullable=True, description="Authors' comments."),
        Column(name="journal_reference", type=S, nullable=True, description="Where it was published."),
        Column(name="doi", type=S, nullable=True, description="Its DOI."),
        Column(name="licence_url", type=S, nullable=True, description="Licence as arXiv's metadata have it."),
        Column(name="licence", type=S, description="Its short name, e.g. `cc-by-4.0`, `arxiv-nonexclusive-distrib`."),
        IS_REDISTRIBUTABLE,
        Column(
            name="is_withdrawn",
            type=B,
            description="Tombstone: withdrawn by its authors or deleted from the interface; kept, and in no export.",
        ),
        Column(
            name="techniques",
            type=STRINGS,
            description="Microscopies that title and abstract name, e.g. `STM`, `STEM`, namesakes left out.",
        ),
        Column(
            name="is_candidate",
            type=B,
            description="Whether its full text is fetched: title or abstract name a microscopy of the corpus.",
        ),
    ),
)

TEXTS = Table(
    key="literature/texts",
    dimension="month",
    description=(
        "Full texts of the candidates as they came, HTML or TeX source, one row for each version that was ever "
        "fetched. Private: the bytes are for extraction and in no export."
    ),
    columns=(
        MONTH,
        ARXIV_ID,
        VERSION,
        STATUS,
        REASON,
        Column(name="route", type=S, nullable=True, one_of=("html", "tex"), description="Where the text came from."),
        Column(name="url", type=S, nullable=True, description="Its address at arXiv."),
        Column(name="blob", type=S, nullable=True, description="Folder with the raw bytes, compressed."),
        Column(name="sha256", type=S, nullable=True, description="Of the raw bytes."),
        Column(name="n_bytes", type=I64, nullable=True, minimum=0, unit="B", description="Size of the raw bytes."),
        Column(name="licence_url", type=S, nullable=True, description="Licence of this version when it was fetched."),
    ),
)

FIGURES = Table(
    key="literature/figures",
    dimension="month",
    description="Figures with caption and links, as the full texts tell them.",
    columns=(
        MONTH,
        Column(
            name="figure_id",
            type=S,
            unique=True,
            description="First 16 hex digits of SHA-256 of paper, version, place.",
        ),
        ARXIV_ID,
        VERSION,
        IS_CURRENT,
        STATUS,
        REASON,
        Column(name="number", type=S, nullable=True, description="As printed, e.g. `2`."),
        Column(
            name="place",
            type=I32,
            minimum=0,
            description="Place in the paper, from 1; 0 in the row of a text that cannot be read.",
        ),
        Column(name="route", type=S, nullable=True, one_of=("html", "tex"), description="See literature.texts."),
        Column(
            name="caption",
            type=S,
            nullable=True,
            description="Whole caption with those of its sub-figures, plain text.",
        ),
        Column(name="paper_url", type=S, description="Page of the paper's version."),
        Column(
            name="image_urls",
            type=STRINGS,
            description="Links to its images at arXiv; of TeX sources the archive's address, `#`, the member.",
        ),
        Column(
            name="image_labels",
            type=STRINGS,
            description="Letter of the sub-figure that each of these images is; empty where the source names none.",
        ),
        Column(
            name="n_missing_images", type=I32, minimum=0, description="Images that the source names but does not hold."
        ),
        Column(name="is_relevant", type=B, description="At least one STM, STEM, HRTEM or TEM image of a material."),
        Column(name="licence", type=S, description="See literature.papers."),
        IS_REDISTRIBUTABLE,
    ),
)

IMAGES = Table(
    key="literature/images",
    dimension="month",
    description=(
        "Images of the relevant figures, one row for each image. The bytes lie in a private cache and in no export, "
        "except that pages made here may show those whose licence allows it."
    ),
    columns=(
        MONTH,
        FIGURE_ID,
        Column(name="url", type=S, description="See image_urls of literature.figures."),
        Column(name="place", type=I32, minimum=1, description="Place in the figure, from 1."),
        STATUS,
        REASON,
        Column(
            name="blob",
            type=S,
            nullable=True,
            description="Folder with the image as it came; of vector graphics with its raster too.",
        ),
        Column(name="file", type=S, nullable=True, description="Name of the pixels there."),
        Column(name="sha256", type=S, nullable=True, description="Of the bytes as they came."),
        Column(name="width_px", type=I32, nullable=True, minimum=1, unit="px", description="Width."),
        Column(name="height_px", type=I32, nullable=True, minimum=1, unit="px", description="Height."),
        IS_REDISTRIBUTABLE,
    ),
)

PANELS = Table(
    key="literature/panels",
    dimension="month",
    description="Panels of the figures: what the caption says of each, and where it is in the image.",
    columns=(
        MONTH,
        Column(name="panel_id", type=S, unique=True, description="`<figure_id>:<label>`."),
        FIGURE_ID,
        ARXIV_ID,
        VERSION,
        IS_CURRENT,
        Column(name="label", type=S, description="Its letter; empty in a figure of one panel."),
        Column(name="text", type=S, description="Its words in the caption."),
        Column(name="label_confidence", type=F64, minimum=0, maximum=1, description="Of the division of the caption."),
        Column(name="modality", type=S, one_of=MODALITIES, description="What the caption says that it is."),
        Column(name="modality_confidence", type=F64, minimum=0, maximum=1, description="Of the modality."),
        Column(
            name="image_status",
            type=S,
            one_of=("matched", "ambiguous", "unreadable", "absent"),
            description="`matched`: as many boxes as labels; `ambiguous`: another number, the box is the whole image.",
        ),
        Column(name="image_url", type=S, nullable=True, description="Image that holds it."),
        Column(
            name="box_px",
            type=pa.list_(I32),
            nullable=True,
            unit="px",
            description="left, top, right, bottom in that image.",
        ),
        Column(name="box_confidence", type=F64, nullable=True, minimum=0, maximum=1, description="Of the box."),
        Column(
            name="image_kind",
            type=S,
            nullable=True,
            one_of=("micrograph", "drawing"),
            description="What its pixels look like.",
        ),
        Column(
            name="scale_bar_nm",
            type=F64,
            nullable=True,
            minimum=0,
            unit="nm",
            description="Length that the scale bar stands for.",
        ),
        Column(
            name="scale_bar_source",
            type=S,
            nullable=True,
            one_of=("image", "caption"),
            description="Whether that length was read in the image or in the caption.",
        ),
        Column(
            name="scale_bar_px",
            type=F64,
            nullable=True,
            minimum=0,
            unit="px",
            description="Length of the bar in the image.",
        ),
        Column(
            name="scale_bar_confidence", type=F64, nullable=True, minimum=0, maximum=1, description="Of bar and length."
        ),
        Column(name="pixel_size_nm", type=F64, nullable=True, minimum=0, unit="nm", description="Their quotient."),
    ),
)

MENTIONS = Table(
    key="literature/mentions",
    dimension="month",
    description="Materials that the captions name, by panel.",
    columns=(
        MONTH,
        PANEL_ID,
        FIGURE_ID,
        ARXIV_ID,
        IS_CURRENT,
        Column(name="raw", type=S, description="As written."),
        Column(name="formula", type=S, description="Normalised, dopants and fractions kept."),
        Column(
            name="reduced_formula",
            type=S,
            nullable=True,
            description="Comparable with structures.materials; null with unknown fractions.",
        ),
        Column(name="chemical_system", type=S, description="Elements in alphabetical order, joined by `-`."),
        Column(name="role", type=S, one_of=("sample", "substrate", "tip", "support"), description="Its part."),
        Column(name="facet", type=S, nullable=True, description="Miller indices, e.g. `111`."),
    ),
)

LINKS = Table(
    key="literature/links",
    description=(
        "The public export: links to the relevant figures and their papers, with captions where the licence allows it. "
        "Nothing of withdrawn papers, no image bytes."
    ),
    columns=(
        Column(name="figure_id", type=S, unique=True, description="Figure of literature.figures."),
        ARXIV_ID,
        VERSION,
        Column(name="number", type=S, nullable=True, description="Number of the figure as printed."),
        Column(name="title", type=S, description="Title of the paper."),
        Column(name="paper_url", type=S, description="Page of the paper."),
        Column(name="image_urls", type=STRINGS, description="Links to the images."),
        Column(name="modalities", type=STRINGS, description="Modalities of its panels."),
        Column(name="formulas", type=STRINGS, description="Materials that its caption names."),
        Column(name="licence", type=S, description="Licence of the paper."),
        Column(name="caption", type=S, nullable=True, description="Caption; null where the licence does not allow it."),
    ),
)

GALLERY = Table(
    key="literature/gallery",
    description="The page of mined figures for people: pictures and captions where the licence allows it, else links.",
    columns=(
        Column(name="page", type=S, unique=True, description="File name of the page in the blob."),
        Column(name="title", type=S, description="Title of the page."),
        Column(name="blob", type=S, description="Folder of page and pictures."),
        Column(name="n_items", type=I32, minimum=0, description="Figures shown on the page."),
    ),
)

ALL = (HARVEST, PAPERS, TEXTS, FIGURES, IMAGES, PANELS, MENTIONS, LINKS, GALLERY)
