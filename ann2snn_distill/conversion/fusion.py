"""Which norms and residual sums run inside the operation of the neuron that they drive.

A neuron's current is a sum of at most two terms, each a tensor or a batch norm of one:

    current = norm(a) | a | norm(a) + norm(b) | norm(a) + b | a + norm(b) | a + b

A norm or a sum joins the neuron if nothing else reads it, so that its output is never written to memory.
"""

import operator
from dataclasses import dataclass

import torch
from torch import fx, nn

from ann2snn_distill.conversion.encoders import two_sided
from ann2snn_distill.conversion.partition import Stage
from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.conversion.sites import Sites

_SUMS = (operator.add, torch.add, "add")


@dataclass(frozen=True)
class DriveTerm:
    """One summand: the call site whose value is read, and the norm that maps it, if any."""

    source: fx.Node
    norm: fx.Node | None


@dataclass(frozen=True)
class Drive:
    """A neuron's current: its terms, and the call sites that run inside the neuron's operation, in order."""

    terms: tuple[DriveTerm, ...]
    absorbed: tuple[fx.Node, ...]


def drives(sites: Sites, stage: Stage) -> dict[fx.Node, Drive]:
    """Return the drive of every neuron of a stage but the pairs, which have an operation of their own."""
    own = {node for node in stage.nodes if node is not stage.output}
    neurons = [node for node in stage.nodes if sites.roles.get(node) is Role.NEURON and node.target is not two_sided]
    return {node: _drive(sites, node, own) for node in neurons}


def _drive(sites: Sites, neuron: fx.Node, own: set[fx.Node]) -> Drive:
    absorbed: list[fx.Node] = []

    def unwrapped(node: fx.Node) -> fx.Node:
        while _is_identity(sites, node) and _is_private(node, own):
            absorbed.append(node)
            (node,) = sites.data_inputs(node)
        return node

    def term(node: fx.Node) -> DriveTerm:
        node = unwrapped(node)
        if sites.roles.get(node) is not Role.NORM or not _is_private(node, own):
            return DriveTerm(node, None)
        absorbed.append(node)
        return DriveTerm(sites.data_inputs(node)[0], node)

    source = unwrapped(sites.data_inputs(neuron)[0])
    summands = (source,)
    if _is_plain_sum(sites, source) and _is_private(source, own):
        absorbed.append(source)
        summands = source.args  # type: ignore[assignment]
    terms = tuple(term(summand) for summand in summands)
    return Drive(terms, tuple(sorted(absorbed)))


def _is_private(node: fx.Node, own: set[fx.Node]) -> bool:
    return node in own and len(node.users) == 1


def _is_identity(sites: Sites, node: fx.Node) -> bool:
    return node.op == "call_module" and type(sites.trace.body.get_submodule(str(node.target))) is nn.Identity


def _is_plain_sum(sites: Sites, node: fx.Node) -> bool:
    """Return whether `node` adds two different data tensors of one shape, and does nothing else."""
    if node.target not in _SUMS or len(node.args) != 2 or node.kwargs or len(sites.data_inputs(node)) != 2:
        return False
    first, second = (sites.trace.shapes.get(source) for source in sites.data_inputs(node))
    return first is not None and first == second
