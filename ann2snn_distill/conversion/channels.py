"""The threshold that each channel of a copied ANN's neurons would have alone."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, fx

from ann2snn_distill.conversion.calibration import MINIMUM, NO_DECAYS, TRIED, ThresholdRun
from ann2snn_distill.conversion.encoders import two_sided
from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.conversion.sites import Sites
from ann2snn_distill.neurons.equations import NeuronModel
from ann2snn_distill.neurons.pairs import unroll_pair
from ann2snn_distill.neurons.temporal import unroll_neuron

_VALUES = 1_024
"""Of a channel, on which its threshold is fitted."""

_CANDIDATES = 37
"""Thresholds that are tried: twelve percent apart."""


def channel_thresholds_of_ann(
    sites: Sites,
    images: Tensor,
    timesteps: int,
    *,
    axes: Mapping[str, int],
    neuron: NeuronModel,
    decays: Mapping[str, float] = NO_DECAYS,
) -> dict[str, Tensor]:
    """Return the threshold (C,) that each channel of the named neurons would have alone; 0 where it gives nothing.

    Args:
        sites: the network, with the ANN's weights.
        images: normalised images (B, 3, H, W).
        timesteps: T of the spikes that stand for a value.
        axes: the dimension of each neuron's channels.
        neuron: the neurons' parameters.
        decays: of neurons that have their own, by name.
    """
    run = _ChannelRun(sites, timesteps, neuron, decays, axes)
    with torch.no_grad():
        run.run(images)
    return run.thresholds_C


class _ChannelRun(ThresholdRun):
    """Runs the ANN and fits a threshold to every channel of the named neurons."""

    def __init__(
        self, sites: Sites, timesteps: int, neuron: NeuronModel, decays: Mapping[str, float], axes: Mapping[str, int]
    ):
        super().__init__(sites, timesteps, neuron, decays)
        self._axes = axes
        self.thresholds_C: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.name in self._axes and self._sites.roles.get(n) is Role.NEURON:
            assert isinstance(value, Tensor)
            current = self.env[self._sites.data_inputs(n)[0]]
            current_CN, value_CN = (_by_channel(found, self._axes[n.name]) for found in (current, value))
            unroll = unroll_pair if n.target is two_sided else unroll_neuron
            self.thresholds_C[n.name] = _fitted_channels(
                current_CN, value_CN, unroll, self._timesteps, self.model_of(n)
            )
        return value


def _fitted_channels(
    current_CN: Tensor, value_CN: Tensor, unroll: Callable[..., Tensor], timesteps: int, neuron: NeuronModel
) -> Tensor:
    """Return for every channel the threshold whose mean emission is nearest to its values; 0 where those are 0."""
    scale_C = current_CN.square().mean(1).sqrt().clamp(min=MINIMUM)
    best_C, threshold_C = value_CN.square().mean(1), torch.zeros_like(scale_C)
    for factor in torch.logspace(*TRIED, steps=_CANDIDATES, base=2).tolist():
        tried_C = scale_C * factor
        emitted_TCN = unroll(current_CN, tried_C[:, None], timesteps, static=True, model=neuron)
        error_C = (emitted_TCN.unflatten(0, (timesteps, -1)).mean(0) - value_CN).square().mean(1)
        threshold_C = torch.where(error_C < best_C, tried_C, threshold_C)
        best_C = torch.minimum(best_C, error_C)
    return threshold_C


def _by_channel(values: Tensor, axis: int) -> Tensor:
    """Return evenly spaced values of every channel (C, N), in float32."""
    by_channel = values.detach().float().movedim(axis, 0).flatten(1)
    return by_channel[:, :: -(-by_channel.shape[1] // _VALUES)]
