"""docs/supported-models.md is what `inspect --all` finds."""

import importlib.util
import re
from pathlib import Path

import pytest
import timm
import torch
from torch.fx import symbolic_trace
from torch.fx.proxy import TraceError

from ann2snn_distill.config import InspectSettings
from ann2snn_distill.conversion.coverage import coverage
from ann2snn_distill.conversion.network import partitioned
from ann2snn_distill.events import silent
from ann2snn_distill.pipeline.surveying import family_fate, inspect_families
from ann2snn_distill.reporting.families import REPRESENTATIVES

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "supported-models.md").read_text(encoding="utf-8")
CHEAP = ("byobnet", "convnext", "efficientnet", "resnet", "vgg", "vision_transformer", "swin_transformer")
"""Inspected in a second each."""


def generator():
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fate_of(family):
    return family_fate(family, REPRESENTATIVES[family], classes=10, maxpool="keep")


@pytest.mark.parametrize("family", CHEAP)
def test_the_line_of_a_family_is_what_its_network_becomes(family):
    assert generator().family_row(fate_of(family)) in PAGE.splitlines()


def test_what_is_refused_stands_there_with_its_reason():
    fate = fate_of("csatv2")
    assert f"- `csatv2` (`csatv2`): {fate.refused}" in PAGE.splitlines()


def test_the_families_of_the_page_are_timms():
    (made_with,) = re.findall(r"families of timm (\S+), ", PAGE)
    if made_with != timm.__version__:
        pytest.skip(f"the page is of timm {made_with}, and {timm.__version__} is installed")
    shown = re.findall(r"^\| (\w+) \| `", PAGE, re.MULTILINE) + re.findall(r"^- `(\w+)` \(`", PAGE, re.MULTILINE)
    assert sorted(shown) == timm.list_modules()


def test_at_least_94_families_convert_and_all_but_the_first_layers_and_lstms_are_driven_by_spikes_under_full_coverage():
    rows = dict(re.findall(r"^\| (\w+) \| `.*, (\S+) \|$", PAGE, re.MULTILINE))
    assert len(rows) >= 94
    assert [family for family, after_first in rows.items() if float(after_first) != 100] == ["sequencer"]


PEERS_REFUSE = {
    "BatchNormAct2d": "test_efficientnet",
    "SiLU": "test_efficientnet",
    "Sigmoid": "test_efficientnet",
    "LayerNorm": "test_vit",
    "GELU": "test_vit",
}
"""Modules at which converters of others stop, and a network that is made of them."""


@pytest.mark.parametrize(("kind", "name"), PEERS_REFUSE.items())
@pytest.mark.parametrize("full", [False, True])
def test_what_other_converters_refuse_is_converted(kind, name, full):
    model = timm.create_model(name)
    assert kind in {type(module).__name__ for module in model.modules()}
    assert coverage(partitioned(model, img_size=160, full_coverage=full).sites).spiking_macs > 0


@pytest.mark.parametrize("full", [False, True])
def test_a_forward_that_plain_tracing_cannot_follow_is_converted(full):
    model = timm.create_model("test_vit")
    with pytest.raises(TraceError, match="control flow"):
        symbolic_trace(model)
    assert coverage(partitioned(model, img_size=160, full_coverage=full).sites).spiking_macs > 0


@pytest.mark.parametrize("full", [False, True])
def test_a_network_that_splits_its_channels_is_converted(full):
    with torch.device("meta"):
        model = timm.create_model("res2net50_14w_8s")
    sites = partitioned(model, img_size=224, full_coverage=full).sites
    assert "split" in {fate.operation for fate in coverage(sites).layers}
    assert coverage(sites).spiking_macs > 0


@pytest.mark.zoo
def test_the_page_is_what_inspect_all_finds():
    found = inspect_families(InspectSettings(all=True), silent)
    assert generator().with_families(PAGE, found) == PAGE, "timm or the rules changed: see the page's first lines"
