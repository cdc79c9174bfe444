"""A cached teacher is taken whole or trained again, and what is wrong with it is said once."""

import json
import os
from unittest import mock

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ann2snn_distill import pipeline
from ann2snn_distill.config import TeachSettings
from ann2snn_distill.events import Caution, EpochDone


@pytest.fixture
def teaching(shades, tmp_path):
    """Teach in a cache of one's own; give the cached file, its bytes, the cautions, and the epochs trained."""

    def run(**changes):
        values = {"model": "test_resnet", "dataset": str(shades), "img_size": 16, "batch_size": 12}
        values |= {"teacher_epochs": 2, "device": "cpu", "workers": 0} | changes
        settings = TeachSettings.model_validate(values)
        events = []
        with mock.patch.dict(os.environ, {"SNN_DISTILL_CACHE": str(tmp_path)}):
            pipeline.teach(settings, events.append)
        path = max((tmp_path / "teachers").glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
        cautions = [event.text for event in events if isinstance(event, Caution)]
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}  # the file's own follow it
        return path, tensors, cautions, sum(isinstance(event, EpochDone) for event in events)

    return run


def flipped(path):
    """Flip the lowest bit of the last weight: the file stays readable and every value finite."""
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def of_another_network(path):
    """Without a checksum, so that the shapes alone can tell."""
    with safe_open(path, framework="pt") as file:
        summary = {"snn_distill_teacher": file.metadata()["snn_distill_teacher"]}
    save_file(load_file(path) | {"fc.weight": torch.zeros(9, 2)}, path, metadata=summary)


def without_a_summary(path):
    save_file(load_file(path), path)


DAMAGES = {
    flipped: "its checksum does not match",
    cut: "",
    of_another_network: "its tensors are those of another network",
    without_a_summary: "snn_distill_teacher",
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.items(), ids=[damage.__name__ for damage in DAMAGES])
def test_a_damaged_teacher_is_told_once_and_trained_again_to_the_same_weights(teaching, damage, reason):
    path, whole, cautions, epochs = teaching()
    assert (cautions, epochs) == ([], 2)
    assert teaching()[2:] == ([], 0)
    damage(path)
    again, tensors, (caution,), epochs = teaching()
    assert (again, epochs) == (path, 2)
    assert caution.startswith(f"the cached teacher {path} is damaged (")
    assert caution.endswith("; it is trained again")
    assert reason in caution
    assert all(torch.equal(tensor, whole[name]) for name, tensor in tensors.items())
    assert teaching()[2:] == ([], 0)


def test_a_teacher_of_an_earlier_release_is_taken_and_its_lack_of_a_checksum_told(teaching):
    path, whole, _, _ = teaching()
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata.pop("checksum")
    assert json.loads(metadata["snn_distill_teacher"])["epochs"] == 2
    save_file(whole, path, metadata=metadata)
    before = path.read_bytes()
    _, _, (caution,), epochs = teaching()
    assert epochs == 0
    assert caution == f"the cached teacher {path} has no checksum; if it may be damaged, remove it to train it again"
    assert path.read_bytes() == before


def test_teachers_of_other_augmentations_and_optimisers_are_other_teachers(teaching):
    changes = [{}, {"cutmix": 1.0}, {"cutmix": 1.0, "mixup_prob": 0.5}, {"cutmix": 1.0, "mixup_off_epoch": 1}]
    changes += [{"opt": "adamw"}]
    trained = [teaching(**change) for change in changes]
    assert [epochs for _, _, _, epochs in trained] == [2] * len(changes)
    assert len({path for path, _, _, _ in trained}) == len(changes)
    assert teaching(mixup_prob=0.5)[3] == 0  # nothing is mixed: the first of them
