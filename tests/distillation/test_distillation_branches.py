"""Branches: the teacher's own features go through to the teacher's logits, and the convoy is separate tails."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from ann2snn_distill.conversion.network import partitioned
from ann2snn_distill.conversion.partition import Stage
from ann2snn_distill.distillation.branches import (
    HybridBranches,
    Position,
    Projection,
    choose_positions,
    convoy,
    freeze,
    named_cuts,
)
from ann2snn_distill.errors import UsageError

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


# -- where branches leave ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_resnet", ["layer1", "layer2", "layer3"]),
        ("resnet18", ["layer1", "layer2", "layer3"]),
        ("regnetx_002", ["s1", "s2", "s3"]),
        ("resnetv2_18", ["stages.0", "stages.1", "stages.2"]),
    ],
)
def test_default_branches_leave_the_stem_and_the_last_feature_out(ann, name, expected):
    stages = ann(name).stages
    places = choose_positions(stages, stages, "auto", same_network=True)
    assert [place.name for place in places] == expected
    assert all(place.student == place.teacher for place in places)
    assert [stages[place.student].name for place in places] == expected


def test_named_branches_are_resolved(ann):
    stages = ann("test_resnet").stages
    names = [stage.name for stage in stages]
    places = choose_positions(stages, stages, "layer2, head,fc", same_network=True)
    assert [(place.name, names[place.student]) for place in places] == [
        ("layer2", "layer2"),
        ("head", "layer4"),
        ("fc", "fc"),
    ]
    assert choose_positions(stages, stages, "none", same_network=True) == ()


def test_cuts_to_be_made_are_those_that_are_named_and_no_words():
    assert named_cuts("layer2.0, head,fc,layer1") == ("layer2.0", "layer1")
    assert named_cuts("auto") == named_cuts("none") == ()


def test_branches_at_named_cuts_come_early_to_late_and_the_words_keep_their_meaning(ann, snn, batch):
    wanted = "head,bn2,blocks.2,blocks.1.0"
    student, teacher = (make("mobilenetv2_050", cuts=named_cuts(wanted)) for make in (snn, ann))
    places = choose_positions(student.stages, teacher.stages, wanted, same_network=True)
    assert [(place.name, student.stages[place.student].name) for place in places] == [
        ("blocks.1.0", "blocks.1.0"), ("blocks.2", "blocks.2"), ("head", "blocks.6"), ("bn2", "bn2"),
    ]  # fmt: skip
    assert all(place.teacher == place.student for place in places)
    own = ann("mobilenetv2_050").stages
    found = choose_positions(student.stages, teacher.stages, "auto", same_network=True)
    assert [place.name for place in found] == [p.name for p in choose_positions(own, own, "auto", same_network=True)]
    branches = HybridBranches(student.stages, teacher, places).double()
    with torch.no_grad():
        logits = branches(student.in_inference.mean_features(batch[0], 2))
    assert {name: tuple(found.shape) for name, found in logits.items()} == dict.fromkeys(
        ["blocks.1.0", "blocks.2", "head", "bn2"], (4, 10)
    )


def test_a_named_cut_of_another_network_matches_by_depth_among_the_teachers_own(ann, snn):
    wanted = "layer3,layer3.0,layer1.0"
    student, teacher = snn("resnet18", cuts=named_cuts(wanted)).stages, ann("mobilenetv2_050").stages
    places = choose_positions(student, teacher, wanted, same_network=False)
    assert [(place.name, teacher[place.teacher].name) for place in places] == [
        ("layer1.0", "blocks.1"), ("layer3.0", "blocks.4"), ("layer3", "blocks.4"),
    ]  # fmt: skip
    assert [place.name for place in places] == [student[place.student].name for place in places]


def test_an_unknown_cut_is_refused_with_the_known_ones(ann):
    stages = ann("test_resnet").stages
    with pytest.raises(UsageError) as error:
        choose_positions(stages, stages, "layer1,layer9", same_network=True)
    assert str(error.value) == (
        "no cut is named 'layer9'; this student has act1, layer1, layer2, layer3, layer4, fc, head"
    )


def test_different_networks_are_matched_by_reduction(ann, snn, batch):
    student, teacher = snn("resnetv2_18"), ann("mobilenetv2_050", 2)
    places = choose_positions(student.stages, teacher.stages, "auto", same_network=False)
    assert [place.name for place in places] == ["stages.0", "stages.1", "stages.2"]
    sides = [(student.stages[place.student].reduction, teacher.stages[place.teacher].reduction) for place in places]
    assert sides == [(4, 4), (8, 8), (16, 16)]
    assert [teacher.stages[place.teacher].name for place in places] == ["blocks.1", "blocks.2", "blocks.4"]

    branches = HybridBranches(student.stages, teacher, places).double()
    with torch.no_grad():
        outputs = student.in_inference.mean_features(batch[0], 2)
        projected = branches.project(outputs)
        assert [tuple(x.shape[1:]) for x in projected] == [teacher.stages[place.teacher].shape for place in places]
        assert {name: tuple(found.shape) for name, found in branches(outputs).items()} == dict.fromkeys(
            [place.name for place in places], (4, 10)
        )


def stages_of(**reductions):
    return tuple(stage(4, 8, 8, name=name, reduction=reduction) for name, reduction in reductions.items())


def blocks_of(count, *, tokens=17, channels=4):
    blocks = [
        stage(tokens, channels, channels_last=True, reduction=None, name=f"blocks.{index}") for index in range(count)
    ]
    return (*blocks, stage(10, channels_last=True, reduction=None, name="head"))


@pytest.mark.parametrize(
    ("count", "expected"), [(4, [0, 1, 2]), (6, [0, 2, 3]), (12, [2, 5, 8]), (24, [5, 11, 17]), (32, [7, 15, 23])]
)
def test_of_many_features_of_one_shape_those_at_quarters_of_the_depth_guide(count, expected):
    blocks = blocks_of(count)
    places = choose_positions(blocks, blocks, "auto", same_network=True)
    assert [place.name for place in places] == [f"blocks.{index}" for index in expected]


def test_blocks_of_different_transformers_match_by_depth():
    places = choose_positions(blocks_of(12), blocks_of(24, channels=8), "auto", same_network=False)
    assert [place.teacher for place in places] == [5, 11, 17]
    with pytest.raises(UsageError, match="no cut of reduction None"):
        choose_positions(blocks_of(12), blocks_of(24, tokens=65), "auto", same_network=False)


def test_of_several_cuts_of_one_reduction_the_deepest_matches():
    student = stages_of(a=1, b=2, head=None)
    teacher = stages_of(stem=1, one=1, two=2, three=2, fc=None, head=None)
    places = choose_positions(student, teacher, "a,b", same_network=False)
    assert [teacher[place.teacher].name for place in places] == ["one", "three"]


def test_the_classifier_cuts_of_different_networks_match(ann, snn):
    student, teacher = snn("test_resnet").stages, ann("regnetx_002").stages
    (place,) = choose_positions(student, teacher, "fc", same_network=False)
    assert teacher[place.teacher].name == "fc"


def test_a_cut_without_a_counterpart_is_refused(ann):
    student, teacher = ann("test_resnet").stages, ann("resnetv2_18").stages
    lost = next(stage for stage in student if stage.reduction == 2)
    with pytest.raises(UsageError) as error:
        choose_positions(student, teacher, lost.name, same_network=False)
    assert str(error.value) == (
        f"the teacher has no cut of reduction 2 to match the student's '{lost.name}'; "
        "name other --branches, or give --branches none"
    )


def test_a_teacher_without_a_classifier_cut_is_refused(ann, model):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 10, 4, 4), nn.ReLU()

        def forward(self, x):
            return self.act(self.conv(x)).mean((2, 3))

    bare = partitioned(Bare(), img_size=32).stages
    assert [stage.name for stage in bare] == ["head"]
    with pytest.raises(UsageError, match="no cut of reduction None to match the student's 'fc'"):
        choose_positions(ann("test_resnet").stages, bare, "fc", same_network=False)
