"""Words that more than one room uses, each list written once."""

from typing import Literal, get_args

SOURCES = ("prototypes", "jarvis_dft_2d", "c2db", "twodmatpedia")
"""The structure databases; the partitions of the structure and image assets."""

EXPERIMENTS = "experiments"
"""Source of the items of training sets and hold-outs that microscopes have taken."""

BRAVAIS_LATTICES = ("hexagonal", "square", "rectangular", "rhombic", "oblique")
"""The five 2D Bravais lattices, in the order of the published class numbers 0 to 4 (AtomVision, Fig. 6)."""

TASKS = ("lattice", "segmentation", "atoms", "super_resolution", "reconstruction", "embedding", "defects")
"""The learning tasks; the partitions of ``models/training_sets``."""

LITERATURE_TASKS = ("captions", "panels", "scale_bars")
"""Tasks of the literature, whose methods are rules: scored on labelled captions and on composites of known truth."""

MODELS = {
    "lattice_finder": "lattice",
    "lattice_cnn": "lattice",
    "lattice_fusion": "lattice",
    "lattice_graph": "lattice",
    "segmenter": "segmentation",
    "gaussian_segmenter": "segmentation",
    "refined_segmenter": "segmentation",
    "atom_finder": "atoms",
    "super_resolver": "super_resolution",
    "srgan": "super_resolution",
    "autoencoder": "reconstruction",
    "conv_autoencoder": "reconstruction",
    "defect_finder": "defects",
}
"""The registered models and the task of each; every one has the tables ``models/<name>`` and ``predictions/<name>``."""

SPLITS = ("train", "val", "test")

SIZES = ("demo", "full")
"""The two sizes at which the graph runs; part of the identity of models and metrics."""

FIRST_DAY = "2024-01-01"
"""First partition of the daily tables of the experiments; nothing was received before."""

FIRST_MONTH = "1991-08"
"""Month in which arXiv began; the first partition of the monthly tables of the literature."""

Modality = Literal["STM", "STEM", "HRTEM", "TEM", "SEM", "AFM", "diffraction", "plot", "schematic", "other"]
"""What a panel of a figure can show."""

MODALITIES: tuple[Modality, ...] = get_args(Modality)
