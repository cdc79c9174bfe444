"""What a training step costs by count: multiply-accumulates, before anything runs.

T timesteps, M multiply-accumulates of the student for one image and timestep, M0 of them before the first neuron
(constant in time for still images), A of the teacher, A_k of the teacher behind branch k.

    ann     3 M                      forward, gradient of inputs, gradient of weights
    rate    T (M - M0) + M0 + 2 M    spike pass, rate pass's backward; its forward is answered from records
    bptt    3 (T (M - M0) + M0)
    hybrid  rate + A + 2 sum_k A_k   teacher, tails forward, tails' gradient of inputs; sampled, the mean over k
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ann2snn_distill.conversion.coverage import coverage
from ann2snn_distill.conversion.network import Partitioned

FLOP_PER_MAC = 2


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of a network for one image: all, before the first neuron, and behind each stage."""

    total: int
    static: int
    behind: tuple[int, ...]


def work(network: Partitioned) -> Work:
    """Count the multiply-accumulates of a network."""
    fates = {fate.name: fate for fate in coverage(network.sites).layers}
    stages = [sum(fates[node.name].macs for node in stage.nodes if node.name in fates) for stage in network.stages]
    static = sum(fate.macs for fate in fates.values() if fate.static)
    return Work(sum(stages), static, tuple(sum(stages[index + 1 :]) for index in range(len(stages))))


def step_flop(
    method: str, student: Work, teacher: Work, *, entries: Sequence[int], timesteps: int, sampled: bool = False
) -> int:
    """Return the floating-point operations of a training step for one image.

    Args:
        method: hybrid, rate, bptt or ann.
        student: the SNN's work; its body's for ann.
        teacher: the ANN's work.
        entries: teacher stages after which branches enter.
        timesteps: T; ann has none.
        sampled: whether each image takes one of the branches.
    """
    tails = sum(teacher.behind[entry] for entry in entries) // (len(entries) if sampled and entries else 1)
    through_time = timesteps * (student.total - student.static) + student.static
    macs = {
        "ann": 3 * student.total,
        "bptt": 3 * through_time,
        "rate": through_time + 2 * student.total,
        "hybrid": through_time + 2 * student.total + teacher.total + 2 * tails,
    }
    return FLOP_PER_MAC * macs[method]
