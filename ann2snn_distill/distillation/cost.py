"""What a training step costs by count: multiply-accumulates and bytes, before anything runs.

T timesteps, M multiply-accumulates of the student for one image and timestep, M0 of them before the first neuron
(constant in time for still images), A of the teacher, A_k of the teacher behind branch k.

    ann     3 M                      forward, gradient of inputs, gradient of weights
    rate    T (M - M0) + M0 + 2 M    spike pass, rate pass's backward; its forward is answered from records
    bptt    3 (T (M - M0) + M0)
    hybrid  rate + A + 2 sum_k A_k   teacher, tails forward, tails' gradient of inputs
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import fx

from ann2snn_distill.conversion.coverage import coverage
from ann2snn_distill.conversion.network import Partitioned
from ann2snn_distill.conversion.rules import Kind, Role

FLOP_PER_MAC = 2


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of a network for one image: all, before the first neuron, and behind each stage."""

    total: int
    static: int
    behind: tuple[int, ...]


def work(network: Partitioned) -> Work:
    """Count the convolutions and linear layers of a network."""
    fates = {fate.name: fate for fate in coverage(network.sites).layers}
    stages = [sum(fates[node.name].macs for node in stage.nodes if node.name in fates) for stage in network.stages]
    static = sum(fate.macs for fate in fates.values() if fate.static)
    return Work(sum(stages), static, tuple(sum(stages[index + 1 :]) for index in range(len(stages))))


def step_flop(method: str, student: Work, teacher: Work, *, entries: Sequence[int], timesteps: int) -> int:
    """Return the floating-point operations of a training step for one image.

    Args:
        method: hybrid, rate, bptt or ann.
        student: the SNN's work; its body's for ann.
        teacher: the ANN's work.
        entries: teacher stages after which branches enter.
        timesteps: T; ann has none.
    """
    through_time = timesteps * (student.total - student.static) + student.static
    macs = {
        "ann": 3 * student.total,
        "bptt": 3 * through_time,
        "rate": through_time + 2 * student.total,
        "hybrid": through_time + 2 * student.total + teacher.total + 2 * sum(teacher.behind[e] for e in entries),
    }
    return FLOP_PER_MAC * macs[method]


@dataclass(frozen=True)
class Sizes:
    """Values a network holds for one image: recorded for the rate pass, of its largest site, and behind each stage."""

    recorded: int
    largest: int
    behind: tuple[int, ...]


def sizes(network: Partitioned) -> Sizes:
    """Count a network's values for one image: two a neuron, one a norm, two an analog operation."""
    per_role = {Role.NEURON: 2, Role.NORM: 1, Role.ANALOG: 2}
    roles = network.sites.roles
    recorded = sum(per_role.get(role, 0) * _values(network, node) for node, role in roles.items())
    stages = [
        sum(_values(network, node) for node in stage.nodes if roles.get(node) in per_role) for stage in network.stages
    ]
    largest = max(_values(network, node) for node in roles)
    return Sizes(recorded, largest, tuple(sum(stages[index + 1 :]) for index in range(len(stages))))


def step_bytes(
    method: str,
    student: Sizes,
    teacher: Sizes,
    *,
    entries: Sequence[int],
    timesteps: int,
    batch_size: int,
    width: int,
) -> int:
    """Estimate the activations that a training step holds at its peak, bytes.

    Records (or, for bptt, everything at every timestep; for ann, everything once), what the tails keep for their
    gradient, and three of the largest activations over all timesteps, which are read and written at one time.

    Args:
        method: hybrid, rate, bptt or ann.
        student: the SNN's values.
        teacher: the ANN's values.
        entries: teacher stages after which branches enter.
        timesteps: T; ann has none.
        batch_size: images.
        width: bytes of an activation.
    """
    kept = student.recorded * (timesteps if method == "bptt" else 1)
    if method == "hybrid":
        kept += sum(teacher.behind[entry] for entry in entries)
    moving = 3 * student.largest * (1 if method == "ann" else timesteps)
    return batch_size * width * (kept + moving)


def _values(network: Partitioned, node: fx.Node) -> int:
    if network.sites.kinds[node] is not Kind.DATA:
        return 0
    return prod(network.sites.trace.shapes.get(node, (1, 0))[1:])
