"""The layers of ALIGNN (K. Choudhary, B. DeCost, npj Comput. Mater. 7, 185 (2021)), over any graph backend.

Belongs here: edge-gated convolution, the ALIGNN layer, radial functions. Layer instead of batch normalisation, so that
what is said of a graph does not depend on the others of its batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from atomvision_ml.models.graphs.ops import GraphOps


class RadialBasis(nn.Module):
    """Gaussians at even steps: (k,) to (k, bins)."""

    def __init__(self, low: float, high: float, bins: int) -> None:
        super().__init__()
        self.centres: torch.Tensor
        self.register_buffer("centres", torch.linspace(low, high, bins), persistent=False)
        self.sharpness = (bins - 1) / (high - low)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """exp(−((value − centre)/step)²)."""
        return torch.exp(-(((values[:, None] - self.centres) * self.sharpness) ** 2))


class SharpBasis(nn.Module):
    """Gaussians of several widths at few special values: (k,) to (k, values × widths).

    Whether two vectors are equally long, or at a right angle, is a matter of a percent or less.
    """

    def __init__(self, places: tuple[float, ...], widths: tuple[float, ...]) -> None:
        super().__init__()
        grid = torch.cartesian_prod(torch.tensor(places), torch.tensor(widths)).reshape(-1, 2)
        self.centres: torch.Tensor
        self.widths: torch.Tensor
        self.register_buffer("centres", grid[:, 0].clone(), persistent=False)
        self.register_buffer("widths", grid[:, 1].clone(), persistent=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """exp(−½((value − place)/width)²)."""
        return torch.exp(-0.5 * ((values[:, None] - self.centres) / self.widths) ** 2)


class EdgeGatedConvolution(nn.Module):
    """Nodes take in their neighbours through gates made of both nodes and the edge; edges keep the gates' logits."""

    def __init__(self, width: int, ops: GraphOps) -> None:
        super().__init__()
        self.ops = ops
        self.at_source, self.at_target, self.at_edge = (nn.Linear(width, width) for _ in range(3))
        self.own, self.taken = nn.Linear(width, width), nn.Linear(width, width)
        self.node_norm, self.edge_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, graph: Any, nodes: torch.Tensor, edges: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Nodes (n, width) and edges (e, width) to the same."""
        silu = nn.functional.silu
        logits = self.ops.sum_of_ends(graph, self.at_source(nodes), self.at_target(nodes)) + self.at_edge(edges)
        taken = self.ops.gated_mean(graph, torch.sigmoid(logits), self.taken(nodes))
        nodes = nodes + silu(self.node_norm(self.own(nodes) + taken))
        return nodes, edges + silu(self.edge_norm(logits))


class AlignnLayer(nn.Module):
    """A convolution over the graph, then one over its line graph that goes on with the edges."""

    def __init__(self, width: int, ops: GraphOps) -> None:
        super().__init__()
        self.over_nodes = EdgeGatedConvolution(width, ops)
        self.over_edges = EdgeGatedConvolution(width, ops)

    def forward(
        self, graph: Any, lines: Any, nodes: torch.Tensor, edges: torch.Tensor, pairs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Nodes (n, width), edges (e, width) and pairs of edges (t, width) to the same."""
        nodes, messages = self.over_nodes(graph, nodes, edges)
        edges, pairs = self.over_edges(lines, messages, pairs)
        return nodes, edges, pairs


def embedding(n_in: int, width: int) -> nn.Sequential:
    """From raw features to the network's width."""
    return nn.Sequential(nn.Linear(n_in, width), nn.LayerNorm(width), nn.SiLU())
