"""docs/supported-models.md is what `inspect --all` finds."""

import importlib.util
import re
from pathlib import Path

import pytest
import timm

from ann2snn_distill.config import InspectSettings
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


@pytest.mark.zoo
def test_the_page_is_what_inspect_all_finds():
    found = inspect_families(InspectSettings(all=True), silent)
    assert generator().with_families(PAGE, found) == PAGE, "timm or the rules changed: see the page's first lines"
