"""What a user reads when a setting does not fit: pydantic's findings as plain sentences."""

from collections.abc import Callable

from pydantic import ValidationError

_PHRASES = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "dict_type": "must be key=value pairs",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "listed": "must be {wanted}, separated by commas",
    "start": "must be teacher, scratch, or a student's .safetensors file",
    "batch": "must be a whole number of at least 1, or auto",
    "arguments": "must be short and plain values without {found}",
    "interval": "must be epochs, such as 2, or minutes, such as 5m",
}


_LONGEST = 100
"""Characters of a value that a message shows."""


def flag_of(field: str) -> str:
    """Return the flag of a field: `val_split` is `--val-split`."""
    return "--" + field.replace("_", "-")


def explain(error: ValidationError, name: Callable[[str], str] = flag_of) -> str:
    """Say in plain words what does not fit; `name` says where a field's value was given."""
    sentences = []
    for finding in error.errors(include_url=False):
        field = str(finding["loc"][0]) if finding["loc"] else ""
        context = {key: _plain(value) for key, value in finding.get("ctx", {}).items()}
        if finding["type"] == "missing":
            sentences.append(f"{name(field)} is missing")
        elif finding["type"] == "value_error":
            sentences.append(context["error"])
        else:
            phrase = _PHRASES.get(finding["type"], "is not valid").format(**context)
            sentences.append(f"{name(field)} {phrase}, not {shortened(finding['input'])}")
    return "; ".join(sentences)


def shortened(value: object) -> str:
    """Write a value of unknown origin on one line, at most 100 characters of it."""
    try:
        text = " ".join(str(value).split())
    except ValueError:  # Python refuses to write integers of more than 4,300 digits
        return f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
