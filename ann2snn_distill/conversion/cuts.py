"""Where a network is cut: behind nodes whose tensor alone crosses, at the ends of modules."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import fx

from ann2snn_distill.conversion.rules import Kind, Role
from ann2snn_distill.conversion.sites import Sites
from ann2snn_distill.errors import UsageError

CLASSIFIER_CUT = "fc"
"""Name of the cut in front of the last linear layer (M_fc)."""

LAST_STAGE = "head"
"""Name of the stage behind the last cut."""


@dataclass(frozen=True)
class Cut:
    """A place in a graph.

    Attributes:
        name: path of the module that ends there, or CLASSIFIER_CUT.
        node: the node in front of it, whose tensor alone crosses.
        named: whether it is there because a caller named it.
    """

    name: str
    node: fx.Node
    named: bool = False


def feature_cuts(
    sites: Sites, nodes: Sequence[fx.Node], feature_paths: Sequence[str], *, spiking: bool = True
) -> list[Cut]:
    """Return the cuts at the ends of `feature_paths` and in front of the classifier.

    One that more than one value crosses is left out, and so is one whose stage would hold no neuron.

    Args:
        sites: the network.
        nodes: its nodes in order, placeholder and output excluded.
        feature_paths: module paths in order.
        spiking: whether it is to be a student, each of whose stages must hold a neuron; a teacher's need not.
    """
    candidates = [(path, _last_inside(sites, nodes, path)) for path in feature_paths]
    candidates.append((CLASSIFIER_CUT, _classifier_input(sites, nodes)))
    cuts: list[Cut] = []
    previous = -1
    for name, node in candidates:
        if node is None:
            continue
        position = nodes.index(node)
        grows = position > previous and (not spiking or _holds_neuron(sites, nodes[previous + 1 : position + 1]))
        belongs = grows or (name == CLASSIFIER_CUT and position > previous)
        if belongs and sites.counts_images(node) and _crossing(sites, nodes, position) == {node}:
            cuts.append(Cut(name, node))
            previous = position
    return cuts


def with_named_cuts(
    sites: Sites, nodes: Sequence[fx.Node], cuts: Sequence[Cut], paths: Sequence[str], *, spiking: bool = True
) -> list[Cut]:
    """Add a cut at the end of every module in `paths`; all come in the graph's order.

    Args:
        sites: the network.
        nodes: its nodes in order, placeholder and output excluded.
        cuts: those that there are; they stay as they are, and a path may be the name of one.
        paths: module paths in any order.
        spiking: whether it is to be a student, each of whose stages must hold a neuron; a teacher's need not.

    Raises:
        UsageError: a path is no module's, more than one value crosses its end, or a stage would hold no neuron.
    """
    there = [cut.name for cut in cuts]
    try:
        added = [
            Cut(path, _end_of(sites, nodes, path), named=True) for path in dict.fromkeys(paths) if path not in there
        ]
        merged = sorted([*cuts, *added], key=lambda cut: nodes.index(cut.node))
        if spiking:
            _check_neurons(sites, nodes, merged)
    except UsageError as error:
        raise UsageError(f"{error}; this network has {', '.join([*there, LAST_STAGE])}") from error
    return merged


def _end_of(sites: Sites, nodes: Sequence[fx.Node], path: str) -> fx.Node:
    """Return the node at which a module ends, if there can be a cut behind it."""
    if not path or path not in dict(sites.trace.body.named_modules(remove_duplicate=False)):
        raise UsageError(f"no cut is named '{path}', and no module")
    node = _last_inside(sites, nodes, path)
    if node is None:
        raise UsageError(f"'{path}' cannot be a cut: nothing is computed in this module")
    if any(user.op == "output" for user in node.users):
        raise UsageError(f"'{path}' cannot be a cut: the network ends there")
    crossing = len(_crossing(sites, nodes, nodes.index(node)))
    if crossing > 1:
        raise UsageError(f"'{path}' cannot be a cut: {crossing} values cross its end, and one alone may")
    if not sites.counts_images(node):
        raise UsageError(f"'{path}' cannot be a cut: what crosses its end is no tensor with a row for each image")
    return node


def _check_neurons(sites: Sites, nodes: Sequence[fx.Node], cuts: Sequence[Cut]) -> None:
    """Refuse a named cut that closes a stage without a neuron, or leaves none to the stage behind it."""
    if cuts and cuts[0].named and not _holds_neuron(sites, nodes[: nodes.index(cuts[0].node) + 1]):
        raise UsageError(f"'{cuts[0].name}' cannot be a cut: no neuron stands before its end")
    for cut, following in pairwise(cuts):
        if following.node is cut.node:
            raise UsageError(f"'{following.name}' cannot be a cut of its own: '{cut.name}' ends at the same place")
        between = nodes[nodes.index(cut.node) + 1 : nodes.index(following.node) + 1]
        wanted = following.named or (cut.named and following.name != CLASSIFIER_CUT)
        if wanted and not _holds_neuron(sites, between):
            wrong, other = (following, cut) if following.named else (cut, following)
            raise UsageError(f"'{wrong.name}' cannot be a cut: no neuron stands between its end and '{other.name}'")


def _holds_neuron(sites: Sites, nodes: Sequence[fx.Node]) -> bool:
    return any(sites.roles.get(node) is Role.NEURON for node in nodes)


def _last_inside(sites: Sites, nodes: Sequence[fx.Node], path: str) -> fx.Node | None:
    inside = [
        node
        for node in nodes
        if sites.kinds[node] is Kind.DATA and f"{sites.trace.paths[node]}.".startswith(f"{path}.")
    ]
    return inside[-1] if inside else None


def _classifier_input(sites: Sites, nodes: Sequence[fx.Node]) -> fx.Node | None:
    weighted = [node for node in nodes if sites.is_weighted(node)]
    if not weighted or _holds_neuron(sites, nodes[nodes.index(weighted[-1]) :]):
        return None
    source = sites.data_inputs(weighted[-1])[0]
    return source if source in nodes else None


def _crossing(sites: Sites, nodes: Sequence[fx.Node], position: int) -> set[fx.Node]:
    before, after = nodes[: position + 1], set(nodes[position + 1 :])
    values = [node for node in before if sites.kinds[node] is not Kind.CONSTANT]
    crossing = {node for node in values if any(user in after or user.op == "output" for user in node.users)}
    image = nodes[0].graph.find_nodes(op="placeholder")
    return crossing | {node for node in image if any(user in after for user in node.users)}
