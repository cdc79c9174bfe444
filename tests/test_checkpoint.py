"""student.safetensors: what is saved is what is loaded, and a bad file is refused in plain words."""

import json
import os
import struct

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from ann2snn_distill import checkpoint
from ann2snn_distill.checkpoint import SnnHeader, load_checkpoint, read_header, save_checkpoint
from ann2snn_distill.errors import BadInputError

CONTENT = {
    "format_version": 1,
    "model": "resnet18",
    "student": "resnet18",
    "dataset": "cifar10",
    "classes": ["cat", "dog"],
    "img_size": 32,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.2, 0.2],
    "timesteps": 4,
    "neuron": {"name": "lif", "decay": 0.2, "v_init": 0.0, "reset": "soft-detached", "surrogate_width": 1.0},
    "cuts": ["layer1", "layer2"],
    "coverage": "activations",
    "maxpool": "keep",
    "stem": "small",
    "model_kwargs": {"width": 1, "names": ["a", None]},
    "thresholds": {"act1": 1.0 / 3},
    "evaluation": {
        "dtype": "float32",
        "tf32": False,
        "batch_size": 512,
        "channels_last": True,
        "device_kind": "cuda",
        "device_name": "NVIDIA H200",
    },
    "versions": {"torch": "2.9.0"},
    "training": {"method": "hybrid", "test_top1_at": {"4": 100 / 3}},
}
HEADER = SnnHeader.model_validate(CONTENT)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "student.safetensors"


def write(path, content, *, key="snn_distill"):
    text = content if isinstance(content, str) else json.dumps(content)
    save_file({"weight": torch.ones(3)}, path, metadata={key: text})
    return path


def test_header_and_tensors_survive_the_round_trip_bit_for_bit(path):
    shared = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    tensors = {"a": shared, "tied": shared, "view": shared[:2].transpose(0, 1), "count": torch.tensor(7)}
    save_checkpoint(path, tensors, HEADER)
    header, loaded = load_checkpoint(path)
    assert header == HEADER == read_header(path)
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].is_contiguous()


def test_the_header_is_json_that_any_reader_of_safetensors_sees(path):
    save_checkpoint(path, {}, HEADER)
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    told = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["snn_distill"])
    assert told == CONTENT


def test_reading_the_header_reads_no_tensor(path, monkeypatch):
    save_checkpoint(path, {"a": torch.ones(3)}, HEADER)
    monkeypatch.setattr(checkpoint, "read_whole", None)
    assert read_header(path) == HEADER


def test_a_full_disk_leaves_the_old_file(path, monkeypatch):
    save_checkpoint(path, {"a": torch.ones(3)}, HEADER)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInputError, match=r"cannot write .*No space left on device; free some space"):
        save_checkpoint(path, {"a": torch.zeros(3)}, HEADER)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def refusal(path, reader=read_header):
    with pytest.raises(BadInputError) as caught:
        reader(path)
    assert str(caught.value).count("\n") == 0
    return str(caught.value)


def test_a_missing_file_is_refused_with_near_names(path):
    assert "holds no checkpoint" in refusal(path)
    write(path, CONTENT)
    assert f"no file {path.parent / 'studnet.safetensors'}; near it: student.safetensors" in refusal(
        path.parent / "studnet.safetensors"
    )
    assert "near it: student.safetensors" in refusal(path.parent / "x")
    assert "there is no folder" in refusal(path.parent / "none" / "x")


def test_a_folder_is_refused(path):
    assert refusal(path.parent) == f"{path.parent} is a folder; give the student.safetensors in it"


@pytest.mark.parametrize("content", [b"", b"{", b"PK\x03\x04" + b"x" * 100, b"\x02" + b"\0" * 7 + b"[]", b"x" * 8])
def test_a_file_of_another_kind_is_refused(path, content):
    path.write_bytes(content)
    assert "is not a safetensors file; give the student.safetensors of a run" in refusal(path)


@pytest.mark.parametrize("kept", [20, 300, -1])
def test_a_truncated_file_is_refused_with_what_is_missing(path, kept):
    write(path, CONTENT)
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    size = len(whole[:kept])
    text = refusal(path)
    assert f"is truncated: it ends after {size:,} of " in text
    assert text.endswith("copy it again from where it came")
    if kept in (300, -1):
        assert f"{len(whole):,} bytes" in text or kept == 300


def test_a_file_with_bytes_after_its_tensors_is_refused(path):
    write(path, CONTENT)
    path.write_bytes(path.read_bytes() + b"xyz")
    assert "is damaged: 3 bytes too many follow its tensors" in refusal(path)


@pytest.mark.parametrize(
    "text",
    [
        b"{nonsense}",
        b'{"a":' + b"[" * 5000,
        b'{"a":' * 100_000,
        b'{"w":{"dtype":"F32"}}',
        b"{\xff}",
        b'{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"w":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}',
        b'{"w":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}',
        b'{"w":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}',
        b'{"__metadata__":{"snn_distill":1}}',
        b'{"__metadata__":[]}',
        b'{"__metadata__":{"a":"b"},"__metadata__":{"a":"c"}}',
    ],
)
def test_a_damaged_index_is_refused(path, text):
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    assert "is damaged: its index of tensors cannot be read" in refusal(path)


def test_any_flipped_bit_of_the_tensors_is_noticed(path):
    save_checkpoint(path, {"a": torch.arange(8.0), "b": torch.ones(2, dtype=torch.int64)}, HEADER)
    whole = bytearray(path.read_bytes())
    for index in range(len(whole) - 48, len(whole)):
        damaged = whole.copy()
        damaged[index] ^= 1 << index % 8
        path.write_bytes(damaged)
        assert "is damaged: its checksum does not match; copy it again" in refusal(path, load_checkpoint)


def test_a_flipped_bit_of_the_header_that_still_makes_sense_is_noticed(path):
    save_checkpoint(path, {"a": torch.ones(3)}, HEADER)
    path.write_bytes(path.read_bytes().replace(b'timesteps\\":4', b'timesteps\\":5'))
    assert read_header(path).timesteps == 5
    assert "checksum does not match" in refusal(path, load_checkpoint)


def test_a_file_from_before_there_were_checksums_is_read(path):
    header, tensors = load_checkpoint(write(path, CONTENT))
    assert header == HEADER
    assert torch.equal(tensors["weight"], torch.ones(3))


def test_an_unknown_key_beside_the_header_is_refused(path):
    save_file({"w": torch.ones(1)}, path, metadata={"snn_distill": json.dumps(CONTENT), "snn_distill_checksun": "0"})
    assert "its metadata has the unknown key 'snn_distill_checksun'" in refusal(path)


@pytest.mark.parametrize("key", ["format", "snn-distill"])
def test_a_foreign_safetensors_is_refused_with_the_way_for_ann_weights(path, key):
    write(path, "pt", key=key)
    assert "is not an SNN checkpoint" in refusal(path)
    assert "convert MODEL --checkpoint" in refusal(path)
    save_file({"weight": torch.ones(3)}, path)
    assert "is not an SNN checkpoint" in refusal(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '"x', '{"img_size": ' + "9" * 5000 + "}"])
def test_a_header_that_is_not_json_is_refused(path, text):
    assert "is not JSON (" in refusal(write(path, text))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_lacks_are_refused(path, number):
    assert f"is not JSON ({number} is no JSON)" in refusal(write(path, f'{{"img_size": {number}}}'))


def test_a_key_that_stands_twice_is_refused(path):
    text = json.dumps(CONTENT)[:-1] + ', "timesteps": 5}'
    assert "is not JSON (a key stands twice in one object)" in refusal(write(path, text))


@pytest.mark.parametrize("text", ["1", "[]", "null"])
def test_a_header_that_is_no_object_is_refused(path, text):
    assert "is not a JSON object" in refusal(write(path, text))


def test_a_newer_format_is_refused_before_its_fields_are_read(path):
    text = refusal(write(path, {"format_version": 3, "neuron": "unheard of"}), reader=load_checkpoint)
    assert "written by a newer snn-distill (format 3, this one reads 2): upgrade" in text


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"format_version": 0}, "format_version"),
        ({"format_version": "x"}, "format_version"),
        ({"format_version": None}, "format_version"),
        ({"timesteps": 0}, "timesteps"),
        ({"neuron": {**CONTENT["neuron"], "name": "izhikevich"}}, "neuron.name"),
        ({"evaluation": {**CONTENT["evaluation"], "tf32": True}}, "evaluation.tf32"),
        ({"mean": [0.5, 0.5]}, "mean.2"),
        ({"std": [0.5, 0, 0.5]}, "std.1"),
        ({"thresholds": {"act1": 1e300}}, "thresholds.act1"),
        ({"format_version": 2, "decays": {"act1": 1.1}}, "decays.act1"),
        ({"std": [0.5, 1e-300, 0.5]}, "std.1"),
        ({"mean": [0.5, 1e300, 0.5]}, "mean.1"),
        ({"timesteps": 10**9}, "timesteps"),
        ({"img_size": 10**9}, "img_size"),
        ({"classes": ["x"] * 100_001}, "classes"),
        ({"evaluation": {**CONTENT["evaluation"], "batch_size": 10**9}}, "evaluation.batch_size"),
        ({"model_kwargs": {"width": 10**9}}, "model_kwargs"),
        ({"model_kwargs": {"width": 10**400}}, "model_kwargs"),
        ({"model_kwargs": {"layers": [1] * 1000}}, "model_kwargs"),
        ({"model_kwargs": {"layers": [[[[[1]]]]]}}, "model_kwargs"),
        ({"model_kwargs": {"act_layer": "x" * 1000}}, "model_kwargs"),
        ({"training": {"teacher_top1": "high"}}, "training.teacher_top1"),
        ({"training": {"teacher_top1": 101}}, "training.teacher_top1"),
        ({"training": {"test_top1_at": ["a list"]}}, "training.test_top1_at"),
        ({"dataset": "a\0b"}, "dataset"),
        ({"dataset": ""}, "dataset"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_an_invalid_field_is_named(path, change, field):
    text = refusal(write(path, {**CONTENT, **change}))
    assert f"is invalid at `{field}`" in text
    assert "https" not in text


def test_a_missing_version_is_not_taken_for_the_present_one(path):
    content = {key: value for key, value in CONTENT.items() if key != "format_version"}
    assert "is invalid at `format_version`" in refusal(write(path, content))


def test_a_header_cannot_hold_an_infinite_number():
    with pytest.raises(ValidationError):
        SnnHeader.model_validate({**CONTENT, "thresholds": {"act1": float("inf")}})
