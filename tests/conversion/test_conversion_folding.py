"""A folded copy computes what the ANN does, in fewer passes, and leaves the ANN as it was."""

import pytest
import torch
from small_networks import SMALL, images, network
from torch import nn

from ann2snn_distill.conversion.folding import folded
from ann2snn_distill.conversion.network import StagedAnn, partitioned


@pytest.mark.parametrize("name", ["test_resnet", "densenet121", "mobilenetv2_035"])
def test_a_folded_copy_has_the_features_of_the_ann_at_every_cut(name):
    base = partitioned(network(name, SMALL.get(name)), img_size=32)
    ann, x = StagedAnn(base).eval(), images()
    before = {key: value.clone() for key, value in ann.state_dict().items()}
    copy = folded(base, dtype=torch.float64)
    for found, wanted in zip(copy.features(x), ann.features(x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(value, before[key]) for key, value in ann.state_dict().items())
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in each.modules()) for each in (copy.body, ann.body)]
    assert norms[0] < norms[1]
    assert not any(parameter.requires_grad for parameter in copy.parameters())


def test_a_norm_behind_a_cut_is_not_folded_into_the_convolution_in_front_of_it():
    base = partitioned(network("vgg13_bn", {"mlp_ratio": 1 / 64}), img_size=32, cuts=["features.3"])
    copy, ann, x = folded(base, dtype=torch.float64), StagedAnn(base).eval(), images()
    for found, wanted in zip(copy.features(x), ann.features(x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert isinstance(copy.body.get_submodule("features.4"), nn.BatchNorm2d)
    assert isinstance(copy.body.get_submodule("features.1"), nn.Identity)


def test_what_a_forward_keeps_is_not_traced_into_the_copy():
    base = partitioned(network("tiny_vit_5m_224", {}), img_size=32)
    copy = folded(base, dtype=torch.float64)
    torch.testing.assert_close(copy.features(images())[-1], StagedAnn(base).eval().features(images())[-1])
