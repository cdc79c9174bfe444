"""Cuts that are named: finer stages of the same network, and refusals that say why."""

import copy

import pytest
import torch
from small_networks import IMAGE, images, labels, network
from torch import nn
from torch.nn import functional as F

from ann2snn_distill.conversion.network import StagedAnn, partitioned
from ann2snn_distill.conversion.partition import default_branches
from ann2snn_distill.conversion.student import SpikingNetwork, uniform_thresholds
from ann2snn_distill.errors import UsageError
from ann2snn_distill.neurons.equations import LIF

TIMESTEPS = 3
SWIN = {"img_size": IMAGE, "window_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2)}

CASES = {
    "test_resnet": ({}, ["conv1.2"], "conv1.2 act1 layer1 layer2 layer3 layer4 fc head"),
    "resnet18": (
        {},
        ["layer3.0", "layer1.0", "layer2", "layer2.0"],
        "act1 layer1.0 layer1 layer2.0 layer2 layer3.0 layer3 layer4 fc head",
    ),
    "mobilenetv2_050": (
        {},
        ["blocks.3", "bn2", "blocks.1.0"],
        "blocks.0 blocks.1.0 blocks.1 blocks.2 blocks.3 blocks.4 blocks.6 bn2 fc head",
    ),
    "densenet121": (
        {"block_config": (2, 2), "growth_rate": 8},
        ["features.transition1"],
        "features.norm0 features.denseblock1 features.transition1 features.norm5 fc head",
    ),
    "test_vit": (
        {"img_size": IMAGE},
        ["blocks.3", "blocks.1"],
        "blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 blocks.5 fc head",
    ),
    "swin_tiny_patch4_window7_224": (
        SWIN,
        ["layers.1.blocks.0", "layers.0.blocks.0"],
        "layers.0.blocks.0 layers.0 layers.1.blocks.0 layers.1 fc head",
    ),
}
"""Network -> keywords that keep it small, the cuts that are named, and the stages."""


@pytest.mark.parametrize("name", CASES)
def test_cuts_come_in_the_graphs_order_whatever_the_order_of_the_names(name):
    keywords, cuts, expected = CASES[name]
    model = network(name, keywords)
    own = partitioned(model, img_size=IMAGE).stages
    for named in (cuts, cuts[::-1], [*cuts, *cuts]):
        stages = partitioned(model, img_size=IMAGE, cuts=named).stages
        assert " ".join(stage.name for stage in stages) == expected
        assert [stage.name for stage in stages if not stage.named] == [stage.name for stage in own]
        assert {stage.name for stage in stages if stage.named} <= set(cuts)
        assert default_branches(stages) == default_branches(own)
        assert [stage.name for stage in stages if stage.after_stem] == [s.name for s in own if s.after_stem]


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_chained_stages_equal_the_model_and_each_named_cut_is_what_its_module_gives(name):
    keywords, cuts, _ = CASES[name]
    model, x, given = network(name, keywords, dtype=torch.float32), images(2, dtype=torch.float32), {}
    staged = StagedAnn(partitioned(model, img_size=IMAGE, cuts=cuts)).eval()
    for path in cuts:
        model.get_submodule(path).register_forward_hook(lambda *args, path=path: given.update({path: args[2]}))
    expected = model(x)
    features = dict(zip([stage.name for stage in staged.stages], staged.features(x), strict=True))
    assert torch.equal(staged(x), expected)
    assert torch.equal(features["head"], expected)
    assert expected.std() > 1e-4
    assert set(given) == set(cuts)
    for path, feature in given.items():
        assert torch.equal(features[path], feature), path
        assert next(stage for stage in staged.stages if stage.name == path).shape == feature.shape[1:]


def students(name, *, full_coverage):
    """The SNN of one network with its own cuts alone, and with the named ones."""
    keywords, cuts, _ = CASES[name]
    model = network(name, keywords)
    for named in ((), cuts):
        cut = partitioned(copy.deepcopy(model), img_size=IMAGE, full_coverage=full_coverage, cuts=named)
        yield SpikingNetwork(cut, LIF, thresholds=uniform_thresholds(cut.sites.neuron_names(), 0.5)).double()


@pytest.mark.parametrize("full_coverage", [False, True], ids=["activations", "full"])
@pytest.mark.parametrize("name", CASES)
def test_named_cuts_change_no_spike_of_a_student_and_no_gradient_of_its_rate_pass(name, full_coverage):
    plain, finer = students(name, full_coverage=full_coverage)
    x, target = images(), labels()
    assert torch.equal(plain(x, TIMESTEPS), finer(x, TIMESTEPS))
    assert plain(x, TIMESTEPS).std() > 1e-6
    assert plain.thresholds == finer.thresholds
    assert plain.activity(x, TIMESTEPS) == finer.activity(x, TIMESTEPS)
    found = []
    for student in (plain, finer):
        for programs in (student.in_training, student.in_training_fused):
            logits = programs.rate(x, TIMESTEPS, programs.observe(x, TIMESTEPS))[-1]
            F.cross_entropy(logits, target).backward()
        found.append((logits.detach(), {key: value.grad for key, value in student.body.named_parameters()}))
    (logits, gradients), (others, finer_gradients) = found
    assert torch.equal(logits, others)
    assert any(gradient is not None and gradient.abs().max() > 1e-9 for gradient in gradients.values())
    torch.testing.assert_close(finer_gradients, gradients, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(finer.body.state_dict(), plain.body.state_dict(), rtol=1e-12, atol=1e-14)


# -- what is refused -----------------------------------------------------------------------------------------

RESNET = "this network has act1, layer1, layer2, layer3, layer4, fc, head"
MOBILENET = "this network has blocks.0, blocks.1, blocks.2, blocks.4, blocks.6, fc, head"
REFUSED = {
    "no module": ("resnet18", "layer9", "no cut is named 'layer9', and no module", RESNET),
    "no name": ("resnet18", "", "no cut is named '', and no module", RESNET),
    "a residual beside it": (
        "resnet18",
        "layer1.0.act1",
        "'layer1.0.act1' cannot be a cut: 2 values cross its end, and one alone may",
        RESNET,
    ),
    "the end of a cut": (
        "resnet18",
        "layer1.1",
        "'layer1.1' cannot be a cut of its own: 'layer1' ends at the same place",
        RESNET,
    ),
    "no neuron since the cut before": (
        "resnet18",
        "maxpool",
        "'maxpool' cannot be a cut: no neuron stands between its end and 'act1'",
        RESNET,
    ),
    "the stem's convolution": (
        "resnet18",
        "conv1",
        "'conv1' cannot be a cut: no neuron stands before its end",
        RESNET,
    ),
    "never called": (
        "mobilenetv2_050",
        "blocks.1.0.drop_path",
        "'blocks.1.0.drop_path' cannot be a cut: nothing is computed in this module",
        MOBILENET,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_path_that_can_be_no_cut_is_refused_with_the_reason_and_the_cuts_there_are(case):
    name, path, reason, there = REFUSED[case]
    with pytest.raises(UsageError) as error:
        partitioned(network(name), img_size=IMAGE, cuts=["layer1", path] if name == "resnet18" else [path])
    assert str(error.value) == f"{reason}; {there}"


class Narrow(nn.Module):
    """A last convolution without an activation: a cut in front of it would leave its stage no neuron."""

    feature_info = ({"module": "one"}, {"module": "two"})

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.three = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Linear(4, 10))

    def forward(self, x):
        return self.fc(self.pool(self.three(self.two(self.one(x)))).flatten(1))


@pytest.mark.parametrize(
    ("cuts", "reason"),
    [
        (["two.1"], "'two.1' cannot be a cut: no neuron stands between its end and 'two'"),
        (["three.1", "three"], "'three' cannot be a cut of its own: 'three.1' ends at the same place"),
        (["pool", "three"], "'pool' cannot be a cut: no neuron stands between its end and 'three'"),
        (["fc.0"], "'fc.0' cannot be a cut: the network ends there"),
    ],
)
def test_a_cut_that_leaves_a_stage_without_a_neuron_is_refused(cuts, reason):
    with pytest.raises(UsageError) as error:
        partitioned(Narrow(), img_size=16, cuts=cuts)
    assert str(error.value) == f"{reason}; this network has one, two, fc, head"


def test_only_the_classifiers_cut_may_follow_a_named_one_without_a_neuron():
    stages = partitioned(Narrow(), img_size=16, cuts=["three"]).stages
    assert [stage.name for stage in stages] == ["one", "two", "three", "fc", "head"]


class Swapped(nn.Module):
    """A sequence whose second dimension counts images behind `turn`."""

    feature_info = ()

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.turn = nn.Conv2d(3, 4, 4, 4), nn.ReLU(), Turn()
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(self.turn(self.act(self.conv(x)).flatten(2)).mean(0))


class Turn(nn.Module):
    """(B, C, N) -> (N, B, C)."""

    def forward(self, x):
        return x.permute(2, 0, 1)


def test_a_cut_at_which_images_are_not_the_rows_is_refused():
    with pytest.raises(UsageError) as error:
        partitioned(Swapped(), img_size=16, cuts=["turn"])
    assert str(error.value) == (
        "'turn' cannot be a cut: what crosses its end is no tensor with a row for each image; this network has fc, head"
    )
