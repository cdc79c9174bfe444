"""Fitted projections: the ridge regression of the teacher's features on the student's rates, and nothing else moved."""

import pytest
import torch
from torch import nn

from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.distillation.fitting import RIDGE, fit_projections
from ann2snn_distill.distillation.positions import choose_positions

T, CLOSE = 3, {"rtol": 1e-7, "atol": 1e-8}


def fitted(student, teacher, batches, wanted="auto", *, same_network=True):
    positions = choose_positions(student.stages, teacher.stages, wanted, same_network=same_network)
    branches = HybridBranches(student.stages, teacher, positions).double()
    fit_projections(student, branches, batches, T)
    return branches


def rows(feature):
    """(B, C, H, W) or (B, ..., C) as (N, C)."""
    return feature.movedim(1, -1).flatten(0, -2) if feature.ndim == 4 else feature.flatten(0, -2)


def normal_equations(x_NC, y_NC):
    """Weight and bias of the ridge regression, by appended rows: sqrt(N * penalty) times the identity."""
    x, y = x_NC - x_NC.mean(0), y_NC - y_NC.mean(0)
    penalty = RIDGE * x.square().mean(0).mean()
    damping = (len(x) * penalty).sqrt() * torch.eye(x.shape[1], dtype=x.dtype)
    damped = torch.cat([x, damping]), torch.cat([y, y.new_zeros(x.shape[1], y.shape[1])])
    weight = torch.linalg.lstsq(*damped).solution.T
    return weight, y_NC.mean(0) - weight @ x_NC.mean(0)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_fitted_projection_is_the_ridge_regression_of_all_batches(ann, snn, batch, name):
    teacher, student, x = ann(name), snn(name), batch[0]
    branches = fitted(student, teacher, [x])
    outputs, features = student.in_training.mean_features(x, T), teacher.features(x)
    assert branches.positions
    for place, projection in zip(branches.positions, branches.projections, strict=True):
        weight, bias = normal_equations(rows(outputs[place.student]), rows(features[place.teacher]))
        torch.testing.assert_close(projection.map.weight.flatten(1), weight, **CLOSE)
        torch.testing.assert_close(projection.map.bias, bias, **CLOSE)


def test_batches_count_together(ann, snn, batch):
    """With running statistics that no batch moves, halves of a batch give what the whole gives."""
    teacher, x = ann("test_vit"), batch[0]
    whole, halves = (fitted(snn("test_vit"), teacher, parts) for parts in ([x], list(x.split(1))))
    for ours, theirs in zip(halves.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_the_feature_of_another_architecture_is_fitted(ann, snn, batch):
    teacher, student, x = ann("test_resnet"), snn("mobilenetv2_050"), batch[0]
    branches = fitted(student, teacher, [x], same_network=False)
    outputs, features = student.in_training.mean_features(x, T), teacher.features(x)
    for place, projected, projection in zip(
        branches.positions, branches.project(outputs), branches.projections, strict=True
    ):
        feature = features[place.teacher]
        error = (projected - feature).square().mean()
        centred = feature - rows(feature).mean(0)[:, None, None]
        assert error < centred.square().mean()
        with torch.no_grad():
            projection.map.weight.mul_(1.2)
        assert (projection(outputs[place.student]) - feature).square().mean() > error


def test_fitting_moves_nothing_but_the_projections(ann, snn, batch):
    teacher, student = ann("test_resnet"), snn("test_resnet")
    before = {name: value.clone() for name, value in student.body.state_dict().items()}
    fitted(student, teacher, [batch[0]])
    for name, value in student.body.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_silent_student_gets_the_mean_of_the_feature(ann, snn, batch):
    teacher, student = ann("test_resnet"), snn("test_resnet", threshold=1e6)
    branches = fitted(student, teacher, [batch[0]], "layer1")
    (projection,) = branches.projections
    assert isinstance(projection.map, nn.Conv2d)
    feature = teacher.features(batch[0])[branches.positions[0].teacher]
    assert not projection.map.weight.any()
    torch.testing.assert_close(projection.map.bias, rows(feature).mean(0), **CLOSE)
