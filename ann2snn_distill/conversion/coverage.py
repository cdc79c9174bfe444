"""What drives each synapse: spikes, or analog values. A model is as spiking as its multiply-accumulates are."""

from dataclasses import dataclass
from enum import IntEnum

from torch import fx, nn

from ann2snn_distill.conversion.rules import Kind, Role, describe
from ann2snn_distill.conversion.sites import Sites

_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)


class Signal(IntEnum):
    """What flows: spikes times a scale a channel, a sum of several spikes, or analog values; the larger wins."""

    BINARY = 0
    SUM = 1
    ANALOG = 2


@dataclass(frozen=True)
class LayerFate:
    """The fate of one call site.

    Attributes:
        name: its name in the graph, unique.
        path: the module that calls it.
        operation: class, function or method.
        role: what it is to the SNN.
        binary_input: of a convolution or linear layer, whether spikes drive it; None for others.
        macs: multiply-accumulates a timestep and image.
        static: whether it works on what is constant in time, so that once a static image is enough.
    """

    name: str
    path: str
    operation: str
    role: Role
    binary_input: bool | None
    macs: int
    static: bool


@dataclass(frozen=True)
class Coverage:
    """Fates of all layers, and multiply-accumulates a timestep and image: driven by spikes, and all."""

    layers: tuple[LayerFate, ...]
    spiking_macs: int
    total_macs: int

    @property
    def share(self) -> float:
        """Spiking over all, in [0, 1]."""
        return self.spiking_macs / self.total_macs if self.total_macs else 0.0


def coverage(sites: Sites) -> Coverage:
    """Return what becomes of every data call site of a network."""
    signals = _signals(sites)
    static = _static(sites)
    fates = []
    for node in sites.roles:
        weighted = sites.is_weighted(node)
        fates.append(
            LayerFate(
                name=node.name,
                path=sites.trace.paths[node],
                operation=describe(node, sites.trace.body),
                role=sites.roles[node],
                binary_input=signals[sites.data_inputs(node)[0]] is Signal.BINARY if weighted else None,
                macs=_macs(sites, node) if weighted else 0,
                static=node in static,
            )
        )
    spiking = sum(fate.macs for fate in fates if fate.binary_input)
    return Coverage(tuple(fates), spiking, sum(fate.macs for fate in fates))


def _signals(sites: Sites) -> dict[fx.Node, Signal]:
    signals: dict[fx.Node, Signal] = {}
    for node in sites.trace.graph.nodes:
        if sites.kinds[node] is Kind.DATA:
            signals[node] = _signal(sites, node, [signals[source] for source in sites.data_inputs(node)])
    return signals


def _signal(sites: Sites, node: fx.Node, inputs: list[Signal]) -> Signal:
    role = sites.roles.get(node)
    if role is Role.NEURON:
        return Signal.BINARY
    if not inputs or sites.is_weighted(node):
        return Signal.ANALOG
    if role is Role.ANALOG and not _is_maxpool(sites, node):
        return Signal.ANALOG
    if role is Role.SYNAPSE and len(inputs) > 1:
        return max(Signal.SUM, *inputs)
    return max(inputs)


def _static(sites: Sites) -> set[fx.Node]:
    static: set[fx.Node] = set()
    for node in sites.trace.graph.nodes:
        inputs = sites.data_inputs(node)
        if sites.roles.get(node) is not Role.NEURON and all(source in static for source in inputs):
            static.add(node)
    return static


def _is_maxpool(sites: Sites, node: fx.Node) -> bool:
    if node.op != "call_module":
        return "max_pool" in getattr(node.target, "__name__", "")
    return isinstance(sites.trace.body.get_submodule(str(node.target)), _POOLS)


def _macs(sites: Sites, node: fx.Node) -> int:
    """Return output values an image times the weights that meet in each."""
    outputs = 1
    for size in sites.trace.shapes[node][1:]:
        outputs *= size
    if node.op == "call_module":
        weight = tuple(sites.trace.body.get_parameter(f"{node.target}.weight").shape)
    else:
        weight = sites.trace.shapes[node.all_input_nodes[1]]
    per_output = 1
    for size in weight[1:]:
        per_output *= size
    return outputs * per_output
