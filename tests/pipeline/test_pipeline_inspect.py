"""`inspect` and `--dry-run`: what is said before or without a conversion, and that it is true."""

import json

import pytest
import timm
import torch
from refusals import refused
from timm.models import _factory

from ann2snn_distill.checkpoint import load_checkpoint, save_checkpoint
from ann2snn_distill.config import InspectSettings
from ann2snn_distill.events import silent
from ann2snn_distill.pipeline import inspect, surveying
from ann2snn_distill.teacher import hub, small_stem

ARCHITECTURES = (
    "resnet18",
    "resnet50",
    "resnetv2_50",
    "vgg11_bn",
    "mobilenetv2_100",
    "densenet121",
    "regnetx_002",
    "res2net50_14w_8s",
)


def counted(name, img_size):
    """Multiply-accumulates of a plain timm model, counted by hooks."""
    model = timm.create_model(name, num_classes=10).eval()
    if img_size <= 64:
        small_stem(model, img_size=img_size)
    total = []

    def count(module, inputs, output):
        weight = module.weight
        total.append(output.numel() * weight.numel() // weight.shape[0])

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 3, img_size, img_size))
    return sum(total), sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["test_resnet", pytest.param("resnet18", marks=pytest.mark.slow)])
@pytest.mark.parametrize("img_size", [16, 96])
def test_inspect_counts_what_hooks_on_the_plain_model_count(command, name, img_size):
    done = command("inspect", name, "--img-size", img_size, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    macs, parameters = counted(name, img_size)
    assert found["coverage"]["total_macs"] == macs
    assert found["parameters"] == parameters == sum(stage["parameters"] for stage in found["stages"])


@pytest.fixture
def hub_side(monkeypatch):
    """Size, or None for none -> a hub whose every repository holds a test_resnet for images of that size."""

    def answer(size):
        config = timm.get_pretrained_cfg("test_resnet").to_dict() | {"input_size": size}
        for where in (hub, _factory):
            monkeypatch.setattr(where, "load_model_config_from_hf", lambda *a, **k: (config, "test_resnet", {}))

    return answer


@pytest.mark.parametrize(("size", "side"), [([3, 32, 32], 32), ([3, 96, 96], 96), (None, 224)])
def test_a_hub_network_is_inspected_at_the_side_that_its_configuration_names(command, hub_side, size, side):
    hub_side(size)
    done = command("inspect", "hf-hub:org/net", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["model"], found["img_size"]) == ("hf-hub:org/net", side)
    same = json.loads(command("inspect", "test_resnet", "--img-size", side, "--json").out)
    assert found["coverage"] == same["coverage"]


def test_a_hub_network_is_timed_at_the_side_that_its_configuration_names(command, hub_side):
    hub_side([3, 32, 32])
    options = "--method ann --batch-size 2 --steps 1 --device cpu --json"
    done = command("bench", "hf-hub:org/net", *options.split())
    assert done.code == 0, done.err
    assert json.loads(done.out)["img_size"] == 32


def test_a_side_that_is_none_is_refused(command, hub_side):
    hub_side("large")
    done = command("inspect", "hf-hub:org/net")
    refused(done, 1, "hf-hub:org/net names 'large' as the size of its images; give --img-size")


def test_the_image_side_is_no_keyword_for_timm(command):
    done = command("inspect", "test_resnet", "--model-kwargs", "img_size=abc")
    refused(done, 2, "--model-kwargs cannot set img_size: --img-size sets it")


def coverage_of(command, name):
    done = command("inspect", name, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_inspect_knows_small_networks(command):
    found = coverage_of(command, "test_resnet")
    assert [stage["name"] for stage in found["stages"] if stage["branch"]] == ["layer1", "layer2", "layer3"]
    shown = command("inspect", "test_resnet")
    assert "spiking coverage: " in shown.out


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_inspect_knows_every_architecture_of_the_first_release(command, name):
    found = coverage_of(command, name)
    assert 0 < found["coverage"]["share"] < 1
    assert sum(stage["neurons"] for stage in found["stages"]) > 3
    assert found["coverage"]["total_macs"] == counted(name, found["img_size"])[0]


def test_inspect_says_why_a_network_cannot_be_converted(command):
    done = command("inspect", "csatv2", "--img-size", 64, "--stem", "keep")
    assert (done.code, done.out) == (4, "")
    assert "stages.0.0.attn.attn computes a value for every pair of a batch's images" in done.err


def test_inspect_says_that_an_encoder_has_no_classifier(command):
    done = command("inspect", "qwen3_vit_88m_enc", "--img-size", 96, "--json")
    assert (done.code, done.out) == (4, "")
    assert "gives (1, 9, 1024) instead of 10 logits for one image: it has no classifier; choose a class" in done.err


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet", "test_vit"])
def test_full_coverage_leaves_only_the_first_layer_analog(command, name):
    plain = coverage_of(command, name)
    done = command("inspect", name, "--coverage", "full", "--json")
    assert done.code == 0, done.err
    full = json.loads(done.out)
    assert plain["coverage"]["share"] < full["coverage"]["share"] < 1  # the layer that reads the image stays analog
    assert full["share_after_first"] == 1
    assert full["coverage"]["total_macs"] == plain["coverage"]["total_macs"]


@pytest.fixture
def three_families(monkeypatch):
    monkeypatch.setattr(timm, "list_modules", lambda: ["csatv2", "resnet", "vision_transformer"])


@pytest.mark.usefixtures("three_families")
def test_inspect_all_takes_one_model_of_each_family_under_both_coverages(command):
    found = json.loads(command("inspect", "--all", "--json").out)
    assert found["timm"] == timm.__version__
    refused, resnet, vit = found["families"]
    assert "for every pair of a batch's images" in refused["refused"]
    assert (resnet["model"], vit["model"]) == ("test_resnet", "test_vit")
    for name, fate in (("test_resnet", resnet), ("test_vit", vit)):
        alone = coverage_of(command, name)
        assert fate["total_macs"] == alone["coverage"]["total_macs"]
        assert fate["parameters"] == alone["parameters"]
        assert fate["activations"]["share"] == alone["coverage"]["share"]
        assert fate["branches"] == [stage["name"] for stage in alone["stages"] if stage["branch"]]
        full = json.loads(command("inspect", name, "--coverage", "full", "--json").out)
        assert fate["full"]["share"] == full["coverage"]["share"]
        assert fate["full"]["neurons"] == sum(stage["neurons"] for stage in full["stages"])


@pytest.mark.parametrize(("count", "cpus", "expected"), [(98, 2, 2), (98, 1, 1), (98, 64, 12), (3, 64, 0)])
def test_inspect_all_shares_its_families_out_between_the_processors(monkeypatch, count, cpus, expected):
    asked, families = [], timm.list_modules()
    monkeypatch.setattr(timm, "list_modules", lambda: families[:count])
    monkeypatch.setattr(surveying, "usable_cpus", lambda: cpus)
    monkeypatch.setattr(surveying, "in_processes", lambda work, values, *, processes: asked.append(processes) or ())
    surveying.inspect_families(InspectSettings(all=True), silent)
    assert asked == [expected]


@pytest.mark.usefixtures("three_families")
def test_inspect_all_shows_a_line_a_family_and_the_reasons(command):
    shown = command("inspect", "--all")
    assert shown.code == 0, shown.err
    assert "2 of 3 families of timm" in shown.out
    assert "csatv2 (csatv2): stages.0.0.attn.attn computes" in shown.out
    strict = command("inspect", "--all", "--strict", 50)
    assert strict.code == 4
    assert "0.00 % of the multiply-accumulates of csatv2, and too little of 1 more, below --strict 50 %" in strict.err
    assert strict.err.rstrip().endswith("; --coverage full is enough for 1 of them")
    assert command("inspect", "--all", "--strict", 99.9).err.rstrip().endswith("is enough for none of them")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "MODEL|CKPT is missing"),
        (("test_resnet", "--all"), "--all takes no MODEL|CKPT"),
        (("--all", "--img-size", 64), "leave out --img-size"),
        (("--all", "--timesteps", 4), "--all estimates no training; leave out --timesteps and --batch-size"),
        (("--all", "--batch-size", 64), "--all estimates no training; leave out --timesteps and --batch-size"),
    ],
)
def test_inspect_takes_a_model_or_all(command, arguments, text):
    done = command("inspect", *arguments)
    assert (done.code, done.out) == (2, "")
    assert text in done.err


def test_inspect_shows_the_share_after_the_first_layer_and_the_products_of_attention(command):
    found = coverage_of(command, "test_vit")
    shown = command("inspect", "test_vit").out
    assert f"after the first layer, which reads the image: {100 * found['share_after_first']:.2f} %" in shown
    assert f"come on top: {found['product_macs']:,} multiply-accumulates" in shown
    assert "products of two activations" not in command("inspect", "test_resnet").out


def test_inspect_of_a_student_is_inspect_of_its_network(command, trained):
    of_file = json.loads(command("inspect", trained / "student.safetensors", "--json").out)
    form = ("--img-size", 16, "--classes", 10, "--timesteps", of_file["training"]["timesteps"])
    assert of_file == json.loads(command("inspect", "test_resnet", *form, "--json").out)


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        (("--coverage", "full"), "coverage activations; leave out --coverage"),
        (("--maxpool", "avg"), "maxpool keep; leave out --maxpool"),
        (("--classes", 5, "--img-size", 224), "img-size 16 and classes 10; leave out --img-size and --classes"),
        (("--stem", "keep"), "stem small; leave out --stem"),
        (("--model-kwargs", "a=1"), "model-kwargs none; leave out --model-kwargs"),
    ],
)
def test_what_a_students_file_decides_cannot_be_told_otherwise(command, trained, flags, has):
    path = trained / "student.safetensors"
    refused(command("inspect", path, *flags), 2, f"{path} decides this itself: it has {has}")


def test_what_a_students_file_leaves_open_is_taken_from_the_flags(command, trained):
    path = trained / "student.safetensors"
    same = ("--coverage", "activations", "--img-size", 16, "--stem", "auto")  # as the file has it
    found = json.loads(command("inspect", path, *same, "--timesteps", 8, "--batch-size", 7, "--json").out)
    form = ("--img-size", 16, "--timesteps", 8, "--batch-size", 7)
    assert found == json.loads(command("inspect", "test_resnet", *form, "--json").out)
    assert (found["training"]["timesteps"], found["training"]["batch_size"]) == (8, 7)


ASK_LESS = "ask for less, or choose another model"


def share_under_full(command, name, *flags):
    found = json.loads(command("inspect", name, *flags, "--coverage", "full", "--json").out)
    return f"{100 * found['coverage']['share']:.2f} %"


def test_the_hint_of_strict_follows_the_coverage_of_a_file(command, trained, tmp_path):
    header, tensors = load_checkpoint(trained / "student.safetensors")
    path = tmp_path / "student.safetensors"
    full = share_under_full(command, "test_resnet", "--img-size", 16)
    hints = {
        ("activations", 100): f"converted with --coverage full it is {full}, too little as well: {ASK_LESS}",
        ("full", 100): f"full coverage is the most there is: {ASK_LESS}",
    }
    for (coverage, strict), hint in hints.items():
        save_checkpoint(path, tensors, header.model_copy(update={"coverage": coverage}))
        done = command("inspect", path, "--strict", strict)
        assert done.code == 4, done.err
        assert done.err.rstrip().endswith(f"below --strict {strict} %; {hint}")


@pytest.mark.parametrize("strict", [50, 99.9])
def test_the_hint_of_strict_says_what_full_coverage_would_give(command, strict):
    done = command("inspect", "test_vit", "--strict", strict)
    enough = "" if strict == 50 else f", too little as well: {ASK_LESS}"
    assert done.err.rstrip().endswith(
        f"; converted with --coverage full it is {share_under_full(command, 'test_vit')}{enough}"
    )


@pytest.mark.parametrize("coverage", ["activations", "full"])
def test_gates_and_other_operations_that_stay_analog_are_counted_in_a_warning(command, coverage):
    gates = command("inspect", "test_efficientnet", "--coverage", coverage, "--json")
    (text,) = json.loads(gates.out)["warnings"]
    assert text.startswith("operations on analog values stay under every --coverage: Sigmoid (2), mul (2); ")
    vit = json.loads(command("inspect", "test_vit", "--coverage", coverage, "--json").out)["warnings"]
    assert "LayerNorm (13), scaled_dot_product_attention (6);" in vit[0]
    assert not any("operations on analog" in text for text in coverage_of(command, "test_resnet")["warnings"])


@pytest.mark.parametrize(
    ("model", "way_on", "code"),
    [("vgg11_bn", "--maxpool avg replaces them", 0), ("inception_v3", "--maxpool avg cannot replace these", 4)],
)
def test_what_is_said_of_max_pools_is_true(command, model, way_on, code):
    found = json.loads(command("inspect", model, "--img-size", 96, "--json").out)
    assert [text.rpartition("; ")[2] for text in found["warnings"] if text.startswith("max pools")] == [way_on]
    assert command("inspect", model, "--img-size", 96, "--maxpool", "avg").code == code


@pytest.mark.parametrize(("coverage", "percent", "code"), [("activations", 50, 4), ("full", 50, 0), ("full", 99, 4)])
def test_strict_judges_the_coverage_that_was_asked_for(command, coverage, percent, code):
    done = command("inspect", "test_vit", "--coverage", coverage, "--strict", percent)
    assert done.code == code, done.err
    assert ("converted with --coverage full it is" in done.err) == (coverage == "activations")
    assert (f"below --strict {percent} %" in done.err) == (code == 4)


def test_a_coverage_below_strict_exits_4(command):
    done = command("inspect", "test_resnet", "--strict", 99.9)
    assert done.code == 4
    assert "below --strict 99.9 %" in done.err


def test_a_dry_run_says_what_the_run_then_does_and_writes_nothing(command, tiny, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def kept():
        """Everything in the cache but decoded images, which reading the data may add."""
        return {path for path in cache.rglob("*") if "decoded" not in path.parts}

    before = kept()
    done = command("convert", *tiny, "--seed", 5, "--dry-run", "--json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert list(tmp_path.iterdir()) == []
    assert kept() == before
    assert plan["data"] == {"train": 36, "test": 12, "classes": 3, "steps an epoch": 3}
    assert plan["teacher"]["trained first"] == "1 epochs"
    shown = command("convert", *tiny, "--seed", 5, "--dry-run")
    assert all(word in shown.out for word in ("stages", "branches", "coverage", "layer3"))
    exact = command("convert", *tiny, "--lr", 0.0123456789, "--dry-run")
    assert "0.0123456789" in exact.out, "as it can be given again"
    run = command("convert", *tiny, "--seed", 5, "--json")
    report = json.loads(run.out)
    assert plan["output"] == "runs/test_resnet-shades-t2-1"
    assert (tmp_path / plan["output"] / "report.json").exists()
    assert [branch["name"] for branch in report["branches"]] == plan["branches"]
    assert report["coverage"] == plan["coverage"]
    again = command("convert", *tiny, "--seed", 5, "--dry-run", "--json")
    assert json.loads(again.out)["output"] == "runs/test_resnet-shades-t2-2"
    resumed = command("convert", *tiny, "--seed", 5, "--resume", "auto", "--json")
    assert (resumed.code, json.loads(resumed.out)) == (0, report)


@pytest.mark.parametrize("model", ["test_resnet", "vit_tiny_patch16_224", "swinv2_tiny_window8_256"])
def test_the_parameters_of_the_stages_are_those_of_the_network(model):
    found = inspect(model, settings=InspectSettings(model=model), observe=silent)
    assert sum(stage.parameters for stage in found.stages) == found.parameters
