"""Two graphs under construction: one over timesteps, one over rates."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn

from ann2snn_distill.conversion.rules import Kind
from ann2snn_distill.conversion.sites import Sites
from ann2snn_distill.neurons.equations import NeuronModel
from ann2snn_distill.neurons.temporal import repeat_over_time

NEURONS = "neurons"
"""Name of the body's child that holds one module a neuron, with its threshold and, if it has its own, its decay."""


class _Graph:
    """A graph that grows from the nodes of another; sizes and constants are copied where they are asked for."""

    def __init__(self, sites: Sites):
        self.sites = sites
        self.graph = fx.Graph()
        self._others: dict[tuple[fx.Node, bool], fx.Node] = {}

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> fx.Node:
        """Add a call of `function`."""
        return self.graph.call_function(function, args, kwargs or {})

    def item(self, value: fx.Node, index: int) -> fx.Node:
        """Add `value[index]`."""
        return self.call(operator.getitem, (value, index))

    def attribute(self, path: str) -> fx.Node:
        """Add a read of the body's attribute at `path`."""
        return self.graph.create_node("get_attr", path)

    def learnt_decay(self, neuron: fx.Node) -> fx.Node | None:
        """Add a read of a neuron's decay, if it is a parameter."""
        path = f"{NEURONS}.{neuron.name}"
        learnt = self.sites.trace.body.get_submodule(path).decay_logit is not None
        return self.attribute(f"{path}.decay") if learnt else None

    def _copy(self, node: fx.Node, lookup: Callable[[fx.Node], fx.Node]) -> fx.Node:
        return self.graph.node_copy(node, lookup)


class TimeGraph(_Graph):
    """A graph over (TB, ...) in which what is constant in time keeps B rows until it meets what is not."""

    def __init__(self, sites: Sites, source: fx.Node, *, static_input: bool):
        super().__init__(sites)
        self._values = {source: self.graph.placeholder("x")}
        self._static = {source} if static_input else set()
        self._repeated: dict[fx.Node, fx.Node] = {}
        self.timesteps = self.graph.placeholder("timesteps")

    def threshold(self, neuron: fx.Node) -> fx.Node:
        """Add a read of a neuron's threshold."""
        return self.attribute(f"{NEURONS}.{neuron.name}.threshold")

    def model(self, neuron: fx.Node, shared: NeuronModel) -> NeuronModel:
        """Return the parameters of a neuron: the shared ones, with its own decay or a read of the one it learns."""
        fixed = self.sites.trace.body.get_submodule(f"{NEURONS}.{neuron.name}").fixed_decay
        decay = float(fixed) if isinstance(fixed, Tensor) else self.learnt_decay(neuron)
        return shared if decay is None else shared._replace(decay=decay)  # type: ignore[arg-type]

    def is_static(self, node: fx.Node) -> bool:
        """Return whether `node` is constant in time."""
        return node in self._static

    def data(self, node: fx.Node) -> fx.Node:
        """Return the value of `node`: B rows if it is static, else TB."""
        return self._values[node]

    def define(self, node: fx.Node, value: fx.Node, *, static: bool) -> None:
        """Let `value` stand for `node`."""
        self._values[node] = value
        if static:
            self._static.add(node)

    def copy(self, node: fx.Node) -> None:
        """Add `node` itself, on the values of its inputs; static inputs of a temporal call are repeated."""
        static = all(self.is_static(source) for source in self.sites.data_inputs(node))
        self.define(node, self._copy(node, lambda source: self._input(source, static=static)), static=static)

    def copied(self, node: fx.Node, values: Mapping[fx.Node, fx.Node]) -> fx.Node:
        """Add `node` once more, on other `values` of its inputs, (TB, ...), and return it."""

        def lookup(source: fx.Node) -> fx.Node:
            return values[source] if self.sites.kinds[source] is Kind.DATA else self._other(source, static=False)

        return self._copy(node, lookup)

    def finish(self, output: fx.Node, extras: Sequence[fx.Node]) -> "Program":
        """Return the program `(body, x, timesteps) -> (output, extras)`."""
        self.graph.output((self.data(output), tuple(extras)))
        return Program(self.graph)

    def _input(self, node: fx.Node, *, static: bool) -> fx.Node:
        if self.sites.kinds[node] is not Kind.DATA:
            return self._other(node, static=static)
        if static or not self.is_static(node):
            return self._values[node]
        if node not in self._repeated:
            axis = self.sites.trace.batch_axes[node]
            self._repeated[node] = self.call(repeat_over_time, (self._values[node], self.timesteps, axis))
        return self._repeated[node]

    def _other(self, node: fx.Node, *, static: bool) -> fx.Node:
        """Return a size or a constant; a size read from static data is read again from the repeated data."""
        key = (node, static)
        if key not in self._others:
            self._others[key] = self._copy(node, lambda source: self._input(source, static=static))
        return self._others[key]


class RateGraph(_Graph):
    """A graph over (B, ...) that knows which of its values are cheap: made of records without a weighted call."""

    def __init__(self, sites: Sites, source: fx.Node):
        super().__init__(sites)
        self._values = {source: self.graph.placeholder("x")}
        self._cheap = {source}
        self._records = self.graph.placeholder("records")

    def is_cheap(self, node: fx.Node) -> bool:
        """Return whether `node` needs no weighted call to be known."""
        return node in self._cheap

    def data(self, node: fx.Node) -> fx.Node:
        """Return the value of `node`, (B, ...)."""
        return self._values[node]

    def define(self, node: fx.Node, value: fx.Node, *, cheap: bool) -> None:
        """Let `value` stand for `node`."""
        self._values[node] = value
        if cheap:
            self._cheap.add(node)

    def redefine(self, node: fx.Node, value: fx.Node) -> None:
        """Let `value` stand for `node` from here on, answered from a record."""
        self.define(node, value, cheap=True)

    def copy(self, node: fx.Node, *, cheap: bool) -> None:
        """Add `node` itself; it is cheap if it may be and all its inputs are."""
        inputs = all(self.is_cheap(source) for source in self.sites.data_inputs(node))
        self.define(node, self._copy(node, self._input), cheap=cheap and inputs)

    def record(self, index: int) -> fx.Node:
        """Add a read of the record at `index`."""
        return self.graph.create_node("call_function", operator.getitem, (self._records, index), name=f"record_{index}")

    def finish(self, output: fx.Node) -> "Program":
        """Return the program `(body, x_B, records) -> output_B`."""
        self.graph.output(self.data(output))
        return Program(self.graph)

    def _input(self, node: fx.Node) -> fx.Node:
        if self.sites.kinds[node] is Kind.DATA:
            return self._values[node]
        if (node, False) not in self._others:
            self._others[node, False] = self._copy(node, self._input)
        return self._others[node, False]


class Program:
    """A graph as plain Python: call it with the body that owns the parameters, and the graph's inputs.

    Attributes:
        graph: what it was written from.
    """

    def __init__(self, graph: fx.Graph):
        graph.eliminate_dead_code(is_impure_node=_is_impure)
        self.graph = graph
        code = graph.python_code("self")
        scope: dict[str, Any] = dict(code.globals)
        exec(compile(code.src, "<stage program>", "exec"), scope)
        self._run: Callable[..., Any] = scope["forward"]

    def __call__(self, body: nn.Module, *inputs: Any) -> Any:
        """Run the graph on `inputs`."""
        return self._run(body, *inputs)


def _is_impure(node: fx.Node) -> bool:
    return node.op in ("placeholder", "output")
