"""A network cut into stages is the network, bit for bit, and its cuts are timm's features."""

import pytest
import timm
import torch
from small_networks import IMAGE, NETWORKS, images, network
from timm.layers import Conv2dSame
from torch import nn

from ann2snn_distill.conversion.canonical import average_pooled
from ann2snn_distill.conversion.network import StagedAnn, partitioned
from ann2snn_distill.conversion.rules import Role

# timm's names of the cuts in front of which forward_intermediates hands its features out, deepest last.
INTERMEDIATE_CUTS = {
    "test_resnet": ["act1", "layer1", "layer2", "layer3", "layer4"],
    "resnet18": ["act1", "layer1", "layer2", "layer3", "layer4"],
    "resnet26": ["act1", "layer1", "layer2", "layer3", "layer4"],
    "resnetv2_18": [None, "stages.0", "stages.1", "stages.2", "stages.3"],
    "resnetv2_50": [None, "stages.0", "stages.1", "stages.2", "stages.3"],
    "vgg11_bn": ["features.2", "features.6", "features.13", "features.20", "features.27", None],
    "mobilenetv2_050": ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"],
    "densenet121": [
        "features.norm0",
        "features.denseblock1",
        "features.denseblock2",
        "features.denseblock3",
        "features.norm5",
    ],
    "regnetx_002": ["stem", "s1", "s2", "s3", "s4"],
    "res2net50_14w_8s": ["act1", "layer1", "layer2", "layer3", "layer4"],
}


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request):
    """Name, timm model and its staged form."""
    model = network(request.param, dtype=torch.float32)
    return request.param, model, StagedAnn(partitioned(model, img_size=IMAGE)).eval()


@torch.no_grad()
def test_chained_stages_equal_the_model_bit_for_bit(pair):
    _, model, staged = pair
    x = images(2, dtype=torch.float32)
    expected = model(x)
    assert expected.std() > 1e-4
    assert torch.equal(staged(x), expected)
    assert torch.equal(staged.features(x)[-1], expected)


@torch.no_grad()
def test_cut_features_equal_forward_intermediates(pair):
    name, model, staged = pair
    x = images(2, dtype=torch.float32)
    features = dict(zip([stage.name for stage in staged.stages], staged.features(x), strict=True))
    expected = model.forward_intermediates(x, intermediates_only=True)
    wanted = INTERMEDIATE_CUTS[name]
    assert len(expected) == len(wanted)
    assert [cut for cut in features if cut not in ("fc", "head")] == [cut for cut in wanted if cut is not None]
    for cut, feature in zip(wanted, expected, strict=True):
        assert cut is None or torch.equal(features[cut], feature)


@torch.no_grad()
def test_stages_know_the_shape_of_their_outputs(pair):
    _, _, staged = pair
    for stage, feature in zip(staged.stages, staged.features(images(2, dtype=torch.float32)), strict=True):
        assert stage.channels == feature.shape[1]
        assert stage.reduction == (IMAGE // feature.shape[-1] if feature.ndim == 4 else None)


def test_only_the_stem_cut_says_so(pair):
    name, _, staged = pair
    marked = [stage.name for stage in staged.stages if stage.after_stem]
    expected = {
        "resnetv2_18": [],
        "resnetv2_50": [],
        "mobilenetv2_050": [],
        "vgg11_bn": ["features.2"],
        "densenet121": ["features.norm0"],
        "regnetx_002": ["stem"],
    }
    assert marked == expected.get(name, ["act1"])


def test_every_parameter_keeps_its_name(pair):
    _, model, staged = pair
    assert [name for name, _ in staged.body.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert list(staged.body.state_dict()) == list(model.state_dict())


def test_every_call_of_an_activation_becomes_a_neuron_of_its_own():
    """res2net calls most of its ReLUs several times; an oracle counts the calls by hooks."""
    model = network("res2net50_14w_8s", dtype=torch.float32)
    calls = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda *_, path=path: calls.update({path: calls.get(path, 0) + 1}))
    with torch.no_grad():
        model(images(1, dtype=torch.float32))
    counted = dict(calls)  # the copy that is traced carries the hooks, too
    sites = partitioned(model, img_size=IMAGE).sites
    names = sites.neuron_names()
    found = {}
    for node, role in sites.roles.items():
        if role is Role.NEURON:
            path = sites.trace.paths[node]
            found[path] = found.get(path, 0) + 1
    assert max(counted.values()) > 1
    assert found == counted
    assert len(set(names)) == len(names) == sum(counted.values()) == 145


@torch.no_grad()
def test_modules_that_timm_closes_to_tracing_stay_whole():
    """Conv2dSame pads by its input's size, which a trace would freeze or refuse."""
    model = network("mobilenetv2_035", {"pad_type": "same"}, dtype=torch.float32)
    closed = [path for path, module in model.named_modules() if isinstance(module, Conv2dSame)]
    cut = partitioned(model, img_size=IMAGE)
    synapses = {cut.sites.trace.paths[node] for node, role in cut.sites.roles.items() if role is Role.SYNAPSE}
    assert len(closed) > 3
    assert set(closed) <= synapses
    x = torch.randn(2, 3, 45, 45, generator=torch.Generator().manual_seed(0))
    assert torch.equal(StagedAnn(cut).eval()(x), model(x))


class Tangled(nn.Module):
    """Two tensors cross every cut but the last."""

    feature_info = ({"module": "a"}, {"module": "b"}, {"module": "c"})

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(3))
        self.fc = nn.Linear(3, 10)

    def forward(self, x):
        a = self.a(x)
        b = self.b(a)
        return self.fc((self.c(b + a) * 2 + 0 * x).mean((2, 3)))


def test_a_cut_that_two_tensors_cross_is_left_out():
    model = Tangled().eval()
    staged = StagedAnn(partitioned(model, img_size=IMAGE))
    assert [stage.name for stage in staged.stages] == ["fc", "head"]
    x = images(2, dtype=torch.float32)
    assert torch.equal(staged(x), model(x))


@torch.no_grad()
@pytest.mark.parametrize("side", [32, 224])
def test_vggs_closed_head_is_opened_and_equal(side):
    model = network("vgg11_bn", dtype=torch.float32)
    cut = partitioned(model, img_size=side)
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert torch.equal(StagedAnn(cut).eval()(x), model(x))
    neurons = {cut.sites.trace.paths[node] for node, role in cut.sites.roles.items() if role is Role.NEURON}
    assert {"pre_logits.act1", "pre_logits.act2"} <= neurons


@pytest.mark.parametrize("name", ["densenet121", "regnetx_002", "mobilenetv2_050", "resnetv2_18"])
def test_a_norm_that_hides_an_activation_becomes_two_call_sites(name):
    model = network(name, dtype=torch.float32)
    hidden = [
        path
        for path, module in model.named_modules()
        if type(module).__name__ == "BatchNormAct2d" and not isinstance(module.act, nn.Identity)
    ]
    sites = partitioned(model, img_size=IMAGE).sites
    norms = {sites.trace.paths[node] for node, role in sites.roles.items() if role is Role.NORM}
    neurons = {sites.trace.paths[node] for node, role in sites.roles.items() if role is Role.NEURON}
    assert len(hidden) > 10
    assert set(hidden) <= norms
    assert {f"{path}.act" for path in hidden} <= neurons


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("test_resnet", {"drop_rate": 0.5, "drop_path_rate": 0.3}),
        ("vgg11_bn", {"mlp_ratio": 1 / 64, "drop_rate": 0.5}),
        ("mobilenetv2_035", {"drop_rate": 0.5, "drop_path_rate": 0.3}),
        ("densenet121", {"block_config": (2, 2), "drop_rate": 0.5, "proj_drop_rate": 0.2}),
        ("regnetx_002", {"drop_rate": 0.5, "drop_path_rate": 0.3}),
    ],
)
def test_dropout_and_drop_path_are_gone_even_in_training(name, keywords):
    model = network(name, keywords, dtype=torch.float32)
    staged = StagedAnn(partitioned(model, img_size=IMAGE))
    x = images(2, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(staged.eval()(x), model(x))
        for module in staged.train().modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        assert torch.equal(staged(x), model(x))


def test_the_given_model_is_never_changed():
    model = timm.create_model("test_resnet", num_classes=10).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    staged = StagedAnn(partitioned(model, img_size=IMAGE))
    with torch.no_grad():
        for parameter in staged.parameters():
            parameter.zero_()
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("prepared", [lambda model: model, average_pooled], ids=["as it is", "with averages"])
def test_a_network_that_keeps_what_a_forward_with_gradients_computed_is_copied_without_it(prepared):
    model = timm.create_model("efficientvit_m0", num_classes=10, img_size=64).eval()
    expected = model(torch.ones(1, 3, 64, 64))
    kept = [module.attention_bias_cache for module in model.modules() if hasattr(module, "attention_bias_cache")]
    cut = partitioned(prepared(model), img_size=64)
    assert torch.equal(StagedAnn(cut).eval()(torch.ones(1, 3, 64, 64)), expected)
    assert all(kept)
    assert not any(getattr(module, "attention_bias_cache", {}) for module in cut.body.modules())
