"""Rewrite the generated tables of docs/checkpoint-format.md from the schemas: `python docs/generate.py`.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; NAME is a model below.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ann2snn_distill.checkpoint import SnnHeader
from ann2snn_distill.reporting.report import Report

PAGE = Path(__file__).with_name("checkpoint-format.md")

MODELS: dict[str, type[BaseModel]] = {"SnnHeader": SnnHeader, "Report": Report}

_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def rewritten(page: str) -> str:
    """Return `page` with every generated part written anew."""
    return _PART.sub(lambda part: f"{part[1]}\n{tables(MODELS[part[2]])}\n{part[3]}", page)


def tables(model: type[BaseModel]) -> str:
    """Return a table of the fields of `model`, and one for each model in it."""
    schema = model.model_json_schema()
    parts = [_table(model.__name__, schema)]
    parts += [_table(name, part) for name, part in schema.get("$defs", {}).items()]
    return "\n".join(parts)


def _table(name: str, schema: Mapping[str, Any]) -> str:
    rows = [
        f"| `{field}` | {_type(part)} | {'; '.join(_bounds(part))} | {part.get('description', '')} |"
        for field, part in schema["properties"].items()
    ]
    lines = [f"#### {name}", "", schema["description"], "", "| field | type | bounds | meaning |"]
    return "\n".join([*lines, "| --- | --- | --- | --- |", *rows, ""])


def _type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(variant) for variant in schema["anyOf"])
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        return _list(schema)
    if schema["type"] == "object":
        values = schema.get("additionalProperties")
        return f"map of text to {_type(values)}" if isinstance(values, dict) else "map"
    return _TYPES[schema["type"]]


def _list(schema: Mapping[str, Any]) -> str:
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}: {_type(schema['prefixItems'][0])}"
    return f"list of {_type(schema['items'])}"


def _bounds(schema: Mapping[str, Any]) -> Iterator[str]:
    """Say the bounds of a value, and those of the values in a list or a map."""
    for variant in schema.get("anyOf", [schema]):
        yield from (f"{words} {variant[key]:g}" for key, words in _BOUNDS.items() if key in variant)
        if "minItems" in variant and "prefixItems" not in variant:
            yield f"at least {variant['minItems']} of them"
        inner = [variant.get("additionalProperties"), variant.get("items"), *variant.get("prefixItems", [])[:1]]
        yield from (f"each {bound}" for part in inner if isinstance(part, dict) for bound in _bounds(part))


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
