"""A tracer whose proxies know what they stand for, so that a forward may branch on shapes and loop over them.

Every call is run once on meta tensors while it is traced. Whatever Python asks a shape for (a condition, a range, an
integer) gets the answer for the traced image size; asking a value of the data is refused, as no graph can hold it.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from ann2snn_distill.conversion.proxies import VALUE, Valued

BATCH = 2
"""Images in the traced batch."""


class ValueTracer(fx.Tracer):
    """Traces a module that takes one tensor.

    Args:
        meta_root: a copy of the root to be traced, on the meta device.
        image: what the root is traced for, on the meta device.
        is_leaf: whether a module stays one call.
    """

    proxy_buffer_attributes = True

    def __init__(self, meta_root: nn.Module, image: Tensor, is_leaf: Callable[[nn.Module], bool]):
        super().__init__()
        self._meta_root, self._image, self._is_leaf = meta_root, image, is_leaf
        self._attributes: dict[int, str] = {}
        self._inplace: set[nn.Module] = set()
        self._running = False

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Return the graph of `root`; every node's value stands in its meta."""
        tensors = [*root.named_parameters(), *root.named_buffers()]
        self._attributes = {id(tensor): name for name, tensor in tensors}
        for module in root.modules():
            if getattr(module, "inplace", False):
                self._inplace.add(module)
                module.inplace = False
        attributes = {module: (_kept(module), dict(module._buffers)) for module in root.modules()}
        try:
            with _factories_traced(self):
                return super().trace(root, concrete_args)
        finally:  # some networks keep what they compute
            for module, (kept, buffers) in attributes.items():
                vars(module).update(kept)
                module._buffers.update(buffers)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether `m` stays one call."""
        return self._is_leaf(m)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Trace a call of `m`, and what a canonical norm carries behind it."""
        if self._running:
            return forward(*args, **kwargs)
        result = super().call_module(m, forward, args, kwargs)
        if m in self._inplace and isinstance(args[0], Valued) and isinstance(result, Valued):
            args[0].become(result)
        if type(m) is nn.BatchNorm2d and "act" in m._modules:
            for name in ("drop", "act"):
                result = m.get_submodule(name)(result)
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return a proxy for a parameter or a buffer of the root, and anything else as it is."""
        name = None if self._running else self._attributes.get(id(attr_val))
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        """Add a node and run it; what works in place is a call whose result takes its operand's place."""
        overwritten = None
        if not self._running and kind in ("call_function", "call_method"):
            changed = bool(kwargs.get("inplace"))
            target, in_place = _out_of_place(target)
            overwritten = args[0] if changed or in_place else None
            kwargs = {**kwargs, "inplace": False} if changed else kwargs
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        proxy.node.meta[VALUE] = self._run(kind, target, proxy.node)
        if isinstance(overwritten, Valued):
            overwritten.become(proxy)
        return proxy

    def proxy(self, node: fx.Node) -> "Valued":
        """Return a proxy of `node`."""
        return Valued(node, self)

    def _run(self, kind: str, target: Any, node: fx.Node) -> Any:
        if kind == "placeholder":
            return self._image
        if kind == "get_attr":
            return self._attribute(target)
        args: Any = fx.map_arg(node.args, self._value)
        kwargs: Any = fx.map_arg(node.kwargs, self._value)
        self._running = True
        try:
            with torch.device("meta"):
                if kind == "call_module":
                    return self._meta_root.get_submodule(target).forward(*args, **kwargs)
                if kind == "call_method":
                    return getattr(args[0], target)(*args[1:], **kwargs)
                return target(*args, **kwargs) if kind == "call_function" else None
        finally:
            self._running = False

    def _value(self, node: fx.Node) -> Any:
        if VALUE not in node.meta:  # a constant, which enters the graph without a proxy
            node.meta[VALUE] = self._attribute(str(node.target))
        return node.meta[VALUE]

    def _attribute(self, path: str) -> Any:
        """Return the meta root's attribute, or a constant that the trace has given to the root."""
        owner, _, name = path.rpartition(".")
        for root in (self._meta_root, self.root):
            module = root.get_submodule(owner)
            if name in vars(module) or name in module._parameters or name in module._buffers:
                value = module._parameters.get(name, module._buffers.get(name, vars(module).get(name)))
                return value.to("meta") if isinstance(value, Tensor) else value
        raise AttributeError(path)


_FACTORIES = ("ones", "zeros", "empty", "full")


@contextmanager
def _factories_traced(tracer: ValueTracer) -> Iterator[None]:
    """Let torch.ones and its like take proxies as sizes: they have no tensor by which they could notice."""
    with torch.device("meta"):  # PyTorch lists its factories at the first use, and must not list the traced ones
        torch.empty(0)
    own = {name: getattr(torch, name) for name in _FACTORIES}
    try:
        for name, function in own.items():
            setattr(torch, name, _traced(tracer, function))
        yield
    finally:
        for name, function in own.items():
            setattr(torch, name, function)


def _traced(tracer: ValueTracer, function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        found: list[Valued] = []
        pytree.tree_map_only(Valued, found.append, (args, kwargs))
        return tracer.create_proxy("call_function", function, args, kwargs) if found else function(*args, **kwargs)

    return wrapper


def _out_of_place(target: Any) -> tuple[Any, bool]:
    """Return the operation without its trailing underscore, and whether it had one."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if not name.endswith("_") or name.endswith("__"):
        return target, False
    plain = name.removesuffix("_")
    if isinstance(target, str):
        return plain, True
    home = next((home for home in (torch, torch.nn.functional) if getattr(home, name, None) is target), None)
    return (target, False) if home is None else (getattr(home, plain), True)


def meta_copy(module: nn.Module) -> nn.Module:
    """Return a copy of `module` on the meta device; its tensors' values are never copied."""
    tensors: Mapping[int, Tensor] = {
        id(tensor): torch.empty_like(tensor, device="meta", requires_grad=False)
        for tensor in [*module.parameters(), *module.buffers()]
    }
    parameters = {id(parameter) for parameter in module.parameters()}
    memo: dict[int, Any] = {
        key: nn.Parameter(tensor, requires_grad=False) if key in parameters else tensor
        for key, tensor in tensors.items()
    }
    return copy.deepcopy(module, memo)


def _kept(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module; copies of its own containers, such as caches, which its forward may fill."""
    torchs = vars(nn.Module())
    return {
        name: copy.copy(value) if type(value) in (dict, list, set) and name not in torchs else value
        for name, value in vars(module).items()
    }
