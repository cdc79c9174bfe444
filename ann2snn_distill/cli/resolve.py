"""From flags and a TOML file to settings: flags beat the file, and the model checks both."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ann2snn_distill.cli.keyvalues import parse_keyvalues
from ann2snn_distill.cli.messages import explain, flag_of, shortened
from ann2snn_distill.cli.schema import Property, properties
from ann2snn_distill.errors import UsageError

Settings = TypeVar("Settings", bound=BaseModel)

_LARGEST_TOML = 1_000_000
"""Bytes; the longest list of settings is far below."""

_LONGEST_KEY = 100


@dataclass(frozen=True)
class Positional:
    """The field that is given without a flag, its name in the help, and the flag in whose presence it is not given."""

    field: str
    metavar: str
    unless: str | None = None


def resolve(
    settings: type[Settings],
    flags: Mapping[str, object],
    *,
    config: Path | None,
    positional: Positional,
    required: tuple[str, ...] = (),
) -> Settings:
    """Merge `flags` (None: not given) over the keys of `config` and validate them as `settings`.

    Raises:
        UsageError: a value, key or file does not fit; the text names the flag or key and its bound.
    """
    known = properties(settings)
    given = {field: value for field, value in flags.items() if value is not None}
    values = {**(_read(config, known) if config is not None else {}), **given}

    def name(field: str) -> str:
        if field in values and field not in given:
            return f"`{field}` in {config}"
        return positional.metavar if field == positional.field else flag_of(field)

    return checked_settings(settings, values, name=name, positional=positional, required=required)


def checked_settings(
    settings: type[Settings],
    values: dict[str, Any],
    *,
    name: Callable[[str], str],
    positional: Positional,
    required: tuple[str, ...] = (),
) -> Settings:
    """Validate `values`, whose keys are fields, as `settings`; `name` says where a field's value was given.

    Raises:
        UsageError: a value is missing or does not fit.
    """
    known = properties(settings)
    replaced = positional.unless is not None and bool(values.get(positional.unless))
    if replaced and positional.field in values:
        raise UsageError(f"{name(positional.unless or '')} takes no {positional.metavar}; give one or the other")
    for field in (*(() if replaced else (positional.field,)), *required):
        if field not in values:
            raise UsageError(f"{name(field)} is missing: {known[field].description}")
    for field, value in values.items():
        _refuse_misfit(value, known[field], name=name(field))
    if isinstance(values.get("model_kwargs"), str):
        values = {**values, "model_kwargs": parse_keyvalues(str(values["model_kwargs"]))}
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        raise UsageError(explain(error, name)) from error


def _refuse_misfit(value: object, known: Property, *, name: str) -> None:
    """Refuse what pydantic would silently take: empty text as a path, and true as the number 1."""
    if value == "":
        raise UsageError(f"{name} is empty; give a value or leave it out")
    if isinstance(value, bool) and known.type != "boolean":
        raise UsageError(f"{name} takes a value, not {str(value).lower()}")


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file; `what` says what it was given as.

    Raises:
        UsageError: it cannot be read, is no regular file, is too large for settings, or is no TOML.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe would be waited for
            raise UsageError(f"{what} {path} is no regular file; write the settings to one")
        if path.is_file() and path.stat().st_size > _LARGEST_TOML:
            raise UsageError(f"{what} {path} has {path.stat().st_size:,} bytes, too many for settings; check the path")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {what} {path}: {error.strerror or error}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} {path} is not TOML: {shortened(error)}; mend it there") from error


def unknown_key(key: str, where: object, known: Mapping[str, Property]) -> UsageError:
    """Return the refusal of a key, with what was probably meant."""
    return UsageError(f"unknown key `{shortened(key)}` in {where}; {_way_on(key.replace('-', '_'), known)}")


def _read(path: Path, known: Mapping[str, Property]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in read_toml(path, "the settings file").items():
        field = key.replace("-", "_")
        if field not in known:
            raise unknown_key(key, path, known)
        if field in values:
            raise UsageError(f"`{shortened(key)}` stands twice in {path}, with dashes and with underscores; keep one")
        values[field] = value
    return values


def _way_on(field: str, known: Mapping[str, Property]) -> str:
    near = get_close_matches(field[:_LONGEST_KEY], known)
    return f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else "--help lists the flags it may name"
