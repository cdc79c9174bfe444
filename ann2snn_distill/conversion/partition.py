"""Cut a network into stages where exactly one tensor crosses."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import fx, nn

from ann2snn_distill.conversion.cuts import CLASSIFIER_CUT, LAST_STAGE, Cut, feature_cuts, with_named_cuts
from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.conversion.sites import Sites
from ann2snn_distill.errors import UnsupportedModelError


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
        named: whether the cut behind it is there because a caller named it; it guides only where it is named.
    """

    name: str
    nodes: tuple[fx.Node, ...]
    input: fx.Node
    output: fx.Node
    shape: tuple[int, ...]
    channels_last: bool
    reduction: int | None
    after_stem: bool
    named: bool = False

    @property
    def channels(self) -> int:
        """Channels of its output."""
        return self.shape[-1 if self.channels_last else 0]


def partition(
    sites: Sites, *, feature_paths: Sequence[str], stem_path: str, cuts: Sequence[str] = (), spiking: bool = True
) -> tuple[Stage, ...]:
    """Cut at the ends of the modules named in `feature_paths` and in `cuts`, and before the classifier.

    A cut of `feature_paths` that more than one value crosses is left out, and so is one whose stage would hold no
    neuron; one of `cuts` is refused.

    Args:
        sites: the network.
        feature_paths: module paths, timm's `feature_info` in order.
        stem_path: path of the first convolution, timm's `first_conv`.
        cuts: module paths in any order; names of cuts that are there anyway add nothing.
        spiking: whether it is to be a student, each of whose stages must hold a neuron; a teacher's need not.

    Raises:
        UnsupportedModelError: the network has no neuron at all.
        UsageError: there can be no cut at a module of `cuts`.
    """
    nodes = [node for node in sites.trace.graph.nodes if node.op not in ("placeholder", "output")]
    if spiking and not any(sites.roles.get(node) is Role.NEURON for node in nodes):
        raise UnsupportedModelError(
            "the network has no activation that could become a neuron; give --coverage full, or choose another model"
        )
    features = feature_cuts(sites, nodes, feature_paths, spiking=spiking)
    stem_only = _stem_only(sites, nodes, features, feature_paths, stem_path)
    source = next(node for node in sites.trace.graph.nodes if node.op == "placeholder")
    final = next(node for node in sites.trace.graph.nodes if node.op == "output").all_input_nodes[0]
    stages, start = [], 0
    for cut in [*with_named_cuts(sites, nodes, features, cuts, spiking=spiking), Cut(LAST_STAGE, final)]:
        stop = len(nodes) if cut.node is final else nodes.index(cut.node) + 1
        members = tuple(nodes[start:stop])
        stages.append(_stage(sites, cut, members, source=source, after_stem=cut.name == stem_only))
        start, source = stop, cut.node
    return tuple(stages)


def default_branches(stages: Sequence[Stage]) -> tuple[str, ...]:
    """Return the names of the cuts that guide by default: not the stem's, not the last feature's, not "fc".

    Where more than four features in a row have one size, as a transformer's blocks have, those at quarters of their
    number stand for all. Cuts that a caller named are not among them.
    """
    features = [stage for stage in stages[:-1] if stage.name != CLASSIFIER_CUT and not stage.named]
    alike = [list(group) for _, group in groupby(features, key=lambda stage: (stage.reduction, stage.channels))]
    chosen = [stage for group in alike for stage in (group if len(group) <= 4 else _quarters(group))]
    return tuple(stage.name for stage in chosen if stage is not features[-1] and not stage.after_stem)


def _quarters(stages: Sequence[Stage]) -> list[Stage]:
    return [stages[quarter * len(stages) // 4 - 1] for quarter in (1, 2, 3, 4)]


def _stem_only(
    sites: Sites,
    nodes: list[fx.Node],
    cuts: Sequence[Cut],
    feature_paths: Sequence[str],
    stem_path: str,
) -> str | None:
    """Return the name of the first cut if only the stem stands before it: one weighted call, or `stem_path`'s."""
    if not cuts or not isinstance(sites.trace.body, nn.Module):
        return None
    weighted = [node for node in nodes[: nodes.index(cuts[0].node) + 1] if sites.is_weighted(node)]
    top = stem_path.partition(".")[0]
    shared = any(path.partition(".")[0] == top for path in feature_paths[1:])
    in_stem = all(sites.trace.paths[node].partition(".")[0] == top for node in weighted)
    return cuts[0].name if len(weighted) <= 1 or (in_stem and not shared) else None


def _stage(sites: Sites, cut: Cut, members: tuple[fx.Node, ...], *, source: fx.Node, after_stem: bool) -> Stage:
    shapes = sites.trace.shapes
    shape = shapes[cut.node][1:]
    image = next(shapes[node] for node in sites.trace.graph.nodes if node.op == "placeholder")
    sided = len(shape) == 3
    channels_last = not sided or (shape[0] == shape[1] != shape[2])  # images are square
    side = shape[0] if channels_last else shape[-1]
    return Stage(
        name=cut.name,
        nodes=members,
        input=source,
        output=cut.node,
        shape=shape,
        channels_last=channels_last,
        reduction=max(1, round(image[-1] / side)) if sided else None,
        after_stem=after_stem,
        named=cut.named,
    )
