"""The graph operations by DGL (M. Wang et al., arXiv:1909.01315)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from atomvision_ml.models.graphs.ops import GATE_FLOOR

os.environ.setdefault("DGLBACKEND", "pytorch")  # else its import writes a file into the home folder and asks for it
import dgl
import dgl.function as fn


class DglOps:
    """See :class:`atomvision_ml.models.graphs.ops.GraphOps`."""

    name = "dgl"

    def build(self, source: torch.Tensor, target: torch.Tensor, n_nodes: int) -> Any:
        """A graph of these edges."""
        return dgl.graph((source, target), num_nodes=n_nodes)

    def batch(self, graphs: Sequence[Any]) -> Any:
        """Several graphs as one."""
        return dgl.batch(list(graphs))

    def line_graph(self, graph: Any) -> Any:
        """DGL's line graph, straight returns left out."""
        return dgl.line_graph(graph, backtracking=False)

    def ends(self, graph: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Source and target of every edge."""
        return graph.edges()

    def sum_of_ends(self, graph: Any, at_source: torch.Tensor, at_target: torch.Tensor) -> torch.Tensor:
        """One kernel for both gathers and their sum."""
        with graph.local_scope():
            graph.ndata["source"], graph.ndata["target"] = at_source, at_target
            graph.apply_edges(fn.u_add_v("source", "target", "sum"))
            return graph.edata["sum"]

    def gated_mean(self, graph: Any, gates: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Two message passings and their ratio."""
        with graph.local_scope():
            graph.edata["gate"], graph.ndata["value"] = gates, values
            graph.update_all(fn.u_mul_e("value", "gate", "message"), fn.sum("message", "total"))
            graph.update_all(fn.copy_e("gate", "gate"), fn.sum("gate", "weight"))
            return graph.ndata["total"] / (graph.ndata["weight"] + GATE_FLOOR)
