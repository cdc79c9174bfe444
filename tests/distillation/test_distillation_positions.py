"""Where branches leave the student and enter the teacher: by default, by name, and between different networks."""

import pytest
import torch
from torch import nn

from ann2snn_distill.conversion.network import StagedAnn, partitioned
from ann2snn_distill.conversion.partition import Stage
from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.distillation.positions import choose_positions, named_cuts
from ann2snn_distill.errors import UnsupportedModelError, UsageError


def stage(*shape, channels_last=False, reduction=1, name="cut"):
    return Stage(name, (), None, None, shape, channels_last, reduction, False)


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


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("none,layer1", "--branches none,layer1: none stands alone; give none, or the names without it"),
        ("layer1, auto", "--branches layer1, auto: auto stands alone; give auto, or the names without it"),
        ("layer1,", "--branches 'layer1,' has an empty name; separate names by one comma each"),
        ("layer1,layer2,layer1", "--branches names layer1 twice; give it once"),
    ],
)
def test_names_that_cannot_stand_together_are_refused(ann, wanted, text):
    stages = ann("test_resnet").stages
    with pytest.raises(UsageError) as error:
        choose_positions(stages, stages, wanted, same_network=True)
    assert str(error.value) == text


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
    with pytest.raises(UsageError, match="no cut of 17 tokens to match the student's 'blocks"):
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


def test_auto_takes_the_cuts_with_a_counterpart_and_refuses_where_there_is_none():
    student = stages_of(a=1, b=2, c=4, head=None)
    places = choose_positions(student, stages_of(one=2, two=8, head=None), "auto", same_network=False)
    assert [(place.name, place.teacher) for place in places] == [("b", 0)]
    with pytest.raises(UsageError, match="no cut of reduction 1 to match the student's 'a'"):
        choose_positions(student, stages_of(one=8, two=16, head=None), "auto", same_network=False)


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
    with pytest.raises(UsageError, match="no cut in front of its last layer to match the student's 'fc'"):
        choose_positions(ann("test_resnet").stages, bare, "fc", same_network=False)


@pytest.mark.parametrize("full", [False, True], ids=["activations", "full"])
def test_cuts_of_one_network_match_by_name_where_only_one_side_has_neurons_in_every_stage(model, full):
    """Full coverage puts neurons into stages that have none, as EvoNorm's are no activations."""
    module = model("test_efficientnet_evos", 0)
    student = partitioned(module, img_size=64, full_coverage=full).stages
    teacher = partitioned(module, img_size=64, spiking=False)
    places = choose_positions(student, teacher.stages, "auto", same_network=True)
    assert places
    assert [student[place.student].name for place in places] == [teacher.stages[place.teacher].name for place in places]
    assert HybridBranches(student, StagedAnn(teacher), places).positions == places


def test_a_teacher_needs_no_neuron(model):
    module = model("resnetv2_50d_frn", 0)
    with pytest.raises(UnsupportedModelError, match="no activation that could become a neuron; give --coverage full"):
        partitioned(module, img_size=64)
    student = partitioned(module, img_size=64, full_coverage=True).stages
    teacher = partitioned(module, img_size=64, spiking=False).stages
    assert [stage.name for stage in teacher] == [stage.name for stage in student]
