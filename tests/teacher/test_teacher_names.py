import pytest

from ann2snn_distill.errors import UsageError
from ann2snn_distill.teacher import resolve_model_name


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k", " test_resnet "])
def test_a_known_name_stays_as_it_is(name):
    assert resolve_model_name(name) == name.strip()


def test_the_hub_old_prefix_becomes_the_new_one():
    assert resolve_model_name("hf_hub:org/net") == "hf-hub:org/net"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resnet19", "timm knows no model 'resnet19'; did you mean resnet"),
        ("ResNet-18", "did you mean resnet18"),
        ("qqqqqqqq", "timm.list_models()"),
        ("resnet18.nope_in1k", "timm knows no weights 'nope_in1k' for resnet18; it has "),
        ("org/net", "write hf-hub:org/name"),
        ("hf-hub:net", "write hf-hub:org/name"),
        ("./net.pth", "is not a model's name, but a file's; give the timm name of its network"),
        ("net.pth", "--checkpoint FILE"),
        ("net.safetensors", "--checkpoint FILE"),
    ],
)
def test_an_unknown_name_is_a_usage_error_with_a_way_on(name, text):
    with pytest.raises(UsageError) as caught:
        resolve_model_name(name)
    assert text in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_tags_on_offer_are_timms():
    with pytest.raises(UsageError, match="a1_in1k"):
        resolve_model_name("resnet18.nope")


def test_a_folder_is_no_name_and_the_student_in_it_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"is not a model's name, but a folder; give a timm name$"):
        resolve_model_name(str(tmp_path))
    (tmp_path / "student.safetensors").touch()
    with pytest.raises(UsageError, match=r"take the student\.safetensors in it, convert takes it with --init"):
        resolve_model_name(str(tmp_path))
