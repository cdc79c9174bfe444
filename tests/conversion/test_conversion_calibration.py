"""Thresholds fitted to a trained ANN: the best uniform quantiser's, and a copied SNN that is near its ANN."""

import pytest
import torch
from small_networks import network
from torch import nn

from ann2snn_distill.conversion.calibration import thresholds_of_ann
from ann2snn_distill.conversion.network import partitioned
from ann2snn_distill.conversion.student import SpikingNetwork
from ann2snn_distill.neurons.equations import NeuronModel

IF = NeuronModel(1.0, 0.5, "soft", 1.0)
LIF = NeuronModel(0.2, 0.0, "soft-detached", 1.0)


class OneNeuron(nn.Module):
    """Images as they are, one activation, and a classifier."""

    feature_info = ()

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.dirac_(self.conv.weight)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(self.pool(self.act(self.conv(x))).flatten(1))


def fitted(timesteps, neuron, x):
    sites = partitioned(OneNeuron(), img_size=x.shape[-1]).sites
    (threshold,) = thresholds_of_ann(sites, x, timesteps, neuron=neuron).values()
    return threshold


@pytest.mark.parametrize(("timesteps", "expected"), [(1, 1.2), (2, 1.7), (4, 2.15), (8, 2.55)])
def test_an_if_neurons_threshold_is_that_of_the_best_quantiser_of_half_normal_values(timesteps, expected):
    """Expected: the minimum of E[(clip(round(T relu(I) / theta), 0, T) theta / T - relu(I))^2] over theta."""
    x = 3 * torch.randn(32, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    found = fitted(timesteps, IF, x) / 3
    assert found == pytest.approx(expected, rel=0.07)  # candidates are six percent apart
    relu = x.relu() / 3

    def error(theta):
        return (
            ((timesteps * relu / theta + 0.5).floor().clamp(max=timesteps) * theta / timesteps - relu).square().mean()
        )

    assert error(found) <= 1.01 * min(error(theta) for theta in torch.linspace(0.3, 6, 100))


def test_a_leaky_neurons_threshold_suits_its_own_rate():
    """Almost all or none: with decay 0.2 a constant current fires always from theta on, and never below 0.8 theta."""
    x = torch.randn(32, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    found, relu = fitted(4, LIF, x), x.relu()

    def error(theta):
        return ((x >= theta) * theta - relu).square().mean()

    best = min(torch.linspace(0.3, 3, 100), key=error)
    assert found == pytest.approx(float(best), rel=0.2)


def test_currents_of_nothing_have_a_threshold_all_the_same():
    assert 0 < fitted(4, IF, torch.zeros(2, 3, 8, 8)) < 1e-6


@pytest.mark.parametrize("timesteps", [2, 4])
def test_a_copied_network_with_fitted_thresholds_is_nearer_to_its_ann_than_with_any_one_factor(timesteps):
    """The rival: every threshold the same multiple of its fitted one."""
    model = network("resnet10t", dtype=torch.float32)
    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    cut = partitioned(model, img_size=32)
    fit = thresholds_of_ann(cut.sites, x, timesteps, neuron=IF)
    assert set(fit) == set(cut.sites.neuron_names())

    def error(factor):
        student = SpikingNetwork(cut, IF, thresholds={name: factor * value for name, value in fit.items()}).eval()
        with torch.no_grad():
            return float((student(x, timesteps).mean(0) - model(x)).square().mean())

    own = error(1.0)
    assert own < 0.7 * min(error(0.4), error(2.5))
