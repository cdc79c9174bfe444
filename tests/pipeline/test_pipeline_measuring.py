"""What is measured besides accuracy."""

from dataclasses import replace

import pytest
import timm
import torch

from ann2snn_distill.conversion.network import partitioned
from ann2snn_distill.conversion.student import SpikingNetwork, uniform_thresholds
from ann2snn_distill.neurons.equations import LIF
from ann2snn_distill.pipeline.measuring import measured_beside, silent_neurons


def measured(threshold):
    torch.manual_seed(0)
    network = partitioned(timm.create_model("test_resnet", num_classes=10).eval(), img_size=32)
    names = network.sites.neuron_names()
    student = SpikingNetwork(network, LIF, thresholds=uniform_thresholds(names, threshold))
    batches = [(torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64))]
    return measured_beside({1: 10.0, 2: 20.0}, student, batches, 2), names


def test_the_anns_energy_has_the_products_of_activations_as_the_snns_has():
    network = partitioned(timm.create_model("test_vit", num_classes=10).eval(), img_size=160)
    student = SpikingNetwork(network, LIF, thresholds=uniform_thresholds(network.sites.neuron_names(), 1e6))
    batches = [(torch.randn(1, 3, 160, 160), torch.zeros(1, dtype=torch.int64))]
    found = measured_beside({1: 10.0}, student, batches, 1)
    products = sum(layer.macs or 0 for layer in found.layers if layer.binary_input is None)
    assert products > 0
    assert found.energy.ann_mj == pytest.approx(4.6e-9 * (found.coverage.total_macs + products))
    analog = sum(layer.macs or 0 for layer in found.layers if not layer.binary_input)
    assert found.energy.snn_mj == pytest.approx(4.6e-9 * analog), "silent spikes cost nothing"


def test_neurons_that_never_fire_are_reported():
    found, names = measured(1e6)
    (text,) = silent_neurons(found)
    assert text.startswith(f"{len(names)} of {len(names)} neuron layers never fire (first: {names[0]})")
    assert "--threshold" in text


def test_neurons_that_fire_are_not():
    found, _ = measured(1e6)
    layers = tuple(layer.model_copy(update={"firing_rate": 0.1}) for layer in found.layers)
    assert silent_neurons(replace(found, layers=layers)) == []
