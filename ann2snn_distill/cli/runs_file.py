"""RUNS.toml to runs: defaults, a list, and grids.

[defaults]                     settings of every run, by the keys of `convert --config`
[[run]]                        one run; `name` is optional
[[grid]]                       every combination of the keys that have a list
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ann2snn_distill.cli.messages import shortened
from ann2snn_distill.cli.resolve import Positional, checked_settings, read_toml, unknown_key
from ann2snn_distill.cli.schema import properties
from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.errors import UsageError

if TYPE_CHECKING:
    from ann2snn_distill.batch import NamedRun

_PARTS = ("defaults", "run", "grid")
_SET_BY_BATCH = {
    "output": "every run gets a folder in the batch's own --output",
    "overwrite": "a run with other settings gets another folder",
    "resume": "every run goes on where it was",
}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,79}", re.ASCII)
_MOST_RUNS = 10_000


@dataclass(frozen=True)
class _Entry:
    """One run before its name is settled: where it stands in the file, its name if it has one, its settings."""

    where: str
    name: str | None
    settings: ConvertSettings
    axes: tuple[str, ...] = ()


def read_runs(path: Path) -> list["NamedRun"]:
    """Return the runs of a file, in its order.

    Raises:
        UsageError: the file, a key or a value does not fit; the text names it.
    """
    content = read_toml(path, "RUNS.toml")
    for key in content:
        if key not in _PARTS:
            raise UsageError(f"unknown part `{shortened(key)}` in {path}; it takes [defaults], [[run]] and [[grid]]")
    defaults = _part(content.get("defaults", {}), f"[defaults] of {path}", lists=False)
    if "name" in defaults:
        raise UsageError(f"`name` in [defaults] of {path} would name every run alike; name each [[run]]")
    readers = {"run": _runs, "grid": _grids}
    entries = [entry for key in content if key in readers for entry in readers[key](content, defaults, path)]
    if not entries:
        raise UsageError(f"{path} has no run; add a [[run]] or a [[grid]]")
    from ann2snn_distill.batch import NamedRun  # torch comes with it: a bad file is refused before

    varied = _varied(entries)
    return [
        NamedRun(_name(entry, varied), entry.settings, {key: _plain(entry.settings, key) for key in varied})
        for entry in entries
    ]


def _runs(content: Mapping[str, Any], defaults: Mapping[str, Any], path: Path) -> Iterator[_Entry]:
    for number, part in enumerate(_tables(content, "run", path), 1):
        where = f"run {number} of {path}"
        values = _part(part, where, lists=False)
        name = _own_name(values.pop("name", None), where)
        yield _Entry(where, name, _settings({**defaults, **values}, where))


def _grids(content: Mapping[str, Any], defaults: Mapping[str, Any], path: Path) -> Iterator[_Entry]:
    for number, part in enumerate(_tables(content, "grid", path), 1):
        where = f"grid {number} of {path}"
        values = _part(part, where, lists=True)
        name = _own_name(values.pop("name", None), where)
        axes = {key: value for key, value in values.items() if isinstance(value, list)}
        _check_axes(axes, where)
        fixed = {**defaults, **values}
        for chosen in itertools.product(*axes.values()):
            combined = {**fixed, **dict(zip(axes, chosen, strict=True))}
            yield _Entry(where, name, _settings(combined, where), tuple(axes))


def _check_axes(axes: Mapping[str, list[Any]], where: str) -> None:
    for key, value in axes.items():
        if not value:
            raise UsageError(f"`{key}` in {where} is an empty list; give at least one value")
    count = math.prod(map(len, axes.values()))
    if count > _MOST_RUNS:
        raise UsageError(f"{where} has {count} combinations, and at most {_MOST_RUNS} are taken; shorten its lists")


def _tables(content: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    tables = content.get(key, [])
    if not isinstance(tables, list):
        raise UsageError(f"[{key}] in {path} takes double brackets: [[{key}]]")
    return tables


def _part(part: object, where: str, *, lists: bool) -> dict[str, Any]:
    """Return the keys of a table with underscores, all of them known."""
    if not isinstance(part, dict):
        raise UsageError(f"{where} is no table; write `key = value` lines under its heading")
    known = properties(ConvertSettings)
    values: dict[str, Any] = {}
    for key, value in part.items():
        field = key.replace("-", "_")
        if field in values:
            raise UsageError(f"`{shortened(key)}` stands twice in {where}, with dashes and with underscores; keep one")
        if field in _SET_BY_BATCH:
            raise UsageError(f"`{key}` in {where} cannot be set: {_SET_BY_BATCH[field]}")
        if field != "name" and field not in known:
            raise unknown_key(key, where, known)
        if isinstance(value, list) and not lists:
            raise UsageError(f"`{key}` in {where} is a list; lists belong into a [[grid]]")
        values[field] = value
    return values


def _settings(values: dict[str, Any], where: str) -> ConvertSettings:
    return checked_settings(
        ConvertSettings,
        values,
        name=lambda field: f"`{field}` in {where}",
        positional=Positional("model", "model"),
        required=("dataset",),
    )


def _own_name(name: object, where: str) -> str | None:
    if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise UsageError(f"`name` in {where} must be letters, digits, dots, dashes and underscores, 80 at most")
    return name


def _varied(entries: list[_Entry]) -> list[str]:
    """The settings that differ between the runs and change what they compute, in the order of the flags."""
    from ann2snn_distill.pipeline.outputs import FREE_SETTINGS

    return [
        key
        for key in properties(ConvertSettings)
        if key not in FREE_SETTINGS
        and any(_plain(entry.settings, key) != _plain(entries[0].settings, key) for entry in entries)
    ]


def _plain(settings: ConvertSettings, key: str) -> Any:
    return settings.model_dump(mode="json", include={key})[key]


def _name(entry: _Entry, varied: list[str]) -> str:
    """The name given, followed by a grid's axes; or what the run is, followed by what varies."""
    settings = entry.settings
    if entry.name is not None:
        return "-".join([entry.name, *filter(None, (_word(key, _plain(settings, key)) for key in entry.axes))])
    dataset = Path(settings.dataset or "").name
    named = ("model", "dataset", "timesteps", "seed")
    words = [settings.model, dataset, f"t{settings.timesteps}", f"s{settings.seed}"]
    words += [_word(key, _plain(settings, key)) for key in varied if key not in named]
    return _safe("-".join(word for word in words if word))


def _word(key: str, value: object) -> str:
    if value is None:  # left to the default
        return ""
    short = {"timesteps": "t", "seed": "s", "model": "", "dataset": "", "student": "", "method": ""}
    return _safe(f"{short.get(key, key + '_')}{value}")


def _safe(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text, flags=re.ASCII).strip("._-")[:100] or "run"
