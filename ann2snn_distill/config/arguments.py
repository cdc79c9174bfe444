"""Keyword arguments for timm: what settings may give, and what the header of a student's file may hold."""

from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

_LARGEST_NUMBER, _MOST_VALUES, _DEEPEST = 65_536, 256, 4
_LONGEST_KEY = 100
"""Bounds of what a file may hold: no network of timm is near them."""


def _plain_arguments(values: dict[str, Any]) -> dict[str, Any]:
    """Refuse keyword arguments that only an attacker gives, or that JSON would change."""
    seen = 0
    todo: list[tuple[object, int]] = [(values, 1)]
    while todo:
        value, depth = todo.pop()
        seen += 1
        if seen > _MOST_VALUES or depth > _DEEPEST:
            raise _refusal("too many values, or nested too deeply")
        if isinstance(value, dict) and not all(isinstance(key, str) and len(key) <= _LONGEST_KEY for key in value):
            raise _refusal("a key that is no text, or too long")
        if isinstance(value, dict | list | tuple):
            todo += [(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value)]
        elif isinstance(value, int | float) and not abs(value) <= _LARGEST_NUMBER:
            raise _refusal(f"a number above {_LARGEST_NUMBER}")
        elif isinstance(value, str) and len(value) > _MOST_VALUES:
            raise _refusal("a text that is too long")
        elif value is not None and not isinstance(value, int | float | str):
            raise _refusal(f"a {type(value).__name__}")
    return values


def _refusal(found: str) -> PydanticCustomError:
    return PydanticCustomError("arguments", "{found}", {"found": found})


ModelKwargs = Annotated[dict[str, Any], AfterValidator(_plain_arguments)]
"""Arguments by name, of few, short and plain values."""
