"""The graph operations that networks need, behind one interface.

Belongs here: the interface and the choice of its backend. ``dgl`` (Deep Graph Library) is taken where it can be
imported, else ``torch``, which needs nothing more. Both give the same numbers and gradients; edges of a line graph may
come in another order, so a network must take what belongs to an edge from :meth:`GraphOps.ends`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch

Backend = Literal["auto", "dgl", "torch"]


class GraphOps(Protocol):
    """Operations on directed graphs; a graph is whatever the backend makes of it."""

    name: str

    def build(self, source: torch.Tensor, target: torch.Tensor, n_nodes: int) -> Any:
        """A graph of edges (e,) int64 between ``n_nodes`` nodes; the order of the edges is kept."""
        ...

    def batch(self, graphs: Sequence[Any]) -> Any:
        """Several graphs as one without edges between them, nodes and edges in their order."""
        ...

    def line_graph(self, graph: Any) -> Any:
        """Edges as nodes; pairs (u → v), (v → w) with w ≠ u as edges."""
        ...

    def ends(self, graph: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Source and target of every edge, (e,) int64 each."""
        ...

    def sum_of_ends(self, graph: Any, at_source: torch.Tensor, at_target: torch.Tensor) -> torch.Tensor:
        """For every edge the value (n, h) at its source plus the other value (n, h) at its target, (e, h)."""
        ...

    def gated_mean(self, graph: Any, gates: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Mean at each target of the values (n, h) at the sources, weighted by the gates (e, h); zero without edges."""
        ...


GATE_FLOOR = 1e-6
"""Added to the sum of the gates, as in ALIGNN."""


def has_dgl() -> bool:
    """Whether DGL is installed; this does not import it."""
    return find_spec("dgl") is not None


def graph_ops(backend: Backend = "auto") -> GraphOps:
    """The backend of that name; ``auto`` is DGL where it can be imported.

    Raises:
        ValueError: an unknown name.
        RuntimeError: DGL is asked for and cannot be imported.
    """
    if backend not in ("auto", "dgl", "torch"):
        raise ValueError(f"unknown graph backend {backend!r}; known are auto, dgl, torch")
    if backend != "torch":
        try:
            from atomvision_ml.models.graphs.dgl_ops import DglOps

            return DglOps()
        except (ImportError, OSError) as error:
            if backend == "dgl":
                raise RuntimeError(
                    f"DGL cannot be imported ({error}); install dgl>=1.1.3,<2 on Python 3.11, or use torch"
                ) from error
    from atomvision_ml.models.graphs.torch_ops import TorchOps

    return TorchOps()
