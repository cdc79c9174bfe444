"""From a network to a graph of call sites, with the shape of every value at a given image size."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import get_notrace_functions, get_notrace_modules
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ann2snn_distill.conversion.canonical import canonical
from ann2snn_distill.errors import UnsupportedModelError

_PREFIX = "network"
_OUT_OF_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    "add_": "add",
    "mul_": "mul",
}
"""In-place arithmetic would overwrite what a program recorded."""

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
    """

    body: nn.Module
    graph: fx.Graph
    paths: dict[fx.Node, str]
    shapes: dict[fx.Node, Shape]


def trace(model: nn.Module, *, img_size: int) -> Trace:
    """Trace `model` for images (B, 3, img_size, img_size).

    Raises:
        UnsupportedModelError: its forward branches on values, or does not run at this image size.
    """
    body = canonical(model)
    try:
        graph = _Tracer().trace(_OneInput(body))
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be traced: {_first_line(error)}; choose another model"
        ) from error
    _remove_dropout(graph)
    paths = {node: _path(node) for node in graph.nodes}
    for node in graph.nodes:
        node._rename(node.name.removeprefix(f"{_PREFIX}_"))
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix(f"{_PREFIX}.")
        node.target = _OUT_OF_PLACE.get(node.target, node.target)
    return Trace(body, graph, paths, _shapes(body, graph, img_size))


class _OneInput(nn.Module):
    """Hides forward's other parameters from the tracer: they keep their defaults."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x)
        return result


class _Tracer(fx.Tracer):
    """Opens every module that timm does not mark as closed, and emits what a canonical norm carries."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self._closed = tuple(get_notrace_modules())

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self._closed) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        if type(m) is nn.BatchNorm2d and "act" in m._modules:
            result = m.act(m.drop(result))  # type: ignore[operator]
        return result


class _Shapes(fx.Interpreter):
    """Runs the graph and keeps the shape of every tensor."""

    def __init__(self, body: nn.Module, graph: fx.Graph):
        super().__init__(body, graph=graph)
        self.shapes: dict[fx.Node, Shape] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
        return result


class _ShapeRun(nn.Module):
    """`_Shapes` as a module, so that its parameters can be replaced by meta tensors."""

    def __init__(self, body: nn.Module, graph: fx.Graph):
        super().__init__()
        self.body, self.graph = body, graph

    def forward(self, x: Tensor) -> dict[fx.Node, Shape]:
        run = _Shapes(self.body, self.graph)
        run.run(x)
        return run.shapes


def _shapes(body: nn.Module, graph: fx.Graph, img_size: int) -> dict[fx.Node, Shape]:
    run = _ShapeRun(body, graph)
    tensors = [*run.named_parameters(), *run.named_buffers()]
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    dtype = next((tensor.dtype for _, tensor in tensors if tensor.is_floating_point()), torch.float32)
    image = torch.empty(2, 3, img_size, img_size, device="meta", dtype=dtype)
    try:
        with torch.no_grad():
            shapes: dict[fx.Node, Shape] = torch.func.functional_call(run, state, image)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UnsupportedModelError(
            f"the network does not run on {img_size} px images: {_first_line(error)}; "
            "give another --img-size or --model-kwargs"
        ) from error
    return shapes


def _remove_dropout(graph: fx.Graph) -> None:
    """Take dropout written as a function out: traced in eval mode, it is the identity."""
    for node in graph.nodes:
        if node.target in _DROPOUTS:
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)


def _path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    innermost = next(reversed(stack.values()))[0] if stack else ""
    return str(innermost).removeprefix(_PREFIX).removeprefix(".")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
