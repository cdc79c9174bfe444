"""Settings as a file holds them from which a run can be repeated."""

from typing import Any

from ann2snn_distill.config.runs import ConvertSettings

_OF_THE_CALL = {"output", "overwrite", "resume"}


def as_written(settings: ConvertSettings) -> dict[str, Any]:
    """Return what was given or resolved, in the types of TOML; not where the run writes and whether it goes on.

    TOML has no null: keyword arguments that hold None are written as the text that `--model-kwargs` takes.
    """
    written = settings.model_dump(mode="json", exclude_none=True, exclude=_OF_THE_CALL)
    if _holds_none(settings.model_kwargs):
        written["model_kwargs"] = ",".join(f"{name}={value!r}" for name, value in settings.model_kwargs.items())
    return written


def _holds_none(value: object) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return value is None or any(map(_holds_none, inner))
