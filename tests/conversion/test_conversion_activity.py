"""Spikes that reach each layer with weights, against counts by hand."""

import pytest
import torch
from plain_snn import plain_snn
from small_networks import CLASSES, IMAGE, Block, images, spiking, spiking_form
from timm.layers import AvgPool2dSame, BlurPool2d, LayerScale2d
from torch import nn
from torch.nn import functional as F

from ann2snn_distill.conversion.network import partitioned
from ann2snn_distill.conversion.student import SpikingNetwork, uniform_thresholds
from ann2snn_distill.neurons.equations import IF
from ann2snn_distill.neurons.temporal import repeat_over_time

T = 4
CHANNELS = 6


class Reading(nn.Module):
    """A neuron, an operation, and a convolution that reads what it makes of the spikes."""

    def __init__(self, operation, *, channels=CHANNELS):
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, CHANNELS, 3, padding=1), nn.ReLU()
        self.operation = operation
        self.reader, self.out = nn.Conv2d(channels, 8, 1), nn.ReLU()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.reader(self.operation(self.act(self.stem(x))))
        return self.head(self.out(x).mean((2, 3)))


def norm():
    norm = nn.BatchNorm2d(CHANNELS)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, 0.5, 1.5)
    return norm


def spread(x):
    return (F.avg_pool2d(x, IMAGE) + torch.ones(1, 1, 4, 4)).reshape(-1, CHANNELS, 2, 8)


OPERATIONS = {
    "nothing": (nn.Identity, 1),
    "norm": (norm, 1),
    "scale": (lambda: LayerScale2d(CHANNELS), 1),
    "shift": (lambda: Block(lambda x: 2 * x + 0.5), 1),
    "nearest": (lambda: Block(lambda x: F.interpolate(x, scale_factor=2)), 1),
    "average": (lambda: nn.AvgPool2d(2), 4),
    "average of the same size": (lambda: AvgPool2dSame((4, 2), stride=(4, 2)), 8),
    "average, a function": (lambda: Block(lambda x: F.avg_pool2d(x, 4)), 16),
    "average, a function's keyword": (lambda: Block(lambda x: F.avg_pool2d(x, kernel_size=(2, 4))), 8),
    "average as large as the image": (lambda: Block(lambda x: F.avg_pool2d(x, x.shape[2:])), 1024),
    "area": (lambda: Block(lambda x: F.interpolate(x, None, 0.5, "area")), 4),
    "adaptive average": (lambda: nn.AdaptiveAvgPool2d(8), 16),
    "adaptive average of a larger size": (lambda: nn.AdaptiveAvgPool2d(64), 1),
    "mean": (lambda: Block(lambda x: x.mean((2, 3), keepdim=True)), 1024),
    "sum": (lambda: Block(lambda x: x.sum((2, 3), keepdim=True)), 1024),
    "a constant of a larger size": (lambda: Block(spread), 1024),
    "averages of averages": (lambda: nn.Sequential(nn.AvgPool2d(2), norm(), nn.AvgPool2d(2)), 16),
    "square": (lambda: Block(lambda x: F.avg_pool2d(x, 2) ** 2), 4),
}
"""What stands between the neuron and the layer -> how many spikes can reach one of its inputs."""

UNEVEN = {
    "blur": (lambda: BlurPool2d(CHANNELS), 9),
    "overlapping windows": (lambda: nn.AdaptiveAvgPool2d(24), 4),
    "bilinear": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), 4),
}
"""Those whose windows overlap at the borders, or weigh unevenly: their counts are exact where all neurons fire."""


def reading(operation):
    torch.manual_seed(0)
    return spiking_form(Reading(operation()).double().eval())


@torch.no_grad()
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_spike_of_a_window_reaches_the_weights_behind_it(name):
    operation, window = OPERATIONS[name]
    measured = reading(operation).activity(images(), T)
    rate = measured["act"].share
    assert 0.05 < rate < 0.95
    assert measured["act"].spikes == pytest.approx(rate)
    assert measured["reader"].spikes == pytest.approx(window * rate, rel=1e-6)
    if window == 1:
        assert measured["reader"].share == pytest.approx(rate)
    else:
        assert rate < measured["reader"].share <= 1


@torch.no_grad()
@pytest.mark.parametrize("name", {**OPERATIONS, **UNEVEN})
def test_where_all_neurons_fire_as_many_spikes_arrive_as_a_window_holds(name):
    operation, window = {**OPERATIONS, **UNEVEN}[name]
    student = reading(operation)
    student.body.stem.weight.zero_()
    student.body.stem.bias.fill_(10.0)
    assert student.activity(images(), T)["reader"] == pytest.approx((1, window))


@torch.no_grad()
def test_a_maximum_of_spikes_is_one_spike():
    student = reading(lambda: nn.MaxPool2d(2))
    plain, _ = plain_snn(student, repeat_over_time(images(), T), T, training=False)
    pooled = F.max_pool2d((plain.values["act"] != 0).double(), 2)
    assert student.activity(images(), T)["reader"] == pytest.approx((float(pooled.mean()),) * 2)


@torch.no_grad()
def test_joined_channels_keep_their_counts():
    joined = Block(lambda x: torch.cat([F.avg_pool2d(x, 2), F.max_pool2d(x, 2)], 1))
    torch.manual_seed(0)
    student = spiking_form(Reading(joined, channels=2 * CHANNELS).double().eval())
    plain, _ = plain_snn(student, repeat_over_time(images(), T), T, training=False)
    spikes = (plain.values["act"] != 0).double()
    expected = (4 * spikes.mean() + F.max_pool2d(spikes, 2).mean()) / 2
    assert student.activity(images(), T)["reader"].spikes == pytest.approx(float(expected))


@torch.no_grad()
def test_what_is_not_made_of_spikes_has_a_share_and_no_count():
    assert reading(lambda: Block(torch.sigmoid)).activity(images(), T)["reader"] == (1, 0)


@torch.no_grad()
def test_spikes_of_either_sign_count():
    torch.manual_seed(0)
    cut = partitioned(
        Reading(Block(lambda x: torch.tanh(x - x.mean((2, 3), keepdim=True)))).double().eval(),
        img_size=IMAGE,
        full_coverage=True,
    )
    names = cut.sites.neuron_names()
    student = SpikingNetwork(cut, IF, thresholds=uniform_thresholds(names, 0.2)).double()
    plain, _ = plain_snn(student, repeat_over_time(images(), T), T, training=False)
    signed = {name: plain.values[name] for name in names if (plain.values[name] < 0).any()}
    assert signed
    measured = student.activity(images(), T)
    for name, spikes in signed.items():
        assert measured[name] == pytest.approx((float((spikes != 0).double().mean()),) * 2)


@torch.no_grad()
def test_a_neurons_activity_is_the_share_of_values_that_are_not_zero():
    student, x = spiking("test_resnet", threshold=0.4), images()
    measured = student.activity(x, T)
    assert set(student.thresholds) <= set(measured)
    plain, _ = plain_snn(student, repeat_over_time(x, T), T, training=False)
    spikes = {name: float((plain.values[name] != 0).double().mean()) for name in student.thresholds}
    assert {name: measured[name].share for name in spikes} == pytest.approx(spikes, abs=1e-6)
