"""The fields of a settings model as the command line needs them, read from its JSON schema."""

import inspect
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_METAVARS = {"integer": "INTEGER", "number": "NUMBER", "object": "KEY=VALUE,...", "string": "TEXT"}


@dataclass(frozen=True)
class Property:
    """One field: its JSON type, whether it may be left undecided, and what the help says."""

    type: str
    nullable: bool
    description: str
    metavar: str
    help: str


def properties(settings: type[BaseModel]) -> dict[str, Property]:
    """Return the fields of `settings`: its own first, then those of each base."""
    schemas = settings.model_json_schema()["properties"]
    names = dict.fromkeys(name for base in settings.__mro__ for name in inspect.get_annotations(base))
    return {name: _property(schemas[name]) for name in names if name in schemas}


def _property(schema: dict[str, Any]) -> Property:
    variants = schema.get("anyOf", [schema])
    value = next(variant for variant in variants if variant["type"] != "null")
    return Property(
        type=value["type"],
        nullable=len(variants) > 1,
        description=schema["description"],
        metavar=_metavar(value),
        help=_help(schema, value),
    )


def _metavar(value: dict[str, Any]) -> str:
    if "enum" in value:
        return "|".join(value["enum"])
    return "PATH" if value.get("format") == "path" else _METAVARS.get(value["type"], "")


def _help(schema: dict[str, Any], value: dict[str, Any]) -> str:
    notes = [f"{words} {value[key]}" for key, words in _BOUNDS.items() if key in value]
    default = schema.get("default")
    if default is not None and default is not False:
        notes.append(f"default {default:g}" if isinstance(default, float) else f"default {default}")
    return f"{schema['description']} [{', '.join(notes)}]" if notes else str(schema["description"])
