"""Speed of the graphs: against the published route in the same run, and training with both backends side by side.

Belongs here: measurements whose results are rows, as in :mod:`atomvision_ml.images.benchmark`. The published route is
that of the AtomVision paper's code: scikit-image's ``blob_log`` with σ from 5 to 8 px on images of 0.1 Å per pixel, the
intensities of the blobs by region, a k-d tree, and a NetworkX graph. Its conversion to DGL is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atomvision_ml.images.atom_graphs import AtomGraphs, GraphParameters, build_graphs
from atomvision_ml.images.benchmark import SIZE_PX, benchmark_slabs
from atomvision_ml.images.stem import View, project, render_batch, torch_threads
from atomvision_ml.models.graphs.ops import has_dgl
from atomvision_ml.models.graphs.parts import bond_part, repeat_part
from atomvision_ml.models.lattice_graph import GraphBatch, LatticeGraphParameters, build_network
from atomvision_ml.timing import best_s

Row = dict[str, Any]
Images = NDArray[np.float32]

PIXEL_ANGSTROM = 0.1
CUTOFF_ANGSTROM = 4.0
_PEER_SIGMAS_PX = (5, 8)
_MOST_IMAGES = 64
_REPEATS = 3


def graph_benchmark_rows(sources: Path | None, *, n_structures: int = 60, seed: int = 0) -> Iterator[Row]:
    """Measure, one row at a time; processor time, torch on one thread.

    Args:
        sources: folder with the structure databases; None: the embedded prototypes.
        n_structures: random structures, at most 64, one image of 256 x 256 pixels of each.
        seed: of their choice and poses.

    Yields:
        ``atom_graphs``: ``peer_ms`` and ``ours_ms`` for one image out of a batch, ``ratio`` of the totals, with all
        that is stored and with bonds alone, as the peer has them. ``lattice_graph_training``, one row per backend:
        ``graphs_per_s`` forwards, backwards and in the optimiser.
    """
    slabs = benchmark_slabs(sources)
    chosen = slabs.sample(min(n_structures, len(slabs), _MOST_IMAGES), seed=seed, shuffle=True)
    with torch_threads(1):
        images = _images(chosen, seed)
        peer_s = sum(best_s(partial(published_graph, image), 1) for image in images)
        common = {"structures": f"{len(images)} random", "pixel_size_angstrom": PIXEL_ANGSTROM}
        for name, repeats in (("atom_graphs", GraphParameters().n_repeats), ("atom_graphs_bonds_only", 0)):
            ours_s = best_s(partial(build_graphs, images, PIXEL_ANGSTROM, GraphParameters(n_repeats=repeats)), _REPEATS)
            yield {
                "benchmark": name,
                **common,
                "peer_ms": 1e3 * peer_s / len(images),
                "ours_ms": 1e3 * ours_s / len(images),
                "ratio": peer_s / ours_s,
                "aim": 10.0,
            }
        yield from _training(build_graphs(images, PIXEL_ANGSTROM), seed)


def published_graph(image: Images) -> Any:
    """The NetworkX graph of one image [y, x] of 0.1 Å per pixel by the published route."""
    import networkx as nx
    from scipy.spatial import KDTree
    from skimage.draw import disk
    from skimage.feature import blob_log
    from skimage.measure import label, regionprops_table

    low, high = _PEER_SIGMAS_PX
    mask = np.zeros(image.shape, int)
    for y, x, radius in blob_log(np.asarray(image, float), threshold=0, min_sigma=low, max_sigma=high):
        mask[disk((y, x), radius, shape=mask.shape)] = 1
    wanted = ("centroid", "min_intensity", "mean_intensity", "max_intensity")
    found = regionprops_table(label(mask), intensity_image=image / image.max(), properties=wanted)
    places = np.stack([found["centroid-0"], found["centroid-1"]], axis=1) * PIXEL_ANGSTROM
    graph = nx.Graph()
    for number, place in enumerate(places):
        graph.add_node(number, pos=place, **{name: found[name][number] for name in wanted[1:]})
    graph.add_edges_from(KDTree(places).query_pairs(CUTOFF_ANGSTROM))
    return graph


def _images(slabs: pl.DataFrame, seed: int) -> Images:
    random = np.random.default_rng(seed)
    projections = [
        project(
            np.asarray(row["numbers"]),
            np.reshape(row["positions_angstrom"], (-1, 3)),
            np.reshape(row["cell_angstrom"], (3, 3)),
        )
        for row in slabs.iter_rows(named=True)
    ]
    views = [View(PIXEL_ANGSTROM, SIZE_PX, random.uniform(0, 360), tuple(random.uniform(0, 5, 2))) for _ in projections]
    return render_batch(projections, views)


def _training(graphs: AtomGraphs, seed: int) -> Iterator[Row]:
    """One batch, again and again."""
    parameters = LatticeGraphParameters()
    random = np.random.default_rng(seed)
    able = [n for n in range(len(graphs)) if graphs[n].is_inside.any()]
    chosen = [graphs[int(n)] for n in random.choice(able, parameters.batch_size)]
    batch = GraphBatch(
        [bond_part(graph, parameters.training_atoms, random) for graph in chosen],
        [repeat_part(graph, parameters.training_repeats, random) for graph in chosen],
    )
    speeds: dict[str, float] = {}
    for backend in ("torch", "dgl") if has_dgl() else ("torch",):
        seconds = best_s(_step(LatticeGraphParameters(backend=backend), batch), _REPEATS)
        speeds[backend] = len(batch.bonds) / seconds
        yield {
            "benchmark": "lattice_graph_training",
            "structures": f"batch of {len(batch.bonds)}",
            "backend": backend,
            "graphs_per_s": speeds[backend],
            "ratio": speeds[backend] / speeds["torch"],
        }


def _step(parameters: LatticeGraphParameters, batch: GraphBatch) -> Callable[[], None]:
    import torch

    network = build_network(parameters)
    optimiser = torch.optim.AdamW(network.parameters(), lr=parameters.learning_rate)
    labels = torch.zeros(len(batch.bonds), dtype=torch.int64)

    def step() -> None:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(batch), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step
