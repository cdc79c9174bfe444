"""What a conversion writes, and that every number in it can be had independently."""

import json
import math
import shutil
import tomllib

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from ann2snn_distill import pipeline
from ann2snn_distill.checkpoint import load_checkpoint, read_header
from ann2snn_distill.data.datasets import load_dataset
from ann2snn_distill.events import silent
from ann2snn_distill.pipeline.students import student_from_header
from ann2snn_distill.teacher import small_stem

KEYS = {
    "format_version", "model", "student", "dataset", "timesteps", "method", "neuron", "seed", "versions", "device",
    "teacher", "drop", "branches", "coverage", "layers", "energy", "training", "warnings",
}  # fmt: skip
PARTS = {
    "teacher": {"top1", "source"},
    "student": {"model", "top1", "top1_at"},
    "coverage": {"spiking_macs", "total_macs", "share"},
    "energy": {"ann_mj", "snn_mj", "constants"},
    "training": {"epochs", "images_per_second", "seconds", "peak_memory_mib"},
}
LINE = {
    "epoch", "phase", "loss", "student_ce", "student_kl", "branch_layer1", "branch_layer2", "branch_layer3", "lr",
    "seconds", "images_per_second", "peak_memory_mib", "cosine",
}  # fmt: skip


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_conversion_writes_the_files_of_the_interface_and_nothing_else(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {"student.safetensors", "report.json", "report.md", "report.html", "config.toml", "metrics.jsonl"}


def test_stdout_is_the_report_alone(trained):
    assert json.loads((trained.parent / "stdout.json").read_text()) == report_of(trained)


AVERAGED = {
    "layer2_0_downsample_1": "layer1_0_act2",
    "layer3_0_downsample_1": "layer2_0_act2",
    "layer4_0_downsample_1": "layer3_0_act3",
    "fc": "layer4_0_act2",
}
"""Layers that read averages of 2x2 spikes -> the neurons that emit those."""


def test_the_report_has_exactly_its_keys(trained):
    report = report_of(trained)
    assert set(report) == KEYS
    for part, keys in PARTS.items():
        assert set(report[part]) == keys
    assert set(report["student"]["top1_at"]) == {"1", "2", "3"}
    assert all(set(branch) == {"name", "top1", "cosine"} for branch in report["branches"])
    keys = {"name", "role", "firing_rate", "binary_input", "macs", "synops"}
    assert all(set(layer) == keys for layer in report["layers"])


def test_the_numbers_of_the_report_agree_with_each_other(trained):
    report = report_of(trained)
    assert report["student"]["top1"] == report["student"]["top1_at"]["3"]
    assert report["drop"] == report["teacher"]["top1"] - report["student"]["top1"]
    spiking = [layer for layer in report["layers"] if layer["binary_input"]]
    assert report["coverage"]["spiking_macs"] == sum(layer["macs"] for layer in spiking)
    assert report["coverage"]["total_macs"] == sum(layer["macs"] or 0 for layer in report["layers"])
    rates = {layer["name"]: layer["firing_rate"] for layer in report["layers"]}
    for layer in spiking:
        pooled = rates.get(AVERAGED.get(layer["name"], ""))
        arriving = layer["firing_rate"] if pooled is None else 4 * pooled
        assert layer["synops"] == pytest.approx(3 * layer["macs"] * arriving)
    assert set(AVERAGED) < {layer["name"] for layer in spiking}
    (analog,) = (layer for layer in report["layers"] if layer["macs"] and not layer["binary_input"])
    energy = (4.6 * analog["macs"] + 0.9 * sum(layer["synops"] for layer in spiking)) * 1e-9
    assert report["energy"]["snn_mj"] == pytest.approx(energy)
    assert report["energy"]["ann_mj"] == pytest.approx(4.6e-9 * report["coverage"]["total_macs"])


def test_the_header_has_the_share_that_spikes_drive(trained):
    report, header = report_of(trained), read_header(trained / "student.safetensors")
    assert header.training["spiking_share"] == report["coverage"]["share"] > 0.5


def test_metrics_have_one_line_an_epoch_with_named_parts(trained):
    lines = lines_of(trained)
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        assert set(line) == LINE | {"val_top1", "val_top1_at", "val_branches"}
        assert set(line["cosine"]) == set(line["val_branches"]) == {"layer1", "layer2", "layer3"}
        assert line["peak_memory_mib"] is None
        assert all(-1 <= value <= 1 for value in line["cosine"].values())
        student = 0.5 * line["student_ce"] + 0.5 * line["student_kl"]
        branches = (line["branch_layer1"] + line["branch_layer2"] + line["branch_layer3"]) / 3
        assert line["loss"] == pytest.approx(student + branches, rel=1e-5)


def test_without_a_validation_split_no_accuracy_is_measured_before_the_end(command, tiny, tmp_path):
    done = command("convert", *tiny, "--output", tmp_path / "run")
    assert done.code == 0, done.err
    assert [set(line) for line in lines_of(tmp_path / "run")] == [LINE, LINE]


def test_validation_comes_at_its_interval_and_at_the_end_by_the_weights_that_are_evaluated(
    converting, tiny_settings, shades, tmp_path
):
    folder = tmp_path / "run"
    settings = tiny_settings(epochs=5, val_split=0.34, val_interval=2, model_ema=0.9, lr=0.2, output=folder)
    converting(settings)
    lines = lines_of(folder)
    assert [line["epoch"] for line in lines if "val_top1" in line] == [2, 4, 5]
    val = load_dataset(str(shades), img_size=16, val_split=0.34).val
    header, tensors = load_checkpoint(folder / "student.safetensors")
    student = student_from_header(header, tensors)
    pixels = val.images_NCHW.float() / 255
    x = (pixels - torch.tensor(header.mean).view(3, 1, 1)) / torch.tensor(header.std).view(3, 1, 1)
    with torch.no_grad():
        logits_TBK = student(x, 2)
    for t in (1, 2):
        guesses = logits_TBK[:t].mean(0).argmax(1)
        accuracy = 100 * float((guesses == val.labels_N).double().mean())
        assert lines[-1]["val_top1_at"][str(t)] == pytest.approx(accuracy)
    assert lines[-1]["val_top1"] == lines[-1]["val_top1_at"]["2"]


def test_the_last_epochs_may_be_trained_through_time_by_a_loss_at_every_timestep(command, tiny, tmp_path):
    done = command("convert", *tiny, "--finish-epochs", 1, "--output", tmp_path / "run")
    assert done.code == 0, done.err
    first, last = lines_of(tmp_path / "run")
    assert set(first) == LINE
    assert set(last) == {name for name in LINE if not name.startswith("branch_")}
    assert last["loss"] == pytest.approx(0.5 * last["student_ce"] + 0.5 * last["student_kl"], rel=1e-5)
    refused = command("convert", *tiny, "--finish-epochs", 3, "--output", tmp_path / "other")
    assert (refused.code, refused.err) == (
        2, "error: --finish-epochs 3 are more than the 2 epochs in all; give 2 or less\n",
    )  # fmt: skip


def test_the_first_epochs_may_train_the_ann_with_the_levels_of_its_neurons_rates(command, tiny, tmp_path):
    folders = [tmp_path / name for name in ("levels", "spikes")]
    for folder, epochs in zip(folders, (1, 0), strict=True):
        done = command("convert", *tiny, "--quantized-epochs", epochs, "--output", folder)
        assert done.code == 0, done.err
    levels, spikes = (lines_of(folder) for folder in folders)
    assert [set(line) for line in levels] == [LINE, LINE]
    assert levels[0]["loss"] != spikes[0]["loss"]
    refused = command("convert", *tiny, "--quantized-epochs", 2, "--finish-epochs", 1, "--output", tmp_path / "other")
    assert (refused.code, refused.err) == (
        2, "error: --quantized-epochs 2 and --finish-epochs 1 are more than the 2 epochs in all; "
        "give 2 or less together\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "neuron", "warned"),
    [
        ("", "lif", False),
        ("--coverage full", "if", False),
        ("--coverage full --neuron lif", "lif", True),
        ("--neuron if", "if", False),
    ],
)
def test_where_analog_values_are_encoded_the_neuron_is_if_unless_asked_for(command, tiny, flags, neuron, warned):
    done = command("convert", *tiny, *flags.split(), "--dry-run", "--json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert plan["settings"]["neuron"] == neuron
    assert (plan["settings"]["decay"] == 1.0) == (neuron == "if")
    assert any("lif neuron is almost all or none" in text for text in plan["warnings"]) == warned


def test_the_neurons_of_a_stage_may_keep_more_of_their_membrane(command, tiny, tmp_path):
    folder = tmp_path / "run"
    flags = ("--stage-decays", "layer1=1, layer3=0.5", "--output", folder, "--json")
    done = command("convert", *tiny, *flags)
    assert done.code == 0, done.err
    header = read_header(folder / "student.safetensors")
    stages = {name: name.split("_")[0] for name in header.thresholds}
    assert {"layer1", "layer2", "layer3"} <= set(stages.values())
    wanted = {"layer1": 1.0, "layer3": 0.5}
    assert header.decays == {name: pytest.approx(wanted.get(stage, 0.2)) for name, stage in stages.items()}
    again = command("eval", folder / "student.safetensors", "--json", "--device", "cpu")
    assert json.loads(again.out)["student"] == json.loads(done.out)["student"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("layer9=1", "no stage is named 'layer9'; this student has"),
        ("layer1", "takes STAGE=DECAY pairs with decays from 0 to 1, not 'layer1'"),
        ("layer1=2", "takes STAGE=DECAY pairs with decays from 0 to 1, not 'layer1=2'"),
        ("layer1=nan", "takes STAGE=DECAY pairs with decays from 0 to 1, not 'layer1=nan'"),
        ("layer1=1,layer1=0", "names layer1 twice; give it once"),
    ],
)
def test_what_is_no_decay_of_a_stage_is_refused_before_anything_is_trained(command, tiny, tmp_path, value, said):
    refused = command("convert", *tiny, "--stage-decays", value, "--output", tmp_path / "run")
    assert refused.code == 2
    assert f"--stage-decays{'' if said.startswith(('takes', 'names')) else ':'} {said}" in refused.err
    learnt = command("convert", *tiny, "--stage-decays", "layer1=1", "--learn-decay", "--output", tmp_path / "run")
    assert (learnt.code, "strictly between 0 and 1" in learnt.err) == (2, True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "init"),
    [
        ("", "teacher"),
        ("--init scratch", "scratch"),
        ("--student resnet10t", "scratch"),
        ("--student test_resnet", "teacher"),
    ],
)
def test_a_student_starts_from_its_teachers_weights_where_it_can(command, tiny, flags, init):
    done = command("convert", *tiny, *flags.split(), "--dry-run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["settings"]["init"] == init


def test_a_network_named_in_two_ways_is_one(tiny_settings, tmp_path):
    settings = tiny_settings(model=" test_resnet", student="test_resnet", output=tmp_path / "run")
    assert pipeline.plan(settings, silent)["settings"]["init"] == "teacher"


@pytest.mark.parametrize(("model", "equalized"), [("test_resnet", False), ("mobilenetv2_050", True)])
def test_only_a_depthwise_teachers_channels_are_equalised_by_default(tiny_settings, tmp_path, model, equalized):
    settings = tiny_settings(model=model, output=tmp_path / "run")
    assert pipeline.plan(settings, silent)["settings"]["equalize"] is equalized


def test_eval_of_the_file_gives_the_reports_numbers_to_the_digit(command, trained):
    report = report_of(trained)
    done = command("eval", trained / "student.safetensors", "--json", "--device", "cpu")
    assert done.code == 0, done.err
    again = json.loads(done.out)
    for key in KEYS - {"branches", "warnings"}:
        assert again[key] == report[key], key
    shown = command("eval", trained / "student.safetensors", "--device", "cpu")
    assert "equal to the report, to the digit" in shown.out


def test_eval_of_a_folder_data_set_compares_with_the_report_too(command, tiny, tmp_path):
    command("convert", *tiny, "--output", tmp_path / "run")
    done = command("eval", tmp_path / "run" / "student.safetensors", "--device", "cpu")
    assert "equal to the report, to the digit" in done.out


def test_eval_on_classes_of_other_names_says_so(command, tiny, shades, tmp_path):
    assert command("convert", *tiny, "--output", tmp_path / "run").code == 0
    file, data = tmp_path / "run" / "student.safetensors", shutil.copytree(shades, tmp_path / "tones")
    same = command("eval", file, "--dataset", data, "--device", "cpu", "--json")
    assert "other names" not in same.err
    for split in ("train", "test"):
        (data / split / "grey").rename(data / split / "medium")  # last by name, where light was
    done = command("eval", file, "--dataset", data, "--device", "cpu", "--json")
    assert done.code == 0, done.err
    (told,) = (text for text in json.loads(done.out)["warnings"] if "other names" in text)
    assert told.startswith(
        "2 of 3 classes of tones have other names than in the file (class 1 is 'light' there and 'grey'"
    )
    assert f"warning: {told}" in done.err


def test_eval_at_other_timesteps_agrees_with_top1_at(command, trained):
    done = command("eval", trained / "student.safetensors", "--timesteps", 2, "--json", "--device", "cpu")
    measured = json.loads(done.out)["student"]
    assert measured["top1_at"] == {t: report_of(trained)["student"]["top1_at"][t] for t in ("1", "2")}
    assert measured["top1"] == measured["top1_at"]["2"]


def test_the_teachers_accuracy_is_that_of_plain_timm_with_the_cached_weights(trained, cache):
    (path,) = (p for p in (cache / "teachers").glob("test_resnet-digits-*.safetensors") if is_of(p, epochs=3))
    model = timm.create_model("test_resnet", num_classes=10).eval()
    small_stem(model, img_size=16)
    model.load_state_dict(load_file(path))
    header = read_header(trained / "student.safetensors")
    test = load_dataset("digits").test
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (header.mean, header.std))
    with torch.no_grad():
        logits_NK = model((test.images_NCHW.float() / 255 - mean) / std)
    top1 = 100 * (logits_NK.argmax(1) == test.labels_N).double().mean().item()
    assert report_of(trained)["teacher"]["top1"] == pytest.approx(top1, abs=1e-9)


def is_of(path, *, epochs):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["snn_distill_teacher"])["epochs"] == epochs


def test_the_students_accuracy_is_that_of_its_file_image_by_image(trained):
    header, tensors = load_checkpoint(trained / "student.safetensors")
    student = student_from_header(header, tensors)
    test = load_dataset("digits").test
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (header.mean, header.std))
    with torch.no_grad():
        logits_TBK = torch.cat([student((x.float() / 255 - mean) / std, 3) for x in test.images_NCHW.split(90)], dim=1)
    hits = int((logits_TBK.double().mean(0).argmax(1) == test.labels_N).sum())
    assert abs(hits - report_of(trained)["student"]["top1"] * len(test) / 100) <= 2  # another batch flips spikes


def test_the_data_are_the_scans_of_scikit_learn(trained):
    assert len(load_dataset("digits").train) + 360 == len(load_digits().target)
    assert report_of(trained)["dataset"] == "digits"
    assert (
        read_header(trained / "student.safetensors").training["test_top1_at"]
        == (report_of(trained)["student"]["top1_at"])
    )


@pytest.mark.parametrize("arguments", ["drop_rate=0.1", "drop_rate=0.1,block_args=none,drop_path_rate=0.0"])
def test_rerunning_from_the_written_config_gives_the_same_student_bit_for_bit(command, tiny, tmp_path, arguments):
    """TOML has no null, which an argument of the model may be."""
    first, second = tmp_path / "first", tmp_path / "second"
    options = ("--mixup", 0.2, "--model-ema", 0.9, "--model-kwargs", arguments, "--opt", "adamw")
    assert command("convert", *tiny, *options, "--output", first).code == 0
    assert command("convert", "--resume", first).code == 0
    again = command("convert", "--config", first / "config.toml", "--output", second)
    assert again.code == 0, again.err
    assert_same_student(first, second)
    assert (first / "config.toml").read_text() == (second / "config.toml").read_text()
    resolved = tomllib.loads((first / "config.toml").read_text())
    assert resolved["weight_decay"] == 0.05
    assert math.isclose(resolved["lr"], 5e-4 * 12 / 128)


def assert_same_student(first, second):
    ours, theirs = (load_file(folder / "student.safetensors") for folder in (first, second))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize(
    "options",
    [
        "--method rate --alpha 0",
        "--method bptt --neuron if",
        "--alpha 1 --beta decay --temperature 4 --branches head,layer2 --grad-accum-steps 2 --batch-size 6",
        "--branches none --neuron if --init teacher --maxpool avg",
        "--neuron if --reset hard --v-init 0.25 --threshold 0.5 --opt adamw --warmup-epochs 1 --smoothing 0.1",
        "--branches fc --limit 24 --seed 3 --cutmix 1 --model-ema 0.99 --aa none --cutout 4 --deterministic",
    ],
)
def test_every_option_leads_to_a_report_that_names_it(command, tiny, tmp_path, options):
    words = options.split()
    done = command("convert", *tiny, *words, "--output", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    given = dict(zip(words[::2], words[1::2], strict=False))
    assert report["method"] == given.get("--method", "hybrid")
    assert report["neuron"] == given.get("--neuron", "lif")
    names = [] if report["method"] != "hybrid" or given.get("--branches") == "none" else None
    names = sorted(given["--branches"].split(",")) if names is None and "--branches" in given else names
    if names is not None:
        assert sorted(branch["name"] for branch in report["branches"]) == names
    again = command("eval", tmp_path / "run" / "student.safetensors", "--json", "--device", "cpu")
    assert json.loads(again.out)["student"] == report["student"]


def test_another_student_is_guided_by_the_teacher(command, tiny, tmp_path):
    done = command("convert", *tiny, "--student", "resnet10t", "--epochs", 1, "--output", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["model"], report["student"]["model"]) == ("test_resnet", "resnet10t")
    assert report["branches"]
    again = command("eval", tmp_path / "run" / "student.safetensors", "--json", "--device", "cpu")
    assert json.loads(again.out)["student"] == report["student"]


def test_initialising_from_the_teacher_copies_its_weights_and_calibrates_thresholds(command, tiny, cache, tmp_path):
    folder = tmp_path / "run"
    done = command("convert", *tiny, "--init", "teacher", "--lr", 1e-12, "--epochs", 1, "--output", folder)
    assert done.code == 0, done.err
    header, tensors = load_checkpoint(folder / "student.safetensors")
    assert len(set(header.thresholds.values())) == len(header.thresholds)
    teachers = (load_file(path) for path in (cache / "teachers").glob("test_resnet-shades-*.safetensors"))
    weights = [{name: tensor for name, tensor in teacher.items() if tensor.ndim > 1} for teacher in teachers]
    assert any(all(torch.allclose(tensors[name], own[name]) for name in own) for own in weights)


def test_equalising_rescales_what_was_copied_and_no_threshold(command, tiny, tmp_path):
    found = {}
    for flags in (("--equalize",), ()):
        folder = tmp_path / f"run{len(flags)}"
        run = ("--init", "teacher", *flags, "--lr", 1e-12, "--epochs", 1, "--output", folder)
        done = command("convert", *tiny, *run)
        assert done.code == 0, done.err
        found[flags] = load_checkpoint(folder / "student.safetensors")
    (header, tensors), (plain_header, plain) = found.values()
    assert header.thresholds == plain_header.thresholds
    assert not torch.allclose(tensors["bn1.weight"], plain["bn1.weight"])
    assert torch.allclose(tensors["conv1.0.weight"], plain["conv1.0.weight"])
