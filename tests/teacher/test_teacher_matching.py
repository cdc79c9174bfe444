"""A checkpoint's logits come back whatever it is wrapped in; what does not fit is refused with a way on."""

import pytest
import timm
import torch
from loading import DATA, load, refusal
from safetensors.torch import save_file

from ann2snn_distill.errors import BadInputError, UsageError
from ann2snn_distill.teacher import load_network


@pytest.fixture(scope="module")
def original():
    """A timm network whose every tensor differs from any initialisation."""
    torch.manual_seed(7)
    network = timm.create_model("test_resnet", num_classes=10).eval()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.05 * torch.rand_like(tensor))
    return network


def assert_equal_logits(loaded, original):
    images_BCHW = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.module(images_BCHW), original(images_BCHW))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "state_dict_ema", "model_ema", "net", "params"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module.", "module.backbone."])
def test_weights_under_any_wrapper_and_prefix_give_the_same_logits(tmp_path, original, wrapper, prefix):
    weights = {prefix + name: tensor for name, tensor in original.state_dict().items()}
    path = tmp_path / "net.pth"
    torch.save(weights if wrapper is None else {"epoch": 3, wrapper: weights}, path)
    loaded = load(path)
    assert_equal_logits(loaded, original)
    assert (loaded.match.unwrapped, loaded.match.stripped) == (wrapper, prefix or None)
    assert (loaded.trained, loaded.source, loaded.mean) == (True, "checkpoint:net.pth", DATA)


def test_the_summary_is_one_sentence(tmp_path, original):
    weights = {f"module.{name}": tensor for name, tensor in original.state_dict().items()}
    path = tmp_path / "net.pth"
    torch.save({"state_dict_ema": weights | {"loss.weight": torch.zeros(3)}}, path)
    total = len(original.state_dict())
    summary = load(path, classes=4).match.summary()
    assert summary == (
        f"{total - 2} of {total} tensors matched by name (taken from 'state_dict_ema', "
        "prefix 'module.' stripped); classifier rebuilt for 4 classes; 1 of the file's left over"
    )


def test_safetensors_give_the_same_logits(tmp_path, original):
    path = tmp_path / "net.safetensors"
    save_file(original.state_dict(), path)
    assert_equal_logits(load(path), original)


def test_half_precision_weights_become_float32(tmp_path, original):
    path = tmp_path / "net.pth"
    torch.save({name: tensor.half() for name, tensor in original.state_dict().items()}, path)
    assert load(path).module.fc.weight.dtype == torch.float32


@pytest.mark.parametrize("how", ["name", "order"])
def test_a_classifier_of_other_classes_is_rebuilt_and_reported(tmp_path, original, how):
    path = tmp_path / "net.pth"
    torch.save(original.state_dict(), path)
    loaded = load(path, classes=4, checkpoint_match=how)
    assert loaded.match.rebuilt == ("fc.weight", "fc.bias")
    assert not loaded.trained
    assert loaded.module.fc.weight.shape[0] == 4
    assert torch.equal(loaded.module.conv1[0].weight, original.conv1[0].weight)


def test_a_backbone_without_a_classifier_gets_one(tmp_path, original):
    path = tmp_path / "net.pth"
    torch.save({name: t for name, t in original.state_dict().items() if not name.startswith("fc.")}, path)
    loaded = load(path)
    assert loaded.match.rebuilt == ("fc.weight", "fc.bias")
    assert not loaded.trained


def test_counters_of_batches_may_be_absent(tmp_path, original):
    path = tmp_path / "net.pth"
    torch.save({n: t for n, t in original.state_dict().items() if "num_batches" not in n}, path)
    loaded = load(path)
    assert_equal_logits(loaded, original)
    assert loaded.trained
    absent = set(original.state_dict()) - set(loaded.match.loaded)
    assert absent
    assert all(name.endswith("num_batches_tracked") for name in absent)


def test_loading_leaves_the_global_generator_as_it_was(tmp_path, original):
    path = tmp_path / "net.pth"
    torch.save(original.state_dict(), path)
    before = torch.get_rng_state()
    load(path, classes=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_order_gives_the_same_logits_after_every_name_changed(tmp_path, original):
    path = tmp_path / "net.pth"
    renamed = [t for name, t in original.state_dict().items() if "num_batches" not in name]
    torch.save({f"tensor{number}": tensor for number, tensor in enumerate(renamed)}, path)
    assert "all tensors fit in order: use --checkpoint-match order" in refusal(BadInputError, path)
    loaded = load(path, checkpoint_match="order")
    assert_equal_logits(loaded, original)
    assert loaded.trained
    assert "matched by order" in loaded.match.summary()


def test_order_refuses_what_does_not_fit_one_by_one(tmp_path, original):
    path = tmp_path / "net.pth"
    tensors = dict(original.state_dict())
    swapped = {name: tensors[name] for name in reversed(tensors)}
    torch.save(swapped, path)
    text = refusal(BadInputError, path, checkpoint_match="order")
    assert "tensor 1 is fc.bias (10,) in the file and conv1.0.weight" in text
    del tensors["fc.bias"]
    torch.save(tensors, path)
    assert "does not fit test_resnet in order: it holds" in refusal(BadInputError, path, checkpoint_match="order")


def test_order_refuses_a_bias_in_the_place_of_a_weight_of_equal_shape(tmp_path, original):
    path = tmp_path / "net.pth"
    names = list(original.state_dict())
    at = names.index("bn1.weight")
    names[at], names[at + 1] = names[at + 1], names[at]
    torch.save({name: original.state_dict()[name] for name in names}, path)
    assert "is bn1.bias" in refusal(BadInputError, path, checkpoint_match="order")


def test_order_refuses_a_file_that_sorts_its_tensors(tmp_path, original):
    path = tmp_path / "net.safetensors"
    save_file(original.state_dict(), path)
    assert "sorts its tensors by name" in refusal(UsageError, path, checkpoint_match="order")


def test_another_architecture_is_refused_with_counts_and_shapes(tmp_path, original):
    path = tmp_path / "net.pth"
    torch.save(original.state_dict(), path)
    text = refusal(BadInputError, path, name="resnet18")
    assert "does not fit resnet18: " in text
    assert "tensors are missing or have another shape (conv1.weight absent in the file, (64, 3, 7, 7)" in text
    assert text.count("in the network") == 3
    assert text.endswith("give the MODEL that the file was made from")


@pytest.mark.parametrize(("saved", "asked"), [("keep", "small"), ("small", "keep")])
def test_a_stem_of_another_kernel_names_the_flag(tmp_path, saved, asked):
    path = tmp_path / "net.pth"
    network = load_network("resnet18", classes=10, img_size=32, data_mean=DATA, data_std=DATA, stem=saved, seed=1)
    torch.save(network.module.state_dict(), path)
    text = refusal(BadInputError, path, name="resnet18", stem=asked)
    assert "conv1.weight (64, 3," in text
    assert f"only the stem's kernel differs: use --stem {saved}" in text
    assert load(path, "resnet18", stem=saved).trained


def test_timms_conversion_makes_foreign_names_fit(tmp_path):
    torch.manual_seed(0)
    small = timm.create_model("test_vit", num_classes=10, img_size=160)
    path = tmp_path / "net.pth"
    torch.save(small.state_dict(), path)
    loaded = load(path, "test_vit", img_size=96)
    assert loaded.match.converted
    assert "converted from foreign names" in loaded.match.summary()
    assert torch.equal(loaded.module.head.weight, small.head.weight)


def test_a_checkpoint_for_photographs_brings_timms_normalisation(tmp_path, original):
    path = tmp_path / "net.pth"
    torch.save(original.state_dict(), path)
    assert load(path, img_size=96).mean == tuple(original.pretrained_cfg["mean"])


def test_pretrained_and_a_checkpoint_exclude_each_other(tmp_path):
    assert "exclude each other" in refusal(UsageError, tmp_path / "net.pth", pretrained=True)


@pytest.mark.parametrize("how", ["name", "order"])
@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda tensor: tensor.fill_(float("nan")), "holds NaN or infinity in bn1.bias"),
        (lambda tensor: tensor.index_fill_(0, torch.tensor(1), float("-inf")), "holds NaN or infinity in bn1.bias"),
        (lambda tensor: tensor.double() + 1e300, "holds NaN or infinity in bn1.bias"),
        (lambda tensor: tensor.to(torch.int8), "holds int8 numbers in bn1.bias, where weights are floats; give"),
    ],
)
def test_weights_that_are_no_numbers_are_refused_when_they_are_read(tmp_path, original, spoil, text, how):
    path = tmp_path / "net.pth"
    tensors = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    tensors["bn1.bias"] = spoil(tensors["bn1.bias"])
    torch.save(tensors, path)
    assert text in refusal(BadInputError, path, checkpoint_match=how)


def test_nan_in_what_is_not_taken_does_no_harm(tmp_path, original):
    path = tmp_path / "net.pth"
    spoilt = {name: torch.full_like(original.state_dict()[name], float("nan")) for name in ("fc.weight", "fc.bias")}
    torch.save({**original.state_dict(), **spoilt, "extra": torch.tensor(float("nan"))}, path)
    assert load(path, classes=4).match.rebuilt == ("fc.weight", "fc.bias")


def test_how_a_file_is_matched_needs_a_file():
    text = refusal(UsageError, None, checkpoint_match="order")
    assert text == "--checkpoint-match order says how a file is read; give --checkpoint FILE, too"
