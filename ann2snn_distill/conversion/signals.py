"""What flows through a student: spikes, sums of spikes, or analog values; and where it cannot be negative."""

from enum import IntEnum

import torch
from torch import fx, nn
from torch.nn import functional as F

from ann2snn_distill.conversion.encoders import two_sided
from ann2snn_distill.conversion.rules import Kind, Role
from ann2snn_distill.conversion.sites import Sites

_MAXPOOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)
_POINTWISE = ("pow", "square")
_NEAREST = ("nearest", "nearest-exact")
_NONNEGATIVE_MODULES = (nn.Sigmoid, nn.Hardsigmoid, nn.Softmax)
_NONNEGATIVE = ("sigmoid", "hardsigmoid", "softmax", "square", "exp", "abs", "norm", "relu")
_SUMS = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, F.avg_pool1d, F.avg_pool2d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, torch.mean, torch.sum, "mean", "sum",
)  # fmt: skip


class Signal(IntEnum):
    """What flows: spikes times a scale a channel, a sum of several spikes, or analog values; the larger wins."""

    BINARY = 0
    SUM = 1
    ANALOG = 2


def find_signals(sites: Sites) -> dict[fx.Node, Signal]:
    """Return what every data node carries."""
    signals: dict[fx.Node, Signal] = {}
    for node in sites.trace.graph.nodes:
        if sites.kinds[node] is Kind.DATA:
            signals[node] = _signal(sites, node, [signals[source] for source in sites.data_inputs(node)])
    return signals


def find_nonnegative(sites: Sites) -> set[fx.Node]:
    """Return data nodes that are never negative: spikes of one sign, gates, and what sums them or moves them."""
    found: set[fx.Node] = set()
    for node in sites.trace.graph.nodes:
        inputs = sites.data_inputs(node)
        if node.op.startswith("call_") and sites.kinds[node] is Kind.DATA:
            kept = all(source in found for source in inputs) and _keeps_sign(sites, node, len(inputs))
            if kept or _makes_nonnegative(sites, node):
                found.add(node)
    return found


def _signal(sites: Sites, node: fx.Node, inputs: list[Signal]) -> Signal:
    role = sites.roles.get(node)
    if role is Role.NEURON:
        return Signal.BINARY
    if not inputs or sites.is_weighted(node):
        return Signal.ANALOG
    if role is Role.ANALOG:
        kept = is_maxpool(sites, node) or _name(sites, node) in _POINTWISE
        return max(inputs) if kept else Signal.ANALOG
    if role is Role.SYNAPSE and len(inputs) > 1:
        return max(Signal.SUM, *inputs)
    return max(inputs)  # an average, a norm or a scale belongs to the synapse behind it


def _is_nearest(sites: Sites, node: fx.Node) -> bool:
    module = sites.module(node)
    if isinstance(module, nn.Upsample):
        return module.mode in _NEAREST
    return node.target is F.interpolate and node.kwargs.get("mode", "nearest") in _NEAREST


def _keeps_sign(sites: Sites, node: fx.Node, operands: int) -> bool:
    """Return whether a call of values that are not negative gives no negative ones."""
    role, kind = sites.roles[node], sites.module(node) or node.target
    if role is Role.SHAPE or is_maxpool(sites, node):
        return True
    summing = any(kind is entry or (isinstance(entry, type) and isinstance(kind, entry)) for entry in _SUMS)
    if summing or _is_nearest(sites, node):
        return True
    name = _name(sites, node)
    return operands == len(node.all_input_nodes) > 1 and name in ("add", "mul", "matmul")


def _makes_nonnegative(sites: Sites, node: fx.Node) -> bool:
    if sites.roles[node] is Role.NEURON:
        return node.target is not two_sided
    module = sites.module(node)
    if module is not None:
        return isinstance(module, _NONNEGATIVE_MODULES)
    return _name(sites, node) in _NONNEGATIVE


def is_maxpool(sites: Sites, node: fx.Node) -> bool:
    """Return whether `node` is a max pool: the maximum of spikes is a spike."""
    module = sites.module(node)
    return isinstance(module, _MAXPOOLS) if module is not None else "max_pool" in _name(sites, node)


def _name(sites: Sites, node: fx.Node) -> str:
    module = sites.module(node)
    if module is not None:
        return type(module).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
