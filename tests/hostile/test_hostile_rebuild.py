"""A header cannot make this program fetch, or build what its file does not hold."""

import json
import time

import pytest
import torch

from ann2snn_distill.errors import BadInputError, UsageError
from ann2snn_distill.teacher import build_network, check_rebuild, rebuild, rebuilt_network
from ann2snn_distill.teacher.networks import fit_to_images

SMALL = {"channels": [8, 8, 8, 8], "stem_width": 4}
HEADER = {"classes": 10, "img_size": 16, "stem": "small", "model_kwargs": SMALL}


@pytest.fixture(scope="module")
def shapes():
    network = build_network("test_resnet", **HEADER)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def refusal(shapes, name="test_resnet", **changes):
    started = time.monotonic()
    with pytest.raises((BadInputError, UsageError)) as caught:
        check_rebuild(name, shapes=shapes, **{**HEADER, **changes})
    assert time.monotonic() - started < 20
    return str(caught.value)


def test_the_network_of_an_honest_header_is_built(shapes):
    network = rebuilt_network("test_resnet", shapes=shapes, **HEADER)
    assert network(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


@pytest.mark.parametrize("on_meta", [True, False])
def test_a_network_whose_modules_take_views_of_parameters_is_rebuilt(on_meta, monkeypatch):
    kwargs = {"embed_dim": 8, "depth": 1, "num_heads": 1}
    header = {"classes": 10, "img_size": 16, "stem": "keep", "model_kwargs": kwargs}
    network = build_network("cait_xxs24_224", **header)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if not on_meta:
        monkeypatch.setattr(rebuild, "fit_to_images", fit_off_meta)
    assert rebuilt_network("cait_xxs24_224", shapes=shapes, **header).cls_token.requires_grad


def fit_off_meta(network, **more):
    if next(network.parameters()).is_meta:
        raise UsageError("an operation has no meta kernel")
    return fit_to_images(network, **more)


@pytest.mark.parametrize("name", ["hf-hub:org/net", "hf_hub:org/net@main"])
def test_a_hubs_name_is_not_fetched(shapes, name, monkeypatch):
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was tried"))
    assert "would have to be fetched; convert it again" in refusal(shapes, name)


@pytest.mark.parametrize("name", ["local-dir:/etc", "../../etc/passwd", "/etc/passwd", "a/b", "x\0y", "nosuch"])
def test_a_name_never_becomes_a_path(shapes, name):
    text = refusal(shapes, name)
    assert "is not a model's name" in text or "timm knows no model" in text


def test_a_network_without_a_classifier_is_the_files_fault(shapes):
    text = refusal(shapes, "test_vit", classes=0, model_kwargs={}, stem="keep")
    assert text.startswith("the file's network cannot be built: test_vit gives (1, 64) instead of 0 logits")


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained"])
def test_arguments_that_load_files_are_refused(shapes, key):
    assert f"cannot set {key}" in refusal(shapes, model_kwargs={**SMALL, key: "/etc/passwd"})


@pytest.mark.parametrize(
    "change",
    [
        {"model_kwargs": {**SMALL, "channels": [512] * 4}},
        {"model_kwargs": {**SMALL, "stem_width": 512}},
        {"model_kwargs": {**SMALL, "channels": [8, 8, 8, 16]}},
        {"classes": 100_000},
    ],
)
def test_a_network_of_other_shapes_than_the_files_is_refused_before_it_is_made(shapes, change):
    text = refusal(shapes, **change)
    assert "tensors of the file have another shape than the network of its header" in text
    assert "header and tensors do not belong together" in text


@pytest.mark.parametrize("layers", [[65536, 1, 1, 1], [1, 1, 1, 65536]])
def test_a_network_of_endless_layers_is_refused_before_it_is_made(shapes, layers):
    assert "describes a network of more layers, and its tensors do not" in refusal(
        shapes, model_kwargs={**SMALL, "layers": layers}
    )


def test_a_network_of_more_or_fewer_tensors_is_refused(shapes):
    fewer = {name: shape for name, shape in shapes.items() if name != "fc.bias"}
    assert "1 missing, 0 too many, first: fc.bias" in refusal(fewer)
    assert "0 missing, 1 too many, first: ../../x" in refusal({**shapes, "../../x": (1,)})


@pytest.mark.parametrize("change", [{"channels": [65536] * 4}, {"stem_width": 65536}])
def test_values_that_no_machine_holds_are_refused(shapes, change):
    assert "numbers in one value, and its tensors do not" in refusal(shapes, model_kwargs={**SMALL, **change})


def test_work_that_no_machine_does_is_refused_though_the_weights_are_few():
    kwargs = {"patch_size": 1, "embed_dim": 12, "depth": 1, "num_heads": 1, "global_pool": "avg", "pos_embed": "none"}
    kwargs["class_token"] = False
    header = {"classes": 2, "stem": "keep", "model_kwargs": kwargs}
    network = build_network("vit_tiny_patch16_224", img_size=8, **header)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    with pytest.raises((BadInputError, UsageError), match=r"a network of .* operations an image"):
        check_rebuild("vit_tiny_patch16_224", img_size=1024, shapes=shapes, **header)


def test_what_the_meta_device_cannot_run_is_built_unless_the_file_is_too_small_for_it(shapes, monkeypatch):
    monkeypatch.setattr(rebuild, "fit_to_images", fit_off_meta)
    check_rebuild("test_resnet", shapes=shapes, **HEADER)
    large = {"channels": [2048] * 4}
    assert "a network of more values, and its tensors do not" in refusal(shapes, model_kwargs={**SMALL, **large})


def test_another_number_of_channels_is_refused(shapes):
    assert "other than 3 channels" in refusal(shapes, model_kwargs={**SMALL, "in_chans": 1})


def test_texts_are_short_and_on_one_line(shapes):
    text = refusal(shapes, model_kwargs={**SMALL, json.dumps("x" * 300): 1})
    assert "\n" not in text
