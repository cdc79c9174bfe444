"""Equalised channels: an ANN of ReLUs stays the same, and the SNN is one with a threshold for each channel."""

import pytest
import timm
import torch
from timm.layers import StdConv2d
from torch import fx, nn

from ann2snn_distill.conversion.calibration import thresholds_of_ann
from ann2snn_distill.conversion.channels import channel_thresholds_of_ann
from ann2snn_distill.conversion.equalizing import equalize, has_depthwise
from ann2snn_distill.conversion.network import partitioned
from ann2snn_distill.conversion.whole_input import WholeInputConv2d
from ann2snn_distill.neurons.equations import NeuronModel
from ann2snn_distill.neurons.temporal import unroll_neuron

IF = NeuronModel(1.0, 0.5, "soft", 1.0)
T = 4


def unequal(model):
    """Give the channels of norms scales up to a hundredfold apart, and offsets."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.exp(2.3 * (2 * torch.rand(len(module.weight), generator=generator) - 1))
            module.bias.data.normal_(generator=generator)
    return model.eval()


def built(name, coverage="activations", img_size=32, **keywords):
    torch.manual_seed(0)
    model = unequal(timm.create_model(name, num_classes=10, **keywords))
    return partitioned(model, img_size=img_size, full_coverage=coverage == "full").sites


def images(img_size=32):
    return torch.randn(8, 3, img_size, img_size, generator=torch.Generator().manual_seed(0))


def logits(sites):
    with torch.no_grad():
        return fx.Interpreter(sites.trace.body, graph=sites.trace.graph).run(images())


def spread(sites, names, thresholds):
    """Return how far the best thresholds of single channels are from their layer's, as a mean factor."""
    axes = dict.fromkeys(names, 1)
    alone = channel_thresholds_of_ann(sites, images(), T, axes=axes, neuron=IF)
    logs = [(alone[name] / thresholds[name]).log() for name in names]
    return torch.cat([found[found.isfinite()] for found in logs]).abs().mean().exp()


@pytest.mark.parametrize(
    ("name", "keywords", "share"),
    [
        ("test_resnet", {}, 1.0),
        ("resnet18", {}, 1.0),
        ("densenet121", {"block_config": (2, 2), "growth_rate": 8}, 0.9),
        ("vgg11_bn", {"mlp_ratio": 1 / 64}, 0.8),
    ],
)
def test_an_ann_of_relus_computes_the_same_and_its_channels_agree(name, keywords, share):
    sites = built(name, **keywords)
    before, thresholds = logits(sites), thresholds_of_ann(sites, images(), T, neuron=IF)
    names = equalize(sites, images(), T, thresholds=thresholds, neuron=IF)
    assert len(names) >= share * len(thresholds)
    torch.testing.assert_close(logits(sites), before, rtol=1e-3, atol=1e-4 * float(before.std()))
    fresh = built(name, **keywords)
    assert spread(sites, names, thresholds) < 0.7 * spread(fresh, names, thresholds)


class Whole(nn.Sequential):
    """A convolution over its whole input between two activations."""

    feature_info = ()


def test_a_product_over_the_whole_input_is_read_and_made_like_a_convolution():
    torch.manual_seed(0)
    whole = WholeInputConv2d(6, 8, 32)
    model = unequal(
        Whole(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), whole, nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
        )
    )
    sites = partitioned(model, img_size=32).sites
    before, thresholds = logits(sites), thresholds_of_ann(sites, images(), T, neuron=IF)
    assert set(equalize(sites, images(), T, thresholds=thresholds, neuron=IF)) == set(thresholds)
    torch.testing.assert_close(logits(sites), before, rtol=1e-3, atol=1e-4 * float(before.std()))


class Clipped(nn.Module):
    """A depthwise block with ReLU6, which is no plain ReLU."""

    feature_info = ()

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.ReLU6()
        self.depthwise = nn.Conv2d(6, 12, 3, groups=3, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, 2)

    def forward(self, x):
        return self.fc(self.pool(self.depthwise(self.act(self.norm(self.conv(x))))).flatten(1))


def test_the_student_has_a_threshold_for_each_channel_in_effect():
    torch.manual_seed(0)
    model, x = unequal(Clipped()), images(16)
    sites = partitioned(model, img_size=16).sites
    thresholds = thresholds_of_ann(sites, x, T, neuron=IF)
    alone = channel_thresholds_of_ann(sites, x, T, axes={"act": 1}, neuron=IF)["act"]
    assert equalize(sites, x, T, thresholds=thresholds, neuron=IF) == ("act",)
    body = sites.trace.body
    with torch.no_grad():
        expected = model.depthwise(spikes(model, x, alone.view(-1, 1, 1)))
        found = body.depthwise(spikes(body, x, torch.tensor(thresholds["act"])))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def spikes(model, x, threshold):
    current = nn.BatchNorm2d.forward(model.norm, model.conv(x))
    return unroll_neuron(current, threshold, T, static=True, model=IF)


class Odd(Clipped):
    """Channels that something else reads: a gate, a concatenation, weights made anew, or the same layer once more."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.again = nn.Conv2d(6, 6, 1)
        self.standardised = StdConv2d(6, 6, 1, bias=False)
        self.depthwise = nn.Conv2d(12 if kind == "concatenation" else 6, 12, 3, groups=3, bias=False)

    def forward(self, x):
        x = self.act(self.norm(self.conv(x)))
        if self.kind == "gate":
            x = x * torch.sigmoid(self.again(x))
        elif self.kind == "concatenation":
            x = torch.cat([x, x], 1)
        elif self.kind == "standardised":
            x = self.standardised(x)
        else:
            x = self.again(self.again(x))
        return self.fc(self.pool(self.depthwise(x)).flatten(1))


@pytest.mark.parametrize("kind", ["gate", "concatenation", "standardised", "twice"])
def test_channels_that_anything_else_reads_are_left_alone(kind):
    torch.manual_seed(0)
    sites, x = partitioned(unequal(Odd(kind)), img_size=16).sites, images(16)
    before = {name: tensor.clone() for name, tensor in sites.trace.body.state_dict().items()}
    thresholds = thresholds_of_ann(sites, x, T, neuron=IF)
    assert equalize(sites, x, T, thresholds=thresholds, neuron=IF) == ()
    for name, tensor in sites.trace.body.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_channel_that_gives_nothing_keeps_its_weights():
    torch.manual_seed(0)
    model, x = unequal(Clipped()), images(16)
    model.norm.weight.data[2], model.norm.bias.data[2] = 0.01, -5.0
    sites = partitioned(model, img_size=16).sites
    equalize(sites, x, T, thresholds=thresholds_of_ann(sites, x, T, neuron=IF), neuron=IF)
    body = sites.trace.body
    assert body.norm.bias.detach()[2] == -5.0
    assert torch.equal(body.depthwise.weight[4:8, 0], model.depthwise.weight[4:8, 0])


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "test_vit", "test_byobnet"])
def test_full_coverage_of_other_families_stays_finite(name):
    sites = built(name, "full")
    thresholds = thresholds_of_ann(sites, images(), T, neuron=IF)
    names = equalize(sites, images(), T, thresholds=thresholds, neuron=IF)
    assert set(names) < set(thresholds)
    assert all(tensor.isfinite().all() for tensor in sites.trace.body.state_dict().values())


@pytest.mark.parametrize(
    ("name", "found"), [("test_resnet", False), ("regnetx_002", False), ("mobilenetv2_050", True), ("test_vit", False)]
)
def test_depthwise_convolutions_are_found(name, found):
    assert has_depthwise(timm.create_model(name)) is found
