"""The call sites of a traced network: kind, role and name of every node."""

import operator
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import fx, nn

from ann2snn_distill.conversion.rules import Kind, Role, RuleBook
from ann2snn_distill.conversion.trace import Trace

_SIZE_METHODS = frozenset({"size", "dim", "numel"})
_SIZE_ATTRIBUTES = frozenset({"shape", "ndim"})
_DIVISIONS = (operator.truediv, torch.div, "div")
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Sites:
    """A trace with the meaning of its nodes.

    Attributes:
        trace: the graph, and the body that owns its parameters.
        kinds: every node's kind.
        roles: role of every data call site.
    """

    trace: Trace
    kinds: dict[fx.Node, Kind]
    roles: dict[fx.Node, Role]

    def data_inputs(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """Return the inputs of `node` that carry data, each once."""
        return tuple(source for source in node.all_input_nodes if self.kinds[source] is Kind.DATA)

    def is_weighted(self, node: fx.Node) -> bool:
        """Return whether `node` is a convolution or a linear layer."""
        if node.op != "call_module":
            return node.target in (torch.nn.functional.linear, torch.nn.functional.conv2d)
        return isinstance(self.trace.body.get_submodule(str(node.target)), _WEIGHTED)

    def neuron_names(self) -> tuple[str, ...]:
        """Return the names of the neurons in order: a shared activation has one a call site."""
        return tuple(node.name for node in self.trace.graph.nodes if self.roles.get(node) is Role.NEURON)


def find_sites(trace: Trace, rules: RuleBook) -> Sites:
    """Give every node its kind and every data call site its role.

    Raises:
        UnsupportedModelError: an operation without a rule.
    """
    kinds: dict[fx.Node, Kind] = {}
    roles: dict[fx.Node, Role] = {}
    for node in trace.graph.nodes:
        kinds[node] = _kind(node, kinds)
        if kinds[node] is Kind.DATA and node.op.startswith("call_"):
            operands = _data_operands(node, kinds)
            roles[node] = rules.role(node, body=trace.body, operands=operands, path=trace.paths[node])
    return Sites(trace, kinds, roles)


def _data_operands(node: fx.Node, kinds: dict[fx.Node, Kind]) -> int:
    """Count the operands that carry data: x * x has two, and so has 1 / x, which is not linear in x either."""
    operands: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), operands.append)
    data = [source for source in operands if kinds[source] is Kind.DATA]
    inverse = node.target in _DIVISIONS and node.args[0] not in data
    return len(data) + inverse


def _kind(node: fx.Node, kinds: dict[fx.Node, Kind]) -> Kind:
    if node.op in ("placeholder", "output"):
        return Kind.DATA
    inputs = {kinds[source] for source in node.all_input_nodes}
    if Kind.DATA in inputs:
        return Kind.SIZE if _reads_size(node) else Kind.DATA
    return Kind.SIZE if Kind.SIZE in inputs else Kind.CONSTANT


def _reads_size(node: fx.Node) -> bool:
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _SIZE_ATTRIBUTES
    return node.op == "call_method" and node.target in _SIZE_METHODS


def ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Return `nodes` and everything they are computed from."""
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found
