"""The call sites of a traced network: kind, role and name of every node."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from ann2snn_distill.conversion.rules import Kind, Role, RuleBook
from ann2snn_distill.conversion.trace import Trace
from ann2snn_distill.conversion.tracer import BATCH

_DIVISIONS = (operator.truediv, torch.div, "div")
_METADATA_TAKERS = frozenset({"to", "type_as", "view_as", "reshape_as", "expand_as"})
"""Methods that take the shape, type or device of their other operand, not its values."""

_EMPTY_MAKERS = frozenset({"new_zeros", "new_ones", "new_full", "new_empty"})
_WEIGHTED_MODULES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
_MATRIX_PRODUCTS = (operator.matmul, torch.matmul, torch.bmm, torch.einsum, torch.baddbmm, "matmul", "bmm")
_WEIGHTED_FUNCTIONS = (
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, *_MATRIX_PRODUCTS,
)  # fmt: skip


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

    def module(self, node: fx.Node) -> nn.Module | None:
        """Return the module that `node` calls, if it calls one."""
        return self.trace.body.get_submodule(str(node.target)) if node.op == "call_module" else None

    def counts_images(self, node: fx.Node) -> bool:
        """Return whether the first dimension of `node` is the images, one row each."""
        shapes = self.trace.shapes
        return node in shapes and self.trace.batch_axes.get(node) == 0 and shapes[node][0] == BATCH

    def is_weighted(self, node: fx.Node) -> bool:
        """Return whether `node` is a convolution or a linear layer, a matrix product with a constant included."""
        if node.op != "call_module":
            return node.target in _WEIGHTED_FUNCTIONS and self.roles.get(node) is Role.SYNAPSE
        return isinstance(self.trace.body.get_submodule(str(node.target)), _WEIGHTED_MODULES)

    def is_recurrent(self, node: fx.Node) -> bool:
        """Return whether `node` is an LSTM or its like: its weights meet its own hidden state, which no spikes make."""
        return isinstance(self.module(node), nn.RNNBase)

    def has_weights(self, node: fx.Node) -> bool:
        """Return whether `node` multiplies data by weights, so that its multiply-accumulates count."""
        return self.is_weighted(node) or self.is_recurrent(node)

    def is_matrix_product(self, node: fx.Node) -> bool:
        """Return whether `node` multiplies matrices of data with each other, as attention does."""
        if self.roles.get(node) is not Role.ANALOG:
            return False
        return node.target is F.scaled_dot_product_attention or node.target in _WEIGHTED_FUNCTIONS

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
        kinds[node] = _kind(node, kinds, trace.sizes)
        if kinds[node] is not Kind.DATA or not node.op.startswith("call_"):
            continue
        source: Any = node.args[0] if node.args else None
        if roles.get(source) is Role.ANALOG and source not in trace.shapes:
            roles[node] = Role.ANALOG  # one of several results
        else:
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


def _kind(node: fx.Node, kinds: dict[fx.Node, Kind], sizes: frozenset[fx.Node]) -> Kind:
    if node.op in ("placeholder", "output"):
        return Kind.DATA
    inputs = {kinds[source] for source in node.all_input_nodes}
    if Kind.DATA in inputs:
        if node in sizes or node.target in _EMPTY_MAKERS:
            return Kind.SIZE
        constant = node.target in _METADATA_TAKERS and kinds[node.args[0]] is not Kind.DATA  # type: ignore[index]
        return Kind.SIZE if constant else Kind.DATA
    return Kind.SIZE if Kind.SIZE in inputs else Kind.CONSTANT
