"""The SNN: a partitioned network whose activations are spiking neurons, with programs for training and inference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ann2snn_distill.conversion.activity import Activity, ActivityProgram, activity_program
from ann2snn_distill.conversion.emit import NEURONS
from ann2snn_distill.conversion.network import Partitioned
from ann2snn_distill.conversion.partition import Stage
from ann2snn_distill.conversion.programs import (
    ObservedPair,
    Records,
    Unrolled,
    observed_pair,
    unrolled,
)
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.neurons.equations import NeuronModel
from ann2snn_distill.neurons.temporal import mean_over_time


class Neuron(nn.Module):
    """Where a neuron's threshold lives, and its decay if it has its own; its equations are in `neurons/`.

    A decay that is learnt is sigmoid(decay_logit), as in PLIF (Fang et al. 2021, arXiv 2007.05785).
    """

    threshold: Tensor
    fixed_decay: Tensor | None
    decay_logit: nn.Parameter | None

    def __init__(self, threshold: float, decay: float | None = None, *, learn: bool = False):
        super().__init__()
        fixed, logit = None, None
        if decay is not None and learn:  # in float64, as decays near 0 and 1 have no finite logit in float32
            logit = nn.Parameter(torch.tensor(decay, dtype=torch.float64).logit().float())
        elif decay is not None:
            fixed = torch.tensor(float(decay))
        self.register_buffer("threshold", torch.tensor(float(threshold)), persistent=False)
        self.register_buffer("fixed_decay", fixed, persistent=False)
        self.register_parameter("decay_logit", logit)

    @property
    def decay(self) -> Tensor | None:
        """The neuron's own decay, a scalar; None where it is the network's."""
        return self.fixed_decay if self.decay_logit is None else torch.sigmoid(self.decay_logit)


@dataclass(frozen=True)
class Programs:
    """Programs of all stages for one use of the norms: by batch (training) or running statistics (inference)."""

    body: nn.Module
    stages: tuple[Stage, ...]
    pairs: tuple[ObservedPair, ...]
    unrolls: tuple[Unrolled, ...]
    static_input: bool

    def observe(self, x: Tensor, timesteps: int) -> tuple[Records, ...]:
        """Run the spike pass on `x`, images (B, ...) or frames (TB, ...); return every stage's records."""
        records = []
        with torch.no_grad():
            for pair in self.pairs:
                x, recorded = pair.observe(self.body, x, timesteps)
                records.append(recorded)
        return tuple(records)

    def rate(self, x: Tensor, timesteps: int, records: tuple[Records, ...]) -> tuple[Tensor, ...]:
        """Run the rate pass; return every stage's mean output (B, ...), the last is the logits (B, K)."""
        rate = x if self.static_input else mean_over_time(x, timesteps).to(x.dtype)
        outputs = []
        for pair, recorded in zip(self.pairs, records, strict=True):
            rate = pair.rate(self.body, rate, recorded)
            outputs.append(rate)
        return tuple(outputs)

    def unroll(self, x: Tensor, timesteps: int) -> Tensor:
        """Return the logits (T, B, K) of every timestep, differentiable through time (BPTT)."""
        return self.through_time(x, timesteps)[1]

    def through_time(self, x: Tensor, timesteps: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return every stage's mean output (B, ...), the last being the mean logits, and the logits (T, B, K)."""
        outputs = []
        for program in self.unrolls:
            x, _ = program.unroll(self.body, x, timesteps)
            outputs.append(x if program.static_output else mean_over_time(x, timesteps))
        return tuple(outputs), x.unflatten(0, (timesteps, -1))

    def mean_features(self, x: Tensor, timesteps: int) -> tuple[Tensor, ...]:
        """Return every stage's mean output (B, ...) over time; the last is the mean logits (B, K)."""
        return self.through_time(x, timesteps)[0]


class SpikingNetwork(nn.Module):
    """An SNN. It keeps no state between batches, and the number of timesteps is an argument of every call.

    Attributes:
        body: owner of the parameters, under the names of the timm model; one child more holds the neurons.
        stages: the stages, the last one named "head".
        in_training: programs whose norms use, and move, the batch's statistics.
        in_inference: programs whose norms use the running statistics.
    """

    def __init__(
        self,
        network: Partitioned,
        neuron: NeuronModel,
        *,
        thresholds: Mapping[str, float],
        decays: Mapping[str, float] | None = None,
        learn_decay: bool = False,
        static_input: bool = True,
    ):
        """Build the programs.

        Args:
            network: the network, which gains the neurons.
            neuron: what all neurons have in common.
            thresholds: of every neuron, by name.
            decays: of every neuron, by name, where each has its own; else None.
            learn_decay: whether these decays are parameters, and so strictly between 0 and 1.
            static_input: whether the input is images, constant in time, and not frames.

        Raises:
            BadInputError: thresholds or decays name other neurons than the network has.
        """
        super().__init__()
        names = network.sites.neuron_names()
        _check_names("thresholds", thresholds, names)
        if decays is not None:
            _check_names("decays", decays, names)
        self.network, self.neuron, self.static_input = network, neuron, static_input
        self.body = network.body
        own = decays or {}
        neurons = {name: Neuron(thresholds[name], own.get(name), learn=learn_decay) for name in names}
        self.body.add_module(NEURONS, nn.ModuleDict(neurons))
        self.stages = network.stages
        self.in_training = self._programs(training=True)
        self.in_inference = self._programs(training=False)

    @cached_property
    def in_training_fused(self) -> Programs:
        """As `in_training`, with norms and sums inside their neuron's operation; written when first asked for."""
        return self._programs(training=True, fused=True)

    def in_quantized_training(self, *, fused: bool) -> Programs:
        """Return programs of the ANN with the T + 1 levels of these neurons' rates; they have no `unroll`."""
        return self._programs(training=True, fused=fused, quantized=True)

    @property
    def thresholds(self) -> dict[str, float]:
        """Every neuron's threshold by name, in order."""
        return {name: float(self._neurons()[name].threshold) for name in self.network.sites.neuron_names()}  # type: ignore[arg-type]

    @property
    def decays(self) -> dict[str, float] | None:
        """Every neuron's own decay by name, in order; None where all have the model's."""
        with torch.no_grad():
            found = {name: self._neurons()[name].decay for name in self.network.sites.neuron_names()}
        return {name: float(decay) for name, decay in found.items() if decay is not None} or None  # type: ignore[arg-type]

    def weight_names(self) -> tuple[str, ...]:
        """Return the names of the body's tensors that a file holds: all but the neurons', which are in its header."""
        return tuple(name for name in self.body.state_dict() if not name.startswith(f"{NEURONS}."))

    def forward(self, x: Tensor, timesteps: int) -> Tensor:
        """Return the logits (T, B, K) of every timestep, by the running statistics."""
        return self.in_inference.unroll(x, timesteps)

    def activity(self, x: Tensor, timesteps: int) -> dict[str, Activity]:
        """Return the activity of each neuron's output and of the input of each layer with weights, by call site."""
        program = self._activity_program
        with torch.no_grad():
            _, measured = program.run(self.body, x, timesteps)
        found = torch.stack(measured).tolist()
        return {name: Activity(*values) for name, values in zip(program.names, found, strict=True)}

    @cached_property
    def _activity_program(self) -> ActivityProgram:
        return activity_program(self.network.sites, self.stages, neuron=self.neuron, static_input=self.static_input)

    def _neurons(self) -> nn.ModuleDict:
        neurons = self.body.get_submodule(NEURONS)
        assert isinstance(neurons, nn.ModuleDict)
        return neurons

    def _programs(self, *, training: bool, fused: bool = False, quantized: bool = False) -> Programs:
        pairs: list[ObservedPair] = []
        unrolls: list[Unrolled] = []
        static = self.static_input
        sites, last = self.network.sites, self.stages[-1]
        for stage in self.stages:
            pairs.append(
                observed_pair(
                    sites,
                    stage,
                    neuron=self.neuron,
                    static_input=static,
                    training=training,
                    last=stage is last,
                    fused=fused,
                    quantized=quantized,
                )
            )
            if not quantized:
                unrolls.append(unrolled(sites, stage, neuron=self.neuron, static_input=static, training=training))
            static = pairs[-1].static_output
        return Programs(self.body, self.stages, tuple(pairs), tuple(unrolls), self.static_input)


def _check_names(what: str, found: Mapping[str, float], names: Sequence[str]) -> None:
    if set(found) != set(names):
        raise BadInputError(
            f"the {what} name {len(set(found))} neurons and the network has {len(names)}; "
            "the file belongs to another version of this model: convert it again"
        )


def uniform_thresholds(names: Sequence[str], threshold: float) -> dict[str, float]:
    """Return the same threshold for every neuron."""
    return dict.fromkeys(names, threshold)
