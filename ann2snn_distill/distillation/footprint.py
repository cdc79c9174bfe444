"""The activations that a training step holds at its peak, by count, before anything runs.

Values for one image: n of neurons; m of what else is recorded, one a norm and two an analog operation; a_i alive at
one time around node i. What runs inside a neuron's operation (norms, sums) has no output: it reads their inputs.

    kept     ann n + m;   rate, hybrid 2 n + m;   bptt T (3 n + m), a float32 membrane being two
             with learnt decays n more a record, and bptt another membrane: 3 n + m and T (5 n + m)
    tails    sum_k n_k + 2 a_k                    hybrid: the teacher's neurons and analog operations behind branch k
    peak     max( kept + tails + 3 of the largest,  max_i kept in front of i + T a_i )
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import fx

from ann2snn_distill.conversion.fusion import drives
from ann2snn_distill.conversion.network import Partitioned
from ann2snn_distill.conversion.rules import Kind, Role

_PER_NEURON = {"ann": 1, "rate": 2, "hybrid": 2, "bptt": 3}
_PER_LEARNT = {"ann": 0, "rate": 1, "hybrid": 1, "bptt": 2}
_PER_OTHER = {Role.NORM: 1, Role.ANALOG: 2}
_PER_TAIL = {Role.NEURON: 1, Role.ANALOG: _PER_OTHER[Role.ANALOG]}
"""What a frozen ANN keeps for the gradients of its inputs; its norms are folded."""
_PASSING = 3
"""Gradients and outputs of the largest site that are there at one time in the backward."""


@dataclass(frozen=True)
class Moment:
    """Values at one node: of the neurons and the other records up to it, and alive around it."""

    neurons: int
    others: int
    alive: int


@dataclass(frozen=True)
class Footprint:
    """Values of a network for one image: node by node, of its largest site, and kept by a tail behind each stage."""

    moments: tuple[Moment, ...]
    largest: int
    behind: tuple[int, ...]


def footprint(network: Partitioned) -> Footprint:
    """Count the values of a network for one image."""
    sites = network.sites
    nodes = [node for node in sites.trace.graph.nodes if sites.kinds[node] is Kind.DATA and node.op != "output"]
    moments, neurons, others = [], 0, 0
    for node, alive in zip(nodes, _alive(network, nodes), strict=True):
        role, values = sites.roles.get(node), values_of(network, node)
        neurons += values if role is Role.NEURON else 0
        others += _PER_OTHER.get(role, 0) * values if role else 0
        moments.append(Moment(neurons, others, alive))
    of_stages = [
        sum(values_of(network, node) * _PER_TAIL.get(sites.roles.get(node, Role.SHAPE), 0) for node in stage.nodes)
        for stage in network.stages
    ]
    behind = tuple(sum(of_stages[index + 1 :]) for index in range(len(of_stages)))
    return Footprint(tuple(moments), max(values_of(network, node) for node in nodes), behind)


def peak_values(
    method: str,
    student: Footprint,
    teacher: Footprint,
    *,
    entries: Sequence[int],
    timesteps: int,
    sampled: bool = False,
    learn_decay: bool = False,
) -> int:
    """Return how many values of activations a training step holds at its peak for one image.

    Args:
        method: hybrid, rate, bptt or ann.
        student: the SNN's; the network's own for ann.
        teacher: the ANN's.
        entries: teacher stages after which branches enter.
        timesteps: T; ann has none.
        sampled: whether each image takes one of the branches.
        learn_decay: whether the student's neurons learn their decays.
    """
    steps = 1 if method == "ann" else timesteps
    copies = timesteps if method == "bptt" else 1
    per_neuron = _PER_NEURON[method] + (_PER_LEARNT[method] if learn_decay else 0)

    def kept(moment: Moment) -> int:
        return copies * (per_neuron * moment.neurons + moment.others)

    tails = sum(teacher.behind[entry] for entry in entries) if method == "hybrid" else 0
    tails //= len(entries) if sampled and entries else 1
    end = kept(student.moments[-1]) + tails + _PASSING * student.largest * copies
    return max(end, *(kept(moment) + steps * moment.alive for moment in student.moments))


def _alive(network: Partitioned, nodes: list[fx.Node]) -> list[int]:
    """Return, at every node, the values of those that exist and are still needed, its own included."""
    order = {node: index for index, node in enumerate(nodes)}
    found = [drives(network.sites, stage) for stage in network.stages]
    inside = {node: neuron for stage in found for neuron, drive in stage.items() for node in drive.absorbed}
    alive = [0] * len(nodes)
    for node, index in order.items():
        if node in inside:
            continue
        last = max((order[inside.get(user, user)] for user in node.users if user in order), default=index)
        for moment in range(index, last + 1):
            alive[moment] += values_of(network, node)
    return alive


def values_of(network: Partitioned, node: fx.Node) -> int:
    """Return how many values a node has for one image."""
    return prod(network.sites.trace.shapes.get(node, (1, 0))[1:])
