"""The network of the graph classifier: a tower for bonds, a tower for repeats, and the layer that decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from atomvision_ml.models.graphs.alignn import (
    AlignnLayer,
    EdgeGatedConvolution,
    RadialBasis,
    SharpBasis,
    embedding,
)
from atomvision_ml.models.graphs.ops import GraphOps
from atomvision_ml.models.graphs.parts import Part

if TYPE_CHECKING:
    from atomvision_ml.models.lattice_graph import GraphBatch

_WIDTHS = (0.005, 0.01, 0.02, 0.05)


class BondFeatures(nn.Module):
    """Of a bond its length, of two bonds the cosine of their angle (Choudhary & DeCost: 80 and 40 functions)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lengths, self.cosines = RadialBasis(0.0, 4.0, 40), RadialBasis(-1.0, 1.0, 40)
        self.edge, self.pair = embedding(40, width), embedding(40, width)

    def forward(
        self, steps: torch.Tensor, differences: torch.Tensor, first: torch.Tensor, second: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Edges (e, width) and pairs (t, width)."""
        length = steps.norm(dim=1).clamp_min(1e-6)
        cosine = -(steps[first] * steps[second]).sum(dim=1) / (length[first] * length[second])
        return self.edge(self.lengths(length)), self.pair(self.cosines(cosine))


class RepeatFeatures(nn.Module):
    """Of a repeat its length and difference; of two their angle, ratio of lengths, and projections on each other.

    The projection (u·v)/(u·u) is a multiple of one half for every v of a lattice that is mirrored at u.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lengths, self.differences = RadialBasis(0.0, 16.0, 24), RadialBasis(-3.0, 0.0, 8)
        self.cosines, self.ratios = RadialBasis(-1.0, 1.0, 24), RadialBasis(-1.0, 1.0, 16)
        self.projections = RadialBasis(-1.5, 1.5, 24)
        self.sharp_cosines = SharpBasis((-0.5, 0.0, 0.5), _WIDTHS)
        self.sharp_ratios = SharpBasis((0.0,), _WIDTHS)
        self.sharp_projections = SharpBasis((-1.0, -0.5, 0.0, 0.5, 1.0), _WIDTHS)
        self.edge = embedding(24 + 8, width)
        self.pair = embedding(24 + 16 + 2 * 24 + (3 + 1 + 2 * 5) * len(_WIDTHS), width)

    def forward(
        self, steps: torch.Tensor, differences: torch.Tensor, first: torch.Tensor, second: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Edges (e, width) and pairs (t, width)."""
        square = (steps**2).sum(dim=1).clamp_min(1e-12)
        length = square.sqrt()
        product = -(steps[first] * steps[second]).sum(dim=1)
        cosine = product / (length[first] * length[second])
        ratio = (length[first] / length[second]).log().clamp(-1.2, 1.2)
        on_first, on_second = product / square[first], product / square[second]
        pair = [self.cosines(cosine), self.sharp_cosines(cosine), self.ratios(ratio), self.sharp_ratios(ratio)]
        for projection in (on_first, on_second):
            pair += [self.projections(projection), self.sharp_projections(projection)]
        edge = [self.lengths(length), self.differences(differences.clamp_min(1e-3).log10())]
        return self.edge(torch.cat(edge, dim=1)), self.pair(torch.cat(pair, dim=1))


class Tower(nn.Module):
    """ALIGNN layers, then plain convolutions, over one kind of edges; the mean of what the pooled nodes say."""

    def __init__(self, ops: GraphOps, features: nn.Module, width: int, layers: int, convolutions: int) -> None:
        super().__init__()
        self.ops, self.features = ops, features
        self.node = embedding(3, width)
        self.layers = nn.ModuleList(AlignnLayer(width, ops) for _ in range(layers))
        self.convolutions = nn.ModuleList(EdgeGatedConvolution(width, ops) for _ in range(convolutions))
        self.say = nn.Sequential(nn.Linear(3 * width, width), nn.SiLU())

    def forward(self, parts: Sequence[Part]) -> torch.Tensor:
        """What the tower says of each part, (n, width); zero of one without pooled nodes."""
        like = next(self.say.parameters())
        joined, of = Part.join(parts)
        graph = self.ops.batch([self._built(part, like.device) for part in parts])
        lines = self.ops.line_graph(graph)
        steps, differences, features = (
            torch.from_numpy(values).to(like) for values in (joined.steps_angstrom, joined.differences, joined.features)
        )
        edges, pairs = self.features(steps, differences, *self.ops.ends(lines))
        nodes = self.node(features)
        for layer in self.layers:
            nodes, edges, pairs = layer(graph, lines, nodes, edges, pairs)
        for convolution in self.convolutions:
            nodes, edges = convolution(graph, nodes, edges)
        around = self._around(graph, lines, nodes, edges, pairs)
        pooled = torch.from_numpy(joined.is_pooled).to(nodes)[:, None]
        said = self.say(torch.cat([nodes, *around], dim=1)) * pooled
        numbers = torch.from_numpy(of).to(like.device)
        total = nodes.new_zeros(len(parts), said.shape[1]).index_add(0, numbers, said)
        return total / nodes.new_zeros(len(parts), 1).index_add(0, numbers, pooled).clamp_min(1)

    def _built(self, part: Part, device: torch.device) -> object:
        source, target = (torch.from_numpy(ends).to(device) for ends in (part.source, part.target))
        return self.ops.build(source, target, len(part.features))

    def _around(
        self, graph: object, lines: object, nodes: torch.Tensor, edges: torch.Tensor, pairs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """For each node the mean of its outgoing edges, and of the pairs of edges at it, (n, width) each.

        In a convolution angles act through gates alone; by the mean of the pairs they are heard from the first step on.
        """
        source, _ = self.ops.ends(graph)
        _, second = self.ops.ends(lines)
        return _mean_at(source, edges, len(nodes)), _mean_at(source[second], pairs, len(nodes))


def _mean_at(place: torch.Tensor, values: torch.Tensor, many: int) -> torch.Tensor:
    """Mean (many, width) of the values (k, width) at each place; zero where there are none."""
    total = values.new_zeros(many, values.shape[1]).index_add(0, place, values)
    return total / values.new_zeros(many).index_add(0, place, torch.ones_like(values[:, 0])).clamp_min(1)[:, None]


class GraphClassifier(nn.Module):
    """See :func:`atomvision_ml.models.lattice_graph.build_network`."""

    def __init__(
        self,
        ops: GraphOps,
        *,
        width: int,
        bond_layers: int,
        bond_convolutions: int,
        bond_dropout: float,
        repeat_layers: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.bond_dropout = bond_dropout
        self.bonds = Tower(ops, BondFeatures(width), width, bond_layers, bond_convolutions) if bond_layers else None
        self.repeats = Tower(ops, RepeatFeatures(width), width, repeat_layers, 0) if repeat_layers else None
        n_towers = (self.bonds is not None) + (self.repeats is not None)
        self.decide = nn.Sequential(nn.Linear(n_towers * width, width), nn.SiLU(), nn.Linear(width, classes))

    def forward(self, batch: GraphBatch) -> torch.Tensor:
        """Log-odds (n, classes)."""
        said = [] if self.bonds is None else [self._of_bonds(batch.bonds)]
        if self.repeats is not None:
            said.append(self.repeats(batch.repeats))
        return self.decide(torch.cat(said, dim=1))

    def _of_bonds(self, parts: Sequence[Part]) -> torch.Tensor:
        """In training some graphs' bonds are not heard, nor computed: they tell prototypes rather than lattices."""
        assert self.bonds is not None
        if not self.training or self.repeats is None or not self.bond_dropout:
            return self.bonds(parts)
        is_heard = torch.rand(len(parts)) >= self.bond_dropout
        is_heard[0] = True
        (heard,) = torch.nonzero(is_heard, as_tuple=True)
        said = self.bonds([parts[number] for number in heard.tolist()])
        return said.new_zeros(len(parts), said.shape[1]).index_copy(0, heard.to(said.device), said)
