"""From a network to a graph of call sites, with the shape of every value at a given image size.

The image size is settled: what is computed from sides becomes a number in the graph. The batch size is not: the graph
is run at two of them, and a network that writes one into its forward is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ann2snn_distill.conversion.canonical import canonical
from ann2snn_distill.conversion.proxies import VALUE
from ann2snn_distill.conversion.tracer import BATCH, ValueTracer, meta_copy
from ann2snn_distill.errors import UnsupportedModelError, first_line

_PREFIX = "network"
_OTHER_BATCH = 3
_DROPOUTS = (F.dropout, F.dropout2d, F.alpha_dropout)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Trace:
    """A network's graph.

    Attributes:
        body: the canonical network that owns the parameters.
        graph: one placeholder (the image batch), call sites in order, one output (the logits).
        paths: node -> path of the innermost module that makes the call.
        shapes: node -> shape of its tensor for a batch of 2; nodes without a tensor are absent.
        sizes: nodes whose value holds no tensor: numbers, shapes, types, devices.
        batch_axes: node -> the dimension of its tensor that counts images; absent where none does.
    """

    body: nn.Module
    graph: fx.Graph
    paths: dict[fx.Node, str]
    shapes: dict[fx.Node, Shape]
    sizes: frozenset[fx.Node]
    batch_axes: dict[fx.Node, int]


def trace(model: nn.Module, *, img_size: int, is_leaf: Callable[[nn.Module], bool]) -> Trace:
    """Trace `model` for images (B, 3, img_size, img_size).

    Args:
        model: the network; it is copied, never changed.
        img_size: image side, pixels.
        is_leaf: whether a module stays one call site.

    Raises:
        UnsupportedModelError: its forward branches on values, or does not run at this image size.
    """
    root = _OneInput(canonical(model))
    meta_root = meta_copy(root)
    dtype = next((tensor.dtype for tensor in root.parameters()), torch.float32)
    images = [torch.empty(count, 3, img_size, img_size, device="meta", dtype=dtype) for count in (BATCH, _OTHER_BATCH)]
    name = type(model).__name__
    with torch.no_grad():
        graph = _traced(root, meta_root, images[0], name=name, is_leaf=is_leaf)
        others = _rerun(graph, root, meta_root, images[1], name=name)
    _settle_sizes(graph, others)
    for node in graph.nodes:
        if node.target in _DROPOUTS:  # traced in eval mode, it is the identity
            node.replace_all_uses_with(node.all_input_nodes[0])
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    _own_constants(graph, root)
    return _described(graph, root.network, others)


class _OneInput(nn.Module):
    """Hides forward's other parameters from the tracer: they keep their defaults."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x)
        return result


def _traced(
    root: nn.Module, meta_root: nn.Module, image: Tensor, *, name: str, is_leaf: Callable[[nn.Module], bool]
) -> fx.Graph:
    try:
        return ValueTracer(meta_root, image, is_leaf).trace(root)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{name} cannot be traced: {error}; choose another model") from error
    except Exception as error:  # whatever a forward raises
        _check_size(meta_root, image)
        raise UnsupportedModelError(f"{name} cannot be traced: {first_line(error)}; choose another model") from error


def _check_size(meta_root: nn.Module, image: Tensor) -> None:
    try:
        meta_root(image)
    except Exception as error:
        raise UnsupportedModelError(
            f"the network does not run on {image.shape[-1]} px images: {first_line(error)}; "
            "give another --img-size or --model-kwargs"
        ) from error


class _Values(fx.Interpreter):
    """Runs a graph and keeps the value of every node."""

    def __init__(self, root: nn.Module, graph: fx.Graph):
        super().__init__(root, graph=graph)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]


def _rerun(graph: fx.Graph, root: nn.Module, meta_root: nn.Module, image: Tensor, *, name: str) -> dict[fx.Node, Any]:
    """Return every node's value for another number of images."""
    for node in graph.find_nodes(op="get_attr"):
        if not node.target.startswith(f"{_PREFIX}."):
            setattr(meta_root, node.target, node.meta[VALUE])
    run = _Values(meta_root, graph)
    try:
        with torch.device("meta"):
            logits = run.run(image)
    except Exception as error:
        raise UnsupportedModelError(
            f"{name} cannot be traced: its forward fixes the number of images ({first_line(error)}); "
            "choose another model"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != _OTHER_BATCH:
        raise UnsupportedModelError(f"{name} returns no logits (B, classes); choose a classification model")
    return run.values


def _settle_sizes(graph: fx.Graph, others: dict[fx.Node, Any]) -> None:
    """Put numbers that do not depend on the number of images into the graph."""
    settled = {
        node: value
        for node in graph.nodes
        if isinstance(value := node.meta.get(VALUE), int | float) and value == others[node]
    }
    for node in graph.nodes:
        node.args = fx.map_arg(node.args, lambda source: settled.get(source, source))
        node.kwargs = fx.map_arg(node.kwargs, lambda source: settled.get(source, source))


def _own_constants(graph: fx.Graph, root: nn.Module) -> None:
    """Give the network the tensors that its forward makes from numbers alone."""
    network = root.get_submodule(_PREFIX)
    for node in graph.find_nodes(op="get_attr"):
        if not node.target.startswith(f"{_PREFIX}.") and not hasattr(network, node.target):
            network.register_buffer(node.target, getattr(root, node.target), persistent=False)


def _described(graph: fx.Graph, body: nn.Module, others: dict[fx.Node, Any]) -> Trace:
    paths = {node: _path(node) for node in graph.nodes}
    values = {node: node.meta.pop(VALUE, None) for node in graph.nodes}
    for node in graph.nodes:
        node._rename(node.name.removeprefix(f"{_PREFIX}_"))
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix(f"{_PREFIX}.")
    tensors = {node: value for node, value in values.items() if isinstance(value, Tensor)}
    axes = {node: _batch_axes(value.shape, others[node].shape) for node, value in tensors.items()}
    mixed = next((node for node, found in axes.items() if len(found) > 1), None)
    if mixed is not None:
        raise UnsupportedModelError(
            f"{paths[mixed] or 'the network'} computes a value for every pair of a batch's images, and no rule says "
            "what that is once time is folded into the batch; choose another model"
        )
    return Trace(
        body=body,
        graph=graph,
        paths=paths,
        shapes={node: tuple(value.shape) for node, value in tensors.items()},
        sizes=frozenset(node for node, value in values.items() if not _holds_tensor(value) and node.op != "output"),
        batch_axes={node: found[0] for node, found in axes.items() if found},
    )


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_holds_tensor(part) for part in value)
    return isinstance(value, Tensor)


def _batch_axes(shape: Shape, other: Shape) -> list[int]:
    return [axis for axis, (size, changed) in enumerate(zip(shape, other, strict=True)) if size != changed]


def _path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    innermost = next(reversed(stack.values()))[0] if stack else ""
    return str(innermost).removeprefix(_PREFIX).removeprefix(".")
