"""The programs of one stage, written as graphs that share the stage's parameters.

- observe: the spike pass, (TB, ...), no autograd; returns the stage's output and its records.
- rate: the rate pass, (B, ...), autograd; takes the records and answers from them.
- unroll: the same SNN through time, (TB, ...), differentiable by surrogate slopes (BPTT), used for inference too.

A program is compiled to plain Python and run against the body that owns the parameters, so nothing is copied.
What is constant in time runs on B rows until it meets what is not.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from ann2snn_distill.conversion.backward import needs_input_value
from ann2snn_distill.conversion.emit import Program, RateGraph, TimeGraph
from ann2snn_distill.conversion.encoders import two_sided
from ann2snn_distill.conversion.fused_pair import FusedPair
from ann2snn_distill.conversion.fusion import drives
from ann2snn_distill.conversion.norms import norm_module, norm_state
from ann2snn_distill.conversion.partition import Stage
from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.conversion.sites import Sites
from ann2snn_distill.neurons.equations import NeuronModel
from ann2snn_distill.neurons.norm import (
    NormRecord,
    observe_norm_eval,
    observe_norm_train,
    unroll_norm_eval,
    unroll_norm_train,
)
from ann2snn_distill.neurons.pairs import observe_pair, unroll_pair
from ann2snn_distill.neurons.rate import answer, neuron_rate, norm_eval_rate, norm_train_rate
from ann2snn_distill.neurons.temporal import (
    mean_over_time,
    observe_neuron,
    unroll_neuron,
)

Records = tuple[Tensor, ...]


@dataclass(frozen=True)
class ObservedPair:
    """The spike program and the rate program of a stage, and how many records go between them."""

    observe: Program
    rate: Program
    static_output: bool


@dataclass(frozen=True)
class Unrolled:
    """The program of a stage through time."""

    unroll: Program
    static_output: bool


def observed_pair(
    sites: Sites,
    stage: Stage,
    *,
    neuron: NeuronModel,
    static_input: bool,
    training: bool,
    last: bool,
    fused: bool = False,
    quantized: bool = False,
) -> ObservedPair:
    """Return `observe(body, x, timesteps) -> (out, records)` and `rate(body, x_B, records) -> out_B`.

    Args:
        sites: the network.
        stage: the part of it to write.
        neuron: the neurons' parameters.
        static_input: whether the stage's input is constant in time, and so has B rows.
        training: norms by the batch's statistics, or by the running ones.
        last: whether the stage's output is the logits, whose rate is computed rather than recorded.
        fused: whether norms and sums run inside their neuron's operation; the same SNN, faster on a GPU.
        quantized: whether every neuron emits the mean of its spikes, so that behind it nothing varies in time: the
            ANN whose activations have T + 1 levels.
    """
    time = TimeGraph(sites, stage.input, static_input=static_input)
    pair = Pair(time, RateGraph(sites, stage.input), neuron, training, quantized)
    writer = FusedPair(pair, drives(sites, stage)) if fused else pair
    for node in stage.nodes:
        if node in sites.roles:
            writer.emit(node)
    if not last and not pair.rate.is_cheap(stage.output):
        pair.record_value(stage.output)
    observe = time.finish(stage.output, pair.recorded)
    return ObservedPair(observe, pair.rate.finish(stage.output), time.is_static(stage.output))


def unrolled(sites: Sites, stage: Stage, *, neuron: NeuronModel, static_input: bool, training: bool) -> Unrolled:
    """Return `unroll(body, x, timesteps) -> (out, ())`.

    Args:
        sites: the network.
        stage: the part of it to write.
        neuron: the neurons' parameters.
        static_input: whether the stage's input is constant in time, and so has B rows.
        training: norms by the batch's statistics, or by the running ones.
    """
    time = TimeGraph(sites, stage.input, static_input=static_input)
    for node in stage.nodes:
        if node in sites.roles:
            unroll_site(time, node, neuron, training=training)
    return Unrolled(time.finish(stage.output, ()), time.is_static(stage.output))


def unroll_site(time: TimeGraph, node: fx.Node, neuron: NeuronModel, *, training: bool) -> None:
    """Add a call site to a graph that is differentiable through time."""
    role = time.sites.roles[node]
    source = time.sites.data_inputs(node)[0]
    if role is Role.NEURON:
        options = {"static": time.is_static(source), "model": time.model(node, neuron)}
        unroll = unroll_pair if node.target is two_sided else unroll_neuron
        result = time.call(unroll, (time.data(source), time.threshold(node), time.timesteps), options)
        time.define(node, result, static=False)
    elif role is Role.NORM:
        _unroll_norm(time, node, source, training=training)
    else:
        time.copy(node)


@dataclass
class Pair:
    """Writes both graphs side by side, so that records leave one in the order in which the other takes them."""

    time: TimeGraph
    rate: RateGraph
    neuron: NeuronModel
    training: bool
    quantized: bool

    def __post_init__(self) -> None:
        self.recorded: list[fx.Node] = []

    def emit(self, node: fx.Node) -> None:
        """Add a call site to both graphs."""
        sites = self.time.sites
        role = sites.roles[node]
        if role is Role.NEURON:
            self._neuron(node)
        elif role is Role.NORM:
            self._norm(node)
        elif role is Role.ANALOG:
            self._analog(node)
        else:
            if role is Role.SYNAPSE and needs_input_value(sites, node):
                self._record_inputs(node)
            self.time.copy(node)
            self.rate.copy(node, cheap=not sites.is_weighted(node))

    def record_value(self, node: fx.Node) -> None:
        """Record the mean of `node`, and let the rate graph answer with it from here on."""
        value = self.time.data(node)
        if not self.time.is_static(node):
            axis = self.time.sites.trace.batch_axes[node]
            value = self.time.call(mean_over_time, (value, self.time.timesteps, axis))
        self.rate.redefine(node, self.rate.call(answer, (self.rate.data(node), self.record(value))))

    def _neuron(self, node: fx.Node) -> None:
        (source,) = self.time.sites.data_inputs(node)
        time = self.time
        threshold = time.threshold(node)
        options = {"static": time.is_static(source), "model": time.model(node, self.neuron)}
        observe = observe_pair if node.target is two_sided else observe_neuron
        result = time.call(observe, (time.data(source), threshold, time.timesteps), options)
        self.define_neuron(node, result)
        self.answer_neuron(node, time.item(result, 1))

    def answer_neuron(self, node: fx.Node, record: fx.Node) -> None:
        """Let the rate graph answer for a neuron with its record; the gradient goes to its own decay, too."""
        (source,) = self.rate.sites.data_inputs(node)
        decay = self.rate.learnt_decay(node)
        fields = self.record_fields(record, 2 if decay is None else 3)
        own = () if decay is None else (decay,)
        self.rate.define(node, self.rate.call(neuron_rate, (self.rate.data(source), *fields, *own)), cheap=True)

    def define_neuron(self, node: fx.Node, result: fx.Node) -> None:
        """Let a neuron emit what an observation of it gave: its spikes, or their recorded mean."""
        emitted = self.time.item(self.time.item(result, 1), 0) if self.quantized else self.time.item(result, 0)
        self.time.define(node, emitted, static=self.quantized)

    def _norm(self, node: fx.Node) -> None:
        (source,) = self.time.sites.data_inputs(node)
        time, rate = self.time, self.rate
        module = norm_module(time.sites, node)
        options: dict[str, Any] = {"static": time.is_static(source), "eps": module.eps}
        observe, answer_norm = observe_norm_eval, norm_eval_rate
        if self.training:
            observe, answer_norm = observe_norm_train, norm_train_rate  # type: ignore[assignment]
            options["momentum"] = module.momentum
        arguments = (time.data(source), norm_state(time, node), time.timesteps)
        result = time.call(observe, arguments, options)
        time.define(node, time.item(result, 0), static=time.is_static(source))
        record = NormRecord(*self.record_fields(time.item(result, 1), 3))  # type: ignore[arg-type]
        answered = rate.call(answer_norm, (rate.data(source), norm_state(rate, node), record))
        rate.define(node, answered, cheap=True)

    def _analog(self, node: fx.Node) -> None:
        """Write both calls and record the result; of an operation with several results, each is recorded where read."""
        self._record_inputs(node)
        self.time.copy(node)
        self.rate.copy(node, cheap=False)
        if node in self.time.sites.trace.shapes:
            self.record_value(node)

    def _record_inputs(self, node: fx.Node) -> None:
        for source in self.time.sites.data_inputs(node):
            if not self.rate.is_cheap(source) and source in self.time.sites.trace.shapes:
                self.record_value(source)

    def record_fields(self, record: fx.Node, count: int) -> list[fx.Node]:
        """Record the first fields of a tuple in the time graph; return them in the rate graph."""
        return [self.record(self.time.item(record, index)) for index in range(count)]

    def record(self, value: fx.Node) -> fx.Node:
        """Record a value of the time graph; return it in the rate graph."""
        self.recorded.append(value)
        return self.rate.record(len(self.recorded) - 1)


def _unroll_norm(time: TimeGraph, node: fx.Node, source: fx.Node, *, training: bool) -> None:
    module = norm_module(time.sites, node)
    state, static = norm_state(time, node), time.is_static(source)
    if training:
        options = {"static": static, "eps": module.eps, "momentum": module.momentum}
        result = time.call(unroll_norm_train, (time.data(source), state, time.timesteps), options)
    else:
        result = time.call(unroll_norm_eval, (time.data(source), state), {"eps": module.eps})
    time.define(node, result, static=static)
