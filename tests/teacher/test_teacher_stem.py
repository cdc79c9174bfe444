"""The small stem has no stride before the first stage, and everything after it is the original network."""

import pytest
import timm
import torch
from torch import nn

from ann2snn_distill.teacher import build_network, small_stem

# path -> stride, kernel of the stem's convolutions; what became of pooling
EXPECTED = {
    "resnet18": {"conv1": "3x3, stride 1", "maxpool": "pooling removed"},
    "resnet18d": {"conv1.0": "stride 1", "maxpool": "pooling removed"},
    "resnetv2_18": {"stem.conv": "3x3, stride 1", "stem.pool": "pooling removed"},
    "regnetx_002": {"stem.conv": "stride 1"},
    "mobilenetv2_100": {"conv_stem": "stride 1"},
    "tf_efficientnet_lite0": {"conv_stem": "stride 1"},
    "densenet121": {"features.conv0": "3x3, stride 1", "features.pool0": "pooling removed"},
    "res2net50_14w_8s": {"conv1": "3x3, stride 1", "maxpool": "pooling removed"},
    "test_resnet": {"conv1.0": "stride 1", "maxpool": "pooling removed"},
    "efficientnet_b0": {"conv_stem": "stride 1"},
    "convnext_atto": {"stem.0": "3x3, stride 1"},
    "dla46x_c": {},
    "test_vit": {},
    "pvt_v2_b0": {},
    "hrnet_w18_small": {},
}


def _fresh(name, **keywords):
    torch.manual_seed(0)
    if timm.models.get_pretrained_cfg(name).fixed_input_size:
        keywords["img_size"] = 32
    return timm.create_model(name, num_classes=10, **keywords).eval()


def _sides(network, size):
    """The side of each of timm's stages, read by hooks and not by the code under test."""
    sides = {}
    handles = [
        network.get_submodule(entry["module"]).register_forward_hook(
            lambda _m, _a, out, path=entry["module"]: sides.update({path: out.shape[-1]})
        )
        for entry in network.feature_info
    ]
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    for handle in handles:
        handle.remove()
    return sides


@pytest.mark.parametrize("name", EXPECTED)
def test_the_stem_loses_its_strides_and_nothing_else_changes(name):
    network = _fresh(name)
    changes = small_stem(network, img_size=32)
    assert {change.path: change.change for change in changes} == EXPECTED[name]
    after = network.state_dict()
    for key, tensor in _fresh(name).state_dict().items():
        if tensor.shape == after[key].shape:
            assert torch.equal(tensor, after[key]), key
        else:
            assert after[key].shape == (*tensor.shape[:2], 3, 3)


def test_vgg_has_no_stem_to_change():
    with torch.device("meta"):
        network = timm.create_model("vgg11_bn", num_classes=10)
    network = network.to_empty(device="cpu")
    assert small_stem(network, img_size=32) == ()
    assert isinstance(network.features[3], nn.MaxPool2d)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("resnet18", "layer1"),
        ("resnet18d", "layer1"),
        ("resnetv2_18", "stages.0"),
        ("regnetx_002", "s1"),
        ("mobilenetv2_100", "blocks.0"),
        ("densenet121", "features.denseblock1"),
        ("res2net50_14w_8s", "layer1"),
        ("test_resnet", "layer1"),
        ("efficientnet_b0", "blocks.0"),
        ("convnext_atto", "stages.0"),
    ],
)
def test_every_stage_has_timms_reduction_divided_by_that_of_the_stem(name, first):
    network = _fresh(name)
    modules = [entry["module"] for entry in network.feature_info]
    reductions = {entry["module"]: entry["reduction"] for entry in network.feature_info}
    stem_stride = 128 // _input_side(network, first, 128)
    small_stem(network, img_size=64)
    sides = _sides(network, 64)
    for module in modules[modules.index(first) :]:
        assert sides[module] == 64 * stem_stride // reductions[module]
    assert _input_side(network, first, 64) == 64


def _input_side(network, path, size):
    """The side of what enters a module."""
    seen = []
    handle = network.get_submodule(path).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    handle.remove()
    entered = seen[0][0] if isinstance(seen[0], list) else seen[0]
    return entered.shape[-1]


def test_a_larger_kernel_keeps_its_centre():
    network = _fresh("resnet18")
    kernel = network.conv1.weight.detach().clone()
    small_stem(network, img_size=32)
    assert torch.equal(network.conv1.weight, kernel[:, :, 2:5, 2:5])
    assert isinstance(network.conv1.weight, nn.Parameter)


def test_padding_that_serves_the_removed_pool_goes_with_it():
    network = _fresh("resnetv2_50", stem_type="fixed")
    assert network.stem.pad.padding == (1, 1, 1, 1)
    small_stem(network, img_size=32)
    assert _input_side(network, "stages.0", 32) == 32


def test_finding_the_stem_leaves_no_hooks_and_keeps_the_mode():
    network = _fresh("test_resnet").train()
    network.layer1.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    small_stem(network, img_size=32)
    assert network.training
    assert not network.layer1.training
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_network_without_feature_info_stays_as_it_is():
    network = nn.Sequential(nn.Conv2d(3, 4, 7, stride=2), nn.Flatten())
    assert small_stem(network, img_size=32) == ()
    assert network[0].stride == (2, 2)


def test_the_structure_is_the_same_every_time():
    built = [build_network("test_resnet", classes=10, img_size=32, stem="small", model_kwargs={}) for _ in range(2)]
    assert str(built[0]) == str(built[1])
    assert [*built[0].state_dict()] == [*built[1].state_dict()]


def test_a_cropped_standardised_convolution_is_scaled_for_its_new_fan_in():
    network = _fresh("nf_resnet50")
    gamma = network.stem.conv.scale * (3 * 7 * 7) ** 0.5
    small_stem(network, img_size=32)
    assert network.stem.conv.weight.shape[2:] == (3, 3)
    assert network.stem.conv.scale == pytest.approx(gamma / (3 * 3 * 3) ** 0.5)
