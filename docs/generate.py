"""Rewrite the generated parts of the pages.

- `python docs/generate.py`: the tables of checkpoint-format.md, from the schemas, and that of quickstart.md, from the
  recipes;
- `snn-distill inspect --all --json > families.json`, then `python docs/generate.py families.json`: those of
  supported-models.md, from what was inspected.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; NAME is a model below, Families or
Recipes.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ann2snn_distill import recipes
from ann2snn_distill.checkpoint import SnnHeader
from ann2snn_distill.reporting.inspection import CoveredFate, Families, FamilyFate
from ann2snn_distill.reporting.report import Report

PAGE = Path(__file__).with_name("checkpoint-format.md")
MODELS_PAGE = Path(__file__).with_name("supported-models.md")
START_PAGE = Path(__file__).with_name("quickstart.md")

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


def with_families(page: str, found: Families) -> str:
    """Return `page` with the list of families written anew."""
    return _PART.sub(lambda part: f"{part[1]}\n{_families(found)}\n{part[3]}", page)


def _families(found: Families) -> str:
    lines = [
        f"Of the {len(found.families)} families of timm {found.timm}, {len(found.converted)} convert.",
        "",
        "| family | model | px | parameters, M | GMAC | products, GMAC | branches "
        "| activations: neurons, spiking % | full: neurons, spiking %, after the first layer % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(family_row(fate) for fate in found.converted),
        "",
        "Refused:",
        "",
        *(f"- `{fate.family}` (`{fate.model}`): {fate.refused}" for fate in found.families if fate.refused),
    ]
    return "\n".join([*lines, ""])


def family_row(fate: FamilyFate) -> str:
    """Return the line of one family, which is not refused."""
    assert fate.activations is not None
    assert fate.full is not None
    numbers = (fate.parameters or 0) / 1e6, (fate.total_macs or 0) / 1e9, (fate.product_macs or 0) / 1e9
    cells = [
        fate.family, f"`{fate.model}`", f"{fate.img_size}", *(f"{number:.2f}" for number in numbers),
        f"{len(fate.branches)}", _covered(fate.activations),
        f"{_covered(fate.full)}, {100 * fate.full.share_after_first:.1f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _covered(fate: CoveredFate) -> str:
    return f"{fate.neurons}, {100 * fate.share:.1f}"


def with_recipes(page: str) -> str:
    """Return `page` with the defaults of each kind of data written anew."""
    return _PART.sub(lambda part: f"{part[1]}\n{_recipes()}\n{part[3]}", page)


def _recipes() -> str:
    kinds = {
        "up to 16 px, fewer than 10,000": recipes.FEW_TINY,
        "up to 64 px, fewer than 10,000": recipes.FEW_SMALL,
        "up to 64 px": recipes.SMALL,
        "larger, fewer than 10,000": recipes.FEW_LARGE,
        "larger": recipes.LARGE,
    }
    head = (
        "images", "epochs", "from random weights", "teacher", "fine-tuned teacher", "images a step",
        "SGD's rate", "its decay", "policy", "CutMix",
    )  # fmt: skip
    rows = [head, ("---",) * len(head)]
    rows += [
        (
            kind, recipe.epochs, recipe.random.epochs or recipe.epochs, recipe.teacher_epochs, recipe.tuning_epochs,
            recipe.batch_size, f"{recipe.sgd_lr * recipe.batch_size / 128:g}", f"{recipe.sgd_decay:g}",
            recipe.aa, f"{recipe.mixup_prob:.0%} of the batches" if recipe.cutmix else "no",
        )
        for kind, recipe in kinds.items()
    ]  # fmt: skip
    return "\n".join([*(f"| {' | '.join(map(str, row))} |" for row in rows), ""])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        inspected = Families.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
        MODELS_PAGE.write_text(with_families(MODELS_PAGE.read_text(encoding="utf-8"), inspected), encoding="utf-8")
    else:
        PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        START_PAGE.write_text(with_recipes(START_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
