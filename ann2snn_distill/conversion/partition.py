"""Cut a network into stages where exactly one tensor crosses."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import fx, nn

from ann2snn_distill.conversion.rules import Kind, Role
from ann2snn_distill.conversion.sites import Sites
from ann2snn_distill.errors import UnsupportedModelError

CLASSIFIER_CUT = "fc"
"""Name of the cut in front of the last linear layer (M_fc)."""


@dataclass(frozen=True)
class Stage:
    """A run of the graph between two cuts.

    Attributes:
        name: the cut behind it, or "head" for the last stage.
        nodes: its nodes in order, placeholder and output excluded.
        input: the node before it whose tensor it reads.
        output: its node whose tensor the next stage reads.
        shape: of its output for one image: (C, H, W), (H, W, C), (tokens, C) or (C,).
        channels_last: whether the channels are the last dimension of its output.
        reduction: image side over its output's side; None when the output has no sides.
        after_stem: whether only the stem stands before the cut behind it.
    """

    name: str
    nodes: tuple[fx.Node, ...]
    input: fx.Node
    output: fx.Node
    shape: tuple[int, ...]
    channels_last: bool
    reduction: int | None
    after_stem: bool

    @property
    def channels(self) -> int:
        """Channels of its output."""
        return self.shape[-1 if self.channels_last else 0]


def partition(sites: Sites, *, feature_paths: Sequence[str], stem_path: str) -> tuple[Stage, ...]:
    """Cut at the ends of the modules named in `feature_paths`, and before the classifier.

    A cut that more than one value crosses is left out, and so is one whose stage would hold no neuron.

    Args:
        sites: the network.
        feature_paths: module paths, timm's `feature_info` in order.
        stem_path: path of the first convolution, timm's `first_conv`.

    Raises:
        UnsupportedModelError: the network has no neuron at all.
    """
    nodes = [node for node in sites.trace.graph.nodes if node.op not in ("placeholder", "output")]
    if not any(sites.roles.get(node) is Role.NEURON for node in nodes):
        raise UnsupportedModelError("the network has no activation that could become a neuron; choose another model")
    ends = _clean_cuts(sites, nodes, feature_paths)
    stem_only = _stem_only(sites, nodes, ends, feature_paths, stem_path)
    stages, start = [], 0
    source = next(node for node in sites.trace.graph.nodes if node.op == "placeholder")
    final = next(node for node in sites.trace.graph.nodes if node.op == "output").all_input_nodes[0]
    for name, end in [*ends, ("head", final)]:
        stop = len(nodes) if end is final else nodes.index(end) + 1
        members = tuple(nodes[start:stop])
        stages.append(_stage(sites, name, members, source=source, end=end, after_stem=name == stem_only))
        start, source = stop, end
    return tuple(stages)


def default_branches(stages: Sequence[Stage]) -> tuple[str, ...]:
    """Return the names of the cuts that guide by default: not the stem's, not the last feature's, not "fc".

    Where more than four features in a row have one size, as a transformer's blocks have, those at quarters of their
    number stand for all.
    """
    features = [stage for stage in stages[:-1] if stage.name != CLASSIFIER_CUT]
    alike = [list(group) for _, group in groupby(features, key=lambda stage: (stage.reduction, stage.channels))]
    chosen = [stage for group in alike for stage in (group if len(group) <= 4 else _quarters(group))]
    return tuple(stage.name for stage in chosen if stage is not features[-1] and not stage.after_stem)


def _quarters(stages: Sequence[Stage]) -> list[Stage]:
    return [stages[quarter * len(stages) // 4 - 1] for quarter in (1, 2, 3, 4)]


def _clean_cuts(sites: Sites, nodes: list[fx.Node], feature_paths: Sequence[str]) -> list[tuple[str, fx.Node]]:
    candidates = [(path, _last_inside(sites, nodes, path)) for path in feature_paths]
    candidates.append((CLASSIFIER_CUT, _classifier_input(sites, nodes)))
    cuts: list[tuple[str, fx.Node]] = []
    previous = -1
    for name, node in candidates:
        if node is None:
            continue
        position = nodes.index(node)
        grows = position > previous and any(
            sites.roles.get(member) is Role.NEURON for member in nodes[previous + 1 : position + 1]
        )
        belongs = grows or (name == CLASSIFIER_CUT and position > previous)
        if belongs and sites.counts_images(node) and _crossing(sites, nodes, position) == {node}:
            cuts.append((name, node))
            previous = position
    return cuts


def _last_inside(sites: Sites, nodes: list[fx.Node], path: str) -> fx.Node | None:
    inside = [
        node
        for node in nodes
        if sites.kinds[node] is Kind.DATA and f"{sites.trace.paths[node]}.".startswith(f"{path}.")
    ]
    return inside[-1] if inside else None


def _classifier_input(sites: Sites, nodes: list[fx.Node]) -> fx.Node | None:
    weighted = [node for node in nodes if sites.is_weighted(node)]
    if not weighted or any(sites.roles.get(node) is Role.NEURON for node in nodes[nodes.index(weighted[-1]) :]):
        return None
    source = sites.data_inputs(weighted[-1])[0]
    return source if source in nodes else None


def _crossing(sites: Sites, nodes: list[fx.Node], position: int) -> set[fx.Node]:
    before, after = nodes[: position + 1], set(nodes[position + 1 :])
    values = [node for node in before if sites.kinds[node] is not Kind.CONSTANT]
    crossing = {node for node in values if any(user in after or user.op == "output" for user in node.users)}
    image = nodes[0].graph.find_nodes(op="placeholder")
    return crossing | {node for node in image if any(user in after for user in node.users)}


def _stem_only(
    sites: Sites,
    nodes: list[fx.Node],
    ends: list[tuple[str, fx.Node]],
    feature_paths: Sequence[str],
    stem_path: str,
) -> str | None:
    """Return the name of the first cut if only the stem stands before it: one weighted call, or `stem_path`'s."""
    if not ends or not isinstance(sites.trace.body, nn.Module):
        return None
    name, end = ends[0]
    weighted = [node for node in nodes[: nodes.index(end) + 1] if sites.is_weighted(node)]
    top = stem_path.partition(".")[0]
    shared = any(path.partition(".")[0] == top for path in feature_paths[1:])
    in_stem = all(sites.trace.paths[node].partition(".")[0] == top for node in weighted)
    return name if len(weighted) <= 1 or (in_stem and not shared) else None


def _stage(
    sites: Sites, name: str, members: tuple[fx.Node, ...], *, source: fx.Node, end: fx.Node, after_stem: bool
) -> Stage:
    shapes = sites.trace.shapes
    shape = shapes[end][1:]
    image = next(shapes[node] for node in sites.trace.graph.nodes if node.op == "placeholder")
    sided = len(shape) == 3
    channels_last = not sided or (shape[0] == shape[1] != shape[2])  # images are square
    side = shape[0] if channels_last else shape[-1]
    return Stage(
        name=name,
        nodes=members,
        input=source,
        output=end,
        shape=shape,
        channels_last=channels_last,
        reduction=max(1, round(image[-1] / side)) if sided else None,
        after_stem=after_stem,
    )
