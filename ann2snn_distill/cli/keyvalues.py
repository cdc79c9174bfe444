"""`--model-kwargs a=1,b=true,c=[1,2]`: keyword arguments as text."""

import ast
from typing import Any

from ann2snn_distill.errors import UsageError

_WORDS = {"true": True, "false": False, "none": None}
_OPENING, _CLOSING = "([{", ")]}"


def parse_keyvalues(text: str) -> dict[str, Any]:
    """Parse `key=value` pairs separated by commas; a value that is no Python literal is text.

    Raises:
        UsageError: a pair has no `=`, a key is not a name, or a key comes twice.
    """
    values: dict[str, Any] = {}
    for pair in _split(text):
        key, equals, value = pair.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            raise UsageError(f"--model-kwargs takes key=value pairs separated by commas, not '{pair.strip()}'")
        if key in values:
            raise UsageError(f"--model-kwargs names {key} twice; give it once")
        values[key] = _value(value.strip())
    return values


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        else:
            depth += (sign in _OPENING) - (sign in _CLOSING)
        if sign == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
