"""Files are read as weights or refused in a sentence; nothing in them is ever run."""

import argparse
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from ann2snn_distill.errors import BadInputError
from ann2snn_distill.teacher.files import read_tensors
from ann2snn_distill.tensorfile import read_index

TENSORS = {"a.weight": torch.arange(600.0).reshape(2, 300), "a.bias": torch.ones(2)}


class _Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def refusal(path):
    with pytest.raises(BadInputError) as caught:
        read_tensors(path)
    assert caught.value.exit_code == 1
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".tar", ".PTH"])
def test_every_suffix_of_a_pickle_gives_its_tensors(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    torch.save(TENSORS, path)
    assert all(torch.equal(TENSORS[name], tensor) for name, tensor in read_tensors(path).tensors.items())


def test_safetensors_give_their_tensors(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    file = read_tensors(path)
    assert all(torch.equal(file.tensors[name], TENSORS[name]) for name in TENSORS)
    assert not file.ordered


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("plain_pickle", [False, True])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, legacy, plain_pickle):
    path, target = tmp_path / "net.pth", tmp_path / "executed"
    content = {"state_dict": TENSORS, "extra": _Malicious(target)}
    if plain_pickle:
        path.write_bytes(pickle.dumps({"extra": _Malicious(target)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    text = refusal(path)
    assert "holds more than weights" in text
    assert "will not be run as code; convert it to safetensors in the environment that made it" in text
    assert ("a pickle that torch did not write" if plain_pickle else "system") in text
    assert not target.exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    assert "holds more than weights (torch.nn.modules.linear.Linear)" in refusal(path)


def test_timms_training_checkpoint_with_its_arguments_is_read(tmp_path):
    path = tmp_path / "last.pth.tar"
    torch.save({"epoch": 3, "args": argparse.Namespace(lr=1.0), "state_dict": TENSORS}, path)
    file = read_tensors(path)
    assert (list(file.tensors), file.unwrapped) == (list(TENSORS), "state_dict")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("name", ["net.safetensors", "net.pth", "legacy.pth"])
def test_a_truncated_file_is_called_damaged(tmp_path, name, share):
    path = tmp_path / name
    if name == "net.safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=name == "net.pth")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "is damaged, or no checkpoint" in refusal(path)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_pointer_of_git_lfs_is_called_one(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")
    assert "is a pointer of Git LFS and not the file itself; fetch it with git lfs pull" in refusal(path)
    with pytest.raises(BadInputError, match="pointer of Git LFS"):
        read_index(path)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"hello world, this is no file", b"<!DOCTYPE html>", b"\x89PNG\r\n\x1a\n" + b"1" * 99, b"\x80\x02"],
)
def test_a_foreign_file_is_called_no_checkpoint(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert "is damaged, or no checkpoint" in refusal(path)


@pytest.mark.parametrize("content", [{}, [1, 2], 3, {"epoch": 1}, torch.zeros(3), {"state_dict": {"x": 1}}])
def test_a_file_without_named_tensors_says_so(tmp_path, content):
    path = tmp_path / "net.pth"
    torch.save(content, path)
    assert "holds no tensors by name" in refusal(path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            {"encoder": TENSORS, "epoch": 1},
            "(its keys are encoder, epoch); tensors lie under 'encoder': save that alone",
        ),
        ({"model": {"net": {}, "ema": TENSORS}}, "by name under model.net (it is empty); give a file"),
        ({"model": {"ema": TENSORS}}, "by name under model (its keys are ema); tensors lie under 'ema'"),
        ({f"key{number}": number for number in range(9)}, "key3, key4, ...); give a file that holds a network's state"),
        ([1], "(it is a list); give a file"),
    ],
)
def test_what_was_found_instead_of_tensors_is_named(tmp_path, content, text):
    path = tmp_path / "net.pth"
    torch.save(content, path)
    assert text in refusal(path)


def test_empty_missing_foreign_suffix_and_folder(tmp_path):
    (tmp_path / "resnet18.pth").touch()
    (tmp_path / "net.onnx").write_text("x")
    assert "is empty" in refusal(tmp_path / "resnet18.pth")
    assert "did you mean resnet18.pth?" in refusal(tmp_path / "resnet81.pth")
    assert "holds resnet18.pth" in refusal(tmp_path / "zzz")
    assert f"nor does the folder {tmp_path / 'sub'}" in refusal(tmp_path / "sub" / "net.pth")
    assert "files ending in .safetensors, .pth" in refusal(tmp_path / "net.onnx")
    assert "is a folder; give the checkpoint file in it" in refusal(tmp_path)


def test_our_own_snn_is_sent_to_eval(tmp_path):
    path = tmp_path / "student.safetensors"
    save_file(TENSORS, path, metadata={"snn_distill": "{}"})
    assert f"use: snn-distill eval {path}" in refusal(path)


@pytest.mark.parametrize(
    ("content", "unwrapped"),
    [
        ({"state_dict": "plain", "state_dict_ema": "ema"}, "state_dict_ema"),
        ({"model": "plain", "model_ema": "ema"}, "model_ema"),
        ({"state_dict": "ema", "state_dict_ema": None}, "state_dict"),
        ({"model": {"state_dict": "ema"}}, "model.state_dict"),
        ({"net": "ema", "params": "plain"}, "net"),
        ({"model_state_dict": "ema", "optimizer_state_dict": {}, "epoch": 3}, "model_state_dict"),
        ("ema", None),
    ],
)
def test_averaged_weights_win_and_wrappers_are_named(tmp_path, content, unwrapped):
    weights = {"plain": {"w": torch.zeros(2)}, "ema": {"w": torch.ones(2)}}

    def fill(value):
        if isinstance(value, dict):
            return {key: fill(inner) for key, inner in value.items()}
        return weights.get(value, value)

    path = tmp_path / "net.pth"
    torch.save(fill(content), path)
    file = read_tensors(path)
    assert file.unwrapped == unwrapped
    assert torch.equal(file.tensors["w"], torch.ones(2))
