"""The values that a training step moves through memory, by count: each operation reads and writes each of its own once.

Values for one image: i and o in front of and behind convolutions and linear layers, n of neurons, d of the summands of
their currents, m of norms; with t in the spike pass counted at T timesteps, or once where constant in time.

    spike pass       convolutions  t i + t o          others  t m (moments) + t d + T n (emitted) + 2 n + m (records)
    rate backward    convolutions  2 i + 2 o          others  3 n + 5 m
    ANN forward      convolutions  i + o              others  2 m + n;  folded, as guidance runs: n read, n written
    tail backward    convolutions  i + o              others  3 n
    bptt             T times the ANN's forward and the rate pass's backward, and 2 n for a float32 membrane

Convolutions compute while they move; what the others move is time on top of that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from ann2snn_distill.conversion.coverage import coverage
from ann2snn_distill.conversion.network import Partitioned
from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.distillation.footprint import values_of


@dataclass(frozen=True)
class Traffic:
    """Values moved for one image, by convolutions and linear layers, and by everything else."""

    weighted: int
    others: int

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.weighted + other.weighted, self.others + other.others)

    def __floordiv__(self, times: int) -> "Traffic":
        return Traffic(self.weighted // times, self.others // times)

    def __mul__(self, times: int) -> "Traffic":
        return Traffic(self.weighted * times, self.others * times)


@dataclass(frozen=True)
class Counts:
    """Sums over some sites of a network: those that change in time, and those that are constant in it."""

    inputs: int = 0
    outputs: int = 0
    neurons: int = 0
    summands: int = 0
    norms: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Flow:
    """A network's counts: changing in time, constant in it, and all of them behind each stage."""

    moving: Counts
    static: Counts
    behind: tuple[Counts, ...]

    @property
    def all(self) -> Counts:
        """Counts of the whole network, at one timestep."""
        return self.moving + self.static


def flow(network: Partitioned) -> Flow:
    """Count a network's values for one image."""
    static = {fate.name for fate in coverage(network.sites).layers if fate.static}
    per_stage = [[_counts(network, node) for node in stage.nodes] for stage in network.stages]
    nodes = [node for stage in network.stages for node in stage.nodes]
    parts: dict[bool, Counts] = {True: Counts(), False: Counts()}
    for node in nodes:
        parts[_is_static(network, node, static)] += _counts(network, node)
    sums = [sum(counts, Counts()) for counts in per_stage]
    behind = tuple(sum(sums[index + 1 :], Counts()) for index in range(len(sums)))
    return Flow(parts[False], parts[True], behind)


def step_traffic(
    method: str, student: Flow, teacher: Flow, *, entries: Sequence[int], timesteps: int, sampled: bool = False
) -> Traffic:
    """Return what a training step moves for one image.

    Args:
        method: hybrid, rate, bptt or ann.
        student: the SNN's; the network's own for ann.
        teacher: the ANN's.
        entries: teacher stages after which branches enter.
        timesteps: T; ann has none.
        sampled: whether each image takes one of the branches.
    """
    own = student.all
    if method == "ann":
        return _forward(own) + _backward(own)
    if method == "bptt":
        return (_forward(own) + _backward(own) + Traffic(0, 2 * own.neurons)) * timesteps
    found = _spikes(student, timesteps) + _backward(own)
    if method == "hybrid":
        tails = sum((_guided(teacher.behind[e]) + _through(teacher.behind[e]) for e in entries), Traffic(0, 0))
        found += _guided(teacher.all) + (tails // len(entries) if sampled and entries else tails)
    return found


def _spikes(student: Flow, timesteps: int) -> Traffic:
    moving, static, own = student.moving, student.static, student.all
    weighted = timesteps * (moving.inputs + moving.outputs) + static.inputs + static.outputs
    moments = timesteps * moving.norms + static.norms
    drive = timesteps * (moving.summands + own.neurons) + static.summands
    return Traffic(weighted, moments + drive + 2 * own.neurons + own.norms)


def _forward(counts: Counts) -> Traffic:
    return Traffic(counts.inputs + counts.outputs, 2 * counts.norms + counts.neurons)


def _backward(counts: Counts) -> Traffic:
    return Traffic(2 * (counts.inputs + counts.outputs), 3 * counts.neurons + 5 * counts.norms)


def _guided(counts: Counts) -> Traffic:
    return Traffic(counts.inputs + counts.outputs, 2 * counts.neurons)


def _through(counts: Counts) -> Traffic:
    return Traffic(counts.inputs + counts.outputs, 3 * counts.neurons)


def _counts(network: Partitioned, node: fx.Node) -> Counts:
    sites, values = network.sites, values_of(network, node)
    role = sites.roles.get(node)
    if sites.is_weighted(node):
        return Counts(inputs=sum(values_of(network, source) for source in sites.data_inputs(node)), outputs=values)
    if role is Role.NORM:
        return Counts(norms=values)
    if role is Role.NEURON:
        return Counts(neurons=values, summands=values * _summands(network, node))
    return Counts()


def _summands(network: Partitioned, node: fx.Node) -> int:
    """Return how many tensors a neuron's current is the sum of: two behind a residual connection."""
    (source, *_) = network.sites.data_inputs(node)
    if network.sites.roles.get(source) is not Role.SYNAPSE or network.sites.is_weighted(source):
        return 1
    return len(network.sites.data_inputs(source))


def _is_static(network: Partitioned, node: fx.Node, static: set[str]) -> bool:
    """Return whether a site's input is constant in time: all in front of the first neuron, that neuron's own too."""
    sources = network.sites.data_inputs(node) if network.sites.roles.get(node) is not None else ()
    return node.name in static or (bool(sources) and all(source.name in static for source in sources))
