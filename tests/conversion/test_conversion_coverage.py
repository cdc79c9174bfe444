"""The share of multiply-accumulates that spikes drive, against the census at 224 px."""

import pytest
import timm
import torch
from small_networks import IMAGE, network
from timm.layers import SelectAdaptivePool2d
from timm.layers.pool2d_same import MaxPool2dSame
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ann2snn_distill.conversion.canonical import average_pooled
from ann2snn_distill.conversion.coverage import coverage
from ann2snn_distill.conversion.network import StagedAnn, partitioned
from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.errors import UnsupportedModelError
from ann2snn_distill.pipeline.students import student_network

_RES2NET_JOINED = 112 * 256 * 56**2 + 224 * 512 * 28**2 + 448 * 1024 * 14**2 + 896 * 2048 * 7**2

CENSUS = {
    "resnet18": (1.81, 93.5, 1, 93.5, 512 * 1000, 1),
    "vgg16_bn": (15.47, 99.4, 1, 99.4, 0, 1),
    "mobilenetv2_100": (0.30, 46.2, 18, 96.4, 1280 * 1000, 1),
    "densenet121": (2.83, 95.8, 1, 95.8, 1024 * 1000, 1),
    "regnetx_002": (0.20, 94.4, 1, 94.6, 368 * 1000, 1),
    "res2net50_14w_8s": (4.18, 79.0, 77, 97.2, 2048 * 1000 + _RES2NET_JOINED, 5),
    "efficientnet_b0": (0.39, 9.0, 49, 97.2, None, 17),
    "convnext_atto": (0.55, 44.0, 28, 98.9, 0, 0),
    "vit_tiny_patch16_224": (1.25, 27.8, 73, 97.7, 0, 0),
}
"""Counted by other code at 224 px: giga-multiply-accumulates, percent that spikes drive, neurons that full coverage
adds, percent then. Its ViT counts the products of attention among them, as driven by spikes under full coverage.

It calls averaged spikes analog; here, average pooling belongs to the synapse behind it. The last two numbers are the
multiply-accumulates of such synapses, and how many of them there are: the classifier behind a global pool, res2net's
last convolution of a stage's first block, and the 16 gates of efficientnet.
"""


@pytest.mark.parametrize("name", CENSUS)
def test_shares_are_those_of_the_census(name):
    giga_macs, percent, added, percent_full, averaged, averages = CENSUS[name]
    with torch.device("meta"):
        model = timm.create_model(name)
    plain = partitioned(model, img_size=224).sites
    full = partitioned(model, img_size=224, full_coverage=True).sites
    before, after = coverage(plain), coverage(full)
    if averaged is None:
        averaged = sum(
            f.macs for f in before.layers if f.binary_input and f.path.endswith(("conv_reduce", "classifier"))
        )
    everything = before.total_macs + before.product_macs
    assert everything / 1e9 == pytest.approx(giga_macs, abs=0.006)
    assert 100 * (before.spiking_macs - averaged) / everything == pytest.approx(percent, abs=0.06)
    assert len(full.neuron_names()) - len(plain.neuron_names()) == added - averages
    assert 100 * (after.spiking_macs + after.product_macs) / everything == pytest.approx(percent_full, abs=0.06)
    assert (after.total_macs, after.product_macs) == (before.total_macs, before.product_macs)
    assert after.share_after_first == 1


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv2_050", "regnetx_002", "vgg11_bn"])
def test_macs_are_those_that_hooks_count(name):
    model = network(name, dtype=torch.float32)
    counted = {}

    def count(path):
        def hook(module, _, output):
            weights = module.weight[0].numel()
            counted[path] = counted.get(path, 0) + output[0].numel() * weights

        return hook

    sites = partitioned(model, img_size=IMAGE).sites
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count(path))
    with torch.no_grad():
        model(torch.zeros(1, 3, IMAGE, IMAGE))
    found = coverage(sites)
    by_path = {fate.path: fate.macs for fate in found.layers if fate.binary_input is not None}
    assert by_path == counted
    assert found.total_macs == sum(counted.values())


class Recurrent(nn.Module):
    """Spikes drive a recurrent layer over the rows, and a classifier of what it gives."""

    def __init__(self, kind, **options):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 6, 3), nn.ReLU()
        self.rows = kind(6, 5, num_layers=2, bidirectional=True, batch_first=True, **options)
        self.fc = nn.Linear(2 * (options.get("proj_size") or 5), 10)

    def forward(self, x):
        rows_BLC, _ = self.rows(self.act(self.conv(x)).mean(3).transpose(1, 2))
        return self.fc(rows_BLC.mean(1))


def flop_counter_macs(model, side):
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model.double()(torch.zeros(1, 3, side, side, dtype=torch.float64))
    return counted.get_total_flops() // 2


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("kind", "options"), [(nn.LSTM, {}), (nn.LSTM, {"proj_size": 3}), (nn.GRU, {}), (nn.RNN, {})])
def test_recurrent_layers_count_and_no_spikes_drive_them(kind, options, full):
    model = Recurrent(kind, **options)
    found = coverage(partitioned(model, img_size=8, full_coverage=full).sites)
    fates = {fate.path: fate for fate in found.layers if fate.binary_input is not None}
    assert [path for path, fate in fates.items() if not fate.binary_input] == ["conv", "rows", "fc"][: 2 if full else 3]
    assert not fates["rows"].first
    assert found.total_macs == flop_counter_macs(model, 8)
    assert fates["rows"].macs == found.total_macs - fates["conv"].macs - fates["fc"].macs > 0


def test_what_stands_behind_a_recurrent_layer_that_reads_the_image_does_not_read_it():
    model = Recurrent(nn.GRU)
    model.conv = nn.ConstantPad2d(0, 0.0)
    model.rows = nn.GRU(3, 5, bidirectional=True, batch_first=True)
    found = coverage(partitioned(model, img_size=8, full_coverage=True).sites)
    assert {fate.path: fate.first for fate in found.layers if fate.macs} == {"rows": True, "fc": False}


def test_the_lstms_of_sequencer_are_in_its_share():
    with torch.device("meta"):
        model = timm.create_model("sequencer2d_s", num_classes=10)
        counted = flop_counter_macs(model, 224)
    found = coverage(partitioned(model, img_size=224, full_coverage=True).sites)
    assert found.total_macs == counted
    assert 100 * found.share == pytest.approx(58.9, abs=0.05)
    assert {fate.operation for fate in found.layers if fate.binary_input is False and not fate.first} == {"LSTM"}


class Mixed(nn.Module):
    """Synapses driven by every kind of signal."""

    def __init__(self):
        super().__init__()
        self.image, self.spikes, self.pooled, self.averaged = (nn.Conv2d(c, 4, 1) for c in (3, 4, 4, 4))
        self.summed, self.analog, self.normed = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.joined = nn.Conv2d(8, 4, 1)
        self.norm, self.maxpool, self.avgpool, self.act = nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.ReLU()

    def forward(self, x):
        first = self.act(self.image(x))
        second = self.act(self.spikes(first))
        pooled = self.act(self.pooled(self.maxpool(second)))
        averaged = self.act(self.averaged(self.avgpool(second)))
        normed = self.act(self.normed(self.norm(pooled)))
        summed = self.act(self.summed(normed + averaged))
        joined = self.joined(torch.cat([summed, normed], 1))
        return self.analog(joined).mean((2, 3))


def test_each_synapse_knows_what_drives_it():
    fates = {fate.path: fate for fate in coverage(partitioned(Mixed(), img_size=8).sites).layers}
    driven = {path: fate.binary_input for path, fate in fates.items() if fate.binary_input is not None}
    assert driven == {
        "image": False,
        "spikes": True,
        "pooled": True,
        "averaged": True,
        "normed": True,
        "summed": False,
        "joined": True,
        "analog": False,
    }
    assert fates["image"].static
    assert not fates["spikes"].static
    assert fates["norm"].role is Role.NORM
    assert fates["maxpool"].role is Role.ANALOG


def test_average_pooling_leaves_no_maximum():
    model = network("resnet18", dtype=torch.float32)
    pooled = average_pooled(model)
    roles = partitioned(pooled, img_size=IMAGE).sites.roles.values()
    assert Role.ANALOG in partitioned(model, img_size=IMAGE).sites.roles.values()
    assert Role.ANALOG not in roles
    assert isinstance(model.maxpool, nn.MaxPool2d)
    x = torch.ones(1, 4, 7, 7)
    assert torch.equal(pooled.maxpool(x), model.maxpool(x))
    staged = StagedAnn(partitioned(pooled, img_size=IMAGE)).eval()
    images = torch.randn(2, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(staged(images), pooled(images))


@pytest.mark.parametrize("pooling", ["max", "fastmax"])
def test_a_global_maximum_becomes_the_global_average(pooling):
    pooled = average_pooled(timm.create_model("resnet18", num_classes=10, global_pool=pooling))
    assert Role.ANALOG not in partitioned(pooled, img_size=IMAGE).sites.roles.values()
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pooled.global_pool(x), x.mean((2, 3)))


@pytest.mark.parametrize("side", [7, 8])
def test_a_maximum_with_the_padding_of_tensorflow_keeps_it(side):
    maximum = MaxPool2dSame(3, stride=2)
    (average,) = average_pooled(nn.Sequential(maximum))
    x = torch.ones(1, 4, side, side)
    found, wanted = average(x), maximum(x)
    assert found.shape == wanted.shape == (1, 4, 4, 4)
    assert torch.equal(found[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1])


def test_a_hybrid_transformer_whose_stem_pools_so_is_a_student_with_averages():
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_r_s16_p8_224", img_size=32, embed_dim=24, depth=1)
    network = student_network(model, img_size=32, maxpool="avg", coverage="activations")
    assert not any("MaxPool" in type(module).__name__ for module in network.body.modules())


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        (nn.MaxPool2d(2, dilation=2), "a dilated max pool has no average"),
        (nn.MaxPool2d(2, return_indices=True), "a max pool that gives indices has no average"),
        (nn.AdaptiveMaxPool2d(1, return_indices=True), "a max pool that gives indices has no average"),
        (SelectAdaptivePool2d(pool_type="avgmax").pool, "AdaptiveAvgMaxPool2d has no average"),
        (SelectAdaptivePool2d(pool_type="fastcatavgmax").pool, "FastAdaptiveCatAvgMaxPool has no average"),
    ],
    ids=["dilated", "indices", "adaptive indices", "mixed", "fast mixed"],
)
def test_a_maximum_without_an_average_is_refused(pool, reason):
    with pytest.raises(UnsupportedModelError, match=f"^0: {reason}; give --maxpool keep$"):
        average_pooled(nn.Sequential(pool))


class Functional(nn.Module):
    """Its maximum is no module."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(F.max_pool2d(self.act(self.conv(x)), 2).mean((2, 3)))


def test_a_maximum_that_is_no_module_is_refused_where_averages_are_asked_for():
    student_network(Functional(), img_size=8, maxpool="keep", coverage="activations")
    with pytest.raises(UnsupportedModelError, match=r"^the top level: max_pool2d cannot be replaced .*--maxpool keep$"):
        student_network(Functional(), img_size=8, maxpool="avg", coverage="activations")
