"""Names of networks: what timm knows, and what was probably meant."""

import difflib
import re
from pathlib import Path

import timm
from timm.models import list_models, list_pretrained, split_model_name_tag

from ann2snn_distill.errors import UsageError
from ann2snn_distill.teacher.files import SUFFIXES

_HUB = re.compile(r"hf[-_]hub:(?P<repo>[\w.-]+/[\w.-]+(@[\w./-]+)?)")


def resolve_model_name(name: str) -> str:
    """Return the name as timm takes it: `arch`, `arch.tag` or `hf-hub:org/name`.

    Nothing is fetched: whether a hub repository exists shows when it is loaded.

    Raises:
        UsageError: timm does not know the architecture or the tag; the text offers near names.
    """
    name = name.strip()
    hub = _HUB.fullmatch(name)
    if hub:
        return f"hf-hub:{hub['repo']}"
    if "/" in name or ":" in name or _is_file_name(name):
        raise UsageError(f"{name!r} is not a model's name{_what_else(Path(name))}")
    architecture, tag = split_model_name_tag(name)
    if not timm.is_model(architecture):
        raise UsageError(f"timm knows no model {architecture!r}; {_near(architecture)}")
    if tag and name not in list_pretrained(f"{architecture}.*"):
        raise UsageError(f"timm knows no weights {tag!r} for {architecture}; {_tags(architecture)}")
    return name


def is_hub_name(name: str) -> bool:
    """Whether a resolved name stands for a repository of the Hugging Face hub."""
    return name.startswith("hf-hub:")


def _is_file_name(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _what_else(path: Path) -> str:
    """Say what a path is that stands in a model's place, and what to give instead."""
    if (path / "student.safetensors").is_file():
        return ", but a folder; inspect and eval take the student.safetensors in it, convert takes it with --init"
    if path.is_dir():
        return ", but a folder; give a timm name"
    if path.is_file() or _is_file_name(path.name):
        return (
            ", but a file's; give the timm name of its network "
            "(convert and teach take its weights with --checkpoint FILE)"
        )
    return "; write hf-hub:org/name for the Hugging Face hub, or a timm name"


def _near(architecture: str) -> str:
    names: list[str] = list_models()
    near = difflib.get_close_matches(architecture.lower(), names, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return "its names are listed by timm.list_models() and at https://huggingface.co/timm"


def _tags(architecture: str) -> str:
    tags = [split_model_name_tag(full)[1] for full in list_pretrained(f"{architecture}.*")]
    return f"it has {', '.join(tags)}" if tags else f"it has none; write {architecture}"
