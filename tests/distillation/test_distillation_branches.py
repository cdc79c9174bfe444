"""Branches: the teacher's own features go through to the teacher's logits, and the convoy is separate tails."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from ann2snn_distill.conversion.network import partitioned
from ann2snn_distill.conversion.partition import Stage
from ann2snn_distill.distillation.branches import HybridBranches, Projection, convoy, freeze
from ann2snn_distill.distillation.positions import Position

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
FAMILIES = {
    "test_resnet": ["conv1.2"],
    "resnet18": ["layer1.0", "layer2.0", "layer3.0"],
    "resnetv2_18": [],
    "mobilenetv2_050": ["blocks.1.0", "blocks.3", "bn2"],
    "regnetx_002": [],
    "test_vit": ["blocks.3"],
    "swin_tiny_patch4_window7_224": ["layers.0.blocks.0", "layers.1.blocks.0"],
}
"""Network -> the cuts that are named; the others are its own."""


def every_cut(staged):
    return tuple(Position(stage.name, index, index) for index, stage in enumerate(staged.stages[:-1]))


def random_like(feature, seed):
    return torch.randn(feature.shape, generator=torch.Generator().manual_seed(seed), dtype=feature.dtype)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_identity_projection_of_the_teachers_features_gives_its_logits_at_every_cut(ann, model, batch, name):
    teacher, x = ann(name, cuts=FAMILIES[name]), batch[0]
    assert set(FAMILIES[name]) <= {stage.name for stage in teacher.stages}
    branches = HybridBranches(teacher.stages, teacher, every_cut(teacher)).double()
    for projection in branches.projections:
        weight = projection.map.weight
        weight.copy_(torch.eye(len(weight)).view_as(weight))
        projection.map.bias.zero_()
    logits = branches(teacher.features(x))
    expected = model(name, 0)(x)
    assert list(logits) == [stage.name for stage in teacher.stages[:-1]]
    for found in logits.values():
        torch.testing.assert_close(found, expected, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_convoy_equals_separate_tails(ann, batch, name):
    teacher, x = ann(name, cuts=FAMILIES[name]), batch[0]
    shapes = teacher.features(x)
    features = [random_like(feature, seed) for seed, feature in enumerate(shapes[:-1])]
    entries = list(range(len(features)))
    together = convoy(teacher, features, entries)
    assert len(together) == len(features)
    for entry, feature, logits in zip(entries, features, together, strict=True):
        alone = feature
        for index in range(entry + 1, len(teacher.stages)):
            alone = teacher.run_stage(index, alone)
        torch.testing.assert_close(logits, alone, **CLOSE)
    assert (together[0] - together[1]).abs().max() > 1e-6


def test_convoy_carries_the_gradient_of_each_branch_alone(ann, batch):
    teacher, x = freeze(ann("test_resnet")), batch[0]
    with torch.no_grad():
        given = teacher.features(x)
    features = [random_like(given[index], index).requires_grad_() for index in (1, 2, 4)]
    logits = convoy(teacher, features, [1, 2, 4])
    found = torch.autograd.grad(logits[1].square().sum(), features)
    alone = features[1]
    for index in range(3, len(teacher.stages)):
        alone = teacher.run_stage(index, alone)
    (wanted,) = torch.autograd.grad(alone.square().sum(), features[1])
    assert wanted.abs().max() > 0
    torch.testing.assert_close(found[1], wanted, **CLOSE)
    assert not found[0].any()
    assert not found[2].any()


def test_two_branches_may_enter_at_one_cut_and_later_ones_may_be_named_first(ann, batch):
    teacher = ann("test_resnet")
    places = [Position("late", 3, 3), Position("early", 1, 1), Position("twin", 1, 1)]
    branches = HybridBranches(teacher.stages, teacher, places).double()
    assert [place.name for place in branches.positions] == ["early", "twin", "late"]
    with torch.no_grad():
        outputs = teacher.features(batch[0])
        logits = branches(outputs)
        for place, projection in zip(branches.positions, branches.projections, strict=True):
            alone = projection(outputs[place.student])
            for index in range(place.teacher + 1, len(teacher.stages)):
                alone = teacher.run_stage(index, alone)
            torch.testing.assert_close(logits[place.name], alone, **CLOSE)


def test_no_branch_costs_nothing(ann, batch):
    teacher = ann("test_resnet")
    branches = HybridBranches(teacher.stages, teacher, ())
    assert branches(teacher.features(batch[0])) == {}
    assert not list(branches.parameters())


def test_the_teacher_is_frozen_and_no_part_of_what_is_trained(ann):
    teacher = ann("test_resnet").train().requires_grad_()
    branches = HybridBranches(teacher.stages, teacher, every_cut(teacher))
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    branches.train()
    assert not any(module.training for module in branches.teacher.modules())
    own = {id(parameter) for parameter in branches.parameters()}
    assert own
    assert not own & {id(parameter) for parameter in teacher.parameters()}


def test_stages_know_the_shapes_of_the_features(ann, batch):
    teacher = ann("mobilenetv2_050")
    assert [stage.shape for stage in teacher.stages] == [tuple(x.shape[1:]) for x in teacher.features(batch[0])]


def stage(*shape, channels_last=False, reduction=1, name="cut"):
    return Stage(name, (), None, None, shape, channels_last, reduction, False)


def test_a_projection_maps_every_pixel_alone_and_then_resizes():
    projection = Projection(stage(3, 4, 4), stage(5, 8, 8)).double()
    rate = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    weight, bias = projection.map.weight[:, :, 0, 0], projection.map.bias
    pixels = torch.einsum("oc,bchw->bohw", weight, rate) + bias[:, None, None]
    expected = F.interpolate(pixels, size=(8, 8), mode="bilinear")
    torch.testing.assert_close(projection(rate), expected, **CLOSE)
    same = Projection(stage(3, 4, 4), stage(5, 4, 4)).double()
    same.load_state_dict(projection.state_dict())
    torch.testing.assert_close(same(rate), pixels, **CLOSE)
    from_last = Projection(stage(4, 4, 3, channels_last=True), stage(5, 8, 8)).double()
    from_last.load_state_dict(projection.state_dict())
    torch.testing.assert_close(from_last(rate.permute(0, 2, 3, 1)), expected, **CLOSE)
    to_last = Projection(stage(3, 4, 4), stage(8, 8, 5, channels_last=True)).double()
    to_last.load_state_dict(projection.state_dict())
    torch.testing.assert_close(to_last(rate).permute(0, 3, 1, 2), expected, **CLOSE)


def test_a_projection_of_features_without_sides_is_linear():
    projection = Projection(*(stage(size, channels_last=True, reduction=None) for size in (6, 4)))
    assert isinstance(projection.map, nn.Linear)
    assert projection(torch.rand(2, 6)).shape == (2, 4)


def test_features_with_channels_last_are_known_as_such():
    with torch.device("meta"):
        swin = timm.create_model("swin_tiny_patch4_window7_224")
    stages = partitioned(swin, img_size=224).stages[:4]
    assert [(part.channels, part.reduction, part.channels_last) for part in stages] == [
        (96, 4, True), (192, 8, True), (384, 16, True), (768, 32, True),
    ]  # fmt: skip
