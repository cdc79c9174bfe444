"""Networks are timm's, seeded without a trace, and refuse what they cannot do in plain words."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from ann2snn_distill.errors import BadInputError, UnsupportedModelError, UsageError
from ann2snn_distill.teacher import build_blueprint, build_network, hub, load_network, networks, rebuilt_network
from ann2snn_distill.teacher.classes import classes_metadata
from ann2snn_distill.teacher.normalisation import Normalisation

HALF = (0.5, 0.5, 0.5)


def build(name="test_resnet", *, classes=10, img_size=32, stem="keep", model_kwargs=None, seed=0):
    return build_network(
        name, classes=classes, img_size=img_size, stem=stem, model_kwargs=model_kwargs or {}, seed=seed
    )


def load(name="test_resnet", *, classes=10, img_size=32, **more):
    return load_network(name, classes=classes, img_size=img_size, data_mean=HALF, data_std=HALF, **more)


def test_random_weights_are_those_of_timm_under_the_seed():
    torch.manual_seed(3)
    plain = timm.create_model("test_resnet", num_classes=10)
    ours = build(seed=3)
    assert all(torch.equal(plain.state_dict()[key], value) for key, value in ours.state_dict().items())
    assert not ours.training
    assert next(ours.parameters()).dtype == torch.float32


def test_another_seed_gives_other_weights():
    assert not torch.equal(build(seed=1).fc.weight, build(seed=2).fc.weight)


@pytest.mark.parametrize("stem", ["keep", "small"])
def test_building_leaves_the_global_generator_as_it_was(stem):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    load(stem=stem)
    assert torch.equal(torch.get_rng_state(), before)


class Computed(nn.Module):
    """As timm's regnets before 1.0.31: its constructor computes with the values of tensors."""

    def __init__(self, **_):
        super().__init__()
        width = int(torch.unique(torch.tensor([8, 8])).item())
        self.register_buffer("scales", torch.linspace(0, 1, width))
        self.layer = nn.Linear(3, 10)

    def forward(self, x):
        return self.layer(x.mean((2, 3))) * self.scales.mean()


def test_a_network_whose_constructor_computes_with_values_has_a_blueprint_and_is_rebuilt(monkeypatch):
    monkeypatch.setattr(networks.timm, "create_model", lambda name, **keywords: Computed(**keywords))
    header = {"classes": 10, "img_size": 32, "stem": "keep", "model_kwargs": {}}
    blueprint = build_blueprint("test_resnet", **header)
    assert {tensor.device.type for tensor in blueprint.state_dict().values()} == {"meta"}
    shapes = {name: tuple(tensor.shape) for name, tensor in blueprint.state_dict().items()}
    assert rebuilt_network("test_resnet", **header, shapes=shapes)(torch.ones(1, 3, 32, 32)).shape == (1, 10)


def test_a_constructors_longer_tensors_take_no_memory(monkeypatch):
    class Long(Computed):
        def __init__(self, **_):
            super().__init__()
            assert torch.arange(2**50).is_meta

    monkeypatch.setattr(networks.timm, "create_model", lambda name, **keywords: Long(**keywords))
    with torch.device("meta"):
        assert build().layer.weight.is_meta


def test_a_network_for_one_image_size_is_built_for_the_datas():
    network = build("test_vit", img_size=32, model_kwargs={"patch_size": 4})
    assert network.patch_embed.grid_size == (8, 8)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"nonsense": 1}, "test_resnet takes no keyword 'nonsense'"),
        ({"act_layer": "nope"}, "test_resnet refuses --model-kwargs act_layer"),
        ({"num_classes": 5}, "--model-kwargs cannot set num_classes: the data set sets it"),
        ({"img_size": 5}, "--img-size sets it"),
        (
            {"in_chans": 1},
            "test_resnet takes 1-channel images, and all images here have 3 channels; leave in_chans out",
        ),
        ({"features_only": True}, "the classifier is needed"),
        ({"global_pool": ""}, "choose another --img-size or other --model-kwargs or another model"),
    ],
)
def test_a_refused_keyword_is_a_usage_error(keywords, text):
    with pytest.raises(UsageError) as caught:
        build(model_kwargs=keywords)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_too_small_for_the_network_are_a_usage_error():
    with pytest.raises(UsageError, match=r"inception_v3 cannot take images of 16 px .* another --img-size"):
        build("inception_v3", img_size=16)


def test_an_image_size_that_timm_refuses_is_a_usage_error():
    with pytest.raises(UsageError, match=r"crossvit_tiny_240 cannot|timm cannot build crossvit_tiny_240"):
        build("crossvit_tiny_240", img_size=64)


def test_auto_says_keep_where_no_stem_was_changed():
    assert load("test_vit", model_kwargs={"patch_size": 4}).stem == "keep"
    assert load().stem == "small"
    assert load(stem="keep").stem == "keep"
    assert load(img_size=96, pretrained=False).stem == "keep"


def test_a_random_network_says_so():
    loaded = load()
    assert (loaded.source, loaded.trained, loaded.match) == ("random", False, None)
    assert (loaded.mean, loaded.std) == (HALF, HALF)


def _offline(monkeypatch):
    def fail(*_args, **_keywords):
        raise OSError("no connection.\nand more")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", fail)
    monkeypatch.setattr("ann2snn_distill.teacher.hub.load_model_config_from_hf", fail)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"img_size": 160},
            "timm's weights for test_resnet cannot be had (no connection); give --checkpoint FILE",
        ),
        ({"pretrained": True}, "or train from scratch with --no-pretrained"),
        (
            {"name": "hf-hub:org/net"},
            "hf-hub:org/net cannot be had (no connection); check the name and the connection, or give a timm name "
            "(convert and teach take weights with --checkpoint FILE)",
        ),
        ({"name": "resnet18d.nope"}, "timm knows no weights 'nope'"),
    ],
)
def test_weights_that_cannot_be_had_are_an_error_and_never_random(monkeypatch, arguments, text):
    _offline(monkeypatch)
    with pytest.raises((BadInputError, UsageError)) as caught:
        load(**arguments)
    assert text in str(caught.value)


def test_an_architecture_without_weights_says_that_none_exist():
    with pytest.raises(BadInputError, match="none exist") as caught:
        load("dpn48b", img_size=96)
    assert str(caught.value).startswith("timm's weights for dpn48b cannot be had (none exist); give --checkpoint")
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("classes", [1000, 10])
def test_timms_weights_bring_their_normalisation_and_report_the_classifier(monkeypatch, classes):
    torch.manual_seed(5)
    original = timm.create_model("test_resnet").eval()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_a, **_k: dict(original.state_dict()))
    loaded = load(classes=classes, img_size=160)
    assert loaded.source == f"timm:{original.pretrained_cfg['tag']}"
    assert loaded.mean == tuple(original.pretrained_cfg["mean"])
    assert loaded.trained == (classes == 1000)
    assert loaded.match.rebuilt == (() if classes == 1000 else ("fc.weight", "fc.bias"))
    assert torch.equal(loaded.module.conv1[0].weight, original.conv1[0].weight)
    assert ("classifier rebuilt for 10 classes" in loaded.match.summary()) == (classes == 10)


def test_a_network_without_a_classifier_is_not_supported():
    wanted = r"^test_vit gives \(1, 64\) instead of 0 logits for one image: it has no classifier; choose"
    with pytest.raises(UnsupportedModelError, match=wanted):
        build("test_vit", classes=0)


def test_keywords_that_take_the_pool_in_front_of_the_classifier_are_wrong_usage():
    with pytest.raises(UsageError, match=r"gives \(1, 10, 2, 2\) instead of 10 logits .*; check --model-kwargs"):
        build("test_convnext", img_size=64, model_kwargs={"global_pool": ""})


def test_a_hub_network_has_a_name_and_arguments_that_need_no_hub(monkeypatch):
    answer = ({"input_size": (3, 32, 32)}, "test_resnet", {"stem_width": 8})
    monkeypatch.setattr(hub, "load_model_config_from_hf", lambda repository: answer)
    assert hub.local_form("hf-hub:org/net", {"drop_rate": 0.1}) == (
        "test_resnet",
        {"stem_width": 8, "drop_rate": 0.1},
    )
    assert hub.local_form("resnet18", {"drop_rate": 0.1}) == ("resnet18", {"drop_rate": 0.1})


@pytest.mark.parametrize("img_size", [32, 96])
def test_a_file_says_how_its_images_are_normalised(tmp_path, img_size):
    said = Normalisation(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    path = tmp_path / "teacher.safetensors"
    save_file(load(img_size=img_size, stem="keep", pretrained=False).module.state_dict(), path, said.metadata())
    loaded = load(img_size=img_size, stem="keep", checkpoint=path)
    assert (loaded.mean, loaded.std) == (said.mean, said.std)


@pytest.mark.parametrize("text", ["{}", '{"mean": [0, 0, 0], "std": [1, 1, 0]}', '{"mean": [0], "std": [1]}', "x"])
def test_a_normalisation_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "teacher.safetensors"
    save_file(build().state_dict(), path, {"snn_distill_normalisation": text})
    with pytest.raises(BadInputError, match=r"damaged: its normalisation is none; copy it again"):
        load(checkpoint=path)


def test_a_file_says_which_classes_its_classifier_knows_until_it_is_rebuilt(tmp_path):
    path, names = tmp_path / "teacher.safetensors", tuple(f"kind {number}" for number in range(10))
    save_file(build().state_dict(), path, classes_metadata(names))
    assert load(checkpoint=path).class_names == names
    assert load(checkpoint=path, classes=3).class_names is None
    save_file(build().state_dict(), path)
    assert load(checkpoint=path).class_names is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "its names of classes are none"),
        ("[]", "its names of classes are none"),
        ("[1, 2]", "its names of classes are none"),
        ('["a", "b"]', "it names 2 classes and its classifier has 10"),
    ],
)
def test_names_of_classes_that_are_none_are_refused(tmp_path, text, reason):
    path = tmp_path / "teacher.safetensors"
    save_file(build().state_dict(), path, {"snn_distill_classes": text})
    with pytest.raises(BadInputError, match=rf"damaged: {reason}; copy it again"):
        load(checkpoint=path)


def test_a_loaded_network_does_not_attend_by_the_biases_of_its_random_weights(tmp_path):
    own = load("levit_128s", seed=3, pretrained=False, img_size=64).module
    path = tmp_path / "own.safetensors"
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_file(own.state_dict(), path)
    x = torch.rand(2, 3, 64, 64)
    found = load("levit_128s", img_size=64, checkpoint=path).module
    torch.testing.assert_close(found(x), own.train().eval()(x))


CLAMPED = {"depth": 1, "embed_dim": 32, "num_heads": 2, "head_dim": 16, "intermediate_size": 32}


def test_clamps_at_infinity_become_finite_and_change_nothing(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = timm.create_model("gemma4_vit_167m", num_classes=10, **CLAMPED).eval()
    unlimited = {name for name, value in plain.state_dict().items() if not value.isfinite().all()}
    assert unlimited
    path, x = tmp_path / "teacher.safetensors", torch.randn(2, 3, 96, 96)
    save_file(plain.state_dict(), path)
    for ours in (
        build("gemma4_vit_167m", img_size=96, model_kwargs=CLAMPED),
        load("gemma4_vit_167m", img_size=96, model_kwargs=CLAMPED, checkpoint=path).module,
    ):
        assert all(value.isfinite().all() for value in ours.state_dict().values())
        assert torch.equal(ours(x), plain(x))
