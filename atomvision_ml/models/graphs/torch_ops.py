"""The graph operations in plain torch: gathers and scattered sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from atomvision_ml.models.graphs.ops import GATE_FLOOR


@dataclass(frozen=True)
class EdgeList:
    """A graph: source and target (e,) int64, number of nodes."""

    source: torch.Tensor
    target: torch.Tensor
    n_nodes: int


class TorchOps:
    """See :class:`atomvision_ml.models.graphs.ops.GraphOps`."""

    name = "torch"

    def build(self, source: torch.Tensor, target: torch.Tensor, n_nodes: int) -> EdgeList:
        """A graph of these edges."""
        return EdgeList(source, target, n_nodes)

    def batch(self, graphs: Sequence[EdgeList]) -> EdgeList:
        """Several graphs as one."""
        starts = [0]
        for graph in graphs:
            starts.append(starts[-1] + graph.n_nodes)
        source = torch.cat([graph.source + start for graph, start in zip(graphs, starts, strict=False)])
        target = torch.cat([graph.target + start for graph, start in zip(graphs, starts, strict=False)])
        return EdgeList(source, target, starts[-1])

    def line_graph(self, graph: EdgeList) -> EdgeList:
        """Edges as nodes, by sorting the edges by their source."""
        source, target = graph.source, graph.target
        order = torch.argsort(source, stable=True)
        out = torch.bincount(source, minlength=graph.n_nodes)
        start = torch.cumsum(out, 0) - out
        many = out[target]
        first = torch.repeat_interleave(torch.arange(len(source), device=source.device), many)
        within = torch.arange(len(first), device=source.device) - torch.repeat_interleave(
            torch.cumsum(many, 0) - many, many
        )
        second = order[start[target[first]] + within]
        goes_on = target[second] != source[first]
        return EdgeList(first[goes_on], second[goes_on], len(source))

    def ends(self, graph: EdgeList) -> tuple[torch.Tensor, torch.Tensor]:
        """Source and target of every edge."""
        return graph.source, graph.target

    def sum_of_ends(self, graph: EdgeList, at_source: torch.Tensor, at_target: torch.Tensor) -> torch.Tensor:
        """Sums of two gathers."""
        return at_source.index_select(0, graph.source) + at_target.index_select(0, graph.target)

    def gated_mean(self, graph: EdgeList, gates: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Two scattered sums and their ratio."""
        zeros = values.new_zeros((graph.n_nodes, values.shape[1]))
        total = zeros.index_add(0, graph.target, gates * values.index_select(0, graph.source))
        return total / (zeros.index_add(0, graph.target, gates) + GATE_FLOOR)
